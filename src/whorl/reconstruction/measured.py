r"""Refinement of a structure against a measured pair distribution function.

A search finds atoms for the peak width and resolution that it assumes. Here these are fitted with the atoms
and the cell, the scale s being eliminated, so that

.. math:: R_w^2 = \sum_k (G_k - s\,G^\mathrm{calc}_k)^2 \Big/ \sum_k G_k^2, \qquad
          s = \langle G, G^\mathrm{calc} \rangle / \langle G^\mathrm{calc}, G^\mathrm{calc} \rangle

is least. It is done in P1 and in each space group that the structure nearly has; the one of most operations
that fits hardly worse is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import least_squares

from whorl.representations.pdf import PDF
from whorl.structures.batch import StructureBatch
from whorl.symmetry.coordinates import SymmetryCoordinates
from whorl.symmetry.detection import exactly_symmetric
from whorl.symmetry.groups import Group
from whorl.symmetry.wyckoff import GRID

TOLERANCES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)  # Å
HARDLY_WORSE = 0.05
"""Difference of R_w up to which fewer parameters are preferred."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A structure refined against a curve.

    Attributes:
        structure: A batch of one.
        representation: With the fitted width, correlation and resolution.
        calculated: Its curve, scaled, on the points ``r``, shape (K,).
        scale: Of the calculated curve.
        r_w: Weighted residual, a fraction.
        space_group: Number of the symmetry that was imposed, 1 for none.
        parameters: Number of those fitted.
    """

    structure: StructureBatch
    representation: PDF
    calculated: Float[np.ndarray, "K"]
    scale: float
    r_w: float
    space_group: int
    parameters: int


def r_w(measured: Float[np.ndarray, "K"], calculated: Float[np.ndarray, "K"]) -> tuple[float, float]:
    """Return the residual R_w and the scale of the calculated curve."""
    scale = float(measured @ calculated / max(float(calculated @ calculated), 1e-300))
    return float(np.linalg.norm(measured - scale * calculated) / np.linalg.norm(measured)), scale


def refine_to_curve(
    structure: StructureBatch,
    representation: PDF,
    measured: Float[np.ndarray, "K"],
    *,
    steps: int = 60,
) -> list[Fit]:
    """Fit atoms, peak width, δ₂ and Q_damp to a measured curve, and the cell as far as a symmetry lets it.

    Args:
        structure: A batch of one, such as a search returned.
        representation: Whose settings the fit starts from.
        measured: G on its points ``r``.
        steps: Most evaluations of the derivatives.

    Returns:
        A fit without symmetry in the cell given, and one for each space group that the structure, or one of
        these fits, has within :data:`TOLERANCES`.
    """
    structure = structure.to(dtype=torch.float64)
    fits = [_fit(structure, _unconstrained(len(structure.positions)), 1, representation, measured, steps)]
    seen = {1}
    for known in fits if bool(structure.pbc.all()) else ():  # grows: a fit shows symmetries that were hidden
        for tolerance in TOLERANCES:
            symmetric = exactly_symmetric(known.structure, symprec=tolerance)
            if symmetric is None or symmetric.number in seen:
                continue
            seen.add(symmetric.number)
            cell = symmetric.crystal.cells[0].numpy()
            fractional = symmetric.crystal.positions.numpy() @ np.linalg.inv(cell)
            group = Group(symmetric.rotations, np.rint(GRID * symmetric.translations).astype(int))
            orbits = group.orbits(fractional, cell, free_cell=True)
            if orbits is not None:
                fits.append(
                    _fit(symmetric.crystal, orbits, symmetric.number, representation, measured, steps)
                )
    return fits


def simplest(fits: Sequence[Fit]) -> Fit:
    """Return the fit of fewest parameters of those that are hardly worse than the best."""
    allowed = min(fit.r_w for fit in fits) + HARDLY_WORSE
    return min((fit for fit in fits if fit.r_w <= allowed), key=lambda fit: (fit.parameters, fit.r_w))


def _unconstrained(n: int) -> SymmetryCoordinates:
    moves = torch.eye(3 * n, dtype=torch.float64).reshape(1, n, 3, 3 * n)
    return SymmetryCoordinates(
        head=torch.arange(n)[None], atoms=moves, strain=torch.zeros(1, 3, 3, 3 * n, dtype=torch.float64)
    )


def _fit(
    start: StructureBatch,
    coordinates: SymmetryCoordinates,
    space_group: int,
    representation: PDF,
    measured: Float[np.ndarray, "K"],
    steps: int,
) -> Fit:
    config = {**representation.config(), "broadening": ()}
    config.pop("kind")
    unit, q = measured / np.linalg.norm(measured), coordinates.atoms.shape[3]

    def model(values: np.ndarray) -> tuple[PDF, StructureBatch]:
        width, delta2, q_damp = map(float, values[:3])
        changed = PDF(**{**config, "width": width, "delta2": delta2, "q_damp": q_damp})
        moved, strain = coordinates.displacement(torch.from_numpy(values[3:])[None])
        positions = start.positions + start.positions @ strain[0] + moved[0]
        return changed, start.replace(positions=positions, cells=start.cells + start.cells @ strain)

    def residual(values: np.ndarray) -> np.ndarray:
        changed, structure = model(values)
        with torch.no_grad():
            calculated = changed(structure)[0].numpy()
        return unit - (unit @ calculated) * calculated

    def derivatives(values: np.ndarray) -> np.ndarray:
        changed, structure = model(values)
        calculated, jacobian = changed.value_and_jacobian_along(structure, coordinates)
        curve, slopes = calculated[0].numpy(), jacobian[0].numpy()
        of_structure = -np.outer(curve, unit @ slopes) - (unit @ curve) * slopes
        here, columns = residual(values), []
        for k, step in enumerate((1e-5, 1e-4, 1e-5)):
            moved = values.copy()
            moved[k] += step
            columns.append((residual(moved) - here) / step)
        return np.column_stack([*columns, of_structure])

    lowest = np.array([config["r_step"], 0.0, 0.0])
    highest = np.array([0.5, 6.0, 0.2])
    own = np.array([config["width"], config["delta2"], config["q_damp"]])
    best = least_squares(
        residual,
        np.concatenate([np.clip(own, lowest + 1e-3, highest - 1e-3), np.zeros(q)]),
        derivatives,
        bounds=(np.append(lowest, np.full(q, -np.inf)), np.append(highest, np.full(q, np.inf))),
        x_scale=np.append([0.02, 1.0, 0.02], np.full(q, 0.05)),
        max_nfev=steps,
    )
    changed, structure = model(best.x)
    with torch.no_grad():
        calculated = changed.curve(structure)[0].numpy()
    remaining, scale = r_w(measured, calculated)
    return Fit(
        structure=structure,
        representation=changed,
        calculated=scale * calculated,
        scale=scale,
        r_w=remaining,
        space_group=space_group,
        parameters=3 + q,
    )
