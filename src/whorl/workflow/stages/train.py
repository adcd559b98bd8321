"""Stage ``train``: a surrogate on all rows, a generator for each training size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.conditions import Conditions
from whorl.datasets import FeatureSet, load_dataset, load_features, split
from whorl.datasets.store import labels_of, property_name, structures_of_features
from whorl.errors import InputError, UsageError
from whorl.files import write_text
from whorl.generators import (
    GeneratorSettings,
    TensorModel,
    build_model,
    fit,
    save_model,
)
from whorl.generators.training import MINIMUM_ROWS
from whorl.locks import one_at_a_time
from whorl.representations import RepresentationSettings
from whorl.seeds import derive_seed
from whorl.settings import settings_from
from whorl.surrogates.settings import SurrogateSettings
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.prechecks import require_possible
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.atoms import only_property
from whorl.workflow.stages.sample import read_rows
from whorl.workflow.stages.stated import stated
from whorl.yaml_text import dump_yaml

SPLIT = 0.8  # default fraction of training rows
_REPRESENTATION = "representation"  # key of a model's record: fingerprint of the features it was trained on


@one_at_a_time
def train_generator(
    features: Path,
    *,
    property: str | None,
    rows: Path | None,
    settings: GeneratorSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
    dataset: Path | None = None,
) -> None:
    """Train a generator on rows of a feature file (all for None) and write it to ``output``.

    With ``conditions`` among the settings, their columns come from the structures in ``dataset``.
    Checkpoints are next to ``output``, and with several ``members`` the other models too; see
    :func:`member_paths`. Rows that are not finite are reported and skipped.
    """
    check_output(output, features, dataset, rows)
    real = load_features(features)
    labels = labels_of(real, property)
    usable = _usable(real, labels, monitor)
    conditions, columns = Conditions(property=property_name(real, property)), labels[:, None]
    if settings.conditions:
        conditions, columns = Conditions.of_data(
            settings.conditions,
            property=conditions.property,
            labels=labels,
            structures=structures_of_features(real, dataset, "conditions"),
        )
    if rows is None:
        train, validation = split(len(labels), fraction=SPLIT, seed=derive_seed(seed, "split"))
    else:
        chosen = read_rows(rows)
        train, validation = chosen["train"], chosen["validation"]
    train, validation = train[usable[train]], validation[usable[validation]]
    for member, path in enumerate(member_paths(output, settings.members)):
        shape = tuple(real.features.shape[1:])
        model = build_model(
            settings.method, {**settings.options(), "shape": shape, "properties": columns.shape[1]}
        )
        own_seed = derive_seed(seed, "member", member) if member else seed
        what = f"training {member + 1} of {settings.members}" if settings.members > 1 else "training"
        together, held_out = _rows_to_fit(train, validation)
        with _warnings_passed_on(monitor):
            fit(
                model,
                real.features[together],
                columns[together],
                validation=held_out,
                seed=own_seed,
                directory=path.parent / "checkpoints",
                progress=monitor.progress(what),
                **settings.fitting(),
            )
        _say_constant(model, what, monitor)
        if settings.conditions:
            conditions.note(model)
        _save(model, real, path)


def member_paths(output: Path, members: int) -> list[Path]:
    """Return the files of generators trained together: ``g.safetensors``, ``g-2.safetensors`` and so on."""
    others = [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(2, members + 1)]
    return [output, *others]


@one_at_a_time
def train_surrogate(
    features: Path,
    *,
    property: str | None,
    settings: SurrogateSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
    rows: Path | None = None,
) -> None:
    """Fit a surrogate to rows of a feature file (all for None, split 80:20), and write it to ``output``.

    Rows that are not finite are reported and skipped.
    """
    check_output(output, features, rows)
    real = load_features(features)
    labels = labels_of(real, property)
    usable = _usable(real, labels, monitor)
    if rows is None:
        train, validation = split(len(labels), fraction=SPLIT, seed=derive_seed(seed, "surrogate"))
        chosen, held_out = _rows_to_fit(train[usable[train]], validation[usable[validation]])
    else:
        sampled = read_rows(rows)
        chosen = sampled["rows"][usable[sampled["rows"]]]
        held_out = torch.isin(chosen, sampled["validation"]).nonzero()[:, 0]
        _rows_to_fit(chosen[~torch.isin(chosen, sampled["validation"])], held_out)
    options = {name: value for name, value in settings.model_dump(mode="json").items() if name != "kind"}
    with _warnings_passed_on(monitor):
        surrogate = settings.method.fit(
            real.features[chosen],
            labels[chosen],
            validation=held_out,
            seed=seed,
            directory=output.parent / "checkpoints",
            progress=monitor.progress("training surrogate"),
            **options,
        )
    if (errors := surrogate.validation_errors) is not None:
        monitor.note(f"surrogate: {errors}")
        if errors.warning:
            monitor.warn(errors.warning)
    if isinstance(surrogate, TensorModel):
        _say_constant(surrogate, "surrogate", monitor)
        _note_representation(surrogate, real)
    surrogate.save(output)


@one_at_a_time
def learn_embedding(
    dataset: Path,
    *,
    property: str | None,
    settings: dict[str, Any],
    channels: int,
    output: Path,
    seed: int,
    monitor: Monitor,
) -> None:
    """Learn channels of the elements from a property of a data set, and write a representation section.

    Args:
        dataset: The labelled structures; those whose property is not finite are skipped.
        property: Its name; None for the only one.
        settings: The section, without ``embedding``.
        channels: Number of channels.
        output: YAML file to write.
        seed: Random seed.
        monitor: Progress and warnings.

    Raises:
        InputError: What :func:`whorl.surrogates.learned_embedding` cannot learn from, or settings of no
            representation with an embedding.
    """
    from whorl.surrogates import learned_embedding

    check_output(output, dataset, suffix=".yaml")
    kind = RepresentationSettings.of_kind(settings)
    if "embedding" not in kind.model_fields:
        raise UsageError(
            f"whorl train embedding: got the kind {kind.method.kind}, which has no embedding of elements, "
            "expected acsf, soap, ace or fchl19."
        )
    if "embedding" in settings:
        raise UsageError("whorl train embedding: embedding is what is learned. Give --channels.")
    settings_from(RepresentationSettings, {**settings, "embedding": channels}, source="whorl train embedding")
    data = load_dataset(dataset)
    if data.structures is None:
        raise InputError(f"{dataset}: has features alone, expected structures to learn elements from.")
    name = only_property(data, property)
    finite = data.properties[name].isfinite()
    for row in torch.nonzero(~finite).flatten().tolist():
        monitor.skip(data.ids[row], f"its {name} is not finite")
    usable = torch.nonzero(finite).flatten()
    table = learned_embedding(
        data.structures[usable.tolist()],
        data.properties[name][usable],
        channels=channels,
        seed=seed,
        progress=monitor.progress("learning channels of the elements"),
    )
    write_text(output, dump_yaml({**settings, "embedding": table}))


def _usable(features: FeatureSet, labels: Tensor, monitor: Monitor) -> Tensor:
    """Return which rows have finite features and property; report the others."""
    finite, labelled = features.features.isfinite().flatten(1).all(1), labels.isfinite()
    for row in torch.nonzero(~(finite & labelled)).flatten().tolist():
        what = "property is" if bool(finite[row]) else "features are"
        monitor.skip(features.ids[row], f"its {what} not finite")
    return finite & labelled


def _save(model: TensorModel, features: FeatureSet, path: Path) -> None:
    """Write a model with the fingerprint of its training features."""
    _note_representation(model, features)
    save_model(model, path)


def _note_representation(model: TensorModel, features: FeatureSet) -> None:
    assert model.training_record is not None
    trained_on = model.training_record.setdefault(_REPRESENTATION, features.fingerprint)
    if trained_on != features.fingerprint:
        raise InputError(
            f"the {model.kind} was trained on features of another representation ({trained_on}) than these "
            f"({features.fingerprint}). Give one that was trained on these."
        )


def _rows_to_fit(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a model, and which of these are for validation.

    Raises:
        InputError: Too few.
    """
    if len(train) < MINIMUM_ROWS or not len(validation):
        raise InputError(
            f"{len(train)} rows to train on and {len(validation)} to validate, expected at least "
            f"{MINIMUM_ROWS} and 1. Give more labelled structures."
        )
    chosen = torch.cat([train, validation])
    return chosen, torch.arange(len(train), len(chosen))


def _say_constant(model: TensorModel, what: str, monitor: Monitor) -> None:
    if constant := model.feature_scaler.constant:
        count = math.prod(model.shape)
        monitor.note(f"{what}: {constant:,} of {count:,} features hardly vary and are treated as constant")


@contextmanager
def _warnings_passed_on(monitor: Monitor) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        monitor.warn(str(warning.message))


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the step of the surrogate, and for each training size those of what is trained on its rows."""
    recipe = run.recipe
    common: dict[str, Any] = {"property": recipe.property_name, "seed": recipe.seed}
    yield Step(
        name="train/surrogate",
        settings={"seed": recipe.seed, **recipe.surrogate.model_dump(mode="json")},
        run=partial(_train_surrogate, run),
        needs=("encode",),
        sources=tuple(Path(path) for path in recipe.surrogate.inputs),
        scratch=("checkpoints",),
    )
    conditioned = bool(recipe.generator.conditions)
    for label in run.labels:
        rows = run.rows(label)
        yield Step(
            name=f"train/{label}",
            settings={"seed": recipe.seed, **stated(recipe.generator, ("conditions",))},
            run=partial(_train_generator, run, label),
            needs=("encode", f"sampling/{label}", *(("data",) if conditioned else ())),
            scratch=("checkpoints",),
        )
        if recipe.generate.selection is not None:
            yield Step(
                name=f"train/{label}-ensemble",
                settings={"seed": recipe.seed},
                run=partial(
                    train_surrogate,
                    run.features,
                    settings=SurrogateSettings.model_validate({"kind": "ensemble"}),
                    rows=rows,
                    output=run.ensemble(label),
                    **common,
                ),
                needs=("encode", f"sampling/{label}"),
            )


def _train_surrogate(run: RunFolder, monitor: Monitor) -> None:
    recipe = run.recipe
    require_possible(recipe, run.path, run.labels)
    train_surrogate(
        run.features,
        property=recipe.property_name,
        settings=recipe.surrogate,
        output=run.surrogate,
        seed=recipe.seed,
        monitor=monitor,
    )


def _train_generator(run: RunFolder, label: str, monitor: Monitor) -> None:
    recipe = run.recipe
    require_possible(recipe, run.path, [label])
    train_generator(
        run.features,
        property=recipe.property_name,
        rows=run.rows(label),
        settings=recipe.generator,
        output=run.generator(label),
        seed=recipe.seed,
        monitor=monitor,
        dataset=run.dataset if recipe.generator.conditions else None,
    )
