import pytest
import torch
from pair_gaussians import PairGaussians, make_problem, make_template

from whorl.errors import InputError
from whorl.reconstruction import Adam, InversionProblem, random_starts
from whorl.testing import check_solver


def test_contract():
    check_solver(Adam(learning_rate=0.05, decay=0.99), representation=PairGaussians())


def test_contract_with_symmetry_functions():
    check_solver(Adam(learning_rate=0.02, decay=0.95), steps=20)


def test_steps_are_those_of_torch():
    problem = make_problem([3, 5])
    start = random_starts(problem.template, seeds=[1, 2])
    solver = Adam(learning_rate=0.05, decay=0.9)
    state = solver.init(problem, start)
    x = start.positions.clone().requires_grad_(True)
    reference = torch.optim.Adam([x], lr=0.05, eps=1e-12)
    schedule = torch.optim.lr_scheduler.ExponentialLR(reference, gamma=0.9)
    for _ in range(15):
        reference.zero_grad()
        problem.value(start.replace(positions=x)).sum().backward()
        reference.step()
        schedule.step()
        state = solver.step(problem, state)
        torch.testing.assert_close(state.structures.positions, x.detach())
    assert state.steps == 15


def test_a_search_that_meets_nan_stays_at_its_best():
    start = make_template([2, 2]).replace(
        positions=torch.tensor([[0, 0, 0], [1.9, 0, 0], [0, 0, 0], [1.0, 0.2, 0]], dtype=torch.float64)
    )
    # The first target asks for atoms 2.6 Å apart, and there is NaN beyond 2 Å.
    apart = start.positions * torch.tensor([2.6 / 1.9, 0.5], dtype=torch.float64)[start.structure_index, None]
    target = PairGaussians()(start.replace(positions=apart))
    problem = InversionProblem(representation=PairGaussians(wall=2.0), target=target, template=start)
    solver = Adam(learning_rate=0.02)
    first = state = solver.init(problem, start)
    for _ in range(40):
        state = solver.step(problem, state)
    assert state.failed.tolist() == [True, False]
    assert torch.isfinite(state.structures.positions).all()
    torch.testing.assert_close(problem.value(state.best), state.best_loss)
    assert bool((state.best_loss < first.loss).all())


def test_wrong_settings():
    with pytest.raises(InputError, match="learning_rate"):
        Adam(learning_rate=-1.0)
    with pytest.raises(InputError, match="decay"):
        Adam(learning_rate=1.0, decay=1.5)
