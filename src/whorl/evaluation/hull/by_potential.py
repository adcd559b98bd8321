"""Convex hulls of an energy method's own energies.

Errors that an energy method makes for a compound and for its competitors alike cancel in a hull of its own.
Its phases are as many as are given: a hull of few phases is too high, and energies above it are too low.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from whorl.errors import InputError
from whorl.evaluation.hull.elements import elemental_crystals
from whorl.evaluation.hull.reference import HullEntry, HullReference
from whorl.executors.base import Executor
from whorl.files import stable_hash
from whorl.potentials.base import Potential
from whorl.potentials.relaxation_chunks import relax_chunks
from whorl.potentials.schemes import scheme_of
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import formula, formula_of_all
from whorl.structures.convert import Structures, as_batch, from_ase
from whorl.tensor_files import tensors_hash

_AT_ONCE = 16  # structures between two saves
_USABLE = ("converged", "not converged")


def hull_by_potential(
    potential: Potential,
    structures: Structures | None = None,
    *,
    elements: Collection[str] = (),
    names: Sequence[str] | None = None,
    per_composition: int | None = None,
    steps: int = 500,
    force_tolerance: float = 0.05,
    stress_tolerance: float = 0.1,
    directory: Path | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HullReference:
    """Return the hull of structures and elements, relaxed by the potential that is to be compared with it.

    Positions and cells are relaxed. A phase that cannot be computed is left out and reported as ``skipped``;
    one that did not converge is kept, with a warning: its energy is an upper bound.

    Args:
        potential: Energy method, with forces and stresses.
        structures: Reference phases, such as a training set; only crystals make sense.
        elements: Chemical symbols of elements whose crystals are added
            (:func:`whorl.evaluation.hull.elements.elemental_crystals`); also those of ``structures``.
        names: Of the structures.
        per_composition: Relax at most this many structures of each composition, those of the lowest energies
            as they are given; by default all. Elements are always all relaxed.
        steps: Longest relaxation.
        force_tolerance: In eV/Å.
        stress_tolerance: In GPa.
        directory: Where finished relaxations are kept, to go on from them.
        executor: Does the work; by default the current one.
        progress: Called with structures relaxed, and how many there are.

    Raises:
        InputError: An unknown element; no phase could be computed.
    """
    given = None if structures is None else as_batch(structures).replace(info=())
    wanted = sorted({*elements, *(() if given is None else _elements_of(given))})
    if names is not None and len(names) != (0 if given is None else len(given)):
        raise InputError(f"names: got {len(names)}, expected one for each structure.")
    labels = list(names or (f"structure {k}" for k in range(0 if given is None else len(given))))
    if given is not None and per_composition is not None:
        rows = _lowest(given, potential, per_composition)
        given, labels = given[rows], [labels[row] for row in rows]
    phases: list[StructureBatch] = [] if given is None else [given]
    for element in wanted:
        crystals = elemental_crystals(element)
        phases.append(from_ase(list(crystals.values())).replace(info=()))
        labels += [f"{element} ({name})" for name in crystals]
    if not labels:
        raise InputError("hull by a potential: got neither structures nor elements, expected some.")
    batch = StructureBatch.concatenate([part.to(dtype=torch.float64) for part in phases])
    settings: dict[str, Any] = {
        "steps": steps,
        "force_tolerance": force_tolerance,
        "stress_tolerance": stress_tolerance,
    }
    relaxation = relax_chunks(
        batch,
        potential,
        folder=directory,
        executor=executor,
        progress=progress,
        structures_at_once=_AT_ONCE,
        **settings,
    )
    energies = (relaxation.energy.double() / batch.n_atoms.clamp_min(1)).tolist()
    entries, skipped = [], []
    for row, (label, status) in enumerate(zip(labels, relaxation.status, strict=True)):
        if status not in _USABLE or energies[row] != energies[row]:
            skipped.append(f"{label}: {relaxation.reasons.get(row) or status}")
            continue
        doubts = () if status == "converged" else (f"{label}: the relaxation did not converge",)
        entries.append(
            HullEntry(formula=formula_of_all(batch[row]), energy=energies[row], name=label, warnings=doubts)
        )
    if not entries:
        raise InputError(f"hull by {potential.name}: no phase could be computed. The first: {skipped[0]}.")
    count = 0 if given is None else len(given)
    return HullReference(
        entries=tuple(entries),
        scheme=scheme_of(potential),
        source=f"{_counted(count, 'structure')} and {_counted(len(wanted), 'element')} relaxed by "
        f"{potential.name}",
        sha256=stable_hash([tensors_hash(batch.tensors), potential.name, settings]),
        date=datetime.now(UTC).date().isoformat(),
        potential=potential.name,
        skipped=tuple(skipped),
    )


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _lowest(batch: StructureBatch, potential: Potential, count: int) -> list[int]:
    """Return the structures of the lowest energies per atom of each composition, in their order."""
    energy = (
        torch.cat([potential(chunk).energy for chunk in batch.chunks(_AT_ONCE)])
        if len(batch)
        else torch.zeros(0)
    )
    per_atom = energy.double().nan_to_num(torch.inf) / batch.n_atoms
    members: dict[str, list[int]] = {}
    for row in torch.argsort(per_atom, stable=True).tolist():
        members.setdefault(formula(batch[row]), []).append(row)
    return sorted(row for rows in members.values() for row in rows[:count])


def _elements_of(batch: StructureBatch) -> list[str]:
    from ase.data import chemical_symbols

    numbers = sorted(set(batch.atomic_numbers.tolist()))
    return [chemical_symbols[z] for z in numbers if 0 < z < len(chemical_symbols)]
