"""The processes that read, and the table of what came of it; see the package."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

import benchmarks.fuzz_readers
from benchmarks.fuzz_readers.checks import READERS, Reader, WrongAcceptError, is_long
from benchmarks.fuzz_readers.mutations import mutated
from whorl.errors import InputError

OUTCOMES = ("read", "skipped", "InputError", "exception", "hang", "memory", "wrong", "long")
BAD = OUTCOMES[3:]
_SEED_EVERY = 10  # one of so many inputs is not mutated


@dataclass
class Seeds:
    """The seeds of each reader, made once and passed to the workers."""

    by_reader: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)

    def input(self, reader: str, index: int, seed: int) -> tuple[str, bytes]:
        """Return name and contents of one input."""
        seeds = self.by_reader[reader]
        if index % _SEED_EVERY == 0:
            return seeds[index // _SEED_EVERY % len(seeds)]
        rng = random.Random(f"{seed}/{reader}/{index}")
        name, data = rng.choice(seeds)
        _, other = rng.choice(seeds)
        return name, mutated(data, other, rng, store=READERS[reader].store)


def work(connection: Connection, seeds: Seeds, seed: int, megabytes: int) -> None:
    """Read inputs as they are asked for, within a limit of memory, and say what came of each."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with (
        tempfile.TemporaryDirectory() as temporary,
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        folder = Path(temporary)
        while True:
            reader, index = connection.recv()
            name, data = seeds.input(reader, index, seed)
            path = folder / f"input{name[name.index('.') :]}"
            path.write_bytes(data)
            started = time.perf_counter()
            outcome, why = outcome_of(READERS[reader], path, folder)
            connection.send((reader, index, outcome, why, time.perf_counter() - started))
            for left in folder.iterdir():
                if left.is_file():
                    left.unlink()


def outcome_of(reader: Reader, path: Path, folder: Path) -> tuple[str, str]:
    """Return one of ``OUTCOMES``, and what was said."""
    try:
        return reader.read(path, folder), ""
    except InputError as error:
        said = str(error)
        return ("long", f"{len(said)} characters: {said[:100]}…") if is_long(said) else ("InputError", "")
    except WrongAcceptError as error:
        return "wrong", str(error)
    except MemoryError as error:
        return "memory", _last_line(error)
    except Exception as error:  # what this looks for
        said = _last_line(error)
        return ("memory" if "allocate" in str(error) else "exception"), said


def _last_line(error: BaseException) -> str:
    """Return an exception in one line, with the last place in whorl that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}whorl{os.sep}" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:120]}"


class Worker:
    """A process that reads, and what it is busy with."""

    def __init__(self, seeds: Seeds, seed: int, megabytes: int) -> None:
        self._arguments = (seeds, seed, megabytes)
        self.task: tuple[str, int] | None = None
        self.since = 0.0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *self._arguments), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: tuple[str, int]) -> None:
        """Let it read one input."""
        self.task, self.since = task, time.perf_counter()
        self.connection.send(task)

    def restart(self) -> None:
        """Take another process in the place of one that hangs or died."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self._start()

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


@dataclass
class Findings:
    """What came of all inputs."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    bad: list[tuple[str, int, str, str]] = field(default_factory=list)

    def add(self, reader: str, index: int, outcome: str, why: str, seconds: float) -> None:
        """Count one input."""
        self.counts.setdefault(reader, Counter())[outcome] += 1
        self.seconds[reader] += seconds
        self.slowest[reader] = max(self.slowest.get(reader, 0.0), seconds)
        if outcome in BAD:
            self.bad.append((reader, index, outcome, why))


def run(seeds: Seeds, tasks: Sequence[tuple[str, int]], workers: list[Worker], limit: float) -> Findings:
    """Have all inputs read, each within ``limit`` seconds."""
    findings = Findings()
    waiting = iter(tasks)
    busy: list[Worker] = []

    def next_task(worker: Worker) -> None:
        task = next(waiting, None)
        if task is not None:
            worker.give(task)
            busy.append(worker)

    for worker in workers:
        next_task(worker)
    while busy:
        ready = wait([worker.connection for worker in busy], timeout=0.2)
        for worker in list(busy):
            assert worker.task is not None
            elapsed = time.perf_counter() - worker.since
            if worker.connection in ready:
                busy.remove(worker)
                try:
                    findings.add(*worker.connection.recv())
                except (EOFError, OSError):
                    worker.process.join()
                    code = worker.process.exitcode
                    findings.add(
                        *worker.task, "memory" if code == -9 else "exception", f"died ({code})", elapsed
                    )
                    worker.restart()
                next_task(worker)
            elif elapsed > limit:
                busy.remove(worker)
                findings.add(*worker.task, "hang", f"more than {limit:g} s", elapsed)
                worker.restart()
                next_task(worker)
    return findings


def show(findings: Findings) -> None:
    """Write the table, and each kind of failure once."""
    print("| reader | inputs | " + " | ".join(OUTCOMES) + " | ms each | slowest (s) |")
    print("|---" * (len(OUTCOMES) + 4) + "|")
    for reader, counts in findings.counts.items():
        total = counts.total()
        each = 1000 * findings.seconds[reader] / total
        cells = [str(counts[outcome]) for outcome in OUTCOMES]
        print(f"| {reader} | {total} | {' | '.join(cells)} | {each:.0f} | {findings.slowest[reader]:.1f} |")
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for reader, index, outcome, why in findings.bad:
        kinds.setdefault((reader, outcome, why.split(": ")[0]), []).append(index)
    said = {(reader, index): why for reader, index, _, why in findings.bad}
    for (reader, outcome, _), indexes in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        print(f"{reader}, {outcome} × {len(indexes)} (input {indexes[0]}): {said[reader, indexes[0]]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=benchmarks.fuzz_readers.__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundred inputs for each reader")
    parser.add_argument("--count", type=int, default=2000, help="inputs for each reader")
    parser.add_argument(
        "--reader", choices=list(READERS), action="append", help="one of them; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same inputs")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one input")
    parser.add_argument("--memory", type=int, default=2000, help="megabytes for one input")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="inputs read at once")
    parser.add_argument("--real", type=Path, help="a folder of CIFs to mutate too")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that fail")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count = min(arguments.count, 100) if arguments.quick else arguments.count
    began = time.perf_counter()
    seeds = Seeds()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for reader in arguments.reader or READERS:
            seeds.by_reader[reader] = list(READERS[reader].seeds(Path(folder), arguments.real))
    tasks = [(reader, index) for reader in seeds.by_reader for index in range(count)]
    workers = [Worker(seeds, arguments.seed, arguments.memory) for _ in range(arguments.processes)]
    try:
        findings = run(seeds, tasks, workers, arguments.limit)
    finally:
        for worker in workers:
            worker.end()
    show(findings)
    print(f"{len(tasks)} inputs, {len(findings.bad)} failures, {time.perf_counter() - began:.0f} s")
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        for reader, index, outcome, _ in findings.bad:
            name, data = seeds.input(reader, index, arguments.seed)
            (arguments.keep / f"{reader}-{index}-{outcome}{name[name.index('.') :]}").write_bytes(data)
    return 1 if findings.bad else 0


if __name__ == "__main__":
    sys.exit(main())
