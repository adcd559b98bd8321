"""Judging what was generated: how near, how new, how different, and whether there are atoms for it."""

from whorl.evaluation.accuracy import (
    count_failed,
    mean_absolute_error,
    percent_within,
)
from whorl.evaluation.agreement import Agreement, agreement
from whorl.evaluation.cgcnn import CGCNN
from whorl.evaluation.crystals import CrystalVerdict, Distribution, MadeCrystals, compare, judge_crystals
from whorl.evaluation.distances import (
    count_distinct,
    mean_pairwise_distance,
    nearest_distances,
    nearest_neighbour_distances,
    nearest_rows,
    standardized,
)
from whorl.evaluation.diversity import copy_distance, percent_copies, principal_components, spread_ratio
from whorl.evaluation.duplicates import distinct, is_known
from whorl.evaluation.protocols import evaluate, is_invalid
from whorl.evaluation.validity import Validity, check_validity
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

__all__ = [
    "CGCNN",
    "Accuracy",
    "Agreement",
    "CrystalVerdict",
    "Distribution",
    "Diversity",
    "Generated",
    "Inversion",
    "MadeCrystals",
    "Reconstructed",
    "SizeVerdict",
    "TargetVerdict",
    "Validity",
    "Verdict",
    "agreement",
    "check_validity",
    "compare",
    "copy_distance",
    "count_distinct",
    "count_failed",
    "distinct",
    "evaluate",
    "is_invalid",
    "is_known",
    "judge_crystals",
    "mean_absolute_error",
    "mean_pairwise_distance",
    "nearest_distances",
    "nearest_neighbour_distances",
    "nearest_rows",
    "percent_copies",
    "percent_within",
    "principal_components",
    "spread_ratio",
    "standardized",
]
