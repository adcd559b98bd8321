"""Section of reconstruction losses."""

from __future__ import annotations

import torch

from whorl.report import figures
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import Panels, image, render


class ReconstructionLosses(ReportSection):
    """How near the features of the structures are to the generated ones."""

    kind = "reconstruction"
    title = "Reconstruction"
    order = 55
    evaluators = ("reconstruction",)

    def applies(self, context: ReportContext) -> bool:
        """Whether structures were searched for, so that there are losses."""
        return any(_losses(context, label) is not None for label in context.evaluated)

    def html(self, context: ReportContext) -> str:
        """Return a panel for each training size and target."""
        some = [of.samples for of in context.evaluated.values()]
        threshold = any(samples.invalid_above is not None for samples in some)
        reference = any(
            samples.reference_loss is not None and len(samples.reference_loss) for samples in some
        )
        legend = [("line", figures.BLUE, "generated")]
        if reference:
            legend.append(("square", figures.GREY, "real structures, same search"))
        if threshold:
            legend.append(("dash", figures.VERMILION, "above: invalid"))
        return render(
            "sections/figures.html",
            legend=legend,
            panels=[panels for label in context.evaluated if (panels := _panels(context, label)).images],
            captions=[
                "Difference between the features of the structures and the generated ones after the search."
                + (" Real structures put through the same search show how far it gets." if reference else "")
                + (" Above the threshold, probably no structure has these features." if threshold else "")
            ],
        )


def _losses(context: ReportContext, label: str) -> torch.Tensor | None:
    loss = context.evaluated[label].samples.loss
    return None if loss is None or not bool(loss.isfinite().any()) else loss.double()


def _panels(context: ReportContext, label: str) -> Panels:
    samples, loss = context.evaluated[label].samples, _losses(context, label)
    if loss is None:
        return Panels(name=context.name(label), images=())
    reference = samples.reference_loss
    everything = torch.cat([loss, *([] if reference is None else [reference.double()])])
    targets, images = samples.structure_targets.double(), []
    for target in targets.unique().tolist():
        plot = figures.loss_histogram(
            losses=loss[targets == target],
            reference=reference,
            invalid_above=samples.invalid_above,
            limits=figures.loss_range(everything, samples.invalid_above),
            title=f"target {context.with_unit(target)}",
        )
        images.append(image(plot, f"reconstruction losses, samples for {target:g}"))
    return Panels(name=context.name(label), images=tuple(images))
