"""Contract of surrogates."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.surrogates.base import Prediction, Surrogate


def check_surrogate(
    method: type[Surrogate], *, options: Mapping[str, Any] | None = None, shape: tuple[int, ...] = (4,)
) -> None:
    """Check the contract of a :class:`whorl.surrogates.Surrogate`.

    Args:
        method: The class.
        options: Hyperparameters of a small one, which fits in a moment.
        shape: Of one structure's features.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    options = dict(options or {})
    features, properties = _rows(shape)
    validation = torch.arange(0, len(features), 5)
    kept, global_state = (features.clone(), properties.clone()), torch.get_rng_state()
    steps: list[tuple[float, float]] = []
    surrogate = method.fit(
        features,
        properties,
        seed=1,
        validation=validation,
        progress=lambda done, total, *_: steps.append((done, total)),
        **options,
    )
    assert torch.equal(features, kept[0]) and torch.equal(properties, kept[1]), "fit changed its data"
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


def _surrogate_predicts(surrogate: Surrogate, features: torch.Tensor) -> Prediction:
    kept, global_state = features.clone(), torch.get_rng_state()
    predicted = surrogate.predict(features)
    assert torch.equal(features, kept), "predict changed its features"
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
    return predicted


def _surrogate_states_its_errors(surrogate: Surrogate, errors: torch.Tensor) -> None:
    assert surrogate.validation_errors is not None, "fit with validation rows must measure the errors there"
    measured, now = surrogate.validation_mae, float(errors.abs().mean())
    # Not exactly: a surrogate may be fitted once more with the validation rows among the others.
    assert measured is not None and now / 20 <= measured <= 20 * now, (
        f"validation_mae is {measured}, the mean error of the validation rows in the property's units {now:g}"
    )


def _surrogate_refuses_other_features(surrogate: Surrogate, shape: tuple[int, ...]) -> None:
    try:
        surrogate.predict(torch.zeros(2, *shape[:-1], shape[-1] + 1, dtype=torch.float64))
    except InputError:
        return
    raise AssertionError("features of another shape must raise InputError")


def _surrogate_survives_saving(surrogate: Surrogate, features: torch.Tensor) -> None:
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
