r"""L-BFGS (Liu and Nocedal, Math. Program. 45, 503, 1989), for many structures at once.

The direction :math:`-H g` is made of the last m steps s and changes of the gradient y by the two-loop
recursion. Each structure halves its own step until the loss falls enough, :math:`L(x + αd) \le L(x) + 10^{-4}
α\, g^T d`: one trial for every call of ``step``, so that a batch stays together; a trial that fails leaves
the structure where it is, and the next one goes half as far.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.solvers.base import Solver, SolverState, observe, unseen
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.settings import Count, Positive
from whorl.structures.batch import StructureBatch

_SUFFICIENT = 1e-4
_CURVATURE = 1e-10  # a pair with less than this part of |s| |y| would make H indefinite


@dataclass(frozen=True, kw_only=True)
class LBFGSState(SolverState):
    """A :class:`SolverState` with what the next direction is made of.

    Attributes:
        moves: Last steps s, oldest first, each (A, 3) in Å.
        changes: Changes y of the gradient over them, each (A, 3).
        usable: Which structures each pair holds for, each (T,).
        fraction: Part α of the whole step that is tried next, shape (T,).
    """

    moves: tuple[Float[Tensor, "A 3"], ...] = ()
    changes: tuple[Float[Tensor, "A 3"], ...] = ()
    usable: tuple[Tensor, ...] = ()
    fraction: Float[Tensor, "T"]


class LBFGS(Solver):
    """Limited-memory BFGS with a backtracking line search spread over the steps."""

    kind = "lbfgs"

    class Settings(SolverSettings):
        """Settings of L-BFGS."""

        memory: Count = 10
        """Pairs m of steps and changes of the gradient that are kept."""
        trust: Positive = 0.5
        """Longest displacement of an atom in one step, in Å."""

    def init(self, problem: InversionProblem, start: StructureBatch) -> LBFGSState:
        """Evaluate the start; an atom at NaN makes its search a failed one."""
        fields = unseen(start)
        state = LBFGSState(**fields, fraction=torch.ones_like(fields["loss"]))
        return observe(problem, state, state.best_positions)

    def step(self, problem: InversionProblem, state: LBFGSState) -> LBFGSState:
        """Try one step along each direction."""
        memory, trust = self.settings.memory, self.settings.trust
        index = state.structures.structure_index
        direction = self._direction(state)
        # Where the history misleads, and at the start, go down the gradient.
        slope = _sums(direction * state.gradient, state)
        uphill = slope >= 0
        direction = torch.where(uphill[index, None], -state.gradient, direction)
        first = uphill | (len(state.moves) == 0)
        longest = _longest(direction, state)
        whole = torch.where(first | (longest > trust), trust / longest.clamp(min=1e-300), 1.0)
        direction = direction * whole[index, None]
        slope = _sums(direction * state.gradient, state)
        step = state.fraction[index, None] * direction
        before = state.structures.positions
        tried = observe(problem, state, before + step)
        enough = tried.loss <= state.loss + _SUFFICIENT * state.fraction * slope
        enough &= ~tried.failed | state.failed
        taken = enough[index, None]
        change = tried.gradient - state.gradient
        curved = _sums(step * change, state)
        sizes = (_sums(step.square(), state) * _sums(change.square(), state)).sqrt()
        return dataclasses.replace(
            tried,
            structures=state.structures.replace(
                positions=torch.where(taken, tried.structures.positions, before)
            ),
            loss=torch.where(enough, tried.loss, state.loss),
            gradient=torch.where(taken, tried.gradient, state.gradient),
            moves=(*state.moves, step)[-memory:],
            changes=(*state.changes, change)[-memory:],
            usable=(*state.usable, curved > _CURVATURE * sizes)[-memory:],
            fraction=torch.where(enough, 1.0, 0.5 * state.fraction).to(state.fraction.dtype),
            steps=state.steps + 1,
        )

    def _direction(self, state: LBFGSState) -> Float[Tensor, "A 3"]:
        index = state.structures.structure_index
        remaining = state.gradient
        alphas = []
        scale = torch.ones_like(state.loss)
        for s, y, usable in zip(
            reversed(state.moves), reversed(state.changes), reversed(state.usable), strict=True
        ):
            curvature = _sums(s * y, state)
            alpha = torch.where(usable, _sums(s * remaining, state) / curvature, 0.0)
            remaining = remaining - alpha[index, None] * y
            alphas.append((alpha, curvature))
        for s, y, usable in zip(state.moves, state.changes, state.usable, strict=True):
            of_pair = _sums(s * y, state) / _sums(y.square(), state).clamp(min=1e-300)
            scale = torch.where(usable, of_pair, scale)  # the newest usable pair is the last
        result = scale[index, None] * remaining
        for s, y, usable, (alpha, curvature) in zip(
            state.moves, state.changes, state.usable, reversed(alphas), strict=True
        ):
            beta = torch.where(usable, _sums(y * result, state) / curvature, 0.0)
            result = result + (alpha - beta)[index, None] * s
        return -result


def _sums(values: Float[Tensor, "A 3"], state: SolverState) -> Float[Tensor, "T"]:
    """Return the sum over each structure's coordinates."""
    return torch.zeros_like(state.loss).index_add(0, state.structures.structure_index, values.sum(1))


def _longest(values: Float[Tensor, "A 3"], state: SolverState) -> Float[Tensor, "T"]:
    lengths = values.norm(dim=1)
    return torch.zeros_like(state.loss).scatter_reduce(
        0, state.structures.structure_index, lengths, "amax", include_self=True
    )
