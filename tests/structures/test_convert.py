import inspect

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixedPlane, Hookean
from hypothesis import given, settings
from pymatgen.core import Element, IStructure, Lattice, Molecule, Species, Structure

from whorl.errors import InputError
from whorl.structures import from_ase, from_pymatgen, to_ase, to_pymatgen


def assert_same_atoms(a, b):
    assert a == b  # positions, numbers, cell, pbc
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        assert array.dtype == b.arrays[name].dtype
        np.testing.assert_array_equal(array, b.arrays[name])
    np.testing.assert_array_equal(a.get_celldisp(), b.get_celldisp())
    np.testing.assert_equal(a.info, b.info)
    assert [c.todict() for c in a.constraints] == [c.todict() for c in b.constraints]


def decorated_slab():
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    rng = np.random.default_rng(0)
    slab.set_momenta(rng.normal(size=(12, 3)))
    slab.set_initial_magnetic_moments(rng.normal(size=(12, 3)))
    slab.set_initial_charges(rng.normal(size=12))
    slab.set_masses(rng.uniform(1, 9, size=12))
    slab.set_array("site", np.array([f"s{i}" for i in range(12)]))
    slab.set_celldisp([0.1, 0.2, 0.3])
    slab.set_constraint(
        [
            FixAtoms([0, 1]),
            FixBondLength(2, 3),
            FixCartesian([4], [True, False, True]),
            FixedPlane([5], (0, 0, 1)),
            Hookean(a1=6, a2=7, rt=2.6, k=5.0),
        ]
    )
    slab.info["nested"] = {"tuple": (1, 2), "array": np.eye(2), 3: None}
    return slab


finite = st.floats(-1e4, 1e4)
anything = st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none(), st.lists(st.integers()))


@st.composite
def any_atoms(draw):
    n = draw(st.integers(0, 5))
    array = lambda shape: draw(hnp.arrays(float, shape, elements=finite))  # noqa: E731
    atoms = Atoms(
        numbers=draw(st.lists(st.integers(0, 118), min_size=n, max_size=n)),
        positions=array((n, 3)),
        cell=array((3, 3)),
        pbc=draw(st.tuples(st.booleans(), st.booleans(), st.booleans())),
        info=draw(st.dictionaries(st.text(), anything, max_size=3)),
        tags=draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n)),
        momenta=array((n, 3)),
    )
    if n and draw(st.booleans()):
        atoms.set_constraint(FixAtoms([draw(st.integers(0, n - 1))]))
    return atoms


@settings(deadline=None, max_examples=40)
@given(st.lists(any_atoms(), max_size=3))
def test_ase_there_and_back_is_exact(items):
    back = to_ase(from_ase(items))
    assert len(back) == len(items)
    for before, after in zip(items, back, strict=True):
        assert_same_atoms(before, after)


def test_everything_ase_knows_survives():
    slab = decorated_slab()
    (back,) = to_ase(from_ase(slab))
    assert_same_atoms(slab, back)


def test_any_constraint_survives():
    class Spring(FixAtoms):
        """One of the user's own."""

    atoms = molecule("H2O")
    atoms.set_constraint(Spring([1]))
    (back,) = to_ase(from_ase(atoms))
    assert type(back.constraints[0]) is Spring


def test_results_survive_as_those_of_a_single_point():
    atoms = bulk("Cu").repeat(2)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    (back,) = to_ase(from_ase(atoms))
    assert isinstance(back.calc, SinglePointCalculator)
    assert back.calc.name == "emt"
    assert back.get_potential_energy() == energy
    np.testing.assert_array_equal(back.get_forces(), forces)
    assert back.calc.results.keys() == atoms.calc.results.keys()


def test_results_that_ase_has_no_name_for_survive():
    atoms = molecule("H2")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.calc.results["my_descriptor"] = np.arange(3)
    (back,) = to_ase(from_ase(atoms))
    np.testing.assert_array_equal(back.calc.results["my_descriptor"], np.arange(3))


def test_results_never_stick_to_moved_atoms():
    atoms = molecule("H2")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    batch = from_ase(atoms)
    assert to_ase(batch.replace(positions=batch.positions + 0.01))[0].calc is None
    assert to_ase(batch.replace(atomic_numbers=batch.atomic_numbers + 1))[0].calc is None
    atoms.positions += 1
    assert to_ase(from_ase(atoms))[0].calc is None  # stale before it came


def test_results_survive_float32():
    atoms = molecule("C6H6")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    for batch in (from_ase(atoms, dtype=torch.float32), from_ase(atoms).to(dtype=torch.float32)):
        assert to_ase(batch)[0].get_potential_energy() == -1.0


def test_nothing_is_calculated():
    class Expensive(EMT):
        def calculate(self, *args, **kwargs):
            raise AssertionError("was asked to calculate")

    atoms = bulk("Cu")
    atoms.calc = Expensive()
    assert to_ase(from_ase(atoms))[0].calc is None


def test_batch_and_atoms_share_nothing():
    atoms = decorated_slab()
    batch = from_ase(atoms)
    before = batch.positions.clone()
    atoms.positions += 1
    atoms.info["nested"]["array"][:] = 7
    atoms.arrays["tags"][:] = 9
    assert torch.equal(batch.positions, before)
    first, second = to_ase(batch)[0], to_ase(batch)[0]
    first.positions += 1
    first.info["nested"]["array"][:] = 5
    first.arrays["tags"][:] = 5
    assert_same_atoms(second, decorated_slab())


def test_many_equal_one_by_one():
    items = [molecule("H2O"), bulk("NaCl", "rocksalt", a=5.64), Atoms(), decorated_slab()]
    batch = from_ase(items)
    for index, item in enumerate(items):
        assert_same_atoms(to_ase(batch[index])[0], item)
        assert_same_atoms(to_ase(from_ase(item))[0], item)


def test_types_asked_for():
    batch = from_ase(molecule("H2O"), dtype=torch.float32)
    assert batch.dtype == batch.cells.dtype == torch.float32
    assert batch.atomic_numbers.dtype == torch.int64
    assert len(from_ase([])) == 0
    assert to_ase(from_ase([])) == []


def test_gradients_do_not_hinder_the_way_back():
    batch = from_ase(molecule("H2O"))
    moving = batch.replace(positions=batch.positions.requires_grad_(True))
    assert to_ase(moving)[0] == molecule("H2O")


def test_what_is_not_atoms_is_named():
    # Shape checking under test would catch these first; a user has none.
    unchecked_from_ase = inspect.unwrap(from_ase)
    with pytest.raises(InputError, match=r"item 1 is a str, expected ase\.Atoms"):
        unchecked_from_ase([molecule("H2O"), "water.xyz"])
    with pytest.raises(InputError, match="item 0 is a Atoms, expected a pymatgen"):
        from_pymatgen([molecule("H2O")])


def test_an_array_that_does_not_fit_is_named():
    water = from_ase(Atoms("OH2", positions=np.eye(3), tags=[1, 2, 3]))
    broken = from_ase(Atoms("OH")).replace(info=water.info)
    for convert in (to_ase, to_pymatgen):
        with pytest.raises(InputError, match="'tags' in its info has 3 entries for 2 atoms"):
            convert(broken)


# pymatgen


def decorated_structure():
    return Structure(
        Lattice.from_parameters(4, 5, 6, 70, 80, 95),
        [Species("Na", 1), Species("Cl", -1), Species("Fe", 2.5, spin=3.7), Element("D")],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.2, -0.3, 1.4], [0.7, 0.1, 0.2]],
        site_properties={
            "magmom": [1, 2, 3, 4],
            "selective_dynamics": [[True, False, True]] * 4,
            "some": [None, "word", 2.5, {"nested": 1}],
        },
        labels=["Na1", "Cl1", "Fe1", "D1"],
        properties={"band_gap": 1.2, "deep": {"list": [1, 2]}},
        charge=2.5,
    )


def assert_same_structure(a, b):
    assert type(a) is type(b)
    assert a.species == b.species
    assert [s.species_string for s in a] == [s.species_string for s in b]
    assert a.site_properties == b.site_properties
    assert a.labels == b.labels
    assert a.properties == b.properties
    assert a._charge == b._charge
    np.testing.assert_allclose(a.cart_coords, b.cart_coords, rtol=0, atol=1e-12)
    if isinstance(a, Structure):
        assert a.lattice == b.lattice
        assert a.lattice.pbc == b.lattice.pbc
        np.testing.assert_allclose(a.frac_coords, b.frac_coords, rtol=0, atol=1e-12)


def test_everything_pymatgen_knows_survives():
    structure = decorated_structure()
    (back,) = to_pymatgen(from_pymatgen(structure))
    assert_same_structure(structure, back)
    assert from_pymatgen(structure).atomic_numbers.tolist() == [11, 17, 26, 1]


def test_plain_structures_survive_too():
    plain = Structure(Lattice.hexagonal(3, 5), ["Zn", "O"], [[0, 0, 0], [0.3, 0.7, 0.5]])
    (back,) = to_pymatgen(from_pymatgen(plain))
    assert_same_structure(plain, back)
    assert back == plain
    assert back._charge is None


def test_a_slab_keeps_its_pbc():
    slab = Structure(Lattice(np.diag([3, 3, 20.0]), pbc=(True, True, False)), ["Pt"], [[0, 0, 0.5]])
    batch = from_pymatgen(slab)
    assert batch.pbc.tolist() == [[True, True, False]]
    assert_same_structure(slab, to_pymatgen(batch)[0])


@pytest.mark.parametrize("charge, spin", [(0, None), (-1, 2), (1, 4), (0, 3)])
def test_molecules_survive(charge, spin):
    co = Molecule(
        ["C", "O"],
        [[0, 0, 0], [0, 0, 1.13]],
        charge=charge,
        spin_multiplicity=spin,
        site_properties={"q": [0.1, -0.1]},
        labels=["a", "b"],
    )
    (back,) = to_pymatgen(from_pymatgen(co))
    assert_same_structure(co, back)
    assert back.spin_multiplicity == co.spin_multiplicity
    assert back.charge == charge


def test_a_molecule_with_an_odd_multiplicity_survives():
    odd = Molecule(["H"], [[0, 0, 0]], spin_multiplicity=1, charge_spin_check=False)
    assert to_pymatgen(from_pymatgen(odd))[0].spin_multiplicity == 1


def test_molecules_and_structures_mix():
    mixed = [
        Molecule(["H"], [[0, 0, 0]]),
        decorated_structure(),
        IStructure(Lattice.cubic(3), ["Fe"], [[0] * 3]),
    ]
    back = to_pymatgen(from_pymatgen(mixed))
    assert [type(item) for item in back] == [Molecule, Structure, Structure]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(1, 103), st.tuples(*[st.floats(-2, 2)] * 3)),
        min_size=1,
        max_size=5,
    )
)
def test_any_structure_survives(sites):
    numbers, coordinates = zip(*sites, strict=True)
    structure = Structure(
        Lattice.from_parameters(4, 5, 6, 70, 80, 95), [Element.from_Z(z) for z in numbers], coordinates
    )
    (back,) = to_pymatgen(from_pymatgen(structure))
    assert_same_structure(structure, back)


@pytest.mark.parametrize("site", [{"Fe": 0.5, "Ni": 0.5}, {"Fe": 0.9}])
def test_disorder_is_refused_and_named(site):
    good = Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])
    bad = Structure(Lattice.cubic(3), ["O", site], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(InputError, match=r"structure 1 .* is disordered: site 1 holds Fe:0\.[59]"):
        from_pymatgen([good, bad])


def test_placeholders_are_refused():
    from pymatgen.core import DummySpecies

    with pytest.raises(InputError, match="site 0 holds the placeholder X0\\+"):
        from_pymatgen(Structure(Lattice.cubic(3), [DummySpecies("X")], [[0, 0, 0]]))


def test_no_pymatgen_structure_without_volume():
    flat = from_ase(Atoms("Pt", cell=[[3, 0, 0], [0, 3, 0], [0, 0, 0]], pbc=[True, True, False]))
    with pytest.raises(InputError, match=r"structure 0: its cell .* has no volume"):
        to_pymatgen(flat)
    with pytest.raises(InputError, match="atomic number 0 is no element's"):
        to_pymatgen(from_ase(Atoms("X")))


def test_oxidation_states_stay_only_with_their_element():
    salt = from_pymatgen(Structure(Lattice.cubic(4), ["Na+", "Cl-"], [[0] * 3, [0.5] * 3]))
    (changed,) = to_pymatgen(salt.replace(atomic_numbers=torch.tensor([19, 17])))
    assert changed.species == [Element("K"), Species("Cl", -1)]


# From one library to the other


def test_structures_cross_with_their_moments_and_charges():
    structure = decorated_structure()
    (atoms,) = to_ase(from_pymatgen(structure))
    np.testing.assert_array_equal(atoms.get_initial_magnetic_moments(), [1, 2, 3, 4])
    assert atoms.info == structure.properties
    assert "some" not in atoms.arrays  # words and numbers mixed have no array
    slab = decorated_slab()
    slab.info = {"energy_above_hull": 0.1}
    (crossed,) = to_pymatgen(from_ase(slab))
    np.testing.assert_allclose(crossed.site_properties["magmom"], slab.get_initial_magnetic_moments())
    assert crossed.properties == {"energy_above_hull": 0.1}
    assert crossed.site_properties["tags"] == slab.get_tags().tolist()


def test_crossing_agrees_with_pymatgens_own_adaptor():
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = bulk("NaCl", "rocksalt", a=5.64)
    (ours,) = to_pymatgen(from_ase(atoms))
    theirs = AseAtomsAdaptor.get_structure(atoms)
    assert ours.lattice == theirs.lattice
    assert ours.species == theirs.species
    np.testing.assert_allclose(ours.cart_coords, theirs.cart_coords, atol=1e-12)
