"""Check of the contract of solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from whorl.reconstruction import InversionProblem, Solver, SolverState
    from whorl.representations.base import Representation
    from whorl.structures.batch import StructureBatch


def check_solver(solver: Solver, *, representation: Representation | None = None, steps: int = 30) -> None:
    """Check the contract of a :class:`whorl.reconstruction.Solver`, on clusters and in a periodic cell.

    Args:
        solver: To be checked.
        representation: Of which fingerprints are inverted; it must know Pt. By default a small ACSF.
        steps: After how many the loss of every structure must be lower than 0.15 Å away from a solution.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    if representation is None:
        from whorl.representations.acsf import ACSF

        representation = ACSF(
            species=["Pt"], cutoff=6.0, g2=[(0.5, 1.0), (0.5, 2.5), (1.0, 4.0)], g5=[(0.1, 1.0, 1.0)]
        )
    global_state = torch.get_rng_state()
    for cell in (None, 7.0):
        problem, start = _near_problem(representation, cell)
        _solver_begins_at_the_start(solver, problem, start)
        state = _solver_steps(solver, problem, start, steps)
        _solver_items_are_independent(solver, problem, start, state)
        _solver_survives_a_bad_start(solver, problem, start)
    assert torch.equal(torch.get_rng_state(), global_state), "the solver used the global random state"


def _near_problem(
    representation: Representation, cell: float | None
) -> tuple[InversionProblem, StructureBatch]:
    """Return targets that have a solution, and starts near it."""
    from whorl.reconstruction import InversionProblem, random_starts
    from whorl.structures.batch import StructureBatch

    sizes = torch.tensor([3, 5, 1, 4])
    template = StructureBatch(
        positions=torch.zeros(int(sizes.sum()), 3, dtype=torch.float64),
        cells=torch.eye(3, dtype=torch.float64).repeat(4, 1, 1) * (cell or 0.0),
        pbc=torch.full((4, 3), cell is not None),
        atomic_numbers=torch.full((int(sizes.sum()),), 78),
        structure_index=torch.repeat_interleave(torch.arange(4), sizes),
    )
    solution = random_starts(template, seeds=[1, 2, 3, 4])
    rng = torch.Generator().manual_seed(11)
    away = 0.15 * torch.randn(solution.positions.shape, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        target = representation(solution).flatten(1)
    problem = InversionProblem(representation=representation, target=target, template=template)
    return problem, solution.replace(positions=solution.positions + away)


def _solver_begins_at_the_start(solver: Solver, problem: InversionProblem, start: StructureBatch) -> None:
    state = solver.init(problem, start)
    with torch.no_grad():
        expected = problem.value(start)
    assert state.steps == 0, "init must not have taken steps"
    torch.testing.assert_close(state.loss, expected, msg="the loss of init must be that of the start")
    torch.testing.assert_close(state.best_loss, expected, msg="the best of init must be the start")
    assert torch.equal(state.structures.positions, start.positions), "init must stand at the start"
    assert not bool(state.failed.any()), "init failed at a sound start"


def _solver_steps(
    solver: Solver, problem: InversionProblem, start: StructureBatch, steps: int
) -> SolverState:
    state = solver.init(problem, start)
    first = state.best_loss
    for _ in range(steps):
        kept = {key: value.clone() for key, value in vars(state).items() if isinstance(value, torch.Tensor)}
        at, target = state.structures.positions.clone(), problem.target.clone()
        following = solver.step(problem, state)
        assert all(torch.equal(value, vars(state)[key]) for key, value in kept.items()), (
            "step changed its state"
        )
        assert torch.equal(at, state.structures.positions), "step changed its state's structures"
        assert torch.equal(target, problem.target), "step changed the problem"
        assert torch.equal(following.best_loss, solver.step(problem, state).best_loss), (
            "the same state must give the same step"
        )
        assert following.steps == state.steps + 1, "step must count itself"
        assert bool((following.best_loss <= state.best_loss).all()), "the best loss must never rise"
        state = following
    with torch.no_grad():
        torch.testing.assert_close(
            problem.value(state.best), state.best_loss, msg="best_loss must be the loss of best"
        )
        torch.testing.assert_close(
            problem.value(state.structures), state.loss, msg="loss must be that of the structures"
        )
    assert not bool(state.failed.any()), "the solver failed on a sound problem"
    many = problem.template.n_atoms > 1
    assert bool((state.best_loss < first)[many].all()), f"{steps} steps did not lower the loss"
    for name in ("atomic_numbers", "cells", "pbc", "structure_index"):
        same = torch.equal(getattr(state.structures, name), getattr(problem.template, name))
        assert same, f"the solver changed {name}"
    return state


def _solver_items_are_independent(
    solver: Solver, problem: InversionProblem, start: StructureBatch, state: SolverState
) -> None:
    for i in range(len(problem)):
        alone = solver.init(problem.select([i]), start[i])
        for _ in range(state.steps):
            alone = solver.step(problem.select([i]), alone)
        torch.testing.assert_close(
            alone.best_loss, state.best_loss[[i]], rtol=1e-6, atol=1e-9, msg="batch and single must agree"
        )


def _solver_survives_a_bad_start(solver: Solver, problem: InversionProblem, start: StructureBatch) -> None:
    broken = start.positions.clone()
    broken[0, 0] = torch.nan
    sound, state = solver.init(problem, start), solver.init(problem, start.replace(positions=broken))
    for _ in range(3):
        sound, state = solver.step(problem, sound), solver.step(problem, state)
    assert bool(state.failed[0]), "a start at NaN must be marked as failed"
    assert bool(torch.isinf(state.best_loss[0])), "a search that never began has an infinite best loss"
    torch.testing.assert_close(
        state.best_loss[1:], sound.best_loss[1:], msg="one failed search must not touch the others"
    )
    assert bool(torch.isfinite(state.structures.positions).all()), (
        "a failed search must stay at finite positions"
    )
