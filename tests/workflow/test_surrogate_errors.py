"""How good the surrogate is, and a warning where it knows nothing."""

import pytest
import torch

from whorl.datasets import FeatureSet, save_features, split
from whorl.files import read_json
from whorl.seeds import derive_seed
from whorl.surrogates import NetworkSurrogate, PredictionErrors, load_surrogate, prediction_errors
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages.train import SPLIT, train_surrogate


def test_errors_by_their_definitions():
    from sklearn.metrics import r2_score

    rng = torch.Generator().manual_seed(0)
    actual = torch.randn(30, generator=rng, dtype=torch.float64)
    predicted = actual + 0.5 * torch.randn(30, generator=rng, dtype=torch.float64)
    errors = prediction_errors(predicted, actual, held_out=True)
    assert errors.r_squared == pytest.approx(r2_score(actual, predicted))
    assert errors.mean_absolute_error == pytest.approx(float((predicted - actual).abs().mean()))
    assert errors.root_mean_square_error == pytest.approx(float((predicted - actual).square().mean()) ** 0.5)
    assert errors.warning is None
    assert prediction_errors(actual[:1], actual[:1], held_out=True).r_squared is None


def trained(folder, labels):
    rng = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 4, generator=rng, dtype=torch.float64)
    made = FeatureSet(
        features=torch.cat([rows, 1e-31 * rows[:, :1]], 1),
        representation={"kind": "acsf"},
        fingerprint="0",
        properties={"y": labels(rows, rng)},
        ids=tuple(map(str, range(60))),
    )
    save_features(made, folder / "f.safetensors")
    notes = []
    monitor = Monitor()
    monitor.note = notes.append
    train_surrogate(
        folder / "f.safetensors",
        property=None,
        settings=NetworkSurrogate.Settings(epochs=200, layers=1, hidden=64, learning_rate=0.01),
        output=folder / "s.safetensors",
        seed=0,
        monitor=monitor,
    )
    return monitor.warnings, notes, load_surrogate(folder / "s.safetensors").validation_errors


def test_a_surrogate_that_learned_says_its_held_out_error_without_a_warning(tmp_path):
    warnings, notes, errors = trained(tmp_path, lambda rows, _: rows.sum(1))
    assert warnings == []
    assert notes[0] == f"surrogate: {errors}" and errors.held_out and errors.rows == 12
    assert notes[1] == "surrogate: 1 of 5 features hardly vary and are treated as constant"
    assert errors.r_squared > 0.9


def test_a_surrogate_worse_than_the_mean_is_said(tmp_path):
    def contrary(rows, _):
        """What holds for the training rows is the other way round for those held out."""
        values = rows.sum(1)
        _, held_out = split(60, fraction=SPLIT, seed=derive_seed(0, "surrogate"))
        values[held_out] *= -1
        return values

    warnings, _, errors = trained(tmp_path, contrary)
    assert errors.r_squared < -0.5
    assert warnings == [errors.warning]
    assert "worse than the mean of the data (MAE" in errors.warning


def test_the_report_and_the_results_say_it_too(tiny_run):
    results = read_json(tiny_run / "evaluate" / "results.json")
    errors = PredictionErrors(**results["surrogate_errors"])
    page = (tiny_run / "report" / "report.html").read_text(encoding="utf-8")
    assert f"Error of the surrogate itself: {errors}." in page
    assert (errors.warning in results["warnings"]) == (errors.r_squared < 0)
    if errors.warning:
        assert page.count(errors.warning) == 1
