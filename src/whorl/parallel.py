"""Spread independent pieces of tensor work over the processor's cores.

PyTorch shares out each operation among its threads, which costs more than it brings for the many small
operations of a representation. Here each thread takes a piece of the work as a whole instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="whorl")


def map_threads(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """Return ``[function(item) for item in items]``, on as many threads as ``torch.get_num_threads()``.

    Gradients are recorded in the threads if they are in the caller. Inside such a thread PyTorch's own
    operations, and further calls of this function, run on one core.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]
    record = torch.is_grad_enabled()

    def run(item: Item) -> Answer:
        with torch.set_grad_enabled(record):
            return function(item)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of the pool take this over when they first call PyTorch
    try:
        return list(_pool(before).map(run, items))
    finally:
        torch.set_num_threads(before)
