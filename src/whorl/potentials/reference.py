"""References of formation energies: the elements, relaxed with the same potential: the bulk, or the gas."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch

from whorl.errors import InputError, did_you_mean
from whorl.potentials.base import Potential
from whorl.structures.batch import StructureBatch

# Free lattice parameters of each reference lattice: all three lengths together, or a = b apart from c.
_FREE_LENGTHS = {"sc": 1, "fcc": 1, "bcc": 1, "diamond": 1, "hcp": 2, "bct": 2}
_GASES = {"H": 0.74, "N": 1.10, "O": 1.21, "F": 1.42, "Cl": 1.99}
"""Elements that are diatomic gases, with their bond lengths in Å."""
_STRETCH = 0.2  # lattice lengths are sought within ±20 % of the experimental ones

Energy = TypeVar("Energy", float, torch.Tensor)


def formation_energy(energy: Energy, n_atoms: Any, bulk_energy: Any) -> Energy:
    r"""Return the formation energy per atom, eq. 4 of Fung et al. (2022).

    .. math:: E_\mathrm{form} = (E_\mathrm{total} - N E_\mathrm{bulk}) / N

    Args:
        energy: Total energy in eV; a number or a tensor.
        n_atoms: Number of atoms N, of the same shape or one for all.
        bulk_energy: Energy per atom of the bulk in eV, likewise.

    >>> formation_energy(-35.0, 10, -6.0)
    2.5
    """
    return (energy - n_atoms * bulk_energy) / n_atoms


def why_no_reference(element: str, potential: Potential | None = None) -> str | None:
    """Return why an element has no reference state for :func:`bulk_energy`; None if it has one.

    Raises:
        InputError: Unknown element.
    """
    lattice = _lattice(element)
    if lattice in _FREE_LENGTHS or (element in _GASES and getattr(potential, "of_molecules", False)):
        return None
    return f"its reference state ({lattice}) is no simple lattice"


def _lattice(element: str) -> str:
    """Return the name of the element's reference state in ASE."""
    from ase.data import atomic_numbers, chemical_symbols, reference_states

    if element not in atomic_numbers or element == "X":
        raise InputError(f"unknown element '{element}'.{did_you_mean(element, chemical_symbols[1:])}")
    number = atomic_numbers[element]
    state = reference_states[number] if number < len(reference_states) else None
    return str((state or {}).get("symmetry", "none"))


def bulk_energy(potential: Potential, element: str) -> float:
    """Return the energy per atom, in eV, of the element's reference lattice relaxed with ``potential``.

    The lattice is ASE's reference state of the element (sc, fcc, bcc, diamond, hcp or bct); its lengths are
    relaxed, within 20 % of the experimental ones, to 1e-4 of themselves. A potential with an attribute
    ``bulk_repeat`` n gets n × n × n primitive cells, as those that know only the Γ point need. With one of
    molecules (``of_molecules``), the reference of H, N, O, F and Cl is the diatomic molecule.

    Raises:
        InputError: Unknown element, one with another reference state, a potential that cannot compute it, or
            no minimum in this range.
    """
    from ase.build import bulk
    from scipy.optimize import minimize, minimize_scalar

    if (reason := why_no_reference(element, potential)) is not None:
        raise InputError(
            f"{element}: {reason} ({', '.join(_FREE_LENGTHS)}), so the bulk energy of eq. 4 is not known. "
            "Compute it yourself and give it (eV/atom): in a recipe as bulk_energy of the calculator."
        )
    lattice = _lattice(element)
    if lattice not in _FREE_LENGTHS:
        return _gas_energy(potential, element)
    repeat = int(getattr(potential, "bulk_repeat", 1))
    primitive = bulk(element) * (repeat, repeat, repeat)
    cell, fractional = np.asarray(primitive.cell), primitive.get_scaled_positions()
    numbers = torch.as_tensor(primitive.numbers, dtype=torch.int64)

    def energy_per_atom(stretch: Any) -> float:
        a, c = (float(s) for s in (stretch if len(stretch) == 2 else (stretch[0], stretch[0])))
        stretched = cell * np.array([a, a, c])
        output = potential(
            StructureBatch(
                positions=torch.from_numpy(fractional @ stretched),
                cells=torch.from_numpy(stretched)[None],
                pbc=torch.ones(1, 3, dtype=torch.bool),
                atomic_numbers=numbers,
                structure_index=torch.zeros(len(numbers), dtype=torch.int64),
            )
        )
        if output.failures:
            raise InputError(
                f"the bulk energy of {element} ({lattice}) cannot be computed by {potential.name}: "
                f"{output.failures[0]}"
            )
        return float(output.energy[0]) / len(numbers)

    low, high = 1 - _STRETCH, 1 + _STRETCH
    isotropic = minimize_scalar(
        lambda s: energy_per_atom((s,)), bounds=(low, high), method="bounded", options={"xatol": 1e-4}
    )
    best, energy = np.array([isotropic.x]), float(isotropic.fun)
    if _FREE_LENGTHS[lattice] == 2:
        simplex = isotropic.x + np.array([[0.0, 0.0], [0.02, 0.0], [0.0, 0.02]])
        found = minimize(
            energy_per_atom,
            simplex[0],
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-6},
        )
        best, energy = found.x, float(found.fun)
    if (best < low + 1e-3).any() or (best > high - 1e-3).any():
        raise _not_described(potential, element, lattice)
    return energy


def _gas_energy(potential: Potential, element: str) -> float:
    """Return the energy per atom of the diatomic molecule, its bond within 20 % of the experimental one."""
    from ase.data import atomic_numbers
    from scipy.optimize import minimize_scalar

    def energy_per_atom(stretch: float) -> float:
        output = potential(
            StructureBatch(
                positions=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, stretch * _GASES[element]]]).double(),
                cells=torch.zeros(1, 3, 3, dtype=torch.float64),
                pbc=torch.zeros(1, 3, dtype=torch.bool),
                atomic_numbers=torch.tensor([atomic_numbers[element]] * 2),
                structure_index=torch.zeros(2, dtype=torch.int64),
            )
        )
        if output.failures:
            raise InputError(
                f"the reference energy of {element} ({element}2) cannot be computed by {potential.name}: "
                f"{output.failures[0]}"
            )
        return float(output.energy[0]) / 2

    low, high = 1 - _STRETCH, 1 + _STRETCH
    found = minimize_scalar(energy_per_atom, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    if not low + 1e-3 < found.x < high - 1e-3:
        raise _not_described(potential, element, f"{element}2")
    return float(found.fun)


def _not_described(potential: Potential, element: str, state: str) -> InputError:
    return InputError(
        f"{potential.name} has no minimum for {element} ({state}) within {_STRETCH:.0%} of the experimental "
        "lengths. This potential does not describe the element; choose another."
    )
