"""Targets without an order of atoms: the loss against all orders tried, derivatives, and solutions."""

import itertools

import pytest
import torch
from ase.build import bulk, molecule

from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import (
    LBFGS,
    Adam,
    AtomwiseProblem,
    InversionStatus,
    LevenbergMarquardt,
    PopulationSettings,
    algorithm1,
    solve,
)
from whorl.reconstruction.atomwise import AtomList
from whorl.representations import ACSF
from whorl.representations.base import Representation
from whorl.structures import from_ase

LOSSES = ("mae", "squared", "huber")


def small(species=("C", "H", "O"), cutoff=6.0, **options) -> ACSF:
    g2 = [(0.1, 0.0), (1.0, 1.0), (1.0, 2.0), (0.5, 3.0)]
    g5 = [(0.05, 1.0, 1.0), (0.05, 1.0, -1.0), (0.1, 4.0, 1.0), (0.1, 4.0, -1.0)]
    return ACSF(species=species, cutoff=cutoff, g2=g2, g5=g5, **options)


def shuffled(rows, structures, seed=0):
    """Put the rows of each species in another order."""
    rng = torch.Generator().manual_seed(seed)
    rows = rows.clone()
    for k in range(len(structures)):
        for z in structures.atomic_numbers.unique():
            chosen = torch.nonzero((structures.structure_index == k) & (structures.atomic_numbers == z))[:, 0]
            rows[chosen] = rows[chosen[torch.randperm(len(chosen), generator=rng)]]
    return rows


def rattled(structures, size=0.1, seed=1):
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(structures.positions.shape, generator=rng, dtype=torch.float64)
    return structures.replace(positions=structures.positions + size * noise)


def molecules(*names):
    return from_ase([molecule(name) for name in names])


def problem_of(structures, acsf=None, **options) -> AtomwiseProblem:
    acsf = acsf or small()
    return AtomwiseProblem.of(
        acsf, shuffled(acsf.atomic_features(structures), structures), structures, **options
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_least_over_all_orders(loss, weighted):
    structures, acsf = molecules("CH4", "H2O", "CH3OH"), small()
    rng = torch.Generator().manual_seed(3)
    weights = torch.rand(len(acsf.atomic_names), generator=rng, dtype=torch.float64) if weighted else None
    problem = problem_of(structures, loss=loss, weights=weights)
    moved = rattled(structures, 0.3)
    target = problem.target.unflatten(1, problem.representation.layout.shape)
    penalty = {
        "mae": torch.abs,
        "squared": torch.square,
        "huber": lambda u: torch.nn.functional.huber_loss(u, torch.zeros_like(u), reduction="none"),
    }[loss]
    for k, one in enumerate(moved):
        rows, numbers = acsf.atomic_features(one), one.atomic_numbers.tolist()
        least = min(
            float(
                penalty(
                    (rows[list(order)] - target[k, : len(rows)]) * (1 if weights is None else weights)
                ).mean()
            )
            for order in itertools.permutations(range(len(rows)))
            if [numbers[i] for i in order] == numbers
        )
        assert float(problem.value(moved)[k]) == pytest.approx(least, rel=1e-12)
    assert float(problem.value(structures).abs().max()) < 1e-20
    scale = problem.scale()
    for k in range(3):
        own = target[k, : int(structures.n_atoms[k])] * (1 if weights is None else weights)
        assert float(scale[k]) == pytest.approx(float(penalty(own).mean()))


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_are_those_of_the_loss(loss):
    structures = molecules("CH3OH", "H2O")
    problem = problem_of(structures, loss=loss)
    moved = rattled(structures)
    value, gradient = problem.value_and_gradient(moved)
    value2, rows, jacobian = problem.value_and_rows(moved)
    torch.testing.assert_close(value, value2)
    count = problem.n_features[:, None]
    of_rows = (2.0 / count * torch.einsum("tr,trq->tq", rows, jacobian)).unflatten(1, (-1, 3))
    of_rows = of_rows[moved.structure_index, moved.position_in_structure]
    torch.testing.assert_close(
        of_rows, gradient, rtol=1e-2 if loss == "mae" else 1e-9, atol=1e-3 if loss == "mae" else 1e-12
    )
    step = 1e-6
    for atom, axis in ((0, 0), (4, 2), (7, 1)):
        ends = []
        for sign in (1, -1):
            positions = moved.positions.clone()
            positions[atom, axis] += sign * step
            ends.append(problem.value(moved.replace(positions=positions)).sum())
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient[atom, axis]), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("strain", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
def test_analytic_jacobian_equals_autograd(strain, periodic):
    if periodic:
        cell = bulk("NaCl", "rocksalt", 4.1)
        structures, acsf = from_ase([cell, cell.repeat((2, 1, 1))]), small(("Na", "Cl"), 4.0)
    else:
        structures, acsf = molecules("CH3OH", "H2O", "C2H4"), small(cutoff=3.0)
    rows = AtomList(acsf, n_atoms=7)
    structures = rattled(structures)
    value, jacobian = rows.value_and_jacobian(structures, strain=strain)
    value2, jacobian2 = Representation.value_and_jacobian(rows, structures, strain=strain)
    torch.testing.assert_close(value, value2, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jacobian, jacobian2, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("names", [("Pt5", "Pt5"), ("Pt5", "Pt4", "Pt1")])
def test_analytic_jacobian_of_one_element_equals_autograd(names):
    """Every atom sees every other one: as in a search for clusters."""
    from ase import Atoms

    structures = rattled(from_ase([Atoms(name) for name in names]), 2.0)
    acsf = ACSF(
        species=["Pt"],
        cutoff=20.0,
        g2=[(0.1, 2.0)],
        g3=[0.7],
        g4=[(0.02, 2.0, 1.0)],
        g5=[(0.02, 1.0, -1.0), (0.1, 4.0, 1.0)],
    )
    rows = AtomList(acsf, n_atoms=5)
    value, jacobian = rows.value_and_jacobian(structures)
    value2, jacobian2 = Representation.value_and_jacobian(rows, structures)
    torch.testing.assert_close(value, value2, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jacobian, jacobian2, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(AtomList.from_config(rows.config())(structures).flatten(1), value)


def test_order_and_company_do_not_matter():
    structures, acsf = molecules("CH3OH", "H2O", "CH4"), small()
    rows, moved = acsf.atomic_features(structures), rattled(structures, 0.3)
    values = [
        AtomwiseProblem.of(acsf, shuffled(rows, structures, seed), structures).value(moved) for seed in (1, 2)
    ]
    torch.testing.assert_close(values[0], values[1])
    whole = problem_of(structures)
    alone = problem_of(structures[1])
    torch.testing.assert_close(alone.value(moved[1]), whole.value(moved)[[1]])
    torch.testing.assert_close(whole.select([1]).value(moved[1]), whole.value(moved)[[1]])
    assert isinstance(whole.select([1]).to(dtype=torch.float32), AtomwiseProblem)


def test_spread_is_that_of_a_species_whatever_the_row():
    structures, acsf = molecules("H2O", "CH4"), small()
    problem = problem_of(structures, acsf).select([0])
    arrangements = torch.cat([problem.features(rattled(structures[0], 0.3, seed)) for seed in range(5)])
    rows = arrangements.unflatten(1, problem.representation.layout.shape)
    spread = problem.spread(arrangements).unflatten(0, problem.representation.layout.shape)
    torch.testing.assert_close(spread[0], rows[:, 0].std(0))  # oxygen comes first
    torch.testing.assert_close(spread[1], torch.cat([rows[:, 1], rows[:, 2]]).std(0))
    assert torch.equal(spread[2], spread[1]) and not bool(spread[3:].any())


def test_frozen_atoms_do_not_move():
    structures = molecules("CH3OH")
    frozen = torch.tensor([True, True, False, False, False, False])
    problem = problem_of(structures, loss="squared", frozen=frozen)
    start = rattled(structures, 0.1)
    start = start.replace(positions=torch.where(frozen[:, None], structures.positions, start.positions))
    solver = LevenbergMarquardt()
    state = solver.init(problem, start)
    for _ in range(20):
        state = solver.step(problem, state)
    assert float(state.best_loss) < 1e-20
    torch.testing.assert_close(state.best.positions[frozen], structures.positions[frozen])


@pytest.mark.parametrize("solver", [Adam(learning_rate=0.02), LBFGS(), LevenbergMarquardt()])
def test_solvers_work_unchanged(solver):
    structures = molecules("CH3OH", "H2O")
    problem = problem_of(structures, loss="squared")
    state = solver.init(problem, rattled(structures, 0.05))
    before = state.best_loss
    for _ in range(60):
        state = solver.step(problem, state)
    assert bool((state.best_loss < 0.01 * before).all())


def test_atoms_come_back():
    structures = molecules("CH4", "H2O", "CH3OH", "C2H4")
    problem = problem_of(structures).replace(template=structures.replace(positions=0 * structures.positions))
    result = solve(problem, budget_evaluations=3000)
    assert result.status == (InversionStatus.CONVERGED,) * 4
    assert float(rmsd(result.structures, structures).max()) < 1e-3
    assert result.structures.atomic_numbers.equal(structures.atomic_numbers)


def test_a_crystal_with_a_free_cell_comes_back():
    structures = from_ase(bulk("CsCl", "cesiumchloride", 4.1))
    problem = problem_of(structures, small(("Cs", "Cl")), free_cell=True)
    population = PopulationSettings(candidates=40, first=6, children=6, promising=3)
    result = solve(problem, budget_evaluations=2000, population=population)
    assert result.status == (InversionStatus.CONVERGED,)
    assert float(problem.value(result.structures)) < 1e-5


def test_algorithm1_takes_it_too():
    problem = problem_of(molecules("H2O", "CH4"))
    result = algorithm1(problem, starts=2, hops=1, iterations=5, polish=5)
    assert bool(torch.isfinite(result.loss).all())


def test_a_feature_that_is_nan_leaves_the_other_targets_alone():
    structures = molecules("H2O", "CH4")
    problem = problem_of(structures)
    features = problem.representation(structures)
    features[0, 1] = torch.nan
    order = problem.assignment(features, structures)
    assert order.sort(1).values.tolist() == [list(range(5))] * 2


def test_mistakes_are_told_in_plain_words():
    structures, acsf = molecules("H2O", "CH4"), small()
    rows = acsf.atomic_features(structures)
    with pytest.raises(InputError, match="a row for each atom"):
        AtomwiseProblem.of(acsf, rows[1:], structures)
    with pytest.raises(InputError, match="one per feature of an atom"):
        AtomwiseProblem.of(acsf, rows, structures, weights=torch.ones(3))
    with pytest.raises(InputError, match="another composition"):
        AtomwiseProblem.of(acsf, rows, structures).value(molecules("CH4", "H2O"))
    with pytest.raises(InputError, match="at most 2"):
        AtomList(acsf, n_atoms=2)(structures)
    with pytest.raises(InputError, match="n_atoms"):
        AtomList(acsf, n_atoms=0)
