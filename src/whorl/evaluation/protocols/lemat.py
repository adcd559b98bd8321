"""LeMat-GenBench: stable and metastable, unique and novel crystals (arXiv:2512.04562)."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import Part
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.evaluation.estimates import Estimate, mean, share
from whorl.evaluation.protocols.base import (
    EvaluationProtocol,
    ProtocolResult,
    at_most,
    densities,
    flags_of,
    lacking,
)
from whorl.evaluation.protocols.settings import ProtocolSettings
from whorl.evaluation.structure_set import StructureSet, Which
from whorl.potentials.schemes import error_against_dft
from whorl.settings import NonNegative, Positive
from whorl.structures.batch import StructureBatch
from whorl.structures.neighbors import neighbor_list

_AT_ONCE = 500


class LeMat(EvaluationProtocol):
    """S.U.N. and MetaS.U.N. crystals by energies of the structures as generated, without relaxation.

    That is what the code of LeMat-GenBench does: it also relaxes and stores energies of relaxed structures,
    which no share reads. They are in addition here, as ``relaxed_…``.
    """

    kind = "lemat"
    source = "arXiv:2512.04562; github.com/LeMaterial/lemat-genbench (multi_mlip_preprocess, sun_metric)"
    departures = (
        "LeMat-GenBench averages over ORB-v3, MACE-MP and UMA, each with the hull of its own energies.",
        "LeMat-GenBench tests charge neutrality by bond valences and by oxidation states of LeMat-Bulk; here "
        "it is smact's test.",
        "Shares are of all that came in, and invalid structures count as not stable; LeMat-GenBench takes "
        "them of the valid ones (sun_of_valid, metasun_of_valid).",
        "Crystals are compared by StructureMatcher; LeMat-GenBench also offers the hash BAWL.",
        "One crystal of each group of equal ones counts; LeMat-GenBench keeps one of all groups of one size.",
        "Cells of one atom are valid; in LeMat-GenBench they never are.",
    )
    uses = frozenset({"potential", "relaxation", "hull", "reference"})

    class Settings(ProtocolSettings):
        """Settings of LeMat-GenBench."""

        stable: NonNegative = 0.0
        """Largest energy above the hull of a stable crystal, in eV/atom."""
        metastable: NonNegative = 0.1
        """Largest energy above the hull of a metastable crystal, in eV/atom."""
        matcher: MatcherSettings = MatcherSettings(ltol=0.1)
        """Comparison of generated crystals with each other and with the reference."""
        distances: Positive = 0.5
        """Shortest distance of two atoms over the sum of 0.7 Å and their atomic radii."""
        least_density: NonNegative = 0.01
        """In g/cm³."""
        largest_density: Positive = 25.0
        """In g/cm³."""

    settings: Settings

    @property
    def matching(self) -> tuple[MatcherSettings, Which]:
        """Generated crystals."""
        return self.settings.matcher, "generated"

    def evaluate(self, structures: StructureSet) -> ProtocolResult:
        """Return shares of valid, unique, novel, stable and metastable crystals."""
        settings, submitted = self.settings, structures.submitted
        valid, metrics = self._valid(structures)
        unique = structures.unique(settings.matcher, "generated") & valid
        novel = structures.novel(settings.matcher, "generated")
        energy = structures.energy_above_hull("generated")
        columns: dict[str, list[Any]] = {
            "valid": valid.tolist(),
            "unique": flags_of(unique, structures.sound),
        }
        count = int(valid.sum())
        metrics["unique"] = share(unique[valid], text="One of each group of equal crystals, of valid ones.")
        if novel is None:
            metrics["novel"] = lacking("Not in the reference, of valid ones.", "reference")
        else:
            metrics["novel"] = share(novel[valid], text="Not in the reference, of valid ones.")
            columns["novel"] = flags_of(novel, structures.sound)
        absent = [name for name in ("potential", "hull") if getattr(structures, name) is None]
        definitions = {
            "stable": f"At most {settings.stable:g} eV/atom above the hull, unrelaxed",
            "metastable": f"Above that and at most {settings.metastable:g} eV/atom, unrelaxed",
        }
        for kind, text in definitions.items():
            sun, names = {"stable": "sun", "metastable": "metasun"}[kind], [*absent]
            if energy is None:
                metrics[kind] = lacking(f"{text}, of all.", *absent)
            else:
                flags = self._flags(kind, energy) & valid
                metrics[kind] = share(flags, of=submitted, text=f"{text}, of all.")
                columns[kind] = flags_of(flags, energy.isfinite())
            if energy is None or novel is None:
                names += ["reference"] if novel is None else []
                metrics[sun] = lacking(f"{text}, unique and novel, of all.", *names)
                metrics[f"{sun}_of_valid"] = lacking(f"{text}, unique and novel, of valid ones.", *names)
            else:
                found = self._flags(kind, energy) & unique & novel
                metrics[sun] = share(found, of=submitted, text=f"{text}, unique and novel, of all.")
                metrics[f"{sun}_of_valid"] = share(
                    found, of=count, text=f"{text}, unique and novel, of valid ones."
                )
                columns[sun] = found.tolist()
        text = "Mean energy above the hull as generated, of valid ones."
        metrics["energy_above_hull"] = (
            lacking(text, *absent) if energy is None else mean(energy[valid], unit="eV/atom", text=text)
        )
        metrics |= self._relaxed(structures, valid, absent)
        return ProtocolResult(
            metrics=metrics, columns=columns, departures=_potential_of(structures, settings.stable)
        )

    def _flags(self, kind: str, energy: Tensor) -> Tensor:
        stable = at_most(energy, self.settings.stable)
        return stable if kind == "stable" else at_most(energy, self.settings.metastable) & ~stable

    def _valid(self, structures: StructureSet) -> tuple[Tensor, dict[str, Estimate]]:
        """Return which structures are valid, and the shares of each test."""
        checked, submitted, settings = structures.checked(), structures.submitted, self.settings
        chunks = list(structures.structures.chunks(_AT_ONCE))
        function = partial(_far_enough, settings.distances)
        parts = structures.map("distances", function, chunks, key=settings.distances)
        none = torch.zeros(0, dtype=torch.bool)
        apart = torch.cat([none, *(part.tensors["apart"] for part in parts)]) & structures.sound
        density = densities(structures.structures)
        plausible = (density >= settings.least_density) & (density <= settings.largest_density)
        neutral = torch.ones_like(apart) if checked.neutral is None else checked.neutral
        tests = {
            "charge_neutral": (neutral, "Oxidation states add up to zero."),
            "distances": (apart, "Atoms are at least half of 0.7 Å and their radii apart."),
            "density": (plausible, "Density from 0.01 to 25 g/cm³."),
            "valid": (neutral & apart & plausible & structures.sound, "All of these."),
        }
        shares = {name: share(flags, of=submitted, text=text) for name, (flags, text) in tests.items()}
        return tests["valid"][0], shares

    def _relaxed(self, structures: StructureSet, valid: Tensor, absent: list[str]) -> dict[str, Estimate]:
        """Return the same of relaxed structures, and displacements."""
        text = "Mean energy above the hull after the relaxation, of valid ones."
        energy = structures.energy_above_hull("final")
        names = [*absent, *(["relaxation"] if structures.relaxation is None else [])]
        if energy is None or structures.relaxation is None:
            found = {
                "relaxed_energy_above_hull": lacking(text, *names),
                "relaxed_stable": lacking("Stable after the relaxation, of all.", *names),
                "relaxed_metastable": lacking("Metastable after the relaxation, of all.", *names),
            }
        else:
            found = {"relaxed_energy_above_hull": mean(energy[valid], unit="eV/atom", text=text)}
            for kind in ("stable", "metastable"):
                found[f"relaxed_{kind}"] = share(
                    self._flags(kind, energy) & valid,
                    of=structures.submitted,
                    text=f"{kind.capitalize()} after the relaxation, of all.",
                )
        text = "Root mean square difference of positions before and after the relaxation, not aligned."
        if structures.relaxation is None:
            found["rmse"] = lacking(text, "relaxation")
        else:
            rows = structures.is_relaxed & valid
            found["rmse"] = mean(_rmse(structures)[rows], unit="Å", text=text)
        return found


def _rmse(structures: StructureSet) -> Tensor:
    given, final = structures.structures, structures.final
    square = (final.positions - given.positions).square().sum(1)
    sums = square.new_zeros(len(given)).index_add(0, given.structure_index, square)
    return (sums / given.n_atoms).sqrt()


def _far_enough(factor: float, structures: StructureBatch) -> Part:
    """Return in which structures all pairs of atoms are far enough apart."""
    radii = _radii()[structures.atomic_numbers.clamp(0, 118)]
    known = radii.isfinite()
    apart = torch.ones(len(structures), dtype=torch.bool)
    apart[structures.structure_index[~known]] = False
    sound = structures.cells.isfinite().flatten(1).all(1)
    sound[structures.structure_index[~structures.positions.isfinite().all(1)]] = False
    sound &= (torch.linalg.det(structures.cells.nan_to_num()).abs() > 1e-3) | ~structures.pbc.all(1)
    apart &= sound
    rows = torch.nonzero(sound).flatten()
    if not len(rows):
        return Part({"apart": apart})
    some = structures[rows]
    radii = _radii()[some.atomic_numbers.clamp(0, 118)].nan_to_num()
    pairs = neighbor_list(some, cutoff=factor * (0.7 + 2 * float(radii.max())))
    least = factor * (0.7 + radii[pairs.first] + radii[pairs.second])
    # An atom and its own image are no pair.
    near = (pairs.vectors(some).norm(dim=-1) < least) & (pairs.first != pairs.second)
    apart[rows[some.structure_index[pairs.first[near]]]] = False
    return Part({"apart": apart})


def _radii() -> Tensor:
    """Return pymatgen's atomic radii in Å by atomic number, NaN where there is none."""
    from pymatgen.core import Element

    values = [torch.nan]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without a radius
        for number in range(1, 119):
            radius = Element.from_Z(number).atomic_radius
            values.append(torch.nan if radius is None else float(radius))
    return torch.tensor(values, dtype=torch.float64)


def _potential_of(structures: StructureSet, stable: float) -> tuple[str, ...]:
    potential, hull = structures.potential, structures.hull
    if potential is None:
        return ()
    departures = [f"Energies are those of {potential.name}."]
    if hull is not None and hull.potential is None:
        # Within the energies of one method, a part of its errors cancels.
        error = error_against_dft(potential.name)
        departures.append(
            f"The limit of {stable:g} eV/atom is below the accuracy of {potential.name} on a hull that is "
            f"not its own{f' ({error})' if error else ''}: a single crystal may be stable, or not, by error."
        )
    return tuple(departures)
