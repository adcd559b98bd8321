"""How a round trip is made: which fingerprint, which search, and what both may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whorl.errors import InputError, unknown_option
from whorl.representations import ACSF

REPRESENTATIONS = ("crystal", "fung2022", "fung2022-minimum")
SOLVERS = ("whorl", "algorithm1")
"""``whorl`` is the reconstructor ``population`` under the name that files of round trips have for it."""
_SUITS_ALL = "fung2022 for clusters and molecules, crystal for what is periodic"


def fingerprint(kind: str, species: Sequence[str], *, pooling: Sequence[str] | None = None) -> ACSF:
    """Build the representation of a kind; of several elements, each is pooled apart.

    Args:
        kind: ``fung2022``: the paper's functions, all atoms within 20 Å; ``fung2022-minimum``: the same with
            nearest images alone, the paper's convention; ``crystal``: those of
            :meth:`whorl.representations.ACSF.crystal`.
        species: Chemical symbols.
        pooling: Names of pools; by default those of the kind.

    Raises:
        InputError: Another kind, or pools that are not known.
    """
    if kind == "crystal":
        acsf = ACSF.crystal(species)
    elif kind in REPRESENTATIONS:
        acsf = ACSF.fung2022(species, images="minimum" if kind.endswith("minimum") else "all")
    else:
        raise unknown_option("representation", kind, REPRESENTATIONS)
    changes: dict[str, Any] = {"per_centre_species": len(set(species)) > 1}
    if pooling is not None:
        changes["pooling"] = list(pooling)
    return ACSF.from_config({**acsf.config(), **changes})


@dataclass(frozen=True, kw_only=True)
class RoundTripSettings:
    """How a round trip is made.

    Attributes:
        representation: One of ``REPRESENTATIONS``, or functions of one's own; ``None``: fung2022 for clusters
            and molecules, crystal for what is periodic.
        pooling: From atoms to the structure; ``None``: as the representation has it.
        free_cell: Whether cells are forgotten and sought too.
        budget_seconds: For all targets together, however many evaluations that is; ``None``: as many
            evaluations as :func:`whorl.reconstruction.solve` gives each.
        solver: One of ``SOLVERS``.
        steps: Settings of the solver, such as ``batch_size``, or ``starts`` and ``hops`` of algorithm1.
        seed: Of all randomness.
    """

    representation: str | ACSF.Settings | None = None
    pooling: tuple[str, ...] | None = None
    free_cell: bool = False
    budget_seconds: float | None = None
    solver: str = "whorl"
    steps: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.representation, str) and self.representation not in REPRESENTATIONS:
            raise unknown_option("representation", self.representation, REPRESENTATIONS)
        if self.pooling is not None:
            fingerprint("crystal", ["H"], pooling=self.pooling)  # raises where one is not known
        if self.solver not in SOLVERS:
            raise unknown_option("solver", self.solver, SOLVERS)
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise InputError(f"budget: got {self.budget_seconds} seconds, expected more than 0.")
        if self.solver == "algorithm1" and self.free_cell:
            raise InputError("solver algorithm1 holds cells fixed; a free cell needs the solver population.")
        if self.solver == "algorithm1" and self.budget_seconds is not None:
            raise InputError(
                "solver algorithm1 ends after its steps, not by the clock: give it starts, hops, iterations "
                "and polish instead of seconds."
            )

    @property
    def declared(self) -> list[str] | None:
        """Elements that a representation of one's own is made for, where it says so."""
        own = self.representation
        return own.species if isinstance(own, ACSF.Settings) else None

    def kind(self, *, periodic: bool) -> str:
        """Return the name of the representation of a structure."""
        if self.representation is None:
            return "crystal" if periodic else "fung2022"
        return self.representation if isinstance(self.representation, str) else "own functions"

    def build(self, kind: str, species: Sequence[str]) -> ACSF:
        """Return the representation of structures of these elements."""
        if not isinstance(self.representation, ACSF.Settings):
            return fingerprint(kind, species, pooling=self.pooling)
        config = self.representation.build(species).config()
        return ACSF.from_config({**config, "pooling": list(self.pooling or config["pooling"])})

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain data."""
        own = self.representation
        return {
            "representation": own.model_dump(mode="json", exclude_none=True)
            if isinstance(own, ACSF.Settings)
            else own or _SUITS_ALL,
            "pooling": list(self.pooling) if self.pooling else "as the representation has it",
            "free_cell": self.free_cell,
            "budget_seconds": self.budget_seconds,
            "solver": self.solver,
            **self.steps,
            "seed": self.seed,
        }
