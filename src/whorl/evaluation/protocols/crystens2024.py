"""Alverson et al. 2024: energies above the hull, and four successive relaxations (figures 8, 12 and 13)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whorl.evaluation.distributions import compare
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
from whorl.evaluation.structure_set import RelaxationSettings, StructureSet
from whorl.settings import Count, NonNegative
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cell_parameters, volumes
from whorl.structures.checks import sound_crystals

_KBAR = 10.0  # in GPa


class CrysTens2024(EvaluationProtocol):
    """Energies above the hull as generated, cells against real ones, and four successive relaxations.

    The relaxations are of primitive cells, each from the end of the one before: E0 is the energy before the
    first, E4 that after the fourth, P1 to P4 are the external pressures after each.
    """

    kind = "crystens2024"
    source = "Alverson et al., Digital Discovery 3, 62 (2024), figures 5, 8, 12 and 13"
    departures = (
        "Figure 13 is by VASP with PBEsol, 400 eV and 3 x 3 x 3 k-points, for six crystals; here all "
        "crystals are relaxed by the potential. `whorl dft write` prepares the calculations by VASP.",
        "Figures 8 and 12 are by M3GNet networks for these quantities, with the hull of the Materials "
        "Project; here they are by the potential and the hull that are given.",
    )
    uses = frozenset({"potential", "hull", "reference"})

    class Settings(ProtocolSettings):
        """Settings of the relaxations."""

        relaxations: Count = 4
        """Successive relaxations."""
        relaxation: RelaxationSettings = RelaxationSettings(steps=20)
        """Of each one; those of the publication take about 20 steps."""
        stable: NonNegative = 0.1
        """Energy above the hull in eV/atom below which the share of crystals is stated."""

    settings: Settings

    def evaluate(self, structures: StructureSet) -> ProtocolResult:
        """Return energies above the hull, distances of distributions, energies and pressures."""
        submitted, stable = structures.submitted, self.settings.stable
        metrics: dict[str, Estimate] = {}
        columns: dict[str, list[Any]] = {}
        texts = {
            "energy_above_hull": "Mean energy above the hull, as generated.",
            "formation_energy": "Mean formation energy, as generated.",
            "near_hull": f"At most {stable:g} eV/atom above the hull, as generated, of all.",
        }
        distances = structures.hull_distances("generated")
        if distances is None:
            absent = [name for name in ("potential", "hull") if getattr(structures, name) is None]
            metrics |= {name: lacking(text, *absent) for name, text in texts.items()}
        else:
            energies = {
                name: torch.tensor(
                    [torch.nan if getattr(one, name) is None else getattr(one, name) for one in distances],
                    dtype=torch.float64,
                )
                for name in ("energy_above_hull", "formation_energy")
            }
            for name, values in energies.items():
                metrics[name] = mean(values, unit="eV/atom", text=texts[name])
                columns[name] = cells(values)
            near = at_most(energies["energy_above_hull"], stable)
            metrics["near_hull"] = share(near, of=submitted, text=texts["near_hull"])
            columns["near_hull"] = flags_of(near, energies["energy_above_hull"].isfinite())
        self._relaxations(structures, metrics, columns)
        metrics |= _cells(structures)
        return ProtocolResult(metrics=metrics, columns=columns)

    def _relaxations(
        self, structures: StructureSet, metrics: dict[str, Estimate], columns: dict[str, list[Any]]
    ) -> None:
        """Add energies and pressures of successive relaxations."""
        times = self.settings.relaxations
        names = {
            "E0": "Mean energy of primitive cells before the relaxations, per atom.",
            f"E{times}": f"Mean energy after {times} relaxations, per atom.",
            **{
                f"P{k}": f"Mean size of the external pressure after relaxation {k}."
                for k in range(1, times + 1)
            },
            "lowered": "Energy after the last relaxation is not above that before the first.",
            "converged": "The last relaxation converged, of all.",
        }
        found = structures.successive(self.settings.relaxation, times=times)
        if found is None:
            metrics |= {name: lacking(text, "potential") for name, text in names.items()}
            return
        rows, results = found
        if not results:
            return

        def of_all(values: Tensor) -> Tensor:
            column = torch.full((len(structures),), torch.nan, dtype=torch.float64)
            column[rows] = values
            return column

        atoms = results[0].structures.n_atoms.double()
        known = torch.stack([result.energy.isfinite() for result in results]).all(0)
        energies = [of_all(result.energy / atoms) for result in results]
        initial = torch.where(known, results[0].initial_energy / atoms, torch.nan)
        columns["E0"], columns[f"E{times}"] = cells(of_all(initial)), cells(energies[-1])
        metrics["E0"] = mean(initial, of=len(structures), unit="eV/atom", text=names["E0"])
        metrics[f"E{times}"] = mean(energies[-1], unit="eV/atom", text=names[f"E{times}"])
        for number, result in enumerate(results, start=1):
            pressure = of_all(_KBAR * result.pressure)
            columns[f"P{number}"] = cells(pressure)
            metrics[f"P{number}"] = mean(pressure.abs(), unit="kbar", text=names[f"P{number}"])
        lower = (energies[-1][rows] <= initial + 1e-6)[known]
        metrics["lowered"] = share(lower, text=names["lowered"])
        converged = torch.tensor([one == "converged" for one in results[-1].status], dtype=torch.bool)
        metrics["converged"] = share(converged, of=structures.submitted, text=names["converged"])
        columns["converged"] = [None] * len(structures)
        columns["status"] = [None] * len(structures)
        last = zip(rows.tolist(), converged.tolist(), results[-1].status, strict=True)
        for row, flag, status in last:
            columns["converged"][row], columns["status"][row] = flag, status


def _cells(structures: StructureSet) -> dict[str, Estimate]:
    """Return the Kolmogorov–Smirnov statistics of cells and volumes against the reference (figure 5)."""
    reference = structures.reference
    crystals = structures.sound & structures.structures.pbc.all(1)
    text = "Kolmogorov-Smirnov statistic of {} against the reference."
    if reference is not None:
        reference = reference[sound_crystals(reference)]
    made = _quantities(structures.structures[crystals])
    if reference is None or not len(reference) or not bool(crystals.any()):
        return {f"ks_{name}": lacking(text.format(name), "reference") for name in made}
    real = _quantities(reference)
    return {
        f"ks_{name}": Estimate(
            value=compare(name, made[name], real[name]).statistic,
            count=len(made[name]),
            of=len(made[name]),
            unit="statistic",
            text=text.format(name),
        )
        for name in made
    }


def _quantities(crystals: StructureBatch) -> dict[str, Tensor]:
    parameters = cell_parameters(crystals.cells)
    return {
        **dict(zip("abc", parameters[:, :3].round(decimals=3).unbind(1), strict=True)),
        **dict(zip(("alpha", "beta", "gamma"), parameters[:, 3:].round(decimals=2).unbind(1), strict=True)),
        "volume_per_atom": volumes(crystals.cells) / crystals.n_atoms.clamp(min=1),
        "atoms": crystals.n_atoms.double(),
    }
