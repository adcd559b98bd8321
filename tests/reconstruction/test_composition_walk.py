"""Compositions and numbers of atoms that features do not tell are found by a walk over compositions."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms

from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem
from whorl.reconstruction.composition_walk import CompositionWalk
from whorl.reconstruction.compositions import misfit_of, read_compositions
from whorl.reconstruction.free_composition import FreeComposition, solve_free_composition, unknown_atoms
from whorl.reconstruction.population.exchange import answered
from whorl.representations import ACSF
from whorl.structures import as_batch
from whorl.structures.composition import formula_of_all

G2 = [(eta, shift) for eta in (0.1, 1.0, 4.0) for shift in (0.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)]
CLUSTER = Atoms(
    "Cu3Au2", [[0, 0, 0], [2.4, 0.1, 0], [1.2, 2.1, 0.1], [1.3, 0.7, 2.3], [3.5, 1.9, 1.1]], pbc=False
)


def acsf(**options: object) -> ACSF:
    """Return a fingerprint of extremes, which tell no numbers of atoms."""
    given = {"g2": G2, "embedding": 3, "per_centre_species": True, "pooling": ("max", "min"), **options}
    return ACSF(species=("Cu", "Pt", "Au"), cutoff=6.0, **given)


def problem_of(representation: ACSF, atoms: Atoms) -> InversionProblem:
    structure = as_batch([atoms])
    return InversionProblem(
        representation=representation,
        target=representation(structure).detach(),
        template=unknown_atoms(structure, representation),
        names=("it",),
    )


def walk_of(problem: InversionProblem, *, seed: int = 0, possible=None) -> CompositionWalk:
    return CompositionWalk(
        problem.replace(weights=torch.ones(problem.target.shape[1], dtype=torch.float64), min_distance=0.5),
        possible=possible or (lambda compositions: [True] * len(compositions)),
        elements=(29, 78, 79),
        softened=torch.ones(problem.target.shape[1], dtype=torch.float64),
        rng=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("change", ["an atom less", "an atom more", "another element"])
def test_one_change_of_the_composition_is_found(change):
    problem, start = problem_of(acsf(), CLUSTER), CLUSTER.copy()
    if change == "an atom less":
        start += Atoms("Pt", [[-1.2, -2.0, 0.4]])
    elif change == "an atom more":
        del start[4]
    else:
        start.symbols[1] = "Pt"
    walk = walk_of(problem)
    walk.run([as_batch([start])], budget=3000, tolerance=1e-3)
    best = walk.members[0]
    assert formula_of_all(best.structure) == "Au2Cu3" and best.loss < 1e-6
    assert float(rmsd(best.structure, [CLUSTER])) < 1e-2
    assert 0 < walk.evaluations < 3500


def test_compositions_that_may_not_be_are_not_visited():
    problem, start = problem_of(acsf(), CLUSTER), CLUSTER.copy()
    del start[4]
    walk = walk_of(problem, possible=lambda compositions: [len(one) == 4 for one in compositions])
    walk.run([as_batch([start])], budget=500, tolerance=1e-6)
    assert walk.members and all(len(one.composition) == 4 for one in walk.members)


def test_formula_and_structure_where_features_tell_neither_elements_counts_nor_their_number():
    problem = problem_of(acsf(), CLUSTER)
    listed = read_compositions(
        problem.target[0], acsf(), ("Cu", "Pt", "Au"), n_atoms=(3, 7), most=99, as_good=(3.0, 0.003)
    )
    assert len({one.n_atoms for one in listed}) > 3  # nothing is told
    result = solve_free_composition(problem, FreeComposition(n_atoms=(3, 7)), budget_evaluations=16_000)
    assert result.status[0].value == "converged"
    assert formula_of_all(result.structures) == "Au2Cu3"
    assert float(rmsd(result.structures, [CLUSTER])) < 1e-2


def test_elements_that_are_absent_or_missing_are_no_composition():
    representation = acsf(embedding=None)
    target = representation(as_batch([CLUSTER]))[0].detach()
    misfit = misfit_of(target, representation, ("Cu", "Pt", "Au"))
    assert misfit(torch.tensor([[3, 0, 2], [3, 1, 1], [5, 0, 0]])).isinf().tolist() == [False, True, True]


def test_what_is_left_after_positions_have_answered_is_that_of_a_damped_step():
    problem, structure = problem_of(acsf(), CLUSTER), as_batch([CLUSTER])
    problem = problem.replace(template=structure, weights=torch.ones(problem.target.shape[1]).double())
    residual = torch.from_numpy(np.random.default_rng(0).normal(size=(3, problem.target.shape[1])))
    removed = torch.tensor([-1, 0, 4])
    left = answered(problem, structure, residual, removed=removed)
    jacobian = problem.value_and_rows(structure)[2][0]
    diagonal = (jacobian.T @ jacobian).diagonal()
    for row, atom in enumerate(removed.tolist()):
        damping = 0.05 * (diagonal + diagonal.mean()) + 1e-12
        own = [k for k in range(15) if k // 3 != atom]
        tall = torch.cat([jacobian[:, own], torch.diag(damping[own].sqrt())])
        right = torch.cat([residual[row], torch.zeros(len(own)).double()])
        step = torch.linalg.lstsq(tall, -right[:, None]).solution
        expected = (tall @ step + right[:, None]).square().sum()
        assert float(left[row]) == pytest.approx(float(expected), rel=1e-6)
    assert float(answered(problem, structure, residual)[0]) == pytest.approx(float(left[0]), rel=1e-9)


def test_the_same_seed_walks_the_same_way():
    ends = []
    for _, seed in itertools.product(range(2), (1,)):
        walk = walk_of(problem_of(acsf(), CLUSTER), seed=seed)
        walk.run([as_batch([CLUSTER[:3]])], budget=300, tolerance=1e-6)
        ends.append(walk.members[0].structure.positions)
    assert torch.equal(*ends)


def test_a_walk_ends_in_time_and_spends_no_more_than_the_budget():
    problem = problem_of(acsf(), CLUSTER)
    walk = walk_of(problem)
    walk.run([as_batch([CLUSTER[:3]])], budget=10**6, tolerance=1e-6, seconds=0.0)
    assert walk.members and walk.evaluations < 100  # only the start
    result = solve_free_composition(
        problem.replace(target=problem.target + 0.3), FreeComposition(n_atoms=(4, 5)), budget_evaluations=100
    )
    assert 20 < int(result.evaluations[0]) < 4000  # each search finishes the round that it is in
