"""Every generator keeps the contract, and every registered kind is checked here."""

import pytest
import torch

from whorl.axes import GENERATORS
from whorl.errors import InputError
from whorl.generators import CVAE, GAN, make_generator
from whorl.testing import check_generator

SMALL = {
    "cvae": [
        {"shape": [6], "hidden": 8, "latent": 3, "layers": 2},
        {"shape": [2, 3], "properties": 2, "hidden": 8, "latent": 1, "scaling": "standard"},
        {"shape": [1], "layers": 1, "hidden": 2, "latent": 2, "beta": 0.0, "activation": "silu"},
    ],
    "gan": [{"shape": [6], "channels": 8}, {"shape": [9, 8, 2], "channels": 4}],
    "wgan_gp": [{"shape": [6], "channels": 8}, {"shape": [9, 8, 2], "channels": 4}],
    "diffusion": [
        {"shape": [6], "channels": 8, "steps": 3},
        {"shape": [9, 8, 2], "channels": 4, "steps": 3},
        {"shape": [3, 5], "channels": 8, "steps": 3},
    ],
    "energy_based": [
        {"shape": [6], "channels": 8, "levels": 5, "components": 3},
        {"shape": [9, 8, 2], "properties": 2, "channels": 4, "levels": 3, "guidance": 2.0},
        {"shape": [3, 5], "channels": 4, "levels": 3},
    ],
    "flow_matching": [
        {"shape": [6], "channels": 8, "steps": 3},
        {"shape": [9, 8, 2], "properties": 2, "channels": 4, "steps": 2, "guidance": 2.0},
        {"shape": [3, 5], "properties": 2, "channels": 8, "steps": 2, "guidance": 2.0},
    ],
    "flow": [
        {"shape": [6], "transforms": 2, "hidden": 8, "bins": 4},
        {"shape": [2, 3], "properties": 2, "transforms": 3, "layers": 1, "hidden": 8, "bins": 4},
        {"shape": [1], "transforms": 1, "hidden": 4},
    ],
}


@pytest.mark.parametrize("kind", list(GENERATORS))
def test_every_kind_keeps_the_contract(kind):
    for options in SMALL[kind]:
        check_generator(lambda: make_generator({"kind": kind, **options}))  # noqa: B023


class _Forgetful(CVAE):
    """Ignores rng."""

    kind = "forgetful"

    @torch.no_grad()
    def sample(self, condition, *, rng, temperature=1.0):
        self.check_condition(condition)
        return self.decode(torch.randn(len(condition), self.latent), condition)


def test_the_check_finds_a_generator_that_ignores_its_rng():
    with pytest.raises(AssertionError, match="global random state"):
        check_generator(lambda: _Forgetful(shape=(4,), hidden=8, latent=2))


class _Dead(CVAE):
    """Has weights that nothing uses."""

    kind = "dead"

    def __init__(self, **options):
        super().__init__(**options)
        self.unused = torch.nn.Linear(1, 1)


def test_the_check_finds_weights_that_do_not_train():
    with pytest.raises(AssertionError, match="unused"):
        check_generator(lambda: _Dead(shape=(4,), hidden=8, latent=2))


class _Idle(GAN):
    """Takes its steps itself, and has weights that nothing uses."""

    kind = "idle"

    def __init__(self, **options):
        super().__init__(**options)
        self.unused = torch.nn.Linear(1, 1)


def test_the_check_finds_weights_that_own_steps_leave_alone():
    with pytest.raises(AssertionError, match="unused"):
        check_generator(lambda: _Idle(shape=(4,), channels=4))


def test_a_misspelt_kind_or_option_is_named():
    with pytest.raises(InputError, match="Did you mean 'cvae'"):
        make_generator({"kind": "cave", "shape": [4]})
    with pytest.raises(InputError, match="Did you mean 'latent'"):
        make_generator({"kind": "cvae", "shape": [4], "latant": 3})
    with pytest.raises(InputError, match="'shape' is missing"):
        make_generator({"kind": "cvae"})
    with pytest.raises(InputError, match="unknown generator"):
        make_generator({"shape": [4]})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": -1.0}, "beta: got -1.0"),
        ({"latent": 0}, "latent: got 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"activation": "rleu"}, "Did you mean 'relu'"),
        ({"scaling": "min_max"}, "Did you mean 'minmax'"),
        ({"shape": [0]}, "each length of shape"),
    ],
)
def test_senseless_hyperparameters_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        make_generator({"kind": "cvae", "shape": [4], **options})


def test_the_defaults_are_the_papers():
    config = CVAE(shape=(380,)).config()
    paper = {"layers": 3, "hidden": 128, "latent": 25, "beta": 0.75, "learning_rate": 1e-3}
    assert config == {**config, **paper}
