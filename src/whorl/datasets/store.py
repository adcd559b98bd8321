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
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.datasets.entries import WARNINGS
from whorl.datasets.labels import labels_of_calculators
from whorl.datasets.packing import Packer, unpack
from whorl.errors import InputError, unknown_option
from whorl.files import damage_named
from whorl.representations.base import Representation
from whorl.structures.batch import STRUCTURE_TENSORS, StructureBatch
from whorl.structures.convert import EXTRAS, BatchField, as_batch
from whorl.tensor_files import read_tensors, write_tensors

_VERSION = 1  # of the file layout
_KINDS = {"dataset": "a data set", "features": "features"}
_REMEDIES = {
    "dataset": "'whorl data read' makes a data set of files of structures.",
    "features": "'whorl encode' makes features of a data set.",
}

Index = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class Skipped:
    """A skipped entry and the reason.

    Attributes:
        source: File, and frame or row if it contains several.
        reason: Reason, in terms of the input.
    """

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """B structures with their properties.

    Attributes:
        structures: The structures, as anything that :func:`whorl.structures.as_batch` takes; None where only
            features are known.
        properties: One float64 tensor of shape (B,) per name, in the units of the source (eV, eV/atom …).
        forces: Minus the gradient of the total energy in eV/Å, shape (A, 3) for A atoms in all, float64; NaN
            in all rows of a structure of which not all are known; None where no structure has any. By
            default those that came with ASE's calculators.
        stresses: In eV/Å³, shape (B, 3, 3), with ASE's sign (positive if the cell tends to shrink); NaN
            and None as for forces.
        ids: A name for each structure; for readers, source file and frame.
        provenance: Origin of the data: files, settings, seed, whorl's version. JSON-able.
        skipped: Entries that were skipped when the set was read or built.

    Raises:
        InputError: Lengths that differ.
    """

    structures: BatchField | None
    properties: Mapping[str, Tensor] = field(default_factory=dict)
    forces: Float[Tensor, "A 3"] | None = None
    stresses: Float[Tensor, "B 3 3"] | None = None
    ids: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        if self.structures is not None:
            object.__setattr__(self, "structures", as_batch(self.structures))
        if self.structures is not None and len(self.structures) != len(self.ids):
            raise InputError(f"Dataset: got {len(self.structures)} structures and {len(self.ids)} ids.")
        forces, stresses = self.forces, self.stresses
        if self.structures is not None and forces is None and stresses is None:
            forces, stresses = labels_of_calculators(self.structures)
        object.__setattr__(self, "forces", _whole(self.structures, "forces", forces))
        object.__setattr__(self, "stresses", _whole(self.structures, "stresses", stresses))
        object.__setattr__(self, "properties", _as_columns(self, self.properties))

    def __len__(self) -> int:
        """Return the number of structures B."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Return in one line what it holds."""
        parts = [f"{len(self)} rows" if self.structures is None else repr(self.structures)]
        parts += [f"properties {', '.join(self.properties)}"] if self.properties else []
        parts += [name for name in ("forces", "stresses") if getattr(self, name) is not None]
        parts += [f"{len(self.skipped)} skipped"] if self.skipped else []
        return f"Dataset({'; '.join(parts)})"

    @property
    def doubts(self) -> list[tuple[str, str]]:
        """Id and doubt of every entry whose interpretation is doubtful."""
        infos = () if self.structures is None else self.structures.info
        doubts = []
        for name, info in zip(self.ids, infos, strict=False):
            warnings = info.get(WARNINGS, ())
            doubts += [
                (name, str(doubt)) for doubt in ([warnings] if isinstance(warnings, str) else warnings)
            ]
        return doubts

    def select(self, index: Index) -> Dataset:
        """Return the chosen rows, in the order asked for; ``index`` as for a :class:`StructureBatch`."""
        rows = _rows_of(self, index)
        atoms = None
        if self.structures is not None and self.forces is not None:
            atoms = self.structures.atoms_of(rows.to(self.structures.device)).to(self.forces.device)
        return dataclasses.replace(
            self,
            structures=None if self.structures is None else self.structures[rows],
            forces=None if self.forces is None else self.forces[atoms],
            stresses=None if self.stresses is None else self.stresses[rows.to(self.stresses.device)],
            **_selected(self, rows),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Dataset], *, provenance: Mapping[str, Any] | None = None) -> Dataset:
        """Join data sets that have structures and the same properties into one, in order.

        Args:
            parts: At least one.
            provenance: Of the whole.

        Raises:
            InputError: No parts, or parts without structures or with other properties.
        """
        batches = [part.structures for part in parts if part.structures is not None]
        if not parts or len(batches) < len(parts):
            raise InputError("Dataset.concatenate: expected data sets, all with structures.")
        names = parts[0].properties.keys()
        if any(part.properties.keys() != names for part in parts):
            raise InputError("Dataset.concatenate: expected the same properties in all of them.")
        labels: dict[str, Tensor | None] = {}
        for label in ("forces", "stresses"):
            known = [getattr(part, label) for part in parts]
            absent = [_unknown(batch, label) for batch in batches]
            labels[label] = torch.cat([b if a is None else a for a, b in zip(known, absent, strict=True)])
        return cls(
            structures=StructureBatch.concatenate(batches),
            properties={name: torch.cat([part.properties[name] for part in parts]) for name in names},
            forces=labels["forces"],
            stresses=labels["stresses"],
            ids=tuple(name for part in parts for name in part.ids),
            provenance=provenance or {},
            skipped=tuple(entry for part in parts for entry in part.skipped),
        )


def _unknown(structures: StructureBatch, label: str) -> Tensor:
    """Return labels of structures that have none."""
    shape = (len(structures.positions), 3) if label == "forces" else (len(structures), 3, 3)
    return torch.full(shape, torch.nan, dtype=torch.float64)


def _whole(structures: StructureBatch | None, label: str, values: Tensor | None) -> Tensor | None:
    """Return labels, NaN throughout a structure of which not all are known; None where none has any.

    Raises:
        InputError: They do not fit the structures.
    """
    if values is None:
        return None
    values = torch.as_tensor(values, dtype=torch.float64)
    if structures is None:
        raise InputError(f"Dataset: got {label} without structures.")
    expected = tuple(_unknown(structures, label).shape)
    if tuple(values.shape) != expected:
        raise InputError(
            f"Dataset: got {label} of shape {tuple(values.shape)}, expected {expected}: those of "
            f"{len(structures.positions)} atoms in {len(structures)} structures, in their order."
        )
    bad = ~values.flatten(1).isfinite().all(1)
    if label == "forces":
        owner = structures.structure_index.to(values.device)
        bad = (
            torch.zeros(len(structures), device=values.device).index_add(0, owner, bad.float()).bool()[owner]
        )
    if not bool((~bad).any()):
        return None
    return (
        torch.where(bad.reshape(-1, *[1] * (values.ndim - 1)), torch.nan, values)
        if bool(bad.any())
        else values
    )


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features of B structures, and their representation.

    Attributes:
        features: Shape (B, *shape).
        representation: Its ``config()``.
        fingerprint: Its ``fingerprint``, a hash of the config.
        properties: One float64 tensor of shape (B,) per name.
        ids: A name for each row, the same as in the data set it was made of.
        pbc: Periodicity of each structure along its lattice vectors, shape (B, 3); ``None`` where it is not
            known. Of generated rows: that of the most similar structure of the training set.
        requested: Of generated rows: the other requested conditions, by name.
        elements: Chemical symbols in the structures, or of generated rows in the training set; none where
            they are not known.

    Raises:
        InputError: Lengths that differ.
    """

    features: Float[Tensor, "B *shape"]
    representation: Mapping[str, Any]
    fingerprint: str
    properties: Mapping[str, Tensor] = field(default_factory=dict)
    ids: tuple[str, ...]
    pbc: Bool[Tensor, "B 3"] | None = None
    requested: Mapping[str, Any] = field(default_factory=dict)
    elements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.features) != len(self.ids):
            raise InputError(
                f"FeatureSet: got {len(self.features)} rows of features and {len(self.ids)} ids."
            )
        pbc = self.pbc
        if pbc is not None and (tuple(pbc.shape) != (len(self.ids), 3) or pbc.dtype != torch.bool):
            raise InputError(
                f"FeatureSet: got pbc of shape {tuple(pbc.shape)} and {pbc.dtype}, expected "
                f"({len(self.ids)}, 3) booleans."
            )
        object.__setattr__(self, "properties", _as_columns(self, self.properties))

    def __len__(self) -> int:
        """Return the number of rows B."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Return in one line what it holds."""
        parts = [f"{len(self)} rows", " × ".join(map(str, self.features.shape[1:])) + " features"]
        parts += [str(self.representation["kind"])] if "kind" in self.representation else []
        parts += [f"properties {', '.join(self.properties)}"] if self.properties else []
        return f"FeatureSet({'; '.join(parts)})"

    def select(self, index: Index) -> FeatureSet:
        """Return the chosen rows, in the order asked for; ``index`` as for a :class:`StructureBatch`.

        All rows in their order are not copied.
        """
        rows = _rows_of(self, index)
        if torch.equal(rows, torch.arange(len(self))):
            return self
        return dataclasses.replace(
            self,
            features=self.features[rows.to(self.features.device)],
            pbc=None if self.pbc is None else self.pbc[rows.to(self.pbc.device)],
            **_selected(self, rows),
        )


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


def _rows_of(table: Dataset | FeatureSet, index: Index) -> Tensor:
    every = torch.arange(len(table))
    if isinstance(index, slice):
        return every[index]
    chosen = torch.as_tensor(index, device="cpu")
    return every[chosen if chosen.numel() else chosen.long()].reshape(-1)


def _selected(table: Dataset | FeatureSet, rows: Tensor) -> dict[str, Any]:
    return {
        "properties": {name: values[rows.to(values.device)] for name, values in table.properties.items()},
        "ids": tuple(table.ids[row] for row in rows.tolist()),
    }


# Data sets on disk


def save_dataset(dataset: Dataset, path: Path | str) -> list[str]:
    """Write a data set to one ``.safetensors`` file, atomically.

    Values in the structures' ``info`` that have no plain form (objects of your own classes, constraints that
    cannot be rebuilt …) are left out.

    Returns:
        What was left out, which is also in ``provenance["not_stored"]`` of the stored set.

    Raises:
        InputError: Structures that could not be loaded again (see :meth:`StructureBatch.check`).
    """
    if dataset.structures is not None:
        dataset.structures.check()
    tensors, header = pack_dataset(dataset)
    write_tensors(path, tensors, header)
    return list(header["provenance"].get("not_stored", []))


def load_dataset(path: Path | str) -> Dataset:
    """Read a file written by :func:`save_dataset`.

    Raises:
        InputError: The file is absent, damaged, or holds something else.
    """
    tensors, header = _read(path, "dataset")
    with damage_named(path):
        return unpack_dataset(tensors, header)


def pack_dataset(dataset: Dataset) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a data set as tensors and a JSON-able header."""
    tensors = {f"property/{name}": values for name, values in dataset.properties.items()}
    provenance = dict(dataset.provenance)
    structures = dataset.structures
    if structures is not None:
        tensors |= structures.tensors
        labels = {"label/forces": dataset.forces, "label/stresses": dataset.stresses}
        tensors |= {name: values for name, values in labels.items() if values is not None}
        if structures.info:
            packer = Packer()
            text = json.dumps([packer.pack(info) for info in structures.info], allow_nan=False)
            # As a tensor, since the header of a safetensors file may not exceed 100 MB.
            tensors["info/json"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
            tensors |= {f"info/{name}": values for name, values in packer.tensors().items()}
            if packer.dropped:
                provenance["not_stored"] = [
                    f"info {what.removeprefix(f'{EXTRAS}.')} of {count} structures"
                    for what, count in sorted(packer.dropped.items())
                ]
    header = {
        "kind": "dataset",
        "version": _VERSION,
        "ids": list(dataset.ids),
        "provenance": provenance,
        "skipped": [[entry.source, entry.reason] for entry in dataset.skipped],
    }
    return tensors, header


def unpack_dataset(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Dataset:
    """Return the data set that :func:`pack_dataset` packed.

    Raises:
        InputError: The contents are inconsistent.
    """
    structures = None
    if "positions" in tensors:
        info: tuple[Mapping[str, Any], ...] = ()
        if "info/json" in tensors:
            packed = json.loads(tensors["info/json"].numpy().tobytes())
            flat = {name: tensors[f"info/{name}"] for name in ("float64", "int64")}
            info = tuple(unpack(packed, flat))
            if not all(isinstance(one, Mapping) for one in info):
                raise InputError("info: expected a mapping for each structure.")
        structures = StructureBatch(**{name: tensors[name] for name in STRUCTURE_TENSORS}, info=info)
        structures.check()
    return Dataset(
        structures=structures,
        properties=_properties_in(tensors),
        forces=tensors.get("label/forces"),
        stresses=tensors.get("label/stresses"),
        ids=_texts(header["ids"], "ids"),
        provenance=dict(header["provenance"]),
        skipped=tuple(Skipped(str(source), str(reason)) for source, reason in header["skipped"]),
    )


# Features on disk


def save_features(features: FeatureSet, path: Path | str) -> None:
    """Write features and their representation to one ``.safetensors`` file, atomically."""
    tensors = {f"property/{name}": values for name, values in features.properties.items()}
    if features.pbc is not None:
        tensors["pbc"] = features.pbc
    write_tensors(
        path,
        {**tensors, "features": features.features},
        {
            "kind": "features",
            "version": _VERSION,
            "ids": list(features.ids),
            "representation": features.representation,
            "fingerprint": features.fingerprint,
            "requested": dict(features.requested),
            "elements": list(features.elements),
        },
    )


def load_features(path: Path | str, *, representation: Representation | None = None) -> FeatureSet:
    """Read a file written by :func:`save_features`.

    Args:
        path: The file.
        representation: If given, the features must be of this representation.

    Raises:
        InputError: The file is absent, damaged, of another kind, or of another representation.
    """
    tensors, header = _read(path, "features")
    with damage_named(path):
        there = FeatureSet(
            features=_rows(tensors["features"]),
            representation=dict(header["representation"]),
            fingerprint=_texts([header["fingerprint"]], "fingerprint")[0],
            properties=_properties_in(tensors),
            ids=_texts(header["ids"], "ids"),
            pbc=tensors.get("pbc"),
            requested=dict(header.get("requested", {})),
            elements=_texts(header.get("elements", []), "elements"),
        )
    if representation is not None and representation.fingerprint != there.fingerprint:
        raise InputError(
            f"{path}: was made by another representation than the one asked for: "
            f"{_difference(there.representation, representation.config())}. Use the settings of the "
            "file, or encode the structures again."
        )
    return there


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return in which settings two representations differ."""
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


def _rows(features: Tensor) -> Tensor:
    if not features.is_floating_point() or features.ndim < 2:
        raise InputError(
            f"features: got {features.dtype} of shape {tuple(features.shape)}, expected a row of numbers for "
            "each structure."
        )
    return features


def _texts(values: Any, what: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{what}: expected text.")
    return tuple(values)


def _read(path: Path | str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    remedy = f"{_REMEDIES[kind]} Where whorl wrote it, run the command that made it again."
    tensors, header = read_tensors(path, expected=_KINDS[kind], remedy=remedy)
    there = header.get("kind")
    if there != kind:
        name = _KINDS.get(there, "what whorl did not write") if isinstance(there, str) else "something else"
        raise InputError(f"{path}: holds {name}, expected {_KINDS[kind]}.")
    version = header.get("version")
    if not isinstance(version, int):
        raise InputError(f"{path}: damaged: it has no version. Run the command that made it again.")
    if version > _VERSION:
        raise InputError(f"{path}: was written by a newer whorl. Remedy: pip install --upgrade whorl")
    return tensors, header


def entries_of(ids: Sequence[str], dataset: Path) -> Dataset:
    """Return the entries of a data set that have these ids, in this order, with their labels.

    Raises:
        InputError: The data set holds no structures, or lacks one of them.
    """
    data = load_dataset(dataset)
    if data.structures is None or not len(data):
        raise InputError(f"{dataset}: holds no structures.")
    place = {name: index for index, name in enumerate(data.ids)}
    if missing := [name for name in ids if name not in place]:
        raise InputError(
            f"{dataset}: has no structure '{missing[0]}', which the features name. Give the data set "
            "that the features were made of."
        )
    return data.select([place[name] for name in ids])


def structures_of(ids: Sequence[str], dataset: Path) -> StructureBatch:
    """Return the structures of :func:`entries_of`."""
    structures = entries_of(ids, dataset).structures
    assert structures is not None
    return structures


def labels_of(features: FeatureSet, name: str | None) -> Tensor:
    """Return one property of a feature file: the named one, or the only one there is.

    Raises:
        InputError: No such property, or several to choose from.
    """
    there = features.properties
    return there[property_name(features, name)]


def property_name(features: FeatureSet, name: str | None) -> str:
    """Return the name of a property of a feature file: the given one, or that of the only one there is.

    Raises:
        InputError: No such property, or several to choose from.
    """
    there = features.properties
    if not there:
        raise InputError(
            "the features have no property to train on. Read the structures again with their labels "
            "('whorl data read --property'), or label them with a calculator, and encode them again."
        )
    if name is None:
        if len(there) != 1:
            names = ", ".join(sorted(there))
            raise InputError(f"the features have several properties ({names}): say which with --property.")
        return next(iter(there))
    if name not in there:
        raise unknown_option("property of the features", name, there)
    return name


def structures_of_features(features: FeatureSet, dataset: Path | None, what: str) -> StructureBatch:
    """Return the structures that features were made of; ``what`` they are needed for.

    Raises:
        InputError: No data set, or one that lacks some of them.
    """
    if dataset is None:
        raise InputError(f"{what} come from structures: give the data set of the features with --dataset.")
    return structures_of(features.ids, dataset)
