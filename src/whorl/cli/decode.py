"""``whorl decode``: crystals from tensors that have a closed-form inverse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.app import app
from whorl.cli.console import monitored, out
from whorl.cli.options import ExecutorName
from whorl.cli.settings_options import given_settings, settings_command


@app.command(
    cls=settings_command(
        "whorl.reconstruction.closed_form:ClosedForm.Settings", headings=("Settings, also options",)
    )
)
def decode(
    features: Annotated[
        Path, typer.Argument(help="Tensors, from 'whorl generate' or 'whorl encode'.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Crystals to write (.safetensors; beside it a folder with CIF, POSCAR, extxyz).",
        ),
    ],
    executor: ExecutorName = None,
) -> None:
    """Turn CrysTens tensors into crystals, with their real space groups.

    A tensor that is no crystal is listed with its reason, the rest goes on. `<output>-reconstruction.json`
    says how far each tensor contradicts itself.
    """
    from whorl.reconstruction import ClosedForm
    from whorl.settings import settings_from
    from whorl.workflow.stages.reconstruct import reconstruct

    settings = settings_from(ClosedForm.Settings, given_settings(), source="whorl decode")
    with monitored(executor) as monitor:
        reconstruct(features, settings=settings, output=output, monitor=monitor)
        out.print(str(output))
