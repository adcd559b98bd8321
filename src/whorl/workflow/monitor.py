"""Monitors: progress, notes, warnings and skipped entries of long computations."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class ProgressCallback(Protocol):
    """Progress callback."""

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Report the number of finished units, their total, and a message."""


class Monitor:
    """Collects warnings, skipped and doubtful entries silently. The command line also shows them."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.doubts: list[tuple[str, str]] = []

    def progress(self, what: str) -> ProgressCallback:
        """Return the callback for one piece of work, named ``what``."""

        def ignore(done: int, total: int, message: str = "") -> None:
            pass

        return ignore

    def step(self, name: str, *, state: str, seconds: float = 0.0) -> None:
        """Note that a step is ``finished`` (before), ``started`` or ``done``."""

    def note(self, message: str) -> None:
        """Report information that is neither a result nor a warning."""

    def warn(self, message: str) -> None:
        """Record a warning for the reader of the results."""
        self.warnings.append(message)

    def skip(self, source: str, reason: str) -> None:
        """Record an input entry that could not be used."""
        self.skipped.append((source, reason))

    def doubt(self, source: str, reason: str) -> None:
        """Record an input entry that was used, but whose interpretation is doubtful."""
        self.doubts.append((source, reason))
