"""The multilayer perceptron that the models of this room are made of."""

from __future__ import annotations

from torch import nn

from whorl.errors import unknown_option

ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU}


def perceptron(
    *, inputs: int, outputs: int, layers: int, hidden: int, activation: str, constant: bool = True
) -> nn.Sequential:
    """Return ``layers`` hidden layers of ``hidden`` units, each followed by ``activation``, and a linear end.

    ``constant`` says whether that end adds a constant.

    Raises:
        InputError: Unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise unknown_option("activation", activation, ACTIVATIONS)
    parts: list[nn.Module] = []
    width = inputs
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), ACTIVATIONS[activation]()]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, outputs, bias=constant))
