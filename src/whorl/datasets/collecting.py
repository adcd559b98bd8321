"""Collecting new structures from chunks without end, until there are enough or nothing new comes."""

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

BARREN = 20
"""Chunks in a row without a new structure, after which there is no point in going on."""


@runtime_checkable
class Collection(Protocol):
    """Structures, each once, in the order in which they come."""

    wanted: int

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def add(self, chunk: Dataset) -> None:
        """Take from a chunk what is new, up to the number wanted."""
        ...


def collect(
    found: Collection,
    function: Callable[[Any], Part],
    *,
    folder: Path,
    key: Any,
    processes: int | None,
    progress: Callable[[int, int], None] | None,
    why_barren: Callable[[int], str],
) -> int:
    """Add chunks 0, 1, 2 … to a collection until it has as many structures as are wanted.

    Args:
        found: Is added to.
        function: Makes the chunk of a number; see :func:`whorl.chunked.iterate_chunks`.
        folder: Where chunks are kept.
        key: Everything but the number that a chunk depends on.
        processes: Worker processes.
        progress: Called with the structures there are and the structures wanted.
        why_barren: Says, for a number of chunks, why nothing new comes.

    Returns:
        How many chunks were used.

    Raises:
        InputError: ``BARREN`` chunks in a row had nothing new.
    """
    parts = iterate_chunks(
        function,
        itertools.count(),
        folder=folder,
        key=key,
        name=CHUNK_NAME,
        executor=executor_for(processes),
    )
    used = barren = 0
    with contextlib.closing(parts):
        for part in parts:
            used, before = used + 1, len(found)
            found.add(unpack_dataset(part.tensors, part.notes))
            if progress is not None:
                progress(len(found), found.wanted)
            if len(found) >= found.wanted:
                break
            barren = barren + 1 if len(found) == before else 0
            if barren == BARREN:
                raise InputError(why_barren(used))
    return used
