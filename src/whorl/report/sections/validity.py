"""Section of validity, uniqueness and novelty: a table."""

from __future__ import annotations

from whorl.report.crystals import table
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import NOTHING, Column, Table
from whorl.report.widgets import render

_EXPLAINED = {
    "valid": "Valid: atoms at least 0.5 Å apart, cells of crystals of at least 0.1 Å³, the field's rule.",
    "strictly valid": "Strictly valid: besides, no two atoms nearer than 0.6 of the sum of their covalent "
    "radii, as one of 2,533 real crystals is.",
    "neutral": "Neutral: the elements have oxidation states that add up to zero.",
    "symmetric": "Symmetric: another space group than P1.",
    "unique": "Unique: distinct by StructureMatcher.",
    "new": "New: not among the real structures.",
}


class ValidityTable(ReportSection):
    """Fractions of valid, unique and new structures of each generator."""

    kind = "validity"
    title = "Validity, uniqueness, novelty"
    order = 60
    evaluators = ("validity", "symmetry", "uniqueness", "novelty", "conditions")

    def applies(self, context: ReportContext) -> bool:
        """Whether any of these was evaluated."""
        return any(kind in of.metrics for of in context.evaluated.values() for kind in self.evaluators)

    def html(self, context: ReportContext) -> str:
        """Return the table."""
        shares = _shares(context)
        shown = {column.label for column in shares.columns}
        explained = [text for label, text in _EXPLAINED.items() if label in shown]
        return render("sections/table.html", tables=[shares], captions=[" ".join(explained)])


def _shares(context: ReportContext) -> Table:
    def cells(evaluator: str, name: str, layout: str = ".1f") -> list[str]:
        values = [
            of.metrics[evaluator].overall.get(name) if evaluator in of.metrics else None
            for of in context.evaluated.values()
        ]
        return [NOTHING if value is None else format(value, layout) for value in values]

    columns = [
        (Column(group="samples", label="attempted"), cells("validity", "count", ",")),
        (Column(group="samples", label="structures"), cells("validity", "structures", ",")),
        (Column(group="samples", label="valid", unit="% of all"), cells("validity", "percent_valid")),
        (
            Column(group="samples", label="strictly valid", unit="% of all"),
            cells("validity", "percent_strictly_valid"),
        ),
        *(
            (Column(group="of the structures", label=label, unit="%"), cells(evaluator, name))
            for label, evaluator, name in (
                ("distances", "validity", "percent_distances"),
                ("volume", "validity", "percent_volume"),
                ("neutral", "validity", "percent_neutral"),
                ("symmetric", "symmetry", "percent_symmetric"),
                ("unique", "uniqueness", "percent_unique"),
            )
        ),
        (Column(group="of the unique", label="new", unit="%"), cells("novelty", "percent_novel")),
        *(
            (Column(group="as requested", label=name.replace("_", " "), unit="%"), cells("conditions", name))
            for name in dict.fromkeys(
                name
                for of in context.evaluated.values()
                if "conditions" in of.metrics
                for name in of.metrics["conditions"].overall
            )
        ),
    ]
    return table("Generator", [context.name(label) for label in context.evaluated], columns)
