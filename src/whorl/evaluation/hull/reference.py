"""Reference phases of a convex hull, and distances from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from whorl.errors import InputError
from whorl.evaluation.hull.corrections import (
    CORRECTED,
    amounts_of,
    canonical_formula,
    correction,
    metals_first,
    pymatgen_version,
)
from whorl.potentials.schemes import SCHEMES, UNKNOWN, checked_scheme
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch, to_pymatgen

_NEGLIGIBLE = 1e-6  # share of a competing phase


@dataclass(frozen=True, kw_only=True)
class HullEntry:
    """A reference phase.

    Attributes:
        formula: Any formula of it.
        energy: Total energy per atom in eV, in the scheme of the hull it is an entry of.
        name: Identifier in its source; may be empty.
        warnings: Doubts about its energy, such as an ambiguous anion of a correction.
    """

    formula: str
    energy: float
    name: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HullDistance:
    """What a convex hull says of one structure; what is not known is None, and ``reason`` says why.

    Attributes:
        energy_above_hull: In eV/atom, from the hull of the reference phases alone; negative for a structure
            below it.
        formation_energy: In eV/atom, from the elements of the reference.
        competing: Reference phases that the structure would decompose into, as formula and share of atoms,
            the largest share first.
        correction: Correction that was added to the structure's energy, in eV/atom; 0 where its energy was in
            the scheme of the hull already.
        in_hull: Whether a reference phase has the structure's composition, on the hull or above it.
        scheme: In which energy and hull met; empty where values are None.
        reason: Why a value is None; empty where none is.
        warnings: Doubts, such as an ambiguous anion of a correction.
    """

    energy_above_hull: float | None = None
    formation_energy: float | None = None
    competing: tuple[tuple[str, float], ...] = ()
    correction: float = 0.0
    in_hull: bool | None = None
    scheme: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HullReference:
    """Reference phases in one energy scheme, and where they come from.

    Attributes:
        entries: Phases.
        scheme: A name of :data:`whorl.potentials.schemes.SCHEMES`.
        source: Where they come from, in words.
        sha256: Of the table or structures they were read from.
        date: Of the data, ISO 8601, or empty.
        potential: Name of the energy method that all energies were computed with; None if they come from
            elsewhere.
        skipped: Phases that are missing in it, with reasons.

    Raises:
        InputError: No entries, an entry that is no phase or whose energy is not finite, or an unknown scheme.
    """

    entries: tuple[HullEntry, ...]
    scheme: str
    source: str
    sha256: str = ""
    date: str = ""
    potential: str | None = None
    skipped: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        checked_scheme(self.scheme)
        if not self.entries:
            raise InputError(
                f"hull of {self.source}: got no phases, expected at least one of each element. "
                "Remedy: give another hull."
            )
        for entry in self.entries:
            if not math.isfinite(entry.energy):
                raise InputError(
                    f"hull of {self.source}: got an energy of {entry.energy} for {entry.formula} "
                    f"{entry.name}, expected a number in eV/atom. Remedy: leave the phase out."
                )

    def evaluate(
        self, structures: Structures, energies: Sequence[float], scheme: str, *, potential: str | None = None
    ) -> list[HullDistance]:
        """Return energies above the hull.

        Energies and hull meet in one scheme. Where theirs differ, but both are related to ``mp2020`` by known
        corrections, both are brought to it by the same function; otherwise they are refused.

        Args:
            structures: B structures.
            energies: Their total energies in eV, shape (B,); NaN where unknown.
            scheme: Of these energies.
            potential: Name of the energy method that they were computed with. Needed where its scheme is
                unknown, and a hull of another method's energies is refused.

        Returns:
            For each structure its distance, or the reason why there is none.

        Raises:
            InputError: Energies of this scheme or method cannot meet this hull; or another number of energies
                than structures.
        """
        batch = as_batch(structures)
        if len(energies) != len(batch):
            raise InputError(f"energies: got {len(energies)} for {len(batch)} structures.")
        common = self.common_scheme(scheme, potential=potential)
        atoms = batch.atomic_numbers.split(batch.n_atoms.tolist())
        return [
            self._distance(batch, b, numbers.tolist(), float(energies[b]), scheme, common)
            for b, numbers in enumerate(atoms)
        ]

    def common_scheme(self, scheme: str, *, potential: str | None = None) -> str:
        """Return the scheme in which energies of another one meet this hull.

        Raises:
            InputError: There is none; says why and what to do.
        """
        checked_scheme(scheme)
        remedy = (
            "Remedy: a hull by the same potential (--hull potential), or energies of the scheme of the hull."
        )
        mine = f"the hull of {self.source} ('{self.scheme}': {SCHEMES[self.scheme]})"
        theirs = f"energies of {potential or 'this method'} ('{scheme}': {SCHEMES[scheme]})"
        if self.potential is not None and potential is not None and potential != self.potential:
            raise InputError(
                f"got {theirs} for {mine}, expected energies by {self.potential} too: errors of one method "
                f"cancel only among its own energies. {remedy}"
            )
        if UNKNOWN in (scheme, self.scheme):
            if scheme == self.scheme and potential is not None and potential == self.potential:
                return scheme
            raise InputError(
                f"got {theirs} for {mine}: energies of an unknown scheme cannot be compared. Remedy: state "
                "the scheme (--option scheme=NAME for an ASE calculator, a column 'scheme' in a hull's file; "
                f"{', '.join(name for name in SCHEMES if name != UNKNOWN)}), or a hull by the same potential "
                "(--hull potential)."
            )
        if scheme == self.scheme:
            return scheme
        if scheme in CORRECTED and self.scheme in CORRECTED:
            return "mp2020"
        raise InputError(
            f"got {theirs} for {mine}: no correction leads from one scheme to the other. {remedy}"
        )

    def phases(self, elements: Iterable[str], scheme: str | None = None) -> list[HullEntry]:
        """Return the lowest phase of each composition within a set of elements, by formula.

        Args:
            elements: Chemical symbols.
            scheme: To which their energies are brought; by default that of the hull.
        """
        chosen = sorted(set(elements))
        found = [
            entry
            for size in range(1, len(chosen) + 1)
            for system in combinations(chosen, size)
            for entry in self._by_system.get(frozenset(system), ())
        ]
        return found if scheme in (None, self.scheme) else [self._converted(e, str(scheme)) for e in found]

    def summary(self, scheme: str | None = None) -> dict[str, object]:
        """Return source, scheme, checksum, date and number of entries, JSON-able.

        Args:
            scheme: Of the energies that meet it: ``scheme`` is then the one in which they do, and
                ``source_scheme`` that of the phases as they came.
        """
        common = self.scheme if scheme is None else self.common_scheme(scheme, potential=self.potential)
        return {
            "source": self.source,
            "scheme": common,
            "source_scheme": self.scheme,
            "sha256": self.sha256,
            "date": self.date,
            "entries": len(self.entries),
            "potential": self.potential,
            "pymatgen": pymatgen_version(),
            "skipped": list(self.skipped),
        }

    @cached_property
    def _by_system(self) -> dict[frozenset[str], list[HullEntry]]:
        """The lowest entry of each composition under its canonical formula, by its elements."""
        lowest: dict[str, HullEntry] = {}
        for entry in self.entries:
            try:
                formula = canonical_formula(entry.formula)
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"hull of {self.source}: got '{entry.formula}' {entry.name}, expected a formula."
                ) from None
            if formula not in lowest or entry.energy < lowest[formula].energy:
                lowest[formula] = replace(entry, formula=formula)
        systems: dict[frozenset[str], list[HullEntry]] = {}
        for formula in sorted(lowest):
            systems.setdefault(frozenset(amounts_of(formula)), []).append(lowest[formula])
        return systems

    @cached_property
    def _conversions(self) -> dict[tuple[str, str], HullEntry]:
        return {}

    def _converted(self, entry: HullEntry, scheme: str) -> HullEntry:
        key = (entry.formula, scheme)
        if key not in self._conversions:
            new, old = correction(entry.formula, scheme), correction(entry.formula, self.scheme)
            self._conversions[key] = replace(
                entry,
                energy=entry.energy + new.value - old.value,
                warnings=tuple(dict.fromkeys((*entry.warnings, *new.warnings))),
            )
        return self._conversions[key]

    @cached_property
    def _systems(self) -> dict[tuple[frozenset[str], str], ChemicalSystem]:
        return {}

    def system(self, elements: Iterable[str], scheme: str | None = None) -> ChemicalSystem:
        """Return the phases of a set of elements as a problem of linear programming."""
        key = (frozenset(elements), scheme or self.scheme)
        if key not in self._systems:
            self._systems[key] = ChemicalSystem(sorted(key[0]), self.phases(*key))
        return self._systems[key]

    def _distance(
        self, batch: StructureBatch, b: int, numbers: list[int], energy: float, scheme: str, common: str
    ) -> HullDistance:
        if not numbers:
            return HullDistance(reason="there are no atoms")
        if not all(0 < z < len(chemical_symbols) for z in numbers):
            return HullDistance(reason="there are atoms of no element")
        if not math.isfinite(energy):
            return HullDistance(reason="its energy is not known")
        amounts = {chemical_symbols[z]: float(n) for z, n in Counter(numbers).items()}
        system = self.system(amounts, common)
        if system.missing:
            return HullDistance(
                reason=f"the hull of {self.source} has no phase of {' and '.join(system.missing)} alone"
            )
        added = 0.0
        doubts: tuple[str, ...] = ()
        if scheme != common:
            bonded = {"O", "S"} & set(amounts) and bool(batch.pbc[b].all())
            structure: Any = to_pymatgen(batch[b])[0] if bonded else None
            name = canonical_formula(amounts)
            new, old = (correction(name, s, structure) for s in (common, scheme))
            added, doubts = new.value - old.value, new.warnings
        per_atom = energy / sum(amounts.values()) + added
        try:
            hull, shares = system.hull_energy(amounts)
        except ArithmeticError as error:
            return HullDistance(reason=str(error))
        competing = tuple((metals_first(system.phases[i].formula), share) for i, share in shares)
        of_phases = [warning for i, _ in shares for warning in system.phases[i].warnings]
        return HullDistance(
            energy_above_hull=per_atom - hull,
            formation_energy=per_atom - system.elemental_energy(amounts),
            competing=competing,
            correction=added,
            in_hull=canonical_formula(amounts) in {phase.formula for phase in system.phases},
            scheme=common,
            warnings=tuple(dict.fromkeys((*doubts, *of_phases))),
        )


class ChemicalSystem:
    """The phases of a set of elements.

    Args:
        elements: Chemical symbols, in the order of compositions.
        phases: The lowest phase of each composition.

    Attributes:
        missing: Elements without a phase of their own.
        fractions: Share of atoms of each element in each phase, shape (phases, elements).
        formation_energies: In eV/atom, from the elements; empty if one is missing.
    """

    def __init__(self, elements: Sequence[str], phases: Sequence[HullEntry]) -> None:
        self.elements, self.phases = tuple(elements), tuple(phases)
        self.fractions = np.array([self._fractions(amounts_of(e.formula)) for e in phases]).reshape(
            -1, len(elements)
        )
        self._elemental = {e.formula: e.energy for e in phases if e.formula in self.elements}
        self.missing = tuple(e for e in elements if e not in self._elemental)
        self.formation_energies = np.zeros(0)
        if not self.missing:
            terminal = np.array([self._elemental[e] for e in elements])
            self.formation_energies = np.array([e.energy for e in phases]) - self.fractions @ terminal

    def _fractions(self, amounts: Mapping[str, float]) -> list[float]:
        total = sum(amounts.values())
        return [amounts.get(e, 0.0) / total for e in self.elements]

    def elemental_energy(self, amounts: Mapping[str, float]) -> float:
        """Return the energy per atom of the elements apart, in eV."""
        return sum(self._elemental[e] * n for e, n in amounts.items()) / sum(amounts.values())

    def hull_energy(self, amounts: Mapping[str, float]) -> tuple[float, list[tuple[int, float]]]:
        r"""Return the energy per atom of the hull at a composition, and the phases there with their shares.

        .. math:: E_\mathrm{hull}(x) = \min_{w \ge 0} \sum_i w_i E_i
            \quad\text{with}\quad \sum_i w_i x_i = x

        Args:
            amounts: Atoms of each element.

        Raises:
            ValueError: An element is missing.
            ArithmeticError: Linear programming fails.
        """
        formation, shares = self.decomposition(np.array(self._fractions(amounts)))
        return self.elemental_energy(amounts) + formation, shares

    def decomposition(self, fractions: np.ndarray) -> tuple[float, list[tuple[int, float]]]:
        """Return the formation energy of the hull at a composition, and the phases there with shares.

        Args:
            fractions: Share of atoms of each element, shape (elements,).
        """
        from scipy.optimize import linprog

        if self.missing:
            raise ValueError(f"no phases of {self.missing}")
        low = np.flatnonzero(self.formation_energies <= 1e-12)  # higher ones lie above the elements
        result = linprog(
            self.formation_energies[low], A_eq=self.fractions[low].T, b_eq=fractions, method="highs"
        )
        if result.x is None:
            raise ArithmeticError(f"its decomposition cannot be computed ({result.message})")
        shares = [(int(low[i]), float(w)) for i, w in enumerate(result.x) if w > _NEGLIGIBLE]
        return float(result.fun), sorted(shares, key=lambda share: (-share[1], share[0]))
