"""``whorl invert``: reconstruction of structures from features by a search; round trips."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.cli.app import app
from whorl.cli.console import err, monitored, out, plain_table
from whorl.cli.options import POSITIVE, ExecutorName, Seed
from whorl.cli.settings_options import given_settings, settings_command
from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.report.comparison import Comparison
    from whorl.representations import RepresentationSettings

_ROUND_TRIP, _GENERATED = "Round trip (--round-trip)", "Generated features (without --round-trip)"
_MEASURED = "Measured pair distribution function (.gr)"
_ONLY_ROUND_TRIP = ("representation", "pooling", "budget_seconds")
_ONLY_GENERATED = ("dataset", "features", "rows")
_OF_MEASURED = ("formula", "representation", "budget_seconds", "cell", "budget_evaluations")
SEARCH_OF_GENERATED = (
    *("samples", "weights", "reference", "quantile", "margin", "composition"),
    *("budget_evaluations", "reference_evaluations", "min_distance", "solver"),
    *("template", "cell", "frozen", "frozen_tag", "space_group"),
)
"""Settings of a search that only generated features have."""
_KINDS = {None: "population", "whorl": "population"}
_MOST_ROWS = 50  # of the table on the terminal
_FILES = (".yaml", ".yml", ".json")


@app.command(
    cls=settings_command("whorl.reconstruction.settings:ReconstructorSettings", flag="--solver", kinds=_KINDS)
)
def invert(
    file: Annotated[
        Path,
        typer.Argument(
            help="Structures (CIF, POSCAR, extxyz, ASE database, a folder of CIFs, a data set) with "
            "--round-trip; a measured pair distribution function (.gr); otherwise features from 'whorl "
            "generate'.",
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
            "(.safetensors and .extxyz).",
        ),
    ],
    round_trip: Annotated[
        bool,
        typer.Option(
            "--round-trip", help="Encode the structures of FILE, discard positions, and reconstruct them."
        ),
    ] = False,
    representation: Annotated[
        str | None,
        typer.Option(
            help="fung2022, fung2022-minimum, crystal, another representation such as soap, or a "
            "YAML or JSON file of settings; of a measured G(r) such a file of kind pdf.",
            show_default="crystal for periodic structures, else fung2022",
            rich_help_panel=_ROUND_TRIP,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Pooling over atoms, such as max,min or mean,std.",
            show_default="that of the representation",
            rich_help_panel=_ROUND_TRIP,
        ),
    ] = None,
    budget_seconds: Annotated[
        float | None,
        typer.Option(
            help="Time budget in seconds for all targets together.",
            parser=POSITIVE,
            show_default="150 000 evaluations per target, fewer above ten atoms",
            rich_help_panel=_ROUND_TRIP,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="population, algorithm1 (Fung et al. 2022), or for generated rows closed_form.",
            show_default="population",
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Data set; its most similar structure gives the cell, and the composition if not requested.",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Features of the data set, for the threshold of invalid losses and for --dataset, --rows.",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            help="Rows from 'whorl data sample'; validation rows are reconstructed as a reference.",
            rich_help_panel=_GENERATED,
        ),
    ] = None,
    formula: Annotated[
        str | None,
        typer.Option(
            help="All atoms of the cell (--cell) or of the cluster, such as Ni4.",
            rich_help_panel=_MEASURED,
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    executor: ExecutorName = None,
) -> None:
    """Reconstruct structures from generated features by a search, or make a round trip of your structures.

    `whorl invert my.cif --round-trip --out DIR` encodes each structure, discards the positions, searches, and
    compares: a table of status, loss and RMSD, structures as .extxyz and .cif, and an HTML page.

    `whorl invert Ni.gr --formula Ni4 --cell 3.524 --out DIR` finds the structure whose pair distribution
    function was measured, refines it, and writes it with R_w, the curves, and an HTML page.

    `whorl invert FEATURES --composition free` finds the compositions too, from the features alone; add
    --elements Cu,Au,Pt and --n-atoms 2..8 to limit them. With --round-trip it forgets the elements as well.

    Every target gets a loss and a status; features that probably no structure has are marked invalid. If
    interrupted, it resumes when started again.
    """
    changed, chosen = _changed(locals()), given_settings()
    from whorl.reconstruction import ReconstructorSettings
    from whorl.settings import settings_from

    if file.suffix.lower() == ".gr" or formula is not None:
        _measured(file, output, changed, chosen, formula, representation, budget_seconds, seed, executor)
        return
    kind = _KINDS.get(solver, solver)
    settings = settings_from(ReconstructorSettings, {"kind": kind, **chosen}, source="whorl invert")
    if round_trip:
        if wrong := [name for name in changed if name in _ONLY_GENERATED]:
            raise typer.BadParameter("belongs to generated features.", param_hint=_flag(wrong[0]))
        free = getattr(settings, "free", None)
        for name in ("composition", "elements", "n_atoms") if free is not None else ():
            chosen.pop(name, None)
        wrong = [name for name in chosen if name in SEARCH_OF_GENERATED]
        if wrong or getattr(settings, "begins_with", None) is not None:
            wrong = wrong or ["starts"]
            option = "--descent" if wrong[0] == "solver" else _flag(wrong[0])
            raise typer.BadParameter("belongs to generated features.", param_hint=option)
        options = {
            "representation": _own_functions(representation),
            "pooling": None if pooling is None else tuple(name.strip() for name in pooling.split(",")),
            "free_cell": bool(chosen.pop("free_cell", False)),
            "free_composition": free,
            "budget_seconds": budget_seconds,
            "solver": solver or "population",
            "steps": chosen,
            "seed": seed,
        }
        _round_trip(file, output, options, executor)
        return
    if wrong := [name for name in _ONLY_ROUND_TRIP if name in changed]:
        raise typer.BadParameter("needs --round-trip.", param_hint=_flag(wrong[0]))
    if file.exists() and file.suffix.lower() != ".safetensors":
        raise InputError(
            f"{file}: expected features from 'whorl generate' (.safetensors). To encode structures and find "
            "their atoms again, add --round-trip."
        )
    from whorl.workflow.stages.reconstruct import reconstruct

    with monitored(executor) as monitor:
        reconstruct(
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


def _measured(
    file: Path,
    folder: Path,
    changed: set[str],
    chosen: dict[str, Any],
    formula: str | None,
    representation: str | None,
    budget_seconds: float | None,
    seed: int,
    executor: str | None,
) -> None:
    from whorl.reconstruction.population import PopulationSearch
    from whorl.settings import settings_from
    from whorl.workflow.measured import invert_measured

    known = {*_OF_MEASURED, "file", "output", "seed", "executor"}
    if wrong := [name for name in [*sorted(changed), *chosen] if name not in known]:
        raise typer.BadParameter("does not belong to a measured G(r).", param_hint=_flag(wrong[0]))
    if file.suffix.lower() != ".gr":
        raise typer.BadParameter("belongs to a measured G(r), a file .gr.", param_hint="--formula")
    if formula is None:
        raise InputError(f"{file}: give all atoms of its cell, or of its cluster: --formula, such as Ni4.")
    own = _own_functions(representation)
    kind = own if own is None or isinstance(own, str) else own.kind
    if kind not in (None, "pdf"):
        raise InputError(
            f"--representation: got {representation} of kind {kind}, expected pdf for a measured G(r), or a "
            "YAML or JSON file of settings with kind: pdf."
        )
    search = settings_from(PopulationSearch.Settings, chosen, source="whorl invert")
    with monitored(executor) as monitor:
        fit = invert_measured(
            file,
            formula=formula,
            output=folder,
            monitor=monitor,
            cell=search.cell,
            settings=None if isinstance(own, str) else own,
            budget_evaluations=search.budget_evaluations if "budget_evaluations" in chosen else None,
            budget_seconds=budget_seconds,
            seed=seed,
        )
        group = f", space group {fit.space_group}" if bool(fit.structure.pbc.all()) else ""
        err.print(f"R_w {fit.r_w:.3f}{group}")
        out.print(str(folder / "report.html"))


def _changed(values: Mapping[str, Any]) -> set[str]:
    """Return the options that are not at their defaults."""
    defaults = {name: one.default for name, one in inspect.signature(invert).parameters.items()}
    return {name for name, value in values.items() if value != defaults[name]}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _own_functions(representation: str | None) -> str | RepresentationSettings | None:
    """Read the file where one is meant."""
    from whorl.representations import RepresentationSettings
    from whorl.workflow.recipe import read_section

    if representation is None or Path(representation).suffix.lower() not in _FILES:
        return representation
    return read_section(RepresentationSettings, Path(representation), "representation")


def _round_trip(file: Path, folder: Path, options: dict[str, Any], executor: str | None) -> None:
    from whorl.workflow.round_trip import round_trip
    from whorl.workflow.round_trip_files import outcome_lines
    from whorl.workflow.round_trip_settings import RoundTripSettings

    try:
        settings = RoundTripSettings(**options)
    except InputError as error:  # one of the options is at fault, not the file
        raise typer.BadParameter(str(error)) from None
    with monitored(executor) as monitor:
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
