"""Settings that trained models have in common."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import field_validator

from whorl.axes import CONDITIONS, GENERATORS
from whorl.settings import Count, Depth, Positive, Section, SectionOfKind


class TrainingSettings(Section):
    """Settings of any trained network: those of its training, and its own hyperparameters.

    Attributes:
        of_training: Names of those that belong to the training, and not to the model.
    """

    of_training: ClassVar[frozenset[str]] = frozenset({"epochs", "batch_size"})

    epochs: Count = 2000
    """Passes over the training rows."""
    batch_size: Count = 64
    """Rows of a step."""
    learning_rate: Positive = 1e-3
    """Step size of the Adam optimiser."""

    @classmethod
    def hyperparameters(cls) -> list[str]:
        """Return the names of the model's own settings."""
        return [name for name in cls.model_fields if name not in cls.of_training]

    def options(self) -> dict[str, Any]:
        """Return the hyperparameters of the model, without the settings of its training; JSON-able."""
        known = self.hyperparameters()
        return {name: value for name, value in self.model_dump(mode="json").items() if name in known}

    def fitting(self) -> dict[str, Any]:
        """Return the arguments of :func:`whorl.generators.fit` that these settings decide."""
        return {"epochs": self.epochs, "batch_size": self.batch_size}


class GeneratorSettings(TrainingSettings, SectionOfKind):
    """Settings of a conditional generator p(R | y); further keys depend on its kind."""

    registry = GENERATORS
    default = "cvae"
    of_training = TrainingSettings.of_training | {"members", "keep", "conditions"}

    members: Depth = 1
    """Number of generators trained from different seeds; samples are drawn from all in equal parts."""
    keep: Literal["best", "last"] = "best"
    """Weights that are kept: the best by validation, or the last."""
    conditions: list[str] = []
    """Conditions in addition to the property, such as the elements of a structure or its space group."""

    @field_validator("conditions")
    @classmethod
    def _known_conditions(cls, value: list[str]) -> list[str]:
        for kind in value:
            CONDITIONS.get(kind)
        return value

    def fitting(self) -> dict[str, Any]:
        """Return the arguments of :func:`whorl.generators.fit` that these settings decide."""
        return {**super().fitting(), "keep": self.keep}
