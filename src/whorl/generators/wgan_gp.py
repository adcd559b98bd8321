"""The Wasserstein GAN with gradient penalty of Gulrajani et al. 2017, as Alverson et al. 2024 use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.generators.adversarial import AdversarialGenerator, set_trainable
from whorl.generators.base import positive


class WGANGP(AdversarialGenerator):
    r"""Conditional Wasserstein GAN with gradient penalty, for vectors and images.

    .. math::
        L_D &= D(G(z, y), y) - D(R, y) + \lambda \bigl(|\nabla_{\hat R} D(\hat R, y)| - 1\bigr)^2, \qquad
        \hat R = u R + (1 - u)\, G(z, y),\ u \sim U(0, 1) \\
        L_G &= -D(G(z, y), y), \qquad z \sim \mathcal N(0, 1)

    averaged over a batch, in network units. Each batch is one step for D; each ``critic_steps``-th is also
    one for G. The critic has no batch normalisation, which would make the penalty of a row depend on the
    others, but normalises each image for itself.

    Defaults are those of Gulrajani et al. 2017 (arXiv:1704.00028) and of Alverson et al. 2024
    (doi:10.1039/D3DD00137G, appendix B.2); with them belong 100 epochs of 54,000 rows, or more of fewer.

    Args:
        shape: Shape of one structure's features: (H, W, C) for images, anything else is a vector.
        properties: Number p of conditions.
        latent: Dimensions of z.
        channels: Of images: channels at full size (32 by default), doubled by each halving. Of vectors:
            hidden units (256 by default).
        depth: Of images: halvings, by default until a side has at most 6 pixels. Of vectors: hidden layers, 3
            by default.
        penalty: Weight λ of the gradient penalty.
        critic_steps: Steps of the critic for each of the generator.
        average: Decay of a moving average of the weights, which is what is validated and kept; 0 for none.
        learning_rate: Of both Adam optimisers.
        scaling: Of the features: ``"shared"``, ``"minmax"`` or ``"standard"``; by default ``"shared"`` for
            images and ``"standard"`` for vectors.

    Raises:
        InputError: A hyperparameter that makes no sense.
    """

    kind = "wgan_gp"
    norm = "layer"
    betas = (0.0, 0.9)

    def __init__(
        self,
        *,
        shape: Sequence[int],
        properties: int = 1,
        latent: int = 128,
        channels: int | None = None,
        depth: int | None = None,
        penalty: float = 10.0,
        critic_steps: int = 5,
        average: float = 0.99,
        learning_rate: float = 1e-4,
        scaling: str | None = None,
    ) -> None:
        super().__init__(
            shape=shape,
            properties=properties,
            latent=latent,
            channels=channels,
            depth=depth,
            average=average,
            learning_rate=learning_rate,
            scaling=scaling,
            penalty=positive("penalty", penalty),
            critic_steps=positive("critic_steps", critic_steps),
        )
        self.penalty, self.critic_steps = penalty, critic_steps

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
        """Take a step for D on a batch (features, conditions), and for G where it is due; return L_D."""
        real, condition, latent = self._inside(batch)
        # Counted in optimiser steps, which a resumed training knows: five of D and one of G make six.
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
