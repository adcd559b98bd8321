"""Superposition of a structure on another one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from whorl.errors import InputError
from whorl.evaluation.matching import (
    _FOREIGN,
    _RANDOM,
    Array,
    _assign,
    _frame_turns,
    _kabsch,
    _lattice_maps,
    _nearest,
    _parts,
    _random_turns,
    _squares,
)
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

_FOLLOWED = 24  # alignments that are refined


def superimpose(found: Structures, reference: Structures) -> StructureBatch | None:
    """Superpose one structure on another, with its atoms in the order of the other.

    Distances and angles within ``found`` do not change; atoms of a crystal may move by lattice vectors,
    and its cell is described by the vectors that resemble those of ``reference``.

    Args:
        found: One structure, in any form that :func:`whorl.structures.as_batch` takes.
        reference: One structure.

    Returns:
        The moved structure; ``None`` where the compositions or periodicities differ, where they are periodic
        in one or two directions, or where the lattices cannot be mapped onto one another.

    Raises:
        InputError: Batches of more than one.
    """
    found, reference = as_batch(found), as_batch(reference)
    if len(found) != 1 or len(reference) != 1:
        raise InputError(f"superimpose: got {len(found)} and {len(reference)} structures, expected one each.")
    species_x, species_y = found.atomic_numbers.numpy(), reference.atomic_numbers.numpy()
    order, back = np.argsort(species_x, kind="stable"), np.argsort(species_y, kind="stable")
    if len(order) == 0 or not np.array_equal(species_x[order], species_y[back]):
        return None
    periodic = found.pbc[0].tolist()
    if periodic != reference.pbc[0].tolist() or any(periodic) != all(periodic):
        return None
    x, y = found.positions.double().numpy()[order], reference.positions.double().numpy()[back]
    cell_x, cell_y = found.cells[0].double().numpy(), reference.cells[0].double().numpy()
    if not all(np.isfinite(array).all() for array in (x, y, cell_x, cell_y)):
        return None
    species = species_y[back]
    foreign = np.where(species[:, None] == species[None, :], 0.0, _FOREIGN)
    cell = cell_y
    if all(periodic):
        laid = _lay_crystal(x, cell_x, y, cell_y, foreign)
        if laid is None:
            return None
        moved, cell = laid
    else:
        moved = _lay_cluster(x, y, foreign)
    positions = np.empty_like(moved)
    positions[back] = moved
    return found.replace(
        positions=torch.from_numpy(positions).to(found.positions),
        cells=torch.from_numpy(cell)[None].to(found.cells),
        atomic_numbers=reference.atomic_numbers,
    )


def _lay_cluster(x: Array, y: Array, foreign: Array) -> Array:
    centre = y.mean(0)
    x, y = x - x.mean(0), y - centre
    n = len(x)
    if n == 1:
        return x + centre
    turns = np.concatenate([_frame_turns(x, y, foreign), _random_turns(_RANDOM, 0)])
    score = np.concatenate([_nearest(part @ x.T[None], y, foreign) for part in _parts(turns, n)])
    first = turns[np.argsort(score, kind="stable")[:_FOLLOWED]]
    orders = _assign(x @ first.swapaxes(-1, -2), y, foreign)
    for _ in range(10):
        distance, turns = _kabsch(x[orders], y)
        again = _assign(x @ turns, y, foreign)
        if np.array_equal(again, orders):
            break
        orders = again
    distance, turns = _kabsch(x[orders], y)
    best = int(distance.argmin())
    return np.asarray(x[orders[best]] @ turns[best] + centre)


def _lay_crystal(
    x: Array, cell_x: Array, y: Array, cell_y: Array, foreign: Array
) -> tuple[Array, Array] | None:
    from ase.geometry import minkowski_reduce

    if min(abs(np.linalg.det(cell_x)), abs(np.linalg.det(cell_y))) < 1e-6:
        return None
    (short_x, to_x), (short_y, to_y) = minkowski_reduce(cell_x), minkowski_reduce(cell_y)
    maps, _ = _lattice_maps(np.asarray(short_x), np.asarray(short_y))
    if len(maps) == 0:
        return None
    # From the vectors of the one as given to those of the other as given.
    maps = np.rint(np.linalg.inv(to_y) @ maps @ to_x)
    wanted = y @ np.linalg.inv(cell_y)
    copies = x @ np.linalg.inv(maps @ cell_x)
    same = foreign == 0
    rare = np.nonzero(same[same.sum(1).argmin()])[0]
    shifts = wanted[rare][None] - copies[:, rare[:1]]  # (m, rare, 3)
    which = np.repeat(np.arange(len(maps)), len(rare))
    shifts = shifts.reshape(-1, 3)
    score = np.empty(len(which))
    for part in _parts(np.arange(len(which)), len(x)):
        apart = _squares(copies[which[part]] + shifts[part][:, None], wanted, cell_y) + foreign
        score[part] = np.maximum(apart.min(2).mean(1), apart.min(1).mean(1))
    # Of maps that fit alike, the one that changes least comes first.
    turned = np.abs(maps - np.eye(3)).sum((1, 2))[which]
    best, least = None, np.inf
    for one in np.lexsort((turned, np.round(score, 6)))[:_FOLLOWED]:
        settled, distance = _settled(copies[which[one]] + shifts[one], wanted, cell_y, foreign)
        if distance < least - 1e-6:
            best, least = (settled, maps[which[one]]), distance
    assert best is not None
    settled, mapping = best
    cell = mapping @ cell_x
    u, _, vt = np.linalg.svd(cell.T @ cell_y)
    cell = cell @ u @ vt
    return np.asarray(settled @ cell), np.asarray(cell)


def _settled(copy: Array, wanted: Array, cell: Array, foreign: Array) -> tuple[Array, float]:
    """Return the atoms (fractional) in the order wanted and as near as they come, and how near (Å)."""
    from scipy.optimize import linear_sum_assignment

    order: NDArray[np.int64] = np.arange(len(copy))
    for _ in range(10):
        rows, columns = linear_sum_assignment(_squares(copy, wanted, cell) + foreign)
        order = rows[np.argsort(columns)]
        apart = copy[order] - wanted
        shift = (apart - np.round(apart)).mean(0)
        copy = copy - shift
        if np.abs(shift @ cell).max() < 1e-9:
            break
    apart = copy[order] - wanted
    apart -= np.round(apart)
    return wanted + apart, float(np.sqrt(((apart @ cell) ** 2).sum(1).mean()))
