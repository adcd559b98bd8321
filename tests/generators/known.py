"""Problems whose conditional distributions are known, for tests of learning."""

import torch

_ALONG = torch.linspace(0, 3, 8, dtype=torch.float64)
_LAYERS = torch.tensor([1.0, -0.5], dtype=torch.float64)
_PATTERN = 1.5 * _ALONG.cos()[:, None, None] * _LAYERS.expand(8, 8, 2)
_OTHER = _ALONG.sin()[None, :, None] * _LAYERS.expand(8, 8, 2)
IMAGE_CONTRAST = float((0.1 * _PATTERN).abs().mean())


def sheet(rows: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """R = (10 + y, ±100 (1 + 0.3 y), 0.1) with some noise: y does not fix the sign of the second."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, 2, generator=rng, dtype=torch.float64)
    y = 2 * torch.rand(rows, 1, generator=rng, dtype=torch.float64)
    sign = (torch.rand(rows, 1, generator=rng) < 0.5).double() * 2 - 1
    first, second = 10 + y + 0.05 * noise[:, :1], 100 * sign * (1 + 0.3 * y) + 5 * noise[:, 1:]
    return torch.cat([first, second, torch.full_like(y, 0.1)], 1), y


def sheet_samples(model, **options):
    """Draw at y = 1: 11, 130 or -130, 0.1. Return the first, both parts of the second, the third."""
    condition = torch.ones(600, 1, dtype=torch.float64)
    samples = model.sample(condition, rng=torch.Generator().manual_seed(1), **options)
    second = samples[:, 1]
    return samples[:, 0], second[second > 0], second[second <= 0], samples[:, 2]


def images(rows: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (8, 8, 2) with the mean 0.5 + 0.2 (y - 1) × a pattern, y in [0, 2], and a constant corner."""
    rng = torch.Generator().manual_seed(0)
    y = 2 * torch.rand(rows, 1, generator=rng, dtype=torch.float64)
    strength = 0.1 * torch.randn(rows, 1, 1, 1, generator=rng, dtype=torch.float64)
    return _cornered(0.5 + 0.2 * (y[:, :, None, None] - 1) * _PATTERN + strength * _OTHER), y


def image_error(model, **options):
    """Return the mean error of the conditional means at y = 0.5 and 1.5, and the corner of all samples."""
    errors, corners = [], []
    for y in (0.5, 1.5):
        condition = torch.full((100, 1), y, dtype=torch.float64)
        samples = model.sample(condition, rng=torch.Generator().manual_seed(1), **options)
        wanted = _cornered((0.5 + 0.2 * (y - 1) * _PATTERN)[None])[0]
        errors.append((samples.mean(0) - wanted).abs().mean())
        corners.append(samples[:, :2, :2])
    return float(torch.stack(errors).max()), torch.cat(corners)


def _cornered(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.clone()
    rows[:, :2, :2] = 0.3
    return rows
