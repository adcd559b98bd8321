"""Crystals of all generators and real ones, for the sections that compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from whorl.evaluation.evaluators.cgcnn import real_properties
from whorl.evaluation.results import Evaluated
from whorl.report import crystal_figures as figures
from whorl.report.figures import GREY
from whorl.report.sections.base import ReportContext
from whorl.report.tables import NOTHING, Column, Table
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import sound_crystals
from whorl.symmetry.detection import known_space_groups, space_group_numbers

_MOST_REAL = 2000  # real crystals that generated ones are compared with

CITATION = (
    "M. Alverson, S. G. Baird, R. Murdock, E. S.-H. Ho, J. Johnson, T. D. Sparks: Generative adversarial "
    "networks and diffusion models in material discovery. Digital Discovery 3, 62 (2024)"
)


def are_crystals(context: ReportContext) -> bool:
    """Whether all real and all generated structures are crystals, so that they can be compared as such."""
    real = context.reference.structures
    return (
        real is not None
        and len(real) > 0
        and bool(real.pbc.all())
        and all(of.samples.crystals is not None for of in context.evaluated.values())
    )


@dataclass(frozen=True, kw_only=True)
class Crystals:
    """Crystals that can be drawn, and what is drawn of them."""

    structures: StructureBatch
    space_groups: tuple[int, ...]
    targets: Tensor  # of each
    predicted: Mapping[str, Tensor]

    @classmethod
    def of(cls, evaluated: Evaluated) -> Crystals:
        """Return the possible ones among the generated crystals."""
        samples, metrics = evaluated.samples, evaluated.metrics
        crystals = samples.crystals
        assert crystals is not None
        sound = torch.nonzero(sound_crystals(crystals)).flatten()
        some = crystals[sound]
        numbers = evaluated.values("symmetry", "space_group_number")
        columns = metrics["cgcnn"].per_structure if "cgcnn" in metrics else {}
        predicted = {name: evaluated.values("cgcnn", name) for name in columns}
        return cls(
            structures=some,
            space_groups=()
            if numbers is None and not len(some)
            else tuple(space_group_numbers(some).tolist())
            if numbers is None
            else tuple(int(number) for number in numbers[sound]),
            targets=samples.structure_targets.double()[sound],
            predicted={name: values[sound] for name, values in predicted.items() if values is not None},
        )

    @classmethod
    def real(cls, structures: StructureBatch, predicted: Mapping[str, Tensor]) -> Crystals:
        """Return real crystals."""
        some = structures[sound_crystals(structures)]
        return cls(
            structures=some,
            space_groups=tuple(known_space_groups(some).tolist()),
            targets=torch.zeros(0),
            predicted={name: values.double() for name, values in predicted.items()},
        )


class Comparison:
    """Crystals of each generator and real ones; at most three generators in a panel.

    Crystals that cannot be (not finite, no volume, two atoms at one place) are left out.
    """

    def __init__(self, context: ReportContext) -> None:
        reference = context.reference
        most = (context.recipe.get("evaluate") or {}).get("real") or _MOST_REAL
        assert reference.structures is not None
        self.names = {label: context.name(label) for label in context.evaluated}
        self.crystals = {label: Crystals.of(of) for label, of in context.evaluated.items()}
        self.real = Crystals.real(
            reference.structures[reference.evenly(most)], real_properties(context.prepared.get("cgcnn"))
        )

    def groups(self) -> Iterator[tuple[str, list[str]]]:
        """Yield labels that share their panels, and a heading."""
        labels = iter(self.crystals)
        while group := list(islice(labels, len(figures.COLORS))):
            yield ", ".join(self.names[label] for label in group), group

    def colors(self) -> dict[str, str]:
        """Return the colour of each generator."""
        return {
            label: color
            for _, group in self.groups()
            for label, color in zip(group, figures.COLORS, strict=False)
        }

    def legend(self) -> list[tuple[str, str, str]]:
        """Return shapes, colours and names, the real crystals first."""
        made = [("line", color, self.names[label]) for label, color in self.colors().items()]
        return [("square", GREY, "real"), *made]


def table(head: str, rows: Sequence[str], columns: Sequence[tuple[Column, Sequence[str]]]) -> Table:
    """Lay out columns of cells, without those that are empty."""
    columns = [(column, values) for column, values in columns if any(value != NOTHING for value in values)]
    return Table(
        columns=tuple(column for column, _ in columns),
        targets=tuple(rows),
        rows=tuple(zip(*(values for _, values in columns), strict=True)),
        target_label=head,
    )
