"""Crystals whose elements may substitute for each other, by a Hume-Rothery rule."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from whorl.structures.convert import Structures


def possibly_disordered(
    structures: Structures, *, radius_tolerance: float = 0.3, electronegativity_tolerance: float = 1.0
) -> Bool[Tensor, "B"]:
    """Return which structures have two elements that may share a site.

    Two elements may if their atomic radii differ by at most ``radius_tolerance`` of their mean, and their
    Pauling electronegativities by at most ``electronegativity_tolerance``: MatterGen's thresholds, from the
    disordered crystals of the ICSD. Elements without a known radius or electronegativity never may.
    """
    raise NotImplementedError
