"""Phase diagrams as plain data, for pictures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from whorl.evaluation.hull.corrections import metals_first
from whorl.evaluation.hull.reference import ChemicalSystem, HullDistance, HullReference
from whorl.structures.composition import formula
from whorl.structures.convert import Structures, as_batch

_DRAWN = 3  # elements of a system that has a picture, and all of whose phases are listed
_STABLE = 1e-8  # eV/atom


def phase_diagrams(
    reference: HullReference,
    structures: Structures,
    distances: Sequence[HullDistance],
    *,
    highest: float = 0.2,
) -> list[dict[str, Any]]:
    """Return a phase diagram for each chemical system of the structures, JSON-able.

    Args:
        reference: Hull.
        structures: B structures.
        distances: Their distances from it, by :meth:`HullReference.evaluate`; those without values are left
            out.
        highest: Largest energy above the hull of the reference phases listed, in eV/atom. Of systems with
            four elements and more, only elements and competing phases are listed.

    Returns:
        For each system, in alphabetical order, ``system`` ("Cl-Na"), ``elements``, and ``points``:
        ``formula``, ``fractions`` (by element), ``formation_energy``, ``energy_above_hull`` (eV/atom),
        ``kind`` ("reference" or "structure"), ``index`` (of the structure, else None) and ``stable`` (on the
        hull of the reference phases, or below).
    """
    batch = as_batch(structures)
    members: dict[tuple[str, ...], list[int]] = {}
    symbols = [
        [chemical_symbols[z] for z in numbers.tolist()] if distances[b].energy_above_hull is not None else []
        for b, numbers in enumerate(batch.atomic_numbers.split(batch.n_atoms.tolist()))
    ]
    for b, names in enumerate(symbols):
        if names:
            members.setdefault(tuple(sorted(set(names))), []).append(b)
    diagrams = []
    for elements, rows in sorted(members.items()):
        system = reference.system(elements, distances[rows[0]].scheme or None)
        competing = {name for b in rows for name, _ in distances[b].competing}
        points = _reference_points(system, competing, highest)
        for b in rows:
            distance = distances[b]
            assert distance.energy_above_hull is not None
            points.append(
                {
                    "formula": formula(batch[b]),
                    "fractions": {e: symbols[b].count(e) / len(symbols[b]) for e in elements},
                    "formation_energy": distance.formation_energy,
                    "energy_above_hull": distance.energy_above_hull,
                    "kind": "structure",
                    "index": b,
                    "stable": distance.energy_above_hull <= _STABLE,
                }
            )
        diagrams.append({"system": "-".join(elements), "elements": list(elements), "points": points})
    return diagrams


def _reference_points(system: ChemicalSystem, competing: set[str], highest: float) -> list[dict[str, Any]]:
    points = []
    above = _above_hull(system) if len(system.elements) <= _DRAWN else None
    for i, phase in enumerate(system.phases):
        name = metals_first(phase.formula)
        if above is not None:
            distance = float(above[i])
        elif name in competing or phase.formula in system.elements:
            distance = 0.0
        else:
            continue
        if distance > highest:
            continue
        fractions = dict(zip(system.elements, system.fractions[i].tolist(), strict=True))
        points.append(
            {
                "formula": name,
                "fractions": fractions,
                "formation_energy": float(system.formation_energies[i]),
                "energy_above_hull": distance,
                "kind": "reference",
                "index": None,
                "stable": distance <= _STABLE,
            }
        )
    return points


def _above_hull(system: ChemicalSystem) -> np.ndarray:
    """Return the energies above the hull of all phases of a small system, in eV/atom, shape (phases,)."""
    from scipy.spatial import ConvexHull

    x, energy = system.fractions[:, 1:], system.formation_energies
    if len(system.elements) == 1:
        return energy - energy.min()
    low = energy <= 0
    top = np.full((1, x.shape[1] + 1), 1 / len(system.elements))
    top[0, -1] = 1.0  # gives the hull a volume where all phases are elements
    hull = ConvexHull(np.vstack([np.column_stack([x[low], energy[low]]), top]))
    # The lower envelope is the largest of the planes of the facets that face down.
    planes = hull.equations[hull.equations[:, -2] < -1e-9]
    slopes, offsets = -planes[:, :-2] / planes[:, -2:-1], -planes[:, -1] / planes[:, -2]
    above = energy - (x @ slopes.T + offsets).max(axis=1)
    return np.where(np.abs(above) < _STABLE, 0.0, above)
