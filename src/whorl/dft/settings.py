"""Settings of programs of density functional theory."""

from __future__ import annotations

from whorl.axes import DFT_CODES
from whorl.settings import SectionOfKind


class DFTSettings(SectionOfKind):
    """Settings of a program; further keys depend on its kind."""

    registry = DFT_CODES
    default = "vasp"
