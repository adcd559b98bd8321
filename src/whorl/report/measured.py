"""Page of a structure found for a measured pair distribution function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from whorl.files import write_text
from whorl.reconstruction.measured import Fit
from whorl.report.spheres import render_structure
from whorl.report.widgets import figure_png, png_uri, render
from whorl.structures.composition import formula_of_all
from whorl.yaml_text import dump_yaml


def write_measured(
    path: Path, *, title: str, measured: Float[np.ndarray, "K"], fit: Fit, record: Mapping[str, Any]
) -> None:
    """Write the page: one HTML file that needs no other file and no network.

    Args:
        path: The page.
        title: Heading.
        measured: G on the points of the fit's representation.
        fit: The structure.
        record: What ``result.json`` holds.
    """
    lengths = fit.structure.cells[0].norm(dim=1).tolist() if bool(fit.structure.pbc.all()) else []
    content = render(
        "measured.html",
        title=title,
        record=record,
        formula=formula_of_all(fit.structure),
        lengths=lengths,
        structure=png_uri(render_structure(fit.structure)),
        curves=png_uri(draw_curves(fit.representation.r, measured, fit.calculated)),
        settings=dump_yaml(dict(record["settings"])),
    )
    write_text(path, content)


def draw_curves(
    r: Float[np.ndarray, "K"], measured: Float[np.ndarray, "K"], calculated: Float[np.ndarray, "K"]
) -> bytes:
    """Return a PNG of a measured and a calculated curve, and below them their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.subplots()
    below = float(min(measured.min(), calculated.min())) - 1.2 * float(np.abs(measured - calculated).max())
    axes.plot(r, measured, "o", color="#8c959f", markersize=3, label="measured")
    axes.plot(r, calculated, color="#0072b2", linewidth=1.4, label="calculated")
    axes.axhline(below, color="#dfe3e8", linewidth=0.8)
    axes.plot(r, below + measured - calculated, color="#d55e00", linewidth=1.0, label="difference")
    axes.set_xlabel("r (Å)")
    axes.set_ylabel("G (Å$^{-2}$)")
    axes.margins(x=0.01)
    axes.legend(frameon=False, ncols=3, loc="upper right", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure_png(figure)
