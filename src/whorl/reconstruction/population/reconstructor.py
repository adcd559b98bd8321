"""Population search: descents from many starts, and moves of the best structures."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ase.data import chemical_symbols
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from whorl.errors import did_you_mean
from whorl.reconstruction.base import ReconstructionContext, SearchReconstructor
from whorl.reconstruction.free_composition import FreeComposition, solve_free_composition
from whorl.reconstruction.population.search import solve
from whorl.reconstruction.result import InversionResult
from whorl.reconstruction.settings import FREE, SearchSettings
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.settings import Count, Range
from whorl.symmetry.space_groups import space_group_number

DECODED = "decoded"
SIMILAR = "similar"
_CONTRARY = (
    ("free_cell", "cell"),
    ("free_cell", "frozen atoms"),
    ("space_group", "frozen atoms"),
    ("space_group", "starts"),
    ("composition: free", "frozen atoms"),
    ("composition: free", "space_group"),
    ("composition: free", "starts"),
)


class PopulationSearch(SearchReconstructor):
    """The search of :func:`solve`."""

    kind = "population"
    search = staticmethod(solve)
    frees_cells = stops_by_the_clock = True

    class Settings(SearchSettings):
        """Settings of the population search."""

        frees_composition = True

        budget_evaluations: Count = 2000
        """Evaluations of features and derivatives per generated sample. Most samples have no exact
        structure, and more gains little."""
        reference_evaluations: Count = 10_000
        """The same per held-out real sample; the search stops when it is solved."""
        free_cell: bool = False
        """Optimise the cells too, instead of using those of the most similar structures."""
        min_distance: Annotated[float, Field(ge=0, lt=1)] = 0.55
        """Minimum distance of two atoms as a fraction of the sum of their covalent radii; 0 for none."""
        space_group: Annotated[int, Field(ge=1, le=230)] | None = None
        """Space group of the crystals, by number or symbol: starts have it and moves keep it."""
        elements: list[str] = []
        """Elements that a free composition may have, such as Cu,Au,Pt; by default all that the features were
        made for."""
        n_atoms: Range | None = None
        """Least and greatest number of atoms of a free composition, such as 2..8; 1..20 by default."""
        starts: str | None = None
        """Initial structures in addition to random ones: a file of them, each for the sample
        whose id it has, else for all samples; decoded, those of the closed form; or similar, for
        each sample the structure of the data whose features are most similar."""
        batch_size: Count | None = None
        """Structures per batch, which limits the memory; 64 by default."""
        solver: SolverSettings | None = Field(None, json_schema_extra={"option": "descent"})
        """Solver of the descents, by name or as a section with its settings; levenberg_marquardt by default.
        The others keep cells fixed and do not preserve symmetry."""

        @property
        def begins_with(self) -> str | None:
            """Initial structures of the search: a file, or ``decoded``; None for random ones only."""
            return self.starts

        @property
        def inputs(self) -> tuple[str, ...]:
            """Files that the method reads: results depend on their contents."""
            given = () if self.starts in (None, DECODED, SIMILAR) else (str(self.starts),)
            return (*super().inputs, *given)

        @property
        def free(self) -> FreeComposition | None:
            """Compositions that there may be, where it is free."""
            if self.composition != FREE:
                return None
            return FreeComposition(elements=tuple(self.elements), n_atoms=self.n_atoms)

        @field_validator("elements", mode="before")
        @classmethod
        def _apart(cls, value: Any) -> Any:
            given = [value] if isinstance(value, str) else value
            if not isinstance(given, list):
                return given
            return [part.strip() for one in given for part in str(one).split(",")]

        @field_validator("starts", mode="before")
        @classmethod
        def _no_number(cls, value: Any) -> Any:
            if isinstance(value, int):
                raise ValueError(
                    f"got {value}, expected a file of structures, decoded or similar; a number of starts "
                    "belongs to kind algorithm1"
                )
            return value

        @field_validator("space_group", mode="before")
        @classmethod
        def _number(cls, value: Any) -> Any:
            return space_group_number(value) if isinstance(value, str) else value

        @model_validator(mode="after")
        def _agree(self) -> PopulationSearch.Settings:
            asked = {
                "free_cell": self.free_cell,
                "cell": self.cell is not None,
                "frozen atoms": self.freezes,
                "space_group": self.space_group is not None,
                "starts": self.starts is not None,
                "composition: free": self.composition == FREE,
            }
            if self.composition != FREE and (self.elements or self.n_atoms is not None):
                raise ValueError(
                    f"{'elements' if self.elements else 'n_atoms'}: belongs to composition: free; otherwise "
                    "the composition is known"
                )
            if self.n_atoms is not None and self.n_atoms[0] > self.n_atoms[1]:
                raise ValueError(
                    f"n_atoms: got {self.n_atoms[0]}..{self.n_atoms[1]}, expected the least number first"
                )
            for symbol in self.elements:
                if symbol not in chemical_symbols[1:]:
                    hint = did_you_mean(symbol, chemical_symbols[1:])
                    raise ValueError(f"elements: unknown element '{symbol}'.{hint}")
            for one, other in _CONTRARY:
                if asked[one] and asked[other]:
                    raise ValueError(f"got {one} and {other}, expected one of the two")
            return self

        def summary(self) -> str:
            """Return a one-line summary for reports."""
            steps = "Levenberg–Marquardt" if self.solver is None else self.solver.kind.replace("_", "-")
            cells = ", cells free" if self.free_cell else ""
            if self.space_group is not None:
                cells += f", space group {self.space_group} kept"
            if self.composition == FREE:
                cells += ", compositions free"
            if self.starts is not None:
                begins = {DECODED: "decoded structures", SIMILAR: "similar ones of the data"}.get(
                    self.starts, "given structures"
                )
                cells += f", starting from {begins}"
            return (
                f"population search with {steps} steps, from coarse to fine (low weight of "
                f"sharp features at first), {self.budget_evaluations:,} evaluations per sample{cells}"
            )

    def found(self, features: Float[Tensor, "B *shape"], context: ReconstructionContext) -> InversionResult:
        """Search for structures with these features; see the base class."""
        own: Any = self.settings
        options: dict[str, Any] = {} if own.batch_size is None else {"batch_size": own.batch_size}
        problem = context.problem(
            features, min_distance=own.min_distance, space_group=None if context.real else own.space_group
        )
        options |= {
            "budget_evaluations": own.reference_evaluations if context.real else own.budget_evaluations,
            "seed": context.seed,
            "invalid_above": math.inf if context.invalid_above is None else context.invalid_above,
            "solver": own.solver,
            "checkpoint": context.directory,
            "progress": context.progress,
        }
        if own.free is not None:
            return solve_free_composition(problem, own.free, **options)
        return solve(problem, starts=context.starts, lattices=context.lattices, **options)
