"""Conditional variational autoencoder (Sohn et al. 2015; Fung et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.generators.base import ConditionalGenerator, Guide, positive
from whorl.generators.hamiltonian import hamiltonian
from whorl.generators.networks import perceptron
from whorl.generators.settings import GeneratorSettings
from whorl.parallel import map_rows
from whorl.settings import Depth, NonNegative, Width

# Variances between 6e-6 and 3000: wide enough for any posterior, and exp() stays finite in float32.
LOG_VARIANCE_LIMITS = (-12.0, 8.0)


class CVAE(ConditionalGenerator):
    r"""Conditional variational autoencoder over feature tensors R with conditions y.

    .. math::
        q(z \mid R, y) &= \mathcal N\bigl(\mu(R, y),\ \operatorname{diag} \sigma^2(R, y)\bigr), \qquad
        p(z) = \mathcal N(0, 1) \\
        p(R \mid z, y) &= \mathcal N\bigl(\hat R(z, y),\ \tfrac12 \bigr) \\
        L &= \underbrace{\textstyle\sum_f (\hat R_f - R_f)^2}_{-\log p(R|z,y) + \text{const}}
            + \beta \underbrace{\tfrac12 \textstyle\sum_k
            (\mu_k^2 + \sigma_k^2 - 1 - \log \sigma_k^2)}_{\mathrm{KL}(q \,\|\, p)},
            \qquad z = \mu + \sigma \varepsilon,\ \varepsilon \sim \mathcal N(0, 1)

    in scaled units, averaged over the rows of a batch; with β = 1, -L is the evidence lower bound but for a
    constant. A sample is :math:`\hat R(z, y)` with z drawn from the prior.

    Defaults are the settings of Fung et al. 2022 (doi:10.1088/2632-2153/aca1f7, section 2.3); with them
    belong 2000 epochs and batches of 64 in :func:`whorl.generators.fit`. See also Sohn et al. 2015
    (NeurIPS 28) and, for β, Higgins et al. 2017 (ICLR).

    Args:
        shape: Shape of one structure's features, (F,) for vectors.
        properties: Number p of conditions.
        options: Hyperparameters, see :class:`CVAE.Settings`.

    Raises:
        InputError: An invalid hyperparameter.
    """

    kind = "cvae"

    class Settings(GeneratorSettings):
        """Settings of the conditional variational autoencoder: those of Fung et al. 2022."""

        layers: Depth = 3
        """Hidden layers of the encoder, and of the decoder."""
        hidden: Width = 128
        """Units of a hidden layer."""
        latent: Width = 25
        """Dimensions of z."""
        beta: NonNegative = 0.75
        """Weight β of the Kullback-Leibler term."""
        activation: Literal["elu", "relu", "silu"] = "elu"
        """Activation of the hidden layers."""
        scaling: Literal["minmax", "standard"] = "minmax"
        """Scaling of the features. It weighs the two terms of the loss against each other: ranges of 1 make
        errors of features smaller than deviations of 1 do."""

    settings: Settings

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        own = self.settings
        self.latent, self.beta, self.learning_rate = own.latent, own.beta, own.learning_rate
        n_features = math.prod(self.shape)
        body: dict[str, Any] = {"layers": own.layers, "hidden": own.hidden, "activation": own.activation}
        self.encoder = perceptron(inputs=n_features + properties, outputs=2 * own.latent, **body)
        self.decoder = perceptron(inputs=own.latent + properties, outputs=n_features, **body)

    def encode(
        self, features: Float[Tensor, "n F"], condition: Float[Tensor, "n p"]
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Return mean and log-variance of q(z | R, y); arguments in scaled units."""
        mean, log_variance = self.encoder(torch.cat([features, condition], dim=1)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_LIMITS)

    def decode(
        self, latent: Float[Tensor, "n k"], condition: Float[Tensor, "n p"]
    ) -> Float[Tensor, "n *shape"]:
        """Return the features R̂(z, y) in data units, in the floating-point type of ``condition``.

        Differentiable in both arguments; ``condition`` in data units.
        """
        scaled = self._decode(latent.to(self.dtype), self.scale_properties(condition))
        features = self.feature_scaler.inverse(scaled.double())
        return features.to(condition.dtype).reshape(-1, *self.shape)

    def _decode(self, latent: Tensor, condition: Tensor) -> Tensor:
        return self.decoder(torch.cat([latent, condition], dim=1))

    def loss_terms(
        self,
        features: Float[Tensor, "n F"],
        condition: Float[Tensor, "n p"],
        noise: Float[Tensor, "n k"],
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        r"""Return the reconstruction term and the Kullback-Leibler term of each row.

        Args:
            features: R in scaled units.
            condition: y in scaled units.
            noise: The standard normal ε of z = μ + σ ε.
        """
        mean, log_variance = self.encode(features, condition)
        decoded = self._decode(mean + torch.exp(log_variance / 2) * noise, condition)
        reconstruction = (decoded - features).square().sum(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return reconstruction, kl

    def _step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        features, condition = self.scale_features(batch[0]), self.scale_properties(batch[1])
        noise = torch.randn(len(features), self.latent, device=self.device).to(features)
        reconstruction, kl = self.loss_terms(features, condition, noise)
        reconstruction, kl = reconstruction.mean(), kl.mean()
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return L of a batch (features, conditions)."""
        return self._step(batch)["loss"]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return L, its reconstruction term and its Kullback-Leibler term."""
        return self._step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "..."],
        *,
        rng: torch.Generator,
        temperature: float = 1.0,
        guide: Guide | Callable[[Tensor], Tensor] | None = None,
        tolerance: float | None = None,
    ) -> Float[Tensor, "n *shape"]:
        r"""Draw z from N(0, temperature²) and decode it: one sample for each row of ``condition`` (n, p).

        With a ``guide`` g for the first property, z is drawn by Hamiltonian Monte Carlo from
        :math:`p(z \mid y) \propto e^{-E}` with the energy

        .. math:: E(z) = \frac{|z|^2}{2 T^2} + \frac{\bigl(g(\hat R(z, y)) - y\bigr)^2}{2 \tau^2}

        where T is the temperature. See :meth:`ConditionalGenerator.sample`.

        Args:
            condition: Target properties and other conditions, in data units.
            rng: Source of all randomness.
            temperature: Standard deviation T of the latent noise.
            guide: A surrogate for features of this shape, or a differentiable function that returns the
                property of each row (n,) and has a ``tolerance``.
            tolerance: Deviation τ of the guide from y, in units of y; by default its error on its validation
                rows.

        Raises:
            InputError: As the base class; a guide for features of another shape, of unknown error without a
                ``tolerance``, or that does not return a number for each row.
        """
        self.check_condition(condition)
        temperature = positive("temperature", temperature)
        latent = torch.randn(len(condition), self.latent, generator=rng, device=rng.device)
        latent, condition = latent.to(self.device) * temperature, condition.to(self.device)
        if guide is not None:
            energy = self._guided_energy(guide, temperature, tolerance)
            latent = hamiltonian(energy, latent, condition, rng=rng, size=math.prod(self.shape))
        return map_rows(self.decode, latent, condition, size=math.prod(self.shape))

    def _guided_energy(
        self, guide: Guide | Callable[[Tensor], Tensor], temperature: float, tolerance: float | None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return E as a function of z and conditions."""
        error = tolerance
        if isinstance(guide, Guide):
            if guide.shape != self.shape:
                raise InputError(
                    f"guide: expects features of shape {guide.shape}, but these have {self.shape}."
                )
            guide = guide.to(self.device)
            error = guide.validation_mae if tolerance is None else tolerance
        if error is None:
            raise InputError("guide: its error is not known. Remedy: give a tolerance.")
        positive("tolerance", error)

        def energy(latent: Tensor, condition: Tensor) -> Tensor:
            predicted = guide(self.decode(latent, condition.double()))
            if predicted.shape != condition.shape[:1]:
                raise InputError(
                    f"guide: got {tuple(predicted.shape)} from {len(condition)} rows of features, expected "
                    f"({len(condition)},)."
                )
            off = predicted - condition[:, 0].double()
            return latent.double().square().sum(1) / (2 * temperature**2) + (off / error).square() / 2

        return energy
