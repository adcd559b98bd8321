"""``whorl data …``: data sets from builders and files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whorl.axes import POTENTIALS
from whorl.cli.app import CommandTable, app
from whorl.cli.console import monitored, out, show_facts
from whorl.cli.options import COUNT, SHARE, ExecutorName, Seed, options_from
from whorl.workflow.outputs import check_output

data_app = CommandTable(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Build, download, read and inspect data sets; select training rows.",
)
app.add_typer(data_app, name="data")


@data_app.command()
def clusters(
    count: Annotated[int, typer.Option(help="Number of structures.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Data set to write (.safetensors and .extxyz).")
    ],
    formula: Annotated[
        str | None,
        typer.Option(help="Composition of the clusters, such as Pt10, Au6Cu7 or C2H6O.", show_default=False),
    ] = None,
    element: Annotated[
        str | None, typer.Option(help="Chemical symbol, instead of --formula.", show_default=False)
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(
            help="Several, such as Cu,Au,Pt: a random composition for each start.", show_default=False
        ),
    ] = None,
    atoms: Annotated[
        str | None,
        typer.Option(
            metavar="N or N-M", help="Number of atoms, or a range such as 8-20.", show_default=False
        ),
    ] = None,
    calculator: Annotated[
        str,
        typer.Option(help=f"{', '.join(POTENTIALS)}, or package.module:Class of any ASE calculator."),
    ] = "emt",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Option of the calculator. May be repeated.", show_default=False
        ),
    ] = None,
    bulk_energy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ELEMENT=ENERGY",
            help="Energy of an element's reference state in eV/atom. May be repeated.",
            show_default="computed",
        ),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Range of formation energies, in eV/atom.", show_default="0.0 3.7; of molecules -3.7 3.7"
        ),
    ] = None,
    connected: Annotated[
        bool | None,
        typer.Option(
            "--connected/--as-found",
            help="Only structures in one piece, or all.",
            show_default="connected for molecules, as found for others",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(help="Folder of finished chunks.", show_default="<output>-chunks"),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Worker processes.", show_default="one per core", parser=COUNT)
    ] = None,
    executor: ExecutorName = None,
    seed: Seed = 0,
) -> None:
    """Build a data set of clusters or molecules: minima and geometries on the way to them from random starts.

    The label is the formation energy per atom relative to the elements, computed by the same calculator: to
    their bulk (eq. 4 of Fung et al. 2022; of several, the mean over the atoms), and with xTB for H, N, O, F
    and Cl to the gas. If interrupted, it resumes from its chunks.
    """
    from whorl.potentials import importable
    from whorl.workflow.recipe import settings_from
    from whorl.workflow.settings import ClusterSettings
    from whorl.workflow.stages import data

    given: dict[str, Any] = {
        "formula": formula,
        "element": element,
        "elements": elements,
        "atoms": atoms,
        "count": count,
        "calculator": {
            "name": calculator,
            "options": options_from(option),
            "bulk_energy": options_from(bulk_energy, option="--bulk-energy"),
        },
        "window": None if window is None else list(window),
        "connected": connected,
        "processes": processes,
    }
    settings = settings_from(ClusterSettings, given, source="whorl data clusters")
    check_output(output)
    chunks = directory or output.with_name(f"{output.stem}-chunks")
    with importable("."), monitored(executor) as monitor:
        data.clusters(settings, directory=chunks, output=output, seed=seed, monitor=monitor)
        out.print(str(output))


@data_app.command()
def crystals(
    count: Annotated[int, typer.Option(help="Number of crystals.", show_default=False, parser=COUNT)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Data set to write (.safetensors and .extxyz).")
    ],
    prototypes: Annotated[
        bool, typer.Option("--prototypes", help="Decorate AFLOW prototypes (the only source so far).")
    ] = True,
    max_atoms: Annotated[int, typer.Option(help="Maximum number of atoms in a cell.", parser=COUNT)] = 52,
    elements: Annotated[
        str | None,
        typer.Option(help="Elements to choose from, such as Li,Fe,O.", show_default="78 of them"),
    ] = None,
    calculator: Annotated[
        str | None,
        typer.Option(
            help="Calculator of the labels: chgnet, or package.module:Class of any ASE calculator.",
            show_default="no labels",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Option of the calculator. May be repeated.", show_default=False
        ),
    ] = None,
    relax: Annotated[
        bool, typer.Option("--relax", help="Relax the positions with the calculator, at fixed cells.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(help="Folder of finished chunks.", show_default="<output>-chunks"),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Worker processes.", show_default="one per core", parser=COUNT)
    ] = None,
    executor: ExecutorName = None,
    seed: Seed = 0,
) -> None:
    """Build a data set of crystals: known prototypes decorated with charge-balanced elements.

    With a calculator, the properties are `energy` (eV) and `energy_per_atom` (eV/atom). Nothing is fetched.
    If interrupted, it resumes from its chunks.
    """
    from whorl.datasets.prototypes import build_crystals
    from whorl.potentials import importable, make_potential
    from whorl.workflow.stages import data

    check_output(output)
    chunks = directory or output.with_name(f"{output.stem}-chunks")
    with importable("."), monitored(executor) as monitor:
        potential = None if calculator is None else make_potential(calculator, **options_from(option))
        dataset = build_crystals(
            count=count,
            directory=chunks,
            seed=seed,
            elements=None if elements is None else elements.replace(",", " ").split(),
            max_atoms=max_atoms,
            potential=potential,
            relaxed=relax,
            processes=processes,
            progress=monitor.progress("crystals"),
        )
        if dataset.skipped:
            first = dataset.skipped[0]
            monitor.warn(
                f"{calculator} failed on {len(dataset.skipped)} crystals, which were left out "
                f"(first: {first.source}: {first.reason})."
            )
        data.store(dataset, output, monitor)
        out.print(str(output))


@data_app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(help="perov_5, carbon_24, mp_20, mpts_52 or hull_mp2019.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Parent folder; the files go to a subfolder <name>.")
    ] = Path("data"),
) -> None:
    """Download a public benchmark set of crystals (train.csv, val.csv, test.csv) and verify it.

    An interrupted download is resumed. `whorl data read` converts each file to a data set. hull_mp2019 is a
    table of formation energies of the Materials Project, for `whorl evaluate --hull mp2019=FILE`.
    """
    from whorl.datasets.fetch import fetch_benchmark

    with monitored() as monitor:
        for path in fetch_benchmark(name, output, progress=monitor.progress(f"{name} (bytes)")):
            out.print(str(path))


@data_app.command()
def read(
    path: Annotated[
        Path,
        typer.Argument(
            help="extxyz, ASE database, CSV or Parquet with a 'cif' column, POSCAR, or a folder of CIFs.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Data set to write (.safetensors and .extxyz).")
    ],
    property: Annotated[
        str | None, typer.Option(help="Name of the property column.", show_default="no property")
    ] = None,
    per_atom: Annotated[
        bool, typer.Option("--per-atom", help="Divide the property by the number of atoms.")
    ] = False,
    format: Annotated[
        str | None, typer.Option(help="File format.", show_default="inferred from the file name")
    ] = None,
) -> None:
    """Read labelled structures from files into one data set.

    Entries that cannot be used are reported with file and reason and skipped; entries whose interpretation is
    doubtful are reported and kept. In both cases the exit code is 3.
    """
    from whorl.workflow.stages import data

    check_output(output, path, second=".extxyz")
    with monitored() as monitor:
        data.files(
            str(path), property=property, format=format, per_atom=per_atom, output=output, monitor=monitor
        )
        out.print(str(output))


@data_app.command()
def sample(
    features: Annotated[Path, typer.Argument(help="Features, from 'whorl encode'.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Rows to write (.json).")],
    size: Annotated[
        int | None,
        typer.Option(help="Rows to select by farthest point sampling.", show_default="all", parser=COUNT),
    ] = None,
    split: Annotated[
        float, typer.Option(help="Fraction used for training; the rest is for validation.", parser=SHARE)
    ] = 0.8,
    seed: Seed = 0,
) -> None:
    """Select training rows by farthest point sampling in feature space, and split off validation rows."""
    from whorl.workflow.stages import sample

    with monitored() as monitor:
        sample.training_rows(features, size=size, fraction=split, seed=seed, output=output, monitor=monitor)
        out.print(str(output))


@data_app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A data set or features (.safetensors).", show_default=False)],
) -> None:
    """Summarise a data set or feature file: structures, elements, properties and their ranges.

    Skipped and doubtful entries of a data set are listed with reasons; with doubtful ones the exit code is 3.
    """
    from whorl.datasets.describe import describe
    from whorl.datasets.store import load_dataset

    about = describe(path)
    show_facts(about, width=16)
    with monitored() as monitor:
        if about.keys() & {"skipped", "doubtful"}:
            dataset = load_dataset(path)
            for entry in dataset.skipped:
                out.print(f"  {entry.source}: {entry.reason}")
            for name, doubt in dataset.doubts:
                monitor.doubt(name, doubt)
