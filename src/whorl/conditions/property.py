"""The property that every generator is conditioned on, and rows near a target of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_NEAR = 20  # training rows nearest to the target that surely count
_WIDTH = 0.1  # of what is near, in standard deviations of the property


@dataclass(frozen=True)
class Property:
    """The first column: a property by name.

    It is no :class:`whorl.conditions.Condition`: its values come with the features and not from the
    structures, every generator has it, and a target is approached rather than met or not.

    Attributes:
        name: Of the property and of its column.
    """

    name: str

    def columns(self, labels: Float[Tensor, "N"]) -> Float[Tensor, "N 1"]:
        """Return the values as a column of float64."""
        return labels.double()[:, None]

    def describe(self, target: float) -> str:
        """Return a target in words."""
        return f"{self.name} = {target:g}"

    @staticmethod
    def weights(
        values: Float[Tensor, "n"], target: float | None, *, spread: Float[Tensor, ""]
    ) -> Float[Tensor, "n"]:
        r"""Return with which weights rows are drawn for a target; all alike without one.

        They are :math:`e^{-(d - d_0)^2 / 2h^2}`, with the distance d to the target, the least one
        :math:`d_0`, and h a tenth of the spread, or more, until 20 rows count.

        Args:
            values: Of the property in these rows.
            target: Wanted value.
            spread: Standard deviation of the property in all rows.
        """
        if target is None:
            return torch.ones(len(values), dtype=torch.float64)
        apart = (values - target).abs()
        apart = apart - apart.min()
        some = apart.sort().values[min(_NEAR, len(values)) - 1]
        width = torch.maximum(_WIDTH * spread, some).clamp(min=1e-12)
        return torch.exp(-0.5 * (apart / width).square())
