"""``whorl invert``: atoms for generated fingerprints, or the round trip of one's own structures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.cli.app import app
from whorl.cli.console import err, monitored, out, plain_table
from whorl.cli.options import COUNT, POSITIVE, Seed, given
from whorl.errors import InputError
from whorl.workflow.settings import InvertSettings

if TYPE_CHECKING:
    from whorl.report.comparison import Comparison
    from whorl.representations import RepresentationSettings

_INVERT = InvertSettings()
_ROUND_TRIP, _GENERATED, _STEPS = (
    "Round trip (--round-trip)",
    "Generated features (without --round-trip)",
    "Algorithm 1 (--solver algorithm1)",
)
_ONLY_ROUND_TRIP = ("representation", "pooling", "budget_seconds")
_ONLY_GENERATED = (
    "composition",
    "dataset",
    "features",
    "rows",
    "samples",
    "weights",
    "reference",
    "budget_evaluations",
    "min_distance",
)
_STEP_NAMES = ("starts", "hops", "iterations", "polish", "learning_rate", "noise")
_MOST_ROWS = 50  # of the table on the terminal
_FILES = (".yaml", ".yml", ".json")


@app.command()
def invert(
    file: Annotated[
        Path,
        typer.Argument(
            help="Structures (CIF, POSCAR, extxyz, ASE database, a folder of CIFs, a data set) with "
            "--round-trip; otherwise features from 'whorl generate'.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--out",
            "--output",
            "-o",
            help="Folder for the results of a round trip; for generated features the structures to write "
            "(.safetensors; .extxyz beside it).",
        ),
    ],
    round_trip: Annotated[
        bool,
        typer.Option(
            "--round-trip", help="Encode the structures of FILE, forget their atoms, and find them again."
        ),
    ] = False,
    representation: Annotated[
        str | None,
        typer.Option(
            help="fung2022, fung2022-minimum, crystal, or a YAML or JSON file of symmetry functions.",
            show_default="crystal for what is periodic, else fung2022",
            rich_help_panel=_ROUND_TRIP,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="From atoms to the structure, such as max,min or mean,std.",
            show_default="as the representation has it",
            rich_help_panel=_ROUND_TRIP,
        ),
    ] = None,
    budget_seconds: Annotated[
        float | None,
        typer.Option(
            help="For all targets together.",
            parser=POSITIVE,
            show_default="150 000 evaluations for each, fewer beyond ten atoms",
            rich_help_panel=_ROUND_TRIP,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(help="whorl, or algorithm1 (Fung et al. 2022).", show_default="whorl"),
    ] = None,
    free_cell: Annotated[
        bool, typer.Option("--free-cell", help="Search for the cells of crystals too.")
    ] = False,
    composition: Annotated[
        str | None,
        typer.Option(
            help="Atoms to place, such as Pt10.",
            show_default="as requested in 'whorl generate', else as in --dataset",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Data set: the most similar structure gives the cell, and the composition if not requested.",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Of the data set: they show which loss is too high. Needed with --dataset, --rows.",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            help="From 'whorl data sample': its validation rows show what the search can reach.",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Samples of each target to invert.", rich_help_panel=_GENERATED)
    ] = _INVERT.samples,
    weights: Annotated[
        str,
        typer.Option(help="Of the features: none (the paper) or whitening.", rich_help_panel=_GENERATED),
    ] = "none",
    reference: Annotated[
        int, typer.Option(help="Real ones inverted for comparison.", rich_help_panel=_GENERATED)
    ] = _INVERT.reference,
    budget_evaluations: Annotated[
        int,
        typer.Option(help="Of the solver whorl, for each generated one.", rich_help_panel=_GENERATED),
    ] = _INVERT.budget_evaluations,
    min_distance: Annotated[
        float,
        typer.Option(
            help="Least distance of two atoms, as a part of the sum of their covalent radii; 0 for none.",
            rich_help_panel=_GENERATED,
        ),
    ] = _INVERT.min_distance,
    starts: Annotated[
        int, typer.Option(help="Random starts of each.", rich_help_panel=_STEPS)
    ] = _INVERT.starts,
    hops: Annotated[int, typer.Option(help="Rounds of each start.", rich_help_panel=_STEPS)] = _INVERT.hops,
    iterations: Annotated[
        int, typer.Option(help="Steps of each round.", rich_help_panel=_STEPS)
    ] = _INVERT.iterations,
    polish: Annotated[
        int, typer.Option(help="Steps for the best of all.", rich_help_panel=_STEPS)
    ] = _INVERT.polish,
    learning_rate: Annotated[
        float, typer.Option(help="In Å.", rich_help_panel=_STEPS)
    ] = _INVERT.learning_rate,
    noise: Annotated[
        float, typer.Option(help="Displacement between rounds, in Å.", rich_help_panel=_STEPS)
    ] = _INVERT.noise,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Structures at once; it bounds the memory.", show_default="by the solver", parser=COUNT
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Find atoms whose fingerprints are the generated ones, or see whether your own structures come back.

    `whorl invert my.cif --round-trip --out DIR` encodes each structure, forgets its atoms, searches, and
    compares: a table of status, loss and RMSD, structures as .extxyz and .cif, and a page of pictures.

    Every target gets a loss and a status; those that probably no structure has are marked invalid, not
    hidden. Stopped or killed, it continues when started again.
    """
    said = _changed(locals())
    if round_trip:
        used = _STEP_NAMES if solver == "algorithm1" else ()
        if wrong := [name for name in (*_ONLY_GENERATED, *_STEP_NAMES) if name in said and name not in used]:
            why = "--solver algorithm1" if wrong[0] in _STEP_NAMES else "generated features"
            raise typer.BadParameter(f"belongs to {why}, not to this round trip.", param_hint=_flag(wrong[0]))
        steps = given(locals(), [name for name in (*used, "batch_size") if name in said])
        options = {
            "representation": _own_functions(representation),
            "pooling": None if pooling is None else tuple(name.strip() for name in pooling.split(",")),
            "free_cell": free_cell,
            "budget_seconds": budget_seconds,
            "solver": solver or "whorl",
            "steps": steps,
            "seed": seed,
        }
        _round_trip(file, output, options)
        return
    if wrong := [name for name in _ONLY_ROUND_TRIP if name in said]:
        raise typer.BadParameter("needs --round-trip.", param_hint=_flag(wrong[0]))
    if file.exists() and file.suffix.lower() != ".safetensors":
        raise InputError(
            f"{file}: expected features from 'whorl generate' (.safetensors). To encode structures and find "
            "their atoms again, add --round-trip."
        )
    from whorl.workflow import atoms
    from whorl.workflow.recipe import settings_from

    names = (
        *("samples", *_STEP_NAMES, "weights", "reference", "budget_evaluations"),
        *("composition", "free_cell", "min_distance"),
    )
    chosen = given(locals(), (*names, *({"solver", "batch_size"} & said)))
    settings = settings_from(InvertSettings, chosen, source="whorl invert")
    with monitored() as monitor:
        atoms.invert(
            file,
            settings=settings,
            output=output,
            seed=seed,
            monitor=monitor,
            features=features,
            rows=rows,
            dataset=dataset,
        )
        out.print(str(output))


def _changed(values: Mapping[str, Any]) -> set[str]:
    """Return the options that are not at their defaults."""
    defaults = {name: one.default for name, one in inspect.signature(invert).parameters.items()}
    return {name for name, value in values.items() if value != defaults[name]}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _own_functions(representation: str | None) -> str | RepresentationSettings | None:
    """Read the file where one is meant."""
    from whorl.representations import InvertibleRepresentation, RepresentationSettings
    from whorl.workflow.recipe import read_section

    if representation is None or Path(representation).suffix.lower() not in _FILES:
        return representation
    settings = read_section(RepresentationSettings, Path(representation), "representation")
    if issubclass(settings.method, InvertibleRepresentation):
        raise InputError(
            f"{representation}: {settings.kind} has a closed-form inverse, which needs no search. "
            "Use 'whorl encode' and 'whorl decode', or symmetry functions here."
        )
    return settings


def _round_trip(file: Path, folder: Path, options: dict[str, Any]) -> None:
    from whorl.workflow.round_trip import round_trip
    from whorl.workflow.round_trip_files import outcome_lines
    from whorl.workflow.round_trip_settings import RoundTripSettings

    try:
        settings = RoundTripSettings(**options)
    except InputError as error:  # one of the options is at fault, not the file
        raise typer.BadParameter(str(error)) from None
    with monitored() as monitor:
        targets = round_trip(file, settings=settings, output=folder, monitor=monitor)
        _show(targets)
        for line in outcome_lines(targets):
            err.print(line)
        out.print(str(folder / "comparison.html"))


def _show(targets: list[Comparison]) -> None:
    from whorl.report.comparison import in_angstrom

    # Of many, those to look at.
    shown = targets if len(targets) <= _MOST_ROWS else [one for one in targets if not one.recovered]
    shown = shown[:_MOST_ROWS]
    rows = [
        (
            str(one.number),
            one.name,
            one.formula,
            str(one.n_atoms),
            one.status,
            f"{one.loss:.1e}",
            in_angstrom(one.rmsd),
            f"{one.seconds:.1f}",
        )
        for one in shown
    ]
    styles = ["green" if one.recovered else "yellow" if one.status == "converged" else "red" for one in shown]
    if rows:
        head = ("target", "name", "formula", "atoms", "status", "loss", "RMSD (Å)", "s")
        plain_table(head, rows, left=(1, 2, 4), colored=4, styles=styles, shortened=1)
    if len(shown) < len(targets):
        err.print(f"{len(targets) - len(shown)} more targets in result.csv")
