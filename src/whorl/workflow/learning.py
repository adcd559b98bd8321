"""From features to models, and from models to new features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from whorl.datasets import FeatureSet, load_features, save_features, split
from whorl.errors import InputError, unknown_option
from whorl.evaluation import nearest_rows, standardized
from whorl.generators import (
    ConditionalGenerator,
    GeneratorSettings,
    TensorModel,
    build_model,
    condition_range,
    fit,
    load_model,
    range_warning,
    save_model,
)
from whorl.locks import one_at_a_time
from whorl.memory import require_memory
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.surrogates import EnsembleSurrogate, select
from whorl.surrogates.settings import SurrogateSettings
from whorl.workflow.conditions import Conditions
from whorl.workflow.data import MIN_TRAINING, read_rows, structures_of
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.settings import GenerateSettings, SelectionSettings

SPLIT = 0.8  # share of rows that trains where nothing else was asked for

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
    """Train a generator on the given rows of a feature file (all for None) and write it to ``output``.

    With ``conditions`` among the settings, the structures in ``dataset`` say what else the generator is told.
    Checkpoints lie beside ``output``. With several ``members``, the others are written beside it too; see
    :func:`member_paths`. Rows that are not finite are told and left out.
    """
    check_output(output, features, dataset, rows)
    real = load_features(features)
    labels = labels_of(real, property)
    usable = _usable(real, labels, monitor)
    conditions, columns = Conditions(property=name_of(real, property)), labels[:, None]
    if settings.conditions:
        conditions, columns = Conditions.of_data(
            settings.conditions,
            property=conditions.property,
            labels=labels,
            structures=_structures(real, dataset, "conditions"),
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
    """Fit a surrogate to rows of a feature file (all for None, split 80:20), and write it.

    Rows that are not finite are reported and left out.
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


def _usable(features: FeatureSet, labels: Tensor, monitor: Monitor) -> Tensor:
    """Return which rows are finite, features and property, and tell of the others."""
    finite, labelled = features.features.isfinite().flatten(1).all(1), labels.isfinite()
    for row in torch.nonzero(~(finite & labelled)).flatten().tolist():
        what = "property is" if bool(finite[row]) else "features are"
        monitor.skip(features.ids[row], f"its {what} not finite")
    return finite & labelled


def _save(model: TensorModel, features: FeatureSet, path: Path) -> None:
    """Write a model that knows which features it was trained on."""
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
    """Return the rows that a model is given, and which of these validate.

    Raises:
        InputError: Too few.
    """
    if len(train) < MIN_TRAINING or not len(validation):
        raise InputError(
            f"{len(train)} rows to train on and {len(validation)} to validate, expected at least "
            f"{MIN_TRAINING} and 1. Give more labelled structures."
        )
    chosen = torch.cat([train, validation])
    return chosen, torch.arange(len(train), len(chosen))


def _say_constant(model: TensorModel, what: str, monitor: Monitor) -> None:
    if constant := model.feature_scaler.constant:
        count = math.prod(model.shape)
        monitor.note(f"{what}: {constant:,} of {count:,} features hardly vary and count as constant")


@contextmanager
def _warnings_passed_on(monitor: Monitor) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        monitor.warn(str(warning.message))


def labels_of(features: FeatureSet, name: str | None) -> Tensor:
    """Return one property of a feature file: the named one, or the only one there is.

    Raises:
        InputError: No such property, or several to choose from.
    """
    there = features.properties
    return there[name_of(features, name)]


def name_of(features: FeatureSet, name: str | None) -> str:
    """Return the name of a property of a feature file: the given one, or that of the only one there is.

    Raises:
        InputError: No such property, or several to choose from.
    """
    there = features.properties
    if not there:
        raise InputError(
            "the features have no property to train on. Read the structures again with their labels "
            "('whorl data read --property'), or label them with a calculator, and encode them again."
        )
    if name is None:
        if len(there) != 1:
            names = ", ".join(sorted(there))
            raise InputError(f"the features have several properties ({names}): say which with --property.")
        return next(iter(there))
    if name not in there:
        raise unknown_option("property of the features", name, there)
    return name


def _structures(features: FeatureSet, dataset: Path | None, what: str) -> StructureBatch:
    if dataset is None:
        raise InputError(f"{what} come from structures: give the data set of the features with --dataset.")
    return structures_of(features.ids, dataset)


def generate(
    models: Sequence[Path],
    *,
    features: Path,
    property: str | None,
    settings: GenerateSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
    rows: Path | None = None,
    ensemble: Path | None = None,
    dataset: Path | None = None,
) -> None:
    """Draw samples for each target and write them as features, with ``target`` as their property.

    The samples of a target depend on the seed and on that target alone, not on the others.

    Args:
        models: Generators; each draws an equal part.
        features: Those they were trained on: they say which representation.
        property: Which of its properties, where there are several.
        settings: Targets, number of samples, selection, and what else each structure shall be.
        output: The generated features.
        seed: Of all randomness.
        monitor: Told of progress, and of targets outside the training range.
        rows: Rows they were trained on, with ``selection`` or several conditions; all for None.
        ensemble: Says what is sure; needed with ``selection``.
        dataset: Structures of the features; needed where the generators were told of more than the property.

    Raises:
        InputError: Files that do not belong together, or ``selection`` without ``ensemble``.
    """
    check_output(output, features, dataset, rows, ensemble, *models)
    real = load_features(features)
    generators = [_generator(path, real, features) for path in models]
    name = name_of(real, property)
    conditions = _common_conditions(models, generators, name)
    targets = torch.tensor(settings.targets, dtype=torch.float64)
    require_memory_for_samples(settings, tuple(real.features.shape[1:]))
    lowest = condition_range(generators[0])[:, 0].repeat(len(targets), 1)
    outside = range_warning(generators[0], torch.cat([targets[:, None], lowest[:, 1:]], 1))
    if outside is not None:
        monitor.warn(f"targets {outside.replace('property 0', name)}")
    known = real if rows is None else real.select(read_rows(rows)["rows"])
    known = known.select(labels_of(known, property).isfinite())
    columns = labels_of(known, property)[:, None].double()
    if conditions.kinds:
        there = _structures(known, dataset, "elements and symmetry")
        columns = conditions.columns(labels=columns[:, 0], structures=there)
    draw = _plainly(generators, settings, conditions, columns)
    if settings.selection is not None:
        if ensemble is None:
            raise InputError("selection needs an ensemble, which says how sure a prediction is: --ensemble.")
        if conditions.kinds:
            raise InputError(
                "selection chooses by the property alone, and this generator was told of "
                f"{', '.join(conditions.kinds)} too. Leave out one of the two."
            )
        draw = _selecting(generators, settings, settings.selection, ensemble, known, property, monitor)
    progress = monitor.progress("generating")
    drawn = []
    for number, target in enumerate(settings.targets):
        drawn.append(draw(target, torch.Generator().manual_seed(derive_seed(seed, "generate", target))))
        if not drawn[-1].isfinite().all():
            low, high = condition_range(generators[0])[0].tolist()
            raise InputError(
                f"target {target:g}: the generator gives features that are not finite. Ask for a value "
                f"nearer to those it was trained on ({low:.4g} to {high:.4g})."
            )
        progress(number + 1, len(settings.targets))
    counts = torch.tensor([len(part) for part in drawn])
    named = [f"{t:g}/{i}" for t, part in zip(settings.targets, drawn, strict=True) for i in range(len(part))]
    save_features(
        FeatureSet(
            features=torch.cat(drawn),
            representation=real.representation,
            fingerprint=real.fingerprint,
            properties={"target": targets.repeat_interleave(counts)},
            ids=tuple(named),
            pbc=_pbc_of_similar(torch.cat(drawn), known),
            requested={name: value for name, value in settings.wishes.items() if value is not None},
            elements=real.elements,
        ),
        output,
    )


def require_memory_for_samples(settings: GenerateSettings, shape: Sequence[int]) -> None:
    """Refuse to draw more samples of features of this shape than fit into memory.

    Raises:
        InputError: They do not fit.
    """
    # As they are drawn, and once more in float64 where they are joined and written.
    rows = settings.samples * len(settings.targets) + (settings.selection.pool if settings.selection else 0)
    require_memory(
        rows * math.prod(shape) * 12,
        f"generate: {rows:,} samples of {math.prod(shape):,} features",
        "Ask for fewer samples, or of fewer targets at once.",
    )


def _pbc_of_similar(generated: Tensor, known: FeatureSet) -> Tensor | None:
    """Return the periodicity of the most similar known structure, where it is known."""
    pbc = known.pbc
    if pbc is None or bool((pbc == pbc[:1]).all()):
        return None if pbc is None else pbc[:1].expand(len(generated), 3)
    real = known.features.flatten(1)
    nearest = nearest_rows(standardized(generated.flatten(1), real), standardized(real, real))
    return pbc[nearest]


Draw = Callable[[float, torch.Generator], Tensor]


def _generator(path: Path, real: FeatureSet, features: Path) -> ConditionalGenerator:
    model = load_model(path)
    if not isinstance(model, ConditionalGenerator):
        raise InputError(f"{path}: is a {model.kind}, expected a generator.")
    if model.shape != tuple(real.features.shape[1:]):
        raise InputError(
            f"{path}: makes features of shape {model.shape}, but {features} has "
            f"{tuple(real.features.shape[1:])}. Give the features that it was trained on."
        )
    # Of one shape, but with other ranges or another order, the tensors would be read as something else.
    trained_on = (model.training_record or {}).get(_REPRESENTATION, real.fingerprint)
    if trained_on != real.fingerprint:
        raise InputError(
            f"{path}: was trained on features of another representation ({trained_on}) than those in "
            f"{features} ({real.fingerprint}). Give the features that it was trained on."
        )
    return model


def _common_conditions(
    paths: Sequence[Path], generators: Sequence[ConditionalGenerator], name: str
) -> Conditions:
    """Return what the generators were told, which must be the same for all."""
    every = [Conditions.of_model(generator, property=name) for generator in generators]
    for path, one in zip(paths, every, strict=True):
        if one != every[0]:
            told = [", ".join([c.property, *c.kinds]) for c in (every[0], one)]
            raise InputError(
                f"{path}: was told of {told[1]}, and {paths[0]} of {told[0]}, with "
                f"{len(one.names)} and {len(every[0].names)} columns. Give generators that were trained "
                "with the same conditions on the same data, or one at a time."
            )
    return every[0]


def _plainly(
    generators: Sequence[ConditionalGenerator],
    settings: GenerateSettings,
    conditions: Conditions,
    known: Tensor,
) -> Draw:
    """Take what the generators draw, as in the paper."""
    sizes = [len(part) for part in torch.arange(settings.samples).tensor_split(len(generators))]

    def draw(target: float, rng: torch.Generator) -> Tensor:
        asked = [
            conditions.asked(size, known=known, rng=rng, target=target, **settings.wishes)
            for size in sizes
            if size
        ]
        # Of fewer samples than generators, the last ones draw none.
        return torch.cat([g.sample(c, rng=rng) for g, c in zip(generators, asked, strict=False)])

    return draw


def _selecting(
    generators: Sequence[ConditionalGenerator],
    settings: GenerateSettings,
    selection: SelectionSettings,
    ensemble: Path,
    known: FeatureSet,
    property: str | None,
    monitor: Monitor,
) -> Draw:
    """Choose from a larger pool what is surely on target and still different."""
    judge = EnsembleSurrogate.load(ensemble)
    labels = labels_of(known, property)

    def draw(target: float, rng: torch.Generator) -> Tensor:
        chosen = select(
            generators,
            judge,
            known.features,
            labels,
            target=target,
            count=settings.samples,
            rng=rng,
            **selection.model_dump(),
        )
        if chosen.advice:
            monitor.warn(chosen.advice)
        return chosen.features

    return draw
