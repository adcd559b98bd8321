"""What every generator is: a conditional model over tensors. It knows nothing of atoms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor


class ConditionalGenerator(lightning.LightningModule, ABC):
    """A model of p(R | y): trained on feature tensors R and conditions y, sampled at any y.

    Inputs and outputs are in the data's own units; feature scaling is a part of the model
    (:class:`whorl.generators.scaling.FeatureScaler`) and is saved with it.
    """

    kind: str

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the hyperparameters that rebuild this model, JSON-able, with its ``kind``."""

    @abstractmethod
    def sample(self, condition: Float[Tensor, "n p"], *, rng: torch.Generator) -> Float[Tensor, "n *shape"]:
        """Draw one sample for each row of ``condition``."""
