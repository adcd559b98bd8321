"""Section of distributions: cells, symmetry and elements of generated crystals and of real ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from whorl.report import crystal_figures as figures
from whorl.report.crystals import Comparison, are_crystals, table
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import NOTHING, Column, Table
from whorl.report.widgets import Panels, image, render
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cell_parameters, volumes

_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}
_QUANTITIES = {
    **dict.fromkeys(("a", "b", "c"), ("Å", 1.0)),
    **dict.fromkeys(("α", "β", "γ"), ("degrees", 10.0)),
    "volume per atom": ("Å³", 5.0),
}  # histograms: unit, and least width of the axis


class Distributions(ReportSection):
    """Figures 4 to 6 of Alverson et al. 2024, and the test of Kolmogorov and Smirnov."""

    kind = "distributions"
    title = "Distributions"
    order = 70
    evaluators = ("distributions",)

    def applies(self, context: ReportContext) -> bool:
        """Whether there are real crystals to compare with."""
        return are_crystals(context)

    def html(self, context: ReportContext) -> str:
        """Return histograms, the panel of elements and the table."""
        of = Comparison(context)
        return render(
            "sections/distributions.html",
            legend=of.legend(),
            panels=list(_distributions(of)),
            elements=list(_elements(of)),
            table=_compared(context, of.names),
        )


def _quantities(structures: StructureBatch) -> dict[str, Tensor]:
    parameters = cell_parameters(structures.cells).unbind(1)
    per_atom = volumes(structures.cells) / structures.n_atoms
    return dict(zip(_QUANTITIES, (*parameters, per_atom), strict=True))


def _distributions(of: Comparison) -> Iterator[Panels]:
    """Yield figures 4 to 6: cells and symmetry."""
    if not len(of.real.structures):
        return
    real = _quantities(of.real.structures)
    for heading, labels in of.groups():
        made = {of.names[label]: _quantities(of.crystals[label].structures) for label in labels}
        images = []
        for name, (unit, narrowest) in _QUANTITIES.items():
            plot = figures.histogram(
                real[name],
                {label: values[name] for label, values in made.items()},
                label=f"{name} ({unit})",
                title=name,
                narrowest=narrowest,
            )
            images.append(image(plot, f"distribution of {name}"))
        numbers = {of.names[label]: of.crystals[label].space_groups for label in labels}
        if any(numbers.values()):
            plot = figures.crystal_systems(of.real.space_groups, numbers, title="crystal systems")
            images.append(image(plot, "shares of the crystal systems"))
            plot = figures.common_space_groups(of.real.space_groups, numbers, title="commonest space groups")
            images.append(image(plot, "shares of the commonest space groups"))
        yield Panels(name=heading, images=tuple(images))


def _elements(of: Comparison) -> Iterator[Panels]:
    """Yield the panel of elements, one for each group of generators."""
    if not len(of.real.structures):
        return
    for heading, labels in of.groups():
        made = {of.names[label]: of.crystals[label].structures.atomic_numbers for label in labels}
        plot = figures.elements(of.real.structures.atomic_numbers, made, title="elements")
        yield Panels(name=heading, images=(image(plot, "shares of the elements"),))


def _compared(context: ReportContext, names: dict[str, str]) -> Table | None:
    overall = {
        label: {kind: metrics.overall for kind, metrics in of.metrics.items()}
        for label, of in context.evaluated.items()
    }
    by_name = {
        label: {
            one["name"]: one
            for evaluator, key in (("distributions", "quantities"), ("cgcnn", "properties"))
            for one in of.get(evaluator, {}).get(key, ())
        }
        for label, of in overall.items()
    }
    rows = {name: one for compared in by_name.values() for name, one in compared.items()}
    if not rows:
        return None

    def cells(label: str, name: str, digits: int) -> list[str]:
        compared = [by_name[label].get(row) for row in rows]
        shown = [NOTHING if one is None else _decimal(one[name], digits) for one in compared]
        return ["< 0.001" if name == "p_value" and text == "0.000" else text for text in shown]

    columns = [(Column(group="real", label="mean"), [_decimal(one["mean_real"], 2) for one in rows.values()])]
    for label in overall:
        columns += [
            (Column(group=names[label], label="mean"), cells(label, "mean_made", 2)),
            (Column(group=names[label], label="K–S"), cells(label, "statistic", 3)),
            (Column(group=names[label], label="p"), cells(label, "p_value", 3)),
        ]
    heads = [
        _GREEK.get(name, name) + (f" ({one['unit']})" if one["unit"] else "") for name, one in rows.items()
    ]
    return table("Quantity", heads, columns)


def _decimal(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"
