r"""Channels of the elements that are learned from a property.

A small perceptron f predicts the property y of a structure of N atoms from

.. math::
   \frac1N \sum_i u_q(e_i) \sum_j u_k(e_j)\, g_n(r_{ij}), \qquad
   \frac1N \sum_i u_q(e_i), \qquad \frac1N \sum_i u_q(e_i)\, u_k(e_i)

with six gaussians g of the distances, damped by a cutoff. It is fitted together with the channels u of the
elements, which begin as the fixed descriptors of :mod:`whorl.representations.embedding`; the first stays 1.
Those are kept with which structures held out are predicted best, in the manner of the alchemical kernels of
Willatt, Musil and Ceriotti (Phys. Chem. Chem. Phys. 20, 29661, 2018). Elements with few structures stay near
to what they began as.
"""

from __future__ import annotations

import math

import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor, nn

from whorl.errors import InputError
from whorl.generators.networks import perceptron
from whorl.representations.embedding import embedding_table
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import species_of
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import neighbor_list
from whorl.surrogates.base import Progress

CUTOFF = 5.0
"""Radius of the environments in Å."""

MINIMUM_STRUCTURES = 50
_CENTRES, _WIDTH = torch.linspace(1.5, 4.5, 6, dtype=torch.float64), 0.6  # Å
_EPOCHS, _BATCH, _EVERY = 300, 64, 5
_HELD_OUT = 0.2
_HIDDEN = 96
_RATE, _RATE_OF_CHANNELS, _DECAY = 2e-3, 5e-3, 1e-2


def learned_embedding(
    structures: Structures,
    values: Float[Tensor, "n"],
    *,
    channels: int = 4,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Return a table of the channels of each element, for the setting ``embedding`` of representations.

    The same arguments give the same table. The first channel is 1, the others are scaled to -1 … 1.

    Args:
        structures: At least 50.
        values: Property of each, per atom if it grows with the number of atoms.
        channels: Number K of channels, 2 to 5.
        seed: Of all randomness.
        progress: Called with (epochs done, epochs in all).

    Raises:
        InputError: Too few structures, values that are not finite or all equal, fewer than two
            elements, or an element without fixed descriptors.
    """
    batch = as_batch(structures)
    values = values.double().flatten()
    if len(batch) < MINIMUM_STRUCTURES or len(values) != len(batch) or not bool(values.isfinite().all()):
        raise InputError(
            f"learned embedding: got {len(batch)} structures and {int(values.isfinite().sum())} finite "
            f"values, expected at least {MINIMUM_STRUCTURES} structures with one value each."
        )
    species = species_of(batch)
    if len(species) < 2:
        raise InputError(
            f"learned embedding: got structures of {', '.join(species)} alone, expected two elements."
        )
    if not float(values.std()) > 1e-12 * float(values.abs().max()):
        raise InputError(
            f"learned embedding: got the value {float(values[0]):g} for every structure, expected a property "
            "that varies."
        )
    start = embedding_table(species, channels)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        learned = _Fit(batch, values, species, start.float()).run(progress)
    least, most = learned.amin(0), learned.amax(0)
    scaled = 2.0 * (learned - least) / (most - least).clamp(min=1e-12) - 1.0
    table = torch.cat([torch.ones(len(species), 1, dtype=torch.float64), scaled], 1)
    return dict(zip(species, [[round(x, 6) for x in row] for row in table.tolist()], strict=True))


class _Fit:
    """The perceptron and the channels of S elements, fitted together.

    Args:
        structures: B structures.
        values: Property of each.
        species: Chemical symbols of their elements.
        start: Channels to begin with, shape (S, K).
    """

    def __init__(
        self, structures: StructureBatch, values: Tensor, species: list[str], start: Float[Tensor, "S K"]
    ) -> None:
        self.values, self.start = values.float(), start
        count = len(structures)
        numbers = torch.tensor([atomic_numbers[symbol] for symbol in species])
        element = torch.searchsorted(numbers, structures.atomic_numbers)
        # Kinds are the elements of one structure: the atoms of a kind are alike to the features.
        kinds, kind_of = torch.unique(
            structures.structure_index * len(species) + element, return_inverse=True
        )
        owner = kinds // len(species)
        place = torch.arange(len(kinds)) - torch.searchsorted(owner, owner)
        most, size = int(place.max()) + 1, structures.n_atoms.double()
        self.elements = torch.zeros(count, most, dtype=torch.int64).index_put(
            (owner, place), kinds % len(species)
        )
        share = torch.bincount(kind_of, minlength=len(kinds)).double() / size[owner]
        self.shares = torch.zeros(count, most).double().index_put((owner, place), share).float()
        pairs = neighbor_list(structures, cutoff=CUTOFF)
        distance = pairs.vectors(structures).norm(dim=1)
        radial = torch.exp(-((distance[:, None] - _CENTRES) / _WIDTH).square())
        radial = radial * (0.5 * torch.cos(math.pi * distance / CUTOFF) + 0.5)[:, None]
        of_pair = structures.structure_index[pairs.first]
        at = of_pair, place[kind_of[pairs.first]], place[kind_of[pairs.second]]
        sums = torch.zeros(count, most, most, len(_CENTRES)).double()
        sums = sums.index_put(at, radial, accumulate=True)
        self.sums = (sums / size[:, None, None, None]).float()
        self.channels = nn.Parameter(start[:, 1:].clone())
        self.first = start[:, :1]

    def features(self, rows: Tensor) -> Float[Tensor, "n F"]:
        """Return the features of structures."""
        u = torch.cat([self.first, self.channels], 1)[self.elements[rows]]
        shared = u * self.shares[rows][..., None]
        pairs = torch.einsum("naq,nabg,nbk->nqkg", u, self.sums[rows], u)
        own = torch.einsum("naq,nak->nqk", shared, u)
        return torch.cat([pairs.flatten(1), shared.sum(1), own.flatten(1)], 1)

    def run(self, progress: Progress | None) -> Float[Tensor, "S c"]:
        """Return the channels but the first, in float64, that predict the structures held out best."""
        order = torch.randperm(len(self.values))
        held_out, training = order.tensor_split([max(1, round(_HELD_OUT * len(order)))])
        with torch.no_grad():
            known = self.features(training)
        mean, spread = known.mean(0), known.std(0) + 1e-6
        middle, scale = self.values[training].mean(), self.values[training].std() + 1e-12
        network = perceptron(inputs=known.shape[1], outputs=1, layers=2, hidden=_HIDDEN, activation="silu")
        wanted = (self.values - middle) / scale
        optimiser = torch.optim.AdamW(
            [
                {"params": network.parameters(), "weight_decay": _DECAY},
                {"params": [self.channels], "weight_decay": 0.0, "lr": _RATE_OF_CHANNELS},
            ],
            lr=_RATE,
        )

        def errors(rows: Tensor) -> Tensor:
            return network((self.features(rows) - mean) / spread)[:, 0] - wanted[rows]

        best, channels = math.inf, self.channels.detach().clone()
        for epoch in range(1, _EPOCHS + 1):
            for rows in training[torch.randperm(len(training))].split(_BATCH):
                optimiser.zero_grad()
                errors(rows).square().mean().backward()
                optimiser.step()
            if epoch % _EVERY == 0:
                with torch.no_grad():
                    error = float(errors(held_out).abs().mean())
                if error < best:
                    best, channels = error, self.channels.detach().clone()
                if progress is not None:
                    progress(epoch, _EPOCHS)
        return channels.double()
