r"""Smooth overlap of atomic positions (Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115, 2013): power spectra.

The neighbours j of one species s around atom i, itself included, make the density

.. math:: \rho^s(\vec r) = \sum_j f_c(r_{ij})\, e^{-|\vec r - \vec r_{ij}|^2 / 2\sigma^2},
   \qquad f_c(r) = 1 - 3 (r/r_c)^2 + 2 (r/r_c)^3 ,

whose coefficients in orthonormal functions :math:`g_{nl}(r) Y_{lm}` are contracted to what no rotation
changes:

.. math::
   g_{nl}(r) &= \sum_{n'} \beta_{nn'l}\, r^l e^{-\alpha_{n'l} r^2} \\
   p^{st}_{nn'l} &= \pi \sqrt{\frac{8}{2l+1}} \sum_m c^s_{nlm} c^t_{n'lm}

(the primitive gaussians of Himanen et al., Comput. Phys. Commun. 247, 106949, 2020). With
:math:`\eta = 1/2\sigma^2` and the solid harmonics :math:`R_{lm}(\vec r) = r^l Y_{lm}` the integrals are
closed,

.. math::
   c_{nlm} = \sum_{jn'} f_c(r_j)\, \beta_{nn'l} \Bigl(\frac{\pi}{\alpha+\eta}\Bigr)^{3/2}
             \Bigl(\frac{\eta}{\alpha+\eta}\Bigr)^l e^{-\alpha\eta r_j^2 / (\alpha+\eta)} R_{lm}(\vec r_j),

polynomials times gaussians: no direction is ever taken, so nothing is singular where atoms meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from whorl.errors import InputError
from whorl.representations.cutoffs import Cutoff
from whorl.representations.harmonics import SolidHarmonics
from whorl.representations.kernels import Kernel, PooledKernel
from whorl.representations.pairs import Pairs
from whorl.representations.pooled import PAIR_NUMBERS, AtomicRepresentation
from whorl.representations.settings import EmbeddingChannels, SpeciesSettings
from whorl.settings import Positive
from whorl.structures.batch import StructureBatch

_DECAY = 1e-3  # of the primitive gaussians at the distances they are made for
_BOND = 2.5  # Å
_SECONDS = 3e-9  # for each coefficient of each pair of atoms


class SOAP(AtomicRepresentation):
    r"""Pooled power spectra of any number of elements.

    **Order of the features.** Of one atom: for each pair of species s ≤ t in the order of atomic number, for
    each l, for each n and n' (n ≤ n' where s = t).

    Args:
        species: Chemical symbols of all elements that may occur, in any order.
        cutoff: Radius in Å, above 1.
        n_max: Number of radial functions.
        l_max: Largest order of the spherical harmonics.
        sigma: Width of an atom in Å.
        pooling: Names from :mod:`whorl.representations.pooling`.
        per_centre_species: Pool the atoms of each species separately.
        images: ``"all"`` periodic images within the cutoff, or ``"minimum"``, only the nearest of each atom.
        embedding: Number of channels in the place of the species; see
            :class:`~whorl.representations.pooled.AtomicRepresentation`.

    Raises:
        InputError: Unknown elements, pools or images; numbers out of range; more radial functions than can be
            told apart within the cutoff.

    >>> soap = SOAP(species=["Pt"], cutoff=5.0, n_max=2, l_max=1, pooling=["mean"])
    >>> soap.layout.names[:2], len(soap.layout)
    (('mean/SOAP/Pt-Pt/l=0,n=0-0', 'mean/SOAP/Pt-Pt/l=0,n=0-1'), 6)
    """

    kind = "soap"

    class Settings(SpeciesSettings):
        """Settings of power spectra."""

        cutoff: Annotated[float, Field(gt=1)] = 5.0
        """Radius in Å."""
        n_max: Annotated[int, Field(ge=1, le=20)] = 6
        """Number of radial functions."""
        l_max: Annotated[int, Field(ge=0, le=20)] = 4
        """Largest order of the spherical harmonics."""
        sigma: Positive = 0.5
        """Width of an atom in Å."""
        pooling: Annotated[list[str], Field(min_length=1)] = ["mean", "std"]
        """Pooling over atoms."""
        per_centre_species: bool = False
        """Pool the atoms of each species separately."""
        images: Literal["all", "minimum"] = "all"
        """Periodic images: all within the cutoff, or the nearest."""
        embedding: EmbeddingChannels = None
        """Number of channels in the place of features of each element: 1, electronegativity, covalent
        radius, valence electrons, Mendeleev number; or a table of the channels of each element. The number
        of features is the same for all elements."""

    def __init__(
        self,
        *,
        species: Sequence[str],
        cutoff: float = 5.0,
        n_max: int = 6,
        l_max: int = 4,
        sigma: float = 0.5,
        pooling: Sequence[str] = ("mean", "std"),
        per_centre_species: bool = False,
        images: str = "all",
        embedding: int | Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not (math.isfinite(cutoff) and cutoff > 1 and math.isfinite(sigma) and sigma > 0):
            raise InputError(f"SOAP: got cutoff {cutoff} and sigma {sigma}, expected above 1 Å and above 0.")
        if n_max < 1 or l_max < 0:
            raise InputError(f"SOAP: got n_max {n_max} and l_max {l_max}, expected at least 1 and 0.")
        super().__init__(
            species=species,
            cutoff=float(cutoff),
            pooling=pooling,
            per_centre_species=per_centre_species,
            images=images,
            embedding=embedding,
        )
        self.n_max, self.l_max, self.sigma = int(n_max), int(l_max), float(sigma)
        self.basis = _Basis(self.radius, self.n_max, self.l_max, self.sigma)
        n = len(self.channels) * self.n_max
        self.lay_out(n * (n + 1) // 2 * (self.l_max + 1), self._names())

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        return {
            **self.common_config(),
            "cutoff": self.radius,
            "n_max": self.n_max,
            "l_max": self.l_max,
            "sigma": self.sigma,
        }

    def kernels(self, pairs: Pairs) -> list[Kernel]:
        """Return the one kernel of all power spectra."""
        return [_PowerSpectrum(self, pairs)]

    def pooled_kernels(
        self, pairs: Pairs, undirected: Callable[[], Pairs]
    ) -> tuple[Sequence[PooledKernel], Sequence[Kernel]]:
        """Return the kernel whose derivatives are pooled while the product rule is applied."""
        return [_PooledPowerSpectrum(self, pairs)], []

    def pairs_at_once(self, pools: int) -> int:
        """Return how many pairs may be held at a time; see the base class."""
        return PAIR_NUMBERS // (4 * self.n_max * (2 * self.l_max + 1))

    def atomic_sharpness(self) -> Float[Tensor, "f"]:
        r"""Return :math:`\sqrt{1/r_c^2 + 2a + l(l+1)/2b^2}` in 1/Å.

        a is the larger exponent of the two gaussians in the distance; the wavelength of the harmonics is
        taken to Å on a circle of a typical bond length, b = 2.5 Å.
        """
        squares = []
        for s, t in self.channel_pairs:
            for order in range(self.l_max + 1):
                exponents = self.basis.exponents[order]
                n, m = self._radial_pairs(s, t)
                squares.append(2.0 * torch.maximum(exponents[n], exponents[m]))
                squares[-1] += self.radius**-2 + order * (order + 1) / (2.0 * _BOND**2)
        return torch.cat(squares).sqrt()

    def seconds(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return roughly how long one core takes for each structure."""
        per_pair = _SECONDS * self.n_max * (self.l_max + 1) ** 2
        return per_pair * structures.n_atoms.double() * self.expected_neighbors(structures)

    def _radial_pairs(self, s: int, t: int) -> tuple[Int[Tensor, "K"], Int[Tensor, "K"]]:
        """Return n and n' of the features of one l of a pair of channels."""
        if s == t:
            n, m = torch.triu_indices(self.n_max, self.n_max)
        else:
            n, m = torch.cartesian_prod(*[torch.arange(self.n_max)] * 2).T
        return n, m

    def _columns(self, s: int, t: int, order: int) -> slice:
        """Return the columns of one l of a pair of channels."""
        same = self.n_max * (self.n_max + 1) // 2
        start = 0
        for first, second in self.channel_pairs:
            width = same if first == second else self.n_max**2
            if (first, second) == (s, t):
                return slice(start + order * width, start + (order + 1) * width)
            start += (self.l_max + 1) * width
        raise AssertionError((s, t))

    def _names(self) -> Iterator[str]:
        for s, t in self.channel_pairs:
            n, m = self._radial_pairs(s, t)
            for order in range(self.l_max + 1):
                for i, j in zip(n.tolist(), m.tolist(), strict=True):
                    yield f"SOAP/{self.channels[s]}-{self.channels[t]}/l={order},n={i}-{j}"


class _Basis:
    """The radial integrals of one atom, as gaussians: Σ_n' matrix_nn' exp(-exponents_n' r²), for each l."""

    def __init__(self, cutoff: float, n_max: int, l_max: int, sigma: float) -> None:
        self.cutoff = Cutoff(radius=cutoff, function="polynomial", gamma=2.0)
        self.n_max, self.l_max = n_max, l_max
        eta = 1.0 / (2.0 * sigma**2)
        reach = torch.linspace(1.0, cutoff, n_max, dtype=torch.float64)
        self.exponents, self.matrices = [], []
        for order in range(l_max + 1):
            alpha = (order * reach.log() - math.log(_DECAY)) / reach.square()
            overlap = 0.5 * math.gamma(order + 1.5) * (alpha[:, None] + alpha) ** (-order - 1.5)
            eigenvalues, vectors = torch.linalg.eigh(overlap)
            if float(eigenvalues[0]) <= 1e-14 * float(eigenvalues[-1]):
                raise InputError(
                    f"SOAP: {n_max} radial functions cannot be told apart within {cutoff:g} Å. Remedy: a "
                    "smaller n_max, or a larger cutoff."
                )
            mixing = vectors @ torch.diag(eigenvalues.rsqrt()) @ vectors.T
            weights = (math.pi / (alpha + eta)) ** 1.5 * (eta / (alpha + eta)) ** order
            self.exponents.append(alpha * eta / (alpha + eta))
            self.matrices.append(mixing * weights)

    def gaussians(self, order: int, r: Float[Tensor, "N m"]) -> Float[Tensor, "N n m"]:
        """Return the gaussians of one l at distances, not yet mixed."""
        return torch.exp(-self.exponents[order].to(r)[:, None] * r.square()[:, None])

    def at_centre(self, like: Tensor) -> Float[Tensor, "n"]:
        """Return the coefficients of the atom itself, all of l = 0."""
        return self.matrices[0].sum(1).to(like) / math.sqrt(4.0 * math.pi)


class _PowerSpectrum(Kernel):
    """Power spectra of the atoms in the rows of pairs."""

    def __init__(self, soap: SOAP, pairs: Pairs) -> None:
        self._soap, self._basis, self._pairs = soap, soap.basis, pairs
        self._blocks = dict(pairs.blocks)
        self._fc = soap.basis.cutoff(pairs.r) * pairs.real
        centres = {int(kind) for kind in pairs.row_kind.unique() if kind >= 0}
        self._kinds = sorted(centres | set(self._blocks))
        self._present = self._kinds if pairs.mixing is None else list(range(len(soap.channels)))
        self._harmonics = {s: SolidHarmonics(pairs.vectors[:, :, columns]) for s, columns in pairs.blocks}
        self._coefficients: list[dict[int, Tensor]] = []  # of each l, by channel: (N, n, 2 l + 1)

    def _known(self, order: int) -> dict[int, Tensor]:
        while len(self._coefficients) <= order:
            self._coefficients.append(self._sum_over_neighbors(len(self._coefficients)))
        return self._coefficients[order]

    def _sum_over_neighbors(self, order: int) -> dict[int, Tensor]:
        pairs, total = self._pairs, {}
        for s in self._kinds:
            c = pairs.r.new_zeros(len(pairs.row_kind), self._basis.n_max, 2 * order + 1)
            if s in self._blocks:
                columns = self._blocks[s]
                radial = self._basis.gaussians(order, pairs.r[:, columns]) * self._fc[:, None, columns]
                unmixed = radial @ self._harmonics[s].value(order).transpose(1, 2)
                c = self._basis.matrices[order].to(c) @ unmixed
            if order == 0:
                itself = (pairs.row_kind == s).to(c)[:, None, None]
                c = c + itself * self._basis.at_centre(c)[:, None]
            total[s] = c
        return pairs.of_channels(total)

    def coefficients(self, order: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return of each channel the coefficients of one l and their derivatives in the coordinates."""
        changes = self._pairs.of_channels({s: self._change(s, order) for s in self._blocks})
        return self._known(order), changes

    def pairs_of_channels(self) -> Iterator[tuple[int, int]]:
        return (
            (s, t) for place, s in enumerate(self._present) for t in self._present[place:]
        )  # in the order of the layout

    def values(self) -> Iterator[tuple[slice, Float[Tensor, "N k"]]]:
        """Yield for each l the spectra of each pair of channels that occurs."""
        for order in range(self._basis.l_max + 1):
            c, scale = self._known(order), _scale(order)
            for s, t in self.pairs_of_channels():
                n, m = self._soap._radial_pairs(s, t)
                spectrum = scale * (c[s] @ c[t].transpose(1, 2))
                yield self._soap._columns(s, t, order), spectrum[:, n, m]

    def jacobians(self) -> Iterator[tuple[slice, Int[Tensor, "k"], Float[Tensor, "N x k R"]]]:
        """Yield for each l the Jacobian of each pair of channels that occurs: by the product rule."""
        for order in range(self._basis.l_max + 1):
            (c, changes), scale = self.coefficients(order), _scale(order)
            for s, t in self.pairs_of_channels():
                n, m = self._soap._radial_pairs(s, t)
                of_s = _contracted(changes[s], c[t]) if s in changes else None
                of_t = of_s if s == t else _contracted(changes[t], c[s]) if t in changes else None
                parts = [of_s[:, :, n, m]] if of_s is not None else []
                parts += [of_t[:, :, m, n]] if of_t is not None else []
                if parts:
                    total = parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
                    yield self._soap._columns(s, t, order), torch.arange(len(n)), total.mul_(scale)

    def _change(self, s: int, order: int) -> Float[Tensor, "N x n M R"]:
        """Return the derivatives of the coefficients of one species in the coordinates."""
        pairs, columns = self._pairs, self._blocks[s]
        r, fc = pairs.r[:, columns], self._fc[:, columns]
        dfc = self._basis.cutoff.derivative(r) * pairs.real[:, columns] * pairs.inverse_r[:, columns]
        matrix, exponents = self._basis.matrices[order].to(r), self._basis.exponents[order].to(r)
        gaussians = self._basis.gaussians(order, r)
        radial = matrix @ (gaussians * fc[:, None])
        # The derivative in r, over r.
        along = matrix @ (gaussians * (dfc[:, None] - 2.0 * exponents[:, None] * fc[:, None]))
        value, gradient = self._harmonics[s].value(order), self._harmonics[s].gradient(order)
        slopes = (along[:, None] * pairs.vectors[:, :, None, columns])[:, :, :, None] * value[:, None, None]
        slopes.addcmul_(radial[:, None, :, None], gradient[:, :, None])
        moved = pairs.moved(slopes.flatten(2, 3), columns)
        return moved.unflatten(2, (self._basis.n_max, 2 * order + 1))


class _PooledPowerSpectrum(PooledKernel):
    r"""Power spectra, and the Jacobian of pooled ones, in which one product sums over the atoms and m.

    .. math:: \sum_i w_{i,nn'} \frac{\partial p_{i,nn'}}{\partial x} \propto \sum_{im}
       \frac{\partial c_{i,nm}}{\partial x} \bigl(w_{i,nn'}\, c_{i,n'm}\bigr) + (n \leftrightarrow n') .
    """

    def __init__(self, soap: SOAP, pairs: Pairs) -> None:
        self._soap, self._spectrum, self._n = soap, _PowerSpectrum(soap, pairs), pairs.ends.shape[2]

    def values(self) -> Iterator[tuple[slice, Float[Tensor, "B n k"]]]:
        """Yield for each l the spectra of each pair of channels that occurs."""
        for columns, values in self._spectrum.values():
            yield columns, values.unflatten(0, (-1, self._n))

    def jacobians(
        self, weights: Float[Tensor, "B P f n"]
    ) -> Iterator[tuple[slice, Float[Tensor, "B P k R 3"]]]:
        """Yield for each l the pooled Jacobian of each pair of channels that occurs."""
        n_max = self._soap.n_max
        for order in range(self._soap.l_max + 1):
            c, changes = self._spectrum.coefficients(order)
            c = {s: known.unflatten(0, (-1, self._n)).transpose(1, 2) for s, known in c.items()}
            changes = {
                s: change.unflatten(0, (-1, self._n)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
                for s, change in changes.items()
            }  # (B, n, i m, x R)
            for s, t in self._spectrum.pairs_of_channels():
                n, m = self._soap._radial_pairs(s, t)
                columns = self._soap._columns(s, t, order)
                of_pools = weights.new_zeros(*weights.shape[:2], n_max, n_max, self._n)
                of_pools[:, :, n, m] = weights[:, :, columns]
                if s == t:
                    of_pools[:, :, m, n] = weights[:, :, columns]
                parts = []
                if s in changes:
                    parts.append(_pooled(changes[s], c[t], of_pools))
                if t in changes:
                    other = parts[0] if s == t else _pooled(changes[t], c[s], of_pools.transpose(2, 3))
                    parts.append(other.transpose(2, 3))
                if parts:
                    total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
                    total = total[:, :, n, m].mul_(_scale(order))
                    yield columns, total.unflatten(3, (3, -1)).transpose(3, 4)


def _pooled(
    change: Float[Tensor, "B n w C"], other: Float[Tensor, "B n i M"], weights: Float[Tensor, "B P n n i"]
) -> Float[Tensor, "B P n n C"]:
    """Return Σ_im change_n,im weights_nn'i other_n'im."""
    factors = weights.transpose(1, 2)[..., None] * other[:, None, None]  # (B, n, P, n', i, M)
    pools, width = factors.shape[2], change.shape[1]
    return (factors.flatten(4).flatten(2, 3) @ change).unflatten(2, (pools, width)).transpose(1, 2)


def _scale(order: int) -> float:
    return math.pi * math.sqrt(8.0 / (2 * order + 1))


def _contracted(
    change: Float[Tensor, "N x n M R"], other: Float[Tensor, "N n M"]
) -> Float[Tensor, "N x n n R"]:
    """Return Σ_m change_nm other_n'm."""
    n_rows, x, n, width, many = change.shape
    flat = change.permute(0, 3, 1, 2, 4).reshape(n_rows, width, -1)
    return (other @ flat).reshape(n_rows, n, x, n, many).permute(0, 2, 3, 1, 4)
