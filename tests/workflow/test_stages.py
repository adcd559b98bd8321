import csv
import importlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny_recipe import Steps, tiny

from whorl.datasets import load_dataset, load_features
from whorl.errors import InputError
from whorl.workflow.engine import read_marker
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages import run_recipe, steps_of
from whorl.workflow.stages.report import report_again

ALL = [
    "data",
    "encode",
    "reference",
    "sampling/n15",
    "sampling/n24",
    "train/surrogate",
    "train/n15",
    "train/n24",
    "generate/n15",
    "generate/n24",
    "reconstruct/n15",
    "reconstruct/n24",
    "evaluate",
    "candidates",
    "report",
]


def redone(folder, *changes, until=None):
    monitor = Steps()
    run_recipe(tiny(*changes), folder, monitor=monitor, until=until)
    return monitor.done


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_a_run_leaves_everything_the_contract_names(tiny_run):
    for name in (
        "recipe.yaml",
        "data/dataset.safetensors",
        "data/dataset.extxyz",
        "encode/features.safetensors",
        "sampling/n15/rows.json",
        "train/surrogate/surrogate.safetensors",
        "train/n15/generator.safetensors",
        "generate/n15/generated.safetensors",
        "reconstruct/n15/structures.safetensors",
        "reconstruct/n15/structures.extxyz",
        "reference/energy.json",
        "evaluate/n15/energy.json",
        "evaluate/results.json",
        "evaluate/samples.csv",
        "candidates/candidates.csv",
        "report/report.html",
    ):
        assert (tiny_run / name).stat().st_size > 0, name
    for name in ALL:
        marker = json.loads((tiny_run / name / "stage.json").read_text())
        assert marker["step"] == name
        assert marker["whorl_version"]
        assert marker["seconds"] >= 0


def test_results_are_about_all_that_was_asked_for(tiny_run):
    results = json.loads((tiny_run / "evaluate" / "results.json").read_text())
    assert set(results["sizes"]) == {"n15", "n24"}
    for size in results["sizes"].values():
        assert [target["target"] for target in size["targets"]] == [2.0, 3.0]
        for target in size["targets"]:
            assert target["surrogate"]["count"] == 5
            assert target["potential"]["count"] == 2
        assert size["invalid_above"] > 0
    with (tiny_run / "evaluate" / "samples.csv").open(newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 2 * 2 * 5


def test_atoms_carry_target_loss_status_and_provenance(tiny_run):
    import ase.io

    frames = ase.io.read(tiny_run / "reconstruct" / "n15" / "structures.extxyz", index=":")
    assert len(frames) == 4
    for atoms in frames:
        assert atoms.get_chemical_symbols() == ["Pt"] * 4
        assert atoms.info["target"] in (2.0, 3.0)
        assert {"reconstruction_loss", "reconstruction_status", "id", "whorl_version", "seed"} <= set(
            atoms.info
        )


def test_features_of_the_atoms_found_are_stored(tiny_run):
    found = load_features(tiny_run / "reconstruct" / "n15" / "structures-features.safetensors")
    data = load_dataset(tiny_run / "reconstruct" / "n15" / "structures.safetensors")
    generated = load_features(tiny_run / "generate" / "n15" / "generated.safetensors")
    place = [generated.ids.index(name) for name in data.ids]
    loss = (found.features - generated.features[place]).abs().mean(1)
    assert torch.allclose(loss, data.properties["reconstruction_loss"])


def test_nothing_is_repeated(run):
    assert redone(run) == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("data.clusters.count=26", ALL),
        ("data.clusters.processes=2", []),
        ("representation.cutoff=7.0", ALL[1:]),
        ("sampling.sizes=[15]", ["evaluate", "candidates", "report"]),
        ("sampling.split=0.7", [n for n in ALL[3:] if n != "train/surrogate"]),
        ("generator.epochs=21", [n for n in ALL if n in ALL[6:]]),
        ("surrogate.epochs=21", ["train/surrogate", "evaluate", "candidates", "report"]),
        ("generate.samples=6", ALL[8:]),
        ("reconstruct.budget_evaluations=160", ALL[10:]),
        ("evaluate.calculator={name: emt, options: {asap_cutoff: true}}", ["reference", *ALL[12:]]),
        ("evaluate.quantity=formation_energy", ["reference", *ALL[12:]]),
        ("evaluate.tolerance=0.2", ALL[12:]),
        ("report.gallery=2", ["report"]),
    ],
)
def test_a_changed_setting_repeats_what_depends_on_it_and_nothing_else(run, change, again, monkeypatch):
    from whorl.workflow import engine

    key_of = engine.keys(steps_of(tiny(change), run))
    stale = [
        step.name
        for step in steps_of(tiny(change), run)
        if read_marker(run, step.name).key != key_of[step.name]
    ]
    assert stale == again


def test_an_added_size_leaves_the_other_alone(run):
    done = redone(run, "sampling.sizes=[15, 24, 30]", until="train")
    assert done == ["sampling/n30", "train/n30"]


def test_changed_back_and_forth_gives_the_same_numbers(run, tiny_run):
    redone(run, "generator.epochs=21", until="generate")
    redone(run, until="generate")
    first, again = (load_features(f / "generate" / "n15" / "generated.safetensors") for f in (tiny_run, run))
    assert torch.equal(first.features, again.features)


def test_samples_of_a_target_do_not_depend_on_the_other_targets(run, tiny_run):
    redone(run, "generate.targets=[3.0]", until="generate")
    both, one = (load_features(f / "generate" / "n15" / "generated.safetensors") for f in (tiny_run, run))
    assert torch.equal(both.features[both.properties["target"] == 3.0], one.features)


def test_stops_where_it_is_told(tmp_path):
    assert redone(tmp_path / "run", until="sampling") == ALL[:5]
    with pytest.raises(InputError, match=r"unknown stage 'evalute'\. Did you mean 'evaluate'"):
        redone(tmp_path / "run", until="evalute")


def test_targets_outside_the_training_range_are_a_warning_that_says_the_range(run):
    monitor = Steps()
    run_recipe(tiny("generate.targets=[2.0, 99.0]"), run, monitor=monitor, until="generate")
    assert any("outside the training range (" in text and "99" in text for text in monitor.warnings)


def test_report_is_written_again_from_the_folder(run, tmp_path):
    page = report_again(run, output=tmp_path / "again.html")
    assert "tiny" in page.read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"not the folder of a run"):
        report_again(tmp_path)


def test_samples_are_selected_from_a_pool_of_several_generators(run):
    selection = "generate.selection={pool: 40, spread: 0.5, tolerance: 0.5}"
    done = redone(run, "generator.members=2", selection, "sampling.sizes=[24]", until="generate")
    assert done == ["train/n24", "train/n24-ensemble", "generate/n24"]
    assert (run / "train" / "n24" / "generator-2.safetensors").exists()
    assert len(load_features(run / "generate" / "n24" / "generated.safetensors")) == 2 * 5


def test_the_first_selected_samples_are_a_fair_draw(run, monkeypatch):
    def by_risk(generators, ensemble, features, properties, *, count, **options):
        rows = torch.arange(count, dtype=torch.float64)[:, None].expand(-1, features.shape[1])
        return SimpleNamespace(features=rows, advice="")

    monkeypatch.setattr(importlib.import_module("whorl.workflow.stages.generate"), "select", by_risk)
    selection = "generate={targets: [2.0], samples: 40, selection: {pool: 40}}"
    redone(run, selection, "sampling.sizes=[24]", until="generate")
    drawn = load_features(run / "generate" / "n24" / "generated.safetensors").features[:, 0].tolist()
    assert sorted(drawn) == list(range(40)) and 10 < sum(drawn[:10]) / 10 < 30


def test_features_without_structures_are_judged_by_a_given_network(tmp_path, tiny_run):
    import numpy as np

    real = load_features(tiny_run / "encode" / "features.safetensors")
    np.savez(
        tmp_path / "f.npz", features=real.features.numpy(), y=real.properties["formation_energy"].numpy()
    )
    changes = [
        f"data={{features: {{path: {tmp_path / 'f.npz'}, property: y, composition: Pt4}}}}",
        f"surrogate={{kind: external, path: {tiny_run / 'train' / 'surrogate' / 'surrogate.safetensors'}}}",
        "sampling.sizes=all",
    ]
    done = redone(tmp_path / "run", *changes)
    trained = ["train/surrogate", "train/all"]
    assert done == [
        "encode",
        "sampling/all",
        *trained,
        "generate/all",
        "reconstruct/all",
        "evaluate",
        "candidates",
        "report",
    ]
    done = redone(tmp_path / "run", *changes, "reconstruct=null")
    assert done == ["evaluate", "report"]
    results = json.loads((tmp_path / "run" / "evaluate" / "results.json").read_text())
    assert results["sizes"]["all"]["targets"][0]["potential"] is None


def test_every_file_of_a_finished_run_has_a_checksum(tiny_run):
    for name in ALL:
        files = read_marker(tiny_run, name).files
        there = {
            path.relative_to(tiny_run / name).as_posix()
            for path in (tiny_run / name).rglob("*")
            if path.is_file() and path.name != "stage.json"
        }
        scratch = {
            file
            for file in there
            if file.split("/")[0] in ("clusters", "checkpoints", "structures-search", ".parts")
        }
        assert files.keys() == there - scratch


def test_a_flipped_byte_is_noticed_and_what_is_made_again_is_the_same(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name in (
        "data/dataset.safetensors",
        "train/n15/generator.safetensors",
        "reconstruct/n24/structures.extxyz",
    ):
        content = bytearray(before[run / name])
        content[len(content) // 2] ^= 1
        (run / name).write_bytes(content)
    assert redone(run) == ["data", "train/n15", "reconstruct/n24"]
    for name in ("data/dataset.safetensors", "evaluate/results.json", "reconstruct/n24/structures.extxyz"):
        assert (run / name).read_bytes() == before[run / name]
    assert redone(run) == []


def test_a_finished_run_and_its_report_do_without_the_files_it_read(tmp_path, tiny_run):
    shutil.copy(tiny_run / "data" / "dataset.extxyz", tmp_path / "mine.extxyz")
    shutil.copy(tiny_run / "train" / "surrogate" / "surrogate.safetensors", tmp_path / "judge.safetensors")
    changes = [
        f"data={{files: {{path: {tmp_path / 'mine.extxyz'}, property: formation_energy}}}}",
        f"surrogate={{kind: external, path: {tmp_path / 'judge.safetensors'}}}",
        "sampling.sizes=all",
        "reconstruct=null",
    ]
    folder = tmp_path / "run"
    assert redone(folder, *changes)[-1] == "report"
    (tmp_path / "mine.extxyz").unlink()
    (tmp_path / "judge.safetensors").unlink()
    monitor = Steps()
    run_recipe(tiny(*changes), folder, monitor=monitor)
    assert monitor.done == []
    assert [text for text in monitor.warnings if "mine.extxyz: no longer exists" in text]
    page = folder / "report" / "report.html"
    page.unlink()
    assert report_again(folder) == page and "tiny" in page.read_text(encoding="utf-8")
    assert redone(folder, *changes) == []
    with pytest.raises(InputError, match=r"mine\.extxyz: no such file"):
        redone(folder, *changes, "data.files.property=energy")
    assert (folder / "data" / "dataset.safetensors").exists()
    with pytest.raises(InputError, match=r"no such file"):
        redone(tmp_path / "another", *changes)


def test_a_removed_run_folder_is_said(tmp_path):
    class Remover(Monitor):
        def step(self, name, *, state, seconds=0.0):
            if (name, state) == ("sampling/n15", "started"):
                shutil.rmtree(tmp_path / "run")

    with pytest.raises(InputError):
        run_recipe(tiny(), tmp_path / "run", monitor=Remover())


def test_samples_off_the_distribution_that_a_flow_knows_are_named(run, monkeypatch):
    stage, monitor = importlib.import_module("whorl.workflow.stages.generate"), Monitor()
    asked = []

    def unlikely(model, features, condition, *, real, real_condition):
        asked.append((condition.unique().tolist(), len(real), len(real_condition)))
        return torch.arange(len(features)) < 2

    monkeypatch.setattr(stage, "unlikely", unlikely)
    flow = "generator={kind: flow, epochs: 1, transforms: 1, hidden: 4}"
    run_recipe(tiny(flow, "sampling.sizes=[24]"), run, monitor=monitor, until="generate")
    assert asked == [([2.0], 24, 24), ([3.0], 24, 24)]
    assert any("target 2: 40 % of the samples are less likely" in warning for warning in monitor.warnings)
