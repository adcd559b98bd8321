"""Hulls of an energy method's own energies."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from whorl.datasets.prototypes import prototypes_of
from whorl.errors import InputError
from whorl.evaluation.hull import hull_by_potential
from whorl.evaluation.hull.elements import elemental_crystals
from whorl.potentials import make_potential
from whorl.structures import from_ase


def ordered(symbols, a):
    """L1_2 Cu3Au with these elements."""
    atoms = bulk("Cu", "fcc", a=a, cubic=True)
    atoms.symbols = symbols
    return atoms


def test_the_elements_are_relaxed_and_found_by_themselves():
    emt = make_potential("emt")
    hull = hull_by_potential(emt, elements=["Cu", "Au"])
    assert hull.scheme == "emt" and hull.potential == "emt" and "2 elements relaxed by emt" in hull.source
    assert {e.formula for e in hull.entries} <= {"Cu", "Au", "Cu2", "Au2"} and hull.sha256 and hull.date
    copper = bulk("Cu", "fcc", a=3.59)  # EMT's own lattice constant
    energy = float(emt(from_ase([copper])).energy[0])
    got = hull.evaluate(from_ase([copper]), [energy], "emt", potential="emt")[0]
    assert got.energy_above_hull == pytest.approx(0.0, abs=2e-3)


def test_compounds_of_the_reference_are_on_the_hull():
    emt = make_potential("emt")
    compound = ordered("AuCu3", 3.75)
    hull = hull_by_potential(emt, from_ase([compound]), elements=["Pt"], names=["mine"])
    found = {e.name for e in hull.entries}
    assert "mine" in found and "Pt (fcc)" in found and "Au (fcc)" in found  # its own elements, too
    strained = ordered("AuCu3", 3.9)
    energy = float(emt(from_ase([strained])).energy[0])
    got = hull.evaluate(from_ase([strained]), [energy], "emt", potential="emt")[0]
    assert got.energy_above_hull > 0.01 and got.competing == (("AuCu3", pytest.approx(1.0)),)


def test_what_cannot_be_computed_is_left_out_and_said():
    emt = make_potential("emt")
    hull = hull_by_potential(
        emt, from_ase([bulk("NaCl", "rocksalt", a=5.6)]), elements=["Cu"], names=["salt"]
    )
    assert any(text.startswith("salt: ") for text in hull.skipped)
    got = hull.evaluate(from_ase([bulk("NaCl", "rocksalt", a=5.6)]), [-6.0], "emt", potential="emt")[0]
    assert got.energy_above_hull is None and "no phase of Cl and Na" in got.reason
    with pytest.raises(InputError, match="no phase could be computed"):
        hull_by_potential(emt, elements=["Na"])
    with pytest.raises(InputError, match="neither structures nor elements"):
        hull_by_potential(emt)


def test_only_the_lowest_of_each_composition_are_relaxed():
    emt = make_potential("emt")
    given = from_ase([ordered("AuCu3", a) for a in (4.4, 3.75, 4.1)])
    hull = hull_by_potential(emt, given, per_composition=1, steps=5)
    assert [e.name for e in hull.entries if e.name.startswith("structure")] == ["structure 1"]


def test_finished_relaxations_are_read_again(tmp_path):
    emt = make_potential("emt")
    first = hull_by_potential(emt, elements=["Cu"], directory=tmp_path)
    done = []
    emt.__class__ = type("Counting", (type(emt),), {"__call__": lambda self, s: done.append(1)})
    assert hull_by_potential(emt, elements=["Cu"], directory=tmp_path).entries == first.entries
    assert not done


@pytest.mark.parametrize(
    "element", ["H", "O", "Cl", "I", "C", "P", "S", "Mn", "Te", "Sn", "As", "Ga", "U", "Ne", "Fe"]
)
def test_there_are_crystals_of_each_element(element):
    crystals = elemental_crystals(element)
    assert crystals
    for atoms in crystals.values():
        assert isinstance(atoms, Atoms) and set(atoms.get_chemical_symbols()) == {element} and atoms.pbc.all()
        distances = atoms.repeat(2).get_all_distances(mic=True)
        assert distances[distances > 1e-3].min() > 0.7 and np.isfinite(atoms.positions).all()


def test_no_crystals_of_what_is_no_element():
    with pytest.raises(InputError, match="unknown element 'Xx'"):
        elemental_crystals("Xx")


def test_prototypes_of_a_system_are_its_compounds_alone():
    found = prototypes_of([{"Na", "Cl"}], max_atoms=4)
    assert found.structures is not None
    assert {tuple(info["elements"]) for info in found.structures.info} == {("Cl", "Na")}
    assert any("AB_cF8_225_a_b" in name for name in found.ids)  # rock salt
    assert (
        len({name for name in found.ids if "AB_cF8_225_a_b" in name}) == 1
    )  # once, though Na and Cl may swap
    assert len(prototypes_of([{"Na"}])) == 0 and len(prototypes_of([])) == 0
    with pytest.raises(InputError, match="unknown element 'Xx'"):
        prototypes_of([{"Na", "Xx"}])
