"""Closed-form reconstruction by an invertible representation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.chunked import Part, map_chunks
from whorl.datasets.store import Dataset, pack_dataset, unpack_dataset
from whorl.errors import InputError
from whorl.reconstruction.base import Reconstruction, ReconstructionContext, Reconstructor
from whorl.reconstruction.result import InversionStatus
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.representations.base import InvertibleRepresentation, Representation
from whorl.settings import Count
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import composition

_AT_ONCE = 200  # tensors between two saves
_OPTIONS = ("clustering", "k_elements", "k_coordinates", "refine")


class ClosedForm(Reconstructor):
    """Decoding by a :class:`whorl.representations.InvertibleRepresentation`."""

    kind = "closed_form"
    searches = False

    class Settings(ReconstructorSettings):
        """Settings of the decoding."""

        clustering: Literal["auto", "paper", "none"] = "auto"
        """auto determines the numbers of distinct elements and coordinates; paper uses k-means with fixed
        numbers; none uses means without clustering."""
        k_elements: Count = 3
        """Number of distinct elements, for clustering paper."""
        k_coordinates: Count = 6
        """Number of distinct coordinates in each direction, for clustering paper."""
        refine: bool = True
        """Detect the symmetry and symmetrise."""
        elements: Literal["data", "any"] = "data"
        """data: each site gets the nearest element that occurs in the data; with generate.formula of
        those in the formula, and all generate.elements occur. any: the nearest of all elements."""

        def summary(self) -> str:
            """Return a one-line summary for reports."""
            how = {
                "auto": "numbers of elements and coordinates found",
                "paper": f"k-means of {self.k_elements} elements and {self.k_coordinates} coordinates",
                "none": "means without clustering",
            }[self.clustering]
            return f"decoded in closed form, {how}, symmetry {'detected' if self.refine else 'not detected'}"

    @classmethod
    def why_not(cls, representation: type[Representation]) -> str | None:
        """Return why features of a class of representations cannot be decoded; None if they can."""
        if issubclass(representation, InvertibleRepresentation):
            return None
        return f"{representation.kind} has no closed-form inverse; search for the atoms: kind population"

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Decode features; see the base class. Those that cannot be decoded are skipped with a reason."""
        codec, own = context.representation, self.settings
        if not isinstance(codec, InvertibleRepresentation):
            raise InputError(f"closed form: {self.why_not(type(codec))}.")
        if tuple(features.shape[1:]) != codec.layout.shape:
            raise InputError(
                f"closed form: got tensors of shape {tuple(features.shape[1:])}, expected "
                f"{codec.layout.shape} as their {type(codec).__name__} makes them. Encode or generate them "
                "again."
            )
        settings: Any = own
        elements = _elements(context) if settings.elements == "data" else {}
        options = {name: getattr(settings, name) for name in _OPTIONS}
        decode = partial(_decoded, codec, options, elements)
        chunks = list(features.split(_AT_ONCE))
        parts = map_chunks(
            decode,
            chunks,
            folder=context.directory,
            key=[codec.fingerprint, settings.options(), elements],
            progress=context.progress,
        )
        decoded = [unpack_dataset(part.tensors, part.notes) for part in parts]
        names = decoded[0].provenance["measures"] if decoded else {}
        structures = [part.structures for part in decoded if part.structures is not None]
        rows = [_AT_ONCE * k + row for k, part in enumerate(decoded) for row in part.provenance["rows"]]
        loss = _numbers(part.provenance["loss"] or [None] * len(part) for part in decoded)
        snapped = sum(int(part.provenance["snapped"]) for part in decoded)
        batch = StructureBatch.concatenate(structures)
        notes: list[str] = []
        if snapped:
            notes.append(
                f"{snapped:,} of {len(batch.atomic_numbers):,} sites were given another element than the "
                "nearest: the data do not have that one, or another was asked for. Where these are many, "
                "train the generator longer; elements 'any' leaves them as they are."
            )
        if codec.species is None and elements and not (elements["elements"] or elements["formula"]):
            notes.append(
                "the features do not state the elements of the data, so sites may have elements that the "
                "data lack. Encode the data again and train on these features, or check the formulas."
            )
        return Reconstruction(
            structures=batch,
            rows=torch.tensor(rows, dtype=torch.int64),
            loss=loss,
            status=tuple(_status(one, codec.exact_below) for one in loss.tolist()),
            consistency={
                name: _numbers(part.provenance["measures"][name] for part in decoded) for name in names
            },
            skipped={
                _AT_ONCE * k + int(row): str(reason)
                for k, part in enumerate(decoded)
                for row, reason in part.provenance["skipped"].items()
            },
            notes=tuple(notes),
            summary={"snapped_sites": snapped},
        )


def _status(loss: float, exact_below: float) -> str:
    if math.isnan(loss):
        return "decoded"
    reached = loss <= exact_below
    return (InversionStatus.CONVERGED if reached else InversionStatus.LOCAL_MINIMUM).value


def _numbers(parts: Iterable[list[float | None]]) -> Tensor:
    values = [torch.nan if value is None else value for part in parts for value in part]
    return torch.tensor(values, dtype=torch.float64)


def _elements(context: ReconstructionContext) -> dict[str, Any]:
    """Return which elements structures may and must have, as decoding takes it."""
    requested = context.requested
    return {
        "elements": list(context.elements) or None,
        "required": list(requested.get("elements") or ()),
        "formula": composition(requested["formula"]) if requested.get("formula") else None,
    }


def _decoded(
    codec: InvertibleRepresentation, settings: dict[str, Any], elements: dict[str, Any], tensors: Tensor
) -> Part:
    """Decode one chunk into a data set; what is not a structure's own goes to the provenance."""
    decoded = codec.reconstruct(tensors, elements=elements, **settings)
    return Part(
        *pack_dataset(
            Dataset(
                structures=decoded.structures,
                ids=tuple(str(row) for row in decoded.index.tolist()),
                provenance={
                    "snapped": decoded.snapped,
                    "rows": decoded.index.tolist(),
                    "loss": None if decoded.loss is None else decoded.loss.tolist(),
                    "skipped": {str(row): reason for row, reason in decoded.skipped.items()},
                    "measures": {name: values.tolist() for name, values in decoded.measures.items()},
                },
            )
        )
    )
