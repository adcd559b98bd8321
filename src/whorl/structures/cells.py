r"""Lattice vectors and derived quantities: batched, differentiable, in ASE's conventions.

Rows of a cell are lattice vectors, so Cartesian = fractional @ cell. Lattice vectors of no length, as
clusters and many slabs have them, count as unit vectors orthogonal to the others (:func:`complete_cells`).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.structures.neighbors import _reduce


def cell_parameters(cells: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 6"]:
    r"""Return lengths a, b, c in Å and angles α, β, γ in degrees.

    α lies between b and c, β between a and c, γ between a and b. An angle with a vector of no length is 90°.
    """
    lengths = cells.norm(dim=-1)
    angles = [_angle(cells[:, i], cells[:, j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return torch.cat([lengths, torch.stack(angles, 1)], 1)


def _angle(u: Tensor, v: Tensor) -> Tensor:
    # atan2 has finite derivatives where arccos has none, and keeps all digits near 0° and 180°.
    sine = torch.linalg.cross(u, v).norm(dim=-1)
    cosine = (u * v).sum(-1)
    absent = (u.norm(dim=-1) == 0) | (v.norm(dim=-1) == 0)
    return torch.rad2deg(torch.atan2(torch.where(absent, 1.0, sine), torch.where(absent, 0.0, cosine)))


def cells_from_parameters(parameters: Float[Tensor, "B 6"]) -> Float[Tensor, "B 3 3"]:
    r"""Return lattice vectors for a, b, c (Å), α, β, γ (degrees): a along x, b in the x-y plane.

    .. math:: \mathbf c = c\,(\cos β,\ (\cos α - \cos β \cos γ) / \sin γ,\ \sqrt{\dots})

    Raises:
        InputError: Lengths that are not positive, or angles between which no cell exists.
    """
    lengths = parameters[:, :3]
    alpha, beta, gamma = torch.deg2rad(parameters[:, 3:]).unbind(1)
    cx, sine = torch.cos(beta), torch.sin(gamma)
    cy = (torch.cos(alpha) - torch.cos(beta) * torch.cos(gamma)) / sine
    cz2 = 1 - cx**2 - cy**2
    wrong = ~((lengths > 0).all(1) & (sine > 1e-9) & (cz2 > 0))
    if bool(wrong.any()):
        index = int(torch.nonzero(wrong)[0])
        raise InputError(
            f"cell parameters {index}: got {[round(p, 6) for p in parameters[index].tolist()]}, expected "
            "positive lengths in Å and three angles in degrees that a cell can have (each less than the sum "
            "of the others, all less than 360 together)."
        )
    zero = torch.zeros_like(cx)
    rows = [
        torch.stack([torch.ones_like(cx), zero, zero], 1),
        torch.stack([torch.cos(gamma), sine, zero], 1),
        torch.stack([cx, cy, cz2.sqrt()], 1),
    ]
    return torch.stack(rows, 1) * lengths[:, :, None]


def volumes(cells: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B"]:
    """Return the volumes in Å³; 0 without a cell, positive for left-handed cells too."""
    return torch.linalg.det(cells).abs()


def volume_per_atom(structures: StructureBatch) -> Float[Tensor, "B"]:
    """Return the volume of each cell per atom in Å³, as float64; 0 without a cell."""
    return volumes(structures.cells.double()) / structures.n_atoms.clamp(min=1)


def with_volume_per_atom(structures: StructureBatch, volume: float) -> StructureBatch:
    """Return crystals scaled to a volume per atom in Å³; those without a cell are kept as they are."""
    own = volume_per_atom(structures)
    crystals = structures.pbc.all(1) & (own > 0)
    scale = torch.where(crystals, volume / own, 1.0).pow(1 / 3).to(structures.cells)
    return structures.replace(
        cells=structures.cells * scale[:, None, None],
        positions=structures.positions * scale[structures.structure_index, None],
    )


def expected_neighbors(
    structures: StructureBatch, *, cutoff: float, images: str = "all"
) -> Float[Tensor, "B"]:
    """Return the expected number of neighbours of an atom: in crystals from the density, else all others."""
    counts = structures.n_atoms.double()
    density = counts / volumes(structures.cells.detach()).double().clamp(min=1e-3)
    around = 4.0 / 3.0 * math.pi * cutoff**3 * density
    return torch.where(structures.pbc.all(1) & (images == "all"), around, (counts - 1.0).clamp(min=0.0))


def heights(cells: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3"]:
    """Return the distances in Å between opposite faces: volume over the area of a face; 0 for a flat cell."""
    areas = torch.stack(
        [torch.linalg.cross(cells[:, (k + 1) % 3], cells[:, (k + 2) % 3]).norm(dim=-1) for k in range(3)], 1
    )
    volume = volumes(cells)[:, None]
    return torch.where(areas > 0, volume / torch.where(areas > 0, areas, 1.0), 0.0)


def complete_cells(cells: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
    """Replace each lattice vector of no length by a unit vector orthogonal to all others.

    A cell that lacks some is right-handed afterwards, and can be inverted if those it has are independent.
    """
    absent = (cells == 0).all(-1)
    missing = absent.sum(1)
    if not bool(missing.any()):
        return cells
    eye = torch.eye(3, dtype=cells.dtype, device=cells.device)
    completed = torch.where((missing == 3)[:, None, None], eye, cells)
    for k in range(3):
        j, i = (k + 1) % 3, (k + 2) % 3
        normal = _unit(torch.linalg.cross(cells[:, j], cells[:, i]))
        completed = _with_row(completed, (missing == 1) & absent[:, k], k, normal)
        # Vector k alone: two normals of it, the first one also orthogonal to the axis it is least along.
        axis = _unit(cells[:, k])
        least = torch.nn.functional.one_hot(axis.detach().abs().argmin(1), 3).to(cells.dtype)
        first = _unit(torch.linalg.cross(axis, least))
        alone = (missing == 2) & ~absent[:, k]
        completed = _with_row(completed, alone, j, first)
        completed = _with_row(completed, alone, i, torch.linalg.cross(axis, first))
    return completed


def _unit(vectors: Tensor) -> Tensor:
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def _with_row(cells: Tensor, where: Tensor, row: int, vectors: Tensor) -> Tensor:
    replaced = torch.cat([cells[:, :row], vectors[:, None], cells[:, row + 1 :]], 1)
    return torch.where(where[:, None, None], replaced, cells)


def fractional_coordinates(structures: StructureBatch) -> Float[Tensor, "A 3"]:
    """Return coordinates in units of the lattice vectors; in Å along those of no length.

    Raises:
        InputError: A cell has no volume.
    """
    _require_volume(structures.cells, structures.pbc)
    inverse = torch.linalg.inv(complete_cells(structures.cells))
    return torch.einsum("ax,axk->ak", structures.positions, inverse[structures.structure_index])


def with_fractional_coordinates(
    structures: StructureBatch, fractional: Float[Tensor, "A 3"]
) -> StructureBatch:
    """Place the atoms at fractional coordinates (as :func:`fractional_coordinates` returns them)."""
    cells = complete_cells(structures.cells)[structures.structure_index]
    return structures.replace(positions=torch.einsum("ak,akx->ax", fractional, cells))


def wrap(structures: StructureBatch) -> StructureBatch:
    """Move each atom by whole lattice vectors into the cell, along periodic directions.

    Fractional coordinates are then in [0, 1), to rounding; the gradient is that of a translation.

    Raises:
        InputError: A cell has no volume.
    """
    shift = (
        torch.floor(fractional_coordinates(structures).detach()) * structures.pbc[structures.structure_index]
    )
    cells = structures.cells[structures.structure_index]
    return structures.replace(positions=structures.positions - torch.einsum("ak,akx->ax", shift, cells))


def strained(structures: StructureBatch, strain: Float[Tensor, "B 3 3"]) -> StructureBatch:
    r"""Deform cells and positions together: :math:`x \to x\,(1 + ε)`, fractional coordinates stay.

    The derivative of an energy in ε at ε = 0 is volume × stress.
    """
    deformation = torch.eye(3, dtype=strain.dtype, device=strain.device) + strain
    return structures.replace(
        positions=torch.einsum("ax,axy->ay", structures.positions, deformation[structures.structure_index]),
        cells=structures.cells @ deformation,
    )


def minimum_image(
    vectors: Float[Tensor, "P 3"], structures: StructureBatch, structure_index: Int[Tensor, "P"]
) -> Float[Tensor, "P 3"]:
    """Return the shortest periodic image of each vector, for any cell, however skewed.

    The gradient is that of the image chosen.

    Args:
        vectors: Differences of positions in Å.
        structures: Whose cells and periodicity count.
        structure_index: In which structure each vector lives.

    Raises:
        InputError: A periodic cell has no volume.
    """
    if not bool(structures.pbc.any()):
        return vectors
    # Vectors that are not periodic play no part, whatever they are.
    lattice = structures.cells * structures.pbc[:, :, None]
    _require_volume(lattice, structures.pbc)
    lattice = complete_cells(lattice)
    _, basis = _reduce(lattice.detach(), structures.pbc)
    lattice = basis.to(lattice.dtype) @ lattice
    # In a Minkowski-reduced lattice, rounding is right to within one step along each lattice vector.
    inverse = torch.linalg.inv(lattice.detach())[structure_index]
    fractional = torch.einsum("px,pxk->pk", vectors.detach(), inverse)
    cells = (lattice * structures.pbc[:, :, None])[structure_index]
    vectors = vectors - torch.einsum("pk,pkx->px", torch.round(fractional), cells)
    best, shortest = vectors, vectors.detach().square().sum(-1)
    steps = torch.arange(-1, 2, dtype=vectors.dtype, device=vectors.device)
    for shift in torch.cartesian_prod(steps, steps, steps):
        image = vectors + shift @ cells
        length = image.detach().square().sum(-1)
        nearer = length < shortest * (1 - 1e-12)
        best = torch.where(nearer[:, None], image, best)
        shortest = torch.where(nearer, length, shortest)
    return best


def _require_volume(cells: Tensor, pbc: Tensor) -> None:
    complete = complete_cells(cells)
    flat = torch.linalg.det(complete).abs() <= 1e-9 * complete.norm(dim=-1).prod(-1)
    flat |= (pbc & (cells == 0).all(-1)).any(1)
    if bool(flat.any()):
        raise InputError(
            f"structure {int(torch.nonzero(flat)[0])}: its cell has no volume (zero or parallel lattice "
            "vectors). Give it a cell, or set cell and pbc to zero."
        )
