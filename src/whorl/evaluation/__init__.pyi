from .accuracy import accuracy, count_failed, mean_absolute_error, percent_within
from .agreement import Agreement, agreement
from .cgcnn import CGCNN
from .crystals.settings import MatcherSettings
from .distances import (
    count_distinct,
    mean_pairwise_distance,
    nearest_distances,
    nearest_neighbour_distances,
    nearest_rows,
    standardized,
)
from .distributions import Distribution, compare
from .diversity import copy_distance, coverage, percent_copies, principal_components, spread_ratio
from .duplicates import distinct, first_known, is_known
from .evaluators.base import EvaluationContext, Evaluator
from .metrics import Metrics
from .results import (
    Accuracy,
    Diversity,
    Evaluated,
    Inversion,
    Results,
    SizeResults,
    TargetResults,
    results_of,
)
from .running import evaluate
from .samples import Reference, Samples
from .validity import Validity, check_validity

__all__ = [
    "CGCNN",
    "Accuracy",
    "Agreement",
    "Distribution",
    "Diversity",
    "Evaluated",
    "EvaluationContext",
    "Evaluator",
    "Inversion",
    "MatcherSettings",
    "Metrics",
    "Reference",
    "Results",
    "Samples",
    "SizeResults",
    "TargetResults",
    "Validity",
    "accuracy",
    "agreement",
    "check_validity",
    "compare",
    "copy_distance",
    "count_distinct",
    "count_failed",
    "coverage",
    "distinct",
    "evaluate",
    "first_known",
    "is_known",
    "mean_absolute_error",
    "mean_pairwise_distance",
    "nearest_distances",
    "nearest_neighbour_distances",
    "nearest_rows",
    "percent_copies",
    "percent_within",
    "principal_components",
    "results_of",
    "spread_ratio",
    "standardized",
]
