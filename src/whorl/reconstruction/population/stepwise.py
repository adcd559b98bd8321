r"""Stepwise starts: the species of a crystal placed one after another.

Features between some species do not depend on the others, so that those of the fewest atoms can be placed
first, with few coordinates and at little cost, and each partial arrangement be improved by its own features.
Where the symmetry is wrong, or the place of an atom, no partial arrangement fits; those which do go on with
the next species, until all atoms are there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.reconstruction.population.moves import push_apart
from whorl.reconstruction.population.target_search import Jobs
from whorl.symmetry.groups import Group, symmetric_arrangement
from whorl.symmetry.space_groups import random_group, settings_of

if TYPE_CHECKING:
    from whorl.reconstruction.population.search import _Search

_GROUPS = 96  # drawn
_DRAWS = 400  # of a group, until as many are found into which the atoms fit
_TRIES = 768  # arrangements of a step that are compared with the target
_IMPROVED = 48  # of these
_KEPT = 24  # of these, that go on
_FITS, _FITTING = 1e-8, 1e-4  # loss of the best from which on only those below the second go on
_SAME = 1e-9  # relative difference of features that do not depend on the species left out

Partial = tuple[Group, Float[np.ndarray, "m 3"]]  # fractional coordinates of the atoms that are there


def stepwise_starts(
    search: _Search, positions: Float[Tensor, "C n 3"], features: Float[Tensor, "C F"]
) -> Jobs | None:
    """Return starts of a crystal in its cell whose species were placed one after another, with losses.

    ``None`` where the features do not tell species apart, or there is only one.

    Args:
        search: For the crystal, with the weights of its features.
        positions: Some arrangements, which show what features depend on which species.
        features: Theirs.
    """
    target = search.target
    numbers = target.atoms.numbers.cpu().numpy()
    cell = target.template.cells[0].double().cpu().numpy()
    species, counts = np.unique(numbers, return_counts=True)
    order = species[np.argsort(counts, kind="stable")]
    parts = [_part(search, np.isin(numbers, order[: k + 1]), positions, features) for k in range(len(order))]
    if len(order) < 2 or not any(bool((part.weights > 0).any()) for part in parts[:-1]):
        return None
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=target.rng)))
    partial: list[Partial] = [
        (group, np.zeros((0, 3))) for group in _fitting_groups(search, numbers, cell, draw)
    ]
    jobs = Jobs(target, [], [], [])
    for part, z in zip(parts, order, strict=True):
        jobs = _with_species(search, part, int(z), partial, cell, draw)
        share = len(part.target.atoms.numbers) / len(numbers)
        target.evaluations += math.ceil(share * part.target.evaluations)
        kept = _kept(jobs)
        partial = [
            (group, jobs.positions[k].double().cpu().numpy() @ np.linalg.inv(cell))
            for k in kept
            if (group := jobs.groups[k]) is not None
        ]
        if not partial:
            return None
    return jobs


def _part(search: _Search, present: Bool[np.ndarray, "n"], positions: Tensor, features: Tensor) -> _Search:
    """Return the search for some of the atoms alone, by the features that do not depend on the others."""
    which = torch.from_numpy(np.flatnonzero(present)).to(positions.device)
    part = search.of_atoms(which)
    if present.all():
        return part
    some = list(positions[:, which])
    cells = [search.target.template.cells[0]] * len(some)
    alone = part.features_of(Jobs(part.target, some, cells, [None] * len(some)))
    size = features.abs().amax(0)
    own = ((alone - features).abs().amax(0) <= _SAME * size) & (size > 0)
    part.weights = part.weights * own
    return part


def _fitting_groups(
    search: _Search, numbers: np.ndarray, cell: np.ndarray, draw: np.random.Generator
) -> Iterator[Group]:
    """Yield groups whose orbits all atoms can fill."""
    atoms, found = search.target.atoms, 0
    settings = settings_of(atoms.space_group, cell) if atoms.space_group is not None else None
    for _ in range(_DRAWS):
        group = random_group(cell, draw) if settings is None else settings[int(draw.integers(len(settings)))]
        if symmetric_arrangement(numbers, group, draw, alike=atoms.alike) is not None:
            found += 1
            yield group
        if found == _GROUPS:
            return


def _with_species(
    search: _Search,
    part: _Search,
    z: int,
    partial: Sequence[Partial],
    cell: np.ndarray,
    draw: np.random.Generator,
) -> Jobs:
    """Return partial arrangements to which the atoms of a species were added, improved."""
    atoms = part.target.atoms
    numbers = atoms.numbers.cpu().numpy()
    new = numbers == z
    tried, parents = Jobs(part.target, [], [], []), []
    template = search.target.template.cells[0]
    drawn = []
    for k in range(_TRIES):
        group, before = partial[k % len(partial)]
        placed = symmetric_arrangement(numbers[new], group, draw, alike=atoms.alike, others=before)
        if placed is None:
            continue
        fractional = np.zeros((len(numbers), 3))
        fractional[new], fractional[~new] = placed, before
        drawn.append(fractional @ cell)
        tried.append(template.new_zeros(0, 3), template, group)
        parents.append(k % len(partial))
    if not drawn:
        return tried
    positions = torch.from_numpy(np.stack(drawn)).to(search.problem.target)
    positions = push_apart(positions, template.expand(len(drawn), 3, 3), atoms, closest=0.8, steps=30)
    tried.positions = list(positions)
    turn: Counter[int] = Counter()
    best = []
    for k in part.distance(part.features_of(tried)).argsort(stable=True).tolist():
        if turn[parents[k]] <= _IMPROVED / len(partial):
            best.append(k)
            turn[parents[k]] += 1
    return part.improve(tried.pick(best[:_IMPROVED]))


def _kept(jobs: Jobs) -> list[int]:
    """Return those that go on: the best that differ, and of those that fit no others."""
    if not len(jobs):
        return []
    assert jobs.loss is not None
    order = jobs.loss.argsort(stable=True)
    kept = jobs.target.different(
        torch.stack(jobs.positions), torch.stack(jobs.cells), order.tolist(), most=_KEPT
    )
    most = _FITTING if float(jobs.loss.min()) < _FITS else math.inf
    return [k for k in kept if float(jobs.loss[k]) < most]
