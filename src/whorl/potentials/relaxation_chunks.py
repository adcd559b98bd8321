"""Relaxation of any number of structures: in chunks, by any executor, kept as they finish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from whorl.chunked import Part, map_chunks
from whorl.executors.base import Executor
from whorl.potentials.base import Potential
from whorl.potentials.relaxation import Relaxation, relaxed
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

_OF_ATOMS = ("forces",)
_OF_STRUCTURES = ("energy", "initial_energy", "stress", "steps", "max_force", "max_stress", "pressure")


def relax_chunks(
    structures: Structures,
    potential: Potential,
    *,
    folder: Path | None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    structures_at_once: int = 32,
    **settings: Any,
) -> Relaxation:
    """Relax structures as :func:`relaxed` does; finished chunks are kept in a folder, and read again.

    Args:
        structures: Initial structures.
        potential: Gives energies, forces and stresses.
        folder: Where finished chunks are kept; None to keep none.
        executor: Does the work; by default that of :func:`whorl.executors.executing`, or else ``serial``.
        progress: Called with the structures that are relaxed, and how many there are.
        structures_at_once: Structures in a chunk. A GPU wants many; for the rest, what is lost by an
            interruption, and how evenly workers are busy, speak for few.
        settings: As those of :func:`relaxed`, but for ``keep_frames``.

    Raises:
        InputError: As :func:`relaxed`, or the folder cannot be written.
        WorkerError: A chunk cost several workers, or there are none.
    """
    given = as_batch(structures).to(dtype=torch.float64)
    if not len(given):
        return relaxed(given, potential, **settings)
    parts = map_chunks(
        partial(_relaxed_part, potential, settings),
        list(given.replace(info=()).chunks(structures_at_once)),
        folder=folder,
        key=["relaxed", potential.name, dict(sorted(settings.items()))],
        executor=executor,
        progress=progress,
    )

    def joined(name: str) -> torch.Tensor:
        return torch.cat([part.tensors[name] for part in parts]).to(given.device)

    reasons = {
        number * structures_at_once + int(k): str(reason)
        for number, part in enumerate(parts)
        for k, reason in part.notes["reasons"].items()
    }
    results: Mapping[str, Any] = {name: joined(name) for name in (*_OF_ATOMS, *_OF_STRUCTURES)}
    if not any(part.notes["has_stress"] for part in parts):
        results = {**results, "stress": None}
    return Relaxation(
        structures=given.replace(positions=joined("positions"), cells=joined("cells")),
        status=tuple(str(status) for part in parts for status in part.notes["status"]),
        reasons=reasons,
        **results,
    )


def _relaxed_part(potential: Potential, settings: Mapping[str, Any], structures: StructureBatch) -> Part:
    result = relaxed(structures, potential, **settings)
    tensors = {name: getattr(result, name) for name in (*_OF_ATOMS, *_OF_STRUCTURES)}
    if result.stress is None:
        tensors["stress"] = torch.full_like(structures.cells, torch.nan)
    tensors |= {"positions": result.structures.positions, "cells": result.structures.cells}
    return Part(
        {name: values.cpu() for name, values in tensors.items()},
        {
            "status": list(result.status),
            "reasons": {str(k): reason for k, reason in result.reasons.items()},
            "has_stress": result.stress is not None,
        },
    )
