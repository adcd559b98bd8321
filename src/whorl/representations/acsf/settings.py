"""Settings of symmetry functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from whorl.representations.cutoffs import CutoffSettings
from whorl.representations.embedding import channel_names
from whorl.representations.settings import EmbeddingChannels, SpeciesSettings
from whorl.structures.batch import StructureBatch

if TYPE_CHECKING:
    from whorl.representations.acsf.acsf import ACSF


class ACSFSettings(SpeciesSettings):
    """Settings of symmetry functions: a preset, or custom functions."""

    preset: Literal["fung2022", "crystal"] | None = None
    """A set of symmetry functions: that of Fung et al. 2022, the default if no functions are given,
    or one for crystals."""
    images: Literal["all", "minimum"] = "all"
    """Periodic images: all within the cutoff, or the nearest (the paper's convention)."""
    cutoff: CutoffSettings | None = None
    """Cutoff radius in Å, for custom functions."""
    g2: list[tuple[float, float]] = []
    """Pairs [η, R_s]."""
    g3: list[float] = []
    """Values of κ."""
    g4: list[tuple[float, float, float]] = []
    """Triples [η, ζ, λ]."""
    g5: list[tuple[float, float, float]] = []
    """Triples [η, ζ, λ]."""
    pooling: list[str] | None = None
    """Pooling over atoms, such as [max, min]."""
    per_centre_species: bool = False
    """Pool the atoms of each species separately."""
    embedding: EmbeddingChannels = None
    """Number of channels in the place of features of each element: 1, electronegativity, covalent
    radius, valence electrons, Mendeleev number; or a table of the channels of each element. The number of
    features is the same for all elements."""

    @model_validator(mode="after")
    def _preset_or_own(self) -> ACSFSettings:
        names = ("cutoff", "g2", "g3", "g4", "g5", "pooling", "per_centre_species")
        own = [name for name in names if getattr(self, name)]
        if self.preset is not None and own:
            raise ValueError(
                f"preset {self.preset} fixes {', '.join(own)}; give the preset or these, not both"
            )
        if own and self.cutoff is None:
            raise ValueError("custom functions need a cutoff in Å")
        return self

    def summary(self) -> str:
        """Return the preset or what takes its place, and the species, in a line of a report."""
        own = self.g2 or self.g3 or self.g4 or self.g5
        which = "symmetry functions of the recipe" if own else f"preset {self.preset or 'fung2022'}"
        species = f", species {', '.join(self.species)}" if self.species else ""
        embedding = f", embedding of {len(channel_names(self.embedding))} channels" if self.embedding else ""
        return f"ACSF, {which}{species}{embedding}"

    def build(
        self,
        species: Sequence[str],
        *,
        structures: StructureBatch | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> ACSF:
        """Return the symmetry functions of structures of these elements."""
        declared = list(self.species or species)
        if self.cutoff is None:
            preset = self.preset or "fung2022"
            images = {} if preset == "crystal" else {"images": self.images}
            options = {"preset": preset, "species": declared, "embedding": self.embedding}
            return self.method.from_config({**options, **images})
        given = self.model_dump(mode="json", exclude={"preset"}, exclude_none=True)
        return self.method.from_config({**given, "species": declared})
