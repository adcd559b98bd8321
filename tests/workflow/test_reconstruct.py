"""Atoms for generated fingerprints: which loss is too high, and what each solver leaves."""

import dataclasses
import json

import pytest
import torch
from ase import Atoms
from tiny_recipe import TINY

from whorl.datasets import Dataset, FeatureSet, load_dataset, load_features, save_dataset, save_features
from whorl.errors import InputError
from whorl.files import read_json
from whorl.reconstruction import Algorithm1, PopulationSearch, ReconstructorSettings
from whorl.representations import ACSF
from whorl.structures import from_ase, to_ase
from whorl.structures.cells import volumes
from whorl.symmetry.detection import space_group_numbers
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.stages.encode import encode
from whorl.workflow.stages.reconstruct import neighbour_distance, reconstruct


def by_loop(features, weights, quantile):
    nearest = []
    for i, one in enumerate(features):
        others = [float((weights * (one - r)).abs().mean()) for j, r in enumerate(features) if j != i]
        nearest.append(min(d for d in others if d > 1e-9))
    return float(torch.quantile(torch.tensor(nearest, dtype=torch.float64), quantile))


def test_neighbour_distance_is_that_of_a_plain_loop():
    features = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = torch.cat([features, features[:5]])  # stored twice
    weights = torch.linspace(0.1, 3, 7, dtype=torch.float64)
    for quantile in (0.5, 0.95, 1.0):
        found = neighbour_distance(features, weights=weights, quantile=quantile)
        assert found == pytest.approx(by_loop(features, weights, quantile))


def test_neighbour_distance_needs_two_that_differ():
    assert neighbour_distance(torch.zeros(0, 3)) is None
    assert neighbour_distance(torch.zeros(1, 3)) is None
    assert neighbour_distance(torch.zeros(4, 3)) is None
    assert neighbour_distance(torch.tensor([[0.0], [torch.nan], [2.0]])) == 2.0


def test_of_many_an_even_draw_is_taken():
    features = torch.arange(5000.0, dtype=torch.float64)[:, None]
    assert neighbour_distance(features) == pytest.approx(1.0)


def test_the_threshold_comes_from_the_data_and_the_references_say_what_is_solved(tiny_run):
    features = load_features(tiny_run / "encode" / "features.safetensors").features.flatten(1)
    sizes = [
        read_json(tiny_run / "reconstruct" / n / "structures-reconstruction.json") for n in ("n15", "n24")
    ]
    for size in sizes:
        assert size["invalid_above"] == pytest.approx(neighbour_distance(features.double()))
        assert len(size["reference_losses"]) == 3
        assert size["reference_solved"] == sum(loss < 1e-4 for loss in size["reference_losses"])
    # Tetrahedra and their like are soon found again.
    assert sum(size["reference_solved"] for size in sizes) >= 4


@pytest.fixture
def again(tiny_run, tmp_path):
    def search(settings, *, real=True):
        reconstruct(
            tiny_run / "generate" / "n15" / "generated.safetensors",
            settings=settings,
            output=tmp_path / "found.safetensors",
            seed=3,
            monitor=Monitor(),
            features=tiny_run / "encode" / "features.safetensors" if real else None,
            composition="Pt4",
        )
        found = load_dataset(tmp_path / "found.safetensors")
        status = [info["reconstruction_status"] for info in found.structures.info]
        return (
            found.properties["reconstruction_loss"],
            status,
            read_json(tmp_path / "found-reconstruction.json"),
        )

    return search


def test_invalid_is_what_is_farther_away_than_neighbours(again):
    few = {"samples": 2, "budget_evaluations": 150}
    loss, status, said = again(PopulationSearch.Settings(**few, margin=1e-9))
    assert set(status) == {"invalid"}
    assert said["invalid_above"] < float(loss.min())
    loss, status, said = again(PopulationSearch.Settings(**few, margin=1e9))
    assert "invalid" not in status


def test_without_real_structures_nothing_is_called_invalid(again):
    _, status, said = again(PopulationSearch.Settings(samples=2, budget_evaluations=150), real=False)
    assert said["invalid_above"] is None
    assert "invalid" not in status
    assert said["reference_losses"] == []


def test_algorithm_1_is_still_there(again):
    settings = {"starts": 2, "hops": 1, "iterations": 20, "polish": 20}
    first, _, said = again(Algorithm1.Settings(samples=2, **settings))
    assert said["invalid_above"] > 0
    second, _, _ = again(PopulationSearch.Settings(samples=2, budget_evaluations=400))
    assert second.mean() < first.mean()


def test_whitening_weighs_the_loss_of_either_solver(again):
    plain, _, said = again(PopulationSearch.Settings(samples=2, budget_evaluations=150))
    weighted, _, by_spread = again(
        PopulationSearch.Settings(samples=2, budget_evaluations=150, weights="whitening")
    )
    assert said["invalid_above"] != pytest.approx(by_spread["invalid_above"])
    assert not torch.allclose(plain, weighted)


def test_a_recipe_of_the_first_version_is_still_read():
    settings = Algorithm1.Settings().model_dump()
    old = {**settings, "solver": "algorithm1", "starts": 4, "margin": 2.0, "batch_size": 256, "samples": 100}
    old = {name: value for name, value in old.items() if name != "kind"} | {"budget_evaluations": 2000}
    with pytest.warns(FutureWarning, match=r"Write reconstruct: \{kind: algorithm1"):
        recipe = parse_recipe(TINY.partition("reconstruct:")[0] + f"invert: {json.dumps(old)}\n")
    assert isinstance(recipe.reconstruct, Algorithm1.Settings) and recipe.reconstruct.starts == 4


def test_a_search_that_finds_few_real_structures_again_says_so(tiny_run, tmp_path):
    monitor = Monitor()
    reconstruct(
        tiny_run / "generate" / "n15" / "generated.safetensors",
        settings=Algorithm1.Settings(samples=1, reference=2, starts=1, hops=1, iterations=1, polish=0),
        output=tmp_path / "found.safetensors",
        seed=3,
        monitor=monitor,
        features=tiny_run / "encode" / "features.safetensors",
        rows=tiny_run / "sampling" / "n15" / "rows.json",
        composition="Pt4",
    )
    assert len(monitor.warnings) == 1
    assert "found only 0 of 2 held-out real structures again" in monitor.warnings[0]


# What was requested


def perovskite(a, b, anions, length):
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms([a, b, *anions], scaled_positions=sites, cell=[length] * 3, pbc=True)


QUICK = {"kind": "algorithm1", "samples": 1, "starts": 1, "hops": 1, "iterations": 1, "polish": 0}


@pytest.fixture
def asked(tmp_path):
    """Return a search for crystals with features of CsKNO2, of which something else was requested."""
    known = [
        perovskite("Cs", "K", ["O", "O", "N"], 4.6),
        perovskite("Ba", "Ta", ["O", "O", "O"], 4.1),
        perovskite("Ba", "K", ["O", "O", "N"], 4.5),
    ]
    dataset, features = tmp_path / "dataset.safetensors", tmp_path / "features.safetensors"
    ids = tuple("abc")
    save_dataset(Dataset(structures=from_ase(known), ids=ids), dataset)
    settings = ACSF.Settings(
        cutoff=5.0, g2=[(0.1, 0.0), (1.0, 2.0)], species=["Ba", "Cs", "K", "N", "O", "Ta"]
    )
    encode(dataset, settings=settings, output=features, monitor=Monitor())
    real = load_features(features)

    def search(*, requested=None, data=True, rows=None, settings=QUICK, **chosen):
        generated = tmp_path / "generated.safetensors"
        row = dataclasses.replace(
            real.select([0]), properties={"target": torch.zeros(1)}, requested=requested or {}
        )
        save_features(row, generated)
        monitor = Monitor()
        reconstruct(
            generated,
            settings=ReconstructorSettings.model_validate({"kind": "population", **settings, **chosen}),
            output=tmp_path / "found.safetensors",
            seed=0,
            monitor=monitor,
            features=features,
            rows=rows,
            dataset=dataset if data else None,
        )
        found = load_dataset(tmp_path / "found.safetensors").structures
        return found, read_json(tmp_path / "found-reconstruction.json"), monitor.warnings

    return search


def formula_of(structures):
    (atoms,) = to_ase(structures)
    return atoms.get_chemical_formula("metal")


def test_features_say_whether_their_structures_were_periodic(tiny_run, asked):
    for path in (tiny_run / "encode" / "features", tiny_run / "generate" / "n15" / "generated"):
        features = load_features(path.with_suffix(".safetensors"))
        assert features.pbc is not None and not bool(features.pbc.any())
        assert features.pbc.shape == (len(features), 3) and features.requested == {}


def test_the_formula_requested_is_placed(asked):
    found, said, warnings = asked(requested={"formula": "BaTaO2N"})
    assert formula_of(found) == "BaTaNO2" and bool(found.pbc.all())
    assert said["met"] == {"formula": 1.0} and warnings == []
    found, said, _ = asked(requested={"elements": ["Ta"]})
    assert formula_of(found) == "BaTaO3" and said["met"] == {"elements": 1.0}
    assert formula_of(asked()[0]) == "CsKNO2"


def test_a_composition_is_placed_in_a_cell_of_the_data(asked):
    found, said, warnings = asked(composition="BaTaO2N", requested={"formula": "KNbO3"})
    assert formula_of(found) == "BaTaNO2" and said["met"] == {"formula": 1.0}
    assert len(warnings) == 1 and "were generated for KNbO3, and BaTaO2N replaces it" in warnings[0]


def test_requests_that_contradict_each_other_are_refused_before_the_search(asked):
    with pytest.raises(InputError, match="got Ta, which BaKO2N does not have"):
        asked(composition="BaKO2N", requested={"elements": ["Ta"]})


def test_without_a_cell_at_hand_the_cell_is_sought_and_that_is_said(asked):
    short = {"samples": 1, "budget_evaluations": 1}
    found, _, warnings = asked(composition="Cs", data=False, settings=short)
    assert formula_of(found) == "Cs" and bool(found.pbc.all())
    assert float(volumes(found.cells)[0]) > 10.0
    assert len(warnings) == 1 and "no cell is given, so the cells are optimised too" in warnings[0]
    with pytest.raises(InputError, match="algorithm1 holds cells fixed"):
        asked(composition="Cs", data=False)


def test_a_request_that_is_not_met_is_said(asked):
    found, said, warnings = asked(requested={"crystal_system": "triclinic", "formula": "BaTaO2N"})
    assert said["met"]["formula"] == 1.0
    group = int(space_group_numbers(found, symprec=0.1)[0])
    unmet = "0 of the 1 structures found have the crystal system requested (triclinic)."
    assert (unmet in warnings) == (group > 2) == (said["met"]["crystal_system"] == 0.0)


def test_held_out_crystals_are_searched_with_their_own_atoms(asked, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"rows": [0, 1, 2], "train": [0], "validation": [1, 2]}))
    asked(requested={"formula": "BaTaO2N"}, rows=rows, reference=2)
    known = to_ase(load_dataset(tmp_path / "found-reference.safetensors").structures)
    assert [atoms.get_chemical_formula("metal") for atoms in known] == ["BaTaO3", "BaKNO2"]


def test_atoms_keep_a_distance_unless_they_need_not(tmp_path):
    generated = tmp_path / "generated.safetensors"
    acsf = ACSF.fung2022(["C"])
    pair = from_ase(Atoms("C2", [[0, 0, 0], [0, 0, 0.5]]))
    row = FeatureSet(
        features=acsf(pair),
        representation=acsf.config(),
        fingerprint=acsf.fingerprint,
        properties={"target": torch.zeros(1)},
        ids=("a",),
    )
    save_features(row, generated)
    bond = []
    for chosen in ({}, {"min_distance": 0.0}):
        settings = PopulationSearch.Settings(samples=1, budget_evaluations=300, composition="C2", **chosen)
        reconstruct(
            generated, settings=settings, output=tmp_path / "found.safetensors", seed=0, monitor=Monitor()
        )
        bond.append(float(torch.pdist(load_dataset(tmp_path / "found.safetensors").structures.positions)))
    assert bond[0] > 0.54 * 2 * 0.76 and bond[1] == pytest.approx(0.5, abs=0.01)
