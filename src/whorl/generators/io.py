"""Model files: safetensors with weights, config, training record and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from whorl.axes import GENERATORS, SURROGATES
from whorl.errors import InputError, shortened
from whorl.files import provenance as own_provenance
from whorl.generators.base import ConditionalGenerator, TensorModel
from whorl.memory import require_memory
from whorl.tensor_files import read_tensors, write_tensors

_ENTRY = "whorl_model"
_FORMAT = 1
_MOST_LAYERS = 1000
_TRAINING_BYTES = 16  # of each parameter: its value, its gradient and the two moments of Adam, in float32
_OLD_NAMES = {"surrogate": "network"}  # in files of earlier versions

Model = TypeVar("Model", bound=TensorModel)


def make_generator(config: Mapping[str, Any]) -> ConditionalGenerator:
    """Build an untrained generator from ``kind``, ``shape`` and options other than the defaults.

    >>> make_generator({"kind": "cvae", "shape": [380], "beta": 0.5}).beta
    0.5

    Raises:
        InputError: Unknown kind or option (with the most similar known one), an invalid value, or a
            network that cannot be trained in the available memory.
    """
    return build_model(GENERATORS.get(str(config.get("kind", "none"))), config)


def build_model(model: type[Model], config: Mapping[str, Any]) -> Model:
    """Build an untrained model of a class from ``shape`` and options other than the defaults.

    Raises:
        InputError: Unknown options, values that make no sense, or a network that cannot be trained in the
            memory there is.
    """
    options = _options(model, config)
    count = sum(weights.numel() for weights in _outline(model, options).parameters())
    require_memory(
        _TRAINING_BYTES * count,
        f"{model.kind}: {count:,} parameters",
        "Choose fewer layers or narrower ones.",
    )
    return model(**options)


def _options(model: type[TensorModel], config: Mapping[str, Any]) -> dict[str, Any]:
    if "shape" not in config:
        raise InputError(f"{model.kind}: 'shape' is missing.")
    return {name: value for name, value in config.items() if name != "kind"}


def _model_class(kind: str) -> type[TensorModel]:
    """Return the class of a stored model. Files must not cause imports of unregistered modules."""
    kind = _OLD_NAMES.get(kind, kind)
    if kind in SURROGATES:
        surrogate = SURROGATES.get(kind)
        if issubclass(surrogate, TensorModel):
            return surrogate
    return GENERATORS.get(kind, imports=False)


def _outline(model: type[TensorModel], options: Mapping[str, Any]) -> TensorModel:
    """Return a model on the meta device, which takes no memory.

    Raises:
        InputError: A value that makes no sense, or a network that no memory can hold.
    """
    for name in ("layers", "depth", "blocks"):
        if isinstance(options.get(name), int) and options[name] > _MOST_LAYERS:
            raise InputError(f"{name}: got {shortened(options[name])}, expected at most {_MOST_LAYERS}.")
    try:
        with torch.device("meta"):
            return model(**options)
    except InputError:
        raise
    except (RuntimeError, OverflowError) as error:  # more than 2^63 numbers in one tensor
        raise InputError(
            f"{model.kind}: does not fit into memory ({shortened(error)}). Use fewer or narrower layers."
        ) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{model.kind}: invalid options ({shortened(error, 200)}).") from None


def save_model(model: TensorModel, path: Path | str, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a model to one ``.safetensors`` file, atomically.

    Args:
        model: A trained model.
        path: File to write.
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
        "provenance": dict(provenance or own_provenance(seed=record.get("seed") if record else None)),
    }
    write_tensors(path, model.state_dict(), description, entry=_ENTRY)


def load_model(path: Path | str) -> TensorModel:
    """Read a model that :func:`save_model` wrote; on the CPU, ready for use.

    Raises:
        InputError: No such file, not a model file, damaged, or made by a newer whorl.
    """
    path = Path(path)
    remedy = "Give a file written by save_model, or train again."
    tensors, description = read_tensors(path, entry=_ENTRY, expected="a model", remedy=remedy)
    try:
        version, config, record = (description[key] for key in ("format", "config", "training"))
        if not isinstance(config, dict) or not isinstance(record, dict | None):
            raise TypeError("config and training are no mappings")
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({shortened(repr(error), 200)}). {remedy}") from None
    if version != _FORMAT:
        format = shortened(version)
        raise InputError(f"{path}: model file of format {format}, this whorl reads {_FORMAT}. Update whorl.")
    try:
        model_class = _model_class(str(config.get("kind")))
        _check_tensors(path, _outline(model_class, _options(model_class, config)), tensors)
        model = build_model(model_class, config)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    model.load_state_dict(tensors)
    model.training_record = record
    return model.eval()


def read_training_record(path: Path | str) -> dict[str, Any] | None:
    """Read the training record of a model file; None where it is none of :func:`save_model`, or has none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})[_ENTRY])["training"]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return record if isinstance(record, dict) else None


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
