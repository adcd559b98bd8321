r"""The Jacobian of pooled symmetry functions, as dense matrix products.

Structures are computed some at a time, in arrays padded to the largest of them. With :math:`w_{pif}` the
derivative of pooled feature (p, f) in the feature f of atom i, and :math:`\ell_{jr}` the *lever* of pair j,
which says how its vector v moves with coordinate r of the structure (+1 for the neighbour, -1 for the centre,
v itself for a strain),

.. math:: J_{pf,rx} = \sum_i w_{pif} \sum_j \frac{\partial G_{if}}{\partial v_{jx}} \ell_{jr} .

Pairs stand in one block of columns per species, or pair of species, so that each product runs over the pairs
that exist and none is multiplied by zero for being of another kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.representations.cutoffs import Cutoff
from whorl.representations.symmetry_functions import Angular, Radial

_TINY = 1e-12  # Å; nearer than this, two atoms have no direction


@dataclass(frozen=True, kw_only=True)
class Atoms:
    """Where the atoms of B structures stand in arrays that are padded to n of them."""

    structure: Int[Tensor, "A"]
    place: Int[Tensor, "A"]  # within the structure
    species: Int[Tensor, "A"]
    n_structures: int
    n: int

    def padded(self, values: Float[Tensor, "P A f"]) -> Float[Tensor, "P B n f"]:
        """Return values of atoms by structure, zero where there is no atom."""
        many, atoms, width = values.shape
        if atoms == self.n_structures * self.n:
            return values.reshape(many, self.n_structures, self.n, width)
        padded = values.new_zeros(many, self.n_structures, self.n, width)
        padded[:, self.structure, self.place] = values
        return padded

    def groups(self, many: int, like: Tensor) -> Float[Tensor, "B G n"]:
        """Return 1 for the atoms of each species, or for all atoms where there is one group."""
        ones = like.new_zeros(self.n_structures, many, self.n)
        ones[self.structure, self.species if many > 1 else 0, self.place] = 1.0
        return ones


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs in N rows of M; zero where padded, so that they count for nothing.

    Attributes:
        blocks: For each kind of pair that occurs, its number and its columns.
        r: Distances in Å, 1 where padded, shape (N, M).
        real: 1, or 0 where padded, shape (N, M).
        inverse_r: 1/r, 0 where padded or without direction, shape (N, M).
        unit: Unit vectors, 0 where padded or without direction, shape (N, 3, M).
        lever: How each vector moves with the R coordinates of its structure, shape (N, R, M) where a
            coordinate is a direction of one atom, or (N, 3, M, R).
        ends: One where the pair begins, and one where it ends, shape (2, N, n, M).
        by_atom: Whether the column of a pair is the place of the atom where it ends; ends and lever are not
            filled then.
    """

    blocks: list[tuple[int, slice]]
    r: Float[Tensor, "N M"]
    real: Float[Tensor, "N M"]
    inverse_r: Float[Tensor, "N M"]
    unit: Float[Tensor, "N 3 M"]
    lever: Float[Tensor, "N R M"] | Float[Tensor, "N 3 M R"]
    ends: Float[Tensor, "2 N n M"]
    by_atom: bool

    @classmethod
    def of(
        cls,
        vectors: Float[Tensor, "P 3"],
        *,
        row: Int[Tensor, "P"],
        kind: Int[Tensor, "P"],
        ends: tuple[Int[Tensor, "P"], Int[Tensor, "P"]],
        n_rows: int,
        n_kinds: int,
        n_atoms: int,
        strain: bool,
        by_atom: bool = False,
        levers: Float[Tensor, "P 3 Q"] | None = None,
    ) -> Pairs:
        """Arrange pairs by their row and kind; ``ends`` are the two atoms' places within the structure.

        ``by_atom`` needs pairs of one kind, no two of which end in the same atom. ``levers`` say how each
        vector moves with Q coordinates, in place of those of its ends.
        """
        counts = torch.bincount(row * n_kinds + kind, minlength=n_rows * n_kinds)
        widths = counts.reshape(n_rows, n_kinds).amax(0)
        offsets = torch.cumsum(widths, 0) - widths
        group = row * n_kinds + kind
        order = None
        if bool((group[1:] < group[:-1]).any()):
            order = torch.argsort(group, stable=True)
            group, row, kind, vectors = group[order], row[order], kind[order], vectors[order]
            ends = ends[0][order], ends[1][order]
            levers = None if levers is None else levers[order]
        rank = torch.arange(len(group), device=group.device) - (torch.cumsum(counts, 0) - counts)[group]
        column = offsets[kind] + rank
        m = int(widths.sum())
        if by_atom:
            column, m, widths = ends[1], n_atoms, widths.new_tensor([n_atoms])
        starts = offsets.tolist()
        blocks = [
            (number, slice(starts[number], starts[number] + width))
            for number, width in enumerate(widths.tolist())
            if width
        ]
        slot = row * m + column
        padded = vectors.new_zeros(n_rows * m, 5)
        padded[slot, :3] = vectors
        padded[slot, 3] = vectors.square().sum(1).sqrt()
        padded[slot, 4] = 1.0
        by_row = padded.reshape(n_rows, m, 5).transpose(1, 2).contiguous()
        distance, real = by_row[:, 3], by_row[:, 4]
        inverse = torch.where(distance > _TINY, 1.0 / distance.clamp(min=_TINY), 0.0)
        if levers is not None:
            lever = levers.new_zeros(n_rows * m, *levers.shape[1:])
            lever[slot] = levers
            lever = lever.unflatten(0, (n_rows, m)).transpose(1, 2).contiguous()
            n_atoms = 0
        at_ends = vectors.new_zeros(2, n_rows * n_atoms * m)
        if not by_atom and levers is None:
            at_ends[0, (row * n_atoms + ends[0]) * m + column] = 1.0
            at_ends[1, (row * n_atoms + ends[1]) * m + column] = 1.0
        at_ends = at_ends.reshape(2, n_rows, n_atoms, m)
        if levers is None:
            lever = at_ends[1] - at_ends[0]
        if strain:
            lever = torch.cat([lever, by_row[:, :3]], 1)
        return cls(
            blocks=blocks,
            r=distance + (1.0 - real),
            real=real,
            inverse_r=inverse,
            unit=by_row[:, :3] * inverse[:, None],
            lever=lever,
            ends=at_ends,
            by_atom=by_atom,
        )

    def moved(self, slopes: Float[Tensor, "N 3 K m"], columns: slice) -> Float[Tensor, "N x K R"]:
        """Return derivatives in the coordinates from those in the vectors of some columns; rows are centres.

        The result may take the memory of the slopes. x is the direction in which a coordinate moves an atom,
        or of length one where ``levers`` tell the direction.
        """
        if self.lever.dim() == 4:
            return (slopes.transpose(1, 2).flatten(2) @ self.lever[:, :, columns].flatten(1, 2))[:, None]
        flat = slopes.flatten(1, 2)
        if not self.by_atom:
            return (flat @ self.lever[:, :, columns].transpose(1, 2)).unflatten(1, (3, -1))
        # Each column is an atom: that of the centre, which is its own neighbour nowhere, takes the recoil.
        of_structures = flat.unflatten(0, (-1, flat.shape[2]))
        of_structures.diagonal(dim1=1, dim2=3).sub_(of_structures.sum(-1).transpose(1, 2))
        return slopes


class RadialPart:
    """Radial features of the atoms, and their pooled Jacobian: each undirected pair serves both of its ends.

    Rows of ``pairs`` are structures, kinds are unordered pairs of species s ≤ t, the first end of species s.
    """

    def __init__(self, radial: Radial, cutoff: Cutoff, pairs: Pairs, kinds: Sequence[tuple[int, int]]):
        self._pairs = pairs
        fc, dfc = cutoff(pairs.r) * pairs.real, cutoff.derivative(pairs.r) * pairs.real
        self._value, self._slope = radial.value_and_slope(pairs.r, fc, dfc)  # (B, K, H)
        # A neighbour of species t adds to the features of t: those of the pair's other end.
        self._shares: list[tuple[int, slice, Tensor]] = []
        for number, columns in pairs.blocks:
            s, t = kinds[number]
            first, second = pairs.ends[:, :, :, columns]
            if s == t:
                self._shares.append((s, columns, first + second))
            else:
                self._shares += [(t, columns, first), (s, columns, second)]

    def value(self, n_species: int) -> Float[Tensor, "B n SK"]:
        """Return the features of each atom."""
        n_structures, size, _ = self._value.shape
        total = self._value.new_zeros(n_structures, self._pairs.ends.shape[2], n_species, size)
        for species, columns, atoms in self._shares:
            total[:, :, species] += atoms @ self._value[:, :, columns].transpose(1, 2)
        return total.flatten(2)

    def jacobians(
        self, weights: Float[Tensor, "B P f n"]
    ) -> Iterator[tuple[int, Float[Tensor, "B P K R 3"]]]:
        """Yield for each species that occurs the Jacobian of the pooled features.

        ``weights`` are the derivatives of the pooled features in those of the atoms.
        """
        n_structures, n_pools, _, n = weights.shape
        size = self._slope.shape[1]
        levers = (self._pairs.lever[:, :, None] * self._pairs.unit[:, None]).flatten(1, 2)  # (B, 3R, H)
        for species in sorted({share[0] for share in self._shares}):
            of_atoms = weights[:, :, species * size : (species + 1) * size].reshape(n_structures, -1, n)
            total = None
            for neighbor, columns, atoms in self._shares:
                if neighbor != species:
                    continue
                of_pairs = (of_atoms @ atoms).unflatten(1, (n_pools, size))
                of_pairs = of_pairs.mul_(self._slope[:, None, :, columns]).flatten(1, 2)
                change = of_pairs @ levers[:, :, columns].transpose(1, 2)
                total = change if total is None else total.add_(change)
            assert total is not None
            yield species, total.reshape(n_structures, n_pools, size, -1, 3)


class AtomicRadialPart:
    """Radial features of the atoms, and the Jacobian of each atom's.

    Rows of ``pairs`` are centres, kinds are species.
    """

    def __init__(self, radial: Radial, cutoff: Cutoff, pairs: Pairs) -> None:
        self._pairs = pairs
        fc, dfc = cutoff(pairs.r) * pairs.real, cutoff.derivative(pairs.r) * pairs.real
        self._value, self._slope = radial.value_and_slope(pairs.r, fc, dfc)  # (N, K, M)

    def values(self) -> Iterator[tuple[int, Float[Tensor, "N K"]]]:
        """Yield for each species that occurs the features of each centre."""
        for s, columns in self._pairs.blocks:
            yield s, self._value[:, :, columns].sum(2)

    def jacobians(self) -> Iterator[tuple[int, Float[Tensor, "N x K R"]]]:
        """Yield for each species that occurs the Jacobian of each centre."""
        for s, columns in self._pairs.blocks:
            slopes = self._slope[:, None, :, columns] * self._pairs.unit[:, :, None, columns]
            yield s, self._pairs.moved(slopes, columns)


class AngularPart:
    r"""Angular features of the atoms, and their pooled Jacobian, for functions of one kernel.

    Rows of ``pairs`` are centres, kinds are species. With h = (1 + λ cos θ)/2 and q = h^(ζ-1),

    .. math:: G = \frac12 \sum_{jk} 2 h_{jk} q_{jk} W_j W_k, \qquad \frac{dA}{d\cos\theta} = \zeta\lambda q ,

    so that products of q with the columns W_k and W_k u_k give everything: with cos θ = u_j·u_k,

    .. math::
       Q_j = \sum_k q_{jk} W_k, \quad \vec Q_j = \sum_k q_{jk} W_k u_k, \quad
       \sum_k A_{jk} W_k = Q_j + \lambda u_j \cdot \vec Q_j

       \frac{\partial G}{\partial v_j} = \zeta\lambda \frac{W_j}{r_j} (\vec Q_j - (u_j\cdot\vec Q_j) u_j)
       + W_j' \Big(\sum_k A_{jk} W_k\Big) u_j .

    G4 has the further factor :math:`F_{jk} = e^{-\eta r_{jk}^2} f_c(r_{jk})` in A and q, of which each end
    takes its derivative along v_j - v_k.
    """

    def __init__(self, kernel: Angular, cutoff: Cutoff, pairs: Pairs, at_once: int) -> None:
        self._pairs = pairs
        r = pairs.r
        eta = r.new_tensor(kernel.etas)[:, None]
        gauss = torch.exp(r.square()[:, None] * -eta) * pairs.real[:, None]
        fc, dfc = cutoff(r), cutoff.derivative(r)
        self._w = gauss * fc[:, None]  # (N, E, M)
        self._dw = gauss * (dfc[:, None] - 2.0 * eta * (r * fc)[:, None])
        zeta, lam = r.new_tensor(kernel.powers).unbind(1)
        self._lam, self._zeta_lam = lam[:, None], (zeta * lam)[:, None]
        self._sums, self._pulls = self._sum_over_neighbors(kernel, cutoff, at_once)
        unit = pairs.unit[:, :, None, None]
        self._along = []  # u_j · Q⃗_j
        for sums in self._sums:
            along = sums[:, 1] * unit[:, 0]
            along.addcmul_(sums[:, 2], unit[:, 1]).addcmul_(sums[:, 3], unit[:, 2])
            sums[:, 0].addcmul_(along, self._lam)  # from here on Σ_k A_jk W_k
            self._along.append(along)

    def _sum_over_neighbors(
        self, kernel: Angular, cutoff: Cutoff, at_once: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return Q and its vector, and for G4 the same of the pull between j and k, over k of each species.

        Each is (N, 4, E, C, M). No more than ``at_once`` numbers of q are held at a time.
        """
        pairs, (n, m) = self._pairs, self._pairs.r.shape
        n_powers, n_etas = len(kernel.powers), len(kernel.etas)
        columns = torch.cat([self._w[:, None], self._w[:, None] * pairs.unit[:, :, None]], 1)
        far_columns = torch.cat([columns[:, :1], columns[:, 1:] * pairs.r[:, None, None]], 1)
        columns, far_columns = columns.flatten(1, 2), far_columns.flatten(1, 2)
        shape = (n, 4 * n_etas, n_powers * m)
        sums = [columns.new_empty(shape) for _ in pairs.blocks]
        pulls = [columns.new_empty(shape) for _ in pairs.blocks] if kernel.far_side else []
        step = max(1, at_once // max(1, n_powers * m * m))
        for start in range(0, n, step):
            rows = slice(start, start + step)
            q, pull = kernel.factors(pairs.unit[rows], pairs.r[rows], cutoff)
            for place, (_, of_k) in enumerate(pairs.blocks):
                torch.bmm(columns[rows, :, of_k], q[:, of_k].flatten(2), out=sums[place][rows])
                if pull is not None:
                    torch.bmm(far_columns[rows, :, of_k], pull[:, of_k].flatten(2), out=pulls[place][rows])
        full = (n, 4, n_etas, n_powers, m)
        return [item.view(full) for item in sums], [item.view(full) for item in pulls]

    def values(self) -> Iterator[tuple[int, int, Float[Tensor, "N EC"]]]:
        """Yield for each pair of species s ≤ t that occurs the features of each centre."""
        for k, (s, _) in enumerate(self._pairs.blocks):
            for t, of_j in self._pairs.blocks[k:]:
                total = (self._w[:, :, None, of_j] * self._sums[k][:, 0, :, :, of_j]).sum(-1).flatten(1)
                yield s, t, total.mul_(0.5) if s == t else total

    def jacobians(self) -> Iterator[tuple[int, int, Float[Tensor, "N x EC R"]]]:
        """Yield for each pair of species s ≤ t that occurs the Jacobian of each centre. Works once only."""
        blocks = self._pairs.blocks
        for k, (s, _) in enumerate(blocks):
            for j, (t, _) in enumerate(blocks[k:], k):
                change = self._moved(k, j)
                if j != k:
                    change += self._moved(j, k)
                yield s, t, change

    def _moved(self, k: int, j: int) -> Float[Tensor, "N x EC R"]:
        """Return the part of the Jacobian from neighbours j of one block, with k of another."""
        of_j = self._pairs.blocks[j][1]
        return self._pairs.moved(self._slopes(k, of_j).flatten(2, 3), of_j)

    def _slopes(self, k: int, of_j: slice) -> Float[Tensor, "N 3 E C m"]:
        """Return the derivatives in the vectors to the neighbours j, in the memory of the sums."""
        pairs, sums = self._pairs, self._sums[k][..., of_j]
        w = self._w[:, :, None, of_j]
        tilt = w * pairs.inverse_r[:, None, None, of_j] * self._zeta_lam
        stretch = self._dw[:, :, None, of_j] * sums[:, 0]
        stretch.addcmul_(self._along[k][..., of_j], tilt, value=-1.0)
        unit = pairs.unit[:, :, None, None, of_j]
        slopes = sums[:, 1:].mul_(tilt[:, None]).addcmul_(stretch[:, None], unit)
        if self._pulls:
            pulls = self._pulls[k][..., of_j]
            vectors = unit * pairs.r[:, None, None, None, of_j]
            slopes += (pulls[:, :1] * vectors - pulls[:, 1:]) * w[:, None]
        return slopes


def pool_jacobian(
    change: Float[Tensor, "B n x K R"],
    weights: Float[Tensor, "B n f"],
    place: Int[Tensor, "f"],
    groups: Float[Tensor, "B G n"],
    *,
    extremes: Float[Tensor, "B f"] | None,
) -> Float[Tensor, "B G f R x"]:
    """Return the Jacobian of pooled features from that of the atoms.

    Args:
        change: Jacobian of K features of each atom.
        weights: Derivative of the f pooled features in those of the atoms.
        place: Which of the K features each of the f is.
        groups: 1 for the atoms that are pooled together.
        extremes: The pooled features where these are extremes. Most often each is that of one atom, and
            no other is looked at; or it is zero, the least that an angular function can be, and so is its
            change.
    """
    place = place.to(change.device)
    if extremes is not None and bool(((weights.amax(1) == 1.0) | (extremes == 0.0)).all()):
        n_structures, n, _, many, width = change.shape
        of_structure = n * torch.arange(n_structures, device=place.device)[:, None]
        first = (of_structure + weights.argmax(1)) * 3 * many + place  # (B, f), for x = 0
        rows = first[:, :, None] + many * torch.arange(3, device=place.device)
        chosen = change.reshape(-1, width).index_select(0, rows.flatten())
        return chosen.reshape(n_structures, 1, len(place), 3, width).transpose(3, 4)
    of_functions = weights.new_zeros(*weights.shape[:2], change.shape[3])
    of_functions[..., place] = weights
    weighted = change * of_functions[:, :, None, :, None]
    if groups.shape[1] == 1:
        total = weighted.sum(1, keepdim=True)
    else:
        total = (groups @ weighted.flatten(2)).unflatten(2, change.shape[2:])
    return total[:, :, :, place].permute(0, 1, 3, 4, 2)
