"""What every part of a recipe has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Kind = TypeVar("Kind", bound="SectionOfKind")

Count = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=10**6)]
"""Of a network, or how many things a structure has."""
Depth = Annotated[int, Field(ge=1, le=1000)]
SeedNumber = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe: every key is known, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SectionOfKind(Section):
    """A section whose keys depend on its ``kind``: the base of a family, of which :meth:`kinds` tells."""

    @classmethod
    def kinds(cls: type[Kind]) -> Mapping[str, type[Kind]]:
        """Return the section of each kind, the default one first."""
        raise NotImplementedError

    @classmethod
    def of_kind(cls: type[Kind], value: Any) -> type[Kind]:
        """Return the section of the kind that ``value`` names."""
        if "kinds" not in cls.__dict__ or not isinstance(value, dict):
            return cls
        return cls.kinds().get(str(value.get("kind")), next(iter(cls.kinds().values())))

    @model_validator(mode="wrap")
    @classmethod
    def _of_kind(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        chosen = cls.of_kind(value)
        return handler(value) if chosen is cls else chosen.model_validate(value)
