"""Decoding into the elements that the data have and that were asked for."""

import itertools

import pytest
import torch
from ase import Atoms
from ase.data import atomic_numbers

from whorl.errors import InputError
from whorl.representations import CrysTens
from whorl.structures import from_ase

PEROVSKITE = Atoms(
    "BaTiO3",
    scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    cell=[4.0, 4.1, 4.2],
    pbc=True,
)
DATA = ["O", "F", "Ti", "Sr", "Ba", "Pb"]


def tensors_of(codec, count, level, seed=0):
    """Return tensors of BaTiO3 whose elements are blurred, the same in all repeats of an atom."""
    rng = torch.Generator().manual_seed(seed)
    tensors = codec.encode(from_ase([PEROVSKITE] * count), [47] * count)
    shift = level * torch.randn(count, 5, 4, generator=rng, dtype=tensors.dtype)
    tensors[:, 12:17, 0] += shift
    tensors[:, 0, 12:17] += shift
    return tensors


def misfits(codec, tensor, symbols):
    """Return the squared distance of each of five sites to each element, by plain loops."""
    table = []
    for site in range(12, 17):
        row = []
        for symbol in symbols:
            code = codec.element_codes[atomic_numbers[symbol]] / codec.header_scale[0]
            square = 0.0
            for layer in range(4):
                said = (float(tensor[site, 0, layer]) + float(tensor[0, site, layer])) / 2
                square += (said - float(code[layer])) ** 2
            row.append(square)
        table.append(row)
    return table


def symbols_of(found, row):
    return found.structures[row].atomic_numbers.tolist()


@pytest.mark.parametrize("elements", ["number", "periodic"])
def test_sites_get_the_nearest_element_of_the_data_as_a_slow_loop_says(elements):
    codec = CrysTens(max_atoms=5, elements=elements)
    tensors = tensors_of(codec, 20, level=0.1)
    found = codec.decode(tensors, clustering=None, elements=DATA)
    free = codec.decode(tensors, clustering=None)
    assert int(free.snapped.sum()) == 0
    data = {atomic_numbers[symbol] for symbol in DATA}
    for row in range(20):
        table = misfits(codec, tensors[row], DATA)
        expected = [atomic_numbers[DATA[min(range(6), key=costs.__getitem__)]] for costs in table]
        assert symbols_of(found, row) == expected
        foreign = sum(number not in data for number in symbols_of(free, row))
        assert int(found.snapped[row]) == foreign == found.structures.info[row]["crystens_snapped_sites"]
    assert int(found.snapped.sum()) > 20  # the blur is strong enough to matter


@pytest.mark.parametrize("clustering", [None, "auto", "paper"])
@pytest.mark.parametrize("elements", ["number", "periodic"])
def test_no_clustering_leaves_the_elements_of_the_data(clustering, elements):
    codec = CrysTens(max_atoms=5, elements=elements)
    tensors = tensors_of(codec, 12, level=0.3, seed=1)
    found = codec.decode(tensors, clustering=clustering, elements=DATA)
    data = {atomic_numbers[symbol] for symbol in DATA}
    assert set(found.structures.atomic_numbers.tolist()) <= data
    free = codec.decode(tensors, clustering=clustering)
    assert not set(free.structures.atomic_numbers.tolist()) <= data


def test_elements_that_are_certain_stay_what_they_are():
    codec = CrysTens(max_atoms=5, elements="periodic")
    tensors = tensors_of(codec, 3, level=0.0)
    found = codec.decode(tensors, elements=DATA)
    assert found.snapped.tolist() == [0, 0, 0]
    assert symbols_of(found, 0) == [56, 22, 8, 8, 8]


def test_a_formula_is_met_at_the_least_misfit_of_all_ways():
    codec = CrysTens(max_atoms=5, elements="periodic")
    tensors = tensors_of(codec, 6, level=0.3, seed=2)
    symbols = ["N", "O", "Ba", "Ta"]
    found = codec.decode(tensors, formula={"Ba": 1, "Ta": 1, "O": 2, "N": 1}, elements=DATA)
    for row in range(6):
        table = misfits(codec, tensors[row], symbols)
        ways = set(itertools.permutations([0, 1, 1, 2, 3]))
        best = min(ways, key=lambda way, table=table: sum(table[i][kind] for i, kind in enumerate(way)))
        assert symbols_of(found, row) == [atomic_numbers[symbols[kind]] for kind in best]


def test_a_formula_that_does_not_divide_the_atoms_still_limits_the_elements():
    codec = CrysTens(max_atoms=5, elements="periodic")
    found = codec.decode(tensors_of(codec, 4, level=0.3), formula={"Mg": 1, "O": 1})
    assert set(found.structures.atomic_numbers.tolist()) <= {8, 12}


def test_a_required_element_takes_the_place_of_the_nearest_one():
    codec = CrysTens(max_atoms=5, elements="periodic")
    tensors = tensors_of(codec, 1, level=0.0)
    found = codec.decode(tensors, elements=DATA, required=["Sr", "O"])
    assert symbols_of(found, 0) == [38, 22, 8, 8, 8]  # strontium for barium, in one column of the table
    assert found.snapped.tolist() == [1]
    fluoride = codec.decode(tensors, elements=DATA, required=["F"])
    assert symbols_of(fluoride, 0) == [56, 22, 9, 9, 9]
    assert fluoride.snapped.tolist() == [3]
    full = codec.decode(tensors, elements=DATA, required=["O", "Ti", "Ba", "Pb"])
    assert symbols_of(full, 0) == [56, 22, 8, 8, 8]  # no place is left for lead


def test_unknown_elements_are_named():
    codec = CrysTens(max_atoms=5)
    with pytest.raises(InputError, match="got 'Zz', expected chemical symbols"):
        codec.decode(tensors_of(codec, 1, 0.0), elements=["O", "Zz"])
