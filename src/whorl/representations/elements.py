"""Numerical descriptors of the elements, by which tensors and models distinguish them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

HEAVIEST = 118
_HEAVIEST_RADIUS = 96  # curium, in the table of covalent radii
DESCRIPTORS = ("electronegativity", "covalent_radius", "valence_electrons", "mendeleev_number")
"""After Pauling; in Å (Cordero et al. 2008); electrons outside of full shells and of full d and f subshells;
place in Pettifor's string through the periodic table."""

_PLUTONIUM = 94
# Of pymatgen.
_PROPERTIES: dict[str, Callable[[Any], Any]] = {
    "electronegativity": lambda element: element.X,
    "atomic_radius": lambda element: element.atomic_radius_calculated,
    "ionic_radius": lambda element: element.average_ionic_radius,
    "ionization_energy": lambda element: next(iter(element.ionization_energies or ()), None),
    "electron_affinity": lambda element: element.data.get("Electron affinity"),  # none of the heaviest
    "melting_point": lambda element: element.melting_point,
    "mendeleev_number": lambda element: element.mendeleev_no,
    "row": lambda element: element.row,
    "group": lambda element: element.group,
    "main_group": lambda element: element.group if element.group <= 12 else element.group - 10,
    "highest_oxidation_state": lambda element: max(element.common_oxidation_states or (0,)),
    "lowest_oxidation_state": lambda element: min(element.common_oxidation_states or (0,)),
    "block": lambda element: "spdf".index(element.block),
}
_OF_DECORATIONS = tuple(_PROPERTIES)


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
    if not descriptors:
        return torch.zeros(HEAVIEST + 1, 0, dtype=torch.float64)
    table = torch.stack([_column(name) for name in descriptors], 1).nan_to_num(0.0)
    return table / table.amax(0)


def scaled_descriptors(symbols: Sequence[str]) -> NDArray[np.float64]:
    """Return descriptors of elements, in units of their standard deviations over those to plutonium."""
    from ase.data import atomic_numbers

    table = descriptor_table(DESCRIPTORS).numpy()
    scale = table[1 : _PLUTONIUM + 1].std(0)
    return np.asarray(table[[atomic_numbers[symbol] for symbol in symbols]] / scale)


def standard_descriptors(numbers: Int[Tensor, "e"]) -> Float[Tensor, "e d"]:
    """Return many descriptors of elements, less the mean and over the standard deviation of these elements.

    Values that are not known are those of the mean; elements heavier than plutonium are taken for it.
    """
    table = torch.stack([_column(name) for name in _OF_DECORATIONS], 1)[numbers.clamp(max=_PLUTONIUM)]
    known = table.isfinite()
    mean = table.nanmean(0).nan_to_num()
    apart = torch.where(known, table - mean, 0.0)
    return apart / apart.square().mean(0).sqrt().clamp(min=1e-9)


@lru_cache(maxsize=32)
def _column(name: str) -> Float[Tensor, "119"]:
    """Return one property of each atomic number, 0 (no atom) first; NaN where it is unknown."""
    column = torch.full((HEAVIEST + 1,), torch.nan, dtype=torch.float64)
    if name == "valence_electrons":
        table = element_table("periodic")
        column[1:] = (table[:, 3] + 2.0 * (table[:, 2] > 1))[1:]
    elif name == "covalent_radius":
        from ase.data import covalent_radii

        # ASE has a number in the place of unknown radii too.
        column[1 : _HEAVIEST_RADIUS + 1] = torch.from_numpy(covalent_radii[1 : _HEAVIEST_RADIUS + 1])
    else:
        from pymatgen.core import Element

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # elements without electronegativity
            for number in range(1, HEAVIEST + 1):
                value = _PROPERTIES[name](Element.from_Z(number))
                column[number] = torch.nan if value is None else float(value)
    return column
