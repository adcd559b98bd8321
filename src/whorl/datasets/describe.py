"""Summaries of data sets and feature files."""

from __future__ import annotations

import math
from pathlib import Path

from whorl.datasets import (
    Dataset,
    FeatureSet,
    load_dataset,
    load_features,
)
from whorl.errors import InputError
from whorl.structures.composition import species_of


def counted(count: int, what: str) -> str:
    """Return a number with its noun.

    >>> counted(3785, "structure"), counted(1, "element")
    ('3,785 structures', '1 element')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def summary(table: Dataset | FeatureSet) -> str:
    """Say in one line what a data set or a table of features holds."""
    words = [counted(len(table), "structure")]
    if isinstance(table, FeatureSet):
        words = [f"{counted(len(table), 'row')} of {math.prod(table.features.shape[1:]):,} features"]
    elif table.structures is not None and len(table):
        low, high = (int(bound) for bound in table.structures.n_atoms.aminmax())
        words += [counted(len(species_of(table.structures)), "element")]
        words += [counted(high, "atom") + " each" if low == high else f"{low} to {high} atoms each"]
    if isinstance(table, Dataset) and (share := _with_forces(table)):
        words.append("forces" if share == 1 else f"forces of {share:.0%}")
    for name, values in table.properties.items():
        known = values[values.isfinite()].double()
        if len(known):
            words.append(f"{name} {float(known.min()):.4g} … {float(known.max()):.4g}")
    return ", ".join(words)


def _with_forces(dataset: Dataset) -> float:
    """Return the share of the structures that have forces."""
    if dataset.forces is None or dataset.structures is None:
        return 0.0
    first = dataset.structures.first_atom[dataset.structures.n_atoms > 0]
    return float(dataset.forces[first, 0].isfinite().sum()) / len(dataset)


def describe(path: Path) -> dict[str, str]:
    """Say in a few words what a data set or feature file holds.

    Raises:
        InputError: Neither of them, or damaged.
    """
    table: Dataset | FeatureSet
    try:
        table = load_features(path)
        what = {
            "features": f"{len(table)} rows of shape {tuple(table.features.shape[1:])}",
            "representation": f"{table.representation.get('kind')} ({table.fingerprint})",
        }
    except InputError:
        table = load_dataset(path)
        what = {"structures": str(len(table))}
        if table.structures is not None and len(table):
            counts = table.structures.n_atoms
            what["elements"] = ", ".join(species_of(table.structures))
            what["atoms"] = f"{int(counts.min())} to {int(counts.max())} each"
            what["periodic"] = f"{int(table.structures.pbc.any(1).sum())} of them"
        if share := _with_forces(table):
            what["forces"] = f"of {share:.0%} of them"
        if table.skipped:
            what["skipped"] = f"{len(table.skipped)} entries when it was made"
        if table.doubts:
            what["doubtful"] = f"{len({name for name, _ in table.doubts})} of them"
        what |= {name: str(value) for name, value in table.provenance.items() if not isinstance(value, dict)}
    for name, values in table.properties.items():
        if len(values):
            low, mean, high = (float(v) for v in (values.min(), values.mean(), values.max()))
            what[name] = f"{low:.4g} to {high:.4g}, mean {mean:.4g}"
    return what
