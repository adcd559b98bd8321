r"""Atom-centred symmetry functions (Behler, J. Chem. Phys. 134, 074106, 2011), pooled over the atoms.

For a centre i, with distances in Å and a cutoff function :math:`f_c`:

.. math::
   G^2_i &= \sum_j e^{-\eta (r_{ij} - R_s)^2} f_c(r_{ij}) \\
   G^3_i &= \sum_j \cos(\kappa r_{ij}) f_c(r_{ij}) \\
   G^4_i &= 2^{1-\zeta} \sum_{j<k} (1 + \lambda\cos\theta_{ijk})^\zeta
            e^{-\eta (r_{ij}^2 + r_{ik}^2 + r_{jk}^2)} f_c(r_{ij}) f_c(r_{ik}) f_c(r_{jk}) \\
   G^5_i &= 2^{1-\zeta} \sum_{j<k} (1 + \lambda\cos\theta_{ijk})^\zeta
            e^{-\eta (r_{ij}^2 + r_{ik}^2)} f_c(r_{ij}) f_c(r_{ik})

Sums run over the neighbours of one species (G2, G3) or one pair of species (G4, G5), each pair j < k once.
``G2`` with η = 0 is Behler's G1.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.parallel import map_threads
from whorl.representations.acsf_jacobian import (
    AngularPart,
    AtomicRadialPart,
    Atoms,
    Pairs,
    RadialPart,
    pool_jacobian,
)
from whorl.representations.base import FeatureLayout, Representation, require_few_features, require_sound
from whorl.representations.cutoffs import Cutoff, CutoffSettings
from whorl.representations.pooling import Pooling
from whorl.representations.settings import RepresentationSettings
from whorl.representations.symmetry_functions import Angular, Environment, Radial, pair_numbers
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.neighbors import IMAGES, NeighborList, neighbor_list, surroundings
from whorl.symmetry.coordinates import SymmetryCoordinates

# Numbers that one array may hold: small enough for the processor's caches, large enough to amortise a call.
_CHUNK = 1_000_000
_JACOBIAN_CHUNK = 2_000_000
_FACTORS_AT_ONCE = 300_000
_ATOMS_AT_ONCE = 2500
_POOLED_AT_ONCE = 10_000_000
# Of one atom; diamond has 5,900 within 20 Å. Their triples are numbered at once: 8 bytes × the square.
_MOST_NEIGHBORS = 16_000
_SECONDS = 1e-8  # for each function of each pair or triple of atoms
_BOND = 2.5  # Å


@dataclass(frozen=True)
class _AngularGroup:
    """Kernels for some functions, and where their results stand among the angular columns."""

    kernel: Angular
    columns: Tensor  # (k,) column among the angular functions
    power: Tensor  # (k,) index of (ζ, λ) in the kernel
    eta: Tensor  # (k,) index of η in the kernel

    @property
    def place(self) -> Tensor:
        """Place of each function in the grid of η (outer) × (ζ, λ)."""
        return self.eta * len(self.kernel.powers) + self.power


@dataclass
class _Part:
    """Whole structures that are computed together: a range of atoms, and the pairs among them."""

    atoms: slice
    pairs: slice
    vectors: Float[Tensor, "P 3"]
    shift: Int[Tensor, "P 3"]
    centre: Int[Tensor, "P"]  # counted from the part's first atom
    species: Int[Tensor, "P"]  # of the neighbour
    undirected: Int[Tensor, "P"]  # counted from the part's first
    directions: Int[Tensor, "H 2"]  # counted from the part's first
    counts: Int[Tensor, "n"]  # neighbours of each atom
    n_species: int
    environments: list[tuple[Tensor, Tensor, Environment]] = field(default_factory=list)

    @cached_property
    def r(self) -> Float[Tensor, "H"]:
        """Distance of each undirected pair."""
        return self.vectors[self.directions[:, 0]].norm(dim=-1)

    @property
    def group(self) -> Int[Tensor, "P"]:
        """Number of each pair's sum: its centre and the species of the neighbour."""
        return self.centre * self.n_species + self.species


class ACSF(Representation):
    r"""Pooled symmetry functions of any number of elements.

    **Order of the features.** Of one atom: for each neighbour species in the order of atomic number, G2 in
    the order given, then G3; then for each pair of species s ≤ t, G4 in the order given, then G5. Of a
    structure: for each pool in the order given (and in it for each centre species, where these are pooled
    apart), those of the atom. The order depends on the declared species alone, never on the structures.

    Args:
        species: Chemical symbols of all elements that may occur, in any order.
        cutoff: Radius in Å, or a :class:`~whorl.representations.cutoffs.Cutoff`.
        g2: Pairs (η in Å⁻², R_s in Å).
        g3: Values of κ in Å⁻¹.
        g4: Triples (η in Å⁻², ζ ≥ 1, λ = ±1).
        g5: Triples (η in Å⁻², ζ ≥ 1, λ = ±1).
        pooling: Names from :mod:`whorl.representations.pooling`; the paper's max and min by default.
        per_centre_species: Pool the atoms of each species apart.
        images: ``"all"`` periodic images within the cutoff, or ``"minimum"``, the paper's convention.

    Raises:
        InputError: No functions, unknown elements, parameters out of range, or unknown options.

    >>> acsf = ACSF.fung2022(["Pt"])
    >>> len(acsf.layout), acsf.layout.names[0]
    (380, 'max/G2/Pt/eta=0.01,Rs=0')
    """

    kind = "acsf"
    fewer_features = (
        "structures of fewer elements, or for crystals a representation whose size does not depend on the "
        "elements (kind crystens)"
    )
    presets: ClassVar[tuple[str, ...]] = ("fung2022", "crystal")

    class Settings(RepresentationSettings):
        """Settings of symmetry functions: a preset, or functions of one's own."""

        preset: Literal["fung2022", "crystal"] | None = None
        """A set of symmetry functions: that of Fung et al. 2022, which is taken where no functions are given,
        or one for crystals."""
        species: Annotated[list[str], Field(min_length=1)] | None = None
        """Declared chemical symbols; by default those of the data."""
        images: Literal["all", "minimum"] = "all"
        """Periodic images that count: all within the cutoff, or the nearest (the paper's convention)."""
        cutoff: CutoffSettings | None = None
        """Radius in Å, with functions of one's own."""
        g2: list[tuple[float, float]] = []
        """Pairs [η, R_s]."""
        g3: list[float] = []
        """Values of κ."""
        g4: list[tuple[float, float, float]] = []
        """Triples [η, ζ, λ]."""
        g5: list[tuple[float, float, float]] = []
        """Triples [η, ζ, λ]."""
        pooling: list[str] | None = None
        """From atoms to the structure, such as [max, min]."""
        per_centre_species: bool = False
        """Pool the atoms of each species apart."""

        @model_validator(mode="after")
        def _preset_or_own(self) -> ACSF.Settings:
            names = ("cutoff", "g2", "g3", "g4", "g5", "pooling", "per_centre_species")
            own = [name for name in names if getattr(self, name)]
            if self.preset is not None and own:
                raise ValueError(
                    f"preset {self.preset} fixes {', '.join(own)}; give the preset or these, not both"
                )
            if own and self.cutoff is None:
                raise ValueError("functions of one's own need a cutoff in Å")
            return self

        @property
        def declared(self) -> list[str] | None:
            """Chemical symbols that structures may have; None for those of the data."""
            return self.species

        def build(
            self,
            species: Sequence[str],
            *,
            structures: StructureBatch | None = None,
            shape: tuple[int, ...] | None = None,
        ) -> ACSF:
            """Return the symmetry functions of structures of these elements."""
            declared = list(self.species or species)
            if self.cutoff is None:
                preset = self.preset or "fung2022"
                images = {} if preset == "crystal" else {"images": self.images}
                return ACSF.from_config({"preset": preset, "species": declared, **images})
            given = self.model_dump(mode="json", exclude={"preset"}, exclude_none=True)
            return ACSF.from_config({**given, "species": declared})

    def __init__(
        self,
        *,
        species: Sequence[str],
        cutoff: float | Cutoff,
        g2: Sequence[Sequence[float]] = (),
        g3: Sequence[float] = (),
        g4: Sequence[Sequence[float]] = (),
        g5: Sequence[Sequence[float]] = (),
        pooling: Sequence[str] = ("max", "min"),
        per_centre_species: bool = False,
        images: str = "all",
    ) -> None:
        super().__init__()
        self.species, numbers = _sorted_species(species)
        self.cutoff = cutoff if isinstance(cutoff, Cutoff) else Cutoff(radius=float(cutoff))
        self.g2 = tuple((float(eta), float(shift)) for eta, shift in g2)
        self.g3 = tuple(float(kappa) for kappa in g3)
        self.g4 = tuple((float(eta), float(zeta), float(lam)) for eta, zeta, lam in g4)
        self.g5 = tuple((float(eta), float(zeta), float(lam)) for eta, zeta, lam in g5)
        self._check_parameters()
        if images not in IMAGES:
            raise unknown_option("images convention", images, IMAGES)
        self.images = images
        self.per_centre_species = per_centre_species
        self.pooling = Pooling(pooling, centre_species=len(self.species) if per_centre_species else None)
        # glibc maps blocks beyond a threshold afresh, page by page, unless a larger one was ever freed: one
        # untouched block of its largest threshold makes all later arrays come from memory already at hand.
        torch.empty(31 * 2**20, dtype=torch.uint8)
        self._radial = Radial(self.g2, self.g3)
        self._angular = [*_group_g4(self.g4), *_group_g5(self.g5, len(self.g4))]
        lookup = torch.full((119,), -1, dtype=torch.int64)
        lookup[numbers] = torch.arange(len(numbers))
        self.register_buffer("_species_of", lookup, persistent=False)
        self._species_of: Tensor
        self._require_few_features()
        self.atomic_names = self._name_atomic_features()
        self.layout = self._lay_out()

    @classmethod
    def fung2022(cls, species: Sequence[str], *, images: str = "all") -> ACSF:
        """Build the fingerprint of Fung et al. 2022: for one element 190 maxima, then 190 minima.

        G2 with η (outermost) × R_s, then G5 with ζ (outermost) × λ × η, cosine cutoff at 20 Å.
        """
        etas = (0.01, 0.06, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 3.5, 5.0)
        shifts = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
        return cls(
            species=species,
            cutoff=20.0,
            g2=[(eta, shift) for eta in etas for shift in shifts],
            g5=[
                (eta, zeta, lam)
                for zeta in (1.0, 2.0, 4.0, 16.0, 64.0)
                for lam in (-1.0, 1.0)
                for eta in (0.06, 0.1, 0.2, 0.4, 1.0)
            ],
            pooling=("max", "min"),
            images=images,
        )

    @classmethod
    def crystal(
        cls, species: Sequence[str], *, cutoff: float = 5.0, pooling: Sequence[str] = ("mean", "std")
    ) -> ACSF:
        r"""Build a fingerprint that tells crystals apart: 20 radial and 16 angular functions at 5 Å.

        Atoms of each species are pooled apart, and every periodic image within the cutoff counts, so that it
        is the same for a supercell. The radial functions come in three widths: η = 8 Å⁻² (σ = 0.25 Å) at
        every 0.25 Å resolves shells of neighbours, η = 1 (0.7 Å) at every 1 Å and η = 0.1 (2.2 Å) at every
        2 Å lead to them from afar. The angular functions tell apart what has equal distances: ζ = 1, 2, 4, 16
        (from 81° to 20° wide) with λ = ±1, once over all neighbours (η = 0.02) and once over the nearest
        (η = 0.1).

        With S species and two pools these are 2 S (20 S + 8 S (S + 1)) features: 72, 352, 936, 1920 and 3400
        for S = 1 … 5.
        """
        steps = range(int((cutoff - 2.0) / 0.25) + 1)
        g2 = [(0.1, 2.0 * step) for step in range(math.ceil(cutoff / 2.0))]
        g2 += [(1.0, 1.0 + step) for step in range(math.ceil(cutoff - 1.0))]
        g2 += [(8.0, 1.25 + 0.25 * step) for step in steps]
        g5 = [
            (eta, zeta, lam) for zeta in (1.0, 2.0, 4.0, 16.0) for lam in (-1.0, 1.0) for eta in (0.02, 0.1)
        ]
        return cls(species=species, cutoff=cutoff, g2=g2, g5=g5, pooling=pooling, per_centre_species=True)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ACSF:
        """Rebuild from :meth:`config`, or build a preset: ``{"preset": "fung2022", "species": ["Pt"]}``."""
        settings = {key: value for key, value in config.items() if key != "kind"}
        preset = settings.pop("preset", None)
        if preset is not None:
            if preset not in cls.presets:
                raise unknown_option("preset of acsf", str(preset), cls.presets)
            return getattr(cls, preset)(**settings)
        if isinstance(settings.get("cutoff"), Mapping):
            settings["cutoff"] = Cutoff(**settings["cutoff"])
        return cls(**settings)

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        return {
            "kind": self.kind,
            "species": list(self.species),
            "cutoff": self.cutoff.config(),
            "g2": [list(item) for item in self.g2],
            "g3": list(self.g3),
            "g4": [list(item) for item in self.g4],
            "g5": [list(item) for item in self.g5],
            "pooling": list(self.pooling.names),
            "per_centre_species": self.per_centre_species,
            "images": self.images,
        }

    def sharpness(self) -> Float[Tensor, "F"]:
        r"""Return the inverse of the length over which each feature changes, in 1/Å.

        .. math:: \sqrt{1/r_c^2 + 2\eta + \kappa^2 + \zeta / 2b^2}

        of which each function has the terms it knows: a gaussian is :math:`1/\sqrt{2\eta}` wide; near its
        maximum :math:`((1+\cos\theta)/2)^\zeta \approx e^{-\zeta\theta^2/4}` has a width of
        :math:`\sqrt{2/\zeta}` in the angle, which is taken to Å on a circle of a typical bond length,
        b = 2.5 Å; and nothing is broader than the cutoff.
        """
        radial = [2.0 * eta for eta, _ in self.g2] + [kappa**2 for kappa in self.g3]
        angular = [2.0 * eta + zeta / (2.0 * _BOND**2) for eta, zeta, _ in (*self.g4, *self.g5)]
        atomic = radial * len(self.species) + angular * len(self._species_pairs)
        squares = torch.tensor(atomic, dtype=torch.float64) + self.cutoff.radius**-2
        return squares.sqrt().repeat(len(self.layout) // len(atomic))

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B F"]:
        """Return the pooled features.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        needs_gradient = structures.positions.requires_grad or structures.cells.requires_grad
        if len(structures) <= 1 or (needs_gradient and torch.is_grad_enabled()):
            return self._forward(structures)
        # A few structures at a time: memory is bounded, and used again while it is in the caches.
        largest = max(1, int(structures.n_atoms.max()))
        numbers = len(self.layout) + largest * len(self.atomic_names)  # of one structure
        most = max(1, min(_ATOMS_AT_ONCE // largest, _POOLED_AT_ONCE // numbers))
        return torch.cat(map_threads(self._forward, list(structures.chunks(most))))

    def seconds(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return roughly how long one core takes for each structure: most of it is spent on triples."""
        counts, neighbors = structures.n_atoms.double(), self._expected_neighbors(structures)
        radial, angular = len(self.g2) + len(self.g3), len(self.g4) + len(self.g5)
        return _SECONDS * counts * neighbors * (radial + 0.5 * neighbors * angular)

    def _expected_neighbors(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return roughly how many neighbours an atom has: in crystals from the density, else all others."""
        counts = structures.n_atoms.double()
        density = counts / volumes(structures.cells.detach()).double().clamp(min=1e-3)
        around = 4.0 / 3.0 * math.pi * self.cutoff.radius**3 * density
        return torch.where(
            structures.pbc.all(1) & (self.images == "all"), around, (counts - 1.0).clamp(min=0.0)
        )

    def find_problems(self, structures: StructureBatch) -> dict[int, str]:
        """Return the index of each structure that cannot be encoded, and why.

        Besides those of :func:`whorl.structures.find_problems`: so many neighbours within the cutoff that the
        triples of a single atom would take many GB.
        """
        problems = super().find_problems(structures)
        if self.g4 or self.g5:
            neighbors = self._expected_neighbors(structures)
            for index in torch.nonzero(neighbors > _MOST_NEIGHBORS).flatten().tolist():
                problems.setdefault(
                    index,
                    f"an atom has about {int(neighbors[index])} neighbours within the cutoff of "
                    f"{self.cutoff.radius:g} Å, expected at most {_MOST_NEIGHBORS}",
                )
        return dict(sorted(problems.items()))

    def _forward(self, structures: StructureBatch) -> Tensor:
        species = self._species_index(structures)
        atomic = self.atomic_features(structures)
        return self.pooling(atomic, structures.structure_index, species, len(structures)).flatten(1)

    def atomic_features(self, structures: StructureBatch) -> Float[Tensor, "A f"]:
        """Return the features of each atom before pooling, in the order of :attr:`atomic_names`.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        require_sound(structures)
        pairs = self._pairs(structures)
        return _AtomicFeatures.apply(pairs.vectors(structures), self, pairs, structures)

    @torch.no_grad()
    def value_and_jacobian(
        self, structures: StructureBatch, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F m 3"]]:
        """Return R and its analytic Jacobian; see the base class for shapes and units."""
        require_sound(structures)
        width, n_max = len(self.atomic_names), max(structures.n_atoms.tolist(), default=0)
        n_pools = len(self.layout) // width
        value = structures.positions.new_empty(len(structures), n_pools, width)
        jacobian = value.new_empty(len(structures), n_pools, width, n_max + 3 * strain, 3)

        def compute(part: _Part, atoms: Atoms, second: Tensor, of: slice) -> None:
            self._pooled_jacobian(part, atoms, second, value[of], jacobian[of], strain)

        self._over_parts(compute, structures, pools=n_pools)
        return value.flatten(1), jacobian.flatten(1, 2)

    @torch.no_grad()
    def value_and_jacobian_along(
        self, structures: StructureBatch, orbits: SymmetryCoordinates
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F Q"]]:
        """Return R and its derivatives, computed from one atom of each orbit; see the base class."""
        some_periodic, all_periodic = bool(structures.pbc.any()), bool(structures.pbc.all())
        if some_periodic and (self.images != "all" or not all_periodic):
            return super().value_and_jacobian_along(structures, orbits)
        require_sound(structures)
        species = self._species_index(structures).reshape(orbits.head.shape)
        value = structures.positions.new_empty(len(structures), len(self.layout))
        jacobian = value.new_empty(*value.shape, orbits.atoms.shape[3])
        is_head = orbits.head == torch.arange(orbits.head.shape[1], device=orbits.head.device)
        step = max(1, _ATOMS_AT_ONCE // (8 * int(is_head.sum(1).max())))

        def compute(start: int) -> None:
            some = slice(start, start + step)
            out = value[some].unflatten(1, (-1, len(self.atomic_names)))
            part = orbits[some].trimmed()  # those with few coordinates often stand together
            along = jacobian[some].unflatten(1, out.shape[1:])
            along[..., part.atoms.shape[3] :] = 0.0
            along = along[..., : part.atoms.shape[3]]
            self._orbit_jacobian(structures[some], part, species[some], is_head[some], out, along)

        map_threads(compute, list(range(0, len(structures), step)))
        return value, jacobian

    def _orbit_jacobian(
        self,
        structures: StructureBatch,
        orbits: SymmetryCoordinates,
        species: Tensor,
        is_head: Tensor,
        value: Tensor,
        jacobian: Tensor,
    ) -> None:
        """Write value (B, P, f) and Jacobian (B, P, f, Q) of some structures."""
        (size, n), n_species = species.shape, len(self.species)
        first, second, vectors = surroundings(structures, is_head.flatten(), cutoff=self.cutoff.radius)
        n_rows = int(is_head.sum(1).max())
        row_of = torch.cumsum(is_head, 1) - 1 + n_rows * torch.arange(size, device=is_head.device)[:, None]
        motion = orbits.atoms.flatten(0, 1)
        levers = motion[second] - motion[first]
        if bool((orbits.strain != 0).any()):
            levers += torch.einsum("px,pxyq->pyq", vectors, orbits.strain[structures.structure_index[first]])
        pairs = Pairs.of(
            vectors,
            row=row_of.flatten()[first],
            kind=species.flatten()[second],
            ends=(first, second),
            n_rows=size * n_rows,
            n_kinds=n_species,
            n_atoms=n,
            strain=False,
            levers=levers,
        )
        radial = AtomicRadialPart(self._radial, self.cutoff, pairs)
        angular = [AngularPart(group.kernel, self.cutoff, pairs, _FACTORS_AT_ONCE) for group in self._angular]
        features = value.new_zeros(size * n_rows, value.shape[2])
        for columns, _, of_rows in self._centred_values(radial, angular):
            features[:, columns] = of_rows
        # Every atom takes part in a pool with the features of the one that stands for it.
        rows = row_of.gather(1, orbits.head).flatten()
        pooled, weights = self.pooling.with_weights(
            features[rows], structures.structure_index, species.flatten(), size
        )
        value.copy_(pooled)
        if jacobian.shape[3] == 0:
            return
        of_heads = weights.new_zeros(len(weights), *features.shape).index_add(1, rows, weights)
        many = self.pooling.groups
        groups = value.new_zeros(size * n_rows, many)
        heads = is_head.flatten()
        groups[row_of.flatten()[heads], species.flatten()[heads] if many > 1 else 0] = 1.0
        groups = groups.unflatten(0, (size, n_rows)).transpose(1, 2)
        jacobian.zero_()
        for columns, place, change in self._centred_jacobians(radial, angular):
            change = change.unflatten(0, (size, n_rows))
            for name, of_rows in enumerate(of_heads[..., columns]):
                pools = slice(name * many, (name + 1) * many)
                of_rows = of_rows.unflatten(0, (size, n_rows))
                pooled = pool_jacobian(change, of_rows, place, groups, extremes=None)
                jacobian[:, pools, columns] = pooled.squeeze(-1)

    def _centred_values(
        self, radial: AtomicRadialPart, angular: Sequence[AngularPart]
    ) -> Iterator[tuple[Tensor | slice, Tensor, Tensor]]:
        """Yield values of each centre, the columns they belong to, and their places among those computed."""
        for s, values in radial.values():
            yield self._radial_columns(s), torch.arange(values.shape[1]), values
        for group, kernel in zip(self._angular, angular, strict=True):
            for s, t, values in kernel.values():
                yield self._angular_columns(group, s, t), group.place, values[:, group.place]

    def _centred_jacobians(
        self, radial: AtomicRadialPart, angular: Sequence[AngularPart]
    ) -> Iterator[tuple[Tensor | slice, Tensor, Tensor]]:
        """Yield Jacobians of each centre, the columns they belong to, and the places of these in them."""
        for s, change in radial.jacobians():
            yield self._radial_columns(s), torch.arange(change.shape[2]), change
        for group, kernel in zip(self._angular, angular, strict=True):
            for s, t, change in kernel.jacobians():
                yield self._angular_columns(group, s, t), group.place, change

    def _radial_columns(self, s: int) -> slice:
        return slice(s * self._radial.size, (s + 1) * self._radial.size)

    def _angular_columns(self, group: _AngularGroup, s: int, t: int) -> Tensor | slice:
        number = self._species_pairs.index((s, t))
        n_radial, n_angular = len(self.species) * self._radial.size, len(self.g4) + len(self.g5)
        return _columns(group.columns + n_radial + n_angular * number)

    @torch.no_grad()
    def atomic_value_and_jacobian(
        self, structures: StructureBatch, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B n f"], Float[Tensor, "B n f m 3"]]:
        r"""Return the features of each atom before pooling, and their analytic Jacobian.

        Atoms stand by structure, n of the largest, zeros beyond a structure's own. The last two axes are
        those of :meth:`value_and_jacobian`: atoms that move, and with ``strain`` three rows of a strain.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        require_sound(structures)
        width, n_max = len(self.atomic_names), max(structures.n_atoms.tolist(), default=0)
        value = structures.positions.new_zeros(len(structures), n_max, width)
        jacobian = value.new_zeros(len(structures), n_max, width, n_max + 3 * strain, 3)

        def compute(part: _Part, atoms: Atoms, second: Tensor, of: slice) -> None:
            self._atomic_jacobian(part, atoms, second, value[of], jacobian[of], strain)

        self._over_parts(compute, structures, pools=n_max)
        return value, jacobian

    def _over_parts(
        self,
        compute: Callable[[_Part, Atoms, Tensor, slice], None],
        structures: StructureBatch,
        *,
        pools: int,
    ) -> None:
        """Call ``compute`` with parts of bounded memory: their atoms, ends of pairs, and structures."""
        pairs = self._pairs(structures)
        species = self._species_index(structures)
        index, place = structures.structure_index, structures.position_in_structure

        def run(part: _Part) -> None:
            first, last = int(index[part.atoms.start]), int(index[part.atoms.stop - 1]) + 1
            places = place[part.atoms]
            atoms = Atoms(
                structure=index[part.atoms] - first,
                place=places,
                species=species[part.atoms],
                n_structures=last - first,
                n=int(places.max()) + 1,
            )
            compute(part, atoms, pairs.second[part.pairs] - part.atoms.start, slice(first, last))

        # Numbers held for each pair, more or less.
        per_pair = pools * self._radial.size + sum(
            8 * len(group.kernel.powers) * len(group.kernel.etas) for group in self._angular
        )
        parts = self._parts(
            structures, pairs, pairs.vectors(structures), pairs_at_once=_JACOBIAN_CHUNK // per_pair
        )
        map_threads(run, list(parts))

    def _pooled_jacobian(
        self, part: _Part, atoms: Atoms, second: Tensor, value: Tensor, jacobian: Tensor, strain: bool
    ) -> None:
        """Write value (B, P, f) and Jacobian (B, P, f, m, 3) of some structures."""
        n, size, n_species = atoms.n, atoms.n_structures, part.n_species
        slots = atoms.structure * n + atoms.place  # the centres' rows
        to_second = atoms.place[second]
        centred = _centred_pairs(part, atoms, to_second, strain)
        # Each undirected pair in the direction that goes from the lighter species to the heavier.
        one, other = part.directions.unbind(1)
        half = torch.where(atoms.species[part.centre[one]] <= part.species[one], one, other)
        begin = part.centre[half]
        undirected = Pairs.of(
            part.vectors[half],
            row=atoms.structure[begin],
            kind=pair_numbers(n_species, half.device)[atoms.species[begin], part.species[half]],
            ends=(atoms.place[begin], to_second[half]),
            n_rows=size,
            n_kinds=len(self._species_pairs),
            n_atoms=n,
            strain=strain,
        )
        radial = RadialPart(self._radial, self.cutoff, undirected, self._species_pairs)
        angular = [
            AngularPart(group.kernel, self.cutoff, centred, _FACTORS_AT_ONCE) for group in self._angular
        ]

        n_radial, n_angular = n_species * self._radial.size, len(self.g4) + len(self.g5)
        features = value.new_zeros(size, n, value.shape[2])
        features[:, :, :n_radial] = radial.value(n_species)
        numbers = pair_numbers(n_species, torch.device("cpu")).tolist()
        for group, kernel in zip(self._angular, angular, strict=True):
            for s, t, values in kernel.values():
                columns = _columns(group.columns + n_radial + n_angular * numbers[s][t])
                features[:, :, columns] = values[:, group.place].reshape(size, n, -1)
        flat = features.flatten(0, 1)
        pooled, weights = self.pooling.with_weights(
            flat if len(flat) == len(slots) else flat[slots], atoms.structure, atoms.species, size
        )
        value.copy_(pooled)

        weights = atoms.padded(weights)  # (N, B, n, f)
        result = jacobian
        if jacobian.shape[3] > n + 3 * strain:  # larger structures stand elsewhere in the batch
            result = jacobian.new_empty(*jacobian.shape[:3], n + 3 * strain, 3)
        if len(centred.blocks) < n_species:
            result.zero_()
        # Which atoms count in which of the pools that share a name: all, or those of one species.
        many = self.pooling.groups
        groups = atoms.groups(many, value)  # (B, G, n)
        of_pools = weights.permute(1, 0, 3, 2)
        if many > 1:
            of_pools = (of_pools[:, :, None] * groups[:, None, :, None]).flatten(1, 2)
        for s, change in radial.jacobians(of_pools):
            result[:, :, s * self._radial.size : (s + 1) * self._radial.size] = change
        for group, kernel in zip(self._angular, angular, strict=True):
            for s, t, change in kernel.jacobians():
                columns = _columns(group.columns + n_radial + n_angular * numbers[s][t])
                change = change.unflatten(0, (size, n))
                for name, of_atoms in enumerate(weights[..., columns]):
                    pools = slice(name * many, (name + 1) * many)
                    hard = many == 1 and self.pooling.names[name] in ("max", "min")
                    extremes = pooled[:, name, columns] if hard else None
                    result[:, pools, columns] = pool_jacobian(
                        change, of_atoms, group.place, groups, extremes=extremes
                    )
        if result is not jacobian:
            jacobian.zero_()
            jacobian[:, :, :, :n] = result[:, :, :, :n]
            if strain:
                jacobian[:, :, :, -3:] = result[:, :, :, -3:]

    def _atomic_jacobian(
        self, part: _Part, atoms: Atoms, second: Tensor, value: Tensor, jacobian: Tensor, strain: bool
    ) -> None:
        """Write value (B, n, f) and Jacobian (B, n, f, m, 3) of some structures into zeros."""
        n, size = atoms.n, atoms.n_structures
        pairs = _centred_pairs(part, atoms, atoms.place[second], strain)
        value, tail = value[:, :n], jacobian.shape[3] - 3 * strain

        def write(columns: slice | Tensor, change: Tensor) -> None:
            change = change.unflatten(0, (size, n)).permute(0, 1, 3, 4, 2)  # (B, n, K, R, 3)
            jacobian[:, :n, columns, :n] = change[:, :, :, :n]
            if strain:
                jacobian[:, :n, columns, tail:] = change[:, :, :, n:]

        radial = AtomicRadialPart(self._radial, self.cutoff, pairs)
        angular = [AngularPart(group.kernel, self.cutoff, pairs, _FACTORS_AT_ONCE) for group in self._angular]
        for columns, _, values in self._centred_values(radial, angular):
            value[:, :, columns] = values.unflatten(0, (size, n))
        for columns, place, change in self._centred_jacobians(radial, angular):
            write(columns, change[:, :, place])

    # The kernels, put together in the order of the layout.

    def _value(self, part: _Part) -> Float[Tensor, "n f"]:
        n, r = len(part.counts), part.r
        sizes = (
            torch.bincount(part.group, minlength=n * part.n_species) if part.n_species > 1 else part.counts
        )
        radial = torch.nn.functional.embedding_bag(
            part.undirected,
            self._radial.value(r),
            torch.cumsum(sizes, 0) - sizes,
            mode="sum",
            per_sample_weights=self.cutoff(r)[part.undirected],
        )
        radial = radial.reshape(n, -1)
        if not self._angular:
            return radial
        n_pairs, n_angular = len(self._species_pairs), len(self.g4) + len(self.g5)
        angular = r.new_zeros(n, n_pairs, n_angular)
        for centres, _, every in self._environments(part):
            env, present = every.of_present()
            pairs = pair_numbers(part.n_species, r.device)[present][:, present]
            pairs = pairs[tuple(torch.triu_indices(len(present), len(present), device=r.device))]
            j, k = torch.triu_indices(env.r.shape[1], env.r.shape[1], 1, device=r.device)
            of_groups = []
            for group in self._angular:
                columns = max(len(group.kernel.powers), len(group.kernel.etas) * len(pairs))
                step = max(1, 4 * _CHUNK // (len(centres) * columns))
                total = group.kernel.value(env, j[:step], k[:step])
                for start in range(step, len(j), step):
                    total += group.kernel.value(env, j[start : start + step], k[start : start + step])
                total = total.flatten(1, 2)  # every (ζ, λ) with every η; most often in the order asked for
                wanted = group.power * len(group.kernel.etas) + group.eta
                if not torch.equal(wanted, torch.arange(total.shape[1])):
                    total = total.index_select(1, wanted.to(total.device))
                of_groups.append(total)
            together = torch.cat(of_groups, 1)
            columns_of = torch.cat([group.columns for group in self._angular])
            if not torch.equal(columns_of, torch.arange(n_angular)):
                together = together.index_select(1, torch.argsort(columns_of).to(together.device))
            angular[centres[:, None], pairs] = together.transpose(1, 2)
        return torch.cat([radial, angular.flatten(1)], 1)

    def _vjp(self, part: _Part, g: Float[Tensor, "n f"]) -> Float[Tensor, "P 3"]:
        n, r = len(part.counts), part.r
        n_radial = part.n_species * self._radial.size
        of_radial, of_angular = g.split([n_radial, g.shape[1] - n_radial], 1)
        slope = self._radial.slope(r, self.cutoff(r), self.cutoff.derivative(r))
        of_groups = of_radial.reshape(n * part.n_species, self._radial.size)
        # One direction stands for both, since v_ji = -v_ij: it gets the whole derivative.
        forward, backward = part.directions.unbind(1)
        both = of_groups[part.group[forward]] + of_groups[part.group[backward]]
        gradient = torch.zeros_like(part.vectors)
        unit = part.vectors[forward] / r.clamp(min=1e-12)[:, None]
        gradient[forward] = (both * slope).sum(1)[:, None] * unit
        if not self._angular:
            return gradient
        s, t = torch.tensor(self._species_pairs, device=g.device).unbind(1)
        of_angular = of_angular.unflatten(1, (len(s), -1))
        for centres, index, env in self._environments(part):
            result = torch.zeros_like(env.unit)
            for group in self._angular:
                shape = (part.n_species, part.n_species, len(group.kernel.powers), len(group.kernel.etas))
                spread = g.new_zeros(len(centres), *shape)
                weights = of_angular[centres][:, :, group.columns]
                spread[:, s[:, None], t[:, None], group.power, group.eta] = weights
                spread[:, t[:, None], s[:, None], group.power, group.eta] = weights
                for rows in self._rows(env, group):
                    result[:, rows] += group.kernel.vjp(env, rows, spread)
            gradient[index[env.mask]] += result[env.mask]
        return gradient

    @property
    def _species_pairs(self) -> list[tuple[int, int]]:
        n = len(self.species)
        return [(s, t) for s in range(n) for t in range(s, n)]

    # Cutting the work into pieces of bounded memory.

    def _pairs(self, structures: StructureBatch) -> NeighborList:
        """Find the pairs, those of a centre with one species of neighbours standing together."""
        species = self._species_index(structures)  # an undeclared element is the first thing to say
        pairs = neighbor_list(structures, cutoff=self.cutoff.radius, images=self.images)
        if len(self.species) == 1:
            return pairs
        return pairs.reordered(
            torch.argsort(pairs.first * len(self.species) + species[pairs.second], stable=True)
        )

    def _parts(
        self,
        structures: StructureBatch,
        pairs: NeighborList,
        vectors: Tensor,
        *,
        pairs_at_once: int | None = None,
    ) -> Iterator[_Part]:
        """Cut into whole structures, so that both directions of a pair are in one part."""
        n_species = len(self.species)
        species = self._species_index(structures)
        counts = pairs.counts(len(species))
        atoms_before = [*structures.first_atom.tolist(), len(species)]
        pairs_until = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])[atoms_before].tolist()
        if pairs_at_once is None:
            pairs_at_once = _CHUNK // max(1, self._radial.size // 2)
        begin = 0
        while begin < len(structures):
            end = bisect_right(pairs_until, pairs_until[begin] + pairs_at_once) - 1
            end = min(max(end, begin + 1), len(structures))
            atoms = slice(atoms_before[begin], atoms_before[end])
            first = pairs_until[begin]
            some = slice(first, pairs_until[end])
            half = slice(first // 2, pairs_until[end] // 2)
            yield _Part(
                atoms=atoms,
                pairs=some,
                vectors=vectors[some],
                shift=pairs.shift[some],
                centre=pairs.first[some] - atoms.start,
                species=species[pairs.second[some]],
                undirected=pairs.undirected[some] - half.start,
                directions=pairs.directions[half] - first,
                counts=counts[atoms],
                n_species=n_species,
            )
            begin = end

    def _environments(self, part: _Part) -> list[tuple[Tensor, Tensor, Environment]]:
        """Return some centres (N,), their pairs (N, M), and what the angular functions need of them.

        Centres with about equally many neighbours go together, so that little is padded. What is found stays
        with the part, since derivatives need it again.
        """
        if part.environments:
            return part.environments
        counts = part.counts
        starts = torch.cumsum(counts, 0) - counts
        order = torch.argsort(counts, stable=True)
        sizes = counts[order].tolist()
        width = max(len(group.kernel.powers) for group in self._angular) if self._angular else 1
        begin = bisect_right(sizes, 0)  # a centre without neighbours has nothing to compute
        while begin < len(sizes):
            end = begin + 1
            while end < len(sizes) and (end + 1 - begin) * sizes[end] ** 2 * width <= 2 * _CHUNK:
                end += 1
            centres = order[begin:end]
            within = torch.arange(sizes[end - 1], device=centres.device)
            index = starts[centres][:, None] + within
            mask = within < counts[centres][:, None]
            if sizes[begin] < sizes[end - 1]:
                index = torch.where(mask, index, 0)
            env = Environment.of(part.vectors[index], mask, part.species[index], part.n_species, self.cutoff)
            part.environments.append((centres, index, env))
            begin = end
        return part.environments

    def _rows(self, env: Environment, group: _AngularGroup) -> list[slice]:
        """Cut the neighbours j of some centres so that each matrix stays within bounds."""
        n, m = env.r.shape
        step = max(1, 8 * _CHUNK // (n * m * len(group.kernel.powers)))
        return [slice(start, min(m, start + step)) for start in range(0, m, step)]

    # Input and layout.

    def _species_index(self, structures: StructureBatch) -> Int[Tensor, "A"]:
        numbers = structures.atomic_numbers
        index = self._species_of.to(numbers.device)[numbers.clamp(0, 118)]
        unknown = (index < 0) | (numbers != numbers.clamp(0, 118))
        if bool(unknown.any()):
            atom = int(torch.nonzero(unknown)[0])
            raise InputError(
                f"structure {int(structures.structure_index[atom])} contains {_symbol(int(numbers[atom]))}, "
                f"but this representation was made for {', '.join(self.species)}. "
                "Declare every element that occurs."
            )
        return index

    def _check_parameters(self) -> None:
        if not (self.g2 or self.g3 or self.g4 or self.g5):
            raise InputError("ACSF: got no symmetry functions, expected at least one of g2, g3, g4, g5.")
        numbers = [*sum(self.g2, ()), *self.g3, *sum(self.g4, ()), *sum(self.g5, ())]
        if not all(math.isfinite(number) for number in numbers):
            raise InputError("ACSF: the parameters of symmetry functions must be finite numbers.")
        for eta, zeta, lam in (*self.g4, *self.g5):
            if eta < 0 or zeta < 1 or abs(lam) != 1:
                raise InputError(
                    f"ACSF: got angular function (η={eta:g}, ζ={zeta:g}, λ={lam:g}), expected η ≥ 0, ζ ≥ 1 "
                    "and λ = 1 or -1, in this order."
                )
        if any(eta < 0 for eta, _ in self.g2):
            raise InputError("ACSF: G2 needs η ≥ 0; pairs are (η, R_s).")

    def _require_few_features(self) -> None:
        n = len(self.species)
        atomic = n * (len(self.g2) + len(self.g3)) + n * (n + 1) // 2 * (len(self.g4) + len(self.g5))
        count = atomic * len(self.pooling.names) * (n if self.per_centre_species else 1)
        require_few_features(
            count,
            f"ACSF: {n} elements",
            "Remedy: structures of fewer elements, symmetry functions without per_centre_species and "
            "angular ones (g4, g5), or for crystals a representation whose size does not depend on the "
            "elements: kind crystens.",
        )

    def _name_atomic_features(self) -> tuple[str, ...]:
        names = []
        for symbol in self.species:
            names += [f"G2/{symbol}/eta={eta:g},Rs={shift:g}" for eta, shift in self.g2]
            names += [f"G3/{symbol}/kappa={kappa:g}" for kappa in self.g3]
        for s, t in self._species_pairs:
            for kind, parameters in (("G4", self.g4), ("G5", self.g5)):
                pair = f"{kind}/{self.species[s]}-{self.species[t]}"
                names += [f"{pair}/eta={eta:g},zeta={zeta:g},lambda={lam:g}" for eta, zeta, lam in parameters]
        return tuple(names)

    def _lay_out(self) -> FeatureLayout:
        prefixes = [
            f"{pool}/{centre}/" if self.per_centre_species else f"{pool}/"
            for pool in self.pooling.names
            for centre in (self.species if self.per_centre_species else ("",))
        ]
        names = tuple(prefix + name for prefix in prefixes for name in self.atomic_names)
        blocks: dict[str, slice] = {}
        for place, name in enumerate(names):
            block = name.rpartition("/")[0]
            blocks[block] = slice(blocks[block].start if block in blocks else place, place + 1)
        return FeatureLayout(names=names, shape=(len(names),), blocks=blocks)


class _AtomicFeatures(torch.autograd.Function):
    """Features of all atoms from the pair vectors; both directions work in chunks of bounded memory."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, acsf: ACSF, pairs: NeighborList, structures: StructureBatch
    ) -> Float[Tensor, "A f"]:
        ctx.acsf, ctx.parts = acsf, list(acsf._parts(structures, pairs, vectors))
        none = vectors.new_zeros(0, len(acsf.atomic_names))
        return torch.cat([none, *map_threads(acsf._value, ctx.parts)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = outputs
        of_parts = map_threads(lambda part: ctx.acsf._vjp(part, gradient[part.atoms]), ctx.parts)
        return torch.cat(of_parts), None, None, None


def _centred_pairs(part: _Part, atoms: Atoms, to_second: Tensor, strain: bool) -> Pairs:
    """Arrange the pairs of each centre in its row; a row for every place of every structure."""
    n, size = atoms.n, atoms.n_structures
    # Where nearly every atom sees every other one, their own order saves a product.
    isolated = not bool(part.shift.any()) and part.n_species == 1 and not strain
    return Pairs.of(
        part.vectors,
        row=(atoms.structure * n + atoms.place)[part.centre],
        kind=part.species,
        ends=(atoms.place[part.centre], to_second),
        n_rows=size * n,
        n_kinds=part.n_species,
        n_atoms=n,
        strain=strain,
        by_atom=isolated and size * n * (n - 1) <= 1.3 * len(part.vectors),
    )


def _columns(numbers: Tensor) -> Tensor | slice:
    """Return a slice where the numbers follow one another: much faster to read and to write."""
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if torch.equal(numbers, torch.arange(first, last + 1)) else numbers


def _group_g5(parameters: Sequence[tuple[float, float, float]], offset: int) -> list[_AngularGroup]:
    """One kernel for all of G5: every (ζ, λ) with every η, of which the columns asked for are taken."""
    if not parameters:
        return []
    etas = sorted({eta for eta, _, _ in parameters})
    powers = sorted({(zeta, lam) for _, zeta, lam in parameters})
    return [
        _AngularGroup(
            kernel=Angular(etas=etas, powers=powers, far_side=False),
            columns=torch.arange(offset, offset + len(parameters)),
            power=torch.tensor([powers.index((zeta, lam)) for _, zeta, lam in parameters]),
            eta=torch.tensor([etas.index(eta) for eta, _, _ in parameters]),
        )
    ]


def _group_g4(parameters: Sequence[tuple[float, float, float]]) -> list[_AngularGroup]:
    """One kernel for each η of G4, since η enters the matrix between the two neighbours."""
    groups = []
    for eta in sorted({eta for eta, _, _ in parameters}):
        columns = [place for place, item in enumerate(parameters) if item[0] == eta]
        powers = sorted({parameters[place][1:] for place in columns})
        groups.append(
            _AngularGroup(
                kernel=Angular(etas=[eta], powers=powers, far_side=True),
                columns=torch.tensor(columns),
                power=torch.tensor([powers.index(parameters[place][1:]) for place in columns]),
                eta=torch.zeros(len(columns), dtype=torch.int64),
            )
        )
    return groups


def _sorted_species(species: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    from ase.data import atomic_numbers

    if isinstance(species, str) or not species:
        raise InputError(
            f"species: got {species!r}, expected a list of chemical symbols such as ['Pt', 'O']."
        )
    for symbol in species:
        if symbol not in atomic_numbers or symbol == "X":
            raise InputError(f"species: '{symbol}' is no chemical element. Use symbols such as 'Pt'.")
    ordered = sorted(set(species), key=lambda symbol: atomic_numbers[symbol])
    return tuple(ordered), [atomic_numbers[symbol] for symbol in ordered]


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"atomic number {number}"
