import pytest
import torch

from whorl.errors import InputError
from whorl.surrogates import EnsembleSurrogate

FAST = {"networks": 3, "hidden": 64, "layers": 3}


def labelled(rows=60, seed=0):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 5, generator=rng, dtype=torch.float64)
    features[:, 4] = 7.0  # does not vary
    return features, 3 + features[:, 0] - 0.5 * features[:, 1]


@pytest.fixture(scope="module")
def committee():
    return EnsembleSurrogate.fit(*labelled(), seed=1, validation=torch.arange(0, 60, 5), **FAST)


def test_it_reads_what_it_was_not_told_and_measures_how_well(committee):
    features, values = labelled(200, seed=9)
    error = (committee.predict(features).mean - values).abs().mean()
    assert error < 0.4 * values.std()
    assert 0 < committee.record["validation_mae"] < 0.5 * values.std()
    assert committee.record["rows"] == 60


def test_uncertainty_grows_away_from_the_rows_it_knows(committee):
    near, far = labelled()[0], 6 + labelled()[0]
    assert (committee.predict(near).uncertainty > 0).all()
    assert committee.predict(far).uncertainty.min() > 2 * committee.predict(near).uncertainty.median()


def test_a_feature_that_hardly_varies_in_training_cannot_drown_the_others():
    features, values = labelled()
    features[:, 4] = 1e-12 * normal_noise(60)
    committee = EnsembleSurrogate.fit(features, values, seed=0, **FAST)
    moved = features.clone()
    moved[:, 4] = 1e-4
    torch.testing.assert_close(
        committee.predict(moved).mean, committee.predict(features).mean, rtol=1e-3, atol=1e-3
    )


def normal_noise(rows):
    return torch.randn(rows, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_mean_and_uncertainty_follow_the_formula(committee):
    features = labelled(7, seed=4)[0]
    read = committee.predict(features)
    process, own = committee._process.predict(
        committee.range_scaler.transform(features).numpy(), return_std=True
    )
    inputs = (
        committee.standard_scaler.transform(features).float(),
        (features * committee.common_scale).float(),
    )
    scale, offset = committee.property_scaler.scale[0], committee.property_scaler.offset[0]
    for i in range(7):
        f = [
            float(net(inputs[m % 2][i : i + 1]) * scale + offset) for m, net in enumerate(committee.networks)
        ]
        mean = 0.5 * process[i] + 0.5 * sum(f) / 3
        kernel = committee._process.kernel_
        noise = kernel.k2.noise_level * committee.values.std(correction=0).item() ** 2
        square = 0.5 * (process[i] - mean) ** 2 + 0.5 * sum((value - mean) ** 2 for value in f) / 3
        square += max(own[i] ** 2 - noise, 0)
        assert float(read.mean[i]) == pytest.approx(mean, rel=1e-5)
        assert float(read.uncertainty[i]) == pytest.approx(square**0.5, rel=1e-4)


def test_same_seed_same_committee_and_the_global_state_is_kept(committee):
    features, values = labelled()
    state = torch.get_rng_state()
    again = EnsembleSurrogate.fit(features, values, seed=1, **FAST)
    assert torch.equal(state, torch.get_rng_state())
    other = EnsembleSurrogate.fit(features, values, seed=2, **FAST)
    expected = committee.predict(features).mean
    assert torch.equal(again.predict(features).mean, expected)
    assert not torch.equal(other.predict(features).mean, expected)


def test_rows_are_read_one_by_one_as_together(committee):
    features = labelled(9, seed=5)[0]
    torch.testing.assert_close(
        committee.predict(features, batch_size=2).mean, committee.predict(features).mean, rtol=1e-6, atol=1e-6
    )
    assert committee.predict(features[:0]).mean.shape == (0,)


def test_saved_and_loaded_it_reads_the_same(committee, tmp_path):
    committee.save(tmp_path / "committee.safetensors")
    loaded = EnsembleSurrogate.load(tmp_path / "committee.safetensors")
    features = labelled(20, seed=3)[0]
    assert torch.equal(loaded.predict(features).mean, committee.predict(features).mean)
    assert torch.equal(loaded.predict(features).uncertainty, committee.predict(features).uncertainty)
    assert loaded.record == committee.record


def test_damaged_and_foreign_files_are_named(committee, tmp_path):
    path = tmp_path / "committee.safetensors"
    committee.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged"):
        EnsembleSurrogate.load(path)
    with pytest.raises(InputError, match="no such file"):
        EnsembleSurrogate.load(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="did not write, expected an ensemble"):
        EnsembleSurrogate.load(path)


def test_the_same_ensemble_makes_the_same_file(committee, tmp_path):
    for name in ("a", "b"):
        committee.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 10**12},
        {"rows": None},
        {"shape": [10**9, 10**9]},
        {"shape": "x"},
        {"record": None},
        {"record": {"networks": 10**6, "layers": 2, "hidden": 8}},
        {"record": {"networks": 2, "layers": 10**6, "hidden": 8}},
        {"record": {"networks": 2, "layers": 2, "hidden": 2**60}},
        {"format": "x" * 5000},
    ],
    ids=str,
)
def test_descriptions_that_do_not_fit_are_refused_before_memory_is_taken(committee, tmp_path, change):
    from whorl.tensor_files import read_tensors, write_tensors

    path = tmp_path / "committee.safetensors"
    committee.save(path)
    tensors, description = read_tensors(path, entry="whorl_ensemble")
    write_tensors(path, tensors, {**description, **change}, entry="whorl_ensemble")
    with pytest.raises(InputError, match=r"committee\.safetensors: ") as caught:
        EnsembleSurrogate.load(path)
    assert len(str(caught.value)) < 600


def test_features_of_other_shapes_are_taken_flat_and_checked():
    features, values = labelled(30)
    committee = EnsembleSurrogate.fit(features[:, :4].reshape(30, 2, 2), values, seed=0, **FAST)
    assert committee.predict(features[:3, :4].reshape(3, 2, 2)).mean.shape == (3,)
    with pytest.raises(InputError, match="expected \\(2, 2\\)"):
        committee.predict(features[:3, :4])


def test_properties_that_do_not_vary_are_read_as_they_are():
    committee = EnsembleSurrogate.fit(
        labelled(20)[0], torch.full((20,), 2.5, dtype=torch.float64), seed=0, **FAST
    )
    read = committee.predict(labelled(4, seed=8)[0])
    torch.testing.assert_close(read.mean, torch.full((4,), 2.5, dtype=torch.float64))
    assert (read.uncertainty > 0).all()


def test_too_few_rows_and_bad_numbers_are_refused():
    features, values = labelled(9)
    with pytest.raises(InputError, match="got 9 rows to fit to, expected at least 10"):
        EnsembleSurrogate.fit(features, values, seed=0)
    features, values = labelled(12)
    with pytest.raises(InputError, match="got 9 rows"):
        EnsembleSurrogate.fit(features, values, seed=0, validation=torch.arange(3))
    features[3, 2] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        EnsembleSurrogate.fit(features, values, seed=0)
    with pytest.raises(InputError, match="networks: got 0"):
        EnsembleSurrogate.fit(*labelled(), seed=0, networks=0)
