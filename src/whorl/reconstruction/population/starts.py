"""Starts of a population: arrangements of different size, shape and symmetry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.reconstruction.objective import InversionProblem
from whorl.reconstruction.population.moves import Atoms, push_apart
from whorl.reconstruction.starts import boxes_of
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cells_from_parameters
from whorl.structures.composition import formula
from whorl.structures.convert import Structures, as_batch
from whorl.symmetry.groups import Group, symmetric_arrangement
from whorl.symmetry.point_groups import random_point_group
from whorl.symmetry.space_groups import random_group, settings_of

# The last two are the primitive cells of centred cubic lattices.
_SYSTEMS = (
    *("triclinic", "monoclinic", "orthorhombic", "tetragonal", "hexagonal", "rhombohedral", "cubic"),
    *("face-centred", "body-centred"),
)
_TRUSTED = 0.9  # part of the starts that rely on which atoms are alike
_LIKELY = 0.7  # part of those of a free cell that have a likely lattice, where some are known
_GROUPS_TRIED = 12  # groups into which the atoms may not fit, until a start has no symmetry
_DENSE = 0.74  # part of the volume that close-packed balls fill


def varied_starts(
    template: StructureBatch,
    atoms: Atoms,
    *,
    count: int,
    rng: torch.Generator,
    symmetric: float = 0.8,
    per_group: int = 4,
) -> tuple[Float[Tensor, "C n 3"], Float[Tensor, "C 3 3"], list[Group | None]]:
    """Return ``count`` random arrangements of one structure's atoms, of different size and shape.

    Clusters fill ellipsoids, from dense and round to wide, flat or long. In a cell the atoms are uniform. A
    free cell has random parameters, from dense to that of a molecular crystal, or mostly a likely lattice
    where such are known; symmetric arrangements then have its space group. Atoms that are too near one
    another are then pushed apart; frozen ones stay where the template has them.

    Args:
        template: One structure.
        atoms: Its atoms, which of them are free, and whether the cell is.
        count: C.
        rng: On the CPU.
        symmetric: Part of those that have the symmetry of a random group: in a crystal one of its lattice,
            in a cluster a point group.
        per_group: How many of them share one group.

    Returns:
        Positions and cells in Å, and the group of each that has a symmetry.
    """
    groups: list[Group | None] = [None] * count
    n, dtype, device = len(atoms.numbers), torch.float64, template.device
    cells = template.cells.to(dtype).expand(count, 3, 3).clone()
    filled = float((4 / 3 * math.pi * atoms.radii**3).sum())  # Å³
    periodic = template.pbc[0]
    likely = [0] * count
    if bool(periodic.all()):
        if atoms.free_cell:
            cells = _random_cells(filled, count, rng).to(device)
            likely = _make_likely(cells, atoms, rng)
        fractional = torch.rand(count, n, 3, dtype=dtype, generator=rng)
        if n > 1 and bool(atoms.free.all()):
            groups = _make_symmetric(fractional, cells, atoms, rng, symmetric, per_group, likely)
        positions = torch.einsum("cnk,ckx->cnx", fractional.to(device), cells)
    elif bool(periodic.any()):
        boxes, centres = boxes_of(template, torch.tensor([filled / 0.3], dtype=dtype, device=device))
        fractional = torch.rand(count, n, 3, dtype=dtype, generator=rng).to(device) - 0.5
        positions = fractional @ boxes[0] + centres[0]
    else:
        radius = (0.75 * filled / math.pi / _DENSE) ** (1 / 3)
        directions = torch.randn(count, n, 3, dtype=dtype, generator=rng)
        ball = directions / directions.norm(dim=2, keepdim=True).clamp(min=1e-9)
        ball = ball * torch.rand(count, n, 1, dtype=dtype, generator=rng) ** (1 / 3)
        axes = torch.rand(count, 1, 3, dtype=dtype, generator=rng)
        axes[: count // 3] = 1.0
        size = radius * (0.75 + 1.75 * torch.rand(count, 1, 1, dtype=dtype, generator=rng))
        positions = ball * axes * size
        if n > 1 and bool(atoms.free.all()):
            groups = _make_symmetric(positions, cells, atoms, rng, symmetric, per_group, likely)
        positions = positions.to(device)
    if not bool(atoms.free.all()):
        if not bool(periodic.any()):  # a cluster grows where its frozen atoms are
            positions = positions + template.positions[~atoms.free].mean(0).to(dtype)
        positions = torch.where(atoms.free[:, None], positions, template.positions.to(dtype))
    positions = push_apart(positions, cells, atoms, closest=0.8, steps=30)
    return positions.to(template.dtype), cells.to(template.dtype), groups


def given_starts(
    problem: InversionProblem, starts: Sequence[Structures | None] | None
) -> list[list[tuple[Float[Tensor, "n 3"], Float[Tensor, "3 3"]]]]:
    """Return for each target positions and cells to begin with, atoms as its template has them.

    Raises:
        InputError: Not one entry a target, another composition than the template's, a start that is not
            finite, or starts where a space group is to be kept.
    """
    if starts is None:
        return [[] for _ in range(len(problem))]
    if len(starts) != len(problem):
        raise InputError(f"starts: got {len(starts)}, expected an entry for each of {len(problem)} targets.")
    if problem.space_group is not None:
        raise InputError("starts: those of a space group are made for it. Leave out the starts or the group.")
    names = problem.names or [f"target {k}" for k in range(len(problem))]
    given: list[list[tuple[Tensor, Tensor]]] = []
    for k, some in enumerate(starts):
        template = problem.template[k]
        frozen = problem.select([k]).frozen
        order = template.atomic_numbers.argsort(stable=True)
        given.append([])
        for start in () if some is None else as_batch(some).to(dtype=template.dtype, device=template.device):
            from_start = start.atomic_numbers.argsort(stable=True)
            if not torch.equal(start.atomic_numbers[from_start], template.atomic_numbers[order]):
                raise InputError(
                    f"starts of {names[k]}: got {formula(start)} of {len(from_start)} atoms, expected the "
                    f"template's composition, {formula(template)} of {len(order)} atoms."
                )
            if not bool(torch.isfinite(start.positions).all() and torch.isfinite(start.cells).all()):
                raise InputError(f"starts of {names[k]}: got positions or a cell that are not finite.")
            positions, cell = start.positions, start.cells[0]
            if bool(template.pbc.any()) and not problem.free_cell:
                periodic = template.pbc[0]
                fractional = positions @ torch.linalg.pinv(cell)
                positions = positions + fractional[:, periodic] @ (template.cells[0] - cell)[periodic]
                cell = template.cells[0]
            placed = torch.empty_like(positions)
            placed[order] = positions[from_start]
            if frozen is not None:
                placed = torch.where(frozen[:, None], template.positions, placed)
            given[k].append((placed, cell))
    return given


def _random_cells(filled: float, count: int, rng: torch.Generator) -> Float[Tensor, "C 3 3"]:
    """Return cells of all lattice systems, so that symmetric arrangements can be tried in them."""
    lengths = torch.exp(0.4 * torch.randn(count, 3, dtype=torch.float64, generator=rng))
    angles = 90.0 + 12.0 * torch.randn(count, 3, dtype=torch.float64, generator=rng).clamp(-2.5, 2.5)
    one_angle = 60.0 + 52.0 * torch.rand(count, dtype=torch.float64, generator=rng)
    system = (torch.rand(count, generator=rng) * len(_SYSTEMS)).long()
    for k, name in enumerate(_SYSTEMS):
        some = system == k
        if name in ("tetragonal", "hexagonal"):
            lengths[some, 1] = lengths[some, 0]
        if name in ("rhombohedral", "cubic", "face-centred", "body-centred"):
            lengths[some] = 1.0
        if name in ("orthorhombic", "tetragonal", "hexagonal", "cubic"):
            angles[some] = 90.0
        if name == "monoclinic":
            angles[some, 0], angles[some, 2] = 90.0, 90.0
        if name == "hexagonal":
            angles[some, 2] = 120.0
        if name == "rhombohedral":
            angles[some] = one_angle[some, None]
        if name == "face-centred":
            angles[some] = 60.0
        if name == "body-centred":
            angles[some] = math.degrees(math.acos(-1 / 3))
    cells = cells_from_parameters(torch.cat([lengths, angles], 1))
    packing = 0.08 * (0.75 / 0.08) ** torch.rand(count, dtype=torch.float64, generator=rng)
    scale = (filled / packing / torch.linalg.det(cells).abs()) ** (1 / 3)
    return cells * scale[:, None, None]


def _make_likely(cells: Float[Tensor, "C 3 3"], atoms: Atoms, rng: torch.Generator) -> list[int]:
    """Replace most cells by likely ones, in place, and return their space groups; 0 for the others."""
    lattices, numbers = atoms.lattices, [0] * len(cells)
    if lattices is None:
        return numbers
    taken = torch.rand(len(cells), generator=rng) < _LIKELY
    drawn = torch.randint(len(lattices), (len(cells),), generator=rng)
    cells[taken] = lattices.cells[drawn[taken]].to(cells)
    return torch.where(taken, lattices.space_groups[drawn].cpu(), 0).tolist()


def _make_symmetric(
    fractional: Float[Tensor, "C n 3"],
    cells: Float[Tensor, "C 3 3"],
    atoms: Atoms,
    rng: torch.Generator,
    part: float,
    per_group: int,
    likely: Sequence[int],
) -> list[Group | None]:
    """Replace most arrangements by ones with the symmetry of random groups, in place.

    Groups are of the likely space groups first, where the cells have these (0 elsewhere). In a free cell
    arrangements of one group also share the lattice; in a cluster coordinates are Cartesian.
    """
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    numbers = atoms.numbers.cpu().numpy()
    groups: list[Group | None] = [None] * len(fractional)
    if atoms.space_group is not None:
        return _of_space_group(fractional, cells, atoms, atoms.space_group, draw)
    periodic = bool(atoms.pbc.any())
    dense = (float((atoms.radii**3).sum()) / _DENSE) ** (1 / 3)  # Å
    several = int(part * len(fractional)) // per_group
    for k in range(several):
        first = k * per_group
        lattice = cells[first].cpu().numpy()
        places = list(range(first, first + per_group))
        if atoms.free_cell:
            cells[places] = cells[first].clone()
        alike = atoms.alike if draw.random() < _TRUSTED else {}
        settings = settings_of(likely[first], lattice) if likely[first] else []
        for attempt in range(_GROUPS_TRIED):
            if settings and 2 * attempt < _GROUPS_TRIED:
                group = settings[int(draw.integers(len(settings)))]
            else:
                group = random_group(lattice, draw) if periodic else random_point_group(dense, draw)
            while places:
                found = symmetric_arrangement(numbers, group, draw, alike=alike)
                if found is None:
                    break
                fractional[places[0]] = torch.from_numpy(found)
                groups[places.pop(0)] = group if len(group) > 1 else None
    return groups


def _of_space_group(
    fractional: Float[Tensor, "C n 3"],
    cells: Float[Tensor, "C 3 3"],
    atoms: Atoms,
    space_group: int,
    draw: np.random.Generator,
) -> list[Group | None]:
    """Replace all arrangements, and cells that are not of the lattice, by ones with a space group, in place.

    Raises:
        InputError: The lattice has no such symmetry, or the atoms do not fill orbits of it.
    """
    numbers = atoms.numbers.cpu().numpy()
    settings = [settings_of(space_group, cell) for cell in cells.cpu().numpy()]
    fitting = [k for k, some in enumerate(settings) if some]
    if not fitting:
        raise InputError(
            f"space_group: the lattice does not have the symmetry of space group {space_group}. Give a cell "
            "of that symmetry, or let the cell be free."
        )
    groups: list[Group | None] = [None] * len(fractional)
    done: list[int] = []
    for k in range(len(fractional)):
        like = k if settings[k] else fitting[int(draw.integers(len(fitting)))]
        for attempt in range(_GROUPS_TRIED):
            group = settings[like][int(draw.integers(len(settings[like])))]
            alike = atoms.alike if 2 * attempt < _GROUPS_TRIED else {}
            found = symmetric_arrangement(numbers, group, draw, alike=alike)
            if found is not None:
                fractional[k], groups[k], cells[k] = torch.from_numpy(found), group, cells[like].clone()
                done.append(k)
                break
    if not done:
        raise InputError(
            f"space_group: the {len(numbers)} atoms do not fill orbits of space group {space_group} in the "
            "cell given. Compare the composition with the Wyckoff positions of the group."
        )
    for k in set(range(len(fractional))) - set(done):
        like = done[int(draw.integers(len(done)))]
        fractional[k], groups[k], cells[k] = fractional[like], groups[like], cells[like]
    return groups
