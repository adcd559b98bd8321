"""Section of warnings, and of entries of the input that were skipped."""

from __future__ import annotations

from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import render

_MOST_SKIPPED = 100  # entries listed by name


class Warnings(ReportSection):
    """What the reader should know before all numbers."""

    kind = "warnings"
    title = "Warnings"
    order = 25

    def applies(self, context: ReportContext) -> bool:
        """Whether there are any."""
        return bool(context.results.warnings or context.warnings or context.skipped)

    def html(self, context: ReportContext) -> str:
        """Return both lists."""
        return render(
            "sections/warnings.html",
            warnings=list(dict.fromkeys([*context.results.warnings, *context.warnings])),
            skipped=context.skipped[:_MOST_SKIPPED],
            count=len(context.skipped),
        )
