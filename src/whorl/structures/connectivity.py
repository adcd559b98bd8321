"""Fragments of structures: connected components of the graph of bonds."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from jaxtyping import Int
from torch import Tensor

from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import neighbor_list

BOND = 1.3  # longest bond, in sums of covalent radii


def count_pieces(structures: Structures, *, bond: float = BOND) -> Int[Tensor, "B"]:
    """Return the number of fragments of each structure; 1 if it is connected.

    Atoms are bonded where their distance, to any periodic image, is at most ``bond`` times the sum of their
    covalent radii. The layers of a crystal are pieces of it.

    >>> from ase import Atoms
    >>> count_pieces([Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]]), Atoms("Pt2", [[0, 0, 0], [0, 0, 6]])]).tolist()
    [1, 2]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    structures = as_batch(structures)
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
