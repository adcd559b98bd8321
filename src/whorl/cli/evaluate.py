"""``whorl evaluate`` and ``whorl report``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from whorl.axes import PROTOCOLS
from whorl.cli.app import app, given_options
from whorl.cli.console import monitored, out, show_summary
from whorl.cli.options import ExecutorName, options_from
from whorl.errors import InputError, UsageError
from whorl.settings import settings_from

_OF_STRUCTURES = ("reference", "potential", "relax", "relax_option", "hull", "protocol", "format")
_OF_FEATURES = (
    *("surrogate", "judge", "rows", "structures", "crystals", "dataset", "cgcnn", "calculator"),
    *("bulk_energy", "quantity", "subtract_offset", "property", "tolerance", "evaluator"),
)
_STRUCTURES, _FEATURES = "Options for structures", "Options for generated features"


@app.command()
def evaluate(
    generated: Annotated[
        Path,
        typer.Argument(
            metavar="STRUCTURES",
            help="Structures: a folder or a zip of CIF or POSCAR files, a file (CIF, extended XYZ, ASE "
            "database, CSV or Parquet with a column of CIFs), or structures that whorl wrote. With "
            "--features: generated features, from 'whorl generate'.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Known crystals, for novelty: any file or folder of structures.",
            rich_help_panel=_STRUCTURES,
        ),
    ] = None,
    potential: Annotated[
        str | None,
        typer.Option(help="Energy method, such as chgnet or emt.", rich_help_panel=_STRUCTURES),
    ] = None,
    relax: Annotated[
        bool,
        typer.Option("--relax", help="Relax the structures by the potential.", rich_help_panel=_STRUCTURES),
    ] = False,
    relax_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Setting of the relaxation, such as steps=200, cell=false, optimizer=lbfgs, "
            "force_tolerance (eV/Å), stress_tolerance (GPa), pressure (GPa), symmetry. May be repeated.",
            show_default=False,
            rich_help_panel=_STRUCTURES,
        ),
    ] = None,
    hull: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Reference phases for energies above the hull: mp2019=FILE, own=FILE, or potential: the "
            "reference and the elements by the same potential.",
            rich_help_panel=_STRUCTURES,
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Protocol of the field: {', '.join(PROTOCOLS)}. May be repeated; all share the work.",
            show_default=False,
            rich_help_panel=_STRUCTURES,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of the file of structures.", show_default="recognised", rich_help_panel=_STRUCTURES
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Features of the real structures.", show_default=False, rich_help_panel=_FEATURES),
    ] = None,
    surrogate: Annotated[
        Path | None, typer.Option(help="Surrogate that evaluates the features.", rich_help_panel=_FEATURES)
    ] = None,
    judge: Annotated[Path | None, typer.Option(hidden=True)] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Training rows, from 'whorl data sample'.", rich_help_panel=_FEATURES)
    ] = None,
    structures: Annotated[
        Path | None,
        typer.Option(
            help="Reconstructed structures, from 'whorl invert' or 'whorl decode'.", rich_help_panel=_FEATURES
        ),
    ] = None,
    crystals: Annotated[Path | None, typer.Option(hidden=True)] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Data set of the real structures, for novelty, distributions, and labels for --calculator.",
            rich_help_panel=_FEATURES,
        ),
    ] = None,
    cgcnn: Annotated[
        bool, typer.Option(help="Predict seven properties of crystals by CGCNN.", rich_help_panel=_FEATURES)
    ] = True,
    calculator: Annotated[
        str | None, typer.Option(help="Energy method, such as chgnet or emt.", rich_help_panel=_FEATURES)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Option of the energy method. May be repeated.", show_default=False
        ),
    ] = None,
    bulk_energy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ELEMENT=EV",
            help="Bulk energy in eV/atom, for formation energies; may be repeated.",
            show_default="computed",
            rich_help_panel=_FEATURES,
        ),
    ] = None,
    quantity: Annotated[
        str,
        typer.Option(
            help="Quantity that is the property: formation_energy, energy_per_atom, energy, or another of "
            "the calculator, such as dipole; auto: one that agrees with the labels of --dataset.",
            rich_help_panel=_FEATURES,
        ),
    ] = "auto",
    subtract_offset: Annotated[
        bool,
        typer.Option(
            "--subtract-offset",
            help="Subtract the mean difference from the labels.",
            rich_help_panel=_FEATURES,
        ),
    ] = False,
    property: Annotated[
        str | None,
        typer.Option(help="Name of the property.", show_default="the only one", rich_help_panel=_FEATURES),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(help="A sample within this distance of the target is a hit.", rich_help_panel=_FEATURES),
    ] = 0.1,
    evaluator: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or import path of an evaluator; may be repeated.",
            show_default="all that apply",
            rich_help_panel=_FEATURES,
        ),
    ] = None,
    executor: ExecutorName = None,
) -> None:
    """Evaluate structures of any origin, or generated features.

    `whorl evaluate my_cifs/ --potential chgnet --relax --hull mp2019=FILE --reference known.csv --protocol
    mattergen -o results` writes structures.csv (a row for each structure that came in), metrics.json,
    relaxed.extxyz, candidates.extxyz (valid, unique and new crystals, the most stable first, for `whorl dft
    write`) and report.html. Finished parts are kept: the same command goes on after an interruption.

    With --features: evaluate generated features and reconstructed structures, by all evaluators that apply.
    Writes results.json, results.csv, samples.csv, the metrics of each evaluator and the structures as
    .extxyz, and prints the tables. Structures are also ranked, best first, in candidates/candidates.csv, with
    a CIF or extended XYZ file each.
    """
    _refuse_options(_OF_FEATURES if features is None else _OF_STRUCTURES, features)
    if features is None:
        _evaluate_structures(
            generated,
            output=output,
            reference=reference,
            potential=potential,
            options=option,
            relax=relax,
            relax_options=relax_option,
            hull=hull,
            protocols=protocol,
            format=format,
            executor=executor,
        )
        return
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


def _refuse_options(names: Sequence[str], features: Path | None) -> None:
    """Refuse the options of the other use of the command.

    Raises:
        UsageError: One is given.
    """
    for name in given_options().intersection(names):
        option = f"--{name.replace('_', '-')}"
        if features is not None:
            raise UsageError(f"{option} is for structures: leave it out, or leave out --features.")
        instead = {"calculator": "--potential", "dataset": "--reference"}.get(name)
        hint = f" For structures it is {instead}." if instead else ""
        raise UsageError(f"{option} is for generated features, together with --features.{hint}")


def _evaluate_structures(
    path: Path,
    *,
    output: Path,
    reference: Path | None,
    potential: str | None,
    options: list[str] | None,
    relax: bool,
    relax_options: list[str] | None,
    hull: str | None,
    protocols: list[str] | None,
    format: str | None,
    executor: str | None,
) -> None:
    from whorl.evaluation.structure_set import RelaxationSettings
    from whorl.potentials import importable
    from whorl.potentials.settings import CalculatorSettings
    from whorl.workflow.structure_evaluation import StructureEvaluation, evaluate_structures, summary

    if options and potential is None:
        raise UsageError("--option is one of the energy method: give --potential too.")
    if relax_options and not relax:
        raise UsageError("--relax-option is one of the relaxation: give --relax too.")
    source = "--relax-option"
    with importable("."), monitored(executor) as monitor:
        settings = StructureEvaluation(
            reference=reference,
            calculator=None
            if potential is None
            else settings_from(
                CalculatorSettings, {"name": potential, "options": options_from(options)}, source="--option"
            ),
            relaxation=settings_from(
                RelaxationSettings, options_from(relax_options, option=source), source=source
            )
            if relax
            else None,
            hull=hull,
            protocols=tuple(protocols or ()),
        )
        written = evaluate_structures(path, settings=settings, output=output, monitor=monitor, format=format)
        for line in summary(written):
            out.print(line)
        out.print(str(written.with_name("report.html")))


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
