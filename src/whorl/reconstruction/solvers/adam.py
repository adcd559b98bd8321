r"""Adam, each structure on its own (Kingma and Ba 2015, arXiv:1412.6980), with a decaying learning rate.

.. math::

    m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
    x_{t+1} &= x_t - \alpha\, d^{\,t-1} \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.solvers.base import Solver, SolverState, observe, unseen
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.settings import Fraction, Positive
from whorl.structures.batch import StructureBatch

# Only there to avoid 0 / 0 where an atom feels nothing; gradients of any size are meant to count.
_EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class AdamState(SolverState):
    """A :class:`SolverState` with the running means of the gradient and of its square, both (A, 3)."""

    first_moment: Float[Tensor, "A 3"]
    second_moment: Float[Tensor, "A 3"]


class Adam(Solver):
    """Adam on the positions: a step moves a coordinate by about the learning rate, however large the loss."""

    kind = "adam"

    class Settings(SolverSettings):
        """Settings of Adam."""

        learning_rate: Positive = 0.1
        """α in Å."""
        decay: Annotated[float, Field(gt=0, le=1)] = 1.0
        """Factor d on the learning rate at each step; 1 keeps it."""
        betas: tuple[Fraction, Fraction] = (0.9, 0.999)
        """β₁ and β₂: how slowly the running means of the gradient and of its square forget."""

    def init(self, problem: InversionProblem, start: StructureBatch) -> AdamState:
        """Evaluate the start; an atom at NaN makes its search a failed one."""
        still = torch.zeros_like(start.positions)
        state = AdamState(**unseen(start), first_moment=still, second_moment=still)
        return observe(problem, state, state.best_positions)

    def step(self, problem: InversionProblem, state: AdamState) -> AdamState:
        """Move along the gradients so far, and evaluate."""
        t = state.steps + 1
        own = self.settings
        beta1, beta2 = own.betas
        first = beta1 * state.first_moment + (1 - beta1) * state.gradient
        second = beta2 * state.second_moment + (1 - beta2) * state.gradient.square()
        direction = (first / (1 - beta1**t)) / (torch.sqrt(second / (1 - beta2**t)) + _EPSILON)
        positions = state.structures.positions - own.learning_rate * own.decay ** (t - 1) * direction
        moved = dataclasses.replace(state, first_moment=first, second_moment=second, steps=t)
        return observe(problem, moved, positions)
