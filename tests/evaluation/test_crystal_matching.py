"""Exact screens of StructureMatcher, and what else compares crystals."""

import gzip
import io
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io.extxyz import read_xyz
from pymatgen.analysis.structure_matcher import OrderDisorderElementComparator, StructureMatcher
from pymatgen.core import Structure

from whorl.errors import InputError
from whorl.evaluation.crystals import (
    MatcherSettings,
    amd_distances,
    match_rate,
    metre,
    new_prototypes,
    possibly_disordered,
    rmsd_of_pairs,
)
from whorl.evaluation.crystals.comparison import classes
from whorl.evaluation.crystals.disorder import sharing_elements
from whorl.evaluation.crystals.matcher import Cells, Matcher
from whorl.evaluation.crystals.reduction import reduce_crystals
from whorl.evaluation.duplicates import distinct, first_known, is_known
from whorl.executors import Threads
from whorl.structures import StructureBatch, from_ase, to_ase, to_pymatgen
from whorl.structures.convert import as_batch

SALT = bulk("NaCl", "rocksalt", a=5.6)
CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
MADE = [
    SALT,
    bulk("NaCl", "cesiumchloride", a=3.4),
    bulk("ZnS", "wurtzite", a=3.8),
    bulk("Fe"),
    bulk("Mg"),
    bulk("C", "diamond", a=3.57),
    Atoms("CaTiO3", 3.9 * np.array(CUBIC), cell=[3.9] * 3, pbc=True),
]


def random_crystal(rng: np.random.Generator) -> Atoms:
    if rng.random() < 0.5:
        return MADE[rng.integers(len(MADE))].copy()
    numbers = rng.choice([6, 14, 8], size=rng.integers(1, 6))
    cell = np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-1, 1, (3, 3))
    grid = np.array(list(itertools.product(range(2), repeat=3))) / 2
    places = grid[rng.permutation(8)[: len(numbers)]] + rng.uniform(-0.06, 0.06, (len(numbers), 3))
    return Atoms(numbers=numbers, scaled_positions=places, cell=cell, pbc=True)


def near_the_tolerances(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Return a crystal strained up to 25 %, sheared up to 7°, with displaced atoms, in another setting."""
    strain = np.diag(1 + rng.uniform(-0.25, 0.25, 3) * rng.integers(0, 2))
    shear = np.tan(np.radians(rng.uniform(-7, 7, 3))) * rng.integers(0, 2)
    strain[0, 1], strain[0, 2], strain[1, 2] = shear
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ strain * rng.uniform(0.8, 1.3), scale_atoms=True)
    steps = rng.normal(size=(len(atoms), 3))
    steps *= rng.choice([0, rng.uniform(0, 0.4)]) / np.linalg.norm(steps, axis=1, keepdims=True)
    atoms.positions += steps * (atoms.get_volume() / len(atoms)) ** (1 / 3)
    unimodular = np.eye(3, dtype=int)
    for _ in range(3):
        i, j = rng.permutation(3)[:2]
        unimodular[i] += rng.integers(-1, 2) * unimodular[j]
    if rng.random() < 0.3:
        unimodular[rng.integers(3)] *= 2
    atoms = make_supercell(atoms, unimodular)[::-1]
    atoms.positions += rng.uniform(-3, 3, 3)
    atoms.rotate(float(rng.uniform(10, 170)), rng.normal(size=3), rotate_cell=True)
    atoms.wrap()
    return atoms


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # of spglib
def test_a_pair_that_screens_leave_out_never_fits_and_looser_screens_fail_the_same_test():
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for _ in range(140):
        atoms = random_crystal(rng)
        batch = from_ase([near_the_tolerances(atoms, rng), near_the_tolerances(atoms, rng)])
        first, second = to_pymatgen(batch)
        theirs = StructureMatcher().fit(first, second)
        crystals = reduce_crystals(batch)
        matcher, ours, screened = Matcher(MatcherSettings()), False, True
        if len(classes(crystals)) == 1:
            ours = matcher.first_match(Cells(crystals).cells[1], Cells(crystals), [0]) == 0
            screened = matcher.counts["mapping"] == 0
            seen["one class"] += 1
        assert ours == theirs
        seen["match"] += theirs
        seen["screened"] += screened
        density = [len(each) / each.volume for each in (first, second)]
        symmetry = [each.get_space_group_info(0.01)[1] for each in (first, second)]
        lost["screened"] += screened and theirs
        lost["density"] += abs(density[0] / density[1] - 1) > 0.1 and theirs
        lost["space group"] += symmetry[0] != symmetry[1] and theirs
    assert lost["screened"] == 0
    assert lost["density"] > 10 and lost["space group"] > 10  # the pairs tell a wrong screen
    assert seen["match"] > 40 and seen["screened"] > 30
    assert seen["one class"] > 110


@pytest.mark.parametrize("tolerances", [{}, {"ltol": 0.3, "stol": 0.5, "angle_tol": 10.0}, {"ltol": 0.1}])
def test_answers_are_those_of_fit_in_the_stated_order(tolerances):
    rng = np.random.default_rng(7)
    atoms = [random_crystal(rng) for _ in range(40)]
    known, candidates = (from_ase([near_the_tolerances(each, rng) for each in atoms]) for _ in range(2))
    theirs, answers = StructureMatcher(**tolerances), []
    for first, second in zip(to_pymatgen(known), to_pymatgen(candidates), strict=True):
        answers += [[theirs.fit(first, second), theirs.fit(second, first)]]
    for k, order in enumerate(("known first", "candidate first")):
        settings = MatcherSettings(order=order, **tolerances)
        assert _matches(candidates, known, settings) == [answer[k] for answer in answers]
    matches = sum(first for first, _ in answers)
    assert 5 < matches < 40
    row = next(row for row, answer in enumerate(answers) if all(answer))
    both = from_ase([*to_ase(known[[row]]), *to_ase(candidates[[row]])])
    assert distinct(both, settings=settings) == [[0, 1]]
    assert is_known(candidates[[row]], known[[row]], settings=settings).tolist() == [True]


def _matches(candidates: StructureBatch, known: StructureBatch, settings: MatcherSettings) -> list[bool]:
    """Return whether crystals match the known one of the same index."""
    matcher, answers = Matcher(settings), []
    crystals, others = (reduce_crystals(each) for each in (candidates, known))
    for row in torch.arange(len(candidates)).split(1):
        one, other = crystals[row], others[row]
        alike = classes(one).keys() == classes(other).keys()
        answers.append(alike and matcher.first_match(Cells(one).cells[0], Cells(other), [0]) == 0)
    return answers


def test_the_order_of_arguments_changes_answers_near_the_tolerances():
    rng = np.random.default_rng(0)
    atoms = [random_crystal(rng) for _ in range(100)]
    known, candidates = (from_ase([near_the_tolerances(each, rng) for each in atoms]) for _ in range(2))
    one, other = (
        _matches(candidates, known, MatcherSettings(order=order))
        for order in ("known first", "candidate first")
    )
    assert 2 < sum(np.array(one) != np.array(other)) < 20


def carbon(shared_data, count: int) -> list[Structure]:
    import pandas as pd

    table = pd.read_csv(shared_data / "carbon_24_val.csv.gz")
    return [Structure.from_str(text, fmt="cif") for text in table["cif"][:count]]


@pytest.fixture(scope="module")
def real_crystals(shared_data) -> list[Atoms]:
    with gzip.open(shared_data / "crystals_pcd20k.extxyz.gz", "rt") as file:
        text = file.read()
    return list(read_xyz(io.StringIO(text), index=slice(0, None, 200)))


def test_cells_are_reduced_as_pymatgen_reduces_them(real_crystals):
    rng = np.random.default_rng(3)
    crystals = real_crystals[:60] + [near_the_tolerances(random_crystal(rng), rng) for _ in range(40)]
    crystals += [atoms * (2, 1, 2) for atoms in MADE]
    batch = from_ase(crystals)
    smaller = 0
    for before, (cell, fractional, numbers) in zip(to_pymatgen(batch), reduce_crystals(batch), strict=True):
        sites = Structure(before.lattice, before.species, before.frac_coords, to_unit_cell=True)
        expected = sites.get_reduced_structure("niggli").get_primitive_structure()
        assert numbers.tolist() == list(expected.atomic_numbers)
        assert np.abs(cell - expected.lattice.matrix).max() < 1e-8
        difference = fractional - expected.frac_coords
        assert np.abs(difference - np.round(difference)).max() < 1e-8
        smaller += len(numbers) < len(before)
    assert smaller >= len(MADE)


def test_carbon_is_grouped_as_structure_matcher_groups_it_and_most_pairs_are_left_out(shared_data):
    crystals = carbon(shared_data, 50)
    place = {id(item): k for k, item in enumerate(crystals)}
    theirs = [[place[id(item)] for item in group] for group in StructureMatcher().group_structures(crystals)]
    ours = distinct(crystals)
    assert sorted(map(sorted, theirs)) == ours
    assert 20 < len(ours) < 50
    reduced = reduce_crystals(as_batch(crystals))
    matcher, cells = Matcher(MatcherSettings()), Cells(reduced)
    for rows in classes(reduced).values():
        for one in rows:
            matcher.first_match(cells.cells[one], cells, [other for other in rows if other > one])
    assert matcher.counts["pairs"] > 100
    assert matcher.counts["mapping"] < 0.35 * matcher.counts["pairs"]
    assert matcher.counts["minima"] < 0.8 * matcher.counts["pairs"]


def test_the_first_known_crystal_is_found(real_crystals):
    rng = np.random.default_rng(5)
    known = real_crystals[:60]
    again = [near_the_tolerances(atoms, rng) for atoms in known[::3]]
    found = first_known(from_ase([*again, bulk("Ta")]), from_ase(known)).tolist()
    assert found[-1] == -1
    matcher = StructureMatcher()
    items = to_pymatgen(from_ase(known))
    expected = [
        next((k for k, item in enumerate(items) if matcher.fit(item, candidate)), -1)
        for candidate in to_pymatgen(from_ase(again))
    ]
    assert found[:-1] == expected
    assert 3 < sum(k >= 0 for k in expected) < len(again)


def test_the_first_of_several_known_crystals_counts():
    known = from_ase([bulk("Cu"), SALT * (2, 1, 1), bulk("KCl", "rocksalt", a=6), SALT])
    assert first_known(from_ase([SALT, bulk("KCl", "rocksalt", a=5.9), bulk("Cu")]), known).tolist() == [
        1,
        2,
        0,
    ]


def test_results_do_not_depend_on_chunks_and_finished_ones_are_read(monkeypatch, tmp_path):
    from whorl.evaluation.crystals import comparison

    rng = np.random.default_rng(2)
    crystals = from_ase([near_the_tolerances(MADE[k % 4], rng) for k in range(24)])
    groups, known = distinct(crystals), first_known(crystals, crystals[::2])
    monkeypatch.setattr(comparison, "_IN_CHUNK", 3)
    with Threads(workers=2) as executor:
        assert distinct(crystals, executor=executor, folder=tmp_path / "a") == groups
        assert torch.equal(first_known(crystals, crystals[::2], folder=tmp_path / "b"), known)
    assert len(list((tmp_path / "a" / "matched").iterdir())) > 1
    monkeypatch.setattr(comparison, "reduce_crystals", None)
    monkeypatch.setattr(comparison, "Matcher", None)
    assert distinct(crystals, folder=tmp_path / "a") == groups
    assert torch.equal(first_known(crystals, crystals[::2], folder=tmp_path / "b"), known)


def test_rms_displacements_are_those_of_get_rms_dist():
    rng = np.random.default_rng(4)
    first, second = [], []
    for _ in range(30):
        atoms = random_crystal(rng)
        first.append(near_the_tolerances(atoms, rng))
        second.append(near_the_tolerances(atoms, rng))
    one, other = from_ase(first), from_ase(second)
    loose = {"ltol": 0.5, "stol": 0.5, "angle_tol": 10}
    for scale, supercells in ((True, False), (False, True)):
        matcher = StructureMatcher(**loose, scale=scale, attempt_supercell=supercells)
        result = rmsd_of_pairs(
            one, other, settings=MatcherSettings(**loose), scale=scale, supercells=supercells
        )
        matched = 0
        for k, pair in enumerate(zip(to_pymatgen(one), to_pymatgen(other), strict=True)):
            expected = matcher.get_rms_dist(*pair)
            if expected is None:
                assert math.isnan(result.normalized[k]) and math.isnan(result.angstrom[k])
            else:
                matched += 1
                assert result.normalized[k] == pytest.approx(expected[0], abs=1e-6)
        assert 10 < matched < 30
    with pytest.raises(InputError, match="30 structures and 29 references"):
        rmsd_of_pairs(one, other[:29])


def test_a_displacement_in_angstrom():
    moved = SALT.copy()
    moved.positions[1, 0] += 0.2
    result = rmsd_of_pairs(from_ase([moved, SALT]), from_ase([SALT, bulk("Cu")]))
    assert float(result.angstrom[0]) == pytest.approx(0.1)  # each atom by half, once the mean is taken off
    assert float(result.normalized[0]) == pytest.approx(0.1 / (5.6**3 / 8) ** (1 / 3))
    assert result.angstrom.isnan().tolist() == [False, True]


def test_match_rates_of_pairs_and_of_sets():
    off = SALT.copy()
    off.positions[1, 0] += 0.2
    caesium = bulk("NaCl", "cesiumchloride", a=3.4)
    references = from_ase([SALT, caesium, bulk("Cu")])
    predicted = from_ase([caesium, off, SALT])
    paired = match_rate(predicted, references)
    assert (paired.matched, paired.of, paired.rate, paired.mean_rms) == (0, 3, 0, None)
    assert paired.corrected_rms == 0.5
    among = metre(predicted, references)
    assert (among.matched, among.of) == (2, 3)
    assert among.rms[:2].tolist() == pytest.approx([0, 0], abs=1e-6) and among.rms[2].isnan()
    assert among.corrected_rms == pytest.approx(0.5 / 3)
    assert metre(predicted[:2], references).mean_rms == pytest.approx(0.1 / (5.6**3 / 8) ** (1 / 3) / 2)
    assert metre(predicted, references[:0]).rate is None


def test_a_substitution_of_elements_is_no_new_prototype():
    known = from_ase([SALT, MADE[-1]])
    swapped = MADE[-1].copy()
    swapped.numbers = [22, 20, 8, 8, 8]
    inverse = MADE[-1].copy()
    inverse.numbers = [8, 8, 20, 20, 20]
    crystals = [
        bulk("MgO", "rocksalt", a=4.2),
        bulk("Cu"),
        bulk("GaAs", "zincblende", a=5.6),
        swapped,
        inverse,
    ]
    crystals += [Atoms("Fe")]  # no crystal
    assert new_prototypes(crystals, known).tolist() == [False, True, True, False, True, False]
    rng = np.random.default_rng(6)
    made = [near_the_tolerances(atoms, rng) for atoms in MADE[:3] * 5]
    matcher = StructureMatcher()
    expected = [
        not any(matcher.fit_anonymous(item, candidate) for item in to_pymatgen(known))
        for candidate in to_pymatgen(from_ase(made))
    ]
    assert new_prototypes(from_ase(made), known).tolist() == expected
    assert 3 < sum(expected) < len(made)


def test_elements_that_may_share_a_site():
    crystals = [
        bulk("CuAu", "cesiumchloride", a=3.1),
        SALT,
        MADE[-1],
        bulk("Cu"),
        Atoms("HeNe", cell=[5] * 3),
    ]
    assert possibly_disordered(crystals).tolist() == [True, False, True, False, False]
    assert possibly_disordered(crystals, radius_tolerance=0.01).tolist() == [True, False, False, False, False]
    assert possibly_disordered(from_ase([])).tolist() == []


def mattergen_fit(first: Structure, second: Structure) -> bool:
    """MatterGen's matcher by pymatgen's objects, for crystals of Cu, Au and others that share no site."""
    if StructureMatcher().fit(first, second):
        return True
    composition = first.composition
    if not {"Cu", "Au"} <= {element.symbol for element in composition}:
        return False
    copper = composition["Cu"] / (composition["Cu"] + composition["Au"])
    mixture = {"Cu": copper, "Au": 1 - copper}
    first = first.copy()
    first.replace_species({"Cu": mixture, "Au": mixture})
    matcher = StructureMatcher(
        attempt_supercell=True, allow_subset=True, comparator=OrderDisorderElementComparator()
    )
    return matcher.fit(first, second)


def alloy(rng: np.random.Generator) -> Atoms:
    if rng.random() < 0.3:
        return near_the_tolerances(bulk("CuAu", "cesiumchloride", a=3.1), rng)
    atoms = bulk("Cu", cubic=True) * (1, 1, rng.integers(1, 3))
    if rng.random() < 0.3:  # an oxygen in half of the cubes
        atoms += Atoms("O", positions=[[1.8, 1.8, 1.8]])
    metals = np.flatnonzero(atoms.numbers == 29)
    atoms.numbers[rng.permutation(metals)[: len(metals) // 2]] = 79
    return near_the_tolerances(atoms, rng)


def test_orderings_of_a_disordered_crystal_match_as_in_mattergen():
    rng = np.random.default_rng(8)
    crystals = from_ase([alloy(rng) for _ in range(11)])
    items = to_pymatgen(crystals)
    expected = {
        (a, b): mattergen_fit(one, other)
        for (a, one), (b, other) in itertools.product(enumerate(items), repeat=2)
        if one.reduced_formula == other.reduced_formula
    }
    for order in ("known first", "candidate first"):
        settings = MatcherSettings(disordered=True, order=order)
        for row in range(11):
            matched = is_known(crystals, crystals[[row]], settings=settings).tolist()
            pairs = [(row, other) if order == "known first" else (other, row) for other in range(11)]
            assert matched == [bool(expected.get(pair, False)) for pair in pairs]
    ordered = sum(is_known(crystals, crystals[[row]]).sum().item() for row in range(11))
    assert ordered + 10 < sum(expected.values()) < len(expected)
    assert len(distinct(crystals, settings=MatcherSettings(disordered=True))) < len(distinct(crystals))


def test_groups_of_elements_that_share_sites_are_joined():
    assert sharing_elements([29, 79, 8, 19]) == [(29, 79)]
    assert sharing_elements([]) == [] and sharing_elements([6]) == []
    # Mg and Cu, Cu and Au, but not Mg and Au: 1.31, 1.90, 2.54.
    assert sharing_elements([12, 29, 79]) == [(12, 29, 79)]
    assert sharing_elements([12, 79]) == []


def test_average_minimum_distances_of_lattices():
    """Neighbours of the cubic lattices are known: 6 at a, 12 at √2 a; 12 at a/√2, 6 at a."""
    simple = Atoms("Po", cell=[1.0, 1, 1], pbc=True)
    twice = Atoms("Po", cell=[2.0, 2, 2], pbc=True)
    face = bulk("Cu", a=math.sqrt(2))
    distances = amd_distances([simple], [simple * (2, 1, 1), twice, face], k=18)
    assert distances[0].tolist() == pytest.approx([0, math.sqrt(2), 1 / 1 * (math.sqrt(2) - 1)])
    assert amd_distances([simple], [twice], k=6).item() == pytest.approx(1)


def test_pointwise_distances_tell_apart_what_averages_do_not():
    rng = np.random.default_rng(0)
    salt = SALT * (2, 1, 1)
    moved = salt.copy()
    moved.positions += rng.normal(scale=0.1, size=(4, 3))
    crystals = from_ase([salt, moved, bulk("Cu"), Atoms("Fe")])
    amd = amd_distances(crystals, crystals, k=20)
    pdd = amd_distances(crystals, crystals, k=20, kind="pdd")
    assert amd[3].isnan().all() and pdd[:, 3].isnan().all()
    amd, pdd = amd[:3, :3], pdd[:3, :3]
    for each in (amd, pdd):
        assert torch.allclose(each, each.T) and each.diagonal().abs().max() < 1e-9
        assert each[0, 2] <= each[0, 1] + each[1, 2] + 1e-9
    assert (pdd >= amd - 1e-9).all() and pdd[0, 1] > amd[0, 1] + 1e-3


def test_amd_is_continuous_and_blind_to_the_choice_of_cell():
    rng = np.random.default_rng(1)
    crystals = [MADE[k] for k in (0, 2, 6)]
    others = [make_supercell(atoms, [[1, 1, 0], [0, 1, 1], [1, 0, 1]]) for atoms in crystals]
    for atoms in others:
        atoms.rotate(33, rng.normal(size=3), rotate_cell=True)
    assert amd_distances(crystals, others).diagonal().abs().max() < 1e-9
    nudged = [atoms.copy() for atoms in crystals]
    for atoms in nudged:
        atoms.positions += rng.uniform(-1e-4, 1e-4, (len(atoms), 3))
    assert amd_distances(crystals, nudged).diagonal().max() < 4e-4


def test_batches_without_crystals_have_empty_answers():
    none, salt = from_ase([]), from_ase([SALT])
    assert first_known(none, salt).shape == (0,) and first_known(salt, none).tolist() == [-1]
    assert new_prototypes(salt, none).tolist() == [True]
    assert rmsd_of_pairs(none, none).angstrom.shape == (0,)
    assert amd_distances(none, salt).shape == (0, 1) and amd_distances(salt, none, kind="pdd").shape == (1, 0)
    assert to_ase(salt)[0].get_chemical_formula() == "ClNa"
