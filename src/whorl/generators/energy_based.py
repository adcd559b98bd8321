"""Conditional energy-based model: denoising score matching, and sampling by annealed Langevin dynamics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from whorl.generators.base import positive
from whorl.generators.denoisers import VectorDenoiser
from whorl.generators.guided import GuidedGenerator
from whorl.generators.principal_axes import PrincipalAxes
from whorl.settings import Depth, Positive, Share, Width


class EnergyBased(GuidedGenerator):
    r"""Conditional energy-based model of the whitened principal components z of features.

    The density of components with noise of any deviation σ is :math:`p_\sigma(z \mid y) \propto e^{-E}`,

    .. math::
        E(z, \sigma, y) &= \frac{|z|^2}{2 (1 + \sigma^2)} + \frac{1}{\sigma}
            \bigl\langle \tilde z, f(\tilde z, \sigma, y) \bigr\rangle, \qquad
        \tilde z = \frac{z}{\sqrt{1 + \sigma^2}} \\
        L &= (1 + \sigma^2)\, \bigl| \varepsilon - \sigma \nabla E(z + \sigma \varepsilon, \sigma, y)
            \bigr|^2, \qquad \varepsilon \sim \mathcal N(0, 1)

    with a network f; without it, E is that of a normal distribution, to which whitening brings the mean and
    the covariance of all rows. L is denoising score matching (Vincent 2011, doi:10.1162/NECO_a_00142; Song &
    Ermon 2019, arXiv:1907.05600), averaged over σ with a uniform logarithm. Samples begin as normal noise
    of the largest σ. At each of the ``levels`` of σ, ``steps`` steps of Langevin dynamics with the step size
    r correct them, and a step of the probability flow takes them to the next level σ' (Song et al. 2021,
    arXiv:2011.13456), and from the last to σ' = 0:

    .. math::
        z &\leftarrow z - r \sigma^2\, \nabla E + \sqrt{2 r}\, \sigma\, \xi, \qquad
        \xi \sim \mathcal N(0, 1) \\
        z &\leftarrow z + (\sigma' - \sigma)\, \sigma\, \nabla E

    Energies are added: E is that without y plus ``guidance`` times the difference. Tensors of any shape are
    flattened; features are the projections of the components, so that the rest of their variance is left out.

    Args:
        shape: Shape of one structure's features.
        properties: Number p of conditions.
        options: Hyperparameters, see :class:`EnergyBased.Settings` and :class:`GuidedGenerator`. Channels are
            hidden units (256), the depth is that of residual layers (3), for images too.

    Raises:
        InputError: An invalid hyperparameter.
    """

    kind = "energy_based"

    class Settings(GuidedGenerator.Settings):
        """Settings of the energy-based model."""

        components: Width = 32
        """Principal components; at most the number of features."""
        largest_noise: Positive = 5.0
        """Largest σ, in standard deviations of a component."""
        smallest_noise: Share = 0.02
        """Smallest σ."""
        levels: Annotated[int, Field(ge=2, le=1000)] = 40
        """Levels of σ of the sampler, with equal ratios."""
        steps: Depth = 2
        """Steps of Langevin dynamics at each level."""
        step_size: Share = 0.2
        """Step size r."""

        @model_validator(mode="after")
        def _goes_down(self) -> EnergyBased.Settings:
            if self.smallest_noise >= self.largest_noise:
                raise ValueError(
                    f"got smallest_noise {self.smallest_noise:g} and largest_noise {self.largest_noise:g}, "
                    "expected smallest_noise below largest_noise"
                )
            return self

    settings: Any
    of_sets = False

    @classmethod
    def default_size(cls, shape: Sequence[int]) -> tuple[int, int]:
        """Return hidden units and residual layers."""
        return 256, 3

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        own, features = self.settings, math.prod(self.shape)
        components = min(own.components, features)
        self.principal_axes = PrincipalAxes(features, components)
        self.denoiser = VectorDenoiser(
            features=components, conditions=self.properties + 1, hidden=own.channels, layers=own.depth
        )

    def fit_scaling(self, features: Float[Tensor, "n *shape"], properties: Float[Tensor, "n p"]) -> None:
        """Fit the scaling of features and properties, and the principal axes, to training rows."""
        super().fit_scaling(features, properties)
        self.principal_axes.fit(self.feature_scaler.transform(features.flatten(1).double()))

    @property
    def varying_components(self) -> Float[Tensor, "k"]:
        """1 for axes along which training rows vary, else 0."""
        return (self.principal_axes.deviations > 0).to(self.dtype)

    # --- Training ------------------------------------------------------------------------------------------

    def deviation(self, times: Tensor) -> Tensor:
        """Return σ at times from 0 (the largest) to 1 (the smallest)."""
        own = self.settings
        return own.largest_noise * (own.smallest_noise / own.largest_noise) ** times

    def energy(self, components: Tensor, times: Tensor, known: Tensor) -> Tensor:
        """Return E, shape (n,); ``known`` as :meth:`given` returns it."""
        deviation = self.deviation(times)[:, None]
        inside = components / (1 + deviation.square()).sqrt()
        learned = (inside * self.denoiser(inside, times, known)).sum(1, keepdim=True) / deviation
        return (0.5 * inside.square().sum(1, keepdim=True) + learned)[:, 0]

    def slope(self, components: Tensor, times: Tensor, known: Tensor) -> Tensor:
        """Return ∇E, with a graph where gradients are recorded."""
        record = torch.is_grad_enabled()
        with torch.enable_grad():
            at = components.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.energy(at, times, known).sum(), at, create_graph=record)
        return slope

    def loss(self, batch: tuple[Tensor, Tensor], times: Tensor, hidden: Tensor) -> Tensor:
        """Return L of a batch (features, conditions) at levels of noise."""
        scaled = self.feature_scaler.transform(batch[0].flatten(1).double())
        clean = self.principal_axes.transform(scaled).to(self.dtype)
        known, deviation = (
            self.given(self.condition_inside(batch[1]), ~hidden),
            self.deviation(times)[:, None],
        )
        varying = self.varying_components
        noise = torch.randn_like(clean) * varying
        error = noise - deviation * self.slope(clean + deviation * noise, times, known)
        total = ((1 + deviation.square()) * (error * varying).square()).sum()
        return total / (len(clean) * varying.sum().clamp(min=1))

    # --- Sampling ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "..."],
        *,
        rng: torch.Generator,
        temperature: float = 1.0,
        guidance: float | None = None,
    ) -> Float[Tensor, "n *shape"]:
        """Draw one sample for each row of ``condition`` (n, p); see :meth:`ConditionalGenerator.sample`.

        Args:
            condition: Target properties and other conditions, in data units.
            rng: Source of all randomness.
            temperature: Factor of the standard deviation of all noise.
            guidance: Replaces the hyperparameter of this name.

        Raises:
            InputError: As the base class.
        """
        self.check_condition(condition)
        own, guidance = self.settings, self._guidance(guidance)
        positive("temperature", temperature)
        inside = self.condition_inside(condition.to(self.device))
        varying = self.varying_components

        def noise() -> Tensor:
            drawn = torch.randn(len(condition), len(varying), generator=rng, device=rng.device)
            return drawn.to(inside) * temperature * varying

        at = (1 + own.largest_noise**2) ** 0.5 * noise()
        deviations = [*self.deviation(torch.linspace(0, 1, own.levels)).tolist(), 0.0]
        for level, (deviation, lower) in enumerate(pairwise(deviations)):
            times = torch.full((len(at),), level / (own.levels - 1), device=self.device)
            for _ in range(own.steps):
                slope = self.guided(self.slope, at, times, inside, guidance) * varying
                at = at - own.step_size * deviation**2 * slope
                at = at + (2 * own.step_size) ** 0.5 * deviation * noise()
            slope = self.guided(self.slope, at, times, inside, guidance) * varying
            at = at + (lower - deviation) * deviation * slope
        scaled = self.principal_axes.inverse(at)
        if self.bounded:
            scaled = scaled.clamp(0, 1)
        return self.feature_scaler.inverse(scaled).to(condition.dtype).reshape(-1, *self.shape)
