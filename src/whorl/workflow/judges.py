"""The network that reads the property from features: one that whorl trained, or one given from elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from whorl.errors import InputError
from whorl.generators import Surrogate, load_model


@runtime_checkable
class Judge(Protocol):
    """Features in, property out."""

    def predict(self, features: Tensor) -> Tensor:
        """Return the property of each row, shape (n,)."""
        ...


def load_judge(path: Path | str, *, shape: tuple[int, ...]) -> Judge:
    """Read a surrogate written by whorl, or a plain ReLU network of another program.

    Of the latter, the ``.safetensors`` file holds ``<layer>.weight`` and ``<layer>.bias``; the order of the
    layers follows from the names ``lin1``, ``lin_list.0``, ``lin_list.1`` …, ``lin2`` (as in StructRepGen of
    Fung et al. 2022). Its inputs are the features as they are, its output is the property in its own units.

    Raises:
        InputError: Not such a file, damaged, or made for features of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file (looked for it from {Path.cwd()}).")
    try:
        with safe_open(path, framework="pt") as file:
            foreign = "whorl_model" not in (file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()} if foreign else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, or not a .safetensors file ({error}).") from None
    if foreign:
        return ReluNetwork(tensors, source=str(path), n_features=math.prod(shape))
    model = load_model(path)
    if not isinstance(model, Surrogate):
        raise InputError(f"{path}: is a {model.kind}, expected a surrogate.")
    if model.shape != shape:
        raise InputError(
            f"{path}: was trained on features of shape {model.shape}, but these have {shape}. Use the "
            "surrogate of the same representation."
        )
    return model


class ReluNetwork:
    """Linear layers with ReLU between them, in float64."""

    def __init__(self, tensors: dict[str, Tensor], *, source: str, n_features: int) -> None:
        names = sorted({name.rpartition(".")[0] for name in tensors}, key=_layer_order)
        layers: list[nn.Module] = []
        width = n_features
        for name in names:
            weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
            if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise InputError(
                    f"{source}: layer '{name}' has no fitting weight and bias; not a ReLU network."
                )
            if weight.shape[1] != width:
                raise InputError(
                    f"{source}: layer '{name}' takes {weight.shape[1]} numbers, but gets {width}. Use a "
                    "network made for these features."
                )
            layer = nn.Linear(width, weight.shape[0], dtype=torch.float64)
            layer.load_state_dict({"weight": weight.double(), "bias": bias.double()})
            layers += [layer, nn.ReLU()]
            width = weight.shape[0]
        if width != 1 or not layers:
            raise InputError(f"{source}: the last layer gives {width} numbers, expected one property.")
        self.network = nn.Sequential(*layers[:-1])

    @torch.no_grad()
    def predict(self, features: Tensor) -> Tensor:
        """Return the property of each row."""
        return self.network(features.flatten(1).double()).squeeze(1)


def _layer_order(name: str) -> tuple[int, int]:
    """Put lin1 first, then the list by its numbers, lin2 last."""
    if name == "lin1":
        return (0, 0)
    number = name.rpartition(".")[2]
    return (1, int(number)) if number.isdigit() else (2, 0)
