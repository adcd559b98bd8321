"""Section of active rounds: labels spent, and what the surrogate knew before it had them."""

from __future__ import annotations

from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import NOTHING, Column, Table
from whorl.report.widgets import render


class Active(ReportSection):
    """Errors and hits of each active round."""

    kind = "active"
    title = "Active rounds"
    order = 36

    def applies(self, context: ReportContext) -> bool:
        """Whether the recipe has active rounds."""
        return any(context.rounds.values())

    def html(self, context: ReportContext) -> str:
        """Return the table."""
        return render(
            "sections/table.html",
            tables=[_table(context)],
            captions=[
                "Structures that were moved to the targets by the surrogate of structures so far, chosen for "
                "hitting the value and for learning, and then labelled. Errors and hits are those of the "
                "surrogate before it had these labels: a round shows what the one before has gained.",
            ],
        )


def _table(context: ReportContext) -> Table:
    targets = [f"{target:g}" for target in context.targets]
    columns, cells = [], []
    count = max(len(rounds) for rounds in context.rounds.values())
    for label, rounds in context.rounds.items():
        before = context.results.sizes[label].training_rows
        shown: list[tuple[str, str, list[str]]] = [
            ("labels", "", [str(of["labels"]) for of in rounds]),
            (
                "in all",
                "",
                [f"{before + sum(of['labels'] for of in rounds[: k + 1]):,}" for k in range(count)],
            ),
            ("MAE", context.results.unit, [_number(of["mean_absolute_error"], ".3f") for of in rounds]),
            ("in 90 % interval", "%", [_number(of["percent_inside_90_interval"], ".0f") for of in rounds]),
            *(
                (f"hits at {name}", "%", [_number(of["percent_within"].get(name), ".0f") for of in rounds])
                for name in targets
            ),
        ]
        for heading, unit, values in shown:
            columns.append(Column(group=context.name(label), label=heading, unit=unit))
            cells.append(values)
    return Table(
        columns=tuple(columns),
        targets=tuple(str(k + 1) for k in range(count)),
        rows=tuple(zip(*cells, strict=True)),
        target_label="Round",
    )


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)
