"""Section of diversity: copies of training data, distinct samples, spread."""

from __future__ import annotations

from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import make_table
from whorl.report.widgets import render


class DiversityTable(ReportSection):
    """How new the samples are, and how different from one another."""

    kind = "diversity"
    title = "Diversity"
    order = 40
    evaluators = ("diversity",)

    def applies(self, context: ReportContext) -> bool:
        """Whether diversity was evaluated."""
        return make_table(context.results, "diversity") is not None

    def html(self, context: ReportContext) -> str:
        """Return the table, and why a spread is missing."""
        results = context.results
        return render(
            "sections/table.html",
            tables=[make_table(results, "diversity")],
            captions=[
                "Distances in features standardised by the whole data set. A copy is nearer to a training "
                "row than "
                "a tenth of the median distance between neighbouring training rows; samples as near as "
                "that to one "
                "another count as one. Spread: mean distance between two samples, divided by that of the "
                "real data "
                f"within ±{context.with_unit(results.window)} of the target.",
                *(
                    f"{context.name(label)}, {target.target:g}: no spread, {target.diversity.no_ratio}."
                    for label, size in results.sizes.items()
                    for target in size.targets
                    if target.diversity is not None and target.diversity.no_ratio
                ),
            ],
        )
