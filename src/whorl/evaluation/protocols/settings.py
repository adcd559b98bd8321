"""Settings common to all protocols."""

from __future__ import annotations

from whorl.axes import PROTOCOLS
from whorl.settings import SectionOfKind


class ProtocolSettings(SectionOfKind):
    """Settings of a protocol: its thresholds and tolerances, as published."""

    registry = PROTOCOLS
    default = "mattergen"
