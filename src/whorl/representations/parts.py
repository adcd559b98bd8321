"""Parts of a batch: whole structures that are computed together, in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.representations.kinds import Kinds
from whorl.representations.pairs import Pairs
from whorl.structures.batch import StructureBatch
from whorl.structures.neighbors import NeighborList


@dataclass(frozen=True, kw_only=True)
class Atoms:
    """Positions of the atoms of B structures in arrays padded to n atoms."""

    structure: Int[Tensor, "A"]
    place: Int[Tensor, "A"]  # within the structure
    species: Int[Tensor, "A"]
    n_structures: int
    n: int

    def padded(self, values: Float[Tensor, "P A f"]) -> Float[Tensor, "P B n f"]:
        """Return values of atoms by structure, zero where there is no atom."""
        many, atoms, width = values.shape
        if atoms == self.n_structures * self.n:
            return values.reshape(many, self.n_structures, self.n, width)
        padded = values.new_zeros(many, self.n_structures, self.n, width)
        padded[:, self.structure, self.place] = values
        return padded

    def groups(self, many: int, like: Tensor) -> Float[Tensor, "B G n"]:
        """Return 1 for the atoms of each species, or for all atoms where there is one group."""
        ones = like.new_zeros(self.n_structures, many, self.n)
        ones[self.structure, self.species if many > 1 else 0, self.place] = 1.0
        return ones


@dataclass(frozen=True)
class Part:
    """A range of structures of a batch, with their atoms and the pairs among these.

    Atoms, pairs and structures are counted from the part's first.

    Attributes:
        structures: Range of the structures in the batch.
        rows: Range of their atoms in the batch.
        structure: Structure of each atom, shape (n,).
        place: Place of each atom within its structure, shape (n,).
        of_atom: Index of each atom's species, shape (n,).
        vectors: From the centre to the neighbour in Å, shape (P, 3).
        shift: Lattice translation of the neighbour, shape (P, 3).
        centre: Where each pair begins, shape (P,).
        second: Where it ends, shape (P,).
        species: Index of the neighbour's species, shape (P,).
        undirected: Number of the pair without its direction, shape (P,).
        directions: The two directed pairs of each undirected one, shape (P/2, 2).
        counts: Number of neighbours of each atom, shape (n,).
        n_species: Number of species that are declared, or with an embedding of one structure.
        mixing: Channels of the species of each structure, shape (B, S, K); None without an embedding.
    """

    structures: slice
    rows: slice
    structure: Int[Tensor, "n"]
    place: Int[Tensor, "n"]
    of_atom: Int[Tensor, "n"]
    vectors: Float[Tensor, "P 3"]
    shift: Int[Tensor, "P 3"]
    centre: Int[Tensor, "P"]
    second: Int[Tensor, "P"]
    species: Int[Tensor, "P"]
    undirected: Int[Tensor, "P"]
    directions: Int[Tensor, "H 2"]
    counts: Int[Tensor, "n"]
    n_species: int
    mixing: Float[Tensor, "B S K"] | None

    @cached_property
    def atoms(self) -> Atoms:
        """Positions of the atoms in arrays padded to the largest structure."""
        return Atoms(
            structure=self.structure,
            place=self.place,
            species=self.of_atom,
            n_structures=self.structures.stop - self.structures.start,
            n=int(self.place.max()) + 1,
        )

    @property
    def centres(self) -> Int[Tensor, "n"] | Float[Tensor, "n K"]:
        """Species of each atom, or with an embedding the channels of its element."""
        return self.of_atom if self.mixing is None else self.mixing[self.structure, self.of_atom]

    def by_atom(self) -> Pairs:
        """Arrange the pairs of each atom in its row, without coordinates: for values alone."""
        return Pairs.of(
            self.vectors,
            row=self.centre,
            kind=self.species,
            ends=(self.centre, self.second),
            n_rows=len(self.of_atom),
            n_kinds=self.n_species,
            n_atoms=0,
            strain=False,
            levers=self.vectors.new_zeros(len(self.vectors), 3, 0),
            row_kind=self.of_atom,
            mixing=None if self.mixing is None else self.mixing[self.structure],
        )

    def centred(self, *, strain: bool) -> Pairs:
        """Arrange the pairs of each centre in its row; a row for every place of every structure."""
        atoms = self.atoms
        n, size = atoms.n, atoms.n_structures
        slots = atoms.structure * n + atoms.place
        # If nearly all atoms are neighbours, the order of the atoms saves a product.
        isolated = not bool(self.shift.any()) and self.n_species == 1 and not strain
        return Pairs.of(
            self.vectors,
            row=slots[self.centre],
            kind=self.species,
            ends=(atoms.place[self.centre], atoms.place[self.second]),
            n_rows=size * n,
            n_kinds=self.n_species,
            n_atoms=n,
            strain=strain,
            by_atom=isolated and size * n * (n - 1) <= 1.3 * len(self.vectors),
            row_kind=slots.new_full((size * n,), -1).index_copy(0, slots, atoms.species),
            mixing=None if self.mixing is None else self.mixing.repeat_interleave(n, 0),
        )

    def undirected_pairs(self, *, strain: bool) -> Pairs:
        """Arrange each undirected pair once, in the row of its structure.

        It goes from the lighter species to the heavier; its kind is the number of the two.
        """
        atoms = self.atoms
        one, other = self.directions.unbind(1)
        half = torch.where(atoms.species[self.centre[one]] <= self.species[one], one, other)
        begin, end = self.centre[half], self.second[half]
        return Pairs.of(
            self.vectors[half],
            row=atoms.structure[begin],
            kind=pair_numbers(self.n_species, half.device)[atoms.species[begin], self.species[half]],
            ends=(atoms.place[begin], atoms.place[end]),
            n_rows=atoms.n_structures,
            n_kinds=self.n_species * (self.n_species + 1) // 2,
            n_atoms=atoms.n,
            strain=strain,
        )


def cut(
    structures: StructureBatch,
    pairs: NeighborList,
    vectors: Float[Tensor, "P 3"],
    kinds: Kinds,
    *,
    pairs_at_once: int,
) -> Iterator[Part]:
    """Cut into whole structures, so that both directions of a pair are in one part.

    Args:
        structures: To be cut.
        pairs: Theirs.
        vectors: Of the pairs.
        kinds: Species of the atoms.
        pairs_at_once: In a part, unless one structure has more.
    """
    species = kinds.of_atom
    index, place = structures.structure_index, structures.position_in_structure
    counts = pairs.counts(len(species))
    atoms_before = [*structures.first_atom.tolist(), len(species)]
    pairs_until = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])[atoms_before].tolist()
    begin = 0
    while begin < len(structures):
        end = bisect_right(pairs_until, pairs_until[begin] + pairs_at_once) - 1
        end = min(max(end, begin + 1), len(structures))
        atoms = slice(atoms_before[begin], atoms_before[end])
        first = pairs_until[begin]
        some = slice(first, pairs_until[end])
        half = slice(first // 2, pairs_until[end] // 2)
        yield Part(
            structures=slice(begin, end),
            rows=atoms,
            structure=index[atoms] - begin,
            place=place[atoms],
            of_atom=species[atoms],
            vectors=vectors[some],
            shift=pairs.shift[some],
            centre=pairs.first[some] - atoms.start,
            second=pairs.second[some] - atoms.start,
            species=species[pairs.second[some]],
            undirected=pairs.undirected[some] - half.start,
            directions=pairs.directions[half] - first,
            counts=counts[atoms],
            n_species=kinds.count,
            mixing=None if kinds.mixing is None else kinds.mixing[begin:end],
        )
        begin = end


def pair_numbers(n_species: int, device: torch.device) -> Int[Tensor, "S S"]:
    """Return the number of each unordered pair of species, in the order (0, 0), (0, 1) … (1, 1) …."""
    s, t = torch.triu_indices(n_species, n_species, device=device)
    numbers = torch.empty(n_species, n_species, dtype=torch.int64, device=device)
    numbers[s, t] = numbers[t, s] = torch.arange(len(s), device=device)
    return numbers
