"""``whorl propose``: structures of new formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.axes import PROPOSERS
from whorl.cli.app import app
from whorl.cli.console import monitored, out
from whorl.cli.options import COUNT, FINITE, Seed, Tolerance
from whorl.cli.settings_options import given_settings, settings_command


@app.command(
    cls=settings_command(
        "whorl.proposals.settings:FormulaRequest",
        "whorl.proposals.settings:ProposerSettings",
        headings=("Requests of each formula", "Settings of the model"),
        flag="--model",
    )
)
def propose(
    dataset: Annotated[Path, typer.Argument(help="Data set, from 'whorl data'.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Structures to write (.safetensors, .extxyz and .csv).")
    ],
    model: Annotated[
        str,
        typer.Option(help=f"Method that proposes formulas: {', '.join(PROPOSERS)}, or package.module:Class."),
    ] = "substitution",
    target: Annotated[
        float | None,
        typer.Option(
            parser=FINITE,
            metavar="<float>",
            help="Value of the property.",
            show_default="any",
        ),
    ] = None,
    tolerance: Tolerance = 0.1,
    property: Annotated[
        str | None, typer.Option(help="Name of the property.", show_default="the only one")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", help="Number of formulas, or of structures of one.", parser=COUNT)
    ] = 100,
    seed: Seed = 0,
) -> None:
    """Propose structures of new formulas that are likely to have a value of the property.

    Elements are substituted in the structures of the data set, their cells scaled, and the property predicted
    by a surrogate that is fitted to the data. Each formula occurs once. For example
    `whorl propose data.safetensors --target 0.2 --element O --balanced -n 300 -o new.safetensors`; then
    `whorl refine new.safetensors --kind project --dataset data.safetensors -o refined.safetensors`.

    `--model network` draws formulas from a network instead, for thousands of crystals of many structures.
    `--formula Sr2Ti2O6 -n 5` gives likely structures of one formula.
    """
    from whorl.proposals.settings import FormulaRequest, ProposalSettings
    from whorl.settings import settings_from
    from whorl.workflow.proposals import propose as propose_structures

    given = given_settings()
    requested = {name: given.pop(name) for name in list(given) if name in FormulaRequest.model_fields}
    settings = settings_from(
        ProposalSettings, {**requested, "model": {"kind": model, **given}}, source="whorl propose"
    )
    with monitored() as monitor:
        propose_structures(
            dataset,
            output=output,
            count=count,
            monitor=monitor,
            property=property,
            target=target,
            tolerance=tolerance,
            settings=settings,
            seed=seed,
        )
        out.print(str(output))
