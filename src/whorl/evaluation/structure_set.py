"""Sets of structures with all that protocols ask of them, each quantity computed once and kept in parts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.chunked import PART_NAME, Part, map_chunks
from whorl.errors import MissingExtraError, WhorlError, shortened
from whorl.evaluation.crystals.rmsd import PairRmsd, rmsd_of_pairs
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.evaluation.duplicates import distinct, first_known
from whorl.evaluation.hull import HullDistance, HullReference
from whorl.evaluation.validity import check_validity
from whorl.potentials.base import Potential
from whorl.potentials.relaxation import relaxed
from whorl.settings import Count, Positive, Section
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.symmetry.detection import standardized

Progress = Callable[[str], Callable[[int, int], None]]
Which = Literal["generated", "final"]
"""Structures as they came in, or as they are after the relaxation where there is one."""

_CHECKED_AT_ONCE = 500
_RELAXED_AT_ONCE = 16  # structures between two saves
_COMPUTED_AT_ONCE = 32
_TO_GPA = 160.21766208  # of eV/Å³
_RELAXED = ("converged", "not converged")
_NUMBERS = ("energy", "initial_energy", "max_force", "pressure", "max_stress")


class RelaxationSettings(Section):
    """How structures are relaxed by a potential."""

    cell: bool = True
    """Relax the cell too."""
    optimizer: Literal["lbfgs", "fire"] = "lbfgs"
    """Algorithm of the relaxation."""
    force_tolerance: Positive = 0.05
    """Largest force on any atom at the end, in eV/Å."""
    stress_tolerance: Positive = 0.1
    """Largest component of the stress at the end, in GPa."""
    steps: Count = 500
    """Maximum number of steps."""
    pressure: float = 0.0
    """External pressure in GPa."""
    symmetry: bool = False
    """Keep the space group of each crystal."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Geometry of B structures.

    Attributes:
        valid: No two atoms within 0.5 Å, and at least 0.1 Å³ (Xie et al., ICLR 2022).
        neutral: Known oxidation states add up to zero (smact); None without smact.
        shortest_distance: In Å; infinite above 3 Å.
        remarks: Reasons why each is not valid, or not neutral; empty for none.
    """

    valid: Bool[Tensor, "B"]
    neutral: Bool[Tensor, "B"] | None
    shortest_distance: Float[Tensor, "B"]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Computed:
    """Structures and energies of B structures by a potential, after the relaxation where there is one.

    Attributes:
        structures: The relaxed ones; as they came in where there is no relaxed one.
        status: ``evaluated``, or one of :data:`whorl.potentials.relaxation.STATUSES`.
        reasons: By index, where something is missing.
        energy: In eV, shape (B,); NaN where unknown, as all other numbers.
        initial_energy: In eV, of the structures as they came in.
        max_force: In eV/Å.
        pressure: In GPa.
        max_stress: In GPa.
        steps: Of the relaxation, 0 without one.
    """

    structures: StructureBatch
    status: tuple[str, ...]
    reasons: Mapping[int, str] = field(default_factory=dict)
    energy: Float[Tensor, "B"]
    initial_energy: Float[Tensor, "B"]
    max_force: Float[Tensor, "B"]
    pressure: Float[Tensor, "B"]
    max_stress: Float[Tensor, "B"]
    steps: Int[Tensor, "B"]


class StructureSet:
    """B structures of one set, with quantities that are computed when first asked for, and once.

    What cannot be a structure (coinciding atoms, cells without volume …) is left out of all computations; a
    structure whose computation fails affects no other.

    Args:
        structures: Those that could be read.
        submitted: How many came in: the denominator of shares. By default those that could be read.
        reference: Known crystals, for novelty and distributions.
        potential: Energy method.
        relaxation: How to relax structures by it; None to leave them as they are.
        hull: Reference phases for energies above the hull.
        scheme: Energy scheme of the potential; by default what it says itself.
        targets: Values of the property that they were generated for, NaN where unknown.
        directory: Where finished parts are kept; None to keep none.
        progress: Called with the name of a computation, returns its callback.

    >>> from ase.build import bulk
    >>> from whorl.potentials import make_potential
    >>> from whorl.structures import from_ase
    >>> copper = from_ase([bulk("Cu"), bulk("Cu") * (2, 1, 1)])
    >>> made = StructureSet(copper, potential=make_potential("emt"))
    >>> made.unique(MatcherSettings(), "final").tolist(), made.status
    ([True, False], ('evaluated', 'evaluated'))
    """

    def __init__(
        self,
        structures: StructureBatch,
        *,
        submitted: int | None = None,
        reference: StructureBatch | None = None,
        potential: Potential | None = None,
        relaxation: RelaxationSettings | None = None,
        hull: HullReference | None = None,
        scheme: str | None = None,
        targets: Float[Tensor, "B"] | None = None,
        directory: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.structures = structures.to(device="cpu", dtype=torch.float64).replace(info=())
        self.submitted = len(structures) if submitted is None else submitted
        self.reference = None if reference is None else reference.replace(info=())
        self.potential, self.relaxation, self.hull = potential, relaxation, hull
        self.scheme = scheme or getattr(potential, "scheme", None) or "unknown"
        self.targets = targets
        self.directory, self._progress = directory, progress
        self._checks = cache(self._check)
        self._matches = cache(self._match)
        self._rmsds = cache(self._rmsd)

    def __len__(self) -> int:
        """Return the number of structures that were read."""
        return len(self.structures)

    def map(
        self, name: str, function: Callable[[Any], Part], chunks: Sequence[Any], *, key: Any
    ) -> list[Part]:
        """Return ``[function(chunk) for chunk in chunks]``, by any executor; finished chunks are read again.

        Args:
            name: Of the computation, for progress and for the folder of its chunks.
            function: As :func:`whorl.chunked.map_chunks` wants it.
            chunks: Structures.
            key: JSON-able: everything but the chunk itself that the result depends on.
        """
        progress = None if self._progress is None else self._progress(name)
        return map_chunks(function, chunks, folder=self._folder(name), key=[name, key], progress=progress)

    @cached_property
    def problems(self) -> dict[int, str]:
        """Structures that cannot be used, and why."""
        return find_problems(self.structures)

    @cached_property
    def sound(self) -> Bool[Tensor, "B"]:
        """Which structures can be used."""
        sound = torch.ones(len(self), dtype=torch.bool)
        sound[list(self.problems)] = False
        return sound

    def checked(self, which: Which = "generated") -> Checked:
        """Return the validity of the structures."""
        if self.relaxation is None or which == "generated":
            return self._checks("generated")
        return self._checks("final")

    def _check(self, which: Which) -> Checked:
        chemistry = importlib.util.find_spec("smact") is not None
        chunks = list((self.structures if which == "generated" else self.final).chunks(_CHECKED_AT_ONCE))
        parts = self.map("validity", partial(_checked, chemistry), chunks, key=chemistry)

        def joined(name: str, empty: Tensor) -> Tensor:
            return torch.cat([empty, *(part.tensors[name] for part in parts)])

        none = torch.zeros(0, dtype=torch.bool)
        return Checked(
            valid=joined("valid", none),
            neutral=joined("neutral", none) if chemistry else None,
            shortest_distance=joined("shortest", torch.zeros(0, dtype=torch.float64)),
            remarks=tuple(text for part in parts for text in part.notes),
        )

    @cached_property
    def computed(self) -> Computed | None:
        """Energies and, if they are asked for, relaxed structures; None without a potential."""
        if self.potential is None:
            return None
        rows = torch.nonzero(self.sound).flatten()
        work = "energies" if self.relaxation is None else "relaxation"
        own = self._compute(work, self.structures[rows], self.relaxation)
        values = {}
        for name in _NUMBERS:
            values[name] = torch.full((len(self),), torch.nan, dtype=torch.float64)
            values[name][rows] = getattr(own, name)
        status, steps = ["unphysical"] * len(self), torch.zeros(len(self), dtype=torch.int64)
        for row, one in zip(rows.tolist(), own.status, strict=True):
            status[row] = one
        steps[rows] = own.steps
        positions, cells = self.structures.positions.clone(), self.structures.cells.clone()
        positions[self.sound[self.structures.structure_index]] = own.structures.positions
        cells[rows] = own.structures.cells
        return Computed(
            structures=self.structures.replace(positions=positions, cells=cells),
            status=tuple(status),
            reasons={**self.problems, **{int(rows[k]): reason for k, reason in own.reasons.items()}},
            steps=steps,
            **values,
        )

    def _compute(
        self, work: str, structures: StructureBatch, relaxation: RelaxationSettings | None
    ) -> Computed:
        """Compute structures by the potential, in parts of the name ``work``."""
        assert self.potential is not None
        key: dict[str, Any] = {"potential": self.potential.name}
        function: Callable[[StructureBatch], Part] = partial(_single_points, self.potential)
        size = _COMPUTED_AT_ONCE
        if relaxation is not None:
            options, size = relaxation.model_dump(mode="json"), _RELAXED_AT_ONCE
            key |= options
            function = partial(_relaxed, self.potential, options)
        parts = self.map(work, function, list(structures.chunks(size)), key=key)
        self._forget_raised(work, parts)
        none = torch.zeros(0, dtype=torch.float64)
        values = {name: torch.cat([none, *(p.tensors[name].double() for p in parts)]) for name in _NUMBERS}
        if parts:
            structures = structures.replace(
                positions=torch.cat([part.tensors["positions"] for part in parts]),
                cells=torch.cat([part.tensors["cells"] for part in parts]),
            )
        return Computed(
            structures=structures,
            status=tuple(one for part in parts for one in part.notes["status"]),
            reasons={
                number * size + int(k): reason
                for number, part in enumerate(parts)
                for k, reason in part.notes["reasons"].items()
            },
            steps=torch.cat([none.long(), *(part.tensors["steps"].long() for part in parts)]),
            **values,
        )

    def successive(
        self, relaxation: RelaxationSettings, *, times: int
    ) -> tuple[Int[Tensor, "b"], list[Computed]] | None:
        """Relax the primitive cells of the crystals several times, each time from the end of the time before.

        Args:
            relaxation: Settings of each relaxation.
            times: How often.

        Returns:
            Which structures these are, and the result of each time; None without a potential.
        """
        if self.potential is None:
            return None
        rows = torch.nonzero(self.sound & self.structures.pbc.all(1)).flatten()
        structures = standardized(self.structures[rows], cell="primitive")
        results = []
        for number in range(1, times + 1):
            results.append(self._compute(f"relaxation {number}", structures, relaxation))
            structures = results[-1].structures
        return rows, results

    @cached_property
    def status(self) -> tuple[str, ...]:
        """Status of each structure."""
        if self.computed is not None:
            return self.computed.status
        return tuple("evaluated" if sound else "unphysical" for sound in self.sound.tolist())

    @cached_property
    def reasons(self) -> dict[int, str]:
        """Why something is missing, by index."""
        return dict(self.problems if self.computed is None else self.computed.reasons)

    @cached_property
    def is_relaxed(self) -> Bool[Tensor, "B"]:
        """Which structures have a relaxed one."""
        return torch.tensor([one in _RELAXED for one in self.status], dtype=torch.bool)

    @cached_property
    def final(self) -> StructureBatch:
        """Relaxed structures; as they came in where there is no relaxed one."""
        return self.structures if self.computed is None else self.computed.structures

    @cached_property
    def succeeded(self) -> Bool[Tensor, "B"]:
        """Which structures have an energy, or without a potential can be used at all."""
        return self.sound if self.computed is None else self.computed.energy.isfinite()

    def usable(self, which: Which) -> Bool[Tensor, "B"]:
        """Return which structures can be compared with others."""
        return self.sound if which == "generated" else self.sound & self.succeeded

    def energies(self, which: Which) -> Float[Tensor, "B"] | None:
        """Return total energies in eV, NaN where unknown; None without a potential."""
        if self.computed is None:
            return None
        return self.computed.initial_energy if which == "generated" else self.computed.energy

    @cached_property
    def _distances(self) -> dict[str, list[HullDistance]]:
        return {}

    def hull_distances(self, which: Which) -> list[HullDistance] | None:
        """Return what the hull says of each structure; None without hull or potential."""
        energies = self.energies(which)
        if self.hull is None or energies is None or self.potential is None:
            return None
        if which == "generated" and self.relaxation is None:
            which = "final"
        if which not in self._distances:
            found = [HullDistance(reason=self.reasons.get(row, "")) for row in range(len(self))]
            rows = torch.nonzero(energies.isfinite()).flatten().tolist()
            if rows:
                # The composition counts, and the bonds where an energy is to be corrected.
                structures = (self.final if which == "final" else self.structures)[rows]
                distances = self.hull.evaluate(
                    structures, energies[rows].tolist(), self.scheme, potential=self.potential.name
                )
                for row, distance in zip(rows, distances, strict=True):
                    found[row] = distance
            self._distances[which] = found
        return self._distances[which]

    def energy_above_hull(self, which: Which) -> Float[Tensor, "B"] | None:
        """Return energies above the hull in eV/atom, NaN where unknown; None without hull or potential."""
        distances = self.hull_distances(which)
        if distances is None:
            return None
        values = [torch.nan if one.energy_above_hull is None else one.energy_above_hull for one in distances]
        return torch.tensor(values, dtype=torch.float64)

    def groups(self, matcher: MatcherSettings, which: Which) -> Int[Tensor, "B"]:
        """Return for each structure the first one that is the same crystal; -1 for what is no crystal."""
        return self._matches("uniqueness", _frozen(matcher), which)

    def unique(self, matcher: MatcherSettings, which: Which) -> Bool[Tensor, "B"]:
        """Return which structures are the first of their kind."""
        return self.groups(matcher, which) == torch.arange(len(self))

    def known(self, matcher: MatcherSettings, which: Which) -> Int[Tensor, "B"] | None:
        """Return which structure of the reference each one matches first, -1 for none; None without one."""
        return None if self.reference is None else self._matches("novelty", _frozen(matcher), which)

    def novel(self, matcher: MatcherSettings, which: Which) -> Bool[Tensor, "B"] | None:
        """Return which crystals match none of the reference; None without one."""
        known = self.known(matcher, which)
        return None if known is None else (known < 0) & (self.groups(matcher, which) >= 0)

    def rmsd(self, matcher: MatcherSettings, *, scale: bool, supercells: bool) -> PairRmsd | None:
        """Return displacements from structures as they came in to relaxed ones; None without relaxation.

        Args:
            matcher: Tolerances.
            scale: Whether cells are brought to one volume first.
            supercells: Whether primitive cells of different size are compared.
        """
        return None if self.relaxation is None else self._rmsds(_frozen(matcher), scale, supercells)

    def _match(self, name: str, matcher: tuple[tuple[str, Any], ...], which: Which) -> Tensor:
        structures = self.final if which == "final" else self.structures
        if which == "final" and self.relaxation is None and self.succeeded.equal(self.sound):
            return self._matches(name, matcher, "generated")
        usable = self.usable(which) & structures.pbc.all(1)
        rows = torch.nonzero(usable).flatten()
        found = torch.full((len(self),), -1)
        options: dict[str, Any] = {
            "settings": MatcherSettings(**dict(matcher)),
            "folder": self._folder(name),
            "progress": None if self._progress is None else self._progress(name),
        }
        if not len(rows):
            return found
        if name == "novelty":
            assert self.reference is not None
            found[rows] = first_known(structures[rows], self.reference, **options)
        else:
            for group in distinct(structures[rows], **options):
                found[rows[group]] = rows[group[0]]
        return found

    def _rmsd(self, matcher: tuple[tuple[str, Any], ...], scale: bool, supercells: bool) -> PairRmsd:
        rows = torch.nonzero(self.is_relaxed & self.structures.pbc.all(1)).flatten()
        pairs = [
            StructureBatch.concatenate([self.final[chunk], self.structures[chunk]])
            for chunk in (rows.split(_COMPUTED_AT_ONCE) if len(rows) else ())
        ]
        function = partial(_rmsd_of_halves, dict(matcher), scale, supercells)
        parts = self.map("displacements", function, pairs, key=[dict(matcher), scale, supercells])
        values = {}
        for name in ("normalized", "angstrom"):
            values[name] = torch.full((len(self),), torch.nan, dtype=torch.float64)
            if parts:
                values[name][rows] = torch.cat([part.tensors[name] for part in parts])
        return PairRmsd(**values)

    def _forget_raised(self, name: str, parts: Sequence[Part]) -> None:
        """Remove kept parts with an error that nobody expected: the next run tries them again."""
        folder = self._folder(name)
        for number, part in enumerate(parts):
            if folder is not None and part.notes.get("raised"):
                (folder / PART_NAME.format(number)).unlink(missing_ok=True)

    def _folder(self, name: str) -> Path | None:
        return None if self.directory is None else self.directory / name


def _frozen(matcher: MatcherSettings) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(matcher.model_dump().items()))


# Parts of the work; they run in executors


def _checked(chemistry: bool, structures: StructureBatch) -> Part:
    found = check_validity(structures, chemistry=chemistry)
    tensors = {"valid": found.structurally_valid, "shortest": found.shortest_distance}
    if found.charge_neutral is not None:
        tensors["neutral"] = found.charge_neutral
    return Part(tensors, found.reasons())


def _one_by_one(compute: Callable[[StructureBatch], Part], structures: StructureBatch) -> Part:
    """Compute structures together; where this raises, each on its own, so that one costs no other."""
    try:
        return compute(structures)
    except MissingExtraError:
        raise
    except Exception as error:  # whatever a potential of others raises
        if len(structures) > 1:
            parts = [_one_by_one(compute, structure) for structure in structures]
            return Part(
                {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors},
                {
                    "status": [one for part in parts for one in part.notes["status"]],
                    "reasons": {
                        str(k): reason
                        for k, part in enumerate(parts)
                        for reason in part.notes["reasons"].values()
                    },
                    "raised": True,
                },
            )
        nan = torch.full((1,), torch.nan, dtype=torch.float64)
        reason = shortened(
            str(error) if isinstance(error, WhorlError) else f"{type(error).__name__}: {error}", 300
        )
        return Part(
            {
                **dict.fromkeys(_NUMBERS, nan),
                "steps": torch.zeros(1, dtype=torch.int64),
                "positions": structures.positions,
                "cells": structures.cells,
            },
            {"status": ["failed"], "reasons": {"0": reason}, "raised": True},
        )


def _single_points(potential: Potential, structures: StructureBatch) -> Part:
    return _one_by_one(partial(_single_points_of, potential), structures)


def _single_points_of(potential: Potential, structures: StructureBatch) -> Part:
    output = potential(structures)
    energy = output.energy.detach().double().clone()
    failures = dict(output.failures)
    for row in torch.nonzero(~energy.isfinite()).flatten().tolist():
        failures.setdefault(row, f"{potential.name} gives the energy {float(energy[row])}")
    failed = list(failures)
    largest = energy.new_zeros(len(structures)).scatter_reduce(
        0, structures.structure_index, output.forces.detach().double().norm(dim=1), "amax"
    )
    stress = None if output.stress is None else output.stress.detach().double() * _TO_GPA
    nan = torch.full_like(energy, torch.nan)
    pressure = nan.clone() if stress is None else -stress.diagonal(dim1=1, dim2=2).mean(1)
    max_stress = nan.clone() if stress is None else stress.abs().flatten(1).amax(1)
    for values in (energy, largest, pressure, max_stress):
        values[failed] = torch.nan
    return Part(
        {
            "energy": energy,
            "initial_energy": energy,
            "max_force": largest,
            "pressure": pressure,
            "max_stress": max_stress,
            "steps": torch.zeros(len(structures), dtype=torch.int64),
            "positions": structures.positions,
            "cells": structures.cells,
        },
        {
            "status": ["failed" if row in failures else "evaluated" for row in range(len(structures))],
            "reasons": {str(row): reason for row, reason in failures.items()},
        },
    )


def _relaxed(potential: Potential, options: Mapping[str, Any], structures: StructureBatch) -> Part:
    return _one_by_one(partial(_relaxed_of, potential, options), structures)


def _relaxed_of(potential: Potential, options: Mapping[str, Any], structures: StructureBatch) -> Part:
    found = relaxed(structures, potential, **options)
    return Part(
        {
            **{name: getattr(found, name).detach() for name in (*_NUMBERS, "steps")},
            "positions": found.structures.positions.detach().double(),
            "cells": found.structures.cells.detach().double(),
        },
        {
            "status": list(found.status),
            "reasons": {str(row): reason for row, reason in found.reasons.items()},
        },
    )


def _rmsd_of_halves(matcher: Mapping[str, Any], scale: bool, supercells: bool, pairs: StructureBatch) -> Part:
    half = len(pairs) // 2
    found = rmsd_of_pairs(
        pairs[:half],
        pairs[half:],
        settings=MatcherSettings(**matcher),
        scale=scale,
        supercells=supercells,
    )
    return Part({"normalized": found.normalized, "angstrom": found.angstrom})
