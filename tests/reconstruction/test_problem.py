import dataclasses

import pytest
import torch
from pair_gaussians import PairGaussians, make_problem, make_template

from whorl.errors import InputError
from whorl.reconstruction import InversionProblem, whitening_weights


def structures_of(problem, seed=1):
    rng = torch.Generator().manual_seed(seed)
    shape = problem.template.positions.shape
    return problem.template.replace(positions=3 * torch.rand(shape, generator=rng, dtype=torch.float64))


def test_losses_by_hand():
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 5.0, 0.1], dtype=torch.float64)
    problem = make_problem([3, 5], weights=weights)
    structures = structures_of(problem)
    residual = (problem.representation(structures) - problem.target) * weights
    by_hand = {
        "mae": residual.abs().mean(1),
        "squared": (residual**2).mean(1),
        "huber": torch.nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="none").mean(
            1
        ),
    }
    for loss, expected in by_hand.items():
        torch.testing.assert_close(dataclasses.replace(problem, loss=loss).value(structures), expected)
    torch.testing.assert_close(problem.scale(), (problem.target * weights).abs().mean(1))


def test_gradient_is_that_of_each_structure_alone():
    problem = make_problem([3, 5, 2])
    structures = structures_of(problem)
    loss, gradient = problem.value_and_gradient(structures)
    for i in range(3):
        alone, of_it = problem.select([i]).value_and_gradient(structures[i])
        torch.testing.assert_close(alone, loss[[i]])
        torch.testing.assert_close(of_it, gradient[structures.structure_index == i])
    step = 1e-6
    moved = structures.positions.clone()
    moved[4, 1] += step
    slope = (problem.value(structures.replace(positions=moved)) - loss)[1] / step
    assert float(slope) == pytest.approx(float(gradient[4, 1]), rel=1e-4)


def test_select_repeats_and_orders():
    problem = make_problem([3, 5])
    chosen = problem.select([1, 0, 1])
    assert len(chosen) == 3
    assert chosen.template.n_atoms.tolist() == [5, 3, 5]
    torch.testing.assert_close(chosen.target, problem.target[[1, 0, 1]])
    assert len(problem.select(slice(0, 1))) == 1
    assert problem.to(dtype=torch.float32).target.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": "mea"}, "Did you mean 'mae'"),
        ({"target": torch.zeros(2, 5)}, "number of features"),
        ({"target": torch.zeros(3, 6)}, "2 structures for 3 targets"),
        ({"target": torch.tensor([[0.0] * 6, [0.0] * 5 + [float("nan")]])}, "first: target 1"),
        ({"weights": torch.ones(5)}, "one per feature"),
        ({"weights": -torch.ones(6)}, "none negative"),
        ({"template": make_template([3, 5], number=79)}, "contains Au"),
        ({"template": make_template([3, 0])}, "no atoms"),
    ],
)
def test_what_cannot_be_sought(change, words):
    sound = {
        "representation": PairGaussians(),
        "target": torch.zeros(2, 6),
        "template": make_template([3, 5]),
    }
    with pytest.raises(InputError, match=words):
        InversionProblem(**{**sound, **change})


def test_whitening_makes_features_alike():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(400, 3, generator=rng, dtype=torch.float64) * torch.tensor([0.1, 1.0, 50.0])
    features = torch.cat([features, torch.ones(400, 1, dtype=torch.float64)], 1)
    weights = whitening_weights(features, floor=0.01)
    spread = (features * weights).std(0)
    torch.testing.assert_close(spread[:3], spread[1].expand(3))
    assert float(weights[3]) == pytest.approx(100)  # a constant feature counts no more than the floor allows
    for useless in (features[:1], torch.ones(5, 4), torch.full((5, 4), torch.nan)):
        with pytest.raises(InputError, match="whitening"):
            whitening_weights(useless)


def test_labels_of_the_template_do_not_stick_to_what_is_found():
    from whorl.reconstruction import algorithm1, solve

    problem = make_problem([3, 3])
    labelled = problem.template.replace(info=({"material_id": "mp-1", "energy": -1.0},) * 2)
    problem = dataclasses.replace(problem, template=labelled)
    assert problem.template.info == () and labelled.info[0]["material_id"] == "mp-1"
    for result in (
        solve(problem, budget_evaluations=40),
        algorithm1(problem, starts=1, hops=1, iterations=2, polish=2),
    ):
        assert not any(result.structures.info)
        assert not any(info for found in result.solutions for info in found.info)
