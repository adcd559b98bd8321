"""Convex hulls from files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from whorl.evaluation.hull.reference import HullReference


def read_hull(
    spec: str,
    *,
    scheme: str = "mp2020",
    systems: Collection[frozenset[str]] | None = None,
    elemental: Path | None = None,
) -> HullReference:
    """Read a convex hull.

    Args:
        spec: ``mp2019=FILE`` (the table of `whorl data fetch hull_mp2019`), ``own=FILE``, or FILE alone.
        scheme: To which the energies of ``mp2019`` are brought: that of the energies to be compared.
        systems: Sets of elements whose phases are needed; by default all.
        elemental: File of elemental entries, or its folder; by default next to FILE.

    Raises:
        InputError: Unknown or damaged file, unknown scheme.
    """
    raise NotImplementedError
