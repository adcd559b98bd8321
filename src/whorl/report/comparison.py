"""Comparison page of a round trip: original and solution of each target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from whorl.files import write_text
from whorl.report.spheres import render_structure
from whorl.report.widgets import figure_png, png_uri, render
from whorl.structures.batch import StructureBatch
from whorl.yaml_text import dump_yaml

_MOST_SHOWN = 60  # targets with pictures
_MOST_SKIPPED = 100
_SAME = 1e-12  # features nearer than this are drawn at this difference


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became of one target.

    Attributes:
        number: Of the target, from 0.
        name: Where it comes from.
        formula: Such as CH4O.
        status: Of the search, such as ``converged``.
        recovered: Whether the structure was recovered.
        loss: Between the fingerprints, in the terms of the search.
        rmsd: Between the atoms, in Å; infinite where they cannot be laid upon one another.
        seconds: That the search took.
        evaluations: Of the fingerprint; NaN where they were not counted.
        infeasibility: How likely the search thinks that no structure has the fingerprint, from 0 to 1.
        advice: What the outcome means and what one can do.
        representation: In a few words.
        original: The structure that was encoded.
        found: What the search found, laid upon the original where that can be done.
        alternatives: Other structures that have the fingerprint.
        wanted: The fingerprint of the original.
        reached: That of what was found.
    """

    number: int
    name: str
    formula: str
    status: str
    recovered: bool
    loss: float
    rmsd: float
    seconds: float
    evaluations: float
    infeasibility: float
    advice: str
    representation: str
    original: StructureBatch
    found: StructureBatch
    alternatives: StructureBatch
    wanted: Float[Tensor, "F"]
    reached: Float[Tensor, "F"]

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.original.atomic_numbers)

    @property
    def outcome(self) -> str:
        """The status and the atoms together: ``recovered``, ``other structure`` or ``not found``."""
        if self.recovered:
            return "recovered"
        return "other structure" if self.status == "converged" else "not found"


def in_angstrom(distance: float) -> str:
    """Return an RMSD as people read it.

    >>> in_angstrom(4e-9), in_angstrom(0.0213), in_angstrom(float("inf"))
    ('< 0.0001', '0.0213', 'no match')
    """
    if not math.isfinite(distance):
        return "no match"
    return "< 0.0001" if distance < 1e-4 else f"{distance:.4f}" if distance < 0.1 else f"{distance:.2f}"


def summary(targets: Sequence[Comparison]) -> str:
    """Say in one sentence how it went.

    >>> summary([])
    'no targets'
    """
    if not targets:
        return "no targets"
    counts = Counter(target.outcome for target in targets)
    text = f"{counts['recovered']} of {len(targets)} recovered"
    if counts["other structure"]:
        text += f", {counts['other structure']} as another structure with the same fingerprint"
    if counts["not found"]:
        text += f", {counts['not found']} not found"
    return text


def write_comparison(
    path: Path | str,
    targets: Sequence[Comparison],
    *,
    title: str,
    settings: Mapping[str, Any],
    skipped: Sequence[tuple[str, str]] = (),
    provenance: Mapping[str, Any],
) -> None:
    """Write the page: one HTML file that needs no other file and no network.

    Args:
        path: The page.
        targets: In order. All are in its table; pictures are drawn of up to 60, those not recovered first.
        title: Heading.
        settings: Resolved, as plain data.
        skipped: Entries of the input that could not be used: source and reason.
        provenance: Version and seed.
    """
    first = sorted(targets, key=lambda target: target.recovered)[:_MOST_SHOWN]
    shown = sorted(first, key=lambda target: target.number)
    content = render(
        "comparison.html",
        title=title,
        summary=summary(targets),
        targets=targets,
        shown=[(target, _pictures(target)) for target in shown],
        left_out=len(targets) - len(shown),
        in_angstrom=in_angstrom,
        settings=dump_yaml(dict(settings)),
        skipped=list(skipped[:_MOST_SKIPPED]),
        skipped_count=len(skipped),
        provenance={name.replace("_", " "): value for name, value in provenance.items() if value is not None},
    )
    write_text(path, content)


def _pictures(target: Comparison) -> dict[str, str]:
    pictures = {
        "original": render_structure(target.original),
        "found": render_structure(target.found, seen_as=target.original),
        "fingerprints": draw_fingerprints(target.wanted, target.reached),
    }
    return {name: png_uri(png) for name, png in pictures.items()}


def draw_fingerprints(wanted: Float[Tensor, "F"], reached: Float[Tensor, "F"]) -> bytes:
    """Return a PNG of two fingerprints above one another, and below it their difference (logarithmic)."""
    from matplotlib.figure import Figure

    target, found = wanted.double().numpy(), reached.double().numpy()
    apart = np.maximum(np.nan_to_num(np.abs(found - target), nan=np.inf), _SAME)
    finite = apart[np.isfinite(apart)]
    figure = Figure(figsize=(4.6, 2.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    place = np.arange(len(target))
    upper.plot(place, target, color="#b8bec6", linewidth=2.6, label="original")
    upper.plot(place, found, color="#0072b2", linewidth=0.7, label="found")
    size = float(np.abs(target).max(initial=0.0))
    if size > 0:
        upper.set_yscale("symlog", linthresh=0.01 * size)
    upper.set_ylabel("feature")
    figure.legend(loc="outside upper right", fontsize=7, frameon=False, ncols=2)
    lower.plot(place, apart, color="#d55e00", linewidth=0.6)
    lower.set_yscale("log")
    lower.set_ylim(_SAME / 3, max(10.0 * float(finite.max(initial=0.0)), 1.0))
    lower.set_ylabel("|difference|")
    lower.set_xlabel("number of the feature")
    for axes in (upper, lower):
        axes.tick_params(labelsize=7)
        axes.yaxis.label.set_size(8)
        axes.xaxis.label.set_size(8)
        axes.margins(x=0.01)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure_png(figure)
