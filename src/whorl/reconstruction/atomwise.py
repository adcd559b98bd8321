r"""Atomwise targets: one fingerprint per atom, in unknown order.

With the features :math:`G_{if}` of atom i, the targets :math:`G^*_{rf}` in rows r, weights w and a penalty ρ,
the loss of a structure of n atoms is the least over all ways π to give each row an atom of its species:

.. math:: L(x) = \min_\pi \frac1{nF} \sum_{rf} \rho\bigl(w_{rf}\,(G_{\pi(r) f}(x) - G^*_{rf})\bigr)

π is the solution of a linear assignment problem (Kuhn, Naval Res. Logist. Q. 2, 83, 1955; solved as by
Crouse, IEEE Trans. Aerosp. Electron. Syst. 52, 1679, 2016). L is continuous and, but for kinks where two ways
are equally good, π is the same all around x, so that the derivatives are those of the assigned pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from whorl.errors import InputError
from whorl.reconstruction.objective import PENALTIES, InversionProblem
from whorl.representations.base import FeatureLayout, Representation, make_representation, sound
from whorl.representations.pooled import AtomicRepresentation
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

_AT_ONCE = 4_000_000  # differences of features held at a time
_WORST = 1e30  # in place of a cost that is not finite


class AtomList(Representation):
    """The features of all atoms in their own order, n rows of f numbers, zeros where there is no atom.

    Args:
        atomic: Gives the features; how it pools them does not matter.
        n_atoms: n, atoms of the largest structure.

    Raises:
        InputError: Fewer than one atom; on calling, a structure with more.
    """

    kind = "atom_list"

    def __init__(self, atomic: AtomicRepresentation, *, n_atoms: int) -> None:
        super().__init__()
        if n_atoms < 1:
            raise InputError(f"n_atoms: got {n_atoms}, expected 1 or more.")
        self.atomic, self.n_atoms, self.species = atomic, n_atoms, atomic.species
        width = len(atomic.atomic_names)
        names = tuple(f"{atom}/{name}" for atom in range(n_atoms) for name in atomic.atomic_names)
        blocks = {str(atom): slice(atom * width, (atom + 1) * width) for atom in range(n_atoms)}
        self.layout = FeatureLayout(names=names, shape=(n_atoms, width), blocks=blocks)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AtomList:
        """Rebuild from :meth:`config`."""
        atomic = make_representation(config["atomic"])
        if not isinstance(atomic, AtomicRepresentation):
            raise InputError(f"atom_list: got {atomic.describe()}, expected one of features of single atoms.")
        return cls(atomic, n_atoms=config["n_atoms"])

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        return {"kind": self.kind, "n_atoms": self.n_atoms, "atomic": self.atomic.config()}

    def sharpness(self) -> Float[Tensor, "F"]:
        """Return that of the features of an atom, for every atom."""
        return self.atomic.sharpness_of_atom().repeat(self.n_atoms)

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B n f"]:
        """Return the features of each structure's atoms."""
        structures = self._fitting(structures)
        return self.padded(self.atomic.atomic_features(structures), structures)

    def value_and_jacobian(
        self, structures: Structures, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F m 3"]]:
        """Return the features, flattened, and their analytic Jacobian; see the base class."""
        structures = self._fitting(structures)
        value, jacobian = self.atomic.atomic_value_and_jacobian(structures, strain=strain)
        missing = self.n_atoms - value.shape[1]
        if missing:
            value = torch.nn.functional.pad(value, (0, 0, 0, missing))
            jacobian = torch.nn.functional.pad(jacobian, (0, 0, 0, 0, 0, 0, 0, missing))
        return value.flatten(1), jacobian.flatten(1, 2)

    def padded(self, atomic: Float[Tensor, "A f"], structures: StructureBatch) -> Float[Tensor, "B n f"]:
        """Return features of atoms by structure."""
        places = structures.structure_index, structures.position_in_structure
        zeros = atomic.new_zeros(len(structures), self.n_atoms, atomic.shape[1])
        return zeros.index_put(places, atomic)

    def _fitting(self, structures: Structures) -> StructureBatch:
        structures = sound(structures)
        if len(structures) and int(structures.n_atoms.max()) > self.n_atoms:
            raise InputError(
                f"structures: got one of {int(structures.n_atoms.max())} atoms, expected at most "
                f"{self.n_atoms}. Make the AtomList with n_atoms of the largest."
            )
        return structures


@dataclass(frozen=True, kw_only=True)
class AtomwiseProblem(InversionProblem):
    """T targets with one fingerprint per atom, in any order; see :meth:`of`.

    Attributes are those of :class:`~whorl.reconstruction.InversionProblem`. The representation is an
    :class:`AtomList`; a target is its rows one after another, each of the species that the template has in
    that place, and zeros beyond the structure's own atoms.

    >>> from ase.build import molecule
    >>> from whorl.representations import ACSF
    >>> from whorl.structures import from_ase
    >>> acsf, water = ACSF.fung2022(["O", "H"]), from_ase(molecule("H2O"))
    >>> rows = acsf.atomic_features(water)[[0, 2, 1]]  # which hydrogen is which is not known
    >>> problem = AtomwiseProblem.of(acsf, rows, water)
    >>> float(problem.value(water)[0])
    0.0
    """

    @classmethod
    def of(
        cls,
        atomic: AtomicRepresentation,
        target: Float[Tensor, "A f"],
        template: Structures,
        *,
        weights: Tensor | None = None,
        **options: Any,
    ) -> AtomwiseProblem:
        """Return the problem of fingerprints of single atoms.

        Args:
            atomic: Representation of the fingerprints, by its ``atomic_features``.
            target: One row for each atom of the template, in any order within the atoms of a species.
            template: T structures that give species, cell and pbc.
            weights: One factor per feature of an atom, shape (f,).
            options: Further fields of :class:`~whorl.reconstruction.InversionProblem`.

        Raises:
            InputError: Another number of rows than atoms, or of features; else as InversionProblem.
        """
        template = as_batch(template)
        shape = (len(template.positions), len(atomic.atomic_names))
        if tuple(target.shape) != shape:
            raise InputError(
                f"targets: got shape {tuple(target.shape)}, expected {shape}: a row for each atom of the "
                "template, with the features of one atom before pooling."
            )
        if weights is not None and tuple(weights.shape) != shape[1:]:
            raise InputError(
                f"weights: got shape {tuple(weights.shape)}, expected {shape[1:]}, one per feature of an "
                "atom."
            )
        rows = AtomList(atomic, n_atoms=max(1, int(template.n_atoms.max()) if len(template) else 1))
        return cls(
            representation=rows,
            target=rows.padded(target, template).flatten(1),
            template=template,
            weights=None if weights is None else weights.repeat(rows.n_atoms),
            **options,
        )

    @property
    def n_features(self) -> Float[Tensor, "T"]:
        """Number of features of each target: those of its own atoms."""
        width = self.target.shape[1] // self.representation.layout.shape[0]
        return (self.template.n_atoms * width).to(self.target.dtype)

    def features(self, structures: StructureBatch) -> Float[Tensor, "T F"]:
        """Return the features of the atoms, each in the row that it is assigned, differentiable."""
        value = self.representation(structures)
        return _taken(value, self.assignment(value, structures)).flatten(1)

    def spread(self, features: Float[Tensor, "n F"]) -> Float[Tensor, "F"]:
        """Return the standard deviation of each feature over the atoms of a species in all their rows."""
        shape = self.representation.layout.shape
        rows, species = features.unflatten(1, shape), _species(self.template[0], shape[0])[0]
        spread = rows.new_zeros(shape)
        for z in species[species > 0].unique():
            spread[species == z] = rows[:, species == z].flatten(0, 1).std(0)
        return spread.flatten()

    def _features_and_jacobian(
        self, structures: StructureBatch
    ) -> tuple[Float[Tensor, "T F"], Float[Tensor, "T F q"]]:
        value, jacobian = self.representation.value_and_jacobian(structures, strain=self.free_cell)
        rows = value.unflatten(1, self.representation.layout.shape)
        order = self.assignment(rows, structures)
        by_row = jacobian.unflatten(1, self.representation.layout.shape)
        jacobian = _taken(by_row, order).flatten(1, 2)
        return _taken(rows, order).flatten(1), self._in_coordinates(jacobian, structures)

    @torch.no_grad()
    def assignment(self, value: Float[Tensor, "T n f"], structures: StructureBatch) -> Int[Tensor, "T n"]:
        """Return which atom each row of the target is given, of those with these features.

        Raises:
            InputError: Structures of another composition than the template.
        """
        shape = self.representation.layout.shape
        wanted = self.target.unflatten(1, shape)
        weights = None if self.weights is None else self.weights.expand_as(self.target).unflatten(1, shape)
        species = _species(structures, shape[0])
        foreign = species[:, None, :] != _species(self.template, shape[0])[:, :, None]
        step = max(1, _AT_ONCE // (shape[0] * shape[0] * shape[1]))
        costs = []
        for start in range(0, len(value), step):
            some = slice(start, start + step)
            difference = value[some, None] - wanted[some, :, None]  # (T, row, atom, f)
            if weights is not None:
                difference *= weights[some, :, None]
            costs.append(PENALTIES[self.loss](difference).sum(3))
        cost = torch.cat(costs) if costs else value.new_zeros(0, shape[0], shape[0])
        cost = cost.nan_to_num(nan=_WORST, posinf=_WORST).masked_fill(foreign, torch.inf)
        try:
            order = [linear_sum_assignment(one)[1] for one in cost.cpu().numpy()]
        except ValueError:
            raise InputError(
                "structures: got another composition than the template's, expected the same elements and "
                "numbers of atoms in each."
            ) from None
        return torch.from_numpy(np.array(order, dtype=np.int64).reshape(len(cost), -1)).to(value.device)


def _species(structures: StructureBatch, n: int) -> Int[Tensor, "T n"]:
    """Return the atomic numbers by structure, zero where there is no atom."""
    zeros = structures.atomic_numbers.new_zeros(len(structures), n)
    places = structures.structure_index, structures.position_in_structure
    return zeros.index_put(places, structures.atomic_numbers)


def _taken(values: Float[Tensor, "T n *rest"], order: Int[Tensor, "T n"]) -> Float[Tensor, "T n *rest"]:
    targets = torch.arange(len(order), device=order.device)[:, None]
    return values[targets, order]
