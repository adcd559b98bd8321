"""Values of symmetry functions and the product of their Jacobian with a vector, in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.parallel import map_threads
from whorl.representations.acsf.functions import Environment
from whorl.representations.acsf.groups import AngularGroup, SymmetryFunctions
from whorl.representations.parts import Part, pair_numbers

CHUNK = 1_000_000
"""Numbers that one array may hold: small enough for the processor's caches."""


class PartFeatures:
    """Features of the atoms of a part, and what their derivatives need again."""

    def __init__(self, part: Part, functions: SymmetryFunctions) -> None:
        self.part, self.functions = part, functions

    @cached_property
    def r(self) -> Float[Tensor, "H"]:
        """Distance of each undirected pair."""
        return self.part.vectors[self.part.directions[:, 0]].norm(dim=-1)

    @property
    def group(self) -> Int[Tensor, "P"]:
        """Number of each pair's sum: its centre and the species of the neighbour."""
        return self.part.centre * self.part.n_species + self.part.species

    def value(self) -> Float[Tensor, "n f"]:
        """Return the features of the atoms."""
        part, functions = self.part, self.functions
        n, r = len(part.counts), self.r
        sizes = (
            torch.bincount(self.group, minlength=n * part.n_species) if part.n_species > 1 else part.counts
        )
        radial = torch.nn.functional.embedding_bag(
            part.undirected,
            functions.radial.value(r),
            torch.cumsum(sizes, 0) - sizes,
            mode="sum",
            per_sample_weights=functions.cutoff(r)[part.undirected],
        )
        radial = radial.reshape(n, -1)
        if not functions.angular:
            return radial
        n_pairs, n_angular = len(functions.species_pairs), functions.n_angular
        angular = r.new_zeros(n, n_pairs, n_angular)
        for centres, _, every in self.environments:
            env, present = every.of_present()
            pairs = pair_numbers(part.n_species, r.device)[present][:, present]
            pairs = pairs[tuple(torch.triu_indices(len(present), len(present), device=r.device))]
            j, k = torch.triu_indices(env.r.shape[1], env.r.shape[1], 1, device=r.device)
            of_groups = []
            for group in functions.angular:
                columns = max(len(group.kernel.powers), len(group.kernel.etas) * len(pairs))
                step = max(1, 4 * CHUNK // (len(centres) * columns))
                total = group.kernel.value(env, j[:step], k[:step])
                for start in range(step, len(j), step):
                    total += group.kernel.value(env, j[start : start + step], k[start : start + step])
                total = total.flatten(1, 2)  # every (ζ, λ) with every η; most often in the order asked for
                wanted = group.power * len(group.kernel.etas) + group.eta
                if not torch.equal(wanted, torch.arange(total.shape[1])):
                    total = total.index_select(1, wanted.to(total.device))
                of_groups.append(total)
            together = torch.cat(of_groups, 1)
            columns_of = torch.cat([group.columns for group in functions.angular])
            if not torch.equal(columns_of, torch.arange(n_angular)):
                together = together.index_select(1, torch.argsort(columns_of).to(together.device))
            angular[centres[:, None], pairs] = together.transpose(1, 2)
        return torch.cat([radial, angular.flatten(1)], 1)

    def vjp(self, g: Float[Tensor, "n f"]) -> Float[Tensor, "P 3"]:
        """Return the derivative of Σ g G in the vectors of the pairs."""
        part, functions = self.part, self.functions
        n, r = len(part.counts), self.r
        of_radial, of_angular = g.split([functions.n_radial, g.shape[1] - functions.n_radial], 1)
        slope = functions.radial.slope(r, functions.cutoff(r), functions.cutoff.derivative(r))
        of_groups = of_radial.reshape(n * part.n_species, functions.radial.size)
        # One direction stands for both, since v_ji = -v_ij: it gets the whole derivative.
        forward, backward = part.directions.unbind(1)
        both = of_groups[self.group[forward]] + of_groups[self.group[backward]]
        gradient = torch.zeros_like(part.vectors)
        unit = part.vectors[forward] / r.clamp(min=1e-12)[:, None]
        gradient[forward] = (both * slope).sum(1)[:, None] * unit
        if not functions.angular:
            return gradient
        s, t = torch.tensor(functions.species_pairs, device=g.device).unbind(1)
        of_angular = of_angular.unflatten(1, (len(s), -1))
        for centres, index, env in self.environments:
            result = torch.zeros_like(env.unit)
            for group in functions.angular:
                shape = (part.n_species, part.n_species, len(group.kernel.powers), len(group.kernel.etas))
                spread = g.new_zeros(len(centres), *shape)
                weights = of_angular[centres][:, :, group.columns]
                spread[:, s[:, None], t[:, None], group.power, group.eta] = weights
                spread[:, t[:, None], s[:, None], group.power, group.eta] = weights
                for rows in self._rows(env, group):
                    result[:, rows] += group.kernel.vjp(env, rows, spread)
            gradient[index[env.mask]] += result[env.mask]
        return gradient

    @cached_property
    def environments(self) -> list[tuple[Tensor, Tensor, Environment]]:
        """Return some centres (N,), their pairs (N, M), and what the angular functions need of them.

        Centres with about equally many neighbours go together, so that little is padded.
        """
        part, functions = self.part, self.functions
        found = []
        counts = part.counts
        starts = torch.cumsum(counts, 0) - counts
        order = torch.argsort(counts, stable=True)
        sizes = counts[order].tolist()
        width = max(len(group.kernel.powers) for group in functions.angular) if functions.angular else 1
        begin = bisect_right(sizes, 0)  # a centre without neighbours has nothing to compute
        while begin < len(sizes):
            end = begin + 1
            while end < len(sizes) and (end + 1 - begin) * sizes[end] ** 2 * width <= 2 * CHUNK:
                end += 1
            centres = order[begin:end]
            within = torch.arange(sizes[end - 1], device=centres.device)
            index = starts[centres][:, None] + within
            mask = within < counts[centres][:, None]
            if sizes[begin] < sizes[end - 1]:
                index = torch.where(mask, index, 0)
            env = Environment.of(
                part.vectors[index], mask, part.species[index], part.n_species, functions.cutoff
            )
            found.append((centres, index, env))
            begin = end
        return found

    def _rows(self, env: Environment, group: AngularGroup) -> list[slice]:
        """Cut the neighbours j of some centres so that each matrix stays within bounds."""
        n, m = env.r.shape
        step = max(1, 8 * CHUNK // (n * m * len(group.kernel.powers)))
        return [slice(start, min(m, start + step)) for start in range(0, m, step)]


class AtomicFeatures(torch.autograd.Function):
    """Features of all atoms from the pair vectors; both directions work in chunks of bounded memory."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, parts: list[Part], functions: SymmetryFunctions
    ) -> Float[Tensor, "A f"]:
        """Return the features of the atoms of all parts, whose vectors these are."""
        ctx.parts = [PartFeatures(part, functions) for part in parts]
        none = vectors.new_zeros(0, len(functions))
        return torch.cat([none, *map_threads(PartFeatures.value, ctx.parts)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        """Return the derivative in the pair vectors."""
        (gradient,) = outputs
        of_parts = map_threads(lambda piece: piece.vjp(gradient[piece.part.rows]), ctx.parts)
        none = gradient.new_zeros(0, 3)
        return torch.cat([none, *of_parts]), None, None
