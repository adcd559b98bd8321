"""Generated structures as files that other programs read, each with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whorl.errors import InputError
from whorl.evaluation import Generated


def write_structures(
    generated: Generated,
    path: Path | str,
    *,
    provenance: Mapping[str, Any],
    property: str = "formation_energy",
) -> None:
    """Write the atoms found for one training size as extended XYZ.

    Every structure carries the target, the surrogate's judgement, the loss and status of the search, the
    property as the energy method computes it or why there is none, and the provenance.

    Args:
        generated: Of one training size.
        path: An ``.extxyz`` file.
        provenance: Version, seed and recipe hash.
        property: Name of what the energy method computed; ``computed_…`` where another column has it.

    Raises:
        InputError: No sample was turned into atoms.
    """
    from whorl.datasets import write_extxyz

    found = generated.reconstructed
    if found is None or found.structures is None:
        raise InputError(f"{path}: no sample was turned into atoms, so there are no structures to write.")
    nan = torch.full((len(found.rows),), float("nan"), dtype=torch.float64)
    known = {
        "target": generated.targets[found.rows].double(),
        "surrogate": nan if generated.predicted is None else generated.predicted[found.rows].double(),
        "reconstruction_loss": found.loss.double(),
    }
    property = property.replace(" ", "_")
    computed = nan if found.energy is None else found.energy.double()
    properties = {**known, f"computed_{property}" if property in known else property: computed}
    info = tuple(
        {
            **(found.structures.info[k] if found.structures.info else {}),
            "sample": row,
            "reconstruction_status": found.status[k],
            **({"potential_failure": found.failures[k]} if k in found.failures else {}),
        }
        for k, row in enumerate(found.rows.tolist())
    )
    write_extxyz(found.structures.replace(info=info), path, properties=properties, provenance=provenance)
