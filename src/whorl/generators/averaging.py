"""Moving averages of weights during training."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor


class MovingAverage(lightning.Callback):
    r"""Validates and checkpoints the exponential moving average of a model's weights.

    .. math:: \bar w \leftarrow d\, \bar w + (1 - d)\, w, \qquad d = \min\bigl(decay, t / (t + 10)\bigr)

    after step t = 0, 1, …, so that the initial weights are forgotten. Training continues with w. The average
    is part of checkpoints.

    Args:
        decay: Weight of the previous average, which thus covers about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning stores in a checkpoint."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.steps, self.average = state_dict["steps"], state_dict["average"]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        """Update the average."""
        weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
        if not self.average:
            self.average = {name: weight.clone() for name, weight in weights.items()}
        self._to_device_of(weights)
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(list(self.average.values()), list(weights.values()), 1 - decay)
        self.steps += 1

    @torch.no_grad()
    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Replace the weights by the average."""
        self._weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        for name, parameter in module.named_parameters():
            parameter.copy_(self.average[name])

    @torch.no_grad()
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Restore the weights."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self._weights[name])
        self._weights = {}

    def _to_device_of(self, weights: dict[str, Tensor]) -> None:
        # A checkpoint gives it back on the CPU.
        self.average = {name: value.to(weights[name]) for name, value in self.average.items()}
