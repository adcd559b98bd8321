"""A quick potential for tests of the builder: Morse pairs, the whole batch at once."""

import torch

from whorl.potentials import PotentialOutput
from whorl.structures import StructureBatch
from whorl.structures.neighbors import neighbor_list


class Morse:
    """E = Σ D ((1 - exp(-a (r - r0)))² - 1) over pairs nearer than 9 Å."""

    def __init__(self, *, fail_beyond: float = float("inf")) -> None:
        self.name = f"morse-{fail_beyond}"
        self.fail_beyond = fail_beyond  # Å: clusters wider than this cannot be computed

    def __call__(self, structures: StructureBatch) -> PotentialOutput:
        positions = structures.positions.detach().requires_grad_(True)
        moving = structures.replace(positions=positions)
        pairs = neighbor_list(structures, cutoff=9.0)
        owner = structures.structure_index
        with torch.enable_grad():
            distance = pairs.vectors(moving).norm(dim=1)
            pair = 0.5 * 0.8 * ((1 - torch.exp(-1.6 * (distance - 2.6))) ** 2 - 1)
            energy = pair.new_zeros(len(structures)).index_add(0, owner[pairs.first], pair)
            (gradient,) = torch.autograd.grad(energy.sum(), positions, allow_unused=True)
        forces = torch.zeros_like(positions) if gradient is None else -gradient
        energy, failures = energy.detach(), {}
        for b, one in enumerate(structures):
            width = float((one.positions.amax(0) - one.positions.amin(0)).max())
            if width > self.fail_beyond:
                failures[b] = "too wide"
                energy[b] = float("nan")
        return PotentialOutput(energy=energy, forces=forces.detach(), failures=failures)
