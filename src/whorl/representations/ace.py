r"""Atomic cluster expansion (Drautz, Phys. Rev. B 99, 014104, 2019), up to four bodies.

The neighbours j of atom i, without the atom itself, are expanded in radial functions and real spherical
harmonics, apart for each species, or mixed to channels :math:`u_k` of an embedding:

.. math:: A_{knlm} = \sum_j u_k(e_j)\, g_n(r_{ij})\, Y_{lm}(\hat r_{ij}), \qquad
   g_n(r) = \sqrt{\frac{2}{r_c}}\, \frac{\sin(n \pi r / r_c)}{r}\, f_c(r), \qquad
   f_c = 1 - 3 (r/r_c)^2 + 2 (r/r_c)^3 .

With v = (k, n), no rotation or reflection changes the products of one, two and three of them

.. math::
   B_v &= A_{v00} \\
   B_{vv'l} &= \frac{1}{\sqrt{2l+1}} \sum_m A_{vlm} A_{v'lm} \\
   B_{vv'v'',ll'l''} &= \sum_{mm'm''} C^{ll'l''}_{mm'm''} A_{vlm} A_{v'l'm'} A_{v''l''m''},

where C are the Wigner 3j symbols of real harmonics and :math:`l + l' + l''` is even. Each is a sum over
tuples of neighbours: distances (ν = 1), pairs with the angle between them (ν = 2, what ACSF and SOAP have),
and triples (ν = 3), which distinguish environments that have the same pairs (Pozdnyakov et al., Phys. Rev.
Lett. 125, 166001, 2020).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from whorl.errors import InputError
from whorl.representations.base import require_few_features
from whorl.representations.cutoffs import Cutoff
from whorl.representations.harmonics import SolidHarmonics, coupling
from whorl.representations.kernels import Kernel
from whorl.representations.pairs import Pairs
from whorl.representations.pooled import PAIR_NUMBERS, AtomicRepresentation
from whorl.representations.settings import EmbeddingChannels, SpeciesSettings
from whorl.structures.batch import StructureBatch

_BOND = 2.5  # Å
_SECONDS = 3e-9  # for each coefficient of each pair of atoms


@dataclass(frozen=True)
class _Triples:
    """Products of three A with the orders ``orders``, and their columns.

    Attributes:
        orders: l ≤ l' ≤ l''.
        columns: Of the features of an atom.
        factors: v, v' and v'' of each, shape (3, T).
        pairs: The two others of each factor, without repetition: v' and v'', v and v'', v and v'.
        of_pairs: Which of these pairs each product has.
    """

    orders: tuple[int, int, int]
    columns: slice
    factors: Int[Tensor, "3 T"]
    pairs: tuple[Int[Tensor, "2 _"], ...]
    of_pairs: tuple[Int[Tensor, "T"], ...]


class ACE(AtomicRepresentation):
    r"""Pooled invariants of the atomic cluster expansion, of any number of elements.

    **Order of the features.** Of one atom, with v = (channel, n) in the order of channels, then n: for ν = 1
    each v; for ν = 2 for each l, each v ≤ v'; for ν = 3 for each l ≤ l' ≤ l'', each v, v', v'' (v ≤ v' where
    l = l', v' ≤ v'' where l' = l'') of total degree :math:`\sum (n + l)` of at most ``degree``.

    Args:
        species: Chemical symbols of all elements that may occur, in any order.
        cutoff: Radius in Å.
        order: Largest ν, 1 to 3: features of up to ν neighbours and the atom.
        n_max: Number of radial functions, n = 1 … n_max.
        l_max: Largest order of the spherical harmonics.
        degree: Largest total degree of a product of three.
        pooling: Names from :mod:`whorl.representations.pooling`.
        per_centre_species: Pool the atoms of each species separately.
        images: ``"all"`` periodic images within the cutoff, or ``"minimum"``, only the nearest of each atom.
        embedding: Number of channels in the place of the species; see
            :class:`~whorl.representations.pooled.AtomicRepresentation`.

    Raises:
        InputError: Unknown elements, pools or images; numbers out of range; too many features.

    >>> ace = ACE(species=["Pt"], n_max=2, l_max=1, degree=4, pooling=["mean"])
    >>> ace.layout.names[:3], ace.layout.names[-1], len(ace.layout)
    (('mean/ACE1/Pt1', 'mean/ACE1/Pt2', 'mean/ACE2/l=0/Pt1-Pt1'), 'mean/ACE3/l=0,0,0/Pt1-Pt1-Pt2', 10)
    """

    kind = "ace"

    class Settings(SpeciesSettings):
        """Settings of the atomic cluster expansion."""

        cutoff: Annotated[float, Field(gt=1)] = 5.0
        """Radius in Å."""
        order: Annotated[int, Field(ge=1, le=3)] = 3
        """Largest number of neighbours in a product."""
        n_max: Annotated[int, Field(ge=1, le=20)] = 6
        """Number of radial functions."""
        l_max: Annotated[int, Field(ge=0, le=10)] = 4
        """Largest order of the spherical harmonics."""
        degree: Annotated[int, Field(ge=3, le=60)] = 9
        """Largest sum of n + l (n from 1) over the factors of a product of three."""
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
        order: int = 3,
        n_max: int = 6,
        l_max: int = 4,
        degree: int = 9,
        pooling: Sequence[str] = ("mean", "std"),
        per_centre_species: bool = False,
        images: str = "all",
        embedding: int | Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not (math.isfinite(cutoff) and cutoff > 1):
            raise InputError(f"ACE: got cutoff {cutoff}, expected above 1 Å.")
        if n_max < 1 or not 0 <= l_max <= 10 or order not in (1, 2, 3):
            raise InputError(
                f"ACE: got n_max {n_max}, l_max {l_max} and order {order}, expected n_max from 1, l_max "
                "from 0 to 10 and order 1, 2 or 3."
            )
        if degree < 3:
            raise InputError(
                f"ACE: got degree {degree}, expected at least 3, that of n = 1 and l = 0 thrice."
            )
        super().__init__(
            species=species,
            cutoff=float(cutoff),
            pooling=pooling,
            per_centre_species=per_centre_species,
            images=images,
            embedding=embedding,
        )
        self.order, self.n_max, self.l_max, self.degree = int(order), int(n_max), int(l_max), int(degree)
        self.fc = Cutoff(radius=self.radius, function="polynomial", gamma=2.0)
        width = len(self.channels) * self.n_max
        self.singles = slice(0, width)
        doubles = (width * (width + 1) // 2) * (self.l_max + 1) if self.order > 1 else 0
        self._require_few(width + doubles)
        self.doubles = slice(width, width + doubles)
        self.triples = list(self._triples(self.doubles.stop)) if self.order > 2 else []
        count = self.triples[-1].columns.stop if self.triples else self.doubles.stop
        self.lay_out(count, self._names())

    def _require_few(self, count: int) -> None:
        """Count the products of three before they are listed."""
        channels, numbers = len(self.channels), range(1, self.n_max + 1)
        for orders in self._orders():
            left = self.degree - sum(orders)
            every = channels**3 * sum(sum(n) <= left for n in itertools.product(numbers, repeat=3))
            count += every // (6 if len(set(orders)) == 1 else 2 if len(set(orders)) == 2 else 1)
        pools = len(self.pooling.names) * (channels if self.per_centre_species else 1)
        require_few_features(
            count * pools,
            f"ACE: {channels} elements or channels",
            f"Remedy: {self.fewer_features}, such as a smaller degree.",
        )

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        return {
            **self.common_config(),
            "cutoff": self.radius,
            "order": self.order,
            "n_max": self.n_max,
            "l_max": self.l_max,
            "degree": self.degree,
        }

    def kernels(self, pairs: Pairs) -> list[Kernel]:
        """Return the one kernel of all products."""
        return [_Products(self, pairs)]

    def pairs_at_once(self, pools: int) -> int:
        """Return how many pairs may be held at a time; see the base class."""
        largest = max([len(triples.factors[0]) for triples in self.triples], default=0)
        return PAIR_NUMBERS // (4 * len(self.channels) * self.n_max * (self.l_max + 1) ** 2 + largest)

    def atomic_sharpness(self) -> Float[Tensor, "f"]:
        r"""Return :math:`\sqrt{1/r_c^2 + \max (n\pi/r_c)^2 + \max l(l+1)/2b^2}` in 1/Å.

        The largest n and l are those of the factors; b = 2.5 Å is a typical bond length, on which the
        wavelength of the harmonics is taken to Å.
        """
        n = torch.arange(1, self.n_max + 1, dtype=torch.float64).repeat(len(self.channels))
        of_n, of_l = (n * math.pi / self.radius).square(), [k * (k + 1) / (2.0 * _BOND**2) for k in range(11)]
        squares = [of_n]
        if self.order > 1:
            v, w = torch.triu_indices(len(n), len(n))
            squares += [torch.maximum(of_n[v], of_n[w]) + of_l[order] for order in range(self.l_max + 1)]
        squares += [of_n[item.factors].amax(0) + of_l[item.orders[2]] for item in self.triples]
        return (torch.cat(squares) + self.radius**-2).sqrt()

    def seconds(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return roughly how long one core takes for each structure."""
        per_pair = self.n_max * (self.l_max + 1) ** 2 * self.expected_neighbors(structures)
        products = 20.0 * len(self.atomic_names)
        return _SECONDS * structures.n_atoms.double() * (per_pair + products)

    def _orders(self) -> Iterator[tuple[int, int, int]]:
        if self.order < 3:
            return
        for l1, l2, l3 in itertools.combinations_with_replacement(range(self.l_max + 1), 3):
            if (l1 + l2 + l3) % 2 == 0 and l3 <= l1 + l2 and l1 + l2 + l3 + 3 <= self.degree:
                yield l1, l2, l3

    def _triples(self, start: int) -> Iterator[_Triples]:
        """Yield the products of three for each l ≤ l' ≤ l''."""
        width = len(self.channels) * self.n_max
        every = torch.arange(width)
        n = every % self.n_max + 1
        for orders in self._orders():
            left = self.degree - sum(orders)
            v, w = torch.cartesian_prod(every, every).unbind(1)
            few = n[v] + n[w] + 1 <= left
            if orders[0] == orders[1]:
                few &= v <= w
            v, w = v[few], w[few]
            v, w, x = v.repeat_interleave(width), w.repeat_interleave(width), every.repeat(len(v))
            few = n[v] + n[w] + n[x] <= left
            if orders[1] == orders[2]:
                few &= w <= x
            factors = torch.stack([v, w, x])[:, few]
            others = [factors[[1, 2]], factors[[0, 2]], factors[[0, 1]]]
            unique = [torch.unique(pair, dim=1, return_inverse=True) for pair in others]
            yield _Triples(
                orders=orders,
                columns=slice(start, start + factors.shape[1]),
                factors=factors,
                pairs=tuple(pair for pair, _ in unique),
                of_pairs=tuple(number for _, number in unique),
            )
            start += factors.shape[1]

    def _names(self) -> Iterator[str]:
        v = [f"{channel}.{n}" for channel in self.channels for n in range(1, self.n_max + 1)]
        if self.embedding is None:
            v = [f"{channel}{n}" for channel in self.channels for n in range(1, self.n_max + 1)]
        yield from (f"ACE1/{name}" for name in v)
        if self.order > 1:
            for order in range(self.l_max + 1):
                for i, name in enumerate(v):
                    yield from (f"ACE2/l={order}/{name}-{other}" for other in v[i:])
        for item in self.triples:
            block = f"ACE3/l={','.join(map(str, item.orders))}"
            yield from (f"{block}/{v[i]}-{v[j]}-{v[k]}" for i, j, k in item.factors.T.tolist())


class _Products(Kernel):
    """Products of the expansions of the atoms in the rows of pairs."""

    def __init__(self, ace: ACE, pairs: Pairs) -> None:
        self._ace, self._pairs = ace, pairs
        fc, dfc = ace.fc(pairs.r) * pairs.real, ace.fc.derivative(pairs.r) * pairs.real
        wave = math.pi / ace.radius * torch.arange(1, ace.n_max + 1).to(pairs.r)[:, None]
        phase, scale = wave * pairs.r[:, None], math.sqrt(2.0 / ace.radius)
        # sin(n π r / r_c) / r, which has the limit n π / r_c.
        function = scale * wave * torch.sinc(phase / math.pi)
        self._radial = function * fc[:, None]
        self._slope = scale * wave * torch.cos(phase) - function
        self._slope = self._slope * pairs.inverse_r[:, None] * fc[:, None] + function * dfc[:, None]
        self._harmonics = {s: SolidHarmonics(pairs.unit[:, :, columns]) for s, columns in pairs.blocks}
        self._a = [self._expansion(order) for order in range(ace.l_max + 1 if ace.order > 1 else 1)]

    def _expansion(self, order: int) -> Float[Tensor, "N V M"]:
        """Return A of one l."""
        radial, pairs = self._radial, self._pairs
        return self._of_channels(
            {
                s: radial[:, :, columns] @ self._harmonics[s].value(order).transpose(1, 2)
                for s, columns in pairs.blocks
            },
            radial.new_zeros(len(radial), self._ace.n_max, 2 * order + 1),
        )

    def _of_channels(self, of_kinds: dict[int, Tensor], zeros: Tensor) -> Tensor:
        """Return sums by channel and n in one axis."""
        of_channels = self._pairs.of_channels(of_kinds)
        every = range(len(self._ace.channels))
        return torch.cat([of_channels.get(channel, zeros) for channel in every], 1)

    def values(self) -> Iterator[tuple[slice, Float[Tensor, "N k"]]]:
        """Yield the products of one, of two for each l, and of three for each l ≤ l' ≤ l''."""
        ace, a = self._ace, self._a
        yield ace.singles, a[0][..., 0]
        if ace.order > 1:
            v, w = torch.triu_indices(a[0].shape[1], a[0].shape[1])
            for order, of_order in enumerate(a):
                product = of_order @ of_order.transpose(1, 2) * (2 * order + 1) ** -0.5
                yield self._double(order), product[:, v, w]
        for triples in ace.triples:
            third = a[triples.orders[2]][:, triples.factors[2]]
            yield triples.columns, (self._products_of_others(triples, 2) * third).sum(2)

    def _double(self, order: int) -> slice:
        width = (self._ace.doubles.stop - self._ace.doubles.start) // (self._ace.l_max + 1)
        start = self._ace.doubles.start + order * width
        return slice(start, start + width)

    def _products_of_others(self, triples: _Triples, factor: int) -> Float[Tensor, "N T M"]:
        """Return the derivative of products of three in one of their factors."""
        first, second = [order for place, order in enumerate(triples.orders) if place != factor]
        c = coupling(*triples.orders).movedim(factor, 2).to(self._radial)
        v, w = triples.pairs[factor]
        # Σ_m A_vm C_mm'm'' once for each v, then Σ_m' with A_v'm' for each pair.
        half = (self._a[first] @ c.flatten(1)).unflatten(2, c.shape[1:])
        product = (self._a[second][:, w, None] @ half[:, v])[:, :, 0]
        return product[:, triples.of_pairs[factor]]

    def jacobians(self) -> Iterator[tuple[slice, Int[Tensor, "k"], Float[Tensor, "N x k R"]]]:
        """Yield for the same products their Jacobian: by the product rule."""
        ace, a = self._ace, self._a
        if not self._pairs.blocks:
            return
        changes = [self._change(order) for order in range(len(a))]
        n_rows, n_v, _, n_x, many = changes[0].shape
        yield ace.singles, torch.arange(n_v), changes[0][:, :, 0].transpose(1, 2)
        if ace.order > 1:
            v, w = torch.triu_indices(n_v, n_v)
            for order, change in enumerate(changes):
                flat = change.transpose(1, 2).flatten(2)  # (N, M, V x R)
                total = (a[order] @ flat).reshape(n_rows, n_v, n_v, n_x, many)
                total = (total[:, v, w] + total[:, w, v]) * (2 * order + 1) ** -0.5
                yield self._double(order), torch.arange(len(v)), total.transpose(1, 2)
        for triples in ace.triples:
            every = torch.arange(triples.factors.shape[1])
            slopes = {
                order: a[0].new_zeros(n_rows, len(every), n_v, 2 * order + 1) for order in set(triples.orders)
            }
            for factor, order in enumerate(triples.orders):
                slopes[order][:, every, triples.factors[factor]] += self._products_of_others(triples, factor)
            parts = [
                slope.flatten(2) @ changes[order].flatten(3).flatten(1, 2) for order, slope in slopes.items()
            ]
            total = sum(parts[1:], parts[0])
            yield triples.columns, every, total.unflatten(2, (n_x, many)).transpose(1, 2)

    def _change(self, order: int) -> Float[Tensor, "N V M x R"]:
        """Return the derivatives of A of one l in the coordinates."""
        pairs, of_kinds = self._pairs, {}
        for s, columns in pairs.blocks:
            unit, value = pairs.unit[:, :, columns], self._harmonics[s].value(order)
            along = self._slope[:, None, :, None, columns] * unit[:, :, None, None]
            # The gradient on the sphere: that of r^l Y without its part along r, over r.
            across = self._harmonics[s].gradient(order) - order * value[:, None] * unit[:, :, None]
            across = across * pairs.inverse_r[:, None, None, columns]
            slopes = along * value[:, None, None]
            slopes = slopes.addcmul_(self._radial[:, None, :, None, columns], across[:, :, None])
            moved = pairs.moved(slopes.flatten(2, 3), columns)  # (N, x, n M, R)
            of_kinds[s] = moved.unflatten(2, (self._ace.n_max, 2 * order + 1)).permute(0, 2, 3, 1, 4)
        return self._of_channels(of_kinds, torch.zeros_like(next(iter(of_kinds.values()))))
