"""Labelled structures: read from files, built with a calculator, sampled, stored."""

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
    "load_dataset",
    "load_features",
    "save_dataset",
    "save_features",
    "write_extxyz",
]
