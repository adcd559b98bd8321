r"""The symmetry functions around single atoms: values and derivatives, in bulk.

Radial functions (G2, G3) are computed once for each undirected pair. The angular sums (G4, G5) factor into
matrix products: with :math:`A_{jk} = 2^{1-\zeta} (1 + \lambda \cos\theta_{jk})^\zeta` and
:math:`W_j = e^{-\eta r_j^2} f_c(r_j)` for the neighbours j, k of a centre,

.. math:: G^5 = \sum_{j<k} A_{jk} W_j W_k .

No angle is ever taken, so nothing is singular at θ = 0 and π.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.representations.cutoffs import Cutoff
from whorl.representations.parts import pair_numbers

_TINY = 1e-12  # Å; nearer than this, two atoms have no direction


class Radial:
    r"""Functions :math:`X_k(r) f_c(r)` of one distance: all G2, then all G3.

    :math:`X` is :math:`e^{-\eta (r - R_s)^2}` for G2 and :math:`\cos(\kappa r)` for G3.
    """

    def __init__(self, g2: Sequence[tuple[float, float]], g3: Sequence[float]) -> None:
        self._g2, self._g3 = tuple(g2), tuple(g3)
        self.size = len(self._g2) + len(self._g3)

    def value(self, r: Float[Tensor, "H"]) -> Float[Tensor, "H K"]:
        """Return X, without the cutoff function."""
        x = r.new_empty(len(r), self.size)
        eta, shift = self._gaussians(r)
        torch.sub(r[:, None], shift, out=x[:, : len(eta)]).square_().mul_(-eta).exp_()
        if self._g3:
            torch.mul(r[:, None], r.new_tensor(self._g3), out=x[:, len(eta) :]).cos_()
        return x

    def slope(
        self, r: Float[Tensor, "H"], fc: Float[Tensor, "H"], dfc: Float[Tensor, "H"]
    ) -> Float[Tensor, "H K"]:
        """Return d(X f_c)/dr in 1/Å."""
        eta, shift = self._gaussians(r)
        kappa = r.new_tensor(self._g3)
        dx = torch.sub(r[:, None], shift).mul_(-2.0 * eta)
        x = self.value(r)
        dx.mul_(x[:, : len(eta)])
        if self._g3:
            dx = torch.cat([dx, -kappa * torch.sin(r[:, None] * kappa)], 1)
        return x.mul_(dfc[:, None]).add_(dx.mul_(fc[:, None]))

    def value_and_slope(
        self, r: Float[Tensor, "B H"], fc: Float[Tensor, "B H"], dfc: Float[Tensor, "B H"]
    ) -> tuple[Float[Tensor, "B K H"], Float[Tensor, "B K H"]]:
        """Return X f_c, and d(X f_c)/dr in 1/Å."""
        x, dx = r.new_empty(2, len(r), self.size, r.shape[1])
        eta, shift = self._gaussians(r)
        many = len(eta)
        gauss, slope, fc = x[:, :many], dx[:, :many], fc[:, None]
        torch.sub(r[:, None], shift[:, None], out=slope)
        torch.square(slope, out=gauss).mul_(-eta[:, None]).exp_()
        slope.mul_(-2.0 * eta[:, None]).mul_(fc).add_(dfc[:, None]).mul_(gauss)
        if self._g3:
            kappa = r.new_tensor(self._g3)[:, None]
            phase = r[:, None] * kappa
            torch.cos(phase, out=x[:, many:])
            torch.sin(phase, out=dx[:, many:]).mul_(-kappa).mul_(fc)
            dx[:, many:].addcmul_(x[:, many:], dfc[:, None])
        return x.mul_(fc), dx

    def _gaussians(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return η and R_s of all G2."""
        eta, shift = r.new_tensor(self._g2).reshape(-1, 2).unbind(1)
        return eta, shift


@dataclass(frozen=True)
class Environment:
    """N centres with M neighbours each; where there are fewer, ``mask`` is False.

    Attributes:
        r: Distances in Å, 1 where padded, shape (N, M).
        inverse_r: 1/r, 0 where padded or without direction, shape (N, M).
        unit: Unit vectors from the centre, 0 where padded or without direction, shape (N, M, 3).
        fc: Cutoff function, 0 where padded, shape (N, M).
        species: Index of each neighbour's species, shape (N, M).
        mask: False where padded, shape (N, M).
        n_species: Number of species S that are declared.
        cutoff: The cutoff itself.
    """

    r: Float[Tensor, "N M"]
    inverse_r: Float[Tensor, "N M"]
    unit: Float[Tensor, "N M 3"]
    fc: Float[Tensor, "N M"]
    species: Int[Tensor, "N M"]
    mask: Bool[Tensor, "N M"]
    n_species: int
    cutoff: Cutoff

    @classmethod
    def of(
        cls,
        vectors: Float[Tensor, "N M 3"],
        mask: Bool[Tensor, "N M"],
        species: Int[Tensor, "N M"],
        n_species: int,
        cutoff: Cutoff,
    ) -> Environment:
        """Precompute what all functions share."""
        r = torch.where(mask, vectors.norm(dim=-1), 1.0)
        inverse = torch.where(mask & (r > _TINY), 1.0 / r.clamp(min=_TINY), 0.0)
        return cls(
            r=r,
            inverse_r=inverse,
            unit=vectors * inverse[..., None],
            fc=cutoff(r) * mask,
            species=species,
            mask=mask,
            n_species=n_species,
            cutoff=cutoff,
        )

    def of_present(self) -> tuple[Environment, Int[Tensor, "S"]]:
        """Return the same with the species that occur alone, numbered anew, and which ones they are.

        A crystal has few of the species that a large data set declares: sums for the others are zero.
        """
        if self.n_species == 1:
            return self, self.species.new_zeros(1)
        present = self.species[self.mask].unique()
        number = self.species.new_zeros(self.n_species)  # 0 where padded, which counts for nothing
        number[present] = torch.arange(len(present), device=present.device)
        return replace(self, species=number[self.species], n_species=len(present)), present


class Angular:
    r"""Angular functions with one or several η for each (ζ, λ), for each pair of neighbour species s ≤ t.

    G5 as in the module's docstring; G4 has the further factor :math:`e^{-\eta r_{jk}^2} f_c(r_{jk})`
    (``far_side``), which ties the matrix A to one η.
    """

    def __init__(
        self, *, etas: Sequence[float], powers: Sequence[tuple[float, float]], far_side: bool
    ) -> None:
        assert not far_side or len(etas) == 1
        self.etas, self.powers, self.far_side = tuple(etas), tuple(powers), far_side

    @property
    def size(self) -> int:
        """Number of functions: every η with every (ζ, λ)."""
        return len(self.etas) * len(self.powers)

    def _weights(self, env: Environment) -> tuple[Tensor, Tensor]:
        """Return W and the factor that makes dW/dr of it where W ≠ 0: both (N, M, E)."""
        eta = env.r.new_tensor(self.etas)
        gauss = torch.exp(env.r.square()[..., None] * -eta)
        return gauss * env.fc[..., None], gauss

    def _weight_slopes(self, env: Environment, gauss: Tensor) -> Tensor:
        eta = env.r.new_tensor(self.etas)
        dfc = env.cutoff.derivative(env.r)
        return gauss * (dfc[..., None] - 2.0 * eta * (env.r * env.fc)[..., None])

    def _angles(self, cosine: Tensor, *, slope: bool) -> tuple[Tensor, Tensor]:
        """Return A and dA/dcos for each (ζ, λ), shape (N, C, …); the latter only where asked for."""
        a = cosine.new_empty(len(cosine), len(self.powers), *cosine.shape[1:])
        da = torch.empty_like(a) if slope else a
        for sign in sorted({lam for _, lam in self.powers}):
            h = torch.add(1.0, cosine, alpha=sign).mul_(0.5)
            inverse = torch.where(h > 1e-30, 0.5 / h.clamp(min=1e-30), 0.0) if slope else h
            known: dict[float, Tensor] = {1.0: h}
            # In the order of ζ, so that each power is built on those before it.
            for c, (zeta, lam) in sorted(enumerate(self.powers), key=lambda item: item[1][0]):
                if lam != sign:
                    continue
                torch.mul(_power(known, zeta), 2.0, out=a[:, c])
                if slope and zeta == 1.0:
                    da[:, c] = lam
                elif slope:
                    torch.mul(a[:, c], inverse, out=da[:, c]).mul_(zeta * lam)
        return a, da

    def value(self, env: Environment, j: Int[Tensor, "T"], k: Int[Tensor, "T"]) -> Float[Tensor, "N C E Q"]:
        """Return the sum over the given pairs j < k of neighbours, for each of the Q pairs of species."""
        w, _ = self._weights(env)
        # One gather for both factors: the sum of the first three products is cos θ, the others are W W.
        both = torch.cat([env.unit, w], -1)
        product = both.index_select(1, j).mul_(both.index_select(1, k))
        cosine = product[..., 0] + product[..., 1] + product[..., 2]
        ww = product[..., 3:]
        if self.far_side:
            vectors = env.unit * env.r[..., None]
            between = (vectors.index_select(1, j) - vectors.index_select(1, k)).norm(dim=-1)
            ww = ww * (torch.exp(-self.etas[0] * between.square()) * env.cutoff(between))[..., None]
        a, _ = self._angles(cosine, slope=False)
        if env.n_species == 1:
            return (a @ ww)[..., None]
        kinds = pair_numbers(env.n_species, env.r.device)[env.species[:, j], env.species[:, k]]
        n_kinds = env.n_species * (env.n_species + 1) // 2
        one_hot = torch.nn.functional.one_hot(kinds, n_kinds).to(ww.dtype)
        return (a @ (ww[..., None] * one_hot[:, :, None]).flatten(2)).unflatten(2, (-1, n_kinds))

    def _matrices(
        self, env: Environment, rows: slice
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """Return A (N, C, m, M), dA/dcos, cos θ, ∂A/∂r_jk divided by r_jk, and all vectors."""
        cosine = env.unit[:, rows] @ env.unit.transpose(1, 2)
        diagonal = (slice(None), torch.arange(cosine.shape[1]), torch.arange(cosine.shape[2])[rows])
        cosine[diagonal] = 1.0
        a, da = self._angles(cosine, slope=True)
        a[:, :, diagonal[1], diagonal[2]] = 0.0
        vectors = env.unit * env.r[..., None]
        if not self.far_side:
            return a, da, cosine, None, vectors
        between = (vectors[:, rows, None] - vectors[:, None]).norm(dim=-1)
        gauss = torch.exp(between.square() * -self.etas[0])
        fc = env.cutoff(between)
        side_slope = gauss * (env.cutoff.derivative(between) - 2.0 * self.etas[0] * between * fc)
        away = torch.where(between > _TINY, 1.0 / between.clamp(min=_TINY), 0.0)
        side = (gauss * fc)[:, None]
        return a * side, da * side, cosine, a * (side_slope * away)[:, None], vectors

    def vjp(self, env: Environment, rows: slice, g: Float[Tensor, "N S S C E"]) -> Float[Tensor, "N m 3"]:
        r"""Return :math:`\partial / \partial v_j` of :math:`\sum g\, G` for the neighbours j in ``rows``.

        ``g`` must be symmetric in its two species. A is symmetric too, so each row is complete in itself.
        """
        w, gauss = self._weights(env)
        a, da, cosine, da_dr, vectors = self._matrices(env, rows)
        unit = env.unit[:, rows]
        of_k = w.transpose(1, 2)[:, :, None, :]  # (N, E, 1, M)
        of_both = of_k * of_k.transpose(2, 3)[:, :, rows]
        x = (self._weighted(env, rows, g, da) * of_both).sum(1)
        turn = (x @ env.unit - (x * cosine).sum(-1, keepdim=True) * unit) * env.inverse_r[:, rows, None]
        stretch = (self._weighted(env, rows, g, a) * of_k).sum(-1).transpose(1, 2)  # (N, m, E)
        stretch = (stretch * self._weight_slopes(env, gauss)[:, rows]).sum(-1)
        gradient = turn + stretch[..., None] * unit
        if da_dr is not None:
            y = (self._weighted(env, rows, g, da_dr) * of_both).sum(1)
            gradient = gradient + y.sum(-1, keepdim=True) * vectors[:, rows] - y @ vectors
        return gradient

    def _weighted(self, env: Environment, rows: slice, g: Tensor, matrix: Tensor) -> Tensor:
        """Return Σ_c g_ce matrix_c as (N, E, m, M), with the g of the two neighbours' species."""
        flat = matrix.flatten(2)
        if env.n_species == 1:
            return (g[:, 0, 0].transpose(1, 2) @ flat).unflatten(2, matrix.shape[2:])
        total = matrix.new_zeros(len(matrix), len(self.etas), *matrix.shape[2:])
        for s in range(env.n_species):
            for t in range(s, env.n_species):
                here = (env.species[:, rows, None] == s) & (env.species[:, None, :] == t)
                if s != t:
                    here |= (env.species[:, rows, None] == t) & (env.species[:, None, :] == s)
                part = (g[:, s, t].transpose(1, 2) @ flat).unflatten(2, matrix.shape[2:])
                total += part * here[:, None]
        return total

    def factors(
        self, unit: Float[Tensor, "N 3 M"], r: Float[Tensor, "N M"], cutoff: Cutoff
    ) -> tuple[Float[Tensor, "N M C M"], Float[Tensor, "N M C M"] | None]:
        r"""Return :math:`q = h^{\zeta-1}` between neighbours j and k, zero where j = k; for G4 times F_jk.

        :math:`h = (1 + \lambda\cos\theta)/2`, so that :math:`A = 2hq`. For G4 also return the pull along
        v_j - v_k, :math:`2hq\,F'_{jk}/r_{jk}`.
        """
        m = r.shape[1]
        cosine = unit.transpose(1, 2) @ unit
        other = 1.0 - torch.eye(m, dtype=r.dtype, device=r.device)
        q = cosine.new_empty(len(r), m, len(self.powers), m)
        pull = torch.empty_like(q) if self.far_side else None
        if self.far_side:
            vectors = (unit * r[:, None]).transpose(1, 2)
            between = (vectors[:, :, None] - vectors[:, None]).norm(dim=-1)
            gauss = torch.exp(between.square() * -self.etas[0])
            fc = cutoff(between)
            side_slope = gauss * (cutoff.derivative(between) - 2.0 * self.etas[0] * between * fc)
            away = side_slope * torch.where(between > _TINY, 1.0 / between.clamp(min=_TINY), 0.0)
            side = gauss * fc
        for sign in sorted({lam for _, lam in self.powers}):
            h = torch.add(1.0, cosine, alpha=sign).mul_(0.5).mul_(other)
            known: dict[float, Tensor] = {0.0: other.expand_as(h), 1.0: h}
            # In the order of ζ, so that each power is built on those before it.
            for c, (zeta, lam) in sorted(enumerate(self.powers), key=lambda item: item[1][0]):
                if lam != sign:
                    continue
                power = _power(known, zeta - 1.0, out=None if self.far_side else q[:, :, c])
                if pull is not None:
                    torch.mul(power, side, out=q[:, :, c])
                    torch.mul(power * h, 2.0 * away, out=pull[:, :, c])
        return q, pull


def _power(known: dict[float, Tensor], zeta: float, *, out: Tensor | None = None) -> Tensor:
    """Return h**zeta, by squarings of what is already known where zeta is an integer; also in ``out``."""
    if zeta in known:
        return known[zeta] if out is None else out.copy_(known[zeta])
    if zeta != int(zeta):
        # Rounding may leave h at -1e-17.
        known[zeta] = torch.pow(known[1.0].clamp(min=0.0), zeta, out=out)
    elif zeta % 2 == 0:
        half = _power(known, zeta / 2)
        known[zeta] = torch.mul(half, half, out=out)
    else:
        known[zeta] = torch.mul(_power(known, zeta - 1), known[1.0], out=out)
    return known[zeta]
