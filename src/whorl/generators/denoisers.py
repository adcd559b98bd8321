"""Denoising networks: a U-Net for images, a transformer for sets, residual dense layers for vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whorl.errors import import_extra
from whorl.generators.images import padded
from whorl.generators.networks import perceptron

_ATTENTION_SIDE = 16
"""Largest side, in pixels, of layers with attention, whose cost grows with the fourth power of the side."""

_TIME_FEATURES = 64
HEADS = 4
"""Heads of attention between the elements of a set."""


def diffusers() -> ModuleType:
    """Return the package ``diffusers``.

    Raises:
        MissingExtraError: It is not installed: pip install 'whorl[diffusion]'.
    """
    return import_extra("diffusers", extra="diffusion")


class ImageDenoiser(nn.Module):
    """A U-Net (Ho et al. 2020, arXiv:2006.11239) of images, noise level, conditions and pixel positions.

    Convolutions are translation invariant, but in CrysTens each row has its own meaning: the row and the
    column of each pixel, in [-1, 1], are added as two layers.

    Args:
        size: (H, W) of the images; they are padded with zeros to multiples of 2^(depth - 1).
        inputs: Input layers.
        outputs: Output layers.
        conditions: Numbers that describe what is wanted.
        channels: Channels of the first level; the others have twice as many, from the fourth on four times.
        depth: Levels; each but the first has half the side of the one before.
        blocks: Residual blocks of each level.
    """

    place: Tensor

    def __init__(
        self,
        *,
        size: Sequence[int],
        inputs: int,
        outputs: int,
        conditions: int,
        channels: int,
        depth: int,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.size, self.multiple = tuple(size), 2 ** (depth - 1)
        sides = [min(size) / 2**level for level in range(depth)]
        attends = [side <= _ATTENTION_SIDE and level > 0 for level, side in enumerate(sides)]
        self.embed = perceptron(
            inputs=conditions, outputs=4 * channels, layers=1, hidden=4 * channels, activation="silu"
        )
        self.unet = diffusers().UNet2DModel(
            in_channels=inputs + 2,
            out_channels=outputs,
            layers_per_block=blocks,
            block_out_channels=[
                channels * (1, 2, 2)[level] if level < 3 else 4 * channels for level in range(depth)
            ],
            down_block_types=["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
            up_block_types=["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
            attention_head_dim=math.gcd(channels, 32),
            norm_num_groups=math.gcd(channels, 8),
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )
        rows, columns = (torch.linspace(-1, 1, length) for length in self.size)
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        self.register_buffer("place", place[None], persistent=False)

    def forward(
        self, noisy: Float[Tensor, "n _ H W"], time: Float[Tensor, "n"], condition: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n _ H W"]:
        """Return the prediction; ``time`` in [0, 1]."""
        inside = torch.cat([noisy, self.place.to(noisy).expand(len(noisy), -1, -1, -1)], 1)
        out = self.unet(padded(inside, self.multiple), 1000 * time, class_labels=self.embed(condition)).sample
        return out[..., : self.size[0], : self.size[1]]


class VectorDenoiser(nn.Module):
    """Residual dense layers of a vector, the noise level and the conditions.

    Args:
        features: Length of the vectors.
        conditions: Numbers that describe what is wanted.
        hidden: Units.
        layers: Residual layers.
    """

    def __init__(self, *, features: int, conditions: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embed = perceptron(
            inputs=_TIME_FEATURES + conditions, outputs=hidden, layers=1, hidden=hidden, activation="silu"
        )
        self.first = nn.Linear(features, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
            )
            for _ in range(layers)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, features))

    def forward(
        self, noisy: Float[Tensor, "n f"], time: Float[Tensor, "n"], condition: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n f"]:
        """Return the prediction; ``time`` in [0, 1]."""
        known = self.embed(torch.cat([_waves(time).to(noisy), condition], 1))
        inside = self.first(noisy)
        for layer in self.layers:
            inside = inside + layer(inside + known)
        return self.last(inside)


class SetDenoiser(nn.Module):
    """A transformer (Vaswani et al. 2017, arXiv:1706.03762) of the elements of a set, whatever their order.

    Args:
        elements: Largest number N of elements.
        features: Numbers of an element.
        conditions: Numbers that describe what is wanted.
        hidden: Units, a multiple of 4.
        layers: Layers, each of attention between elements and of a perceptron of each.
    """

    def __init__(self, *, elements: int, features: int, conditions: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.elements = elements
        self.embed = perceptron(
            inputs=_TIME_FEATURES + conditions, outputs=hidden, layers=1, hidden=hidden, activation="silu"
        )
        self.first = nn.Linear(features, hidden)
        self.layers = nn.ModuleList(_SetLayer(hidden) for _ in range(layers))
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, features))

    def forward(
        self, noisy: Float[Tensor, "n N f"], time: Float[Tensor, "n"], known: Float[Tensor, "n _"]
    ) -> Float[Tensor, "n N f"]:
        """Return the prediction; ``time`` in [0, 1], ``known`` the conditions, then 1 for each element."""
        condition, present = known[:, : -self.elements], known[:, -self.elements :]
        context = self.embed(torch.cat([_waves(time).to(noisy), condition], 1))[:, None]
        # An element that is none sees itself, since attention to nothing is no number.
        seen = (present[:, None] > 0) | torch.eye(self.elements, dtype=torch.bool, device=noisy.device)
        inside = self.first(noisy)
        for layer in self.layers:
            inside = layer(inside, context, seen[:, None])
        return self.last(inside)


class _SetLayer(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.projection, self.output = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden)
        )

    def forward(self, inside: Tensor, context: Tensor, seen: Tensor) -> Tensor:
        projected = self.projection(self.norm(inside + context)).unflatten(2, (3, HEADS, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        inside = inside + self.output(attended.transpose(1, 2).flatten(2))
        return inside + self.perceptron(inside + context)


def _waves(time: Float[Tensor, "n"]) -> Float[Tensor, "n 64"]:
    """Return sines and cosines of a time in [0, 1]."""
    phases = time.float()[:, None] * torch.logspace(0, 2, _TIME_FEATURES // 2, device=time.device)
    return torch.cat([phases.sin(), phases.cos()], 1)
