"""A smooth energy method for tests: pairs of any two elements, periodic or not, with forces and stress."""

import torch

from whorl.potentials import PotentialOutput
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.neighbors import neighbor_list


class Pairs:
    """E = Σ Z₁Z₂/1000 exp(-(r - 2)) (1 - r²/25)² over pairs nearer than 5 Å."""

    name = "pairs"

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, structures: StructureBatch) -> PotentialOutput:
        positions = structures.positions.detach().clone().requires_grad_(True)
        strain = torch.zeros_like(structures.cells, requires_grad=True)
        owner = structures.structure_index
        with torch.enable_grad():
            moving = structures.replace(
                positions=positions + torch.einsum("ab,abc->ac", positions, strain[owner]),
                cells=structures.cells + structures.cells @ strain,
            )
            pairs = neighbor_list(structures, cutoff=5.0)
            r = pairs.vectors(moving).norm(dim=1)
            z = structures.atomic_numbers
            pair = 0.5e-3 * z[pairs.first] * z[pairs.second] * torch.exp(2 - r) * (1 - r**2 / 25) ** 2
            energy = self.scale * pair.new_zeros(len(structures)).index_add(0, owner[pairs.first], pair)
            gradient, virial = torch.autograd.grad(energy.sum(), [positions, strain])
        volume = volumes(structures.cells)[:, None, None]
        stress = torch.where(volume > 0, virial / volume, torch.nan)
        return PotentialOutput(energy=energy.detach(), forces=-gradient, stress=stress)


def clusters(count, seed=0, atoms=4):
    """Return clusters of gold and copper in turn."""
    rng = torch.Generator().manual_seed(seed)
    grid = 2.6 * torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1]]).double()
    positions = grid[:atoms] + 0.25 * torch.randn(count, atoms, 3, generator=rng, dtype=torch.float64)
    numbers = torch.where(torch.rand(count * atoms, generator=rng) < 0.5, 29, 79)
    return StructureBatch(
        positions=positions.flatten(0, 1),
        cells=torch.zeros(count, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(count, 3, dtype=torch.bool),
        atomic_numbers=numbers,
        structure_index=torch.arange(count).repeat_interleave(atoms),
    )


def crystals(count, seed=0):
    """Return cells of two or three atoms."""
    rng = torch.Generator().manual_seed(seed)
    sizes = 2 + torch.arange(count) % 2
    index = torch.arange(count).repeat_interleave(sizes)
    cells = torch.tensor([[3.2, 0.3, 0.0], [0.0, 3.4, 0.2], [0.4, 0.0, 3.6]]).double()
    cells = cells + 0.15 * torch.randn(count, 3, 3, generator=rng, dtype=torch.float64)
    place = torch.arange(len(index)) - (torch.cumsum(sizes, 0) - sizes)[index]
    sites = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0]]).double()
    fractional = sites[place] + 0.04 * torch.randn(len(index), 3, generator=rng, dtype=torch.float64)
    return StructureBatch(
        positions=torch.einsum("ak,akx->ax", fractional, cells[index]),
        cells=cells,
        pbc=torch.ones(count, 3, dtype=torch.bool),
        atomic_numbers=torch.where(torch.rand(len(index), generator=rng) < 0.5, 29, 79),
        structure_index=index,
    )
