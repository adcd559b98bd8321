"""``whorl compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.app import app
from whorl.cli.console import out


@app.command()
def compare(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FOLDER...",
            help="Two or more folders of 'whorl evaluate STRUCTURES'.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for comparison.html, comparison.png, comparison.csv."),
    ],
) -> None:
    """Compare evaluated sets of structures, such as those of several generators.

    Writes a page with their metrics side by side and their distributions over one another, a picture of the
    distributions of energy above hull and formation energy, and a table. Differences in how the sets were
    evaluated, such as another hull, are said first.
    """
    from rich.table import Table

    from whorl.report.evaluated_comparison import compare_sets

    pairs = [_named(text) for text in folders]
    rows = compare_sets([folder for _, folder in pairs], output, names=[name for name, _ in pairs])
    table = Table("protocol", "metric", *[name or Path(folder).resolve().name for name, folder in pairs])
    for row in rows:
        shown = ["" if metric is None else metric.value for metric in row.shown]
        table.add_row(row.group, row.label, *shown)
    out.print(table)
    out.print(str(output / "comparison.html"))


def _named(text: str) -> tuple[str | None, str]:
    """Split ``NAME=FOLDER``; a folder whose own name has a ``=`` is taken as it is."""
    name, equals, folder = text.partition("=")
    return (name, folder) if equals and name and not Path(text).exists() else (None, text)
