"""Channels of the elements that are learned from a property."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from whorl.errors import InputError
from whorl.representations import SOAP
from whorl.representations.embedding import embedding_table
from whorl.structures import from_ase
from whorl.surrogates import element_channels, learned_embedding

ELEMENTS = ["Li", "C", "O", "Na", "S", "K", "Ti", "Cu", "Br", "Ba"]
HIDDEN = dict(zip(ELEMENTS, [0.9, -0.2, 0.4, -1.0, 0.7, 0.1, -0.7, 1.0, -0.4, -0.9], strict=True))


def pairs(count, seed=0):
    """Diatomic molecules whose property is a product of hidden numbers of the elements times a distance."""
    rng = np.random.default_rng(seed)
    atoms, values = [], []
    for _ in range(count):
        a, b = rng.choice(ELEMENTS, 2)
        d = rng.uniform(1.6, 3.0)
        atoms.append(Atoms([a, b], positions=[[0, 0, 0], [0, 0, d]]))
        values.append(HIDDEN[a] * HIDDEN[b] * d)
    return from_ase(atoms), torch.tensor(values, dtype=torch.float64)


def test_learned_channels_follow_the_numbers_on_which_the_property_depends(monkeypatch):
    monkeypatch.setattr(element_channels, "_EPOCHS", 150)
    structures, values = pairs(400)
    table = learned_embedding(structures, values, channels=3, seed=0)
    assert set(table) == set(ELEMENTS) and {row[0] for row in table.values()} == {1.0}
    columns = np.array([table[symbol] for symbol in ELEMENTS])
    assert columns.min() == -1.0 and columns.max() == 1.0
    fixed = embedding_table(ELEMENTS, 3).numpy()
    hidden = np.array([HIDDEN[symbol] for symbol in ELEMENTS])

    def explained(channels):
        fit = channels @ np.linalg.lstsq(channels, hidden, rcond=None)[0]
        return np.corrcoef(fit, hidden)[0, 1]

    assert explained(columns) > 0.9 > explained(fixed)
    assert SOAP(species=ELEMENTS, embedding=table).embedding == table


def test_the_same_arguments_give_the_same_table_and_leave_the_random_state(monkeypatch):
    monkeypatch.setattr(element_channels, "_EPOCHS", 5)
    structures, values = pairs(60)
    state = torch.get_rng_state()
    table = learned_embedding(structures, values, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        learned_embedding(structures, values, seed=3)
        == table
        != learned_embedding(structures, values, seed=4)
    )


def test_features_of_a_structure_are_those_of_a_slow_sum():
    structures = from_ase([molecule("CH3CH2OH"), molecule("H2O")])
    species, u = ["H", "C", "O"], torch.tensor([[1.0, 0.3], [1.0, -0.5], [1.0, 0.8]])
    fit = element_channels._Fit(structures, torch.zeros(2), species, u)
    for number, one in enumerate(structures):
        symbols = [species[[1, 6, 8].index(z)] for z in one.atomic_numbers.tolist()]
        channels = u[[species.index(symbol) for symbol in symbols]].double()
        n, sums = len(symbols), torch.zeros(2, 2, 6).double()
        for i in range(n):
            for j in range(n):
                r = float((one.positions[i] - one.positions[j]).norm())
                if i != j and r < 5.0:
                    g = (
                        np.exp(-(((r - np.linspace(1.5, 4.5, 6)) / 0.6) ** 2))
                        * (np.cos(np.pi * r / 5) + 1)
                        / 2
                    )
                    sums += channels[i][:, None, None] * channels[j][None, :, None] * torch.tensor(g) / n
        own = (channels[:, :, None] * channels[:, None]).mean(0)
        expected = torch.cat([sums.flatten(), channels.mean(0), own.flatten()])
        got = fit.features(torch.tensor([number]))[0].detach().double()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_learned_from_is_refused():
    structures, values = pairs(60)
    with pytest.raises(InputError, match=r"got 49 structures .* expected at least 50"):
        learned_embedding(structures[:49], values[:49], seed=0)
    with pytest.raises(InputError, match=r"value 2\.5 for every structure"):
        learned_embedding(structures, torch.full((60,), 2.5), seed=0)
    values[3] = float("nan")
    with pytest.raises(InputError, match="59 finite values"):
        learned_embedding(structures, values, seed=0)
    alone = from_ase([Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.0 + k / 100]]) for k in range(60)])
    with pytest.raises(InputError, match="got structures of Cu alone"):
        learned_embedding(alone, torch.arange(60.0), seed=0)
