"""Surrogate networks of other programs, read from their weights."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whorl.errors import InputError, shortened
from whorl.surrogates.base import Prediction, Progress, Surrogate, load_surrogate
from whorl.surrogates.errors import PredictionErrors, prediction_errors
from whorl.surrogates.settings import SurrogateSettings
from whorl.tensor_files import read_safetensors, read_tensors, write_tensors

_ENTRY = "whorl_external"


class ExternalSurrogate(Surrogate):
    """Linear layers with ReLU between them, in float64, from a ``.safetensors`` file of another program.

    The file holds ``<layer>.weight`` and ``<layer>.bias``; the order of the layers follows from the names
    ``lin1``, ``lin_list.0``, ``lin_list.1`` …, ``lin2`` (as in StructRepGen of Fung et al. 2022). Inputs are
    the features as they are, flattened; the output is the property in its own units.

    Args:
        tensors: Weights and biases by name.
        source: Origin, for messages.

    Raises:
        InputError: They are not such a network.
    """

    kind = "external"

    class Settings(SurrogateSettings):
        """Settings of a network of another program."""

        path: str
        """The file."""

        @property
        def inputs(self) -> tuple[str, ...]:
            """Input files, on whose contents the results depend."""
            return (self.path,)

    def __init__(self, tensors: dict[str, Tensor], *, source: str) -> None:
        names = sorted({name.rpartition(".")[0] for name in tensors}, key=_layer_order)
        layers: list[nn.Module] = []
        width: int | None = None
        for name in names:
            weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
            if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise InputError(
                    f"{source}: layer '{name}' has no fitting weight and bias; not a ReLU network."
                )
            if width is None:
                self.shape = (weight.shape[1],)
            elif weight.shape[1] != width:
                raise InputError(
                    f"{source}: layer '{name}' takes {weight.shape[1]} numbers, but gets {width}."
                )
            # No weights are drawn, and so the global random state is left alone.
            layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=torch.float64)
            layer.load_state_dict({"weight": weight.double(), "bias": bias.double()})
            layers += [layer, nn.ReLU()]
            width = weight.shape[0]
        if width != 1:
            raise InputError(f"{source}: the last layer gives {width or 0} numbers, expected one property.")
        self.network = nn.Sequential(*layers[:-1])
        self._tensors = tensors
        self._errors: PredictionErrors | None = None

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n *shape"],
        properties: Float[Tensor, "n"],
        *,
        seed: int,
        validation: Int[Tensor, "v"] | None = None,
        directory: Path | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Surrogate:
        """Return the surrogate in the file ``path``, which may also be one of whorl's; nothing is fitted.

        The error of another program's network is measured on the validation rows.
        """
        surrogate = load_surrogate(options["path"], shape=tuple(features.shape[1:]))
        rows = torch.arange(len(features)) if validation is None else validation
        if isinstance(surrogate, ExternalSurrogate) and len(rows):
            # Its training rows are unknown.
            predicted = surrogate.predict(features[rows]).mean
            surrogate._errors = prediction_errors(predicted, properties[rows], held_out=False)
        return surrogate

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n *shape"]) -> Prediction:
        """Return the property of each row.

        Raises:
            InputError: The number of features does not match the network.
        """
        numbers = math.prod(features.shape[1:])
        if (numbers,) != self.shape:
            raise InputError(
                f"external surrogate: expects {self.shape[0]} features, but got {numbers}. "
                "Use a network made for these features."
            )
        return Prediction(mean=self.network(features.flatten(1).double()).squeeze(1))

    @property
    def validation_errors(self) -> PredictionErrors | None:
        """Errors on the validation rows; None if not measured."""
        return self._errors

    def save(self, path: Path | str) -> None:
        """Write the network to one ``.safetensors`` file, atomically."""
        header = {"validation_errors": self._errors and asdict(self._errors)}
        write_tensors(path, self._tensors, header, entry=_ENTRY)

    @classmethod
    def load(cls, path: Path | str) -> ExternalSurrogate:
        """Read a network.

        Raises:
            InputError: No such file, another kind of file, or a damaged one.
        """
        expected = "the weights of a network"
        tensors, metadata = read_safetensors(path, expected=expected)
        errors = None
        if _ENTRY in metadata:  # written by save
            tensors, header = read_tensors(path, entry=_ENTRY, expected=expected)
            errors = header.get("validation_errors")
        surrogate = cls(tensors, source=str(path))
        try:
            surrogate._errors = PredictionErrors(**errors) if errors else None
        except TypeError as error:
            raise InputError(f"{path}: damaged ({shortened(error, 200)}).") from None
        return surrogate


def _layer_order(name: str) -> tuple[int, int]:
    """Put lin1 first, then the list by its numbers, lin2 last."""
    if name == "lin1":
        return (0, 0)
    number = name.rpartition(".")[2]
    return (1, int(number)) if number.isdigit() else (2, 0)
