"""Algorithm 1 of Fung et al. 2022 as published code runs it: one structure at a time, start after start."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.baselines.reconstruction_loop import features_loop, reconstruct
from whorl.reconstruction import random_starts
from whorl.structures import StructureBatch

NOISE = 0.3  # Å between hops
LEARNING_RATE, POLISH_LEARNING_RATE = 0.4, 0.1


def algorithm1_loop(
    target: Tensor,
    template: StructureBatch,
    *,
    seed: int,
    starts: int,
    hops: int,
    iterations: int,
    polish: int,
) -> tuple[Tensor, float]:
    """Return the positions of one Pt cluster with the lowest loss, and that loss."""
    rng = torch.Generator().manual_seed(seed)
    best, best_loss = template.positions, float("inf")
    for start in range(starts):
        positions = random_starts(template, seeds=[1000 * seed + start]).positions
        for _ in range(hops):
            positions, loss = reconstruct(
                features_loop, target, positions, steps=iterations, learning_rate=LEARNING_RATE
            )
            if loss < best_loss:
                best, best_loss = positions, loss
            positions = positions + NOISE * torch.randn(positions.shape, generator=rng, dtype=positions.dtype)
    polished, loss = reconstruct(
        features_loop, target, best, steps=polish, learning_rate=POLISH_LEARNING_RATE
    )
    return (polished, loss) if loss < best_loss else (best, best_loss)
