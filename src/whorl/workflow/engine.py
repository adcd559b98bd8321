"""Engine of resumable steps: finished steps are kept, changed ones and their dependents are run again.

Each step has a folder. Its key is the hash of its settings, of its code's version and of the keys of the
steps it needs. The folder's ``stage.json`` with that key is written last, so its presence means completeness;
it lists the step's files with their checksums, so that damage is noticed.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from whorl.errors import InputError, ResultsAwaitedError, WhorlError
from whorl.files import check_folder, contents_hash, file_hash, read_json, stable_hash, write_json
from whorl.version import __version__
from whorl.workflow.monitor import Monitor

MARKER = "stage.json"
_BEGUN = ".begun.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One piece of a run.

    Attributes:
        name: Its folder within the run folder, such as ``train/n300``.
        settings: JSON-able; everything that its result depends on, except results of other steps.
        run: Does the work, called with ``monitor``: reads finished folders, writes into its own.
        needs: Names of the steps whose results it reads.
        sources: Files or folders from elsewhere that it reads; their contents count as settings.
        keeps: Subfolders that survive a change of settings, since their files are keyed by their inputs.
        scratch: Subfolders that serve only to resume, with files keyed by their inputs.
        version: Increased when the same settings begin to give another result.
    """

    name: str
    settings: Any
    run: Callable[..., object]
    needs: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()
    keeps: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    version: int = 1


class _ControlFile(BaseModel):
    """Contents of a control file; empty if it is damaged or of another form."""


_Form = TypeVar("_Form", bound=_ControlFile)


class Marker(_ControlFile):
    """``stage.json``: the record of a finished step.

    Attributes:
        key: Of the step.
        files: SHA-256 of each of its files, by their paths within its folder.
        results: Hashes of the results that it read, by the names of the steps.
        sources: Hashes of the contents of its sources, as it read them.
        seconds: That the work took.
        warnings: For the reader of the results.
        skipped: Input entries that were skipped, with reasons.
        doubts: Input entries with a doubtful interpretation, with reasons.
    """

    key: str
    files: dict[str, str]
    results: dict[str, str]
    sources: list[str]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    warnings: list[str]
    skipped: list[tuple[str, str]]
    doubts: list[tuple[str, str]]

    @property
    def result(self) -> str:
        """Hash of all output of the step."""
        return stable_hash(self.files)


class _Begun(_ControlFile):
    """``.begun.json``: the step in progress, and the time spent on it."""

    key: str | None
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)


def _read(form: type[_Form], path: Path) -> _Form | None:
    try:
        return form.model_validate(read_json(path))
    except (InputError, ValidationError):
        return None


def read_marker(folder: Path, name: str) -> Marker:
    """Return the record of the finished step ``name``.

    Raises:
        InputError: It is not finished, or its ``stage.json`` is damaged.
    """
    marker = _read(Marker, folder / name / MARKER)
    if marker is None:
        raise InputError(f"{folder / name}: this stage is not finished. Continue it with 'whorl run'.")
    return marker


def keys(steps: Sequence[Step], sources: Mapping[str, list[str]] | None = None) -> dict[str, str]:
    """Return the key of each step; steps come after those they need.

    Args:
        steps: In order.
        sources: Hashes of the contents of its sources, by the name of the step.
    """
    found: dict[str, str] = {}
    for step in steps:
        found[step.name] = stable_hash(
            {
                "step": step.name,
                "version": step.version,
                "settings": step.settings,
                "sources": (sources or {}).get(step.name, []),
                "needs": {name: found[name] for name in step.needs},
            }
        )
    return found


def unfinished(steps: Sequence[Step], folder: Path) -> list[Step]:
    """Return the steps without a result for their settings and sources; damage is not checked."""
    try:
        key_of = keys(steps, {step.name: _hashes_of_sources(step, folder / step.name) for step in steps})
    except InputError:  # a source is missing, so nothing that reads it is finished
        return list(steps)
    markers = {step.name: _read(Marker, folder / step.name / MARKER) for step in steps}
    return [step for step in steps if (own := markers[step.name]) is None or own.key != key_of[step.name]]


def execute(steps: Sequence[Step], folder: Path, monitor: Monitor) -> None:
    """Run the steps that are not finished, in order.

    Warnings, skipped and doubtful entries of steps finished earlier are repeated. A finished step whose
    files are damaged, or whose inputs were made again since, is run again, and a warning says why.

    Raises:
        InputError: A step's folder cannot be used, or a source of it is gone.
        ResultsAwaitedError: Some steps need results from elsewhere; what does not depend on them is done.
    """
    for step in steps:
        _check_folder(folder / step.name, step)
    sources = {step.name: _hashes_of_sources(step, folder / step.name) for step in steps}
    key_of = keys(steps, sources)
    results: dict[str, str] = {}
    awaited: list[str] = []
    for step in steps:
        if any(name not in results for name in step.needs):
            continue
        key, directory = key_of[step.name], folder / step.name
        read = {name: results[name] for name in step.needs}
        marker = _read(Marker, directory / MARKER)
        if marker is not None and marker.key == key:
            reason = _damage(directory, marker) or _other_results(marker, read)
            if reason is None:
                results[step.name] = marker.result
                _tell_finished(step, marker, monitor)
                continue
            monitor.warn(f"{directory}: {reason}; this stage is run again.")
        for source in step.sources:
            if not source.exists():
                contents_hash(source)  # says so, before anything is removed
        try:
            marker = _carry_out(step, key, directory, read, sources[step.name], monitor)
        except ResultsAwaitedError as waits:
            awaited.append(str(waits))
            continue
        results[step.name] = marker.result
    if awaited:
        raise ResultsAwaitedError("\n".join(awaited))


def _check_folder(directory: Path, step: Step) -> None:
    """Check that a step may use this folder, before anything is done.

    Raises:
        InputError: It is a file, or has files that whorl did not write.
    """
    check_folder(directory)
    if not directory.exists():
        return
    there = {path.name for path in directory.iterdir()} - set(step.keeps)
    if there and not any((directory / name).is_file() for name in (MARKER, _BEGUN)):
        raise InputError(
            f"{directory}: this folder has files that whorl did not write ({min(there)} …), and a run would "
            "replace them. Choose another folder with --output."
        )


def _hashes_of_sources(step: Step, directory: Path) -> list[str]:
    """Return the hashes of a step's sources; if one is gone, that read by the finished step."""
    marker = _read(Marker, directory / MARKER)
    known = marker.sources if marker is not None and len(marker.sources) == len(step.sources) else None
    return [
        known[number] if known is not None and not source.exists() else contents_hash(source)
        for number, source in enumerate(step.sources)
    ]


def _damage(directory: Path, marker: Marker) -> str | None:
    """Return which file of a finished step was changed or deleted."""
    for name, checksum in marker.files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != checksum:
            return f"{name} has changed since it was written"
    return None


def _other_results(marker: Marker, results: Mapping[str, str]) -> str | None:
    """Return which step has other results than those this one read."""
    for name, made in results.items():
        if marker.results.get(name) != made:
            return f"the results of {name} have changed since it read them"
    return None


def _tell_finished(step: Step, marker: Marker, monitor: Monitor) -> None:
    monitor.step(step.name, state="finished", seconds=marker.seconds)
    for gone in step.sources:
        if not gone.exists():
            monitor.warn(
                f"{gone}: no longer exists, so whether it changed is not known. The run goes on with what "
                "was read from it."
            )
    for message in marker.warnings:
        monitor.warn(message)
    for source, reason in marker.skipped:
        monitor.skip(source, reason)
    for source, reason in marker.doubts:
        monitor.doubt(source, reason)


def _carry_out(
    step: Step, key: str, directory: Path, read: Mapping[str, str], sources: list[str], monitor: Monitor
) -> Marker:
    before = _prepare(directory, key, step)
    monitor.step(step.name, state="started")
    n_warnings, n_skipped, n_doubts = (
        len(noted) for noted in (monitor.warnings, monitor.skipped, monitor.doubts)
    )
    start = time.monotonic()
    try:
        step.run(monitor=monitor)
    finally:
        # Written at every end but kill -9, so that resumed work is not counted as instant.
        seconds = before + time.monotonic() - start
        with contextlib.suppress(WhorlError, OSError):
            if directory.exists():
                write_json(directory / _BEGUN, {"key": key, "seconds": seconds})
    marker = Marker(
        key=key,
        files=_checksums(directory, leave_out={*step.keeps, *step.scratch}),
        results=dict(read),
        sources=sources,
        seconds=round(seconds, 3),
        warnings=monitor.warnings[n_warnings:],
        skipped=monitor.skipped[n_skipped:],
        doubts=monitor.doubts[n_doubts:],
    )
    about = {
        "step": step.name,
        "settings": step.settings,
        "step_version": step.version,
        "whorl_version": __version__,
    }
    write_json(directory / MARKER, {**about, **marker.model_dump()})
    (directory / _BEGUN).unlink(missing_ok=True)
    monitor.step(step.name, state="done", seconds=seconds)
    return marker


def _checksums(directory: Path, *, leave_out: set[str]) -> dict[str, str]:
    """Return the SHA-256 of the files of a step, by their paths within its folder; hidden ones are none."""
    found = {}
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and parts[0] not in leave_out and parts != (MARKER,):
            found["/".join(parts)] = file_hash(path)
    return found


def refresh(folder: Path, name: str) -> None:
    """Update the record of a finished step after it was run again by itself."""
    directory = folder / name
    marker = _read(Marker, directory / MARKER)
    if marker is not None:
        there = {file: directory / file for file in marker.files if (directory / file).is_file()}
        changed = {"files": marker.files | {file: file_hash(path) for file, path in there.items()}}
        write_json(directory / MARKER, {**read_json(directory / MARKER), **changed})


def _prepare(directory: Path, key: str, step: Step) -> float:
    """Prepare the folder for this key; return the seconds already spent on it.

    Partial results of the same key are kept for the step to continue from; those of another key are removed.
    Of a finished step that is damaged, files for resuming are kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    marker, begun = _read(Marker, directory / MARKER), _read(_Begun, directory / _BEGUN)
    if begun is not None and begun.key == key:
        (directory / MARKER).unlink(missing_ok=True)
        return begun.seconds
    same = marker is not None and marker.key == key
    keep = {*step.keeps, *(step.scratch if same else ()), _BEGUN}
    # The folder stays recognisable as ours, and as unfinished, wherever this is interrupted.
    write_json(directory / _BEGUN, {"key": None})
    for path in directory.iterdir():
        if path.name in keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_json(directory / _BEGUN, {"key": key, "seconds": 0.0})
    return 0.0
