"""``whorl run``: a whole recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.app import app
from whorl.cli.console import err, monitored, out, show_summary
from whorl.cli.options import ExecutorName


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder.", show_default="runs/<name of the recipe>"),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one setting, such as generator.epochs=100 or 'generate.targets=[1.9, 2.8]'. "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Last stage: data, encode, reference, sampling, train, generate, reconstruct, active, "
            "refine, evaluate or candidates.",
            show_default=False,
        ),
    ] = None,
    executor: ExecutorName = None,
) -> None:
    """Run all stages of a recipe, from data to the report.

    Finished stages are not repeated, and a changed setting reruns only the stages that depend on it. After
    an interruption (Ctrl-C), the same command continues.
    """
    from whorl.potentials import importable
    from whorl.workflow.recipe import read_recipe
    from whorl.workflow.stages import run_recipe
    from whorl.workflow.stages.report import summary

    with importable(recipe.parent), monitored() as monitor:
        changes = [*(change or ()), *(() if executor is None else (f"executor={executor}",))]
        settings = read_recipe(recipe, changes=changes)
        folder = output or Path("runs") / settings.name
        written = run_recipe(settings, folder, monitor=monitor, until=until)
        results = folder / "evaluate" / "results.json"
        if until in (None, "evaluate", "candidates", "report") and results.exists():
            show_summary(*summary(results))
        candidates = folder / "candidates" / "candidates.csv"
        if until in (None, "candidates", "report") and candidates.exists():
            err.print(f"candidates, best first: {candidates}")
        out.print(str(written))
