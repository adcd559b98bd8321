r"""Lattice class of six noisy cell parameters.

A class ties some parameters together (a = b) and fixes others (γ = 120°). Of all classes, the one is taken
that minimises

.. math:: \chi^2 + 9 k + \min\bigl(25, (\Delta / s_g)^2\bigr)

with :math:`\chi^2` of the parameters relative to the best fit of the class, k its free parameters (a
parameter is worth keeping if it is three standard errors off), and Δ by how much the number of the space
group, known within :math:`s_g`, is outside the numbers that crystals of the class have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_KEEP = 9.0
_MOST = 25.0  # maximum weight of the space group, which may be wrong too


@dataclass(frozen=True)
class _Class:
    """``ties``: what a, b, c, α, β, γ are: a number fixes them, equal letters tie them."""

    ties: tuple[str | float, ...]
    first: int  # space group
    last: int

    @property
    def free(self) -> int:
        return len({tie for tie in self.ties if isinstance(tie, str)})

    def project(self, parameters: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest parameters in the class, and χ²."""
        out = parameters.clone()
        for tie in set(self.ties):
            members = [k for k, other in enumerate(self.ties) if other == tie]
            if isinstance(tie, float):
                out[:, members] = tie
            elif len(members) > 1:
                weight = error[:, members].square().reciprocal()
                mean = (parameters[:, members] * weight).sum(1) / weight.sum(1)
                out[:, members] = mean[:, None].expand(-1, len(members))
        return out, ((out - parameters) / error).square().sum(1)


def _classes() -> list[_Class]:
    right = (90.0, 90.0, 90.0)
    found = [
        _Class(("a", "a", "a", *right), 195, 230),
        _Class(("a", "a", "a", 60.0, 60.0, 60.0), 195, 230),  # primitive cells of face-
        _Class(("a", "a", "a", *(109.4712206344907,) * 3), 195, 230),  # and body-centred cubic lattices
        _Class(("a", "a", "a", "d", "d", "d"), 143, 167),
        _Class(("a", "b", "c", *right), 16, 74),
        _Class(("a", "b", "c", "d", "e", "f"), 1, 2),
    ]
    for axis in range(3):
        lengths = tuple("c" if k == axis else "a" for k in range(3))
        found.append(_Class((*lengths, *right), 75, 142))
        found.append(_Class((*lengths, *(120.0 if k == axis else 90.0 for k in range(3))), 143, 194))
        found.append(_Class((*"abc", *("d" if k == axis else 90.0 for k in range(3))), 3, 15))
    return found


_CLASSES = _classes()


def most_likely_lattice(
    parameters: Float[Tensor, "B 6"],
    error: Float[Tensor, "B 6"],
    *,
    space_group: Float[Tensor, "B"] | None,
    space_group_error: Float[Tensor, "B"],
) -> Float[Tensor, "B 6"]:
    """Return cell parameters in their most likely class.

    Args:
        parameters: a, b, c in Å, α, β, γ in degrees.
        error: Their standard errors, greater than 0.
        space_group: Estimated number of the space group, not an integer; None where cells are not
            conventional, so that it does not constrain them.
        space_group_error: Its standard error.
    """
    best, least = parameters, torch.full_like(parameters[:, 0], torch.inf)
    for kind in _CLASSES:
        nearest, cost = kind.project(parameters, error)
        cost = cost + _KEEP * kind.free
        if space_group is not None:
            away = torch.clamp(torch.maximum(kind.first - space_group, space_group - kind.last), min=0.0)
            cost = cost + (away / space_group_error).square().clamp(max=_MOST)
        better = cost < least
        best = torch.where(better[:, None], nearest, best)
        least = torch.where(better, cost, least)
    return best
