"""Labelled structures and features, in memory and on disk.

On disk each is one ``.safetensors`` file: tensors, and everything else as JSON in its header. A file is
whole or absent, can be read without whorl, and runs no code when it is opened.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.datasets.entries import WARNINGS
from whorl.datasets.packing import Packer, unpack
from whorl.errors import InputError
from whorl.files import atomic_path
from whorl.representations.base import Representation
from whorl.structures.batch import StructureBatch

_VERSION = 1  # of the file layout
_KINDS = {"dataset": "a data set", "features": "features"}
_REMEDIES = {
    "dataset": "'whorl data read' makes a data set of files of structures.",
    "features": "'whorl encode' makes features of a data set.",
}
_STRUCTURE_TENSORS = ("positions", "cells", "pbc", "atomic_numbers", "structure_index")

Index = int | slice | Sequence[int] | Tensor
_Table = TypeVar("_Table", "Dataset", "FeatureSet")


@dataclass(frozen=True)
class Skipped:
    """An entry that was left out, and why.

    Attributes:
        source: File, and frame or row where it holds several.
        reason: In the user's words.
    """

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """B structures with their properties.

    Attributes:
        structures: The structures; None where only features are known.
        properties: One float64 tensor of shape (B,) per name, in the units of the source (eV, eV/atom …).
        ids: A name for each structure; readers make it of source file and frame.
        provenance: Where the set comes from: files, settings, seed, whorl's version. JSON-able.
        skipped: What was left out when the set was read or built.

    Raises:
        InputError: Lengths that differ.
    """

    structures: StructureBatch | None
    properties: Mapping[str, Tensor] = field(default_factory=dict)
    ids: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        if self.structures is not None and len(self.structures) != len(self.ids):
            raise InputError(f"Dataset: got {len(self.structures)} structures and {len(self.ids)} ids.")
        object.__setattr__(self, "properties", _as_columns(self, self.properties))

    def __len__(self) -> int:
        """Return the number of structures B."""
        return len(self.ids)

    @property
    def doubts(self) -> list[tuple[str, str]]:
        """Id and doubt of every entry that was read, but may not be what its file means."""
        infos = () if self.structures is None else self.structures.info
        doubts = []
        for name, info in zip(self.ids, infos, strict=False):
            said = info.get(WARNINGS, ())
            doubts += [(name, str(doubt)) for doubt in ([said] if isinstance(said, str) else said)]
        return doubts

    def select(self, index: Index) -> Dataset:
        """Return the chosen rows, in the order asked for; ``index`` as for a :class:`StructureBatch`."""
        return _select(self, index, "structures")


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features of B structures, and by which representation they were made.

    Attributes:
        features: Shape (B, *shape).
        representation: Its ``config()``.
        fingerprint: Its ``fingerprint``, the hash of that.
        properties: One float64 tensor of shape (B,) per name.
        ids: A name for each row, the same as in the data set it was made of.

    Raises:
        InputError: Lengths that differ.
    """

    features: Float[Tensor, "B *shape"]
    representation: Mapping[str, Any]
    fingerprint: str
    properties: Mapping[str, Tensor] = field(default_factory=dict)
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.ids):
            raise InputError(
                f"FeatureSet: got {len(self.features)} rows of features and {len(self.ids)} ids."
            )
        object.__setattr__(self, "properties", _as_columns(self, self.properties))

    def __len__(self) -> int:
        """Return the number of rows B."""
        return len(self.ids)

    def select(self, index: Index) -> FeatureSet:
        """Return the chosen rows, in the order asked for; ``index`` as for a :class:`StructureBatch`."""
        return _select(self, index, "features")


def _as_columns(table: Dataset | FeatureSet, properties: Mapping[str, Any]) -> dict[str, Tensor]:
    columns = {}
    for name, values in properties.items():
        column = torch.as_tensor(values, dtype=torch.float64)
        if tuple(column.shape) != (len(table.ids),):
            raise InputError(
                f"{type(table).__name__}: property '{name}' has shape {tuple(column.shape)}, expected "
                f"({len(table.ids)},): one number for each id."
            )
        columns[name] = column
    return columns


def _select(table: _Table, index: Index, main: str) -> _Table:
    every = torch.arange(len(table))
    if isinstance(index, slice):
        rows = every[index]
    else:
        chosen = torch.as_tensor(index, device="cpu")
        rows = every[chosen if chosen.numel() else chosen.long()].reshape(-1)
    content = getattr(table, main)
    changes: dict[str, Any] = {
        main: None if content is None else content[rows.to(content.device)],
        "properties": {name: values[rows.to(values.device)] for name, values in table.properties.items()},
        "ids": tuple(table.ids[row] for row in rows.tolist()),
    }
    return dataclasses.replace(table, **changes)


# Data sets on disk


def save_dataset(dataset: Dataset, path: Path | str) -> None:
    """Write a data set to one ``.safetensors`` file, atomically.

    Values in the structures' ``info`` that have no plain form (objects of your own classes, functions …) are
    left out, and ``provenance["not_stored"]`` of the stored set says which.
    """
    tensors = {f"property/{name}": values for name, values in dataset.properties.items()}
    provenance = dict(dataset.provenance)
    structures = dataset.structures
    if structures is not None:
        tensors |= {name: getattr(structures, name) for name in _STRUCTURE_TENSORS}
        if structures.info:
            packer = Packer()
            text = json.dumps([packer.pack(info) for info in structures.info], allow_nan=False)
            # As a tensor, since the header of a safetensors file may not exceed 100 MB.
            tensors["info/json"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
            tensors |= {f"info/{name}": values for name, values in packer.tensors().items()}
            if packer.dropped:
                provenance["not_stored"] = [
                    f"info {what} of {count} structures" for what, count in sorted(packer.dropped.items())
                ]
    _write(
        path,
        "dataset",
        tensors,
        ids=dataset.ids,
        provenance=provenance,
        skipped=[[entry.source, entry.reason] for entry in dataset.skipped],
    )


def load_dataset(path: Path | str) -> Dataset:
    """Read what :func:`save_dataset` wrote.

    Raises:
        InputError: The file is absent, damaged, or holds something else.
    """
    tensors, header = _read(path, "dataset")
    structures = None
    if "positions" in tensors:
        info: tuple[Mapping[str, Any], ...] = ()
        if "info/json" in tensors:
            packed = json.loads(tensors["info/json"].numpy().tobytes())
            flat = {name: tensors[f"info/{name}"] for name in ("float64", "int64")}
            info = tuple(unpack(packed, flat))
        structures = StructureBatch(**{name: tensors[name] for name in _STRUCTURE_TENSORS}, info=info)
    return Dataset(
        structures=structures,
        properties=_properties_in(tensors),
        ids=tuple(header["ids"]),
        provenance=header["provenance"],
        skipped=tuple(Skipped(source, reason) for source, reason in header["skipped"]),
    )


# Features on disk


def save_features(features: FeatureSet, path: Path | str) -> None:
    """Write features, and what made them, to one ``.safetensors`` file, atomically."""
    tensors = {f"property/{name}": values for name, values in features.properties.items()}
    _write(
        path,
        "features",
        {**tensors, "features": features.features},
        ids=features.ids,
        representation=features.representation,
        fingerprint=features.fingerprint,
    )


def load_features(path: Path | str, *, representation: Representation | None = None) -> FeatureSet:
    """Read what :func:`save_features` wrote.

    Args:
        path: The file.
        representation: Where given, the features must have been made by it.

    Raises:
        InputError: The file is absent, damaged, holds something else, or was made by another representation.
    """
    tensors, header = _read(path, "features")
    if representation is not None and representation.fingerprint != header["fingerprint"]:
        raise InputError(
            f"{path}: was made by another representation than the one asked for: "
            f"{_difference(header['representation'], representation.config())}. Use the settings of the "
            "file, or encode the structures again."
        )
    return FeatureSet(
        features=tensors["features"],
        representation=header["representation"],
        fingerprint=header["fingerprint"],
        properties=_properties_in(tensors),
        ids=tuple(header["ids"]),
    )


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in which settings two representations differ."""
    here = json.loads(json.dumps(here, default=str))
    parts = [
        f"{key} is {_short(there.get(key))} in the file, {_short(here.get(key))} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    return "; ".join(parts) or "its settings read the same, but it was made by another version"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# The file itself


def _properties_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = "property/"
    return {name.removeprefix(start): values for name, values in tensors.items() if name.startswith(start)}


def _write(path: Path | str, kind: str, tensors: Mapping[str, Tensor], **header: Any) -> None:
    from safetensors.torch import save_file

    # One key, since safetensors writes several in no fixed order and equal sets shall make equal files.
    metadata = {"whorl": json.dumps({"kind": kind, "version": _VERSION, **header}, default=str)}
    # Clones, since safetensors refuses tensors that share memory.
    whole = {name: values.detach().cpu().contiguous().clone() for name, values in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata=metadata)


def _read(path: Path | str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise InputError(
            f"{path}: damaged, or not a safetensors file ({error}). {_REMEDIES[kind]} Where whorl wrote it, "
            "run the command that made it again."
        ) from None
    header = json.loads(metadata.get("whorl", "{}"))
    found = header.get("kind")
    if found != kind:
        raise InputError(
            f"{path}: holds {_KINDS.get(found, 'what whorl did not write')}, expected {_KINDS[kind]}."
        )
    if header["version"] > _VERSION:
        raise InputError(f"{path}: was written by a newer whorl. Remedy: pip install --upgrade whorl")
    return tensors, header
