"""Reference phases of a convex hull, and distances from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from whorl.structures.convert import Structures


@dataclass(frozen=True, kw_only=True)
class HullEntry:
    """A reference phase.

    Attributes:
        formula: Reduced formula.
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
        competing: Reference phases that the structure would decompose into, as formula and share of atoms.
        correction: Correction that was added to the structure's energy, in eV/atom; 0 where its energy was in
            the scheme of the reference already.
        reason: Why a value is None; empty where none is.
        warnings: Doubts, such as an ambiguous anion of a correction.
    """

    energy_above_hull: float | None = None
    formation_energy: float | None = None
    competing: tuple[tuple[str, float], ...] = ()
    correction: float = 0.0
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
        versions: Of packages that the energies depend on, such as pymatgen's for corrections.
    """

    entries: tuple[HullEntry, ...]
    scheme: str
    source: str
    sha256: str = ""
    date: str = ""
    potential: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def evaluate(
        self, structures: Structures, energies: Sequence[float], scheme: str, *, potential: str | None = None
    ) -> list[HullDistance]:
        """Return energies above the hull.

        Args:
            structures: B structures.
            energies: Their total energies in eV, shape (B,); NaN where unknown.
            scheme: Of these energies.
            potential: Name of the energy method that they were computed with.

        Raises:
            InputError: Energies of this scheme cannot meet this hull.
        """
        raise NotImplementedError

    def summary(self) -> dict[str, object]:
        """Return source, scheme, checksum, date and number of entries, JSON-able."""
        return {
            "source": self.source,
            "scheme": self.scheme,
            "sha256": self.sha256,
            "date": self.date,
            "entries": len(self.entries),
            "potential": self.potential,
            "versions": dict(self.versions),
        }
