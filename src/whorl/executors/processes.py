"""Executor in processes of this machine; one that dies is replaced, and its chunk repeated."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from whorl.executors.base import (
    FINISHED_IS_KEPT,
    Executor,
    Session,
    WorkerError,
    cores,
    current_executor,
    pickled,
    work,
)
from whorl.executors.serial import Serial
from whorl.executors.settings import WorkersSettings

MOST_DEATHS = 3
"""Number of workers that a chunk may kill before the computation is aborted."""


class Processes(Executor):
    """Processes of this machine. In a script, their use must stand under ``if __name__ == "__main__":``."""

    kind = "processes"

    class Settings(WorkersSettings):
        """Settings of processes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._idle: list[_Worker] = []

    @contextmanager
    def _session(self, function: Callable[[Any], Any]) -> Generator[Session]:
        session = _Pipes(pickled(function, "the function"), self.settings.workers or cores(), self._idle)
        try:
            yield session
        finally:
            session.abandon()

    def close(self) -> None:
        """End all workers."""
        _end(self._idle)
        self._idle.clear()


class _Worker:
    """A process that computes the chunks from its pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _deaf_to_ctrl_c(), _one_thread():  # inherited while the process loads
            self.process.start()
        theirs.close()
        self.number = -1
        """Number of its present chunk."""

    def begin(self, number: int, message: bytes) -> None:
        self.number = number
        with suppress(OSError):  # it has ended, which is noticed when its result is read
            self.connection.send_bytes(message)


class _Pipes(Session):
    def __init__(self, function: bytes, workers: int, idle: list[_Worker]) -> None:
        self.limit = workers
        self._function, self._idle = function, idle
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._busy: dict[Connection, _Worker] = {}
        self._sent: dict[int, bytes] = {}
        self._deaths: Counter[int] = Counter()

    def submit(self, number: int, chunk: Any) -> None:
        self._waiting.append((number, pickled((self._function, chunk), "the chunk")))
        self._hand_out()

    def next(self) -> tuple[int, Any]:
        while True:
            self._hand_out()
            for connection in wait(list(self._busy)):
                assert isinstance(connection, Connection)
                worker = self._busy.pop(connection)
                number = worker.number
                try:
                    answer = connection.recv_bytes()
                except (EOFError, OSError):
                    self._died(worker)
                    continue
                self._idle.append(worker)
                del self._sent[number]
                done, result = pickle.loads(answer)
                if not done:
                    raise result
                return number, result

    def _hand_out(self) -> None:
        while self._waiting and len(self._busy) < self.limit:
            number, message = self._waiting.popleft()
            worker = self._idle.pop() if self._idle else _Worker()
            self._busy[worker.connection] = worker
            self._sent[number] = message
            worker.begin(number, message)

    def _died(self, worker: _Worker) -> None:
        _end([worker])
        number = worker.number
        self._deaths[number] += 1
        if self._deaths[number] == MOST_DEATHS:
            code = worker.process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
            raise WorkerError(
                f"chunk {number}: {MOST_DEATHS} worker processes ended abruptly at it, the last {how} "
                f"(out of memory?). {FINISHED_IS_KEPT} Try fewer workers, or the executor 'serial', which "
                "shows what happens. In a script, the call must be under: if __name__ == '__main__'"
            )
        self._waiting.appendleft((number, self._sent.pop(number)))

    def abandon(self) -> None:
        """End the workers that compute a chunk: it is not needed, or will be repeated."""
        _end(list(self._busy.values()))
        self._busy.clear()


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()  # parts are written by this process, so nothing is left half done
    for worker in workers:
        worker.process.join()
        worker.connection.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Set one thread for libraries that read their number of threads when they are loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def executor_for(processes: int | None) -> Executor:
    """Return the executor of so many processes; ``None``: the one chosen for all work, or one per core."""
    if processes is None:
        return current_executor() or Processes()
    return Serial() if processes == 1 else Processes(workers=processes)


# In the worker


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            answer = pickle.dumps((True, work(*pickle.loads(message))), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            answer = pickle.dumps((False, error))
        connection.send_bytes(answer)


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
