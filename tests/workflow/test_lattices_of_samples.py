"""Searches of a free cell for generated features begin in lattices that are likely for their formulas."""

from itertools import product

import pytest
import torch
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from whorl.datasets import Dataset, FeatureSet, save_dataset, save_features
from whorl.reconstruction.population import reconstructor
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.representations import ACSF
from whorl.settings import settings_from
from whorl.structures import from_ase
from whorl.structures.cells import volumes
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages.reconstruct import reconstruct

PAIRS = list(product(("Na", "K", "Rb"), ("F", "Cl", "Br")))


def crystal(a, x, prototype="rocksalt"):
    length = 2 * (covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[x]]) + 0.4
    return bulk(a + x, prototype, length * (0.6 if prototype == "cesiumchloride" else 1.0))


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Return a function that makes a search and returns the lattices that it was given."""
    frames = [crystal(a, x) for a, x in PAIRS] + [crystal(a, x, "cesiumchloride") for a, x in PAIRS]
    structures = from_ase(frames).to(dtype=torch.float64)
    representation = ACSF.crystal(["Na", "K", "Rb", "F", "Cl", "Br"], cutoff=4.0, embedding=3)
    ids = tuple(f"s{k}" for k in range(len(structures)))
    # The property is that of the prototype.
    labels = torch.tensor([1.0] * len(PAIRS) + [2.0] * len(PAIRS), dtype=torch.float64)
    with torch.no_grad():
        features = representation(structures)
    common = {"representation": representation.config(), "fingerprint": representation.fingerprint}
    save_dataset(
        Dataset(structures=structures, properties={"kind": labels}, ids=ids), tmp_path / "d.safetensors"
    )
    save_features(
        FeatureSet(features=features, properties={"kind": labels}, ids=ids, pbc=structures.pbc, **common),
        tmp_path / "f.safetensors",
    )
    targets = torch.tensor([1.0, 2.0], dtype=torch.float64)
    save_features(
        FeatureSet(
            features=features[[4, 13]],
            properties={"target": targets},
            ids=("a", "b"),
            pbc=structures.pbc[:2],
            **common,
        ),
        tmp_path / "g.safetensors",
    )
    given = []
    plain = reconstructor.solve

    def solve(problem, **options):
        given.append(options["lattices"])
        return plain(problem, **{**options, "budget_evaluations": 2})

    monkeypatch.setattr(reconstructor, "solve", solve)

    def search(**settings):
        reconstruct(
            tmp_path / "g.safetensors",
            settings=settings_from(ReconstructorSettings, {"kind": "population", **settings}, source="test"),
            output=tmp_path / "found.safetensors",
            monitor=Monitor(),
            dataset=tmp_path / "d.safetensors",
            features=tmp_path / "f.safetensors",
            seed=1,
        )
        return given.pop()

    return search


def test_lattices_follow_formula_and_target(searched):
    of_first, of_second = searched(free_cell=True)
    # Both are KCl: rock salt at the one value, and of the CsCl type at the other.
    assert set(of_first.space_groups.tolist()) == {225}
    assert set(of_second.space_groups.tolist()) == {221}
    expected = torch.stack(
        [torch.tensor(crystal("K", "Cl", kind).cell.volume) for kind in ("rocksalt", "cesiumchloride")]
    )
    for lattices, volume in zip((of_first, of_second), expected, strict=True):
        assert abs(float(volumes(lattices.cells).log().median() - volume.log())) < 0.15


def test_a_space_group_that_is_kept_is_that_of_the_lattices(searched):
    of_first, of_second = searched(free_cell=True, space_group=221)
    assert set(of_second.space_groups.tolist()) == {221}
    assert of_first is None or set(of_first.space_groups.tolist()) == {221}


@pytest.mark.parametrize("settings", [{}, {"free_cell": True, "starts": "similar", "budget_evaluations": 20}])
def test_searches_without_random_cells_are_given_none(searched, settings):
    assert searched(**settings) is None
