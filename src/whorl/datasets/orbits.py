r"""Orbits of the sites of a crystal, with special positions recognised within the written digits.

A site at x, written with errors δ between bounds, lies on a special position where some operations
x → W x + w take one place x + δ within the bounds onto itself. The place nearest to x is then taken, and the
site has as many atoms as it has different images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from whorl.datasets.cif_sites import Sites
from whorl.datasets.cif_symmetry import Operations
from whorl.errors import InputError
from whorl.structures.checks import SAME_PLACE

APART = 0.5  # Å; nearer than this, two images of one site cannot both be atoms
_EXACT = 1e-6  # fractional; images nearer than this are one
_COARSE = 1.4e-3  # range of a coordinate that is written in three digits
_AT_ONCE = 2_000_000  # pairs of site and operation


@dataclass(frozen=True, eq=False)
class Expanded:
    """All atoms of a cell.

    Attributes:
        fractional: Coordinates from 0 to 1, shape (N, 3).
        site: Number of each atom's site, shape (N,).
        multiplicities: Atoms of each site, shape (n,).
        uncertain: Sites that were moved onto a special position, but could as well be off it: as written,
            their images are not at one place, and their coordinates are no simple fractions (1/3 for 0.33).
        coarse: Sites on a special position that are written in three digits or fewer.
        doubts: Sites that were moved farther than their digits allow.
    """

    fractional: Float[np.ndarray, "N 3"]
    site: Int[np.ndarray, "N"]
    multiplicities: Int[np.ndarray, "n"]
    uncertain: tuple[int, ...]
    coarse: tuple[int, ...]
    doubts: tuple[str, ...]


def expand(sites: Sites, operations: Operations, cell: Float[np.ndarray, "3 3"]) -> Expanded:
    """Return all atoms of a cell.

    Args:
        sites: The sites.
        operations: A group of operations.
        cell: Lattice vectors in Å, as rows.

    Raises:
        InputError: A site that is nearer to its own image than atoms can be and not on a special position.
    """
    rotations, translations = operations.rotations.astype(np.float64), operations.translations
    turned = rotations - np.eye(3)
    lengths = np.linalg.norm(cell, axis=1)
    slack = SAME_PLACE / 2 / lengths
    low, high = np.minimum(sites.low, -slack), np.maximum(sites.high, slack)
    parts: list[np.ndarray] = []
    uncertain, coarse, doubts = [], [], []
    step = max(1, _AT_ONCE // len(operations))
    for begin in range(0, len(sites), step):
        x = sites.fractional[begin : begin + step]
        gaps = np.einsum("gij,nj->ngi", turned, x) + translations
        gaps -= np.rint(gaps)
        # Some δ within the bounds closes the gap: gap + (W - 1) δ = 0 (each coordinate for itself).
        middle, half = (low + high)[begin : begin + step] / 2, (high - low)[begin : begin + step] / 2
        off = np.abs(gaps + np.einsum("gij,nj->ngi", turned, middle))
        fixing = (off <= np.einsum("gij,nj->ngi", np.abs(turned), half) + 1e-9).all(2)
        apart = np.linalg.norm(gaps @ cell, axis=2)
        crowded = fixing | (apart < APART)
        for i in range(len(x)):
            number = begin + i
            place = x[i]
            if not crowded[i, 1:].any():
                parts.append(rotations @ place + translations)
                continue
            bounds = (low[number], high[number])
            place, moved, chosen = _special(place, bounds, turned, gaps[i], fixing[i], apart[i])
            outside = (apart[i] < APART) & ~chosen
            if outside.any():
                raise InputError(
                    f"{sites.name(number)} is {apart[i][outside].min():.2g} Å from its own image: "
                    "too near for two atoms, and not on the special position within the digits written"
                )
            span = float(apart[i][chosen].max())
            simple = _is_simple(place) | (np.abs(moved) < _EXACT)
            if span >= APART or (span > SAME_PLACE and not simple.all()):
                uncertain.append(number)
            if ((high - low)[number] >= _COARSE).any() and not _is_simple(x[i]).all():
                coarse.append(number)
            if ((moved < sites.low[number] - 1e-9) | (moved > sites.high[number] + 1e-9)).any():
                doubts.append(
                    f"{sites.name(number)} was moved by {float(np.linalg.norm(moved @ cell)):.2g} Å "
                    "onto its special position, farther than its digits allow"
                )
            images = rotations @ place + translations
            parts.append(images[_distinct(images)])
    counts = np.array([len(part) for part in parts], dtype=np.int64)
    fractional = np.concatenate(parts) % 1.0
    fractional[fractional > 1.0 - 1e-12] = 0.0
    return Expanded(
        fractional=fractional,
        site=np.repeat(np.arange(len(sites)), counts),
        multiplicities=counts,
        uncertain=tuple(uncertain),
        coarse=tuple(coarse),
        doubts=tuple(doubts),
    )


def _is_simple(place: Float[np.ndarray, "3"]) -> np.ndarray:
    """Tell which coordinates are simple fractions: halves, thirds, quarters, sixths, eighths."""
    return np.asarray(np.abs(place * 24 - np.rint(place * 24)) < 1e-6)


def _special(
    place: Float[np.ndarray, "3"],
    bounds: tuple[np.ndarray, np.ndarray],
    turned: Float[np.ndarray, "g 3 3"],
    gaps: Float[np.ndarray, "g 3"],
    fixing: np.ndarray,
    apart: Float[np.ndarray, "g"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the special position near a place, the way to it, and the operations that fix it."""
    chosen = fixing.copy()
    moved = _closing(turned[chosen], gaps[chosen], bounds)
    if moved is None:  # not all of them at once: those first whose images are nearest
        chosen = np.zeros_like(fixing)
        moved = np.zeros(3)
        for k in sorted(np.flatnonzero(fixing), key=lambda k: apart[k]):
            attempt = chosen.copy()
            attempt[k] = True
            found = _closing(turned[attempt], gaps[attempt], bounds)
            if found is not None:
                chosen, moved = attempt, found
    # What leaves this place where it is may be more than was asked for.
    rest = np.abs(gaps + turned @ moved)
    chosen = (np.minimum(rest, np.abs(rest - 1)) < _EXACT).all(1)
    return place + moved, moved, chosen


def _closing(
    turned: Float[np.ndarray, "k 3 3"],
    gaps: Float[np.ndarray, "k 3"],
    bounds: tuple[np.ndarray, np.ndarray],
) -> np.ndarray | None:
    """Return the least δ within the bounds with gap + (W - 1) δ = 0 for all operations, if there is one."""
    low, high = bounds
    half = (high - low) / 2
    matrix, wanted = turned.reshape(-1, 3), -gaps.reshape(-1)
    for centre in (np.zeros(3), (low + high) / 2):
        # In units of the bounds, so that the coordinate that is written most coarsely gives way.
        scaled = np.linalg.lstsq(matrix * half, wanted - matrix @ centre, rcond=1e-9)[0]
        moved = centre + half * scaled
        if np.abs(matrix @ moved - wanted).max() > 1e-9:
            return None
        if ((moved >= low - 1e-9) & (moved <= high + 1e-9)).all():
            return np.asarray(moved)
    return None


def _distinct(images: Float[np.ndarray, "g 3"]) -> Int[np.ndarray, "m"]:
    """Return the first of each set of equal images."""
    gaps = images[:, None] - images
    gaps -= np.rint(gaps)
    first = (np.abs(gaps) < _EXACT).all(2).argmax(1)
    return np.flatnonzero(first == np.arange(len(images)))
