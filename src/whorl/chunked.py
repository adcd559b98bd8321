"""Long work in parts: each is kept on disk as soon as it is done, so that an interruption costs one part.

A part's file says which contents and settings it was made from, and carries a checksum. A part that was made
from others, or by another version of whorl, or is damaged, is made again: which files lie in the folder never
changes a result.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from whorl.errors import InputError
from whorl.files import stable_hash
from whorl.structures.batch import StructureBatch
from whorl.tensor_files import read_tensors, tensors_hash, write_tensors
from whorl.version import __version__

Chunk = TypeVar("Chunk", Tensor, StructureBatch)


@dataclass(frozen=True)
class Part:
    """The result of one part of the work.

    Attributes:
        tensors: By name.
        notes: Whatever else there is, JSON-able; keys of mappings are strings.
    """

    tensors: Mapping[str, Tensor]
    notes: Any = None


def map_chunks(
    function: Callable[[Chunk], Part],
    chunks: Sequence[Chunk],
    *,
    folder: Path,
    key: Any,
    progress: Callable[[int, int], None] | None = None,
) -> list[Part]:
    """Return ``[function(chunk) for chunk in chunks]``; parts that are finished are read from ``folder``.

    Args:
        function: Does one part of the work.
        chunks: The work: structures or rows of a tensor.
        folder: Where parts are kept.
        key: JSON-able: everything but the chunk itself that the result depends on. A structure's ``info``
            is no part of the chunk: where it matters, its hash belongs here.
        progress: Called with how many structures or rows are done, and how many there are.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    total = sum(len(chunk) for chunk in chunks)
    done = 0
    parts = []
    for number, chunk in enumerate(chunks):
        made_from = stable_hash([__version__, key, _contents(chunk)])
        path = folder / f"{number:05d}.safetensors"
        part = load_part(path, key=made_from)
        if part is None:
            part = function(chunk)
            save_part(path, part, key=made_from)
        parts.append(part)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    return parts


def save_part(path: Path, part: Part, *, key: str) -> None:
    """Write a part made from what ``key`` stands for; it is there whole or not at all."""
    write_tensors(path, part.tensors, {"kind": "part", "key": key, "notes": part.notes})


def load_part(path: Path, *, key: str) -> Part | None:
    """Return a finished part; ``None`` where it is absent, damaged, or made from something else."""
    try:
        tensors, header = read_tensors(path, sealed=True)
    except InputError:
        return None
    if header.get("kind") != "part" or header.get("key") != key:
        return None
    return Part(tensors, header.get("notes"))


def parts_folder(output: Path, key: Any) -> Path:
    """Return the folder for the parts of the result ``output``; ``key``: JSON-able, what it is made from."""
    return output.with_name(f".{output.stem}-parts-{stable_hash(key)}")


def remove_parts(output: Path) -> None:
    """Remove the parts of a result that is written, those of interrupted work with other settings too."""
    for path in output.parent.glob(f".{glob.escape(output.stem)}-parts-*"):
        shutil.rmtree(path, ignore_errors=True)


def _contents(chunk: Tensor | StructureBatch) -> str:
    return tensors_hash(chunk.tensors if isinstance(chunk, StructureBatch) else {"rows": chunk})
