"""Models on disk: safetensors with the config, the training record and the provenance beside the weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from whorl.errors import InputError, shortened, unknown_option
from whorl.files import atomic_path
from whorl.files import provenance as own_provenance
from whorl.generators.base import ConditionalGenerator, TensorModel
from whorl.generators.cvae import CVAE
from whorl.generators.diffusion import Diffusion
from whorl.generators.gan import GAN
from whorl.generators.surrogate import Surrogate
from whorl.generators.wgan_gp import WGANGP
from whorl.memory import require_memory

GENERATORS: dict[str, type[ConditionalGenerator]] = {
    "cvae": CVAE,
    "gan": GAN,
    "wgan_gp": WGANGP,
    "diffusion": Diffusion,
}
MODELS: dict[str, type[TensorModel]] = {**GENERATORS, "surrogate": Surrogate}

_FORMAT = 1
_MOST_LAYERS = 1000
_TRAINING_BYTES = 16  # of each parameter: its value, its gradient and the two moments of Adam, in float32


def make_generator(config: Mapping[str, Any]) -> ConditionalGenerator:
    """Build an untrained generator from ``kind``, ``shape`` and whatever differs from the defaults.

    >>> make_generator({"kind": "cvae", "shape": [380], "beta": 0.5}).beta
    0.5

    Raises:
        InputError: Unknown kind or option (with the nearest known one), a value that makes no sense, or a
            network that cannot be trained in the memory there is.
    """
    generator = _make("generator", GENERATORS, config)
    assert isinstance(generator, ConditionalGenerator)
    return generator


def make_surrogate(config: Mapping[str, Any]) -> Surrogate:
    """Build an untrained surrogate from ``shape`` and whatever differs from the defaults.

    Raises:
        InputError: As of :func:`make_generator`.
    """
    surrogate = _make("model", MODELS, {**config, "kind": "surrogate"})
    assert isinstance(surrogate, Surrogate)
    return surrogate


def _make(what: str, classes: Mapping[str, type[TensorModel]], config: Mapping[str, Any]) -> TensorModel:
    kind, options = _class_and_options(what, classes, config)
    count = sum(weights.numel() for weights in _outline(kind, options).parameters())
    require_memory(
        _TRAINING_BYTES * count, f"{kind.kind}: {count:,} parameters", "Choose fewer layers or narrower ones."
    )
    return kind(**options)


def _class_and_options(
    what: str, classes: Mapping[str, type[TensorModel]], config: Mapping[str, Any]
) -> tuple[type[TensorModel], dict[str, Any]]:
    """Return what a config names; raise where it names what is not there."""
    options = dict(config)
    kind = str(options.pop("kind", "none"))
    if kind not in classes:
        raise unknown_option(what, kind, classes)
    parameters = inspect.signature(classes[kind]).parameters
    for option in options:
        if option not in parameters:
            raise unknown_option(f"option of {kind}", str(option), parameters)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise InputError(f"{kind}: '{name}' is missing.")
    return classes[kind], options


def _outline(kind: type[TensorModel], options: Mapping[str, Any]) -> TensorModel:
    """Return a model with shapes and no numbers, which takes no memory.

    Raises:
        InputError: A value that makes no sense, or a network that no memory can hold.
    """
    for name in ("layers", "depth", "blocks"):
        if isinstance(options.get(name), int) and options[name] > _MOST_LAYERS:
            raise InputError(f"{name}: got {shortened(options[name])}, expected at most {_MOST_LAYERS}.")
    try:
        with torch.device("meta"):
            return kind(**options)
    except InputError:
        raise
    except (RuntimeError, OverflowError) as error:  # more than 2^63 numbers in one tensor
        raise InputError(
            f"{kind.kind}: no memory can hold it ({shortened(error)}). Choose fewer layers or narrower ones."
        ) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{kind.kind}: options that cannot be used ({shortened(error, 200)}).") from None


def save_model(model: TensorModel, path: Path | str, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a model to one ``.safetensors`` file, atomically.

    Args:
        model: A trained model.
        path: Where to.
        provenance: What the file should say of its origin; by default whorl's version and the seed.

    Raises:
        InputError: The model is not trained, the disk is full, or the folder cannot be written.
    """
    if not model.trained:
        raise InputError(
            f"save_model: this {model.kind} has not been trained: call whorl.generators.fit first."
        )
    record = model.training_record
    description = {
        "format": _FORMAT,
        "config": model.config(),
        "training": record,
        "provenance": dict(provenance or own_provenance(seed=record["seed"] if record else None)),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"whorl_model": json.dumps(description)})


def load_model(path: Path | str) -> TensorModel:
    """Read a model that :func:`save_model` wrote; on the CPU, ready for use.

    Raises:
        InputError: No such file, not a model file, damaged, or made by a newer whorl.
    """
    path = Path(path)
    remedy = "Give a file written by save_model, or train again."
    if not path.is_file():
        raise InputError(f"{path}: no such file. Train the model first.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        reason = shortened(error, 200)
        raise InputError(f"{path}: damaged, or not a model file ({reason}). {remedy}") from None
    if "whorl_model" not in metadata:
        raise InputError(f"{path}: not a model that whorl saved. Give a file written by save_model.")
    try:
        description = json.loads(metadata["whorl_model"])
        version, config, record = (description[key] for key in ("format", "config", "training"))
        if not isinstance(config, dict) or not isinstance(record, dict | None):
            raise TypeError("config and training are no mappings")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({shortened(repr(error), 200)}). {remedy}") from None
    if version != _FORMAT:
        format = shortened(version)
        raise InputError(f"{path}: model file of format {format}, this whorl reads {_FORMAT}. Update whorl.")
    try:
        shapes = _outline(*_class_and_options("model", MODELS, config))
        _check_tensors(path, shapes, tensors)
        model = _make("model", MODELS, config)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    model.load_state_dict(tensors)
    model.training_record = record
    return model.eval()


def _check_tensors(path: Path, model: TensorModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Compare tensors with a model of which there may be no more than the shapes."""
    expected = model.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise InputError(f"{path}: damaged: '{missing[0]}' is missing. Train again.")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise InputError(f"{path}: '{unknown[0]}' is no part of a {model.kind} of its config.")
    for key, value in expected.items():
        got, wanted = tuple(tensors[key].shape), tuple(value.shape)
        if got != wanted:
            raise InputError(
                f"{path}: damaged: '{key}' has shape {got}, its config says {wanted}. Train again."
            )
        if not torch.isfinite(tensors[key]).all():
            raise InputError(f"{path}: damaged: '{key}' is not finite. Train again.")
