"""Crystals whose elements may substitute for each other, by a Hume-Rothery rule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import torch
from jaxtyping import Bool
from torch import Tensor

from whorl.structures.convert import Structures, as_batch


def possibly_disordered(
    structures: Structures, *, radius_tolerance: float = 0.3, electronegativity_tolerance: float = 1.0
) -> Bool[Tensor, "B"]:
    """Return which structures have two elements that may share a site.

    Two elements may if their atomic radii (Slater) differ by at most ``radius_tolerance`` of their mean, and
    their Pauling electronegativities by at most ``electronegativity_tolerance``: MatterGen's rule, with its
    thresholds. Elements without a tabulated radius or electronegativity never may. Such a crystal may be one
    ordering of a known disordered one, whatever StructureMatcher says of its novelty.

    >>> from ase.build import bulk
    >>> possibly_disordered([bulk("CuAu", "cesiumchloride", a=3.1), bulk("NaCl", "rocksalt", a=5.6)]).tolist()
    [True, False]
    """
    structures = as_batch(structures)
    tolerances = radius_tolerance, electronegativity_tolerance
    return torch.tensor(
        [
            bool(sharing_elements(sorted(set(numbers.tolist())), *tolerances))
            for numbers in structures.atomic_numbers.cpu().split(structures.n_atoms.tolist())
        ],
        dtype=torch.bool,
    )


def sharing_elements(
    numbers: Sequence[int], radius_tolerance: float = 0.3, electronegativity_tolerance: float = 1.0
) -> list[tuple[int, ...]]:
    """Return groups of elements that may share sites, directly or by way of others of the group.

    Args:
        numbers: Atomic numbers of the elements of a crystal.
        radius_tolerance: See :func:`possibly_disordered`.
        electronegativity_tolerance: See :func:`possibly_disordered`.

    Returns:
        Groups of two or more, each in the order of electronegativity.
    """
    groups: list[set[int]] = []
    for pair in combinations(numbers, 2):
        if _may_share(*pair, radius_tolerance, electronegativity_tolerance):
            joined = [group for group in groups if group & set(pair)]
            groups = [group for group in groups if group not in joined] + [set(pair).union(*joined)]
    return [tuple(sorted(group, key=lambda number: (_element(number)[1], number))) for group in groups]


def _may_share(first: int, second: int, radius_tolerance: float, electronegativity_tolerance: float) -> bool:
    (radius, attraction), (other_radius, other_attraction) = _element(first), _element(second)
    if radius is None or other_radius is None or attraction is None or other_attraction is None:
        return False
    return (
        abs(radius - other_radius) <= radius_tolerance * (radius + other_radius) / 2
        and abs(attraction - other_attraction) <= electronegativity_tolerance
    )


@lru_cache(maxsize=256)
def _element(number: int) -> tuple[float | None, float | None]:
    """Return radius (Å) and Pauling electronegativity of an element, None where not tabulated."""
    from pymatgen.core import Element

    try:
        data = Element.from_Z(number).data
    except ValueError:
        return None, None
    radius, attraction = data.get("Atomic radius"), data.get("X")
    return tuple(
        float(value) if isinstance(value, int | float) and value == value else None
        for value in (radius, attraction)
    )  # type: ignore[return-value]
