"""Where long work says how far it is and what it had to leave out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class ProgressCallback(Protocol):
    """Called as work goes on."""

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Say how many of how many units are done, and what is at hand."""


class Monitor:
    """Collects warnings, skipped and doubtful entries in silence. The command line shows them at once."""

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
        """Tell something about the work that is neither a result nor a warning."""

    def warn(self, message: str) -> None:
        """Note something the reader of the results should know."""
        self.warnings.append(message)

    def skip(self, source: str, reason: str) -> None:
        """Note an input entry that could not be used."""
        self.skipped.append((source, reason))

    def doubt(self, source: str, reason: str) -> None:
        """Note an input entry that was used, but may not be what its file means."""
        self.doubts.append((source, reason))
