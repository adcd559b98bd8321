"""Settings that surrogates have in common."""

from __future__ import annotations

from whorl.axes import SURROGATES
from whorl.settings import SectionOfKind


class SurrogateSettings(SectionOfKind):
    """Settings of a surrogate. Which other keys there are depends on its kind."""

    registry = SURROGATES
    default = "network"
