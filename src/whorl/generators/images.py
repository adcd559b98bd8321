"""Base of generators for tensors of any shape: perceptrons for vectors, convolutions for images.

An image is a tensor (H, W, C) of at least 4 × 4 pixels; any other tensor is flattened to a vector.
Networks process images as (n, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whorl.generators.base import ConditionalGenerator
from whorl.generators.networks import perceptron
from whorl.generators.settings import GeneratorSettings
from whorl.settings import Depth, Width

SMALLEST_IMAGE = 4
_LEAK = 0.2


def is_image(shape: Sequence[int]) -> bool:
    """Return whether a shape is that of an image: (H, W, C) of at least 4 × 4 pixels."""
    return len(shape) == 3 and min(shape[:2]) >= SMALLEST_IMAGE


def halvings(shape: Sequence[int], until: int) -> int:
    """Return the number of halvings of the shorter side of an image until it is at most ``until`` pixels."""
    side, count = min(shape[:2]), 0
    while side > until:
        side, count = -(-side // 2), count + 1
    return count


class AnyShapeGenerator(ConditionalGenerator):
    """A generator whose network takes tensors of any shape, centred at 0.

    A feature that does not vary in training is 0 in network units, and reproduced exactly.
    Binary conditions (presence of an element, a one-hot crystal system) are given to the
    network as -1 and 1, as standardisation would make a rare 1 very large. All others are standardised.

    Args:
        shape: Shape of one structure's features.
        properties: Number p of conditions.
        options: Hyperparameters.
    """

    class Settings(GeneratorSettings):
        """Settings that the generators for vectors and images have in common."""

        of_training = GeneratorSettings.of_training | {"device", "precision"}

        channels: Width | None = None
        """Width of the networks; by default it follows from the shape of the features."""
        depth: Depth | None = None
        """Depth of the networks; by default it follows from the shape of the features."""
        scaling: Literal["shared", "minmax", "standard"] | None = None
        """Scaling of the features; by default shared for images and standard for vectors."""
        device: str = "auto"
        """cpu, cuda, cuda:1, or auto for a GPU if available."""
        precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
        """Numerical precision (of Lightning); bf16-mixed or 16-mixed for large networks on a GPU."""

        def fitting(self) -> dict[str, Any]:
            """Return the arguments of :func:`whorl.generators.fit` that these settings decide."""
            return {**super().fitting(), "device": self.device, "precision": self.precision}

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        self.image = is_image(self.shape)
        self.bounded = self.settings.scaling != "standard"
        """Whether training rows lie in [-1, 1] in the network."""

    @classmethod
    def default_size(cls, shape: Sequence[int]) -> tuple[int, int]:
        """Return the channels and the depth of networks for features of a shape."""
        raise NotImplementedError

    @classmethod
    def resolved(cls, settings: Any, shape: Sequence[int]) -> Any:
        """Return settings in which every default that depends on the shape of the features is a value."""
        channels, depth = cls.default_size(shape)
        chosen = {
            "channels": settings.channels or channels,
            "depth": settings.depth or depth,
            "scaling": settings.scaling or ("shared" if is_image(shape) else "standard"),
        }
        return settings.model_copy(update=chosen)

    def to_network(self, features: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Return features, given in data units, in network units: (n, C, H, W), or (n, F)."""
        scaled = self.scale_features(features)
        scaled = 2 * scaled - 1 if self.bounded else scaled
        return self._arranged(scaled) * self.varying

    def to_data(self, inside: Float[Tensor, "n ..."], dtype: torch.dtype) -> Float[Tensor, "n *shape"]:
        """Return network output, (n, C, H, W) or (n, F), in data units. Differentiable."""
        flat = (inside.permute(0, 2, 3, 1) if self.image else inside).flatten(1).double()
        flat = (flat + 1) / 2 if self.bounded else flat
        return self.feature_scaler.inverse(flat).to(dtype).reshape(-1, *self.shape)

    @property
    def varying(self) -> Float[Tensor, "1 ..."]:
        """1 where a feature varies in training, else 0, in the layout of the network."""
        return self._arranged((self.feature_scaler.scale > 0).to(self.dtype)[None])

    def _arranged(self, flat: Tensor) -> Tensor:
        shaped = flat.reshape(-1, *self.shape)
        return shaped.permute(0, 3, 1, 2).contiguous() if self.image else shaped.flatten(1)

    def condition_inside(self, condition: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """Return conditions in network units."""
        scaler = self.property_scaler
        # Within [0, 1], the variance is mean (1 - mean) for values of 0 and 1 alone, and else smaller.
        largest = scaler.offset * (1 - scaler.offset)
        yes_or_no = (scaler.minimum == 0) & (scaler.maximum == 1) & (scaler.scale**2 > largest - 1e-9)
        return torch.where(yes_or_no, 2 * condition - 1, self.scale_properties(condition)).to(self.dtype)


class VectorGenerator(nn.Module):
    """Generator of vectors: a perceptron of latent variables and conditions.

    Args:
        features: Numbers of the vector.
        latent: Latent numbers.
        properties: Conditions.
        hidden: Units.
        layers: Hidden layers.
        bounded: Whether a tanh keeps values in [-1, 1].
    """

    def __init__(
        self, *, features: int, latent: int, properties: int, hidden: int, layers: int, bounded: bool
    ) -> None:
        super().__init__()
        self.body = perceptron(
            inputs=latent + properties, outputs=features, layers=layers, hidden=hidden, activation="silu"
        )
        self.bounded = bounded

    def forward(self, latent: Float[Tensor, "n k"], condition: Float[Tensor, "n p"]) -> Float[Tensor, "n F"]:
        """Return vectors."""
        out = self.body(torch.cat([latent, condition], 1))
        return out.tanh() if self.bounded else out


class VectorCritic(nn.Module):
    """Critic of vectors: a perceptron of a vector and conditions.

    Args:
        features: Numbers of the vector.
        properties: Conditions.
        hidden: Units.
        layers: Hidden layers.
    """

    def __init__(self, *, features: int, properties: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.body = perceptron(
            inputs=features + properties,
            outputs=1,
            layers=layers,
            hidden=hidden,
            activation="silu",
            constant=False,
        )

    def forward(self, vector: Float[Tensor, "n F"], condition: Float[Tensor, "n p"]) -> Float[Tensor, "n 1"]:
        """Return how real each vector looks."""
        return self.body(torch.cat([vector, condition], 1))


class ImageGenerator(nn.Module):
    """Generator of images from latent variables and conditions (DCGAN: Radford 2016, arXiv:1511.06434).

    A dense layer makes the smallest image; each stage doubles its sides by a transposed convolution with
    batch normalisation and ReLU. Sides that are no multiple of 2^stages are cropped.

    Args:
        shape: (H, W, C).
        latent: Latent numbers.
        properties: Conditions.
        channels: Channels at full size; each halving doubles them.
        stages: Doublings.
        bounded: Whether a tanh keeps values in [-1, 1].
    """

    def __init__(
        self, *, shape: Sequence[int], latent: int, properties: int, channels: int, stages: int, bounded: bool
    ) -> None:
        super().__init__()
        height, width, layers = shape
        self.size = (height, width)
        self.start = (channels * 2**stages, -(-height // 2**stages), -(-width // 2**stages))
        self.dense = nn.Sequential(
            nn.Linear(latent + properties, math.prod(self.start)),
            nn.Unflatten(1, self.start),
            _normed(self.start[0]),
        )
        parts: list[nn.Module] = []
        for stage in reversed(range(stages)):
            wide, narrow = channels * 2 ** (stage + 1), channels * 2**stage
            parts += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False), _normed(narrow)]
        self.stages = nn.Sequential(*parts)
        self.last = nn.Conv2d(channels, layers, 3, padding=1)
        self.bounded = bounded

    def forward(
        self, latent: Float[Tensor, "n k"], condition: Float[Tensor, "n p"]
    ) -> Float[Tensor, "n C H W"]:
        """Return images."""
        out = self.last(self.stages(self.dense(torch.cat([latent, condition], 1))))
        out = out[..., : self.size[0], : self.size[1]]
        return out.tanh() if self.bounded else out


def _normed(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


class ImageCritic(nn.Module):
    """Critic of images and conditions: strided convolutions, then two dense layers.

    The conditions enter twice: embedded as additional constant layers of the image, and in the dense layers.

    Args:
        shape: (H, W, C).
        properties: Conditions.
        channels: Channels after the first halving is twice this; each further one doubles them.
        stages: Halvings.
        norm: Normalisation after all but the first: ``"batch"``, or ``"layer"`` (each image separately, as a
            gradient penalty needs).
    """

    def __init__(
        self, *, shape: Sequence[int], properties: int, channels: int, stages: int, norm: str
    ) -> None:
        super().__init__()
        height, width, layers = shape
        self.multiple = 2**stages
        embedding = min(properties, 8)
        self.embed = nn.Linear(properties, embedding)
        parts: list[nn.Module] = []
        wide = layers + embedding
        for stage in range(stages):
            narrow, wide = wide, channels * 2 ** (stage + 1)
            parts.append(nn.Conv2d(narrow, wide, 4, stride=2, padding=1))
            if stage > 0:
                parts.append(nn.BatchNorm2d(wide) if norm == "batch" else nn.GroupNorm(1, wide))
            parts.append(nn.LeakyReLU(_LEAK))
        self.stages = nn.Sequential(*parts, nn.Flatten())
        pixels = -(-height // self.multiple) * -(-width // self.multiple)
        self.head = nn.Sequential(
            nn.Linear(wide * pixels + properties, 4 * channels),
            nn.LeakyReLU(_LEAK),
            nn.Linear(4 * channels, 1, bias=False),
        )

    def forward(
        self, image: Float[Tensor, "n C H W"], condition: Float[Tensor, "n p"]
    ) -> Float[Tensor, "n 1"]:
        """Return how real each image looks."""
        height, width = image.shape[2:]
        layers = self.embed(condition)[:, :, None, None].expand(-1, -1, height, width)
        inside = padded(torch.cat([image, layers], 1), self.multiple)
        return self.head(torch.cat([self.stages(inside), condition], 1))


def padded(image: Float[Tensor, "n C h w"], multiple: int) -> Float[Tensor, "n C H W"]:
    """Return images with zeros at the lower and right edge, so that both sides are multiples."""
    height, width = image.shape[2:]
    return nn.functional.pad(image, (0, -width % multiple, 0, -height % multiple))
