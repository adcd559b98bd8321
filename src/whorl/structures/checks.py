"""Structures that cannot be meant: found before they cost hours, and told in the user's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import complete_cells
from whorl.structures.neighbors import neighbor_list

SAME_PLACE = 0.01  # Å; nearer than this, two atoms are one that was written twice
_HEAVIEST = 118
_FLAT = 1e-9  # volume over the product of the lengths, below which a cell has none


def find_problems(structures: StructureBatch, *, species: Sequence[str] | None = None) -> dict[int, str]:
    """Say which structures cannot be used, and why.

    Found are: no atoms; coordinates or cells that are not finite; atomic numbers that are no element's;
    elements other than ``species``; periodic cells without volume; two atoms at one place, periodic images
    included.

    Args:
        structures: What to look at.
        species: Chemical symbols that may occur; None for all.

    Raises:
        InputError: ``species`` names something that is no chemical element.

    Returns:
        Index of each bad structure and its first problem, in order.

    >>> from ase import Atoms
    >>> from whorl.structures import from_ase
    >>> find_problems(from_ase([Atoms("Pt"), Atoms("PtNi", [[0, 0, 0], [0, 0, 2.4]])]), species=["Pt"])
    {1: 'atom 1 is Ni, which is not among the declared species (Pt)'}
    """
    problems: dict[int, str] = {}
    for find in (_empty, _not_finite, _no_element, _undeclared(species), _no_volume, _same_place):
        good = [index for index in range(len(structures)) if index not in problems]
        if good:
            found = find(structures[torch.tensor(good)] if problems else structures)
            problems |= {good[index]: reason for index, reason in found.items()}
    return dict(sorted(problems.items()))


def _first_atoms(structures: StructureBatch, bad: Tensor) -> dict[int, tuple[int, int]]:
    """Return, for each structure with a bad atom, the first one: (flat index, index in the structure)."""
    atoms = torch.nonzero(bad).squeeze(1).flip(0).tolist()
    within = structures.position_in_structure
    return {int(structures.structure_index[atom]): (atom, int(within[atom])) for atom in atoms}


def _empty(structures: StructureBatch) -> dict[int, str]:
    return dict.fromkeys(torch.nonzero(structures.n_atoms == 0).squeeze(1).tolist(), "has no atoms")


def _not_finite(structures: StructureBatch) -> dict[int, str]:
    cells = torch.nonzero(~structures.cells.isfinite().flatten(1).all(1)).squeeze(1).tolist()
    found = {index: f"its cell is {structures.cells[index].tolist()}, not finite" for index in cells}
    for index, (atom, place) in _first_atoms(structures, ~structures.positions.isfinite().all(1)).items():
        where = ", ".join(f"{x:g}" for x in structures.positions[atom].tolist())
        found[index] = f"atom {place} is at ({where}), which is not finite"
    return found


def _no_element(structures: StructureBatch) -> dict[int, str]:
    bad = (structures.atomic_numbers < 1) | (structures.atomic_numbers > _HEAVIEST)
    return {
        index: f"atom {place} has atomic number {int(structures.atomic_numbers[atom])}, expected 1 to "
        f"{_HEAVIEST}"
        for index, (atom, place) in _first_atoms(structures, bad).items()
    }


def _undeclared(species: Sequence[str] | None) -> Callable[[StructureBatch], dict[int, str]]:
    if species is None:
        return lambda structures: {}
    unknown = [symbol for symbol in species if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise InputError(f"species: '{unknown[0]}' is no chemical element; expected symbols such as Pt or O.")
    declared = torch.tensor([atomic_numbers[symbol] for symbol in species])

    def find(structures: StructureBatch) -> dict[int, str]:
        bad = ~torch.isin(structures.atomic_numbers, declared.to(structures.device))
        return {
            index: f"atom {place} is {chemical_symbols[int(structures.atomic_numbers[atom])]}, which is not "
            f"among the declared species ({', '.join(species)})"
            for index, (atom, place) in _first_atoms(structures, bad).items()
        }

    return find


def _no_volume(structures: StructureBatch) -> dict[int, str]:
    cells = structures.cells.double()
    lengths = cells.norm(dim=-1)
    zero = ((lengths == 0) & structures.pbc).any(1)
    # Non-periodic vectors do not matter: of the periodic ones the Gram determinant is the squared volume.
    both = structures.pbc[:, :, None] & structures.pbc[:, None, :]
    unit = cells / torch.where(lengths > 0, lengths, 1.0)[:, :, None]
    eye = torch.eye(3, dtype=unit.dtype, device=unit.device)
    gram = torch.where(both, unit @ unit.transpose(1, 2), eye)
    flat = zero | (torch.linalg.det(gram) < _FLAT**2)
    return {
        index: f"it is periodic, but its cell {structures.cells[index].tolist()} has no volume"
        for index in torch.nonzero(flat).squeeze(1).tolist()
    }


def _same_place(structures: StructureBatch) -> dict[int, str]:
    suspects = torch.nonzero(_crowded(structures)).squeeze(1)
    if not len(suspects):
        return {}
    chosen = structures[suspects]
    pairs = neighbor_list(chosen, cutoff=SAME_PLACE)
    distances = pairs.vectors(chosen).norm(dim=-1)
    within = chosen.position_in_structure
    found: dict[int, str] = {}
    for pair in torch.argsort(distances, descending=True, stable=True).tolist():  # the nearest one is kept
        i, j = int(pairs.first[pair]), int(pairs.second[pair])
        index = int(suspects[chosen.structure_index[i]])
        image = " of a periodic image" if bool(pairs.shift[pair].any()) else ""
        first, second = sorted((int(within[i]), int(within[j])))
        symbols = {int(within[a]): chemical_symbols[int(chosen.atomic_numbers[a])] for a in (i, j)}
        found[index] = (
            f"atoms {first} ({symbols[first]}) and {second} ({symbols[second]}){image} are at one place "
            f"({float(distances[pair]):.2g} Å apart)"
        )
    return found


def _crowded(structures: StructureBatch) -> Tensor:
    """Tell which structures may have two atoms at one place; few others, and none is missed.

    Atoms are sorted into boxes of at least twice the distance sought, on eight grids that are shifted by half
    a box along each axis: two atoms at one place share a box of some grid. The cost is linear in the atoms,
    where a list of all pairs would be quadratic.
    """
    cells = complete_cells(structures.cells.double() * structures.pbc[:, :, None])
    inverse = torch.linalg.inv(cells)
    index = structures.structure_index
    fractional = torch.einsum("ax,axk->ak", structures.positions.double(), inverse[index])
    heights = 1.0 / inverse.norm(dim=-2)
    periodic = structures.pbc[index]
    # A box may not be narrower than 2 × SAME_PLACE, and a whole number of them must fit into a period.
    boxes = (heights / (2 * SAME_PLACE)).floor().clamp(min=1)[index]
    scaled = torch.where(periodic, fractional - fractional.floor(), fractional) * boxes
    crowded = heights.lt(4 * SAME_PLACE).logical_and(structures.pbc).any(1)  # an atom may meet its own image
    for half in torch.cartesian_prod(*[torch.tensor([0.0, 0.5], dtype=torch.float64)] * 3):
        box = (scaled + half.to(scaled.device)).floor().to(torch.int64)
        box = torch.where(periodic, box % boxes.to(torch.int64), box)
        # Three odd factors mix the numbers of box and structure into one; a rare clash only adds a suspect.
        key = ((index * 1_000_003 + box[:, 0]) * 998_244_353 + box[:, 1]) * 1_000_000_007 + box[:, 2]
        order = torch.argsort(key)
        same = key[order][1:] == key[order][:-1]
        crowded[index[order][1:][same]] = True
    return crowded
