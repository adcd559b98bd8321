import torch

from whorl.datasets import FeatureSet, save_features
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages.sample import read_rows, training_rows


def test_rows_that_are_not_finite_are_told_and_never_drawn(tmp_path):
    features = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features[4, 1], features[7, 0] = torch.nan, torch.inf
    path = tmp_path / "f.safetensors"
    ids = tuple(f"row-{row}" for row in range(40))
    save_features(FeatureSet(features=features, representation={}, fingerprint="", ids=ids), path)
    for size, drawn in ((20, 20), (None, 38)):
        monitor = Monitor()
        training_rows(path, size=size, fraction=0.8, seed=0, output=tmp_path / "rows.json", monitor=monitor)
        rows = read_rows(tmp_path / "rows.json")["rows"].tolist()
        assert len(set(rows)) == drawn and not {4, 7} & set(rows)
        assert [source for source, _ in monitor.skipped] == ["row-4", "row-7"]
