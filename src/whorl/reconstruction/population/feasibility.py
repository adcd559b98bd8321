r"""Infeasibility: probability that no structure has the fingerprint of an unsolved target.

Targets that do have a structure are solved sooner or later. Of real clusters of 6 to 12 atoms, the share that
is still unsolved after E evaluations falls about as

.. math:: S(E) = \Bigl(1 + \frac{E}{\tau}\Bigr)^{-0.8}, \qquad \tau = 1500 \left(\frac{n}{10}\right)^6

for n atoms (``python -m benchmarks.reconstruction.infeasible`` prints both). With even odds beforehand, the
probability that an unsolved target has no structure at all is :math:`1 / (1 + S)` (Bayes). Populations that
start afresh and end in the very same structure speak for it too: it is then the lowest there is, and yet no
solution. Each such end halves the odds; it counts up to 12 atoms, for searches for larger real clusters end
alike too.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

_SAME = 0.1  # Å by which the distances of two ends may differ; less where many distances even out
_CHANCE = 0.5  # that two populations end alike although there is a solution elsewhere
_CALIBRATED = 12  # atoms up to which agreement counts
_TAU, _POWER = 1500.0, 0.8


def agreeing(ends: Sequence[tuple[Tensor, float]], *, n_atoms: int) -> int:
    """Return how many populations ended in the same structure as the best one, itself counted.

    Args:
        ends: Of each population, the signature (:func:`whorl.reconstruction.population.moves.signature`) and
            loss of its best.
        n_atoms: n.
    """
    if not ends:
        return 0
    best = min(ends, key=lambda end: end[1])[0]
    same = _SAME * min(1.0, 10 / n_atoms)
    return sum(float((mark - best).square().mean().sqrt()) < same for mark, _ in ends)


def infeasibility(*, evaluations: int, n_atoms: int, agreeing: int) -> float:
    """Return how likely it is that no structure has the fingerprint of an unsolved target, from 0 to 1.

    Args:
        evaluations: E, spent on the target.
        n_atoms: n.
        agreeing: Populations that ended in the same structure as the best one, itself counted.
    """
    unsolved = (1.0 + evaluations / (_TAU * (n_atoms / 10) ** 6)) ** -_POWER
    if n_atoms <= _CALIBRATED:
        unsolved *= _CHANCE ** max(agreeing - 1, 0)
    return 1.0 / (1.0 + unsolved)
