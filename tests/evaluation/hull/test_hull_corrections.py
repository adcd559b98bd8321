"""Corrections: pymatgen's own classes are the oracle."""

import random
import warnings

import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition
from pymatgen.io.ase import AseAtomsAdaptor

from whorl.errors import InputError
from whorl.evaluation.hull.corrections import (
    _oxidation_states,
    amounts_of,
    canonical_formula,
    correction,
    elemental_energies,
)

FORMULAS = (
    *("NaCl", "Fe2O3", "Li2O2", "KO2", "NaO3", "MnF2", "CrO3", "WO3", "CuS", "FeS2", "ZnSe", "NaBr", "CsI"),
    *("Mg2Si", "AlSb", "CdTe", "LiH", "Li3N", "NH4Cl", "CuI9", "LiFePO4", "NaClO4", "Bi2Te3", "K2NiF6"),
    *("CoCl2O8", "SiO2", "Si3N4", "CaSiO3", "GaAs", "Nb3Sn", "Li20O9Cl2", "BaTiO3", "VOF3", "NiMoO4"),
)


def of_pymatgen(formula):
    """The correction per atom by MaterialsProject2020Compatibility, from the formula alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
        from pymatgen.entries.computed_entries import ComputedEntry
        from pymatgen.io.vasp.sets import MPRelaxSet

        composition = Composition(canonical_formula(formula))
        us = MPRelaxSet.CONFIG["INCAR"]["LDAUU"]
        strongest = max(composition.elements, key=lambda e: e.X).symbol
        hubbards = {e: u for e, u in us.get(strongest, {}).items() if e in composition.get_el_amt_dict()}
        entry = ComputedEntry(
            composition,
            0.0,
            parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards},
        )
        entry = MaterialsProject2020Compatibility(check_potcar=False).process_entry(entry)
    return entry.correction / composition.num_atoms


@pytest.mark.parametrize("formula", FORMULAS)
def test_corrections_are_those_of_pymatgen(formula):
    assert correction(canonical_formula(formula), "mp2020").value == pytest.approx(of_pymatgen(formula))


def test_oxidation_states_are_guessed_as_by_pymatgen():
    elements = ("Li", "Fe", "Mn", "O", "S", "Cl", "N", "P", "Sb", "Te", "H", "Br", "Si", "Se", "I")
    choose = random.Random(4)
    for _ in range(150):
        chosen = sorted(choose.sample(elements, choose.randint(2, 4)))
        formula = canonical_formula({e: choose.randint(1, 5) for e in chosen})
        try:
            expected = Composition(formula).oxi_state_guesses(max_sites=-20)
        except ValueError:
            expected = ()
        assert list(_oxidation_states(formula)) == [dict(guess) for guess in expected], formula


@given(st.permutations(["Li", "Fe", "P", "O", "Cl", "N"]), st.integers(1, 3))
def test_the_order_of_elements_and_multiples_change_nothing(order, factor):
    amounts = {"Li": 1, "Fe": 2, "P": 1, "O": 5, "Cl": 1, "N": 1}
    formula = canonical_formula({e: factor * amounts[e] for e in order})
    assert formula == "ClFe2LiNO5P"


def test_both_sides_get_the_same_correction():
    """A table has formulas and a structure has bonds; a compound is one thing on both sides."""
    for atoms in (
        bulk("NaCl", "rocksalt", a=5.69),
        bulk("MnO", "rocksalt", a=4.44),
        bulk("ZnS", "zincblende", a=5.4),
        bulk("LiH", "rocksalt", a=4.0),
    ):
        structure = AseAtomsAdaptor.get_structure(atoms)
        formula = canonical_formula(structure.composition.get_el_amt_dict())
        for scheme in ("mp2020", "mp-legacy", "pbe+u"):
            assert correction(formula, scheme) == correction(formula, scheme, structure)


def test_a_peroxide_is_known_by_its_bonds():
    """H2O2 is in no list of formulas; the O–O bond of 1.46 Å tells."""
    from pymatgen.core import Structure

    bonded = Structure(
        [[4, 0, 0], [0, 4, 0], [0, 0, 4]], ["Zn", "O", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0.865]]
    )
    by_bonds, by_formula = (correction("O2Zn", "mp2020", s).value for s in (bonded, None))
    assert by_bonds == pytest.approx(-0.465 * 2 / 3) and by_formula == pytest.approx(-0.687 * 2 / 3)


def test_elements_are_corrected_in_the_legacy_scheme_alone():
    assert correction("Cl", "mp2020").value == 0.0
    assert elemental_energies()["Cl"] + correction("Cl", "mp-legacy").value == pytest.approx(-1.25385097674)
    assert correction("O", "mp-legacy").value == 0.0  # replaced by a correction of oxides


def test_a_doubt_is_said():
    assert correction("ClNa", "mp2020").warnings == ()
    assert "no oxidation states" in correction("Au3HSb2", "mp2020").warnings[0]


def test_no_corrections_of_other_schemes():
    with pytest.raises(InputError, match="no corrections"):
        correction("ClNa", "matpes-pbe")


@pytest.mark.parametrize("text", ["", "Xx2", "3", "na", "()"])
def test_what_is_no_formula_is_refused(text):
    with pytest.raises((ValueError, KeyError)):
        if not amounts_of(text):
            raise ValueError


def test_formulas_with_brackets_are_read():
    assert amounts_of("Ca(OH)2") == {"Ca": 1, "O": 2, "H": 2}
