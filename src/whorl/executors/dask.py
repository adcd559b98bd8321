"""Executor on a Dask cluster: an existing one by the address of its scheduler, or a local one."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import field_validator

from whorl.errors import InputError, import_extra
from whorl.executors.base import (
    FINISHED_IS_KEPT,
    Executor,
    FutureSession,
    Session,
    WorkerError,
    cores,
    pickled,
    work,
)
from whorl.executors.settings import WorkersSettings
from whorl.settings import Positive

_LOOK_EVERY = 5.0  # seconds
_LARGE_GRAPH = "distributed.admin.large-graph-warning-threshold"


class Dask(Executor):
    """Workers of a Dask cluster. Chunks and results travel, so that no folder has to be shared.

    Workers need the same version of whorl. One that dies is replaced; a chunk that kills as many
    workers as the cluster's ``allowed-failures`` (by default 3) ends the computation with an error.
    """

    kind = "dask"
    requires = ("distributed", "dask")

    class Settings(WorkersSettings):
        """Settings of a Dask cluster."""

        scheduler: str | None = None
        """Address of its scheduler, such as tcp://10.0.0.5:8786; by default a cluster is started on this
        machine, with ``workers`` processes."""
        timeout: Positive = 10.0
        """Timeout in seconds for the connection to the scheduler."""
        patience: Positive = 60.0
        """Seconds to wait for a worker, after which the computation is aborted."""

        @field_validator("scheduler")
        @classmethod
        def _address(cls, value: str | None) -> str | None:
            if value is not None and "://" not in value:
                raise ValueError(f"got '{value}', expected an address such as tcp://10.0.0.5:8786")
            return value

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._client: Any = None
        self._cluster: Any = None

    def __enter__(self) -> Executor:
        """Check that the scheduler answers, before any work is done."""
        if self.settings.scheduler is not None:
            self._connect()
        return super().__enter__()

    def _connect(self) -> Any:
        if self._client is not None:
            return self._client
        distributed = import_extra("distributed", extra="dask")
        address = self.settings.scheduler
        if address is None:
            self._cluster = distributed.LocalCluster(
                n_workers=self.settings.workers or cores(),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
            )
            address = self._cluster.scheduler_address
        try:
            self._client = distributed.Client(address, timeout=self.settings.timeout, set_as_default=False)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            self.close()
            raise InputError(
                f"executor dask: no answer from the scheduler {address} within {self.settings.timeout:g} s "
                f"({type(error).__name__}). Start one with 'dask scheduler', or give the address that it "
                "shows; without an address, a cluster is started on this machine."
            ) from error
        return self._client

    @contextmanager
    def _session(self, function: Callable[[Any], Any]) -> Generator[Session]:
        sent = pickled(function, "the function")
        client = self._connect()
        import dask

        pool = client.get_executor(pure=False)
        last_seen = time.monotonic()

        def submit(chunk: Any) -> Any:
            # Chunks are large, and handed out a few at a time: no reason for Dask to warn.
            with dask.config.set({_LARGE_GRAPH: "10GB"}):
                return pool.submit(work, sent, chunk)

        def watch() -> None:
            nonlocal last_seen
            now = time.monotonic()
            if now - last_seen < _LOOK_EVERY:
                return
            try:
                workers = len(client.nthreads())
            except (OSError, ValueError, RuntimeError):
                workers = 0
            if workers:
                last_seen = now
            elif now - last_seen > self.settings.patience:
                raise WorkerError(
                    f"executor dask: no worker for {self.settings.patience:g} s. Start some with 'dask "
                    f"worker {client.scheduler.address}', or give a larger patience. {FINISHED_IS_KEPT}"
                )

        session = FutureSession(
            submit, limit=2 * max(len(client.nthreads()), 1), watch=watch, explain=_explained
        )
        try:
            yield session
        finally:
            session.cancel()

    def close(self) -> None:
        """Leave the cluster; end it, if it was started here."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        with suppress(OSError, RuntimeError):
            if client is not None:
                client.close()
        if cluster is not None:
            cluster.close()


def _explained(number: int, error: BaseException) -> Exception | None:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return WorkerError(
            f"chunk {number}: several workers ended abruptly at it, the last of them "
            f"{error.last_worker.address} (out of memory?). {FINISHED_IS_KEPT} The executor 'serial' shows "
            "what happens."
        )
    if isinstance(error, CancelledError):
        return WorkerError(f"executor dask: the cluster gave up chunk {number}. {FINISHED_IS_KEPT}")
    return None
