r"""Cells and space groups for a formula: p(space group, volume, shape | formula, property).

The shape of a cell is the logarithm of its metric, without the volume,

.. math::
   S = \log\bigl(h h^{\mathsf T} / V^{2/3}\bigr), \qquad h h^{\mathsf T} = V^{2/3}\, e^S

(h: the lattice vectors as rows). It is symmetric and has no trace, so that five numbers tell it, and any five
numbers are a cell. What a symmetry of the lattice equates (lengths, right angles) is linear in S, so that
means and differences of shapes of one kind are of this kind too.

Structures of the data count as neighbours of a formula F by the weight

.. math::
   w_i \propto \exp\Bigl(-\frac{|q_i - q_F|^2}{2 s^2} - \frac{(\ln N_i/N)^2}{2 t^2}
   - \frac{(y_i - y)^2}{2 u^2}\Bigr)\, m_i

where q are the descriptors of the atoms in the order of their electronegativity, as a function of the share
of atoms, and m is 1 for formulas with the same numbers of atoms of each element, and less for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whorl.errors import InputError
from whorl.proposals.volumes import atomic_volumes
from whorl.representations.elements import DESCRIPTORS, descriptor_table
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import covalent_radii, element_counts
from whorl.structures.neighbors import neighbor_list
from whorl.symmetry.detection import known_space_groups, reduced_cells
from whorl.symmetry.groups import symmetric_arrangement
from whorl.symmetry.space_groups import Lattices, settings_of

_UPPER = ((0, 0, 0, 1, 1), (0, 1, 2, 1, 2))  # the last of the diagonal follows from the trace
_SHARES = 60  # of atoms at which descriptors are compared; whole for 2, 3, 4, 5, 6, 10, 12 … atoms
_ELEMENTS = 0.3  # s, in standard deviations of a descriptor
_SIZE = 0.05  # t
_VALUE = 0.3  # u, in standard deviations of the property
_TRIED, _ARRANGEMENTS = 24, 6  # lattices, and arrangements in each, until distances are as in real crystals
_APART = 0.8  # such distances, over the sums of the covalent radii
_OTHER_NUMBERS = 0.02  # m of a formula with other numbers of atoms of its elements


def shape_of(cells: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 5"]:
    """Return the shapes of cells: 11, 12, 13, 22 and 23 of the logarithm of the metric at volume 1.

    Raises:
        InputError: A cell has no volume.
    """
    # Singular values of h are the square roots of the metric's, to all digits.
    left, singular, _ = torch.linalg.svd(cells)
    flat = ~(singular[:, -1] > 1e-12 * singular[:, 0])
    if bool(flat.any()):
        row = int(torch.nonzero(flat)[0])
        raise InputError(
            f"cell {row}: got lattice vectors {cells[row].tolist()}, expected three that span a volume. "
            "Leave out structures without a cell."
        )
    logarithm = 2 * singular.log()
    logarithm = logarithm - logarithm.mean(1, keepdim=True)
    return ((left * logarithm[:, None]) @ left.mT)[:, _UPPER[0], _UPPER[1]]


def cell_of(shapes: Float[Tensor, "B 5"], volume: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Return cells of shapes and volumes (Å³): a along x, b in the x-y plane, as rows.

    Raises:
        InputError: A volume is not positive.
    """
    if not bool((volume > 0).all()):
        raise InputError(f"volumes: got {float(volume.min()):g} Å³, expected volumes greater than 0.")
    matrix = shapes.new_zeros(len(shapes), 3, 3)
    matrix[:, _UPPER[0], _UPPER[1]] = shapes
    matrix[:, _UPPER[1], _UPPER[0]] = shapes
    matrix[:, 2, 2] = -shapes[:, 0] - shapes[:, 3]
    values, vectors = torch.linalg.eigh(matrix)
    _, upper = torch.linalg.qr((vectors * (0.5 * values).exp()[:, None]).mT)
    lower = upper.mT * torch.where(upper.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)[:, None]
    return lower * volume.pow(1 / 3)[:, None, None]


class CellModel:
    """Cells and space groups for formulas, from those of a data set.

    Args:
        structures: The data; structures that are not periodic in three directions are left out.
        values: Their property, NaN where it is unknown; None to leave it out.

    Attributes:
        space_groups: Numbers of those of the crystals.

    Raises:
        InputError: No crystals.
    """

    def __init__(self, structures: StructureBatch, values: Float[Tensor, "N"] | None = None) -> None:
        crystals = torch.nonzero(
            structures.pbc.all(1).cpu() & (volumes(structures.cells) > 0).cpu()
        ).flatten()
        if not len(crystals):
            raise InputError(
                "cells: got no crystals, expected structures that are periodic in all directions."
            )
        data = structures.to(device="cpu", dtype=torch.float64)[crystals]
        self._rows, self._total = crystals, len(structures)
        self._values = None if values is None else values.double().cpu()[crystals]
        self.space_groups = known_space_groups(data)
        self._atomic = atomic_volumes(data)
        counts = element_counts(data)
        self._counts = counts
        self._n_atoms = counts.sum(1)
        self._packing = (volumes(data.cells) / (counts @ self._atomic)).log()
        self._shapes = shape_of(reduced_cells(data.cells))
        self._profiles = _profiles(counts)
        self._numbers = counts.sort(dim=1, descending=True).values

    def log_weights(self, formula: Mapping[str, int], value: float | None = None) -> Float[Tensor, "N"]:
        """Return the logarithms of the weights of the crystals as neighbours of a formula."""
        wanted = _counts_of(formula)
        n = float(wanted.sum())
        squares = (self._profiles - _profiles(wanted)).square().sum(1)
        weights = -0.5 * squares / _ELEMENTS**2 - 0.5 * ((self._n_atoms / n).log() / _SIZE) ** 2
        # The same ratio of the numbers of atoms: AB and A2B2 are alike in this.
        numbers = wanted.sort(descending=True).values
        same = (self._numbers / self._n_atoms[:, None] - numbers / n).abs().sum(1) < 1e-9
        weights = torch.where(same, weights, weights + math.log(_OTHER_NUMBERS))
        if value is not None and self._values is not None:
            known = self._values.isfinite()
            spread = self._values[known].std().clamp(min=1e-12) * _VALUE
            apart = torch.where(known, (self._values - value) / spread, 1.0)
            weights = weights - 0.5 * apart**2
        return torch.log_softmax(weights, 0)

    def likely(self, formula: Mapping[str, int], value: float | None = None) -> list[tuple[int, float]]:
        """Return the numbers of space groups with their probabilities, the likeliest first."""
        weights = self.log_weights(formula, value).exp()
        chances = torch.zeros(231, dtype=torch.float64).index_add(0, self.space_groups, weights)
        order = torch.argsort(chances, descending=True, stable=True)
        return [(int(k), float(chances[k])) for k in order if chances[k] > 0]

    def volume(self, formula: Mapping[str, int], value: float | None = None) -> float:
        """Return the volume expected for all atoms of a formula in Å³."""
        packing = self.log_weights(formula, value).exp() @ self._packing
        return float(_counts_of(formula) @ self._atomic * packing.exp())

    def sample(
        self, formula: Mapping[str, int], *, count: int, rng: np.random.Generator, value: float | None = None
    ) -> Lattices:
        """Return cells for a formula.

        Neighbours are drawn by their weights. Each gives its space group and its packing, and its shape with
        a spread in the manner of the neighbours of this space group, so that what the symmetry equates stays.
        """
        weights = self.log_weights(formula, value).exp()
        drawn = torch.from_numpy(rng.choice(len(weights), count, p=(weights / weights.sum()).numpy()))
        shapes = self._shapes[drawn].clone()
        groups = self.space_groups[drawn]
        for group in groups.unique().tolist():
            inside = torch.nonzero(self.space_groups == group).flatten()
            own = weights[inside] / weights[inside].sum()
            apart = self._shapes[inside] - own @ self._shapes[inside]
            # Silverman's rule in five dimensions, with as many neighbours as count.
            width = (4 / 7 * own.square().sum()) ** (1 / 9)
            some = torch.nonzero(groups == group).flatten()
            noise = torch.from_numpy(rng.standard_normal((len(some), len(inside))))
            shapes[some] += width * (noise * own.sqrt()) @ apart
        volume = _counts_of(formula) @ self._atomic * self._packing[drawn].exp()
        return Lattices(cells=reduced_cells(cell_of(shapes, volume)), space_groups=groups)

    def of_rows(self) -> list[int]:
        """Return the space groups of all structures of the data; 0 without a cell."""
        numbers = torch.zeros(self._total, dtype=torch.int64)
        numbers[self._rows] = self.space_groups
        return numbers.tolist()

    def structure(
        self, formula: Mapping[str, int], *, rng: np.random.Generator, value: float | None = None
    ) -> StructureBatch:
        """Return one structure of a formula: a likely lattice, with atoms at random on orbits of its group.

        Of several such arrangements that of the largest distances. Where the atoms fill no orbits of likely
        groups they are anywhere. ``info`` has the number of the group, ``space_group_number``.
        """
        numbers = np.array([atomic_numbers[symbol] for symbol, n in formula.items() for _ in range(n)])
        lattices = self.sample(formula, count=_TRIED, rng=rng, value=value)
        best, widest = None, -1.0
        for cell, number in zip(lattices.cells.numpy(), lattices.space_groups.tolist(), strict=True):
            settings = settings_of(number, cell)
            if not settings:
                continue
            group = settings[int(rng.integers(len(settings)))]
            for _ in range(_ARRANGEMENTS):
                fractional = symmetric_arrangement(numbers, group, rng)
                if fractional is None:
                    break
                made = _structure(numbers, fractional, cell, number)
                if (closest := _closest(made)) > widest:
                    best, widest = made, closest
            if widest >= _APART:
                break
        if best is None:
            best = _structure(numbers, rng.random((len(numbers), 3)), lattices.cells[0].numpy(), 1)
        return best


def _structure(
    numbers: NDArray[np.int64], fractional: NDArray[np.float64], cell: NDArray[np.float64], group: int
) -> StructureBatch:
    return StructureBatch(
        positions=torch.from_numpy(fractional @ cell),
        cells=torch.from_numpy(cell)[None].clone(),
        pbc=torch.ones(1, 3, dtype=torch.bool),
        atomic_numbers=torch.from_numpy(numbers),
        structure_index=torch.zeros(len(numbers), dtype=torch.int64),
        info=({"space_group_number": group},),
    )


def _closest(structure: StructureBatch) -> float:
    """Return the least distance of two atoms over the sum of their covalent radii, or 1 if that is more."""
    radii = covalent_radii(structure.atomic_numbers).double()
    pairs = neighbor_list(structure, cutoff=2 * float(radii.max()))
    ratio = pairs.vectors(structure).norm(dim=1) / (radii[pairs.first] + radii[pairs.second])
    return min([1.0, *ratio.tolist()])


def _counts_of(formula: Mapping[str, int]) -> Float[Tensor, "119"]:
    counts = torch.zeros(119, dtype=torch.float64)
    for symbol, number in formula.items():
        counts[atomic_numbers[symbol]] = number
    return counts


def _profiles(counts: Float[Tensor, "*B 119"]) -> Float[Tensor, "*B d"]:
    """Return descriptors at shares of the atoms, in the order of electronegativity; of unit mean square."""
    table = descriptor_table(DESCRIPTORS)
    table = table / table[1:95].std(0)
    order = torch.argsort(table[:, 0], stable=True)
    upto = counts[..., order].cumsum(-1) / counts.sum(-1, keepdim=True)
    shares = ((torch.arange(_SHARES, dtype=torch.float64) + 0.5) / _SHARES).expand(*counts.shape[:-1], -1)
    which = order[torch.searchsorted(upto.contiguous(), shares.contiguous()).clamp(max=len(order) - 1)]
    return (table[which] / _SHARES**0.5).flatten(-2)
