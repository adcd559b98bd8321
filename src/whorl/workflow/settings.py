"""What a recipe may say: one model per section, the paper's settings as defaults (Fung et al. 2022)."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from whorl.generators.settings import GeneratorSettings
from whorl.representations.settings import RepresentationSettings
from whorl.settings import Count, NonNegative, Positive, Section, SeedNumber, Share
from whorl.surrogates.settings import SurrogateSettings

__all__ = [
    "CalculatorSettings",
    "ClusterSettings",
    "CrystalSettings",
    "DataSettings",
    "DecodeSettings",
    "EvaluateSettings",
    "FeaturesSettings",
    "FilesSettings",
    "GenerateSettings",
    "GeneratorSettings",
    "InvertSettings",
    "Recipe",
    "ReportSettings",
    "RepresentationSettings",
    "SamplingSettings",
    "SelectionSettings",
    "SurrogateSettings",
]


class CalculatorSettings(Section):
    """An energy method by name: ``chgnet``, or ``{name: chgnet, options: {…}}``.

    Attributes:
        name: emt, chgnet, gfn1-xtb, gfn2-xtb, or ``package.module:Class`` of an ASE calculator.
        options: Its own options.
        bulk_energy: Energy of each element's bulk in eV/atom; by default computed with the method itself.
    """

    name: str
    options: dict[str, Any] = {}
    bulk_energy: dict[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class ClusterSettings(Section):
    """Build the data set: random clusters, relaxed, minima and intermediates kept.

    Attributes:
        element: Chemical symbol.
        atoms: Atoms in each cluster.
        count: Structures wanted.
        calculator: Energy method that relaxes and labels.
        window: Formation energies kept, in eV/atom.
        directory: Where the builder keeps its chunks; by default in the run folder. A directory of one's own
            can be shared by several recipes.
        processes: Worker processes; by default one per core.
    """

    element: str
    atoms: Count
    count: Count
    calculator: CalculatorSettings
    window: tuple[float, float] = (0.0, 3.7)
    directory: str | None = None
    processes: Count | None = None

    @field_validator("element", mode="before")
    @classmethod
    def _known_element(cls, value: Any) -> Any:
        from ase.data import chemical_symbols

        if value not in chemical_symbols[1:]:
            raise ValueError(f"unknown element '{value}'; write a chemical symbol such as Pt")
        return value

    @field_validator("window")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"got {list(value)}, expected [lower, upper] with lower < upper")
        return value


class CrystalSettings(Section):
    """Build the data set: AFLOW prototypes with other, charge-balanced elements.

    Attributes:
        count: Crystals wanted.
        max_atoms: Most atoms in a cell.
        elements: Chemical symbols to choose from; by default nearly all.
        calculator: Energy method that labels them, with energy_per_atom in eV/atom. Without one the property
            is the formation energy per atom that CGCNN predicts.
        relax: Also move the atoms downhill with the calculator, cells fixed.
        directory: Where the builder keeps its chunks; by default in the run folder.
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
        format: One of the readers' formats, where the name of the file does not tell it.
    """

    path: str
    property: str
    format: str | None = None


class FeaturesSettings(Section):
    """Read finished features, without structures.

    Attributes:
        path: An ``.npz`` file.
        features: Name of the array with one row per structure.
        property: Name of the array with the property.
        composition: What the structures are made of, such as ``Pt10``; needed to invert.
    """

    path: str
    property: str
    features: str = "features"
    composition: str | None = None


class DataSettings(Section):
    """Where labelled structures come from: exactly one of the four."""

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
    """How many structures a generator is trained on.

    Attributes:
        sizes: Training sizes, drawn by farthest point sampling in feature space; or ``all``.
        split: Share of them that trains; the rest validates.
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
    """Samples chosen from a pool: surely on target by an ensemble, and as different as real structures are.

    Attributes:
        pool: Samples drawn for each target.
        spread: Mean pairwise distance wanted, as a share of that of real structures near the target.
        temperature: Of the latent noise of the pool.
        tolerance: Within this of the target is a hit, in units of the property.
    """

    pool: Count = 20_000
    spread: NonNegative = 0.85
    temperature: Positive = 1.4
    tolerance: Positive = 0.1


class GenerateSettings(Section):
    """What is asked of the generator.

    Attributes:
        targets: Property values asked for.
        samples: Representations for each target.
        selection: Choose them from a larger pool; by default all that is drawn is taken, as in the paper.
        elements: That each crystal shall have, if the generator is told of them (``generator.conditions``).
        formula: That each shall have, if it is told of compositions.
        crystal_system: That each shall have, such as cubic, if it is told of crystal systems.
        space_group: Number of the space group that each shall have, if it is told of space groups.
    """

    targets: Annotated[list[float], Field(min_length=1)]
    samples: Count = 10_000
    selection: SelectionSettings | None = None
    elements: Annotated[list[str], Field(min_length=1)] | None = None
    formula: str | None = None
    crystal_system: str | None = None
    space_group: Annotated[int, Field(ge=1, le=230)] | None = None

    @property
    def wishes(self) -> dict[str, Any]:
        """What each structure shall be, beside its property."""
        return {
            "elements": self.elements,
            "formula": self.formula,
            "crystal_system": self.crystal_system,
            "space_group": self.space_group,
        }

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


class InvertSettings(Section):
    """How atoms are found for generated representations.

    Attributes:
        solver: The search of :func:`whorl.inversion.solve`, or Algorithm 1 of Fung et al. 2022.
        samples: Generated representations inverted for each target.
        budget_evaluations: Of the search, for each representation: how often a fingerprint and its
            derivatives are computed. Generated ones mostly have no exact structure, and more gains little.
        weights: Of the features in the loss: all alike (the paper), or each by its spread in the data.
        reference: Held-out real representations inverted too, which shows how many the search solves; 0 for
            none.
        reference_evaluations: Of the search, for each of these. They do have an exact structure: the search
            ends where it is found.
        quantile: Share of the real structures whose nearest neighbour is not too far away.
        margin: A generated representation is invalid where its loss is more than so many times the distance
            of such neighbours: then no structure is as near to it as real ones are to one another.
        starts: Of Algorithm 1: random initialisations of each.
        hops: Of Algorithm 1: noise-and-descend rounds of each start.
        iterations: Of Algorithm 1: descent steps of each round.
        polish: Of Algorithm 1: descent steps for the best of all.
        learning_rate: Of Algorithm 1: in Å, of the rounds.
        polish_learning_rate: Of Algorithm 1: in Å, of the polish.
        noise: Of Algorithm 1: displacement between rounds, in Å.
        batch_size: Structures that are worked on at once; by default 64, and 256 in Algorithm 1.
        composition: The atoms to place, such as BaTiO3; by default those requested in ``generate``, or of the
            most similar structure.
        free_cell: Of the search: seek the cells too, instead of taking those of the most similar structures.
        min_distance: Of the search: least distance of two atoms, as a part of the sum of their covalent
            radii; 0 for none.
    """

    solver: Literal["whorl", "algorithm1"] = "whorl"
    samples: Count = 100
    budget_evaluations: Count = 2000
    weights: Literal["none", "whitening"] = "none"
    reference: Annotated[int, Field(ge=0)] = 50
    reference_evaluations: Count = 10_000
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    margin: Positive = 1.0
    starts: Count = 10
    hops: Count = 5
    iterations: Count = 140
    polish: Annotated[int, Field(ge=0)] = 900
    learning_rate: Positive = 0.4
    polish_learning_rate: Positive = 0.1
    noise: NonNegative = 0.3
    batch_size: Count | None = None
    composition: str | None = None
    free_cell: bool = False
    min_distance: Annotated[float, Field(ge=0, lt=1)] = 0.55

    @field_validator("composition")
    @classmethod
    def _known_formula(cls, value: str | None) -> str | None:
        from whorl.errors import InputError
        from whorl.workflow.wishes import Wish  # brings torch, which reading a recipe mostly does without

        try:
            Wish.of(formula=value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _settings_of_the_solver(self) -> InvertSettings:
        other = "whorl" if self.solver == "algorithm1" else "algorithm1"
        # A resolved recipe names them all; only what was changed would be lost.
        lost = [
            name
            for name in _SOLVER_SETTINGS[other]
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if lost:
            raise ValueError(
                f"{', '.join(lost)}: of the solver {other}, and the solver here is {self.solver}. Leave it "
                f"out, or write solver: {other}"
            )
        return self

    def search(self, *, real: bool) -> dict[str, Any]:
        """Return what the solver is called with, for held-out real representations or for generated ones."""
        settings: dict[str, Any] = {}
        if self.solver == "algorithm1":
            settings = {name: getattr(self, name) for name in _SOLVER_SETTINGS["algorithm1"]}
        else:
            settings["budget_evaluations"] = self.reference_evaluations if real else self.budget_evaluations
        if self.batch_size is not None:
            settings["batch_size"] = self.batch_size
        return settings


_SOLVER_SETTINGS = {
    "whorl": ("budget_evaluations", "reference_evaluations", "free_cell", "min_distance"),
    "algorithm1": (
        "starts",
        "hops",
        "iterations",
        "polish",
        "learning_rate",
        "polish_learning_rate",
        "noise",
    ),
}


class DecodeSettings(Section):
    """How atoms follow from generated representations that have a closed-form inverse.

    Attributes:
        clustering: auto finds how many different elements and coordinates there are; paper takes k-means with
            fixed numbers of them; none takes the means as they are.
        k_elements: Of the paper's clustering.
        k_coordinates: Of the paper's clustering, in each direction.
        refine: Find the symmetry and make it exact.
        elements: data takes for each site the nearest element of those that the data have; with
            ``generate.formula`` of those in the formula, and ``generate.elements`` are all there. any takes
            the nearest of all elements.
    """

    clustering: Literal["auto", "paper", "none"] = "auto"
    k_elements: Count = 3
    k_coordinates: Count = 6
    refine: bool = True
    elements: Literal["data", "any"] = "data"


class EvaluateSettings(Section):
    """How generated structures are judged.

    Attributes:
        calculator: Energy method; by default the one that labelled the clusters.
        quantity: What of it is compared with the property: formation_energy, energy_per_atom, energy, or
            another property of the calculator, such as dipole. With auto, one that agrees with the labels of
            real structures, or else none.
        subtract_offset: Subtract its mean difference from these labels.
        tolerance: Within this of the target counts as a hit, in units of the property.
        cgcnn: Of crystals: also predict seven properties by CGCNN, of generated and of real ones.
        real: Of crystals: at most so many real ones to compare with, drawn evenly; novelty knows all.
    """

    calculator: CalculatorSettings | None = None
    quantity: str = "auto"
    subtract_offset: bool = False
    tolerance: Positive = 0.1
    cgcnn: bool = True
    real: Count = 2000


class ReportSettings(Section):
    """What the report shows.

    Attributes:
        title: Heading of the page; by default the recipe's name.
        gallery: Structures shown per target.
    """

    title: str | None = None
    gallery: Count = 6


def _warn_of_old_key(old: str, new: str) -> None:
    warnings.warn(f"{old}: a key of earlier versions. Write {new}", FutureWarning, stacklevel=2)


class Recipe(Section):
    """A whole run, from labelled structures to a report.

    Attributes:
        name: Name of the run and of its folder.
        seed: The one number all randomness follows from.
        invert: Search for atoms; ``null`` stops at representations.
        decode: In the place of ``invert`` where R has a closed-form inverse; ``null`` stops at
            representations.
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
    generate: GenerateSettings
    invert: InvertSettings | None = InvertSettings()
    decode: DecodeSettings | None = None
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

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
    def _one_way_to_atoms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        from whorl.representations.base import InvertibleRepresentation

        settings = value.get("representation")
        if isinstance(settings, RepresentationSettings):
            method = settings.method
        else:
            method = RepresentationSettings.of_kind(settings if isinstance(settings, dict) else {}).method
        closed, kind = issubclass(method, InvertibleRepresentation), method.kind
        wrong, right = ("invert", "decode") if closed else ("decode", "invert")
        if value.get(wrong) is not None:
            way = "has a closed-form inverse" if closed else "has no closed-form inverse"
            raise ValueError(f"{wrong}: {kind} {way}. Write {right}: in its place")
        return {"decode": {}, **value, "invert": None} if closed else value

    @model_validator(mode="before")
    @classmethod
    def _features_alone_are_not_inverted(cls, value: Any) -> Any:
        data = value.get("data") if isinstance(value, dict) else None
        features = data.get("features") if isinstance(data, dict) else None
        if isinstance(features, dict) and not features.get("composition"):
            if value.get("invert") is not None:
                raise ValueError(
                    "invert: features alone do not say which atoms to place. Give data.features.composition "
                    "(such as Pt10), or write invert: null"
                )
            value = {**value, "invert": None}
        return value

    @model_validator(mode="after")
    def _structures_where_they_are_needed(self) -> Recipe:
        if self.data.features is not None and self.generator.conditions:
            raise ValueError(
                "generator.conditions: features alone have no structures that tell of elements or symmetry. "
                "Give data.files, or leave the conditions out"
            )
        if self.data.features is not None and self.decode is not None:
            raise ValueError("decode: features alone have no crystals to compare with. Write decode: null")
        if self.decode is not None and self.evaluate.calculator is not None:
            raise ValueError(
                "evaluate.calculator: crystals that were decoded are judged by CGCNN, not by a calculator. "
                "Leave it out; energies of their extxyz file are a matter of any ASE calculator"
            )
        return self

    @property
    def calculator(self) -> CalculatorSettings | None:
        """The energy method that judges atoms, if there is any."""
        if self.evaluate.calculator is None and self.data.clusters is not None:
            return self.data.clusters.calculator
        return self.evaluate.calculator

    def decisive(self) -> dict[str, Any]:
        """Return all settings that results depend on."""
        idle: dict[str, Any] = {
            "report": True,
            "data": {"clusters": {"processes", "directory"}, "crystals": {"processes", "directory"}},
            "generator": {"device"},
        }
        return self.model_dump(mode="json", exclude=idle)

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
