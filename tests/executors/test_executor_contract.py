from collections import deque
from contextlib import contextmanager

import pytest
import torch

from whorl.axes import EXECUTORS
from whorl.executors import Executor, Session
from whorl.testing import check_executor


@pytest.mark.parametrize("kind", ["serial", "threads", "processes", "dask"])
def test_every_executor_keeps_the_contract(kind):
    method = EXECUTORS.get(kind)
    if method.requires is not None:
        pytest.importorskip(method.requires[0], reason="an optional package")
    check_executor(method() if kind == "serial" else method(workers=2))


class Plain(Executor, Session):
    """An executor that is right, for others to break."""

    limit = 2

    @contextmanager
    def _session(self, function):
        self.function, self.waiting = function, deque()
        yield self

    def submit(self, number, chunk):
        self.waiting.append((number, chunk))

    def next(self):
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        number, chunk = self.waiting.popleft()
        try:
            return number, self.function(chunk)
        finally:
            torch.set_num_threads(before)


class WithManyThreads(Plain):
    def next(self):
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        number, chunk = self.waiting.popleft()
        try:
            return number, self.function(chunk)
        finally:
            torch.set_num_threads(before)


class WithOtherNumbers(Plain):
    def next(self):
        numbers = [number for number, _ in self.waiting]
        number, part = super().next()
        return numbers[-1] if number == numbers[0] and len(numbers) > 1 else number, part


class LeavesThreads(Plain):
    def next(self):
        torch.set_num_threads(1 + torch.get_num_threads())
        return super().next()


class ChangesErrors(Plain):
    def next(self):
        try:
            return super().next()
        except Exception as error:
            raise type(error)(f"worker failed: {error}") from error


class Rounds(Plain):
    def next(self):
        number, part = super().next()
        return number, type(part)({k: v * (1 + 1e-6) for k, v in part.tensors.items()}, part.notes)


def test_a_right_executor_passes():
    check_executor(Plain())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (WithManyThreads, "differs from that of serial work"),
        (Rounds, "differs from that of serial work"),
        (LeavesThreads, "number of threads"),
        (ChangesErrors, "must be raised unchanged"),
    ],
)
def test_a_broken_executor_is_found(broken, message):
    before = torch.get_num_threads()
    try:
        with pytest.raises(AssertionError, match=message):
            check_executor(broken())
    finally:
        torch.set_num_threads(before)


def test_results_under_other_numbers_are_found():
    with pytest.raises((AssertionError, KeyError)):
        check_executor(WithOtherNumbers())
