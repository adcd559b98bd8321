r"""Base of representations that pool atomic features.

For the features :math:`G_{if}` of the atoms i of a structure, the pooled feature (p, f) has with
:math:`w_{pif}`, its derivative in the feature of atom i, the Jacobian

.. math:: J_{pf,rx} = \sum_i w_{pif} \frac{\partial G_{if}}{\partial x_{rx}} .

A representation gives names and :mod:`kernels <whorl.representations.kernels>`, which compute the features
of atoms and their Jacobian in blocks of columns; everything else is here: neighbours, species or their
:mod:`embedding <whorl.representations.embedding>`, the layout, pooling, pieces of bounded memory, and the
Jacobian in positions, strain and symmetric coordinates.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import unknown_option
from whorl.parallel import map_threads
from whorl.representations.base import FeatureLayout, require_few_features, sound
from whorl.representations.embedding import Elements, channel_names, embedding_table
from whorl.representations.kernels import Kernel, PooledKernel, pool_jacobian
from whorl.representations.kinds import Kinds
from whorl.representations.pairs import Pairs
from whorl.representations.parts import Part, cut
from whorl.representations.pooling import Pooling, WeightedPooling
from whorl.representations.species import SpeciesRepresentation
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import expected_neighbors
from whorl.structures.convert import Structures
from whorl.structures.neighbors import IMAGES, NeighborList, neighbor_list, surroundings
from whorl.symmetry.coordinates import SymmetryCoordinates

PAIR_NUMBERS = 2_000_000
"""Numbers in the arrays of a part: few enough for the caches, enough to amortise a call."""

_ATOMS_AT_ONCE = 2500
_POOLED_AT_ONCE = 10_000_000


class AtomicRepresentation(SpeciesRepresentation):
    """Features of each atom from its neighbours within a cutoff, pooled over the atoms of a structure.

    A subclass calls ``super().__init__``, keeps its hyperparameters, and at last calls :meth:`lay_out`. It
    gives :meth:`kernels` and :meth:`pairs_at_once`; it may give :meth:`atomic_sharpness`,
    :meth:`pooled_kernels` and a faster :meth:`atomic_features`. Its features are of :attr:`channels` and
    :attr:`channel_pairs`: its kernels get the ``mixing`` of the pairs' kinds to channels, which
    :meth:`Pairs.of_channels <whorl.representations.pairs.Pairs.of_channels>` and
    :class:`~whorl.representations.embedding.Embedded` apply.

    Args:
        species: Chemical symbols of all elements that may occur, in any order.
        cutoff: Radius in Å.
        pooling: Names from :mod:`whorl.representations.pooling`.
        per_centre_species: Pool the atoms of each species separately; with an embedding, pool all atoms, once
            with their features times each channel of their element.
        images: ``"all"`` periodic images within the cutoff, or ``"minimum"``, only the nearest of each atom.
        embedding: Number of channels of the elements, or a table of them (see
            :mod:`whorl.representations.embedding`), so that the number of features does not depend on that of
            the elements; None: each element has features of its own.

    Attributes:
        channels: Names of what the sums over neighbours tell apart: the species, or the channels.

    Raises:
        InputError: Unknown elements, pools or images; elements without an embedding.
    """

    fewer_features: ClassVar[str] = (
        "the setting embedding: 4, with which the number of features does not depend on that of the elements "
        "(or fewer functions)"
    )

    def __init__(
        self,
        *,
        species: Sequence[str],
        cutoff: float,
        pooling: Sequence[str],
        per_centre_species: bool = False,
        images: str = "all",
        embedding: int | Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__(species)
        if images not in IMAGES:
            raise unknown_option("images convention", images, IMAGES)
        self.radius, self.images, self.per_centre_species = cutoff, images, per_centre_species
        self.channels: tuple[str, ...] = self.species if embedding is None else channel_names(embedding)
        centres = len(self.channels) if per_centre_species else None
        self.pooling = (Pooling if embedding is None else WeightedPooling)(pooling, centre_species=centres)
        table = None if embedding is None else embedding_table(self.species, embedding)
        if isinstance(embedding, Mapping):  # channels of other elements change nothing
            embedding = {symbol: [float(x) for x in embedding[symbol]] for symbol in self.species}
        self.embedding = embedding
        self.register_buffer("channels_of_elements", table, persistent=False)
        self.channels_of_elements: Tensor | None
        # The nearest images depend on the cell, and a sum on the number of atoms.
        if images == "all":
            self.invariances = self.invariances | {"lattice_basis"}
            if "sum" not in self.pooling.names:
                self.invariances = self.invariances | {"supercell"}
        # glibc maps blocks beyond a threshold afresh, page by page, unless a larger one was ever freed: one
        # untouched block of its largest threshold makes all later arrays come from memory already at hand.
        torch.empty(31 * 2**20, dtype=torch.uint8)

    def __repr__(self) -> str:
        """Return elements, cutoff, pools and size in one line."""
        return (
            f"{type(self).__name__}({', '.join(self.species)}; cutoff {self.radius:g} Å; "
            f"{', '.join(self.pooling.names)}; {len(self.layout)} features)"
        )

    # To be implemented by subclasses.

    @abstractmethod
    def kernels(self, pairs: Pairs) -> Sequence[Kernel]:
        """Return the kernels of the features of the atoms in the rows of pairs, for all columns.

        With an embedding those of the atoms' own elements, the last, are added here.
        """

    @abstractmethod
    def pairs_at_once(self, pools: int) -> int:
        """Return the number of pairs per part, so that kernels hold about :data:`PAIR_NUMBERS`.

        ``pools`` is the number of pooled features, or of atoms, that each feature of an atom goes to.
        """

    def pooled_kernels(
        self, pairs: Pairs, undirected: Callable[[], Pairs]
    ) -> tuple[Sequence[PooledKernel], Sequence[Kernel]]:
        """Return the kernels where all atoms are pooled: some are faster if they know the atoms' weights.

        Args:
            pairs: Rows are atoms.
            undirected: Makes the same pairs, each once; rows are structures.
        """
        return [], self.kernels(pairs)

    def atomic_sharpness(self) -> Float[Tensor, "f"]:
        """Return for each feature of an atom the inverse of the length (1/Å) over which it changes.

        Features of the atoms' own elements, which an embedding adds, have none.
        """
        return torch.zeros(len(self.atomic_names) - self._element_features, dtype=torch.float64)

    def atomic_features(self, structures: Structures) -> Float[Tensor, "A f"]:
        """Return the features of each atom before pooling, in the order of :attr:`atomic_names`.

        This default differentiates the kernels' values by autograd.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        structures = sound(structures)
        pairs = self.neighbors(structures)
        parts = self.parts(structures, pairs, pairs.vectors(structures), pairs_at_once=self.pairs_at_once(1))
        none = structures.positions.new_zeros(0, len(self.atomic_names))
        return torch.cat([none, *map_threads(self._features_of_part, parts)])

    def _features_of_part(self, part: Part) -> Float[Tensor, "n f"]:
        features = part.vectors.new_zeros(len(part.of_atom), len(self.atomic_names))
        pairs = part.by_atom()
        for kernel in [*self.kernels(pairs), *self._element_kernels(pairs)]:
            for columns, values in kernel.values():
                features[:, columns] = values
        return features

    def _element_kernels(self, pairs: Pairs) -> list[Kernel]:
        if self.embedding is None:
            return []
        count = len(self.atomic_names)
        return [Elements(pairs, slice(count - self._element_features, count))]

    # Names and sizes.

    @property
    def _element_features(self) -> int:
        """Number of features of the atom's own element, which an embedding adds."""
        return 0 if self.embedding is None else len(self.channels)

    def common_config(self) -> dict[str, Any]:
        """Return the hyperparameters of this base but the cutoff, JSON-able."""
        config: dict[str, Any] = {
            "kind": self.kind,
            "species": list(self.species),
            "pooling": list(self.pooling.names),
            "per_centre_species": self.per_centre_species,
            "images": self.images,
        }
        return config if self.embedding is None else {**config, "embedding": self.embedding}

    def lay_out(self, count: int, names: Iterable[str]) -> None:
        """Name the features of an atom, ``count`` of them, and with them those of a structure.

        An embedding adds those of the atom's own element.

        Raises:
            InputError: There are too many features.
        """
        centres = self.channels if self.per_centre_species else ("",)
        if self.embedding is not None:
            count += self._element_features
            names = [*names, *(f"element/{channel}" for channel in self.channels)]
        n = len(self.species)
        require_few_features(
            count * len(self.pooling.names) * len(centres),
            f"{type(self).__name__}: {n} element{'s' if n > 1 else ''}",
            f"Remedy: {self.fewer_features}.",
        )
        self.atomic_names = tuple(names)
        assert len(self.atomic_names) == count
        prefixes = [
            f"{pool}/{centre}/" if centre else f"{pool}/" for pool in self.pooling.names for centre in centres
        ]
        full = tuple(prefix + name for prefix in prefixes for name in self.atomic_names)
        blocks: dict[str, slice] = {}
        for place, name in enumerate(full):
            block = name.rpartition("/")[0]
            blocks[block] = slice(blocks[block].start if block in blocks else place, place + 1)
        self.layout = FeatureLayout(names=full, shape=(len(full),), blocks=blocks)

    def sharpness(self) -> Float[Tensor, "F"]:
        """Return that of the atoms' features for every pool; see the base class."""
        return self.sharpness_of_atom().repeat(len(self.layout) // len(self.atomic_names))

    def variation(self, features: Float[Tensor, "F"]) -> dict[str, float]:
        """Return the norm of std, or of max - min, over that of mean or max; see the base class."""
        centres = self.species if self.per_centre_species else self.species[:1]
        if self.embedding is not None or (len(self.species) > 1 and not self.per_centre_species):
            return {}
        table = features.reshape(len(self.pooling.names), len(centres), -1)
        pools = dict(zip(self.pooling.names, table, strict=True))
        if {"mean", "std"} <= pools.keys():
            spread, size = pools["std"], pools["mean"]
        elif {"max", "min"} <= pools.keys():
            spread, size = pools["max"] - pools["min"], pools["max"]
        else:
            return {}
        ratio = spread.norm(dim=1) / size.norm(dim=1)
        return {z: x for z, x in zip(centres, ratio.tolist(), strict=True) if math.isfinite(x)}

    def sharpness_of_atom(self) -> Float[Tensor, "f"]:
        """Return :meth:`atomic_sharpness`, completed for all features of an atom."""
        sharpness = self.atomic_sharpness()
        return torch.cat([sharpness, sharpness.new_zeros(self._element_features)])

    @property
    def channel_pairs(self) -> list[tuple[int, int]]:
        """All pairs of channels s ≤ t, by index, in the order (0, 0), (0, 1) … (1, 1) …."""
        n = len(self.channels)
        return [(s, t) for s in range(n) for t in range(s, n)]

    def kinds(self, structures: StructureBatch) -> Kinds:
        """Return what sums over neighbours tell apart: the declared species, or those of each structure.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        species = self.species_index(structures)
        if self.channels_of_elements is None:
            return Kinds(of_atom=species, count=len(self.species), mixing=None)
        table = self.channels_of_elements.to(structures.positions)
        return Kinds.of(species, structures.structure_index, len(structures), table)

    def centres(self, structures: StructureBatch) -> Int[Tensor, "A"] | Float[Tensor, "A K"]:
        """Return of each atom by what it is pooled: its species, or its channels."""
        species = self.species_index(structures)
        return (
            species
            if self.channels_of_elements is None
            else self.channels_of_elements.to(structures.positions)[species]
        )

    def expected_neighbors(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return the expected number of neighbours: in crystals from the density, else all other atoms."""
        return expected_neighbors(structures, cutoff=self.radius, images=self.images)

    # Values.

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B F"]:
        """Return the pooled features.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        needs_gradient = structures.positions.requires_grad or structures.cells.requires_grad
        if len(structures) <= 1 or (needs_gradient and torch.is_grad_enabled()):
            return self._forward(structures)
        # A few structures at a time: memory is bounded, and reused while it is in the caches.
        largest = max(1, int(structures.n_atoms.max()))
        numbers = len(self.layout) + largest * len(self.atomic_names)  # of one structure
        most = max(1, min(_ATOMS_AT_ONCE // largest, _POOLED_AT_ONCE // numbers))
        return torch.cat(map_threads(self._forward, list(structures.chunks(most))))

    def _forward(self, structures: StructureBatch) -> Tensor:
        centres = self.centres(structures)
        atomic = self.atomic_features(structures)
        return self.pooling(atomic, structures.structure_index, centres, len(structures)).flatten(1)

    def neighbors(self, structures: StructureBatch) -> NeighborList:
        """Find the pairs, those of a centre with one species of neighbours standing together."""
        kinds = self.kinds(structures)  # report undeclared elements first
        pairs = neighbor_list(structures, cutoff=self.radius, images=self.images)
        if kinds.count == 1:
            return pairs
        return pairs.reordered(
            torch.argsort(pairs.first * kinds.count + kinds.of_atom[pairs.second], stable=True)
        )

    def parts(
        self,
        structures: StructureBatch,
        pairs: NeighborList,
        vectors: Float[Tensor, "P 3"],
        *,
        pairs_at_once: int,
    ) -> list[Part]:
        """Divide structures into parts of about ``pairs_at_once`` pairs."""
        return list(
            cut(
                structures,
                pairs,
                vectors,
                self.kinds(structures),
                pairs_at_once=max(1, pairs_at_once),
            )
        )

    # Values and Jacobians.

    @torch.no_grad()
    def value_and_jacobian(
        self, structures: Structures, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F m 3"]]:
        """Return R and its analytic Jacobian; see the base class for shapes and units."""
        structures = sound(structures)
        width, n_max = len(self.atomic_names), max(structures.n_atoms.tolist(), default=0)
        n_pools = len(self.layout) // width
        value = structures.positions.new_empty(len(structures), n_pools, width)
        jacobian = value.new_empty(len(structures), n_pools, width, n_max + 3 * strain, 3)
        self._over_parts(self._pooled_jacobian, structures, value, jacobian, strain)
        return value.flatten(1), jacobian.flatten(1, 2)

    @torch.no_grad()
    def atomic_value_and_jacobian(
        self, structures: Structures, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B n f"], Float[Tensor, "B n f m 3"]]:
        r"""Return the features of each atom before pooling, and their analytic Jacobian.

        Atoms stand by structure, n of the largest, zeros beyond a structure's own. The last two axes are
        those of :meth:`value_and_jacobian`: atoms that move, and with ``strain`` three rows of a strain.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        structures = sound(structures)
        width, n_max = len(self.atomic_names), max(structures.n_atoms.tolist(), default=0)
        value = structures.positions.new_zeros(len(structures), n_max, width)
        jacobian = value.new_zeros(len(structures), n_max, width, n_max + 3 * strain, 3)
        self._over_parts(self._atomic_jacobian, structures, value, jacobian, strain)
        return value, jacobian

    def _over_parts(
        self,
        compute: Callable[[Part, Tensor, Tensor, bool], None],
        structures: StructureBatch,
        value: Float[Tensor, "B P f"],
        jacobian: Float[Tensor, "B P f m 3"],
        strain: bool,
    ) -> None:
        """Call ``compute`` with parts of bounded memory, and those of the results that are theirs."""
        pairs = self.neighbors(structures)
        at_once = self.pairs_at_once(value.shape[1])
        parts = self.parts(structures, pairs, pairs.vectors(structures), pairs_at_once=at_once)
        map_threads(
            lambda part: compute(part, value[part.structures], jacobian[part.structures], strain), parts
        )

    def _pooled_jacobian(self, part: Part, value: Tensor, jacobian: Tensor, strain: bool) -> None:
        """Write value (B, P, f) and Jacobian (B, P, f, m, 3) of some structures."""
        atoms, centred = part.atoms, part.centred(strain=strain)
        n, size = atoms.n, atoms.n_structures
        slots = atoms.structure * n + atoms.place  # the centres' rows
        of_pairs, kernels = self.pooled_kernels(centred, lambda: part.undirected_pairs(strain=strain))
        kernels = [*kernels, *self._element_kernels(centred)]

        features = value.new_zeros(size, n, value.shape[2])
        for pair_kernel in of_pairs:
            for columns, values in pair_kernel.values():
                features[:, :, columns] = values
        for kernel in kernels:
            for columns, values in kernel.values():
                features[:, :, columns] = values.reshape(size, n, -1)
        flat = features.flatten(0, 1)
        pooled, weights = self.pooling.with_weights(
            flat if len(flat) == len(slots) else flat[slots], atoms.structure, part.centres, size
        )
        value.copy_(pooled)

        weights = atoms.padded(weights)  # (N, B, n, f)
        result = jacobian
        if jacobian.shape[3] > n + 3 * strain:  # larger structures stand elsewhere in the batch
            result = jacobian.new_empty(*jacobian.shape[:3], n + 3 * strain, 3)
        if len(centred.blocks) < part.n_species or len(part.vectors) == 0 or self.embedding is not None:
            result.zero_()  # not all columns follow
        # Atoms of each of the pools that share a name: all, or those of one species.
        many = self.pooling.groups
        groups = atoms.groups(many, value)  # (B, G, n)
        if of_pairs:
            of_pools = weights.permute(1, 0, 3, 2)
            if many > 1:
                of_pools = (of_pools[:, :, None] * groups[:, None, :, None]).flatten(1, 2)
            for pair_kernel in of_pairs:
                for columns, change in pair_kernel.jacobians(of_pools):
                    result[:, :, columns] = change
        for kernel in kernels:
            for columns, place, change in kernel.jacobians():
                change = change.unflatten(0, (size, n))
                for name, of_atoms in enumerate(weights[..., columns]):
                    hard = name in self.pooling.extremes and many == 1 and kernel.least_is_flat
                    extremes = pooled[:, name, columns] if hard else None
                    result[:, name * many : (name + 1) * many, columns] = pool_jacobian(
                        change, of_atoms, place, groups, extremes=extremes
                    )
        if result is not jacobian:
            jacobian.zero_()
            jacobian[:, :, :, :n] = result[:, :, :, :n]
            if strain:
                jacobian[:, :, :, -3:] = result[:, :, :, -3:]

    def _atomic_jacobian(self, part: Part, value: Tensor, jacobian: Tensor, strain: bool) -> None:
        """Write value (B, n, f) and Jacobian (B, n, f, m, 3) of some structures into zeros."""
        n, size = part.atoms.n, part.atoms.n_structures
        centred = part.centred(strain=strain)
        kernels = [*self.kernels(centred), *self._element_kernels(centred)]
        value, tail = value[:, :n], jacobian.shape[3] - 3 * strain
        for kernel in kernels:
            for columns, values in kernel.values():
                value[:, :, columns] = values.unflatten(0, (size, n))
            for columns, place, change in kernel.jacobians():
                change = change[:, :, place].unflatten(0, (size, n)).permute(0, 1, 3, 4, 2)  # (B, n, K, R, 3)
                jacobian[:, :n, columns, :n] = change[:, :, :, :n]
                if strain:
                    jacobian[:, :n, columns, tail:] = change[:, :, :, n:]

    @torch.no_grad()
    def value_and_jacobian_along(
        self, structures: Structures, orbits: SymmetryCoordinates
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F Q"]]:
        """Return R and its derivatives, computed from one atom of each orbit; see the base class."""
        structures = sound(structures)
        some_periodic, all_periodic = bool(structures.pbc.any()), bool(structures.pbc.all())
        if some_periodic and (self.images != "all" or not all_periodic):
            return super().value_and_jacobian_along(structures, orbits)
        kinds = self.kinds(structures)
        species, centres = kinds.of_atom.reshape(orbits.head.shape), self.centres(structures)
        centres = centres.unflatten(0, orbits.head.shape)
        value = structures.positions.new_empty(len(structures), len(self.layout))
        jacobian = value.new_empty(*value.shape, orbits.atoms.shape[3])
        is_head = orbits.head == torch.arange(orbits.head.shape[1], device=orbits.head.device)
        step = max(1, _ATOMS_AT_ONCE // (8 * int(is_head.sum(1).max())))

        batch = structures

        def compute(start: int) -> None:
            some = slice(start, start + step)
            out = value[some].unflatten(1, (-1, len(self.atomic_names)))
            part = orbits[some].trimmed()  # those with few coordinates often stand together
            along = jacobian[some].unflatten(1, out.shape[1:])
            along[..., part.atoms.shape[3] :] = 0.0
            along = along[..., : part.atoms.shape[3]]
            of_part = Kinds(
                of_atom=species[some].flatten(),
                count=kinds.count,
                mixing=None if kinds.mixing is None else kinds.mixing[some],
            )
            self._orbit_jacobian(
                batch[some], part, of_part, centres[some].flatten(0, 1), is_head[some], out, along
            )

        map_threads(compute, list(range(0, len(structures), step)))
        return value, jacobian

    def _orbit_jacobian(
        self,
        structures: StructureBatch,
        orbits: SymmetryCoordinates,
        kinds: Kinds,
        centres: Tensor,
        is_head: Tensor,
        value: Tensor,
        jacobian: Tensor,
    ) -> None:
        """Write value (B, P, f) and Jacobian (B, P, f, Q) of some structures."""
        species, (size, n) = kinds.of_atom, is_head.shape
        first, second, vectors = surroundings(structures, is_head.flatten(), cutoff=self.radius)
        n_rows = int(is_head.sum(1).max())
        row_of = torch.cumsum(is_head, 1) - 1 + n_rows * torch.arange(size, device=is_head.device)[:, None]
        heads = is_head.flatten()
        row_kind = row_of.new_full((size * n_rows,), -1)
        row_kind[row_of.flatten()[heads]] = species[heads]
        motion = orbits.atoms.flatten(0, 1)
        levers = motion[second] - motion[first]
        if bool((orbits.strain != 0).any()):
            levers += torch.einsum("px,pxyq->pyq", vectors, orbits.strain[structures.structure_index[first]])
        pairs = Pairs.of(
            vectors,
            row=row_of.flatten()[first],
            kind=species[second],
            ends=(first, second),
            n_rows=size * n_rows,
            n_kinds=kinds.count,
            n_atoms=n,
            strain=False,
            levers=levers,
            row_kind=row_kind,
            mixing=None if kinds.mixing is None else kinds.mixing.repeat_interleave(n_rows, 0),
        )
        kernels = [*self.kernels(pairs), *self._element_kernels(pairs)]
        features = value.new_zeros(size * n_rows, value.shape[2])
        for kernel in kernels:
            for columns, of_rows in kernel.values():
                features[:, columns] = of_rows
        # In a pool, every atom has the features of the representative of its orbit.
        rows = row_of.gather(1, orbits.head).flatten()
        pooled, weights = self.pooling.with_weights(features[rows], structures.structure_index, centres, size)
        value.copy_(pooled)
        if jacobian.shape[3] == 0:
            return
        of_heads = weights.new_zeros(len(weights), *features.shape).index_add(1, rows, weights)
        many = self.pooling.groups
        groups = value.new_zeros(size * n_rows, many)
        groups[row_of.flatten()[heads], species[heads] if many > 1 else 0] = 1.0
        groups = groups.unflatten(0, (size, n_rows)).transpose(1, 2)
        jacobian.zero_()
        for kernel in kernels:
            for columns, place, change in kernel.jacobians():
                change = change.unflatten(0, (size, n_rows))
                for name, of_rows in enumerate(of_heads[..., columns]):
                    pools = slice(name * many, (name + 1) * many)
                    of_rows = of_rows.unflatten(0, (size, n_rows))
                    pooled = pool_jacobian(change, of_rows, place, groups, extremes=None)
                    jacobian[:, pools, columns] = pooled.squeeze(-1)
