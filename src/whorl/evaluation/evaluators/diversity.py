"""Novelty and diversity of samples, in standardised features."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from whorl.evaluation.distances import (
    count_distinct,
    mean_pairwise_distance,
    nearest_distances,
    standardized,
)
from whorl.evaluation.diversity import copy_distance, coverage, percent_copies, spread_ratio
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, by_target, number
from whorl.evaluation.results import Diversity
from whorl.evaluation.samples import Reference, Samples
from whorl.evaluation.settings import EvaluatorSettings
from whorl.settings import Positive


class DiversityEvaluator(Evaluator):
    """Copies of training rows, and spread against real data, of generated features and of structures' own.

    Distances are Euclidean in features standardised by the whole labelled set, so that training sizes are
    measured on one scale.
    """

    kind = "diversity"
    of_structures = False

    class Settings(EvaluatorSettings):
        """Settings of the diversity of samples."""

        copy_fraction: Positive = 0.1
        """A sample nearer to a training row than this fraction of the median distance between neighbouring
        training rows is a copy."""

    settings: Settings

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether there are features, generated ones or those of structures."""
        return samples.features is not None or samples.structure_features is not None

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return at each target the diversity of features, and of the features of structures."""
        yardstick = reference.features
        real = standardized(yardstick, yardstick)
        training = standardized(reference.training_features, yardstick)
        distance = copy_distance(training, fraction=self.settings.copy_fraction)

        def numbers(target: float, own: Tensor) -> dict[str, Any]:
            near = real[(reference.properties.double() - target).abs() <= context.tolerance * (1 + 1e-9)]
            parts = {
                "features": (samples.features, own),
                "atoms": (samples.structure_features, own[samples.rows]),
            }
            return {
                name: dataclasses.asdict(
                    _diversity(rows.flatten(1)[chosen], yardstick, training, near, distance)
                )
                for name, (rows, chosen) in parts.items()
                if rows is not None
            }

        return Metrics(
            evaluator=self.kind,
            overall={"copy_distance": distance},
            per_target=by_target(samples.targets, numbers),
        )


def _diversity(
    features: Tensor, yardstick: Tensor, training: Tensor, real: Tensor, distance: float
) -> Diversity:
    features = standardized(features[torch.isfinite(features).all(1)], yardstick)
    ratio, reason = spread_ratio(features, real)
    median = float(nearest_distances(features, training).median()) if len(features) else float("nan")
    return Diversity(
        count=len(features),
        distinct=count_distinct(features, distance),
        percent_copies=number(percent_copies(features, training, distance=distance)),
        median_to_training=number(median),
        spread=number(mean_pairwise_distance(features)),
        real_spread=number(mean_pairwise_distance(real)),
        real_count=len(real),
        ratio=ratio,
        no_ratio=reason,
        coverage=coverage(features, real),
    )
