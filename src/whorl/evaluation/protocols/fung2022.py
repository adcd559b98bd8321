"""Fung et al. 2022: energies of generated structures against their targets (table 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whorl.errors import WhorlError
from whorl.evaluation.estimates import Estimate, mean, share
from whorl.evaluation.protocols.base import EvaluationProtocol, ProtocolResult, at_most, cells, lacking
from whorl.evaluation.protocols.settings import ProtocolSettings
from whorl.evaluation.structure_set import StructureSet
from whorl.potentials.base import Potential
from whorl.potentials.quantity import formation_energies
from whorl.potentials.reference import bulk_energy
from whorl.settings import Positive
from whorl.structures.composition import species_of


class Fung2022(EvaluationProtocol):
    """Formation energy of structures as they were generated, against the targets they were generated for.

    The formation energy is that of eq. 4, E/N less the energy of the bulk of each element by the same method.
    Targets are the number ``target`` of each structure: a key of extended XYZ or of a database, or a column.
    """

    kind = "fung2022"
    source = "Fung et al., Mach. Learn.: Sci. Technol. 3, 045018 (2022), table 2"
    departures = ("Energies are those of the potential; the publication computes them by DFT.",)
    uses = frozenset({"potential"})

    class Settings(ProtocolSettings):
        """Settings of the comparison with targets."""

        tolerance: Positive = 0.1
        """Largest difference from the target of a hit, in eV/atom."""

    settings: Settings

    def evaluate(self, structures: StructureSet) -> ProtocolResult:
        """Return the mean absolute error and the shares within the tolerance."""
        metrics: dict[str, Estimate] = {}
        columns: dict[str, list[Any]] = {}
        submitted, tolerance = structures.submitted, self.settings.tolerance
        names = {
            "mean_absolute_error": "Mean absolute difference of the formation energy from the target.",
            "within": f"Within {tolerance:g} eV/atom of the target, of all.",
            "within_valid": f"Within {tolerance:g} eV/atom of the target, of valid structures.",
        }
        valid = structures.checked().valid & structures.sound
        metrics["valid"] = share(valid, of=submitted, text="No two atoms within 0.5 Å, of all.")
        energies = structures.energies("generated")
        text = "Mean formation energy by eq. 4, as generated."
        if energies is None or structures.potential is None:
            metrics["formation_energy"] = lacking(text, "potential")
            metrics |= {name: lacking(of, "potential") for name, of in names.items()}
            return ProtocolResult(metrics=metrics, departures=_targets_of(structures))
        bulk, missing = _bulk(structures.potential, species_of(structures.structures))
        formation = formation_energies(energies, structures.structures, bulk)
        metrics["formation_energy"] = mean(formation, unit="eV/atom", text=text)
        columns["formation_energy"] = cells(formation)
        if structures.targets is None or not bool(structures.targets.isfinite().any()):
            metrics |= {name: lacking(of, "targets") for name, of in names.items()}
        else:
            errors = (formation - structures.targets).abs()
            hits = at_most(errors, tolerance)
            metrics["mean_absolute_error"] = mean(errors, unit="eV/atom", text=names["mean_absolute_error"])
            metrics["within"] = share(hits, of=submitted, text=names["within"])
            metrics["within_valid"] = share(hits[valid], text=names["within_valid"])
            columns |= {"error": cells(errors), "within": hits.tolist()}
        reasons = [f"No formation energy of {element}: {reason}" for element, reason in missing.items()]
        return ProtocolResult(
            metrics=metrics, columns=columns, departures=(*_targets_of(structures), *reasons)
        )


def _targets_of(structures: StructureSet) -> tuple[str, ...]:
    known: Tensor | None = structures.targets
    if known is None or not bool(torch.isfinite(known).any()):
        return ("The structures state no target.",)
    return ()


def _bulk(potential: Potential, elements: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return energies of bulk elements by the potential, and why there is none of others."""
    found, missing = {}, {}
    for element in elements:
        try:
            found[element] = bulk_energy(potential, element)
        except WhorlError as error:
            missing[element] = str(error)
        except Exception as error:  # whatever a potential of others raises
            missing[element] = f"{type(error).__name__}: {error}"
    return found, missing
