"""``whorl evaluate`` and ``report``: results and pages."""

from __future__ import annotations

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
    judge: Annotated[
        Path | None, typer.Option("--surrogate", "--judge", help="Surrogate that evaluates the features.")
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="Rows trained on, from 'whorl data sample'.")] = None,
    structures: Annotated[
        Path | None, typer.Option(help="Reconstructed from them, by 'whorl invert' or 'whorl decode'.")
    ] = None,
    crystals: Annotated[Path | None, typer.Option(help="Another name of --structures.")] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Real structures of the features: for novelty, distributions, and --calculator."),
    ] = None,
    cgcnn: Annotated[bool, typer.Option(help="Of crystals: predict seven properties by CGCNN.")] = True,
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
            help="Reference of the formation energy in eV/atom; repeat for several.",
            show_default="computed",
        ),
    ] = None,
    quantity: Annotated[
        str,
        typer.Option(
            help="What of the calculator is the property: formation_energy, energy_per_atom, energy, or "
            "another one that it has, such as dipole; auto: one that agrees with the labels in --dataset."
        ),
    ] = "auto",
    subtract_offset: Annotated[
        bool, typer.Option("--subtract-offset", help="Subtract its mean difference from these labels.")
    ] = False,
    property: Annotated[
        str | None, typer.Option(help="Which property of the features.", show_default="the only one there is")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Within this of the target is a hit.")] = 0.1,
    evaluator: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or import path of an evaluator. May be repeated.", show_default="all that apply"
        ),
    ] = None,
    executor: ExecutorName = None,
) -> None:
    """Evaluate generated features and the structures reconstructed from them, by all evaluators that apply.

    Writes results.json, results.csv, samples.csv, the metrics of each evaluator and the structures as
    .extxyz; shows the tables. Structures are also ranked, best first:
    candidates/candidates.csv, and a CIF or extended XYZ file of each.
    """
    from whorl.potentials import importable
    from whorl.workflow.settings import EvaluateSettings
    from whorl.workflow.stages.evaluate import evaluate_files
    from whorl.workflow.stages.report import summary

    if structures is not None and crystals is not None:
        raise InputError("--structures and --crystals are the same: give one of them.")
    if calculator is not None and structures is None and crystals is None:
        raise InputError("--calculator computes structures: give them with --structures.")
    if crystals is not None and dataset is None:
        raise InputError("--crystals are compared with real ones: give both --crystals and --dataset.")
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
            structures=structures or crystals,
            dataset=dataset,
            surrogate=judge,
            property=property,
        )
        show_summary(*summary(results))
        out.print(str(results))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Page to write.", show_default="<folder>/report/report.html"),
    ] = None,
) -> None:
    """Write the report of a run again: one self-contained HTML page."""
    from whorl.workflow.stages.report import report_again

    out.print(str(report_again(folder, output=output)))
