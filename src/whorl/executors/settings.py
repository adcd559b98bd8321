"""Settings common to all executors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import model_validator

from whorl.axes import EXECUTORS
from whorl.settings import Count, SectionOfKind


class ExecutorSettings(SectionOfKind):
    """Settings of an executor: a name such as ``processes``, the address of a Dask scheduler, or a section.

    Results do not depend on them.
    """

    registry = EXECUTORS
    default = "serial"

    @model_validator(mode="wrap")
    @classmethod
    def _from_name(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        if isinstance(value, str):
            value = {"kind": "dask", "scheduler": value} if "://" in value else {"kind": value}
        return handler(value)


class WorkersSettings(ExecutorSettings):
    """Settings of an executor with workers on this machine."""

    workers: Count | None = None
    """Number of chunks computed at the same time; by default one per core."""
