"""Base of the adversarial generators: generator, critic, and validation by the energy distance."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn

from whorl.generators.averaging import MovingAverage
from whorl.generators.base import positive
from whorl.generators.images import (
    AnyShapeGenerator,
    ImageCritic,
    ImageGenerator,
    VectorCritic,
    VectorGenerator,
    halvings,
    is_image,
)
from whorl.parallel import map_rows
from whorl.settings import Fraction, Width

_JUDGED_ROWS = 1024
_AT_ONCE = 2**22  # numbers per chunk of samples


class AdversarialGenerator(AnyShapeGenerator):
    r"""A generator G(z, y) and a critic D(R, y), trained against each other.

    The adversarial losses do not measure quality. :meth:`validation_step` returns as ``loss``, and
    :func:`whorl.generators.fit` keeps the best weights by, the :func:`energy_distance` between held-out
    rows (R, y) and (G(z, y), y) at the same conditions. Since y is part of the points, samples that are
    typical but at the wrong y count as errors.

    It has two optimisers and takes their steps itself (Lightning's manual optimisation).

    Args:
        shape: Shape of one structure's features: (H, W, C) for images, anything else is a vector.
        properties: Number p of conditions.
        options: Hyperparameters. Channels of images (32 by default) are those at full size, doubled by each
            halving; of vectors, hidden units (256). The depth of images is the number of halvings, by default
            until a side has at most 6 pixels; of vectors, that of hidden layers (3).
    """

    class Settings(AnyShapeGenerator.Settings):
        """Settings that the adversarial generators have in common."""

        latent: Width = 128
        """Dimensions of z."""
        average: Fraction = 0.99
        """Decay of a moving average of the weights, which is what is validated and kept; 0 for none."""

    settings: Any
    norm: str
    betas: tuple[float, float]

    @classmethod
    def default_size(cls, shape: Sequence[int]) -> tuple[int, int]:
        """Return default channels and depth of the networks for a feature shape."""
        return (32, max(1, halvings(shape, 6))) if is_image(shape) else (256, 3)

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        own = self.settings
        latent, channels, depth = own.latent, own.channels, own.depth
        self.automatic_optimization = False
        self.latent, self.average, self.learning_rate = latent, own.average, own.learning_rate
        self.generator: nn.Module
        self.critic: nn.Module
        if self.image:
            body: dict[str, Any] = {
                "shape": self.shape,
                "properties": properties,
                "channels": channels,
                "stages": depth,
            }
            self.generator = ImageGenerator(latent=latent, bounded=self.bounded, **body)
            self.critic = ImageCritic(norm=self.norm, **body)
        else:
            size: dict[str, Any] = {
                "features": math.prod(self.shape),
                "properties": properties,
                "hidden": channels,
                "layers": depth,
            }
            self.generator = VectorGenerator(latent=latent, bounded=self.bounded, **size)
            self.critic = VectorCritic(**size)

    def make(self, latent: Float[Tensor, "n k"], condition: Float[Tensor, "n p"]) -> Float[Tensor, "n ..."]:
        """Return G(z, y) in network units; arguments in network units too."""
        return self.generator(latent, condition) * self.varying

    @abstractmethod
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Take the optimiser steps of a batch (features, conditions), and return the loss of the critic."""

    def _inside(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return features and conditions of a batch in network units, and latent noise."""
        features, condition = self.to_network(batch[0]), self.condition_inside(batch[1])
        return features, condition, torch.randn(len(features), self.latent, device=self.device).to(features)

    def _descend(self, which: int, loss: Tensor) -> None:
        """Take one step of optimiser 0 (generator) or 1 (critic)."""
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        optimizers[which].zero_grad()
        self.manual_backward(loss)
        optimizers[which].step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for the generator and Adam for the critic."""
        return [
            torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=self.betas)
            for network in (self.generator, self.critic)
        ]

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Return the moving average of weights, if there is one."""
        return [MovingAverage(self.average)] if self.average else []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return as ``loss`` the energy distance between these rows and samples at their conditions."""
        real, condition, latent = self._inside((batch[0][:_JUDGED_ROWS], batch[1][:_JUDGED_ROWS]))
        fake = self.make(latent, condition).flatten(1)
        real = real.flatten(1)
        spread = real.var(0, correction=0).sum().sqrt().clamp(min=1e-6)
        beside = condition / math.sqrt(self.properties)
        distance = energy_distance(
            torch.cat([real / spread, beside], 1), torch.cat([fake / spread, beside], 1)
        )
        return {"loss": distance}

    @torch.no_grad()
    def sample(
        self, condition: Float[Tensor, "..."], *, rng: torch.Generator, temperature: float = 1.0
    ) -> Float[Tensor, "n *shape"]:
        """Draw z from N(0, temperature²) and return G(z, y), one for each row of ``condition`` (n, p).

        See :meth:`ConditionalGenerator.sample`.
        """
        self.check_condition(condition)
        latent = torch.randn(len(condition), self.latent, generator=rng, device=rng.device)
        inside = self.condition_inside(condition.to(self.device))
        latent = latent.to(inside) * positive("temperature", temperature)
        rows = max(1, _AT_ONCE // math.prod(self.shape))
        parts = [
            self.to_data(map_rows(self.make, z, y, size=math.prod(self.shape)), condition.dtype)
            for z, y in zip(latent.split(rows), inside.split(rows), strict=True)
        ]
        return torch.cat(parts)


def energy_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    r"""Return the energy distance of two samples (Székely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018).

    .. math::
        2\,\overline{|a - b|} - \overline{|a - a'|} - \overline{|b - b'|} \ge 0

    with means over all pairs; 0 only for equal samples.
    """
    first, second = first.double(), second.double()

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b).mean()

    return 2 * mean(first, second) - mean(first, first) - mean(second, second)


def set_trainable(network: nn.Module, trainable: bool) -> None:
    """Switch the gradients of a network's weights on or off."""
    for parameter in network.parameters():
        parameter.requires_grad_(trainable)
