"""Long computations in chunks, stored as they finish, so that they can be resumed.

A part's file says which contents and settings it was made from, and carries a checksum. A part that was made
from others, or by another version of whorl, or is damaged, is made again: which files lie in the folder never
changes a result.
"""

from __future__ import annotations

import glob
import itertools
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from whorl.errors import InputError
from whorl.executors.base import Executor, Session, current_executor
from whorl.executors.serial import Serial
from whorl.files import stable_hash
from whorl.structures.batch import StructureBatch
from whorl.tensor_files import read_tensors, tensors_hash, write_tensors
from whorl.version import __version__

Chunk = TypeVar("Chunk", bound=Sized)

_AHEAD = 4  # chunks for each worker

CHUNK_NAME = "chunk-{:06d}.safetensors"
"""File of a part that is kept for good."""

PART_NAME = "{:05d}.safetensors"
"""File of a part, from its number."""


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
    folder: Path | None,
    key: Any,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Part]:
    """Return ``[function(chunk) for chunk in chunks]``; parts that are finished are read from ``folder``.

    Args:
        function: Does one part of the work. Executors other than ``serial`` need one that can be pickled:
            defined at the top level of a module, or a ``functools.partial`` of such a one.
        chunks: The work: structures, rows of a tensor, or objects whose ``contents`` tell them apart.
        folder: Where parts are kept; None to keep none.
        key: JSON-able: everything but the chunk itself that the result depends on. A structure's ``info``
            is no part of the chunk: where it matters, its hash belongs here.
        executor: Does the work; by default that of :func:`whorl.executors.executing`, or else ``serial``. The
            result does not depend on it.
        progress: Called with how many structures, rows or items are done, and how many there are.

    Raises:
        InputError: The disk is full, the folder cannot be written, or the function cannot be sent to workers.
        WorkerError: A chunk cost several workers, or there are none.
    """
    done, total = 0, sum(len(chunk) for chunk in chunks)

    def finished(number: int, part: Part) -> None:
        nonlocal done
        done += len(chunks[number])
        if progress is not None:
            progress(done, total)

    parts = iterate_chunks(
        function, chunks, folder=folder, key=[__version__, key], executor=executor, finished=finished
    )
    return list(parts)


def iterate_chunks(
    function: Callable[[Any], Part],
    chunks: Iterable[Any],
    *,
    folder: Path | None,
    key: Any,
    name: str = PART_NAME,
    executor: Executor | None = None,
    finished: Callable[[int, Part], None] | None = None,
) -> Generator[Part]:
    """Yield ``function(chunk)`` for each chunk, in their order; parts that are finished are read.

    Each part is written as soon as it is done, in whichever order. There may be chunks without end: close the
    generator when enough parts are there. See :func:`map_chunks`.

    Args:
        function: Does one part of the work.
        chunks: Structures, rows of a tensor, numbers, or objects whose ``contents`` tell them apart.
        folder: Where parts are kept; None to keep none.
        key: JSON-able: everything but the chunk itself that the result depends on.
        name: Of the file of a part, from its number.
        executor: Does the work.
        finished: Called with a part and its number when it is there.
    """
    executor = executor or current_executor() or Serial()
    waiting = enumerate(chunks)
    taken = 0
    ready: dict[int, Part] = {}
    keys: dict[int, str] = {}  # of parts that are being made
    with ExitStack() as stack:
        session: Session | None = None  # workers begin when there is something to do
        for number in itertools.count():
            while number not in ready:
                # A few chunks ahead at most: of chunks without end, those may never be needed.
                room = session is None or (
                    len(keys) < session.limit and taken < number + _AHEAD * session.limit
                )
                if (following := next(waiting, None) if room else None) is not None:
                    later, chunk = following
                    taken = later + 1
                    made_from = stable_hash([key, _contents(chunk)])
                    part = load_part(folder / name.format(later), key=made_from) if folder else None
                    if part is None:
                        if session is None:
                            session = stack.enter_context(executor.session(function))
                        keys[later] = made_from
                        session.submit(later, chunk)
                        continue
                elif session is not None and keys:
                    later, part = session.next()
                    made_from = keys.pop(later)
                    if folder is not None:
                        save_part(folder / name.format(later), part, key=made_from)
                else:
                    return
                ready[later] = part
                if finished is not None:
                    finished(later, part)
            yield ready.pop(number)


def save_part(path: Path, part: Part, *, key: str) -> None:
    """Write the chunk of a key atomically."""
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


def _contents(chunk: Any) -> str:
    if isinstance(chunk, Tensor | StructureBatch):
        return tensors_hash({"rows": chunk} if isinstance(chunk, Tensor) else chunk.tensors)
    return str(getattr(chunk, "contents", chunk))
