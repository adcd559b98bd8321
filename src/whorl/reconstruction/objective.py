r"""Objective of a search: structures whose representation is the target.

With a representation R, a target :math:`R^*`, feature weights w and a penalty ρ, the loss of a structure x is

.. math:: L(x) = \frac1F \sum_f \rho\bigl(w_f\,(R_f(x) - R^*_f)\bigr)

(Fung et al. 2022, section 2.1; there ρ is the absolute value and all weights are 1). Where atoms must keep a
distance, :math:`\frac1F \sum_a c_a^2` is added, with one number for each atom:

.. math:: c_a = 100 \sum_{b} \max\Bigl(0,\; s - \frac{d_{ab}}{r_a + r_b}\Bigr)

where d are distances, r covalent radii and s the ``min_distance``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.representations.base import Representation
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import strained
from whorl.structures.composition import covalent_radii, most_similar_element
from whorl.structures.convert import BatchField, as_batch
from whorl.structures.neighbors import neighbor_list
from whorl.symmetry.coordinates import SymmetryCoordinates


def _huber(residual: Tensor) -> Tensor:
    size = residual.abs()
    return torch.where(size <= 1, 0.5 * size.square(), size - 0.5)


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mae": torch.abs,
    "squared": torch.square,
    "huber": _huber,  # bends at 1, so that the weights say where
}


MIN_DISTANCE = 0.55
"""Minimum distance of two atoms in a search, as a fraction of the sum of their covalent radii."""

_CONTACT = 100.0  # weight of a contact: nearly a hard constraint


@dataclass(frozen=True, kw_only=True)
class InversionProblem:
    """T targets, each with composition and cell of its structure.

    Attributes:
        representation: The map R.
        target: The target fingerprints R*, flattened, shape (T, F).
        template: T structures that give species, cell and pbc; of their positions only those of frozen atoms
            are used, and their ``info`` is dropped. Anything that :func:`whorl.structures.as_batch` takes.
        loss: ``"mae"``, ``"squared"`` or ``"huber"`` (bends at a weighted residual of 1).
        weights: One factor per feature, not negative, shape (F,), or one row per target, shape (T, F);
            ``None`` weighs all equally. With features of very different size, :func:`whitening_weights` keeps
            the large ones from dominating.
        frozen: Atoms that keep the positions of the template, shape (A,); ``None``: all may move.
        free_cell: Whether the lattice is optimised too. The template's cells are then only initial guesses.
        min_distance: Minimum distance s of two atoms, as a fraction of the sum of their covalent radii; 0:
            none. ``None``: 0.55 in :func:`whorl.reconstruction.solve`; none in single solvers and in
            Algorithm 1, whose atoms pass through one another.
        space_group: Number of the space group that crystals must have, in any setting of the cell
            (any origin among those tabulated); ``None``: any symmetry or none.
            :func:`whorl.reconstruction.solve` keeps to it, single solvers do where the start has it.
        orbits: For structures that have a symmetry and keep it: how their atoms move together, all of the
            same number. ``None``: each atom moves by itself.
        names: Of the targets. Random numbers of a target follow from its name; ``None``: from its contents,
            to the last digit, which another processor or number of threads may compute otherwise.

    Raises:
        InputError: Shapes that do not fit, NaN in the targets or weights, an unknown loss, a species that
            the representation was not made for, or a free cell that is not periodic or has frozen atoms.
    """

    representation: Representation
    target: Float[Tensor, "T F"]
    template: BatchField
    loss: str = "mae"
    weights: Tensor | None = None
    frozen: Bool[Tensor, "A"] | None = None
    free_cell: bool = False
    min_distance: float | None = None
    space_group: int | None = None
    orbits: SymmetryCoordinates | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", as_batch(self.template))
        if self.loss not in PENALTIES:
            raise unknown_option("loss", self.loss, PENALTIES)
        n_features = len(self.representation.layout)
        if self.target.dim() != 2 or self.target.shape[1] != n_features:
            raise InputError(
                f"targets: got shape {tuple(self.target.shape)}, expected (targets, {n_features}), the "
                "number of features of the representation. Use the one that the targets were made with."
            )
        if len(self.template) != len(self.target):
            raise InputError(
                f"template: got {len(self.template)} structures for {len(self.target)} targets, expected one "
                "each (species, cell and pbc in which to search)."
            )
        if self.names is not None and len(self.names) != len(self.target):
            raise InputError(
                f"names: got {len(self.names)} for {len(self.target)} targets, expected one each."
            )
        if self.target.device != self.template.device:
            raise InputError(
                f"targets are on {self.target.device} and the template is on {self.template.device}, "
                "expected one device. Move one of them with .to(device=…)."
            )
        bad = torch.nonzero(~torch.isfinite(self.target).all(1)).squeeze(1).tolist()
        if bad:
            raise InputError(
                f"targets: {len(bad)} of {len(self.target)} have NaN or infinite features (first: target "
                f"{bad[0]}). Leave them out before inverting."
            )
        empty = torch.nonzero(self.template.n_atoms == 0).squeeze(1).tolist()
        if empty:
            raise InputError(
                f"template: structure {empty[0]} has no atoms, so there is nothing to solve for."
            )
        if self.weights is not None:
            _check_weights(self.weights, len(self.target), n_features)
        # Labels of the template are those of other structures than the ones that will be found.
        object.__setattr__(self, "template", self.template.replace(info=()))
        self._check_freedom()
        self._check_species()

    def _check_freedom(self) -> None:
        n_atoms = len(self.template.positions)
        if self.frozen is not None and tuple(self.frozen.shape) != (n_atoms,):
            raise InputError(
                f"frozen: got shape {tuple(self.frozen.shape)}, expected ({n_atoms},), one per atom of the "
                "template."
            )
        if self.min_distance is not None and not 0 <= self.min_distance < 1:
            raise InputError(
                f"min_distance: got {self.min_distance}, expected a part of the covalent distance, from 0 to "
                "below 1, such as 0.7."
            )
        if self.space_group is not None:
            self._check_space_group()
        if not self.free_cell:
            return
        if not bool(self.template.pbc.all()):
            flat = int(torch.nonzero(~self.template.pbc.all(1))[0])
            raise InputError(
                f"free_cell: structure {flat} is not periodic in all three directions, so it has no lattice "
                "to find. Leave free_cell off for it."
            )
        if self.frozen is not None and bool(self.frozen.any()):
            raise InputError("free_cell: atoms cannot stay frozen where the cell moves. Choose one of them.")

    def _check_space_group(self) -> None:
        if not (isinstance(self.space_group, int) and 1 <= self.space_group <= 230):
            raise InputError(f"space_group: got {self.space_group!r}, expected a number from 1 to 230.")
        if not bool(self.template.pbc.all()):
            raise InputError("space_group: expected crystals, periodic in all three directions.")
        if self.frozen is not None and bool(self.frozen.any()):
            raise InputError("space_group: atoms cannot stay frozen with it. Choose one of them.")

    def _check_species(self) -> None:
        declared = self.representation.species
        if declared is None:
            return
        from ase.data import atomic_numbers, chemical_symbols

        allowed = {atomic_numbers[symbol] for symbol in declared}
        for z in self.template.atomic_numbers.unique().tolist():
            if z not in allowed:
                symbol = chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z)
                similar = ""
                if symbol in atomic_numbers and z > 0:
                    similar = f" The most similar of these is {most_similar_element(symbol, declared)}."
                raise InputError(
                    f"template: contains {symbol}, but the representation was made for "
                    f"{', '.join(declared)}.{similar} Declare {symbol} in the "
                    "representation's species."
                )

    def __len__(self) -> int:
        """Return the number of targets T."""
        return len(self.target)

    def select(self, index: slice | Sequence[int] | Tensor) -> InversionProblem:
        """Return the problem of the chosen targets, repeats allowed: targets × starts is one flat batch."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.target.device)
            index = index if index.dtype == torch.bool else index.long()  # [] would be float
        weights, frozen, names = self.weights, self.frozen, self.names
        if names is not None:
            names = tuple(names[k] for k in torch.arange(len(names))[index].tolist())
        if weights is not None and weights.dim() == 2:
            weights = weights[index]
        if frozen is not None:
            marked = self.template.replace(atomic_numbers=frozen.to(torch.int64))
            frozen = marked[index].atomic_numbers.bool()
        # Already checked, and checks would cost as much as a step of the search.
        return self._unchecked(
            target=self.target[index],
            template=self.template[index],
            weights=weights,
            frozen=frozen,
            names=names,
            orbits=None if self.orbits is None else self.orbits[index],
        )

    def symmetric(self, orbits: SymmetryCoordinates) -> InversionProblem:
        """Return the problem for structures that have a symmetry and keep it."""
        return self._unchecked(orbits=orbits)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> InversionProblem:
        """Return the problem on another device or in another floating-point type.

        The representation is a module of the caller's; it is moved by ``representation.to(device)``.
        """
        weights = None if self.weights is None else self.weights.to(device=device, dtype=dtype)
        return self._unchecked(
            target=self.target.to(device=device, dtype=dtype),
            template=self.template.to(device=device, dtype=dtype),
            weights=weights,
            frozen=None if self.frozen is None else self.frozen.to(device=device),
        )

    def replace(self, **changes: Any) -> InversionProblem:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def _unchecked(self, **changes: object) -> InversionProblem:
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(new, field.name, changes.get(field.name, getattr(self, field.name)))
        return new

    @property
    def n_features(self) -> int | Float[Tensor, "T"]:
        """Number of features F over which a loss is the mean, of all targets or of each."""
        return self.target.shape[1]

    def features(self, structures: StructureBatch) -> Float[Tensor, "T F"]:
        """Return R(x) in the form in which it is compared with the target.

        It is differentiable in the positions and cells, unless the problem has orbits.
        """
        if self.orbits is not None:
            return self.representation.value_and_jacobian_along(structures, self.orbits.resting)[0]
        return self.representation(structures).flatten(1)

    def spread(self, features: Float[Tensor, "n F"]) -> Float[Tensor, "F"]:
        """Return the standard deviation of each feature over arrangements of the one target there is."""
        return features.std(0)

    def _features_and_jacobian(
        self, structures: StructureBatch
    ) -> tuple[Float[Tensor, "T F"], Float[Tensor, "T F q"]]:
        if self.orbits is not None:
            return self.representation.value_and_jacobian_along(structures, self.orbits)
        value, jacobian = self.representation.value_and_jacobian(structures, strain=self.free_cell)
        return value.flatten(1), self._in_coordinates(jacobian, structures)

    def _in_coordinates(
        self, jacobian: Float[Tensor, "T R m 3"], structures: StructureBatch
    ) -> Float[Tensor, "T R q"]:
        """Return derivatives in the coordinates that a solver moves; see :meth:`value_and_rows`."""
        if self.orbits is not None:
            n = self.orbits.head.shape[1]
            along = self.orbits.along(jacobian[:, :, :n])
            return along + self.orbits.along_strain(jacobian[:, :, n:]) if self.free_cell else along
        if self.frozen is not None:
            place = structures.structure_index, structures.position_in_structure
            jacobian[place[0][self.frozen], :, place[1][self.frozen]] = 0.0
        if self.free_cell:
            strain = jacobian[:, :, -3:]
            jacobian = torch.cat([jacobian[:, :, :-3], 0.5 * (strain + strain.transpose(2, 3))], 2)
        return jacobian.flatten(2)

    def residual(self, structures: StructureBatch) -> Float[Tensor, "T F"]:
        r"""Return :math:`w\,(R(x) - R^*)`, differentiable in the positions and cells."""
        residual = self.features(structures) - self.target
        return residual if self.weights is None else residual * self.weights

    def value(self, structures: StructureBatch) -> Float[Tensor, "T"]:
        """Return the loss of each structure against the target of the same index, differentiable."""
        loss = PENALTIES[self.loss](self.residual(structures)).sum(1)
        if self.min_distance:
            loss = loss + self.contacts(structures).square().sum(1)
        return loss / self.n_features

    def contacts(self, structures: StructureBatch) -> Float[Tensor, "T n"]:
        """Return the violation of the minimum distances of each atom, :math:`c_a`; else 0."""
        rows, _ = self._contacts(structures, jacobian=False)
        return rows

    def value_and_rows(
        self, structures: StructureBatch
    ) -> tuple[Float[Tensor, "T"], Float[Tensor, "T R"], Float[Tensor, "T R q"]]:
        r"""Return each loss, and weighted residuals whose squares a Gauss–Newton step lowers.

        The R rows are those of the features and, with a ``min_distance``, those of the contacts. For
        penalties other than the square each row is scaled by :math:`\sqrt{\rho'(u) / 2u}` and its residual
        likewise (iteratively reweighted least squares), so that the rows give the gradient of the loss.

        The q columns of the Jacobian are the coordinates of the atoms, atom by atom, those beyond a
        structure's own and of frozen atoms zero. With a free cell there follow the nine components of a
        symmetric strain, row by row. With orbits they are those of the orbits.
        """
        value, jacobian = self._features_and_jacobian(structures)
        residual = value - self.target
        if self.weights is not None:
            weights = self.weights.expand_as(residual)
            residual, jacobian = residual * weights, jacobian * weights[..., None]
        loss = PENALTIES[self.loss](residual).sum(1)
        if self.loss != "squared":
            scale = _reweighting(self.loss, residual)
            residual, jacobian = residual * scale, jacobian * scale[..., None]
        if self.min_distance:
            rows, slopes = self._contacts(structures, jacobian=True)
            assert slopes is not None
            loss = loss + rows.square().sum(1)
            slopes = self._in_coordinates(slopes, structures)
            residual, jacobian = torch.cat([residual, rows], 1), torch.cat([jacobian, slopes], 1)
        return loss / self.n_features, residual, jacobian

    def displaced(
        self, structures: StructureBatch, step: Float[Tensor, "T q"], *, trust: float
    ) -> StructureBatch:
        """Return the structures after a step in the coordinates of :meth:`value_and_rows`.

        A step that would move an atom farther than ``trust`` (Å), or strain the cell as much, is shortened.
        """
        strain: Tensor | None = None
        if self.orbits is not None:
            shifts, strain = self.orbits.displacement(step)
            strain = strain if self.free_cell else None
        elif self.free_cell:
            shifts, strain = step[:, :-9].reshape(len(step), -1, 3), step[:, -9:].reshape(-1, 3, 3)
        else:
            shifts = step.reshape(len(step), -1, 3)
        longest = shifts.norm(dim=2).amax(1)
        if strain is not None:
            span = torch.linalg.det(structures.cells).abs() ** (1 / 3)
            longest = torch.maximum(longest, strain.flatten(1).norm(dim=1) * span)
        shrink = (trust / longest.clamp(min=trust)).nan_to_num(0.0)[:, None, None]
        shift = (shifts * shrink)[structures.structure_index, structures.position_in_structure]
        moved = structures.replace(positions=structures.positions + shift.nan_to_num(0.0))
        return moved if strain is None else strained(moved, (strain * shrink).nan_to_num(0.0))

    def gradient(self, structures: StructureBatch, slope: Float[Tensor, "T q"]) -> Float[Tensor, "A 3"]:
        """Return for each atom the gradient of the loss from :math:`J^T r`, with unit weight per feature."""
        if self.orbits is not None:
            of_atoms = torch.einsum("bnxq,bq->bnx", self.orbits.atoms, slope)
        else:
            of_atoms = slope[:, : 3 * int(structures.n_atoms.max())].reshape(len(slope), -1, 3)
        of_atoms = of_atoms[structures.structure_index, structures.position_in_structure]
        factor = 2.0 / torch.as_tensor(self.n_features).to(slope)
        return factor.expand(len(slope))[structures.structure_index, None] * of_atoms

    def _contacts(
        self, structures: StructureBatch, *, jacobian: bool
    ) -> tuple[Float[Tensor, "T n"], Tensor | None]:
        radii = covalent_radii(structures.atomic_numbers).to(structures.dtype)
        n_max, place = int(structures.n_atoms.max()), structures.position_in_structure
        shape = (len(structures), n_max)
        closest = self.min_distance or 0.0
        pairs = neighbor_list(structures, cutoff=max(2.0 * closest * float(radii.max()), 1e-3))
        vectors = pairs.vectors(structures)
        reach = radii[pairs.first] + radii[pairs.second]
        distance = vectors.norm(dim=1).clamp(min=1e-9)
        depth = _CONTACT * (closest - distance / reach).clamp(min=0.0)
        atom = structures.structure_index * n_max + place
        rows = depth.new_zeros(shape).flatten().index_add(0, atom[pairs.first], depth).reshape(shape)
        if not jacobian:
            return rows, None
        slope = torch.where(depth > 0, -_CONTACT / reach / distance, 0.0)[:, None] * vectors
        n_rows = n_max + 3 * self.free_cell
        slopes = slope.new_zeros(len(structures) * n_max * n_rows, 3)
        first = atom[pairs.first] * n_rows
        slopes.index_add_(0, first + place[pairs.second], slope)
        slopes.index_add_(0, first + place[pairs.first], -slope)
        if self.free_cell:
            for row in range(3):  # a strain moves v by v ε
                slopes.index_add_(0, first + n_max + row, vectors[:, row, None] * slope)
        return rows, slopes.reshape(*shape, n_rows, 3)

    def scale(self) -> Float[Tensor, "T"]:
        """Return the loss that a representation of all zeros would have: a size to compare losses with."""
        residual = self.target if self.weights is None else self.target * self.weights
        return PENALTIES[self.loss](residual).sum(1) / self.n_features

    def value_and_gradient(
        self, structures: StructureBatch
    ) -> tuple[Float[Tensor, "T"], Float[Tensor, "A 3"]]:
        """Return each loss, and the gradient of each structure's loss in its own positions (per Å).

        Frozen atoms have no gradient. Cells are held fixed, also where the problem has them free.
        """
        positions = structures.positions.detach().requires_grad_(True)
        with torch.enable_grad():
            value = self.value(structures.replace(positions=positions))
            # Structures do not see one another, so the gradient of the sum is that of each.
            (gradient,) = torch.autograd.grad(value.sum(), positions)
        if self.frozen is not None:
            gradient = gradient.masked_fill(self.frozen[:, None], 0.0)
        return value.detach(), gradient


def _reweighting(loss: str, residual: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
    size = residual.abs()
    if loss == "huber":
        return (0.5 / size.clamp(min=1.0)).sqrt()
    # Residuals far below the usual one would get all the weight, and the next step would see nothing else.
    least = 1e-3 * size.mean(1, keepdim=True) + torch.finfo(size.dtype).tiny
    return (0.5 / torch.maximum(size, least)).sqrt()


def _check_weights(weights: Tensor, n_targets: int, n_features: int) -> None:
    if tuple(weights.shape) not in ((n_features,), (n_targets, n_features)):
        raise InputError(
            f"weights: got shape {tuple(weights.shape)}, expected ({n_features},), one per feature, or "
            f"({n_targets}, {n_features}), a row for each target."
        )
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise InputError("weights: expected finite numbers, none negative and not all zero.")


def whitening_weights(features: Float[Tensor, "n F"], *, floor: float = 0.3) -> Float[Tensor, "F"]:
    r"""Return weights with which each feature counts alike.

    :math:`w_f = \mathrm{median}(\sigma) / \max(\sigma_f, \epsilon)`, where σ is the standard
    deviation of each feature over a reference set, such as the training set. The
    common factor leaves the loss in the size of a middling feature.

    Args:
        features: The reference set, at least two rows.
        floor: ε as a part of the median σ; keeps features that hardly vary from drowning the others.

    Raises:
        InputError: Fewer than two rows, NaN, or all rows alike.
    """
    if len(features) < 2 or not bool(torch.isfinite(features).all()):
        raise InputError(f"whitening: got {len(features)} rows, expected two or more, none with NaN.")
    sigma = features.std(0)
    scale = sigma[sigma > 0].median() if bool((sigma > 0).any()) else sigma.new_zeros(())
    if not float(scale) > 0:
        raise InputError("whitening: all rows are alike, so no feature has a spread. Give a varied set.")
    return scale / sigma.clamp_min(float(floor * scale))
