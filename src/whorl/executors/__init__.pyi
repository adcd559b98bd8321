from .base import Executor, Session, current_executor, executing
from .dask import Dask
from .processes import Processes
from .serial import Serial
from .settings import ExecutorSettings
from .threads import Threads

__all__ = [
    "Dask",
    "Executor",
    "ExecutorSettings",
    "Processes",
    "Serial",
    "Session",
    "Threads",
    "current_executor",
    "executing",
]
