"""Executor in threads of this process, for functions that release the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from whorl.executors.base import Executor, FutureSession, Session, cores, pickled, work
from whorl.executors.settings import WorkersSettings


class Threads(Executor):
    """Threads of this process, each with its own copy of the function."""

    kind = "threads"

    class Settings(WorkersSettings):
        """Settings of threads."""

    @contextmanager
    def _session(self, function: Callable[[Any], Any]) -> Generator[Session]:
        import torch

        sent = pickled(function, "the function")
        workers = self.settings.workers or cores()
        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="whorl-chunk")
        try:
            yield FutureSession(lambda chunk: pool.submit(work, sent, chunk), limit=workers + 1)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(
                before
            )  # each thread sets its own number, and thereby the default of new ones
