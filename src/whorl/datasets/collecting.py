"""Collection of distinct structures from an unlimited sequence of chunks."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from whorl.chunked import CHUNK_NAME, Part, iterate_chunks
from whorl.datasets.store import Dataset, unpack_dataset
from whorl.errors import InputError
from whorl.executors.processes import executor_for

EXHAUSTED_AFTER = 20
"""Chunks in a row without a new structure, after which the collection is exhausted."""


@runtime_checkable
class Collection(Protocol):
    """Distinct structures, in the order of the chunks."""

    wanted: int

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def add(self, chunk: Dataset) -> None:
        """Add the new structures of a chunk, up to the number wanted."""
        ...


def collect(
    found: Collection,
    function: Callable[[Any], Part],
    *,
    folder: Path,
    key: Any,
    processes: int | None,
    progress: Callable[[int, int], None] | None,
    why_exhausted: Callable[[int], str],
) -> int:
    """Add chunks 0, 1, 2 … to a collection until it has as many structures as are wanted.

    Args:
        found: The collection, which is extended.
        function: Computes the chunk of a number; see :func:`whorl.chunked.iterate_chunks`.
        folder: Folder of finished chunks.
        key: Everything but the number that a chunk depends on.
        processes: Worker processes.
        progress: Called with the structures there are and the structures wanted.
        why_exhausted: Returns the error message, for a number of chunks.

    Returns:
        The number of chunks used.

    Raises:
        InputError: ``EXHAUSTED_AFTER`` chunks in a row had no new structure.
    """
    parts = iterate_chunks(
        function,
        itertools.count(),
        folder=folder,
        key=key,
        name=CHUNK_NAME,
        executor=executor_for(processes),
    )
    used = unproductive = 0
    with contextlib.closing(parts):
        for part in parts:
            used, before = used + 1, len(found)
            found.add(unpack_dataset(part.tensors, part.notes))
            if progress is not None:
                progress(len(found), found.wanted)
            if len(found) >= found.wanted:
                break
            unproductive = unproductive + 1 if len(found) == before else 0
            if unproductive == EXHAUSTED_AFTER:
                raise InputError(why_exhausted(used))
    return used
