"""What reads each kind of file, and what must hold of what was read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.fuzz_readers import seeds
from whorl.datasets import Dataset, load_dataset, load_features, read_dataset, save_dataset, save_features
from whorl.datasets.extxyz import write_extxyz
from whorl.errors import InputError
from whorl.generators import ConditionalGenerator, load_model, save_model
from whorl.structures import StructureBatch, find_problems
from whorl.surrogates import NetworkSurrogate
from whorl.workflow.recipe import read_recipe, save_recipe
from whorl.workflow.stages.sample import read_rows

LONGEST = 600  # characters of a line of a message, paths included
LONGEST_OF_ALL = 2000  # of a message of several lines


class WrongAcceptError(Exception):
    """Something was read that should have been refused, or that is another after writing and reading."""


def check_structures(structures: StructureBatch | None) -> None:
    problems = {} if structures is None or not len(structures) else find_problems(structures)
    if problems:
        index, reason = next(iter(problems.items()))
        raise WrongAcceptError(f"structure {index} {reason}")


def check_same(first: StructureBatch, second: StructureBatch, how: str, *, digits: float = 0.0) -> None:
    if not torch.equal(first.atomic_numbers, second.atomic_numbers) or not torch.equal(first.pbc, second.pbc):
        raise WrongAcceptError(f"other atoms after {how}")
    for name in ("positions", "cells"):
        a, b = getattr(first, name), getattr(second, name)
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-12, atol=digits, equal_nan=True):
            raise WrongAcceptError(f"other {name} after {how}")


def is_long(message: str) -> bool:
    """Whether a message is too long to read."""
    return len(message) > LONGEST_OF_ALL or any(len(line) > LONGEST for line in message.splitlines())


def check_dataset(dataset: Dataset, folder: Path) -> str:
    for entry in dataset.skipped:
        if is_long(entry.reason):
            raise InputError(entry.reason)
    check_structures(dataset.structures)
    for name, values in dataset.properties.items():
        if not values.isfinite().all():
            raise WrongAcceptError(f"{name} is not finite")
    if dataset.structures is None or not len(dataset):
        return "skipped"
    save_dataset(dataset, folder / "again.safetensors")
    again = load_dataset(folder / "again.safetensors")
    assert again.structures is not None
    check_same(dataset.structures, again.structures, "the store")
    if again.ids != dataset.ids:
        raise WrongAcceptError("other ids after the store")
    write_extxyz(dataset.structures, folder / "again.extxyz", properties=dataset.properties, ids=dataset.ids)
    again = read_dataset(folder / "again.extxyz", property=None)
    if again.structures is None or len(again) != len(dataset):
        raise WrongAcceptError(f"{len(again)} of {len(dataset)} after extxyz: {again.skipped[:1]}")
    check_same(dataset.structures, again.structures, "extxyz", digits=1e-7)
    return "read"


def read_structures(path: Path, folder: Path) -> str:
    dataset = read_dataset(path, property=None)
    return check_dataset(dataset, folder)


def read_labelled(path: Path, folder: Path) -> str:
    return check_dataset(read_dataset(path, property="energy_per_atom"), folder)


def read_either(path: Path, folder: Path) -> str:
    """Read with a property in every second case."""
    return (read_labelled if len(path.read_bytes()) % 2 else read_structures)(path, folder)


def read_a_recipe(path: Path, folder: Path) -> str:
    recipe = read_recipe(path)
    save_recipe(recipe, folder / "again.yaml")
    if read_recipe(folder / "again.yaml") != recipe:
        raise WrongAcceptError("another recipe after writing and reading")
    return "read"


def read_a_dataset(path: Path, folder: Path) -> str:
    dataset = load_dataset(path)
    if dataset.structures is None:
        return "read"
    find_problems(dataset.structures)  # which it may have, but they can be looked for
    save_dataset(dataset, folder / "again.safetensors")
    again = load_dataset(folder / "again.safetensors")
    assert again.structures is not None
    check_same(dataset.structures, again.structures, "the store")
    return "read"


def read_features_file(path: Path, folder: Path) -> str:
    features = load_features(path)
    save_features(features, folder / "again.safetensors")
    again = load_features(folder / "again.safetensors")
    same = (
        torch.equal(again.features.nan_to_num(), features.features.nan_to_num()) and again.ids == features.ids
    )
    if not same or again.representation != features.representation:
        raise WrongAcceptError("other features after writing and reading")
    return "read"


def read_a_model(path: Path, folder: Path) -> str:
    model = load_model(path)
    rng = torch.Generator().manual_seed(0)
    if isinstance(model, ConditionalGenerator):
        model.sample(torch.full((2, model.properties), 0.5), rng=rng)
    else:
        assert isinstance(model, NetworkSurrogate)
        model.predict(torch.ones(2, *model.shape))
    save_model(model, folder / "again.safetensors")
    if load_model(folder / "again.safetensors").config() != model.config():
        raise WrongAcceptError("another model after writing and reading")
    return "read"


def read_a_list_of_rows(path: Path, folder: Path) -> str:
    for name, rows in read_rows(path).items():
        if rows.ndim != 1 or (rows < 0).any():
            raise WrongAcceptError(f"{name} are no rows")
    return "read"


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        seeds: Yields names and contents; the name's suffix is that of the mutated files.
        read: Reads a file and checks what it read; returns ``read`` or ``skipped``.
        store: Whether the files are safetensors.
    """

    seeds: Callable[[Path, Path | None], seeds.Named]
    read: Callable[[Path, Path], str]
    store: bool = False


READERS = {
    "cif": Reader(seeds.cif_seeds, read_structures),
    "poscar": Reader(seeds.poscar_seeds, read_structures),
    "extxyz": Reader(seeds.extxyz_seeds, read_either),
    "csv": Reader(seeds.table_seeds, read_either),
    "database": Reader(seeds.database_seeds, read_either),
    "recipe": Reader(seeds.recipe_seeds, read_a_recipe),
    "dataset": Reader(seeds.dataset_seeds, read_a_dataset, store=True),
    "features": Reader(seeds.feature_seeds, read_features_file, store=True),
    "model": Reader(seeds.model_seeds, read_a_model, store=True),
    "rows": Reader(seeds.row_seeds, read_a_list_of_rows),
}
