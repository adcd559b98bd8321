"""Cards at the top of the report: a few numbers of each training size."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from whorl.evaluation.results import Accuracy
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import render


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One number to remember, for every training size."""

    label: str
    hint: str
    numbers: tuple[tuple[str, str, str], ...]  # training size, number, remark


class Headlines(ReportSection):
    """Cards with accuracy, validity, copies and spread."""

    kind = "headlines"
    title = ""
    order = 20

    def applies(self, context: ReportContext) -> bool:
        """Whether any of the numbers is known."""
        return bool(headlines(context))

    def html(self, context: ReportContext) -> str:
        """Return the cards."""
        return render("sections/headlines.html", headlines=headlines(context))


def headlines(context: ReportContext) -> list[Headline]:
    """Return the mean over the targets of each number that is known, and its worst value."""
    tolerance = context.with_unit(context.results.tolerance)
    chosen = (
        (
            f"within ±{tolerance} by surrogate",
            "generated features, mean over targets",
            lambda t: _within(t.surrogate),
            "{:.1f} %",
            min,
        ),
        (
            f"within ±{tolerance} by {context.energy_method}",
            "structures, mean over targets",
            lambda t: _within(t.potential),
            "{:.1f} %",
            min,
        ),
        (
            "invalid reconstructions",
            "no structure found with the generated features",
            lambda t: t.inversion and t.inversion.percent_invalid,
            "{:.1f} %",
            max,
        ),
        (
            "copies of training rows",
            "nearer than a tenth of the usual distance",
            lambda t: t.diversity and t.diversity.percent_copies,
            "{:.2f} %",
            max,
        ),
        (
            "spread relative to real data",
            "mean distance between samples",
            lambda t: t.diversity and t.diversity.ratio,
            "{:.2f}",
            min,
        ),
    )
    made = []
    for label, hint, number_of, layout, worst in chosen:
        numbers = []
        for name, size in context.results.sizes.items():
            values = {target.target: number_of(target) for target in size.targets}
            known = {target: value for target, value in values.items() if value is not None}
            if known:
                at = worst(known, key=known.__getitem__)
                shown, extreme = layout.format(statistics.fmean(known.values())), layout.format(known[at])
                remark = f"{extreme} at {at:g}" if extreme != shown else ""
                numbers.append((context.name(name), shown, remark))
        if numbers:
            made.append(Headline(label=label, hint=hint, numbers=tuple(numbers)))
    return made


def _within(score: Accuracy | None) -> float | None:
    return None if score is None else score.percent_within
