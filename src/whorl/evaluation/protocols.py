"""The protocol of Fung et al. 2022: judge features by a surrogate, atoms by an energy method, as they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.accuracy import count_failed, mean_absolute_error, percent_within
from whorl.evaluation.distances import (
    count_distinct,
    mean_pairwise_distance,
    nearest_distances,
    standardized,
)
from whorl.evaluation.diversity import copy_distance, percent_copies, spread_ratio
from whorl.evaluation.verdict import (
    Accuracy,
    Diversity,
    Generated,
    Inversion,
    Reconstructed,
    SizeVerdict,
    TargetVerdict,
    Verdict,
)
from whorl.surrogates.errors import PredictionErrors

_UNITS = {"formation energy": "eV/atom"}
_UNUSABLE = ("invalid", "failed")
_SLACK = 0.1  # of the tolerance: a target this little outside the training range is not outside


def evaluate(
    sizes: Mapping[str, Generated],
    *,
    data_features: Float[Tensor, "N F"],
    data_properties: Float[Tensor, "N"],
    property: str = "formation energy",
    unit: str | None = None,
    tolerance: float = 0.1,
    window: float = 0.1,
    copy_fraction: float = 0.1,
    surrogate_errors: PredictionErrors | None = None,
) -> Verdict:
    """Judge what was generated, for every training size and target.

    Nothing is screened: samples whose search for atoms failed, and those the potential failed on, stay in the
    count and are not within the tolerance. Distances are Euclidean in features standardised by the whole
    labelled set, so that training sizes are measured with one yardstick.

    Args:
        sizes: What was generated, by the label of the training size, such as ``"n300"``.
        data_features: Of the whole labelled set.
        data_properties: Of the same.
        property: Its name, for people.
        unit: Its unit; by default eV/atom for the formation energy, and none for anything else.
        tolerance: Within this of the target is a hit.
        window: Real data within this of a target are what the samples' spread is compared with.
        copy_fraction: A sample nearer to a training row than this fraction of the median nearest-neighbour
            distance within the training rows is a copy.
        surrogate_errors: Of the surrogate, on labelled structures.

    Raises:
        InputError: No training size, no rows, or numbers of rows or features that do not fit together.
    """
    if not sizes:
        raise InputError("evaluate: got no training sizes, expected at least one.")
    if len(data_features) == 0 or len(data_features) != len(data_properties):
        raise InputError(
            f"evaluate: got {len(data_features)} rows of features and {len(data_properties)} properties, "
            "expected as many, and at least one."
        )
    real = standardized(data_features, data_features)
    warnings: list[str] = []
    if surrogate_errors is not None and surrogate_errors.warning:
        warnings.append(surrogate_errors.warning)
    judged = {}
    for label, generated in sizes.items():
        _check(label, generated, data_features.shape[1])
        judged[label] = _judge_size(
            generated,
            name=f"{label}: " if len(sizes) > 1 else "",
            yardstick=data_features,
            real=real,
            real_properties=data_properties,
            tolerance=tolerance,
            window=window,
            copy_fraction=copy_fraction,
            warnings=warnings,
        )
    return Verdict(
        property=property,
        unit=unit if unit is not None else _UNITS.get(property, ""),
        tolerance=tolerance,
        window=window,
        data_rows=len(data_properties),
        data_range=_range(data_properties),
        sizes=judged,
        warnings=tuple(warnings),
        surrogate_errors=surrogate_errors,
    )


def _check(label: str, generated: Generated, n_features: int) -> None:
    n, m = len(generated.targets), len(generated.training_properties)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "features": (tuple(generated.features.shape), (n, n_features)),
        "training_features": (tuple(generated.training_features.shape), (m, n_features)),
    }
    if generated.predicted is not None:
        shapes["predicted"] = (tuple(generated.predicted.shape), (n,))
    if (found := generated.reconstructed) is not None:
        k = len(found.rows)
        shapes["reconstructed.loss"] = (tuple(found.loss.shape), (k,))
        shapes["reconstructed.status"] = ((len(found.status),), (k,))
        if found.energy is not None:
            shapes["reconstructed.energy"] = (tuple(found.energy.shape), (k,))
        if found.features is not None:
            shapes["reconstructed.features"] = (tuple(found.features.shape), (k, n_features))
        if found.structures is not None:
            shapes["reconstructed.structures"] = ((len(found.structures),), (k,))
        if k and (int(found.rows.min()) < 0 or int(found.rows.max()) >= n):
            raise InputError(
                f"evaluate, {label}: reconstructed.rows point outside the {n} generated samples."
            )
    for name, (got, expected) in shapes.items():
        if got != expected:
            raise InputError(f"evaluate, {label}: {name} has shape {got}, expected {expected}.")
    if n == 0 or m == 0:
        raise InputError(f"evaluate, {label}: got {n} samples and {m} training rows, expected some of both.")


def _judge_size(
    generated: Generated,
    *,
    name: str,
    yardstick: Tensor,
    real: Tensor,
    real_properties: Tensor,
    tolerance: float,
    window: float,
    copy_fraction: float,
    warnings: list[str],
) -> SizeVerdict:
    training = standardized(generated.training_features, yardstick)
    copy = copy_distance(training, fraction=copy_fraction)
    low, high = _range(generated.training_properties)
    found = generated.reconstructed
    targets = []
    for target in torch.unique(generated.targets.double()).tolist():
        chosen = generated.targets.double() == target
        near = (real_properties.double() - target).abs() <= window * (1 + 1e-9)
        in_range = low - _SLACK * tolerance <= target <= high + _SLACK * tolerance
        atoms: dict[str, Any] = dict.fromkeys(
            ("potential", "potential_valid", "inversion", "diversity_atoms")
        )
        if found is not None:
            searched = chosen[found.rows]
            atoms["inversion"] = _inversion(found, searched)
            atoms["potential"] = _accuracy(found.energy, searched, target, tolerance)
            atoms["potential_valid"] = _accuracy(
                found.energy, searched & ~is_invalid(found), target, tolerance
            )
            if found.features is not None:
                atoms["diversity_atoms"] = _diversity(
                    found.features[searched], yardstick, training, real[near], distance=copy
                )
        targets.append(
            TargetVerdict(
                target=target,
                in_training_range=in_range,
                surrogate=_accuracy(generated.predicted, chosen, target, tolerance),
                diversity=_diversity(
                    generated.features[chosen], yardstick, training, real[near], distance=copy
                ),
                **atoms,
            )
        )
    if outside := [f"{target.target:g}" for target in targets if not target.in_training_range]:
        warnings.append(
            f"{name}targets outside the training range ({low:.4g} to {high:.4g}): {', '.join(outside)}. "
            "The generator extrapolates there."
        )
    lost = int((~torch.isfinite(generated.features).all(1)).sum())
    if lost:
        warnings.append(f"{name}{lost} of {len(generated.features)} generated samples are not finite.")
    if found is not None and found.failures:
        first = min(found.failures)
        warnings.append(
            f"{name}the energy method failed on {len(found.failures)} of {len(found.rows)} structures, which "
            f"count as misses (first: structure {first}: {found.failures[first]})."
        )
    return SizeVerdict(
        training_rows=len(generated.training_properties),
        training_range=(low, high),
        copy_distance=copy,
        invalid_above=found.invalid_above if found is not None else None,
        targets=tuple(targets),
    )


def is_invalid(found: Reconstructed) -> Tensor:
    """Return which samples have no atoms, shape (k,): loss above the threshold, or the search failed."""
    flagged = torch.tensor([status in _UNUSABLE for status in found.status], dtype=torch.bool)
    flagged |= torch.isinf(found.loss)  # NaN is that of a closed form, which has none
    if found.invalid_above is not None:
        flagged |= found.loss > found.invalid_above
    return flagged


def _accuracy(values: Tensor | None, chosen: Tensor, target: float, tolerance: float) -> Accuracy | None:
    if values is None:
        return None
    values = values[chosen].double()
    finite = values[torch.isfinite(values)]
    return Accuracy(
        count=len(values),
        failed=count_failed(values),
        mean_absolute_error=_number(mean_absolute_error(values, target)),
        percent_within=_number(percent_within(values, target, tolerance)),
        mean=_number(float(finite.mean())),
    )


def _inversion(found: Reconstructed, chosen: Tensor) -> Inversion | None:
    if bool(found.loss.isnan().all()):  # nothing was searched for
        return None
    count = int(chosen.sum())
    invalid = int((is_invalid(found) & chosen).sum())
    status = Counter(found.status[i] for i in torch.nonzero(chosen).flatten().tolist())
    loss = found.loss[chosen].double()
    loss = loss[torch.isfinite(loss)]
    known = count > 0 and (found.invalid_above is not None or invalid > 0)
    return Inversion(
        count=count,
        invalid=invalid,
        percent_invalid=100 * invalid / count if known else None,
        status=dict(sorted(status.items())),
        median_loss=float(loss.median()) if len(loss) else None,
    )


def _diversity(
    features: Tensor, yardstick: Tensor, training: Tensor, real: Tensor, *, distance: float
) -> Diversity:
    features = standardized(features[torch.isfinite(features).all(1)], yardstick)
    ratio, reason = spread_ratio(features, real)
    median = float(nearest_distances(features, training).median()) if len(features) else float("nan")
    return Diversity(
        count=len(features),
        distinct=count_distinct(features, distance),
        percent_copies=_number(percent_copies(features, training, distance=distance)),
        median_to_training=_number(median),
        spread=_number(mean_pairwise_distance(features)),
        real_spread=_number(mean_pairwise_distance(real)),
        real_count=len(real),
        ratio=ratio,
        no_ratio=reason,
    )


def _range(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _number(value: float) -> float | None:
    """Return ``None`` for NaN: what is not defined is no number, in JSON either."""
    return value if math.isfinite(value) else None
