"""Settings that refiners have in common."""

from __future__ import annotations

import re
from typing import ClassVar

from whorl.axes import REFINERS
from whorl.settings import SectionOfKind


class RefinerSettings(SectionOfKind):
    """Settings of a refiner. Which other keys there are depends on its kind."""

    registry = REFINERS
    default = "relax"
    needs_potential: ClassVar[bool] = False
    """Whether it computes with an energy method: that of its settings, or else that of the recipe."""

    @property
    def folder_name(self) -> str:
        """Its kind, as it may be part of a folder's name."""
        return re.sub(r"[^\w-]", "_", self.kind)
