import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii

from whorl.structures import connectivity, from_ase
from whorl.structures.connectivity import count_pieces, join_pieces


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


def test_fragments_are_joined_rigidly_and_nothing_comes_too_near():
    generator = torch.Generator().manual_seed(0)
    made = from_ase([molecule("C6H6"), molecule("CH3CH2OH"), Atoms("PtAuHPtAu", torch.eye(5, 3).numpy())])
    scattered = made.replace(
        positions=made.positions + 8 * torch.randn(made.positions.shape, generator=generator).double()
    )
    joined = join_pieces(scattered)
    assert count_pieces(joined).tolist() == [1, 1, 1]
    radii = torch.as_tensor(covalent_radii)[joined.atomic_numbers]
    for atoms in (joined.atoms_of(torch.tensor([k])) for k in range(3)):
        before, after = (torch.cdist(of[atoms], of[atoms]) for of in (scattered.positions, joined.positions))
        sums = radii[atoms, None] + radii[atoms]
        assert bool((after >= torch.minimum(before, 1.2 * sums) - 1e-9).all())
        bonded = (before <= 1.3 * sums).fill_diagonal_(False)
        assert torch.allclose(after[bonded], before[bonded])


def test_what_is_in_one_piece_or_periodic_is_not_joined():
    chain = Atoms("Pt2", [[0, 0, 0], [0, 9, 0]], cell=[20, 20, 5.2], pbc=[False, False, True])
    same = from_ase([molecule("C6H6"), chain, bulk("Cu")])
    assert torch.equal(join_pieces(same).positions, same.positions)


def test_many_structures_are_counted_a_few_at_a_time(monkeypatch):
    some = [Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5 + 0.5 * k]]) for k in range(7)] + [Atoms("H", [[0, 0, 0]])]
    whole = count_pieces(some)
    monkeypatch.setattr(connectivity, "_AT_ONCE", 3)
    assert count_pieces(some).tolist() == whole.tolist() == [1, 1, 1, 2, 2, 2, 2, 1]
