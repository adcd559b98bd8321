r"""Compositions read from features, where these tell them.

* With an embedding of the elements, the features of the atoms' own channels :math:`u_k(e)` depend on no
  position: those of a composition are known exactly, and the composition is the one whose features they are.
  Where ``mean`` or ``sum`` pools are among them, fractions of the elements are the solution of linear
  equations, :math:`\sum_e c_e u_q(e) u_k(e) = m_{qk}`.
* With features of each element apart, an element is there if its features are not zero. Symmetry functions
  :math:`G^2` pooled by ``mean`` give the ratio of two elements too, since every pair of atoms is counted from
  both sides: :math:`n_s \bar G_{s \to t} = n_t \bar G_{t \to s}`.

The number of atoms is told up to a multiple, or exactly by a ``sum``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError, did_you_mean
from whorl.representations.base import Representation
from whorl.representations.pooled import AtomicRepresentation
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import most_similar_element

MOST_ELEMENTS = 5
"""Of one composition."""
_EXHAUSTIVE = 3  # elements up to which all sets are compared
_BEAM = 2000  # sets that are extended by a further element
_SETS = 300  # whose numbers of atoms are compared
_NEGATIVE = -0.05  # fraction of an element below which a set of elements is none
_FORMULAS = 200_000  # that are compared at most
_ZERO = 1e-9  # part of the largest feature, below which a feature is zero
_SPACING = 2.5  # Å, in the structure by which features of an element are recognised


@dataclass(frozen=True)
class Candidate:
    """A composition that features may be of.

    Attributes:
        counts: Number of atoms of each element.
        misfit: Root mean square difference from what the features tell; 0 where they tell nothing.
    """

    counts: tuple[tuple[str, int], ...]
    misfit: float

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return sum(count for _, count in self.counts)

    @property
    def numbers(self) -> Int[Tensor, "n"]:
        """Atomic numbers, sorted."""
        numbers = [atomic_numbers[symbol] for symbol, count in self.counts for _ in range(count)]
        return torch.tensor(sorted(numbers), dtype=torch.int64)

    @property
    def formula(self) -> str:
        """All atoms, in the order of atomic number."""
        return "".join(symbol + (str(count) if count > 1 else "") for symbol, count in self.counts)


def checked_elements(representation: Representation, elements: Sequence[str]) -> tuple[str, ...]:
    """Return the elements that a composition may have, by atomic number: by default all that there may be.

    Raises:
        InputError: Unknown elements, some that the representation was not made for, or none known.
    """
    known = representation.species
    for symbol in elements:
        if symbol not in chemical_symbols[1:]:
            raise InputError(f"unknown element '{symbol}'.{did_you_mean(symbol, chemical_symbols[1:])}")
        if known is not None and symbol not in known:
            nearest = most_similar_element(symbol, known)
            raise InputError(
                f"elements: got {symbol}, but the representation was made for {', '.join(known)}. The most "
                f"similar of these is {nearest}."
            )
    chosen = tuple(elements) or known
    if chosen is None:
        raise InputError(
            f"elements: {representation.describe()} takes any elements, so give those that there may be "
            "(elements, such as Cu, Au)."
        )
    return tuple(sorted(set(chosen), key=lambda symbol: atomic_numbers[symbol]))


def read_compositions(
    target: Float[Tensor, "F"],
    representation: Representation,
    elements: Sequence[str],
    *,
    n_atoms: tuple[int, int],
    most: int,
    as_good: tuple[float, float] = (1.0, math.inf),
) -> list[Candidate]:
    """Return the compositions that fit features best, the best first; of equal ones the smallest.

    Args:
        target: The features, flattened.
        representation: Of the features.
        elements: Elements that there may be.
        n_atoms: Least and greatest number of atoms.
        most: Number of candidates.
        as_good: Factor of the least misfit, and what is added, up to which one is a candidate.

    Raises:
        InputError: No composition fits.
    """
    reader = _reader(target.double().cpu(), representation, tuple(elements))
    found: list[Candidate] = []
    least = math.inf
    factor, more = as_good
    for sets in reader.sets(n_atoms):
        for size in range(n_atoms[0], n_atoms[1] + 1):
            counts = list(itertools.islice(reader.counts(sets, size), _FORMULAS))
            if not counts:
                continue
            table = torch.zeros(len(counts), len(elements), dtype=torch.int64)
            for row, (chosen, numbers) in enumerate(counts):
                table[row, list(chosen)] = torch.tensor(numbers)
            misfits = reader.misfit(table)
            least = min(least, float(misfits.min()))
            good = torch.nonzero(misfits <= factor * least + more).squeeze(1)
            for row in good[misfits[good].argsort(stable=True)][:most].tolist():
                pairs = zip(*counts[row], strict=True)
                own = tuple((elements[place], number) for place, number in pairs)
                found.append(Candidate(own, float(misfits[row])))
    found = [one for one in found if one.misfit <= factor * least + more]
    found.sort(key=lambda one: (round(one.misfit, 6), one.n_atoms, one.formula))
    if not found:
        raise InputError(
            f"composition: no formula of {n_atoms[0]} to {n_atoms[1]} atoms and of {', '.join(elements)} "
            "fits the features. Allow more atoms (n_atoms) or elements."
        )
    return found[:most]


def misfit_of(
    target: Float[Tensor, "F"], representation: Representation, elements: Sequence[str]
) -> Callable[[Int[Tensor, "C E"]], Float[Tensor, "C"]]:
    """Return a function from numbers of atoms of each element to the misfits of these compositions."""
    return _reader(target.double().cpu(), representation, tuple(elements)).misfit


class _Reader:
    """Reads nothing: any composition will do."""

    def __init__(self, elements: Sequence[str]) -> None:
        self.elements = elements

    def sets(self, n_atoms: tuple[int, int]) -> Iterator[list[tuple[int, ...]]]:
        """Yield lists of sets of elements, by index, that there may be."""
        for size in range(1, min(MOST_ELEMENTS, len(self.elements), n_atoms[1]) + 1):
            yield list(itertools.islice(itertools.combinations(range(len(self.elements)), size), _SETS))

    def counts(
        self, sets: Sequence[tuple[int, ...]], size: int
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield each set with numbers of atoms that add up to ``size``."""
        for chosen in sets:
            for cuts in itertools.combinations(range(1, size), len(chosen) - 1):
                ends = (0, *cuts, size)
                yield chosen, tuple(b - a for a, b in itertools.pairwise(ends))

    def misfit(self, counts: Int[Tensor, "C E"]) -> Float[Tensor, "C"]:
        """Return how badly compositions fit."""
        return torch.zeros(len(counts), dtype=torch.float64)


class _OfBlocks(_Reader):
    """Reads which elements there are, and their ratios where pairs of them are counted from both sides."""

    def __init__(self, target: Tensor, elements: Sequence[str], present: list[int], blocks: dict) -> None:
        super().__init__(elements)
        self.present = present
        self.sums = {
            (s, t): float(target[blocks[name]].sum())
            for s, t in itertools.permutations(present, 2)
            if (name := f"mean/{elements[s]}/G2/{elements[t]}") in blocks
        }

    def sets(self, n_atoms: tuple[int, int]) -> Iterator[list[tuple[int, ...]]]:
        """Yield the one set that there is."""
        if 0 < len(self.present) <= n_atoms[1]:
            yield [tuple(self.present)]

    def misfit(self, counts: Int[Tensor, "C E"]) -> Float[Tensor, "C"]:
        """Return the root mean square of the relative differences of numbers of pairs."""
        total = torch.zeros(len(counts), dtype=torch.float64)
        absent = torch.ones(counts.shape[1], dtype=torch.bool)
        absent[self.present] = False
        total[((counts > 0) == absent).any(1)] = torch.inf
        for (s, t), there in self.sums.items():
            back = self.sums.get((t, s), 0.0)
            if s < t and there > 0 and back > 0:
                one, other = counts[:, s] * there, counts[:, t] * back
                total += ((one - other) / (one + other)).square()
        return (total / max(1, len(self.sums) // 2)).sqrt()


class _OfChannels(_Reader):
    """Reads the composition from the channels of the elements."""

    def __init__(self, target: Tensor, representation: AtomicRepresentation, elements: Sequence[str]) -> None:
        super().__init__(elements)
        places = [k for k, name in enumerate(representation.layout.names) if "/element/" in name]
        self.own = target[places]
        self.representation = representation
        assert representation.channels_of_elements is not None
        rows = [representation.species.index(symbol) for symbol in elements]
        self.table = representation.channels_of_elements[rows].double()
        self.equations = self._linear()

    def _linear(self) -> tuple[Tensor, Tensor] | None:
        """Return what each element contributes to averages, and these; None if there is no average."""
        names, channels = self.representation.pooling.names, self.table.shape[1]
        own = self.own.unflatten(0, (len(names), -1))
        products = self.table
        if self.representation.per_centre_species:
            products = (self.table[:, :, None] * self.table[:, None]).flatten(1)
        contributions, averages = [], []
        if "mean" in names:
            average = own[names.index("mean")]
        elif "sum" in names:
            average = own[names.index("sum")]
            average = average / average[0].clamp(min=1.0)  # the number of atoms
        else:
            return None
        contributions.append(products)
        averages.append(average)
        if "std" in names:
            contributions.append(products.square())
            averages.append(own[names.index("std")].square() + average.square())
        assert products.shape[1] in (channels, channels**2)
        return torch.cat(contributions, 1), torch.cat(averages)

    def sets(self, n_atoms: tuple[int, int]) -> Iterator[list[tuple[int, ...]]]:
        """Yield the likeliest sets of each size."""
        beam: Tensor | None = None
        every = torch.arange(len(self.elements))
        for size in range(1, min(MOST_ELEMENTS, len(self.elements), n_atoms[1]) + 1):
            if beam is None or size <= _EXHAUSTIVE:
                sets = torch.combinations(every, size)
            else:
                further = every.repeat(len(beam))[:, None]
                grown = torch.cat([beam.repeat_interleave(len(every), 0), further], 1).sort(1).values
                sets = grown[(grown[:, 1:] > grown[:, :-1]).all(1)].unique(dim=0)
            if not len(sets):
                return
            residual, fractions = self._fit(sets)
            order = residual.argsort(stable=True)
            beam = sets[order[:_BEAM]]
            possible = order[(fractions[order] > _NEGATIVE).all(1)][:_SETS]
            yield [tuple(row) for row in sets[possible].tolist()]

    def _fit(self, sets: Int[Tensor, "m k"]) -> tuple[Float[Tensor, "m"], Float[Tensor, "m k"]]:
        """Return what the best fractions of the elements of each set leave, and these."""
        fractions = torch.full(sets.shape, 1.0 / sets.shape[1], dtype=torch.float64)
        if self.equations is None:
            table = torch.zeros(len(sets), len(self.elements), dtype=torch.int64).scatter_(1, sets, 1)
            return self.misfit(table), fractions
        contributions, averages = self.equations
        own = contributions[sets]  # (m, k, equations)
        normal = own @ own.transpose(1, 2) + 1e-10 * torch.eye(sets.shape[1], dtype=torch.float64)
        fractions = torch.linalg.solve(normal, own @ averages)
        left = torch.einsum("mk,mke->me", fractions, own) - averages
        return left.square().mean(1).sqrt(), fractions

    def counts(
        self, sets: Sequence[tuple[int, ...]], size: int
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield numbers of atoms next to the fractions read."""
        if self.equations is None:
            yield from super().counts(sets, size)
            return
        sets = [chosen for chosen in sets if len(chosen) <= size]
        if not sets:
            return
        _, fractions = self._fit(torch.tensor(sets))
        for chosen, parts in zip(sets, (size * fractions).tolist(), strict=True):
            choices = [
                sorted({max(1, math.floor(part)), max(1, math.ceil(part)), max(1, round(part))})
                for part in parts
            ]
            for numbers in itertools.product(*choices):
                if sum(numbers) == size:
                    yield chosen, numbers

    def misfit(self, counts: Int[Tensor, "C E"]) -> Float[Tensor, "C"]:
        """Return the root mean square difference of the features that no position changes."""
        sizes = counts.sum(1)
        index = torch.arange(len(counts)).repeat_interleave(sizes)
        every = torch.arange(counts.shape[1]).repeat(len(counts))
        rows = self.table[every.repeat_interleave(counts.flatten())]
        expected = self.representation.pooling(rows, index, rows, len(counts)).flatten(1)
        return (expected - self.own).square().mean(1).sqrt()


def _reader(target: Tensor, representation: Representation, elements: tuple[str, ...]) -> _Reader:
    if isinstance(representation, AtomicRepresentation) and representation.embedding is not None:
        return _OfChannels(target, representation, elements)
    own = _features_of_elements(representation)
    if not own:
        return _Reader(elements)
    size = float(target.abs().max())
    present = [
        place
        for place, symbol in enumerate(elements)
        if symbol not in own or bool((target[own[symbol]].abs() > _ZERO * size).any())
    ]
    return _OfBlocks(target, elements, present, dict(representation.layout.blocks))


def _features_of_elements(representation: Representation) -> dict[str, Tensor]:
    """Return which features each element has for itself: those that are zero without it, and not with it."""
    species = representation.species
    if species is None or len(species) < 2 or representation.of_crystals:
        return {}
    numbers = torch.tensor([atomic_numbers[symbol] for symbol in species])
    every = _packed(numbers.repeat(2))
    with torch.no_grad():
        with_it = representation(every).flatten() != 0
        found = {}
        for symbol, number in zip(species, numbers.tolist(), strict=True):
            rest = _packed(numbers[numbers != number].repeat(2))
            own = with_it & (representation(rest).flatten() == 0)
            if bool(own.any()):
                found[symbol] = own
    return found


def _packed(numbers: Int[Tensor, "n"]) -> StructureBatch:
    """Return a crystal of atoms on a slightly disordered lattice, all elements next to one another."""
    side = math.ceil(len(numbers) ** (1 / 3))
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 3)[: len(numbers)]
    rng = torch.Generator().manual_seed(0)
    positions = _SPACING * (grid + 0.2 * torch.rand(grid.shape, dtype=torch.float64, generator=rng))
    return StructureBatch(
        positions=positions,
        cells=torch.eye(3, dtype=torch.float64)[None] * _SPACING * side,
        pbc=torch.ones(1, 3, dtype=torch.bool),
        atomic_numbers=numbers,
        structure_index=torch.zeros(len(numbers), dtype=torch.int64),
    )
