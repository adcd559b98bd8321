r"""Walk over compositions: arrangements gain, lose and change atoms as features come nearer to a target.

Where features do not tell the composition, nor the number of atoms, a few arrangements of different ones are
kept. Every round, some of them have children that differ by

* an atom less,
* an atom more, next to another atom, or in a crystal anywhere, too,
* an atom of another element,
* or by a move of the population search, which keeps the composition.

All changes of an arrangement are compared at once: the positions answer as in a step of Levenberg–Marquardt
(as in :mod:`whorl.reconstruction.population.exchange`), and those are drawn most often that leave least.
Children are optimised from coarse to fine, and the best of all stay, a few of each composition.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.population.exchange import FEATURES_PER_EVALUATION, answered
from whorl.reconstruction.population.moves import Atoms, move
from whorl.reconstruction.solvers.levenberg_marquardt import LevenbergMarquardt
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import covalent_radii

_FIRST = 24  # arrangements that are optimised at first
_MEMBERS, _OF_ONE = 12, 3  # that are kept, and of these of one composition
_CHANGED, _EACH = 4, 3  # parents whose atoms change, and children of each
_MOVED = 12  # children that differ by moves
_PROMISING = 8  # children that are optimised to the end
_OPENING, _COARSE, _FINE = (12, 8), 6, 8  # steps
_SITES, _TRIED = 12, 6  # places of a further atom, each the widest of so many
_ANYWHERE = 0.3  # part of these that are anywhere in a crystal
_NEAREST, _FARTHEST = 0.85, 1.15  # of others from their neighbour, in sums of the covalent radii
_DAMPING = 0.1
_AT_ONCE = 64
_SAME = 1e-3  # part of a loss, by which others of the same composition differ at least


@dataclass(frozen=True)
class Arrangement:
    """Atoms of one composition.

    Attributes:
        structure: A batch of one.
        loss: Mean square of the weighted residuals.
    """

    structure: StructureBatch
    loss: float = math.inf

    @property
    def composition(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return tuple(self.structure.atomic_numbers.sort().values.tolist())


class CompositionWalk:
    """Walk of one target.

    Args:
        problem: The target, with weights, and penalty ``squared``; of its template only periodicity is used.
        possible: Says of compositions (atomic numbers, sorted) whether there may be such.
        elements: Atomic numbers that there may be.
        softened: How much each feature counts in broad descents, shape (F,).
        rng: On the CPU.

    Attributes:
        members: The arrangements kept, the best first.
        evaluations: Of features and derivatives, so far.
    """

    def __init__(
        self,
        problem: InversionProblem,
        *,
        possible: Callable[[Sequence[tuple[int, ...]]], list[bool]],
        elements: Sequence[int],
        softened: Float[Tensor, "F"],
        rng: torch.Generator,
    ) -> None:
        assert problem.weights is not None
        self.problem, self.broad = problem, problem.replace(weights=problem.weights * softened)
        self.possible, self.elements, self.rng = possible, elements, rng
        self.solver = LevenbergMarquardt(damping=_DAMPING)
        self.members: list[Arrangement] = []
        self.evaluations = 0

    def run(
        self,
        starts: Sequence[StructureBatch],
        *,
        budget: int,
        tolerance: float,
        seconds: float | None = None,
    ) -> None:
        """Go on from some structures until one has the target features, or the budget is spent.

        Args:
            starts: Batches of one, the most promising first.
            budget: Evaluations of features and derivatives.
            tolerance: Root mean square of the weighted residuals up to which a structure has the features.
            seconds: Time after which no further round begins; None for no limit.
        """
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        most = max(1, min(_FIRST, budget // (2 * sum(_OPENING))))
        self._take(self._optimised(starts[:most], *_OPENING))
        while self.members and self.members[0].loss > tolerance**2 and self.evaluations < budget:
            if time.monotonic() > deadline:
                break
            children = self._optimised(self._children(), _COARSE, 0)
            children.sort(key=lambda one: one.loss)
            self._take(self._optimised([one.structure for one in children[:_PROMISING]], 0, _FINE))

    def _take(self, arrangements: list[Arrangement]) -> None:
        """Keep the best that differ."""
        kept: list[Arrangement] = []
        of_one: Counter[tuple[int, ...]] = Counter()
        for one in sorted(self.members + arrangements, key=lambda one: one.loss):
            composition = one.composition
            twin = any(
                other.composition == composition and one.loss - other.loss <= _SAME * one.loss
                for other in kept
            )
            if math.isfinite(one.loss) and not twin and of_one[composition] < _OF_ONE:
                kept.append(one)
                of_one[composition] += 1
        self.members = kept[:_MEMBERS]

    def _children(self) -> list[StructureBatch]:
        children = []
        for parent in self._drawn(_CHANGED):
            children += self._changed(parent)
        for parent in self._drawn(_MOVED):
            children.append(self._moved(parent))
        return children

    def _drawn(self, count: int) -> list[StructureBatch]:
        """Return members, different ones as far as there are."""
        order = torch.randperm(len(self.members), generator=self.rng).repeat(count)[:count]
        return [self.members[k].structure for k in order.tolist()]

    def _moved(self, structure: StructureBatch) -> StructureBatch:
        numbers = structure.atomic_numbers
        atoms = Atoms(numbers, structure.pbc[0], torch.ones_like(numbers, dtype=torch.bool))
        moves = dict(atoms.moves)
        if len(numbers) == 1:
            moves.pop("relocate")
        drawn = torch.multinomial(torch.tensor(list(moves.values())), 1, generator=self.rng)
        name = list(moves)[int(drawn)]
        positions, cells = move(name, structure.positions[None], structure.cells, atoms, self.rng)
        return structure.replace(positions=positions[0], cells=cells)

    def _changed(self, structure: StructureBatch) -> list[StructureBatch]:
        """Return the arrangement after changes of its composition."""
        changes = self._changes(structure)
        allowed = self.possible([tuple(sorted(numbers.tolist())) for numbers, _, _ in changes])
        changes = [change for change, may_be in zip(changes, allowed, strict=True) if may_be]
        if not changes:
            return []
        batch = StructureBatch.concatenate(
            [_with(structure, numbers, positions) for numbers, positions, _ in changes]
        )
        removed = torch.tensor([-1 if atom is None else atom for _, _, atom in changes])
        left = answered(self._of(structure), structure, self._of(batch).residual(batch), removed=removed)
        self.evaluations += 1 + -(-len(changes) // FEATURES_PER_EVALUATION)
        chance = (left / left.min()) ** -4.0
        count = min(_EACH, int((chance > 0).sum()))
        if not count:
            return []
        return list(batch[torch.multinomial(chance, count, generator=self.rng)])

    def _changes(self, structure: StructureBatch) -> list[tuple[Tensor, Tensor, int | None]]:
        """Return atomic numbers, positions, and which atom is missing, of all changes."""
        numbers, positions = structure.atomic_numbers, structure.positions
        n = len(numbers)
        changes: list[tuple[Tensor, Tensor, int | None]] = []
        for atom in range(n):
            rest = torch.arange(n) != atom
            if n > 1:
                changes.append((numbers[rest], positions[rest], atom))
            for element in self.elements:
                if element != int(numbers[atom]):
                    other = numbers.clone()
                    other[atom] = element
                    changes.append((other, positions, None))
        for place, element in zip(self._places(structure), self._further(_SITES), strict=True):
            changes.append(
                (
                    torch.cat([numbers, numbers.new_tensor([element])]),
                    torch.cat([positions, place[None]]),
                    None,
                )
            )
        return changes

    def _further(self, count: int) -> list[int]:
        """Return elements of further atoms, each as often as the others."""
        order = torch.randperm(len(self.elements), generator=self.rng)
        return [self.elements[int(order[k % len(order)])] for k in range(count)]

    def _places(self, structure: StructureBatch) -> Float[Tensor, "m 3"]:
        """Return places for a further atom, the widest of those drawn."""
        count, n = _SITES * _TRIED, len(structure.positions)
        draw: Any = {"dtype": torch.float64, "generator": self.rng}
        radii = covalent_radii(structure.atomic_numbers)
        host = (torch.rand(count, **draw) * n).long()
        direction = torch.randn(count, 3, **draw)
        direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-9)
        stretch = _NEAREST + (_FARTHEST - _NEAREST) * torch.rand(count, **draw)
        length = stretch * (radii[host] + radii.mean())
        places = structure.positions[host] + (direction * length[:, None]).to(structure.positions)
        cell, pbc = structure.cells[0], structure.pbc[0]
        if bool(pbc.all()):
            inside = torch.rand(count, 3, **draw).to(cell) @ cell
            anywhere = torch.rand(count, **draw) < _ANYWHERE
            places = torch.where(anywhere[:, None], inside, places)
        away = places[:, None] - structure.positions
        if bool(pbc.any()):
            fractional = away @ torch.linalg.pinv(cell)
            away = away - (fractional.round() * pbc) @ cell
        room = (away.norm(dim=2) / (radii + radii.mean())).amin(1).clamp(max=_NEAREST)
        widest = room.view(_SITES, _TRIED).argmax(1)
        return places.view(_SITES, _TRIED, 3)[torch.arange(_SITES), widest]

    def _of(self, structures: StructureBatch, problem: InversionProblem | None = None) -> InversionProblem:
        chosen = self.problem if problem is None else problem
        return chosen.select([0] * len(structures)).replace(template=structures, names=None)

    def _optimised(self, structures: Sequence[StructureBatch], broad: int, fine: int) -> list[Arrangement]:
        """Return the structures after so many broad steps, and so many in which every feature counts."""
        done: list[Arrangement] = []
        order = sorted(range(len(structures)), key=lambda k: len(structures[k].positions))
        for some in [order[k : k + _AT_ONCE] for k in range(0, len(order), _AT_ONCE)]:
            batch = StructureBatch.concatenate([structures[k] for k in some])
            loss = torch.full((len(batch),), torch.inf, dtype=torch.float64)
            for problem, steps in ((self.broad, broad), (self.problem, fine)):
                if steps:
                    batch, loss = self._descended(batch, self._of(batch, problem), steps)
            done += [Arrangement(one, float(value)) for one, value in zip(batch, loss, strict=True)]
        return done

    def _descended(
        self, batch: StructureBatch, problem: InversionProblem, steps: int
    ) -> tuple[StructureBatch, Float[Tensor, "B"]]:
        state = self.solver.init(problem, batch)
        self.evaluations += len(batch)
        for _ in range(steps):
            moving = self.solver.moving(problem, state)
            if not bool(moving.any()):
                break
            self.evaluations += int(moving.sum())
            state = self.solver.step(problem, state)
        return state.best, torch.where(state.failed, torch.inf, state.best_loss).cpu()


def _with(structure: StructureBatch, numbers: Int[Tensor, "m"], positions: Tensor) -> StructureBatch:
    """Return a structure with other atoms."""
    index = torch.zeros(len(numbers), dtype=torch.int64, device=structure.device)
    return structure.replace(positions=positions, atomic_numbers=numbers, structure_index=index)
