"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017; Alverson et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.generators.adversarial import AdversarialGenerator, set_trainable
from whorl.settings import Count, Positive


class WGANGP(AdversarialGenerator):
    r"""Conditional Wasserstein GAN with gradient penalty, for vectors and images.

    .. math::
        L_D &= D(G(z, y), y) - D(R, y) + \lambda \bigl(|\nabla_{\hat R} D(\hat R, y)| - 1\bigr)^2, \qquad
        \hat R = u R + (1 - u)\, G(z, y),\ u \sim U(0, 1) \\
        L_G &= -D(G(z, y), y), \qquad z \sim \mathcal N(0, 1)

    averaged over a batch, in network units. Each batch is one step for D; each ``critic_steps``-th is also
    one for G. The critic has no batch normalisation, which would make the penalty of a row depend on the
    others, but normalises each image separately.

    Defaults are those of Gulrajani et al. 2017 (arXiv:1704.00028) and of Alverson et al. 2024
    (doi:10.1039/D3DD00137G, appendix B.2); with them belong 100 epochs of 54,000 rows, or more of fewer.

    Args:
        shape: Shape of one structure's features: (H, W, C) for images, anything else is a vector.
        properties: Number p of conditions.
        options: Hyperparameters, see :class:`WGANGP.Settings` and :class:`AdversarialGenerator`.

    Raises:
        InputError: An invalid hyperparameter.
    """

    kind = "wgan_gp"
    norm = "layer"
    betas = (0.0, 0.9)

    class Settings(AdversarialGenerator.Settings):
        """Settings of the Wasserstein GAN with gradient penalty."""

        epochs: Count = 400
        """Passes over the training rows."""
        penalty: Positive = 10.0
        """Weight λ of the gradient penalty."""
        critic_steps: Count = 5
        """Critic steps per generator step."""
        learning_rate: Positive = 1e-4
        """Step size of both Adam optimisers."""

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        self.penalty, self.critic_steps = self.settings.penalty, self.settings.critic_steps

    @classmethod
    def paper(cls, *, shape: Sequence[int], properties: int = 1) -> WGANGP:
        """Return a WGAN-GP with the settings of Alverson et al. 2024, as far as they state them."""
        return cls(
            shape=shape, properties=properties, latent=128, learning_rate=1e-4, channels=64, average=0.0
        )

    def critic_loss(
        self,
        real: Float[Tensor, "n ..."],
        fake: Float[Tensor, "n ..."],
        condition: Float[Tensor, "n p"],
        between: Float[Tensor, "n"],
    ) -> Float[Tensor, ""]:
        """Return L_D; arguments in network units, ``between`` is u."""
        share = between.reshape(-1, *[1] * (real.ndim - 1))
        mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.critic(mixed, condition).sum(), mixed, create_graph=True)
        # The root of 0 has no derivative.
        slope = ((gradient * self.varying).flatten(1).square().sum(1) + 1e-12).sqrt()
        distance = self.critic(real, condition).mean() - self.critic(fake, condition).mean()
        return self.penalty * (slope - 1).square().mean() - distance

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Take a step for D on a batch, and for G after ``critic_steps`` of these; return L_D."""
        real, condition, latent = self._inside(batch)
        # Counted in optimiser steps, which resuming restores: five of D and one of G make six.
        due = self.global_step % (self.critic_steps + 1) == self.critic_steps - 1
        with torch.no_grad():
            fake = self.make(latent, condition)
        judged = self.critic_loss(real, fake, condition, torch.rand(len(real), device=self.device).to(real))
        self._descend(1, judged)
        if due:
            set_trainable(self.critic, False)
            self._descend(0, -self.critic(self.make(latent, condition), condition).mean())
            set_trainable(self.critic, True)
        return judged.detach()
