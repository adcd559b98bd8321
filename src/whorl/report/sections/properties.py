"""Section of predicted properties: violins of generated crystals and of real ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from whorl.evaluation.cgcnn import UNITS
from whorl.report import crystal_figures as figures
from whorl.report.crystals import Comparison, Crystals, are_crystals
from whorl.report.figures import GREY
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import Panels, evenly, image, render

_MOST_TARGETS = 4  # violins by target: real, and so many requested values


class PredictedProperties(ReportSection):
    """Figure 7 of Alverson et al. 2024: seven properties by CGCNN."""

    kind = "properties"
    title = "Predicted properties"
    order = 75
    evaluators = ("cgcnn",)

    def applies(self, context: ReportContext) -> bool:
        """Whether properties of real and of generated crystals were predicted."""
        return (
            are_crystals(context)
            and "cgcnn" in context.prepared
            and any("cgcnn" in of.metrics for of in context.evaluated.values())
        )

    def html(self, context: ReportContext) -> str:
        """Return the violins, all together and by the requested value."""
        of = Comparison(context)
        names = _common_properties(of)
        requested = context.results.property
        by_target = {
            name: _by_target(of, name, context.label, asks=_plain(name) == _plain(requested))
            for name in names
        }
        own = [panels for name, panels in by_target.items() if _plain(name) == _plain(requested)]
        others = [panels for name, panels in by_target.items() if _plain(name) != _plain(requested)]
        return render(
            "sections/properties.html",
            legend=of.legend(),
            panels=list(_properties(of, context)),
            by_target=_joined(own),
            others=_joined(others),
        )


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


def _common_properties(of: Comparison) -> list[str]:
    """Return properties that real crystals and some generated ones have."""
    return [
        name
        for name, values in of.real.predicted.items()
        if bool(values.isfinite().any()) and any(name in one.predicted for one in of.crystals.values())
    ]


def _properties(of: Comparison, context: ReportContext) -> Iterator[Panels]:
    """Yield figure 7: predicted properties, with the statistic of Kolmogorov and Smirnov."""
    colors = of.colors()
    statistics = {
        (label, one["name"]): one["statistic"]
        for label, evaluated in context.evaluated.items()
        if "cgcnn" in evaluated.metrics
        for one in evaluated.metrics["cgcnn"].overall.get("properties", ())
    }
    for heading, labels in of.groups():
        images = []
        for name in _common_properties(of):
            sets = [("real", of.real.predicted[name], GREY)]
            for label in labels:
                if name in of.crystals[label].predicted:
                    statistic = statistics.get((label, name), math.nan)
                    statistic_note = f"\nK–S {statistic:.2f}" if statistic == statistic else ""
                    values = of.crystals[label].predicted[name]
                    sets.append((of.names[label] + statistic_note, values, colors[label]))
            if len(sets) > 1:
                plot = figures.violins(sets, label=_with_unit(name), title=name)
                images.append(image(plot, f"{name} of real and generated crystals"))
        if images:
            yield Panels(name=heading, images=tuple(images))


def _by_target(of: Comparison, name: str, target_label: str, *, asks: bool) -> list[Panels]:
    """Return for each generator that was asked for several values a panel with a violin for each."""
    colors, panels = of.colors(), []
    for label, one in of.crystals.items():
        targets = evenly(_targets(one), _MOST_TARGETS)
        if len(targets) < 2 or name not in one.predicted:
            continue
        sets = [("real", of.real.predicted[name], GREY)]
        sets += [
            (f"{target:g}", one.predicted[name][one.targets == target], colors[label]) for target in targets
        ]
        plot = figures.violins(
            sets,
            label=_with_unit(name),
            title=f"{name}, {of.names[label]}",
            asked=[None, *targets] if asks else (),
            below=f"requested {target_label}",
        )
        words = f"{name} of crystals of {of.names[label]}, by the requested value"
        panels.append(Panels(name=of.names[label], images=(image(plot, words),)))
    return panels


def _with_unit(name: str) -> str:
    unit = UNITS.get(name, "")
    return f"{name} ({unit})" if unit else name


def _targets(crystals: Crystals) -> list[float]:
    return crystals.targets[crystals.targets.isfinite()].unique().tolist()


def _joined(groups: Sequence[Sequence[Panels]]) -> tuple[Panels, ...]:
    """Put the panels of several properties into one for each generator."""
    images: dict[str, tuple[tuple[str, str, str], ...]] = {}
    for panels in groups:
        for one in panels:
            images[one.name] = (*images.get(one.name, ()), *one.images)
    return tuple(Panels(name=name, images=found) for name, found in images.items())
