r"""The search: for each target a small population, all of them improved together in batches.

For each target:

1. Many random arrangements of different size and shape are compared with the target. The nearest ones in the
   broad features become the first population.
2. Every round, good members are moved (:mod:`whorl.inversion.moves`) and their children improved by
   Levenberg–Marquardt from coarse to fine: first the sharp features count little, and only the more promising
   third goes on to where all features count. The best that differ from one another stay.
3. A population that has not improved for some rounds starts afresh; the best of all is kept.

A target is left as soon as it is solved, and another one takes its place.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.inversion.checkpoint import Checkpoint
from whorl.inversion.feasibility import agreeing, infeasibility
from whorl.inversion.moves import Atoms
from whorl.inversion.population import Hunt, Jobs, Population, symmetry_class
from whorl.inversion.problem import MIN_DISTANCE, InversionProblem
from whorl.inversion.result import InversionResult, InversionStatus, centred
from whorl.inversion.solvers.levenberg_marquardt import LevenbergMarquardt
from whorl.inversion.starts import content_key, varied_starts
from whorl.parallel import map_threads
from whorl.seeds import derive_seed
from whorl.structures.batch import StructureBatch
from whorl.symmetry.coordinates import SymmetryCoordinates
from whorl.symmetry.groups import Group

Progress = Callable[[int, int, str], None]

_AT_ONCE = 32  # targets that are searched at the same time
_NUMBERS = 20_000_000  # that the Jacobians of a batch may hold
_DOUBT = 0.99  # probability from which a target is called one that no structure has
_FLOOR = 0.3  # least spread of a feature, as a part of the median spread
_ROUNDING = 1e-12  # part of the greatest spread up to which a feature has none
_BUDGET = 150_000  # evaluations for a target of up to ten atoms
_POLISH = 30  # steps for what is nearly a solution
_PER_GROUP = 4  # random arrangements that share a group of operations
_SCREENED = 3  # times the starts of large crystals that are improved a little before some are chosen
_NEARLY = 1e-3  # mean square of the whitened residuals up to which it is
_IMPROVED = 0.5  # part of its loss below which it is polished again
_EXACT = 1e-4  # root mean square of the whitened residuals above which a solution may get nearer yet
_DAMPING = 0.1  # at first; with less, more descents end in wrong structures
_SOLVERS = {
    torch.float32: LevenbergMarquardt(damping=_DAMPING, floor=1e-10),
    torch.float64: LevenbergMarquardt(damping=_DAMPING, floor=1e-20),
}
_TWIN = 1e-5  # root mean square of the whitened residuals up to which other structures are solutions too


def solve(
    problem: InversionProblem,
    *,
    budget_evaluations: int | None = None,
    budget_seconds: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    tolerance: float = 1e-3,
    population: Population | None = None,
    invalid_above: float | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> InversionResult:
    """Find the structures that have the fingerprints asked for.

    Random numbers of a target follow from ``seed`` and from the target's name, or itself, so that it does not
    matter what else is searched with it. Without ``budget_seconds`` the same call gives the same result.

    Args:
        problem: What is sought. Without weights of its own, the search weighs each feature by its spread over
            random arrangements; the losses returned are those of the problem as it is. Without a least
            distance of its own, atoms keep 0.55 of the sum of their covalent radii.
        budget_evaluations: How often the fingerprint and its derivatives may be computed for one target;
            ``None``: 150 000 times, or as many fewer as a target has more than ten atoms.
        budget_seconds: For all targets together; they are then searched side by side. Each gets its first
            population, even if that takes longer.
        seed: Of all random numbers.
        batch_size: Structures that are evaluated at once; with larger ones fewer, so that memory is bounded.
        tolerance: A target is solved where the root mean square of its residuals, each as a part of the
            spread of its feature, is below this. What is below is polished as far as it goes.
        population: How the search is laid out.
        invalid_above: Loss above which an unsolved target is called invalid. ``None`` leaves that to
            :func:`whorl.inversion.feasibility.infeasibility`.
        checkpoint: Folder in which finished targets are kept. The same call made again goes on from there.
        progress: Called as ``progress(done, targets, message)``.

    Returns:
        For each target the best structure, its loss, a status, and all different solutions that were found.

    Raises:
        InputError: A setting out of range.
    """
    population = population or Population()
    if problem.min_distance is None:
        problem = problem.replace(min_distance=MIN_DISTANCE)
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, expected 1 or more.")
    if (budget_evaluations is not None and budget_evaluations < 1) or (
        budget_seconds is not None and not budget_seconds > 0
    ):
        raise InputError("budget: expected a positive number of evaluations, and of seconds.")
    search = _Search(problem, population, seed, batch_size, tolerance, budget_evaluations)
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    store = None
    if checkpoint is not None:
        settings = {
            "population": dataclasses.asdict(population),
            "budget": [budget_evaluations, budget_seconds],
            "seed": seed,
            "tolerance": tolerance,
            "invalid_above": invalid_above,
        }
        store = Checkpoint(Path(checkpoint), problem=problem, settings=settings)
    hunts = [search.hunt(index) for index in range(len(problem))]
    resumed = [hunt for hunt in hunts if store and hunt.restore(store)]
    waiting = [hunt for hunt in hunts if hunt not in resumed]
    at_once = len(problem) if deadline is not None else _AT_ONCE
    running: list[Hunt] = []
    done = list(resumed)

    def report() -> None:
        if progress:
            solved = sum(hunt.solved for hunt in done)
            said = f"{solved} solved, {len(running)} running, {len(done) - solved} given up"
            progress(len(done), len(problem), said)

    report()
    while waiting or running:
        room = at_once - len(running)
        running, waiting = running + waiting[:room], waiting[room:]
        spent = deadline is not None and time.monotonic() > deadline
        finished = [hunt for hunt in running if search.is_over(hunt) or (spent and hunt.evaluations)]
        if finished:
            map_threads(lambda hunt: search.finish([hunt], invalid_above), finished)
            running = [hunt for hunt in running if hunt not in finished]
            done += finished
            if store:
                for hunt in finished:
                    hunt.keep(store)
        else:
            search.round(running)
        report()
    return search.result(hunts)


@dataclass(frozen=True)
class _Batch:
    """Jobs that are worked on at once: targets they are for, structures, and their orbits if symmetric."""

    jobs: list[int]
    index: Tensor
    structures: StructureBatch
    orbits: SymmetryCoordinates | None

    def of(self, problem: InversionProblem) -> InversionProblem:
        """Return a problem for these structures."""
        part = problem.select(self.index)
        return part if self.orbits is None else part.symmetric(self.orbits.to(part.target))


class _Search:
    def __init__(
        self,
        problem: InversionProblem,
        population: Population,
        seed: int,
        batch_size: int,
        tolerance: float,
        budget: int | None,
    ) -> None:
        self.asked, self.population, self.seed = problem, population, seed
        self.roughly = problem.to(dtype=torch.float32)
        self.batch_size, self.budget = batch_size, budget
        self.tolerance = tolerance**2
        self.sharpness = problem.representation.sharpness().to(problem.target)
        self.weights = torch.ones_like(problem.target)
        if problem.weights is not None:
            self.weights = problem.weights.expand_as(problem.target).clone()

    def hunt(self, index: int) -> Hunt:
        template = self.asked.template[index]
        frozen = self.asked.select([index]).frozen
        free = torch.ones_like(template.atomic_numbers, dtype=torch.bool) if frozen is None else ~frozen
        atoms = Atoms(
            template.atomic_numbers, template.pbc[0], free, self.asked.free_cell, self.asked.space_group
        )
        names = self.asked.names
        key = content_key(self.asked.target[index], template) if names is None else names[index]
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "solve", key))
        return Hunt(index, atoms, template, rng)

    def is_over(self, hunt: Hunt) -> bool:
        exact = hunt.best_loss < _EXACT**2
        return (hunt.solved and (exact or hunt.settled)) or self._is_spent(hunt)

    def _is_spent(self, hunt: Hunt) -> bool:
        budget = self.budget
        if budget is None:
            budget = int(_BUDGET / max(1.0, len(hunt.atoms.numbers) / 10))
        return hunt.evaluations >= budget

    def round(self, hunts: list[Hunt]) -> None:
        """Go one round further with each target.

        Each is worked on by itself: what is together in a batch decides the last digit of each, and small
        differences grow in a search. So the result depends neither on the other targets nor on the cores.
        """
        began = time.monotonic()
        before = [hunt.evaluations for hunt in hunts]
        # A round is many short operations, which share out worse than whole rounds do.
        map_threads(self._round, [[hunt] for hunt in hunts])
        worked = [hunt.evaluations - b for hunt, b in zip(hunts, before, strict=True)]
        elapsed = time.monotonic() - began
        for hunt, work in zip(hunts, worked, strict=True):
            hunt.seconds += elapsed * work / max(sum(worked), 1)

    def _round(self, hunts: list[Hunt]) -> None:
        fresh = [hunt for hunt in hunts if len(hunt.loss) == 0]
        if fresh:
            self._open(fresh)
        else:
            self._breed(hunts)
        for hunt in fresh or hunts:
            hunt.solved = hunt.best_loss < self.tolerance
            hunt.judge_round(self.population.patience)

    def _open(self, hunts: list[Hunt]) -> None:
        """Begin a population for each: the best of many random arrangements, improved."""
        size = self.population
        started = [self._candidates(hunt) for hunt in hunts]
        jobs = Jobs(
            hunts,
            [k for k, (_, _, groups) in enumerate(started) for _ in groups],
            [one for positions, _, _ in started for one in positions],
            [one for _, cells, _ in started for one in cells],
            [one for _, _, groups in started for one in groups],
        )
        features = torch.cat(map_threads(self._features, self._batches(jobs)))
        chosen = []
        for k, hunt in enumerate(hunts):
            mine = jobs.of_hunt(k)
            own = features[mine]
            if self.asked.weights is None and not hunt.ends:
                self.weights[hunt.index] = _whitening(self.asked.select([hunt.index]).spread(own))
            weights = self.weights[hunt.index] * self._softened()
            distance = ((own - self.asked.target[hunt.index]) * weights).abs().mean(1).nan_to_num(torch.inf)
            order = [mine[p] for p in distance.argsort(stable=True).tolist()]
            most = _SCREENED * size.first if hunt.is_large else size.first
            chosen += _share_out(order, [symmetry_class(jobs.groups[p]) for p in order], most, hunt.rarity)
        jobs = jobs.pick(chosen)
        if any(hunt.is_large for hunt in hunts):
            jobs = self._screened(jobs)
        broad, fine = size.opening
        self._deliver(self._improve(jobs, broad=broad, fine=fine))
        self._complete(hunts)

    def _candidates(self, hunt: Hunt) -> tuple[Tensor, Tensor, list[Group | None]]:
        many, rarer = (_SCREENED, hunt.dear) if hunt.is_large else (1, 1.0)
        symmetric = self.population.symmetric if hunt.seeks_symmetry else 0.0
        return varied_starts(
            hunt.template,
            hunt.atoms,
            count=many * self.population.candidates,
            rng=hunt.rng,
            symmetric=symmetric and 1.0 - (1.0 - symmetric) / rarer,
            per_group=_PER_GROUP * many,
        )

    def _screened(self, jobs: Jobs) -> Jobs:
        """Improve the starts of large crystals a little, and keep the better ones of each symmetry."""
        size = self.population
        large = [k for k, of in enumerate(jobs.of) if jobs.hunts[of].is_large]
        tried = self._improve(jobs.pick(large), broad=size.coarse)
        assert tried.loss is not None
        chosen = []
        for k, hunt in enumerate(jobs.hunts):
            mine = tried.of_hunt(k)
            order = [mine[p] for p in tried.loss[mine].argsort(stable=True).tolist()]
            classes = [symmetry_class(tried.groups[p]) for p in order]
            chosen += _share_out(order, classes, size.first // 2, hunt.rarity)
        return jobs.pick([k for k in range(len(jobs.of)) if k not in large]).and_also(tried.pick(chosen))

    def _breed(self, hunts: list[Hunt]) -> None:
        """One round: children of good members, the promising ones improved to the end."""
        size = self.population
        jobs = Jobs(hunts, [], [], [], [])
        for k, hunt in enumerate(hunts):
            best = max(1, math.ceil(size.parents * len(hunt.loss)))
            parents = torch.randint(best, (size.children,), generator=hunt.rng)
            for positions, cell, group in hunt.children(parents, size.moves):
                jobs.positions.append(positions)
                jobs.cells.append(cell)
                jobs.groups.append(group)
                jobs.of.append(k)
        jobs = self._improve(jobs, broad=size.coarse)
        self._deliver(self._improve(jobs.pick(self._promising(jobs, size.promising)), fine=size.fine))
        self._complete(hunts)

    def _promising(self, jobs: Jobs, most: int) -> list[int]:
        """Return the jobs of the lowest losses, so many of each hunt."""
        assert jobs.loss is not None
        chosen = []
        for k in range(len(jobs.hunts)):
            mine = jobs.of_hunt(k)
            chosen += [mine[p] for p in jobs.loss[mine].argsort(stable=True)[:most].tolist()]
        return chosen

    def _complete(self, hunts: list[Hunt]) -> None:
        """Bring the best of each to the solution that it nearly is, if it is.

        That goes by absolute values, which kinks of the fingerprint mislead less, and without the symmetry,
        which real structures may have but nearly.
        """
        some = [hunt for hunt in hunts if len(hunt.loss) and self._is_nearly_solved(hunt)]
        if not some:
            return
        leaders = Jobs(
            some,
            list(range(len(some))),
            [hunt.positions[0] for hunt in some],
            [hunt.cells[0] for hunt in some],
            [hunt.groups[0] for hunt in some],
        )
        self._deliver(self._improve(leaders, fine=_POLISH, loss="mae", broken=True))
        for hunt in some:
            hunt.polished = float(hunt.loss[0])

    def _is_nearly_solved(self, hunt: Hunt) -> bool:
        if hunt.best_loss < self.tolerance:
            return True
        return hunt.groups[0] is not None and float(hunt.loss[0]) < min(_NEARLY, _IMPROVED * hunt.polished)

    def _deliver(self, jobs: Jobs) -> None:
        assert jobs.loss is not None
        for k, hunt in enumerate(jobs.hunts):
            mine = jobs.of_hunt(k)
            hunt.take(
                torch.stack([jobs.positions[p] for p in mine]),
                torch.stack([jobs.cells[p] for p in mine]),
                jobs.loss[mine],
                [jobs.groups[p] for p in mine],
                most=self.population.members,
            )

    # Batches of bounded memory.

    def _batches(self, jobs: Jobs, *, broken: bool = False) -> list[_Batch]:
        """Cut into batches of like sizes; symmetric arrangements apart, unless all symmetry is ``broken``."""
        orbits = [None] * len(jobs.of) if broken else map_threads(jobs.orbits, range(len(jobs.of)))
        n = [len(one) for one in jobs.positions]
        heads = [n[k] if one is None else len(one.head.unique()) for k, one in enumerate(orbits)]
        order = sorted(range(len(n)), key=lambda k: (orbits[k] is None, n[k], heads[k]))
        batches: list[list[int]] = []
        current: list[int] = []
        for k in order:
            one = orbits[k]
            columns = 3 * n[k] + 9 if one is None else 1 + one.atoms.shape[3]
            most = max(1, min(self.batch_size, _NUMBERS // (columns * self.asked.target.shape[1])))
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
        target = self.asked.target
        index = torch.tensor([jobs.hunts[jobs.of[k]].index for k in batch], device=target.device)
        structures = self.asked.template[index].replace(
            positions=torch.cat([jobs.positions[k] for k in batch]),
            cells=torch.stack([jobs.cells[k] for k in batch]),
        )
        alike = [one for one in (orbits[k] for k in batch) if one is not None]
        return _Batch(
            batch, index, structures, SymmetryCoordinates.stack(alike).to(target) if alike else None
        )

    def _features(self, batch: _Batch) -> Tensor:
        with torch.no_grad():
            return batch.of(self.asked).features(batch.structures)

    def _softened(self) -> Float[Tensor, "F"]:
        """Return how much each feature counts in broad descents: the sharper, the less."""
        return (1.0 + (self.sharpness * self.population.length) ** 4).rsqrt()

    def _whitened(self, loss: str = "squared") -> InversionProblem:
        return self.asked.replace(weights=self.weights, loss=loss)

    def _broad(self) -> InversionProblem:
        """Return the problem with sharp features softened: only to come near, so in single precision."""
        weights = (self.weights * self._softened()).to(self.roughly.target)
        return self.roughly.replace(weights=weights, loss="squared")

    def _improve(
        self, jobs: Jobs, *, broad: int = 0, fine: int = 0, loss: str = "squared", broken: bool = False
    ) -> Jobs:
        """Improve by so many broad steps, and then by so many in which every feature counts fully."""
        problems = [(self._broad(), broad), (self._whitened(loss), fine)]
        judge = self._whitened() if loss != "squared" else None
        some = [(problem, steps) for problem, steps in problems if steps]
        return self._descend(jobs, some, judge=judge, broken=broken)

    def _descend(
        self,
        jobs: Jobs,
        problems: Sequence[tuple[InversionProblem, int]],
        *,
        judge: InversionProblem | None,
        broken: bool,
    ) -> Jobs:
        """Improve by so many steps of each problem; losses are those of the last one, or of ``judge``."""
        batches = self._batches(jobs, broken=broken)

        def improve(batch: _Batch) -> tuple[StructureBatch, Tensor, Tensor]:
            structures = batch.structures
            evaluations = torch.zeros_like(batch.index)
            for whole, steps in problems:
                part, solver = batch.of(whole), _SOLVERS[whole.target.dtype]
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
            if judge is not None:
                with torch.no_grad():
                    lowest = batch.of(judge).value(structures)
            lowest = torch.where(state.failed, torch.inf, lowest).to(self.asked.target)
            return self._unrounded(batch, structures), lowest, evaluations

        lowest = torch.full(
            (len(jobs.of),), torch.inf, dtype=self.asked.target.dtype, device=self.asked.target.device
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
                jobs.hunts[jobs.of[k]].evaluations += count
        return Jobs(jobs.hunts, jobs.of, positions, cells, jobs.groups, lowest)

    def _unrounded(self, batch: _Batch, found: StructureBatch) -> StructureBatch:
        """Return what was found with everything that may not move exactly as it was before."""
        before = batch.structures
        found = found.to(dtype=before.dtype)
        frozen = self.asked.select(batch.index).frozen
        if frozen is not None:
            found = found.replace(positions=torch.where(frozen[:, None], before.positions, found.positions))
        return found if self.asked.free_cell else found.replace(cells=before.cells)

    # Endings.

    def _best(self, hunts: list[Hunt]) -> StructureBatch:
        return self.asked.template[[hunt.index for hunt in hunts]].replace(
            positions=torch.cat([hunt.best_positions for hunt in hunts]),
            cells=torch.stack([hunt.best_cell for hunt in hunts]),
        )

    def finish(self, hunts: list[Hunt], invalid_above: float | None) -> None:
        """Settle what each hunt ends with: the structure, its loss as it was asked for, and the verdict."""
        for hunt in hunts:
            found = hunt.loss <= max(_TWIN**2, hunt.best_loss) if hunt.solved else hunt.loss < 0
            hunt.found = hunt.positions[found], hunt.cells[found]
        unsolved = [hunt for hunt in hunts if not hunt.solved and math.isfinite(hunt.best_loss)]
        if unsolved:
            self._polish(unsolved)
            self._judge_again(unsolved)
        for hunt in hunts:
            hunt.end_population()
        structures = self._best(hunts)
        with torch.no_grad():
            losses = self.asked.select([hunt.index for hunt in hunts]).value(structures).tolist()
        for hunt, loss in zip(hunts, losses, strict=True):
            n = len(hunt.atoms.numbers)
            hunt.loss_as_asked = loss if math.isfinite(hunt.best_loss) else math.inf
            hunt.restarts, hunt.agreeing = len(hunt.ends), agreeing(hunt.ends, n_atoms=n)
            if hunt.ends and not hunt.solved:
                hunt.infeasibility = infeasibility(
                    evaluations=hunt.evaluations, n_atoms=n, agreeing=hunt.agreeing
                )
            hunt.status = self._status(hunt, invalid_above)

    def _status(self, hunt: Hunt, invalid_above: float | None) -> InversionStatus:
        if hunt.solved:
            return InversionStatus.CONVERGED
        if not math.isfinite(hunt.loss_as_asked):
            return InversionStatus.FAILED
        if invalid_above is not None and hunt.loss_as_asked > invalid_above:
            return InversionStatus.INVALID
        if invalid_above is None and hunt.infeasibility > _DOUBT:
            return InversionStatus.INVALID
        return InversionStatus.LOCAL_MINIMUM if self._is_spent(hunt) else InversionStatus.BUDGET_SPENT

    def _polish(self, hunts: list[Hunt]) -> None:
        """Go on from the best of each and its members, with the loss and weights as they were asked for."""
        every = [(k, *one) for k, hunt in enumerate(hunts) for one in hunt.everything]
        jobs = Jobs(
            hunts,
            [k for k, _, _ in every],
            [x for _, x, _ in every],
            [c for _, _, c in every],
            [None] * len(every),
        )
        jobs = self._descend(jobs, [(self.asked, _POLISH)], judge=None, broken=True)
        assert jobs.loss is not None
        for k, hunt in enumerate(hunts):
            mine = jobs.of_hunt(k)
            lowest = mine[int(jobs.loss[mine].argmin())]
            hunt.best_positions, hunt.best_cell = jobs.positions[lowest], jobs.cells[lowest]

    def _judge_again(self, hunts: list[Hunt]) -> None:
        """Take those for solved that the last steps have brought there."""
        index = [hunt.index for hunt in hunts]
        structures = self._best(hunts)
        with torch.no_grad():
            losses = self._whitened().select(index).value(structures).tolist()
        for hunt, loss in zip(hunts, losses, strict=True):
            if loss < self.tolerance:
                hunt.solved = True
                hunt.found = hunt.best_positions[None], hunt.best_cell[None]

    def result(self, hunts: list[Hunt]) -> InversionResult:
        """Put together what the hunts found; losses are those of the problem as it was asked."""
        structures = self._best(hunts) if hunts else self.asked.template
        return InversionResult(
            structures=centred(structures) if self.asked.frozen is None else structures,
            loss=torch.tensor([hunt.loss_as_asked for hunt in hunts], dtype=torch.float64),
            status=tuple(hunt.status for hunt in hunts),
            evaluations=torch.tensor([hunt.evaluations for hunt in hunts], dtype=torch.int64),
            seconds=torch.tensor([hunt.seconds for hunt in hunts], dtype=torch.float64),
            solutions=tuple(hunt.solutions for hunt in hunts),
            restarts=torch.tensor([hunt.restarts for hunt in hunts], dtype=torch.int64),
            agreeing=torch.tensor([hunt.agreeing for hunt in hunts], dtype=torch.int64),
            infeasibility=torch.tensor([hunt.infeasibility for hunt in hunts], dtype=torch.float64),
        )


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


def _whitening(spread: Float[Tensor, "F"]) -> Float[Tensor, "F"]:
    spread = spread.nan_to_num(0.0)
    if not bool((spread > 0).any()):
        return torch.ones_like(spread)
    middle = spread[spread > 0].median()
    rounding = _ROUNDING * spread.max()
    if middle < rounding:  # symmetry keeps most features as they are
        middle = spread[spread > rounding].median()
    return 1.0 / spread.clamp(min=_FLOOR * float(middle))
