"""Contract of reconstructors: features in, structures out."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.result import InversionResult
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.representations.base import Representation
from whorl.settings import Method
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import filled_fractions, formula_of_all
from whorl.symmetry.space_groups import Lattices

DENSEST = 1.5
"""Volume of the atoms' covalent spheres, as a part of the cell's, that no measured crystal exceeds."""
FULLEST = 2 * DENSEST
"""The same, above which nothing is searched."""

Progress = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class ReconstructionContext:
    """Input of a reconstructor in addition to features.

    Attributes:
        representation: Representation of the features.
        templates: Composition, periodicity and (unless it is free) cell for each of the B features;
            None where these follow from the features themselves.
        free_cell: Whether the templates' cells are only initial guesses.
        frozen: Frozen atoms of the templates, shape (A,); None for none.
        starts: Initial structures for each of the features, in addition to random ones.
        lattices: Likely lattices of a free cell, with space groups, for each of the features.
        names: A name for each of the features; random numbers follow from it. Empty for none.
        elements: Chemical symbols that structures may have; empty for any.
        requested: Requested conditions: ``elements``, ``formula``, ….
        real: Whether the features are those of real structures, so that an exact structure exists.
        seed: Of all randomness.
        invalid_above: Threshold of invalid losses; None if unknown.
        weights: Of the features in the loss, shape (F,); None for the reconstructor's own.
        directory: Folder of finished chunks.
        progress: Progress callback.
    """

    representation: Representation
    templates: StructureBatch | None = None
    free_cell: bool = False
    frozen: Bool[Tensor, "A"] | None = None
    starts: tuple[StructureBatch | None, ...] | None = None
    lattices: tuple[Lattices | None, ...] | None = None
    names: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    requested: Mapping[str, Any] = field(default_factory=dict)
    real: bool = False
    seed: int = 0
    invalid_above: float | None = None
    weights: Float[Tensor, "F"] | None = None
    directory: Path | None = None
    progress: Progress | None = None

    def select(self, rows: Sequence[int]) -> ReconstructionContext:
        """Return the context of some of the features."""
        templates, frozen, chosen = self.templates, self.frozen, list(rows)
        if templates is not None:
            if frozen is not None:
                frozen = templates.replace(atomic_numbers=frozen.long())[chosen].atomic_numbers.bool()
            templates = templates[chosen]
        return dataclasses.replace(
            self,
            templates=templates,
            frozen=frozen,
            starts=None if self.starts is None else tuple(self.starts[row] for row in chosen),
            lattices=None if self.lattices is None else tuple(self.lattices[row] for row in chosen),
            names=tuple(self.names[row] for row in chosen) if self.names else (),
        )

    def problem(self, features: Float[Tensor, "B *shape"], **options: Any) -> InversionProblem:
        """Return the problem whose solutions are structures with these features.

        Args:
            features: Of the templates.
            options: Further fields of the problem.
        """
        assert self.templates is not None
        flat = features.flatten(1).double()
        return InversionProblem(
            representation=self.representation,
            target=flat,
            names=self.names or None,
            template=self.templates,
            free_cell=self.free_cell,
            frozen=self.frozen,
            # With its own weights the search would minimise another loss.
            weights=torch.ones(flat.shape[1], dtype=torch.float64) if self.weights is None else self.weights,
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Structures for k of B features.

    Attributes:
        structures: The k structures.
        rows: Which of the B features each is for, shape (k,).
        loss: Remaining loss, shape (k,); NaN for a closed form, infinite where a search failed.
        status: Status of each, such as ``"converged"`` or ``"decoded"``.
        consistency: Self-consistency measures of the features, by name, each of shape (B,).
        skipped: Features without a structure, with reasons.
        notes: Remarks for the reader of the results.
        summary: Further numbers to store with the result, JSON-able.
    """

    structures: StructureBatch
    rows: Int[Tensor, "k"]
    loss: Float[Tensor, "k"]
    status: tuple[str, ...]
    consistency: Mapping[str, Float[Tensor, "B"]] = field(default_factory=dict)
    skipped: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, result: InversionResult) -> Reconstruction:
        """Return the result of a search as a reconstruction."""
        rows = [row for row in range(len(result)) if row not in result.refused]
        return cls(
            structures=result.structures[rows],
            rows=torch.tensor(rows, dtype=torch.int64),
            loss=result.loss[rows],
            status=tuple(result.status[row].value for row in rows),
            skipped=result.refused,
        )

    def __len__(self) -> int:
        """Return the number of structures k."""
        return len(self.status)

    @property
    def counts(self) -> dict[str, int]:
        """Number of structures by status."""
        return {status: self.status.count(status) for status in dict.fromkeys(self.status)}


class Reconstructor(Method, ABC):
    """A method that reconstructs structures from features. Failures are statuses or reasons, not exceptions.

    Attributes:
        searches: Whether it needs templates: composition and cell of the structures.
    """

    Settings: ClassVar[type[ReconstructorSettings]] = ReconstructorSettings
    searches: ClassVar[bool] = True

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @classmethod
    def why_not(cls, representation: type[Representation]) -> str | None:
        """Return why features of a class of representations are not supported; None if they are."""
        return None

    @abstractmethod
    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Return structures that have the features.

        Raises:
            InputError: An unsupported representation or shape of features, or a context that lacks what
                it needs.
        """


class SearchReconstructor(Reconstructor):
    """A reconstructor by a search for atoms.

    Attributes:
        search: The search: a problem and options, a result with a status for each target.
        frees_cells: Whether it can optimise cells too.
        stops_by_the_clock: Whether it accepts ``budget_seconds``.
        more: Options that make the search longer, otherwise.
    """

    search: ClassVar[Callable[..., InversionResult]]
    frees_cells: ClassVar[bool] = False
    stops_by_the_clock: ClassVar[bool] = False
    more: ClassVar[str] = ""

    @abstractmethod
    def found(self, features: Float[Tensor, "B *shape"], context: ReconstructionContext) -> InversionResult:
        """Return the result of the search for finite features; see :meth:`reconstruct`."""

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Search for structures with these features.

        Features that are not finite are skipped, and compositions whose atoms do not fit into their cells.

        Raises:
            InputError: Of no composition do the atoms fit.
        """
        bad = dict.fromkeys(
            torch.nonzero(~features.flatten(1).isfinite().all(1)).flatten().tolist(),
            "has NaN or infinite features",
        )
        crowded = _crowded(context)
        if crowded and len(crowded) == len(features):
            raise InputError(next(iter(crowded.values())))
        bad = {**crowded, **bad}
        if not bad:
            return Reconstruction.of(self.found(features, context))
        rows = torch.tensor([row for row in range(len(features)) if row not in bad], dtype=torch.int64)
        made = Reconstruction.of(self.found(features[rows], context.select(rows.tolist())))
        skipped = {int(rows[row]): reason for row, reason in made.skipped.items()}
        return dataclasses.replace(made, rows=rows[made.rows], skipped={**skipped, **bad})


def _crowded(context: ReconstructionContext) -> dict[int, str]:
    """Return which templates have atoms that do not fit into their cells, with reasons."""
    if context.templates is None or context.free_cell:
        return {}
    filled = filled_fractions(context.templates)
    reasons = {}
    for row in torch.nonzero(filled > FULLEST).flatten().tolist():
        one = context.templates[row]
        volume = float(volumes(one.cells.double())[0])
        reasons[row] = (
            f"composition: {formula_of_all(one)} does not fit into a cell of {volume:.0f} Å³: the covalent "
            f"spheres of the atoms have {float(filled[row]):.1f} times its volume, those of real crystals at "
            f"most {DENSEST}. Give fewer atoms, a larger cell (cell), or let it be free (free_cell)."
        )
    return reasons
