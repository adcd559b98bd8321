"""Stage ``sampling``: training rows by farthest point sampling, split for validation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from whorl.datasets import (
    farthest_point_sampling,
    load_features,
    split,
)
from whorl.datasets.sampling import training_count
from whorl.errors import InputError
from whorl.evaluation import standardized
from whorl.files import read_json, write_json
from whorl.generators.training import MINIMUM_ROWS
from whorl.seeds import derive_seed
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder


def require_enough(size: int | None, there: int, fraction: float) -> None:
    """Check that ``there`` rows suffice for a training size (all of them for None).

    Raises:
        InputError: The training size exceeds the rows, or there are fewer than 10 training rows.
    """
    if size is not None and size > there:
        raise InputError(
            f"the training size is {size}, but the data set has {there} usable rows. Ask for at "
            f"most {there}, or for 'all'."
        )
    rows = there if size is None else size
    train = training_count(rows, fraction)
    if train < MINIMUM_ROWS:
        raise InputError(
            f"{train} rows to train on ({rows} in all, {fraction:g} of them to train), expected at "
            f"least {MINIMUM_ROWS}. Give more data or a larger training size."
        )


def training_rows(
    features: Path, *, size: int | None, fraction: float, seed: int, output: Path, monitor: Monitor
) -> None:
    """Select ``size`` rows by farthest point sampling (all for None) and split off validation rows.

    Rows that are not finite are reported and skipped.

    Raises:
        InputError: More rows asked for than there are, or fewer than 10 to train on.
    """
    rows_there = load_features(features)
    flat = rows_there.features.flatten(1)
    finite = flat.isfinite().all(1)
    for row in torch.nonzero(~finite).flatten().tolist():
        monitor.skip(rows_there.ids[row], "its features are not finite")
    rows = torch.nonzero(finite).flatten()
    require_enough(size, len(rows), fraction)
    if size is not None:
        usable = flat[rows]
        rows = rows[
            farthest_point_sampling(standardized(usable, usable), size, seed=derive_seed(seed, "fps"))
        ]
    train, validation = split(len(rows), fraction=fraction, seed=derive_seed(seed, "split", size))
    write_json(
        output,
        {
            "features": rows_there.fingerprint,
            "rows": rows.tolist(),
            "train": rows[train].tolist(),
            "validation": rows[validation].tolist(),
        },
    )


def read_rows(path: Path) -> dict[str, Tensor]:
    """Read ``rows``, ``train`` and ``validation`` as written by :func:`training_rows`."""
    data = read_json(path)
    try:
        rows = {name: data[name] for name in ("rows", "train", "validation")}
        if any(type(row) is not int or not 0 <= row < 2**63 for part in rows.values() for row in part):
            raise ValueError("no row numbers")
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a list of training rows; make it with 'whorl data sample'.") from None
    return {name: torch.tensor(part, dtype=torch.int64) for name, part in rows.items()}


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each training size."""
    seed, fraction = run.recipe.seed, run.recipe.sampling.split
    for label, size in run.recipe.sizes.items():
        yield Step(
            name=f"sampling/{label}",
            settings={"seed": seed, "size": size, "split": fraction},
            run=partial(
                training_rows, run.features, size=size, fraction=fraction, seed=seed, output=run.rows(label)
            ),
            needs=("encode",),
        )
