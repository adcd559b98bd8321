"""Settings that representations have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from whorl.axes import REPRESENTATIONS
from whorl.settings import SectionOfKind

if TYPE_CHECKING:
    from whorl.representations.base import Representation
    from whorl.structures.batch import StructureBatch


EmbeddingChannels = Annotated[int, Field(ge=2, le=5)] | dict[str, list[float]] | None


class RepresentationSettings(SectionOfKind):
    """Settings of a representation R. Which other keys there are depends on its kind."""

    registry = REPRESENTATIONS
    default = "acsf"

    @property
    def declared(self) -> list[str] | None:
        """Chemical symbols that structures may have; None for those of the data."""
        return None

    @property
    def fits_data(self) -> bool:
        """Whether the structures of the data decide a setting that the recipe leaves open."""
        return False

    def build(
        self,
        species: Sequence[str],
        *,
        structures: StructureBatch | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Representation:
        """Return the representation of structures of these elements.

        Args:
            species: Chemical symbols.
            structures: Those that decide what the settings leave to the data.
            shape: Of finished features, which decides it without structures.
        """
        return self.method(**self.options())


class SpeciesSettings(RepresentationSettings):
    """Settings of a representation that is made for declared elements."""

    species: Annotated[list[str], Field(min_length=1)] | None = None
    """Chemical symbols of all elements; by default those of the data."""

    @property
    def declared(self) -> list[str] | None:
        """Chemical symbols that structures may have; None for those of the data."""
        return self.species

    def build(
        self,
        species: Sequence[str],
        *,
        structures: StructureBatch | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Representation:
        """Return the representation of structures of these elements; see the base class."""
        return self.method(**{**self.options(), "species": list(self.species or species)})
