r"""Population search: a small population for each target, optimised together in batches.

For each target:

1. Many random arrangements of different size and shape are compared with the target. The nearest ones in the
   broad features become the first population.
2. Every round, good members are moved (:mod:`whorl.reconstruction.population.moves`) and their children
   optimised by Levenberg–Marquardt from coarse to fine: first with low weights of sharp features, and only
   the more promising third goes on to where all features count. The best that differ from one another stay.
3. A population that has not improved for some rounds is replaced by a new one; the best of all is kept.

A solved target is replaced by the next one.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.parallel import map_threads
from whorl.reconstruction.base import Progress
from whorl.reconstruction.checkpoint import Checkpoint
from whorl.reconstruction.objective import MIN_DISTANCE, InversionProblem
from whorl.reconstruction.population.feasibility import agreeing, infeasibility
from whorl.reconstruction.population.moves import Atoms
from whorl.reconstruction.population.starts import given_starts, varied_starts
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
from whorl.tensor_files import tensors_hash

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
_FLOORS = {torch.float32: 1e-10, torch.float64: 1e-20}  # of the loss, where a solver rests
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
        budget_seconds: For all targets together; they are then searched side by side. Each gets its first
            population, even if that takes longer.
        seed: Of all random numbers.
        batch_size: Structures that are evaluated at once; with larger ones fewer, so that memory is bounded.
        tolerance: A target is solved where the root mean square of its residuals, each as a part of the
            spread of its feature, is below this. What is below is polished as far as it goes.
        population: Settings of the populations.
        solver: Of the descents; ``None``: Levenberg–Marquardt. One that is not ``general`` holds cells fixed
            and keeps no symmetry.
        starts: For each target structures that its first population begins with, besides random ones; of the
            composition of its template, in any order of the atoms. In a fixed cell they are strained to it.
        invalid_above: Loss above which an unsolved target is called invalid. ``None`` leaves that to
            :func:`whorl.reconstruction.population.feasibility.infeasibility`.
        checkpoint: Folder of finished targets. The same call resumes from there.
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
    search = _Search(problem, population, solver, seed, batch_size, tolerance, budget_evaluations)
    given = given_starts(problem, starts)
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
        if solver is not None:
            settings["solver"] = solver.model_dump(mode="json")
        if starts is not None:
            flat = [(k, *start) for k, some in enumerate(given) for start in some]
            settings["starts"] = [(k, tensors_hash({"x": x, "cell": cell})) for k, x, cell in flat]
        store = Checkpoint(Path(checkpoint), problem=problem, settings=settings)
    targets = [search.target(index, given[index]) for index in range(len(problem))]
    resumed = [target for target in targets if store and target.restore(store)]
    waiting = [target for target in targets if target not in resumed]
    at_once = len(problem) if deadline is not None else _AT_ONCE
    running: list[TargetSearch] = []
    done = list(resumed)

    def report() -> None:
        if progress:
            solved = sum(target.solved for target in done)
            message = f"{solved} solved, {len(running)} running, {len(done) - solved} given up"
            progress(len(done), len(problem), message)

    report()
    while waiting or running:
        room = at_once - len(running)
        running, waiting = running + waiting[:room], waiting[room:]
        spent = deadline is not None and time.monotonic() > deadline
        finished = [target for target in running if search.is_over(target) or (spent and target.evaluations)]
        if finished:
            map_threads(lambda target: search.finish([target], invalid_above), finished)
            running = [target for target in running if target not in finished]
            done += finished
            if store:
                for target in finished:
                    if target.refused is None:
                        target.keep(store)
        else:
            search.round(running)
        report()
    if targets and all(target.refused for target in targets):
        raise InputError(str(targets[0].refused))
    return search.result(targets)


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
        population: PopulationSettings,
        solver: SolverSettings | None,
        seed: int,
        batch_size: int,
        tolerance: float,
        budget: int | None,
    ) -> None:
        self.problem, self.population, self.seed = problem, population, seed
        solver = LevenbergMarquardt.Settings(damping=_DAMPING) if solver is None else solver
        self.solvers = {dtype: _resting(solver, floor) for dtype, floor in _FLOORS.items()}
        self.general = solver.method.general
        if not self.general and (problem.free_cell or problem.space_group is not None):
            raise InputError(
                f"solver {solver.kind}: holds cells fixed and keeps no symmetry. For a free cell or a space "
                f"group take one that does both: {LevenbergMarquardt.kind}."
            )
        self.roughly = problem.to(dtype=torch.float32)
        self.batch_size, self.budget = batch_size, budget
        self.tolerance = tolerance**2
        self.sharpness = problem.representation.sharpness().to(problem.target)
        self.weights = torch.ones_like(problem.target)
        if problem.weights is not None:
            self.weights = problem.weights.expand_as(problem.target).clone()

    def target(self, index: int, given: Sequence[tuple[Tensor, Tensor]] = ()) -> TargetSearch:
        template = self.problem.template[index]
        frozen = self.problem.select([index]).frozen
        free = torch.ones_like(template.atomic_numbers, dtype=torch.bool) if frozen is None else ~frozen
        atoms = Atoms(
            template.atomic_numbers, template.pbc[0], free, self.problem.free_cell, self.problem.space_group
        )
        names = self.problem.names
        key = content_key(self.problem.target[index], template) if names is None else names[index]
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "solve", key))
        return TargetSearch(index, atoms, template, rng, given)

    def is_over(self, target: TargetSearch) -> bool:
        exact = target.best_loss < _EXACT**2
        done = target.solved and (exact or target.settled)
        return target.refused is not None or done or self._is_spent(target)

    def _is_spent(self, target: TargetSearch) -> bool:
        budget = self.budget
        if budget is None:
            budget = int(_BUDGET / max(1.0, len(target.atoms.numbers) / 10))
        return target.evaluations >= budget

    def round(self, targets: list[TargetSearch]) -> None:
        """Go one round further with each target.

        Each is worked on by itself: what is together in a batch decides the last digit of each, and small
        differences grow in a search. So the result depends neither on the other targets nor on the cores.
        """
        began = time.monotonic()
        before = [target.evaluations for target in targets]
        # A round is many short operations, which share out worse than whole rounds do.
        map_threads(self._round, [[target] for target in targets])
        worked = [target.evaluations - b for target, b in zip(targets, before, strict=True)]
        elapsed = time.monotonic() - began
        for target, work in zip(targets, worked, strict=True):
            target.seconds += elapsed * work / max(sum(worked), 1)

    def _round(self, targets: list[TargetSearch]) -> None:
        fresh = [target for target in targets if len(target.loss) == 0]
        if fresh:
            try:
                self._open(fresh)
            except InputError as error:  # such as a space group that these atoms cannot have
                for target in fresh:
                    target.refused = str(error)
                return
        else:
            self._breed(targets)
        for target in fresh or targets:
            target.solved = target.best_loss < self.tolerance
            target.end_round(self.population.patience)

    def _open(self, targets: list[TargetSearch]) -> None:
        """Begin a population for each: the best of many random arrangements, improved."""
        size = self.population
        started = [self._candidates(target) for target in targets]
        jobs = Jobs(
            targets,
            [k for k, (_, _, groups) in enumerate(started) for _ in groups],
            [one for positions, _, _ in started for one in positions],
            [one for _, cells, _ in started for one in cells],
            [one for _, _, groups in started for one in groups],
        )
        features = torch.cat(map_threads(self._features, self._batches(jobs)))
        chosen = []
        for k, target in enumerate(targets):
            jobs_of_target = jobs.of_target(k)
            own = features[jobs_of_target]
            if self.problem.weights is None and not target.ends:
                self.weights[target.index] = _whitening(self.problem.select([target.index]).spread(own))
            weights = self.weights[target.index] * self._softened()
            distance = (
                ((own - self.problem.target[target.index]) * weights).abs().mean(1).nan_to_num(torch.inf)
            )
            order = [jobs_of_target[p] for p in distance.argsort(stable=True).tolist()]
            most = _SCREENED * size.first if target.is_large else size.first
            chosen += _share_out(order, [symmetry_class(jobs.groups[p]) for p in order], most, target.rarity)
        jobs = jobs.pick(chosen)
        if any(target.is_large for target in targets):
            jobs = self._screened(jobs)
        given = Jobs(targets, [], [], [], [])
        for k, target in enumerate(targets):
            for positions, cell in () if target.ends else target.given:
                given.append(k, positions, cell, None)
        if given.of:
            jobs = jobs.and_also(given)
        broad, fine = size.opening
        self._deliver(self._improve(jobs, broad=broad, fine=fine))
        self._complete(targets)

    def _candidates(self, target: TargetSearch) -> tuple[Tensor, Tensor, list[Group | None]]:
        many, rarer = (_SCREENED, target.cost_factor) if target.is_large else (1, 1.0)
        symmetric = self.population.symmetric if target.seeks_symmetry and self.general else 0.0
        return varied_starts(
            target.template,
            target.atoms,
            count=many * self.population.candidates,
            rng=target.rng,
            symmetric=symmetric and 1.0 - (1.0 - symmetric) / rarer,
            per_group=_PER_GROUP * many,
        )

    def _screened(self, jobs: Jobs) -> Jobs:
        """Improve the starts of large crystals a little, and keep the better ones of each symmetry."""
        size = self.population
        large = [k for k, of in enumerate(jobs.of) if jobs.targets[of].is_large]
        tried = self._improve(jobs.pick(large), broad=size.coarse)
        assert tried.loss is not None
        chosen = []
        for k, target in enumerate(jobs.targets):
            jobs_of_target = tried.of_target(k)
            order = [jobs_of_target[p] for p in tried.loss[jobs_of_target].argsort(stable=True).tolist()]
            classes = [symmetry_class(tried.groups[p]) for p in order]
            chosen += _share_out(order, classes, size.first // 2, target.rarity)
        return jobs.pick([k for k in range(len(jobs.of)) if k not in large]).and_also(tried.pick(chosen))

    def _breed(self, targets: list[TargetSearch]) -> None:
        """One round: children of good members, the promising ones improved to the end."""
        size = self.population
        jobs = Jobs(targets, [], [], [], [])
        for k, target in enumerate(targets):
            best = max(1, math.ceil(size.parents * len(target.loss)))
            parents = torch.randint(best, (size.children,), generator=target.rng)
            for positions, cell, group in target.children(parents, size.moves):
                jobs.append(k, positions, cell, group)
        jobs = self._improve(jobs, broad=size.coarse)
        self._deliver(self._improve(jobs.pick(self._promising(jobs, size.promising)), fine=size.fine))
        self._complete(targets)

    def _promising(self, jobs: Jobs, most: int) -> list[int]:
        """Return the jobs of the lowest losses, so many of each target."""
        assert jobs.loss is not None
        chosen = []
        for k in range(len(jobs.targets)):
            jobs_of_target = jobs.of_target(k)
            chosen += [
                jobs_of_target[p] for p in jobs.loss[jobs_of_target].argsort(stable=True)[:most].tolist()
            ]
        return chosen

    def _complete(self, targets: list[TargetSearch]) -> None:
        """Bring the best of each to the solution that it nearly is, if it is.

        That goes by absolute values, which kinks of the fingerprint mislead less, and without the symmetry,
        which real structures may have but nearly.
        """
        some = [target for target in targets if len(target.loss) and self._is_nearly_solved(target)]
        if not some:
            return
        leaders = Jobs(
            some,
            list(range(len(some))),
            [target.positions[0] for target in some],
            [target.cells[0] for target in some],
            [target.groups[0] for target in some],
        )
        self._deliver(self._improve(leaders, fine=_POLISH, loss="mae", broken=True))
        for target in some:
            target.polished = float(target.loss[0])

    def _is_nearly_solved(self, target: TargetSearch) -> bool:
        if target.best_loss < self.tolerance:
            return True
        return target.groups[0] is not None and float(target.loss[0]) < min(
            _NEARLY, _IMPROVED * target.polished
        )

    def _deliver(self, jobs: Jobs) -> None:
        assert jobs.loss is not None
        for k, target in enumerate(jobs.targets):
            jobs_of_target = jobs.of_target(k)
            target.take(
                torch.stack([jobs.positions[p] for p in jobs_of_target]),
                torch.stack([jobs.cells[p] for p in jobs_of_target]),
                jobs.loss[jobs_of_target],
                [jobs.groups[p] for p in jobs_of_target],
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
            most = max(1, min(self.batch_size, _NUMBERS // (columns * self.problem.target.shape[1])))
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
        index = torch.tensor([jobs.targets[jobs.of[k]].index for k in batch], device=target.device)
        structures = self.problem.template[index].replace(
            positions=torch.cat([jobs.positions[k] for k in batch]),
            cells=torch.stack([jobs.cells[k] for k in batch]),
        )
        alike = [one for one in (orbits[k] for k in batch) if one is not None]
        return _Batch(
            batch, index, structures, SymmetryCoordinates.stack(alike).to(target) if alike else None
        )

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
            evaluations = torch.zeros_like(batch.index)
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
            (len(jobs.of),), torch.inf, dtype=self.problem.target.dtype, device=self.problem.target.device
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
                jobs.targets[jobs.of[k]].evaluations += count
        return Jobs(jobs.targets, jobs.of, positions, cells, jobs.groups, lowest)

    def _unrounded(self, batch: _Batch, found: StructureBatch) -> StructureBatch:
        """Return what was found with everything that may not move exactly as it was before."""
        before = batch.structures
        found = found.to(dtype=before.dtype)
        frozen = self.problem.select(batch.index).frozen
        if frozen is not None:
            found = found.replace(positions=torch.where(frozen[:, None], before.positions, found.positions))
        return found if self.problem.free_cell else found.replace(cells=before.cells)

    # Endings.

    def _best(self, targets: list[TargetSearch]) -> StructureBatch:
        return self.problem.template[[target.index for target in targets]].replace(
            positions=torch.cat([target.best_positions for target in targets]),
            cells=torch.stack([target.best_cell for target in targets]),
        )

    def finish(self, targets: list[TargetSearch], invalid_above: float | None) -> None:
        """Settle what each target ends with: the structure, its loss and its status."""
        targets = [target for target in targets if target.refused is None]
        if not targets:
            return
        for target in targets:
            found = target.loss <= max(_TWIN**2, target.best_loss) if target.solved else target.loss < 0
            target.found = target.positions[found], target.cells[found]
        unsolved = [target for target in targets if not target.solved and math.isfinite(target.best_loss)]
        if unsolved:
            self._polish(unsolved)
            self._recheck(unsolved)
        for target in targets:
            target.end_population()
        structures = self._best(targets)
        with torch.no_grad():
            losses = self.problem.select([target.index for target in targets]).value(structures).tolist()
        for target, loss in zip(targets, losses, strict=True):
            n = len(target.atoms.numbers)
            target.final_loss = loss if math.isfinite(target.best_loss) else math.inf
            target.restarts, target.agreeing = len(target.ends), agreeing(target.ends, n_atoms=n)
            if target.ends and not target.solved:
                target.infeasibility = infeasibility(
                    evaluations=target.evaluations, n_atoms=n, agreeing=target.agreeing
                )
            target.status = self._status(target, invalid_above)

    def _status(self, target: TargetSearch, invalid_above: float | None) -> InversionStatus:
        if target.solved:
            return InversionStatus.CONVERGED
        if not math.isfinite(target.final_loss):
            return InversionStatus.FAILED
        if invalid_above is not None and target.final_loss > invalid_above:
            return InversionStatus.INVALID
        if invalid_above is None and target.infeasibility > _DOUBT:
            return InversionStatus.INVALID
        return InversionStatus.LOCAL_MINIMUM if self._is_spent(target) else InversionStatus.BUDGET_SPENT

    def _polish(self, targets: list[TargetSearch]) -> None:
        """Go on from the best of each and its members, with the loss and weights as they were asked for."""
        every = [(k, *one) for k, target in enumerate(targets) for one in target.everything]
        jobs = Jobs(
            targets,
            [k for k, _, _ in every],
            [x for _, x, _ in every],
            [c for _, _, c in every],
            [None] * len(every),
        )
        jobs = self._descend(jobs, [(self.problem, _POLISH)], scored_by=None, broken=True)
        assert jobs.loss is not None
        for k, target in enumerate(targets):
            jobs_of_target = jobs.of_target(k)
            lowest = jobs_of_target[int(jobs.loss[jobs_of_target].argmin())]
            target.best_positions, target.best_cell = jobs.positions[lowest], jobs.cells[lowest]

    def _recheck(self, targets: list[TargetSearch]) -> None:
        """Take those for solved that the last steps have brought there."""
        index = [target.index for target in targets]
        structures = self._best(targets)
        with torch.no_grad():
            losses = self._whitened().select(index).value(structures).tolist()
        for target, loss in zip(targets, losses, strict=True):
            if loss < self.tolerance:
                target.solved = True
                target.found = target.best_positions[None], target.best_cell[None]

    def result(self, targets: list[TargetSearch]) -> InversionResult:
        """Put together what was found; losses are those of the problem as it was asked."""
        structures = self._best(targets) if targets else self.problem.template
        return InversionResult(
            structures=centred(structures) if self.problem.frozen is None else structures,
            loss=torch.tensor([target.final_loss for target in targets], dtype=torch.float64),
            status=tuple(target.status for target in targets),
            evaluations=torch.tensor([target.evaluations for target in targets], dtype=torch.int64),
            seconds=torch.tensor([target.seconds for target in targets], dtype=torch.float64),
            solutions=tuple(target.solutions for target in targets),
            restarts=torch.tensor([target.restarts for target in targets], dtype=torch.int64),
            agreeing=torch.tensor([target.agreeing for target in targets], dtype=torch.int64),
            infeasibility=torch.tensor([target.infeasibility for target in targets], dtype=torch.float64),
            refused={target.index: target.refused for target in targets if target.refused is not None},
        )


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


def _whitening(spread: Float[Tensor, "F"]) -> Float[Tensor, "F"]:
    spread = spread.nan_to_num(0.0)
    if not bool((spread > 0).any()):
        return torch.ones_like(spread)
    middle = spread[spread > 0].median()
    rounding = _ROUNDING * spread.max()
    if middle < rounding:  # symmetry keeps most features as they are
        middle = spread[spread > rounding].median()
    return 1.0 / spread.clamp(min=_FLOOR * float(middle))
