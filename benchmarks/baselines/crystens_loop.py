"""CrysTens one crystal at a time with loops over atoms, as one would write it down: baseline and oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

Array = NDArray[np.float64]
HEADER = 12
ROWS = ("atomic_number", "x", "y", "z", "a", "b", "c", "alpha", "beta", "gamma", "space_group")


def encode(atoms: Atoms, space_group: int, max_atoms: int, ranges: Mapping[str, float]) -> Array:
    """Return the tensor (N + 12, N + 12, 4) with fractional distances."""
    side = max_atoms + HEADER
    tensor = np.zeros((side, side, 4))
    tensor[HEADER:, HEADER:, 1:] = 0.5
    scaled = atoms.get_scaled_positions(wrap=True)
    cell = atoms.cell.cellpar()
    for i, (number, place) in enumerate(zip(atoms.numbers, scaled, strict=True)):
        column = [number, *place, *cell, space_group]
        for row, (name, value) in enumerate(zip(ROWS, column, strict=True)):
            for layer in range(4):
                normalised = value / ranges.get(name, 1.0)
                tensor[row, HEADER + i, layer] = normalised
                tensor[HEADER + i, row, layer] = normalised
        for j, other in enumerate(scaled):
            tensor[HEADER + i, HEADER + j, 0] = np.linalg.norm(other - place) / ranges["distance"]
            for k in range(3):
                tensor[HEADER + i, HEADER + j, 1 + k] = (other[k] - place[k] + 1) / 2
    return tensor


def decode(tensor: Array, ranges: Mapping[str, float]) -> Atoms:
    """Return the crystal by the paper's means, without clustering."""
    n_slots = len(tensor) - HEADER
    count = 0
    while count < n_slots and tensor[7:10, HEADER + count].mean() > 0.1:
        count += 1

    def mean_of(row: int, atoms: range) -> float:
        values = []
        for i in atoms:
            for layer in range(4):
                values += [tensor[row, HEADER + i, layer], tensor[HEADER + i, row, layer]]
        return sum(values) / len(values) * ranges.get(ROWS[row], 1.0)

    cell = [mean_of(row, range(count)) for row in range(4, 10)]
    numbers = [round(mean_of(0, range(i, i + 1))) for i in range(count)]
    direct = [[mean_of(row, range(i, i + 1)) for row in (1, 2, 3)] for i in range(count)]
    places = []
    for i in range(count):
        place = []
        for k in range(3):
            guesses = [
                direct[j][k] + (2 * tensor[HEADER + j, HEADER + i, 1 + k] - 1 if i != j else 0.0)
                for j in range(count)
            ]
            place.append(sum(guesses) / count)
        places.append(place)
    return Atoms(numbers=numbers, scaled_positions=places, cell=cell, pbc=True)


def ideal_share_of_elements(
    counts: Mapping[int, int], noise: float, largest: float, repeats: int = 8
) -> float:
    """Return how likely all atomic numbers of a crystal are right after the best decoding there can be.

    It is told which atoms are of one element, takes the mean of their ``repeats`` noisy copies each, and
    rounds. No decoder of the same rows knows more.
    """
    share = 1.0
    for number in counts.values():
        error = noise * largest / math.sqrt(repeats * number)
        share *= math.erf(0.5 / (error * math.sqrt(2.0))) if error > 0 else 1.0
    return share
