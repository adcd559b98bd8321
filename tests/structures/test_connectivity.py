import torch
from ase import Atoms
from ase.build import bulk, molecule

from whorl.structures.connectivity import count_pieces


def test_pieces_are_counted_for_each_structure_by_itself():
    apart = Atoms("Pt4", [[0, 0, 0], [0, 0, 2.6], [9, 0, 0], [9, 9, 0]])
    assert count_pieces([molecule("C6H6"), apart, bulk("Cu"), Atoms("He")]).tolist() == [1, 3, 1, 1]


def test_bonds_reach_through_the_faces_of_a_cell():
    chain = Atoms("Pt2", [[0, 0, 0.3], [0, 0, 4.9]], cell=[20, 20, 5.2], pbc=[False, False, True])
    free = Atoms("Pt2", chain.positions)
    assert count_pieces([chain, free]).tolist() == [1, 2]


def test_the_longest_bond_depends_on_the_elements():
    pair = [[0, 0, 0], [0, 0, 2.5]]
    assert count_pieces([Atoms("Pt2", pair), Atoms("H2", pair)]).tolist() == [1, 2]
    assert count_pieces([Atoms("H2", pair)], bond=5.0).tolist() == [1]


def test_no_structures_have_no_pieces():
    assert count_pieces([]).tolist() == []
    assert count_pieces([Atoms()]).dtype == torch.int64
