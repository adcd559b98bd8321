r"""Distance between structures: the smallest RMSD of their atoms.

Like fingerprints, it is invariant under translation, rotation, reflection and permutation of like atoms:

.. math:: d(x, y) = \min_{Q, t, \pi} \sqrt{\frac1N \sum_i |x_{\pi(i)} Q + t - y_i|^2}

over rotations and reflections Q, translations t, and permutations π of atoms of the same element. For
crystals and slabs, Q runs over the mappings of one lattice onto the other, for rods (periodic in one
direction) over turns about the axis, reflections, and the reversal of the axis. Differences are to the
nearest image, and a strain between the cells counts as the displacement it makes on average over the cell:
:math:`d^2 \to d^2 + \sum_i |\Delta a_i|^2 / 12` with the differences Δa of the periodic lattice vectors.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

Array = NDArray[np.float64]

_FOREIGN = 1e6  # Å², the cost of pairing atoms of different elements: never worth it
_PAIRS_AT_ONCE = 2_000_000  # distances held at a time
_FRAMES = 8  # frames of the reference that found frames are laid upon
_RANDOM = 200  # turns at random beside them, for structures that have no frame in common
_REFINED = 48  # alignments that are followed to their end
_ANCHORS = 3  # atoms by which origins in a cell are guessed
_LENGTHS = 0.25  # lattice vectors that differ by more are not tried on one another (relative)
_LATTICE_MAPS = 96
_CLOSE = 0.05  # Å; below it nobody asks whether the crystals have smaller cells that match better
_VACUUM = 15.0  # Å between images along directions that are not periodic
_IMAGES = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))


def rmsd(found: Structures, reference: Structures, *, seed: int = 0) -> Float[Tensor, "B"]:
    """Return the smallest root-mean-square distance of atoms in Å between structures of the same index.

    Found by aligning many local frames, and refining the best by turns of assignment (Hungarian) and rotation
    (Kabsch): not proven to be the minimum, but it is wherever structures resemble one another. Structures in
    a cell are compared over all mappings of the lattices, whatever the choice of lattice vectors, and over
    those of the primitive cells: one crystal has supercells of one size and many shapes.

    Args:
        found: Structures to be compared.
        reference: Reference structures.
        seed: Of the random turns among the trial alignments.

    Returns:
        float64; infinite where composition or periodicity differ, coordinates are not finite, or the lattices
        cannot be mapped onto one another (lengths within 25 %).

    Raises:
        InputError: Batches of different length.

    >>> from ase.build import molecule
    >>> from whorl.structures import from_ase
    >>> water, turned = molecule("H2O"), molecule("H2O")
    >>> turned.rotate(60, "y")
    >>> bool(rmsd(from_ase([turned]), from_ase([water])) < 1e-6)
    True
    """
    found, reference = as_batch(found), as_batch(reference)
    if len(found) != len(reference):
        raise InputError(
            f"rmsd: got {len(found)} structures and {len(reference)} references, expected one each."
        )
    pairs = zip(found.to(device="cpu"), reference.to(device="cpu"), strict=True)
    return torch.tensor([_distance(x, y, seed) for x, y in pairs], dtype=torch.float64)


def structure_matcher_rms(found: Structures, reference: Structures) -> Float[Tensor, "B"]:
    """Return a second opinion on crystals: the RMS displacement in Å of pymatgen's ``StructureMatcher``.

    Both the structure and its mirror image are tried, cells are not scaled; infinite where it finds no match.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice, Structure

    def convert(one: StructureBatch, sign: float) -> Any:
        cell, positions = one.cells[0].double().numpy(), one.positions.double().numpy()
        return Structure(
            Lattice(cell),
            one.atomic_numbers.tolist(),
            sign * positions @ np.linalg.inv(cell),
            to_unit_cell=True,
        )

    matcher = StructureMatcher(primitive_cell=False, scale=False, ltol=0.2, stol=0.3, angle_tol=5)
    opinions = []
    for x, y in zip(as_batch(found), as_batch(reference), strict=True):
        meant = convert(y, 1.0)
        unit = (meant.volume / len(meant)) ** (1 / 3)  # the matcher's own unit of length
        tried = [matcher.get_rms_dist(convert(x, sign), meant) for sign in (1.0, -1.0)]
        opinions.append(min((one[0] * unit for one in tried if one is not None), default=np.inf))
    return torch.tensor(opinions, dtype=torch.float64)


def _distance(found: StructureBatch, reference: StructureBatch, seed: int) -> float:
    x, y = found.positions.double().numpy(), reference.positions.double().numpy()
    species_x, species_y = found.atomic_numbers.numpy(), reference.atomic_numbers.numpy()
    if not np.array_equal(np.sort(species_x), np.sort(species_y)) or len(x) == 0:
        return float("inf")
    cell_x, cell_y = found.cells[0].double().numpy(), reference.cells[0].double().numpy()
    if not all(np.isfinite(array).all() for array in (x, y, cell_x, cell_y)):
        return float("inf")
    pbc = reference.pbc[0].numpy()
    if not np.array_equal(found.pbc[0].numpy(), pbc):
        return float("inf")
    # In one order of elements, atoms of one element are the blocks of every table of distances.
    order_x, order_y = np.argsort(species_x, kind="stable"), np.argsort(species_y, kind="stable")
    x, y, species = x[order_x], y[order_y], species_y[order_y]
    if not pbc.any():
        return _free_distance(x, y, species, seed)
    if pbc.sum() == 1:
        return _rod_distance(x, cell_x[pbc][0], y, cell_y[pbc][0], species)
    cell_x, cell_y = _closed_cells(cell_x, cell_y, pbc, x, y)
    best = _periodic_distance(x, cell_x, y, cell_y, species)
    if best < _CLOSE or not pbc.all():
        return best
    return min(best, _primitive_distance(x, cell_x, y, cell_y, species))


# Without a cell


def _free_distance(x: Array, y: Array, species: NDArray[np.int64], seed: int) -> float:
    x, y = x - x.mean(0), y - y.mean(0)  # the best translation, whatever the rest
    n = len(x)
    if n == 1:
        return 0.0
    foreign = np.where(species[:, None] == species[None, :], 0.0, _FOREIGN)
    turns = np.concatenate([_frame_turns(x, y, foreign), _random_turns(_RANDOM, seed)])
    score = np.concatenate(
        [_nearest(part @ np.swapaxes(x, -1, -2)[None], y, foreign) for part in _parts(turns, n)]
    )
    first = turns[np.argsort(score, kind="stable")[: max(2 * _REFINED, 2560 // n)]]
    # Atoms are assigned once for many turns; what is left of these, once alike are dropped, is refined.
    assigned = np.unique(_assign(x @ first.swapaxes(-1, -2), y, foreign), axis=0)
    distance, turns = _kabsch(x[assigned], y)
    chosen = np.argsort(distance, kind="stable")[:_REFINED]
    assigned, distance, turns = assigned[chosen], distance[chosen], turns[chosen]
    best = float(distance[0])
    for _ in range(100):
        again = np.unique(_assign(x @ turns, y, foreign), axis=0)
        distance, turns = _kabsch(x[again], y)
        best = min(best, float(distance.min()))
        if again.shape == assigned.shape and np.array_equal(again, assigned):
            break
        assigned = again
    return best


def _frame_turns(x: Array, y: Array, foreign: Array) -> Array:
    """Return turns (k, 3, 3), for columns, that lay two atoms of x upon two of y, seen from the centre."""
    n = len(y)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    i, j = i[i != j], j[i != j]
    # Frames far out and wide open fix a turn best; different first atoms, lest one that is off spoils all.
    width = np.linalg.norm(np.cross(y[i], y[j]), axis=1) + 1e-3 * np.linalg.norm(y[i], axis=1)
    table = np.full((n, n), -1.0)
    table[i, j] = width
    partner = table.argmax(1)
    firsts = np.argsort(-table.max(1), kind="stable")[:_FRAMES]
    distance_x = np.linalg.norm(x[i] - x[j], axis=1)
    radius_x, radius_y = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    turns = []
    for a, b in zip(firsts, partner[firsts], strict=True):
        mismatch = (
            (radius_x[i] - radius_y[a]) ** 2
            + (radius_x[j] - radius_y[b]) ** 2
            + (distance_x - np.linalg.norm(y[a] - y[b])) ** 2
            + foreign[i, a]
            + foreign[j, b]
        )
        near = np.argsort(mismatch, kind="stable")[:200]
        ours, theirs = _frames(x[i[near]], x[j[near]]), _frames(y[a][None], y[b][None])
        turns += [np.swapaxes(theirs * np.array([1, 1, s])[:, None], -1, -2) @ ours for s in (1.0, -1.0)]
    return np.concatenate(turns)


def _frames(u: Array, v: Array) -> Array:
    """Return three orthonormal rows for each pair of vectors: along u, towards v, and across."""
    first = u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-12)
    second = v - (v * first).sum(1, keepdims=True) * first
    length = np.linalg.norm(second, axis=1, keepdims=True)
    axis = np.eye(3)[np.abs(first).argmin(1)]  # for vectors in line: anything across
    other = axis - (axis * first).sum(1, keepdims=True) * first
    other /= np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-12)
    second = np.where(length > 1e-6, second / np.maximum(length, 1e-6), other)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _random_turns(count: int, seed: int) -> Array:
    from scipy.spatial.transform import Rotation

    turns = Rotation.random(count, random_state=np.random.default_rng(seed)).as_matrix()
    turns[::2] *= -1
    return np.asarray(turns)


def _parts(turns: Any, n: int) -> list[Any]:
    at_once = max(1, _PAIRS_AT_ONCE // n**2)
    return [turns[start : start + at_once] for start in range(0, len(turns), at_once)]


def _nearest(moved: Array, y: Array, foreign: Array) -> Array:
    """Return a bound from below: the mean square distance to the nearest atom of the same element.

    ``moved`` has shape (k, 3, n): columns.
    """
    squares = (moved**2).sum(1)[:, :, None] + (y**2).sum(1)[None, None] - 2 * np.swapaxes(moved, 1, 2) @ y.T
    squares = squares + foreign[None]
    return np.maximum(squares.min(2).mean(1), squares.min(1).mean(1))


def _assign(moved: Array, y: Array, foreign: Array) -> NDArray[np.int64]:
    """Return, for each of the k moved copies (k, n, 3), which of its atoms stands for each atom of y."""
    from scipy.optimize import linear_sum_assignment

    costs = (y**2).sum(1)[None, :, None] + (moved**2).sum(2)[:, None, :] - 2 * y @ np.swapaxes(moved, 1, 2)
    costs += foreign[None]
    return np.stack([linear_sum_assignment(cost)[1] for cost in costs])


def _kabsch(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the distances of copies x (k, n, 3) from y, best turned or mirrored, and the turns, for rows."""
    u, _, vt = np.linalg.svd(np.swapaxes(x, 1, 2) @ y)
    turns = u @ vt
    return np.sqrt(((x @ turns - y) ** 2).sum(2).mean(1)), turns


# Along an axis


def _rod_distance(x: Array, axis_x: Array, y: Array, axis_y: Array, species: NDArray[np.int64]) -> float:
    """Return the least distance of two rods, atoms of both in one order of elements."""
    length_x, length_y = float(np.linalg.norm(axis_x)), float(np.linalg.norm(axis_y))
    if min(length_x, length_y) < 1e-6 or abs(length_x / length_y - 1) >= _LENGTHS:
        return float("inf")
    (across_x, along_x), (across_y, along_y) = _cylindrical(x, axis_x), _cylindrical(y, axis_y)
    foreign = np.where(species[:, None] == species[None, :], 0.0, _FOREIGN)
    distance = _Rods(across_x, along_x, across_y, along_y, length_y, foreign).distance()
    return float(np.hypot(distance, (length_x - length_y) / np.sqrt(12)))


def _cylindrical(positions: Array, axis: Array) -> tuple[Array, Array]:
    """Return positions across an axis (n, 2) in Å, from their mean, and along it (n,) in its lengths."""
    frame = _frames(axis[None], np.zeros((1, 3)))[0]
    across = positions @ frame[1:].T
    return across - across.mean(0), positions @ frame[0] / np.linalg.norm(axis)


@dataclass(frozen=True)
class _Rods:
    """Two rods with one axis, as :func:`_cylindrical` returns them; ``length`` is that of the axis in Å."""

    across_x: Array
    along_x: Array
    across_y: Array
    along_y: Array
    length: float
    foreign: Array

    def distance(self) -> float:
        """Return the least root-mean-square distance of their atoms."""
        turns, heads, shifts = self._trials()
        bound = np.concatenate(
            [
                np.maximum(table.min(2).mean(1), table.min(1).mean(1))
                for part in _parts(np.arange(len(turns)), len(self.foreign))
                for table in [self._squares(turns[part], heads[part], shifts[part])]
            ]
        )
        best = np.inf
        for one in np.argsort(bound, kind="stable")[:_REFINED]:
            if bound[one] >= best**2:  # a bound from below, and they are sorted
                break
            best = min(best, self._settled(turns[one], float(heads[one]), float(shifts[one])))
        return float(best)

    def _trials(self) -> tuple[Array, Array, Array]:
        """Return turns for rows (k, 2, 2), directions ±1 along the axis, and shifts along it.

        An atom far from the axis, laid upon another one, fixes the turn and the shift.
        """
        radius_x, radius_y = (np.linalg.norm(one, axis=1) for one in (self.across_x, self.across_y))
        angle_x, angle_y = (np.arctan2(one[:, 1], one[:, 0]) for one in (self.across_x, self.across_y))
        turns, heads, shifts = [], [], []
        for a in np.argsort(-radius_y, kind="stable")[:_FRAMES]:
            near = np.argsort((radius_x - radius_y[a]) ** 2 + self.foreign[:, a], kind="stable")[:200]
            for mirror, head in itertools.product((1.0, -1.0), repeat=2):
                turn = angle_y[a] - mirror * angle_x[near]
                cosine, sine = np.cos(turn), np.sin(turn)
                rows = np.array([[cosine, sine], [-mirror * sine, mirror * cosine]])
                turns.append(rows.transpose(2, 0, 1))
                heads.append(np.full(len(near), head))
                shifts.append(self.along_y[a] - head * self.along_x[near])
        return np.concatenate(turns), np.concatenate(heads), np.concatenate(shifts)

    def _squares(self, turns: Array, heads: Array, shifts: Array) -> Array:
        """Return squared distances (k, n, n) of the atoms of x, moved in k ways, from those of y."""
        apart = (heads[:, None] * self.along_x + shifts[:, None])[:, :, None] - self.along_y
        apart -= np.round(apart)
        flat = (self.across_x @ turns)[:, :, None] - self.across_y
        return np.asarray((flat**2).sum(3) + (apart * self.length) ** 2 + self.foreign)

    def _settled(self, turn: Array, head: float, shift: float) -> float:
        """Return the least distance near one alignment, by turns of assignment and alignment."""
        from scipy.optimize import linear_sum_assignment

        best = np.inf
        for _ in range(50):
            table = self._squares(turn[None], np.array([head]), np.array([shift]))[0]
            order = linear_sum_assignment(table.T)[1]
            across = self.across_x[order]
            u, _, vt = np.linalg.svd(across.T @ self.across_y)
            turn = u @ vt
            apart = head * self.along_x[order] + shift - self.along_y
            apart -= np.round(apart)
            shift -= float(apart.mean())
            square = ((across @ turn - self.across_y) ** 2).sum(1) + (
                (apart - apart.mean()) * self.length
            ) ** 2
            distance = float(np.sqrt(square.mean()))
            if distance >= best - 1e-9:
                break
            best = distance
        return best


# In a cell


def _closed_cells(
    cell_x: Array, cell_y: Array, pbc: Bool[np.ndarray, "3"], x: Array, y: Array
) -> tuple[Array, Array]:
    """Give the direction in which slabs are not periodic a lattice vector across, with room for both.

    It is much longer than the others, so that no mapping of the lattices takes it for one of them.
    """
    if pbc.all():
        return cell_x, cell_y
    cells = []
    length = max(float(np.linalg.norm(np.ptp(one, axis=0))) for one in (x, y)) + _VACUUM
    length = max(length, *(2 * float(np.linalg.norm(cell[pbc], axis=1).max()) for cell in (cell_x, cell_y)))
    for cell in (cell_x, cell_y):
        closed = cell.copy()
        _, _, rows = np.linalg.svd(cell[pbc])
        closed[~pbc] = length * rows[int(pbc.sum()) :]
        cells.append(closed)
    return cells[0], cells[1]


def _periodic_distance(
    x: Array, cell_x: Array, y: Array, cell_y: Array, species: NDArray[np.int64], repeats: float = 1.0
) -> float:
    from ase.geometry import minkowski_reduce

    if min(abs(np.linalg.det(cell_x)), abs(np.linalg.det(cell_y))) < 1e-6:
        return float("inf")
    cell_x, cell_y = (np.asarray(minkowski_reduce(cell)[0][:]) for cell in (cell_x, cell_y))
    maps, strains = _lattice_maps(cell_x, cell_y)
    strains = strains * repeats ** (1 / 3)  # over the whole cell, which is that much longer
    if len(maps) == 0:
        return float("inf")
    n = len(x)
    foreign = np.where(species[:, None] == species[None, :], 0.0, _FOREIGN)
    wanted = y @ np.linalg.inv(cell_y)
    copies = x @ np.linalg.inv(maps @ cell_x)  # (m, n, 3) fractional, in the reference's choice of vectors
    kinds, counts = np.unique(species, return_counts=True)
    rare = np.nonzero(species == kinds[counts.argmin()])[0]
    # Origins: one of the rarest atoms of the copy upon each of the reference.
    shifts = wanted[rare][None, None] - copies[:, rare[:_ANCHORS], None]
    which = np.repeat(np.arange(len(maps)), shifts.shape[1] * len(rare))
    shifts = shifts.reshape(-1, 3)
    score = np.empty(len(shifts))
    for part in _parts(np.arange(len(shifts)), n):
        apart = _squares(copies[which[part]] + shifts[part][:, None], wanted, cell_y) + foreign
        score[part] = np.maximum(apart.min(2).mean(1), apart.min(1).mean(1)) + strains[which[part]] ** 2
    best = np.inf
    for one in np.argsort(score, kind="stable")[:_REFINED]:
        if score[one] >= best**2:  # a bound from below, and they are sorted
            break
        copy, strain = copies[which[one]], strains[which[one]]
        best = min(best, float(np.hypot(_settle(copy + shifts[one], wanted, cell_y, foreign), strain)))
    return float(best)


def _lattice_maps(cell_x: Array, cell_y: Array) -> tuple[Array, Array]:
    """Return integers M with M @ cell_x ≈ cell_y up to a turn or mirror image, and the strains left (Å)."""
    steps = np.array([one for one in itertools.product(range(-2, 3), repeat=3) if any(one)], dtype=float)
    lengths = np.linalg.norm(steps @ cell_x, axis=1)
    options = []
    for wanted in np.linalg.norm(cell_y, axis=1):
        off = np.abs(lengths / wanted - 1)
        near = np.argsort(off, kind="stable")[:30]
        options.append(steps[near[off[near] < _LENGTHS]])
    grids = np.meshgrid(*(np.arange(len(one)) for one in options), indexing="ij")
    maps = np.stack([one[grid.ravel()] for one, grid in zip(options, grids, strict=True)], axis=1)
    maps = maps[np.abs(np.abs(np.linalg.det(maps)) - 1) < 0.5]
    if len(maps) == 0:
        return maps, np.zeros(0)
    found = maps @ cell_x
    gram = np.abs(found @ found.swapaxes(1, 2) - cell_y @ cell_y.T).max((1, 2))
    near = np.argsort(gram, kind="stable")[: 4 * _LATTICE_MAPS]
    maps, found = maps[near], found[near]
    u, _, vt = np.linalg.svd(found.swapaxes(1, 2) @ cell_y)
    strains = np.sqrt(((found @ u @ vt - cell_y) ** 2).sum((1, 2)) / 12)
    chosen = np.argsort(strains, kind="stable")[:_LATTICE_MAPS]
    chosen = chosen[strains[chosen] < _LENGTHS * np.linalg.norm(cell_y, axis=1).max()]
    return maps[chosen], strains[chosen]


def _squares(copies: Array, wanted: Array, cell: Array) -> Array:
    """Return squared distances (…, n, n) to nearest images, exact for near atoms."""
    apart = copies[..., :, None, :] - wanted[None, :, :]
    apart -= np.round(apart)
    squares: Array = ((apart @ cell) ** 2).sum(-1)
    return squares


def _settle(copy: Array, wanted: Array, cell: Array, foreign: Array) -> float:
    """Return the least distance of a copy from what is wanted (fractional) near its present origin."""
    from scipy.optimize import linear_sum_assignment

    best = np.inf
    for _ in range(50):
        rows, columns = linear_sum_assignment(_squares(copy, wanted, cell) + foreign)
        apart = copy[rows] - wanted[columns]
        apart -= np.round(apart)
        images = (apart[:, None] + _IMAGES[None]) @ cell
        nearest = np.take_along_axis(images, (images**2).sum(2).argmin(1)[:, None, None], axis=1)[:, 0]
        shift = nearest.mean(0)
        distance = float(np.sqrt(((nearest - shift) ** 2).sum(1).mean()))
        if distance >= best - 1e-9:
            break
        best = distance
        copy = copy - shift @ np.linalg.inv(cell)
    return best


def _primitive_distance(
    x: Array, cell_x: Array, y: Array, cell_y: Array, species: NDArray[np.int64]
) -> float:
    """Compare what is repeated: one crystal can be described by cells of one volume that do not match."""
    from pymatgen.core import Lattice, Structure

    parts = []
    for positions, cell in ((x, cell_x), (y, cell_y)):
        if abs(np.linalg.det(cell)) < 1e-6:
            return float("inf")
        whole = Structure(Lattice(cell), species.tolist(), positions, coords_are_cartesian=True)
        part = whole.get_primitive_structure(tolerance=0.1)
        if len(part) == len(whole):
            return float("inf")
        numbers = np.array([site.specie.Z for site in part])
        order = np.argsort(numbers, kind="stable")
        parts.append((part.cart_coords[order], part.lattice.matrix, numbers[order]))
    (x, cell_x, species_x), (y, cell_y, species_y) = parts
    if not np.array_equal(species_x, species_y):
        return float("inf")
    return _periodic_distance(x, cell_x, y, cell_y, species_y, len(species) / len(species_y))
