r"""Where a search begins: atoms at random, none upon another.

A periodic structure begins with its atoms uniformly in the cell. A cluster begins in a ball, by default of
the volume :math:`\sum_i \frac43 \pi r_i^3 / \varphi` with covalent radii r and packing fraction φ. Directions
that are not periodic in a slab or wire get the length at which the box has that volume.

Every structure has its own seed, and its random numbers depend on nothing else: not on the other structures,
their number, or the device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.errors import InputError
from whorl.inversion.moves import Atoms, covalent_radii, push_apart
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cells_from_parameters
from whorl.symmetry.groups import Group, symmetric_arrangement
from whorl.symmetry.point_groups import random_point_group
from whorl.symmetry.space_groups import random_group, settings_of

# The last two are the primitive cells of centred cubic lattices.
_SYSTEMS = (
    *("triclinic", "monoclinic", "orthorhombic", "tetragonal", "hexagonal", "rhombohedral", "cubic"),
    *("face-centred", "body-centred"),
)
_GROUPS_TRIED = 4  # groups into which the atoms may not fit, until a start has no symmetry
_DENSE = 0.74  # part of the volume that close-packed balls fill
_CANDIDATES = 32  # places tried for an atom before the roomiest of them is taken


def content_key(target: Float[Tensor, "F"], template: StructureBatch) -> str:
    """Return a hash of one target with its species, cell and pbc: what its random numbers may depend on."""
    digest = hashlib.sha256()
    for tensor in (target, template.atomic_numbers, template.cells, template.pbc):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def random_starts(
    template: StructureBatch,
    *,
    seeds: Sequence[int],
    radius: float | None = None,
    packing: float = 0.3,
    closest: float = 0.7,
) -> StructureBatch:
    """Return ``template`` with its atoms at random.

    Args:
        template: Species, cells and pbc.
        seeds: One per structure.
        radius: Of the ball for clusters, in Å; ``None`` takes it from the covalent radii.
        packing: Fraction of the volume that the atoms fill, where the volume is not given by a cell.
        closest: Least distance of two atoms as a part of the sum of their covalent radii. In a cell too small
            for that, each atom takes the roomiest of 32 random places.

    Raises:
        InputError: Not one seed per structure, or a radius or packing that is not positive.
    """
    if len(seeds) != len(template):
        raise InputError(f"seeds: got {len(seeds)} for {len(template)} structures, expected one each.")
    if radius is not None and not radius > 0:
        raise InputError(f"radius: got {radius}, expected a positive length in Å, or None.")
    if not 0 < packing <= 1:
        raise InputError(f"packing: got {packing}, expected a fraction above 0 and up to 1.")
    counts = template.n_atoms
    atomic_radii = covalent_radii(template.atomic_numbers)
    volume = torch.zeros(len(template), dtype=torch.float64, device=template.device)
    volume.index_add_(0, template.structure_index, 4 / 3 * math.pi * atomic_radii**3)
    volume = volume / packing
    if radius is not None:
        volume = torch.full_like(volume, 4 / 3 * math.pi * radius**3)

    def uniform(count: int, rng: torch.Generator) -> Tensor:
        return torch.rand(count, _CANDIDATES, 3, dtype=torch.float64, generator=rng)

    drawn = _draw(template, seeds, uniform)
    place = template.structure_index
    boxes, centres = _boxes(template, volume)
    periodic = template.pbc.any(1)
    in_box = torch.einsum("aci,aij->acj", drawn - 0.5, boxes[place])
    ball_radius = (0.75 * volume / math.pi) ** (1 / 3)
    in_ball = _in_unit_ball(drawn) * ball_radius[place, None, None]
    candidates = torch.where(periodic[place, None, None], in_box, in_ball) + centres[place, None]

    n_max = int(counts.max()) if len(template) else 0
    within = template.position_in_structure
    padded = candidates.new_zeros(len(template), n_max, _CANDIDATES, 3)
    padded[place, within] = candidates
    radii = atomic_radii.new_zeros(len(template), n_max)
    radii[place, within] = atomic_radii * closest
    chosen = _place_apart(padded, radii, torch.where(periodic[:, None, None], boxes, 0.0), template.pbc)
    positions = chosen[place, within].to(template.dtype)
    return template.replace(positions=positions)


def random_displacements(
    structures: StructureBatch, *, seeds: Sequence[int], scale: float
) -> Float[Tensor, "A 3"]:
    """Return normal displacements of standard deviation ``scale`` in Å for each coordinate."""

    def normal(count: int, rng: torch.Generator) -> Tensor:
        return torch.randn(count, 3, dtype=torch.float64, generator=rng)

    return _draw(structures, seeds, normal).to(structures.dtype) * scale


def _draw(
    structures: StructureBatch, seeds: Sequence[int], draw: Callable[[int, torch.Generator], Tensor]
) -> Tensor:
    rng = torch.Generator()  # on the CPU, so that every device gets the same numbers
    parts = [
        draw(count, rng.manual_seed(seed))
        for count, seed in zip(structures.n_atoms.tolist(), seeds, strict=True)
    ]
    return torch.cat(parts).to(structures.device)


def _boxes(
    template: StructureBatch, volume: Float[Tensor, "B"]
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 3"]]:
    """Return the box of each structure and its centre; the box is the cell along periodic directions."""
    cells = template.cells.to(torch.float64)
    centres = 0.5 * cells.sum(1)
    boxes = cells.clone()
    n_periodic = template.pbc.sum(1)
    for b in torch.nonzero((n_periodic == 1) | (n_periodic == 2)).squeeze(1).tolist():
        pbc = template.pbc[b]
        _, _, vh = torch.linalg.svd(cells[b][pbc], full_matrices=True)
        boxes[b, ~pbc] = vh[int(n_periodic[b]) :]  # orthogonal to the periodic directions, length 1
        free = 3 - int(n_periodic[b])
        boxes[b, ~pbc] *= (volume[b] / torch.linalg.det(boxes[b]).abs()) ** (1 / free)
    return boxes, centres


def _in_unit_ball(uniform: Float[Tensor, "A c 3"]) -> Float[Tensor, "A c 3"]:
    radius = uniform[..., 0] ** (1 / 3)
    cosine = 2 * uniform[..., 1] - 1
    sine = torch.sqrt((1 - cosine.square()).clamp_min(0))
    angle = 2 * math.pi * uniform[..., 2]
    return torch.stack([sine * torch.cos(angle), sine * torch.sin(angle), cosine], -1) * radius[..., None]


def _place_apart(
    candidates: Float[Tensor, "B n c 3"],
    radii: Float[Tensor, "B n"],
    boxes: Float[Tensor, "B 3 3"],
    pbc: Bool[Tensor, "B 3"],
) -> Float[Tensor, "B n 3"]:
    """Place atom after atom: the first candidate with room, else the one with the most."""
    steps = torch.tensor([0.0, -1.0, 1.0], dtype=boxes.dtype, device=boxes.device)
    steps = torch.cartesian_prod(steps, steps, steps) if bool(pbc.any()) else boxes.new_zeros(1, 3)
    images = torch.einsum("sk,bkx->bsx", steps, boxes * pbc[..., None])
    placed = candidates[:, :, 0].clone()
    every = torch.arange(len(candidates), device=candidates.device)
    for atom in range(1, candidates.shape[1]):
        others = placed[:, :atom, None] + images[:, None]  # (B, atom, images, 3)
        distance = torch.cdist(candidates[:, atom], others.flatten(1, 2)).unflatten(2, others.shape[1:3])
        room = (distance.amin(3) / (radii[:, atom, None, None] + radii[:, None, :atom])).amin(2)
        # argmax of a boolean is its first True; where none has room, all are False.
        fits = room >= 1
        choice = torch.where(fits.any(1), fits.to(torch.int8).argmax(1), room.argmax(1))
        placed[:, atom] = candidates[every, atom, choice]
    return placed


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
    free cell has random parameters, from dense to that of a molecular crystal. Atoms that are too near one
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
    if bool(periodic.all()):
        if atoms.free_cell:
            cells = _random_cells(filled, count, rng).to(device)
        fractional = torch.rand(count, n, 3, dtype=dtype, generator=rng)
        if n > 1 and bool(atoms.free.all()):
            groups = _make_symmetric(fractional, cells, atoms, rng, symmetric, per_group)
        positions = torch.einsum("cnk,ckx->cnx", fractional.to(device), cells)
    elif bool(periodic.any()):
        boxes, centres = _boxes(template, torch.tensor([filled / 0.3], dtype=dtype, device=device))
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
            groups = _make_symmetric(positions, cells, atoms, rng, symmetric, per_group)
        positions = positions.to(device)
    if not bool(atoms.free.all()):
        positions = torch.where(atoms.free[:, None], positions, template.positions.to(dtype))
    positions = push_apart(positions, cells, atoms, closest=0.8, steps=30)
    return positions.to(template.dtype), cells.to(template.dtype), groups


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


def _make_symmetric(
    fractional: Float[Tensor, "C n 3"],
    cells: Float[Tensor, "C 3 3"],
    atoms: Atoms,
    rng: torch.Generator,
    part: float,
    per_group: int,
) -> list[Group | None]:
    """Replace most arrangements by ones with the symmetry of random groups, in place.

    In a free cell those of one group also share the lattice; in a cluster coordinates are Cartesian.
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
        for _ in range(_GROUPS_TRIED):
            group = random_group(lattice, draw) if periodic else random_point_group(dense, draw)
            while places:
                found = symmetric_arrangement(numbers, group, draw)
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
        for _ in range(_GROUPS_TRIED):
            group = settings[like][int(draw.integers(len(settings[like])))]
            found = symmetric_arrangement(numbers, group, draw)
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
