"""The ways to solve a suite, by name: the engine of whorl, and what it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baselines.algorithm1_loop import algorithm1_loop
from whorl.errors import InputError
from whorl.reconstruction import InversionProblem, algorithm1
from whorl.structures import StructureBatch

Progress = Callable[[int, int, str], None]

PAPER = {"starts": 10, "hops": 5, "iterations": 140, "polish": 900}  # "ten trials with five hops each"
PUBLISHED = {"starts": 2, "hops": 10, "iterations": 140, "polish": 900}  # what the published code does
QUICK = {"starts": 1, "hops": 1, "iterations": 3, "polish": 3}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a solver may use."""

    seed: int = 0
    budget_seconds: float | None = None  # a target, on average
    batch_size: int | None = None
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a solver gives back for T targets."""

    structures: StructureBatch
    loss: Tensor
    status: tuple[str, ...]
    seconds: Tensor | None = None  # of each target, where they were measured
    evaluations: float | None = None  # of the fingerprint, a target


def _whorl(problem: InversionProblem, limits: Limits, progress: Progress) -> Answer:
    try:
        from whorl.reconstruction import solve
    except ImportError as error:
        raise InputError("solver whorl: this version of whorl has no whorl.reconstruction.solve.") from error
    budget = limits.budget_seconds
    settings = {} if limits.batch_size is None else {"batch_size": limits.batch_size}
    result = solve(
        problem,
        seed=limits.seed,
        budget_seconds=None if budget is None else budget * len(problem),
        progress=progress,
        **settings,
    )
    evaluations = getattr(result, "evaluations", None)
    if evaluations is not None:
        evaluations = float(torch.as_tensor(evaluations, dtype=torch.float64).sum()) / len(problem)
    return Answer(
        structures=result.structures,
        loss=result.loss,
        status=tuple(one.value for one in result.status),
        seconds=getattr(result, "seconds", None),
        evaluations=evaluations,
    )


def _batched(settings: dict[str, int]) -> Callable[[InversionProblem, Limits, Progress], Answer]:
    def solve(problem: InversionProblem, limits: Limits, progress: Progress) -> Answer:
        steps = QUICK if limits.quick else settings
        size = limits.batch_size or 256
        result = algorithm1(problem, **steps, seed=limits.seed, batch_size=size, progress=progress)
        return Answer(
            structures=result.structures,
            loss=result.loss,
            status=tuple(one.value for one in result.status),
            evaluations=_evaluations(steps),
        )

    return solve


def _loop(problem: InversionProblem, limits: Limits, progress: Progress) -> Answer:
    """Follow one Pt cluster after another, one symmetry function after another."""
    config = problem.representation.config()
    known = config["species"] == ["Pt"] and list(config["pooling"]) == ["max", "min"]
    if not known or problem.target.shape[1] != 380 or bool(problem.template.pbc.any()):
        raise InputError("solver loop: it knows Pt clusters with fung2022 and max,min pooling alone.")
    steps = QUICK if limits.quick else PUBLISHED
    positions, losses, seconds = [], [], []
    for i, template in enumerate(problem.template):
        progress(i, len(problem), f"target {i + 1} of {len(problem)}")
        began = time.perf_counter()
        found, loss = algorithm1_loop(problem.target[i], template, seed=limits.seed + i, **steps)
        seconds.append(time.perf_counter() - began)
        positions.append(found)
        losses.append(loss)
    return Answer(
        structures=problem.template.replace(positions=torch.cat(positions)),
        loss=torch.tensor(losses, dtype=torch.float64),
        status=("ended",) * len(losses),
        seconds=torch.tensor(seconds),
        evaluations=_evaluations(steps),
    )


def _evaluations(steps: dict[str, int]) -> float:
    return float(steps["starts"] * steps["hops"] * steps["iterations"] + steps["polish"])


SOLVERS: dict[str, Callable[[InversionProblem, Limits, Progress], Answer]] = {
    "whorl": _whorl,
    "algorithm1": _batched(PAPER),
    "published": _batched(PUBLISHED),
    "loop": _loop,
}
