r"""Selection of accurate and diverse samples from a pool.

The samples of a conditional generator trained on few rows scatter about the target property. A
:class:`whorl.surrogates.EnsembleSurrogate`, fitted to the same labelled rows, estimates how likely each
sample is to hit the target; the best of a large pool nearly always do. As the best resemble each other, the
selection is constrained: selected samples are as far apart as real structures with that property. The
steps:

1. :func:`calibrate`: the condition c₀ at which the mean prediction for the samples is the target.
2. :func:`draw_pool`: samples at conditions about c₀, with the ensemble's mean p and uncertainty u for each.
3. :func:`miss_probability`: the risk P(|y - t| > tolerance) of each, if y ~ N(p, u²).
4. :func:`choose`: the samples of least risk whose mean pairwise distance is at least the one required.

:func:`select` does all four. The surrogate that evaluates the results is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.generators.base import ConditionalGenerator, condition_range, positive
from whorl.generators.scaling import FeatureScaler
from whorl.surrogates.ensemble import EnsembleSurrogate

PILOT = 1500
"""Samples that calibrate a condition."""
PILOT_WIDTH = 0.6
"""Half-width of their conditions about the target, in standard deviations of the property."""
CONDITION_WIDTH = 0.3
"""Standard deviation of the pool's conditions about c₀, in standard deviations of the property."""
CANDIDATES = (2, 4, 8)
"""Candidates per selected sample, those with predictions nearest to the
target; larger numbers are used if smaller ones do not reach the spread."""
MOST_CANDIDATES = 12_000
"""Maximum number of candidates, unless more samples are selected: their distance matrix is held in memory."""
LARGEST_WEIGHT = 100.0
"""Largest weight of the spread relative to the risk: larger ones do not change the selection."""
REFERENCE_ROWS = 5
"""Minimum number of rows of the reference spread."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Samples with the predictions of the ensemble.

    Attributes:
        features: In data units.
        predicted: Property that the ensemble reads from them.
        uncertainty: Standard deviation of the prediction.
    """

    features: Float[Tensor, "n *shape"]
    predicted: Float[Tensor, "n"]
    uncertainty: Float[Tensor, "n"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Selected candidates.

    Attributes:
        rows: Their indices, by increasing risk.
        spread: Their mean pairwise distance.
        weight: The λ of :func:`choose`; 0 if the candidates of least risk have the spread.
        feasible: Whether the spread asked for was reached.
    """

    rows: Int[Tensor, "n"]
    spread: float
    weight: float
    feasible: bool


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Samples selected for one target.

    Attributes:
        features: In data units.
        predicted: Property that the ensemble reads from them.
        risk: Probability of a miss, by the ensemble.
        candidates: Number of candidates from the pool.
        spread_ratio: Mean pairwise distance over that of the real rows near the target.
        feasible: Whether the spread asked for was reached.
        advice: Remedy if it was not; else empty.
    """

    features: Float[Tensor, "n *shape"]
    predicted: Float[Tensor, "n"]
    risk: Float[Tensor, "n"]
    candidates: int
    spread_ratio: float
    feasible: bool
    advice: str


def calibrate(
    generator: ConditionalGenerator,
    ensemble: EnsembleSurrogate,
    target: float,
    *,
    rng: torch.Generator,
    temperature: float = 1.0,
) -> float:
    r"""Return the condition at which the mean prediction for the samples is the target.

    The line :math:`p \approx a + b\,c` through the predictions p for samples at conditions c about
    the target is solved for p = target. If its slope is not positive, the target itself is returned.
    The condition stays near the target, and exceeds the training range no more than
    the target does.
    """
    width = float(ensemble.property_scaler.scale[0])
    uniform = torch.rand(PILOT, 1, generator=rng, dtype=torch.float64)
    condition = target + (2 * uniform - 1) * PILOT_WIDTH * width
    read = ensemble.predict(generator.sample(condition, rng=rng, temperature=temperature).double()).mean
    about = condition[:, 0] - condition.mean()
    slope = float((about * (read - read.mean())).sum() / about.square().sum())
    if slope <= 0:
        return target
    solved = float(condition.mean()) + (target - float(read.mean())) / slope
    low, high = condition_range(generator)[0].tolist()
    lowest, highest = max(target - width, min(low, target)), min(target + width, max(high, target))
    return min(max(solved, lowest), highest)


def draw_pool(
    generators: Sequence[ConditionalGenerator],
    ensemble: EnsembleSurrogate,
    target: float,
    *,
    size: int,
    rng: torch.Generator,
    temperature: float = 1.0,
) -> Pool:
    """Draw samples for one target from all generators in equal parts, at conditions about their c₀."""
    width = CONDITION_WIDTH * float(ensemble.property_scaler.scale[0])
    drawn = []
    for number, generator in enumerate(generators):
        centre = calibrate(generator, ensemble, target, rng=rng, temperature=temperature)
        share = size // len(generators) + (number < size % len(generators))
        condition = centre + width * torch.randn(share, 1, generator=rng, dtype=torch.float64)
        drawn.append(generator.sample(condition, rng=rng, temperature=temperature).double())
    features = torch.cat(drawn)
    read = ensemble.predict(features)
    assert read.uncertainty is not None
    return Pool(features=features, predicted=read.mean, uncertainty=read.uncertainty)


def miss_probability(
    predicted: Float[Tensor, "n"], uncertainty: Float[Tensor, "n"], *, target: float, tolerance: float
) -> Float[Tensor, "n"]:
    r"""Return the risk :math:`1 - P(|y - t| \le \tau)` for :math:`y \sim \mathcal N(p, u^2)`.

    .. math:: \Phi\!\left(\frac{t - \tau - p}{u}\right) + \Phi\!\left(\frac{p - t - \tau}{u}\right)

    Args:
        predicted: p, in units of the property.
        uncertainty: u > 0.
        target: t.
        tolerance: τ.
    """
    below = torch.special.ndtr((target - tolerance - predicted) / uncertainty)
    above = torch.special.ndtr((predicted - target - tolerance) / uncertainty)
    return below + above


def hit_probability(
    predicted: Float[Tensor, "*n"],
    uncertainty: Float[Tensor, "*n"],
    *,
    lower: Tensor | float,
    upper: Tensor | float,
) -> Float[Tensor, "*n"]:
    r"""Return the probability that a value :math:`y \sim \mathcal N(p, u^2)` is within a range.

    .. math:: \Phi\!\left(\frac{h - p}{u}\right) - \Phi\!\left(\frac{l - p}{u}\right)

    Args:
        predicted: p, in units of the property.
        uncertainty: u > 0; where it is NaN, the result is.
        lower: l, a number or one for each.
        upper: h, likewise.
    """
    normal = torch.special.ndtr
    return normal((upper - predicted) / uncertainty) - normal((lower - predicted) / uncertainty)


def reference_spread(
    features: Float[Tensor, "m f"], properties: Float[Tensor, "m"], *, target: float, tolerance: float
) -> float:
    """Return the mean pairwise distance of the real rows within the tolerance of the target.

    If there are fewer than 5, it is that of the 5 rows with the nearest property.

    Args:
        features: Standardised features of labelled rows.
        properties: Their property.
        target: Target value.
        tolerance: In units of the property.
    """
    error = (properties - target).abs()
    count = max(int((error <= tolerance).sum()), min(REFERENCE_ROWS, len(error)))
    rows = features[error.argsort(stable=True)[:count]]
    return _mean_distance(torch.cdist(rows, rows))


def choose(
    features: Float[Tensor, "n f"],
    risk: Float[Tensor, "n"],
    *,
    count: int,
    spread: float,
    rounds: int = 10,
    bisections: int = 10,
) -> Choice:
    r"""Select the candidates of least risk with a mean pairwise distance of at least ``spread``.

    With the Lagrange multiplier λ of the constraint, the selected set S minimises
    :math:`\sum_{i \in S} r_i - \lambda\, \bar d_i(S)`, where :math:`\bar d_i(S)` is the mean distance of i to
    S. It is approximated by repeatedly taking the ``count`` lowest :math:`r_i - \lambda\,\bar d_i(w)`, w
    being a running average of the sets so far; λ is found by bisection. Of the sets that satisfy the
    constraint, that of least risk is returned. Risks are in units of their standard deviation, distances in
    units of the candidates' mean distance.

    If no λ reaches ``spread``, the set with the largest spread is returned, with ``feasible`` false.

    Args:
        features: Candidates, standardised.
        risk: Quantity to minimise.
        count: Number to select; all if there are no more.
        spread: Required mean pairwise distance.
        rounds: Iterations for each λ.
        bisections: Number of bisection steps.

    Raises:
        InputError: No candidates, or ``count`` is not above zero.
    """
    positive("count", count)
    if len(features) == 0:
        raise InputError("choose: got no candidates, expected at least one.")
    count = min(count, len(features))
    distances = torch.cdist(features.float(), features.float())
    unit = distances.mean().clamp(min=1e-30)
    level = ((risk - risk.mean()) / risk.std(correction=0).clamp(min=1e-12)).float()

    def take(weight: float) -> Choice:
        chosen = level.argsort(stable=True)[:count]
        share = torch.zeros_like(level)
        share[chosen] = 1 / count
        for _ in range(rounds if weight > 0 else 0):
            chosen = (level - weight * (distances @ share) / unit).argsort(stable=True)[:count]
            share *= 0.5
            share[chosen] += 0.5 / count
        rows = chosen[risk[chosen].argsort(stable=True)]
        reached = _mean_distance(distances[rows][:, rows])
        return Choice(rows=rows, spread=reached, weight=weight, feasible=reached >= spread)

    least = take(0.0)
    if least.feasible or count == len(features):
        return least
    low, high = 0.0, LARGEST_WEIGHT
    met = [take(high)]
    for _ in range(bisections):
        # λ spans orders of magnitude: from the first bound on, halve it on a logarithmic scale.
        middle = (low * high) ** 0.5 if low > 0 else high / 10
        tried = take(middle)
        low, high = (low, middle) if tried.feasible else (middle, high)
        met.append(tried)
    kept = [choice for choice in met if choice.feasible]
    if not kept:
        return max(met, key=lambda choice: choice.spread)
    return min(kept, key=lambda choice: float(risk[choice.rows].mean()))


def select(
    generators: Sequence[ConditionalGenerator],
    ensemble: EnsembleSurrogate,
    features: Float[Tensor, "m *shape"],
    properties: Float[Tensor, "m"],
    *,
    target: float,
    count: int,
    tolerance: float,
    pool: int = 20_000,
    spread: float = 0.85,
    temperature: float = 1.4,
    rng: torch.Generator,
) -> Selection:
    """Generate ``count`` samples for one target: a pool, from which accurate and diverse ones are selected.

    Args:
        generators: Trained on the same representation; several seeds give more diversity.
        ensemble: Fitted to labelled rows.
        features: The labelled rows, which define distances.
        properties: Their property.
        target: The value asked for.
        count: Number of samples.
        tolerance: Within this of the target is a hit, in units of the property.
        pool: Size of the pool.
        spread: Required mean pairwise distance, as a fraction of that of the real rows near the target.
            Larger is more diverse, smaller is more accurate.
        temperature: Of the latent noise of the pool.
        rng: Source of all randomness.

    Raises:
        InputError: A pool smaller than ``count``, generators of several properties, numbers below zero.
    """
    positive("tolerance", tolerance)
    positive("count", count)
    positive("spread", spread, allow_zero=True)
    if pool < count:
        raise InputError(f"selection: got a pool of {pool} for {count} samples, expected a larger one.")
    if not generators or any(generator.properties != 1 for generator in generators):
        raise InputError("selection: needs at least one generator, all with one property.")
    known = features.flatten(1).double()
    scaler = FeatureScaler(known.shape[1], "standard").fit(known)
    drawn = draw_pool(generators, ensemble, target, size=pool, rng=rng, temperature=temperature)
    wanted = reference_spread(
        scaler.transform(known),
        properties.double(),
        target=target,
        tolerance=tolerance,
    )
    nearest = (drawn.predicted - target).abs().argsort(stable=True)[: max(MOST_CANDIDATES, count)]
    flat = scaler.transform(drawn.features[nearest].flatten(1))
    risk = miss_probability(
        drawn.predicted[nearest], drawn.uncertainty[nearest], target=target, tolerance=tolerance
    )
    for multiple in CANDIDATES:
        candidates = min(multiple * count, len(nearest))
        choice = choose(flat[:candidates], risk[:candidates], count=count, spread=spread * wanted)
        if choice.feasible:
            break
    chosen = nearest[choice.rows]
    ratio = choice.spread / wanted if wanted > 0 else float("inf")
    advice = ""
    if not choice.feasible:
        advice = (
            f"target {target:g}: the samples' spread is {ratio:.2f} of that of real structures, requested "
            f"was {spread:g}. Remedy: a larger pool or a higher temperature."
        )
    return Selection(
        features=drawn.features[chosen],
        predicted=drawn.predicted[chosen],
        risk=risk[choice.rows],
        candidates=candidates,
        spread_ratio=ratio,
        feasible=choice.feasible,
        advice=advice,
    )


def _mean_distance(distances: Float[Tensor, "n n"]) -> float:
    n = len(distances)
    return float(distances.double().sum()) / (n * (n - 1)) if n > 1 else 0.0
