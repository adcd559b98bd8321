"""Labelled structures: read from files, built with a calculator, sampled, stored."""

from whorl.datasets.clusters import build_clusters
from whorl.datasets.extxyz import write_extxyz
from whorl.datasets.readers import FORMATS, read_dataset, read_features
from whorl.datasets.sampling import farthest_point_sampling, split
from whorl.datasets.store import (
    Dataset,
    FeatureSet,
    Skipped,
    load_dataset,
    load_features,
    save_dataset,
    save_features,
)

__all__ = [
    "FORMATS",
    "Dataset",
    "FeatureSet",
    "Skipped",
    "build_clusters",
    "farthest_point_sampling",
    "load_dataset",
    "load_features",
    "read_dataset",
    "read_features",
    "save_dataset",
    "save_features",
    "split",
    "write_extxyz",
]
