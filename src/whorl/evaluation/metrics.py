"""Metrics: the results of one evaluator in plain numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError

_FORMAT = "whorl metrics 1"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Results of one evaluator for the samples of one generator, JSON-able.

    Attributes:
        evaluator: Its kind.
        overall: Numbers that concern all samples.
        per_target: The same of the samples of each target, by the target's number in ``:g`` notation.
        per_sample: Columns with an entry for each of the n samples; None where there is no value.
        per_structure: Columns with an entry for each of the k structures.
        warnings: Warnings for the reader.
    """

    evaluator: str
    overall: Mapping[str, Any] = field(default_factory=dict)
    per_target: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_sample: Mapping[str, list[Any]] = field(default_factory=dict)
    per_structure: Mapping[str, list[Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def at(self, target: float) -> Mapping[str, Any]:
        """Return the numbers at one target; empty where there are none."""
        return self.per_target.get(f"{target:g}", {})

    def values(self, column: str) -> Float[Tensor, "_"] | None:
        """Return a column of numbers, of samples or of structures, NaN where there is none; or None."""
        values = self.per_sample.get(column, self.per_structure.get(column))
        if values is None:
            return None
        return torch.tensor([float("nan") if v is None else float(v) for v in values], dtype=torch.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metrics:
        """Build it from what :meth:`to_dict` returned.

        Raises:
            InputError: Other data, or of another version.
        """
        if data.get("format") != _FORMAT:
            raise InputError(
                f"metrics: got format {data.get('format')!r}, expected {_FORMAT!r}. Evaluate again."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            values = {name: value for name, value in data.items() if name in known}
            return cls(**{**values, "warnings": tuple(values.get("warnings", ()))})
        except TypeError as error:
            raise InputError(f"metrics: incomplete data ({error}). Evaluate again.") from error


def by_target(targets: Float[Tensor, "n"], numbers: Callable[[float, Tensor], Any]) -> dict[str, Any]:
    """Return the numbers of each target: ``numbers`` is called with it and with which samples are its own."""
    targets = targets.double()
    made = {f"{target:g}": numbers(target, targets == target) for target in torch.unique(targets).tolist()}
    return {target: values for target, values in made.items() if values is not None}


def column(values: Tensor) -> list[Any]:
    """Return a column from a tensor, with None for what is not finite."""
    if values.dtype == torch.bool or not values.is_floating_point():
        return values.tolist()
    return [value if math.isfinite(value) else None for value in values.tolist()]


def percent(flags: Tensor) -> float | None:
    """Return the share of flags that are set, in percent; None where there are none."""
    return 100.0 * float(flags.double().mean()) if len(flags) else None


def number(value: float) -> float | None:
    """Return ``None`` for NaN, which JSON does not have."""
    return value if math.isfinite(value) else None
