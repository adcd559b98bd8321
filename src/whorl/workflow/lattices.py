"""Likely lattices of a search with free cells, from the crystals of the data."""

from __future__ import annotations

import math

import numpy as np
import torch

from whorl.datasets import FeatureSet
from whorl.proposals.cells import CellModel
from whorl.reconstruction.population.target_search import PopulationSettings
from whorl.reconstruction.settings import SearchSettings
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.structures.composition import composition, formula_of_all
from whorl.symmetry.space_groups import Lattices

_DRAWN = 64  # for each sample


def likely_lattices(
    samples: FeatureSet,
    templates: StructureBatch,
    *,
    real: FeatureSet,
    known: StructureBatch,
    settings: SearchSettings,
    starts: bool,
    seed: int,
) -> tuple[Lattices | None, ...] | None:
    """Return for each sample lattices that are likely for its formula and target.

    Args:
        samples: The features.
        templates: Their compositions.
        real: Features of the data.
        known: The structures of these.
        settings: Of the search; a space group that it keeps is that of all lattices.
        starts: Whether each sample has initial structures: a small budget then leaves nothing for others.
        seed: Of all randomness.

    Returns:
        None where random starts have no free cells, or none are tried.
    """
    budget = getattr(settings, "budget_evaluations", 0)
    if not bool(known.pbc.all(1).any()) or (starts and budget <= PopulationSettings().opening_evaluations):
        return None
    (values,) = real.properties.values() if len(real.properties) == 1 else (None,)
    model = CellModel(known, values)
    targets = samples.properties.get("target")
    group = getattr(settings, "space_group", None)
    lattices: list[Lattices | None] = []
    for row, (name, one) in enumerate(zip(samples.ids, templates, strict=True)):
        target = math.nan if targets is None else float(targets[row])
        drawn = model.sample(
            composition(formula_of_all(one)),
            count=_DRAWN,
            rng=np.random.default_rng(derive_seed(seed, "lattices", name)),
            value=None if math.isnan(target) else target,
        )
        if group is not None:
            some = torch.nonzero(drawn.space_groups == group).flatten()
            drawn = Lattices(cells=drawn.cells[some], space_groups=drawn.space_groups[some])
        lattices.append(drawn if len(drawn) else None)
    return tuple(lattices)
