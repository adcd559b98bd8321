r"""Sets as features: N elements of f numbers each, whose order means nothing to the network.

Features of the shape (N, f) are a set, such as one fingerprint for each atom. An element whose numbers are
all zero is none: sets of fewer than N elements end with these. Networks process the whitened principal
components of elements, on the same axes for all, as (n, N, k), with zeros for elements that are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whorl.generators.networks import perceptron
from whorl.generators.principal_axes import PrincipalAxes

_UNSEEN = 1e-9  # share of a number of elements that no training set has


def is_set(shape: Sequence[int]) -> bool:
    """Return whether a shape is that of a set: (N, f) with at least two elements."""
    return len(shape) == 2 and shape[0] > 1


class ElementAxes(nn.Module):
    """Whitened principal components of the elements of sets.

    Args:
        features: Numbers f of an element.
        components: Components k of an element, at most f.
    """

    def __init__(self, *, features: int, components: int) -> None:
        super().__init__()
        self.axes = PrincipalAxes(features, components)

    def fit(self, sets: Float[Tensor, "n N f"]) -> None:
        """Learn the axes from the elements of training sets."""
        elements = sets.flatten(0, 1)
        some = elements[elements.any(1)]
        self.axes.fit(some if len(some) else elements)

    @property
    def varying(self) -> Float[Tensor, "k"]:
        """1 for axes along which elements vary in training, else 0."""
        return (self.axes.deviations > 0).double()

    def transform(self, sets: Float[Tensor, "n N f"]) -> Float[Tensor, "n N k"]:
        """Return components, in float64, with zeros for elements that are none."""
        return self.axes.transform(sets.flatten(0, 1)).unflatten(0, sets.shape[:2]) * present(sets)[..., None]

    def inverse(self, components: Float[Tensor, "n N k"]) -> Float[Tensor, "n N f"]:
        """Return elements with these components, in float64. Differentiable."""
        return self.axes.inverse(components.flatten(0, 1)).unflatten(0, components.shape[:2])


def present(sets: Float[Tensor, "n N f"]) -> Float[Tensor, "n N"]:
    """Return 1 for the elements of sets and 0 for those that are none, in float64."""
    return sets.any(2).double()


class Sizes(nn.Module):
    """The number of elements, p(m | y) for m = 0 … N: that of the training sets, and a perceptron of y.

    Numbers that no training set has are hardly ever drawn.

    Args:
        most: N.
        conditions: Numbers that describe y.
        hidden: Units.
    """

    shares: Tensor

    def __init__(self, *, most: int, conditions: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.zeros(most + 1, dtype=torch.float64))
        self.change = perceptron(
            inputs=conditions, outputs=most + 1, layers=1, hidden=hidden, activation="silu"
        )

    @torch.no_grad()
    def fit(self, sizes: Int[Tensor, "n"]) -> None:
        """Learn the shares of each number from training sets."""
        counts = torch.bincount(sizes.cpu(), minlength=len(self.shares))
        self.shares.copy_(counts / counts.sum())

    def forward(self, condition: Float[Tensor, "n c"]) -> Float[Tensor, "n m"]:
        """Return the logarithm of p of each number."""
        seen = self.shares.clamp(min=_UNSEEN).log().to(condition)
        return (seen + self.change(condition)).log_softmax(1)
