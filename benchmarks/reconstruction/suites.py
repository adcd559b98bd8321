"""What is to be found again: lists of atoms, each with a ``name`` and a ``group`` in its ``info``.

* :func:`shapes`: geometric bodies, as in figure 4 of Fung et al. 2022;
* :func:`pt10`: Pt10 clusters of four kinds from relaxations with CHGNet;
* :func:`crystals`: six well-known crystals, as in figure 5, and fifty drawn from Pearson's Crystal Data;
* :func:`molecules`: twenty of ASE's g2 set;
* :func:`disordered`, :func:`ordered`: large clusters.
"""

from __future__ import annotations

import gzip
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from whorl.errors import InputError

Array = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[2]
PT10 = ROOT / "runs" / "pt10_chgnet" / "data" / "dataset.safetensors"
CRYSTALS = ROOT.parent / "shared" / "data" / "crystals_pcd20k.extxyz.gz"

BOND = 2.5  # Å between neighbours of a geometric body
CONNECTED = 3.5  # Å; Pt atoms that are nearer belong to one piece


def _named(atoms: Atoms, name: str, group: str) -> Atoms:
    atoms.info = {"name": name, "group": group}
    return atoms


# Shapes


def shapes() -> list[Atoms]:
    """Return thirteen bodies of Pt atoms, nearest neighbours at 2.5 Å: 3-D, then planar, then others."""
    golden = (1 + 5**0.5) / 2
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    cyclic = [np.array(list(itertools.product((0.0,), (-1.0, 1.0), (-golden, golden))))]
    cyclic += [np.roll(cyclic[0], 1, axis=1), np.roll(cyclic[0], 2, axis=1)]
    pentagons = [np.array(list(itertools.product((0.0,), (-1 / golden, 1 / golden), (-golden, golden))))]
    pentagons += [np.roll(pentagons[0], 1, axis=1), np.roll(pentagons[0], 2, axis=1)]
    corners = np.array(
        [sign * np.array(order) for sign in signs for order in {(3, 1, 1), (1, 3, 1), (1, 1, 3)}]
    )
    grid = np.array(list(itertools.product(range(-1, 2), repeat=3)), dtype=float)
    a, b = np.array([1.0, 0, 0]), np.array([0.5, 3**0.5 / 2, 0])
    flake = [i * a + j * b for i, j in itertools.product(range(-2, 3), repeat=2) if abs(i + j) <= 2]
    turn = np.arange(14) * 1.0
    square = np.array([[x, y, 0.0] for x, y in itertools.product((-1.0, 0, 1), repeat=2) if x or y])
    bodies = {
        "tetrahedron": signs[signs.prod(1) > 0],
        "octahedron": axes,
        "cube": signs,
        "square antiprism": np.concatenate([_ring(4, 0.0, 0.5**0.75), _ring(4, np.pi / 4, -(0.5**0.75))]),
        "truncated tetrahedron": corners[corners.prod(1) > 0],
        "icosahedron": np.concatenate([np.zeros((1, 3)), *cyclic]),
        "cuboctahedron": grid[np.isin((grid**2).sum(1), (0, 2))],
        "dodecahedron": np.concatenate([signs, *pentagons]),
        "hexagonal flake": np.array(flake),
        "ring": _ring(12),
        "star": np.concatenate([2.0 * _ring(5), 0.9 * _ring(5, np.pi / 5)]),
        "helix": np.stack([np.cos(turn), np.sin(turn), 0.32 * turn], axis=1),
        # Each passes through the middle of the other.
        "interlocked squares": np.concatenate([square, square[:, [0, 2, 1]] + a]),
    }
    groups = ["bodies"] * 8 + ["planar"] * 3 + ["others"] * 2
    found = []
    for (name, positions), group in zip(bodies.items(), groups, strict=True):
        between = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        scale = BOND / between[~np.eye(len(positions), dtype=bool)].min()
        found.append(_named(Atoms(f"Pt{len(positions)}", positions * scale), name, group))
    return found


def _ring(count: int, turned: float = 0.0, height: float = 0.0) -> Array:
    angle = turned + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle), np.full(count, height)], axis=1)


# Pt10


def pt10(n: int = 100, *, dataset: Path = PT10, seed: int = 0) -> list[Atoms]:
    """Return Pt10 clusters, a quarter of each kind, from as many relaxations as there are.

    See :func:`kinds_of_clusters` for the kinds. Within one, relaxations are drawn in random order, one
    structure of each; only when all have given one is a second taken.

    Raises:
        InputError: No data set there, or not of Pt10 clusters.
    """
    from whorl.datasets import load_dataset

    if not Path(dataset).exists():
        raise InputError(
            f"{dataset}: no such file. Build the Pt10 clusters first with `whorl run "
            "recipes/pt10_chgnet.yaml --until data`, or give others with --dataset."
        )
    structures = load_dataset(Path(dataset)).structures
    if not bool((structures.n_atoms == 10).all() and (structures.atomic_numbers == 78).all()):
        raise InputError(f"{dataset}: expected clusters of ten Pt atoms and nothing else.")
    positions = structures.positions.double().numpy().reshape(-1, 10, 3)
    kinds = kinds_of_clusters(positions)
    rng = np.random.default_rng(seed)
    found = []
    names = ("compact", "flat", "chain-like", "dissociated")
    for k, kind in enumerate(names):
        rows = rng.permutation(np.nonzero(kinds == kind)[0])
        origin = [structures.info[row].get("start", row) if structures.info else row for row in rows]
        seen: Counter[int] = Counter()
        turn = []
        for start in origin:
            turn.append(seen[start])
            seen[start] += 1
        share = n * (k + 1) // len(names) - n * k // len(names)
        chosen = rows[np.argsort(turn, kind="stable")][:share]
        found += [_named(Atoms("Pt10", positions[row]), f"row {row}", kind) for row in chosen]
    return found


def kinds_of_clusters(positions: Array) -> NDArray[np.str_]:
    """Return the kind of each cluster of shape (n, atoms, 3): by connections, then by the gyration tensor.

    With eigenvalues λ1 ≥ λ2 ≥ λ3 of the gyration tensor: *dissociated* when not all atoms are connected by
    steps of at most 3.5 Å; else *chain-like* when λ2 < 0.2 λ1; else *compact* when λ3 > 0.3 λ1; else *flat*
    when λ3 < 0.25 λ2; else *between*.
    """
    centred = positions - positions.mean(1, keepdims=True)
    third, second, first = np.linalg.eigvalsh(centred.swapaxes(1, 2) @ centred).T
    reach = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1) < CONNECTED
    for _ in range(positions.shape[1].bit_length()):
        reach = (reach.astype(np.float64) @ reach) > 0
    rules = [~reach.all((1, 2)), second < 0.2 * first, third > 0.3 * first, third < 0.25 * second]
    return np.select(rules, ["dissociated", "chain-like", "compact", "flat"], "between")


# Crystals


def crystals(n: int = 50, *, data: Path = CRYSTALS, seed: int = 0) -> list[Atoms]:
    """Return six well-known crystals, and ``n`` drawn from a file of real ones.

    The file (extended XYZ, gzipped) is drawn from by number of atoms and elements, each formula and space
    group once: of every 25, 16 have 2–12 atoms and 9 have 13–52, with one to five elements. Left out are
    crystals with atoms nearer than 0.7 of the sum of their covalent radii.

    Raises:
        InputError: No such file.
    """
    return [*well_known_crystals(), *_drawn_crystals(n, Path(data), seed)]


def well_known_crystals() -> list[Atoms]:
    """Return two binary crystals, a ternary one, and one each of molecular anions, molecules, and layers."""
    from ase.build import bulk
    from ase.spacegroup import crystal

    built = {
        "NaCl, rock salt": bulk("NaCl", "rocksalt", 5.64, cubic=True),
        "TiO2, rutile": crystal(
            "TiO", [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
        ),
        "SrTiO3, perovskite": crystal(
            ["Sr", "Ti", "O"],
            [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
            spacegroup=221,
            cellpar=[3.905, 3.905, 3.905, 90, 90, 90],
        ),
        "CaCO3, calcite (molecular anions)": crystal(
            ["Ca", "C", "O"],
            [(0, 0, 0), (0, 0, 0.25), (0.2568, 0, 0.25)],
            spacegroup=167,
            cellpar=[4.989, 4.989, 17.062, 90, 90, 120],
            primitive_cell=True,
        ),
        "CO2, dry ice (molecules)": crystal(
            ["C", "O"],
            [(0, 0, 0), (0.1185, 0.1185, 0.1185)],
            spacegroup=205,
            cellpar=[5.624, 5.624, 5.624, 90, 90, 90],
        ),
        "MoS2 (layers)": crystal(
            ["Mo", "S"],
            [(1 / 3, 2 / 3, 0.25), (1 / 3, 2 / 3, 0.621)],
            spacegroup=194,
            cellpar=[3.160, 3.160, 12.294, 90, 90, 120],
        ),
    }
    return [
        _named(Atoms(one.numbers, one.positions, cell=one.cell, pbc=True), name, "well known")
        for name, one in built.items()
    ]


# How many of 25 have so few or many atoms, and so many elements.
_STRATA = {
    (False, 1): 2,
    (False, 2): 6,
    (False, 3): 6,
    (False, 4): 2,
    (True, 1): 1,
    (True, 2): 2,
    (True, 3): 3,
    (True, 4): 2,
    (True, 5): 1,
}


def _drawn_crystals(n: int, path: Path, seed: int) -> list[Atoms]:
    from ase.io import read

    if n and not path.exists():
        raise InputError(
            f"{path}: no such file. Give a gzipped extended XYZ file of crystals with --data, or 0 of them "
            "with --drawn 0."
        )
    frames = _frames(path) if n else []
    rng = np.random.default_rng(seed)
    strata: dict[tuple[bool, int], list[int]] = {key: [] for key in _STRATA}
    for index in rng.permutation(len(frames)):
        species = [line.split(maxsplit=1)[0] for line in frames[index][2:]]
        key = (len(species) > 12, len(set(species)))
        if key in strata and len(species) > 1:
            strata[key].append(int(index))
    rota = [key for key, count in _STRATA.items() for _ in range(count)]
    rota = [rota[i] for i in rng.permutation(len(rota))]
    found: list[Atoms] = []
    seen = set()
    for key in itertools.islice(itertools.cycle(rota), n):
        while strata[key]:
            text = "\n".join(frames[strata[key].pop()]) + "\n"
            atoms = read(io.StringIO(text), format="extxyz")
            same = (atoms.get_chemical_formula(), atoms.info.get("spacegroup_number"))
            if same not in seen and _atoms_apart(atoms):
                seen.add(same)
                group = "13–52 atoms" if key[0] else "2–12 atoms"
                name = str(atoms.info.get("source_id", same[0]))
                plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
                found.append(_named(plain, name, group))
                break
    return found


def _frames(path: Path) -> list[list[str]]:
    """Split extended XYZ into frames of lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    frames, start = [], 0
    while start < len(lines):
        stop = start + 2 + int(lines[start])
        frames.append(lines[start:stop])
        start = stop
    return frames


def _atoms_apart(atoms: Atoms) -> bool:
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    return len(neighbor_list("i", atoms, 0.7 * covalent_radii[atoms.numbers])) == 0


# Molecules and large clusters


MOLECULES = (
    "CH4",
    "C2H4",
    "C2H6",
    "CH3OH",
    "HCOOH",
    "CH3CN",
    "CH3NO2",
    "CH3CONH2",
    "CH3SH",
    "CH3CH2Cl",
    "CH3SiH3",
    "Si2H6",
    "N2H4",
    "CF4",
    "C2Cl4",
    "CF3CN",
    "C6H6",
    "C5H5N",
    "C4H4S",
    "trans-butane",
)


def molecules(names: Sequence[str] = MOLECULES) -> list[Atoms]:
    """Return molecules of ASE's g2 set: chains, rings, stiff and floppy ones, of H, C, N, O, F, Si, S, Cl."""
    from ase.build import molecule

    found = []
    for name in names:
        one = molecule(name)
        group = "up to 8 atoms" if len(one) <= 8 else "9 atoms and more"
        found.append(_named(Atoms(one.numbers, one.positions), name, group))
    return found


def disordered(sizes: Sequence[int], each: int = 5, *, seed: int = 0) -> list[Atoms]:
    """Return disordered Pt clusters: atoms at random in a ball, relaxed with EMT for at most 60 steps."""
    import torch

    from whorl.reconstruction import random_starts
    from whorl.structures import StructureBatch, to_ase

    found = []
    for size in sizes:
        template = StructureBatch(
            positions=torch.zeros(each * size, 3, dtype=torch.float64),
            cells=torch.zeros(each, 3, 3, dtype=torch.float64),
            pbc=torch.zeros(each, 3, dtype=torch.bool),
            atomic_numbers=torch.full((each * size,), 78),
            structure_index=torch.arange(each).repeat_interleave(size),
        )
        starts = random_starts(template, seeds=range(seed, seed + each), packing=0.5)
        for k, start in enumerate(to_ase(starts)):
            atoms = _relaxed(Atoms(start.numbers, start.positions))
            found.append(_named(atoms, f"Pt{size} {k}", f"disordered, {size} atoms"))
    return found


def ordered() -> list[Atoms]:
    """Return Pt clusters of closed shells, relaxed with EMT, and the fullerene C60."""
    from ase.build import molecule
    from ase.cluster import Decahedron, Icosahedron, Octahedron

    bodies = {
        "octahedron": Octahedron("Pt", 3),
        "truncated octahedron": Octahedron("Pt", 4, 1),
        "decahedron": Decahedron("Pt", 3, 2, 0),
        "octahedron of 44": Octahedron("Pt", 4),
        "icosahedron": Icosahedron("Pt", 3),
        "cuboctahedron": Octahedron("Pt", 5, 2),
        "Marks decahedron": Decahedron("Pt", 2, 2, 1),
        "truncated octahedron of 79": Octahedron("Pt", 5, 1),
        "Marks decahedron of 101": Decahedron("Pt", 2, 3, 1),
    }
    found = [(name, _relaxed(Atoms(one.numbers, one.positions))) for name, one in bodies.items()]
    found.append(("fullerene", molecule("C60")))
    found = sorted(found, key=lambda pair: len(pair[1]))
    return [_named(Atoms(one.numbers, one.positions), name, "ordered") for name, one in found]


def _relaxed(atoms: Atoms) -> Atoms:
    from ase.calculators.emt import EMT
    from ase.optimize import FIRE

    atoms.calc = EMT()
    FIRE(atoms, logfile=None).run(fmax=0.1, steps=60)
    return Atoms(atoms.numbers, atoms.positions)
