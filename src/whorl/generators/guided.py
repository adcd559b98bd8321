"""Base of generators that turn noise into features step by step, with classifier-free guidance."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn

from whorl.errors import InputError
from whorl.generators.averaging import MovingAverage
from whorl.generators.base import positive
from whorl.generators.denoisers import HEADS, ImageDenoiser, SetDenoiser, VectorDenoiser
from whorl.generators.images import AnyShapeGenerator, halvings, is_image
from whorl.generators.sets import ElementAxes, Sizes, is_set, present
from whorl.parallel import map_rows
from whorl.settings import Count, Fraction, NonNegative, Positive

AT_ONCE = 2**20
"""Numbers of samples that are made at once."""

COMPONENTS = 32
"""Most principal components of an element of a set."""


class GuidedGenerator(AnyShapeGenerator):
    """A generator whose network f(x, t, y) is asked many times on the way from noise to a sample.

    In training, y is dropped in a fraction ``dropout`` of the rows, so that f also learns what p(R) needs.
    Samples follow f(x, t) + w (f(x, t, y) - f(x, t)) with the ``guidance`` w (Ho & Salimans 2022,
    arXiv:2207.12598). The weights that are validated and kept are an exponential moving average. Images
    need the package ``diffusers``.

    Args:
        shape: Shape of one structure's features: (H, W, C) for images, (N, f) for sets
            (:mod:`whorl.generators.sets`), anything else is a vector.
        properties: Number p of conditions.
        options: Hyperparameters. Channels of images (32 by default) are those of the first level; of vectors,
            hidden units, by default twice the features, but at least 256 and at most 1024; of sets, hidden
            units of an element (64). The depth of images is the number of levels, by default until a side has
            at most 8 pixels; of vectors and sets, that of layers (3).

    Raises:
        InputError: Sets with another scaling than standard.
    """

    of_sets: ClassVar[bool] = True
    """Whether sets have a network of their own; otherwise they are vectors."""

    class Settings(AnyShapeGenerator.Settings):
        """Settings that generators with classifier-free guidance have in common."""

        epochs: Count = 100
        """Passes over the training rows."""
        batch_size: Count = 32
        """Rows of a step."""
        dropout: Fraction = 0.1
        """Fraction of the training rows whose condition is dropped."""
        guidance: NonNegative = 1.0
        """Guidance weight w; 1 samples p(R | y) as learned, larger values follow y more closely."""
        average: Fraction = 0.999
        """Decay of the moving average of weights."""
        learning_rate: Positive = 5e-4
        """Step size of the Adam optimiser."""

    settings: Any

    @classmethod
    def default_size(cls, shape: Sequence[int]) -> tuple[int, int]:
        """Return the channels and the depth of networks for features of a shape."""
        if is_image(shape):
            return 32, max(2, halvings(shape, 8) + 1)
        if cls.of_sets and is_set(shape):
            return 64, 3
        return min(1024, max(256, 2 * math.prod(shape))), 3

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        own = self.settings
        self.dropout, self.guidance, self.average = own.dropout, own.guidance, own.average
        self.learning_rate = own.learning_rate
        self._check_guidance(own.guidance)
        self.elements = self.shape[0] if self.of_sets and is_set(self.shape) else 0
        """Largest number N of elements of a set; 0 for other features."""
        if self.elements:
            self._check_set()
            features = self.shape[1]
            self.axes = ElementAxes(features=features, components=min(features, COMPONENTS))
            self.sizes = Sizes(most=self.elements, conditions=self.properties, hidden=own.channels)

    def _check_set(self) -> None:
        own = self.settings
        if own.scaling != "standard":
            raise InputError(f"scaling: got {own.scaling}, expected standard for sets, which are whitened.")
        if own.channels % HEADS:
            raise InputError(f"channels: got {own.channels}, expected a multiple of {HEADS} for sets.")

    def fit_scaling(self, features: Float[Tensor, "n *shape"], properties: Float[Tensor, "n p"]) -> None:
        """Fit the scaling of features and properties to training rows; of sets, axes and sizes too."""
        super().fit_scaling(features, properties)
        if self.elements:
            self.axes.fit(features.double())
            self.sizes.fit(present(features).sum(1).long())

    def network(self, *, size: Sequence[int] | None = None, inputs: int | None = None) -> nn.Module:
        """Return a network f; for images, those of another size or with more input layers where given."""
        own, known = self.settings, self.properties + 1  # and whether they are given at all
        if self.elements:
            return SetDenoiser(
                elements=self.elements,
                features=len(self.axes.varying),
                conditions=known,
                hidden=own.channels,
                layers=own.depth,
            )
        if not self.image:
            return VectorDenoiser(
                features=math.prod(self.shape), conditions=known, hidden=own.channels, layers=own.depth
            )
        height, width, layers = self.shape
        return ImageDenoiser(
            size=size or (height, width),
            inputs=inputs or layers,
            outputs=layers,
            conditions=known,
            channels=own.channels,
            depth=own.depth,
            blocks=own.blocks,
        )

    # --- Sets ----------------------------------------------------------------------------------------------

    def to_network(self, features: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Return features, given in data units, in network units: as the base class, of sets (n, N, k)."""
        if not self.elements:
            return super().to_network(features)
        return self.axes.transform(features).to(self.dtype)

    def to_data(self, inside: Float[Tensor, "n ..."], dtype: torch.dtype) -> Float[Tensor, "n *shape"]:
        """Return network output in data units. Differentiable. All elements of sets are taken to be there."""
        return self.axes.inverse(inside).to(dtype) if self.elements else super().to_data(inside, dtype)

    def _arranged(self, flat: Tensor) -> Tensor:
        return flat.reshape(-1, *self.varying.shape[1:]) if self.elements else super()._arranged(flat)

    @property
    def varying(self) -> Float[Tensor, "1 ..."]:
        """1 where a feature varies in training, else 0, in the layout of the network."""
        if not self.elements:
            return super().varying
        return self.axes.varying.to(self.dtype).expand(1, self.elements, -1)

    def varying_in(self, known: Float[Tensor, "n c"]) -> Float[Tensor, "n ..."]:
        """Return :attr:`varying` for each row of :meth:`known`, and 0 for elements that are none."""
        varying = self.varying.expand(len(known), *[-1] * (self.varying.ndim - 1))
        return varying * known[:, self.properties :, None] if self.elements else varying

    def known(
        self,
        condition: Float[Tensor, "n p"],
        *,
        features: Float[Tensor, "n *shape"] | None = None,
        rng: torch.Generator | None = None,
    ) -> Float[Tensor, "n c"]:
        """Return conditions in network units; of sets, then 1 for each element and 0 for those that are none.

        Args:
            condition: In data units.
            features: Those whose elements these are.
            rng: Source of randomness that draws the number of elements where no features are given.
        """
        inside = self.condition_inside(condition)
        if not self.elements:
            return inside
        if features is not None:
            return torch.cat([inside, present(features).to(inside)], 1)
        assert rng is not None
        share = self.sizes(inside).exp().to(rng.device)
        size = torch.multinomial(share, 1, generator=rng).to(inside.device)
        return torch.cat([inside, (torch.arange(self.elements, device=inside.device) < size).to(inside)], 1)

    def size_loss(self, known: Float[Tensor, "n c"]) -> Tensor:
        """Return the negative log-likelihood of the numbers of elements of sets, 0 for other features."""
        if not self.elements:
            return known.new_zeros(())
        condition, there = known[:, : self.properties], known[:, self.properties :]
        return nn.functional.nll_loss(self.sizes(condition), there.sum(1).long())

    def finished(self, drawn: Tensor, known: Float[Tensor, "n c"], dtype: torch.dtype) -> Tensor:
        """Return samples in data units, from network units; elements that are none are zeros."""
        made = self.to_data(drawn, dtype)
        return made * known[:, self.properties :, None].to(dtype) if self.elements else made

    # --- Training ------------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, batch: tuple[Tensor, Tensor], times: Tensor, hidden: Tensor) -> Tensor:
        """Return the loss of a batch (features, conditions) in data units.

        Args:
            batch: Features and conditions.
            times: Of each row, as :meth:`random_times` gives them, shape (n,).
            hidden: Rows whose condition is dropped, shape (n,).
        """

    def random_times(self, rows: int) -> Tensor:
        """Return times at random."""
        return torch.rand(rows, device=self.device)

    def even_times(self, rows: int) -> Tensor:
        """Return times that are spread evenly over the rows."""
        return ((torch.randperm(rows) + 0.5) / rows).to(self.device)

    def given(self, known: Tensor, given: Tensor) -> Tensor:
        """Return conditions (zeros where dropped), whether they are present, and the rest of ``known``."""
        condition, rest = known[:, : self.properties], known[:, self.properties :]
        flag = given.to(condition)[:, None]
        return torch.cat([condition * flag, flag, rest], 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch (features, conditions) at random times."""
        rows = len(batch[0])
        times = self.random_times(rows)
        return self.loss(batch, times, torch.rand(rows, device=self.device) < self.dropout)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the loss at times that are spread evenly over the rows."""
        rows = len(batch[0])
        hidden = torch.zeros(rows, dtype=torch.bool, device=self.device)
        return {"loss": self.loss(batch, self.even_times(rows), hidden)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Return the moving average of weights."""
        return [MovingAverage(self.average)]

    # --- Sampling ------------------------------------------------------------------------------------------

    def guided(
        self,
        network: Callable[..., Tensor],
        noisy: Tensor,
        times: Tensor,
        condition: Tensor,
        guidance: float,
    ) -> Tensor:
        """Return f(x, t) + w (f(x, t, y) - f(x, t)) in network units."""

        def output(present: bool) -> Tensor:
            known = self.given(condition, torch.full((len(noisy),), present, device=noisy.device))
            return map_rows(network, noisy, times, known, size=math.prod(noisy.shape[1:]))

        if guidance in (0, 1):
            return output(guidance == 1)
        free = output(False)
        return free + guidance * (output(True) - free)

    def _guidance(self, guidance: float | None) -> float:
        """Return the guidance of a call: the hyperparameter for None.

        Raises:
            InputError: It is negative, or other than 1 without an unconditional prediction.
        """
        if guidance is None:
            return self.guidance
        self._check_guidance(positive("guidance", guidance, allow_zero=True))
        return guidance

    def _check_guidance(self, guidance: float) -> None:
        if guidance != 1 and self.dropout == 0:
            raise InputError(
                f"guidance: got {guidance}, expected 1, since dropout is 0 and the model "
                "has no unconditional prediction. Remedy: train it with dropout 0.1."
            )
