"""Section of arms: what each step gains by the energy method, and what it costs."""

from __future__ import annotations

from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import arms_tables
from whorl.report.widgets import render


class Arms(ReportSection):
    """Hits by the energy method as reconstructed, after each refiner, and of random training structures."""

    kind = "arms"
    title = "What refinement gains"
    order = 37

    def applies(self, context: ReportContext) -> bool:
        """Whether structures of more than one arm were evaluated."""
        return bool(arms_tables(context.results))

    def html(self, context: ReportContext) -> str:
        """Return the table."""
        return render(
            "sections/table.html",
            tables=arms_tables(context.results),
            captions=[
                f"By {context.energy_method}: all structures of each target, none left out. Calls: of the "
                "energy method, mean for a structure. Labels: labelled structures in all, of training, "
                "active rounds and energy calls that were kept. Draws: samples that were reconstructed, "
                "with those that could not reach the target. Moved: root mean square distance of the atoms "
                "from where they were reconstructed. Whole: in one piece. Data, projected: what the "
                "same refinement makes of random structures that the generator was trained on.",
            ],
        )
