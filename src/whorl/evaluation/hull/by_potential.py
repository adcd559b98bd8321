"""Convex hulls of an energy method's own energies."""

from __future__ import annotations

from collections.abc import Collection

from whorl.evaluation.hull.reference import HullReference
from whorl.potentials.base import Potential
from whorl.structures.convert import Structures


def hull_by_potential(
    potential: Potential,
    structures: Structures | None = None,
    *,
    elements: Collection[str] = (),
    steps: int = 500,
) -> HullReference:
    """Return the hull of structures and elements, relaxed by the potential that is to be compared with it.

    Args:
        potential: Energy method.
        structures: Reference phases.
        elements: Chemical symbols whose elemental phases are added.
        steps: Longest relaxation.
    """
    raise NotImplementedError
