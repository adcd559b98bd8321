"""Conditional generative adversarial network (Goodfellow et al. 2014; Alverson et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from whorl.generators.adversarial import AdversarialGenerator, set_trainable
from whorl.settings import Count, Positive


class GAN(AdversarialGenerator):
    r"""Conditional generative adversarial network with binary cross-entropy, for vectors and images.

    .. math::
        L_D &= -\log \sigma(D(R, y)) - \log\bigl(1 - \sigma(D(G(z, y), y))\bigr) \\
        L_G &= -\log \sigma(D(G(z, y), y)), \qquad z \sim \mathcal N(0, 1)

    averaged over a batch; one step for D, then one for G. For images, both are convolutional with batch
    normalisation (Radford et al. 2016); for vectors, perceptrons.

    :meth:`paper` has the settings of Alverson et al. 2024 (doi:10.1039/D3DD00137G, appendix B.1); with them
    belong 100 epochs. The defaults are for a few thousand rows: a learning rate of 1e-5 learns little from
    them. See also Goodfellow et al. 2014 (arXiv:1406.2661), Mirza & Osindero 2014 (arXiv:1411.1784).

    Args:
        shape: Shape of one structure's features: (H, W, C) for images, anything else is a vector.
        properties: Number p of conditions.
        options: Hyperparameters, see :class:`GAN.Settings` and :class:`AdversarialGenerator`.

    Raises:
        InputError: An invalid hyperparameter.
    """

    kind = "gan"
    norm = "batch"
    betas = (0.5, 0.999)

    class Settings(AdversarialGenerator.Settings):
        """Settings of the generative adversarial network."""

        epochs: Count = 200
        """Passes over the training rows."""
        learning_rate: Positive = 2e-4
        """Step size of both Adam optimisers."""

    @classmethod
    def paper(cls, *, shape: Sequence[int], properties: int = 1) -> GAN:
        """Return a GAN with the settings of Alverson et al. 2024, as far as they state them."""
        return cls(
            shape=shape, properties=properties, latent=128, learning_rate=1e-5, channels=64, average=0.0
        )

    def critic_loss(
        self, real: Float[Tensor, "n ..."], fake: Float[Tensor, "n ..."], condition: Float[Tensor, "n p"]
    ) -> Float[Tensor, ""]:
        """Return L_D; arguments in network units."""
        real_score, fake_score = self.critic(real, condition), self.critic(fake, condition)
        return functional.softplus(-real_score).mean() + functional.softplus(fake_score).mean()

    def generator_loss(
        self, fake: Float[Tensor, "n ..."], condition: Float[Tensor, "n p"]
    ) -> Float[Tensor, ""]:
        """Return L_G; arguments in network units."""
        return functional.softplus(-self.critic(fake, condition)).mean()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Take one step for D and one for G on a batch (features, conditions), and return L_D + L_G."""
        real, condition, latent = self._inside(batch)
        fake = self.make(latent, condition)
        judged = self.critic_loss(real, fake.detach(), condition)
        self._descend(1, judged)
        set_trainable(self.critic, False)
        made = self.generator_loss(fake, condition)
        self._descend(0, made)
        set_trainable(self.critic, True)
        return (judged + made).detach()
