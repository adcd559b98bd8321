"""Contract check for evaluators."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
    from whorl.evaluation.samples import Reference, Samples


def check_evaluator(
    evaluator: Evaluator, samples: Samples, reference: Reference, context: EvaluationContext
) -> None:
    """Check the contract of a :class:`whorl.evaluation.Evaluator`.

    Args:
        evaluator: To be checked.
        samples: Those it applies to, with features and at least two structures.
        reference: Real data.
        context: What it needs, without a directory.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    assert samples.features is not None and samples.structures is not None, "give features and structures"
    assert len(samples.structures) >= 2, "give at least two structures"
    settings = type(evaluator).Settings
    assert isinstance(evaluator.settings, settings), f"settings must be of {settings.__qualname__}"
    assert evaluator.applies(samples, reference) is True, "it must apply to these samples (and say True)"
    before, global_state = _contents(samples, reference), torch.get_rng_state()
    prepared = _plain(evaluator.prepare(reference, context), "what prepare returns")
    metrics = evaluator.evaluate(samples, reference, context, prepared)
    after = _contents(samples, reference)
    changed = [name for name, values in before.items() if not _same(values, after[name])]
    assert not changed, f"evaluate changed {', '.join(changed)}"
    assert torch.equal(torch.get_rng_state(), global_state), "it used the global random state"
    _is_complete(evaluator, metrics, samples)
    again = evaluator.evaluate(samples, reference, context, prepared)
    assert again.to_dict() == metrics.to_dict(), "the same samples must give the same metrics"
    with tempfile.TemporaryDirectory() as folder:
        kept = dataclasses.replace(context, directory=Path(folder))
        for _ in range(2):
            from_chunks = evaluator.evaluate(samples, reference, kept, prepared)
            assert from_chunks.to_dict() == metrics.to_dict(), "kept chunks must give the same metrics"
        other = samples.replace(structures=_moved(samples), structure_features=samples.structure_features)
        fresh = evaluator.evaluate(other, reference, context, prepared)
        assert evaluator.evaluate(other, reference, kept, prepared).to_dict() == fresh.to_dict(), (
            "chunks kept of other structures must not be used"
        )
    _survives_what_cannot_be(evaluator, samples, reference, context, prepared)
    _survives_little(evaluator, samples, reference, context, prepared)


def _contents(samples: Samples, reference: Reference) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, of in (("samples", samples), ("reference", reference)):
        for field in dataclasses.fields(of):
            value = getattr(of, field.name)
            tensors = getattr(value, "tensors", None) or {"": value}
            for part, values in tensors.items():
                if isinstance(values, torch.Tensor):
                    found[f"{name}.{field.name} {part}".rstrip()] = values.clone()
    return found


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def _plain(data: Any, what: str) -> Any:
    """Return data after a round trip through JSON."""
    try:
        return json.loads(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} must be plain data for JSON, without NaN: {error}") from error


def _is_complete(evaluator: Evaluator, metrics: Any, samples: Samples) -> None:
    from whorl.evaluation.metrics import Metrics
    from whorl.evaluation.running import require_fitting

    try:
        require_fitting(metrics, samples, evaluator.kind)
    except InputError as error:
        raise AssertionError(str(error)) from error
    assert Metrics.from_dict(_plain(metrics.to_dict(), "metrics")).to_dict() == metrics.to_dict(), (
        "metrics must be unchanged by JSON: keys of mappings must be strings"
    )
    targets = {f"{target:g}" for target in samples.targets.tolist()}
    unknown = sorted(set(metrics.per_target) - targets)
    assert not unknown, f"per_target names {', '.join(unknown)}, expected targets, as '{min(targets)}'"


def _moved(samples: Samples) -> Any:
    """Return structures whose first atom is a little elsewhere."""
    assert samples.structures is not None
    positions = samples.structures.positions.clone()
    positions[0] += 0.05
    return samples.structures.replace(positions=positions)


def _survives_what_cannot_be(
    evaluator: Evaluator, samples: Samples, reference: Reference, context: EvaluationContext, prepared: Any
) -> None:
    """One structure that is not finite, with features that are not, is a row like others."""
    assert samples.structures is not None and samples.features is not None
    positions, features = samples.structures.positions.clone(), samples.features.clone()
    positions[0] = torch.nan
    features[0] = torch.nan
    broken = samples.replace(structures=samples.structures.replace(positions=positions), features=features)
    try:
        metrics = evaluator.evaluate(broken, reference, context, prepared)
    except Exception as error:  # whatever an evaluator of others raises
        raise AssertionError(
            f"a structure that is not finite must become a row, not an error: {type(error).__name__}: {error}"
        ) from error
    _is_complete(evaluator, metrics, broken)


def _survives_little(
    evaluator: Evaluator, samples: Samples, reference: Reference, context: EvaluationContext, prepared: Any
) -> None:
    """One structure, none, and features alone."""
    none = samples.of_structures(torch.arange(1)).of_structures(torch.zeros(0, dtype=torch.int64))
    none = samples.replace(
        **{f.name: getattr(none, f.name) for f in dataclasses.fields(none) if f.name in _OF_STRUCTURES}
    )
    alone = type(samples)(ids=samples.ids, targets=samples.targets, features=samples.features)
    cases = {
        "one structure": samples.of_structures(torch.arange(1)),
        "samples without a structure": none,
        "features alone": alone,
    }
    for what, little in cases.items():
        applies = evaluator.applies(little, reference)
        assert what != "features alone" or not (applies and evaluator.of_structures), (
            "of_structures is stated, so it must not apply to features alone"
        )
        if applies:
            try:
                metrics = evaluator.evaluate(little, reference, context, prepared)
            except Exception as error:
                raise AssertionError(
                    f"it says that it applies to {what}, and raises {type(error).__name__}: {error}"
                ) from error
            _is_complete(evaluator, metrics, little)


_OF_STRUCTURES = (
    *("structures", "rows", "loss", "status", "structure_features", "displacement"),
    *("refinement", "energy_calls"),
)
