"""Generated structures as files that other programs read, each with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whorl.errors import InputError
from whorl.evaluation import Generated


def write_structures(generated: Generated, path: Path | str, *, provenance: Mapping[str, Any]) -> None:
    """Write the atoms found for one training size as extended XYZ.

    Every structure carries the target, the surrogate's judgement, the loss and status of the search, the
    potential's judgement or why there is none, and the provenance.

    Args:
        generated: Of one training size.
        path: An ``.extxyz`` file.
        provenance: Version, seed and recipe hash.

    Raises:
        InputError: No sample was turned into atoms.
    """
    from whorl.datasets import write_extxyz

    found = generated.reconstructed
    if found is None or found.structures is None:
        raise InputError(f"{path}: no sample was turned into atoms, so there are no structures to write.")
    nan = torch.full((len(found.rows),), float("nan"), dtype=torch.float64)
    properties = {
        "target": generated.targets[found.rows].double(),
        "surrogate": nan if generated.predicted is None else generated.predicted[found.rows].double(),
        "potential": nan if found.energy is None else found.energy.double(),
        "inversion_loss": found.loss.double(),
    }
    info = tuple(
        {
            **(found.structures.info[k] if found.structures.info else {}),
            "sample": row,
            "inversion_status": found.status[k],
            **({"potential_failure": found.failures[k]} if k in found.failures else {}),
        }
        for k, row in enumerate(found.rows.tolist())
    )
    write_extxyz(found.structures.replace(info=info), path, properties=properties, provenance=provenance)
