"""Kernels: features of atoms and their derivatives in blocks of columns, and pooled Jacobians."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

Columns = slice | Tensor
"""Columns of features of an atom; a slice is much faster than a tensor of indices."""


class Kernel(ABC):
    """Some features of N atoms, each with its own neighbours: the rows of a ``Pairs``.

    Shared intermediate results are computed once; a kernel serves one call of each method. Columns not
    yielded are zero.

    Attributes:
        least_is_flat: Whether all its features are non-negative with a zero derivative at zero.
    """

    least_is_flat: ClassVar[bool] = False

    @abstractmethod
    def values(self) -> Iterator[tuple[Columns, Float[Tensor, "N k"]]]:
        """Yield columns and their values, differentiable in the vectors of the pairs."""

    @abstractmethod
    def jacobians(self) -> Iterator[tuple[Columns, Int[Tensor, "k"], Float[Tensor, "N x K R"]]]:
        """Yield columns, their places among K functions, and the Jacobian of these.

        The last axes are those of ``Pairs.moved``, through which it goes from the vectors of the pairs to
        the coordinates of the structure.
        """


class PooledKernel(ABC):
    """Features of all atoms of structures, whose derivatives are computed for the pooled ones alone."""

    @abstractmethod
    def values(self) -> Iterator[tuple[Columns, Float[Tensor, "B n k"]]]:
        """Yield columns and their values for the atoms of each structure."""

    @abstractmethod
    def jacobians(
        self, weights: Float[Tensor, "B P f n"]
    ) -> Iterator[tuple[Columns, Float[Tensor, "B P k R 3"]]]:
        """Yield columns and the Jacobian of the pooled features.

        ``weights`` are the derivatives of the pooled features in those of the atoms.
        """


def columns(numbers: Int[Tensor, "k"]) -> Columns:
    """Return numbers of columns as a slice where they follow one another."""
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if torch.equal(numbers, torch.arange(first, last + 1)) else numbers


def pool_jacobian(
    change: Float[Tensor, "B n x K R"],
    weights: Float[Tensor, "B n f"],
    place: Int[Tensor, "f"],
    groups: Float[Tensor, "B G n"],
    *,
    extremes: Float[Tensor, "B f"] | None,
) -> Float[Tensor, "B G f R x"]:
    """Return the Jacobian of pooled features from that of the atoms.

    Args:
        change: Jacobian of K features of each atom.
        weights: Derivative of the f pooled features in those of the atoms.
        place: Which of the K features each of the f is.
        groups: 1 for the atoms that are pooled together.
        extremes: The pooled features where these are extremes and none has a derivative where it is zero.
            Most often each is that of one atom, and no other is looked at.
    """
    place = place.to(change.device)
    if extremes is not None and bool(((weights.amax(1) == 1.0) | (extremes == 0.0)).all()):
        n_structures, n, _, many, width = change.shape
        of_structure = n * torch.arange(n_structures, device=place.device)[:, None]
        first = (of_structure + weights.argmax(1)) * 3 * many + place  # (B, f), for x = 0
        rows = first[:, :, None] + many * torch.arange(3, device=place.device)
        chosen = change.reshape(-1, width).index_select(0, rows.flatten())
        return chosen.reshape(n_structures, 1, len(place), 3, width).transpose(3, 4)
    of_functions = weights.new_zeros(*weights.shape[:2], change.shape[3])
    of_functions[..., place] = weights
    weighted = change * of_functions[:, :, None, :, None]
    if groups.shape[1] == 1:
        total = weighted.sum(1, keepdim=True)
    else:
        total = (groups @ weighted.flatten(2)).unflatten(2, change.shape[2:])
    return total[:, :, :, place].permute(0, 1, 3, 4, 2)
