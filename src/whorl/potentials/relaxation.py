"""Relaxation of many structures at once: FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.potentials.base import Potential
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

# The paper's own parameters.
_PATIENCE = 5
_FASTER, _SLOWER = 1.1, 0.5
_MIXING, _LESS_MIXING = 0.1, 0.99


Optimizer = Literal["fire", "lbfgs"]

STATUSES = ("converged", "not converged", "collapsed", "exploded", "out of range", "failed")
"""How a relaxation can end; only after the first two is there a relaxed structure."""


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """Relaxed structures, in the order of those given: B with A atoms in all.

    Where one ended in another way than ``converged`` or ``not converged``, the structure is as it was given,
    and its numbers are NaN.

    Attributes:
        structures: The relaxed structures, in float64. Atoms are not wrapped into the cell, so that
            displacements can be measured.
        energy: In eV, shape (B,), without the term of the external pressure.
        initial_energy: In eV, shape (B,).
        forces: In eV/Å, shape (A, 3).
        stress: In eV/Å³, shape (B, 3, 3), NaN without a full cell; None if the potential gives none.
        status: One of :data:`STATUSES` for each structure.
        reasons: Index of each structure that is not ``converged``, with the reason.
        steps: Steps made, shape (B,); the energy calls are one more.
        max_force: Largest force on any atom in eV/Å, shape (B,).
        max_stress: Largest component of the stress plus external pressure in GPa, shape (B,); NaN without a
            full cell.
        pressure: Minus a third of the trace of the stress, in GPa, shape (B,); NaN without a full cell.
        frames: The structures on the way, those given first, a batch for each structure; None if not kept.
    """

    structures: StructureBatch
    energy: Float[Tensor, "B"]
    initial_energy: Float[Tensor, "B"]
    forces: Float[Tensor, "A 3"]
    stress: Float[Tensor, "B 3 3"] | None
    status: tuple[str, ...]
    steps: Int[Tensor, "B"]
    max_force: Float[Tensor, "B"]
    max_stress: Float[Tensor, "B"]
    pressure: Float[Tensor, "B"]
    reasons: Mapping[int, str] = field(default_factory=dict)
    frames: list[StructureBatch] | None = None


def relaxed(
    structures: Structures,
    potential: Potential,
    *,
    cell: bool = True,
    optimizer: Optimizer = "fire",
    force_tolerance: float = 0.05,
    stress_tolerance: float = 0.1,
    steps: int = 500,
    pressure: float = 0.0,
    symmetry: bool = False,
    keep_frames: bool = False,
) -> Relaxation:
    """Relax positions and cells of many structures at once.

    Args:
        structures: Initial structures. The cells of those that are not periodic in all directions are fixed.
        potential: Gives energies, forces and stresses.
        cell: Relax the cell too.
        optimizer: ``fire`` or ``lbfgs``.
        force_tolerance: Convergence criterion: largest force on any atom, in eV/Å.
        stress_tolerance: Convergence criterion: largest component of the stress plus pressure, in GPa.
        steps: Maximum number of steps.
        pressure: External pressure in GPa.
        symmetry: Keep the space group of each crystal.
        keep_frames: Also return the structures on the way.

    Raises:
        InputError: Unknown optimizer, tolerances that are not positive, or a potential without stresses for
            the cells.
    """
    raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Frame:
    """State of a batch of relaxations after a number of steps.

    Attributes:
        step: Steps made so far; 0 are the structures as given.
        index: Which of the given structures are still moving or have just ended, shape (b,).
        structures: These b structures.
        energy: In eV, shape (b,).
        forces: In eV/Å, shape (a, 3).
        stress: In eV/Å³, shape (b, 3, 3), as that of a :class:`PotentialOutput`.
        largest_force: In eV/Å, the largest on any atom, shape (b,).
        converged: Largest force below the tolerance; the structure ends here, shape (b,).
        failures: Given structures whose computation failed at this step, and why; they end here, and are not
            among ``index``.
    """

    step: int
    index: Int[Tensor, "b"]
    structures: StructureBatch
    energy: Float[Tensor, "b"]
    forces: Float[Tensor, "a 3"]
    stress: Float[Tensor, "b 3 3"] | None
    largest_force: Float[Tensor, "b"]
    converged: Bool[Tensor, "b"]
    failures: Mapping[int, str]


def relax(
    structures: Structures,
    potential: Potential,
    *,
    steps: int = 200,
    force_tolerance: float = 0.05,
    longest_step: float = 0.2,
    time_step: float = 0.1,
    longest_time_step: float = 1.0,
) -> Iterator[Frame]:
    """Relax positions with FIRE at fixed cells, yielding a frame per step.

    Structures are independent: each has its own time step, and leaves the batch when it has converged
    or failed.

    Args:
        structures: Initial structures.
        potential: Gives energies and forces.
        steps: Maximum number of steps.
        force_tolerance: In eV/Å.
        longest_step: Maximum displacement of an atom per step, in Å.
        time_step: First time step, with unit mass, in Å / sqrt(eV).
        longest_time_step: It grows to at most this.
    """
    structures = as_batch(structures)
    active = structures.replace(info=())
    index = torch.arange(len(structures), device=structures.device)
    velocity = torch.zeros_like(active.positions)
    dt = torch.full((len(active),), time_step, dtype=active.dtype, device=active.device)
    mixing = torch.full_like(dt, _MIXING)
    downhill = torch.zeros_like(index)
    for step in range(steps + 1):
        if len(active) == 0:
            return
        output = potential(active)
        failures = {int(index[b]): reason for b, reason in output.failures.items()}
        ok = torch.ones_like(index, dtype=torch.bool)
        ok[list(output.failures)] = False
        for b in torch.unique(active.structure_index[output.forces.isnan().any(1)]).tolist():
            failures.setdefault(int(index[b]), f"{potential.name} gives no forces")
            ok[b] = False
        energy, forces, stress = output.energy, output.forces, output.stress
        if failures:
            atoms = ok[active.structure_index]
            energy, forces, velocity = energy[ok], forces[atoms], velocity[atoms]
            stress = None if stress is None else stress[ok]
            active, index, dt, mixing, downhill = active[ok], index[ok], dt[ok], mixing[ok], downhill[ok]
        owner = active.structure_index
        largest = _per_structure(forces.norm(dim=1), owner, len(active), "amax")
        converged = largest < force_tolerance
        yield Frame(
            step=step,
            index=index,
            structures=active,
            energy=energy,
            forces=forces,
            stress=stress,
            largest_force=largest,
            converged=converged,
            failures=failures,
        )
        if bool(converged.any()):
            going = ~converged
            atoms = going[owner]
            forces, velocity = forces[atoms], velocity[atoms]
            active, index, dt, mixing, downhill = (
                active[going],
                index[going],
                dt[going],
                mixing[going],
                downhill[going],
            )
            owner = active.structure_index
        n = len(active)
        power = _per_structure((forces * velocity).sum(1), owner, n, "sum")
        speed = _per_structure(velocity.square().sum(1), owner, n, "sum").sqrt()
        force = _per_structure(forces.square().sum(1), owner, n, "sum").sqrt().clamp_min(1e-12)
        good = power > 0
        mixed = (1 - mixing)[owner, None] * velocity + (mixing * speed / force)[owner, None] * forces
        velocity = torch.where(good[owner, None], mixed, 0.0)
        downhill = torch.where(good, downhill + 1, 0)
        trusted = downhill > _PATIENCE
        dt = torch.where(trusted, dt * _FASTER, torch.where(power < 0, dt * _SLOWER, dt))
        dt = dt.clamp_max(longest_time_step)
        mixing = torch.where(trusted, mixing * _LESS_MIXING, torch.where(power < 0, _MIXING, mixing))
        velocity = velocity + dt[owner, None] * forces
        move = dt[owner, None] * velocity
        longest = _per_structure(move.norm(dim=1), owner, n, "amax")
        move = move * (longest_step / longest.clamp_min(longest_step))[owner, None]
        active = active.replace(positions=active.positions + move)


def _per_structure(values: Tensor, owner: Tensor, n: int, reduce: str) -> Tensor:
    return values.new_zeros(n).scatter_reduce(0, owner, values, reduce)
