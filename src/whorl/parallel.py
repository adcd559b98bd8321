"""Distribution of independent tensor work over processor cores.

PyTorch shares out each operation among its threads, which costs more than it brings for the many small
operations of a representation. Here each thread takes a piece of the work as a whole instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

_IN_BLOCK = 1 << 15  # numbers

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch sum in one order, whatever the machine: for numbers that must not depend on threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_local = threading.local()


def shared_threads() -> int:
    """Return on how many threads :func:`map_threads` works: ``torch.get_num_threads()``, or what this was."""
    return max(torch.get_num_threads(), getattr(_local, "threads", 1))


@contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Let PyTorch share out no operation, since sums depend on that; :func:`map_threads` works as before."""
    before, shared = torch.get_num_threads(), shared_threads()
    outer = getattr(_local, "threads", 1)
    torch.set_num_threads(1)
    _local.threads = shared
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _local.threads = outer


def map_rows(function: Callable[..., Tensor], *tensors: Tensor, size: int) -> Tensor:
    """Return ``function(*tensors)``, computed in blocks of rows that do not depend on the number of threads.

    On the CPU a block is the work of one thread, so that the numbers are the same with any number of them.
    Elsewhere all rows are one block.

    Args:
        function: Treats each row by itself, but for rounding.
        tensors: Of the same number of rows.
        size: Numbers in a row of the result or of what is on the way to it: blocks have about 2^15.
    """
    if tensors[0].device.type != "cpu" or not len(tensors[0]):
        return function(*tensors)
    rows = max(1, _IN_BLOCK // max(1, size))
    blocks = list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))
    with one_thread() if len(blocks) == 1 else nullcontext():
        return torch.cat(map_threads(lambda block: function(*block), blocks))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="whorl")


def map_threads(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """Return ``[function(item) for item in items]``, on as many threads as :func:`shared_threads` says.

    Gradients are recorded in the threads if they are in the caller. Inside such a thread PyTorch's own
    operations, and further calls of this function, run on one core.
    """
    shared = shared_threads()
    threads = min(shared, len(items))
    if threads <= 1:
        return [function(item) for item in items]
    record = torch.is_grad_enabled()

    def run(item: Item) -> Answer:
        with torch.set_grad_enabled(record):
            return function(item)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of the pool take this over when they first call PyTorch
    try:
        return list(_pool(shared).map(run, items))
    finally:
        torch.set_num_threads(before)
