r"""Space groups of crystals: detection, standardized cells, and symmetrisation.

spglib finds the operations :math:`x \to W x + w` (fractional coordinates) that take a crystal onto itself
within a tolerance. :func:`refine` then makes them exact: each atom goes to the mean of all images that fall
upon it, and the metric of the lattice :math:`G = L L^T` to the mean of :math:`W^T G W`. Cell and order of the
atoms stay as they are.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import gemmi
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.parallel import map_threads
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import fractional_coordinates
from whorl.structures.convert import Structures, as_batch

CELLS = ("as_is", "primitive", "conventional", "niggli")
CRYSTAL_SYSTEMS: Mapping[str, range] = {
    "triclinic": range(1, 3),
    "monoclinic": range(3, 16),
    "orthorhombic": range(16, 75),
    "tetragonal": range(75, 143),
    "trigonal": range(143, 168),
    "hexagonal": range(168, 195),
    "cubic": range(195, 231),
}
"""Numbers of the space groups of each system."""

_KEYS = ("space_group_number", "spacegroup_number")  # of ``info``, the first that is there

TOLERANCES = (0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55)
"""Tolerances in Å that :func:`refine` tries."""

_DIFFERENCES_AT_ONCE = 1_000_000  # between images and atoms
_MOST_OPERATIONS = 192  # of a cell in the tables: Fm-3m
_EXACT = 1e-3  # Å within which a refined crystal must have its space group

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Array = NDArray[np.float64]
_Crystal = tuple[Array, Array, NDArray[np.int64]]  # lattice (rows), fractional coordinates, atomic numbers


@dataclass(frozen=True, kw_only=True)
class Refined:
    """Crystals refined to their space groups; those for which no tolerance was accepted are as they were.

    Attributes:
        structures: The crystals, atoms in the same order; ``info`` is kept.
        space_group: Number of each one's space group, found at 0.001 Å after the refinement.
        symprec: Accepted tolerance in Å; NaN where there is none.
        displacement: Greatest distance in Å that an atom was moved, shape (B,).
        strain: Greatest change of a lattice vector, relative to the longest, shape (B,).
    """

    structures: StructureBatch
    space_group: Int[Tensor, "B"]
    symprec: Float[Tensor, "B"]
    displacement: Float[Tensor, "B"]
    strain: Float[Tensor, "B"]


@dataclass(frozen=True, kw_only=True)
class Symmetric:
    """A crystal that its operations x → W x + w (fractional coordinates) take exactly onto itself.

    Attributes:
        crystal: In a cell of the same choice of vectors, atoms in the same order; its origin may have moved.
        rotations: W of each operation, the identity first; they form a group with the translations.
        translations: w of each operation in [0, 1), multiples of 1/4 or 1/6.
        number: Of the space group.
        setting: Which setting of it the tables (gemmi's) have with these operations; ``None`` where none.
        displacement: Largest displacement of an atom in Å, apart from the shift of the origin.
    """

    crystal: StructureBatch
    rotations: Int[np.ndarray, "g 3 3"]
    translations: Float[np.ndarray, "g 3"]
    number: int
    setting: gemmi.SpaceGroup | None
    displacement: float

    @property
    def operations(self) -> list[gemmi.Op]:
        """The operations as gemmi has them."""
        return [_operation(*pair) for pair in zip(self.rotations, self.translations, strict=True)]


@dataclass(frozen=True)
class _Candidate:
    crystal: _Crystal
    number: int
    operations: int
    symprec: float
    displacement: float
    strain: float


@dataclass(frozen=True)
class _Averaged:
    crystal: _Crystal
    onto: NDArray[np.int64]  # (g, n): where each operation takes each atom
    displacement: float
    strain: float


def space_group_numbers(structures: Structures, *, symprec: float = 0.01) -> Int[Tensor, "B"]:
    """Return the numbers of the space groups (1–230) as spglib finds them; 1 where it finds none.

    Args:
        structures: Periodic in all directions.
        symprec: Tolerance in Å.
    """

    def number(crystal: _Crystal) -> int:
        dataset = _dataset(crystal, symprec)
        return 1 if dataset is None else int(dataset.number)

    return torch.tensor(_map(number, _crystals(as_batch(structures))), dtype=torch.int64)


def stated_space_group(info: Mapping[str, Any]) -> int:
    """Return the number of the space group that stands in a structure's ``info``, or 0."""
    for key in _KEYS:
        if key in info:
            try:
                number = int(info[key])
            except (TypeError, ValueError):
                return 0
            return number if 1 <= number <= 230 else 0
    return 0


def known_space_groups(structures: Structures, *, symprec: float = 0.01) -> Int[Tensor, "B"]:
    """Return the number of each one's space group: from its ``info``, else as spglib finds it.

    0 stands for structures that are not periodic in all three directions.
    """
    structures = as_batch(structures)
    stated = [stated_space_group(info) for info in structures.info] or [0] * len(structures)
    numbers = torch.tensor(stated, dtype=torch.int64)
    unknown = ((numbers == 0) & structures.pbc.all(1).cpu()).nonzero()[:, 0]
    if len(unknown):
        numbers[unknown] = space_group_numbers(structures[unknown], symprec=symprec)
    return numbers


@lru_cache(maxsize=256)
def space_group_symbol(number: int) -> str:
    """Return the Hermann–Mauguin symbol of a space group (1–230).

    >>> space_group_symbol(221)
    'Pm-3m'
    """
    from pymatgen.symmetry.groups import sg_symbol_from_int_number

    return str(sg_symbol_from_int_number(number))


def crystal_system(number: int) -> str:
    """Return the crystal system of a space group, given by its number.

    >>> crystal_system(2), crystal_system(194), crystal_system(221)
    ('triclinic', 'hexagonal', 'cubic')

    Raises:
        InputError: Not a number from 1 to 230.
    """
    for name, numbers in CRYSTAL_SYSTEMS.items():
        if number in numbers:
            return name
    raise InputError(f"space group: got {number}, expected a number from 1 to 230.")


def standardized(structures: Structures, *, cell: str, symprec: float = 0.01) -> StructureBatch:
    """Return each crystal in another cell, as spglib standardizes it; where it cannot, as it is.

    Args:
        structures: Periodic in all directions.
        cell: ``"primitive"`` or ``"conventional"``: the standardized cell, with the standard origin and
            orientation, atoms at their symmetric places; ``"niggli"``: the primitive cell with its lattice
            reduced after Niggli; ``"as_is"``.
        symprec: Tolerance in Å.

    Raises:
        InputError: Another name of a cell.
    """
    if cell not in CELLS:
        raise unknown_option("cell", cell, CELLS)
    structures = as_batch(structures)
    if cell == "as_is" or len(structures) == 0:
        return structures

    def change(crystal: _Crystal) -> _Crystal:
        found = _ask("standardize_cell", crystal, to_primitive=cell != "conventional", symprec=symprec)
        lattice, fractional, numbers = crystal if found is None else found
        reduced = _ask("niggli_reduce", lattice) if cell == "niggli" else None
        if reduced is not None:
            fractional, lattice = fractional @ lattice @ np.linalg.inv(reduced), reduced
        return lattice, fractional - np.floor(fractional + 1e-9), numbers.astype(np.int64)

    return _with_crystals(structures, _map(change, _crystals(structures)))


def reduced_cells(cells: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
    """Return the lattices' Niggli-reduced cells; one that spglib cannot reduce is as it was."""

    def reduced(cell: Array) -> Array:
        found = _ask("niggli_reduce", cell)
        return cell if found is None else np.asarray(found)

    return (
        torch.from_numpy(np.array(_map(reduced, list(cells.double().cpu().numpy()))))
        .reshape(-1, 3, 3)
        .to(cells)
    )


def refine(
    structures: StructureBatch,
    *,
    expected: Float[Tensor, "B"] | Sequence[float] | None = None,
    expected_error: Float[Tensor, "B"] | Sequence[float] | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    most: float | Float[Tensor, "B"] = 0.6,
) -> Refined:
    """Find the symmetry of crystals over a schedule of tolerances, and make it exact.

    Each tolerance gives a space group and a crystal refined to it, which counts if spglib finds that group
    again at 0.001 Å, and if no atom moved farther than ``most``. Of these candidates that one is taken whose
    number is within the error of the expected one; if there are several or none such, that of the most
    operations; among equals the one that moved least.

    Args:
        structures: Periodic in all directions.
        expected: Number of the space group that is expected, which need not be whole; None for none.
        expected_error: Standard error of it; a number counts as expected within half of 1, or 2.5 errors.
        tolerances: Tolerances in Å.
        most: Greatest distance in Å that an atom may be moved; one for all, or one for each.

    Raises:
        InputError: No tolerances, or some that are not positive.
    """
    if len(tolerances) == 0 or not all(tolerance > 0 for tolerance in tolerances):
        raise InputError(f"tolerances: got {list(tolerances)}, expected tolerances in Å greater than 0.")
    crystals = _crystals(structures)
    wanted = [None] * len(crystals) if expected is None else torch.as_tensor(expected).tolist()
    errors = [0.0] * len(crystals) if expected_error is None else torch.as_tensor(expected_error).tolist()
    limits = torch.as_tensor(most).expand(len(crystals)).tolist()
    items = list(zip(crystals, wanted, errors, limits, strict=True))
    found = _map(lambda item: _refine(*item, tolerances=sorted(tolerances)), items)
    kind = torch.float64
    return Refined(
        structures=_with_crystals(structures, [one.crystal for one in found]),
        space_group=torch.tensor([one.number for one in found], dtype=torch.int64),
        symprec=torch.tensor([one.symprec for one in found], dtype=kind),
        displacement=torch.tensor([one.displacement for one in found], dtype=kind),
        strain=torch.tensor([one.strain for one in found], dtype=kind),
    )


def exactly_symmetric(structure: StructureBatch, *, symprec: float = 0.01) -> Symmetric | None:
    """Return a crystal with the symmetry that it has within a tolerance, made exact in its own cell.

    Operations as spglib finds them carry translations that are as inexact as the atoms. Here they are rounded
    to the quarters and sixths of the tables of space groups, for which the origin is moved to theirs where it
    must be, and then the atoms are averaged over their images. Outside of the settings of the tables a centre
    of inversion, if there is one, is at the origin, as some programs take for granted.

    Args:
        structure: A batch of one, periodic in all directions.
        symprec: Tolerance in Å; no atom moves by more than twice of it.

    Returns:
        ``None`` where there is no symmetry but that of P1, where the cell is a supercell with more than 192
        operations or other translations, or where the atoms cannot be averaged.
    """
    (crystal,) = _crystals(structure)
    lattice, fractional, numbers = crystal
    (dataset,) = _map(lambda one: _dataset(one, symprec), [crystal])
    if dataset is None or not 1 < len(dataset.rotations) <= _MOST_OPERATIONS:
        return None
    rotations = np.asarray(dataset.rotations, dtype=np.int32)
    inversions = (rotations == -np.eye(3, dtype=np.int32)).all((1, 2))
    origins = [np.zeros(3), np.linalg.solve(dataset.transformation_matrix, dataset.origin_shift)]
    origins += [-dataset.translations[inversions][0] / 2] if inversions.any() else []
    choice = []
    for origin in origins:
        moved = dataset.translations + origin - rotations @ origin
        quarters, sixths = np.rint(moved * 4) / 4, np.rint(moved * 6) / 6
        exact = np.where(np.abs(moved - quarters) <= np.abs(moved - sixths), quarters, sixths)
        if np.linalg.norm((moved - exact) @ lattice, axis=1).max() > 2 * symprec:
            continue
        exact %= 1.0
        averaged = _symmetrized((lattice, fractional + origin, numbers), rotations, exact)
        if averaged is None or averaged.displacement > 2 * symprec or not _is_group(rotations, exact):
            continue
        operations = [_operation(*pair) for pair in zip(rotations, exact, strict=True)]
        setting = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operations))
        if setting is None and inversions.any() and not (exact[inversions] == 0).all(1).any():
            continue
        choice.append(
            Symmetric(
                crystal=_with_crystals(structure, [averaged.crystal]),
                rotations=rotations,
                translations=exact,
                number=int(dataset.number),
                setting=setting,
                displacement=averaged.displacement,
            )
        )
    return next((one for one in choice if one.setting is not None), choice[0] if choice else None)


def symmetrized(
    structures: StructureBatch, *, symprec: float = 0.01
) -> tuple[StructureBatch, list[tuple[Int[np.ndarray, "g 3 3"], Int[np.ndarray, "g n"]] | None]]:
    """Return crystals with the symmetry that they have within a tolerance made exact in their own cells.

    Args:
        structures: Periodic in all directions.
        symprec: Tolerance in Å.

    Returns:
        The crystals; and of each W of its operations with the atom that each takes each atom to. None where
        there is no operation but the identity, or the atoms cannot be averaged: such a crystal is as it was.
    """
    crystals = _crystals(structures)

    def average(crystal: _Crystal) -> Any:
        dataset = _dataset(crystal, symprec)
        if dataset is None or len(dataset.rotations) < 2:
            return None
        return _symmetrized(crystal, dataset.rotations, dataset.translations), dataset.rotations

    results = [pair if pair and pair[0] else None for pair in _map(average, crystals)]
    new = [
        crystal if result is None else result[0].crystal
        for crystal, result in zip(crystals, results, strict=True)
    ]
    operations = [None if result is None else (result[1], result[0].onto) for result in results]
    return _with_crystals(structures, new), operations


def _operation(rotation: NDArray[np.int32], translation: Array) -> gemmi.Op:
    operation = gemmi.Op()
    operation.rot = (rotation * operation.DEN).tolist()
    operation.tran = np.rint(translation * operation.DEN).astype(int).tolist()
    return operation


def _is_group(rotations: NDArray[np.int32], translations: Array) -> bool:
    """Tell whether the product of any two operations is one of them."""

    def names(rotation: NDArray[np.int32], translation: Array) -> set[bytes]:
        steps = np.rint(translation * 12).astype(np.int32) % 12
        rows = np.concatenate([rotation.reshape(-1, 9), steps.reshape(-1, 3)], axis=1)
        return {row.tobytes() for row in rows}

    products = np.einsum("gij,hjk->ghik", rotations, rotations)
    shifts = np.einsum("gij,hj->ghi", rotations, translations) + translations[:, None]
    return names(products, shifts) == names(rotations, translations)


def _refine(
    crystal: _Crystal, expected: float | None, error: float, most: float, *, tolerances: Sequence[float]
) -> _Candidate:
    candidates: dict[int, _Candidate] = {}
    for tolerance in tolerances:
        dataset = _dataset(crystal, tolerance)
        if dataset is None:
            continue
        number = int(dataset.number)
        moved = _symmetrized(crystal, dataset.rotations, dataset.translations)
        if moved is None:
            continue
        refined, displacement, strain = moved.crystal, moved.displacement, moved.strain
        if displacement > most or (number in candidates and candidates[number].displacement <= displacement):
            continue
        again = _dataset(refined, _EXACT)
        if again is None or int(again.number) != number:
            continue
        # The cell is the same for all candidates, so that centring translations count too.
        candidates[number] = _Candidate(
            refined, number, len(again.rotations), tolerance, displacement, strain
        )
    if not candidates:
        return _Candidate(crystal, 1, 1, float("nan"), 0.0, 0.0)
    choice = list(candidates.values())
    if expected is not None:
        near = [one for one in choice if abs(one.number - expected) <= max(0.5, 2.5 * error)]
        choice = near or choice
    return max(choice, key=lambda one: (one.operations, -one.displacement))


def _symmetrized(crystal: _Crystal, rotations: NDArray[np.int32], translations: Array) -> _Averaged | None:
    """Return the crystal with exact symmetry.

    ``None`` where an operation does not take the atoms onto one another.
    """
    lattice, fractional, numbers = crystal
    metric = lattice @ lattice.T
    symmetric = np.einsum("gji,jk,gkl->il", rotations, metric, rotations) / len(rotations)
    shift = np.zeros_like(fractional)
    every = []
    at_once = max(1, _DIFFERENCES_AT_ONCE // len(numbers) ** 2)
    for start in range(0, len(rotations), at_once):
        some = slice(start, start + at_once)
        images = np.einsum("gij,nj->gni", rotations[some], fractional) + translations[some, None]
        gaps = images[:, :, None] - fractional  # (g, n, n, 3)
        gaps -= np.round(gaps)
        square = np.einsum("gnmi,ij,gnmj->gnm", gaps, symmetric, gaps, optimize=True)
        square[:, numbers[:, None] != numbers] = np.inf
        onto = square.argmin(2)
        if not (np.sort(onto, 1) == np.arange(len(numbers))).all():
            return None
        if not np.isfinite(np.take_along_axis(square, onto[:, :, None], 2)).all():
            return None
        gap = np.take_along_axis(gaps, onto[:, :, None, None], 2)[:, :, 0]
        np.add.at(shift, onto.ravel(), gap.reshape(-1, 3))
        every.append(onto)
    shift /= len(rotations)
    # The same orientation: the symmetric part of the change alone, L' = L (L⁻¹ G' L⁻ᵀ)^½.
    inverse = np.linalg.inv(lattice)
    values, vectors = np.linalg.eigh(inverse @ symmetric @ inverse.T)
    if values.min() <= 0:
        return None
    new = lattice @ (vectors * np.sqrt(values)) @ vectors.T
    strain = np.linalg.norm(new - lattice, axis=1).max() / np.linalg.norm(lattice, axis=1).max()
    moved = np.linalg.norm(shift @ new, axis=1).max()
    crystal = (new, fractional + shift, numbers)
    return _Averaged(crystal, np.concatenate(every), float(moved), float(strain))


@lru_cache(maxsize=1)
def space_group_settings() -> list[tuple[int, Int[np.ndarray, "g 3 3"], Float[np.ndarray, "g 3"]]]:
    """Return number, rotations and translations of all 530 settings of the space groups (Hall symbols).

    An operation takes fractional coordinates x to W x + w in the conventional cell of its setting.
    """
    found = []
    for hall in range(1, 531):
        operations, kind = _map(_setting, [hall])[0]
        found.append((int(kind.number), operations["rotations"].astype(np.int64), operations["translations"]))
    return found


def full_symbols() -> list[tuple[int, str, str, str]]:
    """Return number, full Hermann-Mauguin symbol, choice (1, H, b1 …) and Hall symbol of 530 settings."""
    kinds = _map(lambda hall: _ask("get_spacegroup_type", hall), range(1, 531))
    return [(int(k.number), k.international_full, k.choice, k.hall_symbol) for k in kinds]


def space_group_type(
    rotations: Int[np.ndarray, "g 3 3"], translations: Float[np.ndarray, "g 3"]
) -> int | None:
    """Return the number of the space group that operations x → W x + w form in any setting; None if none."""
    found = _map(lambda pair: _ask("get_spacegroup_type_from_symmetry", *pair), [(rotations, translations)])[
        0
    ]
    return None if found is None else int(found.number)


def conventional_basis(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Return P, such that P x are coordinates in the conventional cell of a lattice, x those in a cell of it.

    The identity where spglib finds no lattice.
    """
    dataset = _map(lambda one: _dataset((one, np.zeros((1, 3)), np.ones(1, dtype=np.int64)), 1e-3), [cell])[0]
    return np.eye(3) if dataset is None else np.asarray(dataset.transformation_matrix, dtype=np.float64)


def _setting(hall: int) -> tuple[Any, Any]:
    return _ask("get_symmetry_from_database", hall), _ask("get_spacegroup_type", hall)


def _dataset(crystal: _Crystal, symprec: float) -> Any:
    return _ask("get_symmetry_dataset", crystal, symprec=symprec)


def _map(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    with warnings.catch_warnings():
        # spglib says with it that an answer of None will become an error.
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        return map_threads(function, items)


def _ask(function: str, *args: Any, **options: Any) -> Any:
    """Return what a function of spglib answers, None where it finds nothing."""
    # Where a tolerance finds nothing, spglib would say so on standard error, line after line.
    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    import spglib

    try:
        return getattr(spglib, function)(*args, **options)
    except spglib.SpglibError:  # instead of None, once something in the process (as ASE does) asks for it
        return None


def _crystals(structures: StructureBatch) -> list[_Crystal]:
    fractional = fractional_coordinates(structures.replace(positions=structures.positions.detach()))
    ends = torch.cumsum(structures.n_atoms, 0)[:-1].tolist()
    x = np.split(fractional.detach().cpu().double().numpy(), ends)
    z = np.split(structures.atomic_numbers.cpu().numpy(), ends)
    cells = structures.cells.detach().cpu().double().numpy()
    return list(zip(cells, x, z, strict=True)) if len(structures) else []


def _with_crystals(structures: StructureBatch, crystals: Sequence[_Crystal]) -> StructureBatch:
    if not crystals:
        return structures
    counts = torch.tensor([len(numbers) for _, _, numbers in crystals])
    positions = np.concatenate([fractional @ lattice for lattice, fractional, _ in crystals])
    device = structures.device
    return StructureBatch(
        positions=torch.from_numpy(positions).to(structures.positions),
        cells=torch.from_numpy(np.stack([lattice for lattice, _, _ in crystals])).to(structures.cells),
        pbc=structures.pbc,
        atomic_numbers=torch.from_numpy(
            np.concatenate([numbers for _, _, numbers in crystals]).astype(np.int64)
        ).to(device),
        structure_index=torch.repeat_interleave(torch.arange(len(crystals)), counts).to(device),
        info=structures.info,
    )
