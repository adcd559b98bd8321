"""Section of the self-consistency of generated tensors, compared with the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping

from whorl.report.crystals import CITATION, table
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import NOTHING, Column, Table
from whorl.report.widgets import render

TABLE_1: Mapping[str, Mapping[str, float]] = {
    "GAN": {
        "variance_lengths": 582.23,
        "variance_angles": 1338.11,
        "variance_space_group": 6322.1,
        "variance_coordinates": 5.57e-2,
    },
    "WGAN": {
        "variance_lengths": 31.18,
        "variance_angles": 695.03,
        "variance_space_group": 3024.27,
        "variance_coordinates": 5.9e-2,
    },
    "diffusion": {
        "variance_lengths": 0.35,
        "variance_angles": 0.846,
        "variance_space_group": 4.56,
        "variance_coordinates": 4.36e-4,
    },
}
"""Mean variances of what a tensor says several times, by model; of 1,000 tensors each."""

TABLE_2: Mapping[str, Mapping[str, float]] = {
    "GAN": {"coordinate_agreement": 9.62e-2, "pairwise_difference": 3.84},
    "WGAN": {"coordinate_agreement": 1.37e-2, "pairwise_difference": 2.49},
    "diffusion": {"coordinate_agreement": 5.51e-4, "pairwise_difference": 0.473},
}
"""Mean disagreement of coordinates with differences, and of distances with coordinates, per atom."""

_MEASURES = {
    "variance_lengths": "σ² of a, b, c (Å²)",
    "variance_angles": "σ² of α, β, γ (square degrees)",
    "variance_space_group": "σ² of the space group",
    "variance_coordinates": "σ² of fractional coordinates",
    "coordinate_agreement": "Δ coordinate / atom",
    "pairwise_difference": "Σ pairwise / atom",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class SelfConsistency(ReportSection):
    """Tables 1 and 2 of Alverson et al. 2024."""

    kind = "consistency"
    title = "Self-consistency of the tensors"
    order = 65
    evaluators = ("consistency",)

    def applies(self, context: ReportContext) -> bool:
        """Whether the representation says things several times."""
        return any(set(_measured(context, label)) & set(_MEASURES) for label in context.evaluated)

    def html(self, context: ReportContext) -> str:
        """Return both tables."""
        counts = " and ".join(sorted({f"{len(of.samples):,}" for of in context.evaluated.values()}))
        return render(
            "sections/table.html",
            tables=[_table(context, TABLE_1, "Table 1"), _table(context, TABLE_2, "Table 2")],
            captions=[
                "A tensor holds cell, space group and coordinates several times. Above, the variance of "
                "what should "
                "be the same (table 1 of the paper); below, the difference of coordinates from those that "
                "differences "
                "give, and of distances from those of the decoded coordinates (table 2). Means over "
                f"{counts} tensors of each generator; less is better.",
                "Shaded: the paper's, over 1,000 tensors of each model, trained on 53,856 crystals with at "
                "most 52 "
                "atoms from Pearson's Crystal Data. Ours are of another data set, and of the sizes and "
                "training of "
                f"this recipe: orders of magnitude can be compared, not more. {CITATION}.",
            ],
        )


def _measured(context: ReportContext, label: str) -> Mapping[str, float | None]:
    metrics = context.evaluated[label].metrics
    return metrics["consistency"].overall if "consistency" in metrics else {}


def _table(context: ReportContext, paper: Mapping[str, Mapping[str, float]], head: str) -> Table:
    rows = list(next(iter(paper.values())))
    ours = [
        (
            Column(group="this run", label=context.name(label)),
            [_short(_measured(context, label).get(row)) for row in rows],
        )
        for label in context.evaluated
    ]
    theirs = [
        (Column(group="paper", label=name, reference=True), [_short(values[row]) for row in rows])
        for name, values in paper.items()
    ]
    return table(head, [_MEASURES[row] for row in rows], ours + theirs)


def _short(value: float | None) -> str:
    """Return three digits of a number, small ones with a power of ten.

    >>> _short(582.23), _short(0.846), _short(4.36e-4), _short(None)
    ('582', '0.846', '4.36 × 10⁻⁴', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 0.01 or value == 0:
        return f"{value:.3g}"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits} × 10{str(int(power)).translate(_SUPERSCRIPTS)}".replace(" ", "\N{NO-BREAK SPACE}")
