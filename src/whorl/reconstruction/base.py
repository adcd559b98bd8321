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

from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.result import InversionResult
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.representations.base import Representation
from whorl.settings import Method
from whorl.structures.batch import StructureBatch

Progress = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class ReconstructionContext:
    """What a reconstructor is given besides features.

    Attributes:
        representation: That the features are of.
        templates: Composition, periodicity and (unless it is sought too) cell for each of the B features;
            None where these follow from the features themselves.
        free_cell: Whether the templates' cells are only a first guess.
        frozen: Atoms of the templates that do not move, shape (A,); None for none.
        starts: For each of the features structures that the search begins with besides random ones.
        names: A name for each of the features; random numbers follow from it. Empty for none.
        elements: Chemical symbols that structures may have; empty for any.
        requested: What structures were requested to have: ``elements``, ``formula``, ….
        real: Whether the features are those of real structures, so that an exact structure exists.
        seed: Of all randomness.
        invalid_above: Loss above which a structure does not stand for its features; None where unknown.
        weights: Of the features in the loss, shape (F,); None for the reconstructor's own.
        directory: Where finished pieces are kept.
        progress: Called as it goes on.
    """

    representation: Representation
    templates: StructureBatch | None = None
    free_cell: bool = False
    frozen: Bool[Tensor, "A"] | None = None
    starts: tuple[StructureBatch | None, ...] | None = None
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
            # With weights of its own the search would look for what is nearest by another measure.
            weights=torch.ones(flat.shape[1], dtype=torch.float64) if self.weights is None else self.weights,
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Structures for k of B features.

    Attributes:
        structures: The k structures.
        rows: Which of the B features each is for, shape (k,).
        loss: What is left, shape (k,); NaN of a closed form, infinite where a search failed.
        status: How each ended, such as ``"converged"`` or ``"decoded"``.
        consistency: How far features contradict themselves, by name, each of shape (B,).
        skipped: Features without a structure, and why.
        notes: What a reader should know.
        summary: Numbers of its own that are kept with the result, JSON-able.
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
        """Return the result of a search in the common form."""
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
        """How many ended in each status."""
        return {status: self.status.count(status) for status in dict.fromkeys(self.status)}


class Reconstructor(Method, ABC):
    """A way from features back to structures. A failure is a status or a reason, and hides no other one.

    Attributes:
        searches: Whether it needs templates: composition and cell of what is sought.
    """

    Settings: ClassVar[type[ReconstructorSettings]] = ReconstructorSettings
    searches: ClassVar[bool] = True

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @classmethod
    def why_not(cls, representation: type[Representation]) -> str | None:
        """Return why features of a class of representations cannot be reconstructed so; None if they can."""
        return None

    @abstractmethod
    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Return structures that have the features.

        Raises:
            InputError: Features of a representation or shape that it cannot do, or a context that lacks what
                it needs.
        """


class SearchReconstructor(Reconstructor):
    """A reconstructor by a search for atoms.

    Attributes:
        search: The search: a problem and options, a result with a status for each target.
        frees_cells: Whether it seeks cells too.
        stops_by_the_clock: Whether it takes ``budget_seconds``.
        more: Options that make it longer, where it does not.
    """

    search: ClassVar[Callable[..., InversionResult]]
    frees_cells: ClassVar[bool] = False
    stops_by_the_clock: ClassVar[bool] = False
    more: ClassVar[str] = ""

    @abstractmethod
    def found(self, features: Float[Tensor, "B *shape"], context: ReconstructionContext) -> InversionResult:
        """Return what the search finds for features that are all finite; see :meth:`reconstruct`."""

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Search for structures with these features; those that are not finite are skipped."""
        finite = features.flatten(1).isfinite().all(1)
        if bool(finite.all()):
            return Reconstruction.of(self.found(features, context))
        rows = torch.nonzero(finite).flatten()
        made = Reconstruction.of(self.found(features[rows], context.select(rows.tolist())))
        skipped = {int(rows[row]): reason for row, reason in made.skipped.items()}
        bad = dict.fromkeys(torch.nonzero(~finite).flatten().tolist(), "has NaN or infinite features")
        return dataclasses.replace(made, rows=rows[made.rows], skipped={**skipped, **bad})
