"""Settings common to all refiners."""

from __future__ import annotations

import re
from typing import ClassVar

from whorl.axes import REFINERS
from whorl.settings import SectionOfKind
from whorl.surrogates.settings import SurrogateSettings


class RefinerSettings(SectionOfKind):
    """Settings of a refiner; further keys depend on its kind."""

    registry = REFINERS
    default = "relax"
    needs_potential: ClassVar[bool] = False
    """Whether it computes with an energy method: that of its settings, or else that of the recipe."""
    needs_quantity: ClassVar[bool] = False
    """Whether it has to know what of the energy method the property is."""

    @property
    def surrogate_settings(self) -> SurrogateSettings | None:
        """Of the surrogate of structures by which it moves them; None where it uses none."""
        return getattr(self, "surrogate", None)

    @property
    def spare_samples(self) -> int:
        """Further samples of each target that it may draw, in the place of those out of reach."""
        return getattr(self, "spare", 0)

    @property
    def least_spread(self) -> float:
        """Mean distance of the structures of a target to keep, as a fraction of that of training rows."""
        return getattr(self, "spread", 0.0)

    @property
    def folder_name(self) -> str:
        """Its kind, as it may be part of a folder's name."""
        return re.sub(r"[^\w-]", "_", self.kind)
