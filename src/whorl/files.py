"""Atomic writes, and provenance of outputs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whorl.errors import InputError, shortened
from whorl.version import __version__

_UNWRITABLE = (
    *(errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.EPERM, errno.ELOOP),
)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success it replaces ``path`` in one step.

    A reader never sees half a file, whether the writer ends, raises or is killed.

    Raises:
        InputError: The disk is full or the folder cannot be written (with what to do).
    """
    path = Path(path)
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The final suffix is kept, since many writers choose the format by it.
        descriptor, handle = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        yield Path(handle)
        with Path(handle).open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(handle).chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        Path(handle).replace(path)
        handle = None
    except InputError:
        raise
    except Exception as error:
        if _disk_is_full(error, path.parent):
            raise InputError(
                f"{path}: the disk is full. Finished work is kept: free some space and "
                "run the same command again."
            ) from error
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}). Choose another output folder."
            ) from error
        if not path.parent.exists():
            raise InputError(
                f"{path}: cannot be written, since its folder was removed meanwhile. Run the command again."
            ) from error
        raise
    finally:
        if handle is not None:
            Path(handle).unlink(missing_ok=True)


def _disk_is_full(error: Exception, folder: Path) -> bool:
    """Whether writing failed for want of space; safetensors and torch say so with errors of their own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if any(f"os error {code}" in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
        return True
    try:
        # The file that did not fit is still there.
        return isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < 1 << 16
    except OSError:
        return False


def check_folder(folder: Path) -> None:
    """Make sure that a folder is there or can be made, as far as names go.

    Raises:
        InputError: It, or a folder that it should be in, is a file.
    """
    for place in (folder, *folder.parents):
        if place.is_dir():
            return
        if place.exists():
            raise InputError(f"{place}: is a file, expected a folder. Choose another one with --output.")


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, data: Any) -> None:
    """Write ``data`` as indented JSON, atomically; NaN becomes ``null`` (JSON has no NaN)."""
    write_text(path, json.dumps(_without_nan(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: The file is absent or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}). Give a file that whorl wrote, or run the command "
            "that made it again."
        ) from None


@contextmanager
def damage_named(path: Path | str) -> Iterator[None]:
    """Name the file whose contents the body takes apart, whatever contents of another form make it raise.

    Raises:
        InputError: The body raised anything.
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        reason = shortened(reason, 300).rstrip(".")
        raise InputError(
            f"{path}: damaged: its contents do not fit together ({reason}). Run the command that made it."
        ) from None


def _without_nan(data: Any) -> Any:
    if isinstance(data, float) and data != data:
        return None
    if isinstance(data, Mapping):
        return {str(key): _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return data


def file_hash(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def contents_hash(path: Path | str) -> str:
    """Return a 16-digit hash of a file, or of all files of a folder with their names.

    Raises:
        InputError: There is no such file or folder.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder (looked for it from {Path.cwd()}).")
    if path.is_file():
        return file_hash(path)[:16]
    parts = [part for part in sorted(path.rglob("*")) if part.is_file()]
    return stable_hash({str(part.relative_to(path)): file_hash(part) for part in parts})


def stable_hash(data: Any) -> str:
    """Return a 16-digit hash of JSON-able ``data`` that does not depend on the order of its keys.

    >>> stable_hash({"a": 1, "b": 2}) == stable_hash({"b": 2, "a": 1})
    True
    """
    text = json.dumps(data, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance(*, seed: int | None = None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what every output carries: whorl's version, the seed, and the hash of the settings."""
    return {
        "whorl_version": __version__,
        "seed": seed,
        "recipe_hash": stable_hash(settings) if settings is not None else None,
    }
