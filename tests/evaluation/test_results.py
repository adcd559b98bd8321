"""Metrics of features and of searched structures, and the results made of them."""

import json

import pytest
import torch
from ase import Atoms
from evaluating import evaluated, without_structures

from whorl.errors import InputError
from whorl.evaluation import Reference, Results, Samples, results_of
from whorl.files import write_json
from whorl.structures import from_ase

NAN = float("nan")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def reference():
    return Reference(
        name="formation_energy",
        unit="",
        features=torch.randn(200, 6, generator=rng(), dtype=torch.float64),
        properties=torch.linspace(1.5, 3.5, 200, dtype=torch.float64),
        training_rows=torch.arange(0, 200, 2),
    )


TARGETS = torch.tensor([1.9, 2.8], dtype=torch.float64).repeat_interleave(10)


@pytest.fixture
def samples():
    """Two targets, 10 samples each; 3 of each were searched for atoms."""
    return Samples(
        ids=tuple(f"s{i}" for i in range(20)),
        targets=TARGETS,
        features=torch.randn(20, 6, generator=rng(1), dtype=torch.float64),
        rows=torch.tensor([0, 1, 2, 10, 11, 12]),
        loss=torch.tensor([0.1, 0.2, 9.0, 0.1, 0.2, float("inf")]),
        status=("converged", "local_minimum", "invalid", "converged", "converged", "failed"),
        invalid_above=1.0,
        structure_features=torch.randn(6, 6, generator=rng(2), dtype=torch.float64),
        structures=from_ase([Atoms("Pt")] * 6),
    )


VALUES = {
    "predicted": TARGETS + torch.tensor([0.05, 0.2]).repeat(10),
    "computed": torch.tensor([1.9, 2.5, 1.95, NAN, 2.85, 2.0]),
    "failures": {3: "the calculator gave up"},
}


def results(samples, reference, **values):
    return results_of({"n100": evaluated(samples, reference, **(values or VALUES))}, tolerance=0.1)


def of_features(samples, reference):
    return results(without_structures(samples), reference, predicted=VALUES["predicted"])


def test_tables_one_and_two(samples, reference):
    low, high = results(samples, reference).sizes["n100"].targets
    assert (low.target, high.target) == (1.9, 2.8)
    assert low.surrogate.percent_within == 50.0
    assert low.surrogate.mean_absolute_error == pytest.approx(0.125)
    assert (low.potential.count, low.potential.failed) == (3, 0)
    assert low.potential.percent_within == pytest.approx(200 / 3)
    assert low.potential.mean_absolute_error == pytest.approx((0 + 0.6 + 0.05) / 3, abs=1e-6)


def test_a_failed_structure_stays_in_the_count_and_is_a_miss(samples, reference):
    high = results(samples, reference).sizes["n100"].targets[1]
    assert (high.potential.count, high.potential.failed) == (3, 1)
    assert high.potential.percent_within == pytest.approx(100 / 3)
    assert high.potential.mean_absolute_error == pytest.approx((0.05 + 0.8) / 2, abs=1e-6)


def test_invalid_ones_are_counted_and_can_be_left_out_beside(samples, reference):
    low, high = results(samples, reference).sizes["n100"].targets
    assert low.inversion.invalid == high.inversion.invalid == 1
    assert low.inversion.percent_invalid == pytest.approx(100 / 3)
    assert low.inversion.status == {"converged": 1, "invalid": 1, "local_minimum": 1}
    assert (low.potential_valid.count, low.potential_valid.percent_within) == (2, 50.0)


def test_failures_of_the_energy_method_are_told(samples, reference):
    assert any("the calculator gave up" in warning for warning in results(samples, reference).warnings)


def test_invalid_by_status_threshold_or_infinite_loss(samples):
    assert samples.invalid.tolist() == [False, False, True, False, False, True]
    no_limit = samples.replace(invalid_above=None, status=("converged",) * 6)
    assert no_limit.invalid.tolist() == [False] * 5 + [True]


def test_percent_invalid_is_unknown_without_a_threshold(samples, reference):
    samples = samples.replace(invalid_above=None, loss=torch.ones(6), status=("converged",) * 6)
    assert results(samples, reference).sizes["n100"].targets[0].inversion.percent_invalid is None


def test_what_was_decoded_in_closed_form_was_not_searched(samples, reference):
    samples = samples.replace(loss=torch.full((6,), NAN), status=("decoded",) * 6)
    assert results(samples, reference).sizes["n100"].targets[0].inversion is None


def test_copies_of_training_rows_are_found(samples, reference):
    features = samples.features.clone()
    features[:5] = reference.training_features[:5]
    low, high = results(samples.replace(features=features), reference).sizes["n100"].targets
    assert (low.diversity.percent_copies, high.diversity.percent_copies) == (50.0, 0.0)


def test_collapsed_samples_show_in_spread_and_number(samples, reference):
    features = samples.features.clone()
    features[:10] = features[0]
    low, high = results(samples.replace(features=features), reference).sizes["n100"].targets
    assert (low.diversity.distinct, high.diversity.distinct) == (1, 10)
    assert low.diversity.ratio == pytest.approx(0.0)
    assert 0.5 < high.diversity.ratio < 2


def test_spread_without_real_data_at_the_target_has_a_reason(samples, reference):
    far = of_features(samples.replace(targets=torch.full((20,), 9.0, dtype=torch.float64)), reference)
    (target,) = far.sizes["n100"].targets
    assert target.diversity.ratio is None
    assert "0 real structures" in target.diversity.no_ratio
    assert not target.in_training_range
    assert far.warnings[0].startswith("targets outside the training range (1.5 to 3.49): 9.")


def test_features_alone_can_be_evaluated(samples, reference):
    alone = results_of({"n100": evaluated(without_structures(samples), reference)}, tolerance=0.1)
    target = alone.sizes["n100"].targets[0]
    assert target.surrogate is target.potential is target.inversion is target.diversity_atoms is None


def test_a_target_at_the_edge_of_the_training_range_is_not_outside(samples, reference):
    edge = torch.full((20,), 3.495, dtype=torch.float64)  # training ends at 3.49
    near = of_features(samples.replace(targets=edge), reference)
    assert near.sizes["n100"].targets[0].in_training_range
    assert not near.warnings


def test_samples_that_are_not_finite_are_told(samples, reference):
    features = samples.features.clone()
    features[0, 0] = NAN
    some = results(samples.replace(features=features), reference)
    assert some.sizes["n100"].targets[0].diversity.count == 9
    assert any("1 of 20 generated samples are not finite" in warning for warning in some.warnings)


def test_several_sizes_share_one_yardstick_and_their_warnings(samples, reference):
    one = evaluated(samples, reference, **VALUES)
    both = results_of({"n100": one, "again": one}, tolerance=0.1)
    assert both.sizes["n100"] == both.sizes["again"]
    assert both.warnings == results(samples, reference).warnings
    other = results_of({"n100": one, "again": evaluated(samples, reference)}, tolerance=0.1)
    assert other.warnings == tuple(f"n100: {warning}" for warning in both.warnings) != ()


def test_results_survive_json(samples, reference, tmp_path):
    made = results(samples, reference)
    write_json(tmp_path / "results.json", {**made.to_dict(), "provenance": {"seed": 1}})
    assert Results.from_dict(json.loads((tmp_path / "results.json").read_text())) == made


@pytest.mark.parametrize(
    "spoil", [{"format": "whorl verdict 1"}, {"sizes": {"n1": {"targets": []}}}, {"more": 1}]
)
def test_changed_results_and_those_of_other_versions_are_refused(samples, reference, spoil):
    with pytest.raises(InputError, match=r"results: .*Evaluate again"):
        Results.from_dict({**results(samples, reference).to_dict(), **spoil})


def test_only_the_formation_energy_has_a_unit_of_its_own(samples, reference):
    assert results(samples, reference).unit == "eV/atom"
    gap = reference.replace(name="band gap")
    assert results(samples, gap).unit == ""
    assert results(samples, gap.replace(unit="eV")).unit == "eV"


def test_what_does_not_fit_is_refused(samples, reference):
    with pytest.raises(InputError, match="outside the 20 samples"):
        samples.replace(rows=torch.arange(6) + 99)
    with pytest.raises(InputError, match="no training sizes"):
        results_of({}, tolerance=0.1)
    with pytest.raises(InputError, match="0 training rows"):
        results(samples, reference.replace(training_rows=torch.zeros(0, dtype=torch.int64)))
