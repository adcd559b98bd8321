r"""Atom-centred symmetry functions (Behler, J. Chem. Phys. 134, 074106, 2011), pooled over the atoms.

For a centre i, with distances in Å and a cutoff function :math:`f_c`:

.. math::
   G^2_i &= \sum_j e^{-\eta (r_{ij} - R_s)^2} f_c(r_{ij}) \\
   G^3_i &= \sum_j \cos(\kappa r_{ij}) f_c(r_{ij}) \\
   G^4_i &= 2^{1-\zeta} \sum_{j<k} (1 + \lambda\cos\theta_{ijk})^\zeta
            e^{-\eta (r_{ij}^2 + r_{ik}^2 + r_{jk}^2)} f_c(r_{ij}) f_c(r_{ik}) f_c(r_{jk}) \\
   G^5_i &= 2^{1-\zeta} \sum_{j<k} (1 + \lambda\cos\theta_{ijk})^\zeta
            e^{-\eta (r_{ij}^2 + r_{ik}^2)} f_c(r_{ij}) f_c(r_{ik})

Sums run over the neighbours of one species (G2, G3) or one pair of species (G4, G5), each unordered pair once.
``G2`` with η = 0 is Behler's G1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.representations.base import FeatureLayout, Representation
from whorl.representations.cutoffs import Cutoff
from whorl.representations.pooling import Pooling
from whorl.representations.symmetry_functions import Angular, Environment, Radial
from whorl.structures.batch import StructureBatch
from whorl.structures.neighbors import IMAGES, Images, NeighborList, neighbor_list

# Numbers that one array of a chunk may hold: small enough for the processor's caches, large enough to amortise
# the cost of a call. Found by benchmarks/acsf.py.
_CHUNK = 300_000


@dataclass(frozen=True)
class _AngularGroup:
    """Kernels for some functions, and where their results stand among the angular columns."""

    kernel: Angular
    columns: Tensor  # (k,) column among the angular functions
    power: Tensor  # (k,) index of (ζ, λ) in the kernel
    eta: Tensor  # (k,) index of η in the kernel


@dataclass(frozen=True)
class _Chunk:
    """Centres with about equally many neighbours: indices into the pair list, padded to the same length."""

    centres: Int[Tensor, "N"]
    pairs: Int[Tensor, "N M"]
    mask: Bool[Tensor, "N M"]


class ACSF(Representation):
    r"""Pooled symmetry functions of any number of elements.

    **Order of the features.** Of one atom: for each neighbour species in the order of atomic number, G2 in the
    order given, then G3; then for each pair of species s ≤ t, G4 in the order given, then G5. Of a structure: for
    each pool in the order given (and in it for each centre species, where these are pooled apart), those of the
    atom. The order depends on the declared species alone, never on the structures.

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

    def __init__(
        self,
        *,
        species: Sequence[str],
        cutoff: float | Cutoff,
        g2: Sequence[tuple[float, float]] = (),
        g3: Sequence[float] = (),
        g4: Sequence[tuple[float, float, float]] = (),
        g5: Sequence[tuple[float, float, float]] = (),
        pooling: Sequence[str] = ("max", "min"),
        per_centre_species: bool = False,
        images: Images = "all",
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
            raise unknown_option("images convention", str(images), IMAGES)
        self.images: Images = images
        self.per_centre_species = per_centre_species
        self.pooling = Pooling(pooling, centre_species=len(self.species) if per_centre_species else None)
        self._radial = Radial(self.g2, self.g3)
        self._angular = [*_group_g4(self.g4), *_group_g5(self.g5, len(self.g4))]
        lookup = torch.full((119,), -1, dtype=torch.int64)
        lookup[numbers] = torch.arange(len(numbers))
        self.register_buffer("_species_of", lookup, persistent=False)
        self._species_of: Tensor
        self.atomic_names = self._name_atomic_features()
        self.layout = self._lay_out()

    @classmethod
    def fung2022(cls, species: Sequence[str], *, images: Images = "all") -> ACSF:
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
    def from_config(cls, config: Mapping[str, Any]) -> ACSF:
        """Rebuild from :meth:`config`."""
        settings = {key: value for key, value in config.items() if key != "kind"}
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

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B F"]:
        """Return the pooled features.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        species = self._species_index(structures)
        atomic = self.atomic_features(structures)
        return self.pooling(atomic, structures.structure_index, species, len(structures)).flatten(1)

    def atomic_features(self, structures: StructureBatch) -> Float[Tensor, "A f"]:
        """Return the features of each atom before pooling, in the order of :attr:`atomic_names`.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        species = self._species_index(structures)
        pairs = neighbor_list(structures, cutoff=self.cutoff.radius, images=self.images)
        return _AtomicFeatures.apply(pairs.vectors(structures), self, pairs, species)

    def value_and_jacobian(
        self, structures: StructureBatch
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F n 3"]]:
        """Return R and its analytic Jacobian; see the base class for shapes and units."""
        n_max = int(structures.n_atoms.max())
        values, jacobians = [], []
        # A whole structure at a time is differentiated; as many together as fit the chunk.
        per_structure = max(1, len(self.atomic_names) * 3 * n_max * n_max)
        for part in structures.chunks(max(1, 4 * _CHUNK // per_structure)):
            value, jacobian = self._value_and_jacobian(part)
            missing = n_max - jacobian.shape[2]
            values.append(value)
            jacobians.append(torch.nn.functional.pad(jacobian, (0, 0, 0, missing)) if missing else jacobian)
        return torch.cat(values), torch.cat(jacobians)

    def _value_and_jacobian(self, structures: StructureBatch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            species = self._species_index(structures)
            pairs = neighbor_list(structures, cutoff=self.cutoff.radius, images=self.images)
            vectors = pairs.vectors(structures)
            n_atoms, n_max = len(species), int(structures.n_atoms.max())
            width = len(self.atomic_names)
            atomic = vectors.new_zeros(n_atoms, width)
            slopes = vectors.new_zeros(n_atoms, width, 3, n_max)
            place = structures.position_in_structure
            for chunk in self._chunks(pairs, n_atoms):
                env = self._environment(chunk, vectors, pairs, species)
                atomic[chunk.centres] = self._value(env)
                # Moving neighbour m moves v_m; moving the centre moves every v the other way.
                toward = torch.nn.functional.one_hot(place[pairs.second[chunk.pairs]], n_max)
                toward = toward - torch.nn.functional.one_hot(place[chunk.centres], n_max)[:, None]
                toward = (toward * chunk.mask[..., None]).to(vectors.dtype)
                jacobian = self._jacobian(env)
                slopes[chunk.centres] = (jacobian.flatten(1, 2) @ toward).unflatten(1, (width, 3))
            pooled, weights = self.pooling.with_weights(
                atomic, structures.structure_index, species, len(structures)
            )
            parts = [
                slopes.new_zeros(len(structures), width, 3, n_max).index_add(
                    0, structures.structure_index, slopes * weight[..., None, None]
                )
                for weight in weights
            ]
            return pooled.flatten(1), torch.cat(parts, 1).transpose(2, 3)

    # The kernels, put together in the order of the layout.

    @property
    def _species_pairs(self) -> list[tuple[int, int]]:
        n = len(self.species)
        return [(s, t) for s in range(n) for t in range(s, n)]

    def _value(self, env: Environment) -> Float[Tensor, "N f"]:
        blocks = [self._radial.value(env).flatten(1)]
        if self._angular:
            s, t, share = self._pair_index(env.r)
            angular = env.r.new_empty(len(env.r), len(s), len(self.g4) + len(self.g5))
            for group in self._angular:
                total = sum(group.kernel.value(env, rows) for rows in self._rows(env, group))
                assert isinstance(total, Tensor)
                angular[:, :, group.columns] = total[:, s, t][:, :, group.power, group.eta]
            blocks.append((angular * share[:, None]).flatten(1))
        return torch.cat(blocks, 1)

    def _vjp(self, env: Environment, g: Float[Tensor, "N f"]) -> Float[Tensor, "N M 3"]:
        n_species, n_radial = len(self.species), self._radial.size
        radial, angular = g.split([n_species * n_radial, g.shape[1] - n_species * n_radial], 1)
        gradient = self._radial.vjp(env, radial.unflatten(1, (n_species, n_radial)))
        if self._angular:
            s, t, _ = self._pair_index(env.r)
            angular = angular.unflatten(1, (len(s), -1))
            for group in self._angular:
                shape = (len(g), n_species, n_species, len(group.kernel.powers), len(group.kernel.etas))
                spread = g.new_zeros(shape)
                weights = angular[:, :, group.columns]
                index = (group.power.expand(len(s), -1), group.eta.expand(len(s), -1))
                spread[:, s[:, None], t[:, None], *index] = weights
                spread[:, t[:, None], s[:, None], *index] = weights
                for rows in self._rows(env, group):
                    gradient[:, rows] += group.kernel.vjp(env, rows, spread)
        return gradient

    def _jacobian(self, env: Environment) -> Float[Tensor, "N f 3 M"]:
        blocks = [self._radial.jacobian(env).flatten(1, 2)]
        if self._angular:
            s, t, _ = self._pair_index(env.r)
            n, m = env.r.shape
            angular = env.r.new_empty(n, len(s), len(self.g4) + len(self.g5), 3, m)
            for group in self._angular:
                for rows in self._rows(env, group):
                    slope = group.kernel.jacobian(env, rows)
                    both = (
                        slope[:, s, t] + slope[:, t, s] * (s != t).to(slope.dtype)[:, None, None, None, None]
                    )
                    angular[:, :, group.columns, :, rows] = both[:, :, group.power, group.eta]
            blocks.append(angular.flatten(1, 2))
        return torch.cat(blocks, 1)

    def _pair_index(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s, t and the share of each ordered sum that counts: ½ where s = t, for j < k."""
        s, t = torch.tensor(self._species_pairs, device=like.device).unbind(1)
        return s, t, torch.where(s == t, 0.5, 1.0).to(like.dtype)

    # Chunks of centres.

    def _chunks(self, pairs: NeighborList, n_atoms: int) -> Iterator[_Chunk]:
        counts = pairs.counts(n_atoms)
        starts = torch.cumsum(counts, 0) - counts
        order = torch.argsort(counts, stable=True)
        sizes = counts[order].tolist()
        widest = max((len(group.kernel.powers) for group in self._angular), default=0)
        begin = 0
        while begin < n_atoms:
            end, longest = begin, 1
            while end < n_atoms:
                longer = max(longest, sizes[end])
                if (
                    end > begin
                    and (end + 1 - begin) * longer * max(self._radial.size, widest * longer) > _CHUNK
                ):
                    break
                end, longest = end + 1, longer
            centres = order[begin:end]
            within = torch.arange(longest, device=centres.device)
            mask = within < counts[centres][:, None]
            index = torch.where(mask, starts[centres][:, None] + within, 0)
            if len(pairs):
                yield _Chunk(centres, index, mask)
            begin = end

    def _rows(self, env: Environment, group: _AngularGroup) -> list[slice]:
        """Cut the neighbours j of a chunk so that each matrix stays within bounds."""
        n, m = env.r.shape
        step = max(1, _CHUNK * 8 // max(1, n * group.kernel.elements_per_row(m)))
        return [slice(start, min(m, start + step)) for start in range(0, m, step)]

    def _environment(
        self, chunk: _Chunk, vectors: Tensor, pairs: NeighborList, species: Tensor
    ) -> Environment:
        of_neighbors = species[pairs.second[chunk.pairs]]
        kinds = torch.arange(len(self.species), device=vectors.device)
        one_hot = (of_neighbors[:, None, :] == kinds[:, None]) & chunk.mask[:, None, :]
        return Environment.of(vectors[chunk.pairs], chunk.mask, one_hot.to(vectors.dtype), self.cutoff)

    # Input and layout.

    def _species_index(self, structures: StructureBatch) -> Int[Tensor, "A"]:
        numbers = structures.atomic_numbers
        index = self._species_of.to(numbers.device)[numbers.clamp(0, 118)]
        unknown = (index < 0) | (numbers != numbers.clamp(0, 118))
        if bool(unknown.any()):
            atom = int(torch.nonzero(unknown)[0])
            raise InputError(
                f"structure {int(structures.structure_index[atom])} contains {_symbol(int(numbers[atom]))}, but "
                f"this representation was made for {', '.join(self.species)}. Declare every element that occurs."
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
        ctx: Any, vectors: Tensor, acsf: ACSF, pairs: NeighborList, species: Tensor
    ) -> Float[Tensor, "A f"]:
        ctx.save_for_backward(vectors)
        ctx.acsf, ctx.pairs, ctx.species = acsf, pairs, species
        atomic = vectors.new_zeros(len(species), len(acsf.atomic_names))
        for chunk in acsf._chunks(pairs, len(species)):
            atomic[chunk.centres] = acsf._value(acsf._environment(chunk, vectors, pairs, species))
        return atomic

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (vectors,) = ctx.saved_tensors
        (gradient,) = outputs
        result = torch.zeros_like(vectors)
        for chunk in ctx.acsf._chunks(ctx.pairs, len(ctx.species)):
            env = ctx.acsf._environment(chunk, vectors, ctx.pairs, ctx.species)
            of_pairs = ctx.acsf._vjp(env, gradient[chunk.centres])
            result[chunk.pairs[chunk.mask]] = of_pairs[chunk.mask]
        return result, None, None, None


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
