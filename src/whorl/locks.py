"""Locks: one process at a time uses a run folder or writes an output.

A lock belongs to a process, of which it keeps threads apart too, and ends with it, however it ends: nothing
is ever left locked.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from whorl.errors import InputError
from whorl.files import check_folder

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

_held: set[Path] = set()  # by this process
_guard = threading.Lock()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder; it is made when absent.

    Raises:
        InputError: Another process or thread is working in the folder, there is a file in its place, or it
            was removed meanwhile.
    """
    busy = f"{folder}: another whorl is working in this folder"
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock", busy=busy) as handle:
        yield
        if os.fstat(handle.fileno()).st_nlink == 0:
            raise InputError(
                f"{folder}: this folder was removed while whorl was working in it, so the results are not "
                "all there. Run the same command again."
            )


@contextlib.contextmanager
def locked_output(output: Path) -> Iterator[None]:
    """Hold the name of a result while it is made.

    Raises:
        InputError: Another process or thread is making it, or it is no name of a file.
    """
    if not output.name:
        raise InputError(f"{output}: is a folder, expected the name of a file to write.")
    path = output.with_name(f".{output.name}.lock")
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, busy=f"{output}: another whorl is writing it"):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def one_at_a_time(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Make a function hold the name of its ``output`` while it runs."""

    @functools.wraps(function)
    def held(*args: Given.args, **given: Given.kwargs) -> Answer:
        with locked_output(Path(str(given["output"]))):
            return function(*args, **given)

    return held


@contextlib.contextmanager
def _locked(path: Path, *, busy: str) -> Iterator[IO[str]]:
    remedy = "Wait for it, stop it, or choose another place with --output."
    own = path.resolve()
    with _guard:
        # To close a file gives up all locks that the process has on it: it must not be opened twice.
        if own in _held:
            raise InputError(f"{busy} (in this process). {remedy}")
        _held.add(own)
    try:
        with _open(path) as handle:
            if not _take(handle):
                handle.seek(0)
                raise InputError(f"{busy}{_owner(handle.read())}. {remedy}")
            handle.seek(0)
            handle.truncate()
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, handle)
            handle.flush()
            yield handle
    finally:
        with _guard:
            _held.discard(own)


def _open(path: Path) -> IO[str]:
    try:
        return path.open("a+", encoding="utf-8")
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected a file for whorl's lock. Move it away.") from None


def _take(handle: IO[str]) -> bool:
    """Lock an open file, if no other process has. Unlike flock, this lock is not inherited by workers."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: work without
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # else: no such locks on this file system
    return True


def _owner(text: str) -> str:
    try:
        data: Mapping[str, Any] = json.loads(text)
        return f" (process {data['pid']} on {data['host']})"
    except (ValueError, KeyError, TypeError):
        return ""
