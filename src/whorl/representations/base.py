"""Contract of representations: differentiable maps from structures to tensors, with a layout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whorl.axes import REPRESENTATIONS
from whorl.errors import InputError
from whorl.files import stable_hash
from whorl.memory import in_words, require_memory
from whorl.representations.settings import RepresentationSettings
from whorl.settings import Method
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.structures.convert import Structures, as_batch
from whorl.symmetry.coordinates import SymmetryCoordinates

MOST_FEATURES = 500_000
"""Maximum number of features of one structure (4 MB)."""

_MANY = 10**7  # features, that may not fit into memory
_FEATURES_A_COORDINATE = (
    4  # above it, a backward pass for each coordinate is faster than one for each feature
)


def require_few_features(count: int, what: str, remedy: str) -> None:
    """Reject a representation with too many features before its layout is built, which would take all memory.

    Args:
        count: Features of one structure.
        what: Cause, such as ``"56 elements"``.
        remedy: A sentence.

    Raises:
        InputError: More than :data:`MOST_FEATURES`.
    """
    if count > MOST_FEATURES:
        raise InputError(
            f"{what} make {count:,} features for each structure ({in_words(8 * count)}, for 1,000 structures "
            f"{in_words(8000 * count)}), expected at most {MOST_FEATURES:,}. {remedy}"
        )


@dataclass(frozen=True, kw_only=True)
class FeatureLayout:
    """Order of the features. It depends on species and hyperparameters only, never on data.

    Attributes:
        names: One name per feature, unique, in order.
        shape: Shape of one structure's representation; (F,) for vectors.
        blocks: Named ranges of the flattened features, such as ``"max/G2/Pt"``.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    blocks: Mapping[str, slice]

    def __len__(self) -> int:
        """Return the number of features F."""
        return len(self.names)


def sound(structures: Structures) -> StructureBatch:
    """Return structures as a batch, and reject those that cannot be encoded correctly.

    Raises:
        InputError: A structure without atoms, with a position or cell that is not finite, or an index of
            structures that is not sorted or out of range; the first one is named.
    """
    structures = as_batch(structures)
    structures.check()
    empty = structures.n_atoms == 0
    if bool(empty.any()):
        first = int(torch.nonzero(empty)[0])
        raise InputError(f"structure {first} has no atoms, so there is nothing to encode.")
    astray = ~structures.positions.isfinite().all(1)
    if bool(astray.any()):
        atom = int(torch.nonzero(astray)[0])
        where = ", ".join(f"{x:g}" for x in structures.positions[atom].tolist())
        raise InputError(
            f"structure {int(structures.structure_index[atom])}: its atom "
            f"{int(structures.position_in_structure[atom])} is at ({where}), expected finite coordinates. "
            "whorl.structures.find_problems lists all that cannot be encoded."
        )
    return structures


class Representation(nn.Module, Method, ABC):
    """A map R from structures to tensors, differentiable in positions and cell.

    Hyperparameters are keyword-only, frozen, and JSON-able through :meth:`config`.
    """

    Settings: ClassVar[type[RepresentationSettings]] = RepresentationSettings
    fewer_features: ClassVar[str] = "settings that give fewer features"
    """Remedy against too many features, for messages."""
    species: tuple[str, ...] | None = None
    """Chemical symbols that structures may contain; None: any."""
    layout: FeatureLayout
    invariances: frozenset[str] = frozenset({"permutation", "rotation", "translation", "lattice_shift"})
    """Changes of a structure that do not change its features: some of ``permutation`` (of the atoms),
    ``rotation``, ``translation``, ``lattice_shift`` (of single atoms), ``lattice_basis`` (the choice of the
    lattice vectors) and ``supercell``."""
    differentiable: bool = True
    """Whether features have derivatives in positions and cell."""
    of_crystals: ClassVar[bool] = False
    """Whether it is of crystals alone, which are periodic in all three directions."""
    of_clusters: ClassVar[bool] = False
    """Whether it is of clusters and molecules alone, which are not periodic."""

    def describe(self) -> str:
        """Return a short description."""
        return f"{type(self).__name__}, {len(self.layout):,} features"

    def __repr__(self) -> str:
        """Return the name and the shape in one line."""
        return f"{type(self).__name__}({' × '.join(map(str, self.layout.shape))} features)"

    def __call__(self, structures: Structures) -> Float[Tensor, "B *shape"]:
        """Return R of each structure, after validation (:func:`sound`).

        Raises:
            InputError: An invalid structure, one that this representation does not support, or more features
                than there is memory for.
        """
        structures = sound(structures)
        if len(structures) * len(self.layout) > _MANY:
            self.require_memory(structures)
        if len(structures) == 0:
            return _no_change(structures) + structures.positions.new_zeros(0, *self.layout.shape)
        features = super().__call__(structures)
        varies = torch.is_grad_enabled() and (
            structures.positions.requires_grad or structures.cells.requires_grad
        )
        if varies and self.differentiable and not features.requires_grad:
            return features + _no_change(structures)  # of atoms without neighbours
        return features

    def require_memory(self, structures: StructureBatch) -> None:
        """Reject features that do not fit into memory, before they are computed.

        Raises:
            InputError: They do not fit.
        """
        needed = 2 * len(structures) * len(self.layout) * structures.positions.element_size()
        elements = len(structures.atomic_numbers.unique())
        require_memory(
            needed,  # in pieces, and put together
            f"{len(self.layout):,} features for each of {len(structures):,} structures, which have "
            f"{elements} elements",
            f"Remedy: {self.fewer_features}, or fewer structures.",
        )

    @abstractmethod
    def forward(self, structures: StructureBatch) -> Float[Tensor, "B *shape"]:
        """Return R of each structure, in the floating-point type of its positions."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the hyperparameters that rebuild this representation, JSON-able, with its ``kind``."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Representation:
        """Rebuild from :meth:`config`."""
        return cls(**{key: value for key, value in config.items() if key != "kind"})

    def fit(self, structures: Structures) -> Representation:
        """Return this representation adapted to structures, if it depends on data."""
        return self

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the index of each structure that cannot be encoded, and why."""
        return find_problems(structures)

    @property
    def fingerprint(self) -> str:
        """Hash of :meth:`config`, stored in feature files so that representations are never mixed."""
        return stable_hash(self.config())

    def sharpness(self) -> Float[Tensor, "F"]:
        """Return for each feature the inverse of the length (1/Å) over which it changes.

        A coarse-to-fine search begins with the features of low sharpness. All zeros, this
        default, is for representations whose features are equally sharp.
        """
        return torch.zeros(len(self.layout), dtype=torch.float64)

    def variation(self, features: Float[Tensor, "F"]) -> dict[str, float]:
        """Return by how much the surroundings of the atoms of each species differ, relative to their size.

        0 means that the atoms are alike. Species of which the features of one structure do not tell it are
        left out; by default all are.
        """
        del features
        return {}

    def seconds(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return the approximate time per structure on one core; zeros if negligible."""
        return torch.zeros(len(structures), dtype=torch.float64)

    def value_and_jacobian(
        self, structures: Structures, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F m 3"]]:
        r"""Return R and its Jacobian :math:`\partial R_f / \partial x_{a}` in the atoms' positions.

        Args:
            structures: B structures.
            strain: Also differentiate in a strain ε, which takes positions and lattice vectors, as rows, to
                :math:`x (1 + \varepsilon)`.

        Returns:
            ``value`` (B, F) and ``jacobian`` (B, F, n, 3) in feature units per Å, where n is the number of
            atoms of the largest structure and rows beyond a structure's own atoms are zero. With ``strain``
            it is (B, F, n + 3, 3): row n + β holds :math:`\partial R_f / \partial\varepsilon_{\beta\alpha}`
            at ε = 0, as ASE appends the cell to the atoms.

        This default differentiates :meth:`forward` coordinate by coordinate where there are many features,
        and feature by feature otherwise; representations with an analytic Jacobian override it.
        """
        structures = sound(structures)
        positions = structures.positions.detach().requires_grad_(True)
        strains = torch.zeros_like(structures.cells, requires_grad=strain)
        variables = [positions, strains] if strain else [positions]
        with torch.enable_grad():
            moved = structures.replace(positions=positions)
            if strain:
                stretched = torch.einsum("ab,abc->ac", positions, strains[structures.structure_index])
                cells = structures.cells.detach()
                moved = structures.replace(positions=positions + stretched, cells=cells + cells @ strains)
            value = self(moved).flatten(1)
        n_max = max(structures.n_atoms.tolist(), default=0)
        if len(structures) and value.shape[1] > _FEATURES_A_COORDINATE * 3 * (n_max + 3 * strain):
            with suppress(RuntimeError):  # an operation that cannot be differentiated twice
                return value.detach(), _by_coordinates(value, variables, structures)
        jacobian = positions.new_zeros(len(structures), value.shape[1], n_max + 3 * strain, 3)
        for feature in range(value.shape[1]):
            # Structures are independent, so one backward pass serves the whole batch.
            of_positions, *of_strain = torch.autograd.grad(
                value[:, feature].sum(), variables, retain_graph=True, materialize_grads=True
            )
            jacobian[structures.structure_index, feature, structures.position_in_structure] = of_positions
            if strain:
                jacobian[:, feature, n_max:] = of_strain[0]
        return value.detach(), jacobian

    def value_and_jacobian_along(
        self, structures: Structures, orbits: SymmetryCoordinates
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F Q"]]:
        r"""Return R and its derivatives in the coordinates of symmetric structures.

        Args:
            structures: Structures that have the symmetry, all of equally many atoms.
            orbits: Orbits of equivalent atoms, and their free coordinates.

        Returns:
            ``value`` (B, F) and the Jacobian (B, F, Q) in feature units per unit of each coordinate.

        This default computes the Jacobian of all atoms; pooled atomic representations compute one atom
        per orbit.
        """
        strain = bool((orbits.strain != 0).any())
        value, jacobian = self.value_and_jacobian(structures, strain=strain)
        n = orbits.head.shape[1]
        along = orbits.along(jacobian[:, :, :n])
        return value, along + orbits.along_strain(jacobian[:, :, n:]) if strain else along


def _by_coordinates(
    value: Float[Tensor, "B F"], variables: Sequence[Tensor], structures: StructureBatch
) -> Float[Tensor, "B F m 3"]:
    r"""Return the Jacobian of values in positions (and strains), by a backward pass for each coordinate.

    The gradient :math:`w^\top J` is linear in the weights w, so that its derivative in them along a direction
    t of the coordinates is :math:`J t`.
    """
    weights = torch.zeros_like(value, requires_grad=True)
    gradients = torch.autograd.grad(value, variables, weights, create_graph=True, materialize_grads=True)
    columns = []
    for variable, gradient in zip(variables, gradients, strict=True):
        of_atoms = variable.shape == structures.positions.shape
        for row in range(max(structures.n_atoms.tolist()) if of_atoms else 3):
            for axis in range(3):
                direction = torch.zeros_like(variable)
                if of_atoms:
                    direction[structures.position_in_structure == row, axis] = 1.0
                else:
                    direction[:, row, axis] = 1.0
                columns.append(
                    torch.autograd.grad(gradient, weights, direction, retain_graph=True)[0]
                    if gradient.requires_grad
                    else torch.zeros_like(value)  # nothing depends on it
                )
    return torch.stack(columns, -1).detach().unflatten(-1, (-1, 3))


def _no_change(structures: StructureBatch) -> Float[Tensor, ""]:
    """Return a zero that can be differentiated in positions and cells."""
    return 0.0 * (structures.positions.sum() + structures.cells.sum())


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Structures of B tensors, and reasons for those without one.

    Attributes:
        structures: G ≤ B structures.
        index: Index of the tensor of each.
        skipped: Reason for each other tensor.
        loss: Remaining difference from the tensor, shape (G,); None where the closed form does not tell.
        measures: Self-consistency of the tensors, by name, each of shape (B,).
        snapped: Number of sites whose nearest element was replaced, as it is not allowed.
    """

    structures: StructureBatch
    index: Int[Tensor, "G"]
    skipped: Mapping[int, str]
    loss: Float[Tensor, "G"] | None = None
    measures: Mapping[str, Float[Tensor, "B"]] = field(default_factory=dict)
    snapped: int = 0


class InvertibleRepresentation(Representation):
    """A representation with a closed-form inverse.

    Attributes:
        exact_below: Largest loss of a structure that has exactly the features decoded.
    """

    exact_below: ClassVar[float] = 0.0

    @abstractmethod
    def decode(self, tensors: Float[Tensor, "B *shape"]) -> Any:
        """Return the structures of tensors.

        Returns:
            An object with ``structures``, ``index`` (the tensor of each) and ``skipped`` (reasons of the
            others).
        """

    @abstractmethod
    def reconstruct(
        self, tensors: Float[Tensor, "B *shape"], *, elements: Mapping[str, Any], **settings: Any
    ) -> Decoded:
        """Decode as a workflow needs it.

        Args:
            tensors: B features.
            elements: ``elements`` that structures may have, those ``required``, and the ``formula``; None or
                empty where any will do.
            settings: Of :class:`whorl.reconstruction.ClosedForm`.
        """


def make_representation(config: Mapping[str, Any]) -> Representation:
    """Build a representation from its ``config()``, or from a preset such as ``{"preset": "fung2022"}``.

    Raises:
        InputError: Unknown kind, preset or setting.
    """
    settings = {name: value for name, value in config.items() if name != "kind"}
    kind = str(config.get("kind", RepresentationSettings.default))
    # The config may come from a feature file, which must not cause an import.
    representation = REPRESENTATIONS.get(kind, imports=False)
    try:
        return representation.from_config(settings)
    except TypeError as error:
        name = representation.__name__
        raise InputError(f"representation '{kind}': {error}. See the documentation of {name}.") from None
