r"""Many-body tensor representation (Huo and Rupp, Mach. Learn.: Sci. Technol. 3, 045017, 2022).

Each term is the distribution of a number g of k atoms over a grid of points, for each combination of their
elements, with a weight w (:mod:`whorl.representations.distributions` has the formula):

* ``k1``: of the atoms, g = Z, w = 1;
* ``k2``: of the pairs, g = r or 1/r and w = 1, :math:`e^{-sr}`, :math:`1/r^2` or :math:`f_c(r)`;
* ``k3``: of the angles i–j–k at j, g = cos θ or θ in degrees and w = 1, :math:`e^{-s(r_{ij} + r_{jk} +
  r_{ki})}` or :math:`f_c(r_{ij}) f_c(r_{jk})`,

with :math:`f_c(r) = 1 - 3(r/r_c)^2 + 2(r/r_c)^3`. Of a crystal they are those of one cell, with all periodic
images. Values and their order are DScribe's (Himanen et al., Comput. Phys. Commun. 247, 106949, 2020).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.parallel import map_threads
from whorl.representations.base import FeatureLayout, require_few_features, sound
from whorl.representations.cutoffs import Cutoff
from whorl.representations.distributions import Grid
from whorl.representations.settings import SpeciesSettings
from whorl.representations.species import SpeciesRepresentation
from whorl.settings import Positive, Section, Share, settings_from
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import expected_neighbors, volumes
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import neighbor_list
from whorl.symmetry.coordinates import SymmetryCoordinates

NORMALIZATIONS = ("none", "l2", "n_atoms", "valle_oganov")

_MOST_TUPLES = 20_000_000  # of one structure: 5 GB
_TUPLES_AT_ONCE = 30_000
_NUMBERS_AT_ONCE = 4_000_000
_CLOSEST = 1e-6  # Å; nearer than this, two atoms have no direction
_COLLINEAR = 1e-8  # sine; nearer to 0° and 180°, angles have no derivative
_TINY = 1e-30
_BOND = 2.5  # Å
_SECONDS = 4e-9  # for each point of each tuple


class Term(Section):
    """One term: a grid of points, at which the number g of atoms is counted."""

    min: float
    """First point of the grid."""
    max: float
    """Last point of the grid."""
    n: Annotated[int, Field(ge=2, le=10_000)] = 100
    """Number of points."""
    sigma: Positive
    """Width σ of a Gaussian, in the unit of the grid."""

    bodies: ClassVar[int]
    function: str

    @model_validator(mode="after")
    def _has_a_grid(self) -> Term:
        if self.min >= self.max:
            raise ValueError(f"got min {self.min:g} and max {self.max:g}, expected min below max")
        return self

    def broadened(self, factor: float) -> Term:
        """Return this term with Gaussians wider by a factor, and a grid that is coarser by it."""
        n = max(2, math.ceil(self.n / factor))
        return type(self)(**{**self.model_dump(), "sigma": factor * self.sigma, "n": n})

    @property
    def radius(self) -> float | None:
        """Distance in Å within which atoms are neighbours; None where all are."""
        return None

    @cached_property
    def grid(self) -> Grid:
        """The grid, with its Gaussians."""
        return Grid(self.min, self.max, self.n, self.sigma)

    def combinations(self, n: int) -> list[tuple[int, ...]]:
        """Return the combinations of ``n`` elements, by index, in the order of the features."""
        raise NotImplementedError

    def sharpness(self) -> Float[Tensor, "n"]:
        """Return the inverse of the length in Å over which the feature of each point changes."""
        raise NotImplementedError

    def values(self, *known: Float[Tensor, "T"]) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
        """Return g and w, from what is known of the atoms.

        Of one atom this is its number, of two their distance, of three the distances of the first from the
        others and the cosine between them, for angles the square of the sine too: near 0° and 180° the
        cosine does not give it.
        """
        raise NotImplementedError


class OneBody(Term):
    """Grid of the atomic numbers: the composition."""

    bodies = 1

    function: Literal["atomic_number"] = "atomic_number"
    """The number g."""
    min: float = 0.0
    """First point of the grid."""
    max: float = 100.0
    """Last point of the grid."""
    n: Annotated[int, Field(ge=2, le=10_000)] = 101
    """Number of points."""
    sigma: Positive = 1.0
    """Width σ of a Gaussian."""

    def combinations(self, n: int) -> list[tuple[int, ...]]:
        """Return the elements."""
        return [(s,) for s in range(n)]

    def sharpness(self) -> Float[Tensor, "n"]:
        """Return zeros: no movement changes the composition."""
        return torch.zeros(self.n, dtype=torch.float64)

    def values(self, *known: Float[Tensor, "T"]) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
        """Return the atomic numbers, and ones."""
        (numbers,) = known
        return numbers, torch.ones_like(numbers)


class _Weighted(Term):
    weighting: str
    cutoff: Positive
    threshold: Share = 1e-3
    """Weight exp of atoms at the cutoff: it gives s."""

    @model_validator(mode="after")
    def _has_slopes(self) -> _Weighted:
        spacing = (self.max - self.min) / (self.n - 1)
        if self.sigma < 0.1 * spacing:
            raise ValueError(
                f"got sigma {self.sigma:g}, expected at least a tenth of the {spacing:.3g} from point to "
                "point: narrower, features are counts without a slope. Choose a larger sigma or more points"
            )
        return self

    @property
    def radius(self) -> float | None:
        """Distance in Å within which atoms are neighbours; None where all are."""
        return None if self.weighting == "unity" else self.cutoff

    @property
    def scale(self) -> float:
        """The s of the weighting exp, in 1/Å."""
        return -math.log(self.threshold) / self.cutoff

    def smooth(self, r: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        """Return f_c."""
        return Cutoff(radius=self.cutoff, function="polynomial", gamma=2.0)(r)


class TwoBody(_Weighted):
    """Grid of the distances of pairs."""

    bodies = 2

    function: Literal["distance", "inverse_distance"] = "inverse_distance"
    """The number g, in Å or 1/Å."""
    min: float = 0.0
    """First point of the grid."""
    max: float = 0.8
    """Last point of the grid."""
    sigma: Positive = 0.02
    """Width σ of a Gaussian, in the unit of the grid."""
    weighting: Literal["unity", "exp", "inverse_square", "smooth_cutoff"] = "smooth_cutoff"
    """The weight w; unity is for structures that are not periodic."""
    cutoff: Positive = 8.0
    """Distance in Å within which pairs are counted, unless the weighting is unity."""

    def combinations(self, n: int) -> list[tuple[int, ...]]:
        """Return the pairs s ≤ t."""
        return [(s, t) for s in range(n) for t in range(s, n)]

    def sharpness(self) -> Float[Tensor, "n"]:
        """Return 1/σ, or the derivative of 1/r over σ."""
        slopes = (
            self.grid.points.square() if self.function == "inverse_distance" else torch.ones(self.n).double()
        )
        return slopes / self.sigma

    def values(self, *known: Float[Tensor, "T"]) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
        """Return distances or their inverses, and weights."""
        (r,) = known
        g = r if self.function == "distance" else 1.0 / r
        if self.weighting == "exp":
            return g, torch.exp(-self.scale * r)
        if self.weighting == "inverse_square":
            return g, r.pow(-2)
        return g, self.smooth(r) if self.weighting == "smooth_cutoff" else torch.ones_like(r)


class ThreeBody(_Weighted):
    """Grid of the angles of triplets."""

    bodies = 3

    function: Literal["angle", "cosine"] = "cosine"
    """The number g; angles are in degrees."""
    min: float = -1.0
    """First point of the grid."""
    max: float = 1.0
    """Last point of the grid."""
    sigma: Positive = 0.05
    """Width σ of a Gaussian, in the unit of the grid."""
    weighting: Literal["unity", "exp", "smooth_cutoff"] = "smooth_cutoff"
    """The weight w; unity is for structures that are not periodic."""
    cutoff: Positive = 5.0
    """Distance in Å within which atoms are neighbours, unless the weighting is unity; for exp, half of the
    largest sum of the three distances."""

    def combinations(self, n: int) -> list[tuple[int, ...]]:
        """Return for each element j in the middle the pairs i ≤ k of the ends, as (j, i, k)."""
        return [(j, i, k) for j in range(n) for i in range(n) for k in range(i, n)]

    def sharpness(self) -> Float[Tensor, "n"]:
        """Return the turn of a typical bond, of 2.5 Å, over σ."""
        turn = 180.0 / math.pi if self.function == "angle" else 1.0
        return torch.full((self.n,), turn / (_BOND * self.sigma), dtype=torch.float64)

    @property
    def scale(self) -> float:
        """The s of the weighting exp, in 1/Å."""
        return 0.5 * super().scale

    def values(self, *known: Float[Tensor, "T"]) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
        """Return the angles between the two vectors or their cosines, and weights."""
        r, q, cosine = known[:3]
        g = cosine
        if self.function == "angle":
            g = torch.rad2deg(torch.atan2(known[3].clamp(min=_COLLINEAR**2).sqrt(), cosine))
        if self.weighting == "exp":
            third = (r.square() + q.square() - 2.0 * r * q * cosine).clamp(min=_TINY).sqrt()
            around = r + q + third
            return g, torch.where(around <= 2.0 * self.cutoff, torch.exp(-self.scale * around), 0.0)
        return g, self.smooth(r) * self.smooth(q) if self.weighting == "smooth_cutoff" else torch.ones_like(r)


class MBTR(SpeciesRepresentation):
    """Many-body tensor of any number of elements, with the terms that are given.

    **Order of the features.** The terms k1, k2, k3; of each for every combination of elements, in the order
    of atomic number, the points of its grid. The combinations are s, pairs s ≤ t, and for each element in the
    middle of an angle the pairs s ≤ t of its ends.

    Args:
        species: Chemical symbols of all elements that may occur, in any order.
        k1: Settings of the atomic numbers, a :class:`OneBody` or its keys; None: without.
        k2: Settings of the distances, a :class:`TwoBody` or its keys; None: without.
        k3: Settings of the angles, a :class:`ThreeBody` or its keys; None: without.
        normalization: Of each term: ``"n_atoms"``, over the number of atoms; ``"l2"``, to a length of 1;
            ``"valle_oganov"``, for crystals: with the volume V and the number of atoms of each element, k2
            times :math:`V / 4π N_s N_t` (twice that where s = t), k3 times :math:`V / N_i N_j N_k`;
            ``"none"``.
        broadening: Factors of width. For each, k2 and k3 are repeated with Gaussians wider by it, on coarser
            grids: a search begins with the wide ones, which change over longer distances.

    Raises:
        InputError: No term, unknown elements or normalisations, numbers out of range, too many features.

    >>> mbtr = MBTR(species=["Pt"], k2={"n": 3}, k3=None)
    >>> mbtr.layout.names
    ('k2/Pt-Pt/inverse_distance=0', 'k2/Pt-Pt/inverse_distance=0.4', 'k2/Pt-Pt/inverse_distance=0.8')
    """

    kind = "mbtr"
    fewer_features: ClassVar[str] = (
        "structures of fewer elements, grids of fewer points (n), no k3, or for many elements the kind "
        "soap with embedding: 4"
    )

    class Settings(SpeciesSettings):
        """Settings of a many-body tensor."""

        k1: OneBody | None = None
        """Atomic numbers."""
        k2: TwoBody | None = TwoBody()
        """Distances."""
        k3: ThreeBody | None = ThreeBody()
        """Angles."""
        normalization: Literal["none", "l2", "n_atoms", "valle_oganov"] = "n_atoms"
        """Normalisation of each term."""
        broadening: list[Annotated[float, Field(gt=1, le=100)]] = []
        """Factors by which the Gaussians of copies of k2 and k3 are wider: they guide a search from afar."""

        def summary(self) -> str:
            """Return the terms in a line of a report."""
            terms = [
                f"{name} {term.function}" for name in ("k1", "k2", "k3") if (term := getattr(self, name))
            ]
            return f"mbtr: {', '.join(terms)}, normalization {self.normalization}"

    def __init__(
        self,
        *,
        species: Sequence[str],
        k1: OneBody | Mapping[str, Any] | None = None,
        k2: TwoBody | Mapping[str, Any] | None = TwoBody(),  # noqa: B008 (frozen)
        k3: ThreeBody | Mapping[str, Any] | None = ThreeBody(),  # noqa: B008 (frozen)
        normalization: str = "n_atoms",
        broadening: Sequence[float] = (),
    ) -> None:
        super().__init__(species)
        if any(not 1.0 < factor <= 100.0 for factor in broadening):
            raise InputError(
                f"MBTR: got broadening {list(broadening)}, expected factors of width above 1, at most 100."
            )
        self.broadening = tuple(map(float, broadening))
        self.terms: dict[str, Term] = {
            name: term
            if isinstance(term, Term)
            else settings_from(kind, term, source=f"MBTR: {name}", lines={})
            for name, kind, term in (("k1", OneBody, k1), ("k2", TwoBody, k2), ("k3", ThreeBody, k3))
            if term is not None
        }
        if not self.terms:
            raise InputError("MBTR: got no terms, expected at least one of k1, k2 and k3.")
        if normalization not in NORMALIZATIONS:
            raise unknown_option("normalization", normalization, NORMALIZATIONS)
        self.normalization = normalization
        self._given = dict(self.terms)
        for factor in self.broadening:
            for name, term in self._given.items():
                if term.bodies > 1:
                    self.terms[f"{name}*{factor:g}"] = term.broadened(factor)
        intensive = {"l2", "n_atoms"} | ({"valle_oganov"} if list(self._given) == ["k2"] else set())
        self.invariances = self.invariances | {"lattice_basis"}
        if normalization in intensive:
            self.invariances = self.invariances | {"supercell"}
        self._lay_out()

    def _lay_out(self) -> None:
        n = len(self.species)
        counts = {name: len(term.combinations(n)) * term.n for name, term in self.terms.items()}
        elements = f"MBTR: {n} element{'s' if n > 1 else ''}"
        require_few_features(sum(counts.values()), elements, f"Remedy: {self.fewer_features}.")
        names: list[str] = []
        blocks: dict[str, slice] = {}
        self.columns: dict[str, slice] = {}
        self.numbers: dict[str, tuple[Tensor, int]] = {}
        for name, term in self.terms.items():
            start, combinations = len(names), term.combinations(n)
            table = torch.zeros((n,) * term.bodies, dtype=torch.int64)
            for number, combination in enumerate(combinations):
                # The two atoms of a pair, and the two ends of an angle, have no order.
                table[combination] = table[combination[:-2] + combination[:-3:-1]] = number
                middle, *ends = (self.species[s] for s in combination)
                ordered = [ends[0], middle, ends[1]] if len(ends) == 2 else [middle, *ends]
                block = f"{name}/{'-'.join(ordered)}"
                blocks[block] = slice(len(names), len(names) + term.n)
                names += [f"{block}/{term.function}={x:.6g}" for x in term.grid.points.tolist()]
            self.columns[name] = slice(start, len(names))
            self.numbers[name] = table, len(combinations)
        self.layout = FeatureLayout(names=tuple(names), shape=(len(names),), blocks=blocks)

    def __repr__(self) -> str:
        """Return elements, terms and size in one line."""
        terms = ", ".join(f"{name} {term.function}" for name, term in self.terms.items())
        return f"MBTR({', '.join(self.species)}; {terms}; {len(self.layout)} features)"

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        terms = {
            name: self._given[name].model_dump(mode="json") if name in self._given else None
            for name in ("k1", "k2", "k3")
        }
        return {
            "kind": self.kind,
            "species": list(self.species),
            **terms,
            "normalization": self.normalization,
            **({"broadening": list(self.broadening)} if self.broadening else {}),
        }

    def sharpness(self) -> Float[Tensor, "F"]:
        """Return for each feature the inverse of the length (1/Å) over which it changes."""
        n = len(self.species)
        return torch.cat([term.sharpness().repeat(len(term.combinations(n))) for term in self.terms.values()])

    def seconds(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return the approximate time per structure on one core."""
        counts = [_expected_tuples(term, structures) * term.n for term in self.terms.values()]
        return _SECONDS * torch.stack(counts).sum(0)

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the index of each structure that cannot be encoded, and why.

        In addition to :func:`whorl.structures.find_problems`: periodic ones with a weight that does not
        end, those that are not where the normalisation needs a volume, and too many angles for the memory.
        """
        structures = as_batch(structures)
        problems = super().find_problems(structures)
        for index, reason in self._own_problems(structures).items():
            problems.setdefault(index, reason)
        return dict(sorted(problems.items()))

    def _own_problems(self, structures: StructureBatch) -> dict[int, str]:
        problems: dict[int, str] = {}

        def add(where: Tensor, reason: str) -> None:
            problems.update(dict.fromkeys(torch.nonzero(where).flatten().tolist(), reason))

        for name, term in self.terms.items():
            if term.radius is None and term.bodies > 1:
                periodic = structures.pbc.any(1)
                add(periodic, f"is periodic, but {name} counts atoms at any distance (weighting unity)")
            counts = _expected_tuples(term, structures)
            add(
                counts > _MOST_TUPLES,
                f"has about {int(counts.max()) if len(counts) else 0:,} atoms, pairs or angles within the "
                f"cutoff of {name}, expected at most {_MOST_TUPLES:,}; a smaller cutoff has fewer",
            )
        if self.normalization == "valle_oganov":
            flat = ~structures.pbc.all(1)
            add(flat, "is not periodic in all directions, but valle_oganov needs the volume of a cell")
        return problems

    # Values and Jacobians.

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B F"]:
        """Return the features.

        Raises:
            InputError: An element that was not declared, or a structure that :meth:`find_problems` names.
        """

        def of_part(rows: slice) -> Tensor:
            part = _Part(self, structures[rows])
            return part.normalized(part.value())

        return torch.cat(map_threads(of_part, self._parts(structures)))

    @torch.no_grad()
    def value_and_jacobian(
        self, structures: Structures, *, strain: bool = False
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F m 3"]]:
        """Return R and its analytic Jacobian; see the base class for shapes and units."""
        structures = sound(structures)
        size = max(structures.n_atoms.tolist(), default=0) + 3 * strain

        def coordinates(rows: slice, part: StructureBatch) -> _Coordinates:
            return _AtomsAndStrain(part, size, strain)

        value, jacobian = self._with_jacobian(structures, 3 * size, coordinates)
        return value, jacobian.unflatten(2, (size, 3))

    @torch.no_grad()
    def value_and_jacobian_along(
        self, structures: Structures, orbits: SymmetryCoordinates
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F Q"]]:
        """Return R and its derivatives in the coordinates of symmetric structures; see the base class."""
        structures = sound(structures)
        if orbits.atoms.shape[3] == 0:
            value = self.forward(structures)
            return value, value.new_zeros(*value.shape, 0)

        def coordinates(rows: slice, part: StructureBatch) -> _Coordinates:
            return _Orbits(part, orbits[rows])

        return self._with_jacobian(structures, orbits.atoms.shape[3], coordinates)

    def _with_jacobian(
        self,
        structures: StructureBatch,
        size: int,
        coordinates: Callable[[slice, StructureBatch], _Coordinates],
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F C"]]:
        value = structures.positions.new_empty(len(structures), len(self.layout))
        jacobian = value.new_empty(*value.shape, size)

        def compute(rows: slice) -> None:
            part = _Part(self, structures[rows])
            move = coordinates(rows, part.structures)
            for name, columns in self.columns.items():
                value[rows, columns], jacobian[rows, columns] = part.jacobian(name, move)
            part.normalize_jacobian(value[rows], jacobian[rows], move.growth)
            value[rows] = part.normalized(value[rows])

        map_threads(compute, self._parts(structures))
        return value, jacobian

    def _parts(self, structures: StructureBatch) -> list[slice]:
        """Return ranges of structures of bounded memory, and refuse what cannot be encoded."""
        self.species_index(structures)
        for index, reason in self._own_problems(structures).items():
            raise InputError(f"structure {index} {reason}.")
        cost = torch.zeros(len(structures), dtype=torch.float64, device=structures.device)
        for name, term in self.terms.items():
            tuples = _expected_tuples(term, structures)
            rows = tuples.clamp(max=self.numbers[name][1])
            cost += tuples / _TUPLES_AT_ONCE + rows * (term.grid.numbers_per_row / _NUMBERS_AT_ONCE)
        begun = torch.cumsum(cost, 0).floor()
        sizes = torch.unique_consecutive(begun, return_counts=True)[1].tolist()
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        return [slice(start, end) for start, end in pairwise(ends)]


class _Coordinates(ABC):
    """C coordinates of the structures of a part.

    Attributes:
        growth: Derivative of the logarithm of each structure's volume in them, shape (B, C).
    """

    growth: Float[Tensor, "B C"]

    @abstractmethod
    def levers(
        self, slopes: Float[Tensor, "T d 3"], vectors: Float[Tensor, "T d 3"], ends: Int[Tensor, "T d1"]
    ) -> Float[Tensor, "T C"]:
        """Return derivatives in the coordinates from those in the vectors from the first to other atoms."""


class _AtomsAndStrain(_Coordinates):
    """The positions of the atoms, with zeros beyond a structure's own, and nine components of a strain."""

    def __init__(self, part: StructureBatch, size: int, strain: bool) -> None:
        self._place, self._size, self._strain = part.position_in_structure, size, strain
        growth = part.positions.new_zeros(len(part), size, 3)
        if strain:
            growth[:, -3:] = torch.eye(3).to(growth)
        self.growth = growth.flatten(1)

    def levers(
        self, slopes: Float[Tensor, "T d 3"], vectors: Float[Tensor, "T d 3"], ends: Int[Tensor, "T d1"]
    ) -> Float[Tensor, "T C"]:
        """Return derivatives in the coordinates from those in the vectors from the first to other atoms."""
        rows = self._size * torch.arange(len(ends), device=ends.device)[:, None] + self._place[ends]
        moves = torch.cat([-slopes.sum(1, keepdim=True), slopes], 1)
        levers = slopes.new_zeros(len(ends) * self._size, 3)
        levers.index_add_(0, rows.flatten(), moves.flatten(0, 1))
        levers = levers.unflatten(0, (len(ends), self._size))
        if self._strain:
            levers[:, -3:] = vectors.transpose(1, 2) @ slopes
        return levers.flatten(1)


class _Orbits(_Coordinates):
    """Coordinates that keep a symmetry."""

    def __init__(self, part: StructureBatch, orbits: SymmetryCoordinates) -> None:
        self._motion, self._strain = orbits.atoms.flatten(0, 1), orbits.strain
        self._structure = part.structure_index
        self.growth = orbits.strain.diagonal(dim1=1, dim2=2).sum(2)

    def levers(
        self, slopes: Float[Tensor, "T d 3"], vectors: Float[Tensor, "T d 3"], ends: Int[Tensor, "T d1"]
    ) -> Float[Tensor, "T C"]:
        """Return derivatives in the coordinates from those in the vectors from the first to other atoms."""
        motion = self._motion[ends[:, 1:]] - self._motion[ends[:, :1]]  # (T, d, 3, C)
        strain = self._strain[self._structure[ends[:, 0]]]
        motion = motion + torch.einsum("tdx,txyc->tdyc", vectors, strain)
        return torch.einsum("tdy,tdyc->tc", slopes, motion)


class _Tuples:
    """The atoms, pairs or angles of structures.

    Attributes:
        atoms: Indices of the atoms, that in the middle first, shape (T, k).
        known: What a term needs to know of them, see :meth:`Term.values`.
    """

    def __init__(self, term: Term, structures: StructureBatch) -> None:
        numbers = structures.atomic_numbers
        if term.bodies == 1:
            self.atoms = torch.arange(len(numbers), device=numbers.device)[:, None]
            self.known = [numbers.to(structures.dtype)]
            self._pairs = self.atoms[:, :0]
            self._vectors = structures.positions.new_zeros(3, 0)
            return
        pairs = neighbor_list(structures, cutoff=term.radius or _diameter(structures))
        if term.bodies == 2:
            self._pairs = pairs.directions[:, :1]
        else:
            self._pairs = pairs.triplets(len(numbers))
        self._vectors = pairs.vectors(structures).T.contiguous()
        # The root of zero has no derivative.
        self._r = self._vectors.square().sum(0).clamp(min=_CLOSEST**2).sqrt()
        self._unit = self._vectors / self._r
        self.atoms = torch.cat([pairs.first[self._pairs[:, :1]], pairs.second[self._pairs]], 1)
        self.known = [self._r[pair] for pair in self._pairs.unbind(1)]
        if term.bodies == 3:
            u, v = (self._unit[:, pair] for pair in self._pairs.unbind(1))
            self.known.append((u * v).sum(0))
            if term.function == "angle":
                self.known.append(torch.linalg.cross(u, v, dim=0).square().sum(0))

    def vectors(self, some: Int[Tensor, "t"]) -> Float[Tensor, "t d 3"]:
        """Return the vectors from the first to the other atoms of some."""
        return self._vectors.T[self._pairs[some]]

    def slopes(self, of_known: list[Tensor], some: Int[Tensor, "t"]) -> Float[Tensor, "t d 3"]:
        """Return derivatives in the vectors of some from those in what is known of these."""
        width = self._pairs.shape[1]
        if width == 0:
            return self._vectors.new_zeros(len(some), 0, 3)
        unit = self._unit.T[self._pairs[some]]
        slopes = unit * torch.stack(of_known[:width], 1)[..., None]
        if width == 2:
            # The cosine changes with the part of one direction across the other; sin² is 1 - cos².
            cosine, of_cosine = self.known[2].detach()[some], of_known[2]
            for of_square in of_known[3:]:
                of_cosine = of_cosine - 2.0 * cosine * of_square
            across = unit.flip(1) - cosine[:, None, None] * unit
            slopes += across / self._r[self._pairs[some]][..., None] * of_cosine[:, None, None]
        return slopes


class _Part:
    """Some structures, and the distributions of their atoms, pairs and angles."""

    def __init__(self, mbtr: MBTR, structures: StructureBatch) -> None:
        self._mbtr, self.structures = mbtr, structures
        self._species = mbtr.species_index(structures)

    def value(self) -> Float[Tensor, "B F"]:
        """Return the features before normalisation, differentiable in positions and cells."""
        values = []
        for name, term in self._mbtr.terms.items():
            tuples = _Tuples(term, self.structures)
            row, n_rows = self._rows(name, tuples.atoms)
            values.append(term.grid.sums(*term.values(*tuples.known), row, n_rows))
        return torch.cat([value.reshape(len(self.structures), -1) for value in values], 1)

    def jacobian(
        self, name: str, coordinates: _Coordinates
    ) -> tuple[Float[Tensor, "B f"], Float[Tensor, "B f C"]]:
        """Return the features of a term, and their Jacobian, before normalisation."""
        term = self._mbtr.terms[name]
        tuples = _Tuples(term, self.structures)
        with torch.enable_grad():
            known = [values.requires_grad_() for values in tuples.known]
            g, w = term.values(*known)
            slopes = [
                torch.autograd.grad(values.sum(), known, retain_graph=True, materialize_grads=True)
                if values.requires_grad
                else [torch.zeros_like(values)] * len(known)
                for values in (g, w)
            ]
        row, n_rows = self._rows(name, tuples.atoms)
        counted = torch.nonzero(w).squeeze(1)
        order = counted[torch.argsort(row[counted], stable=True)]
        atoms, vectors = tuples.atoms[order], tuples.vectors(order)
        of_g, of_w = (tuples.slopes([slope[order] for slope in of], order) for of in slopes)

        def changes(some: slice) -> tuple[Tensor, Tensor]:
            of_g_w = torch.cat([of_g[some], of_w[some]])
            levers = coordinates.levers(of_g_w, vectors[some].repeat(2, 1, 1), atoms[some].repeat(2, 1))
            first, second = levers.chunk(2)
            return first, second

        sums = term.grid.sums_and_jacobian(
            g.detach()[order], w.detach()[order], row[order], n_rows, changes, coordinates.growth.shape[1]
        )
        value, jacobian = (item.unflatten(0, (len(self.structures), -1)) for item in sums)
        return value.flatten(1), jacobian.flatten(1, 2)

    def _rows(self, name: str, atoms: Int[Tensor, "T k"]) -> tuple[Int[Tensor, "T"], int]:
        """Return the row of each tuple (its structure and elements), and how many rows there are."""
        numbers, count = self._mbtr.numbers[name]
        row = self.structures.structure_index[atoms[:, 0]]
        if count > 1:
            row = row * count + numbers.to(row.device)[self._species[atoms].unbind(1)]
        return row, len(self.structures) * count

    def normalized(self, value: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """Return the normalised features."""
        if self._mbtr.normalization != "l2":
            return value * self._factors(value)
        terms = [value[:, columns] for columns in self._mbtr.columns.values()]
        return torch.cat([term / _lengths(term) for term in terms], 1)

    def normalize_jacobian(
        self,
        value: Float[Tensor, "B F"],
        jacobian: Float[Tensor, "B F C"],
        growth: Float[Tensor, "B C"],
    ) -> None:
        """Turn the Jacobian of features before normalisation into that after it, in place."""
        if self._mbtr.normalization == "l2":
            for columns in self._mbtr.columns.values():
                length = _lengths(value[:, columns])
                unit, change = value[:, columns] / length, jacobian[:, columns]
                change -= unit[:, :, None] * (unit[:, None] @ change)
                change /= length[:, :, None]
            return
        factors = self._factors(value)[:, :, None]
        jacobian *= factors
        if self._mbtr.normalization == "valle_oganov":
            grows = factors.new_zeros(len(self._mbtr.layout), 1)
            for name, term in self._mbtr.terms.items():
                if term.bodies > 1:
                    grows[self._mbtr.columns[name]] = 1.0
            jacobian += value[:, :, None] * factors * grows * growth[:, None]

    def _factors(self, value: Tensor) -> Float[Tensor, "B 1"] | Float[Tensor, "B F"]:
        """Return by what the features are multiplied."""
        structures, mbtr = self.structures, self._mbtr
        if mbtr.normalization == "none":
            return value.new_ones(len(structures), 1)
        if mbtr.normalization == "n_atoms":
            return 1.0 / structures.n_atoms.to(value)[:, None]
        n = len(mbtr.species)
        counts = torch.bincount(structures.structure_index * n + self._species, minlength=len(structures) * n)
        counts = counts.reshape(-1, n).clamp(min=1).to(value)
        volume, factors = volumes(structures.cells), []
        for term in mbtr.terms.values():
            for combination in term.combinations(n):
                factor = volume / counts[:, combination].prod(1)
                if term.bodies == 1:
                    factor = torch.ones_like(volume)
                if term.bodies == 2:
                    factor = factor / (4.0 * math.pi) * (2.0 if combination[0] == combination[1] else 1.0)
                factors.append(factor[:, None].expand(-1, term.n))
        return torch.cat(factors, 1)


def _lengths(values: Float[Tensor, "B f"]) -> Float[Tensor, "B 1"]:
    return values.square().sum(1, keepdim=True).clamp(min=_TINY).sqrt()


def _diameter(structures: StructureBatch) -> float:
    """Return a distance beyond which no two atoms are."""
    positions = structures.positions.detach()
    return float((positions.amax(0) - positions.amin(0)).norm()) + 1.0


def _expected_tuples(term: Term, structures: StructureBatch) -> Float[Tensor, "B"]:
    """Return the expected number of atoms, pairs or angles of each structure."""
    many = 0.5 * expected_neighbors(structures, cutoff=term.radius or 1.0)
    if term.bodies != 2:
        many = many.square() * 2.0 if term.bodies == 3 else torch.ones_like(many)
    return structures.n_atoms.double() * many
