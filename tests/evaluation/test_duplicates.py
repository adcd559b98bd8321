"""Crystals that are the same, whatever their cells, and crystals that are known."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.evaluation.duplicates import distinct, is_known
from whorl.structures import from_ase, to_pymatgen

SKEWED = [[9, 0, 0], [8.99, 0.6, 0], [1, 5, 4]]
SALT = bulk("NaCl", "rocksalt", a=5.6)


def other_description(atoms: Atoms, rng: np.random.Generator, size: int = 2) -> Atoms:
    """Return the same crystal: in a supercell, atoms shuffled and moved to other cells, all of it turned."""
    atoms = make_supercell(atoms, [[size, 1, 0], [0, 1, 1], [1, 0, 1]])
    atoms = atoms[rng.permutation(len(atoms))]
    atoms.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array + rng.normal(size=3)
    atoms.rotate(float(rng.uniform(10, 170)), rng.normal(size=3), rotate_cell=True)
    return atoms


def test_one_crystal_in_many_descriptions_is_one():
    rng = np.random.default_rng(0)
    same = [SALT, bulk("NaCl", "rocksalt", a=5.6, cubic=True), bulk("NaCl", "rocksalt", a=6.1)]
    same += [other_description(SALT, rng, size) for size in (1, 2, 3)]
    different = [bulk("KCl", "rocksalt", a=5.6), bulk("NaCl", "cesiumchloride", a=3.4), bulk("Na")]
    found = distinct(from_ase([*different, *same]))
    assert found == [[0], [1], [2], [3, 4, 5, 6, 7, 8]]


def test_groups_are_in_the_order_of_their_first_members():
    silicon, iron = bulk("Si"), bulk("Fe")
    assert distinct(from_ase([silicon, iron, iron * (1, 2, 1), silicon, iron])) == [[0, 3], [1, 2, 4]]


def test_as_structure_matcher_groups_them():
    """No pair is lost by comparing only what can match."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    rng = np.random.default_rng(1)
    kinds = [("zincblende", 5.4), ("rocksalt", 5.1), ("cesiumchloride", 3.1), ("wurtzite", 3.8)]
    crystals = [bulk("ZnS", kind, a=a) for kind, a in kinds] + [
        bulk("C", "diamond", a=3.57),
        bulk("C", "fcc", a=3),
    ]
    for atoms in list(crystals):
        moved = atoms * (2, 1, 1)
        moved.rattle(0.15, rng=rng)
        crystals += [moved, other_description(atoms, rng)]
    structures = from_ase(crystals)
    ours = distinct(structures)
    items = to_pymatgen(structures)
    place = {id(item): k for k, item in enumerate(items)}
    theirs = [[place[id(item)] for item in group] for group in StructureMatcher().group_structures(items)]
    assert sorted(sorted(group) for group in theirs) == sorted(ours)
    assert 6 <= len(ours) < len(crystals)


@st.composite
def crystals(draw: st.DrawFn, elements: tuple[int, ...]) -> Atoms:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    numbers = rng.permutation(elements)[: draw(st.integers(1, len(elements)))]
    cell = np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-0.8, 0.8, (3, 3))
    # Atoms near the points of a coarse grid, lest two come to one place.
    grid = np.array(list(itertools.product(range(2), repeat=3))) / 2
    places = grid[rng.permutation(8)[: len(numbers)]] + rng.uniform(-0.08, 0.08, (len(numbers), 3))
    return Atoms(numbers=numbers, scaled_positions=places, cell=cell, pbc=True)


@settings(max_examples=8)
@given(atoms=crystals(elements=(1, 8, 26, 79)), seed=st.integers(0, 10**6))
def test_any_crystal_is_known_in_any_description(atoms, seed):
    again = other_description(atoms, np.random.default_rng(seed), 1)
    assert is_known(from_ase([again]), from_ase([SALT, atoms])).tolist() == [True]
    assert distinct(from_ase([atoms, again])) == [[0, 1]]


@settings(max_examples=12)
@given(atoms=crystals(elements=(1, 1, 8, 8)), scale=st.floats(0, 0.6), seed=st.integers(0, 10**6))
def test_any_pair_is_judged_as_structure_matcher_judges_it(atoms, scale, seed):
    from pymatgen.analysis.structure_matcher import StructureMatcher

    moved = other_description(atoms, np.random.default_rng(seed), 1)
    moved.rattle(scale, seed=seed)
    structures = from_ase([atoms, moved])
    assert (distinct(structures) == [[0, 1]]) == StructureMatcher().fit(*to_pymatgen(structures))


def test_known_and_new():
    known = from_ase([bulk("Cu"), bulk("NaCl", "cesiumchloride", a=3.4), SALT])
    made = from_ase([SALT * (1, 1, 2), bulk("Cu", "bcc", a=2.9), bulk("Ni"), bulk("Cu", a=3.7)])
    calls: list[tuple[int, int]] = []
    found = is_known(made, known, progress=lambda done, total: calls.append((done, total)))
    assert found.tolist() == [True, False, False, True]
    assert calls == sorted(calls) and calls[-1] == (4, 4)
    assert is_known(known, known).all()


def bad_crystals() -> list[Atoms]:
    broken, flat = bulk("Fe"), bulk("Fe")
    broken.positions[0, 0] = np.nan
    flat.set_cell([[2, 0, 0], [0, 2, 0], [2, 2, 0]])
    twice = Atoms("Fe2", positions=np.zeros((2, 3)), cell=[3, 3, 3], pbc=True)
    return [broken, flat, twice, Atoms("Fe"), Atoms(cell=[3, 3, 3], pbc=True)]


def test_what_is_no_crystal_is_in_no_group_and_not_known():
    structures = from_ase([*bad_crystals(), bulk("Fe")])
    calls: list[int] = []
    assert distinct(structures, progress=lambda done, total: calls.append(done)) == [[5]]
    assert calls == sorted(calls) and calls[-1] == 6
    assert is_known(structures, structures).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_batches_and_precision(dtype):
    empty, salt = from_ase([], dtype=dtype), from_ase([SALT, SALT * (2, 1, 1)], dtype=dtype)
    before = salt.positions.clone()
    assert distinct(empty) == [] and is_known(empty, salt).shape == (0,)
    assert is_known(salt, empty).tolist() == [False, False]
    assert distinct(salt) == [[0, 1]]
    assert torch.equal(before, salt.positions)


def test_strange_cells_do_no_harm():
    needle = Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 30]], cell=[0.6, 0.7, 60], pbc=True)
    skewed = Atoms(
        "Fe2", positions=[[0, 0, 0], [1, 1, 1]], cell=[[9, 0, 0], [8.99, 0.6, 0], [1, 5, 4]], pbc=True
    )
    assert distinct(from_ase([needle, skewed, needle])) == [[0, 2], [1]]
