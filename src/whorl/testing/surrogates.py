"""Contract of surrogates."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch

if TYPE_CHECKING:
    from whorl.surrogates.base import Prediction, Surrogate

Features: TypeAlias = torch.Tensor | StructureBatch


def check_surrogate(
    method: type[Surrogate], *, options: Mapping[str, Any] | None = None, shape: tuple[int, ...] = (4,)
) -> None:
    """Check the contract of a :class:`whorl.surrogates.Surrogate`.

    Args:
        method: The class.
        options: Hyperparameters of a small one, which fits in a moment.
        shape: Of one structure's features; of no meaning to a surrogate of structures.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    options = dict(options or {})
    features, properties = _structures() if method.takes == "structures" else _rows(shape)
    validation = torch.arange(0, len(features), 5)
    kept, global_state = (_copied(features), properties.clone()), torch.get_rng_state()
    steps: list[tuple[float, float]] = []
    surrogate = method.fit(
        features,
        properties,
        seed=1,
        validation=validation,
        progress=lambda done, total, *_: steps.append((done, total)),
        **options,
    )
    assert _same(features, kept[0]) and torch.equal(properties, kept[1]), "fit changed its data"
    assert torch.equal(torch.get_rng_state(), global_state), "fit used the global random state, not its seed"
    assert all(0 <= done <= total for done, total in steps), "progress must count up to its total"
    assert isinstance(surrogate, method), f"fit must return a {method.__name__}"
    predicted = _surrogate_predicts(surrogate, features)
    _surrogate_states_its_errors(surrogate, predicted.mean[validation] - properties[validation])
    again = method.fit(features, properties, seed=1, validation=validation, **options).predict(features)
    assert torch.equal(again.mean, predicted.mean), "the same seed must give the same surrogate"
    _surrogate_refuses_other_features(surrogate, shape)
    _surrogate_survives_saving(surrogate, features)


def _rows(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows whose property is linear in the features, of a spread far from 1."""
    rng = torch.Generator().manual_seed(7)
    features = 10 + torch.randn(60, *shape, generator=rng, dtype=torch.float64)
    weights = torch.randn(features[0].numel(), generator=rng, dtype=torch.float64)
    return features, 1000 * (features.flatten(1) @ weights - 3)


def _structures() -> tuple[StructureBatch, torch.Tensor]:
    """Return triangles of two elements whose property is a sum over pairs, of a spread far from 1."""
    rng = torch.Generator().manual_seed(7)
    corners = torch.tensor([[0.0, 0.0, 0.0], [2.6, 0.0, 0.0], [1.3, 2.2, 0.0]], dtype=torch.float64)
    positions = corners + 0.3 * torch.randn(60, 3, 3, generator=rng, dtype=torch.float64)
    distances = torch.stack(
        [(positions[:, i] - positions[:, j]).norm(dim=1) for i, j in ((0, 1), (0, 2), (1, 2))]
    )
    structures = StructureBatch(
        positions=positions.flatten(0, 1),
        cells=torch.zeros(60, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(60, 3, dtype=torch.bool),
        atomic_numbers=torch.tensor([78, 29, 29]).repeat(60),
        structure_index=torch.arange(60).repeat_interleave(3),
    )
    return structures, 1000 * ((distances - 2.6).square().sum(0) - 3)


def _copied(features: Features) -> Features:
    if isinstance(features, torch.Tensor):
        return features.clone()
    return features.replace(**{name: values.clone() for name, values in features.tensors.items()})


def _same(one: Features, other: Features) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    return all(torch.equal(values, other.tensors[name]) for name, values in one.tensors.items())


def _surrogate_predicts(surrogate: Surrogate, features: Features) -> Prediction:
    kept, global_state = _copied(features), torch.get_rng_state()
    predicted = surrogate.predict(features)
    assert _same(features, kept), "predict changed its features"
    assert torch.equal(torch.get_rng_state(), global_state), "predict used the global random state"
    again = surrogate.predict(features)
    assert torch.equal(predicted.mean, again.mean), "the same features must give the same prediction"
    assert predicted.mean.shape == (len(features),), "one value for each row"
    assert not predicted.mean.requires_grad, "predictions must not carry gradients"
    assert torch.isfinite(predicted.mean).all(), "predictions must be finite"
    assert predicted.mean.std() > 0, "other features must give other predictions"
    uncertainty = predicted.uncertainty
    if uncertainty is not None:
        assert uncertainty.shape == predicted.mean.shape, "one uncertainty for each row"
        assert bool((uncertainty > 0).all()) and torch.isfinite(uncertainty).all(), (
            "uncertainties must be finite and above zero"
        )
    order = torch.arange(len(features)).flip(0)
    for rows, what in ((order, "the order of the rows"), (order[:1], "how many rows there are")):
        part = surrogate.predict(features[rows])
        message = f"predictions must not depend on {what}"
        torch.testing.assert_close(part.mean, predicted.mean[rows], rtol=1e-5, atol=1e-5, msg=message)
        if uncertainty is not None:
            assert part.uncertainty is not None, "uncertainties must not come and go"
            torch.testing.assert_close(part.uncertainty, uncertainty[rows], rtol=1e-4, atol=1e-5, msg=message)
    none = surrogate.predict(features[:0])
    assert none.mean.shape == (0,), "no rows: no predictions"
    if surrogate.takes == "structures":
        _gradients_are_derivatives(surrogate, features)
    return predicted


def _gradients_are_derivatives(surrogate: Any, structures: Features) -> None:
    assert not isinstance(structures, torch.Tensor)
    structures, step = structures[:2], 1e-4
    predicted = surrogate.predict(structures, gradients=True)
    assert predicted.gradient is not None, "a surrogate of structures must have gradients in the atoms"
    for atom, axis in ((0, 0), (1, 1), (4, 2)):
        values = []
        for sign in (1, -1):
            moved = structures.positions.clone()
            moved[atom, axis] += sign * step
            values.append(surrogate.predict(structures.replace(positions=moved)).mean.sum())
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(
            predicted.gradient[atom, axis],
            slope,
            rtol=1e-4,
            atol=1e-4 * float(predicted.gradient.abs().max()),
            msg="the gradient is not the derivative of the value",
        )


def _surrogate_states_its_errors(surrogate: Surrogate, errors: torch.Tensor) -> None:
    assert surrogate.validation_errors is not None, "fit with validation rows must measure the errors there"
    measured, now = surrogate.validation_mae, float(errors.abs().mean())
    # Not exactly: a surrogate may be fitted once more with the validation rows among the others.
    assert measured is not None and now / 20 <= measured <= 20 * now, (
        f"validation_mae is {measured}, the mean error of the validation rows in the property's units {now:g}"
    )


def _surrogate_refuses_other_features(surrogate: Surrogate, shape: tuple[int, ...]) -> None:
    # Of a surrogate of structures any features are of another shape.
    try:
        surrogate.predict(torch.zeros(2, *shape[:-1], shape[-1] + 1, dtype=torch.float64))
    except InputError:
        return
    raise AssertionError("features of another shape must raise InputError")


def _surrogate_survives_saving(surrogate: Surrogate, features: Features) -> None:
    from whorl.surrogates.base import load_surrogate

    before = surrogate.predict(features)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "surrogate.safetensors"
        surrogate.save(path)
        for loaded in (type(surrogate).load(path), load_surrogate(path)):
            assert type(loaded) is type(surrogate), "the loaded surrogate is of another type"
            after = loaded.predict(features)
            torch.testing.assert_close(
                after.mean, before.mean, rtol=1e-6, atol=1e-6, msg="a loaded surrogate must predict the same"
            )
            assert (after.uncertainty is None) == (before.uncertainty is None), (
                "a loaded surrogate must keep its uncertainty"
            )
            assert loaded.validation_mae == surrogate.validation_mae, (
                "a loaded surrogate must keep its validation errors"
            )
        damaged = Path(folder) / "damaged.safetensors"
        damaged.write_bytes(path.read_bytes()[:-100])
        try:
            type(surrogate).load(damaged)
        except InputError:
            return
        raise AssertionError("a damaged file must raise InputError")
