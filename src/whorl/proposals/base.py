"""Contract of proposers: structures of formulas that are likely to have a value of a property."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.proposals.cells import CellModel
from whorl.proposals.formulas import FormulaModel, ProposedFormula
from whorl.proposals.known_formulas import in_words
from whorl.proposals.settings import FormulaRequest, ProposerSettings
from whorl.proposals.volumes import atomic_volumes, kept_packing
from whorl.settings import Method
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.surrogates.selection import hit_probability

Predict = Callable[[StructureBatch], tuple[Float[Tensor, "N"], Float[Tensor, "N"]]]
"""Returns a property of structures, and its standard deviation."""

Progress = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class ProposedStructures:
    """Structures of formulas.

    Attributes:
        structures: One of each formula, or several where one formula is requested.
        formulas: Where each comes from.
        predicted: Their property, shape (n,); NaN where it was not predicted.
        uncertainty: Its standard deviation, likewise.
    """

    structures: StructureBatch
    formulas: list[ProposedFormula]
    predicted: Float[Tensor, "n"]
    uncertainty: Float[Tensor, "n"]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Proposals, with their property.

    Attributes:
        proposals: The proposals.
        predicted: Their property, shape (n,); NaN where it was not predicted.
        uncertainty: Its standard deviation, likewise.
    """

    proposals: list[ProposedFormula]
    predicted: Float[Tensor, "n"]
    uncertainty: Float[Tensor, "n"]

    def __add__(self, other: Candidates) -> Candidates:
        """Return these and others."""
        return Candidates(
            proposals=[*self.proposals, *other.proposals],
            predicted=torch.cat([self.predicted, other.predicted]),
            uncertainty=torch.cat([self.uncertainty, other.uncertainty]),
        )

    def order(self, *, target: float | None, tolerance: float, rng: np.random.Generator) -> list[int]:
        """Return the rows, those likeliest to be within the tolerance of the target first; else at random."""
        order: list[int] = rng.permutation(len(self.proposals)).tolist()
        if target is None:
            return order
        chance = hit_probability(
            self.predicted, self.uncertainty, lower=target - tolerance, upper=target + tolerance
        )
        return torch.argsort(chance, descending=True, stable=True).tolist()


class Proposer(Method, ABC):
    """A method that proposes formulas, with structures of them, from those of a data set.

    Every formula has what is requested. A formula for which the data have a structure of the same numbers of
    atoms takes the sites of such a *parent*; any other one has a lattice and a space group of
    :class:`whorl.proposals.cells.CellModel`, with the atoms at random on orbits of the group.

    Args:
        structures: The data.
        values: Their property, NaN where it is unknown; None to leave it out.
        settings: Of the method.
        seed: Of what is trained.
        progress: Called while it is trained.

    Attributes:
        formulas: Those of the data.

    Raises:
        InputError: As :class:`FormulaModel`.
    """

    Settings: ClassVar[type[ProposerSettings]] = ProposerSettings

    def __init__(
        self,
        structures: StructureBatch,
        values: Float[Tensor, "N"] | None = None,
        *,
        settings: Any = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.settings = self.Settings() if settings is None else settings
        self._structures = structures.to(device="cpu", dtype=torch.float64)
        self._values = values
        self.formulas = FormulaModel.of_structures(self._structures, values)
        self._atomic = atomic_volumes(self._structures)
        self._kept = kept_packing(self._structures, self._atomic, self.formulas.pairs())
        self._seed, self._progress = seed, progress

    @abstractmethod
    def candidates(
        self,
        count: int,
        *,
        target: float | None,
        tolerance: float,
        request: FormulaRequest,
        predict: Predict | None,
        rng: np.random.Generator,
    ) -> Candidates:
        """Return more proposals than ``count``, with what :meth:`rated` predicts for them.

        Args:
            count: How many formulas are asked for.
            target: Of the property; None to disregard it.
            tolerance: Of the target.
            request: What each formula must be, other than a formula.
            predict: Predicts the property of structures; None: that of the formulas is predicted.
            rng: Source of all randomness.
        """

    @cached_property
    def cells(self) -> CellModel | None:
        """Space groups and cells for formulas; None where the data have no crystals."""
        if not bool(self._structures.pbc.all(1).any()):
            return None
        return CellModel(self._structures, self._values)

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
        """Return structures of different formulas, or different structures of the formula requested.

        Of proposals, those most likely to be within the tolerance of the target are returned, each formula
        once; without a target, any.

        Args:
            count: How many; fewer are returned where no more are found.
            target: Of the property; None to disregard it.
            request: What each formula must be.
            predict: Predicts the property of structures; by default it is predicted of their formulas.
            tolerance: Of the target.
            seed: Of all randomness.

        Raises:
            InputError: Elements that the data do not have, nothing that fits the request, or a target
                without a property.
            MissingExtraError: A balanced formula without smact: pip install 'whorl[crystens]'.
        """
        request = request or FormulaRequest()
        rng = np.random.default_rng(seed)
        if target is not None and self._values is None:
            raise InputError("formulas: a target needs the property of the data.")
        if request.counts is not None:
            made = self._of_formula(count, request, predict)
            chosen = list(range(len(made.proposals)))
        else:
            made = self.candidates(
                count, target=target, tolerance=tolerance, request=request, predict=predict, rng=rng
            )
            first: dict[object, int] = {}
            for k in made.order(target=target, tolerance=tolerance, rng=rng):
                first.setdefault(made.proposals[k].counts, k)
            chosen = list(first.values())[:count]
        formulas = [made.proposals[k] for k in chosen]
        return ProposedStructures(
            structures=self.structures_of(formulas, target=target, seed=seed),
            formulas=formulas,
            predicted=made.predicted[chosen],
            uncertainty=made.uncertainty[chosen],
        )

    def rated(self, proposals: Sequence[ProposedFormula], predict: Predict | None) -> Candidates:
        """Return proposals with their property; where positions are random, that of their formula."""
        value = torch.full((len(proposals),), torch.nan, dtype=torch.float64)
        error = value.clone()
        placed = [k for k, one in enumerate(proposals) if predict is not None and one.parent is not None]
        if placed:
            assert predict is not None
            values, errors = predict(self.structures_of([proposals[k] for k in placed]))
            value[placed], error[placed] = values.double(), errors.double()
        others = sorted({*range(len(proposals))} - {*placed})
        if others and self.formulas.error is not None:
            value[others] = self.formulas.predict([dict(proposals[k].counts) for k in others])
            error[others] = self.formulas.error
        return Candidates(proposals=list(proposals), predicted=value, uncertainty=error)

    def structures_of(
        self, proposals: Sequence[ProposedFormula], *, target: float | None = None, seed: int = 0
    ) -> StructureBatch:
        """Return the structures of proposed formulas: of their parents, or with lattices that are likely.

        Args:
            proposals: The formulas.
            target: Of the property; it has a say in lattices.
            seed: Of lattices and of the positions in them.
        """
        placed = [k for k, one in enumerate(proposals) if one.parent is not None]
        pieces = []
        if placed:
            pieces.append(self._substituted([proposals[k] for k in placed]))
        if len(placed) < len(proposals):
            rng = np.random.default_rng(seed)
            others = [k for k, one in enumerate(proposals) if one.parent is None]
            assert self.cells is not None
            pieces += [self.cells.structure(dict(proposals[k].counts), rng=rng, value=target) for k in others]
            placed = [*placed, *others]
        structures = StructureBatch.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return structures if placed == sorted(placed) else structures[np.argsort(placed).tolist()]

    def _of_formula(self, count: int, request: FormulaRequest, predict: Predict | None) -> Candidates:
        """Return structures of the formula requested: of the most similar parents, one of each space group.

        Further ones have likely lattices.
        """
        assert request.counts is not None
        self.formulas.known.require_seen(request)
        if self.formulas.clusters:
            raise InputError(
                f"formula {request.formula}: the data are of clusters of metals, which have no sites that "
                "are alike. Give numbers of atoms (--n-atoms) and elements instead."
            )
        cells = self.cells
        groups = None if cells is None else cells.of_rows()
        found = self.formulas.arranged([request.counts], each=count, groups=groups)
        if not self.formulas.known.meets(found[0].counts, request):
            raise InputError(f"formulas: {request.formula} is not what is requested ({in_words(request)}).")
        placed = [one for one in found if one.parent is not None]
        if cells is None:
            if not placed:
                raise InputError(
                    f"formula {request.formula}: no structure of the data has such numbers of atoms. Request "
                    "another formula."
                )
            return self.rated(placed, predict)
        own = tuple(symbol for symbol, _ in found[0].counts)
        without = dataclasses.replace(found[0], parent=None, elements=own)
        return self.rated([*placed, *[without] * (count - len(placed))], predict)

    def _substituted(self, proposals: Sequence[ProposedFormula]) -> StructureBatch:
        """Return the parents with the elements substituted."""
        parents = self._structures.replace(info=())[[one.parent or 0 for one in proposals]]
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
