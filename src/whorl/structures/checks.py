"""Validation of input structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import reduced_cells

SAME_PLACE = 0.01  # Å; nearer than this, two atoms are one that was written twice
FARTHEST = 1e5  # Å; coordinates and lattice vectors beyond it are no structure's
LEAST_VOLUME = 0.5  # Å³ an atom; hydrogen at 500 GPa has 1.2
MOST_VOLUME = 1e7  # Å³ an atom; one atom in a box of 215 Å
SHORTEST_PERIOD = 0.5  # Å between an atom and its own image; the shortest bond has 0.74
_COMPARED = 30  # atoms after it that an atom of a crowded box is compared with
_HEAVIEST = 118
_FLAT = 1e-9  # volume over the product of the lengths, below which a cell has none


def find_problems(structures: Structures, *, species: Sequence[str] | None = None) -> dict[int, str]:
    """Say which structures cannot be used, and why.

    Found are: no atoms; coordinates or cells that are not finite, or beyond :data:`FARTHEST`; atomic numbers
    that are no element's; elements other than ``species``; periodic cells without volume, with less than
    :data:`LEAST_VOLUME` or more than :data:`MOST_VOLUME` for each atom, or that repeat within
    :data:`SHORTEST_PERIOD`; two atoms nearer than :data:`SAME_PLACE`, periodic images included. Time and
    memory grow with the number of atoms alone, whatever the structures are.

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
    structures = as_batch(structures)
    problems: dict[int, str] = {}
    checks = (
        _empty,
        _not_finite,
        _far_away,
        _no_element,
        _undeclared(species),
        _no_volume,
        _odd_cell,
        _same_place,
    )
    for find in checks:
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
        found[index] = f"atom {place} is at {_point(structures, atom)}, which is not finite"
    return found


def _point(structures: StructureBatch, atom: int) -> str:
    return f"({', '.join(f'{x:g}' for x in structures.positions[atom].tolist())})"


def _far_away(structures: StructureBatch) -> dict[int, str]:
    remedy = f"expected less than {FARTHEST:g} Å. Are the units right?"
    longest = structures.cells.abs().flatten(1).amax(1)
    found = {
        index: f"its cell has a component of {float(longest[index]):g} Å, {remedy}"
        for index in torch.nonzero(longest > FARTHEST).squeeze(1).tolist()
    }
    far = (structures.positions.abs() > FARTHEST).any(1)
    for index, (atom, place) in _first_atoms(structures, far).items():
        found[index] = f"atom {place} is at {_point(structures, atom)}, {remedy}"
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


def _odd_cell(structures: StructureBatch) -> dict[int, str]:
    """Find cells too small or too large for their atoms: units that are not Å, numbers that slipped."""
    volumes = torch.linalg.det(structures.cells.double()).abs() / structures.n_atoms
    crystal = structures.pbc.all(1)
    found = {}
    for wrong, expected in (
        (volumes < LEAST_VOLUME, f"at least {LEAST_VOLUME:g}"),
        (volumes > MOST_VOLUME, f"at most {MOST_VOLUME:g}"),
    ):
        for index in torch.nonzero(wrong & crystal).squeeze(1).tolist():
            found[index] = (
                f"its cell has {float(volumes[index]):.3g} Å³ for each atom, expected {expected}. Are its "
                "lengths in Å?"
            )
    lengths = reduced_cells(structures).norm(dim=-1)
    shortest = torch.where(structures.pbc, lengths, torch.inf).amin(1)
    for index in torch.nonzero(shortest < SHORTEST_PERIOD).squeeze(1).tolist():
        found.setdefault(
            index,
            f"its cell repeats every {float(shortest[index]):.2g} Å, expected at least {SHORTEST_PERIOD:g} "
            "Å: an atom would lie on its own image",
        )
    return found


def _same_place(structures: StructureBatch) -> dict[int, str]:
    """Find the nearest two atoms of each structure that are within ``SAME_PLACE`` of each other.

    Atoms are sorted into boxes of at least twice that distance, on eight grids that are shifted by half a box
    along each axis: two atoms at one place share a box of some grid. There an atom is compared with the next
    ones of its box, up to a number that only boxes hold in which atoms are at one place. So the cost is
    linear in the atoms, where a list of all pairs would be quadratic.
    """
    cells = reduced_cells(structures)
    inverse = torch.linalg.inv(cells)
    index = structures.structure_index
    periodic = structures.pbc[index]
    fractional = torch.einsum("ax,axk->ak", structures.positions.double(), inverse[index])
    # A box may not be narrower than 2 × SAME_PLACE, and a whole number of them must fit into a period.
    boxes = (1.0 / inverse.norm(dim=-2) / (2 * SAME_PLACE)).floor().clamp(min=1)[index]
    scaled = torch.where(periodic, fractional - fractional.floor(), fractional) * boxes
    nearest = _Nearest(structures, fractional, cells)
    for half in torch.cartesian_prod(*[torch.tensor([0.0, 0.5], dtype=torch.float64)] * 3):
        box = (scaled + half.to(scaled.device)).floor().to(torch.int64)
        box = torch.where(periodic, box % boxes.to(torch.int64), box)
        # Three odd factors mix the numbers of box and structure into one; a rare clash only adds a candidate.
        key = ((index * 1_000_003 + box[:, 0]) * 998_244_353 + box[:, 1]) * 1_000_000_007 + box[:, 2]
        key, order = torch.sort(key)
        for step in range(1, _COMPARED + 1):
            same = torch.nonzero(key[step:] == key[:-step]).squeeze(1)
            if not len(same):
                break
            nearest.compare(order[same], order[same + step])
    return nearest.in_words()


class _Nearest:
    """The nearest two atoms of each structure, among those that were compared.

    Args:
        structures: B structures.
        fractional: Coordinates in ``cells``, shape (A, 3).
        cells: Reduced, shape (B, 3, 3).
    """

    def __init__(self, structures: StructureBatch, fractional: Tensor, cells: Tensor) -> None:
        self.structures, self.fractional, self.cells = structures, fractional, cells
        device, n = structures.device, len(structures)
        self.distance = torch.full((n,), SAME_PLACE, dtype=torch.float64, device=device)
        self.pair = torch.full((n, 2), -1, dtype=torch.int64, device=device)
        self.image = torch.zeros(n, dtype=torch.bool, device=device)

    def compare(self, i: Tensor, j: Tensor) -> None:
        """Note those pairs (i, j) of atoms that are nearer than all before."""
        same = self.structures.structure_index[i] == self.structures.structure_index[j]
        i, j = i[same], j[same]
        b = self.structures.structure_index[i]
        # Of atoms at one place in a reduced cell, the nearest image is that of the rounded difference.
        shift = torch.round(self.fractional[j] - self.fractional[i]) * self.structures.pbc[b]
        vector = (self.structures.positions[j] - self.structures.positions[i]).double()
        distance = (vector - torch.einsum("pk,pkx->px", shift, self.cells[b])).norm(dim=-1)
        least = self.distance.scatter_reduce(0, b, distance, "amin")
        best = torch.nonzero((distance < self.distance[b]) & (distance == least[b])).squeeze(1)
        # Of pairs of one structure that are equally near, the first is taken.
        none = len(distance)
        chosen = torch.full_like(self.image, none, dtype=torch.int64).scatter_reduce(0, b[best], best, "amin")
        better = torch.nonzero(chosen < none).squeeze(1)
        pair = chosen[better]
        self.distance = least
        self.pair[better] = torch.stack([i[pair], j[pair]], 1)
        self.image[better] = shift[pair].any(1)

    def in_words(self) -> dict[int, str]:
        """Return, for each structure with two atoms at one place, which ones they are."""
        structures, within = self.structures, self.structures.position_in_structure
        found = {}
        for b in torch.nonzero(self.pair[:, 0] >= 0).squeeze(1).tolist():
            atoms = sorted((int(within[a]), int(structures.atomic_numbers[a])) for a in self.pair[b])
            (i, z_i), (j, z_j) = atoms
            image = " of a periodic image" if bool(self.image[b]) else ""
            found[b] = (
                f"atoms {i} ({chemical_symbols[z_i]}) and {j} ({chemical_symbols[z_j]}){image} are at one "
                f"place ({float(self.distance[b]):.2g} Å apart)"
            )
        return found


def sound_crystals(structures: StructureBatch) -> Bool[Tensor, "B"]:
    """Return which structures are periodic in three directions and have no problem."""
    sound = structures.pbc.all(1).clone()
    sound[list(find_problems(structures))] = False
    return sound
