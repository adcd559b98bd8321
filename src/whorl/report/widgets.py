"""Widgets of report pages: panels of figures, galleries of structures, templates."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.report import figures
from whorl.report.spheres import render_structure
from whorl.structures.batch import StructureBatch


@dataclass(frozen=True, kw_only=True)
class Panels:
    """Figures that belong together.

    Attributes:
        name: Heading.
        images: Data URI, what it shows in words, note.
    """

    name: str
    images: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One structure of a gallery.

    Attributes:
        image: Data URI.
        caption: Below it.
        flag: What is wrong with it; mostly empty.
        file: Name of its file, where it has one.
    """

    image: str
    caption: str
    flag: str = ""
    file: str = ""


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template of this room."""
    return str(_environment().get_template(template).render(**values))


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["colors"] = figures
    return environment


def image(plot: figures.Plot, words: str) -> tuple[str, str, str]:
    """Return a figure as data URI, what it shows in words, and its note."""
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode(), words, plot.note


def picture(
    structure: StructureBatch, caption: str, flag: str = "", file: str = "", **options: Any
) -> Picture:
    """Draw a structure; ``options`` of :func:`render_structure`."""
    image = png_uri(render_structure(structure, **options))
    return Picture(image=image, caption=caption, flag=flag, file=file)


def png_uri(png: bytes) -> str:
    """Return a PNG as data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def figure_png(figure: Any) -> bytes:
    """Return the PNG of a figure of matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def draw(rows: Tensor, count: int, rng: torch.Generator) -> list[int]:
    """Draw some of the rows at random."""
    return rows[torch.randperm(len(rows), generator=rng)[:count]].tolist()


def evenly(values: Sequence[float], most: int) -> list[float]:
    """Return at most so many of the values, evenly."""
    if len(values) <= most:
        return list(values)
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]
