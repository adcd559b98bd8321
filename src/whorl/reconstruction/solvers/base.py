"""Contract of solvers: one local optimiser over a batch, a pair of init and step; its state is a value."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.settings import Method, settings_from
from whorl.structures.batch import StructureBatch


@dataclass(frozen=True, kw_only=True)
class SolverState:
    """Where T searches are, and the best that each has seen.

    Attributes:
        structures: Where each search is now.
        loss: There, shape (T,); infinite for a search that could not even begin.
        gradient: Of each loss in its own positions, per Å, shape (A, 3); zero for a failed search.
        best_positions: Positions of the lowest loss seen, in Å, shape (A, 3).
        best_cells: Lattice vectors there, in Å, shape (T, 3, 3).
        best_loss: That loss, shape (T,); it never rises.
        failed: Searches that met a loss or gradient that is not finite, shape (T,). They stay at their best
            and never hinder the others.
        steps: Steps taken.
    """

    structures: StructureBatch
    loss: Float[Tensor, "T"]
    gradient: Float[Tensor, "A 3"]
    best_positions: Float[Tensor, "A 3"]
    best_cells: Float[Tensor, "T 3 3"]
    best_loss: Float[Tensor, "T"]
    failed: Bool[Tensor, "T"]
    steps: int = 0

    @property
    def best(self) -> StructureBatch:
        """The best structure of each search."""
        return self.structures.replace(positions=self.best_positions, cells=self.best_cells)


class Solver(Method, ABC):
    """One local optimiser. Hyperparameters are its settings; all that changes is in the state.

    ``step`` leaves its arguments alone and uses no randomness, so the same state always gives the same next.
    A search depends on its own target and start, not on the others of the batch.

    Args:
        settings: Its hyperparameters.
        options: The same by name, in the place of ``settings``.

    Attributes:
        general: Whether it moves cells too and keeps a symmetry, in the coordinates of
            :meth:`whorl.reconstruction.InversionProblem.displaced`.

    Raises:
        InputError: An option that is not known, or out of range.
    """

    Settings: ClassVar[type[SolverSettings]] = SolverSettings
    general: ClassVar[bool] = False

    def __init__(self, settings: Any = None, **options: Any) -> None:
        self.settings: Any = (
            settings_from(self.Settings, options, source=self.kind, lines={})
            if settings is None
            else settings
        )

    @abstractmethod
    def init(self, problem: InversionProblem, start: StructureBatch) -> SolverState:
        """Return the state at ``start``, one structure for each target of ``problem``."""

    @abstractmethod
    def step(self, problem: InversionProblem, state: Any) -> SolverState:
        """Return the state one step on; ``state`` is one that this solver made."""

    def moving(self, problem: InversionProblem, state: Any) -> Bool[Tensor, "T"]:
        """Return which searches can still gain something, as far as the state tells."""
        return ~state.failed


_State = TypeVar("_State", bound=SolverState)


def unseen(start: StructureBatch) -> dict[str, Any]:
    """Return the fields of a :class:`SolverState` at ``start`` before its first evaluation.

    A structure with NaN or infinite positions is a failed search; its atoms become a chain 3 Å apart, so that
    the batch can be evaluated whole.
    """
    finite = torch.isfinite(start.positions).all(1)
    bad = _any_atom(~finite, start)
    chain = torch.zeros_like(start.positions)
    chain[:, 0] = 3.0 * start.position_in_structure.to(start.dtype)
    positions = torch.where(bad[start.structure_index, None], chain, start.positions.detach())
    infinite = positions.new_full((len(start),), torch.inf)
    return {
        "structures": start.replace(positions=positions),
        "loss": infinite,
        "gradient": torch.zeros_like(positions),
        "best_positions": positions,
        "best_cells": start.cells.detach(),
        "best_loss": infinite,
        "failed": bad,
    }


def observe(problem: InversionProblem, state: _State, positions: Float[Tensor, "A 3"]) -> _State:
    """Evaluate ``positions`` and return ``state`` there, its best and its failures brought up to date."""
    index = state.structures.structure_index
    lost = _any_atom(~torch.isfinite(positions).all(1), state.structures)
    positions = torch.where((state.failed | lost)[index, None], state.best_positions, positions)
    structures = state.structures.replace(positions=positions)
    loss, gradient = problem.value_and_gradient(structures)
    lost |= ~torch.isfinite(loss)
    # A finite loss without a gradient may still be the best one; there is just no way on from it.
    stuck = _any_atom(~torch.isfinite(gradient).all(1), structures)
    better = (loss < state.best_loss) & ~state.failed & ~lost
    best_positions = torch.where(better[index, None], positions, state.best_positions)
    best_loss = torch.where(better, loss, state.best_loss)
    failed = state.failed | lost | stuck
    return dataclasses.replace(
        state,
        structures=structures.replace(positions=torch.where(failed[index, None], best_positions, positions)),
        loss=torch.where(failed, best_loss, loss),
        gradient=torch.where(failed[index, None], 0.0, gradient),
        best_positions=best_positions,
        best_loss=best_loss,
        failed=failed,
    )


def _any_atom(flags: Bool[Tensor, "A"], structures: StructureBatch) -> Bool[Tensor, "T"]:
    hits = flags.new_zeros(len(structures), dtype=torch.int64)
    return hits.index_add(0, structures.structure_index, flags.to(torch.int64)) > 0
