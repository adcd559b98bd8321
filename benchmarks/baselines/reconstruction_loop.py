r"""Reconstruction as research codes do it: one structure at a time, gradients by autograd.

Both baselines compute the 380 features of ``ACSF.fung2022(["Pt"])`` for one cluster and follow Adam on their
mean absolute error. They differ in the fingerprint alone:

* ``features_loop``: one symmetry function after another in a Python loop, as they are written in papers;
* ``features_vectorised``: all functions of a kind in one array, the kinder comparison.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CUTOFF = 20.0
G2_ETAS = (0.01, 0.06, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 3.5, 5.0)
G2_SHIFTS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
G5_ZETAS = (1.0, 2.0, 4.0, 16.0, 64.0)
G5_LAMBDAS = (-1.0, 1.0)
G5_ETAS = (0.06, 0.1, 0.2, 0.4, 1.0)


def cosine_cutoff(r: Tensor) -> Tensor:
    return 0.5 * (torch.cos(torch.pi * r / CUTOFF) + 1.0) * (r < CUTOFF)


def _geometry(positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return distances and cutoff values (n, n), cos θ_ijk (n, n, n), and the mask of j < k, both not i."""
    n = len(positions)
    vectors = positions[None, :, :] - positions[:, None, :]
    eye = torch.eye(n, dtype=torch.bool)
    squared = vectors.square().sum(-1)
    r = torch.sqrt(torch.where(eye, 1.0, squared))  # a root at zero has no derivative
    fc = cosine_cutoff(r) * ~eye
    cosine = (vectors[:, :, None, :] * vectors[:, None, :, :]).sum(-1) / (r[:, :, None] * r[:, None, :])
    j_before_k = torch.triu(torch.ones(n, n, dtype=torch.bool), diagonal=1)
    mask = j_before_k[None] & ~eye[:, :, None] & ~eye[:, None, :]
    return r, fc, cosine, mask


def features_loop(positions: Tensor) -> Tensor:
    """Return the 380 features of one cluster, function by function."""
    r, fc, cosine, mask = _geometry(positions)
    columns = [(torch.exp(-eta * (r - shift) ** 2) * fc).sum(1) for eta in G2_ETAS for shift in G2_SHIFTS]
    for zeta in G5_ZETAS:
        for lam in G5_LAMBDAS:
            for eta in G5_ETAS:
                angular = (1.0 + lam * cosine) ** zeta
                radial = torch.exp(-eta * (r[:, :, None] ** 2 + r[:, None, :] ** 2))
                cut = fc[:, :, None] * fc[:, None, :]
                terms = 2.0 ** (1.0 - zeta) * angular * radial * cut
                columns.append((terms * mask).sum((1, 2)))
    atomic = torch.stack(columns, dim=1)
    return torch.cat([atomic.max(0).values, atomic.min(0).values])


def features_vectorised(positions: Tensor) -> Tensor:
    """Return the 380 features of one cluster, all functions of a kind at once."""
    r, fc, cosine, mask = _geometry(positions)
    eta = positions.new_tensor(G2_ETAS)[:, None]
    shift = positions.new_tensor(G2_SHIFTS)[None, :]
    gauss = torch.exp(-eta * (r[:, :, None, None] - shift) ** 2)
    radial = (gauss * fc[:, :, None, None]).sum(1).flatten(1)

    i, j, k = torch.nonzero(mask, as_tuple=True)
    zeta = positions.new_tensor(G5_ZETAS)[:, None]
    lam = positions.new_tensor(G5_LAMBDAS)[None, :]
    turn = 2.0 ** (1.0 - zeta) * (1.0 + lam * cosine[i, j, k][:, None, None]) ** zeta
    squares = (r[i, j] ** 2 + r[i, k] ** 2)[:, None]
    stretch = torch.exp(-positions.new_tensor(G5_ETAS) * squares) * (fc[i, j] * fc[i, k])[:, None]
    terms = (turn[:, :, :, None] * stretch[:, None, None, :]).flatten(1)
    angular = terms.new_zeros(len(positions), terms.shape[1]).index_add(0, i, terms)
    atomic = torch.cat([radial, angular], dim=1)
    return torch.cat([atomic.amax(0), atomic.amin(0)])


def reconstruct(
    features: Callable[[Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    *,
    steps: int,
    learning_rate: float,
) -> tuple[Tensor, float]:
    """Follow Adam from one start; return the positions of the lowest loss, and that loss."""
    positions = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([positions], lr=learning_rate)
    best, best_loss = start, float("inf")
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.l1_loss(features(positions), target)
        loss.backward()
        if loss.item() < best_loss:
            best, best_loss = positions.detach().clone(), loss.item()
        optimizer.step()
    return best, best_loss
