"""``whorl refine``: refinement of structures by any refiner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.axes import REFINERS
from whorl.cli.app import app
from whorl.cli.console import monitored, out
from whorl.cli.options import FINITE, ExecutorName, Seed, Tolerance
from whorl.cli.settings_options import given_settings, settings_command


@app.command(cls=settings_command("whorl.refinement.settings:RefinerSettings"))
def refine(
    structures: Annotated[
        Path,
        typer.Argument(
            help="Structures from 'whorl invert' or 'whorl decode', a data set, or any file of structures.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Structures to write (.safetensors and .extxyz).")
    ],
    kind: Annotated[
        str, typer.Option(help=f"Refiner: {', '.join(REFINERS)}, or package.module:Class.")
    ] = "relax",
    target: Annotated[
        float | None,
        typer.Option(
            parser=FINITE,
            metavar="<float>",
            help="Value to reach.",
            show_default="that for which each structure was generated",
        ),
    ] = None,
    tolerance: Tolerance = 0.1,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Labelled structures, for refiners that fit a surrogate.", show_default=False),
    ] = None,
    property: Annotated[
        str | None,
        typer.Option(help="Name of the property.", show_default="the only one"),
    ] = None,
    quantity: Annotated[
        str,
        typer.Option(
            help="Quantity of the calculator that is the property: formation_energy, energy_per_atom, "
            "energy, or another one."
        ),
    ] = "formation_energy",
    seed: Seed = 0,
    executor: ExecutorName = None,
) -> None:
    """Refine structures; report distance moved, energy calls and status of each.

    `whorl refine atoms.safetensors --kind relax --calculator chgnet -o relaxed.safetensors` relaxes the
    positions; `--kind project --dataset data.safetensors` moves the atoms to a target value of the property.
    A structure that cannot be refined is returned unchanged, with the reason as its status.
    """
    from whorl.potentials import importable
    from whorl.refinement import RefinerSettings
    from whorl.settings import settings_from
    from whorl.workflow.stages.atoms import Labelled
    from whorl.workflow.stages.refine import refine as refine_structures

    with importable("."), monitored(executor) as monitor:
        refine_structures(
            structures,
            settings=settings_from(
                RefinerSettings, {"kind": kind, **given_settings()}, source="whorl refine"
            ),
            output=output,
            monitor=monitor,
            seed=seed,
            target=target,
            tolerance=tolerance,
            labelled=None if dataset is None else Labelled(dataset=dataset, property=property),
            quantity=quantity,
        )
        out.print(str(output))
