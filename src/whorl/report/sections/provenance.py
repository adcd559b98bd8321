"""Section of the provenance: version, seed, recipe, the paper."""

from __future__ import annotations

from whorl.report.paper import CITATION
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import render
from whorl.yaml_text import dump_yaml


class Provenance(ReportSection):
    """Where the numbers come from."""

    kind = "provenance"
    title = "Provenance"
    order = 100

    def applies(self, context: ReportContext) -> bool:
        """Whether there is something to show: always."""
        return True

    def html(self, context: ReportContext) -> str:
        """Return version, seed and the recipe with all its settings."""
        facts = [
            (name.replace("_", " "), value) for name, value in context.provenance.items() if value is not None
        ]
        if context.paper:
            facts.append(("the paper", CITATION))
        return render("sections/facts.html", facts=facts, recipe=dump_yaml(dict(context.recipe)))
