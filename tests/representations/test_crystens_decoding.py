"""Tensors back to crystals: exactly, through noise, and with a reason where there is none."""

import itertools
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from test_crystens import PEROVSKITE, QUARTZ, crystals, crystens_loop, triclinic

from whorl.datasets import read_dataset
from whorl.errors import InputError
from whorl.representations import CrysTens
from whorl.representations.clustering import k_means, merge_on_circle, merge_on_line
from whorl.representations.lattice_classes import most_likely_lattice
from whorl.structures import from_ase, to_pymatgen
from whorl.structures.cells import cell_parameters, fractional_coordinates

ROOM = CrysTens(max_atoms=12)
GROUPS = [225, 154, 221, 1, 229]


def noisy(tensors: torch.Tensor, level: float, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return tensors + level * torch.randn(tensors.shape, generator=rng, dtype=tensors.dtype)


def assert_same(found, meant, tolerance):
    assert found.atomic_numbers.tolist() == meant.atomic_numbers.tolist()
    assert found.n_atoms.tolist() == meant.n_atoms.tolist()
    apart = fractional_coordinates(found) - fractional_coordinates(meant)
    assert (apart - apart.round()).abs().max() < tolerance
    assert (cell_parameters(found.cells) - cell_parameters(meant.cells)).abs().max() < 100 * tolerance


@pytest.mark.parametrize("pairwise", ["fractional", "cartesian"])
@pytest.mark.parametrize("elements", ["number", "periodic"])
@pytest.mark.parametrize("clustering", [None, "auto"])
def test_round_trip_is_exact(pairwise, elements, clustering):
    codec = CrysTens(max_atoms=12, pairwise=pairwise, elements=elements).fit(crystals())
    found = codec.decode(codec.encode(crystals(), GROUPS), clustering=clustering)
    assert found.skipped == {} and found.index.tolist() == [0, 1, 2, 3, 4]
    assert_same(found.structures, codec.standardized(crystals()), 1e-12 if clustering is None else 2e-4)
    assert [info["space_group_number"] for info in found.structures.info] == GROUPS
    assert all(value == pytest.approx(0.0, abs=1e-9) for value in found.measures.means().values())


def test_real_crystals_go_there_and_back(shared_data, tmp_path):
    for path in sorted((shared_data / "cifs_good").iterdir())[:300:5]:  # to read all takes long
        (tmp_path / path.name).symlink_to(path)
    batch = read_dataset(tmp_path, property=None).structures
    codec = CrysTens()
    problems = codec.find_problems(batch)
    batch = batch[[i for i in range(len(batch)) if i not in problems]]
    codec = codec.fit(batch)
    tensors = codec.encode(batch, [1] * len(batch))
    assert_same(codec.decode(tensors, clustering=None).structures, codec.standardized(batch), 1e-10)
    assert_same(codec.decode(tensors).structures, codec.standardized(batch), 1e-3)


def test_means_are_those_of_a_plain_loop():
    tensors = noisy(ROOM.encode(crystals(), GROUPS), 1e-3)
    found = ROOM.decode(tensors, clustering="paper", k_elements=12, k_coordinates=12).structures
    for tensor, one in zip(tensors, found, strict=True):
        atoms = crystens_loop.decode(tensor.numpy(), ROOM.ranges)
        np.testing.assert_allclose(atoms.cell.cellpar(), cell_parameters(one.cells)[0], atol=1e-8)
        apart = atoms.get_scaled_positions(wrap=False) - fractional_coordinates(one).numpy()
        assert np.abs(apart - np.round(apart)).max() < 1e-8
        assert atoms.numbers.tolist() == one.atomic_numbers.tolist()


def test_noise_is_seen_through():
    codec = CrysTens(max_atoms=12, elements="periodic").fit(crystals())
    batch = from_ase([QUARTZ, PEROVSKITE])
    found = codec.decode(noisy(codec.encode(batch, [154, 221]), 0.02))
    assert found.structures.atomic_numbers.tolist() == batch.atomic_numbers.tolist()
    parameters = cell_parameters(found.structures.cells)
    a, b, _, *angles = parameters[0].tolist()
    assert a == pytest.approx(b, abs=1e-9) and angles == pytest.approx([90.0, 90.0, 120.0])
    assert parameters[1].tolist() == pytest.approx([float(parameters[1, 0])] * 3 + [90.0] * 3)
    assert found.position_error.min() > 0.0 and found.position_error.max() < 0.3
    refined = found.refined()
    assert refined.space_group.tolist() == [154, 221]
    assert (refined.displacement < 0.5).all() and (refined.symprec > 0).all()
    info = refined.structures.info[0]
    assert info["space_group_number"] == 154 and info["symmetry_displacement"] == refined.displacement[0]


ALL = ("electronegativity", "covalent_radius", "valence_electrons", "mendeleev_number")


@pytest.mark.parametrize("elements", ["number", "periodic"])
@pytest.mark.parametrize("clustering", [None, "auto"])
def test_descriptors_come_back_too(elements, clustering):
    codec = CrysTens(max_atoms=12, elements=elements, descriptors=ALL, origin="canonical").fit(crystals())
    tensors = codec.encode(crystals(), GROUPS)
    found = codec.decode(tensors, clustering=clustering)
    assert_same(found.structures, codec.standardized(crystals()), 1e-12 if clustering is None else 2e-4)
    assert all(value == pytest.approx(0.0, abs=1e-9) for value in found.measures.means().values())
    every = from_ase([Atoms([number], cell=[3, 3, 3], pbc=True) for number in range(1, 119)])
    codec = CrysTens(max_atoms=1, elements=elements, descriptors=ALL).fit(every)
    back = codec.decode(codec.encode(every, [221] * 118), clustering=clustering).structures
    assert back.atomic_numbers.tolist() == list(range(1, 119))


def test_descriptors_tell_elements_apart_in_noise():
    batch = from_ase([QUARTZ, PEROVSKITE, triclinic(12, 1), triclinic(12, 2)])
    shares = []
    for descriptors in ((), ALL[:3]):
        codec = CrysTens(max_atoms=12, descriptors=descriptors).fit(batch)
        clean = codec.encode(batch, [154, 221, 1, 1])
        right = [
            codec.decode(noisy(clean, 0.05, seed), clustering=None).structures.atomic_numbers
            == batch.atomic_numbers
            for seed in range(5)
        ]
        shares.append(float(torch.cat(right).double().mean()))
    assert shares[0] < 0.5 and shares[1] > 0.9


def test_the_noise_of_a_block_is_seen():
    """Descriptors are trusted as far as they agree with themselves."""
    codec = CrysTens(max_atoms=12, descriptors=ALL)
    tensors = codec.encode(crystals(), GROUPS)
    tensors[:, 12:, 12:, 4:] = torch.rand(5, 12, 12, 4, generator=torch.Generator().manual_seed(0)).double()
    found = codec.decode(tensors)
    assert found.structures.atomic_numbers.tolist() == crystals().atomic_numbers.tolist()


def test_the_error_is_that_of_the_coordinates():
    codec = CrysTens(max_atoms=12)
    batch = from_ase([triclinic(12, seed) for seed in range(40)])
    found = codec.decode(noisy(codec.encode(batch, [1] * 40), 0.01), clustering=None)
    apart = fractional_coordinates(found.structures) - fractional_coordinates(codec.standardized(batch))
    apart = (apart - apart.round()).reshape(40, 12, 3)
    seen = (apart - apart.mean(1, keepdim=True)).std()
    stated = (found.position_error / found.structures.cells.square().sum((1, 2)).sqrt()).mean()
    assert seen == pytest.approx(float(stated), rel=0.1)
    # Better than the eight direct repeats alone, and than the A guesses with equal weights.
    assert seen < 0.01 / math.sqrt(8) * 0.95


def test_measures_are_the_variances_of_the_repeats():
    codec = CrysTens(max_atoms=12).fit(crystals())
    batch = from_ase([triclinic(12, seed) for seed in range(60)])
    found = codec.measures(noisy(codec.encode(batch, [100] * 60), 0.01)).means()
    ranges = codec.ranges
    assert found["variance_lengths"] == pytest.approx(
        1e-4 * np.mean([ranges[k] ** 2 for k in "abc"]), rel=0.1
    )
    assert found["variance_angles"] == pytest.approx(
        1e-4 * np.mean([ranges[k] ** 2 for k in ("alpha", "beta", "gamma")]), rel=0.1
    )
    assert found["variance_space_group"] == pytest.approx(2.3**2, rel=0.1)
    assert found["variance_coordinates"] == pytest.approx(1e-4 * 7 / 8, rel=0.1)
    # the mean of 11 guesses, each from a mean of 8 repeats and a difference of twice the range
    each = math.sqrt((1e-4 / 8 + 4e-4) / 11 + 1e-4 / 8)
    assert found["coordinate_agreement"] == pytest.approx(each * math.sqrt(2 / math.pi), rel=0.1)
    assert 0.0 < found["pairwise_difference"] < 1.0
    nothing = codec.measures(torch.zeros(2, *codec.layout.shape))
    assert nothing.variance_lengths.isnan().all() and nothing.pairwise_difference.isnan().all()
    with pytest.raises(InputError, match="expected"):
        codec.measures(torch.zeros(1, 5, 5, 4))


def test_bad_tensors_are_rows_with_reasons():
    codec = CrysTens(max_atoms=12)
    good = codec.encode(crystals(), GROUPS)
    broken, flat, short = good[0].clone(), good[1].clone(), good[2].clone()
    broken[3, 3, 0] = torch.nan
    flat[7:10, 12:] *= 1.9
    flat[12:, 7:10] *= 1.9
    short[4, 12:], short[12:, 4] = -0.1, -0.1
    found = codec.decode([good[0], broken, torch.zeros(24, 24, 4), flat, torch.zeros(3, 3), short, good[4]])
    assert found.index.tolist() == [0, 6] and len(found.structures) == 2
    assert {i: reason.split(":")[0] for i, reason in found.skipped.items()} == {
        1: "holds values that are not finite",
        2: "holds no atoms",
        3: "has a cell without volume",
        4: "has the shape (3, 3), expected (24, 24, 4)",
        5: "has no cell",
    }
    assert found.structures.atomic_numbers.tolist() == [11, 17, 26]
    nothing = codec.decode(torch.zeros(2, 24, 24, 4))
    assert len(nothing.structures) == 0 and list(nothing.skipped) == [0, 1]
    assert len(codec.decode(torch.zeros(0, 24, 24, 4)).structures) == 0
    assert len(nothing.refined().structures) == 0
    wrong = codec.decode(torch.zeros(2, 7, 7, 4))
    assert len(wrong.skipped) == 2 and "(7, 7, 4)" in wrong.skipped[1]


@given(seed=st.integers(0, 10_000), level=st.sampled_from([0.0, 0.3, 3.0, 1e3]))
@settings(max_examples=25)
def test_any_tensor_gives_a_crystal_or_a_reason(seed, level):
    codec = CrysTens(max_atoms=3)
    tensors = noisy(torch.full((4, 15, 15, 4), 0.4, dtype=torch.float64), level, seed)
    for clustering in (None, "auto", "paper"):
        found = codec.decode(tensors, clustering=clustering)
        assert sorted([*found.index.tolist(), *found.skipped]) == [0, 1, 2, 3]
        assert found.structures.positions.isfinite().all() and found.structures.cells.isfinite().all()
        assert ((found.structures.atomic_numbers >= 1) & (found.structures.atomic_numbers <= 118)).all()


def test_float32_tensors_and_wrong_options():
    tensors = ROOM.encode(crystals(), GROUPS).float()
    assert_same(ROOM.decode(tensors).structures, ROOM.standardized(crystals()), 1e-3)
    with pytest.raises(InputError, match="Did you mean 'paper'"):
        ROOM.decode(tensors, clustering="papr")
    with pytest.raises(InputError, match="at least 1"):
        ROOM.decode(tensors, clustering="paper", k_elements=0)


def test_the_paper_merges_what_it_must():
    found = ROOM.decode(ROOM.encode(crystals(), GROUPS), clustering="paper", k_elements=1)
    assert found.structures[0].atomic_numbers.tolist() == [14, 14]  # (11 + 17) / 2
    assert len(set(found.structures[3].atomic_numbers.tolist())) == 1


def row(values):
    return torch.tensor([values], dtype=torch.float64)


def test_values_merge_across_the_end_of_the_circle():
    values = row([0.995, 0.5, 0.004, 0.502, 0.0, 0.25])
    merged = merge_on_circle(values, torch.ones(1, 6, dtype=torch.bool), torch.tensor([0.005]).double())[0]
    assert merged[0] == merged[2] == merged[4] and merged[1] == merged[3]
    assert min(float(merged[0]), 1 - float(merged[0])) < 1e-3
    assert merged[5] == pytest.approx(0.25)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=7), st.floats(1e-3, 0.1))
def test_merging_finds_the_least_of_all_divisions(values, error):
    ordered = np.sort(values)
    n = len(ordered)
    best = math.inf
    for cuts in range(1 << (n - 1)):
        edges = [0, *(k + 1 for k in range(n - 1) if cuts >> k & 1), n]
        cost = 0.0
        for start, end in itertools.pairwise(edges):
            part = ordered[start:end]
            cost += ((part - part.mean()) ** 2).sum() / (2 * error**2)
            cost += math.log(n) - len(part) * math.log(len(part) / n)
        best = min(best, cost)
    merged = merge_on_line(row(values), torch.ones(1, n, dtype=torch.bool), torch.tensor([error]).double())[0]
    centres, sizes = np.unique(merged.numpy().round(12), return_counts=True)
    cost = ((np.array(values) - merged.numpy()) ** 2).sum() / (2 * error**2)
    cost += sum(math.log(n) - size * math.log(size / n) for size in sizes)
    assert cost == pytest.approx(best, rel=1e-6, abs=1e-6) and len(centres) <= n


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.integers(1, 4))
def test_k_means_is_the_best_there_is(values, k):
    ordered, n = np.sort(values), len(values)
    best = math.inf
    for cuts in range(1 << (n - 1)):
        if bin(cuts).count("1") < k:
            edges = [0, *(i + 1 for i in range(n - 1) if cuts >> i & 1), n]
            parts = [ordered[a:b] for a, b in itertools.pairwise(edges)]
            best = min(best, sum(((part - part.mean()) ** 2).sum() for part in parts))
    merged = k_means(row(values), torch.ones(1, n, dtype=torch.bool), k)[0]
    assert ((np.array(values) - merged.numpy()) ** 2).sum() == pytest.approx(best, abs=1e-9)
    assert len(set(merged.tolist())) <= k


def test_noise_is_not_cut_into_pieces():
    values = 0.5 + 0.01 * torch.randn(200, 30, generator=torch.Generator().manual_seed(0)).double()
    merged = merge_on_circle(values, torch.ones(200, 30, dtype=torch.bool), torch.full((200,), 0.01).double())
    one = (merged.amax(1) == merged.amin(1)).double().mean()
    assert one > 0.95


def test_padding_takes_no_part():
    values, present = row([0.3, 0.31, 7.0, 0.3]), torch.tensor([[True, True, False, True]])
    merged = merge_on_line(values, present, torch.tensor([0.01]).double())[0]
    assert merged[2] == 7.0 and merged[0] == merged[1] == merged[3] == pytest.approx(0.91 / 3)


@pytest.mark.parametrize(
    ("parameters", "group", "expected"),
    [
        ([4.02, 3.98, 4.0, 90.3, 89.9, 90.1], 221.0, [4.0, 4.0, 4.0, 90.0, 90.0, 90.0]),
        ([4.02, 3.98, 6.0, 90.3, 89.9, 119.8], 186.0, [4.0, 4.0, 6.0, 90.0, 90.0, 120.0]),
        ([4.02, 3.98, 6.0, 90.3, 89.9, 90.2], 123.0, [4.0, 4.0, 6.0, 90.0, 90.0, 90.0]),
        ([4.0, 6.0, 4.02, 90.3, 112.0, 90.2], 14.0, [4.0, 6.0, 4.02, 90.0, 112.0, 90.0]),
        ([4.0, 4.5, 5.0, 80.0, 95.0, 101.0], 2.0, [4.0, 4.5, 5.0, 80.0, 95.0, 101.0]),
        ([4.02, 3.98, 4.0, 60.2, 59.9, 59.9], 225.0, [4.0, 4.0, 4.0, 60.0, 60.0, 60.0]),
        ([4.02, 3.98, 4.0, 75.2, 75.0, 74.8], 166.0, [4.0, 4.0, 4.0, 75.0, 75.0, 75.0]),
    ],
)
def test_lattices_fall_into_their_class(parameters, group, expected):
    found = most_likely_lattice(
        row(parameters),
        row([0.03] * 3 + [0.3] * 3),
        space_group=torch.tensor([group]).double(),
        space_group_error=torch.tensor([0.5]).double(),
    )[0]
    assert found.tolist() == pytest.approx(expected, abs=0.01)


def test_decoded_crystals_match_by_pymatgen():
    from pymatgen.analysis.structure_matcher import StructureMatcher

    codec = CrysTens(max_atoms=12, elements="periodic").fit(crystals())
    found = codec.decode(noisy(codec.encode(crystals(), GROUPS), 0.01)).refined()
    matcher = StructureMatcher()
    for back, meant in zip(to_pymatgen(found.structures), to_pymatgen(crystals()), strict=True):
        assert matcher.fit(back, meant)
