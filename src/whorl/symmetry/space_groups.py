"""Space groups that a crystal can have in a given cell.

The space groups are known in the settings of their conventional cells. In another cell of the same lattice,
such as a primitive one, they are those whose translations hold the vectors of that cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.symmetry.detection import conventional_basis, space_group_settings
from whorl.symmetry.groups import Group
from whorl.symmetry.wyckoff import GRID

_MOST = 192  # operations of a group that is made at random
_KNOWN = 0.85  # part of the groups that are space groups, where there are such
_OWN = 0.8  # part of the space groups that have the highest crystal system which the lattice allows
_COMMON = 5.0  # how much likelier a frequent space group is than another one
# The most frequent ones of inorganic crystals.
_FREQUENT = (
    *(2, 4, 11, 12, 14, 15, 19, 33, 61, 62, 63, 64, 123, 129, 136, 139, 140, 141, 148, 164, 166, 167, 176),
    *(187, 189, 191, 193, 194, 198, 205, 216, 221, 225, 227, 229),
)
_SYSTEMS = (2, 15, 74, 142, 194, 230)  # last space group of each crystal system, trigonal with hexagonal
_METRIC = 1e-4  # by which an operation may change the metric of the lattice, relative to its largest element


@dataclass(frozen=True, kw_only=True)
class Lattices:
    """Lattices, each with the space group of a crystal.

    Attributes:
        cells: Lattice vectors as rows, shape (n, 3, 3).
        space_groups: Numbers, shape (n,); 0 where it is not known.
    """

    cells: Float[Tensor, "n 3 3"]
    space_groups: Int[Tensor, "n"]

    def __len__(self) -> int:
        """Return their number."""
        return len(self.space_groups)


@lru_cache(maxsize=1)
def _unimodular() -> Int[np.ndarray, "u 3 3"]:
    matrices = np.array(list(product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    return matrices[np.abs(np.abs(np.linalg.det(matrices)) - 1.0) < 1e-6]


def lattice_rotations(cell: Float[np.ndarray, "3 3"]) -> Int[np.ndarray, "k 3 3"]:
    """Return all W with entries -1, 0 and 1 that leave the lattice as it is, the identity first.

    Of a cell that is not reduced some may be missing.
    """
    return _rotations(np.asarray(cell, dtype=np.float64).tobytes())


@lru_cache(maxsize=256)
def _rotations(cell: bytes) -> Int[np.ndarray, "k 3 3"]:
    lattice = np.frombuffer(cell).reshape(3, 3)
    metric = lattice @ lattice.T
    candidates = _unimodular()
    # Lattice vectors are rows: W acts on fractional coordinates, so on the metric from both sides.
    turned = candidates.swapaxes(1, 2) @ metric @ candidates
    kept = np.abs(turned - metric).max((1, 2)) < _METRIC * np.abs(metric).max()
    rotations = candidates[kept]
    first = np.abs(rotations - np.eye(3)).sum((1, 2)).argmin()
    rotations[[0, first]] = rotations[[first, 0]]
    rotations.flags.writeable = False
    return rotations


def settings_of(number: int, cell: Float[np.ndarray, "3 3"]) -> list[Group]:
    """Return a space group in all settings that it can have in a cell."""
    return [group for one, group in space_groups(cell) if one == number]


def space_groups(cell: Float[np.ndarray, "3 3"]) -> tuple[tuple[int, Group], ...]:
    """Return number and operations of all space groups but P1, in all settings possible in a cell."""
    return _in_cell(np.asarray(cell, dtype=np.float64).tobytes())


@lru_cache(maxsize=256)
def _in_cell(cell: bytes) -> tuple[tuple[int, Group], ...]:
    lattice = np.frombuffer(cell).reshape(3, 3)
    basis = np.rint(2 * GRID * conventional_basis(lattice)).astype(np.int64)
    return _in_lattice(lattice_rotations(lattice).tobytes(), basis.tobytes())


@lru_cache(maxsize=64)
def _in_lattice(rotations: bytes, basis: bytes) -> tuple[tuple[int, Group], ...]:
    of_lattice = {w.tobytes() for w in np.frombuffer(rotations, dtype=np.int64).reshape(-1, 3, 3)}
    known: dict[tuple[int, bytes, bytes], Group] = {}
    for turn in (np.eye(3), np.frombuffer(basis, dtype=np.int64).reshape(3, 3) / (2 * GRID)):
        for number, group in _conventional():
            found = _in_basis(group, turn)
            if found is not None and all(w.tobytes() in of_lattice for w in found.rotations):
                known.setdefault((number, found.rotations.tobytes(), found.translations.tobytes()), found)
    return tuple((key[0], group) for key, group in known.items())


def _in_basis(group: Group, turn: Float[np.ndarray, "3 3"]) -> Group | None:
    """Return a group for coordinates x where it is known for turn · x; ``None`` if the lattice is another."""
    if np.array_equal(turn, np.eye(3)):
        return group
    centring = group.translations[(group.rotations == np.eye(3)).all((1, 2))] / GRID
    gaps = turn.T[:, None] - centring  # columns of turn: the vectors of the cell
    if np.abs(gaps - gaps.round()).max(2).min(1).max() > 1e-6:
        return None
    back = np.linalg.inv(turn)
    rotations, translations = back @ group.rotations @ turn, group.translations @ back.T
    turns, shifts = rotations.round().astype(np.int64), translations.round().astype(np.int64)
    if max(np.abs(rotations - turns).max(), np.abs(translations - shifts).max()) > 1e-6:
        return None
    return _group({_key(w, shift) for w, shift in zip(turns, shifts, strict=True)})


def random_group(cell: Float[np.ndarray, "3 3"], rng: np.random.Generator) -> Group:
    """Return a group of operations of a lattice: most often a space group, else any group.

    Of the space groups four of five have the highest crystal system that the lattice allows; frequent ones
    are five times as likely as others, whatever the number of their settings. Other groups are generated by
    one to three random operations, of which inversion is the likeliest first one. Where these do not close
    within 192, others are drawn; after some attempts the group is trivial.
    """
    known = space_groups(cell)
    if known and rng.random() < _KNOWN:
        return known[int(rng.choice(len(known), p=_chances(tuple(number for number, _ in known))))][1]
    rotations = lattice_rotations(cell)
    for _ in range(20):
        operations = {_key(np.eye(3, dtype=int), np.zeros(3, dtype=int))}
        for generator in range(int(rng.integers(1, 4))):
            w = rotations[int(rng.integers(len(rotations)))]
            shift = _random_translation(w, rng)
            if generator == 0 and rng.random() < 0.5:
                w, shift = -np.eye(3, dtype=int), np.zeros(3, dtype=int)
            operations.add(_key(w, shift))
        closed = _closure(operations)
        if closed is not None:
            return closed
    return Group(np.eye(3, dtype=int)[None], np.zeros((1, 3), dtype=int))


@lru_cache(maxsize=64)
def _chances(numbers: tuple[int, ...]) -> Float[np.ndarray, "g"]:
    of_number = np.array(numbers)
    _, place, settings = np.unique(of_number, return_inverse=True, return_counts=True)
    weights = np.where(np.isin(of_number, _FREQUENT), _COMMON, 1.0) / settings[place]
    system = np.searchsorted(_SYSTEMS, of_number)
    own = system == system.max()
    share = np.where(own, _OWN, 1.0 - _OWN)
    totals = np.where(own, weights[own].sum(), weights[~own].sum())
    chances = share * weights / totals
    return np.asarray(chances / chances.sum())


@lru_cache(maxsize=1)
def _conventional() -> list[tuple[int, Group]]:
    return [
        (number, Group(rotations, np.rint(shifts * GRID).astype(np.int64) % GRID))
        for number, rotations, shifts in space_group_settings()
        if number > 1
    ]


def _random_translation(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    halves = rng.integers(0, 2, 3) * (GRID // 2)
    if rng.random() < 0.3:
        return np.zeros(3, dtype=int)
    cube = w @ w @ w
    if np.array_equal(cube, np.eye(3, dtype=int)) or np.array_equal(cube, -np.eye(3, dtype=int)):
        return np.asarray(rng.integers(0, 3, 3) * (GRID // 3))
    if rng.random() < 0.2:
        return np.asarray(rng.integers(0, 4, 3) * (GRID // 4))
    return np.asarray(halves)


def _key(w: np.ndarray, shift: np.ndarray) -> tuple[int, ...]:
    return (*(int(v) for v in w.ravel()), *(int(v) % GRID for v in shift))


def _closure(operations: set[tuple[int, ...]]) -> Group | None:
    generators = [_split(key) for key in operations]
    known, edge = set(operations), list(operations)
    while edge:
        fresh = []
        for key in edge:
            w, shift = _split(key)
            for v, offset in generators:
                combined = _key(v @ w, v @ shift + offset)
                if combined not in known:
                    known.add(combined)
                    fresh.append(combined)
                    if len(known) > _MOST:
                        return None
        edge = fresh
    return _group(known)


def _group(operations: set[tuple[int, ...]]) -> Group:
    pairs = [_split(key) for key in sorted(operations)]
    return Group(np.array([w for w, _ in pairs]), np.array([shift for _, shift in pairs]))


def _split(key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(key[:9]).reshape(3, 3), np.array(key[9:])


def space_group_number(symbol: str) -> int:
    """Return the number of a space group by its symbol.

    Raises:
        InputError: There is none of this name.

    >>> space_group_number("Fm-3m")
    225
    """
    from ase.spacegroup import Spacegroup

    try:
        return int(symbol) if symbol.strip().isdecimal() else int(Spacegroup(symbol.strip()).no)
    except Exception as error:  # whatever its table raises
        raise InputError(
            f"space group: got '{symbol}', expected a number from 1 to 230 or a symbol such as Fm-3m."
        ) from error
