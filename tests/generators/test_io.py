import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from whorl.errors import InputError
from whorl.generators import CVAE, fit, load_model, save_model
from whorl.surrogates import NetworkSurrogate
from whorl.version import __version__


@pytest.fixture(scope="module")
def trained():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(30, 4, generator=rng, dtype=torch.float64)
    model = CVAE(shape=(4,), hidden=8, latent=2)
    fit(model, features, features[:, 0], validation=torch.arange(6), seed=11, epochs=3)
    return model


@pytest.fixture
def path(trained, tmp_path):
    save_model(trained, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def rewrite(path, *, tensors=None, **changes):
    """Write the file again with a changed description or changed tensors."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["whorl_model"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    del description["sha256"]  # as in a file of an older version
    description.update(changes)
    state.update(tensors or {})
    state = {key: value for key, value in state.items() if value is not None}
    save_file(state, path, metadata={"whorl_model": json.dumps(description)})


def test_everything_comes_back(trained, path):
    loaded = load_model(path)
    assert isinstance(loaded, CVAE) and not loaded.training
    assert loaded.config() == trained.config()
    assert loaded.training_record == trained.training_record
    condition = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    rng = torch.Generator
    assert torch.equal(
        loaded.sample(condition, rng=rng().manual_seed(1)),
        trained.sample(condition, rng=rng().manual_seed(1)),
    )


def test_the_file_says_where_it_is_from(path):
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["whorl_model"])
    assert description["provenance"]["whorl_version"] == __version__
    assert description["provenance"]["seed"] == 11


def test_the_same_model_makes_the_same_file(trained, path, tmp_path):
    save_model(trained, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_surrogate_comes_back_too(tmp_path):
    features = torch.randn(20, 4, dtype=torch.float64)
    model = NetworkSurrogate(shape=(4,), hidden=8, layers=1)
    fit(model, features, features[:, 0], validation=torch.arange(5), seed=0, epochs=2)
    save_model(model, tmp_path / "surrogate.safetensors", provenance={"whose": "mine"})
    loaded = load_model(tmp_path / "surrogate.safetensors")
    assert isinstance(loaded, NetworkSurrogate)
    assert torch.equal(loaded.predict(features).mean, model.predict(features).mean)
    assert loaded.validation_mae == model.validation_mae


def test_files_that_are_no_models(tmp_path, path):
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="damaged, or not a safetensors file"):
        load_model(tmp_path / "text.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        load_model(path)
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="what whorl did not write, expected a model"):
        load_model(tmp_path / "plain.safetensors")


def test_files_that_contradict_themselves(path, trained):
    name = "decoder.0.weight"
    for tensors, words in (
        ({name: torch.zeros(2, 2)}, "has shape"),
        ({name: None}, "is missing"),
        ({"stranger": torch.zeros(1)}, "is no part of a cvae"),
        ({name: torch.full_like(trained.state_dict()[name], torch.nan)}, "not finite"),
    ):
        save_model(trained, path)
        rewrite(path, tensors=tensors)
        with pytest.raises(InputError, match=words):
            load_model(path)
    for changes, words in (
        ({"format": 99}, "Update whorl"),
        ({"config": {"kind": "cave", "shape": [4]}}, "Did you mean 'cvae'"),
        ({"config": {**trained.config(), "latent": 3}}, "has shape"),
    ):
        save_model(trained, path)
        rewrite(path, **changes)
        with pytest.raises(InputError, match=words):
            load_model(path)


@pytest.mark.parametrize(
    "config",
    [
        {"layers": 100_000},
        {"layers": 2**70},
        {"hidden": 10**7},
        {"hidden": 2**40},
        {"latent": 10**12},
        {"properties": 10**12},
        {"shape": [10**9]},
        {"shape": [10**9, 10**9, 10**9]},
        {"shape": None},
        {"shape": "x"},
        {"hidden": "x"},
        {"hidden": 8.5},
        {"activation": None},
        {"scaling": []},
    ],
    ids=str,
)
def test_absurd_settings_in_a_model_file_are_refused_before_memory_is_taken(path, trained, config):
    rewrite(path, config={**trained.config(), **config})
    with pytest.raises(InputError, match=r"model\.safetensors: ") as caught:
        load_model(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "changes", [{"config": [1]}, {"config": "x"}, {"training": [1]}, {"format": "9" * 5000}]
)
def test_descriptions_of_another_form(path, changes):
    rewrite(path, **changes)
    with pytest.raises(InputError, match=r"model\.safetensors: ") as caught:
        load_model(path)
    assert len(str(caught.value)) < 600


def test_a_description_that_is_no_mapping(path):
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for text in ("[]", "null", "3", '"x"', "[" * 100_000):
        save_file(tensors, path, metadata={"whorl_model": text})
        with pytest.raises(InputError, match="damaged"):
            load_model(path)


def test_an_untrained_model_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="has not been trained"):
        save_model(CVAE(shape=(4,)), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_byte_of_a_model_is_noticed(path):
    whole = path.read_bytes()
    for place in (len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match="damaged"):
            load_model(path)
