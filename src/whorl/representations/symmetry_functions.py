r"""The symmetry functions of one centre, as dense arrays over its neighbours: values and derivatives.

Each group of functions (radial: G2, G3; angular: G4, G5) offers three kernels over N centres with M neighbours
each, v_m being the vector from the centre to neighbour m:

* ``value``: G, shape (N, K),
* ``vjp``: :math:`\sum_k g_k \, \partial G_k / \partial v_m`, shape (N, M, 3), for a given g of shape (N, K),
* ``jacobian``: :math:`\partial G_k / \partial v_m`, shape (N, K, 3, M).

The angular sums factor into matrix products. With :math:`h_{jk} = (1 + \lambda \cos\theta_{jk}) / 2`,
:math:`A_{jk} = 2 h_{jk}^\zeta` (zero for j = k) and :math:`W_j = e^{-\eta r_j^2} f_c(r_j)`,

.. math:: G^5 = 2^{1-\zeta} \sum_{j<k} (1 + \lambda\cos\theta_{jk})^\zeta e^{-\eta(r_j^2 + r_k^2)} f_c(r_j)
   f_c(r_k) = \tfrac12 W^T A W .

No angle is ever taken, so nothing is singular at θ = 0 and π.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.representations.cutoffs import Cutoff

_TINY = 1e-12  # Å; nearer than this, two atoms have no direction


@dataclass(frozen=True)
class Environment:
    """N centres, each with M neighbours; padding has ``mask`` False.

    Attributes:
        r: Distances in Å, 1 where padded, shape (N, M).
        inverse_r: 1/r, 0 where padded or without direction, shape (N, M).
        unit: Unit vectors from the centre, 0 where padded or without direction, shape (N, M, 3).
        fc: Cutoff function, 0 where padded, shape (N, M).
        dfc: Its derivative in 1/Å, 0 where padded, shape (N, M).
        species: 1 where the neighbour is of species s, shape (N, S, M).
        cutoff: The cutoff itself.
    """

    r: Float[Tensor, "N M"]
    inverse_r: Float[Tensor, "N M"]
    unit: Float[Tensor, "N M 3"]
    fc: Float[Tensor, "N M"]
    dfc: Float[Tensor, "N M"]
    species: Float[Tensor, "N S M"]
    cutoff: Cutoff

    @classmethod
    def of(
        cls,
        vectors: Float[Tensor, "N M 3"],
        mask: Bool[Tensor, "N M"],
        species: Float[Tensor, "N S M"],
        cutoff: Cutoff,
    ) -> Environment:
        """Precompute what all groups share."""
        r = torch.where(mask, vectors.norm(dim=-1), 1.0)
        inverse = torch.where(mask & (r > _TINY), 1.0 / r.clamp(min=_TINY), 0.0)
        return cls(
            r=r,
            inverse_r=inverse,
            unit=vectors * inverse[..., None],
            fc=cutoff(r) * mask,
            dfc=cutoff.derivative(r) * mask,
            species=species,
            cutoff=cutoff,
        )


class Radial:
    r"""Radial functions :math:`\sum_j X_k(r_j) f_c(r_j)`, for each neighbour species: G2, then G3.

    :math:`X` is :math:`e^{-\eta (r - R_s)^2}` for G2 and :math:`\cos(\kappa r)` for G3.
    """

    def __init__(self, g2: Sequence[tuple[float, float]], g3: Sequence[float]) -> None:
        self._g2, self._g3 = tuple(g2), tuple(g3)
        self.size = len(self._g2) + len(self._g3)

    def _basis(self, r: Tensor, *, slope: bool) -> tuple[Tensor, Tensor | None]:
        """Return X (N, M, K) and, where asked for, dX/dr."""
        eta, shift = r.new_tensor(self._g2).reshape(-1, 2).unbind(1)
        kappa = r.new_tensor(self._g3)
        x = r.new_empty(*r.shape, self.size)
        gauss, wave = x[..., : len(self._g2)], x[..., len(self._g2) :]
        torch.sub(r[..., None], shift, out=gauss)
        dx = torch.empty_like(x) if slope else None
        if dx is not None:
            torch.mul(gauss, -2.0 * eta, out=dx[..., : len(self._g2)])
        gauss.square_().mul_(-eta).exp_()
        if dx is not None:
            dx[..., : len(self._g2)] *= gauss
        if self._g3:
            torch.mul(r[..., None], kappa, out=wave)
            if dx is not None:
                dx[..., len(self._g2) :] = -kappa * torch.sin(wave)
            wave.cos_()
        return x, dx

    def value(self, env: Environment) -> Float[Tensor, "N S K"]:
        """Return the functions of each neighbour species."""
        x, _ = self._basis(env.r, slope=False)
        return (env.species * env.fc[:, None]) @ x

    def vjp(self, env: Environment, g: Float[Tensor, "N S K"]) -> Float[Tensor, "N M 3"]:
        """Return the gradient of ``(g * value).sum()`` in the neighbours' vectors."""
        x, dx = self._basis(env.r, slope=True)
        assert dx is not None
        g = g.transpose(1, 2)
        of_species = env.species.transpose(1, 2)
        slope = ((x @ g) * of_species).sum(-1) * env.dfc + ((dx @ g) * of_species).sum(-1) * env.fc
        return slope[..., None] * env.unit

    def jacobian(self, env: Environment) -> Float[Tensor, "N S K 3 M"]:
        """Return the derivative of each function in each neighbour's vector."""
        x, dx = self._basis(env.r, slope=True)
        assert dx is not None
        slope = (x.mul_(env.dfc[..., None]) + dx.mul_(env.fc[..., None])).transpose(1, 2)  # (N, K, M)
        toward = env.unit.transpose(1, 2)[:, None, :, :] * env.species[:, :, None, :]  # (N, S, 3, M)
        return slope[:, None, :, None, :] * toward[:, :, None]


class Angular:
    r"""Angular functions with one or several η for each (ζ, λ), for each pair of neighbour species s ≤ t.

    G5 as in the module's docstring; G4 has the further factor :math:`e^{-\eta r_{jk}^2} f_c(r_{jk})` (``far_side``),
    which ties the matrix A to one η.
    """

    def __init__(
        self, *, etas: Sequence[float], powers: Sequence[tuple[float, float]], far_side: bool
    ) -> None:
        assert not far_side or len(etas) == 1
        self.etas, self.powers, self._far_side = tuple(etas), tuple(powers), far_side

    def elements_per_row(self, n_neighbors: int) -> int:
        """Number of matrix elements that one row (one centre, one neighbour j) needs."""
        return len(self.powers) * n_neighbors

    def _weights(self, env: Environment) -> tuple[Tensor, Tensor]:
        """Return W and dW/dr, both (N, M, E)."""
        eta = env.r.new_tensor(self.etas)
        gauss = torch.exp(env.r.square()[..., None] * -eta)
        slope = env.dfc[..., None] - 2.0 * eta * (env.r * env.fc)[..., None]
        return gauss * env.fc[..., None], gauss * slope

    def _by_species(self, env: Environment, w: Tensor) -> Tensor:
        """Return W of the neighbours of each species, zero elsewhere: (N, M, S * E)."""
        return (env.species.transpose(1, 2)[..., None] * w[:, :, None, :]).flatten(2)

    def _matrices(
        self, env: Environment, rows: slice, *, slope: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return A (N, C, m, M), cos θ and, for their derivatives, dA/dcos, ∂A/∂r_jk and 1/r_jk."""
        cosine = env.unit[:, rows] @ env.unit.transpose(1, 2)
        n, m, many = cosine.shape
        row = torch.arange(m, device=cosine.device)
        column = torch.arange(many, device=cosine.device)[rows]
        cosine[:, row, column] = 1.0
        a = cosine.new_empty(n, len(self.powers), m, many)
        da = torch.empty_like(a) if slope else a
        for sign in sorted({lam for _, lam in self.powers}):
            h = (1.0 + sign * cosine).mul_(0.5)
            h[:, row, column] = 0.0
            inverse = torch.where(h > 1e-30, 0.5 / h.clamp(min=1e-30), 0.0) if slope else h
            powers: dict[float, Tensor] = {1.0: h}
            for c, (zeta, lam) in sorted(enumerate(self.powers), key=lambda item: item[1][0]):
                if lam != sign:
                    continue
                torch.mul(_power(powers, zeta), 2.0, out=a[:, c])
                if slope and zeta == 1.0:
                    da[:, c] = lam
                elif slope:
                    torch.mul(a[:, c], inverse, out=da[:, c]).mul_(zeta * lam)
        if not self._far_side:
            return a, da, cosine, None, None
        vectors = env.unit * env.r[..., None]
        between = (vectors[:, rows, None] - vectors[:, None]).norm(dim=-1)
        gauss = torch.exp(between.square() * -self.etas[0])
        fc = env.cutoff(between)
        side = (gauss * fc)[:, None]
        side_slope = gauss * (env.cutoff.derivative(between) - 2.0 * self.etas[0] * between * fc)
        away = torch.where(between > _TINY, 1.0 / between.clamp(min=_TINY), 0.0)
        da_dr = a * (side_slope * away)[:, None] if slope else None
        return a * side, da * side, cosine, da_dr, vectors

    def value(self, env: Environment, rows: slice) -> Float[Tensor, "N S S C E"]:
        """Return the part of G that the neighbours j in ``rows`` contribute, for species s of j and t of k."""
        w, _ = self._weights(env)
        a, *_ = self._matrices(env, rows, slope=False)
        p = self._products(env, a, self._by_species(env, w))
        weighted = env.species[:, :, rows, None] * w[:, None, rows]  # (N, S, m, E)
        return torch.einsum("nsme,ncmte->nstce", weighted, p)

    def _products(self, env: Environment, a: Tensor, columns: Tensor) -> Tensor:
        """Return Σ_k A_jk column_k as (N, C, m, S, columns / S)."""
        n, c, m, many = a.shape
        return (a.reshape(n, c * m, many) @ columns).reshape(n, c, m, env.species.shape[1], -1)

    def vjp(self, env: Environment, rows: slice, g: Float[Tensor, "N S S C E"]) -> Float[Tensor, "N m 3"]:
        r"""Return the gradient of :math:`\tfrac12 \sum g \cdot` ``value`` for the neighbours in ``rows``.

        ``g`` must be symmetric in its two species. Rows are independent, since A is symmetric: the factor ½
        cancels against a neighbour's appearing as j and as k.
        """
        w, dw = self._weights(env)
        a, da, cosine, da_dr, vectors = self._matrices(env, rows, slope=True)
        columns = self._by_species(env, w)
        g_of_row = torch.einsum("nsm,nstce->ncmte", env.species[:, :, rows], g)
        left = (g_of_row * w[:, None, rows, None]).flatten(1, 2).flatten(2)  # (N, C m, S E)
        outer = (left @ columns.transpose(1, 2)).reshape(a.shape)  # Σ_e g W_j W_k
        unit = env.unit[:, rows]
        x = (da * outer).sum(1)
        turn = (x @ env.unit - (x * cosine).sum(-1, keepdim=True) * unit) * env.inverse_r[:, rows, None]
        stretch = ((self._products(env, a, columns) * g_of_row).sum((1, 3)) * dw[:, rows]).sum(-1)
        gradient = turn + stretch[..., None] * unit
        if da_dr is not None and vectors is not None:
            y = (da_dr * outer).sum(1)
            gradient = gradient + y.sum(-1, keepdim=True) * vectors[:, rows] - y @ vectors
        return gradient

    def jacobian(self, env: Environment, rows: slice) -> Float[Tensor, "N S S C E 3 m"]:
        """Return the derivative of G in the vectors of ``rows``; entry (s, t) takes j of species s, k of t."""
        w, dw = self._weights(env)
        a, da, cosine, da_dr, vectors = self._matrices(env, rows, slope=True)
        columns = self._by_species(env, w)
        unit = env.unit[:, None, rows, None, None, :]  # (N, 1, m, 1, 1, 3)

        def times_vector(matrix: Tensor, vector: Tensor) -> Tensor:
            """Return Σ_k matrix_jk W_k vector_k as (N, C, m, S, E, 3)."""
            wide = (columns[..., None] * vector[:, :, None, :]).flatten(2)
            return self._products(env, matrix, wide).unflatten(-1, (-1, 3))

        stretch = self._products(env, a, columns) * dw[:, None, rows, None]
        along = self._products(env, da * cosine[:, None], columns)
        turn = times_vector(da, env.unit) - along[..., None] * unit
        slope = stretch[..., None] * unit
        slope += turn * (w * env.inverse_r[..., None])[:, None, rows, None, :, None]
        if da_dr is not None and vectors is not None:
            pull = self._products(env, da_dr, columns)[..., None] * vectors[:, None, rows, None, None, :]
            slope += (pull - times_vector(da_dr, vectors)) * w[:, None, rows, None, :, None]
        return torch.einsum("nsm,ncmtex->nstcexm", env.species[:, :, rows], slope)


def _power(powers: dict[float, Tensor], zeta: float) -> Tensor:
    """Return h**zeta, by squarings of what ``powers`` already holds where zeta is an integer."""
    if zeta not in powers:
        if zeta != int(zeta):
            powers[zeta] = powers[1.0].clamp(min=0.0) ** zeta  # rounding may leave h at -1e-17
        elif zeta % 2 == 0:
            powers[zeta] = _power(powers, zeta / 2).square()
        else:
            powers[zeta] = _power(powers, zeta - 1) * powers[1.0]
    return powers[zeta]
