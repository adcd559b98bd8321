"""Contract of executors: independent chunks of work, each done by one worker with one PyTorch thread.

Results do not depend on the executor: a chunk is computed by the same operations in the same
order, on one thread.
"""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, ClassVar

from whorl.errors import InputError, WhorlError, shortened
from whorl.executors.settings import ExecutorSettings
from whorl.settings import Method, settings_from
from whorl.version import __version__

_POLL_SECONDS = 1.0

FINISHED_IS_KEPT = "Finished chunks are kept, and the same command goes on from them."


class WorkerError(WhorlError):
    """A chunk cannot be computed, as workers end or are unavailable."""


class Session(ABC):
    """Submission of chunks to workers, all for the same function.

    Attributes:
        limit: Number of chunks to submit before the first result is taken.
    """

    limit: int

    @abstractmethod
    def submit(self, number: int, chunk: Any) -> None:
        """Submit a chunk of work under a unique number."""

    @abstractmethod
    def next(self) -> tuple[int, Any]:
        """Wait for any chunk to be finished; return its number and its result.

        Raises:
            WorkerError: The workers that did the chunk ended abruptly, several times; or there are none.
            Exception: What the function raised.
        """


class Executor(Method, ABC):
    """A way to compute independent chunks of work.

    As a context manager it keeps its workers between sessions; they end with the context. Outside of one they
    end with each session.

    Args:
        options: Settings other than the defaults of ``Settings``.

    Raises:
        InputError: Invalid options.
    """

    Settings: ClassVar[type[Any]] = ExecutorSettings

    def __init__(self, **options: Any) -> None:
        self.settings = settings_from(self.Settings, options, source=f"executor {self.kind}")
        self._entered = 0

    def __repr__(self) -> str:
        """Return the name and the settings."""
        options = ", ".join(f"{key}={value!r}" for key, value in self.settings.options().items())
        return f"{type(self).__name__}({options})"

    def __enter__(self) -> Executor:
        """Keep workers until the context ends."""
        self._entered += 1
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self._entered -= 1
        if not self._entered:
            self.close()

    @contextmanager
    def session(self, function: Callable[[Any], Any]) -> Generator[Session]:
        """Begin a session with a function; when it ends, for whatever reason, no work is left running.

        Args:
            function: Of a chunk. All executors but ``serial`` need one that can be pickled: defined at the
                top level of a module, or a ``functools.partial`` of such a one.

        Raises:
            InputError: The function cannot be sent to workers, or workers are unavailable.
        """
        with self, self._session(function) as session:
            yield session

    @abstractmethod
    def _session(self, function: Callable[[Any], Any]) -> AbstractContextManager[Session]:
        """Begin a session; see :meth:`session`."""

    def close(self) -> None:
        """End all workers."""


_current: ContextVar[Executor | None] = ContextVar("executor", default=None)


def current_executor() -> Executor | None:
    """Return the executor chosen by :func:`executing`, if there is one."""
    return _current.get()


@contextmanager
def executing(settings: ExecutorSettings | None) -> Generator[Executor | None]:
    """Use an executor for long computations in the context; ``None`` keeps the present one.

    Raises:
        InputError: Its workers are unavailable.
    """
    if settings is None:
        yield current_executor()
        return
    with settings.method(**settings.options()) as executor:
        token = _current.set(executor)
        try:
            yield executor
        finally:
            _current.reset(token)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# In the worker


def pickled(thing: Any, what: str) -> bytes:
    """Return a function or a chunk pickled for workers.

    Raises:
        InputError: It cannot be pickled.
    """
    try:
        return pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # __reduce__ of any class may raise anything
        raise InputError(
            f"{what} {shortened(thing)} cannot be sent to a worker ({shortened(error, 200)}). Define "
            "functions at the top level of a module (no lambda, no function within a function), or use the "
            "executor 'serial', which sends nothing."
        ) from error


def work(function: bytes, chunk: Any, version: str = __version__) -> Any:
    """Apply a pickled function to a chunk, on one PyTorch thread.

    Args:
        function: From :func:`pickled`.
        chunk: Its argument.
        version: Version of whorl of the submitting process.

    Raises:
        WhorlError: The worker has another version of whorl, or cannot load the function, or the function
            raised what cannot be sent back.
        Exception: What the function raised.
    """
    import torch

    if version != __version__:
        raise WhorlError(
            f"a worker has whorl {__version__}, expected {version}: results would be mixed. Install the same "
            "version on all machines."
        )
    torch.set_num_threads(1)
    try:
        return _loaded(function, threading.get_ident())(chunk)
    except Exception as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")
        if _can_be_sent(error):
            raise
        said = f"{type(error).__name__}: {error}"
    raise WhorlError(
        said
    )  # raised here, it has no reference to the other error, with which it could not be sent either


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of any class, with any constructor
        return False
    return True


@lru_cache(maxsize=32)
def _loaded(function: bytes, thread: int) -> Callable[[Any], Any]:
    """Load a function once for each thread, as its contents (a calculator) may not be thread-safe."""
    try:
        return pickle.loads(function)
    except Exception as error:
        raise WhorlError(
            f"a worker cannot load the function to be applied ({type(error).__name__}: {error}). Its module "
            "must be importable there, and not be the script itself."
        ) from error


class FutureSession(Session):
    """A session of an executor whose ``submit`` returns a :class:`concurrent.futures.Future`.

    Args:
        submit: Begins the work on a chunk.
        limit: See :class:`Session`.
        watch: Called periodically while nothing is finished; raises if nothing can finish any more.
        explain: Converts known exceptions of futures into user-facing errors.
    """

    def __init__(
        self,
        submit: Callable[[Any], Future[Any]],
        *,
        limit: int,
        watch: Callable[[], None] = lambda: None,
        explain: Callable[[int, BaseException], Exception | None] = lambda number, error: None,
    ) -> None:
        self.limit = limit
        self._submit, self._watch, self._explain = submit, watch, explain
        self._numbers: dict[Future[Any], int] = {}

    def submit(self, number: int, chunk: Any) -> None:
        """Begin the work on a chunk."""
        self._numbers[self._submit(chunk)] = number

    def next(self) -> tuple[int, Any]:
        """Wait for a future."""
        while not (done := wait(self._numbers, _POLL_SECONDS, return_when=FIRST_COMPLETED).done):
            self._watch()
        future = min(done, key=self._numbers.__getitem__)
        number = self._numbers.pop(future)
        try:
            return number, future.result()
        except (Exception, CancelledError) as error:
            if (clear := self._explain(number, error)) is not None:
                raise clear from error
            raise

    def cancel(self) -> None:
        """Cancel chunks that have not begun."""
        for future in self._numbers:
            future.cancel()
