r"""A property of crystals that are one structure with different elements on its sites.

Where most crystals of a data set are decorations of one prototype, such as perovskites, the property of a new
decoration follows better from *which element takes which site* than from positions: those of a structure that
was made by substitution are not relaxed, and a surrogate of positions takes that for a different crystal.

Sites are found without regard to elements: each atom has a power spectrum of its surroundings, all atoms
taken for the same element and the cell scaled to a common volume per atom. Atoms are assigned to the sites of
the prototype one to one, with the least

.. math::
   \sum_i \frac{|g_i - \bar g_{s(i)}|^2}{2 \sigma^2} - \log p(s(i) \mid e_i)

and :math:`\bar g`, σ and the frequencies p of an element's sites follow from the assignments, in turns. Sites
whose :math:`\bar g` are nearer to each other than σ are a class. With :math:`x_c` the mean over the sites of
class c of the vectors :math:`\phi_c(e)` of their elements, the property is a Gaussian process with

.. math::
   k(x, x') = v_0 + \sum_c v_c k_c + \sum_{c<d} v_{cd}\, k_c k_d + v_\mathrm{all} \prod_c k_c, \qquad
   k_c = e^{-|x_c - x'_c|^2 / 2}

:math:`\phi_c(e)` has the scaled descriptors of the element, one column for each element, and some that are
learned; they and v maximise the marginal likelihood. Several such processes, fitted to different rows, are
averaged, and their uncertainty is calibrated on rows that none of them was fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from whorl.representations.elements import standard_descriptors
from whorl.representations.soap import SOAP
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.surrogates.base import Progress

FEWEST = 60
"""Labelled decorations that a process needs."""
_OF_ALL = 0.9  # of the structures, with as many atoms each: then they are one prototype
_EXPLAINED = 0.6  # of the variance of the surroundings, by the sites
_VOLUME = 10.0  # Å³ per atom, to which cells are scaled
_TURNS = 8
_MEMBERS, _STEPS, _AT_ONCE = 3, 60, 600
_LEARNED = 3  # columns of an element
_MOST = 4000  # rows that are kept: the cost is cubic
_HELD_OUT = 0.2


class Sites:
    """The sites of a prototype, and the assignment of atoms to them."""

    def __init__(self, structures: StructureBatch) -> None:
        self.n_atoms = int(structures.n_atoms.mode().values)
        own = structures[torch.nonzero(structures.n_atoms == self.n_atoms).flatten()]
        spectra = self._spectra(own)
        self._mean = spectra.mean((0, 1))
        self._scale = (spectra - self._mean).square().sum(2).mean().sqrt().clamp(min=1e-9)
        spectra = (spectra - self._mean) / self._scale
        self._centres = spectra[_typical(spectra.mean(1))]
        self._variance, self.classes = 1.0, torch.arange(self.n_atoms)
        self._cost = torch.zeros(self.n_atoms, len(chemical_symbols), dtype=torch.float64)
        numbers = own.atomic_numbers.reshape(len(own), -1)
        for _ in range(_TURNS):
            place = self._assigned(spectra, numbers)
            at_site = spectra.gather(1, place[..., None].expand(-1, -1, spectra.shape[2]))
            self._centres = at_site.mean(0)
            self._variance = float((at_site - self._centres).square().sum(2).mean()) + 1e-6
            near = torch.cdist(self._centres, self._centres) < self._variance**0.5
            self.classes = torch.unique(near.double().argmax(1), return_inverse=True)[1]
            self._cost = self._costs(numbers.gather(1, place))
        self.explained = 1.0 - self._variance

    def numbers(self, structures: StructureBatch) -> Int[Tensor, "B n"]:
        """Return the atomic number at each site of structures with as many atoms."""
        spectra = (self._spectra(structures) - self._mean) / self._scale
        numbers = structures.atomic_numbers.reshape(len(structures), -1)
        return numbers.gather(1, self._assigned(spectra, numbers))

    def _spectra(self, structures: StructureBatch) -> Float[Tensor, "B n f"]:
        scale = (_VOLUME * structures.n_atoms / volumes(structures.cells)) ** (1 / 3)
        alike = structures.replace(
            atomic_numbers=torch.full_like(structures.atomic_numbers, 6),
            cells=structures.cells * scale[:, None, None],
            positions=structures.positions * scale[structures.structure_index, None],
        )
        spectrum = SOAP(species=["C"], n_max=5, pooling=["mean"])
        return spectrum.atomic_features(alike).reshape(len(structures), self.n_atoms, -1)

    def _assigned(self, spectra: Float[Tensor, "B n f"], numbers: Int[Tensor, "B n"]) -> Int[Tensor, "B n"]:
        """Return the atom at each site."""
        from scipy.optimize import linear_sum_assignment

        apart = torch.cdist(self._centres.expand(len(spectra), -1, -1), spectra).square()
        cost = apart / (2.0 * self._variance) + self._cost[:, numbers].movedim(0, 1)
        return torch.from_numpy(np.array([linear_sum_assignment(one)[1] for one in cost.numpy()]))

    def _costs(self, at_site: Int[Tensor, "B n"]) -> Float[Tensor, "n e"]:
        """Return −log p(site | element), with one more atom of each element at each site."""
        count = torch.nn.functional.one_hot(at_site, len(chemical_symbols)).sum(0).double()
        shared = (self.classes[:, None] == self.classes).double()
        count = shared @ count / shared.sum(1, keepdim=True) + 1.0
        return -(count / count.sum(0)).log()


def _typical(spectra: Float[Tensor, "B f"]) -> int:
    """Return the row with the most others near it."""
    apart = torch.cdist(spectra[:500], spectra)
    return int((apart < apart.median()).sum(1).argmax())


class DecorationModel:
    """A property of decorations of one prototype.

    Made by :meth:`fit`.

    Attributes:
        error: Root-mean-square error for rows that it was not fitted to.
    """

    @classmethod
    def fit(
        cls,
        structures: StructureBatch,
        values: Float[Tensor, "N"],
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> DecorationModel | None:
        """Return the model of labelled crystals, or None where they are not decorations of one prototype.

        Args:
            structures: The crystals.
            values: Their property.
            seed: Of all randomness.
            progress: Called as it goes on.
        """
        sizes = structures.n_atoms
        same = torch.nonzero((sizes == sizes.mode().values) & structures.pbc.all(1)).flatten()
        if len(same) < max(FEWEST, _OF_ALL * len(structures)):
            return None
        sites = Sites(structures[same])
        if sites.explained < _EXPLAINED or len(torch.unique(structures.atomic_numbers)) == 1:
            return None
        return cls(sites, structures[same], values[same], seed=seed, progress=progress)

    def __init__(
        self,
        sites: Sites,
        structures: StructureBatch,
        values: Float[Tensor, "N"],
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        self.sites = sites
        self._elements = torch.unique(structures.atomic_numbers)
        shares, values = self._shares(structures), values.double()
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(values), generator=rng)[:_MOST]
        held_out, fitted = order.split(
            [int(_HELD_OUT * len(order)), len(order) - int(_HELD_OUT * len(order))]
        )
        self._members = []
        for number in range(_MEMBERS):
            self._members.append(_Process.fit(shares[fitted], values[fitted], self._elements, rng))
            if progress is not None:
                progress(number + 1, _MEMBERS)
        self._factor = 1.0
        mean, spread = self._mean_and_spread(shares[held_out])
        missed = (mean - values[held_out]).abs()
        self.error = float(missed.square().mean().sqrt())
        self._factor = max(float((missed / spread).quantile(0.9)) / 1.645, 0.1)
        self._members = [one.given(shares[order], values[order]) for one in self._members]

    @torch.no_grad()
    def predict(self, structures: StructureBatch) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Return the property of structures, and its standard deviation.

        Those that are no decorations of the prototype, by the number of their atoms or another element, have
        the mean of the data, and an infinite one.
        """
        known = torch.isin(structures.atomic_numbers, self._elements)
        strange = torch.zeros(len(structures), dtype=torch.long)
        strange.index_add_(0, structures.structure_index, (~known).long())
        usable = torch.nonzero((structures.n_atoms == self.sites.n_atoms) & (strange == 0)).flatten()
        mean = torch.full((len(structures),), self._members[0].offset, dtype=torch.float64)
        spread = torch.full_like(mean, torch.inf)
        if len(usable):
            mean[usable], spread[usable] = self._mean_and_spread(self._shares(structures[usable]))
        return mean, spread

    def _shares(self, structures: StructureBatch) -> Float[Tensor, "B c e"]:
        """Return the share of each element in each class of sites."""
        which = torch.searchsorted(self._elements, self.sites.numbers(structures))
        at_site = torch.nn.functional.one_hot(which, len(self._elements)).double()
        of_class = torch.nn.functional.one_hot(self.sites.classes).double()
        return torch.einsum("bne,nc->bce", at_site, of_class / of_class.sum(0))

    @torch.no_grad()
    def _mean_and_spread(self, shares: Float[Tensor, "B c e"]) -> tuple[Tensor, Tensor]:
        means, variances = zip(*(one.predict(shares) for one in self._members), strict=True)
        mean = torch.stack(means)
        variance = torch.stack(variances).mean(0) + mean.var(0)
        return mean.mean(0), self._factor * variance.sqrt()


@dataclass(frozen=True, kw_only=True)
class _Process:
    """One Gaussian process.

    Attributes:
        vectors: Of each element in each class of sites.
        amplitudes: Of the kernel's terms: a constant, each class, each pair, all.
        noise: Variance of a label.
        offset: Mean of the labels.
        points: Vectors x of the rows.
        factor: Cholesky factor of their kernel.
        weights: What the prediction multiplies the kernel with.
    """

    vectors: Float[Tensor, "c e q"]
    amplitudes: Float[Tensor, "t"]
    noise: float
    offset: float
    points: Float[Tensor, "N c q"] | None = None
    factor: Float[Tensor, "N N"] | None = None
    weights: Float[Tensor, "N"] | None = None

    @classmethod
    def fit(
        cls,
        shares: Float[Tensor, "N c e"],
        values: Float[Tensor, "N"],
        elements: Int[Tensor, "e"],
        rng: torch.Generator,
    ) -> _Process:
        descriptors = standard_descriptors(elements)
        classes, count = shares.shape[1:]
        pairs = classes * (classes - 1) // 2
        offset, scale = float(values.mean()), float(values.std()) or 1.0

        def logarithm(value: float, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=torch.float64, requires_grad=True)

        lengths = logarithm(-1.2, classes, 1, descriptors.shape[1])
        own = logarithm(-1.0, classes, 1, 1)
        learned = 0.05 * torch.randn(classes, count, _LEARNED, generator=rng, dtype=torch.float64)
        learned.requires_grad_()
        amplitudes = logarithm(-2.0, 2 + classes + pairs)
        noise = logarithm(-2.3)
        parameters = [lengths, own, learned, amplitudes, noise]

        def vectors() -> Tensor:
            same = torch.eye(count, dtype=torch.float64) * own.exp()
            return torch.cat([descriptors * lengths.exp(), same, learned], 2)

        optimizer = torch.optim.Adam(parameters, lr=0.1)
        for _ in range(_STEPS):
            rows = torch.randperm(len(values), generator=rng)[:_AT_ONCE]
            points = _points(shares[rows], vectors())
            covariance = _kernel(points, points, amplitudes.exp())
            covariance = covariance + (2 * noise).exp() * torch.eye(len(rows), dtype=torch.float64)
            factor = torch.linalg.cholesky(covariance)
            label = (values[rows] - offset) / scale
            half = torch.linalg.solve_triangular(factor, label[:, None], upper=False)
            loss = 0.5 * half.square().sum() + factor.diagonal().log().sum()
            loss = loss + 0.5 * learned.square().sum() + 0.1 * (lengths + 1.5).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        process = cls(
            vectors=vectors().detach(),
            amplitudes=amplitudes.detach().exp() * scale**2,
            noise=float((2 * noise.detach()).exp()) * scale**2,
            offset=offset,
        )
        return process.given(shares, values)

    def given(self, shares: Float[Tensor, "N c e"], values: Float[Tensor, "N"]) -> _Process:
        """Return this process with these rows in the place of its own."""
        points = _points(shares, self.vectors)
        eye = torch.eye(len(points), dtype=torch.float64)
        factor = torch.linalg.cholesky(_kernel(points, points, self.amplitudes) + self.noise * eye)
        weights = torch.cholesky_solve((values - self.offset)[:, None], factor)[:, 0]
        return _Process(
            vectors=self.vectors,
            amplitudes=self.amplitudes,
            noise=self.noise,
            offset=self.offset,
            points=points,
            factor=factor,
            weights=weights,
        )

    def predict(self, shares: Float[Tensor, "B c e"]) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Return mean and variance of a label."""
        assert self.points is not None and self.factor is not None and self.weights is not None
        across = _kernel(_points(shares, self.vectors), self.points, self.amplitudes)
        half = torch.linalg.solve_triangular(self.factor, across.T, upper=False)
        variance = self.amplitudes.sum() - half.square().sum(0)
        return self.offset + across @ self.weights, variance.clamp(min=0.0) + self.noise


def _points(shares: Float[Tensor, "B c e"], vectors: Float[Tensor, "c e q"]) -> Float[Tensor, "B c q"]:
    return torch.einsum("bce,ceq->bcq", shares, vectors)


def _kernel(
    one: Float[Tensor, "B c q"], other: Float[Tensor, "N c q"], amplitudes: Float[Tensor, "t"]
) -> Float[Tensor, "B N"]:
    # A few rows at a time: there are many terms, each as large as the whole.
    return torch.cat([_kernel_of_rows(rows, other, amplitudes) for rows in one.split(_AT_ONCE)])


def _kernel_of_rows(
    one: Float[Tensor, "b c q"], other: Float[Tensor, "N c q"], amplitudes: Float[Tensor, "t"]
) -> Float[Tensor, "b N"]:
    a, b = one.movedim(1, 0), other.movedim(1, 0)
    squares = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2.0 * a @ b.transpose(1, 2)
    of_class = (-0.5 * squares.clamp(min=0.0)).exp()
    classes = len(of_class)
    first, second = torch.triu_indices(classes, classes, 1)
    terms = [*of_class, *(of_class[first] * of_class[second]), of_class.prod(0)]
    total = amplitudes[0] + sum(v * term for v, term in zip(amplitudes[1:], terms, strict=True))
    assert isinstance(total, Tensor)
    return total
