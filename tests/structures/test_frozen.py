"""Frozen atoms are those of ASE's FixAtoms, whichever way structures go."""

import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLengths

from whorl.structures import from_ase, to_ase
from whorl.structures.frozen import frozen_atoms_of, with_frozen_atoms, without_info


def test_frozen_atoms_come_from_ase_and_go_back():
    first = Atoms("H3", torch.rand(3, 3).numpy(), info={"name": "a"})
    first.set_constraint([FixBondLengths([[0, 1]]), FixAtoms([2])])
    structures = from_ase([first, Atoms("H2", torch.rand(2, 3).numpy())])
    assert frozen_atoms_of(structures).tolist() == [False, False, True, False, False]
    assert frozen_atoms_of(structures[[1, 0]]).tolist() == [False, False, False, False, True]
    other = torch.tensor([True, False, False, False, True])
    changed = with_frozen_atoms(structures, other)
    assert torch.equal(frozen_atoms_of(changed), other) and changed.info[0]["name"] == "a"
    back = to_ase(changed)
    assert [type(one) for one in back[0].constraints] == [FixBondLengths, FixAtoms]
    assert back[1].constraints[0].get_indices().tolist() == [1]
    none = with_frozen_atoms(structures, torch.zeros(5, dtype=torch.bool))
    assert not frozen_atoms_of(none).any() and len(to_ase(none)[0].constraints) == 1


def test_without_info_keeps_frozen_atoms_alone():
    atoms = Atoms("H2", torch.rand(2, 3).numpy(), info={"name": "a"}, constraint=FixAtoms([0]))
    bare = without_info(from_ase(atoms))
    assert frozen_atoms_of(bare).tolist() == [True, False] and "name" not in bare.info[0]
    assert without_info(from_ase(Atoms("H"))).info == ()
