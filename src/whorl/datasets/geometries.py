"""Random clusters of many shapes and densities, as starts of relaxations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError

_TRIES = 100  # to place an atom before the volume is increased
_WIDER = 1.05
_CLOSEST = 0.75  # atoms are no nearer than this many bond lengths


def random_clusters(
    count: int, *, atoms: int, bond: float, box: float, seed: int
) -> tuple[Float[Tensor, "count atoms 3"], tuple[str, ...]]:
    """Draw clusters whose shapes take turns: ball, flat, gas, rod, chain, fragments, gas, tree.

    Ball, flat and rod fill an ellipsoid of random volume per atom; a chain grows from its last atom and a
    tree from any; a gas fills a random part of the box, so that some of it has fallen apart; fragments are
    two or three pieces at a distance. No two atoms are nearer than 0.75 bond lengths.

    Args:
        count: Clusters to draw.
        atoms: Atoms in each.
        bond: Typical bond length in Å.
        box: Edge of the cube that holds each cluster, in Å.
        seed: The same seed gives the same clusters.

    Returns:
        Positions in Å, centred at the origin, float64; and the name of each cluster's shape.

    Raises:
        InputError: The box is too small for so many atoms.
    """
    rng = torch.Generator().manual_seed(seed)
    names, clusters = [], []
    for k in range(count):
        name = _TURNS[k % len(_TURNS)]
        for _ in range(20):
            positions = _SHAPES[name](atoms, bond, rng)
            positions = positions - (positions.amax(0) + positions.amin(0)) / 2
            if float(positions.abs().max()) <= box / 2:
                break
            name = "ball"  # always the smallest
        else:
            raise InputError(
                f"{atoms} atoms with bonds of {bond:.2f} Å do not fit into a box of {box} Å. Give a larger "
                "box."
            )
        names.append(name)
        clusters.append(positions)
    return torch.stack(clusters), tuple(names)


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def _direction(rng: torch.Generator) -> Tensor:
    vector = torch.randn(3, generator=rng, dtype=torch.float64)
    return vector / vector.norm()


def _place(
    positions: Tensor, closest: float, propose: Callable[[float], Tensor], *, room: float = 1.0
) -> tuple[Tensor, float]:
    """Add one atom at a proposed place that is far enough from the others, widening the room as needed."""
    while True:
        for _ in range(_TRIES):
            place = propose(room)
            if len(positions) == 0 or float((positions - place).norm(dim=1).min()) >= closest:
                return torch.cat([positions, place[None]]), room
        room *= _WIDER


def _fill(atoms: int, bond: float, rng: torch.Generator, axes: Tensor, volume: float) -> Tensor:
    """Fill an ellipsoid with ``volume`` per atom, in units of a close-packed atom's."""
    total = atoms * volume * bond**3 / math.sqrt(2)
    radii = axes * (3 * total / (4 * math.pi * float(axes.prod()))) ** (1 / 3)

    def propose(room: float) -> Tensor:
        return (
            room
            * radii
            * _direction(rng)
            * float(torch.rand((), generator=rng, dtype=torch.float64)) ** (1 / 3)
        )

    positions, room = torch.zeros(0, 3, dtype=torch.float64), 1.0
    for _ in range(atoms):
        positions, room = _place(positions, _CLOSEST * bond, propose, room=room)
    return positions


def _ball(atoms: int, bond: float, rng: torch.Generator) -> Tensor:
    return _fill(atoms, bond, rng, torch.ones(3, dtype=torch.float64), _uniform(1.0, 4.0, rng))


def _flat(atoms: int, bond: float, rng: torch.Generator) -> Tensor:
    axes = torch.tensor([1.0, _uniform(0.6, 1.0, rng), _uniform(0.05, 0.4, rng)], dtype=torch.float64)
    return _fill(atoms, bond, rng, axes, _uniform(1.0, 3.0, rng))


def _rod(atoms: int, bond: float, rng: torch.Generator) -> Tensor:
    side = _uniform(0.15, 0.5, rng)
    axes = torch.tensor([1.0, side, side], dtype=torch.float64)
    return _fill(atoms, bond, rng, axes, _uniform(1.0, 3.0, rng))


def _grow(atoms: int, bond: float, rng: torch.Generator, last: int) -> Tensor:
    """Attach each atom to a random one of the ``last`` ones."""
    positions = torch.zeros(1, 3, dtype=torch.float64)
    stretch = _uniform(0.85, 1.25, rng)
    for _ in range(atoms - 1):
        choice = positions[-last:]

        def propose(room: float, choice: Tensor = choice) -> Tensor:
            at = int(torch.randint(len(choice), (), generator=rng))
            return choice[at] + room * stretch * bond * _direction(rng)

        positions, _ = _place(positions, _CLOSEST * bond, propose)
    return positions


def _chain(atoms: int, bond: float, rng: torch.Generator) -> Tensor:
    return _grow(atoms, bond, rng, last=int(torch.randint(1, 3, (), generator=rng)))


def _tree(atoms: int, bond: float, rng: torch.Generator) -> Tensor:
    return _grow(atoms, bond, rng, last=atoms)


def _gas(atoms: int, bond: float, rng: torch.Generator) -> Tensor:
    return _fill(atoms, bond, rng, torch.ones(3, dtype=torch.float64), _uniform(4.0, 15.0, rng))


def _fragments(atoms: int, bond: float, rng: torch.Generator) -> Tensor:
    """Put two or three pieces side by side, one to two bond lengths apart."""
    pieces = min(int(torch.randint(2, 4, (), generator=rng)), atoms)
    cuts = torch.randperm(max(atoms - 1, 1), generator=rng)[: pieces - 1].sort().values + 1
    sizes = torch.diff(torch.tensor([0, *cuts.tolist(), atoms])).tolist() if pieces > 1 else [atoms]
    positions = torch.zeros(0, 3, dtype=torch.float64)
    for size in sizes:
        piece = _tree(size, bond, rng) if size < 3 else _ball(size, bond, rng)
        piece = piece - piece.mean(0)
        if len(positions):
            way, gap = _direction(rng), bond * _uniform(1.1, 2.0, rng)
            # Pushed outwards until the nearest atoms of both pieces are the gap apart.
            distance = 0.0
            while float(torch.cdist(positions, piece + distance * way).min()) < gap:
                distance += 0.1 * bond
            piece = piece + distance * way
        positions = torch.cat([positions, piece])
    return positions


_SHAPES: dict[str, Callable[[int, float, torch.Generator], Tensor]] = {
    "ball": _ball,
    "flat": _flat,
    "rod": _rod,
    "chain": _chain,
    "tree": _tree,
    "gas": _gas,
    "fragments": _fragments,
}

# Twice a gas: only what has fallen apart has a high energy for more than its first few steps of relaxation.
_TURNS = ("ball", "flat", "gas", "rod", "chain", "fragments", "gas", "tree")
