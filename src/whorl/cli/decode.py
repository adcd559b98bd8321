"""``whorl decode``: closed-form reconstruction of crystals."""

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
            help="Crystals to write (.safetensors, and a folder of that name with CIF, POSCAR, extxyz).",
        ),
    ],
    executor: ExecutorName = None,
) -> None:
    """Decode CrysTens tensors into crystals, in closed form, and detect their space groups.

    Tensors that cannot be decoded are listed with reasons and skipped. `<output>-reconstruction.json` has the
    self-consistency of each tensor.
    """
    from whorl.reconstruction import ClosedForm
    from whorl.settings import settings_from
    from whorl.workflow.stages.reconstruct import reconstruct

    settings = settings_from(ClosedForm.Settings, given_settings(), source="whorl decode")
    with monitored(executor) as monitor:
        reconstruct(features, settings=settings, output=output, monitor=monitor)
        out.print(str(output))
