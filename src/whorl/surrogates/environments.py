r"""Random cosine features of atomic environments: a kernel between them, as a short vector.

For the fingerprint :math:`G_i` of an atom of species :math:`e_i`,

.. math::
   \varphi_d(i) = \sqrt{2 / D}\, \cos\bigl(\omega_d^\top z_i + \nu_{d e_i} + b_d\bigr), \qquad
   z_i = W (G_i - \mu)

with W the principal axes of the fingerprints, scaled to unit variance. With
:math:`\omega \sim N(0, 1/\ell^2)` and :math:`\nu \sim N(0, 1)` the product
:math:`\varphi(i)^\top \varphi(j)` tends to :math:`\exp(-|z_i - z_j|^2 / 2\ell^2)`, times 1/e for two atoms
of different elements (Rahimi & Recht 2007).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from ase.data import atomic_numbers, covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.representations.acsf import ACSF
from whorl.representations.embedding import MOST_CHANNELS, embedding_table

_SUBSTANTIAL = 1e-8  # variance of a principal axis, of the largest one
_FLOOR = 0.02  # likewise: what is added before scaling to unit variance
_FIRST, _REACH = 0.65, 2.6  # nearest and farthest distance that the fingerprint tells apart, in bond lengths
_NEIGHBOURS = 45  # atoms within the cutoff: more cost time, and blur the nearer shells
_MOST_NUMBERS = 300  # of an atom's fingerprint


def default_fingerprint(species: Sequence[str], density: float = 0.0) -> ACSF:
    """Return symmetry functions for environments of these elements: radial ones, and a few of angles.

    Lengths are in units of the bond lengths that follow from covalent radii, so that the fingerprint reaches
    to the second or third shell, or as far as 45 neighbours. Many elements are told apart by an embedding
    (:mod:`whorl.representations.embedding`), or where they have none by fewer functions.

    Args:
        species: The elements.
        density: Atoms per Å³, of crystals; 0 where it is not known.
    """
    radii = [float(covalent_radii[atomic_numbers[symbol]]) for symbol in species]
    sphere = (3 * _NEIGHBOURS / (4 * math.pi * density)) ** (1 / 3) if density else math.inf
    first, cutoff = _FIRST * 2 * min(radii), min(max(min(_REACH * 2 * max(radii), sphere), 4.5), 8.0)
    count = len(set(species))
    embedding = None
    if 18 * count + 6 * count * (count + 1) // 2 > _MOST_NUMBERS and _embeddable(species):
        embedding = count = MOST_CHANNELS
    pairs = count * (count + 1) // 2
    radial = next((n for n in (12, 8, 5) if (n + n // 2) * count <= _MOST_NUMBERS), 4)
    step = (cutoff - 1.0 - first) / radial
    width = 1.0 / (2.0 * step**2)
    g2 = [(width, first + step * k) for k in range(radial)]
    g2 += [(width / 4, first + 2 * step * k) for k in range(radial // 2)]
    powers = (1.0, 4.0, 16.0) if 6 * pairs + len(g2) * count <= _MOST_NUMBERS else (1.0,)
    angular = [(0.4 / (cutoff / 2.6) ** 2, zeta, lam) for zeta in powers for lam in (-1.0, 1.0)]
    if 2 * pairs + len(g2) * count > _MOST_NUMBERS:
        angular = []
    return ACSF(species=species, cutoff=cutoff, g2=g2, g5=angular, pooling=("mean",), embedding=embedding)


def _embeddable(species: Sequence[str]) -> bool:
    try:
        embedding_table(species, MOST_CHANNELS)
    except InputError:  # such as noble gases, of which descriptors are not known
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class CosineFeatures:
    """The map from fingerprints of atoms to D random cosine features.

    Attributes:
        mean: Of the fingerprints, shape (f,).
        axes: Principal axes as columns, scaled, shape (f, k).
        frequencies: Shape (k, D).
        species: Phase of each species, shape (S, D); zeros of a single one.
        phases: Shape (D,).
    """

    mean: Float[Tensor, "f"]
    axes: Float[Tensor, "f k"]
    frequencies: Float[Tensor, "k D"]
    species: Float[Tensor, "S D"]
    phases: Float[Tensor, "D"]

    @classmethod
    def fit(
        cls, fingerprints: Float[Tensor, "A f"], *, count: int, length: float, n_species: int, seed: int
    ) -> CosineFeatures:
        """Draw ``count`` features for environments like these.

        Args:
            fingerprints: Of all atoms of the training structures.
            count: Number D.
            length: Correlation length ℓ, in units of the root mean square distance of two environments.
            n_species: Number S.
            seed: Of the draws.
        """
        mean = fingerprints.mean(0)
        variances, axes = torch.linalg.eigh(
            (fingerprints - mean).T @ (fingerprints - mean) / len(fingerprints)
        )
        largest = variances[-1].clamp(min=1e-12)
        kept = variances > _SUBSTANTIAL * largest
        variances, axes = variances[kept], axes[:, kept]
        axes = axes / (variances + _FLOOR * largest).sqrt()
        distance = (2.0 * (variances / (variances + _FLOOR * largest)).sum()).sqrt().clamp(min=1.0)
        rng = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        return cls(
            mean=mean,
            axes=axes,
            frequencies=normal(axes.shape[1], count) / (length * distance),
            phases=2 * math.pi * torch.rand(count, generator=rng, dtype=torch.float64),
            species=normal(n_species, count) * (n_species > 1),
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the map consists of, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def amplitude(self) -> float:
        """The factor before the cosine."""
        return math.sqrt(2.0 / len(self.phases))

    def angles(self, fingerprints: Float[Tensor, "A f"], species: Int[Tensor, "A"]) -> Float[Tensor, "A D"]:
        """Return the argument of each cosine."""
        return (fingerprints - self.mean) @ self.axes @ self.frequencies + self.species[species] + self.phases

    def values(self, angles: Float[Tensor, "A D"]) -> Float[Tensor, "A D"]:
        """Return the features."""
        return angles.cos() * self.amplitude

    def slopes(self, angles: Float[Tensor, "A D"], weights: Float[Tensor, "*A D"]) -> Float[Tensor, "A f"]:
        r"""Return the derivative of :math:`\sum_d w_d \varphi_d` in each atom's fingerprint."""
        return -self.amplitude * (angles.sin() * weights) @ self.frequencies.T @ self.axes.T

    def summed_jacobian(
        self, angles: Float[Tensor, "n D"], jacobian: Float[Tensor, "n f x"]
    ) -> Float[Tensor, "x D"]:
        r"""Return the derivative of :math:`\sum_i \varphi(i)` from those of the fingerprints."""
        along = torch.einsum("ifx,fk->ikx", jacobian, self.axes).flatten(0, 1)
        slopes = -self.amplitude * angles.sin()[:, None] * self.frequencies
        return along.T @ slopes.flatten(0, 1)
