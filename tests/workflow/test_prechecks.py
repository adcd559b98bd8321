"""What is bound to fail is said before any work, and all of it at once."""

import json

import pytest
from ase.build import bulk
from ase.io import write
from tiny_recipe import tiny

from whorl.errors import InputError
from whorl.workflow.stages import run_recipe


class Unmakable:
    def __init__(self, **options):
        raise AssertionError("called")


def refused(recipe, folder, until=None):
    with pytest.raises(InputError) as caught:
        run_recipe(recipe, folder, until=until)
    assert not list(folder.glob("*/stage.json"))  # nothing was done before it
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("generate.elements=[O, Zz, o]", "unknown elements 'Zz', 'o'. Did you mean 'O'?"),
        ("generate.formula=BaTiO3", "formula: this generator does not know it; it is conditioned on"),
        ("generate.space_group=221", "'space_group' among its conditions"),
        ("generate.samples=1000000000", "of memory"),
        ("generate.targets=[2, 1e300]", "generate.targets: 1e+300"),
        ("evaluate.calculator=no_such_module_at_all:Thing", "cannot import no_such_module_at_all"),
        ("evaluate.calculator={name: chgnet, options: {model: none}}", "model: got 'none', expected 0.3.0"),
        ("evaluate.calculator={name: emt, bulk_energy: {Zz: 1.0}}", "unknown element 'Zz'"),
        ("evaluate.quantity=dipol", "unknown quantity 'dipol'"),
        ("data.clusters.element=N", "N has no reference energy, since its reference state (diatom)"),
        ("data.clusters.element=N", "data.clusters.calculator.bulk_energy: {N: …}"),
        ("data.clusters.element=Fe", "emt does not know Fe; it knows Al, Ni, Cu, Pd, Ag, Pt, Au."),
        ("sampling.sizes=[31]", "the training size is 31"),
        ("sampling.sizes=[11]", "9 rows to train on (11 in all"),
        (
            "surrogate={kind: external, path: nowhere.safetensors}",
            "surrogate: nowhere.safetensors: no such file",
        ),
        (
            "data={files: {path: nowhere.extxyz, property: y}}",
            "data.files.path: nowhere.extxyz: no such file",
        ),
        (
            "data={features: {path: no.npz, property: y, composition: Pt4}}",
            "data.features.path: no.npz: no such file",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(tmp_path, change, words, tiny_run):
    folder = tmp_path / "run"
    if "targets" in change:  # known once the data are there, and before anything is trained
        with pytest.raises(InputError, match="Are the units the same"):
            run_recipe(tiny(change), folder)
        assert (folder / "sampling" / "n15" / "rows.json").exists()
        assert not list(folder.glob("train/*/*.safetensors"))
        return
    assert words in refused(tiny(change), folder)


def test_clusters_beyond_what_the_representation_is_made_for_are_said_before_any_work(tmp_path):
    recipe = tiny("representation={kind: rows, max_atoms: 3}", "reconstruct={}", "data.clusters.atoms=2-4")
    said = refused(recipe, tmp_path / "run")
    assert "representation.max_atoms: got 3, expected at least 4: data.clusters have 2 to 4 atoms" in said


def test_several_mistakes_are_said_together(tmp_path):
    said = refused(
        tiny(
            "data={files: {path: nowhere.extxyz, property: y}}",
            "surrogate={kind: external, path: nowhere.safetensors}",
            "generate.elements=[Zz]",
            "generate.formula=Pt4",
            f"evaluate.calculator={__name__}:Unmakable",
        ),
        tmp_path / "run",
    )
    assert said.startswith("5 problems have to be solved first:\n")
    for words in (
        "nowhere.extxyz: no such",
        "nowhere.safetensors: no such",
        "unknown element 'Zz'",
        "elements, formula: this generator does not know it",
        "expected a class derived from ASE's Calculator",
    ):
        assert words in said


def test_what_is_not_reached_need_not_work(tmp_path):
    recipe = tiny("evaluate.calculator=no_such_module_at_all:Thing", "generate.elements=[Zz]")
    run_recipe(recipe, tmp_path / "run", until="data")


def test_a_finished_run_needs_no_calculator_any_more(tiny_run, monkeypatch):
    from whorl.workflow import prechecks

    def gone(*_, **__):
        raise AssertionError("asked for a calculator that no stage needs")

    monkeypatch.setattr(prechecks, "_calculator", gone)
    run_recipe(tiny(), tiny_run)


def test_elements_that_no_training_row_has_are_named_before_training(tmp_path):
    crystals = [bulk("NaCl", "rocksalt", 5.5 + i / 40) for i in range(12)]
    crystals += [bulk("KCl", "rocksalt", 6.1 + i / 40) for i in range(12)]
    for i, atoms in enumerate(crystals):
        atoms.info["y"] = float(i)
    write(tmp_path / "salts.extxyz", crystals, format="extxyz")
    changes = [
        f"data={{files: {{path: {tmp_path / 'salts.extxyz'}, property: y}}}}",
        "representation={preset: crystal}",
        "sampling.sizes=all",
        "generator.conditions=[elements, crystal_system]",
        "reconstruct=null",
    ]
    for request, words in (
        ("generate.elements=[O, Na, Ti]", "O, Ti: no structure that the generator was trained on has it"),
        (
            "generate.crystal_system=hexagonal",
            "no training structure of the generator satisfies the request: hexagonal",
        ),
    ):
        folder = tmp_path / words[:1]
        with pytest.raises(InputError, match=words):
            run_recipe(tiny(*changes, request), folder)
        assert (folder / "sampling" / "all" / "stage.json").exists()
        assert not list(folder.glob("train/*/*.safetensors"))
    # A request that is mended goes on from there.
    run_recipe(tiny(*changes, "generate.elements=[Na]"), tmp_path / "O", until="generate")
    assert json.loads((tmp_path / "O" / "generate" / "all" / "stage.json").read_text())


def test_a_judge_of_other_features_is_refused_before_training(tmp_path, tiny_run):
    judge = tiny_run / "train" / "surrogate" / "surrogate.safetensors"
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="was fitted to features of shape"):
        run_recipe(
            tiny(f"surrogate={{kind: external, path: {judge}}}", "representation.g5=[[0.05, 1.0, 1.0]]"),
            folder,
        )
    assert not list(folder.glob("train/*/*.safetensors"))
