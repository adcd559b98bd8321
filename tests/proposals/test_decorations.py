"""A property of decorations of one prototype, by which element takes which site."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers

from whorl.proposals.decorations import DecorationModel, Sites
from whorl.structures import StructureBatch, from_ase
from whorl.workflow.proposals import FittedProposer

A, B, X = ["Ca", "Sr", "Ba", "K", "Na", "La"], ["Ti", "Zr", "Nb", "Ta", "V"], ["O", "N", "F"]
ROOM = {symbol: 0.3 + 0.1 * k for k, symbol in enumerate([*A, *B])}


def perovskite(a, b, anions, rng=None):
    """A distorted perovskite, in an order of atoms and with an origin of its own."""
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    symbols = [a, b, *anions]
    if rng is not None:
        order = rng.permutation(5)
        places = (places + rng.normal(0, 0.03, places.shape) + rng.random(3))[order]
        symbols = [symbols[k] for k in order]
    size = 3.7 + (0 if rng is None else 0.4 * rng.random())
    return Atoms(symbols, scaled_positions=places, cell=[size] * 3, pbc=True)


def value_of(a, b, anions):
    """A property that no sum over elements gives: it depends on which of two metals has which site."""
    return 2.0 * ROOM[a] * anions.count("N") / 3 + ROOM[b] ** 2 + 0.5 * anions.count("F") * ROOM[b]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    anions = [*itertools.combinations_with_replacement(X, 3)]
    every = [(a, b, c) for a, b in itertools.product([*A, *B], [*A, *B]) if a != b for c in anions]
    chosen = [every[k] for k in rng.permutation(len(every))[:330]]
    structures = from_ase([perovskite(*one, rng) for one in chosen])
    values = torch.tensor([value_of(*one) for one in chosen], dtype=torch.float64)
    return structures, values, chosen


@pytest.fixture(scope="module")
def model(data):
    structures, values, _ = data
    return DecorationModel.fit(structures[:250], values[:250])


def test_sites_are_found_whatever_the_order_of_atoms_the_origin_and_the_volume(data):
    structures, _, chosen = data
    sites = Sites(structures)
    (of_three,) = [c for c in range(3) if int((sites.classes == c).sum()) == 3]
    numbers = sites.numbers(structures)
    alone = torch.nonzero(sites.classes != of_three).flatten().tolist()
    wrong = 0
    orders = []
    for row, (a, b, anions) in zip(numbers, chosen, strict=True):
        expected = sorted(atomic_numbers[symbol] for symbol in anions)
        wrong += sorted(row[sites.classes == of_three].tolist()) != expected
        orders.append([int(row[alone[0]]) == atomic_numbers[a], int(row[alone[1]]) == atomic_numbers[b]])
    assert wrong == 0
    assert min(np.mean(orders, 0)) == 1.0 or max(np.mean(orders, 0)) == 0.0


def test_decorations_that_were_left_out_are_predicted_and_the_uncertainty_covers_them(data, model):
    structures, values, _ = data
    mean, spread = model.predict(structures[250:])
    missed = (mean - values[250:]).abs()
    assert float(missed.mean()) < 0.25 * float(values.std())
    assert float((missed < 1.645 * spread).double().mean()) > 0.7


def test_positions_do_not_change_the_prediction_nor_does_the_volume(data, model):
    rng = np.random.default_rng(1)
    ideal = from_ase([perovskite("Sr", "Ti", ("O", "O", "N"))])
    other = from_ase([perovskite("Sr", "Ti", ("N", "O", "O"), rng)])
    swapped = from_ase([perovskite("Ti", "Sr", ("O", "O", "N"))])
    (first, again, different), _ = model.predict(StructureBatch.concatenate([ideal, other, swapped]))
    assert first == pytest.approx(float(again), abs=1e-9)
    assert abs(first - different) > 0.05


def test_crystals_of_another_size_or_element_have_no_prediction(model):
    strange = from_ase([bulk("Cu"), perovskite("Sr", "Ti", ("S", "S", "S"))])
    _, spread = model.predict(strange)
    assert spread.isinf().all()


def test_crystals_of_several_prototypes_are_left_to_another_model(data):
    structures, values, _ = data
    some = [bulk(a, "fcc", a=4.0) for a in ("Cu", "Ag", "Au")] * 40
    mixed = StructureBatch.concatenate([structures[:100], from_ase(some)])
    assert DecorationModel.fit(mixed, torch.arange(len(mixed)).double()) is None
    assert DecorationModel.fit(structures[:20], values[:20]) is None


def test_random_crystals_are_no_prototype():
    rng = np.random.default_rng(2)
    crystals = [
        Atoms(rng.choice(["Na", "K", "Cl"], 5), scaled_positions=rng.random((5, 3)), cell=[4, 4, 4], pbc=True)
        for _ in range(80)
    ]
    assert DecorationModel.fit(from_ase(crystals), torch.arange(80.0)) is None


def test_proposals_of_decorations_hit_a_value_that_depends_on_sites(data):
    structures, values, _ = data
    target = float(values.quantile(0.1))
    made = FittedProposer(structures, values).sample(20, target=target, tolerance=0.1)
    sites = Sites(structures)
    numbers = sites.numbers(made.structures)
    symbols = {number: symbol for symbol, number in atomic_numbers.items()}
    size = torch.bincount(sites.classes)[sites.classes]
    lone = torch.nonzero(size == 1).flatten().tolist()
    # Which of the two lone sites is A: that of the data's first crystal.
    first = data[2][0]
    lone = lone if symbols[int(sites.numbers(structures[:1])[0, lone[0]])] == first[0] else lone[::-1]
    real = []
    for row in numbers:
        a, b = (symbols[int(row[k])] for k in lone)
        anions = [symbols[int(z)] for z in row[size == 3]]
        if a in ROOM and b in ROOM:
            real.append(value_of(a, b, anions))
    apart = np.abs(np.array(real) - target)
    assert len(real) > 15
    assert (apart < 0.1).mean() > 0.6 > 2 * float(((values - target).abs() < 0.1).double().mean())
