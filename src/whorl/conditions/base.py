"""Contract of conditions: columns of numbers computed from structures, and requests of their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.errors import InputError
from whorl.settings import Method, Section
from whorl.structures import StructureBatch


class Condition(Method, ABC):
    """A condition of generators in addition to the property, as columns of numbers.

    An instance holds the columns, which are determined by the training data of a generator.
    It is saved with the model (:meth:`config`).

    In a request, ``value`` is plain data as in a recipe, of the type that :attr:`Request` states.

    Attributes:
        Request: Section with one field: the key of ``generate`` in a recipe, the type of its value, and its
            meaning as a docstring. A command-line option of another name is given as
            ``json_schema_extra={"option": …}``.
        request: Name of that field.
        coarser: Condition that follows from this one, as crystal systems do from space groups. Then these
            columns answer requests of both.
    """

    class Settings(Section):
        """None: a condition has no hyperparameters."""

    Request: ClassVar[type[Section]]
    request: ClassVar[str]
    coarser: ClassVar[type[Condition] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name the request after the field of ``Request``."""
        super().__init_subclass__(**kwargs)
        if "Request" in cls.__dict__:
            (cls.request,) = cls.Request.model_fields

    # The columns.

    @classmethod
    @abstractmethod
    def of_data(cls, structures: StructureBatch) -> Condition:
        """Return the condition with columns for these structures."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Name of each of the p columns."""

    @abstractmethod
    def columns(self, structures: StructureBatch) -> Float[Tensor, "N p"]:
        """Return the columns of structures as float64.

        Raises:
            InputError: A structure for which there is no column.
        """

    def config(self) -> dict[str, Any]:
        """Return the configuration for :meth:`from_config`, JSON-able."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Condition:
        """Rebuild from :meth:`config`."""
        return cls(**config)

    # Requests.

    @classmethod
    def check(cls, value: Any) -> None:
        """Make sure that a value can be requested of some generator.

        Raises:
            InputError: An invalid value, such as an unknown element.
        """

    @classmethod
    @abstractmethod
    def satisfied(cls, structures: StructureBatch, value: Any) -> Bool[Tensor, "N"]:
        """Return which structures satisfy a request, by their atoms and cells only."""

    @classmethod
    def describe(cls, value: Any) -> str:
        """Return a description of the request."""
        return f"{cls.request.replace('_', ' ')} {value}"

    def encode(self, value: Any) -> Float[Tensor, "p"]:
        """Return the columns of all structures that satisfy the request.

        Needed where :meth:`distance` or :meth:`write` is not overridden.
        """
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def distance(self, columns: Float[Tensor, "N p"], value: Any) -> Float[Tensor, "N"]:
        """Return the distance of each row from the request: 0 if satisfied, inf if unusable.

        Condition rows are made from the nearest ones. By default a row is usable only if it equals
        :meth:`encode`.
        """
        same = (columns == self.encode(value)).all(1)
        return torch.where(same, 0.0, torch.inf).double()

    def write(self, rows: Float[Tensor, "n p"], value: Any, rng: torch.Generator) -> None:
        """Write the request into rows, in place; they are among the nearest in :meth:`distance`."""
        rows[:] = self.encode(value)

    def seen(self, columns: Float[Tensor, "N p"]) -> Sequence[str]:
        """Return a list of values that can be requested of a generator trained on these rows, if useful."""
        return ()

    def require_seen(self, columns: Float[Tensor, "N p"], value: Any) -> None:
        """Check that some row is usable for a request.

        Raises:
            InputError: None is.
        """
        if not bool(self.distance(columns, value).isfinite().any()):
            seen = ", ".join(self.seen(columns))
            raise InputError(
                f"no training structure of the generator satisfies the request: {self.describe(value)}."
                f"{f' Choose from: {seen}.' if seen else ''}"
            )

    # A coarser condition, where there is one.

    @classmethod
    def answers(cls) -> tuple[str, ...]:
        """Return the names of the requests that these columns can answer."""
        return (cls.request, *((cls.coarser.request,) if cls.coarser else ()))

    @classmethod
    def require_agreement(cls, value: Any, coarse: Any) -> None:
        """Check that a request agrees with one of the coarser condition, which it implies.

        Raises:
            InputError: They contradict each other.
        """

    def as_coarser(self) -> Condition:
        """Return the coarser condition for the same data."""
        raise NotImplementedError(f"{type(self).__name__}.as_coarser")

    def coarse_columns(self, columns: Float[Tensor, "n p"]) -> Float[Tensor, "n q"]:
        """Return the columns of the coarser condition that follow from these."""
        raise NotImplementedError(f"{type(self).__name__}.coarse_columns")

    def write_coarser(self, rows: Float[Tensor, "n p"], value: Any, rng: torch.Generator) -> None:
        """Write a request of the coarser condition into rows, in place; by default nothing is to be done."""


def no_column(row: int, what: str, columns: Sequence[Any]) -> InputError:
    """Return the error for a structure without a column, such as one with an unknown element."""
    known = ", ".join(str(column) for column in columns)
    return InputError(f"conditions: structure {row} {what}; there are columns for {known} only.")
