"""Functions that tests send to workers."""

import os
import signal
import time
from pathlib import Path

import torch

from whorl.chunked import Part
from whorl.errors import InputError

CHUNKS = list(torch.arange(60.0, dtype=torch.float64).reshape(20, 3).split(2))


def sums(chunk):
    return Part({"sum": chunk.sin().sum(0, keepdim=True)}, {"rows": len(chunk)})


def slow_sums(seconds, chunk):
    time.sleep(seconds)
    return sums(chunk)


def threads(chunk):
    return Part({"threads": torch.tensor([torch.get_num_threads()])})


def refuse(chunk):
    raise InputError("row 3: no atoms.")


class AwkwardError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")

    def __reduce__(self):  # the signature alone is not enough: packages teach pickle other ways
        raise TypeError("cannot be sent")


def fail_awkwardly(chunk):
    raise AwkwardError("one", "two")


def die_once(folder, chunk):
    """Kill the worker at the third chunk, the first time that this comes."""
    mark = Path(folder) / "died"
    if float(chunk[0, 0]) == 12.0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return sums(chunk)


def die(chunk):
    if float(chunk[0, 0]) == 12.0:
        os.kill(os.getpid(), signal.SIGKILL)
    return sums(chunk)


def many_operations(chunk):
    """Sums whose last bits depend on how many threads share an operation."""
    a = torch.linspace(0, 1, 300_000).reshape(300, 1000) + chunk[0, 0].float()
    return Part({"sum": (a @ a.T).sum().reshape(1), "mean": a.std().reshape(1)})
