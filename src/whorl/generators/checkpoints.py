"""Checkpoints of a training run: the last two, in case the last is damaged."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whorl.errors import InputError
from whorl.files import atomic_path, stable_hash


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoint files of one training in ``directory``.

    They contain only tensors and plain values, and are read as such (``weights_only``): a checkpoint from
    elsewhere cannot run code. Checksums detect damage.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.last = directory / f"{name}.ckpt"
        self.previous = directory / f"{name}.previous.ckpt"

    def save(self, write: Callable[[str], None]) -> None:
        """Write a new last checkpoint by ``write``; a kill at any moment leaves a complete one.

        Raises:
            InputError: The disk is full or the folder cannot be written.
        """
        with atomic_path(self.last) as temporary:
            write(str(temporary))
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.comment = _seal(archive)
            if self.last.exists():
                self.last.replace(self.previous)

    def latest(self) -> Checkpoint | None:
        """Return the latest readable checkpoint, or ``None`` if there is none yet.

        A damaged one is reported as a ``UserWarning``.

        Raises:
            InputError: All checkpoints are damaged.
        """
        damaged: list[Path] = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                with zipfile.ZipFile(path) as archive:  # torch.load does not compare checksums
                    if archive.testzip() is not None or archive.comment != _seal(archive):
                        raise ValueError("a checksum is wrong")
                state = torch.load(path, map_location="cpu", weights_only=True)
                if not {"callbacks", "state_dict", "loops", "epoch"} <= state.keys():
                    raise ValueError("not a training checkpoint")
            except Exception:  # any exception that a damaged file may cause
                damaged.append(path)
                continue
            if damaged:
                warnings.warn(
                    f"{damaged[0]} is damaged; training resumes from the checkpoint before it ({path.name}).",
                    stacklevel=3,
                )
            return Checkpoint(path, state)
        if damaged:
            names = " and ".join(str(path) for path in damaged)
            raise InputError(
                f"{names}: damaged, and there is no other checkpoint. "
                f"Delete {'it' if len(damaged) == 1 else 'them'} to train from the beginning."
            )
        return None


def _seal(archive: zipfile.ZipFile) -> bytes:
    """Return the comment of the archive: a hash of the names and checksums of all its members."""
    parts = sorted((part.filename, part.CRC, part.file_size) for part in archive.infolist())
    return stable_hash(parts).encode()
