r"""Which two atoms of different species are best exchanged, the positions of all going along.

For every such pair of an arrangement, the features after the exchange are computed, with their weighted
residuals r; the positions then answer as in a step of Levenberg–Marquardt: with the Jacobian J of the
arrangement, what is left is

.. math:: \min_\delta |r + J\delta|^2 + \mu\,\delta^T D\,\delta .

The Jacobian is computed once, and features without derivatives for each pair.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.reconstruction.objective import InversionProblem
from whorl.structures.batch import StructureBatch

FEATURES_PER_EVALUATION = 5
"""Structures whose features take as long as the features and derivatives of one."""
MOST_PAIRS = 64
"""Of one arrangement, that are compared; of more, so many are drawn."""
_DAMPING = 0.1  # μ
_SHARPNESS = 4.0  # an exchange is drawn as often as what is left, to the power of minus this


def unlike_pairs(numbers: Int[Tensor, "n"], free: Tensor) -> Int[Tensor, "m 2"]:
    """Return the pairs of free atoms of different species, first < second."""
    unlike = (numbers[:, None] != numbers[None]) & free[:, None] & free[None]
    return torch.nonzero(torch.triu(unlike))


@torch.no_grad()
def drawn_exchanges(
    problem: InversionProblem,
    structure: StructureBatch,
    pairs: Int[Tensor, "m 2"],
    *,
    count: int,
    rng: torch.Generator,
) -> Float[Tensor, "count n 3"]:
    """Return positions after exchanges, those drawn most often that leave least.

    Args:
        problem: Of one target, with a squared loss.
        structure: The arrangement.
        pairs: Pairs that may be exchanged.
        count: Number of exchanges that are drawn, different ones as far as there are.
        rng: On the CPU.
    """
    n, m = len(structure.positions), len(pairs)
    order = torch.arange(n).repeat(m, 1)
    rows = torch.arange(m)
    order[rows, pairs[:, 0]], order[rows, pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    exchanged = structure.positions[order]
    together = structure[[0] * m].replace(positions=exchanged.flatten(0, 1))
    left = answered(problem, structure, problem.select([0] * m).residual(together))
    chance = (left / left.min()) ** -_SHARPNESS
    several = min(count, int((chance > 0).sum()))
    drawn = torch.multinomial(chance, several, generator=rng) if several else torch.randperm(m, generator=rng)
    return exchanged[drawn.repeat(count)[:count]]


@torch.no_grad()
def answered(
    problem: InversionProblem,
    structure: StructureBatch,
    residual: Float[Tensor, "m F"],
    *,
    removed: Int[Tensor, "m"] | None = None,
) -> Float[Tensor, "m"]:
    """Return the sum of the squared residuals of changes after the positions have answered, on the CPU.

    Args:
        problem: Of one target, with a squared loss.
        structure: The arrangement before the changes.
        residual: Weighted, after each change.
        removed: Atom that is not there any more and so does not answer; -1 for none.
    """
    jacobian = problem.value_and_rows(structure)[2][0, : residual.shape[1]]
    normal = jacobian.T @ jacobian
    diagonal = normal.diagonal()
    damping = _DAMPING * 0.5 * (diagonal + diagonal.mean()) + 1e-12
    slopes = jacobian.T @ residual.T
    left = residual.square().sum(1)
    if removed is not None:
        atoms = torch.arange(len(slopes), device=slopes.device) // 3
        answers = (atoms != removed.to(slopes.device)[:, None]).to(slopes)
        slopes = slopes.T * answers
        damped = normal * answers[:, :, None] * answers[:, None] + torch.diag(damping)
        return _positive(left - (slopes * torch.linalg.solve(damped, slopes)).sum(1))
    factor, info = torch.linalg.cholesky_ex(normal + torch.diag(damping))
    if int(info) == 0:
        left = left - (slopes * torch.cholesky_solve(slopes, factor)).sum(0)
    return _positive(left)


def _positive(left: Tensor) -> Tensor:
    return left.nan_to_num(torch.inf).clamp(min=1e-30).double().cpu()
