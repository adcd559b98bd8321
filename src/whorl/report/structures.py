"""Generated structures as files that other programs read, each with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whorl.errors import InputError
from whorl.evaluation.results import Evaluated


def write_structures(of: Evaluated, path: Path | str, *, provenance: Mapping[str, Any]) -> None:
    """Write the structures of one training size as extended XYZ.

    Every structure carries the target, the surrogate's prediction, the loss and status of its reconstruction,
    the property as the energy method computes it or why there is none, and the provenance.

    Args:
        of: The samples of one training size, and what evaluators found out. What the energy method computed
            is written under the name of the property; ``computed_…`` where another column has it.
        path: An ``.extxyz`` file.
        provenance: Version, seed and recipe hash.

    Raises:
        InputError: No sample has a structure.
    """
    from whorl.datasets import write_extxyz

    samples, failures = of.samples, of.failures()
    structures = samples.structures
    if structures is None:
        raise InputError(f"{path}: no sample was turned into atoms, so there are no structures to write.")
    nan = torch.full((len(samples.rows),), float("nan"), dtype=torch.float64)
    predicted, computed = of.values("surrogate"), of.values("energy")
    known = {
        "target": samples.structure_targets.double(),
        "surrogate": nan if predicted is None else predicted[samples.rows],
        "reconstruction_loss": nan if samples.loss is None else samples.loss.double(),
    }
    property = of.reference.name.replace(" ", "_")
    properties = {
        **known,
        f"computed_{property}" if property in known else property: nan if computed is None else computed,
    }
    info = tuple(
        {
            **(structures.info[k] if structures.info else {}),
            "sample": row,
            "reconstruction_status": samples.status[k],
            **({"potential_failure": failures[k]} if k in failures else {}),
        }
        for k, row in enumerate(samples.rows.tolist())
    )
    write_extxyz(structures.replace(info=info), path, properties=properties, provenance=provenance)
