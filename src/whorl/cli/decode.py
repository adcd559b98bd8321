"""``whorl decode``: crystals from tensors that have a closed-form inverse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.app import app
from whorl.cli.console import monitored, out
from whorl.workflow.settings import DecodeSettings

_DEFAULTS = DecodeSettings()


@app.command()
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
    clustering: Annotated[
        str,
        typer.Option(
            help="auto finds how many different elements and coordinates there are; paper fixes the numbers; "
            "none takes means as they are."
        ),
    ] = _DEFAULTS.clustering,
    k_elements: Annotated[
        int, typer.Option(help="Different elements, of the paper's clustering.")
    ] = _DEFAULTS.k_elements,
    k_coordinates: Annotated[
        int, typer.Option(help="Different coordinates in each direction, of the paper's clustering.")
    ] = _DEFAULTS.k_coordinates,
    elements: Annotated[
        str,
        typer.Option(
            help="data gives each site the nearest element that the data have and that was asked for; any of "
            "all elements."
        ),
    ] = _DEFAULTS.elements,
    refine: Annotated[bool, typer.Option(help="Find the symmetry and make it exact.")] = True,
) -> None:
    """Turn CrysTens tensors into crystals, with their real space groups.

    A tensor that is no crystal is listed with its reason, the rest goes on. `<output>-decoded.json` says how
    far each tensor contradicts itself.
    """
    from whorl.workflow import crystals
    from whorl.workflow.recipe import settings_from

    options = {
        "clustering": clustering,
        "k_elements": k_elements,
        "k_coordinates": k_coordinates,
        "refine": refine,
        "elements": elements,
    }
    settings = settings_from(DecodeSettings, options, source="whorl decode")
    with monitored() as monitor:
        crystals.decode(features, settings=settings, output=output, monitor=monitor)
        out.print(str(output))
