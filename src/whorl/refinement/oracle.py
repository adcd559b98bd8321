r"""Adjustment of structures to a property value by a few calls of the energy method.

With the property's gradient g (from the forces, where it is an energy), the shortest step that would bring a
linear function to the value is

.. math:: d = (y^* - y)\, g / |g|^2,

no atom moving more than a trust radius. A call checks where it leads; from what is no nearer, the walk goes
back, and a shorter step is interpolated. Atoms that it would bring too near to another are held, and the
others go farther; a step that would break a structure into pieces is shortened. An energy method without
forces, or a property that is no energy, is followed along the gradient of a surrogate, whose length is
corrected by each call (a secant).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
from ase.data import covalent_radii
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.samples import Computed, Samples
from whorl.potentials.base import Potential
from whorl.potentials.quantity import Quantity
from whorl.potentials.settings import CalculatorSettings
from whorl.refinement.base import NEAREST, REACHED, RefinementContext, Refiner, refine_in_chunks
from whorl.refinement.settings import RefinerSettings
from whorl.settings import Count, Positive, Share
from whorl.structures.batch import StructureBatch
from whorl.structures.connectivity import count_pieces
from whorl.structures.frozen import frozen_atoms_of
from whorl.structures.neighbors import NeighborList, neighbor_list
from whorl.surrogates.base import StructureSurrogate

_SHORTENED = (0.1, 0.5)  # of a step that led no nearer: at least and at most so much is tried next
_CORRECTED = (0.1, 10.0)  # limits of the correction of a surrogate's gradient
_SHORTER = (0.5, 0.5, 0.0)  # of a step after which a structure would be in more pieces
_HELD = 4  # times that atoms are held which a step would bring too near to another


class Oracle(Refiner):
    """Moves structures to the target value by a few calls of the energy method.

    The status is ``reached`` within the tolerance, or ``not reached`` with the nearest value. What comes back
    is the nearest structure that was computed, so that its value is known; all that were computed are kept as
    labels.
    """

    kind = "oracle"

    class Settings(RefinerSettings):
        """Settings of the walk."""

        needs_potential = True
        needs_quantity = True

        calculator: CalculatorSettings | None = None
        """The energy method: a name, or {name: …, options: {…}}; by default that of the recipe."""
        calls: Count = 8
        """Maximum number of energy calls per structure, including the final check."""
        margin: Share = 0.5
        """Stop if the difference from the target is below this fraction of the tolerance."""
        max_step: Positive = 0.25
        """Maximum displacement of an atom between two calls, in Å."""
        min_distance: Positive = 0.7
        """Shortest distance allowed, in sums of covalent radii; structures that have shorter ones may not
        shorten them."""
        spare: Annotated[int, Field(ge=0)] = 0
        """Most further samples of each target that a run draws in the place of those that do not reach it, or
        are the same as others; each is reconstructed, refined likewise before, and walks too."""

        def summary(self) -> str:
            """Return the walk in a line of a report."""
            method = f" of {self.calculator.name}" if self.calculator else ""
            return f"at most {self.calls} energy calls{method} for each structure, along the forces"

    settings: Settings

    def refine(self, samples: Samples, context: RefinementContext) -> Samples:
        """Walk with each structure; see the base class.

        Raises:
            InputError: No energy method, tolerance or quantity, or a target that is not known.
        """
        own = self.settings
        potential = own.calculator.potential() if own.calculator is not None else context.potential
        if potential is None:
            raise InputError("refine: oracle needs an energy method. Name one: calculator (--calculator).")
        if context.quantity is None:
            raise InputError(
                f"refine: {potential.name} computes nothing that is compared with the property, so there is "
                "no value to walk to. Say which of its quantities it is: evaluate.quantity."
            )
        if context.tolerance is None:
            raise InputError("refine: oracle needs a tolerance: the difference that counts as a hit.")
        if samples.structures is not None and not bool(samples.structure_targets.isfinite().all()):
            raise InputError("refine: oracle needs a value to reach for each structure. Give one: --target.")
        surrogate = context.surrogate
        work = partial(_walked, potential, context.quantity, surrogate, own, context.tolerance)
        method = [potential.name, dataclasses.asdict(context.quantity), surrogate and surrogate.identity]
        return refine_in_chunks(
            work, samples, context, key=[self.kind, method, own.options(), context.tolerance]
        )


@dataclass
class _Walks:
    """Where the walks of B structures stand; ``positions`` are those to compute next."""

    positions: Float[Tensor, "A 3"]
    best: Float[Tensor, "A 3"]
    gradient: Float[Tensor, "A 3"]  # of the property, at the best
    error: Float[Tensor, "B"]  # requested less computed, at the best; infinite before the first call
    tried: Float[Tensor, "B"]  # longest way of an atom in the last step, in Å
    expected: Float[Tensor, "B"]  # change of the property that the gradient foresaw for the last step
    correction: Float[Tensor, "B"]  # of the length of a surrogate's gradient
    walking: Bool[Tensor, "B"]
    frozen: Bool[Tensor, "A"]
    calls: Int[Tensor, "B"]
    failures: dict[int, str] = field(default_factory=dict)


def _walked(
    potential: Potential,
    quantity: Quantity,
    surrogate: StructureSurrogate | None,
    settings: Oracle.Settings,
    tolerance: float,
    samples: Samples,
) -> Samples:
    assert samples.structures is not None
    start, targets = samples.structures, samples.structure_targets.double()
    count = len(start)
    bound = _closest(start, settings.min_distance) - 1e-9
    pieces = count_pieces(_finite(start))
    walks = _Walks(
        positions=start.positions.clone(),
        best=start.positions.clone(),
        gradient=torch.zeros_like(start.positions),
        error=torch.full((count,), torch.inf, dtype=torch.float64),
        tried=torch.zeros(count, dtype=torch.float64),
        expected=torch.zeros(count, dtype=torch.float64),
        correction=torch.ones(count, dtype=torch.float64),
        walking=torch.ones(count, dtype=torch.bool),
        frozen=frozen_atoms_of(start),
        calls=torch.zeros(count, dtype=torch.int64),
    )
    computed: list[Computed] = []
    for call in range(settings.calls):
        rows = torch.nonzero(walks.walking).flatten()
        if not len(rows):
            break
        computed.append(_call(walks, start, rows, targets, potential, quantity, surrogate))
        walks.walking &= walks.error.abs() > settings.margin * tolerance
        if call + 1 < settings.calls:
            _step(walks, start, settings, bound, pieces)
    status = []
    for b, error in enumerate(walks.error.tolist()):
        if abs(error) <= tolerance:
            status.append(REACHED)
        elif b in walks.failures:
            status.append(f"failed: {walks.failures[b]}")
        else:
            status.append(f"not reached: {NEAREST}{float(targets[b]) - error:.4g}")
    return samples.replace(
        structures=start.replace(positions=walks.best),
        energy_calls=walks.calls,
        refinement=tuple(status),
        computed=Computed.concatenate(computed),
    )


def _call(
    walks: _Walks,
    start: StructureBatch,
    rows: Tensor,
    targets: Tensor,
    potential: Potential,
    quantity: Quantity,
    surrogate: StructureSurrogate | None,
) -> Computed:
    """Compute structures where they stand, and take what is nearer."""
    atoms = torch.isin(start.structure_index, rows)
    here = start.replace(positions=walks.positions, info=())[rows]
    output = quantity.compute(potential, here)
    values, gradient = quantity.values(output, here), quantity.gradient(output, here)
    walks.calls[rows] += 1
    error = targets[rows] - values
    first = walks.error[rows].isinf()
    nearer = error.abs() < walks.error[rows].abs()  # not where the value is NaN
    lacking = _per_structure(gradient.isnan().any(1), here).bool() & values.isfinite()
    if surrogate is not None and bool(lacking.any()):
        problems = surrogate.find_problems(here)
        followed = torch.tensor([b for b in torch.nonzero(lacking).flatten().tolist() if b not in problems])
        followed = followed.long()
        predicted = surrogate.predict(here[followed], gradients=True).gradient
        assert predicted is not None
        gradient[here.atoms_of(followed)] = predicted
        lacking[followed] = False
        slope = (walks.error[rows] - error) / walks.expected[rows]
        moved = followed[(slope.isfinite() & ~first)[followed]]
        walks.correction[rows[moved]] = (walks.correction[rows[moved]] * slope[moved]).clamp(*_CORRECTED)
    # A shorter step: where the line between the last two values meets the one requested.
    share = (walks.error[rows] / (walks.error[rows] - error)).nan_to_num(nan=0.5).clamp(*_SHORTENED)
    walks.tried[rows] = torch.where(nearer, torch.inf, share * walks.tried[rows])
    taken = torch.zeros(len(start), dtype=torch.bool)
    taken[rows[nearer]] = True
    of_taken = taken[start.structure_index]
    walks.best[of_taken] = walks.positions[of_taken]
    walks.gradient[of_taken] = gradient[of_taken[atoms]].masked_fill(walks.frozen[of_taken, None], 0.0)
    walks.error[rows] = torch.where(nearer, error, walks.error[rows])
    for k in torch.nonzero(first & ~values.isfinite()).flatten().tolist():
        b = int(rows[k])
        walks.failures[b] = output.failures.get(k, "it has no value: the energy of an element is not known.")
        walks.walking[b] = False
    for b in rows[lacking].tolist():
        walks.failures[b] = (
            f"{potential.name} gives no forces of this property, and there is no surrogate of structures to "
            "follow."
        )
        walks.walking[b] = False
    good = torch.nonzero(values.isfinite()).flatten()
    kept = torch.isin(here.structure_index, good)
    return Computed(
        structures=here[good],
        rows=rows[good],
        values=values[good],
        energies=output.energy.double()[good],
        forces=output.forces.double()[kept],
    )


def _step(
    walks: _Walks, start: StructureBatch, settings: Oracle.Settings, bound: Tensor, pieces: Tensor
) -> None:
    """Set the positions to compute next."""
    owner = start.structure_index
    limit = walks.tried.clamp(max=settings.max_step)
    gradient = walks.gradient * walks.correction[owner, None]
    free = torch.ones(len(owner), dtype=torch.float64)
    for _ in range(_HELD):
        held = gradient * free[:, None]
        squares = _per_structure(held.square().sum(1), start)
        scale = torch.where(squares > 0, walks.error / squares.clamp(min=1e-30), 0.0).nan_to_num(posinf=0.0)
        step = held * scale[owner, None]
        longest = torch.zeros_like(walks.error).scatter_reduce(0, owner, step.norm(dim=1), "amax")
        share = (limit / longest.clamp(min=1e-12)).clamp(max=1.0)
        moved = start.replace(positions=walks.best + step * share[owner, None])
        crowded = _crowded(moved, settings.min_distance, bound)
        if not bool(crowded.any()):
            break
        free = torch.where(crowded, 0.0, free)
    else:  # atoms that stay are still run into: the whole structure stays
        share = torch.where(_per_structure(crowded, start) > 0, 0.0, share)
    for factor in _SHORTER:
        moved = start.replace(positions=walks.best + step * share[owner, None])
        share = torch.where(count_pieces(_finite(moved)) > pieces, factor * share, share)
    walks.positions = walks.best + step * share[owner, None]
    walks.tried = longest * share
    walks.expected = walks.error * share
    walks.walking &= walks.tried > 0


def _per_structure(values: Tensor, structures: StructureBatch) -> Float[Tensor, "B"]:
    values = values.double()
    return values.new_zeros(len(structures)).index_add(0, structures.structure_index, values)


def _finite(structures: StructureBatch) -> StructureBatch:
    finite = structures.positions.isfinite().all(1)
    return structures.replace(positions=torch.where(finite[:, None], structures.positions, 0.0))


def _contacts(structures: StructureBatch, reach: float) -> tuple[NeighborList, Tensor]:
    """Return pairs of atoms, and their distances in sums of covalent radii, complete up to ``reach``."""
    radii, sound = torch.as_tensor(covalent_radii)[structures.atomic_numbers], _finite(structures)
    pairs = neighbor_list(sound, cutoff=2 * reach * max(radii.tolist(), default=1.0))
    return pairs, pairs.vectors(sound).norm(dim=1).double() / (radii[pairs.first] + radii[pairs.second])


def _closest(structures: StructureBatch, reach: float) -> Float[Tensor, "B"]:
    """Return the shortest distance of each structure, in sums of covalent radii; at most ``reach``."""
    pairs, distance = _contacts(structures, reach)
    shortest = torch.full((len(structures),), reach, dtype=torch.float64)
    return shortest.scatter_reduce(0, structures.structure_index[pairs.first], distance, "amin")


def _crowded(structures: StructureBatch, reach: float, bound: Float[Tensor, "B"]) -> Bool[Tensor, "A"]:
    """Return which atoms have another one nearer than the bound of their structure."""
    pairs, distance = _contacts(structures, reach)
    crowded = torch.zeros(len(structures.positions), dtype=torch.bool)
    crowded[pairs.first[distance < bound[structures.structure_index[pairs.first]]]] = True
    return crowded
