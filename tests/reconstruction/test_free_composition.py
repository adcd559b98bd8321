"""Compositions read from features, and searched together with the structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.errors import InputError, UsageError
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, ReconstructorSettings
from whorl.reconstruction.compositions import checked_elements, read_compositions
from whorl.reconstruction.free_composition import (
    FreeComposition,
    solve_free_composition,
    unknown_atoms,
)
from whorl.representations import ACSF, SOAP, Representation
from whorl.settings import settings_from
from whorl.structures import StructureBatch, as_batch
from whorl.structures.composition import formula_of_all

ELEMENTS = ("O", "Na", "Al", "Cl", "Ti", "Fe", "Cu", "Sr", "Pt", "Au")


def acsf(elements: tuple[str, ...] = ELEMENTS, **options: object) -> ACSF:
    """Return a small fingerprint with averages."""
    g2 = [(0.01, 0.0), (1.0, 2.0), (1.0, 3.0)]
    given = {"g2": g2, "embedding": 4, "per_centre_species": True, "pooling": ("mean", "std"), **options}
    return ACSF(species=elements, cutoff=6.0, **given)


def cluster(symbols: list[str], seed: int) -> StructureBatch:
    """Return atoms at random, none at the same place."""
    positions = np.random.default_rng(seed).uniform(0, 5, (len(symbols), 3))
    return as_batch([Atoms(symbols, positions + 2.0 * np.arange(len(symbols))[:, None] * [1, 0, 0])])


def reduced(counts: dict[str, int]) -> dict[str, int]:
    """Return the smallest formula of the same fractions."""
    divisor = np.gcd.reduce(list(counts.values()))
    return {symbol: count // int(divisor) for symbol, count in counts.items()}


COUNTS = st.dictionaries(st.sampled_from(ELEMENTS), st.integers(1, 3), min_size=1, max_size=3)


@settings(max_examples=10, deadline=None)
@given(COUNTS, st.integers(0, 99))
def test_channels_of_elements_tell_the_fractions_exactly(counts: dict[str, int], seed: int) -> None:
    representation = acsf()
    symbols = [symbol for symbol, count in counts.items() for _ in range(count)]
    target = representation(cluster(symbols, seed))[0]
    first, *rest = read_compositions(target, representation, ELEMENTS, n_atoms=(1, 9), most=12)
    assert dict(first.counts) == reduced(counts)
    exact = [one for one in (first, *rest) if one.misfit < 1e-6]
    assert counts in [dict(one.counts) for one in exact]


@settings(max_examples=10, deadline=None)
@given(COUNTS, st.integers(0, 99))
def test_pairs_counted_from_both_sides_tell_the_ratios(counts: dict[str, int], seed: int) -> None:
    representation = acsf(embedding=None)
    symbols = [symbol for symbol, count in counts.items() for _ in range(count)]
    structure = cluster(symbols, seed)
    structure = structure.replace(positions=0.3 * structure.positions)  # all within the cutoff
    if len(symbols) < 2:
        return
    target = representation(structure)[0]
    listed = read_compositions(target, representation, ELEMENTS, n_atoms=(1, 9), most=12)
    assert dict(listed[0].counts) == reduced(counts)


def test_a_sum_tells_the_number_of_atoms_too() -> None:
    representation = acsf(pooling=("sum", "max"))
    target = representation(cluster(["Cu", "Cu", "Au", "Au"], 0))[0]
    first, second = read_compositions(target, representation, ELEMENTS, n_atoms=(1, 8), most=2)
    assert dict(first.counts) == {"Cu": 2, "Au": 2}
    assert first.misfit < 1e-9 < second.misfit


def test_where_features_tell_nothing_every_formula_is_a_candidate() -> None:
    soap = SOAP.Settings().build(["Cu"])
    listed = read_compositions(soap(cluster(["Cu"] * 3, 0))[0], soap, ["Cu"], n_atoms=(2, 4), most=9)
    assert [one.formula for one in listed] == ["Cu2", "Cu3", "Cu4"]


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("CsCl", "cesiumchloride", a=4.12),
        Atoms("CuAuAuPt", [[0, 0, 0], [2.7, 0, 0], [1.3, 2.4, 0], [1.4, 0.9, 2.3]]),
    ],
)
def test_formula_and_structure_are_found_from_features_alone(atoms: Atoms) -> None:
    structure = as_batch([atoms])
    representation = ACSF.crystal(["Cs", "Cl", "Cu", "Au", "Pt"], cutoff=4.5, embedding=3)
    problem = InversionProblem(
        representation=representation,
        target=representation(structure),
        template=unknown_atoms(structure, representation),
        names=("it",),
    )
    result = solve_free_composition(problem, FreeComposition(n_atoms=(1, 6)), budget_evaluations=8000)
    assert result.status[0].value == "converged"
    assert float(rmsd(result.structures, structure)) < 1e-3
    if bool(structure.pbc.all()):
        other = problem.replace(template=structure)  # of whose atoms nothing may be used
        again = solve_free_composition(other, FreeComposition(n_atoms=(1, 6)), budget_evaluations=8000)
        torch.testing.assert_close(again.structures.positions, result.structures.positions, rtol=0, atol=0)


def problem_of(representation: Representation, atoms: Atoms, **options: object) -> InversionProblem:
    """Return the problem of one structure."""
    structure = as_batch([atoms])
    return InversionProblem(
        representation=representation, target=representation(structure), template=structure, **options
    )


SALT = bulk("NaCl", "rocksalt", a=5.64)


@pytest.mark.parametrize(
    ("free", "options", "message"),
    [
        (
            {"elements": ("Na", "K")},
            {},
            "got K, but the representation was made for O, Na, .*most similar .* is Na",
        ),
        ({"elements": ("Nah",)}, {}, "unknown element 'Nah'. Did you mean"),
        ({"n_atoms": (30, 31)}, {}, "does not fit into a cell"),
        ({"elements": ("Fe",), "n_atoms": (3, 2)}, {}, "got 3 to 2"),
        ({"candidates": 0}, {}, "candidates: got 0"),
        ({}, {"frozen": torch.tensor([True, False])}, "frozen are known"),
        ({}, {"space_group": 225}, "Choose one"),
    ],
)
def test_what_cannot_be_is_refused(free: dict, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve_free_composition(problem_of(acsf(), SALT, **options), FreeComposition(**free))


def test_elements_are_needed_where_the_representation_takes_any() -> None:
    representation = acsf()
    representation.species = None  # type: ignore[assignment]
    with pytest.raises(InputError, match="give those that there may be"):
        checked_elements(representation, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"elements": "Cu,Au"}, "belongs to composition: free"),
        ({"n_atoms": "2..8"}, "belongs to composition: free"),
        ({"composition": "free", "n_atoms": "8..2"}, "expected the least number first"),
        ({"composition": "free", "elements": ["Cuu"]}, "Did you mean 'Cu'"),
        ({"composition": "free", "space_group": 2}, "expected one of the two"),
        ({"composition": "free", "template": "a.cif"}, "template gives the composition"),
        ({"composition": "free", "kind": "algorithm1"}, "only the population search"),
    ],
)
def test_contrary_settings_are_refused(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings_from(ReconstructorSettings, {"kind": "population", **given}, source="test")


def test_limits_are_read_as_people_write_them() -> None:
    data = {"kind": "population", "composition": "free", "elements": "Cu, Au", "n_atoms": "2..8"}
    free = settings_from(ReconstructorSettings, data, source="test").free  # type: ignore[attr-defined]
    assert free == FreeComposition(elements=("Cu", "Au"), n_atoms=(2, 8))
    assert settings_from(ReconstructorSettings, {**data, "n_atoms": 4}, source="test").free.n_atoms == (4, 4)  # type: ignore[attr-defined]


def test_formula_of_a_candidate_is_that_of_its_atoms() -> None:
    representation = acsf()
    (one,) = read_compositions(
        representation(cluster(["O", "Ti", "O"], 0))[0], representation, ELEMENTS, n_atoms=(3, 3), most=1
    )
    made = as_batch([Atoms(one.numbers.tolist(), np.zeros((3, 3)))])
    assert formula_of_all(made) == "TiO2"
    assert one.n_atoms == 3
