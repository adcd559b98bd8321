"""What a recipe may say of the representation: symmetry functions, or crystals as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from whorl.workflow.section import Count, Positive, Section, SectionOfKind


class CutoffSettings(Section):
    """A cutoff by its radius in Å; ``10``, or ``{radius: 10, function: polynomial}``."""

    radius: Positive
    function: Literal["cosine", "polynomial"] = "cosine"
    gamma: Annotated[float, Field(ge=2)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_radius(cls, value: Any) -> Any:
        return {"radius": value} if isinstance(value, int | float) else value


class RepresentationSettings(SectionOfKind):
    """The fingerprint R. Which other keys there are depends on its kind.

    Attributes:
        kind: acsf for symmetry functions, crystens for crystals as images.
    """

    kind: Literal["acsf", "crystens"] = "acsf"
    closed_form: ClassVar[bool] = False
    """Whether atoms follow from R without a search."""

    @classmethod
    def kinds(cls) -> Mapping[str, type[RepresentationSettings]]:
        """Return the settings of each kind, the default one first."""
        return {"acsf": ACSFSettings, "crystens": CrysTensSettings}

    @property
    def declared(self) -> list[str] | None:
        """Chemical symbols that structures may have; ``None`` for those of the data."""
        return None

    @property
    def fits_data(self) -> bool:
        """Whether the data say how many atoms a structure may have."""
        return False

    def config(self, species: Sequence[str]) -> dict[str, Any]:
        """Return what :func:`whorl.representations.make_representation` builds it from."""
        raise NotImplementedError


class ACSFSettings(RepresentationSettings):
    """Symmetry functions: a preset, or functions of one's own.

    Attributes:
        preset: A set of symmetry functions: that of Fung et al. 2022, which is taken where no functions are
            given, or one for crystals.
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

    preset: Literal["fung2022", "crystal"] | None = None
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
    def _preset_or_own(self) -> ACSFSettings:
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

    @property
    def declared(self) -> list[str] | None:
        """Chemical symbols that structures may have; ``None`` for those of the data."""
        return self.species

    def config(self, species: Sequence[str]) -> dict[str, Any]:
        """Return what :func:`whorl.representations.make_representation` builds it from."""
        declared = list(self.species or species)
        if self.cutoff is None:
            preset = self.preset or "fung2022"
            images = {} if preset == "crystal" else {"images": self.images}
            return {"kind": self.kind, "preset": preset, "species": declared, **images}
        given = self.model_dump(mode="json", exclude={"preset"}, exclude_none=True)
        return {**given, "species": declared}


class CrysTensSettings(RepresentationSettings):
    """Crystals as images (Alverson et al. 2024); see :class:`whorl.representations.CrysTens`.

    Attributes:
        max_atoms: Room for atoms; the image has so many rows and columns and twelve more. auto: for those of
            the largest crystal of the data.
        pairwise: Distances as differences of fractional coordinates (as published), or in Å.
        elements: By number (as published), or by what the periodic table says of them.
        cell: That is encoded.
        order: Of the atoms.
        origin: As it is, or one that does not depend on how a crystal is written.
        descriptors: Further layers, each with one property of the elements.
        symprec: Tolerance in Å with which space groups are found.
    """

    kind: Literal["acsf", "crystens"] = "crystens"
    closed_form: ClassVar[bool] = True
    max_atoms: Count | Literal["auto"] = "auto"
    pairwise: Literal["fractional", "cartesian"] = "fractional"
    elements: Literal["number", "periodic"] = "periodic"
    cell: Literal["as_is", "primitive", "conventional", "niggli"] = "as_is"
    order: Literal["as_is", "canonical"] = "canonical"
    origin: Literal["as_is", "canonical"] = "as_is"
    descriptors: list[
        Literal["electronegativity", "covalent_radius", "valence_electrons", "mendeleev_number"]
    ] = []
    symprec: Positive = 0.01

    @property
    def fits_data(self) -> bool:
        """Whether the data say how many atoms a structure may have."""
        return self.max_atoms == "auto"

    def config(self, species: Sequence[str]) -> dict[str, Any]:
        """Return what :func:`whorl.representations.make_representation` builds it from.

        With ``max_atoms`` auto it has room for one atom, the least, until the data say how many there are.
        """
        return {**self.model_dump(mode="json"), "max_atoms": 1 if self.fits_data else self.max_atoms}
