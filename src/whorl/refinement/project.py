r"""Projection onto a property value: the nearest structure for which a surrogate predicts it.

For properties :math:`f_j` with the gradients :math:`g_j` in the atoms (and in a strain, times the cube root
of the volume, where the cell is free), the shortest step that would bring linear functions into their ranges
is

.. math:: d = G^\top (G G^\top + \epsilon)^{-1} c, \qquad c_j = \mathrm{clamp}(f_j, l_j, h_j) - f_j

It is repeated, no atom moving more than a trust radius, which shrinks where a step brings the properties no
nearer and grows where it does. Within the level set, atoms move so that the surrogate's uncertainty falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated

import torch
from ase.data import covalent_radii
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.samples import Reference, Samples
from whorl.potentials.quantity import Quantity, quantity_named
from whorl.refinement.base import NEAREST, REACHED, RefinementContext, Refiner, refine_in_chunks
from whorl.refinement.settings import RefinerSettings
from whorl.settings import Count, Fraction, NonNegative, Positive, Share
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.connectivity import count_pieces, join_pieces
from whorl.structures.frozen import frozen_atoms_of
from whorl.structures.neighbors import neighbor_list
from whorl.surrogates.additive import AdditiveSurrogate
from whorl.surrogates.base import StructureSurrogate
from whorl.surrogates.selection import hit_probability
from whorl.surrogates.settings import SurrogateSettings

_AT_ONCE = 50  # structures
_SMALLEST_RADIUS = 1e-4  # Å; below it nothing is reached any more
_DAMPING = 1e-6  # of the squared gradient, relative
_WHOLE = 0.98  # share of training structures in one piece above which others must be too


@dataclass(frozen=True, kw_only=True)
class Requested:
    """A range of one property that structures are to have.

    Attributes:
        surrogate: Predicts it from structures, with gradients.
        lower: Lowest value of each structure, shape (B,); −∞ for none. With ``upper`` the same: a value.
        upper: Highest value.
        tolerance: Difference that still counts as a hit.
    """

    surrogate: StructureSurrogate
    lower: Float[Tensor, "B"]
    upper: Float[Tensor, "B"]
    tolerance: float

    @classmethod
    def value(cls, surrogate: StructureSurrogate, targets: Float[Tensor, "B"], tolerance: float) -> Requested:
        """Return the request of one value for each structure."""
        return cls(surrogate=surrogate, lower=targets, upper=targets, tolerance=tolerance)

    def __getitem__(self, rows: Tensor) -> Requested:
        """Return the request for some structures."""
        return Requested(
            surrogate=self.surrogate, lower=self.lower[rows], upper=self.upper[rows], tolerance=self.tolerance
        )

    def change(self, values: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return what is to be added to each value."""
        return values.clamp(self.lower, self.upper) - values

    def confidence(self, mean: Float[Tensor, "B"], uncertainty: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return the probability of a hit, 1 where the uncertainty is not known (NaN)."""
        lower, upper = self.lower - self.tolerance, self.upper + self.tolerance
        return hit_probability(mean, uncertainty, lower=lower, upper=upper).nan_to_num(1.0)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Structures moved onto the values asked for.

    Attributes:
        structures: The moved ones; where the values were not reached, the nearest to them.
        values: Predicted properties, shape (B, J).
        uncertainties: Theirs; NaN of surrogates without.
        confidence: Probability that all are hits.
        reached: Whether the surrogates predict the values.
    """

    structures: StructureBatch
    values: Float[Tensor, "B J"]
    uncertainties: Float[Tensor, "B J"]
    confidence: Float[Tensor, "B"]
    reached: Bool[Tensor, "B"]


def project(
    structures: StructureBatch,
    requested: Sequence[Requested],
    *,
    steps: int = 60,
    max_step: float = 0.1,
    closeness: float = 0.02,
    caution: float = 0.0,
    min_distance: float | None = None,
    free_cell: bool = False,
) -> Projection:
    """Move each structure onto the values asked for, by the shortest way; frozen atoms stay.

    What becomes of a structure does not depend on the others, but for rounding.

    Args:
        structures: Where to start.
        requested: The properties; for more than one, all of them together.
        steps: Most evaluations of the surrogates.
        max_step: Farthest that an atom moves in a step, in Å.
        closeness: Share of the tolerance within which a value is reached.
        caution: Weight of steps along the level set to where the surrogate is surer.
        min_distance: Shortest distance allowed, in sums of covalent radii; a structure that has shorter ones
            may not shorten them. None for no bound.
        free_cell: Move the lattice vectors too, where a structure is periodic along all three and no atom is
            frozen.

    Raises:
        InputError: Nothing asked for, or elements that a surrogate does not know.
    """
    if not requested:
        raise InputError("project: got no property, expected at least one value or range asked for.")
    structures = structures.to(dtype=torch.float64)
    parts = []
    for rows in torch.arange(len(structures)).split(_AT_ONCE) or (torch.arange(0),):
        walk = _Walk(
            structures[rows],
            [item[rows] for item in requested],
            max_step=max_step,
            caution=caution,
            min_distance=min_distance,
            free_cell=free_cell,
        )
        parts.append(walk.run(steps, closeness))
    return Projection(
        structures=StructureBatch.concatenate([part.structures for part in parts]),
        values=torch.cat([part.values for part in parts]),
        uncertainties=torch.cat([part.uncertainties for part in parts]),
        confidence=torch.cat([part.confidence for part in parts]),
        reached=torch.cat([part.reached for part in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class _State:
    """Atoms of b structures, padded to the n of the largest, and what is predicted of them.

    Changes and derivatives are in tolerances (per Å); rows of derivatives beyond n are those of a strain.
    """

    positions: Float[Tensor, "b n 3"]
    cells: Float[Tensor, "b 3 3"]
    values: Float[Tensor, "b J"]
    uncertainties: Float[Tensor, "b J"]
    changes: Float[Tensor, "b J"]
    gradients: Float[Tensor, "b J m 3"]
    doubts: Float[Tensor, "b J m 3"]  # derivatives of the uncertainties

    def __getitem__(self, rows: Tensor) -> _State:
        return _State(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: Tensor, other: _State) -> None:
        """Take rows from another state, in place."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    @property
    def off(self) -> Float[Tensor, "b"]:
        """How far the farthest property is from its range, in tolerances."""
        return self.changes.abs().amax(1)


class _Walk:
    """Steps of some structures, each by itself."""

    def __init__(
        self,
        structures: StructureBatch,
        requested: Sequence[Requested],
        *,
        max_step: float,
        caution: float,
        min_distance: float | None,
        free_cell: bool,
    ) -> None:
        self.structures, self.requested = structures, requested
        self.tolerances = torch.tensor([item.tolerance for item in requested], dtype=torch.float64)
        self.max_step, self.caution, self.min_distance = max_step, caution, min_distance
        self.n = max(structures.n_atoms.tolist(), default=0)
        self.frozen = torch.zeros(len(structures), self.n, dtype=torch.bool)
        self.frozen[structures.structure_index, structures.position_in_structure] = frozen_atoms_of(
            structures
        )
        self.free = structures.pbc.all(1) & free_cell & ~self.frozen.any(1)
        self.lengths = volumes(structures.cells).clamp(min=1e-12) ** (1 / 3)
        self.bound = self._shortest(structures) - 1e-9

    def run(self, steps: int, closeness: float) -> Projection:
        every = torch.arange(len(self.structures))
        padded = self.structures.positions.new_zeros(len(every), self.n, 3)
        padded[self.structures.structure_index, self.structures.position_in_structure] = (
            self.structures.positions
        )
        best = self._evaluate(padded, self.structures.cells.clone(), every)
        radius = padded.new_full((len(every),), self.max_step)
        for _ in range(steps):
            active = every[(best.off > closeness) & (radius > _SMALLEST_RADIUS)]
            if not len(active):
                break
            before = best[active]
            after = self._evaluate(*self._moved(before, active, radius[active]), active)
            nearer = after.off < before.off
            best.put(active[nearer], after[nearer])
            radius[active] = torch.where(
                nearer, (2 * radius[active]).clamp(max=self.max_step), radius[active] / 4
            )
        columns = zip(self.requested, best.values.T, best.uncertainties.T, strict=True)
        shares = [item.confidence(value, uncertainty) for item, value, uncertainty in columns]
        return Projection(
            structures=self._batch(best.positions, best.cells, every),
            values=best.values,
            uncertainties=best.uncertainties,
            # Errors of several properties may go together: no product is taken.
            confidence=torch.stack(shares).amin(0),
            reached=best.off <= closeness,
        )

    def _batch(self, positions: Tensor, cells: Tensor, rows: Tensor) -> StructureBatch:
        structures = self.structures[rows]
        flat = positions[structures.structure_index, structures.position_in_structure]
        return structures.replace(positions=flat, cells=cells)

    def _evaluate(self, positions: Tensor, cells: Tensor, rows: Tensor) -> _State:
        structures = self._batch(positions, cells, rows)
        index, place = structures.structure_index, structures.position_in_structure
        free, lengths = self.free[rows, None, None], self.lengths[rows, None, None]

        def padded(of_atoms: Tensor | None, of_strain: Tensor | None) -> Tensor:
            result = positions.new_zeros(len(rows), self.n + 3, 3)
            if of_atoms is not None and of_strain is not None:
                result[index, place] = of_atoms.masked_fill(self.frozen[rows][index, place, None], 0.0)
                result[:, self.n :] = torch.where(free, 0.5 * (of_strain + of_strain.mT) / lengths, 0.0)
            return result

        predictions = [item.surrogate.predict(structures, gradients=True) for item in self.requested]
        values = torch.stack([predicted.mean for predicted in predictions], 1)
        changes = [item[rows].change(value) for item, value in zip(self.requested, values.T, strict=True)]
        return _State(
            positions=positions,
            cells=cells,
            values=values,
            uncertainties=torch.stack(
                [
                    torch.full_like(p.mean, math.nan) if p.uncertainty is None else p.uncertainty
                    for p in predictions
                ],
                1,
            ),
            changes=torch.stack(changes, 1) / self.tolerances,
            gradients=torch.stack([padded(p.gradient, p.strain_gradient) for p in predictions], 1)
            / self.tolerances[:, None, None],
            doubts=torch.stack(
                [padded(p.uncertainty_gradient, p.uncertainty_strain_gradient) for p in predictions], 1
            )
            / self.tolerances[:, None, None],
        )

    def _moved(self, state: _State, rows: Tensor, radius: Float[Tensor, "b"]) -> tuple[Tensor, Tensor]:
        """Return positions and cells after one step within the trust radius."""
        step = self._step(state)
        longest = step.norm(dim=2).amax(1)
        step = step * (radius / longest.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
        moved = self._displaced(state, step, rows)
        for factor in (0.5, 0.25, 0.0) if self.min_distance is not None else ():
            crowded = self._shortest(self._batch(*moved, rows)) < self.bound[rows]
            if not bool(crowded.any()):
                break
            moved = self._displaced(state, torch.where(crowded[:, None, None], factor * step, step), rows)
        return moved

    def _step(self, state: _State) -> Float[Tensor, "b m 3"]:
        gradients = (state.gradients * (state.changes != 0)[:, :, None, None]).flatten(2)
        products = gradients @ gradients.mT
        damping = _DAMPING * products.diagonal(dim1=1, dim2=2).amax(1) + 1e-12
        eye = torch.eye(products.shape[1], dtype=products.dtype)
        inverse = torch.linalg.inv(products + damping[:, None, None] * eye)
        step = torch.einsum("bjx,bjk,bk->bx", gradients, inverse, state.changes)
        if self.caution > 0:
            uncertain = (state.uncertainties / self.tolerances).nan_to_num()
            downhill = -torch.einsum("bj,bjx->bx", uncertain, state.doubts.flatten(2))
            across = torch.einsum("bjx,bjk,bky,by->bx", gradients, inverse, gradients, downhill)
            step = step + self.caution * (downhill - across)
        return step.unflatten(1, (-1, 3))

    def _displaced(self, state: _State, step: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        strains = step[:, self.n :] / self.lengths[rows, None, None]
        return (
            state.positions + state.positions @ strains + step[:, : self.n],
            state.cells + state.cells @ strains,
        )

    def _shortest(self, structures: StructureBatch) -> Float[Tensor, "b"]:
        """Return the shortest distance of each structure, in sums of covalent radii; at most the bound."""
        bound = self.min_distance or 0.0
        shortest = structures.cells.new_full((len(structures),), bound)
        if not bound:
            return shortest
        radii = torch.as_tensor(covalent_radii)[structures.atomic_numbers]
        pairs = neighbor_list(structures, cutoff=2 * bound * max(radii.tolist(), default=1.0))
        shares = pairs.vectors(structures).norm(dim=1) / (radii[pairs.first] + radii[pairs.second])
        return shortest.scatter_reduce(0, structures.structure_index[pairs.first], shares, "amin")


class Project(Refiner):
    """Moves structures to the target value by a surrogate that is a sum over atoms.

    The surrogate is that of the context, or one fitted to the training rows of its reference. A structure is
    ``reached``; ``uncertain``, with the probability that the energy method confirms the value within the
    tolerance; ``fragments``, where it is in pieces although it was not, or although no training structure is;
    or it comes back as it was: ``unreached``, with the nearest value that it got to, or ``failed``.
    """

    kind = "project"

    class Settings(RefinerSettings):
        """Settings of the projection."""

        surrogate: SurrogateSettings = Field(default_factory=AdditiveSurrogate.Settings)
        """Of structures, fitted to the training rows."""
        steps: Count = 60
        """Maximum number of evaluations of the surrogate per structure."""
        max_step: Positive = 0.1
        """Maximum displacement of an atom per step, in Å."""
        closeness: Share = 0.1
        """Fraction of the tolerance within which the predicted value counts as reached."""
        confidence: Fraction = 0.9
        """Minimum probability of a hit; structures below it are marked uncertain."""
        caution: NonNegative = 0.0
        """Weight of steps along the level set that reduce the uncertainty."""
        min_distance: Positive = 0.7
        """Shortest distance allowed, in sums of covalent radii; structures that have shorter ones may not
        shorten them."""
        free_cell: bool = False
        """Optimise the lattice vectors too."""
        whole: bool = False
        """Clusters and molecules must be in one piece; their fragments are moved together first."""
        spare: Annotated[int, Field(ge=0)] = 50
        """Most further samples of each target that a run draws in the place of those that do not reach it, or
        are the same as others."""
        spread: NonNegative = 0.0
        """Mean distance of the structures of a target, in their own features, as a fraction of that of the
        training rows around it. Where a run has less, it draws half as many further samples, and keeps
        structures that are farther apart."""
        tolerance: Positive | None = None
        """Difference that counts as a hit; by default that of the evaluation."""

        def summary(self) -> str:
            """Return the projection in a line of a report."""
            more = (", cells too" if self.free_cell else "") + (", in one piece" if self.whole else "")
            return (
                f"moved onto the value by a surrogate of the atoms ({self.surrogate.kind}){more}; at least "
                f"{self.confidence:.0%} likely a hit"
            )

    settings: Settings

    def refine(self, samples: Samples, context: RefinementContext) -> Samples:
        """Return samples with projected structures; see the base class.

        Raises:
            InputError: No tolerance, neither a surrogate of structures nor structures to fit one to, or a
                surrogate without uncertainty where ``confidence`` is asked for.
        """
        tolerance = self.settings.tolerance or context.tolerance
        if tolerance is None:
            raise InputError("project: got no tolerance, expected the difference that counts as a hit.")
        surrogate = self._surrogate(context)
        whole = are_whole(context.reference)
        work = partial(_projected, surrogate, self.settings, tolerance, whole)
        key = [self.settings.model_dump(mode="json"), tolerance, whole, surrogate.identity]
        return refine_in_chunks(work, samples, context, key=key)

    def _surrogate(self, context: RefinementContext) -> StructureSurrogate:
        """Return the context's surrogate, or one fitted to the training rows of its reference."""
        if context.surrogate is not None:
            return context.surrogate
        settings, reference = self.settings.surrogate, context.reference
        if not issubclass(settings.method, StructureSurrogate):
            raise InputError(
                f"project: the surrogate {settings.kind} predicts from features, expected one of structures: "
                "additive."
            )
        if reference is None or reference.structures is None:
            raise InputError(
                "project: got neither a surrogate of structures nor labelled structures to fit one to. "
                "Labels without atoms are not enough."
            )
        quantity = context.quantity or Quantity(name=quantity_named(reference.name) or "")
        # Forces are derivatives of an energy, and say nothing of another property.
        forces = reference.forces if quantity.is_energy else None
        stresses, rows = reference.stresses if quantity.is_energy else None, reference.training_rows
        surrogate = settings.method.fit(
            reference.structures[rows],
            reference.training_properties,
            forces=None if forces is None else forces[reference.structures.atoms_of(rows)],
            stresses=None if stresses is None else stresses[rows],
            seed=context.seed,
            progress=context.progress,
            **settings.options(),
        )
        assert isinstance(surrogate, StructureSurrogate)
        return surrogate


def are_whole(reference: Reference | None) -> bool:
    """Whether (nearly) all training structures are in one piece."""
    if reference is None or reference.structures is None or not len(reference.training_rows):
        return False
    pieces = count_pieces(reference.structures[reference.training_rows])
    return float((pieces == 1).double().mean()) >= _WHOLE


def _projected(
    surrogate: StructureSurrogate,
    settings: Project.Settings,
    tolerance: float,
    whole: bool,
    samples: Samples,
) -> Samples:
    """Project the structures of samples; ``whole``: all must be in one piece."""
    before = samples.structures
    assert before is not None
    problems = {row: f"failed: {reason}" for row, reason in surrogate.find_problems(before).items()}
    for row in torch.nonzero(~samples.structure_targets.isfinite()).flatten().tolist():
        problems.setdefault(row, "failed: no value is asked for")
    status = [problems.get(row, "") for row in range(len(before))]
    rows = torch.tensor([row for row in range(len(before)) if row not in problems], dtype=torch.int64)
    start = before[rows]
    if settings.whole:
        of_frozen = torch.zeros(len(start), dtype=torch.bool)
        of_frozen[start.structure_index[frozen_atoms_of(start)]] = True
        joined = join_pieces(start).positions
        stays = of_frozen[start.structure_index, None]
        start = start.replace(positions=torch.where(stays, start.positions, joined))
    made = project(
        start,
        [Requested.value(surrogate, samples.structure_targets[rows].double(), tolerance)],
        steps=settings.steps,
        max_step=settings.max_step,
        closeness=settings.closeness,
        caution=settings.caution,
        min_distance=settings.min_distance,
        free_cell=settings.free_cell,
    )
    if settings.confidence and len(rows) and bool(made.uncertainties.isnan().all()):
        raise InputError(
            f"project: the surrogate {surrogate.kind} gives no uncertainty, so that nothing can be at least "
            f"{settings.confidence:.0%} likely a hit. Do without: confidence: 0."
        )
    broken = (count_pieces(made.structures) > 1) & ((count_pieces(start) == 1) | whole)
    for place, row in enumerate(rows.tolist()):
        if not made.reached[place]:
            status[row] = f"unreached: {NEAREST}{float(made.values[place, 0]):.4g}"
        elif broken[place]:
            status[row] = "fragments"
        elif made.confidence[place] < settings.confidence:
            status[row] = f"uncertain: {float(made.confidence[place]):.0%} likely a hit"
        else:
            status[row] = REACHED
    positions, cells = before.positions.double().clone(), before.cells.double().clone()
    moved = rows[made.reached]
    positions[before.atoms_of(moved)] = made.structures[made.reached].positions
    cells[moved] = made.structures.cells[made.reached]
    return samples.replace(
        structures=before.replace(positions=positions, cells=cells),
        energy_calls=torch.zeros(len(before), dtype=torch.int64),
        refinement=tuple(status),
    )
