"""Check of the contract of generators."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.generators.base import ConditionalGenerator


def check_generator(factory: Callable[[], ConditionalGenerator]) -> None:
    """Check the contract of a :class:`whorl.generators.ConditionalGenerator`.

    Args:
        factory: Returns a new, untrained generator at each call; a small one is enough.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # the same initial weights at each run, whatever came before
        _check_generator(factory())


def _check_generator(generator: ConditionalGenerator) -> None:
    _generator_config_round_trip(generator)
    _generator_refuses_before_training(generator)

    data = torch.Generator().manual_seed(7)
    features = 1e3 + torch.randn(24, *generator.shape, generator=data, dtype=torch.float64)
    conditions = 2 + torch.rand(24, generator.properties, generator=data, dtype=torch.float64)
    kept = features.clone(), conditions.clone()
    generator.fit_scaling(features, conditions)
    _generator_learns(generator, features, conditions)
    assert torch.equal(features, kept[0]) and torch.equal(conditions, kept[1]), "training changed its data"

    generator.eval()
    _generator_samples(generator, conditions)
    _generator_refuses_bad_conditions(generator)
    _generator_survives_saving(generator, conditions)


def _generator_config_round_trip(generator: ConditionalGenerator) -> None:
    config = json.loads(json.dumps(generator.config()))
    assert config["kind"] == generator.kind, "config() must carry the kind"
    again = type(generator)(**{key: value for key, value in config.items() if key != "kind"})
    assert again.config() == generator.config(), "config() does not rebuild the generator"
    shapes = {key: value.shape for key, value in generator.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}, (
        "the generator rebuilt from config() has other weights"
    )
    types = {parameter.dtype for parameter in generator.parameters()}
    assert types == {torch.get_default_dtype()}, f"networks must be {torch.get_default_dtype()}, got {types}"


def _generator_refuses_before_training(generator: ConditionalGenerator) -> None:
    condition = torch.zeros(1, generator.properties)
    _assert_refused(generator, condition, "sampling before training")


def _generator_learns(
    generator: ConditionalGenerator, features: torch.Tensor, conditions: torch.Tensor
) -> None:
    generator.train()
    if generator.automatic_optimization:
        _generator_has_gradients(generator, features, conditions)
    else:
        _generator_moves_its_weights(generator, features, conditions)
    with torch.no_grad():
        validation = generator.validation_step((features, conditions), 0)
    assert isinstance(validation, dict) and "loss" in validation, (
        'validation_step must return a mapping with "loss"'
    )


def _generator_has_gradients(
    generator: ConditionalGenerator, features: torch.Tensor, conditions: torch.Tensor
) -> None:
    loss = generator.training_step((features, conditions), 0)
    loss = loss["loss"] if isinstance(loss, dict) else loss
    assert isinstance(loss, torch.Tensor) and loss.ndim == 0, "training_step must return the loss"
    assert torch.isfinite(loss), "the training loss is not finite"
    loss.backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, f"{name} does not take part in training"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
    generator.zero_grad()


def _generator_moves_its_weights(
    generator: ConditionalGenerator, features: torch.Tensor, conditions: torch.Tensor
) -> None:
    """Check one that takes its optimisers' steps itself: a second epoch must move what the first left."""
    from whorl.generators.training import fit

    after: list[dict[str, torch.Tensor]] = []
    for epochs in (1, 2):
        fit(
            generator,
            features,
            conditions,
            validation=torch.arange(6),
            seed=0,
            epochs=epochs,
            batch_size=3,
            validate_every=1,
            keep="last",
        )
        after.append({name: value.detach().clone() for name, value in generator.named_parameters()})
    for name, value in after[1].items():
        assert torch.isfinite(value).all(), f"training makes {name} infinite or NaN"
        assert not torch.equal(value, after[0][name]), f"{name} does not take part in training"
    generator.train()


def _generator_samples(generator: ConditionalGenerator, conditions: torch.Tensor) -> None:
    def sample(condition: torch.Tensor, seed: int, temperature: float = 1.0) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        return generator.sample(condition, rng=rng, temperature=temperature)

    kept = conditions.clone()
    global_state = torch.get_rng_state()
    samples = sample(conditions, 1)
    assert torch.equal(conditions, kept), "sample changed its condition"
    assert torch.equal(torch.get_rng_state(), global_state), "sample used the global random state, not rng"
    assert samples.shape == (len(conditions), *generator.shape), "one sample of the shape for each condition"
    assert not samples.requires_grad, "samples must not carry gradients"
    assert torch.isfinite(samples).all(), "samples must be finite"
    assert torch.equal(samples, sample(conditions, 1)), "the same seed must give the same samples"
    assert not torch.equal(samples, sample(conditions, 2)), "another seed must give other samples"
    assert not torch.equal(samples, sample(conditions, 1, 2.0)), "temperature must change the samples"
    alike = sample(conditions[:1].expand(2, -1), 1)
    assert not torch.equal(alike[0], alike[1]), "equal conditions must not give equal samples"
    assert sample(conditions[:0], 1).shape == (0, *generator.shape), "no conditions: no samples"
    for dtype in (torch.float32, torch.float64):
        assert sample(conditions.to(dtype), 1).dtype == dtype, "samples come in the type of the condition"
    torch.testing.assert_close(sample(conditions.float(), 1).double(), samples, rtol=1e-4, atol=1e-3)


def _generator_refuses_bad_conditions(generator: ConditionalGenerator) -> None:
    p = generator.properties
    for condition, what in (
        (torch.zeros(4), "a condition without columns"),
        (torch.zeros(4, p + 1), "a condition with too many columns"),
        (torch.full((4, p), torch.nan), "a NaN condition"),
        (torch.full((4, p), torch.inf), "an infinite condition"),
    ):
        _assert_refused(generator, condition, what)
    _assert_refused(generator, torch.zeros(4, p), "a temperature of zero", temperature=0.0)


def _assert_refused(
    generator: ConditionalGenerator, condition: torch.Tensor, what: str, temperature: float = 1.0
) -> None:
    try:
        generator.sample(condition, rng=torch.Generator(), temperature=temperature)
    except InputError:
        return
    raise AssertionError(f"{what} must raise InputError")


def _generator_survives_saving(generator: ConditionalGenerator, conditions: torch.Tensor) -> None:
    from whorl.generators.io import load_model, save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(generator, Path(folder) / "generator.safetensors")
        loaded = load_model(Path(folder) / "generator.safetensors")
    assert type(loaded) is type(generator), "the loaded generator is of another type"
    assert loaded.config() == generator.config(), "the loaded generator has another config"
    before = generator.sample(conditions, rng=torch.Generator().manual_seed(3))
    after = loaded.sample(conditions, rng=torch.Generator().manual_seed(3))
    assert torch.equal(before, after), "a saved and loaded generator must give the same samples"
