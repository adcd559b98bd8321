"""Formulas for a value of a property, and structures of them by substitution."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.errors import InputError, UsageError
from whorl.proposals.formulas import FormulaModel
from whorl.proposals.settings import FormulaRequest
from whorl.proposals.substitution import Substitution
from whorl.settings import settings_from
from whorl.structures import StructureBatch, from_ase
from whorl.structures.cells import volumes
from whorl.structures.composition import is_charge_neutral
from whorl.surrogates.selection import hit_probability

CATIONS = ["Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba"]
ANIONS = ["F", "Cl", "Br", "O", "S", "Se"]
PAIRS = [pair for k, pair in enumerate(itertools.product(CATIONS, ANIONS)) if k % 7 != 3]  # others are new
FORMULAS = [{cation: 1, anion: 1} for cation, anion in PAIRS] + [{"Ca": 1, "F": 2}, {"Na": 2, "O": 1}] * 2


def value_of(counts):
    """A property that follows from the elements alone."""
    atoms = sum(counts.values())
    return sum(n * covalent_radii[atomic_numbers[e]] for e, n in counts.items()) / atoms


@pytest.fixture(scope="module")
def model():
    return FormulaModel(FORMULAS, torch.tensor([value_of(counts) for counts in FORMULAS]))


def salts():
    return [
        bulk(a + b, "rocksalt", a=2 * (covalent_radii[[atomic_numbers[a], atomic_numbers[b]]].sum() + 0.6))
        for a, b in PAIRS
    ]


@settings(max_examples=25, deadline=None)
@given(
    elements=st.lists(st.sampled_from([*CATIONS, *ANIONS]), max_size=2, unique=True),
    exclude=st.lists(st.sampled_from([*CATIONS, *ANIONS]), max_size=4, unique=True),
    n_atoms=st.sampled_from([None, (2, 2), (3, 3), (2, 5)]),
    new=st.booleans(),
    seed=st.integers(0, 5),
)
def test_what_is_requested_holds_for_every_formula(model, elements, exclude, n_atoms, new, seed):
    if set(elements) & set(exclude):
        return
    request = FormulaRequest(elements=elements, exclude=exclude, n_atoms=n_atoms, n_elements=(2, 2), new=new)
    try:
        made = model.sample(5, target=1.2, request=request, seed=seed)
    except InputError as error:
        assert "requested" in str(error)
        return
    known = {frozenset(counts.items()) for counts in FORMULAS}
    assert made
    for one in made:
        counts = dict(one.counts)
        assert set(elements) <= set(counts) and not set(exclude) & set(counts)
        assert len(counts) == 2
        assert n_atoms is None or n_atoms[0] <= sum(counts.values()) <= n_atoms[1]
        reduced = {e: n // math.gcd(*counts.values()) for e, n in counts.items()}
        assert one.is_new == (frozenset(reduced.items()) not in known)
        assert one.is_new or not new
    assert len({one.counts for one in made}) == len(made)


def test_balanced_formulas_are_balanced_and_others_not_all(model):
    pytest.importorskip("smact")
    made = model.sample(20, request=FormulaRequest(balanced=True))
    assert all(is_charge_neutral(one.formula) for one in made)
    assert not all(is_charge_neutral(one.formula) for one in model.sample(20))


def test_formulas_are_nearer_to_the_target_than_those_of_the_data(model):
    every = torch.tensor([value_of(counts) for counts in FORMULAS])
    for target in (float(every.quantile(q)) for q in (0.1, 0.9)):
        made = [value_of(dict(one.counts)) for one in model.sample(12, target=target, seed=1)]
        assert abs(np.mean(made) - target) < 0.6 * float((every - target).abs().mean())


def test_the_same_seed_gives_the_same_formulas(model):
    first, again, other = (model.sample(10, target=1.2, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_kernel_counts_pairs_of_formulas_that_differ_by_one_element(model):
    seen = np.zeros((len(model.elements),) * 2)
    known = {tuple(sorted(counts.items())) for counts in FORMULAS}
    for a, b in itertools.permutations(known, 2):
        gone, come = dict(set(a) - set(b)), dict(set(b) - set(a))
        if len(gone) == len(come) == 1 and [*gone.values()] == [*come.values()] and len(a) == len(b):
            seen[model.elements.index(*gone), model.elements.index(*come)] += 1
    table = model._kernel
    assert np.allclose(table.sum(1), 1) and (np.diag(table) == 0).all()
    sodium = model.elements.index("Na")
    order = np.argsort(-seen[sodium], kind="stable")
    assert table[sodium, order[0]] > 3 * table[sodium, seen[sodium] == 0].max()


def test_elements_that_the_data_do_not_have_are_refused_with_the_nearest_ones(model):
    with pytest.raises(InputError, match=r"no structure of the data has Cs\. .* like Cs: Rb"):
        model.sample(3, request=FormulaRequest(elements=["Cs"]))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"elements": ["Na"], "exclude": ["Na"]}, "both requested and excluded"),
        ({"elements": ["Xx"]}, "unknown element 'Xx'"),
        ({"n_atoms": [4, 2]}, "least number first"),
        ({"elements": ["Na", "K", "O"], "n_elements": [2, 2]}, "3 elements are requested"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(request_, message):
    with pytest.raises((InputError, UsageError), match=message):
        settings_from(FormulaRequest, request_, source="test")


def test_what_no_structure_can_be_made_is_refused_with_what_there_is(model):
    with pytest.raises(InputError, match=re.escape("data have 2 to 3 atoms and 2 elements")):
        model.sample(3, request=FormulaRequest(n_atoms=(7, 9)))
    with pytest.raises(InputError, match="all elements of the data are excluded"):
        model.sample(3, request=FormulaRequest(exclude=[*CATIONS, *ANIONS]))


def test_data_of_one_composition_are_left_to_a_generator():
    values = torch.arange(30.0, dtype=torch.float64)
    with pytest.raises(InputError, match=r"all structures with the property are .*A generator keeps"):
        FormulaModel([{"Na": 1, "Cl": 1}] * 30, values)


def test_few_labels_and_a_target_without_labels_are_refused():
    with pytest.raises(InputError, match="expected at least 20"):
        FormulaModel(FORMULAS[:5], torch.arange(5.0))
    with pytest.raises(InputError, match="needs the property"):
        FormulaModel(FORMULAS[:5]).sample(2, target=1.0)
    with pytest.raises(InputError, match="no structures"):
        FormulaModel([])


def test_a_substituted_structure_has_the_cell_of_its_elements():
    atoms = salts()
    substitution = Substitution(from_ase(atoms))
    made = substitution.sample(30, request=FormulaRequest(new=True), seed=0)
    errors = []
    for k, one in enumerate(made.formulas):
        structure = made.structures[k]
        counts = dict(one.counts)
        assert {e: int((structure.atomic_numbers == atomic_numbers[e]).sum()) for e in counts} == counts
        parent = from_ase(atoms[one.parent])
        fractional = structure.positions @ torch.linalg.inv(structure.cells[0])
        assert torch.allclose(fractional, parent.positions @ torch.linalg.inv(parent.cells[0]))
        expected = 2 * sum((covalent_radii[atomic_numbers[e]] + 0.3) for e in counts)
        errors.append([float(volumes(one.cells)) / (expected**3 / 4) - 1 for one in (structure, parent)])
    scaled, unscaled = np.abs(errors).mean(0)
    assert 2 * scaled < unscaled and scaled < 0.15


@pytest.mark.parametrize("shared", [False, True])
def test_packing_is_the_parents_where_relatives_share_it(shared):
    rng = np.random.default_rng(0)
    atoms = salts()
    for one, (a, b) in zip(atoms, PAIRS, strict=True):
        # Some salts are of a less dense prototype, which no sum over elements gives; or any is, by chance.
        of_kind = 0.4 if a in CATIONS[:4] and b in ANIONS[:3] else 0.0
        change = of_kind if shared else rng.normal(0, 0.3)
        one.set_cell(one.cell * math.exp(change / 3), scale_atoms=True)
    substitution = Substitution(from_ase(atoms))
    assert (substitution._kept > 0.4) == shared
    made = substitution.structures_of([substitution.formulas.unchanged(3)])
    assert torch.equal(made.cells, from_ase(atoms[3]).cells)


def test_sites_keep_their_roles():
    parents = [
        Atoms("NaClNa", positions=[[0, 0, 0], [2, 0, 0], [4, 0, 0]]),
        Atoms("KBr", positions=np.eye(3)[:2]),
    ]
    substitution = Substitution(from_ase(parents))
    made = substitution.sample(20, seed=0)
    found = [
        structure.atomic_numbers.tolist()
        for structure, one in zip(made.structures, made.formulas, strict=True)
        if one.parent == 0
    ]
    assert found
    assert all(first == third != second for first, second, third in found)


def test_structures_are_chosen_by_the_property_that_is_predicted_of_them():
    def predict(structures: StructureBatch):
        volume = volumes(structures.cells)
        return volume, torch.full_like(volume, 0.5)

    substitution = Substitution(from_ase(salts()))
    with pytest.raises(InputError, match="needs the property"):
        substitution.sample(5, target=40.0)
    values = torch.tensor([float(volumes(from_ase(one).cells)) for one in salts()])
    made = Substitution(from_ase(salts()), values).sample(5, target=40.0, predict=predict, tolerance=2.0)
    assert (made.predicted[:3] - 40.0).abs().max() < 3.0 < (values - 40.0).abs().mean()
    assert torch.allclose(made.predicted, volumes(made.structures.cells))


def test_the_probability_of_a_hit():
    rng = np.random.default_rng(0)
    value, error = 1.3, 0.4
    share = (np.abs(rng.normal(value, error, 200_000) - 1.0) < 0.2).mean()
    chance = hit_probability(torch.tensor([value]), torch.tensor([error]), lower=0.8, upper=1.2)
    assert float(chance) == pytest.approx(share, abs=0.005)


def test_atoms_of_alloy_clusters_are_substituted_one_by_one():
    rng = np.random.default_rng(0)
    parents = [
        Atoms(["Au"] * k + ["Cu"] * (n - k), rng.normal(0, 3, (n, 3)))
        for n in range(5, 10)
        for k in range(1, n)
    ]
    values = torch.tensor([atoms.symbols.count("Au") / len(atoms) for atoms in parents]).double()
    substitution = Substitution(from_ase([*parents, Atoms("Pt5", rng.normal(0, 3, (5, 3)))] * 3))
    made = substitution.sample(40, request=FormulaRequest(new=True, n_atoms=(5, 5)), seed=0)
    known = {str(atoms.symbols.formula.convert("metal")) for atoms in parents}
    for structure, one in zip(made.structures, made.formulas, strict=True):
        numbers = structure.atomic_numbers.tolist()
        assert {e: numbers.count(atomic_numbers[e]) for e, _ in one.counts} == dict(one.counts)
        assert len(numbers) == 5 and one.formula not in known
    assert {3, 2} <= {len(one.counts) for one in made.formulas}  # Au2Cu2Pt from Au3Cu2, and Au4Pt
    assert len({one.counts for one in made.formulas}) == len(made.formulas)
    exact = Substitution(from_ase(parents * 3), values.repeat(3)).sample(
        3, target=0.8, request=FormulaRequest(n_elements=(2, 2)), seed=0, predict=_gold
    )
    shares = [dict(one.counts)["Au"] / sum(n for _, n in one.counts) for one in exact.formulas]
    assert len(shares) == 3 and max(abs(share - 0.8) for share in shares) < 0.1


def _gold(structures: StructureBatch):
    share = torch.zeros(len(structures), dtype=torch.float64).index_add(
        0, structures.structure_index, (structures.atomic_numbers == 79).double()
    )
    return share / structures.n_atoms, torch.full((len(structures),), 0.05, dtype=torch.float64)


def test_a_cluster_of_twice_the_atoms_is_another_formula():
    model = FormulaModel([{"Au": 1, "Cu": 1}, {"Au": 3, "Cu": 1}], clusters=True)
    made = model.sample(100, request=FormulaRequest(new=True), seed=0)
    assert {"Au": 2, "Cu": 2} in [dict(one.counts) for one in made]
