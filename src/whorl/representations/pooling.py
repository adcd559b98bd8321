r"""Permutation-invariant pooling of atomic features to features of a structure.

For atoms i = 1 … n of a structure and a feature G:

==================  ==============================================================
``max``, ``min``    :math:`\max_i G_i`, :math:`\min_i G_i` (Fung et al. 2022, eq. 3)
``mean``, ``sum``   :math:`\frac1n \sum_i G_i`, :math:`\sum_i G_i`
``std``             :math:`\sqrt{\frac1n \sum_i (G_i - \bar G)^2}` (population)
``quantile:q``      linear interpolation between order statistics (numpy's default)
==================  ==============================================================

Where several atoms share the extreme value, its derivative is spread evenly over them, which keeps the
gradient of a symmetric structure symmetric. ``std`` has no derivative where all atoms are alike; 0 is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError, unknown_option

# A pool maps values (G, n, F) and a mask of the real atoms (G, n, 1) to (G, F). An empty group may give
# anything finite or infinite in the value, but no NaN in the gradient.
_Pool = Callable[[Tensor, Tensor], Tensor]


def _fill(values: Tensor, mask: Tensor, number: float) -> Tensor:
    return values if bool(mask.all()) else values.masked_fill(~mask, number)


def _max(values: Tensor, mask: Tensor) -> Tensor:
    return _fill(values, mask, -torch.inf).amax(1)


def _min(values: Tensor, mask: Tensor) -> Tensor:
    return _fill(values, mask, torch.inf).amin(1)


def _sum(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return _sum(values, mask) / mask.sum(1).clamp(min=1)


def _std(values: Tensor, mask: Tensor) -> Tensor:
    mean = _mean(values, mask)
    variance = _mean((values - mean[:, None]).square(), mask)
    # Below rounding of the values themselves the deviation is noise, and its square root has no derivative.
    alike = variance <= (mean.square() + 1e-300) * torch.finfo(values.dtype).eps ** 2
    return torch.where(alike, 0.0, torch.sqrt(torch.where(alike, 1.0, variance)))


def _quantile(q: float) -> _Pool:
    def pool(values: Tensor, mask: Tensor) -> Tensor:
        # Padding goes to the end, and stays finite: infinity times a weight of zero would be NaN.
        ordered = _fill(values, mask, torch.finfo(values.dtype).max).sort(1).values
        place = q * (mask.sum(1, keepdim=True) - 1).clamp(min=0).to(values.dtype)  # (G, 1, 1)
        below = ordered.gather(1, place.floor().long().expand(-1, 1, values.shape[2]))
        above = ordered.gather(1, place.ceil().long().expand(-1, 1, values.shape[2]))
        fraction = place - place.floor()
        return (below * (1 - fraction) + above * fraction).squeeze(1)

    return pool


def _weights(name: str, pool: _Pool, values: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
    """Return the derivative of ``pool`` in each value, (G, n, F) or broadcast to it."""
    if name in ("max", "min"):
        extreme = ((values == pooled[:, None]) & mask).to(values.dtype)
        return extreme.div_(extreme.sum(1, keepdim=True).clamp_(min=1.0))
    if name == "sum":
        return mask.to(values.dtype)
    if name == "mean":
        return mask.to(values.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
    if name == "std":
        count = mask.sum(1, keepdim=True).clamp(min=1)
        scale = torch.where(pooled > 0, 1.0 / pooled, 0.0)[:, None] / count
        return (values - _mean(values, mask)[:, None]).mul_(scale).mul_(mask)
    with torch.enable_grad():
        values = values.detach().requires_grad_(True)
        return torch.autograd.grad(pool(values, mask).sum(), values)[0]


_POOLS: dict[str, _Pool] = {"max": _max, "min": _min, "mean": _mean, "std": _std, "sum": _sum}


def _find_pool(name: str) -> _Pool:
    if name in _POOLS:
        return _POOLS[name]
    kind, _, argument = name.partition(":")
    if kind != "quantile":
        raise unknown_option("pooling", name, [*_POOLS, "quantile:0.5"])
    try:
        q = float(argument)
    except ValueError:
        q = -1.0
    if not 0 <= q <= 1:
        raise InputError(f"pooling '{name}': expected quantile:q with q from 0 to 1, such as quantile:0.25.")
    return _quantile(q)


class Pooling:
    """Any combination of pools, in the order given, for all atoms or for each centre species separately.

    Args:
        names: Such as ``("max", "min")`` or ``("mean", "std", "quantile:0.9")``.
        centre_species: Number of species to pool apart, or ``None`` to pool all atoms together. A species
            that a structure does not contain gives zeros.

    Raises:
        InputError: No name, a name twice, or an unknown one.
    """

    def __init__(self, names: Sequence[str], *, centre_species: int | None = None) -> None:
        if not names or len(set(names)) != len(names):
            raise InputError(f"pooling: got {list(names)}, expected one or more different names.")
        self.names = tuple(names)
        self.groups = centre_species or 1
        self.per_species = centre_species is not None
        self._pools = [_find_pool(name) for name in names]
        self.extremes = frozenset(i for i, name in enumerate(names) if name in ("max", "min"))
        """Which weights are of extremes."""

    def __call__(
        self,
        values: Float[Tensor, "A F"],
        structure_index: Int[Tensor, "A"],
        species: Int[Tensor, "A"],
        n_structures: int,
    ) -> Float[Tensor, "B P F"]:
        """Pool: P runs over the names, and within each over the centre species where these are apart."""
        padded, mask, _ = self._pad(values, structure_index, species, n_structures)
        filled = mask.any(1)
        pooled = [torch.where(filled, pool(padded, mask), 0.0) for pool in self._pools]
        return self._arranged(pooled, n_structures)

    @torch.no_grad()
    def with_weights(
        self,
        values: Float[Tensor, "A F"],
        structure_index: Int[Tensor, "A"],
        species: Int[Tensor, "A"],
        n_structures: int,
    ) -> tuple[Float[Tensor, "B P F"], Float[Tensor, "N A F"]]:
        r"""Pool, and return also the derivative in each atom's own value, for each of the N names.

        Where species are pooled apart, an atom counts in the pool of its species alone, so one number per
        name says it.
        """
        padded, mask, place = self._pad(values, structure_index, species, n_structures)
        filled = mask.any(1)
        pooled, weights = [], []
        for name, pool in zip(self.names, self._pools, strict=True):
            result = pool(padded, mask)
            weight = _weights(name, pool, padded, mask, result)
            weight = weight.expand_as(padded).reshape(-1, values.shape[1])
            weights.append(weight if place is None else weight[place])
            pooled.append(torch.where(filled, result, 0.0))
        return self._arranged(pooled, n_structures), torch.stack(weights)

    def _arranged(self, pooled: list[Tensor], n_structures: int) -> Float[Tensor, "B P F"]:
        together = torch.stack(pooled).unflatten(1, (n_structures, self.groups))
        return together.transpose(0, 1).flatten(1, 2)

    def _pad(
        self, values: Tensor, structure_index: Tensor, species: Tensor, n_structures: int
    ) -> tuple[Float[Tensor, "G n F"], Bool[Tensor, "G n 1"], Int[Tensor, "A"] | None]:
        """Return the values by group (a structure, or a species in it), the mask of real atoms, their places.

        The places are None where they are 0, 1, 2 ….
        """
        group = structure_index * self.groups + (species if self.per_species else 0)
        n_groups = n_structures * self.groups
        counts = torch.bincount(group, minlength=n_groups)
        longest = max(int(counts.max()), 1)
        if not self.per_species and longest * n_groups == len(values):  # all of one size: a plain view
            mask = torch.ones(n_groups, longest, 1, dtype=torch.bool, device=values.device)
            return values.reshape(n_groups, longest, -1), mask, None
        order = torch.argsort(group, stable=True)
        rank = torch.empty_like(group)
        rank[order] = (
            torch.arange(len(group), device=group.device) - (torch.cumsum(counts, 0) - counts)[group[order]]
        )
        place = group * longest + rank
        mask = torch.zeros(n_groups * longest, 1, dtype=torch.bool, device=values.device)
        mask[place] = True
        padded = values.new_zeros(n_groups * longest, values.shape[1]).index_copy(0, place, values)
        return padded.reshape(n_groups, longest, -1), mask.reshape(n_groups, longest, 1), place


class WeightedPooling(Pooling):
    """Pools of all atoms, where species are apart once for each channel of their elements, times it.

    Args:
        names: As of :class:`Pooling`.
        centre_species: Number of channels K, or ``None`` to pool all atoms once.
    """

    def __init__(self, names: Sequence[str], *, centre_species: int | None = None) -> None:
        super().__init__(names)
        self._weighted = centre_species is not None
        if self._weighted:
            self.extremes = frozenset()

    def __call__(
        self,
        values: Float[Tensor, "A F"],
        structure_index: Int[Tensor, "A"],
        species: Float[Tensor, "A K"],
        n_structures: int,
    ) -> Float[Tensor, "B P F"]:
        """Pool: P runs over the names, and within each over the channels (``species``, of the atoms)."""
        none = structure_index.new_zeros(len(structure_index))
        if not self._weighted:
            return super().__call__(values, structure_index, none, n_structures)
        weighted = (species[:, :, None] * values[:, None]).flatten(1)
        pooled = super().__call__(weighted, structure_index, none, n_structures)
        return pooled.unflatten(2, (species.shape[1], -1)).flatten(1, 2)

    @torch.no_grad()
    def with_weights(
        self,
        values: Float[Tensor, "A F"],
        structure_index: Int[Tensor, "A"],
        species: Float[Tensor, "A K"],
        n_structures: int,
    ) -> tuple[Float[Tensor, "B P F"], Float[Tensor, "N A F"]]:
        """Pool, and return also the derivative in each atom's own value, for each of the P pools."""
        none = structure_index.new_zeros(len(structure_index))
        if not self._weighted:
            return super().with_weights(values, structure_index, none, n_structures)
        channels = species.shape[1]
        weighted = (species[:, :, None] * values[:, None]).flatten(1)
        pooled, weights = super().with_weights(weighted, structure_index, none, n_structures)
        weights = weights.unflatten(2, (channels, -1)) * species[:, :, None]
        return pooled.unflatten(2, (channels, -1)).flatten(1, 2), weights.transpose(1, 2).flatten(0, 1)
