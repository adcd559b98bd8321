"""Conditional flow matching: a velocity field carries noise to features in a few steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.generators.base import positive
from whorl.generators.guided import AT_ONCE, GuidedGenerator
from whorl.settings import Depth


class FlowMatching(GuidedGenerator):
    r"""Conditional flow matching along straight paths (Lipman et al. 2023, arXiv:2210.02747).

    .. math::
        x_t &= (1 - t)\, x_0 + t\, x_1, \qquad x_0 \sim \mathcal N(0, 1),\ t \sim U(0, 1) \\
        L &= \bigl| v(x_t, t, y) - (x_1 - x_0) \bigr|^2

    averaged over features that vary, with the features x_1 in network units. v is the network of
    :class:`~whorl.generators.Diffusion`. A sample is the end at t = 1 of :math:`\dot x = v(x, t, y)` from
    noise at t = 0, in ``steps`` steps of the midpoint rule, each of two evaluations of v. If training rows
    lie in [-1, 1], so does the end that each velocity points to. See also Liu et al. 2023 (rectified flow,
    arXiv:2209.03003).

    Args:
        shape: Shape of one structure's features: (H, W, C) for images, (N, f) for sets, anything else is a
            vector.
        properties: Number p of conditions.
        options: Hyperparameters, see :class:`FlowMatching.Settings` and :class:`GuidedGenerator`.

    Raises:
        InputError: An invalid hyperparameter.
        MissingExtraError: For images, ``diffusers`` is not installed.
    """

    kind = "flow_matching"

    class Settings(GuidedGenerator.Settings):
        """Settings of flow matching."""

        blocks: Depth = 1
        """Residual blocks per level; for images only."""
        steps: Depth = 10
        """Steps of the midpoint rule, each of two evaluations of the network."""

    settings: Any

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        self.steps = self.settings.steps
        self.velocity = self.network()

    def loss(self, batch: tuple[Tensor, Tensor], times: Tensor, hidden: Tensor) -> Tensor:
        """Return L of a batch (features, conditions) at times t."""
        end, known = self.to_network(batch[0]), self.known(batch[1], features=batch[0])
        varying = self.varying_in(known)
        start, share = torch.randn_like(end) * varying, times.to(end).reshape(-1, *[1] * (end.ndim - 1))
        at = (1 - share) * start + share * end
        error = self.velocity(at, times, self.given(known, ~hidden)) - (end - start)
        return (error * varying).square().sum() / varying.sum().clamp(min=1) + self.size_loss(known)

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "..."],
        *,
        rng: torch.Generator,
        temperature: float = 1.0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "n *shape"]:
        """Draw one sample for each row of ``condition`` (n, p); see :meth:`ConditionalGenerator.sample`.

        Args:
            condition: Target properties and other conditions, in data units.
            rng: Source of all randomness.
            temperature: Standard deviation of the noise x_0.
            steps: Replaces the hyperparameter of this name.
            guidance: Replaces the hyperparameter of this name.

        Raises:
            InputError: As the base class.
        """
        self.check_condition(condition)
        steps = self.steps if steps is None else positive("steps", steps)
        guidance = self._guidance(guidance)
        inside = self.known(condition.to(self.device), rng=rng)
        noise = torch.randn(len(condition), self.varying.numel(), generator=rng, device=rng.device)
        noise = noise.to(self.device) * positive("temperature", temperature)
        rows = max(1, AT_ONCE // math.prod(self.shape))
        parts = [
            self.finished(self._carried(start, known, steps, guidance), known, condition.dtype)
            for start, known in zip(noise.split(rows), inside.split(rows), strict=True)
            if len(start) > 0
        ]
        return torch.cat([condition.new_zeros(0, *self.shape, device=self.device), *parts])

    def _carried(self, noise: Tensor, known: Tensor, steps: int, guidance: float) -> Tensor:
        """Return the ends of the paths that start at noise; all in network units."""
        varying = self.varying_in(known)
        position, width = self._arranged(noise).to(known) * varying, 1 / steps

        def velocity(at: Tensor, time: float) -> Tensor:
            times = torch.full((len(at),), time, device=at.device)
            out = self.guided(self.velocity, at, times, known, guidance) * varying
            if self.bounded:
                out = ((at + (1 - time) * out).clamp(-1, 1) - at) / (1 - time)
            return out

        for step in range(steps):
            time = step * width
            middle = position + width / 2 * velocity(position, time)
            position = position + width * velocity(middle, time + width / 2)
        return position
