"""Conversion from and to ASE and pymatgen.

What a :class:`StructureBatch` has no tensor for travels in ``info``: a structure's own ``info`` (ASE) or
``properties`` (pymatgen) under their own keys, and everything else under the one reserved key
:data:`EXTRAS`. The way back takes it from there, so ``to_ase(from_ase(atoms))`` equals ``atoms``.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from ase import Atoms

from whorl.errors import InputError, shortened
from whorl.structures.batch import StructureBatch

if TYPE_CHECKING:
    from pymatgen.core import IMolecule, IStructure, Molecule, Structure

    OneOrMore: TypeAlias = StructureBatch | Atoms | IStructure | IMolecule
    Structures: TypeAlias = OneOrMore | Iterable[OneOrMore]
    BatchField: TypeAlias = StructureBatch
else:  # pymatgen is slow to import and not always needed
    IMolecule = IStructure = Molecule = Structure = Structures = Any
    BatchField = Any  # of a dataclass that takes structures of any form and holds a batch

EXTRAS = "_whorl"  # key of ``info`` that holds what only a return trip needs

# The same quantity, as ASE calls the array and as pymatgen calls the site property.
_SITE_PROPERTY_OF = {"initial_magmoms": "magmom", "initial_charges": "charge"}
_ARRAY_OF = {site_property: array for array, site_property in _SITE_PROPERTY_OF.items()}


def as_batch(structures: Structures) -> StructureBatch:
    """Return structures of any form as a batch.

    Args:
        structures: A batch, which is returned as it is; ``ase.Atoms``, a pymatgen ``Structure`` or
            ``Molecule``; or any of these one after another.

    Raises:
        InputError: Anything else, or a pymatgen structure that a batch cannot hold.

    >>> from ase.build import bulk, molecule
    >>> as_batch([bulk("Cu", cubic=True), molecule("H2O")])
    StructureBatch(2: Cu4, H2O; 1 of 2 periodic; float64)
    """
    if isinstance(structures, StructureBatch):
        return structures
    if isinstance(structures, Atoms):
        return from_ase(structures)
    if _is_pymatgen(structures):
        return from_pymatgen(structures)  # type: ignore[arg-type]
    if isinstance(structures, str) or not isinstance(structures, Iterable):
        raise InputError(f"structures: got {_type_of(structures)}, expected {_ACCEPTED}.")
    items = list(structures)
    if not items or all(isinstance(item, Atoms) for item in items):
        return from_ase(items)
    if all(_is_pymatgen(item) for item in items):
        return from_pymatgen(items)
    for index, item in enumerate(items):
        if not (isinstance(item, StructureBatch | Atoms) or _is_pymatgen(item)):
            raise InputError(f"structures: item {index} is {_type_of(item)}, expected {_ACCEPTED}.")
    batches = [as_batch(item) for item in items]
    first = next((item for item in items if isinstance(item, StructureBatch)), batches[0])
    return StructureBatch.concatenate([batch.to(dtype=first.dtype, device=first.device) for batch in batches])


_ACCEPTED = "a StructureBatch, ase.Atoms, a pymatgen Structure or Molecule, or a list of these"


def _is_pymatgen(item: Any) -> bool:
    core = sys.modules.get("pymatgen.core")  # not imported, so nothing can be of its types
    return core is not None and isinstance(item, core.IStructure | core.IMolecule)


def _type_of(item: Any) -> str:
    if isinstance(item, str):
        return f"the text {shortened(item, 60)!r} (files are read with whorl.datasets)"
    return f"a {type(item).__name__}"


def from_ase(
    atoms: Atoms | Sequence[Atoms], *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> StructureBatch:
    """Make a batch of one or many ``ase.Atoms``.

    Kept for conversion back: ``info``, every per-atom array (tags, momenta, initial magnetic moments and
    charges, masses, your own), constraints, the cell's displacement, and the results of a calculator where
    they belong to exactly these positions. Nothing is calculated, and the calculator itself is not kept.

    Args:
        atoms: One structure or a sequence of them; left as they are.
        dtype: Floating-point type of positions and cells.
        device: Device of the tensors.

    Raises:
        InputError: An item is not ``ase.Atoms``.

    >>> from ase.build import molecule
    >>> batch = from_ase([molecule("H2O"), molecule("CO2")])
    >>> len(batch), batch.n_atoms.tolist()
    (2, [3, 3])
    """
    items = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    for index, item in enumerate(items):
        if not isinstance(item, Atoms):
            raise InputError(
                f"from_ase: item {index} is a {type(item).__name__}, expected ase.Atoms (or a sequence of "
                "them)."
            )
    return _assemble(
        positions=[item.positions for item in items],
        cells=[item.cell.array for item in items],
        pbc=[item.pbc for item in items],
        numbers=[item.numbers for item in items],
        info=tuple(_info_of_atoms(item) for item in items),
        dtype=dtype,
        device=device,
    )


def to_ase(structures: StructureBatch) -> list[Atoms]:
    """Make one ``ase.Atoms`` of each structure.

    Calculator results come back as a ``SinglePointCalculator``, but only where positions, cell and elements
    are still those they were computed for (compared in float32): energies never stick to atoms that moved.

    Raises:
        InputError: A per-atom array in ``info`` does not fit the number of atoms.
    """
    return [_atoms(index, *parts) for index, parts in enumerate(_split(structures))]


def calculator_results(structures: StructureBatch) -> Iterator[Mapping[str, Any]]:
    """Yield the results of a calculator of each structure; none where it has other atoms or cell by now."""
    if not any("calculator" in info.get(EXTRAS, ()) for info in structures.info):
        yield from ({} for _ in range(len(structures)))
        return
    for numbers, positions, cell, pbc, info in _split(structures):
        calculator = info.get(EXTRAS, {}).get("calculator")
        belongs = calculator and calculator["state"] == _state(numbers, positions, cell, pbc)
        yield calculator["results"] if belongs else {}


def from_pymatgen(
    structures: IStructure | IMolecule | Sequence[IStructure | IMolecule],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> StructureBatch:
    """Make a batch of one or many pymatgen ``Structure`` or ``Molecule`` objects.

    Kept for conversion back: ``properties``, site properties, oxidation states and spins of the species,
    labels, charge and spin multiplicity.

    Args:
        structures: One structure or molecule, or a sequence of them; left as they are.
        dtype: Floating-point type of positions and cells.
        device: Device of the tensors.

    Raises:
        InputError: A structure is disordered (several species on a site, or a partly empty one), holds a
            placeholder species, or an item is of another type.
    """
    from pymatgen.core import IMolecule, IStructure

    items = [structures] if isinstance(structures, IStructure | IMolecule) else list(structures)
    for index, item in enumerate(items):
        if not isinstance(item, IStructure | IMolecule):
            raise InputError(
                f"from_pymatgen: item {index} is a {type(item).__name__}, expected a pymatgen Structure or "
                "Molecule (or a sequence of them)."
            )
        _refuse_disorder(index, item)
    lattices = [item.lattice if isinstance(item, IStructure) else None for item in items]
    return _assemble(
        positions=[item.cart_coords for item in items],
        cells=[lattice.matrix if lattice else np.zeros((3, 3)) for lattice in lattices],
        pbc=[lattice.pbc if lattice else (False, False, False) for lattice in lattices],
        numbers=[item.atomic_numbers for item in items],
        info=tuple(_info_of_pymatgen(item) for item in items),
        dtype=dtype,
        device=device,
    )


def to_pymatgen(structures: StructureBatch) -> list[Structure | Molecule]:
    """Make a pymatgen ``Structure`` of each structure with a cell and a ``Molecule`` of each without.

    Coming from ASE, per-atom arrays become site properties (``initial_magmoms`` is ``magmom``,
    ``initial_charges`` is ``charge``) and ``info`` becomes ``properties``. ASE's constraints and calculator
    results have no counterpart and are dropped.

    Raises:
        InputError: A cell has no volume, an atomic number is no element's, or a per-atom property does not
            fit the number of atoms.
    """
    return [_pymatgen(index, *parts) for index, parts in enumerate(_split(structures))]


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]


def _assemble(
    *,
    positions: list[np.ndarray],
    cells: list[np.ndarray],
    pbc: list[Any],
    numbers: list[Any],
    info: tuple[Mapping[str, Any], ...],
    dtype: torch.dtype,
    device: torch.device | str,
) -> StructureBatch:
    counts = torch.tensor([len(item) for item in positions], dtype=torch.int64)
    return StructureBatch(
        positions=torch.from_numpy(np.concatenate([np.zeros((0, 3)), *positions])).to(device, dtype),
        cells=torch.from_numpy(np.array(cells, dtype=float).reshape(-1, 3, 3)).to(device, dtype),
        pbc=torch.from_numpy(np.array(pbc, dtype=bool).reshape(-1, 3)).to(device),
        atomic_numbers=torch.from_numpy(
            np.concatenate([np.zeros(0, np.int64), *(np.asarray(z, np.int64) for z in numbers)])
        ).to(device),
        structure_index=torch.repeat_interleave(torch.arange(len(counts)), counts).to(device),
        info=info,
    )


def _split(structures: StructureBatch) -> Iterator[_Parts]:
    """Yield numbers, positions, cell, pbc and info of each structure as float64 arrays of its own."""
    positions = structures.positions.detach().cpu().numpy().astype(np.float64)
    cells = structures.cells.detach().cpu().numpy().astype(np.float64)
    numbers = structures.atomic_numbers.cpu().numpy()
    pbc = structures.pbc.cpu().numpy()
    ends = torch.cumsum(structures.n_atoms, 0).tolist()
    info: Sequence[Mapping[str, Any]] = structures.info or ({},) * len(structures)
    start = 0
    for index, end in enumerate(ends):
        yield numbers[start:end], positions[start:end], cells[index], pbc[index], info[index]
        start = end


def _own_info(info: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({key: value for key, value in info.items() if key != EXTRAS})


def _fitting(name: str, values: Any, n_atoms: int, index: int) -> Any:
    if len(values) != n_atoms:
        raise InputError(
            f"structure {index}: '{name}' in its info has {len(values)} entries for {n_atoms} atoms. "
            "Drop it with batch.replace(info=...)."
        )
    return values


# ASE


def _info_of_atoms(atoms: Atoms) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    arrays = {
        name: array.copy() for name, array in atoms.arrays.items() if name not in ("numbers", "positions")
    }
    if arrays:
        extras["arrays"] = arrays
    if atoms.constraints:
        extras["constraints"] = copy.deepcopy(atoms.constraints)
    displacement = atoms.get_celldisp()
    if displacement.any():
        extras["celldisp"] = displacement.copy()
    calculator = atoms.calc
    results = getattr(calculator, "results", None)
    if results and hasattr(calculator, "check_state") and not calculator.check_state(atoms):
        extras["calculator"] = {
            "name": str(getattr(calculator, "name", None) or type(calculator).__name__.lower()),
            "results": copy.deepcopy(dict(results)),
            "state": _state(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc),
        }
    info = copy.deepcopy(atoms.info)
    if extras:
        info[EXTRAS] = extras
    return info


def _state(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> str:
    """Return a hash of what calculator results belong to; the same in float32 and float64."""
    parts = [numbers.astype(np.int64), pbc.astype(bool)]
    parts += [np.asarray(part, np.float32) + np.float32(0) for part in (positions, cell)]  # + 0: no -0.0
    return hashlib.sha1(b"".join(part.tobytes() for part in parts)).hexdigest()


def _atoms(
    index: int,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    info: Mapping[str, Any],
) -> Atoms:
    extras = info.get(EXTRAS, {})
    atoms = Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc, info=_own_info(info))
    arrays = dict(extras.get("arrays", {}))
    for name, values in extras.get("site_properties", {}).items():
        try:
            array = np.asarray(values)
        except ValueError:  # a ragged list has no place in ASE
            continue
        if array.dtype.kind in "biufU":  # a number, truth value or word for every site
            arrays[_ARRAY_OF.get(name, name)] = array
    for name, array in arrays.items():
        atoms.set_array(name, _fitting(name, array, len(atoms), index))
    if "celldisp" in extras:
        atoms.set_celldisp(extras["celldisp"])
    if "constraints" in extras:
        atoms.set_constraint(copy.deepcopy(extras["constraints"]))
    calculator = extras.get("calculator")
    if calculator and calculator["state"] == _state(numbers, positions, cell, pbc):
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.name = calculator["name"]
        atoms.calc.results = copy.deepcopy(calculator["results"])
    return atoms


# pymatgen


def _refuse_disorder(index: int, structure: Any) -> None:
    from pymatgen.core import DummySpecies

    for number, site in enumerate(structure):
        if len(site.species) != 1 or not site.is_ordered:
            raise InputError(
                f"structure {index} ({structure.composition.formula}) is disordered: site {number} holds "
                f"{site.species_string}, expected exactly one species with occupancy 1. Make it ordered "
                "first, for instance with pymatgen's OrderDisorderedStructureTransformation."
            )
        if isinstance(site.specie, DummySpecies):
            raise InputError(
                f"structure {index} ({structure.composition.formula}): site {number} holds the placeholder "
                f"{site.species_string}, expected a chemical element. Replace it or remove the site."
            )


def _info_of_pymatgen(structure: Any) -> dict[str, Any]:
    from pymatgen.core import Element, IMolecule

    extras: dict[str, Any] = {}
    if any(site.properties for site in structure):
        extras["site_properties"] = copy.deepcopy(structure.site_properties)
    species = structure.species
    if any(not isinstance(specie, Element) or specie.name in ("D", "T") for specie in species):
        extras["species"] = [
            specie.name if isinstance(specie, Element) else [specie.symbol, specie.oxi_state, specie.spin]
            for specie in species
        ]
    if any(site.label != site.species_string for site in structure):
        extras["labels"] = structure.labels
    if isinstance(structure, IMolecule):
        extras["charge"] = structure.charge
        extras["spin_multiplicity"] = structure.spin_multiplicity
    elif structure._charge is not None:  # the public one adds up oxidation states where none was set
        extras["charge"] = structure._charge
    info = copy.deepcopy(dict(structure.properties))
    if extras:
        info[EXTRAS] = extras
    return info


def _pymatgen(
    index: int,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    info: Mapping[str, Any],
) -> Any:
    from pymatgen.core import Lattice, Molecule, Structure

    extras = info.get(EXTRAS, {})
    n_atoms = len(numbers)
    site_properties = {
        _SITE_PROPERTY_OF.get(name, name): _fitting(name, array.tolist(), n_atoms, index)
        for name, array in extras.get("arrays", {}).items()
    }
    for name, values in extras.get("site_properties", {}).items():
        site_properties[name] = copy.deepcopy(_fitting(name, values, n_atoms, index))
    labels = extras.get("labels")
    species = _species(index, numbers, extras.get("species"))
    common: dict[str, Any] = {
        "site_properties": site_properties or None,
        "labels": labels if labels and len(labels) == n_atoms else None,
        "properties": _own_info(info),
    }
    if not cell.any() and not pbc.any():
        charge, multiplicity = extras.get("charge", 0), extras.get("spin_multiplicity")
        # A multiplicity that the number of electrons forbids was let in once; it is let in again.
        electrons = int(numbers.sum()) - charge
        possible = not multiplicity or (electrons + multiplicity) % 2 == 1
        return Molecule(
            species,
            positions,
            charge=charge,
            spin_multiplicity=multiplicity,
            charge_spin_check=possible,
            **common,
        )
    if abs(np.linalg.det(cell)) <= 1e-12 * np.prod(np.linalg.norm(cell, axis=1)):
        raise InputError(
            f"structure {index}: its cell {cell.tolist()} has no volume, which a pymatgen Structure needs. "
            "Give it three independent lattice vectors (ase.geometry.complete_cell adds missing ones)."
        )
    lattice = Lattice(cell, pbc=tuple(pbc.tolist()))
    return Structure(
        lattice, species, positions, coords_are_cartesian=True, charge=extras.get("charge"), **common
    )


def _species(index: int, numbers: np.ndarray, decorated: Sequence[Any] | None) -> list[Any]:
    """Return an Element for each atom, or its decorated species where that is still the same element."""
    from pymatgen.core import Element, Species

    try:
        elements = {z: Element.from_Z(z) for z in set(numbers.tolist())}
    except ValueError:
        bad = next(z for z in numbers.tolist() if not 1 <= z <= 118)
        raise InputError(
            f"structure {index}: atomic number {bad} is no element's, expected 1 to 118."
        ) from None
    plain = [elements[z] for z in numbers.tolist()]
    if decorated is None or len(decorated) != len(plain):
        return plain
    kinds = {
        str(kind): Element(kind) if isinstance(kind, str) else Species(kind[0], kind[1], spin=kind[2])
        for kind in decorated
    }
    given = [kinds[str(kind)] for kind in decorated]
    return [new if new.Z == old.Z else old for new, old in zip(given, plain, strict=True)]
