"""Results of Fung et al. 2022 (Mach. Learn.: Sci. Technol. 3, 045018) for Pt10, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CITATION = (
    "V. Fung, S. Jia, J. Zhang, S. Bi, J. Yin, P. Ganesh: Atomic structure generation from reconstructing "
    "structural fingerprints. Mach. Learn.: Sci. Technol. 3, 045018 (2022)"
)

Published = Mapping[int, Mapping[float, tuple[float, float]]]

TABLE_1: Published = {
    30_000: {
        1.9: (0.05, 96.78),
        2.2: (0.02, 99.98),
        2.5: (0.01, 99.91),
        2.8: (0.03, 99.72),
        3.1: (0.03, 99.20),
        3.4: (0.03, 99.00),
        3.7: (0.08, 84.50),
    },
    3000: {
        1.9: (0.07, 75.68),
        2.2: (0.03, 99.24),
        2.5: (0.03, 98.77),
        2.8: (0.04, 96.39),
        3.1: (0.04, 94.92),
        3.4: (0.05, 89.93),
        3.7: (0.09, 70.19),
    },
    300: {
        1.9: (0.06, 87.68),
        2.2: (0.05, 89.75),
        2.5: (0.05, 88.94),
        2.8: (0.06, 82.23),
        3.1: (0.07, 73.32),
        3.4: (0.08, 64.53),
        3.7: (0.08, 75.72),
    },
}
"""Features by the surrogate: training rows → target → (mean absolute error in eV/atom, % within 0.1)."""

TABLE_2: Published = {
    30_000: {1.9: (0.30, 0.0), 2.8: (0.14, 36.0), 3.7: (0.15, 36.0)},
    3000: {1.9: (0.43, 0.0), 2.8: (0.12, 49.0), 3.7: (0.13, 50.0)},
    300: {1.9: (0.54, 0.0), 2.8: (0.18, 22.0), 3.7: (0.15, 49.0)},
}
"""Atoms by DFT, no relaxation or screening: training rows → target → (mean absolute error, % within 0.1)."""


def published_size(training_rows: int) -> int | None:
    """Return the paper's training size that these rows may be compared with: within a factor of 1.5.

    >>> published_size(320), published_size(1000)
    (300, None)
    """
    nearest = min(TABLE_1, key=lambda size: max(size, training_rows) / max(1, min(size, training_rows)))
    return nearest if nearest / 1.5 <= training_rows <= nearest * 1.5 else None


def published(table: Published, training_rows: int, target: float) -> tuple[float, float] | None:
    """Return the paper's error and percentage for a training size and target, where it has them."""
    size = published_size(training_rows)
    if size is None:
        return None
    return next((values for asked, values in table[size].items() if abs(asked - target) < 0.005), None)


def is_pt10(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe is about the paper's system: Pt10 clusters and their formation energy."""
    data = recipe.get("data") or {}
    clusters, features = data.get("clusters") or {}, data.get("features") or {}
    if clusters:
        return (clusters.get("formula") or f"{clusters.get('element')}{clusters.get('atoms')}") == "Pt10"
    named = str(features.get("property", "")).replace("_", " ").lower()
    return str(features.get("composition") or "") == "Pt10" and "formation" in named
