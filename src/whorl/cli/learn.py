"""``whorl encode``, ``train`` and ``generate``: features, models, new features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whorl.axes import CONDITIONS, GENERATORS, REPRESENTATIONS, SURROGATES
from whorl.cli.app import CommandTable, app, given_options
from whorl.cli.console import monitored, out
from whorl.cli.options import ExecutorName, Seed, given, options_from
from whorl.cli.settings_options import given_settings, settings_command

FeaturesFile = Annotated[Path, typer.Argument(help="Features, from 'whorl encode'.", show_default=False)]
Property = Annotated[str | None, typer.Option(help="Name of the property.", show_default="the only one")]

Dataset = Annotated[
    Path | None,
    typer.Option(help="Data set of the features, needed for conditions.", show_default=False),
]

Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="A setting as in a recipe; may be repeated.",
        show_default=False,
    ),
]


@app.command()
def encode(
    dataset: Annotated[Path, typer.Argument(help="Data set, from 'whorl data'.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Features to write (.safetensors).")],
    kind: Annotated[
        str, typer.Option(help=f"Representation: {', '.join(REPRESENTATIONS)}, or package.module:Class.")
    ] = "acsf",
    preset: Annotated[
        str | None,
        typer.Option(help="Set of symmetry functions: fung2022 or crystal.", show_default="fung2022"),
    ] = None,
    species: Annotated[
        list[str] | None,
        typer.Option(help="Chemical element; may be repeated.", show_default="those of the data"),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Periodic images: all, or minimum (the convention of Fung et al.).", show_default="all"
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Any other key of a recipe's representation section, such as max_atoms=12; may be repeated.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with a representation section, instead of the options above.",
            show_default=False,
        ),
    ] = None,
    executor: ExecutorName = None,
) -> None:
    """Compute the features (fingerprint) of every structure of a data set.

    With `--kind crystens`, crystals are encoded as tensors that `whorl decode` can convert back.
    """
    from whorl.representations import RepresentationSettings
    from whorl.settings import settings_from
    from whorl.workflow.outputs import check_output
    from whorl.workflow.recipe import read_section
    from whorl.workflow.stages import encode as stage

    check_output(output, dataset)
    if settings is not None:
        if wrong := [
            name for name in ("kind", "preset", "species", "images", "option") if name in given_options()
        ]:
            raise typer.BadParameter("is in the file of --settings already.", param_hint=f"--{wrong[0]}")
        representation = read_section(RepresentationSettings, settings, "representation")
    else:
        named = given(locals(), ("kind", "preset", "species", "images"))
        options = {key: value for key, value in named.items() if value is not None} | options_from(option)
        representation = settings_from(RepresentationSettings, options, source="whorl encode")
    with monitored(executor) as monitor:
        stage.encode(dataset, settings=representation, output=output, monitor=monitor)
        out.print(str(output))


train_app = CommandTable(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Train a generator p(R | y), a surrogate that predicts y from R, or an embedding of elements.",
)
app.add_typer(train_app, name="train")


@train_app.command(
    cls=settings_command("whorl.generators.settings:GeneratorSettings", leaves_out=("conditions",))
)
def generator(
    features: FeaturesFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write (.safetensors).")],
    rows: Annotated[
        Path | None,
        typer.Option(help="Rows to train on, from 'whorl data sample'.", show_default="all, split 80:20"),
    ] = None,
    property: Property = None,
    kind: Annotated[
        str,
        typer.Option(help=f"Generator: {', '.join(GENERATORS)}. For its settings see --kind KIND --help."),
    ] = "cvae",
    option: Options = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Condition in addition to the property: {', '.join(CONDITIONS)}; may be repeated.",
            show_default=False,
        ),
    ] = None,
    dataset: Dataset = None,
    seed: Seed = 0,
) -> None:
    """Train a conditional generator of features. If interrupted, training resumes when started again."""
    from whorl.generators.settings import GeneratorSettings
    from whorl.settings import settings_from
    from whorl.workflow.stages import train

    options = {"kind": kind, **given_settings(), **options_from(option)}
    if condition:
        options["conditions"] = condition
    settings = settings_from(GeneratorSettings, options, source="whorl train generator")
    with monitored() as monitor:
        train.train_generator(
            features,
            property=property,
            rows=rows,
            settings=settings,
            output=output,
            seed=seed,
            monitor=monitor,
            dataset=dataset,
        )
        out.print(str(output))


@train_app.command(cls=settings_command("whorl.surrogates.settings:SurrogateSettings"))
def surrogate(
    features: FeaturesFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write (.safetensors).")],
    property: Property = None,
    kind: Annotated[
        str,
        typer.Option(help=f"Surrogate: {', '.join(SURROGATES)}. For its settings see --kind KIND --help."),
    ] = "network",
    rows: Annotated[
        Path | None,
        typer.Option(help="Rows to fit to, from 'whorl data sample'.", show_default="all, split 80:20"),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train a surrogate, which predicts the property from the features."""
    from whorl.settings import settings_from
    from whorl.surrogates.settings import SurrogateSettings
    from whorl.workflow.stages import train

    settings = settings_from(
        SurrogateSettings, {"kind": kind, **given_settings()}, source="whorl train surrogate"
    )
    with monitored() as monitor:
        train.train_surrogate(
            features,
            property=property,
            settings=settings,
            output=output,
            seed=seed,
            monitor=monitor,
            rows=rows,
        )
        out.print(str(output))


@train_app.command()
def embedding(
    dataset: Annotated[
        Path, typer.Argument(help="Labelled data set, from 'whorl data'.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Representation section to write (.yaml).")],
    property: Property = None,
    kind: Annotated[str, typer.Option(help="Representation: acsf, soap, ace or fchl19.")] = "soap",
    option: Options = None,
    channels: Annotated[int, typer.Option(help="Channels of an element, 2 to 5.")] = 4,
    seed: Seed = 0,
) -> None:
    """Learn channels of the elements, by which features of many elements predict a property best.

    The file is for `whorl encode --settings`, or the section `representation` of a recipe.
    """
    from whorl.workflow.stages import train

    with monitored() as monitor:
        train.learn_embedding(
            dataset,
            property=property,
            settings={"kind": kind, **options_from(option)},
            channels=channels,
            output=output,
            seed=seed,
            monitor=monitor,
        )
        out.print(str(output))


@app.command(
    cls=settings_command(
        "whorl.workflow.settings:GenerateSettings",
        "whorl.workflow.settings:SelectionSettings",
        leaves_out=("targets", "samples", "selection", "formulas", "proposals"),
        headings=(
            "Requested conditions (the generator must be conditioned on them)",
            "Selection from a pool, with --ensemble",
        ),
    )
)
def generate(
    model: Annotated[
        list[Path], typer.Argument(help="One or more models of 'whorl train generator'.", show_default=False)
    ],
    features: Annotated[
        Path, typer.Option(help="Training features, for the representation and the property range.")
    ],
    target: Annotated[list[float], typer.Option(help="Target property value; may be repeated.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Generated features to write (.safetensors).")
    ],
    samples: Annotated[int, typer.Option(help="Samples for each target.")] = 10_000,
    dataset: Dataset = None,
    ensemble: Annotated[
        Path | None,
        typer.Option(
            "--ensemble",
            "--committee",
            help="Select the samples from a larger pool by this model of 'whorl train surrogate --kind "
            "ensemble'.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="Training rows, for --ensemble or conditions.", show_default="all"),
    ] = None,
    property: Property = None,
    seed: Seed = 0,
) -> None:
    """Sample features conditioned on target property values.

    With `--ensemble`, samples are selected from a pool for target accuracy and diversity. Elements or
    symmetry can be requested if the generator is conditioned on them (`whorl train generator --condition`);
    conditions that are not requested are drawn from training rows.
    """
    from whorl.settings import settings_from
    from whorl.workflow.settings import GenerateSettings, SelectionSettings
    from whorl.workflow.stages import generate as stage

    of_selection = SelectionSettings.model_fields
    options: dict[str, Any] = {"targets": target, "samples": samples}
    options |= {name: value for name, value in given_settings().items() if name not in of_selection}
    if ensemble is not None:
        options["selection"] = {
            name: value for name, value in given_settings().items() if name in of_selection
        }
    settings = settings_from(GenerateSettings, options, source="whorl generate")
    with monitored() as monitor:
        stage.generate(
            model,
            features=features,
            property=property,
            settings=settings,
            output=output,
            seed=seed,
            monitor=monitor,
            rows=rows,
            ensemble=ensemble,
            dataset=dataset,
        )
        out.print(str(output))
