"""Metrics: what one evaluator found out about samples, in plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whorl.errors import InputError

_FORMAT = "whorl metrics 1"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The outcome of one evaluator for the samples of one generator: JSON-able, written once, read by all.

    Attributes:
        evaluator: Its kind.
        overall: Numbers that concern all samples.
        per_target: The same of the samples of each target, by the target's number in ``:g`` notation.
        per_sample: Columns with an entry for each of the n samples; None where there is no value.
        per_structure: Columns with an entry for each of the k structures.
        warnings: What a reader should know.
    """

    evaluator: str
    overall: Mapping[str, Any] = field(default_factory=dict)
    per_target: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_sample: Mapping[str, list[Any]] = field(default_factory=dict)
    per_structure: Mapping[str, list[Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

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
