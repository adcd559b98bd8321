"""Labelled structures: read from files, built with a calculator, sampled, stored."""

from whorl.datasets.clusters import build_clusters
from whorl.datasets.sampling import farthest_point_sampling, split
from whorl.datasets.store import (
    Dataset,
    FeatureSet,
    Skipped,
    load_dataset,
    load_features,
    save_dataset,
    save_features,
    write_extxyz,
)

__all__ = [
    "Dataset",
    "FeatureSet",
    "Skipped",
    "build_clusters",
    "farthest_point_sampling",
    "load_dataset",
    "load_features",
    "save_dataset",
    "save_features",
    "split",
    "write_extxyz",
]
