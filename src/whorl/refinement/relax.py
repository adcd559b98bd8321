"""Relaxation of positions with an energy method, at fixed cells."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from whorl.errors import InputError
from whorl.evaluation.samples import Samples
from whorl.potentials.base import Potential
from whorl.potentials.relaxation import relax
from whorl.potentials.settings import CalculatorSettings
from whorl.refinement.base import RefinementContext, Refiner, refine_in_chunks
from whorl.refinement.settings import RefinerSettings
from whorl.settings import Count, Positive


class Relax(Refiner):
    """Relaxes the positions by any energy method, at fixed cells.

    A structure that the method fails on is returned unchanged. One whose forces are not small enough after
    all steps is returned as it is then, with the status ``"not converged"``.
    """

    kind = "relax"

    class Settings(RefinerSettings):
        """Settings of the relaxation."""

        needs_potential = True

        calculator: CalculatorSettings | None = None
        """The energy method: a name, or {name: …, options: {…}}; by default that of the recipe."""
        fmax: Positive = 0.05
        """Convergence criterion: largest force on any atom, in eV/Å."""
        steps: Count = 200
        """Maximum number of steps, each of which is an energy call."""

        def summary(self) -> str:
            """Return the relaxation in a line of a report."""
            method = f" with {self.calculator.name}" if self.calculator else ""
            return f"relaxed{method} until forces are below {self.fmax:g} eV/Å, at most {self.steps} steps"

    def refine(self, samples: Samples, context: RefinementContext) -> Samples:
        """Relax all structures; see the base class."""
        own: Any = self.settings
        potential = own.calculator.potential() if own.calculator is not None else context.potential
        if potential is None:
            raise InputError("refine: relax needs an energy method. Name one: calculator (--calculator).")
        work = partial(_relaxed, potential, own.fmax, own.steps)
        return refine_in_chunks(work, samples, context, key=[self.kind, potential.name, own.fmax, own.steps])


def _relaxed(potential: Potential, fmax: float, steps: int, samples: Samples) -> Samples:
    assert samples.structures is not None
    start = samples.structures
    positions = start.positions.clone()
    calls = torch.zeros(len(start), dtype=torch.int64)
    status = ["not converged"] * len(start)
    for frame in relax(start, potential, steps=steps, force_tolerance=fmax):
        there = torch.isin(start.structure_index, frame.index)
        positions[there] = frame.structures.positions
        calls[frame.index] += 1
        for b in frame.index[frame.converged].tolist():
            status[b] = "converged"
        for b, reason in frame.failures.items():
            calls[b] += 1
            status[b] = f"failed: {reason}"
            positions[start.structure_index == b] = start.positions[start.structure_index == b]
    return samples.replace(
        structures=start.replace(positions=positions), energy_calls=calls, refinement=tuple(status)
    )
