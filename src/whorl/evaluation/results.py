"""Results of a run in plain numbers: the metrics of all evaluators, by training size and target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.samples import Reference, Samples
from whorl.surrogates.base import QUANTILE
from whorl.surrogates.errors import PredictionErrors

ARM_EVALUATORS = ("energy", "validity", "uniqueness", "novelty", "diversity")
"""Evaluators of the structures that are compared."""

_FORMAT = "whorl results 2"
_UNITS = {"formation energy": "eV/atom"}
_SLACK = 0.1  # of the tolerance: a target this little outside the training range is not outside


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The samples of one generator, the reference data, and the metrics of evaluators.

    Attributes:
        samples: Of the generator.
        reference: The real data, with the rows that the generator was given.
        metrics: By the kind of the evaluator.
        arms: Structures to compare, by what was done: ``plain`` as they were reconstructed, those after each
            refiner, and the ``baseline`` of random training structures; each with the metrics of
            :data:`ARM_EVALUATORS`, and ``prediction``, with the columns ``value`` and ``uncertainty`` of the
            surrogate of structures.
    """

    samples: Samples
    reference: Reference
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    arms: Mapping[str, Evaluated] = field(default_factory=dict)

    def values(self, evaluator: str, column: str = "value") -> Tensor | None:
        """Return a column of numbers, of samples or of structures, NaN where there is none; or None."""
        metrics = self.metrics.get(evaluator)
        return None if metrics is None else metrics.values(column)

    def failures(self) -> dict[int, str]:
        """Return why the energy method failed, by structure."""
        column = self.metrics["energy"].per_structure["failure"] if "energy" in self.metrics else []
        return {row: reason for row, reason in enumerate(column) if reason is not None}


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy of a set of samples for one target.

    Attributes:
        count: Samples, with a value or without.
        failed: Of them, those without a value; they count as not within.
        mean_absolute_error: Of the others; ``None`` when there are none.
        percent_within: Of all samples; ``None`` when there are none.
        mean: Mean of the values.
    """

    count: int
    failed: int
    mean_absolute_error: float | None
    percent_within: float | None
    mean: float | None


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Results of the search for structures of one target.

    Attributes:
        count: Samples searched.
        invalid: Of them, those whose loss is above the threshold or that failed.
        percent_invalid: ``None`` where no threshold was determined and none failed.
        status: Number of searches by how they ended.
        median_loss: ``None`` when none is finite.
    """

    count: int
    invalid: int
    percent_invalid: float | None
    status: Mapping[str, int]
    median_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Novelty and diversity of a set of samples, in standardised features.

    Attributes:
        count: Samples with finite features.
        distinct: Groups of samples that are not copies of one another.
        percent_copies: Share that is a copy of a training row.
        median_to_training: Median distance to the nearest training row.
        spread: Mean distance of two samples.
        real_spread: The same of the real data with the property asked for.
        real_count: How many those are.
        ratio: ``spread / real_spread``.
        no_ratio: Why there is none.
        coverage: Share of the real data with the property asked for that have a sample among their nearest
            neighbours, 0 to 1.
    """

    count: int
    distinct: int
    percent_copies: float | None
    median_to_training: float | None
    spread: float | None
    real_spread: float | None
    real_count: int
    ratio: float | None
    no_ratio: str | None
    coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Structures for one target: accuracy by the energy method, cost and diversity; None where not evaluated.

    Attributes:
        count: Structures, with a value or without.
        percent_within: Of all of them.
        mean_absolute_error: Of those with a value; ``None`` when there are none.
        energy_calls: Mean number of calls of the energy method that refinement spent on a structure, and on
            the samples that it took the place of.
        labels: Labelled structures spent in all: training rows, active rounds, and what refiners computed.
        draws: Samples, or training structures, that were drawn for these structures.
        displacement: Mean of the root mean square distances, in Å, that refinement moved atoms.
        percent_whole: Clusters in one piece.
        unique: Share of structures that are no duplicates of others, 0 to 1: distinct ones over all.
        copies: Number that match a structure the generator was trained on.
        spread_ratio: Mean distance of the features of two structures, over that of the real data with the
            property asked for.
        coverage: Share of these real data that have a structure among their nearest neighbours, 0 to 1.
        interval_coverage: Share of structures whose value is within the 90 % interval that the surrogate of
            structures states, 0 to 1.
    """

    count: int
    percent_within: float | None
    mean_absolute_error: float | None
    energy_calls: float
    labels: int
    draws: int
    displacement: float
    percent_whole: float | None
    unique: float | None = None
    copies: int | None = None
    spread_ratio: float | None = None
    coverage: float | None = None
    interval_coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class TargetResults:
    """Results at one target; ``None`` where nothing was evaluated so.

    Attributes:
        target: Target value.
        in_training_range: Whether training data reached it.
        surrogate: Generated features by the surrogate (table 1 of Fung et al. 2022).
        potential: Structures by the energy method, none left out (table 2).
        potential_valid: The same without those called invalid.
        inversion: The search for structures.
        diversity: Of the generated features.
        diversity_atoms: Of the features of the structures.
        metrics: Numbers of other evaluators, by kind.
        arms: Structures to compare, by what was done, with what they cost.
    """

    target: float
    in_training_range: bool
    surrogate: Accuracy | None = None
    potential: Accuracy | None = None
    potential_valid: Accuracy | None = None
    inversion: Inversion | None = None
    diversity: Diversity | None = None
    diversity_atoms: Diversity | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    arms: Mapping[str, Arm] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SizeResults:
    """Results of one training size.

    Attributes:
        training_rows: Rows the generator was given.
        training_range: Smallest and largest property among them.
        copy_distance: Below it a sample is a copy of a training row; ``None`` where that was not asked.
        invalid_above: Loss above which a structure is called invalid.
        targets: In ascending order.
        metrics: Numbers of each evaluator that concern all samples, by kind.
    """

    training_rows: int
    training_range: tuple[float, float]
    copy_distance: float | None
    invalid_above: float | None
    targets: tuple[TargetResults, ...]
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results of a run, as plain numbers.

    Attributes:
        property: Name of the property.
        unit: Of it.
        tolerance: A sample within this distance of the target is a hit.
        window: The spread of samples is compared with that of real data within this distance of the target.
        data_rows: Labelled structures in all.
        data_range: Smallest and largest property among them.
        sizes: By the label of the training size.
        warnings: Warnings for the reader.
        surrogate_errors: Of the surrogate, on labelled structures; ``None`` without one.
    """

    property: str
    unit: str
    tolerance: float
    window: float
    data_rows: int
    data_range: tuple[float, float]
    sizes: Mapping[str, SizeResults]
    warnings: tuple[str, ...] = ()
    surrogate_errors: PredictionErrors | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Results:
        """Build it from what :meth:`to_dict` returned; ``provenance`` written with it is passed over.

        Raises:
            InputError: Other data, or of another version.
        """
        if data.get("format") != _FORMAT:
            raise InputError(
                f"results: got format {data.get('format')!r}, expected {_FORMAT!r}. Evaluate again."
            )
        try:
            sizes = {label: _size_from(size) for label, size in data["sizes"].items()}
            rest = {n: value for n, value in data.items() if n not in ("format", "sizes", "provenance")}
            low, high = rest.pop("data_range")
            if (errors := rest.get("surrogate_errors")) is not None:
                rest["surrogate_errors"] = PredictionErrors(**errors)
            return cls(
                **{**rest, "warnings": tuple(rest.get("warnings", ()))}, data_range=(low, high), sizes=sizes
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"results: incomplete or changed data ({error}). Evaluate again.") from error


def results_of(evaluated: Mapping[str, Evaluated], *, tolerance: float, unit: str | None = None) -> Results:
    """Put the metrics of all training sizes together.

    Args:
        evaluated: By the label of the training size, such as ``"n300"``; of the same real data.
        tolerance: Within this of the target is a hit.
        unit: Of the property; by default eV/atom for the formation energy, and none for anything else.

    Raises:
        InputError: No training size, or no samples, real data or training rows.
    """
    if not evaluated:
        raise InputError("results: got no training sizes, expected at least one.")
    reference = next(iter(evaluated.values())).reference
    name = reference.name.replace("_", " ")
    surrogate = [of.metrics["surrogate"] for of in evaluated.values() if "surrogate" in of.metrics]
    errors = surrogate[0].overall.get("errors") if surrogate else None
    by_label: dict[str, tuple[str, ...]] = {}
    sizes = {}
    for label, of in evaluated.items():
        sizes[label], warnings = _size_of(label, of, tolerance)
        by_label[label] = (*warnings, *(text for metrics in of.metrics.values() for text in metrics.warnings))
    return Results(
        property=name,
        unit=unit if unit is not None else reference.unit or _UNITS.get(name, ""),
        tolerance=tolerance,
        window=tolerance,
        data_rows=len(reference.properties),
        data_range=_range(reference.properties),
        sizes=sizes,
        warnings=_without_repeats(by_label),
        surrogate_errors=None if errors is None else PredictionErrors(**errors),
    )


def _size_of(label: str, of: Evaluated, tolerance: float) -> tuple[SizeResults, list[str]]:
    samples, properties = of.samples, of.reference.training_properties
    if not len(samples) or not len(properties):
        raise InputError(
            f"results, {label}: got {len(samples)} samples and {len(properties)} training rows, expected "
            "some of both."
        )
    low, high = _range(properties)
    targets = []
    for target in torch.unique(samples.targets.double()).tolist():
        there = {kind: metrics.at(target) for kind, metrics in of.metrics.items() if metrics.at(target)}
        energy, diversity = dict(there.pop("energy", {})), there.pop("diversity", {})
        valid = energy.pop("valid", None)
        targets.append(
            TargetResults(
                target=target,
                in_training_range=low - _SLACK * tolerance <= target <= high + _SLACK * tolerance,
                surrogate=_made(Accuracy, there.pop("surrogate", None)),
                potential=_made(Accuracy, energy),
                potential_valid=_made(Accuracy, valid),
                inversion=_made(Inversion, there.pop("reconstruction", None)),
                diversity=_made(Diversity, diversity.get("features")),
                diversity_atoms=_made(Diversity, diversity.get("atoms")),
                metrics=there,
                arms={name: arm_of(arm, target, labels=len(properties)) for name, arm in of.arms.items()},
            )
        )
    warnings = []
    if outside := [f"{target.target:g}" for target in targets if not target.in_training_range]:
        warnings.append(
            f"targets outside the training range ({low:.4g} to {high:.4g}): {', '.join(outside)}. "
            "The generator extrapolates there."
        )
    if samples.features is not None:
        lost = int((~torch.isfinite(samples.features.flatten(1)).all(1)).sum())
        if lost:
            warnings.append(f"{lost} of {len(samples)} generated samples are not finite.")
    overall = {kind: metrics.overall for kind, metrics in of.metrics.items() if metrics.overall}
    return (
        SizeResults(
            training_rows=len(properties),
            training_range=(low, high),
            copy_distance=overall.get("diversity", {}).get("copy_distance"),
            invalid_above=samples.invalid_above,
            targets=tuple(targets),
            metrics=overall,
        ),
        warnings,
    )


def arm_of(of: Evaluated, target: float, *, labels: int) -> Arm:
    """Return the results of one arm at one target."""
    samples, near = of.samples, of.metrics["energy"].at(target)
    own = samples.structure_targets == target
    count = int(own.sum())
    diversity = of.metrics["diversity"].at(target).get("atoms", {}) if "diversity" in of.metrics else {}

    def column(evaluator: str, name: str) -> list[Any]:
        """Return what is known of the own structures."""
        values = of.metrics[evaluator].per_structure.get(name, []) if evaluator in of.metrics else []
        return [
            value for value, here in zip(values, own.tolist(), strict=False) if here and value is not None
        ]

    groups, copies, pieces = (
        column("uniqueness", "group"),
        column("novelty", "copy"),
        column("validity", "pieces"),
    )

    def mean(column: Tensor | None) -> float:
        return 0.0 if column is None or not count else float(column[own].double().mean())

    return Arm(
        count=count,
        percent_within=near.get("percent_within"),
        mean_absolute_error=near.get("mean_absolute_error"),
        energy_calls=mean(samples.energy_calls),
        labels=labels + samples.further_labels,
        draws=count if samples.draws is None else int(samples.draws[own].sum()),
        displacement=mean(samples.displacement),
        percent_whole=100 * pieces.count(1) / len(pieces) if pieces else None,
        unique=len(set(groups)) / count if groups else None,
        copies=sum(copies) if copies else None,
        spread_ratio=diversity.get("ratio"),
        coverage=diversity.get("coverage"),
        interval_coverage=_interval_coverage(of, own),
    )


def _interval_coverage(of: Evaluated, own: Tensor) -> float | None:
    """Return the share of values within the 90 % interval of their prediction."""
    true, predicted = of.values("energy"), of.values("prediction")
    uncertainty = of.values("prediction", "uncertainty")
    if true is None or predicted is None or uncertainty is None:
        return None
    errors = (true - predicted).abs()[own]
    known = errors.isfinite()
    inside = errors <= QUANTILE * uncertainty[own]
    return float(inside[known].double().mean()) if bool(known.any()) else None


def _without_repeats(warnings: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the warnings of all training sizes; those of some name them."""
    different = dict.fromkeys(text for texts in warnings.values() for text in texts)
    labels = {text: [label for label, texts in warnings.items() if text in texts] for text in different}
    return tuple(
        text if len(of) == len(warnings) else f"{', '.join(of)}: {text}" for text, of in labels.items()
    )


def _made(kind: type[Any], values: Mapping[str, Any] | None) -> Any:
    return kind(**values) if values else None


def _size_from(data: Mapping[str, Any]) -> SizeResults:
    low, high = data["training_range"]
    targets = tuple(_target_from(target) for target in data["targets"])
    return SizeResults(**{**data, "training_range": (low, high), "targets": targets})


def _target_from(data: Mapping[str, Any]) -> TargetResults:
    parts = {
        "surrogate": Accuracy,
        "potential": Accuracy,
        "potential_valid": Accuracy,
        "inversion": Inversion,
        "diversity": Diversity,
        "diversity_atoms": Diversity,
    }
    made = {name: _made(kind, data[name]) for name, kind in parts.items()}
    arms = {name: Arm(**arm) for name, arm in data.get("arms", {}).items()}
    return TargetResults(**{**data, **made, "arms": arms})


def _range(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())
