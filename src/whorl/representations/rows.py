r"""Rows: one radial fingerprint for each atom, atoms in a canonical order, with a closed-form inverse.

The row of atom i holds 1 in the place of its own species, and for each species s of neighbours

.. math::
   G_{isk} = \sum_{j \ne i,\, s_j = s} e^{-(r_{ij} - R_k)^2 / 2\sigma^2}, \qquad R_{k+1} = R_k + \sigma .

Rows are sorted by species, and among atoms of one species by the weighted sum of the distances to all others,
:math:`t_i = \sum_j (1 + n_j / 10)\, r_{ij}` with the number :math:`n_j = 0, 1, \ldots` of the species; rows
beyond the atoms of a structure are zero. If σ is small against the mean spacing of an atom's distances, these
can be read from its row, and positions follow in closed form (:mod:`whorl.representations.rows_decoding`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from whorl.errors import InputError
from whorl.representations.base import Decoded, FeatureLayout, InvertibleRepresentation, require_few_features
from whorl.representations.rows_decoding import EXACT, Gaussians, decode
from whorl.representations.settings import SpeciesSettings
from whorl.representations.species import SpeciesRepresentation
from whorl.settings import Count, Positive
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.structures.convert import Structures, as_batch

_FINE = 0.1  # of the mean spacing of an atom's distances: the width for structures that are known
_COARSEST = 0.35  # of it: the largest width of which positions are found in closed form
_WIDEST = 0.2  # Å
_MARGIN = 3.0  # widths, by which functions extend beyond the distances they are made for
_AT_ONCE = 4_000_000  # values of pairs held at a time


class Rows(SpeciesRepresentation, InvertibleRepresentation):
    """One radial fingerprint for each atom of a cluster or molecule, with a closed-form inverse.

    Mirror images have the same rows, and the inverse returns either.

    Args:
        species: Chemical symbols of all elements that may occur, in any order.
        max_atoms: N, the number of rows; smaller structures have rows of zeros.
        shortest: Shortest distance that occurs, in Å.
        cutoff: Longest distance that is seen, in Å. Farther atoms do not contribute; if it is below the
            diameter, positions are completed from what is seen.
        width: σ in Å, also the distance between two functions.

    Raises:
        InputError: Unknown elements, or numbers out of range.

    >>> from ase.build import molecule
    >>> from whorl.structures import from_ase
    >>> rows = Rows(species=["O", "H"], max_atoms=3, shortest=0.9, cutoff=1.6, width=0.1)
    >>> decoded = rows.decode(rows(from_ase(molecule("H2O"))))
    >>> decoded.structures.atomic_numbers.tolist(), bool(decoded.loss < 1e-9)
    ([1, 1, 8], True)
    """

    kind = "rows"
    of_clusters = True
    fewer_features = "a larger width, or a smaller cutoff"
    exact_below = EXACT
    invariances = frozenset({"permutation", "rotation", "translation"})

    class Settings(SpeciesSettings):
        """Settings of rows. ``auto``: made for the structures of the data."""

        max_atoms: Count | Literal["auto"] = "auto"
        """Number of rows. auto: atoms of the largest structure."""
        shortest: Positive | Literal["auto"] = "auto"
        """Shortest distance in Å. auto: 0.9 of the shortest of the data."""
        cutoff: Positive | Literal["auto"] = "auto"
        """Longest distance that is seen, in Å. auto: the longest of the data."""
        width: Positive | Literal["auto"] = "auto"
        """Width and distance of the functions in Å. auto: a tenth of the mean spacing of an atom's
        distances."""

        @property
        def fits_data(self) -> bool:
            """Whether the structures of the data decide a setting."""
            return "auto" in (self.max_atoms, self.shortest, self.cutoff, self.width)

        def build(
            self,
            species: Sequence[str],
            *,
            structures: StructureBatch | None = None,
            shape: tuple[int, ...] | None = None,
        ) -> Rows:
            """Return the rows of structures of these elements.

            Raises:
                InputError: The width is too large for these structures.
            """
            options = {**self.options(), "species": list(self.species or species)}
            fitted = _fitted(structures)
            if shape is not None:
                fitted["max_atoms"] = shape[0]
            options |= {name: fitted[name] for name, value in options.items() if value == "auto"}
            made = Rows(**options)
            apart = [one for one in _clusters(structures) if len(one) > 1]
            limit = _COARSEST * _spacing(apart, made.cutoff)
            if apart and made.width > limit:
                raise InputError(
                    f"rows: got functions of width {made.width:g} Å, which are too coarse to tell the "
                    f"distances of an atom of these structures apart, expected at most {limit:.3g} Å. Leave "
                    "the width out, or give a smaller one."
                )
            return made

    def __init__(
        self, *, species: Sequence[str], max_atoms: int, shortest: float, cutoff: float, width: float
    ) -> None:
        super().__init__(species)
        if int(max_atoms) != max_atoms or max_atoms < 1:
            raise InputError(f"max_atoms: got {max_atoms}, expected a whole number of at least 1.")
        if not (0 < shortest <= cutoff < math.inf and 0 < width < math.inf):
            raise InputError(
                f"rows: got distances from {shortest:g} to {cutoff:g} Å and width {width:g} Å, expected "
                "positive numbers, the shortest distance first."
            )
        self.max_atoms, self.shortest, self.cutoff = int(max_atoms), float(shortest), float(cutoff)
        self.width = float(width)
        self.gaussians = Gaussians(
            first=self.shortest - _MARGIN * self.width,
            width=self.width,
            count=math.ceil((self.cutoff - self.shortest) / self.width) + int(2 * _MARGIN) + 1,
        )
        s = len(self.species)
        row = s * (1 + self.gaussians.count)
        require_few_features(
            self.max_atoms * row,
            f"Rows: {self.max_atoms} atoms of {s} element{'s' if s > 1 else ''}",
            f"Remedy: {self.fewer_features}.",
        )
        self.layout = _layout(self.species, self.max_atoms, self.gaussians)

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        return {
            "kind": self.kind,
            "species": list(self.species),
            "max_atoms": self.max_atoms,
            "shortest": self.shortest,
            "cutoff": self.cutoff,
            "width": self.width,
        }

    def describe(self) -> str:
        """Return a short description."""
        return f"{self.max_atoms} rows of functions of width {self.width:.3g} Å up to {self.cutoff:.3g} Å"

    def sharpness(self) -> Float[Tensor, "F"]:
        """Return 1/σ for the functions, and 0 for the species of an atom."""
        row = torch.full((self.layout.shape[1],), 1.0 / self.width, dtype=torch.float64)
        row[: len(self.species)] = 0.0
        return row.repeat(self.max_atoms)

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the index of each structure that cannot be encoded, and why."""
        structures = as_batch(structures)
        problems = find_problems(structures, species=self.species)
        for index, (periodic, n) in enumerate(
            zip(structures.pbc.any(1).tolist(), structures.n_atoms.tolist(), strict=True)
        ):
            if index not in problems and (periodic or n > self.max_atoms):
                problems[index] = (
                    "is periodic, and rows are of clusters and molecules"
                    if periodic
                    else f"has {n} atoms, and max_atoms is {self.max_atoms}"
                )
        return dict(sorted(problems.items()))

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B N f"]:
        """Return the rows of each structure."""
        if bool(structures.pbc.any() or (structures.n_atoms > self.max_atoms).any()):
            index, reason = next(iter(self.find_problems(structures).items()))
            largest = int(structures.n_atoms.max())
            remedy = (
                "Choose another representation."
                if bool(structures.pbc.any())
                else f"Set max_atoms to at least {largest}, or leave it out."
            )
            raise InputError(f"rows: structure {index} {reason}. {remedy}")
        at_once = max(1, _AT_ONCE // (self.max_atoms**2 * self.gaussians.count))
        return torch.cat([self._rows(part) for part in structures.chunks(at_once)])

    def _rows(self, structures: StructureBatch) -> Float[Tensor, "B N f"]:
        place = structures.structure_index, structures.position_in_structure
        shape = len(structures), int(structures.n_atoms.max())
        one_hot = structures.positions.new_zeros(*shape, len(self.species))
        one_hot[(*place, self.species_index(structures))] = 1.0
        positions = structures.positions.new_zeros(*shape, 3).index_put(place, structures.positions)
        present = one_hot.sum(2)
        others = present[:, :, None] * present[:, None] * (1.0 - torch.eye(shape[1]).to(present))
        square = (positions[:, :, None] - positions[:, None]).square().sum(3)
        distance = torch.where(others > 0, square, 1.0).sqrt()  # the root has no derivative at 0
        centres = torch.as_tensor(self.gaussians.centres).to(distance)
        values = torch.exp(-0.5 * ((distance[..., None] - centres) / self.width).square())
        rows = torch.einsum("bijk,bij,bjs->bisk", values, others, one_hot).flatten(2)
        rows = torch.cat([one_hot, rows], 2)
        weights = 1.0 + 0.1 * one_hot.argmax(2).to(distance)  # equal for atoms with equal rows alone
        tag = (distance.detach() * others * weights[:, None]).sum(2)
        order = torch.argsort(tag, dim=1, stable=True)
        last = torch.where(present > 0, one_hot.argmax(2), len(self.species))
        order = order.gather(1, torch.argsort(last.gather(1, order), dim=1, stable=True))
        rows = rows.gather(1, order[:, :, None].expand_as(rows))
        return torch.nn.functional.pad(rows, (0, 0, 0, self.max_atoms - shape[1]))

    def decode(self, tensors: Float[Tensor, "B N f"], *, formula: Mapping[str, int] | None = None) -> Decoded:
        """Return the structures of rows, by :func:`whorl.representations.rows_decoding.decode`.

        Args:
            tensors: B × N rows; an atom is where the species adds up to more than a half.
            formula: Composition, of which structures have a multiple; None for what the rows say.

        Returns:
            Structures with their root mean square difference of a value as ``loss``. Noisy rows are those of
            no structure exactly, and what has the nearest rows is returned.
        """
        found, index, loss = [], [], []
        skipped: dict[int, str] = {}
        numbers = torch.tensor([atomic_numbers[symbol] for symbol in self.species])
        for number, tensor in enumerate(tensors.detach().double().cpu()):
            try:
                kinds, target = self._read(tensor, formula)
            except InputError as error:
                skipped[number] = str(error)
                continue
            positions, misfit = decode(target, kinds, self.gaussians)
            index.append(number)
            loss.append(misfit)
            found.append(
                StructureBatch(
                    positions=torch.as_tensor(positions),
                    cells=torch.zeros(1, 3, 3, dtype=torch.float64),
                    pbc=torch.zeros(1, 3, dtype=torch.bool),
                    atomic_numbers=numbers[kinds],
                    structure_index=torch.zeros(len(kinds), dtype=torch.int64),
                )
            )
        nothing = StructureBatch(
            positions=torch.zeros(0, 3, dtype=torch.float64),
            cells=torch.zeros(0, 3, 3, dtype=torch.float64),
            pbc=torch.zeros(0, 3, dtype=torch.bool),
            atomic_numbers=torch.zeros(0, dtype=torch.int64),
            structure_index=torch.zeros(0, dtype=torch.int64),
        )
        return Decoded(
            structures=StructureBatch.concatenate([nothing, *found]),
            index=torch.tensor(index, dtype=torch.int64),
            skipped=skipped,
            loss=torch.tensor(loss, dtype=torch.float64),
        )

    def reconstruct(
        self, tensors: Float[Tensor, "B N f"], *, elements: Mapping[str, Any], **settings: Any
    ) -> Decoded:
        """Return the structures of rows with a requested formula; see the base class."""
        return self.decode(tensors, formula=elements.get("formula"))

    def _read(self, tensor: Tensor, formula: Mapping[str, int] | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the species of the atoms in ascending order, and their fingerprints (n, S, K).

        Raises:
            InputError: The reason why these are no rows of a structure.
        """
        if not bool(tensor.isfinite().all()):
            raise InputError("has NaN or infinite features")
        s = len(self.species)
        one_hot = tensor[:, :s].numpy()
        rows = np.nonzero(one_hot.sum(1) > 0.5)[0]
        kinds = one_hot[rows].argmax(1)
        if formula is not None:
            times = max(1, round(len(rows) / sum(formula.values())))
            known = [
                (self.species.index(symbol), n) for symbol, n in formula.items() if symbol in self.species
            ]
            places = np.repeat([kind for kind, _ in known], [times * n for _, n in known])
            if len(known) < len(formula) or len(places) > self.max_atoms:
                raise InputError(
                    f"cannot have the formula requested: it has {self.max_atoms} rows for atoms of "
                    f"{', '.join(self.species)}"
                )
            rows, chosen = linear_sum_assignment(-one_hot[:, places])
            kinds = places[chosen]
        if not len(rows):
            raise InputError("has no atoms")
        order = np.argsort(kinds, kind="stable")
        target = tensor[rows[order], s:].unflatten(1, (s, -1)).numpy()
        seen = target.sum((1, 2)).max() / math.sqrt(2.0 * math.pi)
        if self.width > (limit := _COARSEST * self.cutoff / max(seen, 1.0)):
            raise InputError(
                f"has atoms with {seen:.0f} distances up to {self.cutoff:.3g} Å, and functions of width "
                f"{self.width:.3g} Å are too coarse to tell these apart, expected at most {limit:.3g} Å"
            )
        return kinds[order], target


def _fitted(structures: StructureBatch | None) -> dict[str, Any]:
    """Return the arguments that suit structures; without any, those of a cluster of ten atoms."""
    fitted = {"max_atoms": 10, "shortest": 2.0, "cutoff": 8.0, "width": 0.1}
    apart = _clusters(structures)
    if not apart:
        return fitted
    fitted["max_atoms"] = max(len(one) for one in apart)
    apart = [one for one in apart if len(one) > 1]
    if apart:
        fitted["shortest"] = 0.9 * min(float(one[one > 0].min()) for one in apart)
        fitted["cutoff"] = max(float(one.max()) for one in apart)
        fitted["width"] = min(_WIDEST, _FINE * _spacing(apart, fitted["cutoff"]))
    return fitted


def _clusters(structures: StructureBatch | None) -> list[Float[Tensor, "n n"]]:
    """Return the distances of the atoms of each structure that is not periodic."""
    return [] if structures is None else [_apart(one) for one in structures if not bool(one.pbc.any())]


def _apart(structure: StructureBatch) -> Float[Tensor, "n n"]:
    return torch.cdist(structure.positions, structure.positions, compute_mode="donot_use_mm_for_euclid_dist")


def _spacing(apart: Sequence[Tensor], cutoff: float) -> float:
    """Return the least mean spacing of the distances of an atom that are seen, in Å."""
    spacing = [cutoff]
    for one in apart:
        seen = (one <= cutoff).sum(1) - 1
        spacing.append(min(float(one.max()), cutoff) / max(int(seen.max()), 1))
    return min(spacing)


def _layout(species: tuple[str, ...], max_atoms: int, gaussians: Gaussians) -> FeatureLayout:
    own = [f"is-{symbol}" for symbol in species]
    seen = [f"{symbol}/{centre:.4f}" for symbol in species for centre in gaussians.centres]
    width = len(own) + len(seen)
    return FeatureLayout(
        names=tuple(f"{atom}/{name}" for atom in range(max_atoms) for name in (*own, *seen)),
        shape=(max_atoms, width),
        blocks={str(atom): slice(atom * width, (atom + 1) * width) for atom in range(max_atoms)},
    )
