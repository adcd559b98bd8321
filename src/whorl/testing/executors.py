"""Contract of executors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whorl.chunked import Part, map_chunks
from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.executors.base import Executor

_REFUSED = -1.0


def check_executor(executor: Executor) -> None:
    """Check the contract of a :class:`whorl.executors.Executor`.

    Args:
        executor: With two workers or more, if it has any.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    from whorl.executors.serial import Serial

    chunks = list(torch.linspace(0, 1, 24, dtype=torch.float64).reshape(12, 2).split(2))
    threads, global_state = torch.get_num_threads(), torch.get_rng_state()
    with tempfile.TemporaryDirectory() as name, executor:
        folder = Path(name)
        expected = map_chunks(_numbers, chunks, folder=folder / "serial", key=1, executor=Serial())
        parts = map_chunks(_numbers, chunks, folder=folder / "other", key=1, executor=executor)
        assert len(parts) == len(chunks), "each chunk must have one result"
        for number, (part, other) in enumerate(zip(parts, expected, strict=True)):
            assert part.notes == other.notes, "results must belong to the numbers that chunks came with"
            for key, values in other.tensors.items():
                assert torch.equal(part.tensors[key], values), (
                    f"chunk {number}: {key} differs from that of serial work; a chunk is computed whole, on "
                    "one thread"
                )
        with executor.session(_numbers) as session:
            assert session.limit >= 1, "a session must take at least one chunk"
            for number in range(session.limit):
                session.submit(number, chunks[0])
            numbers = sorted(session.next()[0] for _ in range(session.limit))
        assert numbers == list(range(session.limit)), "each submitted chunk must be returned once"
        try:
            map_chunks(
                _numbers,
                [*chunks, torch.full((1, 2), _REFUSED)],
                folder=folder / "e",
                key=1,
                executor=executor,
            )
        except InputError as error:
            assert str(error) == "refused", "an error of the function must be raised unchanged"
        else:
            raise AssertionError("an error of the function must be raised")
        again = map_chunks(_numbers, chunks, folder=folder / "again", key=1, executor=executor)
        assert len(again) == len(chunks), "after an error the executor must work as before"
    assert torch.get_num_threads() == threads, "the executor changed the number of threads"
    assert torch.equal(torch.get_rng_state(), global_state), "the executor used the global random state"


def _numbers(chunk: Tensor) -> Part:
    """Return numbers whose last bits depend on how many threads share an operation."""
    if float(chunk[0, 0]) == _REFUSED:
        raise InputError("refused")
    values = torch.linspace(0, 1, 200_000).reshape(200, 1000) + chunk[0, 0].float()
    return Part(
        {"sum": (values @ values.T).sum().reshape(1), "threads": torch.tensor([torch.get_num_threads()])},
        {"first": float(chunk[0, 0])},
    )
