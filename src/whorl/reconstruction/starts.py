r"""Random starts without overlapping atoms.

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

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import covalent_radii
from whorl.structures.convert import Structures, as_batch

_CANDIDATES = 32  # places tried for an atom before the roomiest of them is taken


def content_key(target: Float[Tensor, "F"], template: StructureBatch) -> str:
    """Return a hash of one target with its species, cell and pbc: what its random numbers may depend on."""
    digest = hashlib.sha256()
    for tensor in (target, template.atomic_numbers, template.cells, template.pbc):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def random_starts(
    template: Structures,
    *,
    seeds: Sequence[int],
    radius: float | None = None,
    packing: float = 0.3,
    closest: float = 0.7,
) -> StructureBatch:
    """Return ``template`` with its atoms at random.

    Args:
        template: Species, cells and pbc; anything that :func:`whorl.structures.as_batch` takes.
        seeds: One per structure.
        radius: Of the ball for clusters, in Å; ``None`` takes it from the covalent radii.
        packing: Fraction of the volume that the atoms fill, where the volume is not given by a cell.
        closest: Least distance of two atoms as a part of the sum of their covalent radii. In a cell too small
            for that, each atom takes the roomiest of 32 random places.

    Raises:
        InputError: Not one seed per structure, or a radius or packing that is not positive.
    """
    template = as_batch(template)
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
    boxes, centres = boxes_of(template, volume)
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


def boxes_of(
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
