"""Algorithm 1 of Fung et al. 2022, batched over targets, starts and hops.

For each target: several random starts; from each, several runs of Adam with noise added between them; the
best structure of all is then polished with smaller steps. The best is tracked at every step.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from whorl.chunked import Part
from whorl.errors import InputError
from whorl.reconstruction.base import Progress, ReconstructionContext, SearchReconstructor
from whorl.reconstruction.checkpoint import Checkpoint
from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.result import InversionResult, centred, statuses
from whorl.reconstruction.settings import SearchSettings
from whorl.reconstruction.solvers.adam import Adam
from whorl.reconstruction.solvers.base import SolverState
from whorl.reconstruction.starts import content_key, random_displacements, random_starts
from whorl.seeds import derive_seed
from whorl.settings import Count, NonNegative, Positive
from whorl.structures.batch import StructureBatch

_REPORT_EVERY = 20  # steps between two reports of progress
# The last third of the polish improving the loss by less than this part means that it had stopped falling.
_STALL_WINDOW, _STALL = 1 / 3, 0.01


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What decides the outcome; a checkpoint belongs to one set of these."""

    starts: int
    hops: int
    iterations: int
    polish: int
    learning_rate: float
    polish_learning_rate: float
    noise: float
    seed: int
    radius: float | None

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("hops", 1), ("iterations", 1), ("polish", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: got {getattr(self, name)}, expected {least} or more.")
        if not self.noise >= 0:
            raise InputError(f"noise: got {self.noise}, expected a length in Å, zero or more.")

    @property
    def solver(self) -> Adam:
        return Adam(learning_rate=self.learning_rate, decay=_decay(0.01, self.iterations))

    @property
    def polisher(self) -> Adam:
        return Adam(learning_rate=self.polish_learning_rate, decay=_decay(0.01, self.polish))


def _decay(total: float, steps: int) -> float:
    """Return the factor a step that makes ``total`` over all ``steps``."""
    return float(total ** (1 / max(steps, 1)))


def algorithm1(
    problem: InversionProblem,
    *,
    starts: int = 10,
    hops: int = 5,
    iterations: int = 140,
    polish: int = 900,
    learning_rate: float = 0.4,
    polish_learning_rate: float = 0.1,
    noise: float = 0.3,
    radius: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    tolerance: float = 1e-3,
    invalid_above: float | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> InversionResult:
    r"""Find a structure for each target.

    Algorithm 1 of Fung et al. 2022: ``starts`` initialisations × ``hops`` × ``iterations`` of Adam, the
    lowest loss of all, then ``polish`` more steps from there. Within each hop and within the polish the
    learning rate falls by a factor of 100.

    The search runs in float64 on the device of the problem. Starts and noise of a target follow from ``seed``
    and from the target's name, or itself, so they are the same whatever else is in the batch.

    The learning rates and the noise were chosen on Pt10 with the 380 features of the paper and the raw mean
    absolute error. With them most relaxed clusters are recovered within 0.05 Å; disordered ones mostly end
    as another structure with a similar fingerprint, a local minimum.

    Args:
        problem: The targets.
        starts: Random starts for each target.
        hops: Runs of Adam from each start, with noise between them.
        iterations: Steps of each hop.
        polish: Steps from the best of all.
        learning_rate: Of the hops, in Å: about the length by which a coordinate moves in the first steps.
        polish_learning_rate: Of the polish, in Å.
        noise: Standard deviation in Å of the displacement of each coordinate between hops.
        radius: Of the ball in which clusters start, in Å; ``None`` takes it from the covalent radii.
        seed: Of all random numbers.
        batch_size: Structures that are evaluated at once; it bounds the memory and changes nothing else.
        tolerance: A target counts as reproduced where its loss is at most this part of the loss that a
            representation of zeros would have.
        invalid_above: Loss above which a target is called invalid; see
            :func:`whorl.reconstruction.result.invalid_threshold`.
        checkpoint: Folder of finished chunks. The same call resumes from there;
            chunks made with other targets or settings are ignored.
        progress: Called as ``progress(done, total, message)``, in structures × steps.

    Returns:
        Structures, losses and a status for each target.

    Raises:
        InputError: A setting out of range.
    """
    settings = _Settings(
        starts=starts,
        hops=hops,
        iterations=iterations,
        polish=polish,
        learning_rate=learning_rate,
        polish_learning_rate=polish_learning_rate,
        noise=noise,
        seed=seed,
        radius=radius,
    )
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, expected 1 or more.")
    problem = problem.to(dtype=torch.float64)
    meter = _Meter(total=len(problem) * (starts * hops * iterations + polish), report=progress)
    store = Checkpoint(checkpoint, problem=problem, settings=dataclasses.asdict(settings))
    if store.others:
        meter.say(f"{checkpoint}: chunks made with other targets or settings are ignored")
    if not len(problem):
        none = problem.target.new_zeros(0)
        return InversionResult(
            structures=problem.template, loss=none, status=(), start_losses=none.reshape(0, starts)
        )
    # Chunks of equal size, so that none is left over that is too small to be worth a batch.
    every = torch.arange(len(problem), device=problem.target.device)
    chunks = every.tensor_split(-(-len(problem) // batch_size))
    # Of a chunk as many starts at once as fit a batch.
    at_once = [max(1, batch_size // len(chunk)) for chunk in chunks]
    groups = [[range(s, min(s + n, starts)) for s in range(0, starts, n)] for n in at_once]
    plan = [(chunk, group) for chunk, some in zip(chunks, groups, strict=True) for group in some]

    def finished(_: int, part: Part) -> None:
        meter.reach(part.notes["steps"], label=part.notes["label"])

    started = store.chunks(
        partial(_run_starts, settings, meter),
        (_Chunk.of(problem, chunk, group) for chunk, group in plan),
        name="starts",
        finished=finished,
    )
    losses, best = [], []
    waiting = iter(started)
    for chunk, some in zip(chunks, groups, strict=True):
        parts = [next(waiting).tensors for _ in some]
        index = problem.template[chunk].structure_index
        positions, lowest = parts[0]["positions"], parts[0]["losses"].amin(1)
        for part in parts[1:]:
            least = part["losses"].amin(1)
            better = least < lowest
            positions = torch.where(better[index, None], part["positions"], positions)
            lowest = torch.where(better, least, lowest)
        best.append(positions)
        losses.append(torch.cat([part["losses"] for part in parts], 1))
    polished = store.chunks(
        partial(_polish, settings, meter),
        (_Chunk.of(problem, chunk, range(starts), x) for chunk, x in zip(chunks, best, strict=True)),
        name="targets",
        finished=finished,
    )
    found = [part.tensors for part in polished]
    loss = torch.cat([chunk["loss"] for chunk in found])
    structures = problem.template.replace(positions=torch.cat([chunk["positions"] for chunk in found]))
    return InversionResult(
        structures=centred(structures) if problem.frozen is None else structures,
        loss=loss,
        status=statuses(
            loss,
            stalled=torch.cat([chunk["stalled"] for chunk in found]),
            tolerance=tolerance * problem.scale(),
            invalid_above=invalid_above,
        ),
        start_losses=torch.cat(losses),
    )


class Algorithm1(SearchReconstructor):
    """The search of :func:`algorithm1`, in cells that are known."""

    kind = "algorithm1"
    search = staticmethod(algorithm1)
    more = "--starts or --hops"

    class Settings(SearchSettings):
        """Settings of Algorithm 1: those of the paper."""

        starts: Count = 10
        """Random initialisations of each sample."""
        hops: Count = 5
        """Hops of each start: displacement and descent."""
        iterations: Count = 140
        """Descent steps of each hop."""
        polish: Annotated[int, Field(ge=0)] = 900
        """Descent steps of the polish of the best structure."""
        learning_rate: Positive = 0.4
        """Step size of the hops, in Å."""
        polish_learning_rate: Positive = 0.1
        """Step size of the polish, in Å."""
        noise: NonNegative = 0.3
        """Standard deviation of the displacements between hops, in Å."""
        batch_size: Count | None = None
        """Structures per batch, which limits the memory; 256 by default."""

        def summary(self) -> str:
            """Return a one-line summary for reports."""
            polish = f", {self.polish} steps of polish" if self.polish else ""
            return f"Algorithm 1: {self.starts} starts × {self.hops} hops × {self.iterations} steps{polish}"

    def found(self, features: Float[Tensor, "B *shape"], context: ReconstructionContext) -> InversionResult:
        """Search for structures with these features; see the base class.

        Raises:
            InputError: Cells that are not known.
        """
        if context.free_cell:
            raise InputError(
                "algorithm1 holds cells fixed; a cell that is not known needs the reconstructor population."
            )
        own: Any = self.settings
        names = ("starts", "hops", "iterations", "polish", "learning_rate", "polish_learning_rate", "noise")
        options = {name: getattr(own, name) for name in names}
        if own.batch_size is not None:
            options["batch_size"] = own.batch_size
        return algorithm1(
            context.problem(features),
            **options,
            seed=context.seed,
            invalid_above=math.inf if context.invalid_above is None else context.invalid_above,
            checkpoint=context.directory,
            progress=context.progress,
        )


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some targets and starts, which are worked on at once."""

    contents: str  # which: all else is in the key of the whole search
    label: str
    targets: InversionProblem
    starts: range
    positions: Tensor | None  # of the best of all starts

    @classmethod
    def of(
        cls, problem: InversionProblem, chunk: Tensor, starts: range, positions: Tensor | None = None
    ) -> _Chunk:
        first, last = int(chunk[0]), int(chunk[-1])
        return cls(
            contents=f"{first}-{last} {starts[0]}-{starts[-1]}",
            label=f"targets {first + 1}-{last + 1} of {len(problem)}",
            targets=problem.select(chunk),
            starts=starts,
            positions=positions,
        )


def _run_starts(settings: _Settings, meter: _Meter, chunk: _Chunk) -> Part:
    """Run some starts of every target of a chunk, and keep the best positions of each target."""
    part, group = chunk.targets, chunk.starts
    keys = part.names or [content_key(part.target[i], structure) for i, structure in enumerate(part.template)]
    meter.label = chunk.label
    index = torch.arange(len(part), device=part.target.device).repeat_interleave(len(group))
    items = part.select(index)
    labels = [(key, start) for key in keys for start in group]

    def seeds(purpose: str) -> list[int]:
        return [derive_seed(settings.seed, purpose, start, key) for key, start in labels]

    structures = random_starts(items.template, seeds=seeds("start"), radius=settings.radius)
    free = None if items.frozen is None else ~items.frozen[:, None]
    if free is not None:
        structures = structures.replace(
            positions=torch.where(free, structures.positions, items.template.positions)
        )
    best: SolverState | None = None
    for hop in range(settings.hops):
        if hop:
            displacements = random_displacements(structures, seeds=seeds(f"hop {hop}"), scale=settings.noise)
            if free is not None:
                displacements = displacements * free
            structures = structures.replace(positions=structures.positions + displacements)
        stage = f"starts {group[0] + 1}-{group[-1] + 1}, hop {hop + 1} of {settings.hops}"
        state = _descend(settings.solver, items, structures, settings.iterations, meter, stage)
        structures = state.structures
        best = state if best is None else _better(best, state)
    assert best is not None
    losses = best.best_loss.reshape(len(part), len(group))
    winner = losses.argmin(1) + torch.arange(len(part), device=index.device) * len(group)
    steps = len(items) * settings.hops * settings.iterations
    return Part(
        {"positions": best.best[winner].positions, "losses": losses},
        {"steps": steps, "label": f"{chunk.label}: starts {group[0] + 1}-{group[-1] + 1}"},
    )


def _better(one: SolverState, other: SolverState) -> SolverState:
    wins = other.best_loss < one.best_loss
    return dataclasses.replace(
        one,
        best_loss=torch.where(wins, other.best_loss, one.best_loss),
        best_positions=torch.where(
            wins[one.structures.structure_index, None], other.best_positions, one.best_positions
        ),
    )


def _descend(
    solver: Adam,
    problem: InversionProblem,
    structures: StructureBatch,
    steps: int,
    meter: _Meter,
    stage: str,
) -> SolverState:
    state = solver.init(problem, structures)
    for _ in range(steps):
        state = solver.step(problem, state)
        meter.add(len(problem), stage=stage)
    return state


def _polish(settings: _Settings, meter: _Meter, chunk: _Chunk) -> Part:
    """Go on from the best start of every target of a chunk."""
    part = chunk.targets
    assert chunk.positions is not None
    start = part.template.replace(positions=chunk.positions)
    meter.label = chunk.label
    early = int(settings.polish * (1 - _STALL_WINDOW))
    state = settings.polisher.init(part, start)
    before: Float[Tensor, "T"] = state.best_loss
    for step in range(settings.polish):
        state = settings.polisher.step(part, state)
        meter.add(len(part), stage="polish")
        if step + 1 == early:
            before = state.best_loss
    stalled: Bool[Tensor, "T"] = before - state.best_loss <= _STALL * before
    if settings.polish == 0:
        stalled = torch.zeros_like(stalled)
    return Part(
        {"positions": state.best_positions, "loss": state.best_loss, "stalled": stalled},
        {"steps": len(part) * settings.polish, "label": f"{chunk.label}: polish"},
    )


class _Meter:
    """Counts structures × steps, and reports now and then: within a chunk in this process, else after it."""

    def __init__(self, *, total: int, report: Progress | None) -> None:
        self.total = total
        self.label = ""
        self._finished = 0  # steps of finished ones
        self._steps = 0  # of the present chunk
        self._report = report
        self._calls = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the report behind where a copy goes to a worker."""
        return {**vars(self), "_report": None}

    def add(self, count: int, *, stage: str) -> None:
        """Count steps of the present chunk."""
        self._steps += count
        self._calls += 1
        if self._calls % _REPORT_EVERY == 0:
            self.say(f"{self.label}: {stage}")

    def reach(self, steps: int, *, label: str) -> None:
        """Count a finished chunk of so many steps."""
        self._finished += steps
        self._steps = 0
        self.say(label)

    def say(self, message: str) -> None:
        """Report what is done so far."""
        if self._report is not None:
            self._report(self._finished + self._steps, self.total, message)
