"""Structures of any form are accepted, and one line says what a batch holds."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from pymatgen.core import Lattice, Molecule, Structure

from whorl.datasets import Dataset
from whorl.errors import InputError
from whorl.evaluation.alignment import superimpose
from whorl.evaluation.matching import rmsd
from whorl.evaluation.validity import check_validity
from whorl.potentials.ase_calculators import ASECalculator
from whorl.reconstruction import InversionProblem, random_starts
from whorl.representations import ACSF
from whorl.structures import StructureBatch, as_batch, find_problems, from_ase
from whorl.structures.composition import formula, species_of
from whorl.structures.neighbors import neighbor_list
from whorl.symmetry.detection import space_group_numbers

SALT = Structure(Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
WATER = molecule("H2O")


def test_a_batch_is_returned_as_it_is():
    batch = from_ase(WATER)
    assert as_batch(batch) is batch


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (WATER, [3]),
        ([WATER, bulk("Cu")], [3, 1]),
        ((atoms for atoms in (WATER, WATER)), [3, 3]),
        (SALT, [2]),
        ([SALT, Molecule(["O"], [[0, 0, 0]])], [2, 1]),
        ([SALT, WATER, from_ase([bulk("Cu"), WATER])], [2, 3, 1, 3]),
        ([], []),
    ],
)
def test_one_or_many_of_any_form(given, sizes):
    assert as_batch(given).n_atoms.tolist() == sizes


def test_a_mixed_list_takes_the_type_of_its_batch():
    assert as_batch([WATER, from_ase(WATER, dtype=torch.float32)]).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("POSCAR", "got the text 'POSCAR' .files are read with whorl.datasets"),
        (5, "got a int, expected a StructureBatch, ase.Atoms"),
        (None, "got a NoneType"),
        ([WATER, 5], "item 1 is a int"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(given, words):
    with pytest.raises(InputError, match=words):
        as_batch(given)


def test_atoms_are_accepted_wherever_a_batch_is():
    acsf = ACSF(species=["H", "O"], cutoff=4.0, g2=[(0.5, 1.0)])
    batch = from_ase([WATER, WATER])
    torch.testing.assert_close(acsf([WATER, WATER]), acsf(batch))
    torch.testing.assert_close(acsf.value_and_jacobian([WATER, WATER])[1], acsf.value_and_jacobian(batch)[1])
    torch.testing.assert_close(acsf.atomic_features(WATER), acsf.atomic_features(batch[0]))
    problem = InversionProblem(representation=acsf, target=acsf(WATER), template=WATER)
    assert isinstance(problem.template, StructureBatch) and float(problem.value(from_ase(WATER))[0]) == 0
    assert Dataset(structures=[WATER], ids=("a",)).structures.n_atoms.tolist() == [3]
    emt = ASECalculator("ase.calculators.emt:EMT")
    torch.testing.assert_close(emt(bulk("Cu")).energy, emt(from_ase(bulk("Cu"))).energy)
    assert float(rmsd(WATER, WATER)[0]) < 1e-6
    assert find_problems([WATER], species=["O"]).keys() == {0}
    assert formula(SALT) == "NaCl" and species_of([SALT, WATER]) == ["H", "O", "Na", "Cl"]
    assert space_group_numbers(bulk("Cu")).tolist() == [225]
    assert random_starts([WATER, SALT], seeds=[1, 2]).n_atoms.tolist() == [3, 2]
    moved = superimpose(WATER, WATER)
    assert moved is not None and float(rmsd(moved, WATER)[0]) < 1e-6
    assert neighbor_list(bulk("Cu"), cutoff=3.0).first.numel() == 12
    assert bool(check_validity(SALT, chemistry=False).structurally_valid[0])


def test_a_batch_says_in_one_line_what_it_holds():
    salt = bulk("NaCl", "rocksalt", a=5.64)
    assert repr(from_ase([bulk("Cu", cubic=True), salt])) == "StructureBatch(2: Cu4, NaCl; periodic; float64)"
    assert repr(from_ase([WATER] * 3)) == "StructureBatch(3: H2O; not periodic; float64)"
    assert repr(from_ase([WATER, salt], dtype=torch.float32)).endswith("; 1 of 2 periodic; float32)")
    many = [Atoms("Pt" * n, [[0, 0, 3.0 * i] for i in range(n)]) for n in range(1, 7)]
    assert repr(from_ase(many)) == "StructureBatch(6: Pt, Pt2, Pt3, Pt4, …; not periodic; float64)"
    assert repr(from_ase([])) == "StructureBatch(0)"
    assert "no atoms" in repr(from_ase([Atoms()]))


def test_sets_and_representations_say_in_one_line_what_they_hold():
    dataset = Dataset(structures=[WATER], ids=("a",), properties={"energy": torch.zeros(1)})
    assert repr(dataset) == "Dataset(StructureBatch(1: H2O; not periodic; float64); properties energy)"
    acsf = ACSF(species=["O", "H"], cutoff=4.0, g2=[(0.5, 1.0)])
    assert repr(acsf) == "ACSF(H, O; cutoff 4 Å; max, min; 4 features)"
