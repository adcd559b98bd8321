"""One chunk after the other, in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from whorl.executors.base import Executor, Session


class Serial(Executor):
    """One chunk after the other, in this process; a fingerprint still uses all cores for a chunk."""

    kind = "serial"

    @contextmanager
    def _session(self, function: Callable[[Any], Any]) -> Generator[Session]:
        yield _Queue(function)


class _Queue(Session):
    limit = 1

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._waiting: deque[tuple[int, Any]] = deque()

    def submit(self, number: int, chunk: Any) -> None:
        self._waiting.append((number, chunk))

    def next(self) -> tuple[int, Any]:
        from whorl.parallel import one_thread_an_operation

        number, chunk = self._waiting.popleft()
        with one_thread_an_operation():
            return number, self._function(chunk)
