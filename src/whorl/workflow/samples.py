"""Samples and reference data, read from their files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.datasets import Dataset, load_dataset, load_features
from whorl.datasets.store import entries_of, labels_of, property_name
from whorl.errors import InputError
from whorl.evaluation.samples import Reference, Samples
from whorl.files import contents_hash, damage_named, read_json
from whorl.representations import make_representation
from whorl.workflow.stages.sample import read_rows


@dataclass(frozen=True, kw_only=True)
class SampleFiles:
    """Files of the samples of one generator; None for absent ones.

    Attributes:
        generated: Generated features.
        rows: Rows trained on; None for all.
        structures: Reconstructed from some of them.
    """

    generated: Path
    rows: Path | None = None
    structures: Path | None = None


def read_reference(features: Path, *, property: str | None, dataset: Path | None = None) -> Reference:
    """Read the labelled data, all of whose rows count as training rows.

    Args:
        features: Of real structures.
        property: Name of the property; None for the only one there is.
        dataset: Their structures, where there are any.

    Raises:
        InputError: Files that are missing or do not belong together.
    """
    real = load_features(features)
    labels = labels_of(real, property)
    data = None if dataset is None else entries_of(real.ids, dataset)
    return Reference(
        name=property_name(real, property),
        unit="",
        properties=labels.double(),
        features=real.features.flatten(1).double(),
        structures=None if data is None else data.structures,
        forces=None if data is None else data.forces,
        stresses=None if data is None else data.stresses,
        training_rows=torch.arange(len(labels)),
    )


def with_training_rows(reference: Reference, rows: Path | None) -> Reference:
    """Return the data with the training rows of one generator."""
    if rows is None:
        return reference
    return reference.replace(training_rows=read_rows(rows)["rows"])


def read_samples(files: SampleFiles, *, features: Path) -> Samples:
    """Read the samples of one generator.

    Args:
        files: Their files.
        features: Of real structures; the samples have to be of the same representation.

    Raises:
        InputError: Files that are missing or do not belong together.
    """
    representation = make_representation(load_features(features).representation)
    made = load_features(files.generated, representation=representation)
    if "target" not in made.properties:
        got = ", ".join(made.properties) or "no property"
        raise InputError(
            f"{files.generated}: features of real structures (with {got}), expected generated ones, with the "
            "'target' that each was generated for. Give a file of 'whorl generate'."
        )
    samples = Samples(
        ids=tuple(made.ids),
        targets=made.properties["target"].double(),
        requested=dict(made.requested),
        features=made.features.double(),
    )
    return samples if files.structures is None else _with_structures(samples, files, files.structures)


def _with_structures(samples: Samples, files: SampleFiles, path: Path) -> Samples:
    data = load_dataset(path)
    record = read_record(path)
    if data.structures is None or "reconstruction_loss" not in data.properties:
        raise InputError(f"{path}: not the structures that 'whorl invert' or 'whorl decode' writes.")
    place = {name: index for index, name in enumerate(samples.ids)}
    if missing := [name for name in data.ids if name not in place]:
        raise InputError(
            f"{path}: has '{missing[0]}', which is none of the generated samples in {files.generated}. "
            "Reconstruct these samples, or give those that were reconstructed."
        )
    with damage_named(record_of(path)):
        limit = record.get("invalid_above")
        changes: dict[str, Any] = {
            "rows": torch.tensor([place[name] for name in data.ids], dtype=torch.int64),
            "invalid_above": None if limit is None else float(limit),
            "reference_loss": _numbers(record.get("reference_losses", [])),
            "skipped": {int(row): str(reason) for row, reason in record["skipped"].items()},
            "consistency": {str(name): _numbers(values) for name, values in record["consistency"].items()},
        }
    other = record.get("samples") not in (None, contents_hash(files.generated))  # None: of an older whorl
    if other or any(len(values) != len(samples) for values in changes["consistency"].values()):
        raise InputError(
            f"{path}: reconstructed from other features than those of {files.generated}. Reconstruct these, "
            "or give the features that belong to them."
        )
    with damage_named(path):
        status = tuple(str(info["reconstruction_status"]) for info in data.structures.info)
        refinement = tuple(str(info.get("refinement_status", "")) for info in data.structures.info)
    return samples.replace(
        **changes,
        **_cost(data),
        structures=data.structures,
        loss=data.properties["reconstruction_loss"].double(),
        status=status,
        refinement=refinement if any(refinement) else (),
        structure_features=_features_of(path),
    )


def _features_of(structures: Path) -> Tensor | None:
    """Return the features of structures themselves, from the file next to them."""
    path = structures.with_name(f"{structures.stem}-features.safetensors")
    return load_features(path).features.flatten(1).double() if path.is_file() else None


def _cost(data: Dataset) -> dict[str, Any]:
    """Return displacements and energy calls of the refinement."""
    calls, draws = (data.properties.get(name) for name in ("energy_calls", "draws"))
    return {
        "displacement": data.properties.get("displacement"),
        "energy_calls": None if calls is None else calls.long(),
        "draws": None if draws is None else draws.long(),
        "further_labels": sum(int(data.provenance.get(f"{of}_labels", 0)) for of in ("active", "computed")),
    }


def read_arm(structures: Path) -> Samples:
    """Read structures with the targets that each is for, to compare them with others.

    Raises:
        InputError: A file without structures or targets.
    """
    data = load_dataset(structures)
    if data.structures is None or "target" not in data.properties:
        raise InputError(f"{structures}: not structures that were made for a target. Reconstruct them again.")
    return Samples(
        ids=data.ids,
        targets=data.properties["target"].double(),
        structures=data.structures,
        rows=torch.arange(len(data)),
        structure_features=_features_of(structures),
        **_cost(data),
    )


def record_of(structures: Path) -> Path:
    """Return the file that describes the reconstruction of structures."""
    older = structures.with_name(f"{structures.stem}-decoded.json")
    return older if older.is_file() else structures.with_name(f"{structures.stem}-reconstruction.json")


def read_record(structures: Path) -> dict[str, Any]:
    """Read the description of a reconstruction, from the file next to the structures.

    Raises:
        InputError: There is none, or it is damaged.
    """
    record = record_of(structures)
    if not record.is_file():
        raise InputError(
            f"{structures}: not structures from 'whorl invert' or 'whorl decode', which also write "
            f"{record.name}. Give those, with the files that belong to them."
        )
    with damage_named(record):
        data = dict(read_json(record))
        if "measures" in data:  # of an earlier version
            data |= {"consistency": data["measures"], "samples": data.get("tensors")}
    if not {"rows", "skipped", "consistency"} <= data.keys():
        raise InputError(f"{record}: does not say how structures were reconstructed. Reconstruct them again.")
    return data


def _numbers(values: list[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)
