r"""Cutoff functions: smooth steps from 1 at r = 0 to 0 at the cutoff radius and beyond."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.settings import Positive, Section


class CutoffSettings(Section):
    """A cutoff by its radius in Å: ``10``, or ``{radius: 10, function: polynomial}``."""

    radius: Positive
    """Distance in Å from which on the function is 0."""
    function: Literal["cosine", "polynomial"] = "cosine"
    """Its form, see :class:`Cutoff`."""
    gamma: Annotated[float, Field(ge=2)] | None = None
    """Exponent of the polynomial; 4 by default."""

    @model_validator(mode="before")
    @classmethod
    def _from_radius(cls, value: Any) -> Any:
        return {"radius": value} if isinstance(value, int | float) else value


@dataclass(frozen=True, kw_only=True)
class Cutoff:
    r"""Cutoff of the symmetry functions, with its derivative.

    * ``cosine``: :math:`f_c(r) = \tfrac12 [\cos(\pi r / r_c) + 1]` (Behler 2011)
    * ``polynomial``: :math:`f_c(r) = 1 + \gamma (r/r_c)^{\gamma+1} - (\gamma+1) (r/r_c)^\gamma`
      (Singraber et al. 2019), with :math:`\gamma \ge 2`

    Args:
        radius: :math:`r_c` in Å.
        function: ``"cosine"`` or ``"polynomial"``.
        gamma: Exponent of the polynomial.

    Raises:
        InputError: A radius that is not positive, γ < 2, or an unknown function.
    """

    radius: float
    function: str = "cosine"
    gamma: float = 4.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise InputError(f"cutoff radius: got {self.radius}, expected a positive distance in Å.")
        if self.function not in ("cosine", "polynomial"):
            raise unknown_option("cutoff function", self.function, ["cosine", "polynomial"])
        if not self.gamma >= 2:
            raise InputError(f"cutoff gamma: got {self.gamma}, expected at least 2.")

    def config(self) -> dict[str, Any]:
        """Return the settings that matter, JSON-able."""
        config: dict[str, Any] = {"radius": self.radius, "function": self.function}
        return config | {"gamma": self.gamma} if self.function == "polynomial" else config

    def __call__(self, r: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return f_c(r) for r in Å; 0 beyond the cutoff."""
        x = (r / self.radius).clamp(max=1.0)
        if self.function == "cosine":
            return 0.5 * (torch.cos(math.pi * x) + 1.0)
        return 1.0 + self.gamma * x ** (self.gamma + 1) - (self.gamma + 1) * x**self.gamma

    def derivative(self, r: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return df_c/dr in 1/Å; 0 beyond the cutoff."""
        x = (r / self.radius).clamp(max=1.0)
        if self.function == "cosine":
            return (-0.5 * math.pi / self.radius) * torch.sin(math.pi * x)
        slope = self.gamma * (self.gamma + 1) / self.radius
        return slope * (x**self.gamma - x ** (self.gamma - 1))
