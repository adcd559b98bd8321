r"""Point groups of clusters and molecules.

An operation takes Cartesian coordinates x about the centre to :math:`W x` with an orthogonal matrix W. Axes
of order two to six along z, with mirrors and twofold axes in all usual ways; in addition there are the
cubic groups and the icosahedral ones. A *site* is what the operations of a subgroup leave as it is: the
centre, a line, a plane, or all of space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from whorl.symmetry.groups import Group
from whorl.symmetry.wyckoff import Site

_AXES = (2, 3, 4, 5, 6)
_SIZES = (0.6, 2.0)  # of an arrangement, in radii of a dense ball of its atoms
_FREQUENT = ("Oh", "Ih", "Td", "D5h", "D6h", "D4h", "D3h", "D3d", "D2h", "D2d", "C3v", "C2v")
_COMMON = 4.0  # how much likelier one of these is than another group
_INVERSION = -np.eye(3)
_ACROSS, _ALONG = np.diag([1.0, 1, -1]), np.diag([1.0, -1, 1])  # mirrors: the plane xy, and the plane xz
_TWOFOLD = np.diag([1.0, -1, -1])  # about x
_AROUND = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # a third of a turn about (1, 1, 1)


@dataclass(frozen=True)
class PointGroup(Group):
    """Operations about the centre of a cluster; its fractional coordinates are Cartesian ones in Å.

    Attributes:
        reach: How far from the centre atoms are put along x, y and z, in Å.
    """

    reach: Float[np.ndarray, "3"]
    often: ClassVar[tuple[float, ...]] = (0.4, 0.4, 0.4, 0.4)

    @property
    def sites(self) -> tuple[Site, ...]:
        """One site of each kind that it has."""
        return _sites(self.rotations.tobytes())

    def wrapped(self, gaps: Float[np.ndarray, "*g 3"]) -> Float[np.ndarray, "*g 3"]:
        """Return the gaps themselves: nothing is periodic."""
        return gaps

    def draw(self, site: Site, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
        """Return a point of a site, uniform in its ellipsoid."""
        d = len(site.basis)
        direction = rng.standard_normal(d)
        length = rng.random() ** (1 / max(d, 1)) / max(float(np.linalg.norm(direction)), 1e-9)
        return np.asarray((length * direction) @ site.basis * self.reach)


def random_point_group(radius: float, rng: np.random.Generator) -> PointGroup:
    """Return one of the groups, for arrangements of different size and, about an axis, shape.

    Those frequent in molecules and in nanoclusters are likelier.

    Args:
        radius: Of a dense ball of the atoms, in Å.
        rng: The random numbers.
    """
    names = list(point_groups())
    chances = np.array([_COMMON if name in _FREQUENT else 1.0 for name in names])
    rotations = point_groups()[str(rng.choice(names, p=chances / chances.sum()))]
    wide, high = radius * rng.uniform(*_SIZES, size=2)
    # Stretched along z, an arrangement keeps only groups that leave z where it is.
    reach = [wide, wide, high if np.allclose(np.abs(rotations[:, 2, 2]), 1.0) else wide]
    return PointGroup(rotations, np.zeros((len(rotations), 3), dtype=np.int64), np.array(reach))


@lru_cache(maxsize=1)
def point_groups() -> dict[str, Float[np.ndarray, "g 3 3"]]:
    """Return the operations of each group by its Schoenflies symbol, the identity first."""
    golden = (1 + 5**0.5) / 2
    fivefold = _rotation(np.array([0.0, 1, golden]), 2 * np.pi / 5)
    quarter = _rotation(np.array([0.0, 0, 1]), np.pi / 2)
    half = np.diag([-1.0, -1, 1])
    generators = {
        "Cs": [_ACROSS],
        "Ci": [_INVERSION],
        "T": [_AROUND, half],
        "Th": [_AROUND, half, _INVERSION],
        "Td": [_AROUND, quarter @ _INVERSION],
        "O": [_AROUND, quarter],
        "Oh": [_AROUND, quarter, _INVERSION],
        "I": [_AROUND, fivefold],
        "Ih": [_AROUND, fivefold, _INVERSION],
    }
    for n in _AXES:
        turn = _rotation(np.array([0.0, 0, 1]), 2 * np.pi / n)
        improper = _rotation(np.array([0.0, 0, 1]), np.pi / n) @ _ACROSS
        generators |= {
            f"C{n}": [turn],
            f"C{n}v": [turn, _ALONG],
            f"C{n}h": [turn, _ACROSS],
            f"S{2 * n}": [improper],
            f"D{n}": [turn, _TWOFOLD],
            f"D{n}h": [turn, _TWOFOLD, _ACROSS],
            f"D{n}d": [improper, _TWOFOLD],
        }
    return {name: _closure(some) for name, some in generators.items()}


def _rotation(axis: Float[np.ndarray, "3"], angle: float) -> Float[np.ndarray, "3 3"]:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix())


def _closure(generators: list[Float[np.ndarray, "3 3"]]) -> Float[np.ndarray, "g 3 3"]:
    group = {_key(np.eye(3)): np.eye(3)}
    while True:
        size = len(group)
        for one in generators:
            for product in np.stack(list(group.values())) @ one:
                group.setdefault(_key(product), product)
        if len(group) == size:
            return np.stack(list(group.values()))


@lru_cache(maxsize=256)
def _sites(rotations: bytes) -> tuple[Site, ...]:
    turns = np.frombuffer(rotations).reshape(-1, 3, 3)
    identity = np.eye(3)
    spaces = {_key(identity): identity}  # as projections
    for turn in turns:
        fixed = _projection((turn - identity).T @ (turn - identity))
        shared = [_projection(2 * identity - fixed - other) for other in spaces.values()]
        spaces |= {_key(space): space for space in [fixed, *shared]}
    sites: list[Site] = []
    seen: set[bytes] = set()
    for key, space in spaces.items():
        if key in seen:
            continue
        seen.update(_key(image) for image in turns @ space @ turns.swapaxes(1, 2))
        fixing = np.abs(turns @ space - space).max((1, 2)) < 1e-6
        values, vectors = np.linalg.eigh(space)
        sites.append(Site(np.zeros(3), vectors[:, values > 0.5].T, len(turns) // int(fixing.sum())))
    return tuple(sorted(sites, key=lambda site: (site.multiplicity, len(site.basis))))


def _key(matrix: Float[np.ndarray, "3 3"]) -> bytes:
    return bytes((matrix.round(5) + 0.0).tobytes())  # + 0.0: there is no -0


def _projection(form: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Return the projection on the null space of a positive form."""
    values, vectors = np.linalg.eigh((form + form.T) / 2)
    null = vectors[:, values < 1e-6]
    return np.asarray(null @ null.T)
