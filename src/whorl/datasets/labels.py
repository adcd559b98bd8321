"""Forces and stresses as labels: reading and plausibility checks.

Units and signs are ASE's: forces in eV/Å, minus the gradient of the total energy in eV; stresses in eV/Å³,
positive for a cell that wants to shrink. A structure without them has NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.structures.convert import EXTRAS, calculator_results

_NET_FORCE = 0.1  # eV/Å, and share of the forces' lengths: a free cluster with more of it is doubted
_NEAR = (
    0.15  # Å root mean square: between structures this similar, forces should predict the energy difference
)
_SEARCHED = 1000  # structures of one composition and cell among which neighbours are searched
_PAIRS = 3  # minimum number of similar pairs
_CHANGE = 1e-3  # eV: smaller changes of energy may be noise

_GUESS = "So they may be"

# Energy differences relative to those predicted by forces in other units.
_UNITS = {
    51.422: "in Hartree/Bohr (1 is 51.422 eV/Å)",
    27.211: "in Hartree/Å (1 is 27.211 eV/Å)",
    25.711: "in Rydberg/Bohr (1 is 25.711 eV/Å)",
    1.8897: "in eV/Bohr, or energies in Hartree and forces in Hartree/Bohr",
    0.043364: "in kcal/mol/Å (1 is 0.0434 eV/Å)",
    0.010364: "in kJ/mol/Å (1 is 0.0104 eV/Å)",
    0.001: "in meV/Å",
    -1.0: "gradients, whose sign is the other",
}


def labels_of_calculators(structures: StructureBatch) -> tuple[Tensor | None, Tensor | None]:
    """Return forces (A, 3) and stresses (B, 3, 3) that came with ASE's calculators; None where none did.

    Only those computed for exactly these positions and cells are returned.
    """
    results = list(calculator_results(structures))
    if not any("forces" in one or "stress" in one for one in results):
        return None, None
    forces = [
        _forces(one.get("forces"), n) for one, n in zip(results, structures.n_atoms.tolist(), strict=True)
    ]
    return torch.cat(forces), torch.stack([_stress(one.get("stress")) for one in results])


def labels_as_read(
    structure: StructureBatch, property: str | None
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "3 3"], list[str]]:
    """Return forces and stress of one structure read from a file, and doubts about them.

    Taken are the results of a calculator (``forces``, ``stress``), columns named ``forces`` or ``force``,
    and a ``stress`` or ``virial`` (minus the stress times the volume) of the comment line. Where the property
    is one such as ``REF_energy``, ``REF_forces`` and so on go before them.

    Args:
        structure: A batch of one.
        property: Name of the property that is read.
    """
    (info,) = structure.info or ({},)
    extras = info.get(EXTRAS, {})
    (results,) = calculator_results(structure)
    of_atoms: Mapping[str, Any] = {**extras.get("arrays", {}), **results}
    of_cell: Mapping[str, Any] = {**info, **results}
    cell, n = structure.cells[0], int(structure.n_atoms[0])
    prefix = str(property or "").removesuffix("energy")
    prefixes = (prefix, "") if prefix and prefix != property else ("",)
    doubts: list[str] = []

    def first(names: Mapping[str, Any], *ends: str) -> tuple[str, Any]:
        keys = [f"{start}{end}" for start in prefixes for end in ends]
        return next(((key, names[key]) for key in keys if names.get(key) is not None), ("", None))

    name, given = first(of_atoms, "forces", "force")
    forces = _forces(given, n)
    if given is not None and np.shape(given) != (n, 3):
        doubts.append(f"its '{name}' were left out: expected three numbers for each of its atoms")
    elif given is not None and not bool(forces.isfinite().all()):
        doubts.append(f"its '{name}' were left out: not all of them are finite numbers")
    elif given is not None and not bool(structure.pbc.any()) and "constraints" not in extras:
        net, lengths = float(forces.sum(0).norm()), float(forces.norm(dim=1).sum())
        if net > _NET_FORCE and net > _NET_FORCE * lengths:
            doubts.append(
                f"its '{name}' add up to {net:.2g} eV/Å, and those of a free cluster to zero: are they "
                "of these atoms?"
            )
    name, given = first(of_cell, "stress", "virial")
    stress = _stress(given)
    if name.endswith("virial"):
        volume = float(torch.linalg.det(cell).abs())
        stress = -stress / volume if volume else torch.full_like(stress, torch.nan)
    if given is not None and not bool(stress.isfinite().all()) and bool(cell.any()):
        doubts.append(
            f"its '{name}' was left out: expected 6 or 3 × 3 finite numbers, and a cell with a volume"
        )
    return forces, stress, doubts


def _forces(values: Any, n: int) -> Float[Tensor, "n 3"]:
    array = _numbers(values)
    fits = array is not None and array.shape == (n, 3) and bool(np.isfinite(array).all())
    return torch.from_numpy(array) if fits else torch.full((n, 3), torch.nan, dtype=torch.float64)


def _stress(values: Any) -> Float[Tensor, "3 3"]:
    array = _numbers(values)
    if array is not None and array.shape == (6,):
        xx, yy, zz, yz, xz, xy = array  # Voigt's order
        array = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    elif array is not None and array.shape == (9,):
        array = array.reshape(3, 3)
    fits = array is not None and array.shape == (3, 3) and bool(np.isfinite(array).all())
    return torch.from_numpy(array) if fits else torch.full((3, 3), torch.nan, dtype=torch.float64)


def _scalar(value: Any) -> float:
    array = _numbers(value)
    return float(array) if array is not None and array.ndim == 0 else float("nan")


def _numbers(values: Any) -> Any:
    try:
        return None if values is None else np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def doubt_of_forces(
    structures: StructureBatch, forces: Float[Tensor, "A 3"], property: str, values: Float[Tensor, "B"]
) -> str | None:
    """Return a warning if forces are inconsistent with the energies; None if consistent or unknown.

    Energies are those of calculators, or the property if its name is that of an energy: of the structure or
    per atom, whichever fits.

    Args:
        structures: Where the forces belong.
        forces: In eV/Å; NaN where a structure has none.
        property: Name of a property.
        values: Its values.
    """
    energies = [one.get("energy", torch.nan) for one in calculator_results(structures)]
    total = torch.tensor([_scalar(value) for value in energies], dtype=torch.float64)
    if bool(total.isfinite().any()):
        return doubt_of_units(structures, forces, total)
    if "energy" not in property.lower():
        return None
    scales: list[Any] = [1, structures.n_atoms]
    if "per_atom" in property:
        scales.reverse()
    doubts = [doubt_of_units(structures, forces, values * scale) for scale in scales]
    return None if None in doubts else max((one or "" for one in doubts), key=lambda one: _GUESS in one)


def doubt_of_units(
    structures: StructureBatch, forces: Float[Tensor, "A 3"], energies: Float[Tensor, "B"]
) -> str | None:
    r"""Return a warning if forces disagree with finite differences of energies; None if they agree.

    Between two structures of the same atoms that differ by :math:`\delta x`, the energy changes by
    :math:`-\tfrac12 (F_1 + F_2) \cdot \delta x` up to third order.

    Args:
        structures: Where forces and energies belong.
        forces: In eV/Å; NaN where a structure has none.
        energies: Total energies in eV; NaN where unknown.
    """
    expected, actual = _changes(structures, forces, energies)
    clear = (abs(expected) > 0) & (abs(actual) > _CHANGE)
    expected, actual = expected[clear], actual[clear]
    if len(expected) < _PAIRS:
        return None
    ratio = actual / expected
    factor = _weighted_median(ratio, abs(actual))
    agree = abs(actual)[(ratio / factor > 0.5) & (ratio / factor < 2)].sum() / abs(actual).sum()
    if agree > 0.5 and 0.75 < factor < 1.33:
        return None
    text = (
        "the forces are inconsistent with the energies (eV and eV/Å expected): "
        f"between {len(ratio)} pairs of near "
    )
    if agree <= 0.5:
        return (
            f"{text}structures, the energy does not follow them. Are they of these atoms, in this order, and "
            "of the same method?"
        )
    return (
        f"{text}structures, the energy changes by {factor:.3g} times what they say.{guessed_unit(factor)} "
        "Convert them."
    )


def guessed_unit(factor: float) -> str:
    """Return a sentence about the unit of forces, where they are a known factor smaller than in eV/Å."""
    known = next((unit for scale, unit in _UNITS.items() if abs(factor / scale - 1) < 0.12), None)
    return f" {_GUESS} {known}." if known else ""


def _changes(structures: StructureBatch, forces: Tensor, energies: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return energy differences of similar structures: by the forces, and as labelled."""
    from scipy.spatial import cKDTree

    ends = torch.cumsum(structures.n_atoms, 0).tolist()
    first, numbers = structures.first_atom.tolist(), structures.atomic_numbers.cpu().numpy()
    positions, cells = structures.positions.cpu().double().numpy(), structures.cells.cpu().double().numpy()
    force, energy = forces.cpu().numpy(), energies.cpu().double().numpy()
    groups: dict[bytes, list[int]] = {}
    for b, (start, end) in enumerate(zip(first, ends, strict=True)):
        if np.isfinite(energy[b]) and end > start and np.isfinite(force[start]).all():
            key = numbers[start:end].tobytes() + cells[b].round(6).tobytes()
            groups.setdefault(key, []).append(b)
    expected, actual = [], []
    for members in groups.values():
        members = members[:_SEARCHED]
        atoms = np.concatenate([np.arange(first[b], ends[b]) for b in members])
        x, f, e = positions[atoms].reshape(len(members), -1, 3), force[atoms], energy[members]
        if not structures.pbc[members[0]].any():
            x = x - x.mean(1, keepdims=True)
        x, f = x.reshape(len(members), -1), f.reshape(len(members), -1)
        reach = _NEAR * (x.shape[1] / 3) ** 0.5
        distance, nearest = cKDTree(x).query(x, k=min(4, len(members)), distance_upper_bound=reach)
        if len(members) < 2:
            continue
        pairs = {
            (min(i, int(j)), max(i, int(j)))
            for i, (row, away) in enumerate(zip(nearest, distance, strict=True))
            for j, d in zip(row, away, strict=True)
            if np.isfinite(d) and j != i
        }
        for i, j in sorted(pairs):
            expected.append(-0.5 * float((f[i] + f[j]) @ (x[j] - x[i])))
            actual.append(float(e[j] - e[i]))
    return np.array(expected), np.array(actual)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
