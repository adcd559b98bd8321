"""Templates of a search: composition, periodicity and cell of each fingerprint.

A requested composition overrides that of the most similar structure. The cell is that of the most
similar structure of the same composition; else of the same number of atoms, its volume scaled by that of the
atoms (spheres of their covalent radii). Without any, it is a cube of 20 Å³ per atom and optimised too. A
requested volume per atom scales it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.conditions import satisfied
from whorl.datasets import FeatureSet
from whorl.datasets.store import structures_of
from whorl.errors import InputError
from whorl.evaluation import nearest_rows, standardized
from whorl.structures import StructureBatch, to_ase
from whorl.structures.cells import cells_from_parameters, with_volume_per_atom
from whorl.structures.composition import composition as counts_of
from whorl.structures.composition import covalent_radii
from whorl.workflow.starts import read_structures

VOLUME_PER_ATOM = 20.0
"""Initial volume per atom, in Å³, of an unknown cell."""

_HOW_TO_GIVE_A_CELL = (
    "Give a data set that has one (--dataset, --features), or optimise the cell too (--free-cell, in a "
    "recipe reconstruct.free_cell: true)."
)


@dataclass(frozen=True)
class Templates:
    """Composition and cell of the structure of each fingerprint.

    Attributes:
        structures: Species, cell and periodicity.
        free_cell: Whether the cells are only initial guesses.
        known: The structures that real features belong to, by their ids; ``None`` without a data set.
        placed: Whether their positions are meaningful, so that atoms can be frozen there.
    """

    structures: StructureBatch
    free_cell: bool
    known: StructureBatch | None = None
    placed: bool = False

    def of_real(self, rows: Int[Tensor, "n"]) -> StructureBatch | None:
        """Return the templates of rows of the real features; ``None`` if unknown."""
        if self.known is not None:
            return self.known[rows]
        return None if self.free_cell else self.structures[[0] * len(rows)]


def make_templates(
    generated: FeatureSet,
    *,
    real: FeatureSet | None = None,
    dataset: Path | None = None,
    composition: str | None = None,
    requested: Mapping[str, Any] | None = None,
    free_cell: bool = False,
    given: StructureBatch | None = None,
    cell: Float[Tensor, "3 3"] | None = None,
) -> Templates:
    """Return composition and cell for the reconstruction of each fingerprint.

    Args:
        generated: The fingerprints.
        real: Features of real structures.
        dataset: Those structures; needs ``real``.
        composition: Composition, such as ``Ba2Ti2O6``.
        requested: Requested conditions, such as ``{"formula": "BaTiO3"}``: one or more
            formula units, as in the cells of the most similar structures.
        free_cell: Whether cells are optimised too.
        given: Structures that are the templates, one for all or one for each.
        cell: Lattice vectors that replace those of the templates.

    Raises:
        InputError: Composition or cell are unknown; no structure of the data set has
            the requested elements; ``free_cell`` of what is not periodic.
    """
    requested = dict(requested or {})
    formula = composition or requested.get("formula")
    known, placed = None, True
    if dataset is not None:
        if real is None:
            raise InputError(
                "a data set gives composition and cell only together with its features (--features)."
            )
        known = structures_of(real.ids, dataset).replace(info=())
    if given is not None:
        structures = given if len(given) == len(generated) else given[[0] * len(generated)]
    elif known is not None and real is not None and dataset is not None:
        placed = formula is None
        structures = _of_similar(
            generated, real, known, composition, requested, dataset, free_cell or cell is not None
        )
    elif formula is not None:
        placed = False
        structures = _repeated(counts_of(formula), generated.pbc, len(generated))
        free_cell = free_cell or (bool(structures.pbc.any()) and cell is None)
    else:
        raise InputError(
            "the composition is unknown: give the data set that the features were made of "
            "(--dataset), or a composition such as Pt10 (--composition)."
        )
    if free_cell:
        _require_crystals(structures)
    if given is None and requested.get("volume") is not None:
        structures = with_volume_per_atom(structures, requested["volume"])
    if cell is not None:
        if not bool(structures.pbc.all()):
            raise InputError("cell: the features are of structures that are not periodic in all directions.")
        structures = structures.replace(cells=cell.to(structures.cells).expand_as(structures.cells).clone())
    return Templates(structures, free_cell, known, placed and cell is None)


def read_cell(value: str | Sequence[float]) -> Float[Tensor, "3 3"]:
    """Return lattice vectors from a, b, c (Å), α, β, γ (degrees), or from a file with structures.

    Raises:
        InputError: Numbers that are no cell, or structures without one or with several.
    """
    if not isinstance(value, str):
        return cells_from_parameters(torch.tensor([list(value)], dtype=torch.float64))[0]
    structures = read_structures(Path(value)).structures
    assert structures is not None
    if not bool(structures.pbc.all()):
        raise InputError(f"cell: {value} has a structure that is not periodic in all three directions.")
    if not torch.allclose(structures.cells, structures.cells[:1]):
        raise InputError(f"cell: {value} has structures of different cells, expected one.")
    return structures.cells[0]


def frozen_atoms(
    structures: StructureBatch, indices: Sequence[int], tag: int | None = None
) -> Bool[Tensor, "A"]:
    """Return which atoms are frozen: those of some numbers within each structure, and those of a tag.

    Raises:
        InputError: A structure without such an atom or without tags, or one whose atoms are all frozen.
    """
    frozen = torch.zeros(len(structures.atomic_numbers), dtype=torch.bool)
    begin = structures.n_atoms.cumsum(0) - structures.n_atoms
    for index in indices:
        if bool((structures.n_atoms <= index).any()):
            least = int(structures.n_atoms.min())
            raise InputError(f"frozen: got atom {index}, expected 0 to {least - 1}: one has {least} atoms.")
        frozen[begin + index] = True
    if tag is not None:
        tags = torch.cat([torch.as_tensor(atoms.get_tags()) for atoms in to_ase(structures)])
        if not bool((tags == tag).any()):
            there = ", ".join(map(str, tags.unique().tolist()))
            raise InputError(f"frozen_tag: no atom has the tag {tag}; there are {there}.")
        frozen |= tags == tag
    movable = torch.zeros(len(structures), dtype=torch.int64).index_add(
        0, structures.structure_index, (~frozen).long()
    )
    if bool((movable == 0).any()):
        raise InputError("frozen: all atoms of a structure would stay, so there is nothing to search.")
    return frozen


def _require_crystals(structures: StructureBatch) -> None:
    """Reject structures that are not periodic in all directions if cells are free."""
    flat = torch.nonzero(~structures.pbc.all(1)).flatten().tolist()
    if not flat:
        return
    if bool(structures.pbc.any()):
        raise InputError(
            f"{len(flat)} of {len(structures)} features are of structures that are not periodic in all three "
            "directions, so cells cannot be optimised for all of them. Give the data set that the features "
            "were made of (--dataset, --features), and leave the cells as they are."
        )
    raise InputError(
        "free cell: the features are of structures without a cell, so there is none to optimise."
    )


def _of_similar(
    generated: FeatureSet,
    real: FeatureSet,
    known: StructureBatch,
    composition: str | None,
    requested: Mapping[str, Any],
    dataset: Path,
    free_cell: bool,
) -> StructureBatch:
    """Return for each row the most similar structure that has, or can be given, what was requested."""
    formula = composition or requested.get("formula")
    if formula is None and (elements := requested.get("elements")):
        right = satisfied(known, elements=elements)["elements"]
        if not bool(right.any()):
            raise InputError(
                f"{dataset}: no structure has {', '.join(elements)} together, as was requested, so none "
                "gives composition and cell. Give the composition (--composition, in a recipe "
                "reconstruct.composition)."
            )
    else:
        right = torch.ones(len(known), dtype=torch.bool)
    of_symmetry = right.clone()
    others = {name: value for name, value in requested.items() if name not in ("elements", "formula")}
    for flags in satisfied(known, **others).values():
        of_symmetry &= flags
    choices = [of_symmetry, right]
    counts: dict[str, int] = {}
    if formula is not None:
        counts = counts_of(formula)
        same = satisfied(known, formula=formula)["formula"]
        fits = _fitting(known, counts, exact=composition is not None)
        choices = [same & fits & of_symmetry, same & fits, fits & of_symmetry, fits]
    rows = next((choice for choice in choices if bool(choice.any())), None)
    if rows is None:
        return _without_example(generated, known, counts, str(formula), dataset, free_cell)
    candidates = torch.nonzero(rows).flatten()
    features = real.features.flatten(1).double()
    nearest = nearest_rows(
        standardized(generated.features.flatten(1).double(), features),
        standardized(features, features)[candidates],
    )
    chosen = known[candidates[nearest]]
    return chosen if not counts else StructureBatch.concatenate([_with(one, counts) for one in chosen])


def _fitting(structures: StructureBatch, counts: Mapping[str, int], *, exact: bool) -> Bool[Tensor, "B"]:
    """Return which structures have as many atoms as the formula, or in crystals as units of it."""
    atoms = sum(counts.values())
    fits = structures.n_atoms == atoms
    if not exact:
        fits |= structures.pbc.any(1) & (structures.n_atoms % sum(_unit(counts).values()) == 0)
    return fits


def _unit(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the reduced formula."""
    common = math.gcd(*counts.values())
    return {symbol: count // common for symbol, count in counts.items()}


def _with(structure: StructureBatch, counts: Mapping[str, int]) -> StructureBatch:
    """Return a structure with this composition in units, the volume of its cell scaled by the atoms'."""
    n, unit = len(structure.atomic_numbers), _unit(counts)
    numbers = _numbers(unit, n // sum(unit.values())).to(structure.device)
    if torch.equal(numbers.sort().values, structure.atomic_numbers.sort().values):
        return structure
    before, after = (covalent_radii(z).pow(3).sum() for z in (structure.atomic_numbers, numbers))
    scale = ((after / before) ** (1 / 3)).to(structure.dtype)
    # Vectors that are not periodic, as those of a slab, are kept.
    cells = torch.where(structure.pbc[:, :, None], structure.cells * scale, structure.cells)
    return structure.replace(atomic_numbers=numbers, cells=cells)


def _without_example(
    generated: FeatureSet,
    known: StructureBatch,
    counts: Mapping[str, int],
    formula: str,
    dataset: Path,
    free_cell: bool,
) -> StructureBatch:
    if free_cell or not bool(known.pbc.any()):
        return _repeated(counts, known.pbc[:1], len(generated))
    sizes = ", ".join(str(n) for n in known.n_atoms.unique().tolist())
    raise InputError(
        f"{formula}: no structure of {dataset} has so many atoms or a multiple (there are {sizes}), so none "
        f"gives a cell for it. {_HOW_TO_GIVE_A_CELL}"
    )


def _numbers(counts: Mapping[str, int], times: int = 1) -> Int[Tensor, "n"]:
    from ase.data import atomic_numbers

    return torch.tensor([atomic_numbers[symbol] for symbol, n in counts.items() for _ in range(n * times)])


def _repeated(counts: Mapping[str, int], pbc: Tensor | None, times: int) -> StructureBatch:
    """Return structures of this composition: in a cube where they are periodic, else without a cell."""
    one = one_molecule(counts)
    if pbc is None:
        pbc = one.pbc
    length = (VOLUME_PER_ATOM * len(one.atomic_numbers)) ** (1 / 3)
    cube = length * torch.eye(3, dtype=torch.float64)
    pbc = pbc.expand(times, 3) if len(pbc) == 1 else pbc
    return one[[0] * times].replace(pbc=pbc, cells=cube * pbc.any(1)[:, None, None])


def one_molecule(counts: Mapping[str, int]) -> StructureBatch:
    """Return one structure of this composition without a cell; its positions mean nothing."""
    numbers = _numbers(counts)
    return StructureBatch(
        positions=torch.zeros(len(numbers), 3, dtype=torch.float64),
        cells=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        atomic_numbers=numbers,
        structure_index=torch.zeros(len(numbers), dtype=torch.int64),
    )
