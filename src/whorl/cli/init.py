"""``whorl init``: example recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.app import app
from whorl.cli.console import out, show_facts


@app.command()
def init(
    name: Annotated[
        str | None, typer.Argument(help="Name of an example recipe.", show_default="list them")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="./<name>.yaml")
    ] = None,
) -> None:
    """Write an example recipe, to run as it is or to edit; without a name, list the recipes.

    The comments at its top state its requirements and run time. An existing file is not overwritten.
    """
    from whorl.workflow.recipe import shipped_recipes, write_shipped

    if name is None:
        recipes = shipped_recipes()
        show_facts(recipes, width=max(map(len, recipes)))
        out.print("Write one: whorl init NAME")
        return
    path = write_shipped(name, output)
    out.print(str(path))
    out.print(f"Next: whorl run {path}")
