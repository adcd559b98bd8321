"""Random clusters and molecules of many shapes and densities, as starts of relaxations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from ase.data import atomic_numbers
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.composition import covalent_radii

_TRIES = 100  # to place an atom before the volume is increased
_WIDER = 1.05
_CLOSEST = 0.75  # atoms are no nearer than this many bond lengths
_NOT_BONDED = 1.5  # likewise, those that are not bonded in a molecule

# Bonds of an atom in a neutral molecule.
_VALENCES: Mapping[str, int] = {
    **dict.fromkeys(("H", "F", "Cl", "Br", "I"), 1),
    **dict.fromkeys(("O", "S", "Se"), 2),
    **dict.fromkeys(("N", "P", "B"), 3),
    **dict.fromkeys(("C", "Si"), 4),
}


def are_molecules(elements: Iterable[str]) -> bool:
    """Return whether atoms of these elements make molecules: several of them, all non-metals.

    >>> are_molecules("CHO"), are_molecules(["Au", "Cu"]), are_molecules(["Ti", "O"]), are_molecules("C")
    (True, False, False, False)
    """
    different = set(elements)
    return len(different) > 1 and different <= set(_VALENCES)


def can_be_bonded(counts: Mapping[str, int]) -> bool:
    """Return whether valences allow these atoms to be one molecule without unpaired electrons.

    >>> can_be_bonded({"C": 2, "H": 6}), can_be_bonded({"C": 2, "H": 7}), can_be_bonded({"C": 2, "H": 8})
    (True, False, False)
    """
    bonds = sum(n * _VALENCES[element] for element, n in counts.items())
    return bonds % 2 == 0 and bonds >= 2 * (sum(counts.values()) - 1)


def random_clusters(
    numbers: Sequence[Int[Tensor, "_"]], *, box: float, seed: int, molecules: bool = False
) -> tuple[list[Float[Tensor, "_ 3"]], tuple[str, ...]]:
    """Draw clusters whose shapes take turns: ball, flat, gas, rod, chain, fragments, gas, tree.

    Ball, flat and rod fill an ellipsoid of random volume per atom; a chain grows from its last atom and a
    tree from any; a gas fills a random part of the box, so that some of it has fallen apart; fragments are
    two or three pieces at a distance. No two atoms are nearer than 0.75 bond lengths, which are sums of
    covalent radii. Which atom is of which element is drawn for each cluster.

    Of molecules, most are trees of bonds in which no atom has more bonds than its valence, and atoms that are
    not bonded are 1.5 bond lengths apart; the others are balls and gases.

    Args:
        numbers: Atomic numbers of the atoms of each cluster.
        box: Edge of the cube that holds each cluster, in Å.
        seed: The same seed gives the same clusters.
        molecules: Whether they are molecules, of elements with a known valence.

    Returns:
        Positions in Å of the atoms in their order, centred at the origin, float64; and the name of each
        cluster's shape.

    Raises:
        InputError: The box is too small for so many atoms.
    """
    rng = torch.Generator().manual_seed(seed)
    names, clusters = [], []
    turns = _TURNS_OF_MOLECULES if molecules else _TURNS
    for k, own in enumerate(numbers):
        order = _order(own, rng, molecules=molecules)
        atoms = _Atoms.of(own[order])
        name = turns[k % len(turns)]
        for _ in range(20):
            positions = _SHAPES[name](atoms, rng)
            positions = positions - (positions.amax(0) + positions.amin(0)) / 2
            if float(positions.abs().max()) <= box / 2:
                break
            name = "ball"  # always the smallest
        else:
            raise InputError(
                f"{len(own)} atoms with bonds of {atoms.bond:.2f} Å do not fit into a box of {box} Å. Give a "
                "larger box."
            )
        names.append(name)
        clusters.append(positions[torch.argsort(order)])
    return clusters, tuple(names)


@dataclass(frozen=True)
class _Atoms:
    """Atoms in the order in which they are placed: their covalent radii in Å, and their valences."""

    radii: tuple[float, ...]
    valences: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Int[Tensor, "n"]) -> _Atoms:
        return cls(
            tuple(covalent_radii(numbers).tolist()), tuple(_VALENCE_OF.get(z, 0) for z in numbers.tolist())
        )

    def __len__(self) -> int:
        return len(self.radii)

    def part(self, begin: int, end: int) -> _Atoms:
        return _Atoms(self.radii[begin:end], self.valences[begin:end])

    @property
    def bond(self) -> float:
        """Mean bond length in Å."""
        return 2 * sum(n / len(self) * radius for radius, n in Counter(self.radii).items())

    @property
    def volume(self) -> float:
        """Mean cube of a bond length in Å³."""
        return float(sum(n / len(self) * (2 * radius) ** 3 for radius, n in Counter(self.radii).items()))

    def bonds(self, atom: int, count: int) -> Float[Tensor, "count"]:
        """Return the bond lengths of an atom with the first ``count`` ones."""
        return torch.tensor(self.radii[:count], dtype=torch.float64) + self.radii[atom]


def _order(numbers: Int[Tensor, "n"], rng: torch.Generator, *, molecules: bool) -> Int[Tensor, "n"]:
    """Return the order in which atoms are placed: at random, in molecules those of one bond last."""
    if len(numbers.unique()) == 1:
        return torch.arange(len(numbers))
    order = torch.randperm(len(numbers), generator=rng)
    if molecules:
        ends = torch.tensor([_VALENCE_OF.get(z, 0) == 1 for z in numbers[order].tolist()])
        order = torch.cat([order[~ends], order[ends]])
    return order


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def _direction(rng: torch.Generator) -> Tensor:
    vector = torch.randn(3, generator=rng, dtype=torch.float64)
    return vector / vector.norm()


def _place(
    positions: Tensor,
    closest: Float[Tensor, "n"],
    propose: Callable[[float], Tensor],
    *,
    room: float = 1.0,
) -> tuple[Tensor, float]:
    """Add one atom at a proposed place that is far enough from the others, widening the room as needed."""
    while True:
        for _ in range(_TRIES):
            place = propose(room)
            if bool(((positions - place).norm(dim=1) >= closest).all()):
                return torch.cat([positions, place[None]]), room
        room *= _WIDER


def _fill(atoms: _Atoms, rng: torch.Generator, axes: Tensor, volume: float) -> Tensor:
    """Fill an ellipsoid with ``volume`` per atom, in units of a close-packed atom's."""
    total = len(atoms) * volume * atoms.volume / math.sqrt(2)
    radii = axes * (3 * total / (4 * math.pi * float(axes.prod()))) ** (1 / 3)

    def propose(room: float) -> Tensor:
        return (
            room
            * radii
            * _direction(rng)
            * float(torch.rand((), generator=rng, dtype=torch.float64)) ** (1 / 3)
        )

    positions, room = torch.zeros(0, 3, dtype=torch.float64), 1.0
    for atom in range(len(atoms)):
        positions, room = _place(positions, _CLOSEST * atoms.bonds(atom, atom), propose, room=room)
    return positions


def _ball(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    return _fill(atoms, rng, torch.ones(3, dtype=torch.float64), _uniform(1.0, 4.0, rng))


def _flat(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    axes = torch.tensor([1.0, _uniform(0.6, 1.0, rng), _uniform(0.05, 0.4, rng)], dtype=torch.float64)
    return _fill(atoms, rng, axes, _uniform(1.0, 3.0, rng))


def _rod(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    side = _uniform(0.15, 0.5, rng)
    axes = torch.tensor([1.0, side, side], dtype=torch.float64)
    return _fill(atoms, rng, axes, _uniform(1.0, 3.0, rng))


def _grow(atoms: _Atoms, rng: torch.Generator, last: int) -> Tensor:
    """Attach each atom to a random one of the ``last`` ones."""
    positions = torch.zeros(1, 3, dtype=torch.float64)
    stretch = _uniform(0.85, 1.25, rng)
    for atom in range(1, len(atoms)):
        first = max(0, atom - last)
        bonds = atoms.bonds(atom, atom)

        def propose(
            room: float, first: int = first, bonds: Tensor = bonds, before: Tensor = positions
        ) -> Tensor:
            at = first + int(torch.randint(len(before) - first, (), generator=rng))
            return before[at] + room * stretch * float(bonds[at]) * _direction(rng)

        positions, _ = _place(positions, _CLOSEST * bonds, propose)
    return positions


def _chain(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    return _grow(atoms, rng, last=int(torch.randint(1, 3, (), generator=rng)))


def _tree(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    return _grow(atoms, rng, last=len(atoms))


def _molecule(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    """Attach each atom to a random one with a free valence; to any where there is none."""
    positions = torch.zeros(1, 3, dtype=torch.float64)
    free = torch.tensor(atoms.valences)
    stretch = _uniform(0.95, 1.2, rng)
    for atom in range(1, len(atoms)):
        places = torch.nonzero(free[:atom] > 0).flatten()
        if not len(places):
            places = torch.arange(atom)
        at = int(places[torch.randint(len(places), (), generator=rng)])
        bonds = atoms.bonds(atom, atom)
        closest = _NOT_BONDED * bonds
        closest[at] = _CLOSEST * bonds[at]

        def propose(room: float, at: int = at, bonds: Tensor = bonds, before: Tensor = positions) -> Tensor:
            return before[at] + room * stretch * float(bonds[at]) * _direction(rng)

        positions, _ = _place(positions, closest, propose)
        free[at] -= 1
        free[atom] -= 1
    return positions


def _gas(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    return _fill(atoms, rng, torch.ones(3, dtype=torch.float64), _uniform(4.0, 15.0, rng))


def _fragments(atoms: _Atoms, rng: torch.Generator) -> Tensor:
    """Put two or three pieces side by side, one to two bond lengths apart."""
    n = len(atoms)
    pieces = min(int(torch.randint(2, 4, (), generator=rng)), n)
    cuts = torch.randperm(max(n - 1, 1), generator=rng)[: pieces - 1].sort().values + 1
    ends = [0, *cuts.tolist(), n] if pieces > 1 else [0, n]
    positions = torch.zeros(0, 3, dtype=torch.float64)
    for begin, end in pairwise(ends):
        part = atoms.part(begin, end)
        piece = _tree(part, rng) if len(part) < 3 else _ball(part, rng)
        piece = piece - piece.mean(0)
        if len(positions):
            way, gap = _direction(rng), atoms.bond * _uniform(1.1, 2.0, rng)
            # Pushed outwards until the nearest atoms of both pieces are the gap apart.
            distance = 0.0
            while float(torch.cdist(positions, piece + distance * way).min()) < gap:
                distance += 0.1 * atoms.bond
            piece = piece + distance * way
        positions = torch.cat([positions, piece])
    return positions


_SHAPES: dict[str, Callable[[_Atoms, torch.Generator], Tensor]] = {
    "ball": _ball,
    "flat": _flat,
    "rod": _rod,
    "chain": _chain,
    "tree": _tree,
    "gas": _gas,
    "fragments": _fragments,
    "molecule": _molecule,
}

_VALENCE_OF = {atomic_numbers[element]: valence for element, valence in _VALENCES.items()}

# Twice a gas: only what has fallen apart has a high energy for more than its first few steps of relaxation.
_TURNS = ("ball", "flat", "gas", "rod", "chain", "fragments", "gas", "tree")
_TURNS_OF_MOLECULES = ("molecule", "molecule", "ball", "molecule", "molecule", "gas")
