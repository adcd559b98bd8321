"""Section of what was requested: targets, data, methods."""

from __future__ import annotations

from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.subject import describe
from whorl.report.widgets import render


class Request(ReportSection):
    """The run in a few lines."""

    kind = "request"
    title = "Request"
    order = 28

    def applies(self, context: ReportContext) -> bool:
        """Whether there is something to show: always."""
        return True

    def html(self, context: ReportContext) -> str:
        """Return headings and lines."""
        return render("sections/facts.html", facts=describe(context.recipe, context.results), recipe="")
