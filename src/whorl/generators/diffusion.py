"""Conditional denoising diffusion for vectors and images, optionally as a cascade of two resolutions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from whorl.errors import InputError, unknown_option
from whorl.generators.base import Guide, positive
from whorl.generators.denoisers import diffusers
from whorl.generators.guided import AT_ONCE, GuidedGenerator
from whorl.generators.images import padded
from whorl.parallel import one_thread
from whorl.settings import Depth

NOISE_LEVELS = 1000
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
PREDICTIONS = {"velocity": "v_prediction", "noise": "epsilon"}
SAMPLERS = ("dpm", "ddim", "ddpm")

# The upscaler is trained on small images of the data and used on those of the base model: noise on both makes
# them more alike (Ho et al. 2022, arXiv:2106.15282).
_AUGMENTATION = 0.1


class Diffusion(GuidedGenerator):
    r"""Conditional denoising diffusion model (Ho et al. 2020), with classifier-free guidance.

    .. math::
        x_t &= \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon, \qquad
        \varepsilon \sim \mathcal N(0, 1),\ t = 1 \dots 1000 \\
        L &= \bigl| f(x_t, t, y) - v_t \bigr|^2, \qquad
        v_t = \sqrt{\bar\alpha_t}\, \varepsilon - \sqrt{1 - \bar\alpha_t}\, x_0

    averaged over features that vary, with x_0 in network units. Samples follow f, with classifier-free
    guidance, from noise down to t = 0. With ``cascade``, one U-Net makes images of half the
    size and a second makes full images from them, as in Imagen and in Alverson et al. 2024; both are trained
    in the same steps.

    Needs the package ``diffusers``.

    :meth:`paper` has the settings of Alverson et al. 2024 (doi:10.1039/D3DD00137G, appendix B.3), for a GPU;
    with them belong 250,000 steps of 4 rows. See also Salimans & Ho 2022 (arXiv:2202.00512) for velocities,
    Song et al. 2021 (arXiv:2010.02502) for DDIM, Lu et al. 2022 (arXiv:2211.01095) for DPM-Solver++.

    Args:
        shape: Shape of one structure's features: (H, W, C) for images, (N, f) for sets, anything else is a
            vector.
        properties: Number p of conditions.
        options: Hyperparameters, see :class:`Diffusion.Settings` and :class:`GuidedGenerator`.

    Raises:
        InputError: An invalid hyperparameter.
        MissingExtraError: ``diffusers`` is not installed.
    """

    kind = "diffusion"

    class Settings(GuidedGenerator.Settings):
        """Settings of the diffusion model."""

        blocks: Depth = 1
        """Residual blocks per level; for images only."""
        cascade: bool = False
        """Whether a second U-Net doubles the size; for images only."""
        schedule: Literal["cosine", "linear"] = "cosine"
        """Noise schedule."""
        prediction: Literal["velocity", "noise"] = "velocity"
        """What the network predicts: the velocity v_t, or the noise ε."""
        sampler: Literal["dpm", "ddim", "ddpm"] = "dpm"
        """DPM-Solver++ of second order, DDIM, or DDPM with noise in each step."""
        steps: Annotated[int, Field(ge=1, le=NOISE_LEVELS)] = 50
        """Steps of the sampler."""

    settings: Any
    requires = ("diffusers", "diffusion")

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        own = self.settings
        if own.cascade and not self.image:
            raise InputError(f"cascade: got features of shape {self.shape}, expected images (H, W, C).")
        self.schedule, self.prediction = own.schedule, own.prediction
        self.sampler, self.steps = own.sampler, own.steps
        self.upscaler: nn.Module | None = None
        if own.cascade:
            height, width, layers = self.shape
            self.upscaler = self.network(inputs=2 * layers)
            self.denoiser = self.network(size=(-(-height // 2), -(-width // 2)))
        else:
            self.denoiser = self.network()
        self._levels: Tensor = self._scheduler("ddim").alphas_cumprod

    @classmethod
    def paper(cls, *, shape: Sequence[int], properties: int = 1) -> Diffusion:
        """Return a cascade with the settings of Alverson et al. 2024, as far as they state them."""
        return cls(
            shape=shape,
            properties=properties,
            channels=256,
            blocks=2,
            cascade=True,
            prediction="noise",
            sampler="ddpm",
            steps=NOISE_LEVELS,
            learning_rate=1e-4,
        )

    # --- Training ------------------------------------------------------------------------------------------

    def loss(self, batch: tuple[Tensor, Tensor], times: Tensor, hidden: Tensor) -> Tensor:
        """Return L of a batch (features, conditions) at noise levels t."""
        clean, known = self.to_network(batch[0]), self.known(batch[1], features=batch[0])
        varying, condition = self.varying_in(known), self.given(known, ~hidden)
        if self.upscaler is None:
            error = self._error(self.denoiser, clean, varying, times, condition)
            return error + self.size_loss(known)
        small = _halved(clean)
        base = self._error(self.denoiser, small, (_halved(varying) > 0).to(small), times, condition)
        beside = _doubled(small + _AUGMENTATION * torch.randn_like(small), clean)
        return base + self._error(self.upscaler, clean, varying, times, condition, beside)

    def _error(
        self,
        network: nn.Module,
        clean: Tensor,
        varying: Tensor,
        times: Tensor,
        condition: Tensor,
        beside: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of the network's prediction, over features that vary."""
        noise = torch.randn_like(clean) * varying
        level = self._levels.to(self.device)[times].to(clean).reshape(-1, *[1] * (clean.ndim - 1))
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        target = level.sqrt() * noise - (1 - level).sqrt() * clean if self.prediction == "velocity" else noise
        inside = noisy if beside is None else torch.cat([noisy, beside], 1)
        error = (network(inside, times.to(clean) / NOISE_LEVELS, condition) - target) * varying
        return error.square().sum() / varying.sum().clamp(min=1)

    def random_times(self, rows: int) -> Tensor:
        """Return noise levels at random."""
        return torch.randint(NOISE_LEVELS, (rows,), device=self.device)

    def even_times(self, rows: int) -> Tensor:
        """Return noise levels that are spread evenly over the rows."""
        return ((torch.randperm(rows) + 0.5) * NOISE_LEVELS / rows).long().to(self.device)

    # --- Sampling ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "..."],
        *,
        rng: torch.Generator,
        temperature: float = 1.0,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        guide: Guide | None = None,
    ) -> Float[Tensor, "n *shape"]:
        r"""Draw one sample for each row of ``condition`` (n, p); see :meth:`ConditionalGenerator.sample`.

        With a ``guide`` g for the first property, each step moves its estimate of x_0 towards g = y by a
        Gauss-Newton step under the uncertainty that the noise level leaves (Song et al. 2023, ΠGDM):

        .. math::
            x_0 \leftarrow x_0 - \frac{(1 - \bar\alpha)\, (g(x_0) - y)\, \nabla g}
            {(1 - \bar\alpha)\, |\nabla g|^2 + r^2}

        with the error r of g on its validation rows.

        Args:
            condition: Target properties and other conditions, in data units.
            rng: Source of all randomness.
            temperature: Factor of the standard deviation of all noise.
            steps: Replaces the hyperparameter of this name.
            sampler: Replaces the hyperparameter of this name.
            guidance: Other than the hyperparameter of this name; with 0, only the guide acts.
            guide: A surrogate for features of this shape.

        Raises:
            InputError: As the base class; an unknown sampler; a guide for features of another shape.
        """
        self.check_condition(condition)
        positive("temperature", temperature)
        steps = self.steps if steps is None else _steps(steps)
        sampler = self.sampler if sampler is None else _known("sampler", sampler, SAMPLERS)
        guidance = self._guidance(guidance)
        if guide is not None and guide.shape != self.shape:
            raise InputError(f"guide: expects features of shape {guide.shape}, but these have {self.shape}.")

        def noise(like: Tensor) -> Tensor:
            drawn = torch.randn(like.shape, generator=rng, device=rng.device)
            return drawn.to(like) * temperature

        setting: dict[str, Any] = {"noise": noise, "steps": steps, "sampler": sampler, "guidance": guidance}
        made = [condition.new_zeros(0, *self.shape, device=self.device)]
        for rows in condition.to(self.device).split(max(1, AT_ONCE // math.prod(self.shape))):
            if len(rows) == 0:
                continue
            inside = self.known(rows, rng=rng)
            towards = None if guide is None else self._towards(guide.to(self.device), rows, inside)
            varying = self.varying_in(inside)
            if self.upscaler is None:
                drawn = self._draw(self.denoiser, varying, inside, towards=towards, **setting)
            else:
                coarse = (_halved(varying) > 0).to(varying)
                small = self._draw(self.denoiser, coarse, inside, **setting)
                beside = _doubled(small + _AUGMENTATION * noise(small), varying)
                drawn = self._draw(self.upscaler, varying, inside, beside=beside, towards=towards, **setting)
            made.append(self.finished(drawn, inside, condition.dtype))
        return torch.cat(made)

    def _draw(
        self,
        network: nn.Module,
        varying: Tensor,
        condition: Tensor,
        *,
        noise: Callable[[Tensor], Tensor],
        steps: int,
        sampler: str,
        guidance: float,
        beside: Tensor | None = None,
        towards: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Sample with one network."""
        scheduler = self._scheduler(sampler)
        with warnings.catch_warnings():  # of what diffusers asks of NumPy
            warnings.simplefilter("ignore", DeprecationWarning)
            scheduler.set_timesteps(steps, device=self.device)
        limit, noisy = self._limit(), noise(varying) * varying
        for time in scheduler.timesteps:
            inside = noisy if beside is None else torch.cat([noisy, beside], 1)
            times = (time / NOISE_LEVELS).to(noisy).expand(len(noisy))
            output = self.guided(network, inside, times, condition, guidance)
            if towards is not None or limit < math.inf:
                level = self._levels[int(time)].to(noisy)
                output = self._corrected(output, noisy, level, limit, towards)
            extra = {"eta": 1.0, "variance_noise": noise(varying)} if sampler == "ddpm" else {}
            noisy = scheduler.step(output, time, noisy, **extra).prev_sample * varying
        return noisy

    def _corrected(
        self,
        output: Tensor,
        noisy: Tensor,
        level: Tensor,
        limit: float,
        towards: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> Tensor:
        """Return the prediction corrected for the limits of x_0 and for the guide.

        At t = 1000, x_0 follows from ε by a division by almost 0: without limits, the smallest error of ε
        would displace samples far (Saharia et al. 2022, arXiv:2205.11487, section 2.3).
        """
        signal, spread = level.sqrt(), (1 - level).sqrt()
        velocity = self.prediction == "velocity"
        clean = signal * noisy - spread * output if velocity else (noisy - spread * output) / signal
        if towards is not None:
            clean = towards(clean.clamp(-limit, limit), 1 - level)
        clean = clean.clamp(-limit, limit)
        return (signal * noisy - clean) / spread if velocity else (noisy - signal * clean) / spread

    def _limit(self) -> float:
        """Return the largest absolute value of estimates of x_0, in network units.

        1 if training rows lie in [-1, 1]. Otherwise 1.5 times their largest value if the network predicts
        ε, and any distance for velocities, which need no division.
        """
        if self.bounded:
            return 1.0
        if self.prediction == "velocity":
            return math.inf
        scaler = self.feature_scaler
        ends = scaler.transform(torch.stack([scaler.minimum, scaler.maximum]))
        return 1.5 * float(ends.abs().max())

    def _towards(self, guide: Guide, condition: Tensor, known: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        target = condition[:, 0].double()
        error = guide.validation_mae or 0.0

        def move(clean: Tensor, variance: Tensor) -> Tensor:
            with one_thread(), torch.enable_grad():
                at = clean.detach().requires_grad_(True)
                off = guide(self.finished(at, known, torch.float64)) - target
                (slope,) = torch.autograd.grad(off.sum(), at)
            every = (-1, *[1] * (clean.ndim - 1))
            length = slope.flatten(1).square().sum(1).reshape(every)
            # No correction where the gradient of the guide vanishes.
            size = variance * off.to(clean).reshape(every) / (variance * length + error**2 + 1e-12)
            return clean - size * slope * (length > 0)

        return move

    def _scheduler(self, sampler: str) -> Any:
        """Return a scheduler of diffusers."""
        settings = {
            "num_train_timesteps": NOISE_LEVELS,
            "beta_schedule": SCHEDULES[self.schedule],
            "prediction_type": PREDICTIONS[self.prediction],
            "timestep_spacing": "trailing",
        }
        if sampler == "dpm":
            return diffusers().DPMSolverMultistepScheduler(**settings)
        return diffusers().DDIMScheduler(clip_sample=False, **settings)


def _halved(image: Tensor) -> Tensor:
    """Return images of half the size, each pixel the mean of four."""
    return functional.avg_pool2d(padded(image, 2), 2)


def _doubled(image: Tensor, like: Tensor) -> Tensor:
    """Return images of twice the size, cropped to that of ``like``."""
    large = functional.interpolate(image, scale_factor=2, mode="nearest")
    return large[..., : like.shape[2], : like.shape[3]]


def _known(name: str, value: str, known: Sequence[str] | dict[str, str]) -> str:
    if value not in known:
        raise unknown_option(name, str(value), list(known))
    return value


def _steps(value: int) -> int:
    if positive("steps", value) > NOISE_LEVELS:
        raise InputError(f"steps: got {value}, expected at most {NOISE_LEVELS}.")
    return value
