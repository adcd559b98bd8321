"""Section of the candidates: the structures to look at first, with their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from whorl.evaluation.candidates import Candidate
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.subject import method_name
from whorl.report.tables import Column, Table
from whorl.report.widgets import Picture, picture, render

_LINES = 10
_ROWS = 2  # of pictures


class Candidates(ReportSection):
    """Pictures of the first candidates, and a table of some more."""

    kind = "candidates"
    title = "Candidates"
    order = 10

    def applies(self, context: ReportContext) -> bool:
        """Whether there are structures."""
        return bool(context.candidates)

    def html(self, context: ReportContext) -> str:
        """Return pictures and table, best first."""
        ranked = [candidate for candidate in context.candidates if candidate.rank is not None]
        shown = ranked[: _ROWS * max(context.gallery, 1)]
        return render(
            "sections/candidates.html",
            summary=_summary(context, ranked),
            pictures=[_picture(context, candidate) for candidate in shown],
            columns=min(max(context.gallery, 1), 8),
            table=_table(context, ranked[:_LINES]),
            explanation=_explanation(context),
        )


def _summary(context: ReportContext, ranked: Sequence[Candidate]) -> str:
    counts = Counter(
        "ranked" if one.rank is not None else "duplicates" if one.valid else "invalid"
        for one in context.candidates
    )
    parts = [f"{counts['ranked']} structures, best first"]
    parts += [f"{counts['duplicates']} duplicates"] if counts["duplicates"] else []
    parts += [f"{counts['invalid']} invalid ones, kept apart"] if counts["invalid"] else []
    hits = sum(one.deviation() <= context.results.tolerance * (1 + 1e-9) for one in ranked)
    known = [one for one in ranked if one.computed is not None]
    by = f" by {method_name(known[0].computed_by)}" if known else ""
    within = (
        f"; {hits} of the ranked within ±{context.with_unit(context.results.tolerance)} of the target{by}"
    )
    return "; ".join(parts) + (within if known else "") + ". All of them: candidates/candidates.csv."


def _picture(context: ReportContext, candidate: Candidate) -> Picture:
    structures = context.evaluated[candidate.generator].samples.structures
    assert structures is not None
    requested, computed = f"{candidate.requested:g}", candidate.computed
    values = f"{requested} → {computed:.2f}" if computed is not None and abs(computed) < 1e4 else requested
    group = f", {candidate.space_group}" if candidate.space_group else ""
    caption = f"{candidate.rank}. {candidate.formula}{group}: {values}"
    return picture(structures[candidate.index], caption, file=candidate.file)


def _table(context: ReportContext, candidates: Sequence[Candidate]) -> Table | None:
    """Lay out the table, without columns that are empty."""
    by = next((one.computed_by for one in candidates if one.computed is not None), "")
    unit = context.results.unit
    columns: list[tuple[Column, Callable[[Candidate], str]]] = [
        (Column(group="structure", label="formula"), lambda one: one.formula),
        (Column(group="structure", label="space group"), lambda one: one.space_group),
        (
            Column(group=context.results.property, label="requested", unit=unit),
            lambda one: f"{one.requested:g}",
        ),
        (
            Column(group=context.results.property, label=f"by {method_name(by)}", unit=unit),
            lambda one: "" if one.computed is None else f"{one.computed:.3f}",
        ),
        (Column(group="evaluation", label="new"), lambda one: {None: "", True: "yes", False: "no"}[one.new]),
        (Column(group="evaluation", label="remarks"), lambda one: one.remarks),
        (
            Column(group="refinement", label="moved", unit="Å"),
            lambda one: "" if one.moved is None else f"{one.moved:.3f}",
        ),
        (
            Column(group="refinement", label="energy calls"),
            lambda one: "" if one.energy_calls is None else str(one.energy_calls),
        ),
        (Column(group="reconstruction", label="status"), lambda one: one.status),
        (
            Column(group="reconstruction", label="generator"),
            lambda one: context.name(one.generator) if len(context.evaluated) > 1 else "",
        ),
        (Column(group="file", label="in candidates/"), lambda one: one.file),
    ]
    cells = [(column, [text(one) for one in candidates]) for column, text in columns]
    cells = [(column, values) for column, values in cells if any(values)]
    if not candidates:
        return None
    return Table(
        columns=tuple(column for column, _ in cells),
        targets=tuple(str(one.rank) for one in candidates),
        rows=tuple(zip(*(values for _, values in cells), strict=True)),
        target_label="Rank",
    )


def _explanation(context: ReportContext) -> str:
    return (
        "Ranked are valid structures, the best of each group of equal ones, by the distance of the "
        "computed from "
        "the requested value; targets take turns. Below each picture: rank, formula, requested → computed "
        f"{context.label}, file."
    )
