"""Sets as features: elements without an order, some of them none."""

import pytest
import torch

from whorl.errors import InputError
from whorl.generators import Diffusion, EnergyBased, FlowMatching, fit, load_model, save_model
from whorl.generators.denoisers import SetDenoiser
from whorl.generators.sets import ElementAxes, Sizes, is_set, present


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def sets(count=120, seed=0):
    """Sets of two elements for y < 0 and of four for y > 0; the first number is y, the second is constant."""
    y = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    features = torch.zeros(count, 4, 3, dtype=torch.float64)
    features[:, :, 0] = y
    features[:, :, 1] = 1.0
    features[:, :, 2] = torch.randn(count, 4, generator=rng(seed), dtype=torch.float64)
    features[y[:, 0] < 0, 2:] = 0.0
    return features[torch.randperm(count, generator=rng(1))], y[torch.randperm(count, generator=rng(1))]


def network():
    torch.manual_seed(0)
    return SetDenoiser(elements=4, features=3, conditions=2, hidden=16, layers=2).double()


def test_the_prediction_of_an_element_moves_with_it():
    noisy, time, order = torch.randn(5, 4, 3).double(), torch.rand(5), torch.tensor([2, 0, 3, 1])
    known = torch.cat([torch.randn(5, 2), torch.ones(5, 4)], 1).double()
    predict = network()
    torch.testing.assert_close(predict(noisy[:, order], time, known), predict(noisy, time, known)[:, order])


def test_elements_that_are_none_change_nothing():
    noisy, time = torch.randn(5, 4, 3).double(), torch.rand(5)
    known = torch.cat([torch.randn(5, 2), torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(5, -1)], 1).double()
    other = noisy.clone()
    other[:, 2:] = 7.0
    predict = network()
    torch.testing.assert_close(predict(other, time, known)[:, :2], predict(noisy, time, known)[:, :2])
    changed = noisy.clone()
    changed[:, 1] += 1.0
    assert (predict(changed, time, known) - predict(noisy, time, known))[:, 0].abs().max() > 1e-6


def test_components_are_those_of_elements_that_are_there():
    features, _ = sets()
    axes = ElementAxes(features=3, components=3)
    axes.fit(features)
    components = axes.transform(features)
    some = components[present(features) > 0]
    torch.testing.assert_close(some.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(some.square().mean(0), axes.varying, atol=1e-9, rtol=0)
    assert axes.varying.tolist() == [1, 1, 0]  # one number is constant
    assert not components[present(features) == 0].any()
    back = axes.inverse(components) * present(features)[..., None]
    torch.testing.assert_close(back, features)


def test_numbers_of_elements_that_no_set_has_are_not_drawn():
    sizes = Sizes(most=4, conditions=1, hidden=4)
    sizes.fit(torch.tensor([2, 2, 2, 4]))
    share = sizes(torch.zeros(1, 1)).exp()[0].detach()
    assert share.sum() == pytest.approx(1) and share[[0, 1, 3]].max() < 1e-6


@pytest.mark.parametrize("model", [Diffusion, FlowMatching])
def test_samples_are_sets_of_the_sizes_and_numbers_of_the_condition(model, tmp_path):
    features, y = sets()
    made = model(shape=(4, 3), channels=32, depth=2, learning_rate=5e-3, average=0.95)
    fit(made, features, y, validation=torch.arange(20), seed=0, epochs=60, batch_size=50)
    condition = torch.tensor([[-0.8], [0.8]]).double().repeat(40, 1)
    samples = made.sample(condition, rng=rng(2))
    there = present(samples).sum(1)
    assert (there[::2] == 2).float().mean() > 0.8 and (there[1::2] == 4).float().mean() > 0.8
    assert torch.equal(present(samples), present(samples).sort(1, descending=True).values)
    drawn = samples[present(samples) > 0]
    torch.testing.assert_close(drawn[:, 1], torch.ones(len(drawn)).double())
    mean = samples[:, :, 0].sum(1) / there
    assert (mean - condition[:, 0]).abs().mean() < 0.3
    assert 0.6 < drawn[:, 2].std() < 1.4
    save_model(made, tmp_path / "sets.safetensors")
    again = load_model(tmp_path / "sets.safetensors")
    torch.testing.assert_close(again.sample(condition, rng=rng(2)), samples)


def test_a_size_of_validation_rows_that_no_training_row_has_leaves_the_loss_finite():
    features, y = sets(40)
    validation = torch.nonzero(present(features).sum(1) == 2)[:, 0]
    record = fit(FlowMatching(shape=(4, 3), channels=8), features, y, validation=validation, seed=0, epochs=1)
    assert record["validation"]["loss"] < 1e3


def test_sets_are_whitened_whatever_else_is_asked_for():
    with pytest.raises(InputError, match="scaling: got minmax, expected standard for sets"):
        FlowMatching(shape=(4, 3), scaling="minmax")
    with pytest.raises(InputError, match="channels: got 30, expected a multiple of 4"):
        Diffusion(shape=(4, 3), channels=30)


def test_shapes_of_sets():
    assert is_set((10, 30)) and not is_set((10,)) and not is_set((1, 30)) and not is_set((8, 8, 2))
    assert EnergyBased(shape=(4, 3)).elements == 0
