"""Section of the map: samples among the labelled data, in two principal components."""

from __future__ import annotations

from whorl.report import figures
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import Panels, image, render


class FeatureMap(ReportSection):
    """Figure 6 of Fung et al. 2022."""

    kind = "map"
    title = "Map of the features"
    order = 45

    def applies(self, context: ReportContext) -> bool:
        """Whether there are features."""
        return all(of.samples.features is not None for of in context.evaluated.values())

    def html(self, context: ReportContext) -> str:
        """Return a panel for each training size and target."""
        window = context.with_unit(context.results.window)
        return render(
            "sections/figures.html",
            legend=[
                ("", figures.GREY, "data set"),
                ("ring", figures.BLUE, f"data within ±{window} of the target"),
                ("ring", figures.GREEN, "training rows"),
                ("square", figures.VERMILION, "generated"),
            ],
            panels=[_panels(context, label) for label in context.evaluated],
            captions=[
                "First two principal components of the features (standardised by the data set)"
                + (", as in figure 6 of the paper" if context.paper else "")
                + ". Samples far from all data are unlikely to be features of any structure."
            ],
        )


def _panels(context: ReportContext, label: str) -> Panels:
    of, data = context.evaluated[label], context.projection.data
    assert of.samples.features is not None
    points, training = context.project(of.samples.features), context.project(of.reference.training_features)
    frame = figures.map_frame(data, points)
    images = []
    for target in context.results.sizes[label].targets:
        plot = figures.pca_map(
            data=data,
            window=data[context.near(target.target)],
            training=training,
            generated=points[of.samples.targets.double() == target.target],
            shares=context.projection.shares,
            frame=frame,
            title=f"target {context.with_unit(target.target)}",
        )
        images.append(image(plot, f"principal components, samples for {target.target:g}"))
    return Panels(name=context.name(label), images=tuple(images))
