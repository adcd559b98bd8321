"""Exchanges of two atoms of different species in a population search."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from whorl.reconstruction import InversionProblem
from whorl.reconstruction.population.exchange import drawn_exchanges, unlike_pairs
from whorl.representations import ACSF
from whorl.structures import as_batch


def cluster() -> Atoms:
    """Return seven atoms of three metals, none too near another."""
    ring = [[2.5 * np.cos(a), 2.5 * np.sin(a), 0.3 * k] for k, a in enumerate(np.arange(5) * 2 * np.pi / 5)]
    return Atoms("CuCuPtPtAuAuAu", [*ring, [0, 0, 2.0], [0.2, 0, -2.1]])


def test_pairs_are_of_free_atoms_of_different_species() -> None:
    numbers, free = torch.tensor([29, 29, 78, 79]), torch.tensor([True, True, False, True])
    assert unlike_pairs(numbers, free).tolist() == [[0, 3], [1, 3]]


def test_the_exchange_that_is_missing_is_drawn_although_all_atoms_are_a_little_off() -> None:
    right = as_batch([cluster()])
    representation = ACSF.crystal(["Cu", "Pt", "Au"], cutoff=7.0)
    wrong = right.positions.clone()
    wrong[[1, 4]] = right.positions[[4, 1]]
    wrong += 0.08 * torch.randn(wrong.shape, generator=torch.Generator().manual_seed(0)).double()
    problem = InversionProblem(
        representation=representation, target=representation(right), template=right, loss="squared"
    )
    pairs = unlike_pairs(right.atomic_numbers, torch.ones(7, dtype=torch.bool))
    rng = torch.Generator().manual_seed(0)
    drawn = drawn_exchanges(problem, right.replace(positions=wrong), pairs, count=20, rng=rng)
    assert len(drawn) == 20
    back = wrong.clone()
    back[[1, 4]] = wrong[[4, 1]]
    assert torch.equal(drawn[0], back)
    # As many as there are, then again.
    more = drawn_exchanges(problem, right.replace(positions=wrong), pairs[:3], count=5, rng=rng)
    assert len(more) == 5 and len(more.flatten(1).unique(dim=0)) == 3
