r"""Pairs and triplets of neighbouring atoms: periodic, batched, differentiable.

A pair (i, j, S) stands for the vector :math:`v = x_j - x_i + S\,C` from atom i to the image of atom j that
is shifted by the integer lattice translation S (rows of the cell C are lattice vectors): ASE's ``ijS``.
The search itself is not differentiable; the vectors computed from its answer are, in positions and cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

IMAGES = ("all", "minimum")

# Distances are compared for this many candidate pairs at a time, which bounds the memory of a search.
_CANDIDATES_AT_ONCE = 2_000_000
# More than these in one structure is a mistake in its cell or positions, and would take many GB.
_MOST_IMAGES = 2_000_000
_MOST_PAIRS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class NeighborList:
    """Directed pairs, sorted by their first atom; every pair is contained in both directions.

    Attributes:
        first: Flat index of the central atom, shape (P,).
        second: Flat index of the neighbour, shape (P,).
        shift: Lattice translation of the second atom, in units of the lattice vectors, shape (P, 3).
        undirected: Number of the pair without its direction, 0 … P/2-1, shape (P,).
        directions: The two directed pairs of each undirected one, shape (P/2, 2).
    """

    first: Int[Tensor, "P"]
    second: Int[Tensor, "P"]
    shift: Int[Tensor, "P 3"]
    undirected: Int[Tensor, "P"]
    directions: Int[Tensor, "H 2"]

    @classmethod
    def from_half(cls, i: Tensor, j: Tensor, shift: Tensor) -> NeighborList:
        """Build from pairs in one direction each."""
        unsorted = cls(
            first=torch.cat([i, j]),
            second=torch.cat([j, i]),
            shift=torch.cat([shift, -shift]),
            undirected=torch.arange(len(i), device=i.device).repeat(2),
            directions=torch.arange(2 * len(i), device=i.device).reshape(2, -1).T,
        )
        return unsorted.reordered(torch.argsort(unsorted.first, stable=True))

    def reordered(self, order: Int[Tensor, "P"]) -> NeighborList:
        """Return the same pairs with ``order[n]`` at place n; ``first`` must stay sorted."""
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        return NeighborList(
            first=self.first[order],
            second=self.second[order],
            shift=self.shift[order],
            undirected=self.undirected[order],
            directions=place[self.directions],
        )

    def __len__(self) -> int:
        """Return the number of directed pairs P."""
        return self.first.shape[0]

    def vectors(self, structures: StructureBatch) -> Float[Tensor, "P 3"]:
        r"""Return :math:`x_j - x_i + S\,C` in Å, differentiable in positions and cells."""
        vectors = structures.positions[self.second] - structures.positions[self.first]
        if not bool(structures.pbc.any()):
            return vectors
        cells = structures.cells[structures.structure_index[self.first]]
        return vectors + torch.einsum("pk,pkx->px", self.shift.to(vectors.dtype), cells)

    def counts(self, n_atoms: int) -> Int[Tensor, "A"]:
        """Return the number of neighbours of each of ``n_atoms`` atoms."""
        return torch.bincount(self.first, minlength=n_atoms)

    def triplets(self, n_atoms: int) -> Int[Tensor, "T 2"]:
        """Return the unordered pairs of neighbours of each centre.

        Each row holds two indices p < q into this list with ``first[p] == first[q]``: the pairs centre → j
        and centre → k. A centre with m neighbours has m (m - 1) / 2 triplets.
        """
        counts = self.counts(n_atoms)
        starts = torch.cumsum(counts, 0) - counts
        # The p-th pair of a centre is followed by (count - 1 - rank) later ones.
        rank = torch.arange(len(self), device=self.first.device) - starts[self.first]
        followers = counts[self.first] - 1 - rank
        p = torch.repeat_interleave(torch.arange(len(self), device=self.first.device), followers)
        within = torch.arange(p.shape[0], device=p.device) - (torch.cumsum(followers, 0) - followers)[p]
        return torch.stack([p, p + 1 + within], dim=1)


def neighbor_list(structures: Structures, *, cutoff: float, images: str = "all") -> NeighborList:
    """Find all pairs closer than ``cutoff``.

    Any cell is allowed: smaller than the cutoff, skewed, left-handed, periodic along some directions only;
    atoms may be outside the cell.

    Args:
        structures: Where to search; anything that :func:`whorl.structures.as_batch` takes.
        cutoff: In Å; pairs at exactly this distance are left out.
        images: ``"all"`` periodic images within the cutoff, an atom's own images included; or ``"minimum"``,
            for each pair of different atoms only the nearest image (the minimum-image convention).

    Raises:
        InputError: The cutoff is not positive, ``images`` is unknown, a periodic cell has no volume, or a
            structure has more neighbours than memory can be expected to hold.
    """
    structures = as_batch(structures)
    if not cutoff > 0:
        raise InputError(f"cutoff: got {cutoff}, expected a positive distance in Å.")
    if images not in IMAGES:
        raise unknown_option("images convention", images, IMAGES)
    with torch.no_grad():
        if not bool(structures.pbc.any()):
            return _cluster_pairs(structures, cutoff)
        lattice = _Lattice.of(structures)
        rows = _translations(structures, lattice, cutoff) if images == "all" else _nearby_cells(structures)
        found = list(_search(structures, lattice, rows, cutoff, minimum=images == "minimum"))
        i, j, shift = (torch.cat(parts) for parts in zip(*found, strict=True))
        # In the caller's own lattice and positions: undo the wrapping, then the change of basis.
        shift = shift + lattice.wraps[j] - lattice.wraps[i]
        basis = lattice.basis[structures.structure_index[i]]
        return NeighborList.from_half(i, j, (shift[:, :, None] * basis).sum(1))


def surroundings(
    structures: StructureBatch, centres: Bool[Tensor, "A"], *, cutoff: float
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"], Float[Tensor, "P 3"]]:
    """Find the neighbours of some atoms, all periodic images, in crystals of equally many atoms.

    Returns:
        For each pair the flat index of the centre and of its neighbour, and the vector between them in Å.

    Raises:
        InputError: A periodic cell has no volume.
    """
    n = len(structures.positions) // max(len(structures), 1)
    lattice = _Lattice.of(structures)
    structure, translation = _translations(structures, lattice, cutoff)
    positions = lattice.positions.reshape(-1, n, 3)
    # The centres of each structure in a row, the last one repeated where others have more.
    marked = centres.reshape(-1, n)
    many = marked.sum(1)
    places = marked.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(many.max())]
    real = torch.arange(places.shape[1], device=places.device) < many[:, None]
    found = []
    step = max(1, _CANDIDATES_AT_ONCE // (n * places.shape[1]))
    for start in range(0, len(structure), step):
        of, shift = structure[start : start + step], translation[start : start + step]
        moved = torch.einsum("rk,rkx->rx", shift.to(positions.dtype), lattice.cells[of])
        first, second = positions[of[:, None], places[of]], positions[of] + moved[:, None]
        gap = torch.baddbmm(second.square().sum(2)[:, None], first, second.transpose(1, 2), alpha=-2.0)
        near = gap < cutoff**2 - first.square().sum(2)[:, :, None]
        near &= real[of][:, :, None]
        home = torch.nonzero((shift == 0).all(1)).squeeze(1)  # where an atom meets itself
        near[home[:, None], torch.arange(places.shape[1], device=home.device), places[of[home]]] = False
        row, i, j = near.nonzero().unbind(1)
        found.append((of[row] * n + places[of[row], i], of[row] * n + j, second[row, j] - first[row, i]))
    i, j, vectors = (torch.cat(parts) for parts in zip(*found, strict=True))
    return i, j, vectors


def _all_pairs(counts: Tensor, first_atom: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (row, i, j) for every ordered pair of atoms within each row's structure."""
    per_row = counts**2
    row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), per_row)
    within = torch.arange(row.shape[0], device=row.device) - (torch.cumsum(per_row, 0) - per_row)[row]
    n = counts[row]
    i = torch.div(within, n, rounding_mode="floor")
    return row, first_atom[row] + i, first_atom[row] + within - i * n


def _cluster_pairs(structures: StructureBatch, cutoff: float) -> NeighborList:
    counts = structures.n_atoms
    same_size = len(counts) > 0 and bool((counts == counts[0]).all())
    if same_size:
        n = int(counts[0])
        pair = torch.triu_indices(n, n, 1, device=counts.device)
        i, j = (pair[:, None, :] + structures.first_atom[:, None]).flatten(1)
    else:
        _, i, j = _all_pairs(counts, structures.first_atom)
        i, j = i[i < j], j[i < j]
    near = (structures.positions[j] - structures.positions[i]).square().sum(-1) < cutoff**2
    if same_size and bool(near.all()):
        return _repeat_pairs(
            NeighborList.from_half(pair[0], pair[1], pair.new_zeros(pair.shape[1], 3)), n, len(counts)
        )
    i, j = i[near], j[near]
    return NeighborList.from_half(i, j, i.new_zeros(len(i), 3))


def _repeat_pairs(pairs: NeighborList, n_atoms: int, copies: int) -> NeighborList:
    """Return the pairs of ``copies`` structures that all have the same ones: no need to sort them all."""
    copy = torch.arange(copies, device=pairs.first.device)[:, None]
    return NeighborList(
        first=(pairs.first + copy * n_atoms).flatten(),
        second=(pairs.second + copy * n_atoms).flatten(),
        shift=pairs.shift.repeat(copies, 1),
        undirected=(pairs.undirected + copy * (len(pairs) // 2)).flatten(),
        directions=(pairs.directions + copy[:, :, None] * len(pairs)).flatten(0, 1),
    )


@dataclass(frozen=True, kw_only=True)
class _Lattice:
    """A reduced lattice for each structure, and the atoms wrapped into its cell.

    ``cells`` = ``basis`` @ original cells; non-periodic vectors are replaced by unit vectors orthogonal to
    the periodic ones, so that a cell has a volume whatever its pbc. ``positions`` = original + ``wraps`` @
    ``cells``.
    """

    cells: Float[Tensor, "B 3 3"]
    basis: Int[Tensor, "B 3 3"]
    heights: Float[Tensor, "B 3"]
    positions: Float[Tensor, "A 3"]
    wraps: Int[Tensor, "A 3"]

    @classmethod
    def of(cls, structures: StructureBatch) -> _Lattice:
        cells = _complete(structures.cells, structures.pbc)
        cells, basis = _reduce(cells, structures.pbc)
        volume = torch.linalg.det(cells)
        flat = volume.abs() <= 1e-9 * cells.norm(dim=-1).prod(-1)
        if bool(flat.any()):
            bad = torch.nonzero(flat).squeeze(1).tolist()
            raise InputError(
                f"structure {bad[0]}: its periodic cell has no volume (zero or parallel lattice vectors). "
                "Give it a cell, or set pbc to False."
            )
        inverse = torch.linalg.inv(cells)
        heights = 1.0 / inverse.norm(dim=-2)
        fractional = torch.einsum("ax,axk->ak", structures.positions, inverse[structures.structure_index])
        wraps = -torch.floor(fractional) * structures.pbc[structures.structure_index]
        positions = structures.positions + torch.einsum(
            "ak,akx->ax", wraps, cells[structures.structure_index]
        )
        return cls(
            cells=cells, basis=basis, heights=heights, positions=positions, wraps=wraps.to(torch.int64)
        )


def reduced_cells(structures: StructureBatch) -> Float[Tensor, "B 3 3"]:
    """Return the Minkowski-reduced cells in float64, whose first … third vectors are as short as can be.

    Vectors along directions that are not periodic are replaced by unit vectors orthogonal to the others.
    """
    return _reduce(_complete(structures.cells.double(), structures.pbc), structures.pbc)[0]


def _complete(cells: Tensor, pbc: Tensor) -> Tensor:
    """Replace each non-periodic lattice vector by a unit vector orthogonal to the periodic ones."""
    completed = cells.clone()
    periodic = pbc.sum(-1)
    eye = torch.eye(3, dtype=cells.dtype, device=cells.device)
    completed[periodic == 0] = eye
    for b in torch.nonzero((periodic == 1) | (periodic == 2)).squeeze(1).tolist():
        # The right singular vectors beyond the rank span what the periodic vectors leave free.
        _, _, vh = torch.linalg.svd(cells[b][pbc[b]], full_matrices=True)
        completed[b, ~pbc[b]] = vh[int(periodic[b]) :]
    return completed


def _reduce(cells: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
    """Minkowski-reduce the cells that are not yet reduced; most real ones are and cost nothing."""
    from ase.geometry.minkowski_reduction import minkowski_reduce

    basis = torch.eye(3, dtype=torch.int64, device=cells.device).repeat(len(cells), 1, 1)
    reduced = cells.clone()
    for b in torch.nonzero(~_is_reduced(cells, pbc)).squeeze(1).tolist():
        cell = cells[b].double().cpu().numpy()
        if abs(np.linalg.det(cell)) <= 1e-12 * np.prod(np.linalg.norm(cell, axis=1)):
            continue  # no lattice to reduce; the caller says so
        try:
            _, operation = minkowski_reduce(cell, pbc[b].cpu().numpy())
        except RuntimeError:  # no convergence: rounding errors of a cell that is flat or absurdly long
            continue
        basis[b] = torch.as_tensor(np.asarray(operation), dtype=torch.int64, device=cells.device)
        reduced[b] = basis[b].to(cells.dtype) @ cells[b]
    return reduced, basis


def _is_reduced(cells: Tensor, pbc: Tensor) -> Bool[Tensor, "B"]:
    """Return whether the periodic vectors are a Minkowski-reduced basis, in any order."""
    gram = cells @ cells.transpose(1, 2)
    square = torch.diagonal(gram, dim1=1, dim2=2)
    tolerance = 1 + 1e-12
    ok = torch.ones(len(cells), dtype=torch.bool, device=cells.device)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        fine = 2 * gram[:, i, j].abs() <= torch.minimum(square[:, i], square[:, j]) * tolerance
        ok &= fine | ~(pbc[:, i] & pbc[:, j])
    longest = square.max(-1).values
    for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        diagonal = (cells[:, 0] + s * cells[:, 1] + t * cells[:, 2]).square().sum(-1)
        ok &= (diagonal * tolerance >= longest) | ~pbc.all(-1)
    return ok


def _translations(structures: StructureBatch, lattice: _Lattice, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return (structure, translation) rows that may bring a wrapped atom within the cutoff of another."""
    # Wrapped fractional coordinates differ by less than 1, so |shift| < cutoff / height + 1.
    reach = torch.ceil(cutoff / lattice.heights) * structures.pbc
    _refuse_too_many(structures, lattice, (2 * reach + 1).prod(-1), cutoff)
    reach = reach.to(torch.int64)
    sizes = 2 * reach + 1
    total = sizes.prod(-1)
    structure = torch.repeat_interleave(torch.arange(len(structures), device=total.device), total)
    within = (
        torch.arange(structure.shape[0], device=total.device) - (torch.cumsum(total, 0) - total)[structure]
    )
    size = sizes[structure]
    shift = torch.stack(
        [
            torch.div(within, size[:, 1] * size[:, 2], rounding_mode="floor"),
            torch.div(within, size[:, 2], rounding_mode="floor") % size[:, 1],
            within % size[:, 2],
        ],
        dim=1,
    )
    shift = shift - reach[structure]
    # A longer translation than the cutoff plus the extent of the wrapped atoms gives no neighbour.
    low = torch.full_like(lattice.heights, torch.inf)
    index = structures.structure_index[:, None].expand(-1, 3)
    low = low.scatter_reduce(0, index, lattice.positions, "amin")
    high = torch.full_like(low, -torch.inf).scatter_reduce(0, index, lattice.positions, "amax")
    extent = torch.where(high > low, high - low, torch.zeros_like(low)).norm(dim=-1)
    vector = torch.einsum("rk,rkx->rx", shift.to(lattice.cells.dtype), lattice.cells[structure])
    keep = vector.norm(dim=-1) <= (cutoff + extent)[structure] * (1 + 1e-9)
    return structure[keep], shift[keep]


def _refuse_too_many(structures: StructureBatch, lattice: _Lattice, images: Tensor, cutoff: float) -> None:
    """Reject structures that would take many GB: cells far thinner than the cutoff, very high densities.

    Raises:
        InputError: Names the first such structure, and what is wrong with it.
    """
    n_atoms = structures.n_atoms
    thin = torch.nonzero(images > _MOST_IMAGES).squeeze(1).tolist()
    if thin:
        raise InputError(
            f"structure {thin[0]}: its cell is {float(lattice.heights[thin[0]].min()):.2g} Å thin and has "
            f"{float(images[thin[0]]):.2g} periodic images within the cutoff of {cutoff:g} Å. Leave it out "
            "(find_problems names such structures), or choose a shorter cutoff."
        )
    # In a crystal of even density; where some directions are not periodic there are fewer.
    sphere = 4 / 3 * torch.pi * cutoff**3
    pairs = n_atoms.to(images.dtype) ** 2 * torch.minimum(
        images, sphere / torch.linalg.det(lattice.cells).abs()
    )
    dense = torch.nonzero((pairs > _MOST_PAIRS) & structures.pbc.all(1)).squeeze(1).tolist()
    if dense:
        raise InputError(
            f"structure {dense[0]}: its {int(n_atoms[dense[0]])} atoms have about "
            f"{float(pairs[dense[0]]):.2g} neighbours within {cutoff:g} Å. Leave it out, or "
            "choose a shorter cutoff."
        )


def _nearby_cells(structures: StructureBatch) -> tuple[Tensor, Tensor]:
    """Return the 27 translations (fewer where not periodic) that hold every minimum image."""
    steps = torch.arange(-1, 2, device=structures.device)
    shift = torch.cartesian_prod(steps, steps, steps).repeat(len(structures), 1)
    structure = torch.arange(len(structures), device=steps.device).repeat_interleave(27)
    keep = (structures.pbc[structure] | (shift == 0)).all(-1)
    return structure[keep], shift[keep]


def _search(
    structures: StructureBatch,
    lattice: _Lattice,
    rows: tuple[Tensor, Tensor],
    cutoff: float,
    *,
    minimum: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (first, second, shift) in the reduced lattice, in chunks of bounded memory."""
    structure, translation = rows
    n_atoms = structures.n_atoms
    if not minimum and len(structure) and bool((n_atoms == n_atoms[0]).all()) and int(n_atoms[0]):
        yield from _search_equal(lattice, structure, translation, cutoff, n=int(n_atoms[0]))
        return
    counts = n_atoms[structure]
    work = torch.cumsum(counts**2, 0)
    if minimum:  # all images of a structure must be compared in one chunk
        last = torch.searchsorted(
            structure, torch.arange(len(structures), device=structure.device), right=True
        )
        boundaries = last[last > 0].unique()
    else:
        boundaries = torch.arange(1, len(structure) + 1, device=structure.device)
    start, done = 0, 0
    yield structure.new_zeros(0), structure.new_zeros(0), structure.new_zeros(0, 3)
    while start < len(structure):
        fits = boundaries[(work[boundaries - 1] <= done + _CANDIDATES_AT_ONCE) & (boundaries > start)]
        stop = int(fits[-1]) if len(fits) else int(boundaries[boundaries > start][0])
        row, i, j = _all_pairs(counts[start:stop], structures.first_atom[structure[start:stop]])
        shift = translation[start:stop][row]
        vector = lattice.positions[j] - lattice.positions[i]
        vector = vector + torch.einsum(
            "pk,pkx->px", shift.to(vector.dtype), lattice.cells[structure[start:stop][row]]
        )
        if minimum:
            row, i, j, shift, vector = _keep_nearest(structures, lattice, row, i, j, shift)
        distance2 = vector.square().sum(-1)
        keep = torch.nonzero((distance2 < cutoff**2) & _one_direction(i, j, shift)).squeeze(1)
        yield i[keep], j[keep], shift[keep]
        start, done = stop, int(work[stop - 1])


def _search_equal(
    lattice: _Lattice, structure: Tensor, translation: Tensor, cutoff: float, *, n: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Search structures of n atoms each: all distances as matrix products, (row, i, j)."""
    positions = lattice.positions.reshape(-1, n, 3)
    once = torch.ones(n, n, dtype=torch.bool, device=structure.device).triu(1)
    own = torch.eye(n, dtype=torch.bool, device=structure.device)
    step = max(1, _CANDIDATES_AT_ONCE // n**2)
    for start in range(0, len(structure), step):
        of, shift = structure[start : start + step], translation[start : start + step]
        moved = torch.einsum("rk,rkx->rx", shift.to(positions.dtype), lattice.cells[of])
        first, second = positions[of], positions[of] + moved[:, None]
        # |a - b|² less |a|² is compared with the cutoff; its rounding errors are the size of those of |a|².
        gap = torch.baddbmm(second.square().sum(2)[:, None], first, second.transpose(1, 2), alpha=-2.0)
        near = gap < cutoff**2 - first.square().sum(2)[:, :, None]
        ahead = shift.sign() @ shift.new_tensor([4, 2, 1]) > 0
        near &= once | (own & ahead[:, None, None])
        row, i, j = near.nonzero().unbind(1)
        base = of[row] * n
        yield base + i, base + j, shift[row]


def _one_direction(i: Tensor, j: Tensor, shift: Tensor) -> Bool[Tensor, "P"]:
    """Choose one of (i, j, S) and (j, i, -S): i < j, or for own images the first S_k ≠ 0 positive."""
    leading = shift.sign() @ shift.new_tensor([4, 2, 1])
    return (i < j) | ((i == j) & (leading > 0))


def _keep_nearest(
    structures: StructureBatch, lattice: _Lattice, row: Tensor, i: Tensor, j: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of all images of each pair of atoms i < j keep the nearest one."""
    ordered = i < j
    row, i, j, shift = row[ordered], i[ordered], j[ordered], shift[ordered]
    cells = lattice.cells[structures.structure_index[i]]
    vector = lattice.positions[j] - lattice.positions[i]
    fractional = torch.linalg.solve(cells, vector[:, None, :], left=False).squeeze(1)
    shift = shift - torch.round(fractional).to(torch.int64) * structures.pbc[structures.structure_index[i]]
    vector = vector + torch.einsum("pk,pkx->px", shift.to(vector.dtype), cells)
    n_atoms = structures.positions.shape[0]
    pair, group = torch.unique(i * n_atoms + j, return_inverse=True)
    distance2 = vector.square().sum(-1)
    nearest = torch.full((len(pair),), torch.inf, dtype=distance2.dtype, device=distance2.device)
    nearest = nearest.scatter_reduce(0, group, distance2, "amin")
    # Where two images are equally near, the first in the fixed order of translations is taken.
    candidates = torch.arange(len(group), device=group.device)
    ties = distance2 <= nearest[group] * (1 + 1e-12)
    first = torch.full((len(pair),), len(group), device=group.device, dtype=torch.int64)
    keep = first.scatter_reduce(0, group[ties], candidates[ties], "amin")
    return row[keep], i[keep], j[keep], shift[keep], vector[keep]
