"""A section of the report."""

from whorl.report.sections.base import ReportContext, ReportSection


class Toys(ReportSection):
    """How many candidates there are."""

    kind = "toys"
    title = "Toys"
    order = 99

    def applies(self, context: ReportContext) -> bool:
        """Whether there are candidates."""
        return bool(context.candidates)

    def html(self, context: ReportContext) -> str:
        """Return a sentence."""
        return f"<p>{len(context.candidates)} toys.</p>"
