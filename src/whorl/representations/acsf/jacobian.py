"""Kernels of symmetry functions: values and Jacobians as dense matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.representations.acsf.groups import AngularGroup, SymmetryFunctions
from whorl.representations.kernels import Columns, Kernel, PooledKernel
from whorl.representations.pairs import Pairs


class PairRadialKernel(PooledKernel):
    """Radial features of the atoms, and their pooled Jacobian: each undirected pair serves both of its ends.

    Rows of ``pairs`` are structures, kinds are unordered pairs of species s ≤ t, the first end of species s.
    """

    def __init__(self, functions: SymmetryFunctions, pairs: Pairs) -> None:
        self._functions, self._pairs = functions, pairs
        radial, cutoff = functions.radial, functions.cutoff
        fc, dfc = cutoff(pairs.r) * pairs.real, cutoff.derivative(pairs.r) * pairs.real
        self._value, self._slope = radial.value_and_slope(pairs.r, fc, dfc)  # (B, K, H)
        # A neighbour of species t adds to the features of t: those of the pair's other end.
        self._shares: list[tuple[int, slice, Tensor]] = []
        for number, columns in pairs.blocks:
            s, t = functions.species_pairs[number]
            first, second = pairs.ends[:, :, :, columns]
            if s == t:
                self._shares.append((s, columns, first + second))
            else:
                self._shares += [(t, columns, first), (s, columns, second)]

    def values(self) -> Iterator[tuple[Columns, Float[Tensor, "B n SK"]]]:
        """Yield the features of each atom, of all species at once."""
        n_structures, size, _ = self._value.shape
        total = self._value.new_zeros(
            n_structures, self._pairs.ends.shape[2], self._functions.n_species, size
        )
        for species, columns, atoms in self._shares:
            total[:, :, species] += atoms @ self._value[:, :, columns].transpose(1, 2)
        yield slice(0, self._functions.n_radial), total.flatten(2)

    def jacobians(
        self, weights: Float[Tensor, "B P f n"]
    ) -> Iterator[tuple[Columns, Float[Tensor, "B P K R 3"]]]:
        """Yield for each species that occurs the Jacobian of the pooled features; see the base class."""
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
            columns_of = self._functions.radial_columns(species)
            yield columns_of, total.reshape(n_structures, n_pools, size, -1, 3)


class RadialKernel(Kernel):
    """Radial features of the atoms, and the Jacobian of each atom's.

    Rows of ``pairs`` are centres, kinds are species.
    """

    def __init__(self, functions: SymmetryFunctions, pairs: Pairs) -> None:
        self._functions, self._pairs = functions, pairs
        radial, cutoff = functions.radial, functions.cutoff
        fc, dfc = cutoff(pairs.r) * pairs.real, cutoff.derivative(pairs.r) * pairs.real
        self._value, self._slope = radial.value_and_slope(pairs.r, fc, dfc)  # (N, K, M)

    def values(self) -> Iterator[tuple[Columns, Float[Tensor, "N K"]]]:
        """Yield for each species that occurs the features of each centre."""
        for s, columns in self._pairs.blocks:
            yield self._functions.radial_columns(s), self._value[:, :, columns].sum(2)

    def jacobians(self) -> Iterator[tuple[Columns, Int[Tensor, "K"], Float[Tensor, "N x K R"]]]:
        """Yield for each species that occurs the Jacobian of each centre."""
        place = torch.arange(self._slope.shape[1])
        for s, columns in self._pairs.blocks:
            slopes = self._slope[:, None, :, columns] * self._pairs.unit[:, :, None, columns]
            yield self._functions.radial_columns(s), place, self._pairs.moved(slopes, columns)


class AngularKernel(Kernel):
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

    least_is_flat = True

    def __init__(self, functions: SymmetryFunctions, group: AngularGroup, pairs: Pairs, at_once: int) -> None:
        self._functions, self._group, self._pairs = functions, group, pairs
        kernel, cutoff = group.kernel, functions.cutoff
        r = pairs.r
        eta = r.new_tensor(kernel.etas)[:, None]
        gauss = torch.exp(r.square()[:, None] * -eta) * pairs.real[:, None]
        fc, dfc = cutoff(r), cutoff.derivative(r)
        self._w = gauss * fc[:, None]  # (N, E, M)
        self._dw = gauss * (dfc[:, None] - 2.0 * eta * (r * fc)[:, None])
        zeta, lam = r.new_tensor(kernel.powers).unbind(1)
        self._lam, self._zeta_lam = lam[:, None], (zeta * lam)[:, None]
        self._sums, self._pulls = self._sum_over_neighbors(at_once)
        unit = pairs.unit[:, :, None, None]
        self._along = []  # u_j · Q⃗_j
        for sums in self._sums:
            along = sums[:, 1] * unit[:, 0]
            along.addcmul_(sums[:, 2], unit[:, 1]).addcmul_(sums[:, 3], unit[:, 2])
            sums[:, 0].addcmul_(along, self._lam)  # from here on Σ_k A_jk W_k
            self._along.append(along)

    def _sum_over_neighbors(self, at_once: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return Q and its vector, and for G4 the same of the pull between j and k, over k of each species.

        Each is (N, 4, E, C, M). No more than ``at_once`` numbers of q are held at a time.
        """
        kernel, cutoff = self._group.kernel, self._functions.cutoff
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

    def values(self) -> Iterator[tuple[Columns, Float[Tensor, "N k"]]]:
        """Yield for each pair of species s ≤ t that occurs the features of each centre."""
        for k, (s, _) in enumerate(self._pairs.blocks):
            for t, of_j in self._pairs.blocks[k:]:
                total = (self._w[:, :, None, of_j] * self._sums[k][:, 0, :, :, of_j]).sum(-1).flatten(1)
                total = total.mul_(0.5) if s == t else total
                yield self._functions.angular_columns(self._group, s, t), total[:, self._group.place]

    def jacobians(self) -> Iterator[tuple[Columns, Int[Tensor, "k"], Float[Tensor, "N x EC R"]]]:
        """Yield for each pair of species s ≤ t that occurs the Jacobian of each centre. Works once only."""
        blocks = self._pairs.blocks
        for k, (s, _) in enumerate(blocks):
            for j, (t, _) in enumerate(blocks[k:], k):
                change = self._moved(k, j)
                if j != k:
                    change += self._moved(j, k)
                yield self._functions.angular_columns(self._group, s, t), self._group.place, change

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
