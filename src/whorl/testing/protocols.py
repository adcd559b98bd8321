"""Contract check for protocols."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from whorl.evaluation.protocols.base import EvaluationProtocol, ProtocolResult
    from whorl.evaluation.structure_set import StructureSet
    from whorl.structures.batch import StructureBatch

_INPUTS = ("potential", "relaxation", "hull", "reference")


def check_protocol(protocol: EvaluationProtocol, structures: StructureSet) -> None:
    """Check the contract of a :class:`whorl.evaluation.protocols.EvaluationProtocol`.

    Args:
        protocol: To be checked.
        structures: At least two crystals, with all inputs that the protocol uses.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    assert len(structures) >= 2, "give at least two structures"
    settings = type(protocol).Settings
    assert isinstance(protocol.settings, settings), f"settings must be of {settings.__qualname__}"
    assert protocol.source, "source must name the publication"
    assert protocol.uses <= set(_INPUTS), f"uses must be among {', '.join(_INPUTS)}"
    assert not protocol.missing(structures), f"give {', '.join(protocol.missing(structures))}"
    before = {name: values.clone() for name, values in structures.structures.tensors.items()}
    global_state = torch.get_rng_state()
    result = protocol.evaluate(structures)
    after = structures.structures.tensors
    changed = [name for name, values in before.items() if not torch.equal(values, after[name])]
    assert not changed, f"evaluate changed {', '.join(changed)}"
    assert torch.equal(torch.get_rng_state(), global_state), "it used the global random state"
    _is_complete(result, len(structures))
    again = protocol.evaluate(_with(structures, structures.structures))
    assert _plain(again) == _plain(result), "the same structures must give the same results"
    broken = structures.structures.positions.clone()
    broken[0] = torch.nan
    cases = {
        "a structure that is not finite": structures.structures.replace(positions=broken),
        "one structure": structures.structures[:1],
        "no structures": structures.structures[:0],
    }
    sets = {what: _with(structures, batch) for what, batch in cases.items()}
    sets |= {f"no {name}": _with(structures, structures.structures, **{name: None}) for name in protocol.uses}
    sets["none of its inputs"] = _with(structures, structures.structures, **dict.fromkeys(protocol.uses))
    for what, some in sets.items():
        if some.potential is None:
            some.relaxation = some.hull = None
        try:
            found = protocol.evaluate(some)
        except Exception as error:  # whatever a protocol of others raises
            raise AssertionError(f"{what} must not be an error: {type(error).__name__}: {error}") from error
        _is_complete(found, len(some))
        assert found.metrics.keys() == result.metrics.keys(), f"{what}: the metrics must be the same ones"


def _with(structures: StructureSet, batch: StructureBatch, **changes: Any) -> StructureSet:
    """Return another set with the same inputs but for the changes."""
    inputs = {name: getattr(structures, name) for name in _INPUTS}
    targets = None if structures.targets is None else structures.targets[: len(batch)]
    return type(structures)(batch, scheme=structures.scheme, targets=targets, **{**inputs, **changes})


def _is_complete(result: ProtocolResult, count: int) -> None:
    _plain(result)
    for name, of in result.metrics.items():
        assert of.text, f"metric {name}: its text must say what it is"
        if of.value is not None:
            low, high = (of.value if end is None else end for end in (of.low, of.high))
            assert math.isfinite(of.value) and low <= of.value + 1e-9 and of.value <= high + 1e-9, (
                f"metric {name}: {of.value} must be within its interval, {low} to {high}"
            )
    for name, values in result.columns.items():
        assert len(values) == count, f"column {name} has {len(values)} entries, expected {count}"


def _plain(result: ProtocolResult) -> str:
    """Return all of a result as JSON."""
    metrics = {name: of.to_dict() for name, of in result.metrics.items()}
    data = [metrics, {name: list(of) for name, of in result.columns.items()}]
    try:
        return json.dumps(data, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"results must be plain data for JSON, without NaN: {error}") from error
