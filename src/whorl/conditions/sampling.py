"""Conditions of a generator: their columns, and condition rows for sampling.

The first column is the property; those of each condition follow, in the order of the registry. Usually not
everything is requested. The rest is taken from training rows (:meth:`Conditions.draw`), so that the row
remains a combination known to the generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.axes import CONDITIONS
from whorl.conditions.base import Condition
from whorl.conditions.property import Property
from whorl.conditions.requests import (
    checked_requests,
    conditions_by_request,
    describe_requests,
    require_answerable,
)
from whorl.errors import InputError
from whorl.structures import StructureBatch

if TYPE_CHECKING:
    from whorl.generators import TensorModel


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The condition columns of a generator and their meaning.

    Attributes:
        property: Name of the first column.
        conditions: Conditions of the other columns, in order.
    """

    property: str
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def of_data(
        cls,
        kinds: Sequence[str],
        *,
        property: str,
        labels: Float[Tensor, "N"],
        structures: StructureBatch,
    ) -> tuple[Conditions, Float[Tensor, "N p"]]:
        """Return conditions for some structures, and their columns.

        Args:
            kinds: Names in :data:`whorl.axes.CONDITIONS`, in any order; none for the property alone.
            property: Its name.
            labels: Its values.
            structures: As many; see :meth:`columns`.

        Raises:
            InputError: An unknown kind, another number of labels than of structures, or symmetry requested of
                structures that are not periodic.
        """
        chosen = {CONDITIONS.get(kind): None for kind in kinds}
        order = list(CONDITIONS)
        place = {condition: order.index(kind) for condition in chosen if (kind := _kind(condition)) in order}
        classes = sorted(chosen, key=lambda condition: place.get(condition, len(order)))
        conditions = cls(
            property=property, conditions=tuple(condition.of_data(structures) for condition in classes)
        )
        return conditions, conditions.columns(labels=labels, structures=structures)

    def columns(self, *, labels: Float[Tensor, "N"], structures: StructureBatch) -> Float[Tensor, "N p"]:
        """Return the columns of structures as float64.

        Space groups are those of ``info`` (``space_group_number`` or ``spacegroup_number``), or else what
        spglib finds within 0.1 Å, in some milliseconds a structure.

        Raises:
            InputError: Another number of labels than of structures, something that has no column, or symmetry
                requested of structures that are not periodic.
        """
        if len(labels) != len(structures):
            raise InputError(
                f"conditions: got {len(labels)} values of {self.property} for {len(structures)} structures."
            )
        first = Property(self.property).columns(labels)
        return torch.cat([first, *(condition.columns(structures) for condition in self.conditions)], 1)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Name of each condition in the registry."""
        return tuple(_kind(type(condition)) for condition in self.conditions)

    def __getitem__(self, kind: str) -> Condition:
        """Return the condition of a kind."""
        return self.conditions[self.kinds.index(kind)]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each column, such as ``heat_all``, ``element O``, ``cubic`` and ``space group 221``."""
        return (self.property, *(name for condition in self.conditions for name in condition.names))

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Columns of each condition, by its kind."""
        slices, start = {}, 1
        for kind, condition in zip(self.kinds, self.conditions, strict=True):
            slices[kind] = slice(start, start + len(condition.names))
            start += len(condition.names)
        return slices

    # Saved with a model.

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration for :meth:`from_dict`, JSON-able."""
        return {
            "property": self.property,
            "conditions": [
                {"kind": kind, **condition.config()}
                for kind, condition in zip(self.kinds, self.conditions, strict=True)
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Conditions:
        """Rebuild from :meth:`to_dict`, or from what models were saved with up to version 0.1.

        Raises:
            InputError: Something else, or a condition of a package that is not there.
        """
        try:
            if "kinds" in values:
                listed = [{**values, "kind": kind} for kind in values["kinds"]]
            else:
                listed = list(values["conditions"])
            named = [(str(config["kind"]), dict(config)) for config in listed]
            name = str(values["property"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(error) from None
        conditions = []
        for kind, config in named:
            condition = CONDITIONS.get(kind, imports=False)
            if "kinds" in values:  # the settings of all conditions were in one mapping
                config = {field.name: values.get(field.name) for field in fields(condition)}  # type: ignore[arg-type]
            else:
                del config["kind"]
            try:
                conditions.append(condition.from_config(config))
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(error) from None
        return cls(property=name, conditions=tuple(conditions))

    def note(self, model: TensorModel) -> None:
        """Write these conditions into the record of a trained model, with which they are saved.

        Raises:
            InputError: The model is not trained, or has another number of columns.
        """
        if model.training_record is None:
            raise InputError(f"conditions: this {model.kind} has not been trained. Train it first.")
        self._require_columns(model)
        model.training_record["conditions"] = self.to_dict()

    @classmethod
    def of_model(cls, model: TensorModel, *, property: str) -> Conditions:
        """Return the conditions that :meth:`note` wrote; where it wrote none, the property alone.

        Raises:
            InputError: A damaged record, or another number of columns than the model has.
        """
        noted = (model.training_record or {}).get("conditions")
        conditions = cls(property=property) if noted is None else cls.from_dict(noted)
        conditions._require_columns(model)
        return conditions

    def _require_columns(self, model: TensorModel) -> None:
        if model.properties != len(self.names):
            some = ", ".join([*self.names[:8], *(["…"] if len(self.names) > 8 else [])])
            raise InputError(
                f"conditions: this {model.kind} has {model.properties} columns, and there are names for "
                f"{len(self.names)} ({some}). Train it again."
            )

    # Requests.

    def draw(
        self,
        count: int,
        *,
        known: Float[Tensor, "N p"],
        rng: torch.Generator,
        target: float | None = None,
        **requested: Any,
    ) -> Float[Tensor, "count p"]:
        """Return condition rows: requested values exactly, others from training rows.

        For each sample a training row is drawn: of those nearest to what is requested
        (:meth:`Condition.distance`: of the symmetry requested, those that lack fewest of the elements; with a
        formula, whose elements differ least, and then their fractions, in steps of a tenth); of these one
        with a property near the target (:meth:`Property.weights`). Then what is requested is written into the
        row. An element that it lacks takes the place of one that was not requested, drawn at random; if none
        is left, it is added.

        Args:
            count: Number of rows.
            known: Columns of the training rows.
            rng: Source of all randomness; not used if the property is the only condition.
            target: Of the property; drawn with the rest for None.
            **requested: Requested conditions by name, such as ``elements`` or ``space_group``.

        Raises:
            InputError: A request that the generator is not conditioned on, something that no training row
                has, requests that contradict each other, or training rows of another number of columns.
        """
        if count < 1:
            raise InputError(f"conditions: got a count of {count}, expected at least 1.")
        requests = self._requests(known, requested)
        if target is not None and not self.conditions:
            return torch.full((count, 1), float(target), dtype=torch.float64)
        known = known.double()
        distance = self._distance(known, requests)
        nearest = (distance == distance.min()).nonzero()[:, 0]
        spread = known[:, 0].std(correction=0)
        weights = Property.weights(known[nearest, 0], target, spread=spread)
        rows = known[nearest[torch.multinomial(weights, count, replacement=True, generator=rng)]]
        if target is not None:
            rows[:, 0] = target
        self._write(rows, requests, rng)
        return rows

    def matching(self, known: Float[Tensor, "N p"], **requested: Any) -> Bool[Tensor, "N"]:
        """Return which training rows satisfy all requests, apart from the property.

        Raises:
            InputError: As :meth:`draw`.
        """
        return self._distance(known, self._requests(known, requested)) == 0

    def describe(self, *, target: float | None = None, **requested: Any) -> str:
        """Return a description of target and requested conditions.

        >>> Conditions(property="heat_all").describe(target=0.5, elements=["Ba", "O"], crystal_system="cubic")
        'heat_all = 0.5, with Ba, O, cubic'
        """
        parts = ["" if target is None else Property(self.property).describe(target)]
        return ", ".join(filter(None, [*parts, describe_requests(requested)]))

    def _requests(self, known: Tensor, requested: Mapping[str, Any]) -> dict[str, Any]:
        """Check requests against what the generator is conditioned on and has seen.

        A request implied by a finer one, as a crystal system by a space group, is omitted.
        """
        if known.shape[1] != len(self.names) or len(known) == 0:
            raise InputError(
                f"conditions: got training rows of shape {tuple(known.shape)}, expected at least one row of "
                f"{len(self.names)} columns."
            )
        requests = checked_requests(requested)
        require_answerable(self.kinds, self.property, requests)
        by_request = conditions_by_request()
        settled = {coarser.request for name in requests if (coarser := by_request[name].coarser)}
        requests = {name: value for name, value in requests.items() if name not in settled}
        for name, value in requests.items():
            condition, columns = self._answering(name, known)
            condition.require_seen(columns, value)
        return requests

    def _answering(self, request: str, known: Tensor) -> tuple[Condition, Tensor]:
        """Return the condition of a request and its columns, which may follow from a finer condition."""
        finer = None
        for kind, condition in zip(self.kinds, self.conditions, strict=True):
            columns = known[:, self.slices[kind]]
            if condition.request == request:
                return condition, columns
            if request in condition.answers():
                finer = condition.as_coarser(), condition.coarse_columns(columns)
        assert finer is not None, request
        return finer

    def _distance(self, known: Tensor, requests: Mapping[str, Any]) -> Float[Tensor, "N"]:
        distance = torch.zeros(len(known), dtype=torch.float64)
        for name, value in requests.items():
            condition, columns = self._answering(name, known)
            distance = distance + condition.distance(columns, value)
        return distance

    def _write(self, rows: Tensor, requests: Mapping[str, Any], rng: torch.Generator) -> None:
        """Write requests into rows, the finest conditions first: the coarser ones follow from them."""
        slices = {type(condition): self.slices[_kind(type(condition))] for condition in self.conditions}
        for name, value in requests.items():
            answering = [condition for condition in self.conditions if name in condition.answers()]
            finer = [condition for condition in answering if condition.request != name]
            for condition in finer or answering:
                write = condition.write_coarser if finer else condition.write
                write(rows[:, slices[type(condition)]], value, rng)
        for condition in self.conditions:
            if condition.coarser in slices and requests.keys() & set(condition.answers()):
                columns = rows[:, slices[type(condition)]]
                rows[:, slices[condition.coarser]] = condition.coarse_columns(columns)


def _kind(condition: type[Condition]) -> str:
    return CONDITIONS.name_of(condition)


def _damaged(error: Exception) -> InputError:
    return InputError(f"conditions: damaged ({error!r}). Train the generator again.")
