"""Search for structures of unknown composition: the likeliest compositions are searched, the best is kept.

1. Compositions that the features tell, or may be of, are listed (:mod:`whorl.reconstruction.compositions`).
2. Those that fit equally well, such as multiples of a formula, are put in order by random arrangements of
   their atoms: how near the broad features of the nearest ones come to the target. In a known cell that tells
   the number of atoms from the density; a free cell suits all, and the smallest comes first.
   Where compositions that fit differ by single atoms, features hardly tell them: from the nearest of these
   arrangements a walk over compositions begins (:mod:`whorl.reconstruction.composition_walk`), which puts
   them in order, and the search begins with what it found.
3. The first is searched, then if need be the others, and the best of these with what is left of the budget.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.reconstruction.base import DENSEST, Progress
from whorl.reconstruction.composition_walk import CompositionWalk
from whorl.reconstruction.compositions import Candidate, checked_elements, misfit_of, read_compositions
from whorl.reconstruction.objective import MIN_DISTANCE, InversionProblem
from whorl.reconstruction.population.moves import Atoms
from whorl.reconstruction.population.search import solve, whitening
from whorl.reconstruction.population.starts import varied_starts
from whorl.reconstruction.result import InversionResult, InversionStatus
from whorl.representations.base import Representation
from whorl.seeds import derive_seed
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import sphere_volumes

MOST_ATOMS = 20
"""Default greatest number of atoms."""
CANDIDATES = 5
"""Default number of compositions that are searched of a target."""
_LISTED = 60  # compositions that are put in order by random arrangements
_MANY = 2000  # of which these are drawn, where they are more
_WALK = 4  # a walk takes one part in so many of the evaluations and of the time
_TOLERANCE = 1e-3  # root mean square of the whitened residuals of what has the features
_ARRANGEMENTS = 48  # of each
_LENGTH = 2.0  # Å; a feature of sharpness s counts (1 + (s length)⁴)^(-1/2) times
_AS_GOOD = 3.0, 0.003  # factor of the least misfit, and what is added, up to which one is a candidate


@dataclass(frozen=True, kw_only=True)
class FreeComposition:
    """Compositions that structures may have.

    Attributes:
        elements: Chemical symbols; empty for all that the representation was made for.
        n_atoms: Least and greatest number of atoms; None for 1 to :data:`MOST_ATOMS`.
        candidates: Number of compositions that are searched of a target.
    """

    elements: tuple[str, ...] = ()
    n_atoms: tuple[int, int] | None = None
    candidates: int = CANDIDATES

    def __post_init__(self) -> None:
        least, greatest = self.n_atoms or (1, MOST_ATOMS)
        if not 1 <= least <= greatest:
            raise InputError(f"n_atoms: got {least} to {greatest}, expected the least number first, from 1.")
        if self.candidates < 1:
            raise InputError(f"candidates: got {self.candidates}, expected 1 or more.")


def unknown_atoms(template: StructureBatch, representation: Representation) -> StructureBatch:
    """Return structures with the cells and periodicity of ``template``, and one atom of any element."""
    species = representation.species or ("H",)
    count = len(template)
    return StructureBatch(
        positions=template.positions.new_zeros(count, 3),
        cells=template.cells.clone(),
        pbc=template.pbc.clone(),
        atomic_numbers=torch.full((count,), atomic_numbers[species[0]]),
        structure_index=torch.arange(count),
    )


def solve_free_composition(
    problem: InversionProblem,
    free: FreeComposition,
    *,
    budget_evaluations: int = 20_000,
    budget_seconds: float | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> InversionResult:
    """Find structures that have the target fingerprints, and their compositions.

    Args:
        problem: The targets; of its template only cells and periodicity are used.
        free: Compositions that there may be.
        budget_evaluations: For one target: a tenth each for up to five compositions, then half of it for the
            best of them; of that a walk over compositions, where there is one, has had half.
        budget_seconds: For all targets together, shared out likewise.
        seed: Of all random numbers.
        checkpoint: Folder of finished targets.
        progress: Progress callback.
        options: Of :func:`whorl.reconstruction.solve`.

    Raises:
        InputError: Elements that the representation was not made for, no composition that fits, frozen atoms
            or a space group, or what :func:`whorl.reconstruction.solve` raises.
    """
    if problem.frozen is not None and bool(problem.frozen.any()):
        raise InputError("composition free: atoms that stay frozen are known. Give their composition.")
    if problem.space_group is not None:
        raise InputError("composition free: a space group needs atoms that fill its orbits. Choose one.")
    elements = checked_elements(problem.representation, free.elements)
    names = problem.names or tuple(str(k) for k in range(len(problem)))
    problem = problem.replace(names=names)
    lists: list[list[_Start]] = []
    refused: dict[int, str] = {}
    of_walk = budget_evaluations // _WALK
    seconds = None if budget_seconds is None else budget_seconds / _WALK / max(1, len(problem))
    for k in range(len(problem)):
        try:
            lists.append(_starts(problem.select([k]), elements, free, seed, of_walk, seconds))
        except InputError as error:
            lists.append([])
            refused[k] = str(error)
    if len(refused) == len(problem) > 0:
        raise InputError(refused[0])

    tried: list[dict[int, _Tried]] = [{} for _ in lists]
    share = max(1, budget_evaluations // (2 * free.candidates))

    def search(jobs: Sequence[tuple[int, int]], budget: int, stage: str, part: float) -> None:
        """Search for (target, candidate)."""
        if not jobs:
            return
        of_jobs = [_with_atoms(problem.select([k]), lists[k][place].candidate) for k, place in jobs]
        parts = [one.template for one in of_jobs]
        together = problem.select([k for k, _ in jobs]).replace(
            template=StructureBatch.concatenate(parts),
            names=tuple(f"{names[k]} {lists[k][place].candidate.formula}" for k, place in jobs),
        )

        starts = [lists[k][place].structures for k, place in jobs]

        def report(done: int, total: int, message: str = "") -> None:
            if progress is not None:
                settled = sum(any(one.solved for one in some.values()) for some in tried)
                progress(settled, len(lists), f"{stage} {done} of {total}")

        result = solve(
            together,
            budget_evaluations=budget,
            budget_seconds=None if budget_seconds is None else part * budget_seconds,
            seed=derive_seed(seed, stage),
            starts=starts if any(some is not None for some in starts) else None,
            checkpoint=checkpoint,
            progress=report,
            **options,
        )
        for row, (k, place) in enumerate(jobs):
            tried[k].setdefault(place, _Tried()).add(result, row)

    def unsolved() -> list[int]:
        return [k for k, some in enumerate(tried) if lists[k] and not any(t.solved for t in some.values())]

    for place in range(free.candidates):
        jobs = [(k, place) for k in unsolved() if place < len(lists[k])]
        search(jobs, share, f"composition {place + 1}", 0.5 / free.candidates)
    left = unsolved()
    for walked in (False, True):
        jobs = [(k, _best(tried[k])) for k in left if (lists[k][0].evaluations > 0) == walked]
        part = 0.5 - walked / _WALK
        search(jobs, int(part * budget_evaluations), "best composition", part)
    if progress is not None:
        progress(len(lists), len(lists), "")
    return _together(problem, lists, tried, refused)


class _Tried:
    """Searches for one composition of a target: the best result, and the work of all."""

    def __init__(self) -> None:
        self.loss, self.evaluations, self.seconds = float("inf"), 0, 0.0
        self.of: tuple[InversionResult, int] | None = None

    def add(self, result: InversionResult, row: int) -> None:
        assert result.evaluations is not None and result.seconds is not None
        self.evaluations += int(result.evaluations[row])
        self.seconds += float(result.seconds[row])
        if self.of is None or float(result.loss[row]) < self.loss:
            self.loss, self.of = float(result.loss[row]), (result, row)

    @property
    def solved(self) -> bool:
        assert self.of is not None
        return self.of[0].status[self.of[1]] is InversionStatus.CONVERGED


def _best(tried: dict[int, _Tried]) -> int:
    return min(tried, key=lambda place: (not tried[place].solved, tried[place].loss, place))


@dataclass(frozen=True)
class _Start:
    """A composition to be searched, structures that the search begins with, and what these took."""

    candidate: Candidate
    structures: StructureBatch | None = None
    evaluations: int = 0


def _starts(
    problem: InversionProblem,
    elements: tuple[str, ...],
    free: FreeComposition,
    seed: int,
    budget: int,
    seconds: float | None,
) -> list[_Start]:
    """Return the compositions to be searched for one target, the likeliest first.

    Where features do not tell them, a walk has so many evaluations, and so much time.
    """
    template, n_atoms = problem.template, free.n_atoms or (1, MOST_ATOMS)
    target, representation = problem.target[0], problem.representation
    assert problem.names is not None
    listed = read_compositions(
        target, representation, elements, n_atoms=n_atoms, most=_MANY, as_good=_AS_GOOD
    )
    factor, more = _AS_GOOD
    bound = factor * listed[0].misfit + more
    volume = math.inf
    if bool(template.pbc.all()) and not problem.free_cell:
        volume = float(volumes(template.cells.double())[0])
        fitting = [one for one in listed if float(sphere_volumes(one.numbers).sum()) <= DENSEST * volume]
        if not fitting:
            raise InputError(
                f"composition: {listed[0].formula} and what else fits the features does not fit into a cell "
                f"of {volume:.0f} Å³. Give another cell, or let it be free."
            )
        listed = fitting
    if problem.free_cell and bool(template.pbc.all()):
        return [_Start(one) for one in listed[: free.candidates]]
    walks = len(listed) > free.candidates and _are_neighbours(listed)
    listed = _some_of_each_size(listed, seed) if walks else listed[:_LISTED]
    structures, features = _arrangements(problem, listed, seed)
    weights = _broad_weights(problem, features)
    away = ((features - target) * weights).abs().mean(2)
    nearest = away.sort(1).values[:, : _ARRANGEMENTS // 8].mean(1).tolist()
    if not walks:
        # What the features tell counts first, then what random arrangements tell.
        order = sorted(range(len(listed)), key=lambda k: (round(listed[k].misfit, 3), nearest[k]))
        return [_Start(listed[k]) for k in order[: free.candidates]]
    misfit = misfit_of(target, representation, elements)
    places = {atomic_numbers[symbol]: place for place, symbol in enumerate(elements)}

    def possible(compositions: Sequence[tuple[int, ...]]) -> list[bool]:
        table = torch.zeros(len(compositions), len(elements), dtype=torch.int64)
        for row, numbers in enumerate(compositions):
            for number in numbers:
                table[row, places[number]] += 1
        sizes = table.sum(1)
        fits = (misfit(table) <= bound) & (sizes >= n_atoms[0]) & (sizes <= n_atoms[1])
        filled = [
            float(sphere_volumes(torch.tensor(numbers)).sum()) <= DENSEST * volume for numbers in compositions
        ]
        return (fits & torch.tensor(filled)).tolist()

    closest = MIN_DISTANCE if problem.min_distance is None else problem.min_distance
    spread = features.flatten(0, 1).nan_to_num().std(0)
    walk = CompositionWalk(
        problem.replace(weights=whitening(spread), min_distance=closest, loss="squared"),
        possible=possible,
        elements=sorted({int(number) for one in listed for number in one.numbers.unique()}),
        softened=(1.0 + (representation.sharpness().to(target) * _LENGTH) ** 4).rsqrt(),
        rng=torch.Generator().manual_seed(derive_seed(seed, "walk", problem.names[0])),
    )
    order = sorted(range(len(listed)), key=lambda k: float(away[k].min()))
    walk.run(
        [structures[k][int(away[k].argmin())] for k in order],
        budget=budget,
        tolerance=_TOLERANCE,
        seconds=seconds,
    )
    best: dict[tuple[int, ...], list[StructureBatch]] = {}
    for member in walk.members:
        best.setdefault(member.composition, []).append(member.structure)
    starts = [
        _Start(_candidate(numbers), StructureBatch.concatenate(some), walk.evaluations if k == 0 else 0)
        for k, (numbers, some) in enumerate(best.items())
    ]
    return starts[: free.candidates]


def _candidate(numbers: Sequence[int]) -> Candidate:
    counts = Counter(numbers)
    return Candidate(tuple((chemical_symbols[z], counts[z]) for z in sorted(counts)), 0.0)


def _are_neighbours(listed: Sequence[Candidate]) -> bool:
    """Return whether some compositions differ by an atom more, or by an atom of another element."""
    every = [Counter(dict(one.counts)) for one in listed[:_LISTED]]
    return any(
        (one - other).total() <= 1 and (other - one).total() <= 1
        for one, other in itertools.combinations(every, 2)
    )


def _some_of_each_size(listed: Sequence[Candidate], seed: int) -> list[Candidate]:
    """Return compositions drawn at random, as many of each number of atoms as far as there are."""
    rng = torch.Generator().manual_seed(derive_seed(seed, "sizes"))
    turns: Counter[int] = Counter()
    turn = []
    order = torch.randperm(len(listed), generator=rng).tolist()
    for k in order:
        turns[listed[k].n_atoms] += 1
        turn.append((turns[listed[k].n_atoms], k))
    return [listed[k] for _, k in sorted(turn)[:_LISTED]]


def _arrangements(
    problem: InversionProblem, listed: Sequence[Candidate], seed: int
) -> tuple[list[StructureBatch], Float[Tensor, "C a F"]]:
    """Return random arrangements of each composition, and their features."""
    assert problem.names is not None
    arrangements, features = [], []
    for one in listed:
        own = _with_atoms(problem, one)
        free = torch.ones_like(own.template.atomic_numbers, dtype=torch.bool)
        atoms = Atoms(own.template.atomic_numbers, own.template.pbc[0], free)
        rng = torch.Generator().manual_seed(derive_seed(seed, "compositions", problem.names[0], one.formula))
        positions, cells, _ = varied_starts(own.template, atoms, count=_ARRANGEMENTS, rng=rng)
        structures = own.template[[0] * _ARRANGEMENTS].replace(positions=positions.flatten(0, 1), cells=cells)
        arrangements.append(structures)
        with torch.no_grad():
            features.append(problem.representation(structures).flatten(1).nan_to_num())
    return arrangements, torch.stack(features)


def _broad_weights(problem: InversionProblem, features: Float[Tensor, "C a F"]) -> Float[Tensor, "F"]:
    """Return weights of features relative to their spread, sharp ones weighing less."""
    spread = features.flatten(0, 1).std(0)
    broad = (1.0 + (problem.representation.sharpness().to(features) * _LENGTH) ** 4).rsqrt()
    return torch.where(spread > 0, broad / spread.clamp(min=1e-12), 0.0)


def _with_atoms(problem: InversionProblem, candidate: Candidate) -> InversionProblem:
    """Return the problem of one target with the atoms of a composition."""
    n, template = candidate.n_atoms, problem.template
    own = template.replace(
        positions=template.positions.new_zeros(n, 3),
        atomic_numbers=candidate.numbers.to(template.device),
        structure_index=torch.zeros(n, dtype=torch.int64, device=template.device),
    )
    return problem.replace(template=own, frozen=None)


def _together(
    problem: InversionProblem,
    lists: Sequence[Sequence[_Start]],
    tried: Sequence[dict[int, _Tried]],
    refused: dict[int, str],
) -> InversionResult:
    """Return the best of each target."""
    structures, solutions, rows = [], [], []
    statuses = []
    for k, some in enumerate(tried):
        if not some:
            structures.append(problem.template[k])
            solutions.append(problem.template[torch.zeros(0, dtype=torch.int64)])
            statuses.append(InversionStatus.FAILED)
            rows.append([float("inf"), 0.0, 0.0, 0.0, 0.0, 0.0])
            continue
        best = some[_best(some)]
        assert best.of is not None
        result, row = best.of
        structures.append(result.structures[row])
        solutions.append(result.solutions[row])
        statuses.append(result.status[row])
        columns = (result.restarts, result.agreeing, result.infeasibility)
        rows.append(
            [
                best.loss,
                float(
                    sum(one.evaluations for one in some.values())
                    + sum(start.evaluations for start in lists[k])
                ),
                sum(one.seconds for one in some.values()),
                *(0.0 if column is None else float(column[row]) for column in columns),
            ]
        )
    loss, evaluations, seconds, restarts, agreeing, infeasibility = torch.tensor(
        rows, dtype=torch.float64
    ).unbind(1)
    return InversionResult(
        structures=StructureBatch.concatenate(structures),
        loss=loss,
        status=tuple(statuses),
        evaluations=evaluations.long(),
        seconds=seconds,
        solutions=tuple(solutions),
        restarts=restarts.long(),
        agreeing=agreeing.long(),
        infeasibility=infeasibility,
        refused=refused,
    )
