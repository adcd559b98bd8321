"""What a recipe may say: one model per section, the paper's settings as defaults (Fung et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: every key is known, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    """Where labelled structures come from: exactly one of the three."""

    clusters: ClusterSettings | None = None
    files: FilesSettings | None = None
    features: FeaturesSettings | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> DataSettings:
        given = [name for name in ("clusters", "files", "features") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"got {got}, expected exactly one of clusters, files, features")
        return self


class CutoffSettings(Section):
    """A cutoff by its radius in Å; ``10``, or ``{radius: 10, function: polynomial}``."""

    radius: Positive
    function: Literal["cosine", "polynomial"] = "cosine"
    gamma: Annotated[float, Field(ge=2)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_radius(cls, value: Any) -> Any:
        return {"radius": value} if isinstance(value, int | float) else value


class RepresentationSettings(Section):
    """The fingerprint R: a preset, or symmetry functions of one's own.

    Attributes:
        kind: Which representation.
        preset: A published set of symmetry functions; fung2022 where no functions are given.
        species: Declared chemical symbols; by default those of the data.
        images: Which periodic images count: all within the cutoff, or the nearest (the paper's convention).
        cutoff: Radius in Å, with functions of one's own.
        g2: Pairs [η, R_s].
        g3: Values of κ.
        g4: Triples [η, ζ, λ].
        g5: Triples [η, ζ, λ].
        pooling: From atoms to the structure.
        per_centre_species: Pool the atoms of each species apart.
    """

    kind: Literal["acsf"] = "acsf"
    preset: Literal["fung2022"] | None = None
    species: Annotated[list[str], Field(min_length=1)] | None = None
    images: Literal["all", "minimum"] = "all"
    cutoff: CutoffSettings | None = None
    g2: list[tuple[float, float]] = []
    g3: list[float] = []
    g4: list[tuple[float, float, float]] = []
    g5: list[tuple[float, float, float]] = []
    pooling: list[str] | None = None
    per_centre_species: bool = False

    @model_validator(mode="after")
    def _preset_or_own(self) -> RepresentationSettings:
        own = [
            name
            for name in ("cutoff", "g2", "g3", "g4", "g5", "pooling", "per_centre_species")
            if getattr(self, name)
        ]
        if self.preset is not None and own:
            raise ValueError(
                f"preset {self.preset} fixes {', '.join(own)}; give the preset or these, not both"
            )
        if own and self.cutoff is None:
            raise ValueError("functions of one's own need a cutoff in Å")
        return self

    def config(self, species: Sequence[str]) -> dict[str, Any]:
        """Return what :func:`whorl.representations.make_representation` builds it from."""
        declared = list(self.species or species)
        if self.cutoff is None:
            preset = self.preset or "fung2022"
            return {"kind": self.kind, "preset": preset, "species": declared, "images": self.images}
        given = self.model_dump(mode="json", exclude={"preset"}, exclude_none=True)
        return {**given, "species": declared}


class SamplingSettings(Section):
    """How many structures a generator is trained on.

    Attributes:
        sizes: Training sizes, drawn by farthest point sampling in feature space; or ``all``.
        split: Share of them that trains; the rest validates.
    """

    sizes: Annotated[list[Count], Field(min_length=1)] | Literal["all"] = "all"
    split: Annotated[float, Field(gt=0, lt=1)] = 0.8

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


class TrainingSettings(Section):
    """What the training of any network needs."""

    epochs: Count = 2000
    batch_size: Count = 64
    learning_rate: Positive = 1e-3


class GeneratorSettings(TrainingSettings):
    """The conditional generator p(R | y). Which other keys there are depends on its kind.

    Attributes:
        kind: Which generator.
        members: Generators trained alike from different seeds; samples come from all in equal parts.
        keep: The weights that are best by validation, or the last.
    """

    kind: Literal["cvae", "gan", "wgan_gp", "diffusion"] = "cvae"
    members: Count = 1
    keep: Literal["best", "last"] = "best"

    @classmethod
    def of_kind(cls, value: Any) -> type[GeneratorSettings]:
        """Return the class of the kind that ``value`` names."""
        if cls is not GeneratorSettings or not isinstance(value, dict):
            return cls
        return _GENERATORS.get(str(value.get("kind")), CVAESettings)

    @model_validator(mode="wrap")
    @classmethod
    def _of_kind(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        chosen = cls.of_kind(value)
        return handler(value) if chosen is cls else chosen.model_validate(value)

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters of the model, without those of its training."""
        return self.model_dump(exclude={"epochs", "batch_size", "members", *self.fitting()})

    def fitting(self) -> dict[str, Any]:
        """Return what :func:`whorl.generators.fit` is told beside epochs and batch size."""
        return {"keep": self.keep}


class CVAESettings(GeneratorSettings):
    """The conditional variational autoencoder; see :class:`whorl.generators.CVAE`."""

    layers: Count = 3
    hidden: Count = 128
    latent: Count = 25
    beta: NonNegative = 0.75
    activation: Literal["elu", "relu", "silu"] = "elu"
    scaling: Literal["minmax", "standard"] = "minmax"


class AnyShapeSettings(GeneratorSettings):
    """What the generators for vectors and images have in common.

    Attributes:
        channels: Width of the networks; by default chosen by the shape of the features.
        depth: Of the networks; by default chosen by the shape of the features.
        scaling: By default shared for images and standard for vectors.
        device: cpu, cuda, cuda:1, or auto for a GPU where there is one.
        precision: Lightning's; bf16-mixed or 16-mixed for large networks on a GPU.
    """

    channels: Count | None = None
    depth: Count | None = None
    scaling: Literal["shared", "minmax", "standard"] | None = None
    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    def fitting(self) -> dict[str, Any]:
        """Return what :func:`whorl.generators.fit` is told beside epochs and batch size."""
        return {"keep": self.keep, "device": self.device, "precision": self.precision}


class GANSettings(AnyShapeSettings):
    """The generative adversarial network; see :class:`whorl.generators.GAN`."""

    epochs: Count = 200
    latent: Count = 128
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    learning_rate: Positive = 2e-4


class WGANGPSettings(AnyShapeSettings):
    """The Wasserstein GAN with gradient penalty; see :class:`whorl.generators.WGANGP`."""

    epochs: Count = 400
    latent: Count = 128
    penalty: Positive = 10.0
    critic_steps: Count = 5
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    learning_rate: Positive = 1e-4


class DiffusionSettings(AnyShapeSettings):
    """The diffusion model; see :class:`whorl.generators.Diffusion`."""

    epochs: Count = 100
    batch_size: Count = 32
    blocks: Count = 1
    cascade: bool = False
    schedule: Literal["cosine", "linear"] = "cosine"
    prediction: Literal["velocity", "noise"] = "velocity"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    guidance: NonNegative = 1.0
    sampler: Literal["dpm", "ddim", "ddpm"] = "dpm"
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    learning_rate: Positive = 5e-4


_GENERATORS: dict[str, type[GeneratorSettings]] = {
    "cvae": CVAESettings,
    "gan": GANSettings,
    "wgan_gp": WGANGPSettings,
    "diffusion": DiffusionSettings,
}


class SurrogateSettings(TrainingSettings):
    """The network that reads the property from R, trained on the whole labelled set.

    Attributes:
        judge: A given surrogate file, which then takes the place of a trained one.
    """

    layers: Count = 5
    hidden: Count = 256
    batch_size: Count = 256
    learning_rate: Positive = 5e-4
    activation: Literal["elu", "relu", "silu"] = "silu"
    scaling: Literal["minmax", "standard"] = "standard"
    judge: str | None = None

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters of the model, without those of its training."""
        return self.model_dump(exclude={"epochs", "batch_size", "judge"})


class SelectionSettings(Section):
    """Samples chosen from a pool: surely on target by a committee, and as different as real structures are.

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
    """

    targets: Annotated[list[float], Field(min_length=1)]
    samples: Count = 10_000
    selection: SelectionSettings | None = None

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
    "whorl": ("budget_evaluations", "reference_evaluations"),
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


class EvaluateSettings(Section):
    """How generated structures are judged.

    Attributes:
        calculator: Energy method; by default the one that labelled the clusters.
        tolerance: Within this of the target counts as a hit, in units of the property.
    """

    calculator: CalculatorSettings | None = None
    tolerance: Positive = 0.1


class ReportSettings(Section):
    """What the report shows.

    Attributes:
        title: Heading of the page; by default the recipe's name.
        gallery: Structures shown per target.
    """

    title: str | None = None
    gallery: Count = 6


class Recipe(Section):
    """A whole run, from labelled structures to a report.

    Attributes:
        name: Name of the run and of its folder.
        seed: The one number all randomness follows from.
        invert: ``null`` stops at representations.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSettings
    representation: RepresentationSettings = RepresentationSettings()
    sampling: SamplingSettings = SamplingSettings()
    generator: SerializeAsAny[GeneratorSettings] = CVAESettings()
    surrogate: SurrogateSettings = SurrogateSettings()
    generate: GenerateSettings
    invert: InvertSettings | None = InvertSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

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
            "data": {"clusters": {"processes", "directory"}},
            "generator": {"device"},
        }
        return self.model_dump(mode="json", exclude=idle)

    @property
    def property_name(self) -> str:
        """Name of the property asked for."""
        given = self.data.files or self.data.features
        return given.property if given else "formation_energy"

    @property
    def sizes(self) -> dict[str, int | None]:
        """Label and count of each training size; None stands for all rows."""
        if self.sampling.sizes == "all":
            return {"all": None}
        return {f"n{size}": size for size in self.sampling.sizes if not isinstance(size, str)}
