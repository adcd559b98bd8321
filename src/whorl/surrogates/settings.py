"""Settings common to all surrogates."""

from __future__ import annotations

from whorl.axes import SURROGATES
from whorl.settings import SectionOfKind


class SurrogateSettings(SectionOfKind):
    """Settings of a surrogate; further keys depend on its kind."""

    registry = SURROGATES
    default = "network"
