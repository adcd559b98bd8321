"""Hamiltonian Monte Carlo: samples of a density of which the energy and its slope are known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.parallel import map_rows

_STEPS, _LEAPS = 40, 5
_FIRST_WIDTH = 0.1
_WIDER, _NARROWER = 1.2, 0.6  # in balance where about 7 of 10 moves are accepted


def hamiltonian(
    energy: Callable[..., Float[Tensor, "n"]],
    start: Float[Tensor, "n k"],
    *known: Tensor,
    rng: torch.Generator,
    size: int,
) -> Float[Tensor, "n k"]:
    r"""Return one sample of :math:`p(z) \propto e^{-E(z)}` for each row (Duane et al. 1987; Neal 2011).

    Each row is a chain of its own. In the first half of its 40 moves, of 5 leapfrog steps each, it finds the
    width of these steps: wider after a move that is accepted, else narrower.

    Args:
        energy: E of positions (n, k) and ``known``, row by row and differentiable, shape (n,).
        start: Where the chains start.
        known: Further arguments of ``energy``, one row for each chain.
        rng: Source of all randomness.
        size: Numbers of a row on the way to the energy, as :func:`whorl.parallel.map_rows` wants it.
    """

    def row(at: Tensor, *known: Tensor) -> Tensor:
        with torch.enable_grad():
            at = at.detach().requires_grad_(True)
            value = energy(at, *known)
            (slope,) = torch.autograd.grad(value.sum(), at)
        return torch.cat([value.detach()[:, None].to(slope), slope], 1)

    def measured(at: Tensor) -> tuple[Tensor, Tensor]:
        return map_rows(row, at, *known, size=size).split([1, at.shape[1]], 1)

    at, width = start, torch.full_like(start[:, :1], _FIRST_WIDTH)
    value, slope = measured(at)
    for step in range(_STEPS):
        momentum = torch.randn(start.shape, generator=rng, device=rng.device).to(start)
        end, force, speed = at, slope, momentum
        for _ in range(_LEAPS):
            speed = speed - width / 2 * force
            end = end + width * speed
            reached, force = measured(end)
            speed = speed - width / 2 * force
        gain = value - reached + (momentum.square() - speed.square()).sum(1, keepdim=True) / 2
        drawn = torch.rand((len(start), 1), generator=rng, device=rng.device).to(start)
        accepted = drawn.log() < gain  # not where the gain is NaN
        at, slope, value = (
            torch.where(accepted, new, old) for new, old in ((end, at), (force, slope), (reached, value))
        )
        if step < _STEPS // 2:
            width = width * torch.where(accepted, _WIDER, _NARROWER)
    return at
