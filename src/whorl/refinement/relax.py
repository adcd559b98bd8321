"""Relaxation with an energy method: of positions, and of cells too where that is asked for."""

from __future__ import annotations

from functools import partial

import torch

from whorl.errors import InputError
from whorl.evaluation.samples import Samples
from whorl.potentials.base import Potential
from whorl.potentials.relaxation import relax
from whorl.potentials.settings import CalculatorSettings
from whorl.refinement.base import RefinementContext, Refiner, refine_in_chunks
from whorl.refinement.settings import RefinerSettings
from whorl.settings import Count, Positive
from whorl.structures.frozen import frozen_atoms_of


class Relax(Refiner):
    """Relaxes the positions by any energy method, and with ``free_cell`` the cells of crystals too.

    A structure that the method fails on, or whose cell collapses or explodes, is returned unchanged. One
    whose forces are not small enough after all steps is returned as it is then, with the status
    ``"not converged"``.
    """

    kind = "relax"

    class Settings(RefinerSettings):
        """Settings of the relaxation."""

        needs_potential = True

        calculator: CalculatorSettings | None = None
        """The energy method: a name, or {name: …, options: {…}}; by default that of the recipe."""
        fmax: Positive = 0.05
        """Convergence criterion: largest force on any atom, in eV/Å."""
        free_cell: bool = False
        """Relax the lattice vectors too."""
        stress_tolerance: Positive = 0.1
        """Convergence criterion of free cells: largest component of the stress, in GPa."""
        steps: Count = 200
        """Maximum number of steps, each of which is an energy call."""

        def summary(self) -> str:
            """Return the relaxation in a line of a report."""
            method = f" with {self.calculator.name}" if self.calculator else ""
            what = " with their cells" if self.free_cell else ""
            limits = f"forces are below {self.fmax:g} eV/Å"
            limits += f" and stresses below {self.stress_tolerance:g} GPa" if self.free_cell else ""
            return f"relaxed{what}{method} until {limits}, at most {self.steps} steps"

    settings: Settings

    def refine(self, samples: Samples, context: RefinementContext) -> Samples:
        """Relax all structures; see the base class."""
        own = self.settings
        potential = own.calculator.potential() if own.calculator is not None else context.potential
        if potential is None:
            raise InputError("refine: relax needs an energy method. Name one: calculator (--calculator).")
        work = partial(_relaxed, potential, own)
        key = [own.fmax, own.steps, own.free_cell, own.stress_tolerance]
        return refine_in_chunks(work, samples, context, key=[self.kind, potential.name, *key])


def _relaxed(potential: Potential, settings: Relax.Settings, samples: Samples) -> Samples:
    assert samples.structures is not None
    start = samples.structures
    positions, cells = start.positions.clone(), start.cells.clone()
    calls = torch.zeros(len(start), dtype=torch.int64)
    status = ["not converged"] * len(start)
    frames = relax(
        start,
        potential,
        steps=settings.steps,
        cell=settings.free_cell,
        force_tolerance=settings.fmax,
        stress_tolerance=settings.stress_tolerance,
        frozen=frozen_atoms_of(start),
    )
    for frame in frames:
        positions[start.atoms_of(frame.index)] = frame.structures.positions
        cells[frame.index] = frame.structures.cells
        calls[frame.computed] += 1
        for b in frame.index[frame.converged].tolist():
            status[b] = "converged"
        for b, reason in frame.failures.items():
            status[b] = f"failed: {reason}"
            positions[start.structure_index == b] = start.positions[start.structure_index == b]
            cells[b] = start.cells[b]
    return samples.replace(
        structures=start.replace(positions=positions, cells=cells),
        energy_calls=calls,
        refinement=tuple(status),
    )
