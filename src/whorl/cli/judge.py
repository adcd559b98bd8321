"""``whorl evaluate`` and ``report``: verdicts and pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.app import app
from whorl.cli.console import monitored, out, show_table
from whorl.cli.options import ExecutorName, options_from
from whorl.errors import InputError
from whorl.files import check_folder, provenance


@app.command()
def evaluate(
    generated: Annotated[
        Path, typer.Argument(help="Generated features, from 'whorl generate'.", show_default=False)
    ],
    features: Annotated[Path, typer.Option(help="Features of the real structures.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results.json and samples.csv.")],
    judge: Annotated[Path | None, typer.Option(help="Surrogate that judges the features (table 1).")] = None,
    rows: Annotated[Path | None, typer.Option(help="Rows trained on, from 'whorl data sample'.")] = None,
    structures: Annotated[
        Path | None, typer.Option(help="From 'whorl invert': judged by the calculator (table 2).")
    ] = None,
    crystals: Annotated[
        Path | None, typer.Option(help="From 'whorl decode': judged as crystals, beside --dataset.")
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Real structures: --crystals are compared with them, --calculator with labels."),
    ] = None,
    cgcnn: Annotated[
        bool, typer.Option(help="With --crystals: also predict seven properties by CGCNN.")
    ] = True,
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
    executor: ExecutorName = None,
) -> None:
    """Judge generated features by a surrogate, and atoms by an energy method, as they are.

    Writes results.json, results.csv, samples.csv and the atoms as .extxyz; shows the tables. With
    `--crystals`, also crystals.json: validity, uniqueness, novelty, distributions and predicted properties.
    """
    from whorl.datasets import load_features
    from whorl.datasets.store import property_name
    from whorl.potentials import importable
    from whorl.workflow import crystals as of_crystals
    from whorl.workflow import energies as of_atoms
    from whorl.workflow import verdict
    from whorl.workflow.recipe import settings_from
    from whorl.workflow.settings import CalculatorSettings, EvaluateSettings

    checked = settings_from(EvaluateSettings, {"tolerance": tolerance}, source="whorl evaluate")
    if calculator is not None and structures is None:
        raise InputError("--calculator judges atoms: give them with --structures, from 'whorl invert'.")
    if crystals is not None and dataset is None:
        raise InputError("--crystals are compared with real ones: give both --crystals and --dataset.")
    if dataset is not None and crystals is None and calculator is None:
        raise InputError("--dataset is compared with --crystals or --calculator: give one of them.")
    with importable("."), monitored(executor) as monitor:
        of_crystals.targets_of(generated)
        check_folder(output)
        if crystals is not None and dataset is not None:
            of_crystals.require_fitting(generated, crystals, dataset=dataset, cgcnn=cgcnn)
        energies = None
        if calculator is not None and structures is not None:
            energies = output / "energies.json"
            method = settings_from(
                CalculatorSettings,
                {
                    "name": calculator,
                    "options": options_from(option),
                    "bulk_energy": options_from(bulk_energy, option="--bulk-energy"),
                },
                source="whorl evaluate",
            )
            of_atoms.choose(
                dataset,
                property=property_name(load_features(features), property),
                calculator=method,
                quantity=quantity,
                subtract_offset=subtract_offset,
                output=output / "agreement.json",
                monitor=monitor,
            )
            of_atoms.energies(
                structures,
                calculator=method,
                output=energies,
                monitor=monitor,
                choice=output / "agreement.json",
            )
        evidence = verdict.gather(
            {"all": verdict.Files(generated=generated, rows=rows, structures=structures, energies=energies)},
            features=features,
            property=property,
            judge=judge,
        )
        verdict.judge(
            evidence,
            property=property or "property",
            tolerance=checked.tolerance,
            output=output,
            provenance=provenance(),
        )
        for heading, table in verdict.summary(output / "results.json").items():
            show_table(heading, table)
        if crystals is not None and dataset is not None:
            of_crystals.evaluate(
                generated,
                crystals,
                dataset=dataset,
                cgcnn=cgcnn,
                most=checked.real,
                output=output,
                made_with=provenance(),
                monitor=monitor,
            )
            for line in of_crystals.summary(output / "crystals.json"):
                out.print(line)
        out.print(str(output / "results.json"))


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
