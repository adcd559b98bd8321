"""Contract of refiners: refined structures, with displacements and energy calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.axes import REFINERS
from whorl.chunked import Part, map_chunks
from whorl.evaluation.samples import Computed, Reference, Samples
from whorl.potentials.base import Potential
from whorl.potentials.quantity import Quantity
from whorl.refinement.settings import RefinerSettings
from whorl.representations.base import Representation
from whorl.settings import Method
from whorl.structures.batch import STRUCTURE_TENSORS, StructureBatch
from whorl.structures.cells import fractional_coordinates
from whorl.structures.frozen import frozen_atoms_of
from whorl.surrogates.base import StructureSurrogate
from whorl.tensor_files import tensors_hash

__all__ = [
    "AS_IT_WAS",
    "NEAREST",
    "REACHED",
    "REFINERS",
    "RefinementContext",
    "Refiner",
    "RefinerSettings",
    "displacement",
    "displacements",
    "refine_in_chunks",
]

Progress = Callable[..., None]

REACHED = "reached"
"""Status of a structure that has the value requested, as far as its refiner can tell."""

AS_IT_WAS = ("failed", "unreached")
"""First words of the status of a structure that is returned unchanged: what its refiner needs could not be
computed, or what was requested is out of reach. The reason follows."""

NEAREST = "nearest value "
"""In the status of a structure without the requested value: the nearest one that it got to follows."""

_AT_ONCE = 32  # structures between two saves
_COMPUTED = ("rows", "values", "energies", "forces")


@dataclass(frozen=True, kw_only=True)
class RefinementContext:
    """Input of a refiner in addition to samples.

    Attributes:
        representation: That the samples' features are of.
        reference: The labelled data, for refiners that fit a surrogate to its training rows.
        surrogate: Of structures, fitted already; otherwise such a refiner fits its own.
        potential: The energy method; for refiners whose settings name none of their own.
        quantity: What of it the property is; None where nothing is.
        tolerance: Difference from the value asked for that counts as a hit, in units of the property.
        seed: Of all randomness.
        directory: Where finished chunks are kept.
        progress: Called as it goes on.
    """

    representation: Representation | None = None
    reference: Reference | None = None
    surrogate: StructureSurrogate | None = None
    potential: Potential | None = None
    quantity: Quantity | None = None
    tolerance: float | None = None
    seed: int = 0
    directory: Path | None = None
    progress: Progress | None = None


class Refiner(Method, ABC):
    """A step from structures to structures.

    Frozen atoms (:mod:`whorl.structures.frozen`) stay, and the cells of structures that have some.

    It never hides what it did: ``displacement`` (Å), ``energy_calls`` and a ``refinement`` status of every
    structure are filled. A structure that it fails on comes back as it was, with the reason as its status
    (:data:`AS_IT_WAS`). What it makes of a structure does not depend on the others; :func:`refine_in_chunks`
    is the loop.
    """

    Settings: ClassVar[type[RefinerSettings]] = RefinerSettings

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @abstractmethod
    def refine(self, samples: Samples, context: RefinementContext) -> Samples:
        """Return samples with refined structures, in the same order."""


def refine_in_chunks(
    work: Callable[[Samples], Samples],
    samples: Samples,
    context: RefinementContext,
    *,
    key: Any,
    at_once: int = _AT_ONCE,
) -> Samples:
    """Refine a few structures at a time, by any executor; finished chunks are kept and read again.

    Args:
        work: Returns samples with refined ``structures``, ``energy_calls`` and ``refinement``, and what was
            ``computed`` on the way, if anything; it can be pickled, for executors other than ``serial``. The
            displacement is measured here.
        samples: To be refined.
        context: Where chunks are kept.
        key: JSON-able: everything but samples that the result depends on.
        at_once: Structures in a chunk.

    Returns:
        The samples with what ``work`` filled, and ``displacement``.
    """
    structures = samples.structures
    if structures is None or not len(structures):
        none = torch.zeros(0, dtype=torch.float64)
        return samples.replace(displacement=none, energy_calls=none.long(), refinement=())
    own = samples.of_structures(torch.arange(len(structures)))
    contents = {**structures.tensors, "targets": own.targets}
    if bool((frozen := frozen_atoms_of(structures)).any()):
        contents["frozen"] = frozen
    if own.features is not None:
        contents["features"] = own.features
    parts = map_chunks(
        partial(_refined_part, work, own),
        list(torch.arange(len(structures)).split(at_once)),
        folder=context.directory,
        key=[key, tensors_hash(contents)],
        progress=context.progress,
    )
    positions = torch.cat([part.tensors["positions"] for part in parts])
    cells = torch.cat([part.tensors["cells"] for part in parts])
    held = frozen.new_zeros(len(structures))
    held[structures.structure_index[frozen]] = True
    refined = structures.replace(  # frozen atoms stay whatever a refiner does
        positions=torch.where(frozen[:, None], structures.positions.to(positions), positions),
        cells=torch.where(held[:, None, None], structures.cells.to(cells), cells),
    )
    return samples.replace(
        structures=refined,
        displacement=displacement(structures, refined),
        energy_calls=torch.cat([part.tensors["energy_calls"] for part in parts]),
        refinement=tuple(str(status) for part in parts for status in part.notes),
        computed=_computed([part.tensors for part in parts], at_once),
    )


def _refined_part(work: Callable[[Samples], Samples], samples: Samples, rows: Tensor) -> Part:
    refined = work(samples.of_structures(rows))
    assert refined.structures is not None and refined.energy_calls is not None
    tensors = {
        "positions": refined.structures.positions,
        "cells": refined.structures.cells,
        "energy_calls": refined.energy_calls,
    }
    if (computed := refined.computed) is not None:
        own = {name: getattr(computed, name) for name in _COMPUTED}
        tensors |= {
            f"computed/{name}": values for name, values in {**computed.structures.tensors, **own}.items()
        }
    return Part(tensors, list(refined.refinement))


def _computed(parts: Sequence[Mapping[str, Tensor]], at_once: int) -> Computed | None:
    computed = []
    for number, tensors in enumerate(parts):
        if "computed/rows" in tensors:
            own = {name: tensors[f"computed/{name}"] for name in _COMPUTED}
            fields: dict[str, Any] = {name: tensors[f"computed/{name}"] for name in STRUCTURE_TENSORS}
            own["rows"] = own["rows"] + number * at_once
            computed.append(Computed(structures=StructureBatch(**fields), **own))
    return Computed.concatenate(computed) if computed else None


def displacement(before: StructureBatch, after: StructureBatch) -> Float[Tensor, "B"]:
    """Return the root mean square distance in Å that the atoms of each structure moved."""
    moved = displacements(before, after)
    sums = moved.new_zeros(len(after)).index_add(0, after.structure_index, moved.square().sum(1))
    return (sums / after.n_atoms.clamp_min(1)).sqrt().double()


def displacements(before: StructureBatch, after: StructureBatch) -> Float[Tensor, "A 3"]:
    """Return the way in Å of each atom.

    Where the cell changed too, that of the fractional coordinates, in the new cell.
    """
    moved = after.positions - before.positions
    strained = (after.cells != before.cells).flatten(1).any(1)
    if bool(strained.any()):
        fractions = fractional_coordinates(after) - fractional_coordinates(before)
        in_cell = torch.einsum("ai,aij->aj", fractions, after.cells[after.structure_index])
        moved = torch.where(strained[after.structure_index, None], in_cell, moved)
    return moved
