"""Distributions of cells, symmetry and elements, compared with those of real crystals."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from whorl.evaluation.distributions import compare
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.samples import Reference, Samples
from whorl.evaluation.settings import EvaluatorSettings
from whorl.settings import Count
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cell_parameters, volumes
from whorl.structures.checks import sound_crystals
from whorl.symmetry.detection import known_space_groups, space_group_numbers

_UNITS = {
    **dict.fromkeys("abc", "Å"),
    **dict.fromkeys(("alpha", "beta", "gamma"), "°"),
    "volume per atom": "Å³",
}


class DistributionsEvaluator(Evaluator):
    """Distributions of generated and of real crystals, by the test of Kolmogorov and Smirnov.

    They are of a, b, c (to 0.001 Å), alpha, beta and gamma (to 0.01°) of the cells as they are (compare
    crystals in like cells), the volume per atom, the number of atoms in the cell, the space group, and the
    atomic numbers of all atoms. The space group of real crystals is the number in ``info`` where there is
    one. Where values repeat, as numbers do, the p-value is an upper bound. What cannot be a crystal takes no
    part, and a quantity without values on either side is left out.
    """

    kind = "distributions"
    of_crystals = True
    after = ("symmetry",)

    class Settings(EvaluatorSettings):
        """Settings of the comparison of distributions."""

        real: Count = 2000
        """Maximum number of real crystals to compare with, evenly drawn."""

    settings: Settings

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether there are generated and real crystals."""
        return samples.crystals is not None and reference.structures is not None

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return the comparisons as ``quantities`` of all samples."""
        crystals, structures = samples.crystals, reference.structures
        assert crystals is not None and structures is not None
        sound = sound_crystals(crystals)
        if (symmetry := context.metrics.get("symmetry")) is not None:
            numbers = torch.tensor(symmetry.per_structure["space_group_number"])[sound]
        else:
            numbers = space_group_numbers(crystals[sound])
        real = structures[reference.evenly(self.settings.real)].to(device="cpu", dtype=torch.float64)
        real = real[sound_crystals(real)]
        compared = []
        if bool(sound.any()) and len(real):
            ours, theirs = (
                _quantities(crystals[sound], numbers),
                _quantities(real, known_space_groups(real)),
            )
            compared = [
                dataclasses.asdict(compare(name, ours[name], theirs[name], unit=_UNITS.get(name, "")))
                for name in ours
            ]
        return Metrics(evaluator=self.kind, overall={"quantities": compared})


def _quantities(crystals: StructureBatch, space_groups: Tensor) -> dict[str, Tensor]:
    # Without rounding, a right angle that is off by 1e-13 would count as below all the exact ones.
    parameters = cell_parameters(crystals.cells)
    return {
        **dict(zip("abc", parameters[:, :3].round(decimals=3).unbind(1), strict=True)),
        **dict(zip(("alpha", "beta", "gamma"), parameters[:, 3:].round(decimals=2).unbind(1), strict=True)),
        "volume per atom": volumes(crystals.cells) / crystals.n_atoms,
        "atoms": crystals.n_atoms,
        "space group": space_groups,
        "atomic number": crystals.atomic_numbers,
    }
