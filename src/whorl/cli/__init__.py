"""The command line. It parses and calls; it holds no logic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

__all__ = ["commands", "main"]


def commands() -> typer.Typer:
    """Return all commands."""
    from whorl.cli import data, decode, invert, judge, learn, run, show  # noqa: F401  (each adds its own)
    from whorl.cli.app import app

    return app


def main() -> None:
    """Run ``whorl`` with the arguments of this process."""
    import os
    import warnings

    from whorl.cli.console import show_warning

    # Waiting threads sleep: when other programs use the cores too, spinning ones make small steps many times
    # slower. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = show_warning
    warnings.filterwarnings("default", category=FutureWarning, module="whorl")
    commands()()
