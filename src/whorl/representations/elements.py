"""Numerical descriptors of the elements, by which tensors distinguish them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

HEAVIEST = 118
_HEAVIEST_RADIUS = 96  # curium, in the table of covalent radii
DESCRIPTORS = ("electronegativity", "covalent_radius", "valence_electrons", "mendeleev_number")
"""After Pauling; in Å (Cordero et al. 2008); electrons outside of full shells and of full d and f subshells;
place in Pettifor's string through the periodic table."""


@lru_cache(maxsize=2)
def element_table(elements: str) -> Float[Tensor, "119 4"]:
    """Return row 0 of each layer of a CrysTens for each atomic number, 0 (no atom) first."""
    if elements == "number":
        return torch.arange(HEAVIEST + 1, dtype=torch.float64)[:, None].repeat(1, 4)
    table = [[0.0] * 4]
    # Subshells fill by n + l, then n; in the periodic table a row ends with its p elements.
    shells = [(n, block) for n in range(1, 8) for block in range(min(n, 4))]  # blocks s, p, d, f
    for n, block in sorted(shells, key=lambda shell: (sum(shell), shell[0])):
        for place in range(4 * block + 2):
            if len(table) <= HEAVIEST:
                table.append([float(len(table)), float(n + max(block - 1, 0)), block + 1.0, place + 1.0])
    return torch.tensor(table, dtype=torch.float64)


@lru_cache(maxsize=16)
def descriptor_table(descriptors: tuple[str, ...]) -> Float[Tensor, "119 d"]:
    """Return chemical descriptors of each atomic number, 0 (no atom) first, over the largest of each.

    Unknown values (the electronegativity of helium, radii of the heaviest elements) are 0.
    """
    columns = [_column(name) for name in descriptors]
    table = torch.tensor(columns, dtype=torch.float64).reshape(len(descriptors), HEAVIEST + 1).T
    return table / table.amax(0) if descriptors else table


def scaled_descriptors(symbols: Sequence[str]) -> NDArray[np.float64]:
    """Return descriptors of elements, in units of their standard deviations over those to plutonium."""
    from ase.data import atomic_numbers

    table = descriptor_table(DESCRIPTORS).numpy()
    return np.asarray(table[[atomic_numbers[symbol] for symbol in symbols]] / table[1:95].std(0))


def _column(name: str) -> list[float]:
    if name == "valence_electrons":
        table = element_table("periodic")
        return (table[:, 3] + 2.0 * (table[:, 2] > 1)).tolist()
    if name == "covalent_radius":
        from ase.data import covalent_radii

        # ASE has a number in the place of unknown radii too.
        known = [float(radius) for radius in covalent_radii[1 : _HEAVIEST_RADIUS + 1]]
        return [0.0, *known, *[0.0] * (HEAVIEST - _HEAVIEST_RADIUS)]
    from pymatgen.core import Element

    field = {"electronegativity": "X", "mendeleev_number": "mendeleev_no"}[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements without electronegativity
        found = [getattr(Element.from_Z(number), field) for number in range(1, HEAVIEST + 1)]
    return [0.0, *(float(value) if value and math.isfinite(value) else 0.0 for value in found)]
