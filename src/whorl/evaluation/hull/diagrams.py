"""Phase diagrams as plain data, for pictures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whorl.evaluation.hull.reference import HullDistance, HullReference
from whorl.structures.convert import Structures


def phase_diagrams(
    reference: HullReference, structures: Structures, distances: Sequence[HullDistance]
) -> list[dict[str, Any]]:
    """Return a phase diagram for each chemical system of the structures, JSON-able.

    Returns:
        For each system ``system`` ("Cl-Na"), ``elements``, and ``points``: ``formula``, ``fractions`` (by
        element), ``formation_energy``, ``energy_above_hull`` (eV/atom), ``kind`` ("reference" or
        "structure"), ``index`` (of the structure, else None) and ``stable``.
    """
    raise NotImplementedError
