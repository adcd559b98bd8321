"""The comparison of generators: equal numbers of generator steps, and a distance that is known."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.generators import frechet, trained


def test_the_frechet_distance_is_that_of_normal_distributions():
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(20_000, 2, generator=rng, dtype=torch.float64)
    second = (
        3 * torch.randn(20_000, 2, generator=rng, dtype=torch.float64) + torch.tensor([1.0, 2.0]).double()
    )
    assert frechet(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet(first, second) == pytest.approx(5 + 2 * (3 - 1) ** 2, rel=0.03)


def test_an_adversarial_generator_takes_as_many_steps_as_the_others():
    data = SimpleNamespace(
        features=torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double(),
        energies=torch.linspace(0, 1, 200).double(),
        rows=lambda seed, count: torch.arange(count),
    )
    gan, wasserstein = (
        trained(data, kind, {"channels": 4}, seed=0, steps=6, count=100) for kind in ("gan", "wgan_gp")
    )
    # 80 rows in two batches; the Wasserstein GAN's critic takes five steps for one of its generator.
    assert (gan.training_record["epochs"], wasserstein.training_record["epochs"]) == (3, 15)
