"""Settings of a round trip: representation, search and budget."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from whorl.axes import RECONSTRUCTORS, REPRESENTATIONS
from whorl.errors import InputError, unknown_option
from whorl.reconstruction.base import SearchReconstructor
from whorl.reconstruction.free_composition import FreeComposition
from whorl.reconstruction.settings import FREE
from whorl.representations import ACSF, InvertibleRepresentation, Representation, make_representation
from whorl.representations.settings import RepresentationSettings
from whorl.structures.batch import StructureBatch

PRESETS = ("crystal", "fung2022", "fung2022-minimum")
"""Symmetry functions for structures of any elements."""
_OF_CLUSTERS = "crystal to 8 Å"
_FAR = 8.0  # Å
_CHANNELS = 4  # of the elements, where the composition is unknown
_SUITS_ALL = "fung2022 for clusters and molecules, crystal for what is periodic"


def fingerprint(
    kind: str,
    species: Sequence[str],
    *,
    pooling: Sequence[str] | None = None,
    embedding: int | None = None,
) -> ACSF:
    """Build the representation of a kind; of several elements, each is pooled apart.

    Args:
        kind: ``fung2022``: the paper's functions, all atoms within 20 Å; ``fung2022-minimum``: the same with
            nearest images alone, the paper's convention; ``crystal``: those of
            :meth:`whorl.representations.ACSF.crystal`.
        species: Chemical symbols.
        pooling: Names of pools; by default those of the kind.
        embedding: Number of channels in the place of the elements; None for features of each element.

    Raises:
        InputError: Another kind, or pools that are not known.
    """
    if kind in ("crystal", _OF_CLUSTERS):
        acsf = ACSF.crystal(species, cutoff=5.0 if kind == "crystal" else _FAR)
    elif kind in PRESETS:
        acsf = ACSF.fung2022(species, images="minimum" if kind.endswith("minimum") else "all")
    else:
        raise unknown_option("representation", kind, PRESETS)
    changes: dict[str, Any] = {
        "per_centre_species": embedding is not None or len(set(species)) > 1,
        "embedding": embedding,
    }
    if pooling is not None:
        changes["pooling"] = list(pooling)
    return ACSF.from_config({**acsf.config(), **changes})


@dataclass(frozen=True, kw_only=True)
class RoundTripSettings:
    """How a round trip is made.

    Attributes:
        representation: One of ``PRESETS``, the name of a representation, or its settings; ``None``: fung2022
            for clusters and molecules, crystal for what is periodic.
        pooling: From atoms to the structure; ``None``: as the representation has it.
        free_cell: Whether cells are discarded and reconstructed too.
        free_composition: Whether elements and numbers of atoms are discarded too, and which there may be;
            None: they are known.
        budget_seconds: For all targets together, however many evaluations that is; ``None``: as many
            evaluations as :func:`whorl.reconstruction.solve` gives each.
        solver: Name of a reconstructor that searches.
        steps: Settings of the search, such as ``batch_size``, or ``starts`` and ``hops`` of algorithm1.
        seed: Of all randomness.
    """

    representation: str | RepresentationSettings | None = None
    pooling: tuple[str, ...] | None = None
    free_cell: bool = False
    free_composition: FreeComposition | None = None
    budget_seconds: float | None = None
    solver: str = "population"
    steps: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.representation, str) and self.representation not in PRESETS:
            if self.representation not in REPRESENTATIONS and ":" not in self.representation:
                raise unknown_option("representation", self.representation, [*PRESETS, *REPRESENTATIONS])
            named = REPRESENTATIONS.get(self.representation).Settings()
            object.__setattr__(self, "representation", named)
        own = self.representation
        if isinstance(own, RepresentationSettings) and own.method.of_crystals:
            raise InputError(
                f"{own.kind} has a closed-form inverse, which needs no search. Use 'whorl encode' and 'whorl "
                "decode', or symmetry functions here."
            )
        searched = self.budget_seconds is not None or self.free_cell or self.steps
        if (
            isinstance(own, RepresentationSettings)
            and self.closed_form
            and (searched or self.solver != "population")
        ):
            raise InputError(
                f"{own.kind} has a closed-form inverse, which needs no search. Leave its "
                "settings and its budget out."
            )
        if self.pooling is not None:
            fingerprint("crystal", ["H"], pooling=self.pooling)  # raises where one is not known
        if self.solver == "whorl":
            warnings.warn(
                "solver whorl: a name of earlier versions. Write population", FutureWarning, stacklevel=3
            )
            object.__setattr__(self, "solver", "population")
        if not issubclass(self.reconstructor, SearchReconstructor):
            raise InputError(f"solver {self.solver}: does not search for atoms. Choose population.")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise InputError(f"budget: got {self.budget_seconds} seconds, expected more than 0.")
        if self.free_cell and not self.reconstructor.frees_cells:
            raise InputError(
                f"solver {self.solver} holds cells fixed; a free cell needs the solver population."
            )
        if self.budget_seconds is not None and not self.reconstructor.stops_by_the_clock:
            raise InputError(
                f"solver {self.solver} ends after its steps, not by the clock: give it "
                f"{self.reconstructor.more} instead of seconds."
            )

    @property
    def reconstructor(self) -> type[SearchReconstructor]:
        """The class whose search it is."""
        chosen: Any = RECONSTRUCTORS.get(self.solver)
        return chosen

    @property
    def closed_form(self) -> bool:
        """Whether the representation has a closed-form inverse, which takes the place of the search."""
        own = self.representation
        return isinstance(own, RepresentationSettings) and issubclass(own.method, InvertibleRepresentation)

    @property
    def of_clusters(self) -> bool:
        """Whether the representation is of clusters and molecules alone."""
        own = self.representation
        return isinstance(own, RepresentationSettings) and own.method.of_clusters

    @property
    def declared(self) -> list[str] | None:
        """Elements that a custom representation declares, if any."""
        own = self.representation
        declared = own.declared if isinstance(own, RepresentationSettings) else None
        if declared is None and self.free_composition is not None and self.free_composition.elements:
            return list(self.free_composition.elements)
        return declared

    def kind(self, *, periodic: bool) -> str:
        """Return the name of the representation of a structure."""
        if self.representation is None:
            # Of an unknown composition, averages tell the fractions of the elements.
            of_clusters = "fung2022" if self.free_composition is None else _OF_CLUSTERS
            return "crystal" if periodic else of_clusters
        if isinstance(self.representation, str):
            return self.representation
        return "own functions" if self.representation.kind == ACSF.kind else self.representation.kind

    def build(self, kind: str, structures: StructureBatch, species: Sequence[str]) -> Representation:
        """Return the representation of structures of these elements.

        Raises:
            InputError: Pools for a representation that does not pool.
        """
        if not isinstance(self.representation, RepresentationSettings):
            embedding = None
            if self.free_composition is not None:
                embedding = _CHANNELS if len(species) >= _CHANNELS else _CHANNELS - 1
            return fingerprint(kind, species, pooling=self.pooling, embedding=embedding)
        made = self.representation.build(species, structures=structures)
        if self.pooling is None:
            return made
        if "pooling" not in made.config():
            raise InputError(f"pooling: {made.describe()} does not pool atoms. Leave pooling out.")
        return make_representation({**made.config(), "pooling": list(self.pooling)})

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain data."""
        own = self.representation
        return {
            "representation": own.model_dump(mode="json", exclude_none=True)
            if isinstance(own, RepresentationSettings)
            else own or _SUITS_ALL,
            "pooling": list(self.pooling) if self.pooling else "as the representation has it",
            "free_cell": self.free_cell,
            **({} if (free := self.free_composition) is None else {"composition": FREE, **asdict(free)}),
            "budget_seconds": self.budget_seconds,
            "solver": "closed_form" if self.closed_form else self.solver,
            **self.steps,
            "seed": self.seed,
        }
