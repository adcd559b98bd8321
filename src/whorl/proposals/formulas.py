r"""Chemical formulas for a value of a property: p(N, formula | y, request).

A formula is proposed from one of the data by substitution of elements, and chosen by the property predicted
for it:

.. math::
   p(F \mid y^*) \propto p(F)\; \mathcal{N}\bigl(y^*;\, \hat y(F),\, \sigma^2\bigr)

with a forest of regression trees :math:`\hat y` on statistics of the elements' descriptors, and the error σ
that it makes on formulas out of its bag. Element e is replaced by e' with

.. math::
   p(e' \mid e) \propto n_{ee'} + \alpha\, k_{ee'}, \qquad
   k_{ee'} \propto e^{-|\Delta u|^2 / 2}

where :math:`n_{ee'}` counts pairs of formulas of the data that differ by this substitution (in the manner of
Hautier et al., Inorg. Chem. 50, 656, 2011), and u are the descriptors of
:mod:`whorl.representations.elements`, each in units of its standard deviation. So it works from a few hundred
rows on, and what is requested holds for every formula that is returned.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whorl.errors import InputError
from whorl.proposals.known_formulas import Counts, KnownFormulas, counts_of, in_words
from whorl.proposals.settings import FormulaRequest
from whorl.representations.elements import DESCRIPTORS, descriptor_table, scaled_descriptors
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import element_counts, species_of

_PRIOR = 10.0  # α: substitutions as many as these are known from descriptors
_SUBSTITUTIONS = (0.1, 0.6, 0.3)  # probability of none, one, two of them
_PROPOSED = 20  # proposals for each formula that is asked for
_ROUNDS = 15
_TREES = 100
_FEWEST = 20  # labelled formulas that a forest needs


@dataclass(frozen=True, kw_only=True)
class ProposedFormula:
    """A formula, and where it comes from.

    Attributes:
        counts: Elements with their numbers of atoms.
        parent: Row of the data whose elements were substituted; None where the data have no structure with
            such numbers of atoms.
        elements: The elements in the place of the parent's, which are in the order of their atomic numbers;
            of a cluster, those of its atoms in the same order. Without a parent its own elements.
        predicted: Property predicted for it; NaN without a property.
        is_new: Whether no structure of the data has this reduced formula.
    """

    counts: Counts
    parent: int | None
    elements: tuple[str, ...]
    predicted: float
    is_new: bool

    @property
    def formula(self) -> str:
        """The formula of all atoms, metals first."""
        from ase.formula import Formula

        return str(Formula.from_dict(dict(self.counts)).convert("metal"))


class FormulaModel:
    """Formulas of a data set, and new ones by substitution.

    Args:
        formulas: Elements and numbers of atoms of each structure.
        values: Their property, NaN where it is unknown; None to leave it out.
        clusters: Whether they are of clusters of metals, which have no sites that are alike: then single
            atoms are substituted, an element may take the place of another that is there too, and formulas of
            different size are different (Au2Cu2 is not AuCu).

    Attributes:
        known: The formulas.
        elements: Chemical symbols that occur in them, by atomic number.
        clusters: Whether they are of clusters of metals.

    Raises:
        InputError: No formulas, or too few with a property.
    """

    def __init__(
        self,
        formulas: Sequence[Mapping[str, int]],
        values: Float[Tensor, "N"] | None = None,
        *,
        clusters: bool = False,
    ) -> None:
        self.known = KnownFormulas(formulas, clusters=clusters)
        self.elements = self.known.elements
        self.clusters = clusters
        self._values = None if values is None else values.double().numpy()
        self._forest: _Forest | None = None
        if self._values is not None:
            labelled: defaultdict[Counts, list[float]] = defaultdict(list)
            for row, value in zip(self.known.rows, self._values.tolist(), strict=True):
                if math.isfinite(value):
                    labelled[self.known.unit(row)].append(value)
            if len(labelled) == 1:
                only = "".join(f"{e}{n if n > 1 else ''}" for e, n in self.known.rows[0])
                raise InputError(
                    f"formulas: all structures with the property are {only}, so nothing is known of other "
                    "formulas. A generator keeps the composition (whorl run, whorl train); for new ones give "
                    "data of several, or leave the property out."
                )
            if len(labelled) < _FEWEST:
                raise InputError(
                    f"formulas: {len(labelled)} different formulas have the property, expected at least "
                    f"{_FEWEST}. Give more data, or leave the property out."
                )
            self._forest = _Forest(labelled, sized=clusters)

    @classmethod
    def of_structures(
        cls, structures: StructureBatch, values: Float[Tensor, "N"] | None = None
    ) -> FormulaModel:
        """Return the model of the formulas of structures."""
        from pymatgen.core import Element

        formulas = [
            {chemical_symbols[z]: int(counts[z]) for z in torch.nonzero(counts).flatten().tolist()}
            for counts in element_counts(structures)
        ]
        of_metals = all(Element(symbol).is_metal for symbol in species_of(structures))
        return cls(formulas, values, clusters=of_metals and not bool(structures.pbc.any()))

    @property
    def error(self) -> float | None:
        """Root-mean-square error of the prediction for formulas that it was not fitted to, or None."""
        return None if self._forest is None else self._forest.error

    def predict(self, formulas: Sequence[Mapping[str, int]]) -> Float[Tensor, "N"]:
        """Return the property predicted for formulas.

        Raises:
            InputError: The model was made without a property.
        """
        if self._forest is None:
            raise InputError("formulas: this model was made without a property, so it predicts none.")
        return torch.from_numpy(self._forest.predict([counts_of(one) for one in formulas]))

    def sample(
        self,
        count: int,
        *,
        target: float | None = None,
        request: FormulaRequest | None = None,
        seed: int = 0,
    ) -> list[ProposedFormula]:
        """Return different formulas that are what is requested, the most likely first.

        Args:
            count: How many; fewer are returned where no more are found.
            target: Of the property; None to disregard it.
            request: What each of them must be.
            seed: Of all randomness.

        Raises:
            InputError: Elements that the data do not have, nothing that fits the request, or a target for a
                model without a property.
            MissingExtraError: A balanced formula without smact: pip install 'whorl[crystens]'.
        """
        rng = np.random.default_rng(seed)
        proposals = self.propose(_PROPOSED * count, target=target, request=request, rng=rng)
        distinct = list({one.counts: one for one in proposals}.values())
        logarithm = np.zeros(len(distinct))
        if target is not None:
            assert self._forest is not None
            predicted = np.array([one.predicted for one in distinct])
            logarithm = -0.5 * ((predicted - target) / self._forest.error) ** 2
        return [distinct[k] for k in drawn_by_weight(logarithm, count, rng)]

    def propose(
        self,
        count: int,
        *,
        target: float | None = None,
        request: FormulaRequest | None = None,
        rng: np.random.Generator,
        starts: Sequence[ProposedFormula] = (),
    ) -> list[ProposedFormula]:
        """Return proposals that are what is requested, before the choice by the property: about ``count``.

        A formula occurs with several parents and in several arrangements on their sites, with each of them
        once.

        Args:
            count: How many.
            target: As for :meth:`sample`.
            request: Likewise.
            rng: Source of all randomness.
            starts: Earlier proposals that substitutions begin with, in the place of the data.

        Raises:
            InputError: As :meth:`sample`.
        """
        request = request or FormulaRequest()
        if target is not None and self._forest is None:
            raise InputError("formulas: a target needs the property of the data.")
        self.known.require_seen(request)
        weights = None
        if not starts:
            rows = self._usable(request)
            weights = self._row_weights(rows, target)
            starts = [self.unchanged(row) for row in rows]
        size = max(count // 2, 200)
        found: dict[tuple[int | None, tuple[str, ...]], ProposedFormula] = {}
        for _ in range(_ROUNDS):
            for k in rng.choice(len(starts), size=size, p=weights).tolist():
                proposed = self._substituted(starts[k], request, rng)
                if proposed is not None and self.known.meets(proposed.counts, request):
                    found.setdefault((proposed.parent, proposed.elements), proposed)
            if len(found) >= count:
                break
        if not found:
            raise InputError(
                f"formulas: none of {_ROUNDS * size:,} proposals is what is requested "
                f"({in_words(request)}). Ask for less, or give data with more elements."
            )
        if self._forest is None:
            return list(found.values())
        predicted = self._forest.predict([one.counts for one in found.values()]).tolist()
        return [replace(one, predicted=value) for one, value in zip(found.values(), predicted, strict=True)]

    def arranged(
        self, formulas: Iterable[Mapping[str, int]], *, each: int = 1, groups: Sequence[int] | None = None
    ) -> list[ProposedFormula]:
        """Return formulas on the sites of structures of the data, for :meth:`Proposer.structures_of`.

        The parent of each has the same numbers of atoms of its elements, which are the most similar to those
        in their places. Formulas that no structure of the data can be a parent of have none.

        Args:
            formulas: Elements and numbers of atoms of crystals, of elements that the data have.
            each: At most so many arrangements of each, the most similar first: of each way in which the
                elements take the places one.
            groups: Of each structure of the data, such as its space group: of each way and group one.

        Raises:
            InputError: The data are of clusters.
        """
        if self.clusters:
            raise InputError("formulas: clusters have no sites that are alike. Arrange formulas of crystals.")
        table = scaled_descriptors(self.elements)
        distances = ((table[:, None] - table[None]) ** 2).sum(2)
        group = np.zeros(len(self.known.rows), dtype=int) if groups is None else np.array(groups)
        arranged = []
        for one in formulas:
            places: dict[tuple[tuple[str, ...], int], tuple[float, int]] = {}
            for order in permutations(one.items()):
                numbers = tuple(n for _, n in order)
                if numbers not in self._alike:
                    continue
                rows, columns = self._alike[numbers]
                far = distances[columns, [self._index[symbol] for symbol, _ in order]].sum(1)
                nearest = np.argsort(far, kind="stable")
                _, first = np.unique(group[rows[nearest]], return_index=True)
                for k in nearest[np.sort(first)]:
                    elements = tuple(symbol for symbol, _ in order)
                    places[elements, int(group[rows[k]])] = float(far[k]), int(rows[k])
            best = sorted(((*place, elements) for (elements, _), place in places.items()), key=lambda p: p[0])
            counts = counts_of(one)
            ways: list[tuple[int | None, tuple[str, ...]]] = [(parent, own) for _, parent, own in best[:each]]
            for parent, elements in ways or [(None, tuple(symbol for symbol, _ in counts))]:
                arranged.append(
                    ProposedFormula(
                        counts=counts,
                        parent=parent,
                        elements=elements,
                        predicted=math.nan,
                        is_new=self.known.is_new(counts),
                    )
                )
        return arranged

    @cached_property
    def _alike(self) -> dict[tuple[int, ...], tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The rows with the same numbers of atoms of their elements, and the places of these elements."""
        rows: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for k, row in enumerate(self.known.rows):
            rows[tuple(n for _, n in row)].append(k)
        return {
            numbers: (
                np.array(some),
                np.array([[self._index[symbol] for symbol, _ in self.known.rows[k]] for k in some]),
            )
            for numbers, some in rows.items()
        }

    def pairs(self) -> list[tuple[int, int]]:
        """Return pairs of rows of the data whose formulas differ by one substitution, one for each row."""
        families: defaultdict[tuple[Counts, int], list[int]] = defaultdict(list)
        for number, row in enumerate(self.known.rows):
            for k, (_, n) in enumerate(row):
                families[row[:k] + row[k + 1 :], n].append(number)
        of_row: dict[int, int] = {}
        for members in families.values():
            for one, other in zip(members, members[1:] + members[:1], strict=True):
                if self.known.rows[one] != self.known.rows[other]:
                    of_row.setdefault(one, other)
        return sorted(of_row.items())

    # Which rows, and how they are changed.

    def _sites(self, row: int) -> list[tuple[str, int]]:
        """Return the sites of a structure of the data: their element, and how many atoms are there."""
        counts = self.known.rows[row]
        return [(symbol, 1) for symbol, n in counts for _ in range(n)] if self.clusters else list(counts)

    def unchanged(self, row: int) -> ProposedFormula:
        """Return the formula of a structure of the data, as it is."""
        elements = tuple(symbol for symbol, _ in self._sites(row))
        return ProposedFormula(
            counts=self.known.rows[row], parent=row, elements=elements, predicted=math.nan, is_new=False
        )

    def _usable(self, request: FormulaRequest) -> list[int]:
        """Return the rows that substitutions can make what is requested."""
        fewest = len(set(request.elements))
        low, high = request.n_elements or (1, len(self.elements))
        least, most = request.n_atoms or (1, math.inf)
        allowed = len(set(self.elements) - set(request.exclude))
        rows = [
            k
            for k, row in enumerate(self.known.rows)
            if (
                (sum(n for _, n in row) >= max(fewest, low) and high >= fewest and allowed >= low)
                if self.clusters
                else max(fewest, low) <= len(row) <= min(high, allowed)
            )
            and least <= sum(n for _, n in row) <= most
        ]
        if not rows:
            sizes = sorted({sum(n for _, n in row) for row in self.known.rows})
            numbers = sorted({len(row) for row in self.known.rows})
            raise InputError(
                f"formulas: no formula of the data can be made what is requested ({in_words(request)}). The "
                f"data have {_span(sizes)} atoms and {_span(numbers)} elements."
            )
        return rows

    def _row_weights(self, rows: Sequence[int], target: float | None) -> NDArray[np.float64]:
        logarithm = np.zeros(len(rows))
        if target is not None:
            assert self._forest is not None and self._values is not None
            # Twice as wide as the choice that follows: substitutions change the property.
            known = self._values[rows]
            logarithm = -0.5 * ((known - target) / (2.0 * self._forest.error)) ** 2
            logarithm[~np.isfinite(known)] = -np.inf
            if not np.isfinite(logarithm).any():
                logarithm[:] = 0.0
        weights: NDArray[np.float64] = np.exp(np.maximum(logarithm - logarithm.max(), -30.0))
        return np.asarray(weights / weights.sum())

    def _substituted(
        self, start: ProposedFormula, request: FormulaRequest, rng: np.random.Generator
    ) -> ProposedFormula | None:
        assert start.parent is not None
        parent, elements = self._sites(start.parent), list(start.elements)
        wanted = [symbol for symbol in dict.fromkeys(request.elements) if symbol not in elements]
        free = [k for k, symbol in enumerate(elements) if symbol not in request.elements]
        # What must go, first: excluded elements take the requested ones if there are any.
        out = [k for k in free if elements[k] in request.exclude]
        for symbol in wanted:
            places = [k for k in free if k in out] or free
            chances = np.array([self._kernel[self._index[elements[k]], self._index[symbol]] for k in places])
            place = int(rng.choice(places, p=chances / chances.sum()))
            elements[place] = symbol
            free.remove(place)
            out = [k for k in out if k != place]
        extra = int(rng.choice(len(_SUBSTITUTIONS), p=_SUBSTITUTIONS)) - len(wanted)
        others = [k for k in free if k not in out]
        rng.shuffle(others)
        for place in [*out, *others[: max(extra, 0)]]:
            chances = self._kernel[self._index[elements[place]]].copy()
            taken = {*request.exclude} if self.clusters else {*elements, *request.exclude}
            chances[[self._index[symbol] for symbol in taken if symbol in self._index]] = 0
            if not chances.sum() > 0:
                return None
            elements[place] = self.elements[int(rng.choice(len(chances), p=chances / chances.sum()))]
        atoms: Counter[str] = Counter()
        for symbol, (_, n) in zip(elements, parent, strict=True):
            atoms[symbol] += n
        counts = counts_of(atoms)
        return ProposedFormula(
            counts=counts,
            parent=start.parent,
            elements=tuple(elements),
            predicted=math.nan,
            is_new=self.known.is_new(counts),
        )

    @cached_property
    def _index(self) -> dict[str, int]:
        return {symbol: k for k, symbol in enumerate(self.elements)}

    @cached_property
    def _kernel(self) -> NDArray[np.float64]:
        """Probability that an element (row) is replaced by another one (column)."""
        table = scaled_descriptors(self.elements)
        squares = ((table[:, None] - table[None]) ** 2).sum(2)
        prior = np.exp(-0.5 * squares)
        np.fill_diagonal(prior, 0.0)
        prior /= np.maximum(prior.sum(1, keepdims=True), 1e-300)
        seen = np.zeros_like(prior)
        same: defaultdict[tuple[Counts, int], set[int]] = defaultdict(set)
        for row in self.known.units:
            for k, (symbol, n) in enumerate(row):
                same[row[:k] + row[k + 1 :], n].add(self._index[symbol])
        for members in same.values():
            inside = sorted(members)
            seen[np.ix_(inside, inside)] += 1.0
        np.fill_diagonal(seen, 0.0)
        kernel = seen + _PRIOR * prior
        return np.asarray(kernel / np.maximum(kernel.sum(1, keepdims=True), 1e-300))


def drawn_by_weight(logarithm: NDArray[np.float64], count: int, rng: np.random.Generator) -> list[int]:
    """Return ``count`` indices drawn without replacement by weights of these logarithms (Gumbel's trick).

    The likeliest come first, but for chance.
    """
    return np.argsort(-(logarithm + rng.gumbel(size=len(logarithm))), kind="stable")[:count].tolist()


class _Forest:
    """Regression of a property from formulas, with its error out of the bag."""

    def __init__(self, labelled: Mapping[Counts, Sequence[float]], *, sized: bool) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self._forest = RandomForestRegressor(
            _TREES, max_features=0.5, min_samples_leaf=2, oob_score=True, random_state=0
        )
        self._sized = sized
        values = np.array([float(np.mean(some)) for some in labelled.values()])
        self._forest.fit(_features(labelled, sized=sized), values)
        missed = self._forest.oob_prediction_ - values
        # Structures of one formula differ too.
        within = float(np.mean([np.var(some) for some in labelled.values()]))
        self.error = max(math.sqrt(float(np.nanmean(missed**2)) + within), 1e-6)

    def predict(self, formulas: Iterable[Counts]) -> NDArray[np.float64]:
        return np.asarray(self._forest.predict(_features(formulas, sized=self._sized)))


def _features(formulas: Iterable[Counts], *, sized: bool) -> NDArray[np.float64]:
    """Return statistics of each descriptor over atoms and over the commonest elements, norms, and ln N."""
    table = descriptor_table(DESCRIPTORS).numpy()
    rows = []
    for counts in formulas:
        atoms = np.array([n for _, n in counts], dtype=float)
        values = table[[atomic_numbers[e] for e, _ in counts]]
        fractions = atoms / atoms.sum()
        mean = fractions @ values
        spread = np.sqrt(np.maximum(fractions @ (values - mean) ** 2, 0.0))
        common = fractions >= fractions.max() - 1e-9
        parts = [mean, spread, values.min(0), values.max(0), values[common].mean(0)]
        size = [math.log(atoms.sum())] if sized else []
        rows.append(np.concatenate([*parts, [len(counts), *_norms(fractions)], size]))
    return np.array(rows)


def _norms(fractions: NDArray[np.float64]) -> list[float]:
    return [float((fractions**p).sum() ** (1 / p)) for p in (2, 3)]


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
