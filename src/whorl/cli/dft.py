"""``whorl dft …``: calculations by programs of density functional theory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.axes import DFT_CODES
from whorl.cli.app import CommandTable, app
from whorl.cli.console import monitored, out
from whorl.cli.options import COUNT, POSITIVE
from whorl.cli.settings_options import given_settings, settings_command

dft_app = CommandTable(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Write input files of DFT programs, and read what came out.",
)
app.add_typer(dft_app, name="dft")


@dft_app.command(cls=settings_command("whorl.dft.settings:DFTSettings", flag="--code"))
def write(
    structures: Annotated[
        Path,
        typer.Argument(help="A data set or any file or folder of crystals.", show_default=False),
    ],
    output: Annotated[Path, typer.Argument(help="New folder.", show_default=False)],
    code: Annotated[
        str, typer.Option(help=f"Program: {', '.join(DFT_CODES)}, or package.module:Class.")
    ] = "vasp",
    cell: Annotated[
        str,
        typer.Option(
            help="primitive, conventional, niggli or as_is. Labels of an active round need as_is.",
        ),
    ] = "primitive",
    refined: Annotated[
        bool,
        typer.Option(
            "--refined", help="Make the symmetry exact first: atoms near special positions are put onto them."
        ),
    ] = False,
    symprec: Annotated[
        float, typer.Option(parser=POSITIVE, metavar="<float>", help="Tolerance in Å for the cell.")
    ] = 0.01,
    count: Annotated[
        int | None,
        typer.Option(
            parser=COUNT, metavar="<int>", help="Only so many, from the first one.", show_default="all"
        ),
    ] = None,
) -> None:
    """Write a folder of input files for each crystal, and run.sh, which computes them.

    For VASP, run.sh makes POTCAR files from VASP_PP_PATH and starts VASP_COMMAND: four relaxations in a row
    with the settings of Alverson et al., or one of the presets. Crystals that the program cannot compute are
    skipped with a reason.
    """
    from whorl.workflow.stages.dft import write_inputs

    with monitored() as monitor:
        write_inputs(
            structures,
            output,
            options={"kind": code, **given_settings()},
            cell=cell,
            refined=refined,
            symprec=symprec,
            monitor=monitor,
            count=count,
        )
        out.print(str(output))


@dft_app.command()
def read(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder from 'whorl dft write', or any with output below it.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results.", show_default="the same folder"),
    ] = None,
) -> None:
    """Collect energies, pressures and convergence of calculations in any state.

    Written are `table.csv` (free energy E0 of the structure and E1, E2 … after each stage in eV, pressures
    P1, P2 … in kbar), `relaxed.extxyz`, `labels.extxyz` (the first ionic steps: results for an active round)
    and `steps.extxyz` (all of them, for training). Calculations without a result are skipped, others that
    are not converged doubtful: in both cases the exit code is 3.
    """
    from whorl.workflow.stages.dft import read_results

    with monitored() as monitor:
        for path in read_results(folder, output or folder, monitor=monitor):
            out.print(str(path))
