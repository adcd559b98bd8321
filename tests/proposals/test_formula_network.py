"""Formulas by a network: requests, and what it learns."""

from itertools import product

import numpy as np
import pytest
import torch

from whorl.errors import InputError
from whorl.proposals import FormulaModel, FormulaNetwork, FormulaRequest

ALKALIS, HALOGENS, EARTHS = ("Li", "Na", "K", "Rb", "Cs"), ("F", "Cl", "Br", "I"), ("Mg", "Ca", "Sr", "Ba")
SALTS = [{a: 1, x: 1} for a, x in product(ALKALIS, HALOGENS)] + [
    {e: 1, x: 2} for e, x in product(EARTHS, HALOGENS)
]
TERNARY = [{a: 1, e: 1, x: 3} for a, e, x in product(ALKALIS, EARTHS, HALOGENS)]
KNOWN = [one for k, one in enumerate(SALTS + TERNARY) if k % 5]


@pytest.fixture(scope="module")
def network() -> FormulaNetwork:
    values = torch.tensor([float(len(one)) for one in KNOWN])
    return FormulaNetwork(KNOWN, values, steps=150)


@pytest.mark.parametrize(
    "asked",
    [
        {"elements": ["Na", "Cl"], "new": True},
        {"exclude": ["F", "Cl", "Br"], "n_elements": (2, 2)},
        {"n_atoms": (7, 9)},
        {"elements": ["Ba"], "n_atoms": (4, 4), "n_elements": (4, 4)},
        {"n_elements": (4, 5), "n_atoms": (5, 6)},
        {"n_atoms": (1, 2)},
        {"balanced": True, "elements": ["K"]},
    ],
)
def test_formulas_are_what_is_requested(network, asked):
    request = FormulaRequest.model_validate(asked)
    if request.balanced:
        pytest.importorskip("smact")
    found = network.sample(12, request=request)
    assert found
    assert len({frozenset(one.items()) for one in found}) == len(found)
    for one in found:
        assert set(request.elements) <= set(one)
        assert not set(request.exclude) & set(one)
        if request.n_atoms:
            assert request.n_atoms[0] <= sum(one.values()) <= request.n_atoms[1]
        if request.n_elements:
            assert request.n_elements[0] <= len(one) <= request.n_elements[1]
        if request.new:
            assert one not in KNOWN
        if request.balanced:
            charges = dict.fromkeys(HALOGENS, -1) | dict.fromkeys(ALKALIS, 1) | dict.fromkeys(EARTHS, 2)
            if any(symbol in HALOGENS for symbol in one):  # else an alloy
                assert sum(charges[symbol] * n for symbol, n in one.items()) <= 0 or len(one) > 2


def test_multiples_of_a_formula_of_the_data_are_not_new():
    doubled = [{symbol: 2 * n for symbol, n in one.items()} for one in KNOWN]
    data = FormulaNetwork(doubled, steps=60)
    for one in data.sample(30, request=FormulaRequest(new=True)):
        common = np.gcd.reduce(list(one.values()))
        assert {symbol: n // common for symbol, n in one.items()} not in KNOWN


def test_it_finds_salts_that_it_was_not_shown(network):
    found = network.sample(20, request=FormulaRequest(new=True))
    assert np.mean([one in SALTS + TERNARY for one in found]) > 0.1  # at random below 0.01


def test_the_target_decides(network):
    sizes = [[len(one) for one in network.sample(15, target=target)] for target in (2.0, 3.0)]
    assert np.mean(sizes[0]) < 2.4 < 2.6 < np.mean(sizes[1])


def test_the_same_seeds_give_the_same_formulas():
    one, other = (FormulaNetwork(KNOWN, steps=3, seed=1).sample(5, seed=2) for _ in range(2))
    assert one == other
    assert FormulaNetwork(KNOWN, steps=3, seed=1).sample(5, seed=3) != one


def test_bad_input(network):
    with pytest.raises(InputError, match=r"no structure of the data has Xe.*like Xe: "):
        network.sample(1, request=FormulaRequest(elements=["Xe"]))
    with pytest.raises(InputError, match="all elements of the data are excluded"):
        network.sample(1, request=FormulaRequest(exclude=[*ALKALIS, *HALOGENS, *EARTHS]))
    with pytest.raises(InputError, match="needs the property"):
        FormulaNetwork(KNOWN, steps=1).sample(1, target=1.0)
    with pytest.raises(InputError, match="nothing drawn"):
        network.sample(1, request=FormulaRequest(n_elements=(7, 8)))
    with pytest.raises(InputError, match="got 1, of which none"):
        FormulaNetwork([{"H": 21}], steps=1)


def test_formulas_are_arranged_on_the_sites_of_the_most_similar_elements():
    model = FormulaModel([{"Na": 1, "Cl": 1}, {"Mg": 1, "F": 2}, {"Cs": 1, "I": 1}, {"Ca": 1, "Br": 2}])
    salt, other, fluoride = model.arranged([{"Cl": 1, "Cs": 1}, {"Ca": 1, "Cl": 3}, {"F": 2, "Ca": 1}])
    assert (other.formula, other.parent, other.elements) == ("CaCl3", None, ("Cl", "Ca"))
    # Sites by atomic number of the parent: Na before Cl, F before Mg.
    assert (salt.formula, salt.is_new) == ("CsCl", True)
    assert {salt.parent: salt.elements}.items() <= {0: ("Cs", "Cl"), 2: ("Cl", "Cs")}.items()
    assert (fluoride.parent, fluoride.elements) in [(1, ("F", "Ca")), (3, ("Ca", "F"))]


def test_several_arrangements_of_a_formula_differ_in_places_or_group():
    model = FormulaModel([{"Na": 1, "Cl": 1}, {"Cs": 1, "I": 1}, {"K": 1, "Br": 1}])
    ways = model.arranged([{"Cl": 1, "Cs": 1}], each=5)
    # Two ways; but CsI has its elements by atomic number in the other order.
    assert len({one.elements for one in ways}) == len(ways) == 2
    ways = model.arranged([{"Cl": 1, "Cs": 1}], each=5, groups=[225, 221, 225])
    assert len({(one.elements, one.parent == 1) for one in ways}) == len(ways) == 4
    assert len(model.arranged([{"Cl": 1, "Cs": 1}], each=3, groups=[225, 221, 225])) == 3
