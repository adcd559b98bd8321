"""Every representation × generator × reconstructor × refiner, with every evaluator, on 12 tiny structures.

The registries are walked, so that a new method is in it by itself: what fits together ends in metrics and
candidates, and what does not is refused before anything is trained.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from whorl.axes import EVALUATORS, GENERATORS, RECONSTRUCTORS, REFINERS, REPRESENTATIONS, SURROGATES
from whorl.datasets import write_extxyz
from whorl.errors import InputError
from whorl.reconstruction.auto import Auto
from whorl.registry import Registry
from whorl.settings import settings_from
from whorl.structures import from_ase
from whorl.workflow.monitor import Monitor
from whorl.workflow.settings import Recipe
from whorl.workflow.stages import run_recipe

# Values that make methods fast, for those that have a setting of this name.
SMALL = {
    "representation": {"max_atoms": 2, "cutoff": 4.0, "g2": [[0.1, 0.0], [0.5, 2.5]], "n_max": 2, "l_max": 1},
    "generator": {"epochs": 1, "layers": 1, "hidden": 8, "latent": 2, "channels": 4, "depth": 1}
    | {"transforms": 1, "bins": 3, "steps": 2, "critic_steps": 1},
    "surrogate": {"epochs": 1, "layers": 1, "hidden": 4, "networks": 2, "cosines": 20},
    "reconstructor": {"samples": 1, "reference": 0, "budget_evaluations": 20}
    | {"hops": 1, "iterations": 5, "polish": 5},
    "refiner": {"steps": 3, "calls": 1, "surrogate": {"kind": "additive", "cosines": 20}},
}
OF_KIND = {"rows": {"max_atoms": 4}, "algorithm1": {"starts": 2}, "ensemble": {"epochs": [1, 1]}}


def small(registry: Registry, kind: str, method: type | None = None) -> dict:
    """Return a section of a recipe that makes a method fast."""
    method = method or registry.get(kind)
    values = SMALL[registry.axis] | OF_KIND.get(method.kind, {})
    return {"kind": kind, **{k: v for k, v in values.items() if k in method.Settings.model_fields}}


def clusters() -> list[Atoms]:
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    return [Atoms("Pt4", corners * (1.75 + 0.02 * i) + rng.normal(0, 0.08, corners.shape)) for i in range(12)]


def crystals() -> list[Atoms]:
    elements = {"Cu": 3.6, "Pt": 3.92, "Au": 4.08}
    return [bulk(symbol, "fcc", a * s) for symbol, a in elements.items() for s in (0.97, 1.0, 1.03, 1.06)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Return files of labelled structures."""
    folder = tmp_path_factory.mktemp("product")
    for make in (clusters, crystals):
        structures = make()
        for atoms in structures:
            atoms.calc = EMT()
        energies = torch.tensor([a.get_potential_energy() / len(a) for a in structures]).double()
        for atoms in structures:
            atoms.calc = None
        properties = {"energy_per_atom": energies}
        write_extxyz(from_ase(structures), folder / f"{make.__name__}.extxyz", properties=properties)
    return {make.__name__: folder / f"{make.__name__}.extxyz" for make in (clusters, crystals)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Return where runs lie: those of one representation share what they have in common."""
    return tmp_path_factory.mktemp("runs")


def recipe_of(file, of="acsf", by="cvae", reconstructor="auto", refiners=(), **others):
    """Return a recipe of small methods; what is wrong with it is said as a person who writes it sees it."""
    chosen = None if reconstructor != "auto" else Auto.choice(REPRESENTATIONS.get(of))
    sections = {
        "name": "product",
        "data": {"files": {"path": str(file), "property": "energy_per_atom"}},
        "representation": small(REPRESENTATIONS, of),
        "generator": small(GENERATORS, by),
        "surrogate": small(SURROGATES, "network"),
        "generate": {"targets": [0.1], "samples": 2},
        "reconstruct": small(RECONSTRUCTORS, reconstructor, chosen),
        "refine": [small(REFINERS, refiner) for refiner in refiners],
        "evaluate": {"calculator": "emt", "real": 3},
        "report": {"gallery": 1},
    }
    return settings_from(Recipe, sections | others, source="recipe")


@pytest.fixture(scope="module")
def ended() -> dict[str, set[str]]:
    """Return a record of the methods that a run has ended with, by axis."""
    return {}


def refused(words: str, *kinds: str) -> None:
    """Make sure that a refusal names what does not fit, and what to do."""
    for kind in kinds:
        assert kind in words.replace("closed-form", "closed_form"), words
    assert any(remedy in words for remedy in ("Choose", "choose", "search for", "Leave", "Give")), words


@pytest.mark.parametrize("generator", list(GENERATORS))
@pytest.mark.parametrize("representation", list(REPRESENTATIONS))
@pytest.mark.parametrize("data", ["clusters", "crystals"])
def test_what_fits_together_ends_in_metrics_and_candidates(
    data, representation, generator, files, folders, ended
):
    folder = folders / data / representation  # of runs that share what they have in common
    for reconstructor in RECONSTRUCTORS:
        try:
            recipe_of(files[data], representation, generator, reconstructor)
        except InputError as error:
            refused(str(error), representation, reconstructor)
            continue
        # What refiners do with structures does not depend on the generator of their features.
        for refiners in [(), *((kind,) for kind in REFINERS)][: None if generator == "cvae" else 1]:
            recipe = recipe_of(files[data], representation, generator, reconstructor, refiners)
            try:
                run_recipe(recipe, folder, until="candidates")
            except InputError as error:
                refused(str(error), representation)
                assert not (folder / "train").exists(), f"{error} comes after the training"
                return
            metrics = outcome(folder, structures=1)
            for axis, kinds in (
                ("representation", [representation]),
                ("generator", [generator]),
                ("reconstructor", [reconstructor]),
                ("refiner", refiners),
                ("evaluator", metrics),
            ):
                ended.setdefault(axis, set()).update(kinds)
    assert run_recipe(recipe, folder).stat().st_size > 10_000  # the report


def outcome(folder: Path, *, structures: int) -> set[str]:
    """Return the evaluators that said something, after a look at what they and the candidates say."""
    results = json.loads((folder / "evaluate" / "results.json").read_text())["sizes"]["all"]
    assert results["targets"][0]["target"] == 0.1
    with (folder / "candidates" / "candidates.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == structures
    assert all((folder / "candidates" / row["file"]).stat().st_size > 50 for row in rows)
    written = {path.stem for path in (folder / "evaluate" / "all").glob("*.json")}
    for kind in written:
        metrics = json.loads((folder / "evaluate" / "all" / f"{kind}.json").read_text())
        assert any(metrics[part] for part in ("overall", "per_target", "per_sample", "per_structure")), kind
    return written


def test_no_method_was_left_out(ended):
    if set(ended.get("representation", ())) != set(REPRESENTATIONS):
        pytest.skip("of the whole product only")
    # Conditions are evaluated where some were requested.
    expected = {registry.axis: set(registry) for registry in (REPRESENTATIONS, GENERATORS, RECONSTRUCTORS)}
    expected |= {"refiner": set(REFINERS), "evaluator": set(EVALUATORS) - {"conditions"}}
    assert ended == expected


CLUSTERS = {"clusters": {"element": "Pt", "atoms": 4, "count": 30, "calculator": "emt"}}
FEATURES = {"features": {"path": "nowhere.npz", "property": "y"}}
OF_PT4 = {"features": {**FEATURES["features"], "composition": "Pt4"}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": CLUSTERS, "representation": "crystens"}, ("crystens", "clusters", "Choose", "acsf")),
        ({"reconstruct": {"kind": "closed_form"}}, ("acsf", "closed-form", "population")),
        ({"data": CLUSTERS, "evaluate": {"evaluators": ["symmetry"]}}, ("symmetry", "clusters", "Leave it")),
        ({"reconstruct": None, "evaluate": {"evaluators": ["validity"]}}, ("validity", "features alone")),
        ({"evaluate": {"evaluators": ["energy"]}}, ("energy needs an energy method", "evaluate.calculator")),
        ({"data": OF_PT4, "generator": {"conditions": ["composition"]}}, ("conditions", "Give data.files")),
        ({"data": FEATURES, "reconstruct": {"kind": "population"}}, ("features alone", "reconstruct: null")),
        ({"reconstruct": None, "refine": "relax"}, ("refine", "reconstruct", "Leave out one")),
        ({"data": OF_PT4, "refine": ["project"]}, ("project", "features alone", "data.files")),
        ({"refine": ["relax"], "evaluate": {}}, ("relax needs an energy method", "evaluate.calculator")),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(sections, words, files, tmp_path):
    sections = {"evaluate": {}} | sections
    with pytest.raises(InputError) as refusal:
        run_recipe(recipe_of(files["clusters"], **{"refine": [], **sections}), tmp_path / "run")
    for word in words:
        assert word in str(refusal.value)
    assert not list(tmp_path.rglob("stage.json"))


def test_an_evaluator_that_turns_out_not_to_apply_is_named(files, folders):
    folder, monitor = folders / "clusters" / "acsf", Monitor()
    recipe = recipe_of(files["clusters"], evaluate={"evaluators": ["validity", "symmetry"]})
    run_recipe(recipe, folder, monitor=monitor, until="evaluate")
    assert any("symmetry does not apply" in warning for warning in monitor.warnings)
    assert [path.stem for path in (folder / "evaluate" / "all").glob("*.json")] == ["validity"]
