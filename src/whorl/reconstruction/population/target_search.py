"""Search for one target: its settings and its population."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whorl.chunked import Part
from whorl.errors import InputError, unknown_option
from whorl.reconstruction.population.moves import MOVES, Atoms, move, push_apart, signature
from whorl.reconstruction.result import InversionStatus
from whorl.structures.batch import StructureBatch
from whorl.symmetry.coordinates import SymmetryCoordinates
from whorl.symmetry.groups import SYMMETRIC_MOVES, Group, random_subgroup, symmetric_move

_ALIKE = 0.15  # Å by which the distances of two members must differ
_SMALL = 12  # atoms
_ORDERS = (1, 4, 16)  # of groups, up to which a symmetry is none, low, medium
_BREAK = 0.1  # part of the children of a symmetric arrangement that are moved without regard to it
_LOWER = 0.15  # part of them that keep some of its symmetry only
_IMPROVED = 0.98  # a population that lowers its loss by less than this factor has not improved


@dataclass(frozen=True, kw_only=True)
class PopulationSettings:
    r"""Settings of the population of a target.

    Attributes:
        candidates: Random arrangements that are compared with the target at the start of a population.
        first: Number of these that are optimised.
        members: Arrangements kept.
        children: New ones in each round.
        promising: Number of these that are optimised to convergence.
        parents: Part of the members, best first, that have children.
        patience: Rounds without improvement after which a population is replaced.
        length: ℓ in Å; in broad descents a feature of sharpness s counts
            :math:`(1 + (s \ell)^4)^{-1/2}` times.
        opening: Steps of the first improvement: broad ones, and such in which every feature counts fully.
        coarse: Broad steps for all children.
        fine: Further steps for the promising ones.
        moves: Names of moves (:mod:`whorl.reconstruction.population.moves`), used if the atoms allow them.
        symmetric: Part of the random arrangements that have a symmetry, where one is looked for: in crystals,
            and in every other population of clusters above 12 atoms.
    """

    candidates: int = 400
    first: int = 24
    members: int = 8
    children: int = 24
    promising: int = 8
    parents: float = 0.6
    patience: int = 4
    length: float = 2.0
    opening: tuple[int, int] = (12, 8)
    coarse: int = 6
    fine: int = 8
    moves: tuple[str, ...] = ("shake", "relocate", "swap")
    symmetric: float = 0.8

    def __post_init__(self) -> None:
        counts = ("candidates", "first", "members", "children", "promising", "patience", "coarse", "fine")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected 1 or more.")
        if self.promising > self.children or self.first > self.candidates:
            raise InputError("population: promising ≤ children and first ≤ candidates are expected.")
        if "shake" not in self.moves and "relocate" not in self.moves:
            raise InputError(f"moves: got {list(self.moves)}, expected shake or relocate among them.")
        for name in self.moves:
            if name not in MOVES:
                raise unknown_option("move", name, MOVES)
        if min(self.opening) < 1:
            raise InputError(f"opening: got {self.opening}, expected one step or more of each kind.")
        if self.length < 0:
            raise InputError(f"length: got {self.length}, expected 0 Å or more.")
        if not 0 < self.parents <= 1:
            raise InputError(f"parents: got {self.parents}, expected a part above 0 and up to 1.")

    @property
    def opening_evaluations(self) -> int:
        """Evaluations that a population takes until it has begun."""
        return self.first * sum(self.opening)


def symmetry_class(group: Group | None) -> int:
    """Return a class of symmetry: none, low, medium, or high."""
    order = 1 if group is None else len(group)
    return sum(order > limit for limit in _ORDERS)


class TargetSearch:
    """Search for one target, and its results."""

    def __init__(
        self,
        atoms: Atoms,
        template: StructureBatch,
        rng: torch.Generator,
        given: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self.atoms, self.template, self.rng = atoms, template, rng
        self.given = given  # positions and cells that the first population begins with
        self.refused: str | None = None  # why it cannot be searched
        n = len(atoms.numbers)
        self.positions = template.positions.new_zeros(0, n, 3)
        self.cells = template.cells.new_zeros(0, 3, 3)
        self.loss = template.positions.new_zeros(0)
        self.groups: list[Group | None] = []
        self.best_positions, self.best_cell = template.positions, template.cells[0]
        self.best_loss = math.inf
        self.ends: list[tuple[Tensor, float]] = []  # signature and loss of the best of each population
        self.evaluations, self.seconds = 0, 0.0
        self.lowest, self.idle = math.inf, 0
        self.polished = math.inf  # loss after the last polish of what was nearly a solution
        self.solved = False
        self.settled = False  # solved, and as near as it gets
        # Settled at the end.
        self.final_loss, self.infeasibility = math.inf, 0.0
        self.restarts, self.agreeing = 0, 0
        self.status = InversionStatus.FAILED  # until it has ended
        self.found = self.positions, self.cells

    @property
    def seeks_symmetry(self) -> bool:
        """Whether its next population begins with symmetric arrangements.

        Crystals mostly have a symmetry. Small clusters are found without; of larger ones every other
        population begins so, the first one too: symmetric arrangements cost least.
        """
        if bool(self.atoms.pbc.any()) or not bool(self.atoms.free.all()):
            return bool(self.atoms.pbc.all())
        return len(self.atoms.numbers) > _SMALL and len(self.ends) % 2 == 0

    @property
    def is_large(self) -> bool:
        """Whether it has many atoms, so that only symmetric starts can solve it."""
        return self.seeks_symmetry and len(self.atoms.numbers) > _SMALL

    @property
    def places_stepwise(self) -> bool:
        """Whether the next population begins with species placed one after another: every other one does."""
        return (
            self.is_large
            and not self.atoms.free_cell
            and bool(self.atoms.pbc.all())
            and len(self.ends) % 2 == 0
        )

    @property
    def cost_factor(self) -> float:
        """How much rarer arrangements without symmetry are to be: of many atoms they cost more."""
        return 1.0 + len(self.atoms.numbers) / _SMALL

    @property
    def rarity(self) -> tuple[float, ...]:
        """How much rarer starts of each class of symmetry are to be: in clusters by about what they cost."""
        if bool(self.atoms.pbc.any()):
            return self.cost_factor, 1.0, 1.0, 1.0
        return self.cost_factor, self.cost_factor ** (2 / 3), self.cost_factor ** (1 / 3), 1.0

    @property
    def everything(self) -> list[tuple[Tensor, Tensor]]:
        """Positions and cell of the best, and of the members there are."""
        return [(self.best_positions, self.best_cell), *zip(self.positions, self.cells, strict=True)]

    def outcome(self) -> Part:
        """Return what it ended with."""
        numbers = [
            *(self.final_loss, self.infeasibility, self.seconds),
            *(self.evaluations, self.solved, self.restarts, self.agreeing),
        ]
        return Part(
            {
                "positions": self.best_positions,
                "cell": self.best_cell,
                "found_positions": self.found[0],
                "found_cells": self.found[1],
                "numbers": torch.tensor(numbers, dtype=torch.float64),
            },
            {"status": self.status.value, "refused": self.refused},
        )

    def take(
        self, positions: Tensor, cells: Tensor, loss: Tensor, groups: list[Group | None], *, most: int
    ) -> None:
        """Join new arrangements to the members, and keep the best that differ."""
        groups = self.groups + groups
        positions = torch.cat([self.positions, positions])
        cells, loss = torch.cat([self.cells, cells]), torch.cat([self.loss, loss])
        order = loss.argsort(stable=True)
        order = order[torch.isfinite(loss[order])]
        marks = signature(positions[order], cells[order], self.atoms)
        kept: list[int] = []
        room = self._room(most)
        of_class = [symmetry_class(groups[k]) for k in order.tolist()]
        for k in range(len(order)):
            if len(kept) == most:
                break
            if sum(of_class[other] == of_class[k] for other in kept) >= room[min(of_class[k], 1)]:
                continue
            far = (marks[kept] - marks[k]).square().mean(1).sqrt() > _ALIKE if kept else torch.ones(1)
            if bool(far.all()):
                kept.append(k)
        chosen = order[kept]
        self.positions, self.cells, self.loss = positions[chosen], cells[chosen], loss[chosen]
        self.groups = [groups[k] for k in chosen.tolist()]
        if len(kept) and float(self.loss[0]) < self.best_loss:
            self.best_loss = float(self.loss[0])
            self.best_positions, self.best_cell = self.positions[0], self.cells[0]

    def different(
        self, positions: Float[Tensor, "C n 3"], cells: Float[Tensor, "C 3 3"], order: list[int], *, most: int
    ) -> list[int]:
        """Return the first arrangements, in this order, that differ from one another."""
        marks = signature(positions, cells, self.atoms)
        kept: list[int] = []
        for k in order:
            if len(kept) < most and bool(((marks[kept] - marks[k]).square().mean(1).sqrt() > _ALIKE).all()):
                kept.append(k)
        return kept

    def _room(self, most: int) -> tuple[int, int]:
        """Return how many members may have no symmetry, and how many a symmetry of one class.

        The more coordinates an arrangement has, the lower its loss: others would not outlive it.
        """
        if not self.is_large:
            return most, most
        return max(1, round(most / self.cost_factor)), math.ceil(most / 2)

    def children(
        self,
        parents: Tensor,
        allowed: Sequence[str],
        exchanged: Callable[[int, int], tuple[Tensor, Tensor]] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor, Group | None, tuple[int, str]]]:
        """Make one child of each parent; most children of a symmetric one have its symmetry.

        Yields positions, cell and group of each, and by which parent and move it was made.

        Args:
            parents: Numbers of members.
            allowed: Names of moves.
            exchanged: Makes positions and cells of so many children of a member in the place of random swaps.
        """
        moves = {name: often for name, often in self.atoms.moves.items() if name in allowed}
        names = torch.multinomial(torch.tensor(list(moves.values())), len(parents), True, generator=self.rng)
        keeps = self.atoms.space_group is not None
        broken = torch.rand(len(parents), generator=self.rng) < (0.0 if keeps else _BREAK / self.cost_factor)
        plain = torch.tensor([self.groups[p] is None for p in parents.tolist()]) | broken
        for m, name in enumerate(moves):
            some = parents[plain & (names == m)]
            if len(some) and name == "swap" and exchanged is not None:
                for member, count in Counter(some.tolist()).items():
                    made = [(member, name)] * count
                    yield from zip(*exchanged(member, count), [None] * count, made, strict=True)
            elif len(some):
                moved = move(name, self.positions[some], self.cells[some], self.atoms, self.rng)
                made = [(p, name) for p in some.tolist()]
                yield from zip(*moved, [None] * len(some), made, strict=True)
        draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=self.rng)))
        numbers = self.atoms.numbers.cpu().numpy()
        symmetric_ones: list[Tensor] = []
        made_by: list[tuple[int, Group | None, str]] = []
        chances = np.array(list(SYMMETRIC_MOVES.values()))
        for p in parents[~plain].tolist():
            cell, group = self.frame(self.cells[p]), self.groups[p]
            assert group is not None
            if draw.random() < _LOWER and not keeps:
                group = random_subgroup(group, draw) or group
            name = str(draw.choice(list(SYMMETRIC_MOVES), p=chances / chances.sum()))
            fractional = self.positions[p].double().cpu().numpy() @ np.linalg.inv(cell)
            found = symmetric_move(name, fractional, cell, numbers, group, draw, alike=self.atoms.alike)
            if found is None:
                found = symmetric_move(
                    "renew", fractional, cell, numbers, group, draw, alike=self.atoms.alike
                )
            if found is None and keeps:
                found = fractional
            elif found is None:
                found, group = draw.random(fractional.shape), None
            symmetric_ones.append(torch.from_numpy(found @ cell).to(self.positions))
            made_by.append((p, group, name))
        if symmetric_ones:
            cells = self.cells[[p for p, _, _ in made_by]]
            apart = push_apart(torch.stack(symmetric_ones), cells, self.atoms)
            for positions, cell_of, (p, group, name) in zip(apart, cells, made_by, strict=True):
                yield positions, cell_of, group, (p, name)

    def frame(self, cell: Tensor) -> Float[np.ndarray, "3 3"]:
        """Return the vectors in which groups count: those of a crystal, else 1 Å along x, y and z."""
        return np.asarray(cell.double().cpu().numpy()) if bool(self.atoms.pbc.all()) else np.eye(3)

    def end_round(self, patience: int) -> None:
        """Count rounds without improvement, and give the population up after too many."""
        lowest = float(self.loss[0]) if len(self.loss) else math.inf
        self.idle = 0 if lowest < _IMPROVED * self.lowest else self.idle + 1
        self.lowest = min(lowest, self.lowest)
        if self.idle >= patience and self.solved:
            self.settled = True
        elif self.idle >= patience:
            self.end_population()

    def end_population(self) -> None:
        """Give the members up, and remember how the best of them ended."""
        if len(self.loss):
            mark = signature(self.positions[:1], self.cells[:1], self.atoms)[0]
            self.ends.append((mark, float(self.loss[0])))
        self.positions, self.cells, self.loss = self.positions[:0], self.cells[:0], self.loss[:0]
        self.groups = []
        self.lowest, self.idle, self.polished = math.inf, 0, math.inf


@dataclass
class Jobs:
    """Arrangements of a target's atoms that are to be improved."""

    target: TargetSearch
    positions: list[Tensor]  # (n, 3) each
    cells: list[Tensor]
    groups: list[Group | None]
    loss: Tensor | None = None

    def __len__(self) -> int:
        """Return their number."""
        return len(self.positions)

    def append(self, positions: Tensor, cell: Tensor, group: Group | None) -> None:
        """Add one."""
        self.positions.append(positions)
        self.cells.append(cell)
        self.groups.append(group)

    def pick(self, chosen: Sequence[int]) -> Jobs:
        """Return some of them, in the order asked for, without their losses."""
        return Jobs(
            self.target,
            [self.positions[k] for k in chosen],
            [self.cells[k] for k in chosen],
            [self.groups[k] for k in chosen],
        )

    def orbits(self, k: int) -> SymmetryCoordinates | None:
        """Return the orbits of one arrangement; of one that has lost its symmetry, none."""
        group = self.groups[k]
        if group is None:
            return None
        target = self.target
        cell = target.frame(self.cells[k])
        fractional = self.positions[k].double().cpu().numpy() @ np.linalg.inv(cell)
        found = group.orbits(fractional, cell, free_cell=target.atoms.free_cell)
        if found is None:
            self.groups[k] = None
        return found
