"""Fragments of structures: connected components of the graph of bonds."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import neighbor_list

BOND = 1.3  # longest bond, in sums of covalent radii
CONTACT = 1.2  # likewise: distance of the nearest atoms of fragments that are joined
_AT_ONCE = 1000  # structures: lists of neighbours take much memory


def count_pieces(structures: Structures, *, bond: float = BOND) -> Int[Tensor, "B"]:
    """Return the number of fragments of each structure; 1 if it is connected.

    Atoms are bonded where their distance, to any periodic image, is at most ``bond`` times the sum of their
    covalent radii. The layers of a crystal are pieces of it.

    >>> from ase import Atoms
    >>> count_pieces([Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]]), Atoms("Pt2", [[0, 0, 0], [0, 0, 6]])]).tolist()
    [1, 2]
    """
    structures = as_batch(structures)
    none = torch.zeros(0, dtype=torch.int64)
    return torch.cat([none, *(_pieces(some, bond) for some in structures.chunks(_AT_ONCE))])


def _pieces(structures: StructureBatch, bond: float) -> Int[Tensor, "B"]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(structures.positions)
    if not n:
        return torch.zeros(len(structures), dtype=torch.int64)
    radii = torch.as_tensor(covalent_radii)[structures.atomic_numbers]
    pairs = neighbor_list(structures, cutoff=2 * bond * float(radii.max()) + 1e-6)
    distances = pairs.vectors(structures).norm(dim=1)
    bonded = distances <= bond * (radii[pairs.first] + radii[pairs.second])
    first, second = pairs.first[bonded].numpy(), pairs.second[bonded].numpy()
    graph = coo_array((torch.ones(len(first)).numpy(), (first, second)), shape=(n, n))
    piece = torch.as_tensor(connected_components(graph, directed=False)[1]).long()
    first_atoms = torch.full((int(piece.max()) + 1,), n, dtype=torch.int64)
    first_atoms.scatter_reduce_(0, piece, torch.arange(n), "amin")
    return torch.bincount(structures.structure_index[first_atoms], minlength=len(structures))


def join_pieces(structures: StructureBatch) -> StructureBatch:
    """Return structures with their fragments moved together, each as a rigid body.

    The fragment nearest to the largest one is moved straight towards it until their nearest atoms are 1.2
    sums of covalent radii apart, and so on until there is one. No other distance falls below that, by the
    triangle inequality. Periodic structures stay.

    >>> from ase import Atoms
    >>> apart = as_batch([Atoms("Pt3", [[0, 0, 0], [0, 0, 2.5], [0, 0, 9]])])
    >>> join_pieces(apart).positions[2].tolist()
    [0.0, 0.0, 5.764]
    """
    positions = structures.positions.clone()
    apart = (count_pieces(structures) > 1) & ~structures.pbc.any(1)
    for row in torch.nonzero(apart).flatten():
        atoms = structures.atoms_of(row[None])
        positions[atoms] = _joined(positions[atoms], structures.atomic_numbers[atoms])
    return structures.replace(positions=positions)


def _joined(positions: Float[Tensor, "n 3"], numbers: Int[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    from scipy.sparse.csgraph import connected_components

    radii = torch.as_tensor(covalent_radii).to(positions)[numbers]
    sums = radii[:, None] + radii
    while True:
        distances = (positions[:, None] - positions).norm(dim=2)
        count, piece = connected_components((distances <= BOND * sums).numpy(), directed=False)
        if count == 1:
            return positions
        pieces = torch.as_tensor(piece).long()
        largest = pieces == pieces.bincount().argmax()
        gaps = torch.where(largest[:, None] & ~largest, distances - CONTACT * sums, torch.inf)
        near, far = divmod(int(gaps.argmin()), len(gaps))
        way = (positions[near] - positions[far]) * (gaps[near, far] / distances[near, far])
        positions = torch.where((pieces == pieces[far])[:, None], positions + way, positions)
