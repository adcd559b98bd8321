"""Section of metrics that no other section shows: a table for each evaluator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from whorl.axes import SECTIONS
from whorl.errors import WhorlError
from whorl.report.crystals import table
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import NOTHING, Column, Table
from whorl.report.widgets import render


class FurtherMetrics(ReportSection):
    """Numbers of evaluators that no other section names, such as those of other packages."""

    kind = "metrics"
    title = "Further metrics"
    order = 78

    def applies(self, context: ReportContext) -> bool:
        """Whether there are any."""
        return any(True for _ in _tables(context))

    def html(self, context: ReportContext) -> str:
        """Return the tables."""
        caption = "Numbers of all samples, and of those of each target."
        return render("sections/table.html", tables=list(_tables(context)), captions=[caption])


def _tables(context: ReportContext) -> Iterator[Table]:
    shown = set[str]()
    for name in SECTIONS:
        with suppress(WhorlError):  # the page warns of a section that cannot be imported
            shown.update(SECTIONS.get(name).evaluators)
    further = dict.fromkeys(kind for of in context.evaluated.values() for kind in of.metrics)
    for kind in further:
        if kind not in shown and (made := _table(context, kind)).columns:
            yield made


def _table(context: ReportContext, kind: str) -> Table:
    """Lay out the metrics of one evaluator: a row for all samples and one for each target."""
    metrics = {label: of.metrics[kind] for label, of in context.evaluated.items() if kind in of.metrics}
    targets = list(dict.fromkeys(target for one in metrics.values() for target in one.per_target))
    columns = []
    for label, one in metrics.items():
        rows: list[Mapping[str, Any]] = [one.overall, *(one.per_target.get(target, {}) for target in targets)]
        columns += [
            (
                Column(group=context.name(label), label=name.replace("_", " ")),
                [_cell(row, name) for row in rows],
            )
            for name in dict.fromkeys(name for row in rows for name in row)
        ]
    return table(kind.replace("_", " "), ["all", *(f"target {target}" for target in targets)], columns)


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value) if isinstance(value, str | bool) else NOTHING
