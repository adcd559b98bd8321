r"""Pair distribution functions G(r), as X-ray and neutron total scattering measures them.

For N atoms of scattering factors f, numbers of electrons Z for X-rays and coherent scattering lengths for
neutrons,

.. math::
   G(r) &= \frac{1}{N \langle f \rangle^2} \sum_{i \ne j} \frac{f_i f_j}{r_{ij}}\,
           \mathcal{N}(r;\, r_{ij}, \sigma_{ij}) - 4\pi r \rho_0 \\
   \sigma_{ij}^2 &= \sigma^2 \Bigl(1 - \frac{\delta_1}{r_{ij}} - \frac{\delta_2}{r_{ij}^2}\Bigr)
           + Q_\mathrm{broad}^2 \sigma^2 r_{ij}^2

(Farrow et al., J. Phys.: Condens. Matter 19, 335219, 2007), with the number density :math:`\rho_0` where a
structure is periodic along all three directions, and 0 otherwise. A measurement that ends at
:math:`Q_\mathrm{max}` convolves it with :math:`\sin(Q_\mathrm{max} r)/\pi r`, and one of finite resolution
multiplies it by :math:`e^{-(Q_\mathrm{damp} r)^2/2}`.

A peak of width σ guides atoms no farther than that. Copies of the curve, convolved with wider normal
distributions, are features too. Each copy has the norm 1, as the scale of a measured curve is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.parallel import map_threads
from whorl.representations.base import FeatureLayout, Representation, sound
from whorl.representations.settings import RepresentationSettings
from whorl.settings import NonNegative, Positive
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.convert import Structures
from whorl.structures.neighbors import neighbor_list

SCATTERING = ("xray", "neutron")

_REACH = 6.5  # widths of a peak, beyond which it is below 1e-9 of its height
_RIPPLES = 8.0  # periods by which the range is extended: what is beyond changes the curve by 0.3 %
_NUMBERS = 4_000_000  # in the arrays of a part
_MOST_POINTS = 4_000
_LEAST, _LARGEST = 1e-9, 1e9  # values of G(r); its scale is free


class PDF(Representation):
    r"""Pair distribution function G(r) on a grid.

    **Order of the features.** For each width in ``broadening``, the widest first, and at last without, the
    curve at :math:`r_\mathrm{min}, r_\mathrm{min} + \Delta r, \ldots, r_\mathrm{max}`.

    Args:
        r_min: Where the curve begins, in Å; rounded, as r_max, to a multiple of r_step.
        r_max: Where it ends.
        r_step: Δr in Å.
        width: σ of the distance of two atoms in Å, from their thermal motion.
        delta1: δ₁ in Å, of the correlated motion of near atoms at high temperature.
        delta2: δ₂ in Å², at low temperature.
        q_max: In 1/Å; None for no termination.
        q_damp: Resolution in 1/Å.
        q_broad: Broadening by the resolution in 1/Å.
        scattering: ``"xray"`` or ``"neutron"``.
        broadening: Widths in Å of the normal distributions with which copies are convolved.

    Raises:
        InputError: Numbers out of range; later, an element whose neutron scattering length is not known.

    >>> pdf = PDF(r_max=3.0, r_step=0.5, broadening=(), width=0.5)
    >>> pdf.layout.names
    ('G/r=1.00', 'G/r=1.50', 'G/r=2.00', 'G/r=2.50', 'G/r=3.00')
    """

    kind = "pdf"
    invariances = Representation.invariances | {"lattice_basis", "supercell"}

    class Settings(RepresentationSettings):
        """Settings of pair distribution functions."""

        r_min: NonNegative = 1.0
        """Where the curve begins, in Å."""
        r_max: Positive = 12.0
        """Where the curve ends, in Å."""
        r_step: Positive = 0.05
        """Distance of its points in Å."""
        width: Positive = 0.1
        """Standard deviation of the distance of two atoms in Å, from their thermal motion."""
        delta1: NonNegative = 0.0
        """Correlated motion of near atoms at high temperature, in Å."""
        delta2: NonNegative = 0.0
        """Correlated motion of near atoms at low temperature, in Å²."""
        q_max: Positive | None = 25.0
        """Largest scattering vector measured, in 1/Å; null for no termination."""
        q_damp: NonNegative = 0.0
        """Damping by the resolution, in 1/Å."""
        q_broad: NonNegative = 0.0
        """Broadening by the resolution, in 1/Å."""
        scattering: Literal["xray", "neutron"] = "xray"
        """Radiation."""
        broadening: list[Positive] = [0.6, 0.3]
        """Widths in Å of the normal distributions with which copies of the curve are convolved."""

    def __init__(
        self,
        *,
        r_min: float = 1.0,
        r_max: float = 12.0,
        r_step: float = 0.05,
        width: float = 0.1,
        delta1: float = 0.0,
        delta2: float = 0.0,
        q_max: float | None = 25.0,
        q_damp: float = 0.0,
        q_broad: float = 0.0,
        scattering: str = "xray",
        broadening: Sequence[float] = (0.6, 0.3),
    ) -> None:
        super().__init__()
        if not 0 <= r_min < r_max <= 100 or not 1e-3 <= r_step <= r_max - r_min:
            raise InputError(
                f"PDF: got r_min {r_min}, r_max {r_max} and r_step {r_step}, expected 0 ≤ r_min < r_max "
                "≤ 100 Å and at least two points."
            )
        if (points := round((r_max - r_min) / r_step) + 1) > _MOST_POINTS:
            raise InputError(
                f"PDF: got {points:,} points from {r_min} to {r_max} Å, expected at most {_MOST_POINTS:,}. "
                "Choose a larger r_step, or a smaller r_max."
            )
        if not r_step <= width <= 2:
            raise InputError(
                f"PDF: got width {width}, expected at least r_step, {r_step}, and at most 2 Å: a narrower "
                "peak falls between the points."
            )
        if scattering not in SCATTERING:
            raise unknown_option("scattering", scattering, SCATTERING)
        self.r_step = float(r_step)
        self.r_min, self.r_max = (round(round(r / r_step) * r_step, 9) for r in (r_min, r_max))
        self.width, self.delta1, self.delta2 = float(width), float(delta1), float(delta2)
        self.q_max = None if q_max is None else float(q_max)
        self.q_damp, self.q_broad, self.scattering = float(q_damp), float(q_broad), scattering
        self.broadening = tuple(sorted(map(float, broadening), reverse=True))
        self.points = round((self.r_max - self.r_min) / self.r_step) + 1
        beyond = math.ceil(4 * max(self.broadening, default=0.0) / self.r_step)
        self.measured_r = self.r_min + self.r_step * np.arange(self.points + beyond)
        ripples = 0.0 if self.q_max is None else _RIPPLES * 2 * math.pi / self.q_max
        self._size = math.ceil((self.measured_r[-1] + ripples) / self.r_step) + 2
        self.register_buffer("_factors", _factors(scattering), persistent=False)
        self.register_buffer("_operator", self._measurement(), persistent=False)
        self._factors: Tensor
        self._operator: Tensor
        labels = [f"G*{sigma:g}" for sigma in self.broadening] + ["G"]
        names = tuple(
            f"{label}/r={self.r_min + k * self.r_step:.{2 if r_step >= 0.01 else 3}f}"
            for label in labels
            for k in range(self.points)
        )
        blocks = {label: slice(n * self.points, (n + 1) * self.points) for n, label in enumerate(labels)}
        self.layout = FeatureLayout(names=names, shape=(len(names),), blocks=blocks)

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        return {
            "kind": self.kind,
            "r_min": self.r_min,
            "r_max": self.r_max,
            "r_step": self.r_step,
            "width": self.width,
            "delta1": self.delta1,
            "delta2": self.delta2,
            "q_max": self.q_max,
            "q_damp": self.q_damp,
            "q_broad": self.q_broad,
            "scattering": self.scattering,
            "broadening": list(self.broadening),
        }

    def describe(self) -> str:
        """Return a short description."""
        return f"G(r) from {self.r_min:g} to {self.r_max:g} Å, {self.scattering}"

    def sharpness(self) -> Float[Tensor, "F"]:
        """Return the inverse of the width of the peaks of each copy; see the base class."""
        widths = [math.hypot(self.width, sigma) for sigma in (*self.broadening, 0.0)]
        return (1.0 / torch.tensor(widths, dtype=torch.float64)).repeat_interleave(self.points)

    @property
    def r(self) -> Float[np.ndarray, "K"]:
        """Points of the curve in Å."""
        return self.r_min + self.r_step * np.arange(self.points)

    def curve(self, structures: Structures) -> Float[Tensor, "B K"]:
        """Return G(r) as it would be measured, in 1/Å², with its scale and without copies."""
        structures = sound(structures)
        return self._raw(structures) @ self._operator[:, -self.points :].to(structures.dtype)

    def features_of(self, curve: Float[np.ndarray, "E"]) -> Float[Tensor, "F"]:
        """Return the features of a measured G(r) on the points :attr:`measured_r`.

        Raises:
            InputError: Another number of points, numbers that are not finite, or no curve.
        """
        measured = torch.as_tensor(curve, dtype=torch.float64)
        if measured.shape != self.measured_r.shape or not bool(measured.isfinite().all()):
            raise InputError(f"G(r): expected {len(self.measured_r)} finite numbers, on measured_r.")
        if not _LEAST < (largest := float(measured.abs().max())) < _LARGEST:
            raise InputError(
                f"G(r): got a largest value of {largest:g} from {self.r_min:g} Å on, expected peaks of about "
                "1 to 100 (1/Å²). Check the column of G(r) and its scale."
            )
        return self._normalized(measured @ self._copies())

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B F"]:
        """Return the copies of G(r)."""
        return self._normalized(self._raw(structures) @ self._operator.to(structures.dtype))

    @torch.no_grad()
    def value_and_jacobian(
        self, structures: Structures, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F m 3"]]:
        """Return R and its analytic Jacobian; see the base class for shapes and units."""
        structures = sound(structures)
        n = max(structures.n_atoms.tolist(), default=0)
        value = structures.positions.new_zeros(len(structures), len(self.layout))
        jacobian = value.new_zeros(*value.shape, n + 3 * strain, 3)

        def compute(some: slice) -> None:
            value[some], jacobian[some] = self._derivatives(structures[some], n, strain)

        map_threads(compute, self._parts(structures))
        return value, jacobian

    # Peaks on the grid 0, Δr, 2Δr … beyond r_max.

    def _parts(self, structures: StructureBatch) -> list[slice]:
        """Return ranges of structures whose pairs fit in memory."""
        counts = structures.n_atoms.double()
        around = (
            4.2 * (self._size * self.r_step) ** 3 * counts / volumes(structures.cells).double().clamp(min=1.0)
        )
        pairs = torch.where(structures.pbc.any(1), counts * (around + counts), counts**2)
        taps = 2 * _REACH * self.width / self.r_step + 2
        numbers = (3 * taps * pairs + 3 * counts * (self._size + len(self.layout))).cumsum(0) / _NUMBERS
        edges = [
            0,
            *(1 + k for k in torch.nonzero(numbers[1:].floor() > numbers[:-1].floor()).flatten().tolist()),
        ]
        return [slice(a, b) for a, b in zip(edges, [*edges[1:], len(structures)], strict=True)]

    def _pairs(self, structures: StructureBatch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return of each pair the two atoms, vector, distance and weight, counting it once."""
        reach = self._size * self.r_step + _REACH * self.width
        pairs = neighbor_list(structures, cutoff=reach)
        once = pairs.directions[:, 0]
        first, second = pairs.first[once], pairs.second[once]
        vectors = pairs.vectors(structures)[once]
        r = vectors.square().sum(1).clamp(min=1e-12).sqrt()
        factors = self._factors[structures.atomic_numbers.clamp(0, 118)].to(r)
        if bool(factors.isnan().any()):
            unknown = structures.atomic_numbers[factors.isnan()][0]
            raise InputError(
                f"PDF: no {self.scattering} scattering length is known of the element of atomic number "
                f"{int(unknown)}. Use scattering xray."
            )
        n = structures.n_atoms.to(r)
        total = r.new_zeros(len(n)).index_add(0, structures.structure_index, factors)
        twice = (2 * n / total.square())[structures.structure_index[first]]
        return first, second, vectors, r, factors[first] * factors[second] * twice

    def _widths(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return the width σ of each peak in Å, and dσ/σ dr."""
        variance = 1 - self.delta1 / r - self.delta2 / r**2 + (self.q_broad * r) ** 2
        slope = self.delta1 / r**2 + 2 * self.delta2 / r**3 + 2 * self.q_broad**2 * r
        relative = torch.where(variance > 0.04, slope / (2 * variance), 0.0)
        return self.width * variance.clamp(min=0.04).sqrt(), relative

    def _peaks(self, r: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places (P, T) of peaks on the grid, deviations in widths, and heights."""
        reach = _REACH * float(sigma.detach().max()) if len(r) else 0.0
        half = math.ceil(reach / self.r_step)
        taps = torch.arange(-half, half + 1, device=r.device)
        place = (r.detach() / self.r_step).round().long()[:, None] + taps
        inside = (place > 0) & (place < self._size)
        u = (place.to(r) * self.r_step - r[:, None]) / sigma[:, None]
        height = torch.exp(-0.5 * u.square()) / (sigma * r * math.sqrt(2 * math.pi))[:, None]
        return place.clamp(0, self._size - 1), u, torch.where(inside, height, 0.0)

    def _raw(self, structures: StructureBatch) -> Float[Tensor, "B G"]:
        """Return G(r) on the grid, before what the measurement makes of it."""
        return torch.cat([self._peaks_on_grid(structures[some]) for some in self._parts(structures)])

    def _peaks_on_grid(self, structures: StructureBatch) -> Float[Tensor, "B G"]:
        first, _, _, r, weight = self._pairs(structures)
        place, _, height = self._peaks(r, self._widths(r)[0])
        row = structures.structure_index[first]
        flat = r.new_zeros(len(structures) * self._size)
        flat = flat.index_add(
            0, (row[:, None] * self._size + place).flatten(), (height * weight[:, None]).flatten()
        )
        return flat.unflatten(0, (-1, self._size)) + self._baseline(structures)

    def _baseline(self, structures: StructureBatch) -> Float[Tensor, "B G"]:
        density = structures.n_atoms / volumes(structures.cells).clamp(min=1e-12)
        density = torch.where(structures.pbc.all(1), density, 0.0)
        grid = self.r_step * torch.arange(self._size, device=density.device, dtype=density.dtype)
        return -4 * math.pi * density[:, None] * grid

    def _derivatives(self, structures: StructureBatch, n: int, strain: bool) -> tuple[Tensor, Tensor]:
        first, second, vectors, r, weight = self._pairs(structures)
        sigma, narrowing = self._widths(r)
        place, u, height = self._peaks(r, sigma)
        size, row = self._size, structures.structure_index[first]
        peaks = height * weight[:, None]
        raw = r.new_zeros(len(structures) * size)
        raw.index_add_(0, (row[:, None] * size + place).flatten(), peaks.flatten())
        raw = raw.unflatten(0, (-1, size)) + self._baseline(structures)

        slope = peaks * (u / sigma[:, None] - 1 / r[:, None] + narrowing[:, None] * (u.square() - 1))
        unit = vectors / r[:, None]
        of_atoms = r.new_zeros(len(structures) * n * 3 * size)
        for x in range(3):
            change = slope * unit[:, x, None]
            for atom, moved in ((second, change), (first, -change)):
                slot = row * n + structures.position_in_structure[atom]
                target = ((slot * 3 + x) * size)[:, None] + place
                of_atoms.index_add_(0, target.flatten(), moved.flatten())
        changes = [of_atoms.reshape(len(structures), n * 3, size)]
        if strain:
            of_strain = r.new_zeros(len(structures) * 9 * size)
            for b in range(3):
                for a in range(3):
                    target = ((row * 9 + 3 * b + a) * size)[:, None] + place
                    of_strain.index_add_(
                        0, target.flatten(), (slope * (vectors[:, b] * unit[:, a])[:, None]).flatten()
                    )
            of_strain = of_strain.reshape(len(structures), 9, size)
            of_strain[:, ::4] -= self._baseline(structures)[:, None]
            changes.append(of_strain)
        operator = self._operator.to(structures.dtype)
        value, jacobian = raw @ operator, (torch.cat(changes, 1) @ operator).transpose(1, 2)
        return self._normalized(value, jacobian=jacobian), jacobian.unflatten(2, (-1, 3))

    def _normalized(self, curves: Tensor, *, jacobian: Tensor | None = None) -> Tensor:
        """Give each copy the norm 1; a Jacobian (B, F, m) is changed in place."""
        copies = curves.unflatten(-1, (-1, self.points))
        norm = copies.square().sum(-1, keepdim=True).clamp(min=1e-24).sqrt()
        result = copies / norm
        if jacobian is not None:
            part = jacobian.unflatten(1, (-1, self.points))
            part -= result[..., None] * (result[..., None] * part).sum(2, keepdim=True)
            part /= norm[..., None]
        return result.flatten(-2)

    # What the measurement makes of it.

    def _measurement(self) -> Float[Tensor, "G F"]:
        """Return the operator from the grid to the copies: termination, damping, convolution."""
        r, grid = self.measured_r, self.r_step * np.arange(self._size)
        if self.q_max is None:
            start = round(self.r_min / self.r_step)
            ends = np.eye(self._size)[:, start : start + len(r)]
        else:  # G is odd in r
            ends = _ripples(r - grid[:, None], self.q_max) - _ripples(r + grid[:, None], self.q_max)
            ends *= self.r_step
        damped = ends * np.exp(-0.5 * (self.q_damp * r) ** 2)
        return torch.from_numpy(damped) @ self._copies()

    def _copies(self) -> Float[Tensor, "E F"]:
        """Return the operator from the measured curve to its copies."""
        r, measured = self.r, self.measured_r
        copies = []
        for sigma in self.broadening:
            kernel = np.exp(-0.5 * ((r - measured[:, None]) / sigma) ** 2)
            copies.append(kernel * self.r_step / (sigma * math.sqrt(2 * math.pi)))
        copies.append(np.eye(len(measured))[:, : self.points])
        return torch.from_numpy(np.concatenate(copies, 1))


def _ripples(r: np.ndarray, q_max: float) -> np.ndarray:
    return q_max / math.pi * np.sinc(q_max * r / math.pi)


def _factors(scattering: str) -> Float[Tensor, "119"]:
    """Return the scattering factor of each element by atomic number; NaN where there is none."""
    if scattering == "xray":
        return torch.arange(119, dtype=torch.float64)
    from ase.data import chemical_symbols
    from pymatgen.analysis.diffraction.neutron import ATOMIC_SCATTERING_LEN

    lengths = [ATOMIC_SCATTERING_LEN.get(symbol, math.nan) for symbol in chemical_symbols[:119]]
    return torch.tensor(lengths, dtype=torch.float64)
