r"""Embedding of elements: K channels in the place of a block of features for each element.

Sums over neighbours are weighted by the channels :math:`u_k` of their element in the place of being taken
for each element apart, as in weighted symmetry functions (Gastegger et al., J. Chem. Phys. 148, 241709, 2018)
and alchemical kernels (Willatt, Musil and Ceriotti, Phys. Chem. Chem. Phys. 20, 29661, 2018):

.. math::
   G_{ik} = \sum_j u_k(e_j)\, g(r_{ij}) \qquad
   G_{ikk'} = \sum_{j<l} \tfrac12 \bigl[u_k(e_j)\, u_{k'}(e_l) + u_{k'}(e_j)\, u_k(e_l)\bigr]\, g_{ijl}

so that the number of features does not depend on the number of elements. Both are sums over the *kinds*, the
elements of one structure, of what a representation computes for each kind or pair of kinds.

The channels are fixed descriptors of the elements, or a table of numbers, such as one that
:func:`whorl.surrogates.learned_embedding` finds for a property.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.representations.elements import DESCRIPTORS, descriptor_table
from whorl.representations.kernels import Columns, Kernel, columns
from whorl.representations.pairs import Pairs

MOST_CHANNELS = 1 + len(DESCRIPTORS)


def channel_names(embedding: int | Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Return the names of the channels.

    Raises:
        InputError: A number of channels out of range; a table that is empty, whose elements have different
            numbers of channels, or with numbers that are not finite.
    """
    if not isinstance(embedding, Mapping):
        if not 2 <= embedding <= MOST_CHANNELS:
            raise InputError(f"embedding: got {embedding} channels, expected 2 to {MOST_CHANNELS}.")
        return ("1", *DESCRIPTORS[: embedding - 1])
    sizes = {len(row) for row in embedding.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(
            f"embedding: got a table with {', '.join(map(str, sorted(sizes))) or 'no'} channels, expected "
            "the same number, at least one, for each of its elements."
        )
    if wrong := [symbol for symbol, row in embedding.items() if not all(map(math.isfinite, row))]:
        raise InputError(f"embedding: got channels of {wrong[0]} that are no finite numbers.")
    return tuple(f"u{channel}" for channel in range(1, sizes.pop() + 1))


def embedding_table(
    species: Sequence[str], embedding: int | Mapping[str, Sequence[float]]
) -> Float[Tensor, "S K"]:
    """Return the channels of elements: 1, then descriptors, each scaled to -1 … 1 over these elements.

    The descriptors are the first of :data:`whorl.representations.elements.DESCRIPTORS`.

    Args:
        species: Chemical symbols.
        embedding: The number of channels, or a table with the channels of each element, taken as they are.

    Raises:
        InputError: A number of channels out of range, a descriptor without a value for an element, elements
            that are not in the table, or elements that have the same channels.

    >>> embedding_table(["Na", "Cl"], 3).tolist()
    [[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]
    """
    names = channel_names(embedding)
    if isinstance(embedding, Mapping):
        table = _given(species, embedding)
        remedy = "a table that tells them apart"
    else:
        table = _described(species, names[1:])
        remedy = f"more channels, at most {MOST_CHANNELS}"
    same = torch.triu(torch.cdist(table, table) < 1e-6, 1).nonzero().tolist()
    if same:
        pairs = ", ".join(f"{species[s]} and {species[t]}" for s, t in same)
        raise InputError(f"embedding: {len(names)} channels are equal for {pairs}. Remedy: {remedy}.")
    return table


def _given(species: Sequence[str], table: Mapping[str, Sequence[float]]) -> Float[Tensor, "S K"]:
    if missing := [symbol for symbol in species if symbol not in table]:
        raise InputError(
            f"embedding: the table has no {', '.join(missing)}, only {', '.join(table)}. Remedy: a table "
            "learned from structures with all elements, or embedding: 4, which has fixed channels."
        )
    return torch.tensor([list(table[symbol]) for symbol in species], dtype=torch.float64)


def _described(species: Sequence[str], names: tuple[str, ...]) -> Float[Tensor, "S K"]:
    from ase.data import atomic_numbers

    values = descriptor_table(names)[[atomic_numbers[symbol] for symbol in species]]
    unknown = [
        (symbol, names[place])
        for symbol, row in zip(species, values.tolist(), strict=True)
        for place, value in enumerate(row)
        if value == 0.0
    ]
    if unknown:
        symbols = ", ".join(dict.fromkeys(symbol for symbol, _ in unknown))
        raise InputError(
            f"embedding: the table of elements has no {unknown[0][1].replace('_', ' ')} of {symbols}. "
            "Remedy: no embedding (a block of features for each element), or structures without "
            f"{'it' if ',' not in symbols else 'them'}."
        )
    least, most = values.amin(0), values.amax(0)
    scaled = torch.where(most > least, 2.0 * (values - least) / (most - least).clamp(min=1e-12) - 1.0, 0.0)
    return torch.cat([torch.ones(len(species), 1, dtype=torch.float64), scaled], 1)


def pair_mixing(mixing: Float[Tensor, "N S K"]) -> Float[Tensor, "N Q P"]:
    """Return the weight of each pair of kinds s ≤ t in each pair of channels k ≤ k'."""
    s, t = torch.triu_indices(mixing.shape[1], mixing.shape[1], device=mixing.device)
    k, m = torch.triu_indices(mixing.shape[2], mixing.shape[2], device=mixing.device)
    of_s, of_t = mixing[:, s], mixing[:, t]
    return 0.5 * (of_s[:, :, k] * of_t[:, :, m] + of_s[:, :, m] * of_t[:, :, k]).transpose(1, 2)


def embedded(
    features: Float[Tensor, "N f"], mixing: Float[Tensor, "N S K"], *, single: int, double: int
) -> Float[Tensor, "N F"]:
    """Return features of channels from those of kinds: ``single`` of each, then ``double`` of each pair."""
    of_kinds, of_pairs = features.split(
        [single * mixing.shape[1], features.shape[1] - single * mixing.shape[1]], 1
    )
    parts = [(mixing.transpose(1, 2) @ of_kinds.unflatten(1, (mixing.shape[1], single))).flatten(1)]
    if double:
        parts.append((pair_mixing(mixing) @ of_pairs.unflatten(1, (-1, double))).flatten(1))
    return torch.cat(parts, 1)


class Embedded(Kernel):
    """Features of channels from kernels whose features are of kinds and of pairs of kinds s ≤ t.

    Args:
        kernels: Each yields the columns of one kind, or of one pair of kinds, at a time.
        pairs: The pairs, with the channels of their kinds.
        single: Number of features of a kind, which come first.
        double: Number of features of a pair of kinds.
    """

    def __init__(self, kernels: Sequence[Kernel], pairs: Pairs, *, single: int, double: int) -> None:
        assert pairs.mixing is not None
        self._kernels, self._mixing = kernels, pairs.mixing
        self._single, self._double = single, double

    def values(self) -> Iterator[tuple[Columns, Float[Tensor, "N F"]]]:
        """Yield the features of all channels."""
        n, kinds, _ = self._mixing.shape
        width = kinds * self._single + kinds * (kinds + 1) // 2 * self._double
        features = self._mixing.new_zeros(n, width)
        for kernel in self._kernels:
            for place, values in kernel.values():
                features[:, place] = values
        result = embedded(features, self._mixing, single=self._single, double=self._double)
        yield slice(0, result.shape[1]), result

    def jacobians(self) -> Iterator[tuple[Columns, Int[Tensor, "k"], Float[Tensor, "N x K R"]]]:
        """Yield for each channel, or pair of channels, its Jacobian."""
        kinds = self._mixing.shape[1]
        start = kinds * self._single  # of the features of pairs of kinds
        numbers = torch.arange(start + kinds * (kinds + 1) // 2 * self._double)
        for kernel in self._kernels:
            # What belongs together: the same features of all kinds, or of all pairs.
            groups: dict[tuple[bool, int], list[tuple[int, Tensor, Tensor, Tensor]]] = {}
            for of_kind, place, change in kernel.jacobians():
                given = numbers[of_kind]
                double = int(given[0]) >= start
                width = self._double if double else self._single
                given = given - start if double else given
                within = given % width
                key = double, int(within[0])
                groups.setdefault(key, []).append((int(given[0]) // width, within, place, change))
            for (double, _), members in groups.items():
                weights = pair_mixing(self._mixing) if double else self._mixing.transpose(1, 2)
                weights = weights[:, :, [number for number, *_ in members]]
                _, within, place, change = members[0]
                together = torch.stack([change for *_, change in members], 1).flatten(2)
                mixed = (weights @ together).unflatten(2, change.shape[1:])
                first = self._mixing.shape[2] * self._single if double else 0
                width = self._double if double else self._single
                for channel, change in enumerate(mixed.unbind(1)):
                    yield columns(within + first + channel * width), place, change


class Elements(Kernel):
    """The channels of the atom itself, which no position changes: they give the composition."""

    def __init__(self, pairs: Pairs, at: slice) -> None:
        self._pairs, self._at = pairs, at

    def values(self) -> Iterator[tuple[Columns, Float[Tensor, "N K"]]]:
        """Yield the channels of the atom of each row, zero where there is none."""
        assert self._pairs.mixing is not None
        kind = self._pairs.row_kind
        own = self._pairs.mixing[torch.arange(len(kind), device=kind.device), kind.clamp(min=0)]
        yield self._at, own * (kind >= 0)[:, None]

    def jacobians(self) -> Iterator[tuple[Columns, Int[Tensor, "k"], Float[Tensor, "N x K R"]]]:
        """Yield nothing: all derivatives are zero."""
        return iter(())
