"""Search for structures of unknown composition: the likeliest compositions are searched, the best is kept.

1. Compositions that the features tell, or may be of, are listed (:mod:`whorl.reconstruction.compositions`).
2. Those that fit equally well, such as multiples of a formula, are put in order by random arrangements of
   their atoms: how near the broad features of the nearest ones come to the target. In a known cell that tells
   the number of atoms from the density; a free cell suits all, and the smallest comes first.
3. The first is searched, then if need be the others, and the best of these with what is left of the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.reconstruction.base import Progress
from whorl.reconstruction.compositions import Candidate, checked_elements, read_compositions
from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.population.moves import Atoms
from whorl.reconstruction.population.search import solve
from whorl.reconstruction.population.starts import varied_starts
from whorl.reconstruction.result import InversionResult, InversionStatus
from whorl.representations.base import Representation
from whorl.seeds import derive_seed
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import covalent_radii

MOST_ATOMS = 20
"""Default greatest number of atoms."""
CANDIDATES = 5
"""Default number of compositions that are searched of a target."""
_LISTED = 60  # compositions that are put in order by random arrangements
_ARRANGEMENTS = 48  # of each
_LENGTH = 2.0  # Å; a feature of sharpness s counts (1 + (s length)⁴)^(-1/2) times
_AS_GOOD = 3.0, 0.003  # factor of the least misfit, and what is added, up to which one is a candidate
_TIGHTEST = 1.5  # volume of the atoms' covalent spheres, as a part of the cell's, that none exceeds


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
            best of them.
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
    lists: list[list[Candidate]] = []
    refused: dict[int, str] = {}
    for k in range(len(problem)):
        try:
            lists.append(_candidates(problem.select([k]), elements, free, seed))
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
        of_jobs = [_with_atoms(problem.select([k]), lists[k][place]) for k, place in jobs]
        parts = [one.template for one in of_jobs]
        together = problem.select([k for k, _ in jobs]).replace(
            template=StructureBatch.concatenate(parts),
            names=tuple(f"{names[k]} {lists[k][place].formula}" for k, place in jobs),
        )

        def report(done: int, total: int, message: str = "") -> None:
            if progress is not None:
                settled = sum(any(one.solved for one in some.values()) for some in tried)
                progress(settled, len(lists), f"{stage} {done} of {total}")

        result = solve(
            together,
            budget_evaluations=budget,
            budget_seconds=None if budget_seconds is None else part * budget_seconds,
            seed=derive_seed(seed, stage),
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
    search([(k, _best(tried[k])) for k in unsolved()], budget_evaluations // 2, "best composition", 0.5)
    if progress is not None:
        progress(len(lists), len(lists), "")
    return _together(problem, tried, refused)


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


def _candidates(
    problem: InversionProblem, elements: tuple[str, ...], free: FreeComposition, seed: int
) -> list[Candidate]:
    """Return the compositions to be searched for one target, the likeliest first."""
    template, least_and_most = problem.template, free.n_atoms or (1, MOST_ATOMS)
    listed = read_compositions(
        problem.target[0], problem.representation, elements, n_atoms=least_and_most, most=_LISTED
    )
    factor, more = _AS_GOOD
    listed = [one for one in listed if one.misfit <= factor * listed[0].misfit + more]
    if bool(template.pbc.all()) and not problem.free_cell:
        volume = float(torch.linalg.det(template.cells[0].double()).abs())
        fitting = [one for one in listed if _filled(one) <= _TIGHTEST * volume]
        if not fitting:
            raise InputError(
                f"composition: {listed[0].formula} and what else fits the features does not fit into a cell "
                f"of {volume:.0f} Å³. Give another cell, or let it be free."
            )
        listed = fitting
    if problem.free_cell and bool(template.pbc.all()):
        return listed[: free.candidates]
    distances = _distances(problem, listed, seed)
    # What the features tell counts first, then what random arrangements tell.
    order = sorted(range(len(listed)), key=lambda k: (round(listed[k].misfit, 3), distances[k]))
    return [listed[k] for k in order[: free.candidates]]


def _filled(candidate: Candidate) -> float:
    return float((4 / 3 * torch.pi * covalent_radii(candidate.numbers) ** 3).sum())


def _distances(problem: InversionProblem, listed: Sequence[Candidate], seed: int) -> list[float]:
    """Return how near random arrangements of each composition come to the target, in broad features."""
    assert problem.names is not None
    features = []
    for one in listed:
        own = _with_atoms(problem, one)
        free = torch.ones_like(own.template.atomic_numbers, dtype=torch.bool)
        atoms = Atoms(own.template.atomic_numbers, own.template.pbc[0], free)
        rng = torch.Generator().manual_seed(derive_seed(seed, "compositions", problem.names[0], one.formula))
        positions, cells, _ = varied_starts(own.template, atoms, count=_ARRANGEMENTS, rng=rng)
        structures = own.template[[0] * _ARRANGEMENTS].replace(positions=positions.flatten(0, 1), cells=cells)
        with torch.no_grad():
            features.append(problem.representation(structures).flatten(1).nan_to_num())
    every = torch.stack(features)
    spread = every.flatten(0, 1).std(0)
    broad = (1.0 + (problem.representation.sharpness().to(every) * _LENGTH) ** 4).rsqrt()
    weights = torch.where(spread > 0, broad / spread.clamp(min=1e-12), 0.0)
    away = ((every - problem.target[0]) * weights).abs().mean(2)
    nearest: Float[Tensor, "C"] = away.sort(1).values[:, : _ARRANGEMENTS // 8].mean(1)
    return nearest.tolist()


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
    problem: InversionProblem, tried: Sequence[dict[int, _Tried]], refused: dict[int, str]
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
                float(sum(one.evaluations for one in some.values())),
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
