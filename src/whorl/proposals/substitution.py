r"""Structures by substitution: a structure of the data with other elements on its sites.

The cell is scaled to the volumes of its atoms,

.. math::
   V' = \sum_i v_{e'_i} \Bigl(\frac{V}{\sum_i v_{e_i}}\Bigr)^{\lambda}

where the volumes :math:`v_e` of elements are fitted to the cells of the data by non-negative least squares,
in doubt in proportion to the cube of the covalent radius, and λ (0 … 1) is the share of their packing that
crystals have in common whose formulas differ by one substitution. So the distribution of space groups and
shapes of cells for a formula is that of the structures that it was derived from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whorl.proposals.formulas import FormulaModel, ProposedFormula
from whorl.proposals.settings import FormulaRequest
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import covalent_radii, element_counts
from whorl.surrogates.selection import hit_probability

_GENERATIONS = 4
_PER_FORMULA = 6  # proposed in each generation, for each one that is asked for
_FEWEST_PAIRS = 30
_DOUBT = 3.0  # structures with an element by which its volume is as much the data's as the radius's

Predict = Callable[[StructureBatch], tuple[Float[Tensor, "N"], Float[Tensor, "N"]]]
"""Returns a property of structures, and its standard deviation."""


@dataclass(frozen=True, kw_only=True)
class ProposedStructures:
    """Structures of new formulas.

    Attributes:
        structures: One of each formula.
        formulas: Where each comes from.
        predicted: Their property, shape (n,); NaN where it was not predicted.
        uncertainty: Its standard deviation, likewise.
    """

    structures: StructureBatch
    formulas: list[ProposedFormula]
    predicted: Float[Tensor, "n"]
    uncertainty: Float[Tensor, "n"]


class Substitution:
    """Substitution of elements in the structures of a data set.

    Args:
        structures: The data.
        values: Their property, NaN where it is unknown; None to leave it out.

    Raises:
        InputError: As :class:`FormulaModel`.
    """

    def __init__(self, structures: StructureBatch, values: Float[Tensor, "N"] | None = None) -> None:
        self._structures = structures.to(device="cpu", dtype=torch.float64).replace(info=())
        self.formulas = FormulaModel.of_structures(self._structures, values)
        self._atomic = _atomic_volumes(self._structures)
        self._kept = _kept_packing(self._structures, self._atomic, self.formulas.pairs())

    def structures_of(self, proposals: Sequence[ProposedFormula]) -> StructureBatch:
        """Return the structures of proposed formulas: their parents with the elements substituted."""
        parents = self._structures[[one.parent for one in proposals]]
        pieces = []
        for one, own in zip(proposals, parents.atomic_numbers.split(parents.n_atoms.tolist()), strict=True):
            # By atomic number, as the elements are: of each element, or of each atom.
            place = torch.unique(own, return_inverse=True)[1]
            if self.formulas.clusters:
                place = torch.argsort(torch.argsort(own, stable=True), stable=True)
            pieces.append(torch.tensor([atomic_numbers[symbol] for symbol in one.elements])[place])
        numbers = torch.cat(pieces)
        sums = [
            torch.zeros(len(parents), dtype=torch.float64).index_add(
                0, parents.structure_index, self._atomic[z]
            )
            for z in (parents.atomic_numbers, numbers)
        ]
        scale = torch.ones_like(sums[0])
        changed = (parents.atomic_numbers != numbers).double()
        moved = torch.zeros_like(scale).index_add(0, parents.structure_index, changed) > 0
        some = parents.pbc.all(1) & moved
        size = volumes(parents.cells[some])
        scale[some] = (sums[1][some] / size * (size / sums[0][some]) ** self._kept) ** (1 / 3)
        return parents.replace(
            atomic_numbers=numbers,
            cells=parents.cells * scale[:, None, None],
            positions=parents.positions * scale[parents.structure_index, None],
        )

    def sample(
        self,
        count: int,
        *,
        target: float | None = None,
        request: FormulaRequest | None = None,
        predict: Predict | None = None,
        tolerance: float = 0.1,
        seed: int = 0,
    ) -> ProposedStructures:
        """Return structures of different formulas.

        Of proposals at random, those most likely to be within the tolerance of the target are returned,
        each formula once; without a target, any.

        Args:
            count: How many; fewer are returned where no more are found.
            target: Of the property; None to disregard it.
            request: What each formula must be.
            predict: Predicts the property of structures; by default it is predicted of their formulas.
            tolerance: Of the target.
            seed: Of all randomness.

        Raises:
            InputError: As :meth:`FormulaModel.sample`.
        """
        rng = np.random.default_rng(seed)
        size = _PER_FORMULA * count
        proposals: list[ProposedFormula] = []
        values, errors = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        order: list[int] = []
        # Substitutions in what is nearest to the target, again and again: there are few proposals near a
        # rare value.
        for _ in range(1 if target is None else _GENERATIONS):
            starts = [proposals[k] for k in order[:count]]
            further = self.formulas.propose(size, target=target, request=request, rng=rng, starts=starts)
            known = {(one.parent, one.elements) for one in proposals}
            further = [one for one in further if (one.parent, one.elements) not in known]
            if not further:
                break
            value, error = self._predicted(further, predict)
            proposals, values, errors = (
                [*proposals, *further],
                torch.cat([values, value]),
                torch.cat([errors, error]),
            )
            order = rng.permutation(len(proposals)).tolist()
            if target is not None:
                chance = hit_probability(values, errors, lower=target - tolerance, upper=target + tolerance)
                order = torch.argsort(chance, descending=True, stable=True).tolist()
        first: dict[object, int] = {}
        for k in order:
            first.setdefault(proposals[k].counts, k)
        chosen = list(first.values())[:count]
        return ProposedStructures(
            structures=self.structures_of([proposals[k] for k in chosen]),
            formulas=[proposals[k] for k in chosen],
            predicted=values[chosen],
            uncertainty=errors[chosen],
        )

    def _predicted(
        self, proposals: Sequence[ProposedFormula], predict: Predict | None
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        if predict is not None:
            value, error = predict(self.structures_of(proposals))
            return value.double(), error.double()
        value = torch.tensor([one.predicted for one in proposals], dtype=torch.float64)
        return value, torch.full_like(value, self.formulas.error or torch.nan)


def _kept_packing(
    structures: StructureBatch, atomic: Float[Tensor, "119"], pairs: Sequence[tuple[int, int]]
) -> float:
    """Return the exponent λ; 1 where few crystals tell it."""
    pairs = [pair for pair in pairs if bool(structures.pbc[list(pair)].all())]
    if len(pairs) < _FEWEST_PAIRS:
        return 1.0
    one, other = (structures[list(rows)] for rows in zip(*pairs, strict=True))
    first, second = ((volumes(some.cells) / (element_counts(some) @ atomic)).log() for some in (one, other))
    first, second = first - first.mean(), second - second.mean()
    return min(max(float(first @ second / second.square().sum().clamp(min=1e-12)), 0.0), 1.0)


def _atomic_volumes(structures: StructureBatch) -> Float[Tensor, "119"]:
    """Return the volume of an atom of each element in Å³."""
    from scipy.optimize import nnls

    radii = covalent_radii(torch.arange(119)).pow(3)
    periodic = torch.nonzero(structures.pbc.all(1)).flatten()
    if not len(periodic):
        return radii
    crystals = structures[periodic]
    counts = element_counts(crystals)
    volume = volumes(crystals.cells)
    prior = radii * float((volume / (counts @ radii)).median())
    # Errors of a volume count in proportion; the prior counts as a few structures do.
    there = torch.nonzero(counts.sum(0)).flatten()
    table = counts[:, there] / volume[:, None]
    weight = (
        _DOUBT**0.5 * (counts[:, there] / counts.sum(1, keepdim=True)).square().mean(0).sqrt() / prior[there]
    )
    rows: list[NDArray[np.float64]] = [table.numpy(), torch.diag(weight).numpy()]
    right = torch.cat([torch.ones(len(volume), dtype=torch.float64), weight * prior[there]])
    fitted, _ = nnls(np.concatenate(rows), right.numpy())
    prior[there] = torch.from_numpy(fitted).clamp(min=0.1 * prior[there])
    return prior
