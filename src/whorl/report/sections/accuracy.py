"""Sections of accuracy: generated features by the surrogate, structures by the energy method."""

from __future__ import annotations

from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import Table, make_table
from whorl.report.widgets import render


class SurrogateAccuracy(ReportSection):
    """Table 1 of Fung et al. 2022."""

    kind = "surrogate"
    title = "Generated features by the surrogate"
    order = 30
    evaluators = ("surrogate",)

    def applies(self, context: ReportContext) -> bool:
        """Whether a surrogate evaluated the features."""
        return make_table(context.results, "surrogate") is not None

    def html(self, context: ReportContext) -> str:
        """Return the table."""
        errors = context.results.surrogate_errors
        table = make_table(context.results, "surrogate", compare_with_paper=context.paper)
        return render(
            "sections/table.html",
            tables=[table],
            captions=[
                f"Mean absolute error (MAE) and fraction of samples within "
                f"±{context.with_unit(context.results.tolerance)} of the target, over all samples."
                + (f" Error of the surrogate itself: {errors}." if errors else ""),
                "Shaded: table 1 of the paper, with DFT data and a surrogate trained on 100,000 structures."
                if _has_reference(table)
                else "",
            ],
        )


class EnergyAccuracy(ReportSection):
    """Table 2 of Fung et al. 2022."""

    kind = "energies"
    title = "Structures by the energy method"
    order = 35
    evaluators = ("energy",)

    def applies(self, context: ReportContext) -> bool:
        """Whether an energy method evaluated the structures."""
        return make_table(context.results, "potential") is not None

    def html(self, context: ReportContext) -> str:
        """Return the table."""
        method = context.energy_method
        table = make_table(context.results, "potential", compare_with_paper=context.paper)
        refined = any(of.samples.refinement for of in context.evaluated.values())
        how = "as refined" if refined else "as reconstructed: no relaxation, no screening"
        return render(
            "sections/table.html",
            tables=[table],
            captions=[
                f"By {method}, each structure {how}. Structures that {method} failed on have no error to "
                f"average; "
                "they count as not within the tolerance. Invalid ones count as the others do. "
                + self._agreement(context),
                "Shaded: table 2 of the paper, by DFT." if _has_reference(table) else "",
            ],
        )

    def _agreement(self, context: ReportContext) -> str:
        overall = [
            of.metrics["energy"].overall for of in context.evaluated.values() if "energy" in of.metrics
        ]
        return str(overall[0].get("agreement") or "") if overall else ""


def _has_reference(table: Table | None) -> bool:
    return table is not None and any(column.reference for column in table.columns)
