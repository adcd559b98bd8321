"""Contract check for conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.conditions.base import Condition
    from whorl.structures.batch import StructureBatch


def check_condition(
    condition: type[Condition],
    structures: StructureBatch,
    *,
    values: Sequence[Any],
    wrong: Sequence[Any] = (),
) -> None:
    """Check the contract of a :class:`whorl.conditions.Condition`.

    Args:
        condition: To be checked.
        structures: Several, of which each value is true of some and not of all.
        values: To be requested; none may be of something that no structure has.
        wrong: Values that mean nothing, which ``check`` must refuse.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    global_state = torch.get_rng_state()
    _states_its_request(condition, values, wrong)
    own = condition.of_data(structures)
    columns = _columns(own, structures)
    _survives_saving(own, structures, columns)
    for value in values:
        met = _satisfied(own, structures, value)
        _distances_agree(own, columns, met, value)
        _writes(own, columns, value)
    if condition.coarser is not None:
        _coarser_follows(own, structures, columns)
    assert torch.equal(torch.get_rng_state(), global_state), "the condition used the global random state"


def _states_its_request(condition: type[Condition], values: Sequence[Any], wrong: Sequence[Any]) -> None:
    from whorl.workflow.settings import GenerateSettings

    assert list(condition.Request.model_fields) == [condition.request], "Request must have one field"
    name = condition.request
    assert name not in GenerateSettings.model_fields, f"'{name}' is another key of generate"
    assert getattr(condition.Request(), name) is None, "nothing must be requested by default"
    assert condition.Request.model_fields[name].description, f"the field '{name}' needs a docstring"
    for value in values:
        section: Mapping[str, Any] = condition.Request.model_validate({name: value}).model_dump(mode="json")
        assert section[name] == json.loads(json.dumps(value)), "a value must be plain data, as in a recipe"
        condition.check(value)
        assert condition.describe(value), f"describe says nothing of {value!r}"
    for value in wrong:
        try:
            condition.check(value)
        except InputError:
            continue
        raise AssertionError(f"check must refuse {value!r} by an InputError")


def _columns(condition: Condition, structures: StructureBatch) -> torch.Tensor:
    kept = structures.positions.clone(), structures.info
    columns, names = condition.columns(structures), condition.names
    assert columns.shape == (len(structures), len(names)), "one row a structure, one column a name"
    assert len(set(names)) == len(names), "the names of the columns must differ"
    assert columns.dtype == torch.float64, f"columns must be float64, got {columns.dtype}"
    assert bool(columns.isfinite().all()), "columns must be finite"
    assert torch.equal(structures.positions, kept[0]), "columns changed the structures"
    assert structures.info == kept[1], "columns changed the structures"
    assert condition.columns(structures[:0]).shape == (0, len(names)), "no structures: no rows"
    for i in range(len(structures)):
        alone = condition.columns(structures[i])
        assert torch.equal(alone, columns[i : i + 1]), "columns of a structure must not depend on the others"
    return columns


def _survives_saving(condition: Condition, structures: StructureBatch, columns: torch.Tensor) -> None:
    again = type(condition).from_config(json.loads(json.dumps(condition.config())))
    assert again == condition, "config() does not rebuild the condition"
    assert again.names == condition.names, "config() does not rebuild the names"
    assert torch.equal(again.columns(structures), columns), "config() does not rebuild the columns"


def _satisfied(condition: Condition, structures: StructureBatch, value: Any) -> torch.Tensor:
    met = condition.satisfied(structures, value)
    assert met.shape == (len(structures),), "satisfied must say yes or no of each structure"
    assert met.dtype == torch.bool, "satisfied must say yes or no of each structure"
    assert bool(met.any()), f"no structure is {value!r}: check with others"
    assert not bool(met.all()), f"all structures are {value!r}: check with others"
    for i in range(len(structures)):
        alone = bool(condition.satisfied(structures[i], value)[0])
        assert alone == bool(met[i]), "satisfied must not depend on the other structures"
    return met


def _distances_agree(condition: Condition, columns: torch.Tensor, met: torch.Tensor, value: Any) -> None:
    distance = condition.distance(columns, value)
    assert distance.shape == (len(columns),), "one distance a row"
    assert not bool(distance.isnan().any()), "a distance is NaN"
    assert bool((distance >= 0).all()), "distances must not be negative"
    assert torch.equal(distance == 0, met), "the distance must be 0 for what is satisfied, and no other"
    condition.require_seen(columns, value)


def _writes(condition: Condition, columns: torch.Tensor, value: Any) -> None:
    def written(seed: int) -> torch.Tensor:
        rows = columns[condition.distance(columns, value).isfinite()].clone()
        condition.write(rows, value, torch.Generator().manual_seed(seed))
        return rows

    rows = written(1)
    assert bool(rows.isfinite().all()), "write gave a row that is not finite"
    assert bool((condition.distance(rows, value) == 0).all()), "a row must be what is requested after write"
    assert torch.equal(rows, written(1)), "the same seed must give the same rows"


def _coarser_follows(condition: Condition, structures: StructureBatch, columns: torch.Tensor) -> None:
    coarser = condition.as_coarser()
    assert type(coarser) is condition.coarser, f"as_coarser must return a {condition.coarser}"
    follows = condition.coarse_columns(columns)
    assert torch.equal(follows, coarser.columns(structures)), (
        "coarse_columns must be the columns of the coarser condition"
    )
