"""Section of the property of what was generated: histograms by surrogate and energy method."""

from __future__ import annotations

from whorl.evaluation.results import Evaluated
from whorl.report import figures
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import Panels, image, render


class PropertyHistograms(ReportSection):
    """How the property is distributed around each target."""

    kind = "property"
    title = "Property of the samples"
    order = 50

    def applies(self, context: ReportContext) -> bool:
        """Whether surrogate or energy method gave values."""
        return any(_has(of, "surrogate") or _has(of, "energy") for of in context.evaluated.values())

    def html(self, context: ReportContext) -> str:
        """Return a panel for each training size and target."""
        some = list(context.evaluated.values())
        tolerance = f"{context.results.tolerance:g}"
        legend = [("square", figures.GREY, "real data")]
        if any(_has(of, "surrogate") for of in some):
            legend.append(("line", figures.BLUE, "generated features, by surrogate"))
        if any(_has(of, "energy") for of in some):
            legend.append(("line", figures.VERMILION, f"structures, by {context.energy_method}"))
        legend.append(("dash", figures.INK, f"target, ±{tolerance} shaded"))
        return render(
            "sections/figures.html",
            legend=legend,
            panels=[panels for label in context.evaluated if (panels := _panels(context, label)).images],
            captions=[],
        )


def _has(of: Evaluated, evaluator: str) -> bool:
    values = of.values(evaluator)
    return values is not None and bool(values.isfinite().any())


def _panels(context: ReportContext, label: str) -> Panels:
    of, images = context.evaluated[label], []
    predicted, energy = of.values("surrogate"), of.values("energy")
    targets, requested = of.samples.targets.double(), of.samples.structure_targets.double()
    for target in context.results.sizes[label].targets:
        if predicted is None and energy is None:
            continue
        plot = figures.energy_histogram(
            target=target.target,
            tolerance=context.results.tolerance,
            surrogate=None if predicted is None else predicted[targets == target.target],
            potential=None if energy is None else energy[requested == target.target],
            real=of.reference.properties,
            label=context.label,
            potential_name=context.energy_method,
            title=f"target {context.with_unit(target.target)}",
        )
        images.append(image(plot, f"{context.label}, samples for {target.target:g}"))
    return Panels(name=context.name(label), images=tuple(images))
