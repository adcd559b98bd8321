"""Every proposer keeps the contract, and formulas without an example in the data have likely lattices."""

from itertools import product

import pytest
import torch
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from whorl.axes import PROPOSERS
from whorl.errors import InputError, UsageError
from whorl.proposals import FormulaRequest, NetworkProposer, Substitution
from whorl.settings import settings_from
from whorl.structures import from_ase
from whorl.structures.cells import volumes
from whorl.structures.composition import formula_of_all
from whorl.symmetry.detection import space_group_numbers
from whorl.testing import check_proposer

CATIONS, ANIONS = ("Na", "K", "Rb", "Mg", "Ca", "Sr"), ("F", "Cl", "Br", "O", "S")
OPTIONS = {"substitution": {}, "network": {"steps": 40}}


def salts(prototypes=("rocksalt",)):
    crystals = []
    for k, (a, x) in enumerate(product(CATIONS, ANIONS)):
        if k % 6 == 5:
            continue
        length = 2 * (covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[x]]) + 0.4
        crystals += [
            bulk(a + x, one, length * (0.6 if one == "cesiumchloride" else 1.0)) for one in prototypes
        ]
    return from_ase(crystals)


@pytest.mark.parametrize("kind", list(PROPOSERS))
def test_each_proposer_keeps_its_contract(kind):
    check_proposer(PROPOSERS.get(kind), salts(), **OPTIONS[kind])


def test_a_proposer_that_breaks_the_contract_is_found_out():
    class Careless(Substitution):
        """Disregards the request."""

        def candidates(self, count, **options):
            return super().candidates(count, **{**options, "request": FormulaRequest()})

    with pytest.raises(AssertionError, match="not what is requested"):
        check_proposer(Careless, salts())


def test_a_formula_without_an_example_has_a_likely_lattice_and_orbits():
    proposer = Substitution(salts())
    made = proposer.sample(4, request=FormulaRequest(formula="NaCl3"), seed=1)
    assert [one.parent for one in made.formulas] == [None] * 4
    assert {formula_of_all(one) for one in made.structures} == {"NaCl3"}
    groups = [info["space_group_number"] for info in made.structures.info]
    found = space_group_numbers(made.structures, symprec=1e-3).tolist()
    assert all(group in (1, 225) for group in groups)
    assert all(number > 1 for number, group in zip(found, groups, strict=True) if group > 1)
    expected = proposer.cells.volume({"Na": 1, "Cl": 3})
    assert ((volumes(made.structures.cells) / expected).log().abs() < 0.5).all()
    again = proposer.sample(4, request=FormulaRequest(formula="NaCl3"), seed=1).structures
    assert torch.equal(again.positions, made.structures.positions)


def test_one_formula_has_structures_of_each_likely_group():
    made = Substitution(salts(("rocksalt", "cesiumchloride"))).sample(
        5, request=FormulaRequest(formula="SrS"), seed=1
    )
    parents = [k for k, one in enumerate(made.formulas) if one.parent is not None]
    assert {225, 221} <= set(space_group_numbers(made.structures[parents]).tolist())
    assert len(made.formulas) == 5
    assert {formula_of_all(one) for one in made.structures} == {"SrS"}


def test_the_network_proposes_formulas_of_other_numbers_with_structures():
    made = NetworkProposer(salts(), settings=NetworkProposer.Settings(steps=5)).sample(
        6, request=FormulaRequest(n_atoms=(4, 5), new=True)
    )
    assert [one.parent for one in made.formulas] == [None] * len(made.formulas)
    assert all(4 <= n <= 5 for n in made.structures.n_atoms.tolist())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"formula": "NaCs"}, "no structure of the data has Cs"),
        ({"formula": "SrS", "elements": ["O"]}, "has no O, which is requested"),
        ({"formula": "SrS", "exclude": ["S"]}, "has S, which is excluded"),
        ({"formula": "SrS", "n_atoms": [3, 4]}, "SrS has 2, expected 3 to 4"),
        ({"formula": "Sr?"}, "expected a chemical formula"),
        ({"formula": "NaF", "new": True}, "NaF is not what is requested"),
    ],
)
def test_formulas_that_cannot_be_are_refused(asked, message):
    with pytest.raises((InputError, UsageError), match=message):
        Substitution(salts()).sample(2, request=settings_from(FormulaRequest, asked, source="test"))


def test_clusters_are_refused_where_sites_or_cells_are_needed():
    clusters = salts().replace(
        pbc=torch.zeros(len(salts()), 3, dtype=torch.bool),
        atomic_numbers=torch.tensor([29, 78] * len(salts())),
    )
    with pytest.raises(InputError, match="no sites that are alike"):
        Substitution(clusters).sample(2, request=FormulaRequest(formula="CuPt"))
    with pytest.raises(InputError, match="Take substitution"):
        NetworkProposer(clusters).sample(2)


def test_molecules_take_the_sites_of_molecules_alone():
    molecules = salts().replace(pbc=torch.zeros(len(salts()), 3, dtype=torch.bool))
    made = Substitution(molecules).sample(3, request=FormulaRequest(formula="SrS"))
    assert all(one.parent is not None for one in made.formulas)
    with pytest.raises(InputError, match="NaCl3: no structure of the data has such numbers"):
        Substitution(molecules).sample(2, request=FormulaRequest(formula="NaCl3"))
    few = NetworkProposer(molecules, settings=NetworkProposer.Settings(steps=2))
    with pytest.raises(InputError, match="Take substitution"):
        few.sample(2, request=FormulaRequest(n_atoms=(7, 8)))
