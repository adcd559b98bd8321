r"""Closed-form decoding of CrysTens tensors, and their self-consistency.

A tensor is redundant, so its noise can be estimated. For each tensor:

1. **Number of atoms.** With :math:`f_i` the mean entries of cell and space group in slot i
   (normalised), the best division into A equal slots and N - A empty slots has
   :math:`A = \arg\max_A |\sum_{i \le A} f_i|^2 / A`.
2. **Means.** Lengths, angles and the space group over their 8 A repeats, what belongs to an atom over its 8;
   coordinates on the circle. The variances :math:`\sigma^2` of the repeats are the noise.
3. **Coordinates.** From :math:`\hat x_i` (8 repeats) and the differences :math:`d_{ij}` (2 repeats), by least
   squares in the noise of both: :math:`x_i = \hat x_i + \frac{w_d}{w_x + A w_d} \sum_j (d_{ji} - \hat x_i +
   \hat x_j)`, :math:`w_x = 8/\sigma_x^2`, :math:`w_d = 2/\sigma_d^2`, all differences to the nearest image.
   Their error is :math:`s = (w_x + A w_d)^{-1/2}`. (The paper averages the A guesses with equal weights.)
4. **Clustering.** ``"auto"``: coordinates are merged as far as s allows (:mod:`whorl.representations
   .clustering`); elements by :func:`_parsimonious`; lengths and angles by :func:`_metric`. ``"paper"``: the
   paper's means, then k-means of fixed K for atomic numbers and the values of x, y and z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.parallel import map_threads
from whorl.representations.clustering import k_means, merge_on_circle
from whorl.representations.crystens import HEADER, LAYERS, CrysTens, image_distances, length
from whorl.representations.lattice_classes import most_likely_lattice
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cells_from_parameters
from whorl.symmetry.detection import TOLERANCES, Refined, refine

CLUSTERINGS = ("auto", "paper")

_AT_ONCE = 32  # tensors decoded together, so that their arrays of pairs fit into the processor's caches
_SMALLEST_ANGLE = 15.0  # degrees; slots with less are empty
_SMALLEST_VOLUME = 0.1  # Å³
_NEW_ELEMENT = math.log(118.0)  # cost of one more element: the choice among all; see _parsimonious
_ERROR = {"coordinate": 1e-4, "length": 1e-3, "angle": 1e-2, "space_group": 0.25, "element": 1e-3}
"""Minimum standard errors, since errors of models are correlated; that of elements is normalised."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Self-consistency of each tensor: 0 for consistent tensors, NaN for those without atoms.

    The first four are table 1 of the paper, the last two are table 2; the paper gives means over tensors.

    Attributes:
        variance_lengths: Variance of the 8 A repeats of a, b and c, averaged over the three, in Å².
        variance_angles: The same of α, β and γ, in square degrees.
        variance_space_group: The same of the number of the space group.
        variance_coordinates: Variance of the 8 repeats of a fractional coordinate (on the circle), averaged
            over atoms and directions.
        coordinate_agreement: Mean over atoms and directions of the absolute difference between a coordinate's
            mean and the mean of its A - 1 estimates from the differences; fractional.
        coordinate_agreement_squared: Mean of its square. The paper does not say which of the two it uses.
        pairwise_difference: Sum over pairs (i, j) of the absolute difference between the distances in the
            first layer and those of the decoded coordinates, over A; fractional, or Å for
            ``pairwise="cartesian"``.
    """

    variance_lengths: Float[Tensor, "B"]
    variance_angles: Float[Tensor, "B"]
    variance_space_group: Float[Tensor, "B"]
    variance_coordinates: Float[Tensor, "B"]
    coordinate_agreement: Float[Tensor, "B"]
    coordinate_agreement_squared: Float[Tensor, "B"]
    pairwise_difference: Float[Tensor, "B"]

    def means(self) -> dict[str, float]:
        """Return the mean of each measure over the tensors that have atoms."""
        return {one.name: float(getattr(self, one.name).nanmean()) for one in fields(self)}

    def __getitem__(self, index: Tensor) -> Measures:
        """Return the measures of some tensors."""
        return Measures(**{one.name: getattr(self, one.name)[index] for one in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Measures]) -> Measures:
        """Join measures, in order."""
        return cls(**{one.name: torch.cat([getattr(p, one.name) for p in parts]) for one in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class DecodedCrystals:
    """Crystals decoded from tensors, and reasons for the skipped tensors.

    Attributes:
        structures: G ≤ B crystals; ``info`` has the encoded ``space_group_number`` and the measures as
            ``crystens_…``.
        index: Index of the tensor of each crystal.
        skipped: Reason for each tensor that was not decoded.
        measures: Of the crystals' tensors.
        space_group: Mean encoded number of the space group; not an integer.
        space_group_error: Standard error of that.
        position_error: Standard error in Å of the positions, from the noise of the tensor.
        snapped: Number of sites of each crystal whose nearest element was replaced, as it
            is not allowed.
    """

    structures: StructureBatch
    index: Int[Tensor, "G"]
    skipped: dict[int, str]
    measures: Measures
    space_group: Float[Tensor, "G"]
    space_group_error: Float[Tensor, "G"]
    position_error: Float[Tensor, "G"]
    snapped: Int[Tensor, "G"]

    def refined(self, *, tolerances: Sequence[float] = TOLERANCES, most: float | None = None) -> Refined:
        """Return the crystals refined to their symmetry; see :func:`whorl.symmetry.detection.refine`.

        The encoded space group is preferred. ``info`` of the structures gets the
        ``space_group_number`` found, ``symmetry_symprec`` and ``symmetry_displacement`` (Å).

        Args:
            tolerances: Tolerances in Å.
            most: Largest displacement of an atom in Å; by default five standard errors of its position,
                at least 0.1 and at most 0.8.
        """
        limit = (5.0 * self.position_error).clamp(0.1, 0.8)
        found = refine(
            self.structures,
            expected=self.space_group,
            expected_error=self.space_group_error,
            tolerances=tolerances,
            most=limit if most is None else most,
        )
        rows = zip(
            self.structures.info,
            found.space_group.tolist(),
            found.symprec.tolist(),
            found.displacement.tolist(),
            strict=True,
        )
        info = tuple(
            {**old, "space_group_number": n, "symmetry_symprec": rung, "symmetry_displacement": moved}
            for old, n, rung, moved in rows
        )
        return Refined(
            structures=found.structures.replace(info=info),
            space_group=found.space_group,
            symprec=found.symprec,
            displacement=found.displacement,
            strain=found.strain,
        )


@torch.no_grad()
def decode(
    codec: CrysTens,
    tensors: Tensor | Sequence[Tensor],
    *,
    clustering: str | None = "auto",
    k_elements: int = 3,
    k_coordinates: int = 6,
    elements: Sequence[str] | None = None,
    required: Sequence[str] = (),
    formula: Mapping[str, int] | None = None,
) -> DecodedCrystals:
    """Return the crystals of tensors; those that cannot be decoded are skipped with a reason.

    An uncertain model interpolates between elements, and the nearest element may be
    unrelated. With ``elements``, sites get the nearest of these.

    Args:
        codec: Representation of the tensors.
        tensors: Shape (B, H, W, C), or a sequence of tensors.
        clustering: ``"auto"``, ``"paper"``, or None for the means as they are; see the module.
        k_elements: K of the paper's clustering of atomic numbers.
        k_coordinates: K of its clustering of coordinates, for each direction.
        elements: Chemical symbols that sites may have; all by default.
        required: Elements that each crystal must contain: a missing one replaces the nearest element
            that is not required, if there is one.
        formula: Atoms of each element, such as those of BaTiO3: sites get no other element, and in a crystal
            of whole formula units they are divided among them in these proportions, at the least misfit.

    Raises:
        InputError: Unknown clustering or elements, or K below 1.
    """
    if clustering is not None and clustering not in CLUSTERINGS:
        raise unknown_option("clustering", str(clustering), CLUSTERINGS)
    if min(k_elements, k_coordinates) < 1:
        raise InputError(f"k-means: got K = {min(k_elements, k_coordinates)}, expected at least 1.")

    choice = _Choice.of(elements, required, formula)

    def decoded(start: int) -> DecodedCrystals:
        index, some, skipped = _sound(codec, tensors[start : start + _AT_ONCE], start)
        return _decode(codec, some, index, skipped, clustering, k_elements, k_coordinates, choice)

    parts = map_threads(decoded, list(range(0, max(len(tensors), 1), _AT_ONCE)))
    return DecodedCrystals(
        structures=StructureBatch.concatenate([part.structures for part in parts]),
        index=torch.cat([part.index for part in parts]),
        skipped={index: reason for part in parts for index, reason in sorted(part.skipped.items())},
        measures=Measures.concatenate([part.measures for part in parts]),
        space_group=torch.cat([part.space_group for part in parts]),
        space_group_error=torch.cat([part.space_group_error for part in parts]),
        position_error=torch.cat([part.position_error for part in parts]),
        snapped=torch.cat([part.snapped for part in parts]),
    )


@torch.no_grad()
def measures(codec: CrysTens, tensors: Float[Tensor, "B H W C"]) -> Measures:
    """Return the self-consistency of each tensor, as in tables 1 and 2 of the paper.

    Raises:
        InputError: Tensors of another shape.
    """
    if tuple(tensors.shape[1:]) != codec.layout.shape:
        raise InputError(
            f"CrysTens measures: got tensors of shape {tuple(tensors.shape[1:])}, expected "
            f"{codec.layout.shape}."
        )
    parts = []
    for part in tensors.split(_AT_ONCE):
        reading = _Reading(codec, part.double())
        bad = ~part.isfinite().flatten(1).all(1) | ~reading.holds_atoms
        found = reading.measures()
        parts.append(
            Measures(
                **{one.name: getattr(found, one.name).masked_fill(bad, torch.nan) for one in fields(found)}
            )
        )
    return Measures.concatenate(parts or [_Reading(codec, tensors.double()).measures()])


def _sound(
    codec: CrysTens, tensors: Tensor | Sequence[Tensor], start: int
) -> tuple[Tensor, Tensor, dict[int, str]]:
    """Return index and tensors of those that can be decoded, as float64, and reasons for the others."""
    shape, skipped = codec.layout.shape, {}
    index = torch.arange(start, start + len(tensors))
    if not isinstance(tensors, Tensor) or tuple(tensors.shape[1:]) != shape:
        for i, one in zip(index.tolist(), tensors, strict=True):
            if tuple(one.shape) != shape:
                skipped[i] = f"has the shape {tuple(one.shape)}, expected {shape}"
        rows = [one for i, one in zip(index.tolist(), tensors, strict=True) if i not in skipped]
        index = torch.tensor([i for i in index.tolist() if i not in skipped], dtype=torch.int64)
        tensors = torch.stack(rows) if rows else torch.zeros(0, *shape)
    finite = tensors.isfinite().flatten(1).all(1)
    for i in index[~finite.cpu()].tolist():
        skipped[i] = "holds values that are not finite"
    if not bool(finite.all()):
        index, tensors = index[finite.cpu()], tensors[finite]
    return index, tensors.double(), skipped


class _Reading:
    """Contents of B tensors of N slots; arrays are padded by slots that are not ``present``."""

    def __init__(self, codec: CrysTens, tensors: Tensor) -> None:
        self.codec = codec
        self.descriptors = tensors[..., LAYERS:]  # normalised, (B, H, W, d)
        tensors = tensors[..., :LAYERS]
        scale = codec.header_scale.to(tensors)
        rows = tensors[:, : HEADER - 1, HEADER:].transpose(1, 2)
        header = torch.cat([rows, tensors[:, HEADER:, : HEADER - 1]], -1)  # (B, N, 11, 8), normalised
        guess = header[:, :, 4:].mean(-1)  # (B, N, 7)
        slots = torch.arange(1, guess.shape[1] + 1, device=tensors.device)
        self.count = (guess.cumsum(1).square().sum(-1) / slots).argmax(1) + 1  # A, (B,)
        n = int(self.count.max()) if len(tensors) else 1
        self.present = slots[:n] <= self.count[:, None]
        self.elements = header[:, :n, 0].unflatten(-1, (2, 4))  # (B, n, 2, 4), normalised
        values = header[:, :n, 1:] * torch.cat([scale, scale], 1)[1:]
        of_crystal = values[:, :, 3:].transpose(1, 2)  # (B, 7, n, 8)
        weight = self.present[:, None, :, None].to(tensors)
        self.repeats = 8.0 * self.count  # of lengths, angles and space group
        mean = (of_crystal * weight).sum((2, 3)) / self.repeats[:, None]
        spread = (of_crystal - mean[:, :, None, None]).square() * weight
        self.crystal = mean  # (B, 7): a, b, c, α, β, γ, space group
        self.crystal_variance = spread.sum((2, 3)) / self.repeats[:, None]
        # Coordinates: a mean direction on the circle, then the mean of the remainders.
        x = values[:, :, :3]  # (B, n, 3, 8)
        angle = 2.0 * torch.pi * x
        near = torch.atan2(torch.sin(angle).mean(-1), torch.cos(angle).mean(-1)) / (2.0 * torch.pi)
        apart = _nearest(x - near[..., None])
        direct = near + apart.mean(-1)
        # In the period of the values themselves, so that noise about 0 does not become 0.99.
        self.direct = direct + torch.round(x.mean(-1) - direct)
        self.direct_variance = (apart - apart.mean(-1, keepdim=True)).square().mean(-1)  # (B, n, 3)
        block = slice(HEADER, HEADER + n)
        self.differences = 2.0 * tensors[:, block, block, 1:] - 1.0  # x_j - x_i
        self.distances = tensors[:, block, block, 0] * codec.ranges["distance"]
        self.pairs = self.present[:, :, None] & self.present[:, None, :]
        self.others = self.pairs & ~torch.eye(n, dtype=torch.bool, device=tensors.device)

    @cached_property
    def holds_atoms(self) -> Bool[Tensor, "B"]:
        """Whether there are any atoms: no cell has angles below 15°."""
        return self.crystal[:, 3:6].mean(1) > _SMALLEST_ANGLE

    def _mean(self, values: Tensor, of: Tensor, size: Tensor) -> Tensor:
        """Return the mean over atoms or pairs, and directions."""
        shown = torch.where(of[..., None], values, 0.0)
        return shown.flatten(1).sum(1) / (size * values.shape[-1])

    @cached_property
    def disagreement(self) -> Tensor:
        """Disagreement of differences and direct values, d_ji - (x_i - x_j) in row i, (B, n, n, 3)."""
        between = self.direct[:, :, None] - self.direct[:, None, :]
        return torch.where(self.others[..., None], _nearest(self.differences.transpose(1, 2) - between), 0.0)

    @cached_property
    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Return coordinates by least squares (B, n, 3), and their standard errors (B,)."""
        return self._least_squares(self.direct, self.direct_variance, 8.0, self.disagreement)

    def _least_squares(
        self, direct: Tensor, variance: Tensor, repeats: float, apart: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Combine means of direct values with the differences in the block.

        Args:
            direct: Means (B, n, k) of the repeats.
            variance: Their variances (B, n, k), with the number of repeats as divisor.
            repeats: How many there are.
            apart: Disagreement of differences and direct values, d_ji - (x_i - x_j), (B, n, n, k).

        Returns:
            The best values (B, n, k), and their standard errors (B,).
        """
        size, k = self.count.to(direct), direct.shape[-1]
        noise = self._mean(variance, self.present, size) * repeats / (repeats - 1.0)
        both = 0.5 * (apart - apart.transpose(1, 2))  # of the two entries for each pair
        odd = (apart + apart.transpose(1, 2)).square()
        pairs = (size * (size - 1.0)).clamp(min=1.0)
        from_two = odd.flatten(1).sum(1) / (2.0 * k * pairs)
        # Errors of a model may be the same in both entries.
        from_direct = 2.0 * (both.square().flatten(1).sum(1) / (k * pairs) - 2.0 * noise / repeats)
        other = torch.maximum(from_two, from_direct)
        w_x = repeats / noise.clamp(min=1e-20)
        w_d = torch.where(self.count > 1, 2.0 / other.clamp(min=1e-20), 0.0)
        share = w_d / (w_x + size * w_d)
        return direct + share[:, None, None] * both.sum(2), (w_x + size * w_d).rsqrt()

    def guesses(self) -> Tensor:
        """Return the paper's coordinates: the unweighted mean of A estimates, (B, n, 3)."""
        return self.direct + self.disagreement.sum(2) / self.count[:, None, None]

    def measures(self) -> Measures:
        size = self.count.to(self.direct)
        others = self.disagreement.sum(2) / (size - 1.0).clamp(min=1.0)[:, None, None]
        x, _ = self.coordinates
        if self.codec.pairwise == "fractional":
            expected = length(x[:, None] - x[:, :, None])
        else:
            expected = self._image_distances(x)
        off = torch.where(self.pairs, (expected - self.distances).abs(), 0.0)
        return Measures(
            variance_lengths=self.crystal_variance[:, :3].mean(1),
            variance_angles=self.crystal_variance[:, 3:6].mean(1),
            variance_space_group=self.crystal_variance[:, 6],
            variance_coordinates=self._mean(self.direct_variance, self.present, size),
            coordinate_agreement=self._mean(others.abs(), self.present, size),
            coordinate_agreement_squared=self._mean(others.square(), self.present, size),
            pairwise_difference=off.flatten(1).sum(1) / size,
        )

    def _image_distances(self, x: Tensor) -> Tensor:
        """Return distances to nearest images; zeros for invalid cells."""
        expected = torch.zeros_like(self.distances)
        sound = torch.tensor([not reason for reason in self.problems], device=x.device)
        if bool(sound.any()):
            some = _structures(x[sound], self.present[sound], self.crystal[sound, :6])
            expected[sound] = image_distances(some, x.shape[1])
        return expected

    @cached_property
    def problems(self) -> list[str]:
        """Return the reasons for tensors that cannot be decoded."""
        reasons = []
        for atoms, (a, b, c, *angles) in zip(
            self.holds_atoms.tolist(), self.crystal[:, :6].tolist(), strict=True
        ):
            text = f"a, b, c = {a:.3g}, {b:.3g}, {c:.3g} Å and angles " + ", ".join(
                f"{angle:.3g}°" for angle in angles
            )
            if not atoms:
                reasons.append("holds no atoms")
            elif min(a, b, c) <= 0.0:
                reasons.append(f"has no cell: {text}")
            elif _volume(a, b, c, *angles) < _SMALLEST_VOLUME:
                reasons.append(f"has a cell without volume: {text}")
            else:
                reasons.append("")
        return reasons

    def codes(self) -> tuple[Tensor, Tensor]:
        """Return each atom's mean code in each layer (B, n, 4), normalised, and its noise (B,)."""
        repeats = self.elements
        layer = repeats.mean(2)
        about = layer.mean(-1, keepdim=True) if self.codec.elements == "number" else layer
        square = (repeats - about[:, :, None]).square().flatten(2).sum(-1)
        freedom = 7.0 if self.codec.elements == "number" else 4.0
        variance = torch.where(self.present, square, 0.0).sum(1) / (freedom * self.count)
        return layer, variance.sqrt()

    def element_costs(self) -> Tensor:
        """Return -log likelihood of each atomic number but 0, (B, n, 118)."""
        seen, noise = self.codes()
        table = (self.codec.element_codes / self.codec.header_scale[0])[1:].to(seen)
        if self.codec.elements == "number":
            square = 8.0 * (seen.mean(-1, keepdim=True) - table[:, 0]).square()
        else:
            # Σ (s - t)² = s² - 2 s t + t², a matrix product
            square = 2.0 * (
                seen.square().sum(-1, keepdim=True) - 2.0 * seen @ table.T + table.square().sum(1)
            )
        least = noise.clamp(min=_ERROR["element"])
        costs = square.clamp(min=0.0) / (2.0 * least.square())[:, None, None]
        return costs + self.descriptor_costs() if self.codec.descriptors else costs

    def descriptor_costs(self) -> Tensor:
        """Return the contribution of the descriptor layers."""
        table = self.codec.element_descriptors[1:].to(self.descriptors)
        n = self.present.shape[1]
        block = slice(HEADER, HEADER + n)
        direct = torch.stack([self.descriptors[:, block, 0], self.descriptors[:, 0, block]])
        mean = direct.mean(0)
        between = mean[:, :, None] - mean[:, None, :]
        differences = 2.0 * self.descriptors[:, block, block] - 1.0  # of atom j and atom i
        apart = torch.where(self.others[..., None], differences.transpose(1, 2) - between, 0.0)
        values, error = self._least_squares(mean, direct.var(0, correction=0), 2.0, apart)
        square = (values[:, :, None] - table).square().sum(-1)
        return square / (2.0 * error.clamp(min=_ERROR["element"]).square())[:, None, None]


def _decode(
    codec: CrysTens,
    tensors: Tensor,
    index: Tensor,
    skipped: dict[int, str],
    clustering: str | None,
    k_elements: int,
    k_coordinates: int,
    choice: _Choice,
) -> DecodedCrystals:
    everything = _Reading(codec, tensors)
    reasons = everything.problems
    skipped.update({int(i): reason for i, reason in zip(index, reasons, strict=True) if reason})
    good = torch.tensor([not reason for reason in reasons], dtype=torch.bool)
    index = index[good]
    reading = everything if bool(good.all()) else _Reading(codec, tensors[good])
    present, crystal = reading.present, reading.crystal
    size = reading.count.to(crystal)
    # The mean of 8 A entries, whose variance has one degree of freedom less.
    errors = (reading.crystal_variance / (reading.repeats - 1.0)[:, None]).sqrt()
    space_group_error = errors[:, 6].clamp(min=_ERROR["space_group"])
    x, x_error = reading.coordinates
    x_error = x_error.clamp(min=_ERROR["coordinate"])
    parameters = crystal[:, :6]
    allowed = choice.allowed.to(crystal.device)
    if clustering == "paper":
        x = _per_direction(lambda v, p: k_means(v, p, k_coordinates), reading.guesses(), present)
        mean = (reading.codes()[0] * codec.header_scale[0].to(x)).mean(-1)
        if codec.elements == "periodic":
            mean = reading.element_costs().argmin(-1) + 1.0
        of_cluster = k_means(mean, present, k_elements).round().clamp(1, 118)
        costs = (of_cluster[..., None] - torch.arange(1.0, 119.0).to(of_cluster)).square()
        kinds = costs[..., allowed].argmin(-1)
    elif clustering == "auto":
        repeated = torch.repeat_interleave(x_error, 3)
        x = _per_direction(lambda v, p: merge_on_circle(v, p, repeated), x, present)
        costs = reading.element_costs()
        kinds = _parsimonious(costs[..., allowed], present)
        floors = crystal.new_tensor([_ERROR["length"]] * 3 + [_ERROR["angle"]] * 3)
        parameters = most_likely_lattice(
            parameters,
            torch.maximum(errors[:, :6], floors),
            space_group=crystal[:, 6] if codec.cell in ("as_is", "conventional") else None,
            space_group_error=space_group_error,
        )
    else:
        costs = reading.element_costs()
        kinds = costs[..., allowed].argmin(-1)
    final = choice.requested(kinds, costs[..., allowed], present)
    numbers = allowed[final] + 1
    foreign = ~torch.isin(costs.argmin(-1), allowed)
    snapped = ((foreign | (final != kinds)) & present).sum(1)
    structures = _structures(x, present, parameters, numbers)
    found = reading.measures()
    columns = {f"crystens_{one.name}": getattr(found, one.name).tolist() for one in fields(found)}
    columns["crystens_snapped_sites"] = snapped.tolist()
    columns["space_group_number"] = crystal[:, 6].round().clamp(1, 230).to(torch.int64).tolist()
    info: tuple[dict[str, Any], ...] = tuple(
        {name: values[i] for name, values in columns.items()} for i in range(len(structures))
    )
    reach = structures.cells.square().sum((1, 2)).sqrt()
    return DecodedCrystals(
        structures=structures.replace(info=info),
        index=index,
        skipped=skipped,
        measures=found,
        space_group=crystal[:, 6],
        space_group_error=space_group_error,
        position_error=reach * x_error if len(size) else size,
        snapped=snapped,
    )


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Allowed elements of sites, as indices of the 118 costs: hydrogen is 0.

    Attributes:
        allowed: All of them, ascending.
        required: Of these, places among ``allowed`` of elements that each crystal has.
        shares: Atoms of each of ``allowed`` in a formula unit; none where there is no formula.
    """

    allowed: Int[Tensor, "e"]
    required: tuple[int, ...] = ()
    shares: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, elements: Sequence[str] | None, required: Sequence[str], formula: Mapping[str, int] | None
    ) -> _Choice:
        from ase.data import atomic_numbers, chemical_symbols

        named = [*(elements or ()), *required, *(formula or ())]
        if unknown := [symbol for symbol in named if symbol not in chemical_symbols[1:]]:
            raise InputError(f"elements: got '{unknown[0]}', expected chemical symbols such as O or Ti.")
        symbols = formula or (chemical_symbols[1:119] if elements is None else {*elements, *required})
        numbers = sorted(atomic_numbers[symbol] for symbol in symbols)
        places = {chemical_symbols[number]: place for place, number in enumerate(numbers)}
        return cls(
            allowed=torch.tensor(numbers, dtype=torch.int64) - 1,
            required=tuple(places[symbol] for symbol in required if symbol in places),
            shares=tuple(int(formula[symbol]) for symbol in places) if formula else (),
        )

    def requested(
        self, kinds: Int[Tensor, "B n"], costs: Float[Tensor, "B n e"], present: Bool[Tensor, "B n"]
    ) -> Int[Tensor, "B n"]:
        """Return kinds changed to satisfy the request, at the smallest cost."""
        if not self.required and not self.shares:
            return kinds
        kinds = kinds.clone()
        for row in range(len(kinds)):
            sites = torch.nonzero(present[row])[:, 0]
            misfit = costs[row, sites]
            kinds[row, sites] = (
                self._in_proportion(kinds[row, sites], misfit)
                if self.shares
                else self._with_required(kinds[row, sites], misfit)
            )
        return kinds

    def _in_proportion(self, kinds: Int[Tensor, "a"], misfit: Float[Tensor, "a e"]) -> Int[Tensor, "a"]:
        """Assign sites to the elements of the formula; unchanged if there are no whole formula units."""
        from scipy.optimize import linear_sum_assignment

        units, rest = divmod(len(kinds), sum(self.shares))
        if rest:
            return kinds
        places = torch.repeat_interleave(torch.tensor(self.shares) * units)
        _, chosen = linear_sum_assignment(misfit[:, places].numpy(force=True))
        return places[torch.as_tensor(chosen)].to(kinds)

    def _with_required(self, kinds: Int[Tensor, "a"], misfit: Float[Tensor, "a e"]) -> Int[Tensor, "a"]:
        """Replace the nearest element that is not required by each missing required element.

        All sites of that element change, as they may be equivalent by symmetry.
        """
        for wanted in self.required:
            there = set(kinds.tolist())
            costs = {
                kind: float((misfit[kinds == kind, wanted] - misfit[kinds == kind, kind]).mean())
                for kind in sorted(there - set(self.required))
            }
            if wanted not in there and costs:
                kinds = torch.where(kinds == min(costs, key=costs.__getitem__), wanted, kinds)
        return kinds


def _parsimonious(costs: Float[Tensor, "B n e"], present: Bool[Tensor, "B n"]) -> Int[Tensor, "B n"]:
    r"""Return the index in ``costs`` of each atom's element, favouring few distinct elements.

    The criterion is that of the clustering of coordinates. With :math:`c_{iz}` the misfit of atom i to
    element z, the criterion is :math:`\sum_i c_{i z_i} - \sum_z n_z \ln(n_z / n)`, plus ln 118 for each
    element. At first each atom has its most likely element. Elements are removed one at a time, each time
    the one with the largest gain, its atoms going to the next best ones; then the atoms of an element are
    reassigned together. This is done twice.
    """
    costs = torch.where(present[..., None], costs, 0.0)
    numbers = costs.argmin(-1)
    for _ in range(2):
        numbers = _merged(costs, numbers, present)
        together = (numbers[:, :, None] == numbers[:, None, :]) & present[:, None, :]
        numbers = (together.to(costs) @ costs).argmin(-1)
    return numbers


def _merged(costs: Tensor, numbers: Tensor, present: Tensor) -> Tensor:
    """Remove elements as long as that lowers the criterion; candidates are the present elements."""
    n = numbers.shape[1]
    slots = torch.arange(n, device=numbers.device)
    same = (numbers[:, :, None] == numbers[:, None, :]) & present[:, :, None] & present[:, None, :]
    first = torch.where(same, slots, n).amin(2)  # the atom that stands for each atom's element
    active = (first == slots) & present
    share = first.clamp(max=n - 1)  # of each atom: its candidate
    left = torch.arange(len(numbers), device=numbers.device)
    total = present.sum(1).to(costs)
    while len(left) and n > 1:
        here, group = present[left], share[left]
        of = costs[left].gather(2, numbers[left][:, None, :].expand(-1, n, -1))  # (L, atoms, candidates)
        of = torch.where(active[left][:, None, :], of, torch.inf)
        now = of.gather(2, group[..., None])[..., 0]
        others = of.scatter(2, group[..., None], torch.inf)
        value, target = others.min(2)
        loss = torch.where(here, value - now, 0.0)
        owner = torch.zeros_like(of).scatter_(2, group[..., None], here[..., None].to(of))
        counts = owner.sum(1)
        moved = owner.transpose(1, 2) @ torch.zeros_like(of).scatter_(2, target[..., None], 1.0)
        after = counts[:, None, :] * (1.0 - torch.eye(n, dtype=of.dtype, device=of.device)) + moved
        size = total[left]
        change = torch.zeros_like(counts).scatter_add(1, group, loss)
        change = change + _entropy(after, size[:, None]) - _entropy(counts, size)[:, None]
        change = torch.where(active[left] & change.isfinite(), change, torch.inf)
        lost, which = change.min(1)
        go = lost < _NEW_ELEMENT
        left, which, target, group = left[go], which[go], target[go], group[go]
        active[left, which] = False
        share[left] = torch.where(group == which[:, None], target, group)
    return numbers.gather(1, share)


def _entropy(counts: Tensor, total: Tensor) -> Tensor:
    """Return -Σ n_k ln(n_k / n)."""
    return -torch.special.xlogy(counts, counts / total[..., None].clamp(min=1.0)).sum(-1)


def _per_direction(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, present: Tensor) -> Tensor:
    """Apply a function of rows (P, n) to each direction of coordinates (B, n, 3)."""
    rows = function(x.transpose(1, 2).flatten(0, 1), torch.repeat_interleave(present, 3, dim=0))
    return rows.unflatten(0, (-1, 3)).transpose(1, 2)


def _structures(
    x: Tensor, present: Tensor, parameters: Tensor, numbers: Tensor | None = None
) -> StructureBatch:
    cells = cells_from_parameters(parameters)
    owner, slot = torch.nonzero(present, as_tuple=True)
    x = x - torch.floor(x + 1e-9)
    kinds = torch.ones_like(slot) if numbers is None else numbers[owner, slot]
    return StructureBatch(
        positions=torch.einsum("ak,akx->ax", x[owner, slot], cells[owner]),
        cells=cells,
        pbc=torch.ones(len(cells), 3, dtype=torch.bool, device=cells.device),
        atomic_numbers=kinds,
        structure_index=owner,
    )


def _volume(a: float, b: float, c: float, *angles: float) -> float:
    x, y, z = (math.cos(math.radians(angle)) for angle in angles)
    if not all(0.0 < angle < 180.0 for angle in angles):
        return 0.0
    return a * b * c * math.sqrt(max(1.0 + 2.0 * x * y * z - x * x - y * y - z * z, 0.0))


def _nearest(difference: Tensor) -> Tensor:
    return difference - torch.round(difference)
