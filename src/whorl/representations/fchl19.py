r"""FCHL19 (Christensen, Bratholm, Faber and von Lilienfeld, J. Chem. Phys. 152, 044107, 2020).

For an atom i, neighbours j, k of one species or one pair of species, radii R up to the cutoff and odd o,

.. math::
   G^2_R &= \sum_j \frac{f_c(r_{ij})}{r_{ij}^{p_2}} \frac{1}{\sqrt{2\pi}\,\sigma R}
            e^{-(\ln R - \mu)^2 / 2\sigma^2}, \qquad \sigma^2 = \ln\Bigl(1 + \frac{\eta_2}{r_{ij}^2}\Bigr),
            \quad \mu = \ln r_{ij} - \tfrac12 \sigma^2 \\
   G^3_{Ro} &= \sum_{j<k} \xi_{jk}\, f_c(r_{ij}) f_c(r_{ik})\, e^{-\eta_3 (\rho_{jk} - R)^2}\;
               2\,e^{-(\zeta o)^2/2} \{\cos o\theta_i, \sin o\theta_i\}, \qquad
            \rho_{jk} = \tfrac12 (r_{ij} + r_{ik}) \\
   \xi_{jk} &= w \sqrt{\frac{\eta_3}{\pi}}\,
            \frac{1 + 3 \cos\theta_i \cos\theta_j \cos\theta_k}{(r_{ij}\, r_{ik}\, r_{jk})^{p_3}}

with the cutoff :math:`f_c(r) = \tfrac12 (1 + \cos \pi r / r_c)` and the angles θ of the triangle. In crystals
the neighbours are all periodic images; of molecules values and their order are those of qmllib 1.2.0.

The Gaussian of ρ is a product of one factor for each of the neighbours and one for the pair,

.. math:: e^{-\eta_3(\rho - R)^2} = E_R(r_{ij})\, E_R(r_{ik})\, e^{-\eta_3 r_{ij} r_{ik} / 2}, \qquad
   E_R(r) = e^{\eta_3 (R r - R^2/2 - r^2/4)} ,

so that all R are sums over k of one matrix for each o and sine or cosine, :math:`Q_{jk}`, times
:math:`E_R(r_{ik})`, and so are the derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from whorl.errors import InputError
from whorl.representations.cutoffs import Cutoff
from whorl.representations.embedding import Embedded
from whorl.representations.kernels import Kernel
from whorl.representations.pairs import Pairs
from whorl.representations.pooled import PAIR_NUMBERS, AtomicRepresentation
from whorl.representations.settings import EmbeddingChannels, SpeciesSettings
from whorl.settings import NonNegative, Positive
from whorl.structures.batch import StructureBatch

_CLOSEST = 1e-3  # Å; nearer atoms count as if they were at this distance, where powers of 1/r are finite
_COLLINEAR = 1e-8  # sine; nearer to 0° and 180°, sines have no derivative
_LARGEST_EXPONENT = 600.0
_MATRIX_AT_ONCE = 300_000  # numbers
_BOND = 2.5  # Å
_SECONDS = 2e-8  # for each pair of neighbours


class FCHL19(AtomicRepresentation):
    r"""Pooled FCHL19 vectors of any number of elements.

    **Order of the features.** Of one atom: for each neighbour species in the order of atomic number, R; then
    for each pair of species s ≤ t, for each R, for each o the cosine and the sine.

    Args:
        species: Chemical symbols of all elements that may occur, in any order.
        cutoff: Radius of the two-body terms in Å.
        cutoff3: Radius of the three-body terms in Å.
        n2: Number of radii R of the two-body terms, at equal steps up to the cutoff.
        n3: Number of radii R of the three-body terms.
        n_fourier: Number of angular orders, o = 1, 3, 5 ….
        eta2: :math:`\eta_2` in Å².
        eta3: :math:`\eta_3` in Å⁻².
        zeta: :math:`\zeta`.
        decay2: :math:`p_2`.
        decay3: :math:`p_3`.
        weight3: w.
        pooling: Names from :mod:`whorl.representations.pooling`.
        per_centre_species: Pool the atoms of each species separately.
        images: ``"all"`` periodic images within the cutoff, or ``"minimum"``, only the nearest of each atom.
        embedding: Number of channels in the place of the species; see
            :class:`~whorl.representations.pooled.AtomicRepresentation`.

    Raises:
        InputError: Unknown elements, pools or images; numbers out of range.

    >>> fchl = FCHL19(species=["Pt"], n2=2, n3=1, pooling=["mean"])
    >>> fchl.layout.names[1:]
    ('mean/FCHL2/Pt/R=8', 'mean/FCHL3/Pt-Pt/R=8,cos1', 'mean/FCHL3/Pt-Pt/R=8,sin1')
    """

    kind = "fchl19"

    class Settings(SpeciesSettings):
        """Settings of FCHL19 vectors; the defaults are the published values."""

        cutoff: Positive = 8.0
        """Radius of the two-body terms in Å."""
        cutoff3: Positive = 8.0
        """Radius of the three-body terms in Å."""
        n2: Annotated[int, Field(ge=1, le=1000)] = 24
        """Number of radii of the two-body terms."""
        n3: Annotated[int, Field(ge=1, le=1000)] = 20
        """Number of radii of the three-body terms."""
        n_fourier: Annotated[int, Field(ge=1, le=20)] = 1
        """Number of angular orders: 1, 3, 5 …."""
        eta2: Positive = 0.32
        """Width of the two-body terms, in Å²."""
        eta3: Positive = 2.7
        """Sharpness of the three-body terms in the distance, in Å⁻²."""
        zeta: NonNegative = math.pi
        """Damping of higher angular orders."""
        decay2: NonNegative = 1.8
        """Exponent of the distance in the two-body terms."""
        decay3: NonNegative = 0.57
        """Exponent of the distances in the three-body terms."""
        weight3: Positive = 13.4
        """Weight of the three-body terms."""
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
        cutoff: float = 8.0,
        cutoff3: float = 8.0,
        n2: int = 24,
        n3: int = 20,
        n_fourier: int = 1,
        eta2: float = 0.32,
        eta3: float = 2.7,
        zeta: float = math.pi,
        decay2: float = 1.8,
        decay3: float = 0.57,
        weight3: float = 13.4,
        pooling: Sequence[str] = ("mean", "std"),
        per_centre_species: bool = False,
        images: str = "all",
        embedding: int | Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        positive = {"cutoff": cutoff, "cutoff3": cutoff3, "eta2": eta2, "eta3": eta3, "weight3": weight3}
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"FCHL19: got {name} {value}, expected a positive number.")
        if min(n2, n3, n_fourier) < 1:
            raise InputError(
                f"FCHL19: got n2 {n2}, n3 {n3} and n_fourier {n_fourier}, expected at least 1 of each."
            )
        if 0.5 * eta3 * cutoff3**2 > _LARGEST_EXPONENT:
            raise InputError(
                f"FCHL19: got eta3 {eta3:g} with cutoff3 {cutoff3:g}, expected eta3 × cutoff3² of at most "
                f"{2 * _LARGEST_EXPONENT:g}. Remedy: a smaller one of the two."
            )
        super().__init__(
            species=species,
            cutoff=max(float(cutoff), float(cutoff3)),
            pooling=pooling,
            per_centre_species=per_centre_species,
            images=images,
            embedding=embedding,
        )
        self.cutoff, self.cutoff3 = float(cutoff), float(cutoff3)
        self.n2, self.n3, self.n_fourier = int(n2), int(n3), int(n_fourier)
        self.eta2, self.eta3, self.zeta = float(eta2), float(eta3), float(zeta)
        self.decay2, self.decay3, self.weight3 = float(decay2), float(decay3), float(weight3)
        self.radii2 = torch.linspace(0.0, self.cutoff, self.n2 + 1, dtype=torch.float64)[1:]
        self.radii3 = torch.linspace(0.0, self.cutoff3, self.n3 + 1, dtype=torch.float64)[1:]
        n = len(self.channels)
        self.lay_out(n * self.n2 + n * (n + 1) // 2 * self.of_pair, self._names())

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        numbers = {
            "cutoff": self.cutoff,
            "cutoff3": self.cutoff3,
            "n2": self.n2,
            "n3": self.n3,
            "n_fourier": self.n_fourier,
            "eta2": self.eta2,
            "eta3": self.eta3,
            "zeta": self.zeta,
            "decay2": self.decay2,
            "decay3": self.decay3,
            "weight3": self.weight3,
        }
        return {**self.common_config(), **numbers}

    @property
    def of_pair(self) -> int:
        """Number of features of a pair of species."""
        return 2 * self.n_fourier * self.n3

    @property
    def orders(self) -> range:
        """The angular orders o."""
        return range(1, 2 * self.n_fourier, 2)

    def kernels(self, pairs: Pairs) -> list[Kernel]:
        """Return a kernel for the two-body terms, and one for the three-body terms."""
        n_kinds = len(self.channels) if pairs.mixing is None else pairs.mixing.shape[1]
        kernels: list[Kernel] = [_TwoBody(self, pairs), _ThreeBody(self, pairs, n_kinds)]
        if pairs.mixing is None:
            return kernels
        return [Embedded(kernels, pairs, single=self.n2, double=self.of_pair)]

    def pairs_at_once(self, pools: int) -> int:
        """Return how many pairs may be held at a time; see the base class."""
        return PAIR_NUMBERS // (4 * (self.n2 + 2 * self.of_pair))

    def atomic_sharpness(self) -> Float[Tensor, "f"]:
        r"""Return the inverse of the length over which each feature changes, in 1/Å.

        :math:`1/R\sigma(R)` for the two-body terms, :math:`\sqrt{\eta_3/2 + o^2/b^2}` for the three-body
        terms, with the angle on a circle of a typical bond length, b = 2.5 Å.
        """
        two = 1.0 / (self.radii2 * (1.0 + self.eta2 / self.radii2.square()).log().sqrt())
        turns = torch.tensor(self.orders, dtype=torch.float64).repeat_interleave(2) / _BOND
        three = (0.5 * self.eta3 + turns.square()).sqrt().repeat(self.n3)
        n = len(self.channels)
        return torch.cat([two.repeat(n), three.repeat(n * (n + 1) // 2)])

    def seconds(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return roughly how long one core takes for each structure."""
        return _SECONDS * structures.n_atoms.double() * self.expected_neighbors(structures).square()

    def _names(self) -> Iterator[str]:
        for channel in self.channels:
            yield from (f"FCHL2/{channel}/R={radius:g}" for radius in self.radii2.tolist())
        for s, t in self.channel_pairs:
            for radius in self.radii3.tolist():
                for order in self.orders:
                    for turn in ("cos", "sin"):
                        yield f"FCHL3/{self.channels[s]}-{self.channels[t]}/R={radius:g},{turn}{order}"


class _TwoBody(Kernel):
    """Two-body terms of the atoms in the rows of pairs."""

    def __init__(self, fchl: FCHL19, pairs: Pairs) -> None:
        self._fchl, self._pairs = fchl, pairs

    def values(self) -> Iterator[tuple[slice, Float[Tensor, "N k"]]]:
        """Yield those of each species of neighbours that occurs."""
        terms, _ = self._terms(slopes=False)
        for s, columns in self._pairs.blocks:
            yield slice(s * self._fchl.n2, (s + 1) * self._fchl.n2), terms[:, :, columns].sum(2)

    def jacobians(self) -> Iterator[tuple[slice, Int[Tensor, "k"], Float[Tensor, "N x k R"]]]:
        """Yield for each species that occurs the Jacobian of each centre."""
        _, slopes = self._terms(slopes=True)
        assert slopes is not None
        for s, columns in self._pairs.blocks:
            of_vectors = slopes[:, None, :, columns] * self._pairs.unit[:, :, None, columns]
            place = torch.arange(self._fchl.n2)
            at = slice(s * self._fchl.n2, (s + 1) * self._fchl.n2)
            yield at, place, self._pairs.moved(of_vectors, columns)

    def _terms(self, *, slopes: bool) -> tuple[Float[Tensor, "N k M"], Float[Tensor, "N k M"] | None]:
        """Return the terms of all neighbours, and their derivatives in the distance."""
        fchl, pairs = self._fchl, self._pairs
        r = pairs.r.clamp(min=_CLOSEST)[:, None]
        cutoff = Cutoff(radius=fchl.cutoff)
        radii = fchl.radii2.to(r)[:, None]
        variance = torch.log1p(fchl.eta2 / r.square())
        away = radii.log() - r.log() + 0.5 * variance
        bare = torch.exp(-away.square() / (2.0 * variance)) / (math.sqrt(2.0 * math.pi) * radii)
        bare = bare * (variance.rsqrt() * r.pow(-fchl.decay2) * pairs.real[:, None])
        fc = cutoff(r)
        if not slopes:
            return bare * fc, None
        of_variance = -2.0 * fchl.eta2 / (r * (r.square() + fchl.eta2))
        of_away = 0.5 * of_variance - 1.0 / r
        ratio = away / variance
        change = (0.5 * ratio.square() - 0.5 / variance) * of_variance - ratio * of_away
        change = fc * (change - fchl.decay2 / r) + cutoff.derivative(r)
        return bare * fc, bare * change * (pairs.r > _CLOSEST)[:, None]


class _ThreeBody(Kernel):
    """Three-body terms of the atoms in the rows of pairs, in double precision: exponents are large."""

    def __init__(self, fchl: FCHL19, pairs: Pairs, n_kinds: int) -> None:
        self._fchl, self._pairs, self._dtype = fchl, pairs, pairs.r.dtype
        self._unit, self._r = pairs.unit.double(), pairs.r.double().clamp(min=_CLOSEST)
        radii, r = fchl.radii3.to(self._r)[:, None], self._r[:, None]
        self._factors = torch.exp(fchl.eta3 * (radii * (r - 0.5 * radii) - 0.25 * r.square()))  # (N, l, M)
        kinds = [(s, t) for s in range(n_kinds) for t in range(s, n_kinds)]
        first = n_kinds * fchl.n2
        self._columns = {
            pair: slice(first + place * fchl.of_pair, first + (place + 1) * fchl.of_pair)
            for place, pair in enumerate(kinds)
        }

    def values(self) -> Iterator[tuple[slice, Float[Tensor, "N k"]]]:
        """Yield those of each pair of species of neighbours that occurs."""
        blocks = self._pairs.blocks
        totals: dict[tuple[int, int], list[Tensor]] = {}
        for rows in self._chunks():
            r, factors = self._r[rows], self._factors[rows]
            matrices = list(self._matrices(r[:, :, None], r[:, None], *self._angles(rows)))
            for place, (s, of_k) in enumerate(blocks):
                sums = [factors[:, :, of_k] @ matrix[:, of_k] for matrix in matrices]
                for t, of_j in blocks[place:]:
                    total = [(factors[:, :, of_j] * item[:, :, of_j]).sum(2) for item in sums]
                    values = torch.stack(total, 2).flatten(1) * (0.5 if s == t else 1.0)
                    totals.setdefault((s, t), []).append(values.to(self._dtype))
        for pair, parts in totals.items():
            yield self._columns[pair], torch.cat(parts)

    def jacobians(self) -> Iterator[tuple[slice, Int[Tensor, "k"], Float[Tensor, "N x k R"]]]:
        """Yield for each pair of species that occurs the Jacobian of each centre."""
        blocks, place = self._pairs.blocks, torch.arange(self._fchl.of_pair)
        n, _, m = self._factors.shape
        slopes = [self._unit.new_empty(n, 3, self._fchl.of_pair, m, dtype=self._dtype) for _ in blocks]
        for rows in self._chunks():
            for of_all, of_rows in zip(slopes, self._slopes(rows), strict=True):
                of_all[rows] = of_rows
        for k, (s, of_k) in enumerate(blocks):
            for j, (t, of_j) in enumerate(blocks[k:], k):
                change = self._pairs.moved(slopes[k][..., of_j].contiguous(), of_j)
                if j != k:
                    change = change + self._pairs.moved(slopes[j][..., of_k].contiguous(), of_k)
                yield self._columns[s, t], place, change

    def _slopes(self, rows: slice) -> Iterator[Float[Tensor, "n 3 k M"]]:
        """Yield for each species of neighbours k the derivatives in the vectors to all neighbours j."""
        fchl, unit, factors = self._fchl, self._unit[rows], self._factors[rows]
        cosine, square, different = self._angles(rows)
        r = self._r[rows, :, None]
        with torch.enable_grad():
            variables = [x.detach().clone().requires_grad_() for x in (r.expand_as(cosine), cosine, square)]
            matrices = list(
                self._matrices(variables[0], self._r[rows, None], variables[1], variables[2], different)
            )
            gradients = [
                torch.autograd.grad(matrix.sum(), variables, retain_graph=True, materialize_grads=True)
                for matrix in matrices
            ]
        # A factor changes with the distance by itself, η (R - r / 2) times.
        growth = fchl.eta3 * (fchl.radii3.to(r)[:, None] - 0.5 * self._r[rows, None])
        for _, of_k in self._pairs.blocks:
            near = factors[:, :, of_k]
            directed = (near[:, None] * unit[:, :, None, of_k]).flatten(1, 2)
            parts = []
            for matrix, (of_r, of_cosine, of_square) in zip(matrices, gradients, strict=True):
                # The square of the sine is 1 - cos².
                turn = (of_cosine - 2.0 * cosine * of_square) / r
                along = near @ (of_r - cosine * turn)[:, :, of_k].transpose(1, 2)
                along += growth * (near @ matrix.detach()[:, :, of_k].transpose(1, 2))
                across = (directed @ turn[:, :, of_k].transpose(1, 2)).unflatten(1, (3, -1))
                parts.append((across + along[:, None] * unit[:, :, None]) * factors[:, None])
            yield torch.stack(parts, 3).flatten(2, 3)

    def _chunks(self) -> Iterator[slice]:
        n, m = self._r.shape
        step = max(1, _MATRIX_AT_ONCE // max(1, m * m))
        return (slice(start, start + step) for start in range(0, n, step))

    def _angles(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return of pairs of neighbours the cosine, the square of the sine, and whether they are two."""
        unit, real = self._unit[rows], self._pairs.real[rows].double()
        cosine = unit.transpose(1, 2) @ unit
        x, y, z = unit.unbind(1)
        square = torch.zeros_like(cosine)
        for a, b in ((x, y), (y, z), (z, x)):
            product = a[:, :, None] * b[:, None]
            square = square + (product - product.transpose(1, 2)).square()
        different = real[:, :, None] * real[:, None]
        return cosine, square, different * (1.0 - torch.eye(len(x[0])).to(different))

    def _matrices(
        self, r: Tensor, q: Tensor, cosine: Tensor, square: Tensor, different: Tensor
    ) -> Iterator[Float[Tensor, "n j k"]]:
        """Yield for each o the cosine and the sine of all pairs of neighbours, without the factors of R.

        Args:
            r: Distance of the first neighbour.
            q: Distance of the second.
            cosine: Of the angle between them.
            square: Square of the sine.
            different: 1, or 0 where the two are the same.
        """
        fchl = self._fchl
        across = (r.square() + q.square() - 2.0 * r * q * cosine).clamp(min=_CLOSEST**2)
        product = cosine * (r - q * cosine) * (q - r * cosine) / across
        exponent = -0.5 * fchl.eta3 * r * q - 0.5 * fchl.decay3 * across.log()
        fc = Cutoff(radius=fchl.cutoff3)
        decayed = [fc(x) * x.pow(-fchl.decay3) for x in (r, q)]
        scale = 2.0 * fchl.weight3 * math.sqrt(fchl.eta3 / math.pi)
        common = torch.exp(exponent) * (1.0 + 3.0 * product) * decayed[0] * decayed[1] * (scale * different)
        turn = cosine, square.clamp(min=_COLLINEAR**2).sqrt()
        twice = turn[0] * turn[0] - turn[1] * turn[1], 2.0 * turn[0] * turn[1]
        for order in fchl.orders:
            damping = math.exp(-0.5 * (fchl.zeta * order) ** 2)
            yield common * (damping * turn[0])
            yield common * (damping * turn[1])
            turn = turn[0] * twice[0] - turn[1] * twice[1], turn[0] * twice[1] + turn[1] * twice[0]
