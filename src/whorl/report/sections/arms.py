"""Section of arms: what each step gains by the energy method, and what it costs."""

from __future__ import annotations

from collections.abc import Callable

from whorl.evaluation.results import Arm
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import NOTHING, Column, Table
from whorl.report.widgets import render

_WORDS = {
    "plain": "as reconstructed",
    "project": "projected",
    "oracle": "energy calls",
    "relax": "relaxed",
    "baseline": "training structures, projected",
}


class Arms(ReportSection):
    """Hits by the energy method as reconstructed, after each refiner, and of random training structures."""

    kind = "arms"
    title = "What refinement gains"
    order = 37

    def applies(self, context: ReportContext) -> bool:
        """Whether structures of more than one arm were evaluated."""
        return any(len(target.arms) > 1 for size in context.results.sizes.values() for target in size.targets)

    def html(self, context: ReportContext) -> str:
        """Return a table for each training size."""
        results = context.results
        return render(
            "sections/table.html",
            tables=[self._table(context, label) for label in results.sizes],
            captions=[
                f"By {context.energy_method}: all structures of each target, none left out. Draws: samples "
                "that were reconstructed for them, with those that could not reach the target. Calls: of the "
                "energy method, mean for a structure. Moved: root mean square distance of the atoms from "
                "where they were reconstructed. Whole: in one piece. Training structures, projected: what "
                "the same refinement makes of random structures that the generator was trained on.",
                "Labels known to generator and surrogates: "
                + ", ".join(
                    f"{context.name(label)}: {arm.labels:,}"
                    for label, size in results.sizes.items()
                    for arm in list(size.targets[0].arms.values())[:1]
                )
                + ". Energy calls come on top.",
            ],
        )

    def _table(self, context: ReportContext, label: str) -> Table:
        results, size = context.results, context.results.sizes[label]
        names = list(dict.fromkeys(name for target in size.targets for name in target.arms))
        shown: list[tuple[str, str, Callable[[Arm], float | None], str]] = [
            (f"within ±{results.tolerance:g}", "%", lambda arm: arm.percent_within, ".0f"),
            ("MAE", results.unit, lambda arm: arm.mean_absolute_error, ".3f"),
            ("calls", "", lambda arm: arm.energy_calls, ".1f"),
            ("draws", "", lambda arm: arm.draws, ".0f"),
            ("moved", "Å", lambda arm: arm.displacement, ".2f"),
            ("whole", "%", lambda arm: arm.percent_whole, ".0f"),
        ]
        columns, cells = [], []
        for name in names:
            arms = [target.arms.get(name) for target in size.targets]
            group = _WORDS.get(name, name)
            for heading, unit, number, form in shown:
                if name == "plain" and heading in ("calls", "draws", "moved"):
                    continue
                columns.append(Column(group=f"{context.name(label)}, {group}", label=heading, unit=unit))
                values = [None if arm is None else number(arm) for arm in arms]
                cells.append([NOTHING if value is None else format(value, form) for value in values])
        return Table(
            columns=tuple(columns),
            targets=tuple(f"{target.target:.2f}" for target in size.targets),
            rows=tuple(zip(*cells, strict=True)),
            target_label=f"Target ({results.unit})" if results.unit else "Target",
        )
