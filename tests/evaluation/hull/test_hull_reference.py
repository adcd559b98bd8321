"""Distances from a hull: pymatgen's PhaseDiagram is the oracle, and properties that any hull has."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from whorl.errors import InputError
from whorl.evaluation.hull import HullEntry, HullReference, phase_diagrams
from whorl.structures import from_ase

ELEMENTS = ("Li", "Mn", "O", "F")


def reference(phases, scheme="mp2020", **more):
    entries = tuple(HullEntry(formula=f, energy=e) for f, e in phases)
    return HullReference(entries=entries, scheme=scheme, source="a test", **more)


def atoms_of(formula):
    """Return atoms far from each other."""
    count = len(Atoms(formula))
    positions = 3.0 * np.arange(count)[:, None] * np.ones(3)
    return Atoms(formula, positions=positions, cell=[3 * count] * 3, pbc=True)


def evaluate(hull, formulas_and_energies, scheme="mp2020", **more):
    atoms = [atoms_of(f) for f, _ in formulas_and_energies]
    energies = [e * len(a) for a, (_, e) in zip(atoms, formulas_and_energies, strict=True)]
    return hull.evaluate(from_ase(atoms), energies, scheme, **more)


NACL = (("Na", -1.3), ("Cl", -1.85), ("NaCl", -3.6), ("NaCl3", -2.0))


@st.composite
def phase_sets(draw):
    count = draw(st.integers(2, 4))
    elements = ELEMENTS[:count]
    energy = st.floats(-6, -1)
    phases = {e: draw(energy) for e in elements}
    for _ in range(draw(st.integers(0, 8))):
        amounts = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count).filter(any))
        formula = "".join(f"{e}{n}" for e, n in zip(elements, amounts, strict=True) if n)
        phases[formula] = draw(energy)
    return elements, list(phases.items())


@given(phase_sets())
@settings(max_examples=40)
def test_distances_are_those_of_a_phase_diagram(case):
    _elements, phases = case
    entries = [PDEntry(Composition(f), e * Composition(f).num_atoms) for f, e in phases]
    diagram = PhaseDiagram(entries)
    hull = reference(phases)
    for entry, (formula, _), got in zip(entries, phases, evaluate(hull, phases), strict=True):
        assert got.energy_above_hull == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-8), formula
        assert got.formation_energy == pytest.approx(diagram.get_form_energy_per_atom(entry), abs=1e-8)
        assert got.energy_above_hull >= -1e-9  # no phase is below a hull that it is part of


@given(phase_sets(), st.randoms(use_true_random=False), st.floats(-3, 3))
@settings(max_examples=25)
def test_order_and_zero_of_energy_change_nothing(case, choose, shift):
    _, phases = case
    expected = evaluate(reference(phases), phases)
    others = list(phases)
    choose.shuffle(others)
    # One scheme may put another zero on each element's energy; that is linear in the composition.
    zero = {e: shift * (k + 1) for k, e in enumerate(ELEMENTS)}

    def moved(formula, energy):
        amounts = Composition(formula).get_el_amt_dict()
        return energy + sum(zero[e] * n for e, n in amounts.items()) / sum(amounts.values())

    got = evaluate(reference([(f, moved(f, e)) for f, e in others]), [(f, moved(f, e)) for f, e in phases])
    for one, other in zip(got, expected, strict=True):
        assert one.energy_above_hull == pytest.approx(other.energy_above_hull, abs=1e-7)
        assert one.formation_energy == pytest.approx(other.formation_energy, abs=1e-7)


@given(phase_sets(), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=25)
def test_the_hull_is_convex(case, first, second):
    elements, phases = case
    system = reference(phases).system(elements)
    one, other = ({e: float(n + k) for k, e in enumerate(elements)} for n in (first, 3 * second))
    total = {e: one[e] / sum(one.values()) + other[e] / sum(other.values()) for e in elements}
    assert (
        system.hull_energy(total)[0] <= (system.hull_energy(one)[0] + system.hull_energy(other)[0]) / 2 + 1e-8
    )


def test_competing_phases_make_up_the_composition():
    hull = reference((*NACL, ("Na3Cl", -1.0)))
    got = evaluate(hull, [("Na2Cl", -2.5)])[0]
    assert dict(got.competing) == pytest.approx({"NaCl": 2 / 3, "Na": 1 / 3})
    assert got.energy_above_hull == pytest.approx(-2.5 - (-3.6 * 2 / 3 - 1.3 / 3))


def test_a_structure_below_the_hull_is_negative():
    assert evaluate(reference(NACL), [("NaCl", -3.9)])[0].energy_above_hull == pytest.approx(-0.3)


def test_what_is_missing_is_the_reason_of_that_structure_alone():
    got = evaluate(reference(NACL), [("NaXe", -1.0), ("NaCl", float("nan")), ("NaCl", -3.6), ("Xe", -0.1)])
    assert [one.energy_above_hull for one in got] == [None, None, pytest.approx(0.0), None]
    assert "no phase of Xe" in got[0].reason and "not known" in got[1].reason
    assert got[2].reason == "" and "Xe" in got[3].reason


def test_a_compound_does_not_replace_its_elements():
    got = evaluate(reference((("NaCl", -3.6), ("Na", -1.3))), [("NaCl", -3.6)])[0]
    assert got.energy_above_hull is None and got.formation_energy is None and "Cl" in got.reason


def test_no_atoms_and_no_structures():
    hull = reference(NACL)
    assert hull.evaluate(from_ase([Atoms(cell=[3] * 3, pbc=True)]), [0.0], "mp2020")[0].reason
    assert hull.evaluate(from_ase([atoms_of("NaCl")])[:0], [], "mp2020") == []
    with pytest.raises(InputError, match="got 2 for 1"):
        hull.evaluate(from_ase([atoms_of("NaCl")]), [0.0, 0.0], "mp2020")


@pytest.mark.parametrize(
    ("phases", "message"),
    [((), "got no phases"), ((("Na", float("nan")),), "nan for Na"), ((("Na", float("inf")),), "inf")],
)
def test_references_without_meaning_are_refused(phases, message):
    with pytest.raises(InputError, match=message):
        reference(phases)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match="Did you mean 'mp2020'"):
        reference(NACL, scheme="mp2021")


# Schemes


@pytest.mark.parametrize(
    "scheme", ["matpes-pbe", "matpes-r2scan", "r2scan", "emt", "gfn2-xtb", "pbe", "unknown"]
)
def test_other_schemes_are_refused_by_name(scheme):
    with pytest.raises(InputError, match=f"'{scheme}'.*Remedy.*--hull potential"):
        evaluate(reference(NACL), [("NaCl", -3.6)], scheme)


def test_energies_of_mp2020_are_never_corrected_again():
    got = evaluate(reference(NACL), [("NaCl", -3.6)], "mp2020")[0]
    assert got.correction == 0.0 and got.energy_above_hull == pytest.approx(0.0)


def test_both_sides_are_corrected_alike():
    """The same uncorrected phases, on whichever sides and in whichever scheme, are on the hull."""
    from whorl.evaluation.hull.corrections import canonical_formula, correction

    raw = (("Na", -1.3), ("Cl", -1.85), ("NaCl", -3.3), ("Na2O", -3.6), ("O", -4.9), ("NaClO4", -5.0))
    for of_hull in ("pbe+u", "mp-legacy", "mp2020"):
        hull = reference(
            [(f, e + correction(canonical_formula(f), of_hull).value) for f, e in raw], scheme=of_hull
        )
        for of_structures in ("pbe+u", "mp-legacy", "mp2020"):
            own = [(f, e + correction(canonical_formula(f), of_structures).value) for f, e in raw]
            for got in evaluate(hull, own, of_structures):
                assert got.energy_above_hull == pytest.approx(0.0, abs=1e-8), (of_hull, of_structures)


def test_the_correction_is_stored():
    got = evaluate(reference(NACL), [("NaCl", -3.3)], "pbe+u")[0]
    summary = reference(NACL, scheme="mp-legacy").summary("pbe+u")
    assert summary["scheme"] == "mp2020" and summary["source_scheme"] == "mp-legacy"
    assert got.correction == pytest.approx(-0.307) and got.energy_above_hull == pytest.approx(-0.007)
    assert got.scheme == "mp2020"


def test_a_doubtful_correction_is_a_warning():
    hull = reference((("Au", -3.2), ("H", -3.3), ("Sb", -4.1)))
    assert "no oxidation states" in evaluate(hull, [("Au3HSb2", -3.7)], "pbe+u")[0].warnings[0]


def test_a_hull_by_another_potential_is_refused():
    hull = reference(NACL, potential="chgnet")
    assert evaluate(hull, [("NaCl", -3.6)], "mp2020", potential="chgnet")[0].energy_above_hull == 0
    with pytest.raises(InputError, match="energies by chgnet too"):
        evaluate(hull, [("NaCl", -3.6)], "mp2020", potential="chgnet-0.2.0")


def test_an_unknown_scheme_meets_its_own_potential_alone():
    hull = reference(NACL, scheme="unknown", potential="package:Class")
    assert evaluate(hull, [("NaCl", -3.6)], "unknown", potential="package:Class")[0].energy_above_hull == 0
    for potential in (None, "other:Class"):
        with pytest.raises(InputError, match="Remedy"):
            evaluate(hull, [("NaCl", -3.6)], "unknown", potential=potential)


# Phase diagrams


def test_phase_diagrams_have_all_points():
    hull = reference((*NACL, ("K", -1.0), ("KCl", -3.4), ("NaCl5", 2.0)))
    given_ = [("NaCl", -3.5), ("Na2Cl", -2.9), ("NaKCl2", -3.6), ("NaXe", -1.0), ("Na", -1.2)]
    structures = from_ase([atoms_of(f) for f, _ in given_])
    distances = evaluate(hull, given_)
    diagrams = phase_diagrams(hull, structures, distances)
    json.dumps(diagrams, allow_nan=False)
    assert [d["system"] for d in diagrams] == ["Cl-K-Na", "Cl-Na", "Na"]
    binary = diagrams[1]
    of_reference = {p["formula"]: p for p in binary["points"] if p["kind"] == "reference"}
    assert set(of_reference) == {"Na", "Cl", "NaCl"} and all(p["stable"] for p in of_reference.values())
    assert of_reference["NaCl"]["formation_energy"] == pytest.approx(-3.6 + (1.3 + 1.85) / 2)
    own = [p for p in binary["points"] if p["kind"] == "structure"]
    assert [p["index"] for p in own] == [0, 1] and own[1]["fractions"] == pytest.approx(
        {"Cl": 1 / 3, "Na": 2 / 3}
    )
    assert [p["stable"] for p in own] == [False, True]


def test_phase_diagrams_are_in_the_scheme_of_the_distances():
    """The picture of a hull without corrections, with energies that have them, shows the corrected hull."""
    hull = reference((("Na", -1.3), ("Cl", -1.85), ("NaCl", -3.3)), scheme="pbe+u")
    distances = evaluate(hull, [("NaCl", -3.5)], "mp2020")
    points = phase_diagrams(hull, from_ase([atoms_of("NaCl")]), distances)[0]["points"]
    energies = [p["formation_energy"] for p in points if p["formula"] == "NaCl"]
    assert energies == pytest.approx([-3.607 + 1.575, -3.5 + 1.575])


@given(phase_sets())
@settings(max_examples=20)
def test_facets_and_linear_programming_agree(case):
    from whorl.evaluation.hull.diagrams import _above_hull

    elements, phases = case
    if len(elements) > 3:
        return
    system = reference(phases).system(elements)
    by_programming = [
        e - system.decomposition(x)[0]
        for x, e in zip(system.fractions, system.formation_energies, strict=True)
    ]
    np.testing.assert_allclose(_above_hull(system), by_programming, atol=1e-7)


def test_elements_are_found_in_any_order_of_a_formula():
    got = evaluate(reference(NACL), [("ClNa", -3.6)])[0]
    assert got.competing == (("NaCl", 1.0),)
    assert bulk("NaCl", "rocksalt", a=5.6).get_chemical_formula() == "ClNa"
