r"""Levenberg–Marquardt (Marquardt, J. Soc. Indust. Appl. Math. 11, 431, 1963), for many structures at once.

With weighted residuals r and their Jacobian J, a step solves

.. math:: (J^T J + \mu D)\,\delta = -J^T r, \qquad
          D = \tfrac12\,\mathrm{diag}(J^T J) + \tfrac12\,\overline{\mathrm{diag}(J^T J)}\,1 .

It is taken where it lowers the loss; then the damping μ falls, else it rises. No atom moves farther in a step
than the trust radius. Each structure has its own damping, and leaves the work when it has nothing more to
gain. With a free cell the unknowns are those of the atoms and of a symmetric strain of the cell they sit in.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.solvers.base import Solver, SolverState, unseen
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.settings import NonNegative, Positive
from whorl.structures.batch import StructureBatch

_EASIER, _HARDER = 0.3, 4.0  # factors on the damping
_LEAST, _MOST = 1e-9, 1e6


@dataclass(frozen=True, kw_only=True)
class LevenbergMarquardtState(SolverState):
    """A :class:`SolverState` with what the next step needs, from where each search stands.

    Attributes:
        damping: μ of each search, shape (T,).
        normal: :math:`J^T J`, shape (T, q, q).
        slope: :math:`J^T r`, shape (T, q).
    """

    damping: Float[Tensor, "T"]
    normal: Float[Tensor, "T q q"]
    slope: Float[Tensor, "T q"]


class LevenbergMarquardt(Solver):
    """Damped Gauss–Newton steps: near a solution the error is squared from step to step."""

    kind = "levenberg_marquardt"
    general = True

    class Settings(SolverSettings):
        """Settings of Levenberg–Marquardt."""

        damping: Positive = 1e-2
        """μ at the start, without a unit. The population search takes 0.1 where nothing is given: with less,
        more descents end in wrong structures."""
        trust: Positive = 1.0
        """Longest displacement of an atom in one step, in Å."""
        floor: NonNegative | None = None
        """A search rests once its squared loss is below this part of that of a representation of zeros; by
        default where rounding sets in."""

    def init(self, problem: InversionProblem, start: StructureBatch) -> LevenbergMarquardtState:
        """Evaluate the start; an atom at NaN makes its search a failed one."""
        begun = SolverState(**unseen(start))
        loss, residual, jacobian = problem.value_and_rows(begun.structures)
        state = LevenbergMarquardtState(
            **{field.name: getattr(begun, field.name) for field in dataclasses.fields(begun)},
            damping=torch.full_like(loss, self.settings.damping),
            normal=jacobian.transpose(1, 2) @ jacobian,
            slope=torch.einsum("trq,tr->tq", jacobian, residual),
        )
        sound = torch.isfinite(loss) & torch.isfinite(state.slope).all(1) & ~state.failed
        best = torch.where(torch.isfinite(loss) & ~state.failed, loss, torch.inf)
        return dataclasses.replace(
            state,
            loss=best,
            best_loss=best,
            gradient=problem.gradient(state.structures, state.slope),
            failed=~sound,
        )

    def step(self, problem: InversionProblem, state: LevenbergMarquardtState) -> LevenbergMarquardtState:
        """Try one step of every search that is still moving."""
        moving = torch.nonzero(self.moving(problem, state)).squeeze(1)
        if len(moving) == 0:
            return dataclasses.replace(state, steps=state.steps + 1)
        everything = len(moving) == len(state.loss)
        part = problem if everything else problem.select(moving)
        here = state.structures if everything else state.structures[moving]
        there = part.displaced(here, self._solve(state, moving), trust=self.settings.trust)
        loss, residual, jacobian = part.value_and_rows(there)
        better = loss < state.loss[moving]  # False for NaN

        taken = moving[better]
        damping, normal, slope, losses = (
            tensor.clone() for tensor in (state.damping, state.normal, state.slope, state.loss)
        )
        factor = torch.where(better, _EASIER, _HARDER).to(damping.dtype)
        damping[moving] = (damping[moving] * factor).clamp(_LEAST, _MOST)
        losses[taken] = loss[better]
        rows = _widen(jacobian[better], slope.shape[1], problem.free_cell)
        normal[taken] = rows.transpose(1, 2) @ rows
        slope[taken] = torch.einsum("trq,tr->tq", rows, residual[better])
        structures = _put(state.structures, taken, there[better] if not bool(better.all()) else there)
        return dataclasses.replace(
            state,
            structures=structures,
            loss=losses,
            gradient=problem.gradient(structures, slope),
            best_positions=structures.positions,
            best_cells=structures.cells,
            best_loss=losses,
            damping=damping,
            normal=normal,
            slope=slope,
            steps=state.steps + 1,
        )

    def moving(self, problem: InversionProblem, state: LevenbergMarquardtState) -> Tensor:
        """Return which searches can still gain something, shape (T,)."""
        precision = 1e3 * torch.finfo(state.loss.dtype).eps
        floor = precision**2 if self.settings.floor is None else self.settings.floor
        least = (floor if problem.loss == "squared" else floor**0.5) * problem.scale()
        downhill = (state.slope != 0).any(1)
        return ~state.failed & (state.loss > least) & (state.damping < _MOST) & downhill

    def _solve(self, state: LevenbergMarquardtState, moving: Tensor) -> Float[Tensor, "m q"]:
        normal, slope = state.normal[moving], state.slope[moving]
        diagonal = normal.diagonal(dim1=1, dim2=2)
        # Columns of padding are zero; they must not lower the mean, or a batch would change the steps.
        mean = diagonal.sum(1, keepdim=True) / (diagonal > 0).sum(1, keepdim=True).clamp(min=1)
        tiny = torch.finfo(mean.dtype).tiny
        damping = state.damping[moving, None] * 0.5 * (diagonal + mean) + 1e-12 * mean + tiny
        matrix = normal + torch.diag_embed(damping)
        # Positive definite but for rounding; where Cholesky breaks down, the step is NaN and not taken.
        factor, info = torch.linalg.cholesky_ex(matrix)
        step = -torch.cholesky_solve(slope[..., None], factor).squeeze(-1)
        return torch.where((info == 0)[:, None], step, torch.nan)


def _widen(jacobian: Tensor, columns: int, free_cell: bool) -> Tensor:
    """Return the Jacobian with room for the atoms of the largest structure of the whole batch."""
    missing = columns - jacobian.shape[2]
    if missing == 0:
        return jacobian
    zeros = jacobian.new_zeros(*jacobian.shape[:2], missing)
    of_cell = jacobian.shape[2] - 9 * free_cell
    return torch.cat([jacobian[..., :of_cell], zeros, jacobian[..., of_cell:]], 2)


def _put(structures: StructureBatch, index: Tensor, others: StructureBatch) -> StructureBatch:
    """Return ``structures`` with the positions and cells of some replaced by those of ``others``."""
    if len(index) == len(structures):
        return structures.replace(positions=others.positions, cells=others.cells)
    chosen = torch.zeros(len(structures), dtype=torch.bool, device=index.device)
    chosen[index] = True
    positions, cells = structures.positions.clone(), structures.cells.clone()
    positions[chosen[structures.structure_index]] = others.positions
    cells[index] = others.cells
    return structures.replace(positions=positions, cells=cells)
