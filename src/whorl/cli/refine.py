"""``whorl refine``: refinement of structures by any refiner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.axes import REFINERS
from whorl.cli.app import app
from whorl.cli.console import monitored, out
from whorl.cli.options import ExecutorName, Seed
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
    seed: Seed = 0,
    executor: ExecutorName = None,
) -> None:
    """Refine structures; report distance moved, energy calls and status of each.

    `whorl refine atoms.safetensors --kind relax --calculator chgnet -o relaxed.safetensors` relaxes the
    positions. A structure that cannot be refined is returned unchanged, with the reason as its status.
    """
    from whorl.potentials import importable
    from whorl.refinement import RefinerSettings
    from whorl.settings import settings_from
    from whorl.workflow.stages.refine import refine as refine_structures

    with importable("."), monitored(executor) as monitor:
        settings = settings_from(RefinerSettings, {"kind": kind, **given_settings()}, source="whorl refine")
        refine_structures(structures, settings=settings, output=output, monitor=monitor, seed=seed)
        out.print(str(output))
