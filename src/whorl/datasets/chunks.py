"""Numbered pieces of work, each with a file of its own, done by many processes and handed out in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

import torch

from whorl.datasets.store import Dataset, load_dataset
from whorl.errors import InputError, WhorlError
from whorl.parallel import one_thread


def chunks_in_order(
    compute: Callable[[int, Path], None], folder: Path, *, processes: int
) -> Generator[Dataset, None, None]:
    """Yield chunks 0, 1, 2 … without end, in order: from their files, or else computed.

    Close the generator when enough chunks are there: it ends its workers. Whatever they were at is not
    needed, or will be done again.

    Args:
        compute: Writes the chunk of a number to a path, atomically. What it writes may depend on the number
            alone. It is sent once to each worker.
        folder: Where the chunks are.
        processes: Worker processes; 1 works in this process.

    Raises:
        WhorlError: A worker ended abruptly. Finished chunks are kept.
    """
    if processes == 1:
        number = 0
        while True:
            path = _chunk_path(folder, number)
            chunk = _read_chunk(path)
            if chunk is None:
                with one_thread():
                    compute(number, path)
                chunk = load_dataset(path)
            yield chunk
            number += 1
    number = 0
    while (chunk := _read_chunk(_chunk_path(folder, number))) is not None:
        yield chunk
        number += 1
    with _workers(compute, processes) as submit:
        waiting: deque[tuple[int, Future[None] | None]] = deque()
        next_number = number
        while True:
            # A little ahead, so that nobody waits for the slowest.
            while len(waiting) < processes + 1:
                path = _chunk_path(folder, next_number)
                there = path.exists() and _read_chunk(path) is not None
                waiting.append((next_number, None if there else submit(next_number, path)))
                next_number += 1
            number, future = waiting.popleft()
            if future is not None:
                future.result()
            yield load_dataset(_chunk_path(folder, number))


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06d}.safetensors"


def _read_chunk(path: Path) -> Dataset | None:
    """Return a chunk, or None where it is not there or damaged and must be made again."""
    if not path.exists():
        return None
    try:
        return load_dataset(path)
    except InputError:
        path.unlink(missing_ok=True)
        return None


@contextlib.contextmanager
def _workers(
    compute: Callable[[int, Path], None], processes: int
) -> Iterator[Callable[[int, Path], Future[None]]]:
    """Start worker processes; at the end, whatever ends it, none is left behind."""
    before = set(multiprocessing.active_children())
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers' libraries as they load
    executor = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(compute,),
    )

    def submit(number: int, path: Path) -> Future[None]:
        with _deaf_to_ctrl_c():  # workers start with the first task and inherit this while they load
            return executor.submit(_work, number, path)

    try:
        yield submit
    except BrokenProcessPool as error:
        raise WhorlError(
            "a worker process ended abruptly (out of memory?). Finished chunks are kept: run the same "
            "command again, with fewer processes. In a script, the call must be under: "
            "if __name__ == '__main__'"
        ) from error
    finally:
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = threads
        children = set(multiprocessing.active_children()) - before
        executor.shutdown(wait=False, cancel_futures=True)
        for child in children:  # what they are at is not needed, or will be done again
            child.terminate()
        executor.shutdown(wait=True)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_own: Callable[[int, Path], None] | None = None  # a worker's task, received once at its start


def _start_worker(compute: Callable[[int, Path], None]) -> None:
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _own = compute


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(number: int, path: Path) -> None:
    assert _own is not None
    _own(number, path)
