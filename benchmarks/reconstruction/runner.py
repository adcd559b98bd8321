"""Encode structures, forget where their atoms are, search, and see whether the atoms came back.

A solver gets the fingerprints, and of the structures their elements, cells and periodicity: no positions, and
the atoms sorted by element. A target is solved when atoms came back within an RMSD of 0.05 Å, up to rotation,
reflection, translation and order; only here, after the search, are they compared with the original.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# Before torch is loaded: threads that wait must not spin, or they take the cores from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import yaml
from ase import Atoms

from benchmarks.reconstruction.solvers import SOLVERS, Answer, Limits
from whorl.errors import InputError, unknown_option
from whorl.evaluation.matching import rmsd, structure_matcher_rms
from whorl.files import write_text
from whorl.reconstruction import InversionProblem
from whorl.representations import RepresentationSettings
from whorl.settings import settings_from
from whorl.structures import StructureBatch, from_ase
from whorl.workflow.round_trip import RECOVERED, forget
from whorl.workflow.round_trip_settings import PRESETS, RoundTripSettings

SOLVED = RECOVERED  # Å


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one target."""

    solver: str
    name: str
    group: str
    n_atoms: int
    status: str
    loss: float
    rmsd: float
    second_opinion: float  # Å, by pymatgen's StructureMatcher; NaN where it does not apply
    seconds: float

    @property
    def solved(self) -> bool:
        """Whether these are the atoms that were meant."""
        return self.rmsd < SOLVED


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one solver did with a suite."""

    solver: str
    rows: list[Row]
    seconds: float
    evaluations: float | None

    def of(self, names: set[str]) -> list[Row]:
        """Return the rows of some targets."""
        return [row for row in self.rows if row.name in names]


def run_solver(
    targets: Sequence[Atoms],
    solver: str,
    limits: Limits,
    *,
    settings: RoundTripSettings,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    free_cell: bool = False,
    alone: bool = False,
) -> Outcome:
    """Solve all targets; those of the same elements are one batch, unless each is searched ``alone``."""
    if solver not in SOLVERS:
        raise unknown_option("solver", solver, SOLVERS)
    systems: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for i, atoms in enumerate(targets):
        species = tuple(sorted(set(atoms.get_chemical_symbols())))
        systems.setdefault((species, i if alone else 0), []).append(i)
    rows: dict[int, Row] = {}
    seconds, evaluations = 0.0, 0.0
    for done, ((species, _), members) in enumerate(systems.items()):
        originals = from_ase([targets[i] for i in members])
        representation = settings.build(settings.kind(periodic=False), originals, species)
        with torch.no_grad():
            features = representation(originals)
        problem = InversionProblem(
            representation=representation.to(device),
            target=features,
            template=forget(originals, cell=free_cell),
            free_cell=free_cell,
        ).to(device=device, dtype=dtype)
        label = f"{solver}: {'-'.join(species)} ({done + 1} of {len(systems)})"
        began = time.perf_counter()
        answer = SOLVERS[solver](problem, limits, _Reporter(label))
        if device != "cpu":
            torch.cuda.synchronize()
        taken = time.perf_counter() - began
        seconds += taken
        evaluations += (answer.evaluations or math.nan) * len(members)
        judged = _judge(solver, [targets[i] for i in members], originals, answer, taken / len(members))
        rows.update(zip(members, judged, strict=True))
    mean = evaluations / max(len(targets), 1)
    return Outcome(
        solver=solver,
        rows=[rows[i] for i in range(len(targets))],
        seconds=seconds,
        evaluations=None if math.isnan(mean) else mean,
    )


def _judge(
    solver: str, targets: Sequence[Atoms], originals: StructureBatch, answer: Answer, share: float
) -> list[Row]:
    found = answer.structures.to(device="cpu", dtype=torch.float64)
    distance = rmsd(found, originals)
    second = [
        float(structure_matcher_rms(one, original))
        if bool(original.pbc.all()) and bool(torch.isfinite(one.positions).all())
        else math.nan
        for one, original in zip(found, originals, strict=True)
    ]
    seconds = [share] * len(targets) if answer.seconds is None else answer.seconds.tolist()
    return [
        Row(
            solver=solver,
            name=atoms.info["name"],
            group=atoms.info["group"],
            n_atoms=len(atoms),
            status=answer.status[i],
            loss=float(answer.loss[i]),
            rmsd=float(distance[i]),
            second_opinion=second[i],
            seconds=float(seconds[i]),
        )
        for i, atoms in enumerate(targets)
    ]


class _Reporter:
    """Progress on standard error: one line that changes on a terminal, else a line now and then."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.pause = 0.5 if sys.stderr.isatty() else 30.0
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        if now - self.last < self.pause:
            return
        self.last = now
        text = f"{self.label}: {done / max(total, 1):.0%} {message}"
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"{text:100.100s}" if end == "\r" else text, end=end, file=sys.stderr, flush=True)


def markdown(suite: str, outcome: Outcome, rows: Sequence[Row], *, by_group: bool) -> list[str]:
    """Return the lines of a table, without its head: one a group, and one for all."""
    groups = list(dict.fromkeys(row.group for row in rows)) if by_group else []
    parts = [(group, [row for row in rows if row.group == group]) for group in groups]
    if len(parts) != 1:
        parts.append(("all", list(rows)))
    whole = len(rows) == len(outcome.rows)
    lines = []
    for k, (name, part) in enumerate(parts):
        last = k == len(parts) - 1
        times = [row.seconds for row in part]
        # Targets solved together share their seconds: only the mean over all is what the clock showed.
        mean = outcome.seconds / len(outcome.rows) if whole and last else float(np.mean(times))
        statuses = Counter(row.status for row in part)
        twins = sum(row.status == "converged" and not row.solved for row in part)
        cells = [
            f"{suite}, {name}",
            outcome.solver,
            len(part),
            sum(row.solved for row in part),
            f"{sum(row.solved for row in part) / len(part):.0%}",
            f"{np.median(times):.2f}",
            f"{mean:.2f}",
            f"{outcome.evaluations:.0f}" if outcome.evaluations is not None and last else "",
            twins,
            ", ".join(f"{status} {count}" for status, count in statuses.most_common()),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


HEAD = [
    "| suite | solver | targets | solved | share | s/target, median | mean | evaluations/target "
    "| converged to other atoms | statuses |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write one line a target."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def spread_over(targets: Sequence[Atoms], count: int) -> list[Atoms]:
    """Return ``count`` of the targets, evenly over their list, and so over its groups."""
    chosen = np.unique(np.linspace(0, len(targets) - 1, min(count, len(targets))).round().astype(int))
    return [targets[i] for i in chosen]


def round_trip_settings(representation: str, pooling: str | None) -> RoundTripSettings:
    """Return the settings of a representation: a preset, a kind, or its settings as YAML."""
    named: Any = yaml.safe_load(representation)
    if isinstance(named, dict):
        named = settings_from(RepresentationSettings, named, source="--representation")
    return RoundTripSettings(representation=named, pooling=tuple(pooling.split(",")) if pooling else None)


def arguments(suite: str, description: str, *, representation: str = "fung2022") -> argparse.ArgumentParser:
    """Return the options that all suites have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.reconstruction.{suite}", description=description
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="three small targets, hardly any search: does it run?")
    add("--solver", default="whorl", help=f"one or more of {', '.join(SOLVERS)}")
    add("--baseline", default="", help="solvers to run beside it on a few of the targets")
    add("--baseline-targets", type=int, default=4, help="on how many, evenly over the suite")
    add("--limit", type=int, help="take only so many targets, evenly over the suite")
    add(
        "--representation",
        default=representation,
        help=f"{', '.join(PRESETS)}, soap, {{kind: ace, n_max: 8}} …",
    )
    add("--pooling", help="such as max,min or mean,std; by default that of the representation")
    add("--seed", type=int, default=0, help="of the search (the targets stay the same)")
    add("--budget-seconds", type=float, help="for each target, on average")
    add("--batch-size", type=int, help="structures at once; it bounds the memory")
    add("--free-cell", action="store_true", help="crystals: forget the lattice too")
    add("--max-atoms", type=int, help="leave out larger targets")
    add("--min-atoms", type=int, default=0, help="leave out smaller targets")
    add("--device", default="cpu", help="cpu or cuda")
    add("--dtype", default="float64", choices=("float32", "float64"))
    add("--threads", type=int, help="torch threads")
    add("--csv", type=Path, help="one line a target; by default in runs/benchmarks/reconstruction")
    return parser


def run_suite(
    suite: str, options: argparse.Namespace, build: Callable[[], list[Atoms]], *, alone: bool = False
) -> int:
    """Run a suite as the command line asks, print its table, and return the exit status."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.csv is None:
        marks = "-free-cell" * options.free_cell + "-quick" * options.quick
        words = re.findall(r"[\w.]+", f"{options.representation} {options.pooling or ''}")
        name = f"{suite}-{options.solver}-{'-'.join(words)}{marks}.csv"
        options.csv = Path("runs/benchmarks/reconstruction") / name
    budget = 1.0 if options.quick and options.budget_seconds is None else options.budget_seconds
    limits = Limits(
        seed=options.seed, budget_seconds=budget, batch_size=options.batch_size, quick=options.quick
    )

    def run(targets: Sequence[Atoms], solver: str) -> Outcome:
        return run_solver(
            targets,
            solver,
            limits,
            settings=settings,
            device=options.device,
            dtype=getattr(torch, options.dtype),
            free_cell=options.free_cell,
            alone=alone,
        )

    try:
        settings = round_trip_settings(options.representation, options.pooling)
        try:
            targets = build()
        except InputError as error:
            print(f"skipped: {error}")
            return 0
        if options.quick:
            targets = sorted(targets, key=len)[:3]
        largest = options.max_atoms or max(map(len, targets))
        targets = [atoms for atoms in targets if options.min_atoms <= len(atoms) <= largest]
        if options.limit:
            targets = spread_over(targets, options.limit)
        few = spread_over(targets, options.baseline_targets)
        outcomes = [run(targets, solver) for solver in options.solver.split(",") if solver]
        baselines = [run(few, solver) for solver in options.baseline.split(",") if solver]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_rows(options.csv, [row for outcome in outcomes + baselines for row in outcome.rows])
    print(
        f"{options.representation}, pooling {options.pooling or 'its own'}, {options.dtype} on "
        f"{options.device}, "
        f"{torch.get_num_threads()} threads, seed {options.seed}; solved: RMSD < {SOLVED} Å; "
        f"one line a target in {options.csv}\n"
    )
    print("\n".join(HEAD))
    for outcome in outcomes:
        print("\n".join(markdown(suite, outcome, outcome.rows, by_group=True)))
    if baselines:
        names = {atoms.info["name"] for atoms in few}
        print(f"\nOn {len(few)} targets spread evenly over the suite:\n")
        print("\n".join(HEAD))
        for outcome in outcomes:
            print("\n".join(markdown(suite, outcome, outcome.of(names), by_group=False)))
        for outcome in baselines:
            print("\n".join(markdown(suite, outcome, outcome.rows, by_group=False)))
        _print_ratios(outcomes, baselines, names)
    return 0


def _print_ratios(outcomes: Sequence[Outcome], baselines: Sequence[Outcome], names: set[str]) -> None:
    for ours in outcomes:
        mine = ours.of(names)
        for theirs in baselines:
            times = sum(row.seconds for row in mine) / sum(row.seconds for row in theirs.rows)
            print(
                f"\n{ours.solver} / {theirs.solver}: solved {sum(row.solved for row in mine)} against "
                f"{sum(row.solved for row in theirs.rows)} of {len(names)}, in {times:.2g} × the time"
            )
