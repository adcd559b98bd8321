"""The stages of a recipe as steps: which settings decide each one, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.errors import InputError, UsageError, unknown_option
from whorl.files import provenance
from whorl.locks import locked
from whorl.settings import Section
from whorl.workflow.engine import Step, execute, read_marker, refresh, unfinished
from whorl.workflow.monitor import Monitor
from whorl.workflow.prechecks import require_feasible, require_possible
from whorl.workflow.recipe import read_recipe, save_recipe
from whorl.workflow.settings import Recipe

if TYPE_CHECKING:
    from whorl.evaluation.crystals import MadeCrystals
    from whorl.report.crystals import CrystalSection
    from whorl.workflow.verdict import Evidence

STAGES = (
    "data",
    "agreement",
    "encode",
    "sampling",
    "train",
    "generate",
    "invert",
    "decode",
    "energies",
    "properties",
    "evaluate",
    "report",
)
"""In order; a step ``train/n300`` belongs to the stage ``train``."""


_CONDITIONS = ("conditions", "elements", "formula", "crystal_system", "space_group")
_OF_CRYSTALS = ("cgcnn", "real")  # settings of the verdict that only crystals have
_OF_ENERGIES = ("calculator", "quantity", "subtract_offset")  # settings of the stages before it


def run_recipe(
    recipe: Recipe, folder: Path | str, *, monitor: Monitor | None = None, until: str | None = None
) -> Path:
    """Carry out a recipe in a run folder, or continue what was begun there.

    Args:
        recipe: What to do.
        folder: Where everything is written; made when absent.
        monitor: Told of progress, warnings and skipped entries.
        until: The last stage to do; by default all.

    Returns:
        The report, or the folder when stopped before it.

    Raises:
        InputError: Something in recipe or data has to be mended; finished steps are kept.
        MissingExtraError: An optional package is not installed that the recipe needs.
    """
    folder = Path(folder)
    monitor = Monitor() if monitor is None else monitor
    if until is not None and until not in STAGES:
        raise UsageError(str(unknown_option("stage", until, STAGES)))
    last = STAGES.index(until) if until else len(STAGES)
    steps = [step for step in steps_of(recipe, folder) if STAGES.index(step.name.split("/")[0]) <= last]
    require_feasible(recipe, {step.name.split("/")[0] for step in unfinished(steps, folder)})
    with locked(folder):
        save_recipe(recipe, folder / "recipe.yaml")
        execute(steps, folder, monitor)
    report = folder / "report" / "report.html"
    return report if last == len(STAGES) else folder


def steps_of(recipe: Recipe, folder: Path) -> list[Step]:
    """Return the steps of a recipe, each after those it needs.

    What is not in a step's settings cannot change its result: the number of processes, for one.
    """
    # Imported here, since they bring torch: reading a recipe does without.
    from whorl.workflow import crystals, data, energies, learning

    seed = recipe.seed
    steps: list[Step] = []

    def add(
        name: str,
        run: Callable[[Path, Monitor], object],
        *,
        settings: Any = None,
        **more: Any,
    ) -> str:
        steps.append(Step(name=name, settings=settings, run=run, **more))
        return name

    dataset = folder / "data" / "dataset.safetensors"
    features = folder / "encode" / "features.safetensors"
    if (built := recipe.data.clusters or recipe.data.crystals) is not None:
        kind = "clusters" if recipe.data.clusters else "crystals"
        build: Callable[..., None] = data.clusters if recipe.data.clusters else data.crystals
        add(
            "data",
            lambda directory, monitor: build(
                built,
                directory=Path(built.directory) if built.directory else directory / kind,
                output=dataset,
                seed=seed,
                monitor=monitor,
            ),
            settings={"seed": seed, **built.model_dump(mode="json", exclude={"processes", "directory"})},
            keeps=(kind,),
        )
    elif (files := recipe.data.files) is not None:
        add(
            "data",
            lambda _, monitor: data.files(
                files.path, property=files.property, format=files.format, output=dataset, monitor=monitor
            ),
            settings=files.model_dump(mode="json"),
            sources=(Path(files.path),),
        )
    if (given := recipe.data.features) is not None:
        add(
            "encode",
            lambda _, monitor: data.finished_features(
                given, recipe.representation, output=features, monitor=monitor
            ),
            settings={
                **given.model_dump(mode="json"),
                "representation": recipe.representation.model_dump(mode="json"),
            },
            sources=(Path(given.path),),
        )
    else:
        add(
            "encode",
            lambda _, monitor: data.encode(
                dataset, settings=recipe.representation, output=features, monitor=monitor
            ),
            settings=recipe.representation.model_dump(mode="json"),
            needs=("data",),
        )
    if recipe.invert is not None and (calculator := recipe.calculator) is not None:
        settings = recipe.evaluate
        add(
            "agreement",
            lambda directory, monitor: energies.choose(
                None if given else dataset,
                property=recipe.property_name,
                calculator=calculator,
                quantity=settings.quantity,
                subtract_offset=settings.subtract_offset,
                output=directory / "agreement.json",
                monitor=monitor,
            ),
            settings={
                **calculator.model_dump(mode="json"),
                "property": recipe.property_name,
                "quantity": settings.quantity,
                "subtract_offset": settings.subtract_offset,
            },
            needs=() if given else ("data",),
        )
    surrogate = folder / "train" / "surrogate" / "surrogate.safetensors"

    def train_surrogate(_: Path, monitor: Monitor) -> None:
        require_possible(recipe, folder, recipe.sizes)
        learning.train_surrogate(
            features,
            property=recipe.property_name,
            settings=recipe.surrogate,
            output=surrogate,
            seed=seed,
            monitor=monitor,
        )

    add(
        "train/surrogate",
        train_surrogate,
        settings={"seed": seed, **recipe.surrogate.model_dump(mode="json")},
        needs=("encode",),
        sources=tuple(Path(path) for path in recipe.surrogate.inputs),
        scratch=("checkpoints",),
    )
    for label, size in recipe.sizes.items():
        _add_size(add, recipe, folder, label, size)
    labels = tuple(recipe.sizes)
    invert = recipe.invert is not None
    decode, cgcnn = recipe.decode is not None, recipe.evaluate.cgcnn and recipe.decode is not None
    if cgcnn:
        add(
            "properties/real",
            lambda directory, monitor: crystals.predict(
                dataset, output=directory / "properties.json", monitor=monitor, most=recipe.evaluate.real
            ),
            settings={"real": recipe.evaluate.real},
            needs=("data",),
        )
    needs = (
        "encode",
        "train/surrogate",
        *(f"sampling/{label}" for label in labels),
        *(f"generate/{label}" for label in labels),
        *(f"invert/{label}" for label in labels if invert),
        *(f"energies/{label}" for label in labels if invert and recipe.calculator),
        *(("data",) if decode else ()),
        *(f"decode/{label}" for label in labels if decode),
        *(f"properties/{label}" for label in ("real", *labels) if cgcnn),
    )
    add(
        "evaluate",
        lambda directory, monitor: _evaluate(recipe, folder, directory, monitor),
        settings=recipe.evaluate.model_dump(
            mode="json", exclude={*_OF_ENERGIES, *(() if decode else _OF_CRYSTALS)}
        ),
        needs=needs,
    )
    add(
        "report",
        lambda directory, _: write_report_of(recipe, folder, output=directory / "report.html"),
        settings={"name": recipe.name, **recipe.report.model_dump(mode="json")},
        needs=("evaluate",),
    )
    return sorted(steps, key=lambda step: STAGES.index(step.name.split("/")[0]))


def _evaluate(recipe: Recipe, folder: Path, output: Path, monitor: Monitor) -> None:
    """Write the verdict on features and atoms, and on crystals where there are any."""
    from whorl.workflow import crystals, verdict

    made_with = provenance(seed=recipe.seed, settings=recipe.decisive())
    verdict.judge(
        evidence(recipe, folder),
        property=recipe.property_name,
        tolerance=recipe.evaluate.tolerance,
        output=output,
        provenance=made_with,
    )
    if recipe.decode is not None:
        crystals.judge(
            _made_crystals(recipe, folder),
            dataset=folder / "data" / "dataset.safetensors",
            real=folder / "properties" / "real" / "properties.json" if recipe.evaluate.cgcnn else None,
            most=recipe.evaluate.real,
            output=output / "crystals.json",
            made_with=made_with,
            monitor=monitor,
            wishes=recipe.generate.wishes,
        )


def _made_crystals(recipe: Recipe, folder: Path) -> dict[str, MadeCrystals]:
    from whorl.workflow import crystals

    return {
        label: crystals.gather(
            folder / "generate" / label / "generated.safetensors",
            folder / "decode" / label / "crystals.safetensors",
            folder / "properties" / label / "properties.json" if recipe.evaluate.cgcnn else None,
        )
        for label in recipe.sizes
    }


def evidence(recipe: Recipe, folder: Path) -> Evidence:
    """Read all that a run has made so far."""
    from whorl.workflow.verdict import Files, gather

    inverted = recipe.invert is not None
    judged = inverted and recipe.calculator is not None
    return gather(
        {
            label: Files(
                generated=folder / "generate" / label / "generated.safetensors",
                rows=folder / "sampling" / label / "rows.json",
                structures=folder / "invert" / label / "structures.safetensors" if inverted else None,
                energies=folder / "energies" / label / "energies.json" if judged else None,
            )
            for label in recipe.sizes
        },
        features=folder / "encode" / "features.safetensors",
        property=recipe.property_name,
        judge=folder / "train" / "surrogate" / "surrogate.safetensors",
    )


def report_again(folder: Path | str, *, output: Path | None = None) -> Path:
    """Write the report of a finished run once more, and return where it is.

    Raises:
        InputError: The folder is no run, or one that has not come to its verdict yet.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"{folder}: not the folder of a run (no recipe.yaml in it). Make one: whorl run")
    read_marker(folder, "evaluate")
    own = folder / "report" / "report.html"
    write_report_of(read_recipe(folder / "recipe.yaml"), folder, output=output or own)
    if output is None:
        refresh(folder, "report")
    return output or own


def write_report_of(recipe: Recipe, folder: Path, *, output: Path) -> None:
    """Write the report of a run from what lies in its folder."""
    from whorl.workflow import verdict

    warnings, skipped = _notes(recipe, folder)
    verdict.report(
        evidence(recipe, folder),
        results=folder / "evaluate" / "results.json",
        dataset=None if recipe.data.features else folder / "data" / "dataset.safetensors",
        output=output,
        title=recipe.report.title or recipe.name,
        recipe=recipe.model_dump(mode="json"),
        provenance=provenance(seed=recipe.seed, settings=recipe.decisive()),
        warnings=warnings,
        skipped=skipped,
        gallery=recipe.report.gallery,
        agreement=_agreement(folder),
        crystals=_crystal_section(recipe, folder) if recipe.decode is not None else None,
    )


def _agreement(folder: Path) -> str:
    """Say how the energy method agrees with the labels; runs of older versions did not ask."""
    from whorl.workflow.energies import read_choice

    path = folder / "agreement" / "agreement.json"
    return read_choice(path).text if path.is_file() else ""


def _crystal_section(recipe: Recipe, folder: Path) -> CrystalSection:
    from whorl.report.crystals import crystal_section
    from whorl.workflow import crystals

    real, _ = crystals.evenly(folder / "data" / "dataset.safetensors", recipe.evaluate.real)
    predicted = folder / "properties" / "real" / "properties.json"
    return crystal_section(
        crystals.read_verdicts(folder / "evaluate" / "crystals.json"),
        _made_crystals(recipe, folder),
        real=real,
        real_predicted=crystals.properties(predicted) if recipe.evaluate.cgcnn else {},
        target_label=recipe.property_name.replace("_", " "),
        gallery=recipe.report.gallery,
    )


def _notes(recipe: Recipe, folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the warnings and skipped entries of the steps so far.

    The verdict itself says which targets lie outside the training range, and where the energy method failed.
    """
    warnings, skipped = [], []
    for step in steps_of(recipe, folder):
        if step.name.split("/")[0] in ("generate", "energies", "evaluate", "report"):
            continue
        if not (folder / step.name).is_dir():  # a stage that older versions did not have
            continue
        marker = read_marker(folder, step.name)
        warnings += marker.warnings
        skipped += marker.skipped
    return warnings, skipped


def _said(section: Section, younger: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a section; runs begun before there were ``younger`` keys go on without them."""
    there = section.model_dump(mode="json")
    return {key: value for key, value in there.items() if value or key not in younger}


def _add_size(add: Callable[..., str], recipe: Recipe, folder: Path, label: str, size: int | None) -> None:
    """Add the steps of one training size."""
    from whorl.surrogates.settings import SurrogateSettings
    from whorl.workflow import atoms, crystals, data, energies, learning

    seed = recipe.seed
    features = folder / "encode" / "features.safetensors"
    dataset = folder / "data" / "dataset.safetensors"
    rows = folder / "sampling" / label / "rows.json"
    model = folder / "train" / label / "generator.safetensors"
    generated = folder / "generate" / label / "generated.safetensors"
    structures = folder / "invert" / label / "structures.safetensors"
    add(
        f"sampling/{label}",
        lambda _, monitor: data.training_rows(
            features, size=size, fraction=recipe.sampling.split, seed=seed, output=rows, monitor=monitor
        ),
        settings={"seed": seed, "size": size, "split": recipe.sampling.split},
        needs=("encode",),
    )

    def train_generator(_: Path, monitor: Monitor) -> None:
        require_possible(recipe, folder, [label])
        learning.train_generator(
            features,
            property=recipe.property_name,
            rows=rows,
            settings=recipe.generator,
            output=model,
            seed=seed,
            monitor=monitor,
            dataset=dataset if recipe.generator.conditions else None,
        )

    add(
        f"train/{label}",
        train_generator,
        settings={"seed": seed, **_said(recipe.generator, _CONDITIONS)},
        needs=("encode", f"sampling/{label}", *(("data",) if recipe.generator.conditions else ())),
        scratch=("checkpoints",),
    )
    selecting = recipe.generate.selection is not None
    ensemble = folder / "train" / f"{label}-ensemble" / "ensemble.safetensors"
    if selecting:
        add(
            f"train/{label}-ensemble",
            lambda _, monitor: learning.train_surrogate(
                features,
                property=recipe.property_name,
                settings=SurrogateSettings.model_validate({"kind": "ensemble"}),
                rows=rows,
                output=ensemble,
                seed=seed,
                monitor=monitor,
            ),
            settings={"seed": seed},
            needs=("encode", f"sampling/{label}"),
        )
    add(
        f"generate/{label}",
        lambda _, monitor: learning.generate(
            learning.member_paths(model, recipe.generator.members),
            features=features,
            property=recipe.property_name,
            settings=recipe.generate,
            output=generated,
            seed=seed,
            monitor=monitor,
            rows=rows,
            ensemble=ensemble if selecting else None,
            dataset=dataset if recipe.generator.conditions else None,
        ),
        settings={"seed": seed, **_said(recipe.generate, _CONDITIONS)},
        needs=(
            "encode",
            f"sampling/{label}",
            f"train/{label}",
            *((f"train/{label}-ensemble",) if selecting else ()),
        ),
        version=2,  # 1 did not say what was requested besides the property
    )
    if (decoding := recipe.decode) is not None:
        atoms_of = folder / "decode" / label / "crystals.safetensors"
        add(
            f"decode/{label}",
            lambda _, monitor: crystals.decode(
                generated, settings=decoding, output=atoms_of, monitor=monitor, seed=seed
            ),
            settings=decoding.model_dump(mode="json"),
            needs=(f"generate/{label}",),
        )
        if recipe.evaluate.cgcnn:
            add(
                f"properties/{label}",
                lambda directory, monitor: crystals.predict(
                    atoms_of, output=directory / "properties.json", monitor=monitor
                ),
                needs=(f"decode/{label}",),
            )
    if (settings := recipe.invert) is None:
        return
    given = recipe.data.features
    add(
        f"invert/{label}",
        lambda _, monitor: atoms.invert(
            generated,
            settings=settings,
            output=structures,
            seed=seed,
            monitor=monitor,
            features=features,
            rows=rows,
            dataset=None if given else dataset,
            composition=given.composition if given else None,
        ),
        settings={"seed": seed, **settings.model_dump(mode="json")},
        needs=("encode", f"sampling/{label}", f"generate/{label}", *(() if given else ("data",))),
        scratch=(f"{structures.stem}-search",),
        # 1 judged by what Algorithm 1 left of real structures; 2 found less; 3 placed what was not requested
        version=4,
    )
    if (calculator := recipe.calculator) is not None:
        add(
            f"energies/{label}",
            lambda directory, monitor: energies.energies(
                structures,
                calculator=calculator,
                output=directory / "energies.json",
                monitor=monitor,
                choice=folder / "agreement" / "agreement.json",
            ),
            settings=calculator.model_dump(mode="json"),
            needs=("agreement", f"invert/{label}"),
        )
