import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.distance import pdist
from scipy.stats import norm

from whorl.errors import InputError
from whorl.generators import CVAE, condition_range, fit
from whorl.surrogates import EnsembleSurrogate
from whorl.surrogates.selection import (
    calibrate,
    choose,
    draw_pool,
    miss_probability,
    reference_spread,
    select,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def toy():
    """Features on a curved sheet whose first coordinate makes the property; a small trained generator."""
    plane = normal(120, 2, seed=1)
    features = torch.cat([plane, plane.square(), plane.prod(1, keepdim=True)], dim=1)
    values = 2 + 0.5 * plane[:, 0]
    generator = CVAE(shape=(5,), hidden=24, layers=2, latent=3)
    fit(generator, features, values, validation=torch.arange(8), seed=0, epochs=120, keep="last")
    committee = EnsembleSurrogate.fit(features, values, seed=0, networks=2)
    return generator, committee, features, values


def test_risk_is_scipys():
    predicted, uncertainty = normal(50), normal(50, seed=1).abs() + 1e-3
    got = miss_probability(predicted, uncertainty, target=0.3, tolerance=0.2)
    law = norm(predicted.numpy(), uncertainty.numpy())
    np.testing.assert_allclose(got.numpy(), 1 - (law.cdf(0.5) - law.cdf(0.1)), atol=1e-12)


def test_risk_is_higher_far_away_and_where_little_is_known():
    one = torch.tensor([2.0, 2.0, 2.3], dtype=torch.float64)
    u = torch.tensor([0.01, 0.2, 0.01], dtype=torch.float64)
    sure, unsure, off = miss_probability(one, u, target=2.0, tolerance=0.1).tolist()
    assert sure < 1e-6 < unsure < off


def test_reference_spread_is_that_of_rows_within_the_tolerance_or_the_nearest_few():
    features, values = normal(40, 3), torch.linspace(0, 4, 40, dtype=torch.float64)
    within = features[(values - 2).abs() <= 0.5].numpy()
    assert reference_spread(features, values, target=2.0, tolerance=0.5) == pytest.approx(
        pdist(within).mean()
    )
    last = features[-5:].numpy()
    assert reference_spread(features, values, target=4.0, tolerance=0.1) == pytest.approx(pdist(last).mean())


def test_the_least_risky_are_chosen_where_they_are_spread_enough():
    features, risk = normal(200, 4), normal(200, seed=1)
    choice = choose(features, risk, count=30, spread=0.0)
    assert choice.feasible and choice.weight == 0
    assert torch.equal(choice.rows, risk.argsort()[:30])


def test_the_spread_asked_for_is_kept_at_little_risk():
    # Risk falls toward the middle, so the surest are the most alike.
    features = normal(400, 3)
    risk = features.norm(dim=1)
    surest = choose(features, risk, count=40, spread=0.0)
    wanted = 1.6 * surest.spread
    choice = choose(features, risk, count=40, spread=wanted)
    assert choice.feasible and choice.weight > 0 and len(choice.rows.unique()) == 40
    assert choice.spread == pytest.approx(pdist(features[choice.rows].numpy()).mean(), rel=1e-4)
    assert choice.spread >= wanted
    # Among random sets as spread as that, none is as sure.
    for seed in range(20):
        random = torch.randperm(400, generator=rng(seed))[:40]
        if pdist(features[random].numpy()).mean() >= wanted:
            assert risk[choice.rows].mean() < risk[random].mean()
    assert (risk[choice.rows].diff() >= 0).all()


def test_more_spread_costs_more_risk():
    features = normal(300, 3)
    risk = features.norm(dim=1)
    choices = [choose(features, risk, count=30, spread=spread) for spread in (0.5, 1.5, 2.0, 2.5)]
    mean = [float(risk[choice.rows].mean()) for choice in choices]
    assert mean == sorted(mean)


def test_a_spread_that_cannot_be_had_is_said():
    features, risk = normal(100, 3), normal(100, seed=1)
    choice = choose(features, risk, count=20, spread=1e3)
    assert not choice.feasible
    assert choice.spread > choose(features, risk, count=20, spread=0.0).spread


def test_few_or_equal_candidates_are_no_trouble():
    few = choose(normal(5, 2), normal(5), count=20, spread=0.1)
    assert len(few.rows) == 5
    same = choose(torch.ones(10, 2), torch.zeros(10, dtype=torch.float64), count=4, spread=0.5)
    assert len(same.rows) == 4 and not same.feasible and same.spread == 0
    assert len(choose(normal(3, 2), normal(3), count=1, spread=0.0).rows) == 1
    with pytest.raises(InputError, match="no candidates"):
        choose(normal(0, 2), normal(0), count=4, spread=0.5)
    with pytest.raises(InputError, match="count: got 0"):
        choose(normal(3, 2), normal(3), count=0, spread=0.5)


def test_a_calibrated_condition_gives_the_target_on_average(toy):
    generator, committee, _, _ = toy
    condition = calibrate(generator, committee, 2.4, rng=rng())
    asked = torch.full((2000, 1), condition, dtype=torch.float64)
    read = committee.predict(generator.sample(asked, rng=rng(5))).mean.mean()
    assert float(read) == pytest.approx(2.4, abs=0.05)


def test_no_condition_is_asked_for_that_lies_further_out_than_the_target(toy):
    generator, committee, _, _ = toy
    highest = float(condition_range(generator)[0, 1])
    assert calibrate(generator, committee, highest, rng=rng()) <= highest
    assert calibrate(generator, committee, highest + 0.5, rng=rng()) <= highest + 0.5


def test_a_pool_is_shared_between_generators(toy):
    generator, committee, _, _ = toy
    pool = draw_pool([generator, generator], committee, 2.0, size=101, rng=rng())
    assert pool.features.shape == (101, 5) and pool.predicted.shape == pool.uncertainty.shape == (101,)


def test_selected_samples_hit_the_target_and_stay_spread(toy):
    generator, committee, features, values = toy
    options = {"target": 2.3, "count": 100, "tolerance": 0.1, "pool": 4000, "temperature": 1.4}
    made = select([generator], committee, features, values, spread=0.6, rng=rng(), **options)
    # In this toy the property can be read off a sample.
    plain = generator.sample(torch.full((100, 1), 2.3, dtype=torch.float64), rng=rng())
    hits = ((2 + 0.5 * made.features[:, 0] - 2.3).abs() <= 0.1).double().mean()
    assert hits > ((2 + 0.5 * plain[:, 0] - 2.3).abs() <= 0.1).double().mean()
    assert made.feasible and made.spread_ratio >= 0.6 and made.advice == ""
    again = select([generator], committee, features, values, spread=0.6, rng=rng(), **options)
    other = select([generator], committee, features, values, spread=0.6, rng=rng(1), **options)
    assert torch.equal(made.features, again.features)
    assert not torch.equal(made.features, other.features)


def test_select_says_what_cannot_be(toy):
    generator, committee, features, values = toy
    options = {"target": 2.3, "count": 50, "tolerance": 0.1, "rng": rng()}
    made = select([generator], committee, features, values, pool=300, spread=50.0, **options)
    assert not made.feasible and "larger pool or a higher temperature" in made.advice
    with pytest.raises(InputError, match="a pool of 20 for 50 samples"):
        select([generator], committee, features, values, pool=20, **options)
    with pytest.raises(InputError, match="at least one generator"):
        select([], committee, features, values, **options)
    with pytest.raises(InputError, match="temperature"):
        select([generator], committee, features, values, temperature=0.0, **options)


def test_on_the_papers_data_a_briefly_trained_generator_hits_more_by_selection(shared_data):
    given = np.load(shared_data / "pt10_dft" / "fps300.npz")
    features = torch.as_tensor(given["features"]).double()
    values = torch.as_tensor(given["formation_energy"]).double()
    weights = load_file(shared_data / "pt10_dft" / "surrogate_relu_mlp.safetensors")

    def judge(x):
        for name in ("lin1", "lin_list.0", "lin_list.1", "lin_list.2"):
            x = torch.relu(x @ weights[f"{name}.weight"].double().T + weights[f"{name}.bias"].double())
        return (x @ weights["lin2.weight"].double().T + weights["lin2.bias"].double())[:, 0]

    generator = CVAE(shape=(380,))
    fit(generator, features, values, validation=torch.arange(60), seed=0, epochs=120, keep="last")
    committee = EnsembleSurrogate.fit(features, values, seed=0, networks=3)
    plain = generator.sample(torch.full((300, 1), 2.8, dtype=torch.float64), rng=rng())
    made = select(
        [generator], committee, features, values, target=2.8, count=300, tolerance=0.1, pool=3000, rng=rng()
    )
    hits = [float(((judge(x) - 2.8).abs() <= 0.1).double().mean()) for x in (plain, made.features)]
    assert hits[1] > 0.85 and hits[1] > hits[0] + 0.05
    assert made.spread_ratio >= 0.85
