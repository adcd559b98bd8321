r"""What is sought: structures whose representation is the one asked for.

With a representation R, a target :math:`R^*`, feature weights w and a penalty ρ, the loss of a structure x is

.. math:: L(x) = \frac1F \sum_f \rho\bigl(w_f\,(R_f(x) - R^*_f)\bigr)

(Fung et al. 2022, section 2.1; there ρ is the absolute value and all weights are 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.representations.base import Representation
from whorl.structures.batch import StructureBatch


def _huber(residual: Tensor) -> Tensor:
    size = residual.abs()
    return torch.where(size <= 1, 0.5 * size.square(), size - 0.5)


_PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mae": torch.abs,
    "squared": torch.square,
    "huber": _huber,  # bends at 1, so that the weights say where
}


@dataclass(frozen=True, kw_only=True)
class InversionProblem:
    """T targets, each with the composition and cell in which its structure is sought.

    Attributes:
        representation: The map R.
        target: The fingerprints R* sought, flattened, shape (T, F).
        template: T structures that give species, cell and pbc; their positions are not used.
        loss: ``"mae"``, ``"squared"`` or ``"huber"`` (bends at a weighted residual of 1).
        weights: One factor per feature, not negative, shape (F,); ``None`` weighs all alike. With features of
            very different size, :func:`whitening_weights` keeps the large ones from deciding alone.

    Raises:
        InputError: Shapes that do not fit, NaN in the targets or weights, an unknown loss, or a species that
            the representation was not made for.
    """

    representation: Representation
    target: Float[Tensor, "T F"]
    template: StructureBatch
    loss: str = "mae"
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.loss not in _PENALTIES:
            raise unknown_option("loss", self.loss, _PENALTIES)
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
            _check_weights(self.weights, n_features)
        self._check_species()

    def _check_species(self) -> None:
        declared = self.representation.config().get("species")
        if not declared:
            return
        from ase.data import atomic_numbers, chemical_symbols

        allowed = {atomic_numbers.get(s, s) if isinstance(s, str) else int(s) for s in declared}
        for z in self.template.atomic_numbers.unique().tolist():
            if z not in allowed:
                symbol = chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z)
                raise InputError(
                    f"template: contains {symbol}, but the representation was made for "
                    f"{', '.join(str(s) for s in declared)}. Declare {symbol} in the "
                    "representation's species."
                )

    def __len__(self) -> int:
        """Return the number of targets T."""
        return len(self.target)

    def select(self, index: slice | Sequence[int] | Tensor) -> InversionProblem:
        """Return the problem of the chosen targets, repeats allowed: targets × starts is one flat batch."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.target.device)
        # Already checked, and checks would cost as much as a step of the search.
        return self._unchecked(target=self.target[index], template=self.template[index])

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
        )

    def _unchecked(self, **changes: object) -> InversionProblem:
        new = object.__new__(InversionProblem)
        for field in dataclasses.fields(self):
            object.__setattr__(new, field.name, changes.get(field.name, getattr(self, field.name)))
        return new

    def residual(self, structures: StructureBatch) -> Float[Tensor, "T F"]:
        r"""Return :math:`w\,(R(x) - R^*)`, differentiable in the positions and cells."""
        residual = self.representation(structures).flatten(1) - self.target
        return residual if self.weights is None else residual * self.weights

    def value(self, structures: StructureBatch) -> Float[Tensor, "T"]:
        """Return the loss of each structure against the target of the same index, differentiable."""
        return _PENALTIES[self.loss](self.residual(structures)).mean(1)

    def scale(self) -> Float[Tensor, "T"]:
        """Return the loss that a representation of all zeros would have: a size to compare losses with."""
        residual = self.target if self.weights is None else self.target * self.weights
        return _PENALTIES[self.loss](residual).mean(1)

    def value_and_gradient(
        self, structures: StructureBatch
    ) -> tuple[Float[Tensor, "T"], Float[Tensor, "A 3"]]:
        """Return each loss, and the gradient of each structure's loss in its own positions (per Å)."""
        positions = structures.positions.detach().requires_grad_(True)
        with torch.enable_grad():
            value = self.value(structures.replace(positions=positions))
            # Structures do not see one another, so the gradient of the sum is that of each.
            (gradient,) = torch.autograd.grad(value.sum(), positions)
        return value.detach(), gradient


def _check_weights(weights: Tensor, n_features: int) -> None:
    if tuple(weights.shape) != (n_features,):
        raise InputError(
            f"weights: got shape {tuple(weights.shape)}, expected ({n_features},), one per feature."
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
