"""Groups of symmetry functions that share work, and their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whorl.representations.acsf.functions import Angular, Radial
from whorl.representations.cutoffs import Cutoff
from whorl.representations.kernels import Columns, columns

G2 = tuple[float, float]
G4 = tuple[float, float, float]


@dataclass(frozen=True)
class AngularGroup:
    """Kernels for some functions, and their columns among the angular ones."""

    kernel: Angular
    columns: Tensor  # (k,) column among the angular functions
    power: Tensor  # (k,) index of (ζ, λ) in the kernel
    eta: Tensor  # (k,) index of η in the kernel

    @property
    def place(self) -> Tensor:
        """Place of each function in the grid of η (outer) × (ζ, λ)."""
        return self.eta * len(self.kernel.powers) + self.power


class SymmetryFunctions:
    """All functions of one atom, for each species or pair of species of its neighbours.

    Args:
        g2: Pairs (η, R_s).
        g3: Values of κ.
        g4: Triples (η, ζ, λ).
        g5: Triples (η, ζ, λ).
        cutoff: The cutoff function.
        n_species: Number of species that are declared.
    """

    def __init__(
        self,
        *,
        g2: Sequence[G2],
        g3: Sequence[float],
        g4: Sequence[G4],
        g5: Sequence[G4],
        cutoff: Cutoff,
        n_species: int,
    ) -> None:
        self.radial = Radial(g2, g3)
        self.angular = [*_group_g4(g4), *_group_g5(g5, len(g4))]
        self.cutoff, self.n_species = cutoff, n_species
        self.n_radial = n_species * self.radial.size
        self.n_angular = len(g4) + len(g5)
        self.species_pairs = [(s, t) for s in range(n_species) for t in range(s, n_species)]

    def __len__(self) -> int:
        """Return the number of features of an atom."""
        return self.n_radial + len(self.species_pairs) * self.n_angular

    def radial_columns(self, s: int) -> slice:
        """Return the columns of neighbours of one species."""
        return slice(s * self.radial.size, (s + 1) * self.radial.size)

    def angular_columns(self, group: AngularGroup, s: int, t: int) -> Columns:
        """Return the columns of a group for a pair of species."""
        number = self.species_pairs.index((s, t))
        return columns(group.columns + self.n_radial + self.n_angular * number)


def _group_g5(parameters: Sequence[tuple[float, float, float]], offset: int) -> list[AngularGroup]:
    """One kernel for all of G5: every (ζ, λ) with every η, of which the columns asked for are taken."""
    if not parameters:
        return []
    etas = sorted({eta for eta, _, _ in parameters})
    powers = sorted({(zeta, lam) for _, zeta, lam in parameters})
    return [
        AngularGroup(
            kernel=Angular(etas=etas, powers=powers, far_side=False),
            columns=torch.arange(offset, offset + len(parameters)),
            power=torch.tensor([powers.index((zeta, lam)) for _, zeta, lam in parameters]),
            eta=torch.tensor([etas.index(eta) for eta, _, _ in parameters]),
        )
    ]


def _group_g4(parameters: Sequence[tuple[float, float, float]]) -> list[AngularGroup]:
    """One kernel for each η of G4, since η enters the matrix between the two neighbours."""
    groups = []
    for eta in sorted({eta for eta, _, _ in parameters}):
        columns = [place for place, item in enumerate(parameters) if item[0] == eta]
        powers = sorted({parameters[place][1:] for place in columns})
        groups.append(
            AngularGroup(
                kernel=Angular(etas=[eta], powers=powers, far_side=True),
                columns=torch.tensor(columns),
                power=torch.tensor([powers.index(parameters[place][1:]) for place in columns]),
                eta=torch.zeros(len(columns), dtype=torch.int64),
            )
        )
    return groups
