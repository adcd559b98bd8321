"""Normal distribution whose mean and deviation are linear in the condition."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whorl.generators.base import ConditionalGenerator, positive
from whorl.generators.settings import GeneratorSettings
from whorl.settings import Count, Positive


class ConditionalGaussian(ConditionalGenerator):
    """Independent normal distributions, one a feature.

    Args:
        options: See :class:`ConditionalGaussian.Settings`.
    """

    kind = "gaussian"

    class Settings(GeneratorSettings):
        """Settings of the normal distribution."""

        epochs: Count = 50
        """Passes over the training rows."""
        widest: Positive = 3.0
        """Largest standard deviation, in those of the data."""
        scaling: Literal["standard"] = "standard"
        """Scaling of the features."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.network = nn.Linear(self.properties, 2 * math.prod(self.shape))

    def _distribution(self, condition: Tensor) -> torch.distributions.Normal:
        mean, logarithm = self.network(self.scale_properties(condition)).chunk(2, 1)
        return torch.distributions.Normal(mean, self.settings.widest * torch.sigmoid(logarithm))

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return -self._distribution(batch[1]).log_prob(self.scale_features(batch[0])).sum(1).mean()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean negative log-likelihood."""
        return self._loss(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the mean negative log-likelihood."""
        return {"loss": self._loss(batch)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)

    @torch.no_grad()
    def sample(self, condition: Tensor, *, rng: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Draw one sample for each row of the condition."""
        self.check_condition(condition)
        normal = self._distribution(condition)
        noise = torch.randn(normal.mean.shape, generator=rng) * positive("temperature", temperature)
        inside = (normal.mean + normal.stddev * noise).double()
        return self.feature_scaler.inverse(inside).to(condition.dtype).reshape(-1, *self.shape)
