"""Whitened principal components: many features as a few independent numbers."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

NEGLIGIBLE = 1e-6
"""An axis whose deviation is below this share of the largest one has no component."""


class PrincipalAxes(nn.Module):
    r"""Mean m, principal axes A and deviations s of rows: :math:`z = A^\top (x - m) / s`.

    The components z of the rows have the mean 0 and the variance 1, and are uncorrelated. If rows vary along
    fewer axes than asked for, the components of the others are 0. What is left out is described by normal
    noise of one deviation ρ (probabilistic PCA: Tipping & Bishop 1999, doi:10.1111/1467-9868.00196).

    Args:
        features: Numbers f of a row.
        components: Axes k, at most f.
    """

    mean: Tensor
    axes: Tensor
    deviations: Tensor
    rest: Tensor

    def __init__(self, features: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("axes", torch.zeros(features, components, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(components, dtype=torch.float64))
        # Of the directions that are left out: how many there are, and the deviation ρ of rows along each.
        self.register_buffer("rest", torch.zeros(2, dtype=torch.float64))

    @torch.no_grad()
    def fit(self, rows: Float[Tensor, "n f"]) -> None:
        """Learn the axes from training rows."""
        rows = rows.to(self.mean)
        self.mean.copy_(rows.mean(0))
        _, lengths, axes = torch.linalg.svd(rows - self.mean, full_matrices=False)
        deviations = (lengths / len(rows) ** 0.5)[: len(self.deviations)]
        used = int((deviations > NEGLIGIBLE * deviations.max()).sum())
        self.axes.zero_()[:, :used] = axes[:used].T
        self.deviations.zero_()[:used] = deviations[:used]
        variances = (rows - self.mean).square().mean(0)
        left = max(0, int((variances > 0).sum()) - used)
        variance = (variances.sum() - self.deviations.square().sum()).clamp(min=0) / max(1, left)
        self.rest.copy_(torch.stack([variance.new_tensor(left), variance.sqrt()]))
        self.rest[1].clamp_(min=NEGLIGIBLE * float(deviations.max()))

    def transform(self, rows: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Return components, in float64. Differentiable."""
        inverse = torch.where(self.deviations > 0, 1 / self.deviations, 0.0)
        return (rows.double() - self.mean) @ (self.axes * inverse)

    def inverse(self, components: Float[Tensor, "n k"]) -> Float[Tensor, "n f"]:
        """Return the rows with these components, in float64. Differentiable."""
        return components.double() @ (self.axes * self.deviations).T + self.mean

    def log_jacobian(
        self, rows: Float[Tensor, "n f"], components: Float[Tensor, "n k"]
    ) -> Float[Tensor, "n"]:
        r"""Return log p(x) - log p(z) of rows x and their components z.

        .. math:: -\sum_k \log s_k + \log \mathcal N(x - \hat x(z); 0, \rho^2)
        """
        left, deviation = self.rest
        off = (rows.double() - self.inverse(components)).square().sum(1) / deviation**2
        normal = left * (deviation.log() + 0.5 * math.log(2 * math.pi))
        return -self.deviations[self.deviations > 0].log().sum() - off / 2 - normal
