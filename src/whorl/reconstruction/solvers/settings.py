"""Settings that solvers have in common."""

from __future__ import annotations

from whorl.axes import SOLVERS
from whorl.settings import SectionOfKind


class SolverSettings(SectionOfKind):
    """Settings of a local optimiser. Which other keys there are depends on its kind."""

    registry = SOLVERS
    default = "levenberg_marquardt"
