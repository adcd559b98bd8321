"""From features to models, and from models to new features."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from whorl.datasets import FeatureSet, load_features, save_features, split
from whorl.errors import InputError, unknown_option
from whorl.generators import (
    ConditionalGenerator,
    Surrogate,
    TensorModel,
    fit,
    load_model,
    make_generator,
    range_warning,
    save_model,
)
from whorl.inversion.starts import derive_seed
from whorl.workflow.data import MIN_TRAINING, read_rows
from whorl.workflow.monitor import Monitor
from whorl.workflow.settings import GenerateSettings, GeneratorSettings, SurrogateSettings, TrainingSettings

SPLIT = 0.8  # share of rows that trains where nothing else was asked for


def train_generator(
    features: Path,
    *,
    property: str | None,
    rows: Path | None,
    settings: GeneratorSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
) -> None:
    """Train a generator on the given rows of a feature file (all for None) and write it to ``output``.

    Checkpoints lie beside ``output`` until the training is done.
    """
    real = load_features(features)
    labels = labels_of(real, property)
    if rows is None:
        train, validation = split(len(labels), fraction=SPLIT, seed=derive_seed(seed, "split"))
    else:
        chosen = read_rows(rows)
        train, validation = chosen["train"], chosen["validation"]
    model = make_generator({**settings.config(), "shape": tuple(real.features.shape[1:])})
    _fit(model, real.features, labels, train, validation, settings, output, seed, "training", monitor)


def train_surrogate(
    features: Path,
    *,
    property: str | None,
    settings: SurrogateSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
) -> None:
    """Train a surrogate on all rows of a feature file, split 80:20, and write it to ``output``."""
    real = load_features(features)
    labels = labels_of(real, property)
    train, validation = split(len(labels), fraction=SPLIT, seed=derive_seed(seed, "surrogate"))
    model = Surrogate(shape=tuple(real.features.shape[1:]), **settings.config())
    _fit(
        model, real.features, labels, train, validation, settings, output, seed, "training surrogate", monitor
    )


def _fit(
    model: TensorModel,
    features: Tensor,
    labels: Tensor,
    train: Tensor,
    validation: Tensor,
    settings: TrainingSettings,
    output: Path,
    seed: int,
    what: str,
    monitor: Monitor,
) -> None:
    if len(train) < MIN_TRAINING:
        raise InputError(
            f"{len(train)} rows to train on, expected at least {MIN_TRAINING}. Give more labelled structures."
        )
    chosen = torch.cat([train, validation])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        fit(
            model,
            features[chosen],
            labels[chosen],
            validation=torch.arange(len(train), len(chosen)),
            seed=seed,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            directory=output.parent / "checkpoints",
            progress=monitor.progress(what),
        )
    for warning in caught:
        monitor.warn(str(warning.message))
    save_model(model, output)


def labels_of(features: FeatureSet, name: str | None) -> Tensor:
    """Return one property of a feature file: the named one, or the only one there is.

    Raises:
        InputError: No such property, or several to choose from.
    """
    there = features.properties
    if name is None:
        if len(there) != 1:
            names = ", ".join(sorted(there)) or "none"
            raise InputError(f"the features have several properties ({names}): say which with --property.")
        return next(iter(there.values()))
    if name not in there:
        raise unknown_option("property of the features", name, there)
    return there[name]


def generate(
    model: Path,
    *,
    features: Path,
    property: str | None,
    settings: GenerateSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
) -> None:
    """Draw samples for each target and write them as features, with ``target`` as their property.

    The samples of a target depend on the seed and on that target alone, not on the others.
    """
    real = load_features(features)
    generator = load_model(model)
    if not isinstance(generator, ConditionalGenerator):
        raise InputError(f"{model}: is a {generator.kind}, expected a generator.")
    if generator.shape != tuple(real.features.shape[1:]):
        raise InputError(
            f"{model}: makes features of shape {generator.shape}, but {features} has "
            f"{tuple(real.features.shape[1:])}. Give the features that it was trained on."
        )
    targets = torch.tensor(settings.targets, dtype=torch.float64)
    outside = range_warning(generator, targets[:, None])
    if outside is not None:
        monitor.warn(f"targets {outside}")
    progress = monitor.progress("generating")
    drawn = []
    for number, target in enumerate(settings.targets):
        rng = torch.Generator().manual_seed(derive_seed(seed, "generate", target))
        condition = torch.full((settings.samples, 1), target, dtype=torch.float64)
        drawn.append(generator.sample(condition, rng=rng))
        progress(number + 1, len(settings.targets))
    ids = tuple(f"{target:g}/{i}" for target in settings.targets for i in range(settings.samples))
    save_features(
        FeatureSet(
            features=torch.cat(drawn),
            representation=real.representation,
            fingerprint=real.fingerprint,
            properties={"target": targets.repeat_interleave(settings.samples)},
            ids=ids,
        ),
        output,
    )
