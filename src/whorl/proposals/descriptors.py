"""Descriptors of elements, in standard units: those by which a property of decorations is predicted."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

_HEAVIEST = 94
_BLOCKS = "spdf"


def standard_descriptors(numbers: Int[Tensor, "e"]) -> Float[Tensor, "e d"]:
    """Return the descriptors of elements, less the mean and over the standard deviation of these elements.

    Values that are not known are those of the mean.
    """
    table = _table()[numbers.clamp(max=_HEAVIEST)]
    known = table.isfinite()
    mean = table.nanmean(0).nan_to_num()
    apart = torch.where(known, table - mean, 0.0)
    return apart / apart.square().mean(0).sqrt().clamp(min=1e-9)


@lru_cache(maxsize=1)
def _table() -> Float[Tensor, "95 d"]:
    from pymatgen.core import Element

    rows = [[torch.nan] * 13]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements without electronegativity
        for number in range(1, _HEAVIEST + 1):
            element = Element.from_Z(number)
            states = element.common_oxidation_states or (0,)
            values = [
                element.X,
                element.atomic_radius_calculated,
                element.average_ionic_radius,
                element.ionization_energies[0],
                element.electron_affinity,
                element.melting_point,
                element.mendeleev_no,
                element.row,
                element.group,
                element.group if element.group <= 12 else element.group - 10,
                max(states),
                min(states),
                _BLOCKS.index(element.block),
            ]
            rows.append([torch.nan if value is None else float(value) for value in values])
    return torch.tensor(rows, dtype=torch.float64)
