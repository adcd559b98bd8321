import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whorl.errors import InputError
from whorl.generators import FeatureScaler


def test_standard_and_minmax_by_their_definitions():
    rows = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 7 + 3
    standard = FeatureScaler(3, "standard").fit(rows).transform(rows)
    torch.testing.assert_close(standard, (rows - rows.mean(0)) / rows.std(0, correction=0))
    minmax = FeatureScaler(3, "minmax").fit(rows).transform(rows)
    torch.testing.assert_close(minmax, (rows - rows.amin(0)) / (rows.amax(0) - rows.amin(0)))
    assert minmax.min() == 0 and minmax.max() == 1


@pytest.mark.parametrize("mode", ["standard", "minmax"])
def test_constant_features_are_held_at_their_value(mode):
    rows = torch.tensor([[1.0, 5e-12, 0.0], [2.0, 5e-12, 0.0]], dtype=torch.float64)
    scaler = FeatureScaler(3, mode).fit(rows)
    elsewhere = torch.tensor([[1.5, 3.0, -1.0]], dtype=torch.float64)
    assert scaler.transform(elsewhere)[0, 1:].tolist() == [0, 0]
    assert scaler.inverse(torch.ones(1, 3, dtype=torch.float64))[0, 1:].tolist() == [5e-12, 0]


def test_rounding_noise_is_not_a_feature():
    noise = torch.tensor([[1000.0], [1000.0001]])  # neighbours in float32
    assert FeatureScaler(1).fit(noise).transform(noise).abs().max() == 0
    real = noise.double() + torch.tensor([[0.0], [1e-3]])
    assert FeatureScaler(1).fit(real).transform(real).abs().max() == 1


@pytest.mark.parametrize("mode", ["standard", "minmax", "shared"])
def test_a_feature_of_almost_no_range_is_constant_beside_one_that_varies(mode):
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    rows *= torch.tensor([1.0, 1.5e-31, 1e-4])
    scaler = FeatureScaler(3, mode).fit(rows)
    assert scaler.constant == 1
    unseen = torch.tensor([[0.5, 1e-28, 2e-4]], dtype=torch.float64)  # 1,000 times its range in training
    scaled = scaler.transform(unseen)
    assert scaled[0, 1] == 0 and scaled.abs().max() < 10
    assert scaler.inverse(scaled)[0, 1].abs() < 1e-30


def test_without_a_floor_columns_of_any_units_vary():
    rows = torch.tensor([[1.0, 2e-20], [3.0, 5e-20]], dtype=torch.float64)
    scaler = FeatureScaler(2, negligible=0.0).fit(rows)
    assert scaler.constant == 0
    torch.testing.assert_close(
        scaler.transform(rows), torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("mode", ["standard", "minmax"])
@given(
    magnitude=st.floats(-290, 290),
    spread=st.floats(-9, 0),
    seed=st.integers(0, 2**31),
)
def test_any_magnitude_goes_there_and_back(mode, magnitude, spread, seed):
    """Values around 10^magnitude that differ by 10^spread of that."""
    rng = torch.Generator().manual_seed(seed)
    rows = 10**magnitude * (1 + 10**spread * torch.randn(6, 4, generator=rng, dtype=torch.float64))
    scaler = FeatureScaler(4, mode).fit(rows)
    scaled = scaler.transform(rows)
    assert torch.isfinite(scaled).all()
    assert scaled.abs().max() < 10
    # Of the column's values, not of each: one near zero is a small difference of larger ones.
    torch.testing.assert_close(scaler.inverse(scaled), rows, rtol=0, atol=1e-12 * float(rows.abs().max()))


def test_the_largest_numbers_do_not_overflow():
    rows = torch.tensor([[-1.7e308], [1.7e308]], dtype=torch.float64)
    scaler = FeatureScaler(1, "standard").fit(rows)
    torch.testing.assert_close(scaler.transform(rows), torch.tensor([[-1.0], [1.0]], dtype=torch.float64))


def test_bad_rows_are_refused_with_their_place():
    rows = torch.zeros(4, 2)
    rows[2, 1] = torch.nan
    with pytest.raises(InputError, match=r"1 of 4 rows, first in row 2, column 1"):
        FeatureScaler(2).fit(rows)
    with pytest.raises(InputError, match="at least one row"):
        FeatureScaler(2).fit(torch.zeros(0, 2))
    with pytest.raises(InputError, match="2 columns"):
        FeatureScaler(2).fit(torch.zeros(5, 3))


def test_one_row_and_float32_rows_work_and_come_back_in_their_type():
    scaler = FeatureScaler(2).fit(torch.tensor([[1.0, 2.0]]))
    assert scaler.transform(torch.ones(3, 2)).tolist() == [[0, 0]] * 3
    assert scaler.transform(torch.ones(3, 2)).dtype == torch.float32
    assert scaler.offset.dtype == torch.float64


def test_both_maps_are_differentiable():
    scaler = FeatureScaler(2, "minmax").fit(torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64))
    rows = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scaler.transform, rows)
    assert torch.autograd.gradcheck(scaler.inverse, rows)


def test_shared_scaling_keeps_equal_values_equal_and_constants_exact():
    rows = torch.tensor([[2.0, 2.0, 7.3, -1.0], [4.0, 4.0, 7.3, 3.0]], dtype=torch.float64)
    scaler = FeatureScaler(4, "shared").fit(rows)
    scaled = scaler.transform(rows)
    assert torch.equal(scaled[:, 0], scaled[:, 1]) and (scaled[:, 2] == 0).all()
    torch.testing.assert_close(scaled[:, 0], torch.tensor([0.6, 1.0], dtype=torch.float64))
    torch.testing.assert_close(scaler.inverse(scaled), rows)
    assert (scaler.inverse(scaled + 0.3)[:, 2] == 7.3).all()
    constant = FeatureScaler(2, "shared").fit(torch.ones(3, 2))
    assert (constant.inverse(torch.randn(5, 2)) == 1).all()
