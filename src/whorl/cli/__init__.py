"""The command line. It parses and calls; it holds no logic."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

__all__ = ["commands", "main"]


def commands() -> typer.Typer:
    """Return all commands."""
    from whorl.cli import (  # noqa: F401  (each adds its own)
        compare,
        data,
        decode,
        dft,
        evaluate,
        init,
        invert,
        learn,
        propose,
        refine,
        run,
        show,
    )
    from whorl.cli.app import app

    return app


def main() -> None:
    """Run ``whorl`` with the arguments of this process."""
    # Waiting threads sleep: when other programs use the cores too, spinning ones make small steps many times
    # slower. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        # Names of files and units are shown in any encoding, as \u03b1 where it has no such letter.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code: str | int | None = 1
    try:
        _interruptible_import()()
    except SystemExit as stop:
        code = stop.code
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        with contextlib.suppress(OSError):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
    sys.exit(code if _flush() else code or 1)


def _interruptible_import() -> typer.Typer:
    """Import all commands; Ctrl-C ends the process meanwhile, as libraries make other errors of it."""
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so with nohup
    if default:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    program = commands()

    from whorl.cli.console import show_warning

    warnings.showwarning = show_warning
    warnings.filterwarnings("default", category=FutureWarning, module="whorl")
    if default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return program


def _flush() -> bool:
    """Write what is left of the output, and tell whether it could be; Python would complain at its exit."""
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            whole = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return whole
