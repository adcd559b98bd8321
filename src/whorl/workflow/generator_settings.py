"""What a recipe may say of networks that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from whorl.workflow.section import Count, Depth, NonNegative, Positive, Section, SectionOfKind, Width


class TrainingSettings(Section):
    """What the training of any network needs."""

    epochs: Count = 2000
    batch_size: Count = 64
    learning_rate: Positive = 1e-3


class GeneratorSettings(TrainingSettings, SectionOfKind):
    """The conditional generator p(R | y). Which other keys there are depends on its kind.

    Attributes:
        kind: Which generator.
        members: Generators trained alike from different seeds; samples come from all in equal parts.
        keep: The weights that are best by validation, or the last.
        conditions: What the generator is told of each structure beside its property: which elements it has,
            its composition, its crystal system, its space group.
    """

    kind: Literal["cvae", "gan", "wgan_gp", "diffusion"] = "cvae"
    members: Depth = 1
    keep: Literal["best", "last"] = "best"
    conditions: list[Literal["elements", "composition", "crystal_system", "space_group"]] = []

    @classmethod
    def kinds(cls) -> Mapping[str, type[GeneratorSettings]]:
        """Return the settings of each kind, the default one first."""
        return _GENERATORS

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters of the model, without those of its training."""
        return self.model_dump(exclude={"epochs", "batch_size", "members", "conditions", *self.fitting()})

    def fitting(self) -> dict[str, Any]:
        """Return what :func:`whorl.generators.fit` is told beside epochs and batch size."""
        return {"keep": self.keep}


class CVAESettings(GeneratorSettings):
    """The conditional variational autoencoder; see :class:`whorl.generators.CVAE`."""

    layers: Depth = 3
    hidden: Width = 128
    latent: Width = 25
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

    channels: Width | None = None
    depth: Depth | None = None
    scaling: Literal["shared", "minmax", "standard"] | None = None
    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    def fitting(self) -> dict[str, Any]:
        """Return what :func:`whorl.generators.fit` is told beside epochs and batch size."""
        return {"keep": self.keep, "device": self.device, "precision": self.precision}


class GANSettings(AnyShapeSettings):
    """The generative adversarial network; see :class:`whorl.generators.GAN`."""

    epochs: Count = 200
    latent: Width = 128
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    learning_rate: Positive = 2e-4


class WGANGPSettings(AnyShapeSettings):
    """The Wasserstein GAN with gradient penalty; see :class:`whorl.generators.WGANGP`."""

    epochs: Count = 400
    latent: Width = 128
    penalty: Positive = 10.0
    critic_steps: Count = 5
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    learning_rate: Positive = 1e-4


class DiffusionSettings(AnyShapeSettings):
    """The diffusion model; see :class:`whorl.generators.Diffusion`."""

    epochs: Count = 100
    batch_size: Count = 32
    blocks: Depth = 1
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
