"""MatterGen's evaluation: stable, unique and novel crystals (Zeni et al., Nature 639, 624 (2025))."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.evaluation.estimates import Estimate, mean, share
from whorl.evaluation.protocols.base import (
    EvaluationProtocol,
    ProtocolResult,
    at_most,
    cells,
    flags_of,
    lacking,
)
from whorl.evaluation.protocols.settings import ProtocolSettings
from whorl.evaluation.structure_set import StructureSet, Which
from whorl.settings import NonNegative
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cell_parameters


class MatterGen(EvaluationProtocol):
    """S.U.N. crystals: relaxed, at most 0.1 eV/atom above the hull, unique, and not in the reference.

    Shares of stable and of S.U.N. crystals are of all that were submitted; those of unique, novel and valid
    ones are of the crystals with an energy.
    """

    kind = "mattergen"
    source = "Zeni et al., Nature 639, 624 (2025); github.com/microsoft/mattergen, mattergen/evaluation"
    departures = (
        "A structure with an element that the hull lacks has a reason and counts as not stable; MatterGen "
        "leaves out all energies of all structures.",
        "Recall and the energy above the hull that includes the samples are not computed.",
    )
    uses = frozenset({"potential", "relaxation", "hull", "reference"})

    class Settings(ProtocolSettings):
        """Settings of MatterGen's evaluation."""

        stable: NonNegative = 0.1
        """Largest energy above the hull of a stable crystal, in eV/atom."""
        matcher: MatcherSettings = MatcherSettings(order="candidate first", disordered=True)
        """Comparison of relaxed crystals with each other and with the reference: as they are, then with
        elements mixed that may substitute for each other."""
        displacement: MatcherSettings = MatcherSettings(ltol=0.5, stol=0.5, angle_tol=10.0)
        """Comparison of generated with relaxed crystals, without scaling and with supercells; where they do
        not match, ``stol`` is the displacement in units of (V/N)^⅓."""

    settings: Settings

    @property
    def matching(self) -> tuple[MatcherSettings, Which]:
        """Relaxed crystals, ``fit(candidate, kept or known)``."""
        return self.settings.matcher, "final"

    def evaluate(self, structures: StructureSet) -> ProtocolResult:
        """Return shares of stable, unique, novel and valid crystals, mean energy above the hull and RMSD."""
        settings, submitted = self.settings, structures.submitted
        entries = structures.usable("final")
        count = int(entries.sum())
        unique = structures.unique(settings.matcher, "final")
        novel = structures.novel(settings.matcher, "final")
        energy = structures.energy_above_hull("final")
        checked = structures.checked("final")
        metrics: dict[str, Estimate] = {
            "successful": share(
                entries, of=submitted, text="Structures with an energy, or usable without one."
            ),
        }
        columns: dict[str, list[Any]] = {"unique": flags_of(unique, entries)}
        text = f"At most {settings.stable:g} eV/atom above the hull, of all submitted."
        stable = None if energy is None else at_most(energy, settings.stable)
        if stable is None or energy is None:
            metrics["stable"] = lacking(text, *_absent(structures, "potential", "hull"))
        else:
            metrics["stable"] = share(stable, of=submitted, text=text)
            columns["stable"] = flags_of(stable, energy.isfinite())
        text = "Stable, unique and novel, of all submitted."
        if stable is None or novel is None:
            metrics["sun"] = lacking(text, *_absent(structures, "potential", "hull", "reference"))
        else:
            sun = stable & unique & novel
            metrics["sun"] = share(sun, of=submitted, text=text)
            columns["sun"] = sun.tolist()
        metrics["unique"] = share(
            unique[entries], text="First of their kind in the set, of those with an energy."
        )
        if novel is None:
            metrics["novel"] = lacking("Not in the reference.", "reference")
            metrics["novel_unique"] = lacking("Novel and unique.", "reference")
        else:
            metrics["novel"] = share(novel[entries], text="Not in the reference, of those with an energy.")
            metrics["novel_unique"] = share((novel & unique)[entries], text="Novel and unique, likewise.")
            columns["novel"] = flags_of(novel, entries)
        text = "Mean energy above the hull, of those for which it is known."
        metrics["energy_above_hull"] = (
            lacking(text, *_absent(structures, "potential", "hull"))
            if energy is None
            else mean(energy, unit="eV/atom", text=text)
        )
        rmsd = self._rmsd(structures)
        text = "Root mean square displacement of the atoms by the relaxation."
        if rmsd is None:
            metrics["rmsd"] = lacking(text, "relaxation")
        else:
            metrics["rmsd"] = mean(rmsd, unit="Å", text=text)
            columns["rmsd"] = cells(rmsd)
        metrics["valid_structure"] = share(
            checked.valid[entries], text="No atoms within 0.5 Å and at least 0.1 Å³."
        )
        if checked.neutral is not None:
            metrics["valid_composition"] = share(
                checked.neutral[entries], text="Oxidation states add up to zero (smact)."
            )
            metrics["valid"] = share((checked.valid & checked.neutral)[entries], text="Both.")
        metrics |= _systems(structures, entries, count)
        return ProtocolResult(metrics=metrics, columns=columns, departures=_energies_of(structures))

    def _rmsd(self, structures: StructureSet) -> Tensor | None:
        """Return displacements in Å; those that do not match get the largest that the matcher allows."""
        found = structures.rmsd(self.settings.displacement, scale=False, supercells=True)
        if found is None:
            return None
        parameters = (
            cell_parameters(structures.structures.cells) + cell_parameters(structures.final.cells)
        ) / 2
        size = (_volumes(parameters) / structures.structures.n_atoms).pow(1 / 3)
        relaxed = structures.is_relaxed & structures.structures.pbc.all(1)
        unmatched = relaxed & ~found.angstrom.isfinite()
        return torch.where(unmatched, self.settings.displacement.stol * size, found.angstrom)


def _volumes(parameters: Tensor) -> Tensor:
    """Return volumes of cells from lengths and angles in degrees."""
    a, b, c = parameters[:, :3].unbind(1)
    cosines = torch.cos(torch.deg2rad(parameters[:, 3:]))
    square = 1 - cosines.square().sum(1) + 2 * cosines.prod(1)
    return a * b * c * square.clamp(min=0).sqrt()


def _absent(structures: StructureSet, *names: str) -> list[str]:
    return [name for name in names if getattr(structures, name) is None]


def _energies_of(structures: StructureSet) -> tuple[str, ...]:
    """Say by what the energies were computed, where MatterGen has DFT or MatterSim."""
    if structures.potential is None:
        return ("No structure was relaxed, and there are no energies.",)
    name = structures.potential.name
    if structures.relaxation is None:
        return (f"Structures are not relaxed; energies are those of {name}.",)
    return (
        f"Structures are relaxed by {name}; MatterGen relaxes by MatterSim, and published values are by DFT.",
    )


def systems_of(structures: StructureBatch) -> list[frozenset[int]]:
    """Return the set of elements of each structure."""
    numbers = structures.atomic_numbers.split(structures.n_atoms.tolist()) if len(structures) else ()
    return [frozenset(one.tolist()) for one in numbers]


def _systems(structures: StructureSet, entries: Tensor, count: int) -> dict[str, Estimate]:
    found = {
        system
        for system, entry in zip(systems_of(structures.structures), entries.tolist(), strict=True)
        if entry
    }
    metrics = {"unique_systems": _ratio(len(found), count, "Different sets of elements over crystals.")}
    text = "Those that the reference lacks, over crystals."
    if structures.reference is None:
        metrics["novel_systems"] = lacking(text, "reference")
    else:
        new = found - set(systems_of(structures.reference))
        metrics["novel_systems"] = _ratio(len(new), count, text)
    return metrics


def _ratio(count: int, of: int, text: str) -> Estimate:
    # No share of independent events: no interval.
    return Estimate(value=count / of if of else None, count=count, of=of, text=text)
