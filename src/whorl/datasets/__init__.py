"""Labelled structures: read from files, built with a calculator, sampled, stored."""

from whorl.datasets.clusters import build_clusters
from whorl.datasets.crystal_files import write_crystals
from whorl.datasets.extxyz import write_extxyz
from whorl.datasets.fetch import fetch_benchmark
from whorl.datasets.prototypes import build_crystals
from whorl.datasets.readers import FORMATS, read_dataset, read_entries, read_features
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
    "build_crystals",
    "farthest_point_sampling",
    "fetch_benchmark",
    "load_dataset",
    "load_features",
    "read_dataset",
    "read_entries",
    "read_features",
    "save_dataset",
    "save_features",
    "split",
    "write_crystals",
    "write_extxyz",
]
