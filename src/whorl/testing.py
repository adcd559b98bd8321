"""Public contract checks: what every implementation of a whorl type must do, with words when it does not.

For authors of new representations, generators and solvers: call these from your own tests.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.generators.base import ConditionalGenerator
    from whorl.inversion import InversionProblem, Solver, SolverState
    from whorl.representations.base import Representation
    from whorl.structures.batch import StructureBatch


def check_generator(factory: Callable[[], ConditionalGenerator]) -> None:
    """Check the contract of a :class:`whorl.generators.ConditionalGenerator`.

    Args:
        factory: Returns a new, untrained generator at each call; a small one is enough.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # the same initial weights at each run, whatever came before
        _check_generator(factory())


def _check_generator(generator: ConditionalGenerator) -> None:
    _generator_config_round_trip(generator)
    _generator_refuses_before_training(generator)

    data = torch.Generator().manual_seed(7)
    features = 1e3 + torch.randn(24, *generator.shape, generator=data, dtype=torch.float64)
    conditions = 2 + torch.rand(24, generator.properties, generator=data, dtype=torch.float64)
    kept = features.clone(), conditions.clone()
    generator.fit_scaling(features, conditions)
    _generator_learns(generator, features, conditions)
    assert torch.equal(features, kept[0]) and torch.equal(conditions, kept[1]), "training changed its data"

    generator.eval()
    _generator_samples(generator, conditions)
    _generator_refuses_bad_conditions(generator)
    _generator_survives_saving(generator, conditions)


def _generator_config_round_trip(generator: ConditionalGenerator) -> None:
    config = json.loads(json.dumps(generator.config()))
    assert config["kind"] == generator.kind, "config() must carry the kind"
    again = type(generator)(**{key: value for key, value in config.items() if key != "kind"})
    assert again.config() == generator.config(), "config() does not rebuild the generator"
    shapes = {key: value.shape for key, value in generator.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}, (
        "the generator rebuilt from config() has other weights"
    )
    types = {parameter.dtype for parameter in generator.parameters()}
    assert types == {torch.get_default_dtype()}, f"networks must be {torch.get_default_dtype()}, got {types}"


def _generator_refuses_before_training(generator: ConditionalGenerator) -> None:
    condition = torch.zeros(1, generator.properties)
    _assert_refused(generator, condition, "sampling before training")


def _generator_learns(
    generator: ConditionalGenerator, features: torch.Tensor, conditions: torch.Tensor
) -> None:
    generator.train()
    if generator.automatic_optimization:
        _generator_has_gradients(generator, features, conditions)
    else:
        _generator_moves_its_weights(generator, features, conditions)
    with torch.no_grad():
        validation = generator.validation_step((features, conditions), 0)
    assert isinstance(validation, dict) and "loss" in validation, (
        'validation_step must return a mapping with "loss"'
    )


def _generator_has_gradients(
    generator: ConditionalGenerator, features: torch.Tensor, conditions: torch.Tensor
) -> None:
    loss = generator.training_step((features, conditions), 0)
    loss = loss["loss"] if isinstance(loss, dict) else loss
    assert isinstance(loss, torch.Tensor) and loss.ndim == 0, "training_step must return the loss"
    assert torch.isfinite(loss), "the training loss is not finite"
    loss.backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, f"{name} does not take part in training"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
    generator.zero_grad()


def _generator_moves_its_weights(
    generator: ConditionalGenerator, features: torch.Tensor, conditions: torch.Tensor
) -> None:
    """Check one that takes its optimisers' steps itself: a second epoch must move what the first left."""
    from whorl.generators.training import fit

    after: list[dict[str, torch.Tensor]] = []
    for epochs in (1, 2):
        fit(
            generator,
            features,
            conditions,
            validation=torch.arange(6),
            seed=0,
            epochs=epochs,
            batch_size=3,
            validate_every=1,
            keep="last",
        )
        after.append({name: value.detach().clone() for name, value in generator.named_parameters()})
    for name, value in after[1].items():
        assert torch.isfinite(value).all(), f"training makes {name} infinite or NaN"
        assert not torch.equal(value, after[0][name]), f"{name} does not take part in training"
    generator.train()


def _generator_samples(generator: ConditionalGenerator, conditions: torch.Tensor) -> None:
    def sample(condition: torch.Tensor, seed: int, temperature: float = 1.0) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        return generator.sample(condition, rng=rng, temperature=temperature)

    kept = conditions.clone()
    global_state = torch.get_rng_state()
    samples = sample(conditions, 1)
    assert torch.equal(conditions, kept), "sample changed its condition"
    assert torch.equal(torch.get_rng_state(), global_state), "sample used the global random state, not rng"
    assert samples.shape == (len(conditions), *generator.shape), "one sample of the shape for each condition"
    assert not samples.requires_grad, "samples must not carry gradients"
    assert torch.isfinite(samples).all(), "samples must be finite"
    assert torch.equal(samples, sample(conditions, 1)), "the same seed must give the same samples"
    assert not torch.equal(samples, sample(conditions, 2)), "another seed must give other samples"
    assert not torch.equal(samples, sample(conditions, 1, 2.0)), "temperature must change the samples"
    alike = sample(conditions[:1].expand(2, -1), 1)
    assert not torch.equal(alike[0], alike[1]), "equal conditions must not give equal samples"
    assert sample(conditions[:0], 1).shape == (0, *generator.shape), "no conditions: no samples"
    for dtype in (torch.float32, torch.float64):
        assert sample(conditions.to(dtype), 1).dtype == dtype, "samples come in the type of the condition"
    torch.testing.assert_close(sample(conditions.float(), 1).double(), samples, rtol=1e-4, atol=1e-3)


def _generator_refuses_bad_conditions(generator: ConditionalGenerator) -> None:
    p = generator.properties
    for condition, what in (
        (torch.zeros(4), "a condition without columns"),
        (torch.zeros(4, p + 1), "a condition with too many columns"),
        (torch.full((4, p), torch.nan), "a NaN condition"),
        (torch.full((4, p), torch.inf), "an infinite condition"),
    ):
        _assert_refused(generator, condition, what)
    _assert_refused(generator, torch.zeros(4, p), "a temperature of zero", temperature=0.0)


def _assert_refused(
    generator: ConditionalGenerator, condition: torch.Tensor, what: str, temperature: float = 1.0
) -> None:
    try:
        generator.sample(condition, rng=torch.Generator(), temperature=temperature)
    except InputError:
        return
    raise AssertionError(f"{what} must raise InputError")


def _generator_survives_saving(generator: ConditionalGenerator, conditions: torch.Tensor) -> None:
    from whorl.generators.io import load_model, save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(generator, Path(folder) / "generator.safetensors")
        loaded = load_model(Path(folder) / "generator.safetensors")
    assert type(loaded) is type(generator), "the loaded generator is of another type"
    assert loaded.config() == generator.config(), "the loaded generator has another config"
    before = generator.sample(conditions, rng=torch.Generator().manual_seed(3))
    after = loaded.sample(conditions, rng=torch.Generator().manual_seed(3))
    assert torch.equal(before, after), "a saved and loaded generator must give the same samples"


def check_solver(solver: Solver, *, representation: Representation | None = None, steps: int = 30) -> None:
    """Check the contract of a :class:`whorl.inversion.Solver`, on clusters and in a periodic cell.

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
    from whorl.inversion import InversionProblem, random_starts
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
