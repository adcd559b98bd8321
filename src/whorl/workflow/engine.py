"""Steps that are done once: what is finished stays; what changed is done again, with what follows from it.

Each step owns a folder. Its key is the hash of its settings, of its code's version and of the keys of the
steps it needs. The folder's ``stage.json`` with that key is written last, so its presence means all is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from whorl.errors import InputError, WhorlError
from whorl.files import read_json, stable_hash, write_json
from whorl.version import __version__
from whorl.workflow.monitor import Monitor

MARKER = "stage.json"
_BEGUN = ".begun.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One piece of a run.

    Attributes:
        name: Also its folder within the run folder, such as ``train/n300``.
        settings: JSON-able; everything but other steps' results that its own result depends on.
        needs: Names of the steps whose results it reads.
        run: Does the work: reads finished folders, writes into its own.
        keeps: Folders within its own that survive a change of settings, since they guard themselves.
        version: Raised when the same settings begin to mean another result.
    """

    name: str
    settings: Any
    run: Callable[[Path, Monitor], object]
    needs: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    version: int = 1


def keys(steps: Sequence[Step]) -> dict[str, str]:
    """Return the key of each step; steps come after those they need."""
    found: dict[str, str] = {}
    for step in steps:
        found[step.name] = stable_hash(
            {
                "step": step.name,
                "version": step.version,
                "settings": step.settings,
                "needs": {name: found[name] for name in step.needs},
            }
        )
    return found


def is_finished(folder: Path, step: Step, key: str) -> bool:
    """Whether the step's folder holds a whole result for this key."""
    directory = folder / step.name
    try:
        marker = read_json(directory / MARKER)
    except InputError:
        return False
    if not isinstance(marker, dict) or marker.get("key") != key:
        return False
    # A file that was deleted or cut short since then makes the step unfinished again.
    sizes = marker.get("files", {})
    return all((directory / f).is_file() and (directory / f).stat().st_size == n for f, n in sizes.items())


def execute(steps: Sequence[Step], folder: Path, monitor: Monitor) -> None:
    """Carry out the steps that are not finished, in order.

    Warnings, skipped and doubtful entries of steps finished earlier are told again.
    """
    key_of = keys(steps)
    for step in steps:
        key, directory = key_of[step.name], folder / step.name
        if is_finished(folder, step, key):
            marker = read_json(directory / MARKER)
            monitor.step(step.name, state="finished", seconds=float(marker.get("seconds") or 0.0))
            for message in marker.get("warnings", []):
                monitor.warn(message)
            for source, reason in marker.get("skipped", []):
                monitor.skip(source, reason)
            for source, reason in marker.get("doubts", []):
                monitor.doubt(source, reason)
            continue
        before = _prepare(directory, key, keeps=step.keeps)
        monitor.step(step.name, state="started")
        n_warnings, n_skipped, n_doubts = (
            len(noted) for noted in (monitor.warnings, monitor.skipped, monitor.doubts)
        )
        start = time.monotonic()
        try:
            step.run(directory, monitor)
        finally:
            # Written at every end but kill -9, so that resumed work is not counted as instant.
            seconds = before + time.monotonic() - start
            with contextlib.suppress(WhorlError, OSError):
                write_json(directory / _BEGUN, {"key": key, "seconds": seconds})
        files = {
            str(path.relative_to(directory)): path.stat().st_size
            for path in sorted(directory.iterdir())
            if path.is_file() and not path.name.startswith(".")
        }
        write_json(
            directory / MARKER,
            {
                "step": step.name,
                "key": key,
                "settings": step.settings,
                "needs": {name: key_of[name] for name in step.needs},
                "step_version": step.version,
                "whorl_version": __version__,
                "seconds": round(seconds, 3),
                "warnings": monitor.warnings[n_warnings:],
                "skipped": monitor.skipped[n_skipped:],
                "doubts": monitor.doubts[n_doubts:],
                "files": files,
            },
        )
        (directory / _BEGUN).unlink(missing_ok=True)
        monitor.step(step.name, state="done", seconds=seconds)


def _prepare(directory: Path, key: str, *, keeps: tuple[str, ...]) -> float:
    """Make the folder ready for this key; return the seconds already spent on it.

    Partial results of the same key are kept for the step to continue from; those of another key are removed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in directory.iterdir()} - set(keeps)
    if there and not there & {MARKER, _BEGUN}:
        raise InputError(
            f"{directory}: this folder has files that whorl did not write ({min(there)} …), and a run would "
            "replace them. Choose another folder with --output."
        )
    try:
        begun = read_json(directory / _BEGUN)
    except InputError:
        begun = {}
    if begun.get("key") == key:
        (directory / MARKER).unlink(missing_ok=True)
        return float(begun.get("seconds") or 0.0)
    # The folder stays recognisable as ours, and as unfinished, wherever this is interrupted.
    write_json(directory / _BEGUN, {"key": None})
    for path in directory.iterdir():
        if path.name in keeps or path.name == _BEGUN:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_json(directory / _BEGUN, {"key": key, "seconds": 0.0})
    return 0.0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for one process at a time.

    The lock belongs to the process and ends with it, however it ends; a folder is never left locked.

    Raises:
        InputError: Another process is working in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+", encoding="utf-8") as handle:
        if not _take(handle):
            handle.seek(0)
            owner = _owner(handle.read())
            raise InputError(
                f"{folder}: another whorl is working in this folder{owner}. Wait for it, stop it, or choose "
                "another folder with --output."
            )
        handle.seek(0)
        handle.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, handle)
        handle.flush()
        yield


def _take(handle: IO[str]) -> bool:
    """Lock an open file, if no other process has. Unlike flock, this lock is not inherited by workers."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: work without
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _owner(text: str) -> str:
    try:
        data: Mapping[str, Any] = json.loads(text)
        return f" (process {data['pid']} on {data['host']})"
    except (ValueError, KeyError, TypeError):
        return ""
