"""Contract of report sections: what a run has made in, a piece of HTML out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from whorl.axes import SECTIONS
from whorl.evaluation.candidates import Candidate
from whorl.evaluation.distances import standardized
from whorl.evaluation.diversity import principal_components
from whorl.evaluation.results import Evaluated, Results
from whorl.evaluation.samples import Reference
from whorl.report.paper import is_pt10
from whorl.report.subject import calculator_name
from whorl.report.tables import size_name
from whorl.settings import Method, SectionOfKind


class ReportSectionSettings(SectionOfKind):
    """Settings of a report section. Which keys there are depends on its kind."""

    registry = SECTIONS
    default = "candidates"


class ReportSection(Method, ABC):
    """One section of the report.

    A section is built without arguments, reads a :class:`ReportContext` and changes nothing. To add one,
    write
    a class with ``kind``, ``title`` and ``order``, and register it as an entry point of the group
    ``whorl.report_sections``. The page wraps what :meth:`html` returns in a ``<section>`` with its title as
    the
    heading and its kind as the anchor.
    """

    Settings: ClassVar[type[ReportSectionSettings]] = ReportSectionSettings
    title: ClassVar[str]
    """Heading, and the words of its link at the top; a section without a title has neither, nor a frame."""
    order: ClassVar[int]
    """Sections are shown by ascending order: candidates 10, results 30 to 75, provenance 100."""
    evaluators: ClassVar[tuple[str, ...]] = ()
    """Evaluators whose metrics it shows; those that no section names are in the table of further metrics."""

    @abstractmethod
    def applies(self, context: ReportContext) -> bool:
        """Whether there is something to show."""

    @abstractmethod
    def html(self, context: ReportContext) -> str:
        """Return the contents, well-formed and without references to other files or the network."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Features on the first two principal components of the standardised labelled data.

    Attributes:
        directions: Shape (2, F).
        shares: Of the variance, along each.
        data: The labelled data, shape (N, 2).
    """

    directions: Float[Tensor, "2 F"]
    shares: Float[Tensor, "2"]
    data: Float[Tensor, "N 2"]


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """All that a run has made, for the sections of its report.

    Attributes:
        title: Heading of the page.
        results: Numbers of the run.
        evaluated: Samples, real data and metrics, by the label of the training size.
        candidates: Structures, best first.
        recipe: Resolved, as plain data.
        provenance: Version, seed and recipe hash.
        warnings: For the reader, beyond those of the results.
        skipped: Entries of the input that could not be used: source and reason.
        prepared: What evaluators worked out from the real data alone, by their kind.
        training: Training record of each model that has one, by its name.
        rounds: What became of the labels of each active round, by the label of the training size.
        gallery: Structures shown in a row.
        compare_with_paper: Show the numbers of Fung et al. 2022 too; by default when the recipe is about
        Pt10.
    """

    title: str
    results: Results
    evaluated: Mapping[str, Evaluated]
    candidates: Sequence[Candidate] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    skipped: Sequence[tuple[str, str]] = ()
    prepared: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rounds: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    gallery: int = 6
    compare_with_paper: bool | None = None

    @property
    def reference(self) -> Reference:
        """The labelled data; its training rows are those of the first training size."""
        return next(iter(self.evaluated.values())).reference

    @property
    def label(self) -> str:
        """The property and its unit, as on an axis."""
        return self.results.property + (f" ({self.results.unit})" if self.results.unit else "")

    @property
    def energy_method(self) -> str:
        """Name of the energy method."""
        return calculator_name(self.recipe) or "the energy method"

    @property
    def paper(self) -> bool:
        """Whether numbers of Fung et al. 2022 are shown."""
        return is_pt10(self.recipe) if self.compare_with_paper is None else self.compare_with_paper

    @property
    def seed(self) -> int:
        """Seed of what is drawn at random."""
        return int(self.provenance.get("seed") or 0)

    @property
    def targets(self) -> list[float]:
        """All values of the property asked for."""
        return sorted({target.target for size in self.results.sizes.values() for target in size.targets})

    def name(self, label: str) -> str:
        """Return how people write a training size, in one piece: a line must not break within it."""
        return size_name(label, self.results.sizes[label]).replace(" ", "\N{NO-BREAK SPACE}")

    def with_unit(self, value: float) -> str:
        """Return a value of the property with its unit."""
        return f"{value:g} {self.results.unit}".strip()

    def near(self, target: float) -> Tensor:
        """Return which labelled data are within the window of a target, shape (N,)."""
        return (self.reference.properties.double() - target).abs() <= self.results.window * (1 + 1e-9)

    @cached_property
    def projection(self) -> Projection:
        """The map of features, which several sections share."""
        features = self.reference.features.flatten(1)
        real = standardized(features, features)
        directions, shares = principal_components(real)
        return Projection(directions=directions, shares=shares, data=real @ directions.T)

    def project(self, features: Float[Tensor, "n *shape"]) -> Float[Tensor, "n 2"]:
        """Return features on the first two principal components of the labelled data."""
        standard = standardized(features.flatten(1), self.reference.features.flatten(1))
        return standard @ self.projection.directions.T

    def project_structures(self, label: str) -> Float[Tensor, "k 2"] | None:
        """Return where the structures of one training size lie in the map; None where that is not known."""
        samples = self.evaluated[label].samples
        if samples.structures is None:
            return None
        if samples.structure_features is not None:
            return self.project(samples.structure_features)
        return None if samples.features is None else self.project(samples.features[samples.rows])
