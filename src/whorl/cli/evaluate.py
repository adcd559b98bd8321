"""``whorl evaluate`` and ``whorl report``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from whorl.cli.app import app
from whorl.cli.console import monitored, out, show_summary
from whorl.cli.options import ExecutorName, options_from
from whorl.errors import InputError
from whorl.settings import settings_from


@app.command()
def evaluate(
    generated: Annotated[
        Path, typer.Argument(help="Generated features, from 'whorl generate'.", show_default=False)
    ],
    features: Annotated[Path, typer.Option(help="Features of the real structures.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results.json and samples.csv.")],
    surrogate: Annotated[Path | None, typer.Option(help="Surrogate that evaluates the features.")] = None,
    judge: Annotated[Path | None, typer.Option(hidden=True)] = None,
    rows: Annotated[Path | None, typer.Option(help="Training rows, from 'whorl data sample'.")] = None,
    structures: Annotated[
        Path | None, typer.Option(help="Reconstructed structures, from 'whorl invert' or 'whorl decode'.")
    ] = None,
    crystals: Annotated[Path | None, typer.Option(hidden=True)] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Data set of the real structures, for novelty, distributions, and labels for --calculator."
        ),
    ] = None,
    cgcnn: Annotated[bool, typer.Option(help="Predict seven properties of crystals by CGCNN.")] = True,
    calculator: Annotated[str | None, typer.Option(help="Energy method, such as chgnet or emt.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Option of the calculator. May be repeated.", show_default=False
        ),
    ] = None,
    bulk_energy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ELEMENT=EV",
            help="Bulk energy in eV/atom, for formation energies; may be repeated.",
            show_default="computed",
        ),
    ] = None,
    quantity: Annotated[
        str,
        typer.Option(
            help="Quantity that is the property: formation_energy, energy_per_atom, energy, or another of "
            "the calculator, such as dipole; auto: one that agrees with the labels of --dataset."
        ),
    ] = "auto",
    subtract_offset: Annotated[
        bool, typer.Option("--subtract-offset", help="Subtract the mean difference from the labels.")
    ] = False,
    property: Annotated[
        str | None, typer.Option(help="Name of the property.", show_default="the only one")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="A sample within this distance of the target is a hit.")
    ] = 0.1,
    evaluator: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or import path of an evaluator; may be repeated.", show_default="all that apply"
        ),
    ] = None,
    executor: ExecutorName = None,
) -> None:
    """Evaluate generated features and reconstructed structures, by all evaluators that apply.

    Writes results.json, results.csv, samples.csv, the metrics of each evaluator and the structures as
    .extxyz, and prints the tables. Structures are also ranked, best first, in candidates/candidates.csv, with
    a CIF or extended XYZ file each.
    """
    from whorl.potentials import importable
    from whorl.workflow.settings import EvaluateSettings
    from whorl.workflow.stages.evaluate import evaluate_files
    from whorl.workflow.stages.report import summary

    surrogate = _renamed("--judge", judge, "--surrogate", surrogate)
    structures = _renamed("--crystals", crystals, "--structures", structures)
    if calculator is not None and structures is None:
        raise InputError("--calculator evaluates structures: give them with --structures.")
    given: dict[str, Any] = {"tolerance": tolerance, "quantity": quantity, "subtract_offset": subtract_offset}
    if not cgcnn:
        given["cgcnn"] = False
    if evaluator:
        given["evaluators"] = evaluator
    if calculator is not None:
        given["calculator"] = {
            "name": calculator,
            "options": options_from(option),
            "bulk_energy": options_from(bulk_energy, option="--bulk-energy"),
        }
    with importable("."), monitored(executor) as monitor:
        results = evaluate_files(
            generated,
            settings=settings_from(EvaluateSettings, given, source="whorl evaluate"),
            features=features,
            output=output,
            monitor=monitor,
            rows=rows,
            structures=structures,
            dataset=dataset,
            surrogate=surrogate,
            property=property,
        )
        show_summary(*summary(results))
        out.print(str(results))


def _renamed(old: str, value: Path | None, new: str, present: Path | None) -> Path | None:
    """Return the value of an option that may be given by its name of earlier versions."""
    if value is None:
        return present
    if present is not None:
        raise InputError(f"{new} and {old} are the same option: give {new} only.")
    warnings.warn(f"{old} is now called {new}.", FutureWarning, stacklevel=2)
    return value


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Page to write.", show_default="<folder>/report/report.html"),
    ] = None,
) -> None:
    """Write the HTML report of a run again."""
    from whorl.workflow.stages.report import report_again

    out.print(str(report_again(folder, output=output)))
