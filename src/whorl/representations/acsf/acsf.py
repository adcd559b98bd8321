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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.representations.acsf import features
from whorl.representations.acsf.features import AtomicFeatures
from whorl.representations.acsf.groups import SymmetryFunctions
from whorl.representations.acsf.jacobian import AngularKernel, PairRadialKernel, RadialKernel
from whorl.representations.acsf.settings import ACSFSettings
from whorl.representations.base import sound
from whorl.representations.cutoffs import Cutoff
from whorl.representations.embedding import Embedded, embedded
from whorl.representations.kernels import Kernel, PooledKernel
from whorl.representations.pairs import Pairs
from whorl.representations.pooled import PAIR_NUMBERS, AtomicRepresentation
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

_FACTORS_AT_ONCE = 300_000
# Per atom; diamond has 5,900 within 20 Å. Their triples are indexed at once: 8 bytes × the square.
_MOST_NEIGHBORS = 16_000
_SECONDS = 1e-8  # for each function of each pair or triple of atoms
_BOND = 2.5  # Å


class ACSF(AtomicRepresentation):
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
        per_centre_species: Pool the atoms of each species separately.
        images: ``"all"`` periodic images within the cutoff, or ``"minimum"``, the paper's convention.
        embedding: Number of channels in the place of the species; see
            :class:`~whorl.representations.pooled.AtomicRepresentation`.

    Raises:
        InputError: No functions, unknown elements, parameters out of range, or unknown options.

    >>> acsf = ACSF.fung2022(["Pt"])
    >>> len(acsf.layout), acsf.layout.names[0]
    (380, 'max/G2/Pt/eta=0.01,Rs=0')
    """

    kind = "acsf"
    presets: ClassVar[tuple[str, ...]] = ("fung2022", "crystal")

    class Settings(ACSFSettings):
        """Settings of symmetry functions: a preset, or custom functions."""

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
        embedding: int | Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        cutoff = cutoff if isinstance(cutoff, Cutoff) else Cutoff(radius=float(cutoff))
        super().__init__(
            species=species,
            cutoff=cutoff.radius,
            pooling=pooling,
            per_centre_species=per_centre_species,
            images=images,
            embedding=embedding,
        )
        self.cutoff = cutoff
        self.g2 = tuple((float(eta), float(shift)) for eta, shift in g2)
        self.g3 = tuple(float(kappa) for kappa in g3)
        self.g4 = tuple((float(eta), float(zeta), float(lam)) for eta, zeta, lam in g4)
        self.g5 = tuple((float(eta), float(zeta), float(lam)) for eta, zeta, lam in g5)
        self._check_parameters()
        self._functions = self._functions_of(len(self.channels))
        self.lay_out(len(self._functions), self._names())

    def _functions_of(self, n_kinds: int) -> SymmetryFunctions:
        return SymmetryFunctions(
            g2=self.g2, g3=self.g3, g4=self.g4, g5=self.g5, cutoff=self.cutoff, n_species=n_kinds
        )

    @classmethod
    def fung2022(
        cls,
        species: Sequence[str],
        *,
        images: str = "all",
        embedding: int | Mapping[str, Sequence[float]] | None = None,
    ) -> ACSF:
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
            embedding=embedding,
        )

    @classmethod
    def crystal(
        cls,
        species: Sequence[str],
        *,
        cutoff: float = 5.0,
        pooling: Sequence[str] = ("mean", "std"),
        embedding: int | Mapping[str, Sequence[float]] | None = None,
    ) -> ACSF:
        r"""Build a fingerprint for crystals: 20 radial and 16 angular functions with a cutoff of 5 Å.

        Atoms of each species are pooled separately, with all periodic images within the cutoff, so that it
        is the same for a supercell. The radial functions come in three widths: η = 8 Å⁻² (σ = 0.25 Å) at
        every 0.25 Å resolves shells of neighbours, η = 1 (0.7 Å) at every 1 Å and η = 0.1 (2.2 Å) at every
        2 Å guide a search from far away. The angular functions distinguish structures with equal distances: ζ
        = 1, 2, 4, 16 (from 81° to 20° wide) with λ = ±1, once over all neighbours (η = 0.02) and once over
        the nearest (η = 0.1).

        With S species and two pools these are 2 S (20 S + 8 S (S + 1)) features: 72, 352, 936, 1920 and 3400
        for S = 1 … 5; with an ``embedding`` of 4 channels 1,952 for any number of elements.
        """
        steps = range(int((cutoff - 2.0) / 0.25) + 1)
        g2 = [(0.1, 2.0 * step) for step in range(math.ceil(cutoff / 2.0))]
        g2 += [(1.0, 1.0 + step) for step in range(math.ceil(cutoff - 1.0))]
        g2 += [(8.0, 1.25 + 0.25 * step) for step in steps]
        g5 = [
            (eta, zeta, lam) for zeta in (1.0, 2.0, 4.0, 16.0) for lam in (-1.0, 1.0) for eta in (0.02, 0.1)
        ]
        return cls(
            species=species,
            cutoff=cutoff,
            g2=g2,
            g5=g5,
            pooling=pooling,
            per_centre_species=True,
            embedding=embedding,
        )

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
            **self.common_config(),
            "cutoff": self.cutoff.config(),
            "g2": [list(item) for item in self.g2],
            "g3": list(self.g3),
            "g4": [list(item) for item in self.g4],
            "g5": [list(item) for item in self.g5],
        }

    def atomic_sharpness(self) -> Float[Tensor, "f"]:
        r"""Return the inverse of the length over which each feature changes, in 1/Å.

        .. math:: \sqrt{1/r_c^2 + 2\eta + \kappa^2 + \zeta / 2b^2}

        of which each function has the terms it knows: a gaussian is :math:`1/\sqrt{2\eta}` wide; near its
        maximum :math:`((1+\cos\theta)/2)^\zeta \approx e^{-\zeta\theta^2/4}` has a width of
        :math:`\sqrt{2/\zeta}` in the angle, which is taken to Å on a circle of a typical bond length,
        b = 2.5 Å; and nothing is broader than the cutoff.
        """
        radial = [2.0 * eta for eta, _ in self.g2] + [kappa**2 for kappa in self.g3]
        angular = [2.0 * eta + zeta / (2.0 * _BOND**2) for eta, zeta, _ in (*self.g4, *self.g5)]
        atomic = radial * len(self.channels) + angular * len(self.channel_pairs)
        return (torch.tensor(atomic, dtype=torch.float64) + self.cutoff.radius**-2).sqrt()

    def seconds(self, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return the approximate time per structure on one core, which is mostly spent on triples."""
        counts, neighbors = structures.n_atoms.double(), self.expected_neighbors(structures)
        radial, angular = len(self.g2) + len(self.g3), len(self.g4) + len(self.g5)
        return _SECONDS * counts * neighbors * (radial + 0.5 * neighbors * angular)

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the index of each structure that cannot be encoded, and why.

        In addition to :func:`whorl.structures.find_problems`: so many neighbours within the cutoff that the
        triples of a single atom would take many GB.
        """
        structures = as_batch(structures)
        problems = super().find_problems(structures)
        if self.g4 or self.g5:
            neighbors = self.expected_neighbors(structures)
            for index in torch.nonzero(neighbors > _MOST_NEIGHBORS).flatten().tolist():
                problems.setdefault(
                    index,
                    f"an atom has about {int(neighbors[index])} neighbours within the cutoff of "
                    f"{self.cutoff.radius:g} Å, expected at most {_MOST_NEIGHBORS}",
                )
        return dict(sorted(problems.items()))

    def atomic_features(self, structures: Structures) -> Float[Tensor, "A f"]:
        """Return the features of each atom before pooling, in the order of :attr:`atomic_names`.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        structures = sound(structures)
        pairs = self.neighbors(structures)
        vectors = pairs.vectors(structures)
        parts = self.parts(structures, pairs, vectors.detach(), pairs_at_once=self._pairs_at_once)
        kinds = self.kinds(structures)
        if kinds.mixing is None:
            return AtomicFeatures.apply(vectors, parts, self._functions)
        of_kinds = AtomicFeatures.apply(vectors, parts, self._functions_of(kinds.count))
        mixing = kinds.mixing[structures.structure_index]
        return torch.cat([embedded(of_kinds, mixing, **self._sizes), self.centres(structures)], 1)

    @property
    def _sizes(self) -> dict[str, int]:
        return {"single": self._functions.radial.size, "double": self._functions.n_angular}

    @property
    def _pairs_at_once(self) -> int:
        return features.CHUNK // max(1, self._functions.radial.size // 2)

    def kernels(self, pairs: Pairs) -> list[Kernel]:
        """Return one kernel for the radial functions, and one for each group of angular ones."""
        functions = self._functions if pairs.mixing is None else self._functions_of(pairs.mixing.shape[1])
        kernels: list[Kernel] = [RadialKernel(functions, pairs)] if self.g2 or self.g3 else []
        kernels += self._angular_kernels(functions, pairs)
        return kernels if pairs.mixing is None else [Embedded(kernels, pairs, **self._sizes)]

    def pooled_kernels(
        self, pairs: Pairs, undirected: Callable[[], Pairs]
    ) -> tuple[Sequence[PooledKernel], Sequence[Kernel]]:
        """Return kernels in which each undirected pair serves both of its atoms in the radial functions."""
        if pairs.mixing is not None:
            return super().pooled_kernels(pairs, undirected)
        radial: list[PooledKernel] = []
        if self.g2 or self.g3:
            radial = [PairRadialKernel(self._functions, undirected())]
        return radial, self._angular_kernels(self._functions, pairs)

    def _angular_kernels(self, functions: SymmetryFunctions, pairs: Pairs) -> list[Kernel]:
        return [AngularKernel(functions, group, pairs, _FACTORS_AT_ONCE) for group in functions.angular]

    def pairs_at_once(self, pools: int) -> int:
        """Return how many pairs may be held at a time while a Jacobian is computed; see the base class."""
        per_pair = pools * self._functions.radial.size + sum(
            8 * len(group.kernel.powers) * len(group.kernel.etas) for group in self._functions.angular
        )
        return PAIR_NUMBERS // per_pair

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

    def _names(self) -> Iterator[str]:
        for symbol in self.channels:
            yield from (f"G2/{symbol}/eta={eta:g},Rs={shift:g}" for eta, shift in self.g2)
            yield from (f"G3/{symbol}/kappa={kappa:g}" for kappa in self.g3)
        for s, t in self.channel_pairs:
            for kind, parameters in (("G4", self.g4), ("G5", self.g5)):
                pair = f"{kind}/{self.channels[s]}-{self.channels[t]}"
                yield from (
                    f"{pair}/eta={eta:g},zeta={zeta:g},lambda={lam:g}" for eta, zeta, lam in parameters
                )
