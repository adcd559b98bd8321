r"""Population search: a small population for each target, optimised together in batches.

For each target:

1. Many random arrangements of different size and shape are compared with the target. The nearest ones in the
   broad features become the first population.
2. Every round, good members are moved (:mod:`whorl.reconstruction.population.moves`) and their children
   optimised by Levenberg–Marquardt from coarse to fine: first with low weights of sharp features, and only
   the more promising third goes on to where all features count. The best that differ from one another stay.
3. A population that has not improved for some rounds is replaced by a new one; the best of all is kept.

A solved target is replaced by the next one. Workers of an executor
(:func:`whorl.executors.executing`) take one target at a time; in this process many are searched in turn.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from whorl.chunked import Part
from whorl.errors import InputError
from whorl.executors.base import Session, current_executor
from whorl.executors.serial import Serial
from whorl.parallel import map_threads, one_thread_an_operation
from whorl.reconstruction.base import Progress
from whorl.reconstruction.checkpoint import Checkpoint
from whorl.reconstruction.objective import MIN_DISTANCE, InversionProblem
from whorl.reconstruction.population.exchange import (
    FEATURES_PER_EVALUATION,
    MOST_PAIRS,
    drawn_exchanges,
    unlike_pairs,
)
from whorl.reconstruction.population.feasibility import agreeing, infeasibility
from whorl.reconstruction.population.moves import Atoms, push_apart
from whorl.reconstruction.population.starts import given_starts, varied_starts
from whorl.reconstruction.population.stepwise import stepwise_starts
from whorl.reconstruction.population.target_search import (
    Jobs,
    PopulationSettings,
    TargetSearch,
    symmetry_class,
)
from whorl.reconstruction.result import InversionResult, InversionStatus, centred
from whorl.reconstruction.solvers.base import Solver
from whorl.reconstruction.solvers.levenberg_marquardt import LevenbergMarquardt
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.reconstruction.starts import content_key
from whorl.seeds import derive_seed
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures
from whorl.symmetry.coordinates import SymmetryCoordinates
from whorl.symmetry.groups import Group
from whorl.symmetry.space_groups import Lattices
from whorl.tensor_files import tensors_hash

_AT_ONCE = 32  # targets that are searched at the same time
_NUMBERS = 20_000_000  # that the Jacobians of a batch may hold
_DOUBT = 0.99  # probability from which a target is called one that no structure has
_FLOOR = 0.3  # least spread of a feature, as a part of the median spread
_ROUNDING = 1e-12  # part of the greatest spread up to which a feature has none
_BUDGET = 150_000  # evaluations for a target of up to ten atoms
_POLISH = 30  # steps for what is nearly a solution
_PER_GROUP = 4  # random arrangements that share a group of operations
_FEW, _SHOWN = 100, 8  # random arrangements where starts are placed stepwise; of these, that show features
_TRIALS = 8  # children of large crystals that are compared with the target for each that is improved
_SCREENED = 3  # times the starts of large crystals that are improved a little before some are chosen
_NEARLY = 1e-3  # mean square of the whitened residuals up to which it is
_IMPROVED = 0.5  # part of its loss below which it is polished again
_EXACT = 1e-4  # root mean square of the whitened residuals above which a solution may get nearer yet
_DAMPING = 0.1  # at first; with less, more descents end in wrong structures
_FLOORS = {torch.float32: 1e-10, torch.float64: 1e-20}  # of the loss, where a solver rests
_ALIKE, _UNLIKE = 1e-4, 1e-2  # variation of a species up to which its atoms are alike, from which not
_TWIN = 1e-5  # root mean square of the whitened residuals up to which other structures are solutions too


def solve(
    problem: InversionProblem,
    *,
    budget_evaluations: int | None = None,
    budget_seconds: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    tolerance: float = 1e-3,
    population: PopulationSettings | None = None,
    solver: SolverSettings | None = None,
    starts: Sequence[Structures | None] | None = None,
    lattices: Sequence[Lattices | None] | None = None,
    invalid_above: float | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> InversionResult:
    """Find structures that have the target fingerprints.

    Random numbers of a target follow from ``seed`` and from the target's name, or itself, so that it does not
    matter what else is searched with it. Without ``budget_seconds`` the same call gives the same result.

    Args:
        problem: The targets. If it has no weights, the search weighs each feature by its spread over
            random arrangements; the losses returned are those of the problem as it is. Without a least
            distance of its own, atoms keep 0.55 of the sum of their covalent radii.
        budget_evaluations: Maximum number of evaluations of fingerprint and derivatives for one target;
            ``None``: 150 000 times, or as many fewer as a target has more than ten atoms.
        budget_seconds: For all targets together; they are then searched side by side, on the threads of this
            process whatever the executor. Each gets its first population, even if that takes longer.
        seed: Of all random numbers.
        batch_size: Structures that are evaluated at once; with larger ones fewer, so that memory is bounded.
        tolerance: A target is solved where the root mean square of its residuals, each as a part of the
            spread of its feature, is below this. What is below is polished as far as it goes.
        population: Settings of the populations.
        solver: Of the descents; ``None``: Levenberg–Marquardt. One that is not ``general`` holds cells fixed
            and keeps no symmetry.
        starts: For each target structures that its first population begins with, besides random ones; of the
            composition of its template, in any order of the atoms. In a fixed cell they are strained to it.
        lattices: For each target likely lattices, with space groups, which most random starts of a free cell
            then have.
        invalid_above: Loss above which an unsolved target is called invalid. ``None`` leaves that to
            :func:`whorl.reconstruction.population.feasibility.infeasibility`.
        checkpoint: Folder of finished targets. The same call resumes from there, with any executor.
        progress: Called as ``progress(done, targets, message)``.

    Returns:
        For each target the best structure, its loss, a status, and all distinct solutions.

    Raises:
        InputError: A setting out of range, a solver that cannot do what is asked, starts that do not fit,
            or a space group that no target can have (one that only some cannot have is in ``refused``).
    """
    population = population or PopulationSettings()
    if problem.min_distance is None:
        problem = problem.replace(min_distance=MIN_DISTANCE)
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, expected 1 or more.")
    if (budget_evaluations is not None and budget_evaluations < 1) or (
        budget_seconds is not None and not budget_seconds > 0
    ):
        raise InputError("budget: expected a positive number of evaluations, and of seconds.")
    free = problem.free_cell or problem.space_group is not None
    if free and solver is not None and not solver.method.general:
        raise InputError(
            f"solver {solver.kind}: holds cells fixed and keeps no symmetry. For a free cell or a space "
            f"group take one that does both: {LevenbergMarquardt.kind}."
        )
    given = given_starts(problem, starts)
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    settings = {
        "population": dataclasses.asdict(population),
        "budget": [budget_evaluations, budget_seconds],
        "seed": seed,
        "tolerance": tolerance,
        "invalid_above": invalid_above,
    }
    if solver is not None:
        settings["solver"] = solver.model_dump(mode="json")
    if starts is not None:
        flat = [(k, *start) for k, some in enumerate(given) for start in some]
        settings["starts"] = [(k, tensors_hash({"x": x, "cell": cell})) for k, x, cell in flat]
    likely = _likely_lattices(problem, lattices)
    if lattices is not None:
        settings["lattices"] = [
            None if one is None else tensors_hash({"cells": one.cells, "space_groups": one.space_groups})
            for one in likely
        ]
    begun = done = solved = 0

    def targets() -> Iterator[_Target]:
        nonlocal begun
        for k, start in enumerate(given):
            begun += 1
            yield _Target(str(k), problem.select([k]), start, likely[k])

    def report() -> None:
        if progress:
            message = f"{solved} solved, {begun - done} running, {done - solved} given up"
            progress(done, len(problem), message)

    def finished(_: int, part: Part) -> None:
        nonlocal done, solved
        done += 1
        solved += part.notes["status"] == InversionStatus.CONVERGED.value
        report()

    executor = current_executor()
    if deadline is not None or executor is None or isinstance(executor, Serial):
        at_once = len(problem) if deadline is not None else _AT_ONCE
        executor = _SideBySide(at_once, deadline=deadline, report=report)
    report()
    parts = Checkpoint(checkpoint, problem=problem, settings=settings).chunks(
        _Method(population, solver, seed, batch_size, tolerance, budget_evaluations, invalid_above),
        targets(),
        name="target",
        executor=executor,
        finished=finished,
    )
    return _result(problem, parts)


def _likely_lattices(
    problem: InversionProblem, lattices: Sequence[Lattices | None] | None
) -> Sequence[Lattices | None]:
    if lattices is None:
        return [None] * len(problem)
    if len(lattices) != len(problem):
        raise InputError(
            f"lattices: got {len(lattices)}, expected an entry for each of {len(problem)} targets."
        )
    if not problem.free_cell:
        raise InputError("lattices: the cells are held fixed. Set free_cell=True, or leave the lattices out.")
    return [one if one is not None and len(one) else None for one in lattices]


@dataclass(frozen=True)
class _Target:
    """One target, positions and cells that its first population begins with, and likely lattices."""

    contents: str  # its number: all else is in the key of the whole search
    problem: InversionProblem
    starts: Sequence[tuple[Tensor, Tensor]]
    lattices: Lattices | None = None


@dataclass(frozen=True)
class _Method:
    """The search for any target by these settings."""

    population: PopulationSettings
    solver: SolverSettings | None
    seed: int
    batch_size: int
    tolerance: float
    budget: int | None
    invalid_above: float | None

    def __call__(self, target: _Target) -> Part:
        """Search for one target to the end."""
        began = time.monotonic()
        search = _Search(self, target)
        while not search.is_over:
            search.round()
        search.target.seconds = time.monotonic() - began
        return search.finish()


class _SideBySide(Serial):
    """Rounds of many searches in turn, on the threads of this process, until a deadline if there is one."""

    def __init__(self, at_once: int, *, deadline: float | None, report: Callable[[], None]) -> None:
        super().__init__()
        self.at_once, self.deadline, self.report = at_once, deadline, report

    @contextmanager
    def _session(self, function: Callable[[Any], Any]) -> Generator[Session]:
        assert isinstance(function, _Method)
        yield _Rounds(function, self)


class _Rounds(Session):
    def __init__(self, method: _Method, layout: _SideBySide) -> None:
        self.limit = layout.at_once
        self._method, self._layout = method, layout
        self._running: dict[int, _Search] = {}
        self._finished: list[tuple[int, Part]] = []

    def submit(self, number: int, target: _Target) -> None:
        self._running[number] = _Search(self._method, target)

    def next(self) -> tuple[int, Part]:
        with one_thread_an_operation():
            while not self._finished:
                deadline = self._layout.deadline
                spent = deadline is not None and time.monotonic() > deadline
                over = [
                    number
                    for number, search in self._running.items()
                    if search.is_over or (spent and search.target.evaluations)
                ]
                if over:
                    searches = [self._running.pop(number) for number in over]
                    self._finished = list(zip(over, map_threads(_Search.finish, searches), strict=True))
                else:
                    self._round(list(self._running.values()))
                    self._layout.report()
        return self._finished.pop(0)

    def _round(self, searches: Sequence[_Search]) -> None:
        """Go one round further with each.

        Each is worked on by itself: what is together in a batch decides the last digit of each, and small
        differences grow in a search. So the result depends neither on the other targets nor on the cores.
        """
        began = time.monotonic()
        before = [search.target.evaluations for search in searches]
        # A round is many short operations, which share out worse than whole rounds do.
        map_threads(_Search.round, searches)
        elapsed = time.monotonic() - began
        worked = [search.target.evaluations - b for search, b in zip(searches, before, strict=True)]
        for search, work in zip(searches, worked, strict=True):
            search.target.seconds += elapsed * work / max(sum(worked), 1)


@dataclass(frozen=True)
class _Batch:
    """Jobs that are worked on at once: their places, structures, and their orbits if symmetric."""

    jobs: list[int]
    structures: StructureBatch
    orbits: SymmetryCoordinates | None

    def of(self, problem: InversionProblem) -> InversionProblem:
        """Return a problem for these structures."""
        part = problem.select([0] * len(self.jobs))
        return part if self.orbits is None else part.symmetric(self.orbits.to(part.target))


class _Search:
    """The search for one target."""

    def __init__(self, method: _Method, sought: _Target) -> None:
        self.method, self.population, self.problem = method, method.population, sought.problem
        solver = method.solver or LevenbergMarquardt.Settings(damping=_DAMPING)
        self.solvers = {dtype: _resting(solver, floor) for dtype, floor in _FLOORS.items()}
        self.general = solver.method.general
        problem = self.problem
        self.roughly = problem.to(dtype=torch.float32)
        self.tolerance = method.tolerance**2
        self.sharpness = problem.representation.sharpness().to(problem.target)
        self.weights = torch.ones_like(problem.target)
        if problem.weights is not None:
            self.weights = problem.weights.expand_as(problem.target).clone()
        template = problem.template
        free = torch.ones_like(template.atomic_numbers, dtype=torch.bool)
        atoms = Atoms(
            template.atomic_numbers,
            template.pbc[0],
            free if problem.frozen is None else ~problem.frozen,
            problem.free_cell,
            problem.space_group,
            _alike(problem),
            sought.lattices,
        )
        key = content_key(problem.target[0], template) if problem.names is None else problem.names[0]
        rng = torch.Generator().manual_seed(derive_seed(method.seed, "solve", key))
        self.target = TargetSearch(atoms, template, rng, sought.starts)

    @property
    def is_over(self) -> bool:
        """Whether it is solved as nearly as possible, cannot be searched, or its budget is spent."""
        target = self.target
        done = target.solved and (target.best_loss < _EXACT**2 or target.settled)
        return target.refused is not None or done or self._is_spent

    @property
    def _budget(self) -> int:
        if self.method.budget is not None:
            return self.method.budget
        return int(_BUDGET / max(1.0, len(self.target.atoms.numbers) / 10))

    @property
    def _is_spent(self) -> bool:
        return self.target.evaluations >= self._budget

    def round(self) -> None:
        """Begin a population, or go one round further with it."""
        target = self.target
        if len(target.loss):
            self._breed()
        else:
            try:
                self._open()
            except InputError as error:  # such as a space group that these atoms cannot have
                target.refused = str(error)
                return
        target.solved = target.best_loss < self.tolerance
        target.end_round(self.population.patience)

    def _open(self) -> None:
        """Begin a population: the best of many random arrangements, and the given structures, improved.

        A budget that is no larger than what the random ones take goes to the given ones alone.
        """
        size, target = self.population, self.target
        given = () if target.ends else target.given
        small = self._budget <= size.opening_evaluations
        if given and small and self.problem.weights is not None:
            jobs = Jobs(target, [], [], [])
        else:
            jobs = self._random(stepwise=target.places_stepwise)
        if jobs.loss is not None:
            self._deliver(jobs)
            jobs = Jobs(target, [], [], [])
        for start in given:
            jobs.append(*start, None)
        if len(jobs):
            self._deliver(self.improve(jobs))
        self._complete()

    def _random(self, *, stepwise: bool) -> Jobs:
        """Return the best of many random arrangements; those placed stepwise are improved already."""
        size, target = self.population, self.target
        positions, cells, groups = self._candidates(few=stepwise)
        jobs = Jobs(target, list(positions), list(cells), groups)
        features = self.features_of(jobs)
        if self.problem.weights is None and not target.ends:
            self.weights[0] = whitening(self.problem.spread(features))
        if stepwise:
            placed = stepwise_starts(self, positions[:_SHOWN], features[:_SHOWN])
            return self._random(stepwise=False) if placed is None else placed
        order = self.distance(features).argsort(stable=True).tolist()
        most = _SCREENED * size.first if target.is_large else size.first
        jobs = jobs.pick(_share_out(order, [symmetry_class(groups[p]) for p in order], most, target.rarity))
        return self._screened(jobs) if target.is_large else jobs

    def of_atoms(self, which: Int[Tensor, "m"]) -> _Search:
        """Return the search for some of the atoms alone, with the same weights."""
        template = self.problem.template
        part = template.replace(
            positions=template.positions[which],
            atomic_numbers=template.atomic_numbers[which],
            structure_index=template.structure_index[which],
        )
        search = _Search(self.method, _Target("", self.problem.replace(template=part), []))
        search.weights = self.weights.clone()
        return search

    def features_of(self, jobs: Jobs) -> Float[Tensor, "C F"]:
        """Return the features of arrangements."""
        batches = self._batches(jobs)
        features = torch.cat(map_threads(self._features, batches))
        return features[torch.tensor([k for batch in batches for k in batch.jobs]).argsort()]

    def distance(self, features: Float[Tensor, "C F"]) -> Float[Tensor, "C"]:
        """Return by how much features differ from the target, sharp ones weighing less."""
        weights = self.weights[0] * self._softened()
        return ((features - self.problem.target[0]) * weights).abs().mean(1).nan_to_num(torch.inf)

    def improve(self, jobs: Jobs) -> Jobs:
        """Improve starts."""
        broad, fine = self.population.opening
        return self._improve(jobs, broad=broad, fine=fine)

    def _candidates(self, *, few: bool = False) -> tuple[Tensor, Tensor, list[Group | None]]:
        target = self.target
        many, rarer = (_SCREENED, target.cost_factor) if target.is_large else (1, 1.0)
        symmetric = self.population.symmetric if target.seeks_symmetry and self.general else 0.0
        return varied_starts(
            target.template,
            target.atoms,
            count=_FEW if few else many * self.population.candidates,
            rng=target.rng,
            symmetric=symmetric and 1.0 - (1.0 - symmetric) / rarer,
            per_group=1 if few else _PER_GROUP * many,
        )

    def _screened(self, jobs: Jobs) -> Jobs:
        """Improve the starts of large crystals a little, and keep the better ones of each symmetry."""
        size = self.population
        tried = self._improve(jobs, broad=size.coarse)
        assert tried.loss is not None
        order = tried.loss.argsort(stable=True).tolist()
        classes = [symmetry_class(tried.groups[p]) for p in order]
        return tried.pick(_share_out(order, classes, size.first // 2, self.target.rarity))

    def _breed(self) -> None:
        """One round: children of good members, the promising ones improved to the end."""
        size, target = self.population, self.target
        jobs = Jobs(target, [], [], [])
        best = max(1, math.ceil(size.parents * len(target.loss)))
        trials = _TRIALS if target.is_large and bool(target.atoms.pbc.all()) else 1
        parents = torch.randint(best, (trials * size.children,), generator=target.rng)
        made: list[tuple[int, str]] = []
        # Of many children the nearest are taken anyway; a solver without Jacobians makes none of them.
        exchanged = self._exchanged if self.general and trials == 1 else None
        for positions, cell, group, of in target.children(parents, size.moves, exchanged):
            jobs.append(positions, cell, group)
            made.append(of)
        if trials > 1:
            jobs = jobs.pick(self._nearest(jobs, made))
        jobs = self._improve(jobs, broad=size.coarse)
        assert jobs.loss is not None
        promising = jobs.loss.argsort(stable=True)[: size.promising].tolist()
        self._deliver(self._improve(jobs.pick(promising), fine=size.fine))
        self._complete()

    def _nearest(self, jobs: Jobs, made: Sequence[tuple[int, str]]) -> list[int]:
        """Return those that are nearest to the target, of each parent and move as large a part."""
        order = self.distance(self.features_of(jobs)).argsort(stable=True).tolist()
        counts = Counter(made)
        kinds = {of: kind for kind, of in enumerate(counts)}
        rarity = [1 / count for count in counts.values()]
        return _share_out(order, [kinds[made[k]] for k in order], self.population.children, rarity)

    def _exchanged(self, member: int, count: int) -> tuple[Tensor, Tensor]:
        """Return positions and cells of one member after exchanges of two atoms."""
        target = self.target
        structure = target.template.replace(
            positions=target.positions[member], cells=target.cells[member][None]
        )
        pairs = unlike_pairs(target.atoms.numbers, target.atoms.free)
        pairs = pairs[torch.randperm(len(pairs), generator=target.rng)[:MOST_PAIRS]]
        positions = drawn_exchanges(self._whitened(), structure, pairs, count=count, rng=target.rng)
        target.evaluations += 1 + -(-len(pairs) // FEATURES_PER_EVALUATION)
        cells = target.cells[member].expand(count, 3, 3)
        return push_apart(positions, cells, target.atoms), cells

    def _complete(self) -> None:
        """Bring the best to the solution that it nearly is, if it is.

        That goes by absolute values, which kinks of the fingerprint mislead less, and without the symmetry,
        which real structures may have but nearly.
        """
        target = self.target
        if not len(target.loss) or not self._is_nearly_solved:
            return
        leader = Jobs(target, [target.positions[0]], [target.cells[0]], [target.groups[0]])
        self._deliver(self._improve(leader, fine=_POLISH, loss="mae", broken=True))
        target.polished = float(target.loss[0])

    @property
    def _is_nearly_solved(self) -> bool:
        target = self.target
        if target.best_loss < self.tolerance:
            return True
        return target.groups[0] is not None and float(target.loss[0]) < min(
            _NEARLY, _IMPROVED * target.polished
        )

    def _deliver(self, jobs: Jobs) -> None:
        assert jobs.loss is not None
        self.target.take(
            torch.stack(jobs.positions),
            torch.stack(jobs.cells),
            jobs.loss,
            jobs.groups,
            most=self.population.members,
        )

    # Batches of bounded memory.

    def _batches(self, jobs: Jobs, *, broken: bool = False) -> list[_Batch]:
        """Cut into batches of like sizes; symmetric arrangements apart, unless all symmetry is ``broken``."""
        orbits = [None] * len(jobs) if broken else map_threads(jobs.orbits, range(len(jobs)))
        n = [len(one) for one in jobs.positions]
        heads = [n[k] if one is None else len(one.head.unique()) for k, one in enumerate(orbits)]
        order = sorted(range(len(n)), key=lambda k: (orbits[k] is None, n[k], heads[k]))
        batches: list[list[int]] = []
        current: list[int] = []
        for k in order:
            one = orbits[k]
            columns = 3 * n[k] + 9 if one is None else 1 + one.atoms.shape[3]
            most = max(1, min(self.method.batch_size, _NUMBERS // (columns * self.problem.target.shape[1])))
            apart = current and (one is None) != (orbits[current[0]] is None)
            other_size = current and one is not None and n[k] != n[current[0]]
            if len(current) >= most or apart or other_size:
                batches.append(current)
                current = []
            current.append(k)
        if current:
            batches.append(current)
        return [self._batch(jobs, batch, orbits) for batch in batches]

    def _batch(self, jobs: Jobs, batch: list[int], orbits: Sequence[SymmetryCoordinates | None]) -> _Batch:
        target = self.problem.target
        structures = self.problem.template[[0] * len(batch)].replace(
            positions=torch.cat([jobs.positions[k] for k in batch]),
            cells=torch.stack([jobs.cells[k] for k in batch]),
        )
        alike = [one for one in (orbits[k] for k in batch) if one is not None]
        return _Batch(batch, structures, SymmetryCoordinates.stack(alike).to(target) if alike else None)

    def _features(self, batch: _Batch) -> Tensor:
        with torch.no_grad():
            return batch.of(self.problem).features(batch.structures)

    def _softened(self) -> Float[Tensor, "F"]:
        """Return how much each feature counts in broad descents: the sharper, the less."""
        return (1.0 + (self.sharpness * self.population.length) ** 4).rsqrt()

    def _whitened(self, loss: str = "squared") -> InversionProblem:
        return self.problem.replace(weights=self.weights, loss=loss)

    def _broad(self) -> InversionProblem:
        """Return the problem with sharp features softened: only to come near, so in single precision."""
        weights = (self.weights * self._softened()).to(self.roughly.target)
        return self.roughly.replace(weights=weights, loss="squared")

    def _improve(
        self, jobs: Jobs, *, broad: int = 0, fine: int = 0, loss: str = "squared", broken: bool = False
    ) -> Jobs:
        """Improve by so many broad steps, and then by so many in which every feature counts fully."""
        problems = [(self._broad(), broad), (self._whitened(loss), fine)]
        scored_by = self._whitened() if loss != "squared" else None
        some = [(problem, steps) for problem, steps in problems if steps]
        return self._descend(jobs, some, scored_by=scored_by, broken=broken)

    def _descend(
        self,
        jobs: Jobs,
        problems: Sequence[tuple[InversionProblem, int]],
        *,
        scored_by: InversionProblem | None,
        broken: bool,
    ) -> Jobs:
        """Improve by so many steps of each problem; losses are those of the last one, or of ``scored_by``."""
        batches = self._batches(jobs, broken=broken)

        def improve(batch: _Batch) -> tuple[StructureBatch, Tensor, Tensor]:
            structures = batch.structures
            evaluations = torch.zeros(len(batch.jobs), dtype=torch.int64, device=structures.device)
            for whole, steps in problems:
                part, solver = batch.of(whole), self.solvers[whole.target.dtype]
                state = solver.init(part, structures.to(dtype=whole.target.dtype))
                evaluations += 1
                for _ in range(steps):
                    moving = solver.moving(part, state)
                    if not bool(moving.any()):
                        break
                    evaluations += moving
                    state = solver.step(part, state)
                structures = state.best
            lowest = state.best_loss
            if scored_by is not None:
                with torch.no_grad():
                    lowest = batch.of(scored_by).value(structures)
            lowest = torch.where(state.failed, torch.inf, lowest).to(self.problem.target)
            return self._unrounded(batch, structures), lowest, evaluations

        lowest = torch.full(
            (len(jobs),),
            torch.inf,
            dtype=self.problem.target.dtype,
            device=self.problem.target.device,
        )
        positions, cells = list(jobs.positions), list(jobs.cells)
        for batch, (structures, losses, evaluations) in zip(
            batches, map_threads(improve, batches), strict=True
        ):
            lowest[batch.jobs] = losses
            sizes = structures.n_atoms.tolist()
            for k, one, cell, count in zip(
                batch.jobs,
                structures.positions.split(sizes),
                structures.cells,
                evaluations.tolist(),
                strict=True,
            ):
                positions[k], cells[k] = one, cell
                self.target.evaluations += count
        return Jobs(self.target, positions, cells, jobs.groups, lowest)

    def _unrounded(self, batch: _Batch, found: StructureBatch) -> StructureBatch:
        """Return what was found with everything that may not move exactly as it was before."""
        before = batch.structures
        found = found.to(dtype=before.dtype)
        frozen = batch.of(self.problem).frozen
        if frozen is not None:
            found = found.replace(positions=torch.where(frozen[:, None], before.positions, found.positions))
        return found if self.problem.free_cell else found.replace(cells=before.cells)

    # Endings.

    def _best(self) -> StructureBatch:
        target = self.target
        return target.template.replace(positions=target.best_positions, cells=target.best_cell[None])

    def finish(self) -> Part:
        """Settle what the search ends with: the structure, its loss and its status."""
        target = self.target
        if target.refused is None:
            self._settle()
        return target.outcome()

    def _settle(self) -> None:
        target = self.target
        found = target.loss <= max(_TWIN**2, target.best_loss) if target.solved else target.loss < 0
        target.found = target.positions[found], target.cells[found]
        if not target.solved and math.isfinite(target.best_loss):
            self._polish()
            self._recheck()
        target.end_population()
        with torch.no_grad():
            loss = float(self.problem.value(self._best())[0])
        n = len(target.atoms.numbers)
        target.final_loss = loss if math.isfinite(target.best_loss) else math.inf
        target.restarts, target.agreeing = len(target.ends), agreeing(target.ends, n_atoms=n)
        if target.ends and not target.solved:
            target.infeasibility = infeasibility(
                evaluations=target.evaluations, n_atoms=n, agreeing=target.agreeing
            )
        target.status = self._status()

    def _status(self) -> InversionStatus:
        target, invalid_above = self.target, self.method.invalid_above
        if target.solved:
            return InversionStatus.CONVERGED
        if not math.isfinite(target.final_loss):
            return InversionStatus.FAILED
        if invalid_above is not None and target.final_loss > invalid_above:
            return InversionStatus.INVALID
        if invalid_above is None and target.infeasibility > _DOUBT:
            return InversionStatus.INVALID
        return InversionStatus.LOCAL_MINIMUM if self._is_spent else InversionStatus.BUDGET_SPENT

    def _polish(self) -> None:
        """Go on from the best and the members, with the loss and weights as they were asked for."""
        target = self.target
        every = target.everything
        jobs = Jobs(target, [x for x, _ in every], [cell for _, cell in every], [None] * len(every))
        jobs = self._descend(jobs, [(self.problem, _POLISH)], scored_by=None, broken=True)
        assert jobs.loss is not None
        lowest = int(jobs.loss.argmin())
        target.best_positions, target.best_cell = jobs.positions[lowest], jobs.cells[lowest]

    def _recheck(self) -> None:
        """Take the target for solved if the last steps have brought it there."""
        with torch.no_grad():
            loss = float(self._whitened().value(self._best())[0])
        if loss < self.tolerance:
            self.target.solved = True
            self.target.found = self.target.best_positions[None], self.target.best_cell[None]


def _result(problem: InversionProblem, parts: Sequence[Part]) -> InversionResult:
    """Put together what was found; losses are those of the problem as it was asked.

    Raises:
        InputError: No target could be searched.
    """
    refused = {k: str(part.notes["refused"]) for k, part in enumerate(parts) if part.notes["refused"]}
    if parts and len(refused) == len(parts):
        raise InputError(refused[0])
    every = [part.tensors for part in parts]
    structures = problem.template
    if parts:
        structures = structures.replace(
            positions=torch.cat([one["positions"] for one in every]),
            cells=torch.stack([one["cell"] for one in every]),
        )
    numbers = [one["numbers"].tolist() for one in every]

    def column(k: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor([row[k] for row in numbers], dtype=dtype)

    return InversionResult(
        structures=centred(structures) if problem.frozen is None else structures,
        loss=column(0),
        status=tuple(InversionStatus(part.notes["status"]) for part in parts),
        evaluations=column(3, torch.int64),
        seconds=column(2),
        solutions=tuple(
            problem.template[[k] * len(one["found_cells"])].replace(
                positions=one["found_positions"].flatten(0, 1), cells=one["found_cells"]
            )
            for k, one in enumerate(every)
        ),
        restarts=column(5, torch.int64),
        agreeing=column(6, torch.int64),
        infeasibility=column(1),
        refused=refused,
    )


def _alike(problem: InversionProblem) -> dict[int, bool]:
    """Return of which species all atoms are alike, and of which they are not; doubtful ones are left out."""
    varies = problem.representation.variation(problem.target[0])
    return {chemical_symbols.index(z): x < _ALIKE for z, x in varies.items() if not _ALIKE < x < _UNLIKE}


def _resting(settings: SolverSettings, floor: float) -> Solver:
    """Return a solver that rests at a floor of the loss, where it has one and none is given."""
    rests = "floor" in type(settings).model_fields and getattr(settings, "floor", None) is None
    solver: Solver = settings.method(settings.model_copy(update={"floor": floor}) if rests else settings)
    return solver


def _share_out(order: list[int], classes: list[int], most: int, rarity: Sequence[float]) -> list[int]:
    """Return the first of each class in turn: those of high symmetry differ most, and cost least.

    Those of a class come as many times more rarely.
    """
    turns: dict[int, int] = {}
    turn = []
    for one in classes:
        turns[one] = turns.get(one, 0) + 1
        turn.append(turns[one] * rarity[one])
    ranked = sorted(range(len(order)), key=lambda k: turn[k])
    return [order[k] for k in ranked[:most]]


def whitening(spread: Float[Tensor, "F"]) -> Float[Tensor, "F"]:
    """Return weights of features of this spread over random arrangements; small ones are bounded."""
    spread = spread.nan_to_num(0.0)
    if not bool((spread > 0).any()):
        return torch.ones_like(spread)
    middle = spread[spread > 0].median()
    rounding = _ROUNDING * spread.max()
    if middle < rounding:  # symmetry keeps most features as they are
        middle = spread[spread > rounding].median()
    return 1.0 / spread.clamp(min=_FLOOR * float(middle))
