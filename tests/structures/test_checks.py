import re

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings

from whorl.errors import InputError
from whorl.structures import find_problems, from_ase
from whorl.structures.checks import SAME_PLACE


def problem(atoms, **options):
    """Return what is found on one structure between two good ones."""
    found = find_problems(from_ase([molecule("H2O"), atoms, bulk("Cu")]), **options)
    assert found.keys() <= {1}
    return found.get(1)


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("C6H6"),
        bulk("NaCl", "rocksalt", a=5.64),
        fcc111("Pt", (1, 1, 4)),  # no third lattice vector
        Atoms("Cu", cell=[[0.9, 0, 0], [9, 0.8, 0], [3, 7, 0.7]], pbc=True),
        Atoms("H2", [[0, 0, 0], [0, 0, 0.02]]),
        Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [3, 0, 0]]),  # a flat cell matters only with pbc
    ],
)
def test_good_structures_pass(atoms):
    assert problem(atoms) is None


def test_each_problem_is_found_and_named():
    nan, inf = float("nan"), float("inf")
    assert problem(Atoms()) == "has no atoms"
    assert problem(Atoms("H2", [[0, 0, 0], [nan, 1, 2]])) == "atom 1 is at (nan, 1, 2), which is not finite"
    assert "inf" in problem(Atoms("H", [[0, -inf, 0]]))
    assert "cell" in problem(Atoms("H", cell=[[nan, 0, 0], [0, 1, 0], [0, 0, 1]]))
    assert problem(Atoms("HX", [[0, 0, 0], [0, 0, 1]])) == "atom 1 has atomic number 0, expected 1 to 118"
    assert "no volume" in problem(Atoms("H", pbc=True))
    assert "no volume" in problem(Atoms("H", cell=[3, 3, 0], pbc=True))
    assert "no volume" in problem(Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=[True, True, False]))
    assert problem(Atoms("HO", [[1, 1, 1], [1, 1, 1.001]])) == (
        "atoms 0 (H) and 1 (O) are at one place (0.001 Å apart)"
    )


def test_undeclared_species():
    batch = from_ase([Atoms("Pt"), molecule("CO"), Atoms("Ni")])
    assert find_problems(batch, species=["C", "O", "Pt"]) == {
        2: "atom 0 is Ni, which is not among the declared species (C, O, Pt)"
    }
    assert not find_problems(batch)
    with pytest.raises(InputError, match="'Xy' is no chemical element"):
        find_problems(batch, species=["Pt", "Xy"])
    with pytest.raises(InputError, match="'X' is no chemical element"):
        find_problems(batch, species=["X"])


def test_atoms_meet_across_the_boundary():
    crystal = Atoms("NaCl", [[0.001, 2, 2], [3.999, 2, 2]], cell=[4, 4, 4], pbc=True)
    assert problem(crystal) == "atoms 0 (Na) and 1 (Cl) of a periodic image are at one place (0.002 Å apart)"
    crystal.pbc = [False, True, True]
    assert problem(crystal) is None
    outside = Atoms("H2", [[0, 0, 0], [8, -4, 12]], cell=[4, 4, 4], pbc=True)
    assert "at one place" in problem(outside)


@pytest.mark.parametrize(
    "atoms, reason",
    [
        (Atoms("H", cell=[0.005, 3, 3], pbc=[True, False, False]), "repeats every 0.005 Å"),
        (Atoms("H", cell=[0.4, 3, 3], pbc=[True, True, False]), "repeats every 0.4 Å"),
        (Atoms("Pt", cell=[5, 5, 1e-6], pbc=True), "2.5e-05 Å³ for each atom"),
        (Atoms("Pt", cell=[5, 5, 1e-10], pbc=True), "has no volume|Å³ for each atom"),
        (Atoms("Pt", cell=[0.4, 0.4, 0.4], pbc=True), "0.064 Å³ for each atom, expected at least 0.5"),
        (Atoms("Pt", cell=[1000, 1000, 0.001], pbc=True), "repeats every 0.001 Å"),
        (
            Atoms("Pt", cell=[[900, 0, 0], [0, 900, 0], [899.9999, 0, 0.001]], pbc=True),
            "repeats every 0.001 Å",
        ),
        (Atoms("Pt", cell=[5e3, 5e3, 5e3], pbc=True), "1.25e[+]11 Å³ for each atom, expected at most"),
        (Atoms("Pt", cell=[5e7, 5, 5], pbc=True), "component of 5e[+]07 Å"),
        (Atoms("Pt", cell=[1e300, 1e300, 1e300], pbc=True), "component of 1e[+]300 Å"),
        (Atoms("PtNi", [[0, 0, 0], [0, -1e8, 0]]), r"atom 1 is at .0, -1e[+]08, 0., expected less"),
    ],
)
def test_sizes_that_no_structure_has(atoms, reason):
    assert re.search(reason, problem(atoms))


def test_lengths_in_nm_are_found():
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert problem(crystal) is None
    crystal.set_cell(crystal.cell / 10, scale_atoms=True)
    assert "Are its lengths in Å?" in problem(crystal)


@pytest.mark.parametrize("spread", [0.0, 0.004, 0.05])
def test_thousands_of_atoms_at_one_place_are_found_without_all_their_pairs(spread):
    # A list of their 400 million pairs would take 14 GB.
    heap = Atoms("Pt20000", np.random.default_rng(0).uniform(0, spread, (20_000, 3)))
    assert "at one place" in problem(heap)
    heap.set_cell([5, 5, 5000])
    heap.pbc = True
    assert "at one place" in problem(heap)


def test_the_nearest_pair_is_told():
    atoms = Atoms("H4", [[0, 0, 0], [0, 0, 0.009], [5, 0, 0], [5, 0, 0.001]])
    assert "atoms 2 (H) and 3 (H)" in problem(atoms)


def test_first_problem_counts_and_order_is_kept():
    nan = float("nan")
    batch = from_ase([Atoms("H2"), Atoms("X", [[nan, 0, 0]]), Atoms(), molecule("H2")])
    assert list(find_problems(batch)) == [0, 1, 2]
    assert not find_problems(from_ase([]))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    distance=st.sampled_from([0.0, 0.5, 0.98, 1.02, 1.5, 2.5]),
)
def test_same_place_agrees_with_ases_neighbour_list(seed, pbc, distance):
    rng = np.random.default_rng(seed)
    atoms = Atoms("H6", rng.uniform(-9, 9, (6, 3)), cell=rng.uniform(-6, 6, (3, 3)) + 2 * np.eye(3), pbc=pbc)
    if abs(atoms.cell.volume) < 4:  # that alone is a problem
        return
    direction = rng.normal(size=3)
    shift = rng.integers(-2, 3, 3) * np.array(pbc)
    atoms.positions[3] = (
        atoms.positions[0]
        + distance * SAME_PLACE * direction / np.linalg.norm(direction)
        + shift @ atoms.cell
    )
    expected = len(neighbor_list("i", atoms, SAME_PLACE)) > 0
    assert (problem(atoms) is not None) == expected


def test_float32_and_many_structures():
    items = [bulk("Cu").repeat(2) for _ in range(50)]
    items[17].positions[3] = items[17].positions[5] + items[17].cell[0]
    assert list(find_problems(from_ase(items, dtype=torch.float32))) == [17]
