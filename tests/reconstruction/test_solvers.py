import dataclasses

import pytest
import torch
from pair_gaussians import make_problem

from whorl.errors import InputError
from whorl.reconstruction import LBFGS, InversionProblem, LevenbergMarquardt, solve
from whorl.reconstruction.solvers import SolverSettings
from whorl.representations import ACSF
from whorl.structures import StructureBatch
from whorl.structures.cells import strained
from whorl.testing import check_solver

SMALL = ACSF(species=["Pt"], cutoff=6.0, g2=[(0.5, s) for s in (1.0, 2.0, 3.0, 4.0)], g5=[(0.1, 1.0, 1.0)])


@pytest.mark.parametrize("solver", [LBFGS(), LevenbergMarquardt()])
def test_solvers_keep_the_contract(solver):
    check_solver(solver)


def near(problem, by, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shift = by * torch.randn(problem.template.positions.shape, generator=rng, dtype=torch.float64)
    return problem.template.replace(positions=problem.template.positions + shift)


def crystal_problem(**settings):
    cells = torch.tensor([[5.0, 0, 0], [0.3, 5.2, 0], [0, -0.2, 4.8]], dtype=torch.float64)
    positions = torch.tensor(
        [[0.1, 0, 0], [2.4, 2.7, 0.1], [2.5, 0.1, 2.2], [0, 2.4, 2.6]], dtype=torch.float64
    )
    there = StructureBatch(
        positions=positions,
        cells=cells[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
        atomic_numbers=torch.full((4,), 78),
        structure_index=torch.zeros(4, dtype=torch.int64),
    )
    acsf = ACSF(
        species=["Pt"], cutoff=5.0, g2=[(4.0, 1.0 + 0.25 * k) for k in range(16)], pooling=("mean", "std")
    )
    with torch.no_grad():
        return InversionProblem(representation=acsf, target=acsf(there), template=there, **settings)


@pytest.mark.parametrize("loss", ["mae", "squared", "huber"])
@pytest.mark.parametrize("min_distance", [0.0, 0.9])
def test_rows_give_the_gradient_of_the_loss(loss, min_distance):
    problem = make_problem([3, 5, 4], loss=loss, min_distance=min_distance)
    problem = dataclasses.replace(problem, weights=torch.linspace(0.5, 3.0, 6, dtype=torch.float64))
    structures = near(problem, 1.2)
    value, residual, jacobian = problem.value_and_rows(structures)
    expected, gradient = problem.value_and_gradient(structures)
    torch.testing.assert_close(value, expected)
    slope = 2.0 / problem.target.shape[1] * torch.einsum("trq,tr->tq", jacobian, residual)
    flat = slope.reshape(3, -1, 3)[structures.structure_index, structures.position_in_structure]
    torch.testing.assert_close(flat, gradient)


def test_a_free_cell_comes_back():
    problem = crystal_problem(free_cell=True, loss="squared")
    strain = torch.tensor([[0.04, 0.02, 0], [0.02, -0.03, 0.01], [0, 0.01, 0.05]], dtype=torch.float64)
    deformation = torch.eye(3, dtype=torch.float64) + 0.4 * strain
    start = near(problem, 0.02)
    start = start.replace(positions=start.positions @ deformation, cells=start.cells @ deformation)
    solver = LevenbergMarquardt()
    state = solver.init(problem, start)
    for _ in range(100):
        state = solver.step(problem, state)
    assert float(state.loss) < 1e-10
    torch.testing.assert_close(problem.value(state.best), state.best_loss, rtol=1e-3, atol=1e-22)
    volume, wanted = torch.linalg.det(state.best.cells), torch.linalg.det(problem.template.cells)
    torch.testing.assert_close(volume, wanted, rtol=5e-3, atol=0.0)
    started = torch.linalg.det(start.cells)
    assert float((started - wanted).abs()) > 5 * float((volume - wanted).abs())


def test_rows_of_a_free_cell_against_finite_differences():
    problem = crystal_problem(free_cell=True, min_distance=0.95, loss="squared")
    structures = near(problem, 0.2)
    _, _, jacobian = problem.value_and_rows(structures)
    step = 1e-5
    for row, column in ((0, 0), (0, 1), (1, 2), (2, 2)):
        strain = torch.zeros(1, 3, 3, dtype=torch.float64)
        strain[0, row, column] += 0.5 * step
        strain[0, column, row] += 0.5 * step

        def rows(at):
            return torch.cat([problem.residual(at), problem.contacts(at)], 1)

        difference = (rows(strained(structures, strain)) - rows(strained(structures, -strain))) / (2 * step)
        of_strain = jacobian[:, :, -9:].reshape(*jacobian.shape[:2], 3, 3)
        torch.testing.assert_close(of_strain[..., row, column], difference, rtol=1e-3, atol=1e-4)


def test_frozen_atoms_stay():
    problem = make_problem([4, 4], loss="squared")
    frozen = torch.zeros(8, dtype=torch.bool)
    frozen[[0, 5]] = True
    problem = dataclasses.replace(problem, frozen=frozen)
    start = near(problem, 0.3)
    for solver in (LevenbergMarquardt(), LBFGS()):
        state = solver.init(problem, start)
        for _ in range(5):
            state = solver.step(problem, state)
        assert torch.equal(state.best.positions[frozen], start.positions[frozen])
        assert not torch.equal(state.best.positions[~frozen], start.positions[~frozen])
    assert problem.select([1]).frozen.tolist() == [False, True, False, False]


def test_levenberg_marquardt_converges_fast_near_a_solution():
    problem = crystal_problem(loss="squared")
    solver = LevenbergMarquardt()
    state = solver.init(problem, near(problem, 0.02))
    for _ in range(12):
        state = solver.step(problem, state)
    assert float(state.loss) < 1e-18
    rested = solver.step(problem, state)
    assert not bool(solver.moving(problem, state).any()) or float(rested.loss) <= float(state.loss)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LevenbergMarquardt(damping=0.0),
        lambda: LevenbergMarquardt(trust=-1.0),
        lambda: LBFGS(memory=0),
        lambda: LBFGS(trust=0.0),
    ],
)
def test_bad_settings(make):
    with pytest.raises(InputError, match="expected"):
        make()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"frozen": torch.zeros(3, dtype=torch.bool)}, "one per atom"),
        ({"min_distance": 1.5}, "min_distance"),
        ({"free_cell": True}, "not periodic"),
        ({"weights": torch.ones(3, 6, dtype=torch.float64)}, "a row for each target"),
    ],
)
def test_bad_problems(changes, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(make_problem([3, 3]), **changes)


def test_settings_of_a_solver_are_given_by_name_or_as_a_section():
    assert LBFGS(memory=3).settings == LBFGS.Settings(memory=3)
    settings = SolverSettings.model_validate({"kind": "levenberg_marquardt", "trust": 0.5})
    assert isinstance(settings.method(settings), LevenbergMarquardt)
    assert SolverSettings.model_validate("lbfgs") == LBFGS.Settings()
    with pytest.raises(InputError, match=r"lbfgs: unknown key 'memroy'\. Did you mean 'memory'"):
        LBFGS(memroy=3)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_the_population_search_descends_by_any_solver(solver):
    problem = make_problem([4])
    settings = SolverSettings.model_validate(solver)
    found = solve(problem, budget_evaluations=2000, solver=settings)
    other = solve(problem, budget_evaluations=2000)
    assert bool((found.loss < problem.scale()).all()) and found.loss.tolist() != other.loss.tolist()


def test_a_solver_that_holds_cells_fixed_is_refused_where_they_are_free():
    problem = make_problem([3], cell=5.0).replace(free_cell=True)
    with pytest.raises(InputError, match=r"lbfgs: holds cells fixed.*levenberg_marquardt"):
        solve(problem, solver=LBFGS.Settings())
