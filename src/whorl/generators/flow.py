"""Conditional neural spline flow, with exact log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from whorl.errors import InputError, import_extra
from whorl.generators.base import ConditionalGenerator, positive
from whorl.generators.networks import perceptron
from whorl.generators.principal_axes import PrincipalAxes
from whorl.generators.settings import GeneratorSettings
from whorl.settings import Count, Depth, Width

_AT_ONCE = 2**20  # parameters of splines at once


class Flow(ConditionalGenerator):
    r"""Conditional neural spline flow (Durkan et al. 2019, arXiv:1906.04032) on zuko.

    Features R in network units x, standardised, are an invertible function of normal noise:

    .. math::
        z &= f_y(x), \qquad z \sim \mathcal N(0, 1) \\
        \log p(x \mid y) &= \log \mathcal N\bigl(f_y(x); 0, 1\bigr)
            + \log \bigl|\det \partial f_y / \partial x\bigr| \\
        L &= -\log p(x \mid y)

    f is a chain of coupling layers: each moves half of the features by monotonic rational-quadratic splines
    on [-5, 5], whose knots a perceptron computes from the other half and from y, and by the identity
    elsewhere. The halves are drawn at random, equal for all models of one shape, and are exchanged in every
    second layer. Tensors of any shape are flattened.

    Of more than ``components`` features, x are the whitened principal components; the density then has normal
    noise along all other directions, which samples are without. Features that do not vary in training are
    excluded: they are passed on unchanged, and the density is that of the others. Needs the package ``zuko``.

    Args:
        shape: Shape of one structure's features, (F,) for vectors.
        properties: Number p of conditions.
        options: Hyperparameters, see :class:`Flow.Settings`.

    Raises:
        InputError: An invalid hyperparameter.
        MissingExtraError: ``zuko`` is not installed: pip install 'whorl[flow]'.
    """

    kind = "flow"
    requires = ("zuko", "flow")

    class Settings(GeneratorSettings):
        """Settings of the neural spline flow."""

        epochs: Count = 300
        """Passes over the training rows."""
        transforms: Depth = 6
        """Coupling layers."""
        layers: Depth = 2
        """Hidden layers of the perceptron of a coupling layer."""
        hidden: Width = 128
        """Units of a hidden layer."""
        bins: Annotated[int, Field(ge=2, le=1000)] = 8
        """Bins of a spline."""
        components: Width = 32
        """Principal components, where there are more features than that."""
        scaling: Literal["standard"] = "standard"
        """Scaling of the features: splines reach from -5 to 5 standard deviations."""

    settings: Settings
    given: Tensor

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        import_extra("zuko", extra="flow")
        own, inputs = self.settings, math.prod(self.shape)
        features = min(inputs, own.components)
        self.principal_axes = PrincipalAxes(inputs, features) if features < inputs else None
        given = _halves(features, own.transforms)
        self.register_buffer("given", given, persistent=False)
        self.couplings = nn.ModuleList(
            perceptron(
                inputs=known + self.properties,
                outputs=(features - known) * (3 * own.bins - 1),
                layers=own.layers,
                hidden=own.hidden,
                activation="silu",
            )
            for known in given.sum(1).tolist()
        )

    def fit_scaling(self, features: Float[Tensor, "n *shape"], properties: Float[Tensor, "n p"]) -> None:
        """Fit the scaling of features and properties, and the principal axes, to training rows."""
        super().fit_scaling(features, properties)
        if self.principal_axes is not None:
            self.principal_axes.fit(self.feature_scaler.transform(features.flatten(1).double()))

    @property
    def varying(self) -> Float[Tensor, "d"]:
        """1 where x varies in training, else 0."""
        axes = self.principal_axes
        return ((self.feature_scaler.scale if axes is None else axes.deviations) > 0).to(self.dtype)

    def transform(self, condition: Float[Tensor, "n p"]) -> Any:
        """Return f at standardised conditions as a zuko transform, from network units to noise."""
        zuko = import_extra("zuko", extra="flow")
        return zuko.transforms.ComposedTransform(
            *(
                zuko.transforms.CouplingTransform(partial(self._splines, network, ~given, condition), given)
                for network, given in zip(self.couplings, self.given, strict=True)
            )
        )

    def _splines(
        self,
        network: nn.Module,
        moved: Bool[Tensor, "F"],
        condition: Float[Tensor, "n p"],
        given: Float[Tensor, "n k"],
    ) -> Any:
        """Return the splines of the transformed features: the identity for those that do not vary."""
        zuko, bins = import_extra("zuko", extra="flow"), self.settings.bins
        numbers = network(torch.cat([given, condition], 1)).unflatten(1, (-1, 3 * bins - 1))
        numbers = numbers * self.varying[moved, None]  # splines of zeros are the identity
        splines = zuko.transforms.MonotonicRQSTransform(*numbers.split([bins, bins, bins - 1], 2))
        return zuko.transforms.DependentTransform(splines, 1)

    def log_prob(self, features: Float[Tensor, "..."], condition: Float[Tensor, "..."]) -> Float[Tensor, "n"]:
        r"""Return the exact log-density of each row of features, in data units, at its condition.

        .. math:: \log p(R \mid y) = \log p(x \mid y) - \sum_f \log s_f

        with the scale s of each feature that varies in training, and for principal components their own
        scales and the density of the noise added to them. The density is over these features, in the
        reciprocal of the product of their units. Differentiable in both arguments, in float64.

        Args:
            features: R, shape (n, *shape).
            condition: y, in data units, shape (n, p).

        Raises:
            InputError: The model is not trained, shapes do not fit, or ``condition`` is not finite.
        """
        self.check_condition(condition)
        if tuple(features.shape[1:]) != self.shape or len(features) != len(condition):
            raise InputError(
                f"log_prob: got features of shape {tuple(features.shape)} for {len(condition)} conditions, "
                f"expected {(len(condition), *self.shape)}."
            )
        scale, axes, features = self.feature_scaler.scale, self.principal_axes, features.to(self.device)
        inside = self._inside_log_prob(features, condition.to(self.device)).double()
        if axes is not None:
            scaled = self.feature_scaler.transform(features.flatten(1).double())
            inside = inside + axes.log_jacobian(scaled, axes.transform(scaled))
        return inside - scale[scale > 0].log().sum()

    def _inside_log_prob(self, features: Tensor, condition: Tensor) -> Tensor:
        """Return log p(x | y) of features and conditions in data units."""
        inside = self.scale_features(features)
        if self.principal_axes is not None:
            inside = self.principal_axes.transform(inside).to(self.dtype)
        noise, logarithm = self.transform(self.scale_properties(condition)).call_and_ladj(inside)
        normal = 0.5 * (noise.square() + math.log(2 * math.pi))
        return logarithm - (normal * self.varying).sum(1)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return -self._inside_log_prob(*batch).mean()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return L of a batch (features, conditions)."""
        return self._loss(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return L."""
        return {"loss": self._loss(batch)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate, fused=True)

    @torch.no_grad()
    def sample(
        self, condition: Float[Tensor, "..."], *, rng: torch.Generator, temperature: float = 1.0
    ) -> Float[Tensor, "n *shape"]:
        """Draw z from N(0, temperature²) and return the corresponding R, for each row of ``condition``.

        See :meth:`ConditionalGenerator.sample`.
        """
        self.check_condition(condition)
        features = self.given.shape[1]
        noise = torch.randn(len(condition), features, generator=rng, device=rng.device)
        noise = noise.to(self.device) * positive("temperature", temperature) * self.varying
        known = self.scale_properties(condition.to(self.device))
        rows = max(1, _AT_ONCE // (features * 3 * self.settings.bins))
        inside = [
            self.transform(y).inv(z)
            for z, y in zip(noise.split(rows), known.split(rows), strict=True)
            if len(z) > 0
        ]
        scaled = torch.cat([noise[:0], *inside]).double()
        if self.principal_axes is not None:
            scaled = self.principal_axes.inverse(scaled)
        return self.feature_scaler.inverse(scaled).to(condition.dtype).reshape(-1, *self.shape)


def _halves(features: int, count: int) -> Bool[Tensor, "count F"]:
    """Return the input features of each coupling layer: random halves, each followed by its complement."""
    if features == 1:
        return torch.zeros(count, 1, dtype=torch.bool, device="cpu")
    halves = []
    for number in range(0, count, 2):
        rng = torch.Generator().manual_seed(number)
        given = torch.randperm(features, generator=rng, device="cpu") % 2 == 1
        halves += [given, ~given]
    return torch.stack(halves[:count])
