import dataclasses
import json

import pytest
import torch

from whorl.errors import InputError
from whorl.evaluation import Generated, Reconstructed, Verdict, evaluate, is_invalid
from whorl.files import write_json

NAN = float("nan")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def data():
    features = torch.randn(200, 6, generator=rng(), dtype=torch.float64)
    return features, torch.linspace(1.5, 3.5, 200, dtype=torch.float64)


@pytest.fixture
def generated(data):
    """Two targets, 10 samples each; 3 of each were searched for atoms."""
    features, properties = data
    targets = torch.tensor([1.9, 2.8], dtype=torch.float64).repeat_interleave(10)
    rows = torch.tensor([0, 1, 2, 10, 11, 12])
    return Generated(
        targets=targets,
        features=torch.randn(20, 6, generator=rng(1), dtype=torch.float64),
        predicted=targets + torch.tensor([0.05, 0.2]).repeat(10),
        training_features=features[::2],
        training_properties=properties[::2],
        reconstructed=Reconstructed(
            rows=rows,
            loss=torch.tensor([0.1, 0.2, 9.0, 0.1, 0.2, float("inf")]),
            status=("converged", "local_minimum", "invalid", "converged", "converged", "failed"),
            invalid_above=1.0,
            energy=torch.tensor([1.9, 2.5, 1.95, NAN, 2.85, 2.0]),
            failures={3: "the calculator gave up"},
            features=torch.randn(6, 6, generator=rng(2), dtype=torch.float64),
        ),
    )


def judge(generated, data, **options):
    return evaluate({"n100": generated}, data_features=data[0], data_properties=data[1], **options)


def test_tables_one_and_two(generated, data):
    low, high = judge(generated, data).sizes["n100"].targets
    assert (low.target, high.target) == (1.9, 2.8)
    assert low.surrogate.percent_within == 50.0
    assert low.surrogate.mean_absolute_error == pytest.approx(0.125)
    assert (low.potential.count, low.potential.failed) == (3, 0)
    assert low.potential.percent_within == pytest.approx(200 / 3)
    assert low.potential.mean_absolute_error == pytest.approx((0 + 0.6 + 0.05) / 3, abs=1e-6)


def test_a_failed_structure_stays_in_the_count_and_is_a_miss(generated, data):
    high = judge(generated, data).sizes["n100"].targets[1]
    assert (high.potential.count, high.potential.failed) == (3, 1)
    assert high.potential.percent_within == pytest.approx(100 / 3)
    assert high.potential.mean_absolute_error == pytest.approx((0.05 + 0.8) / 2, abs=1e-6)


def test_invalid_ones_are_counted_and_can_be_left_out_beside(generated, data):
    low, high = judge(generated, data).sizes["n100"].targets
    assert low.inversion.invalid == high.inversion.invalid == 1
    assert low.inversion.percent_invalid == pytest.approx(100 / 3)
    assert low.inversion.status == {"converged": 1, "invalid": 1, "local_minimum": 1}
    assert (low.potential_valid.count, low.potential_valid.percent_within) == (2, 50.0)


def test_is_invalid_by_status_threshold_or_infinite_loss(generated):
    assert is_invalid(generated.reconstructed).tolist() == [False, False, True, False, False, True]
    no_limit = dataclasses.replace(generated.reconstructed, invalid_above=None, status=("converged",) * 6)
    assert is_invalid(no_limit).tolist() == [False] * 5 + [True]


def test_percent_invalid_is_unknown_without_a_threshold(generated, data):
    found = dataclasses.replace(
        generated.reconstructed, invalid_above=None, loss=torch.ones(6), status=("converged",) * 6
    )
    verdict = judge(dataclasses.replace(generated, reconstructed=found), data)
    assert verdict.sizes["n100"].targets[0].inversion.percent_invalid is None


def test_copies_of_training_rows_are_found(generated, data):
    features = generated.features.clone()
    features[:5] = generated.training_features[:5]
    low, high = judge(dataclasses.replace(generated, features=features), data).sizes["n100"].targets
    assert (low.diversity.percent_copies, high.diversity.percent_copies) == (50.0, 0.0)


def test_collapsed_samples_show_in_spread_and_number(generated, data):
    features = generated.features.clone()
    features[:10] = features[0]
    low, high = judge(dataclasses.replace(generated, features=features), data).sizes["n100"].targets
    assert (low.diversity.distinct, high.diversity.distinct) == (1, 10)
    assert low.diversity.ratio == pytest.approx(0.0)
    assert 0.5 < high.diversity.ratio < 2


def test_spread_without_real_data_at_the_target_has_a_reason(generated, data):
    targets = torch.full((20,), 9.0, dtype=torch.float64)
    verdict = judge(dataclasses.replace(generated, targets=targets, reconstructed=None), data)
    (target,) = verdict.sizes["n100"].targets
    assert target.diversity.ratio is None
    assert "0 real structures" in target.diversity.no_ratio
    assert not target.in_training_range
    assert verdict.warnings[0].startswith("targets outside the training range (1.5 to 3.49): 9.")


def test_features_alone_can_be_judged(generated, data):
    alone = dataclasses.replace(generated, reconstructed=None, predicted=None)
    target = judge(alone, data).sizes["n100"].targets[0]
    assert target.surrogate is target.potential is target.inversion is target.diversity_atoms is None


def test_a_target_at_the_edge_of_the_training_range_is_not_outside(generated, data):
    targets = torch.full((20,), 3.495, dtype=torch.float64)  # training ends at 3.49
    verdict = judge(dataclasses.replace(generated, targets=targets, reconstructed=None), data)
    assert verdict.sizes["n100"].targets[0].in_training_range
    assert not verdict.warnings


def test_samples_that_are_not_finite_are_told(generated, data):
    features = generated.features.clone()
    features[0, 0] = NAN
    verdict = judge(dataclasses.replace(generated, features=features), data)
    assert verdict.sizes["n100"].targets[0].diversity.count == 9
    assert any("1 of 20 generated samples are not finite" in warning for warning in verdict.warnings)


def test_failures_of_the_energy_method_are_told(generated, data):
    assert any("the calculator gave up" in warning for warning in judge(generated, data).warnings)


def test_several_sizes_share_one_yardstick(generated, data):
    verdict = evaluate(
        {"n100": generated, "again": generated}, data_features=data[0], data_properties=data[1]
    )
    assert verdict.sizes["n100"] == verdict.sizes["again"]


def test_verdict_survives_json(generated, data, tmp_path):
    verdict = judge(generated, data)
    write_json(tmp_path / "results.json", {**verdict.to_dict(), "provenance": {"seed": 1}})
    assert Verdict.from_dict(json.loads((tmp_path / "results.json").read_text())) == verdict


@pytest.mark.parametrize("spoil", [{"format": "other"}, {"sizes": {"n1": {"targets": []}}}, {"more": 1}])
def test_a_changed_verdict_is_refused(generated, data, spoil):
    with pytest.raises(InputError, match="verdict"):
        Verdict.from_dict({**judge(generated, data).to_dict(), **spoil})


def test_only_the_formation_energy_has_a_unit_of_its_own(generated, data):
    assert judge(generated, data).unit == "eV/atom"
    assert judge(generated, data, property="band gap").unit == ""
    assert judge(generated, data, property="band gap", unit="eV").unit == "eV"


def test_rows_that_do_not_fit_are_refused(generated, data):
    with pytest.raises(InputError, match="features has shape"):
        judge(generated, (data[0][:, :5], data[1]))
    found = dataclasses.replace(generated.reconstructed, rows=torch.arange(6) + 99)
    with pytest.raises(InputError, match="outside the 20 generated"):
        judge(dataclasses.replace(generated, reconstructed=found), data)
    with pytest.raises(InputError, match="no training sizes"):
        evaluate({}, data_features=data[0], data_properties=data[1])
    with pytest.raises(InputError, match="0 rows of features"):
        judge(generated, (data[0][:0], data[1][:0]))
    # The shape checks of the tests would refuse this when it is built; a user's Python does not.
    object.__setattr__(generated, "predicted", torch.zeros(3))
    with pytest.raises(InputError, match="predicted has shape"):
        judge(generated, data)
