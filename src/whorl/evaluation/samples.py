"""Samples of a generator, from target values to structures, and the reference data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch


@dataclass(frozen=True, kw_only=True)
class Computed:
    """The m structures that an energy method computed while k structures were refined: labels.

    Attributes:
        structures: As they were computed.
        rows: Which of the k structures each became, shape (m,); a structure's in the order of the calls.
        values: The property, shape (m,).
        energies: Total energies in eV, shape (m,).
        forces: On all of their atoms in eV/Å, shape (A, 3); NaN where the method gives none.
    """

    structures: StructureBatch
    rows: Int[Tensor, "m"]
    values: Float[Tensor, "m"]
    energies: Float[Tensor, "m"]
    forces: Float[Tensor, "A 3"]

    @classmethod
    def concatenate(cls, parts: Sequence[Computed]) -> Computed:
        """Join what was computed, in order."""
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS}
        return cls(structures=StructureBatch.concatenate([part.structures for part in parts]), **columns)


_COLUMNS = ("rows", "values", "energies", "forces")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The n samples of one generator, and the k structures that were reconstructed from some of them.

    All pipelines fill the same fields; what does not apply is None or empty.

    Attributes:
        ids: A name for each sample, shape (n,).
        targets: Target property, shape (n,).
        requested: Other requested conditions: ``elements``, ``formula``, ….
        features: Generated features in data units, shape (n, *shape).
        structures: The k reconstructed (and refined) structures; None before reconstruction.
        rows: Sample of each structure, shape (k,).
        loss: Remaining loss of the reconstruction, shape (k,); NaN for a closed form, infinite where it
            failed.
        status: Status of each reconstruction, such as ``"converged"``, ``"decoded"`` or ``"failed"``.
        invalid_above: Threshold of invalid losses; None if unknown.
        reference_loss: Losses of real structures put through the same reconstruction, shape (r,).
        structure_features: Features of the structures themselves, shape (k, F).
        consistency: Self-consistency measures of the samples, by name, each of shape (n,); NaN if unknown.
        skipped: Samples without a structure, with reasons.
        displacement: Root mean square distance in Å that refinement moved each structure's atoms, shape (k,).
        refinement: Status of the refinement of each structure; empty without refinement.
        energy_calls: Energy evaluations that refinement spent on each structure and on those that it took the
            place of, shape (k,).
        computed: What was computed by these; None where nothing was.
        draws: Samples that were drawn for each structure, this one and those that do not reach their targets,
            shape (k,).
        further_labels: Structures labelled on the way besides the training rows: in active rounds, and by
            refiners that keep what they compute.
    """

    ids: tuple[str, ...]
    targets: Float[Tensor, "n"]
    requested: Mapping[str, Any] = field(default_factory=dict)
    features: Float[Tensor, "n *shape"] | None = None
    structures: StructureBatch | None = None
    rows: Int[Tensor, "k"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    loss: Float[Tensor, "k"] | None = None
    status: tuple[str, ...] = ()
    invalid_above: float | None = None
    reference_loss: Float[Tensor, "r"] | None = None
    structure_features: Float[Tensor, "k F"] | None = None
    consistency: Mapping[str, Float[Tensor, "n"]] = field(default_factory=dict)
    skipped: Mapping[int, str] = field(default_factory=dict)
    displacement: Float[Tensor, "k"] | None = None
    refinement: tuple[str, ...] = ()
    energy_calls: Int[Tensor, "k"] | None = None
    computed: Computed | None = None
    draws: Int[Tensor, "k"] | None = None
    further_labels: int = 0

    def __post_init__(self) -> None:
        n, k = len(self.ids), 0 if self.structures is None else len(self.structures)
        of_samples: dict[str, Any] = {"targets": self.targets, "features": self.features, **self.consistency}
        of_structures: dict[str, Any] = {
            "rows": self.rows,
            "loss": self.loss,
            "structure_features": self.structure_features,
            "displacement": self.displacement,
            "energy_calls": self.energy_calls,
            "draws": self.draws,
            "status": self.status or None,
            "refinement": self.refinement or None,
        }
        for values, count, what in ((of_samples, n, "samples"), (of_structures, k, "structures")):
            for name, value in values.items():
                if value is not None and len(value) != count:
                    raise InputError(
                        f"samples: got {len(value)} values of {name} for {count} {what}, expected one each."
                    )
        if k and not (int(self.rows.min()) >= 0 and int(self.rows.max()) < n):
            raise InputError(f"samples: rows point outside the {n} samples.")

    def __len__(self) -> int:
        """Return the number of samples n."""
        return len(self.ids)

    @property
    def crystals(self) -> StructureBatch | None:
        """The structures on the CPU in float64, where all are periodic in three directions; or None."""
        if self.structures is None or not bool(self.structures.pbc.all()):
            return None
        return self.structures.to(device="cpu", dtype=torch.float64)

    @property
    def clusters(self) -> StructureBatch | None:
        """The structures on the CPU in float64, where none is periodic in any direction; or None."""
        if self.structures is None or bool(self.structures.pbc.any()):
            return None
        return self.structures.to(device="cpu", dtype=torch.float64)

    @property
    def attempted(self) -> int:
        """Samples that were to be reconstructed."""
        return len(self.rows) + len(self.skipped)

    @property
    def structure_targets(self) -> Float[Tensor, "k"]:
        """Property asked for of each structure."""
        return self.targets[self.rows]

    @property
    def structure_ids(self) -> tuple[str, ...]:
        """Name of the sample that each structure is from."""
        return tuple(self.ids[row] for row in self.rows.tolist())

    @property
    def invalid(self) -> Tensor:
        """Which structures are invalid: the loss is above the threshold, or the reconstruction failed."""
        flagged = torch.zeros(len(self.rows), dtype=torch.bool)
        if self.status:
            flagged |= torch.tensor([status in ("invalid", "failed") for status in self.status])
        if self.loss is None:
            return flagged
        flagged |= torch.isinf(self.loss)
        if self.invalid_above is not None:
            flagged |= self.loss > self.invalid_above
        return flagged

    def of_structures(self, index: Int[Tensor, "m"]) -> Samples:
        """Return some of the structures, each with its own sample: ``rows`` counts from 0 to m - 1.

        What belongs to samples without a structure, and to all samples, is left out.
        """
        rows = self.rows[index]
        picked: dict[str, Any] = {
            name: None if value is None else value[index]
            for name in ("structures", "loss", "structure_features", "displacement", "energy_calls", "draws")
            for value in (getattr(self, name),)
        }
        for name in ("status", "refinement"):
            picked[name] = tuple(values[i] for i in index.tolist()) if (values := getattr(self, name)) else ()
        return self.replace(
            **picked,
            ids=tuple(self.ids[row] for row in rows.tolist()),
            targets=self.targets[rows],
            features=None if self.features is None else self.features[rows],
            rows=torch.arange(len(rows)),
            consistency={name: values[rows] for name, values in self.consistency.items()},
            skipped={},
            computed=None,
        )

    def replace(self, **changes: Any) -> Samples:
        """Return samples with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The labelled data that samples are compared with.

    Attributes:
        name: Of the property.
        unit: Its unit; empty for none.
        properties: Its values, shape (N,).
        features: Of all labelled structures, shape (N, F).
        structures: They themselves, where there are any.
        forces: On their A atoms in eV/Å, shape (A, 3), NaN where a structure has none; None without any.
        stresses: Theirs in eV/Å³, shape (N, 3, 3), likewise.
        training_rows: Training rows of the generator, shape (m,).
    """

    name: str
    unit: str
    properties: Float[Tensor, "N"]
    features: Float[Tensor, "N F"]
    structures: StructureBatch | None = None
    forces: Float[Tensor, "A 3"] | None = None
    stresses: Float[Tensor, "N 3 3"] | None = None
    training_rows: Int[Tensor, "m"]

    def replace(self, **changes: Any) -> Reference:
        """Return the data with some fields changed."""
        return dataclasses.replace(self, **changes)

    def evenly(self, most: int | None) -> list[int]:
        """Return rows of at most so many structures, drawn evenly."""
        count = len(self.structures or ())
        return list(range(0, count, 1 if most is None else max(1, math.ceil(count / most))))

    @property
    def training_features(self) -> Float[Tensor, "m F"]:
        """Features of the training rows."""
        return self.features[self.training_rows]

    @property
    def training_properties(self) -> Float[Tensor, "m"]:
        """Property of the training rows."""
        return self.properties[self.training_rows]
