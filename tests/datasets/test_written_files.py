"""What is written is read again as the same structure: by ASE, pymatgen, gemmi and whorl, in every format."""

import warnings

import ase.io
import gemmi
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, make_supercell, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.spacegroup import crystal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whorl.datasets import Dataset, load_dataset, read_dataset, save_dataset, write_extxyz
from whorl.datasets.crystal_files import cif_text, poscar_text
from whorl.errors import InputError
from whorl.structures import from_ase
from whorl.symmetry.detection import exactly_symmetric

RUTILE = crystal(
    ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90]
)
CRYSTALS = {
    "P1": Atoms(
        "CN2", scaled_positions=[[0, 0, 0], [0.3, 0.1, 0.4], [0.7, 0.6, 0.2]], cell=[3, 4, 5], pbc=True
    ),
    "rock salt": bulk("NaCl", "rocksalt", 5.64),
    "rock salt, cubic": bulk("NaCl", "rocksalt", 5.64, cubic=True),
    "hcp, z = 1/4": bulk("Mg"),
    "rutile": RUTILE,
    "quartz, right": crystal(
        ["Si", "O"],
        [(0.4697, 0, 0), (0.4135, 0.2669, 0.1191)],
        spacegroup=152,
        cellpar=[4.916, 4.916, 5.405, 90, 90, 120],
    ),
    "calcite": crystal(
        ["Ca", "C", "O"],
        [(0, 0, 0), (0, 0, 0.25), (0.257, 0, 0.25)],
        spacegroup=167,
        cellpar=[4.99, 4.99, 17.06, 90, 90, 120],
    ),
    "spinel": crystal(
        ["Mg", "Al", "O"],
        [(0.125, 0.125, 0.125), (0.5, 0.5, 0.5), (0.2624, 0.2624, 0.2624)],
        spacegroup=227,
        setting=2,
        cellpar=[8.08, 8.08, 8.08, 90, 90, 90],
        primitive_cell=True,
    ),
    "monoclinic": crystal(
        ["Zr", "O", "O"],
        [(0.276, 0.041, 0.208), (0.07, 0.332, 0.345), (0.442, 0.755, 0.479)],
        spacegroup=14,
        cellpar=[5.15, 5.21, 5.32, 90, 99.2, 90],
    ),
    "tungsten": bulk("W"),
    "tiny": Atoms("H", cell=[1.1, 1.1, 1.1], pbc=True),
    "heaviest": Atoms("OgTs", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4, 4, 4], pbc=True),
    "noble": Atoms(
        "ArOAr", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], [0.2, 0.5, 0]], cell=[5, 6, 7], pbc=True
    ),
    "an atom's own image near": Atoms(
        "Cu2", scaled_positions=[[0.02, 0.5, 0.5], [0.98, 0.5, 0.5]], cell=[6, 6, 6], pbc=True
    ),
}

seeds = st.integers(0, 10**6)


def described_anew(atoms, rng, noise):
    """Return the crystal moved, reordered, in other lattice vectors, left- or right-handed, atoms outside."""
    atoms = atoms.copy()
    if rng.integers(2):
        step = np.eye(3, dtype=int)
        i, j = rng.choice(3, size=2, replace=False)
        step[i, j] = rng.choice([-1, 1, 2])
        atoms.set_cell(step @ atoms.cell.array)
    if rng.integers(2):
        atoms.set_cell(atoms.cell.array[rng.permutation(3)] * rng.choice([-1, 1], size=3)[:, None])
    atoms.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
    atoms.positions += rng.normal(size=(len(atoms), 3)) * noise
    if rng.integers(2):
        atoms.positions += rng.normal(size=3)
    return atoms[rng.permutation(len(atoms))]


def apart(atoms, numbers, fractional, *, shift):
    """Return how far the atoms read are from those written, in the cell written; by whole if shifted."""
    if len(atoms) != len(numbers) or sorted(atoms.numbers) != sorted(numbers):
        return np.inf
    cell = atoms.cell.array
    expected = atoms.positions @ np.linalg.inv(cell) * np.sign(np.linalg.det(cell))  # reversed if left-handed
    numbers, fractional = np.asarray(numbers), np.asarray(fractional)
    moves = [np.zeros(3)]
    if shift:
        moves = [expected[0] - fractional[k] for k in np.flatnonzero(numbers == atoms.numbers[0])]
    least = np.inf
    for move in moves:
        delta = expected[:, None] - fractional - move
        delta = np.linalg.norm((delta - np.round(delta)) @ cell, axis=2)
        delta[atoms.numbers[:, None] != numbers] = np.inf
        if len(set(delta.argmin(1))) == len(atoms):
            least = min(least, delta.min(1).max())
    return least


def readings(path, kind):
    """Return numbers and fractional coordinates as four programs read the file."""
    from pymatgen.io.cif import CifParser
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = ase.io.read(path, format={"cif": "cif", "poscar": "vasp"}[kind])
        found = {"ase": (other.numbers, other.get_scaled_positions())}
        if kind == "cif":
            (structure,) = CifParser(path).parse_structures(primitive=False)
            sites = gemmi.read_small_structure(str(path)).get_all_unit_cell_sites()
            found["gemmi"] = ([s.element.atomic_number for s in sites], [s.fract.tolist() for s in sites])
        else:
            structure = Poscar.from_file(path).structure
        found["pymatgen"] = (structure.atomic_numbers, structure.frac_coords)
    own = read_dataset(path, property=None)
    assert own.structures is not None and len(own) == 1, own.skipped
    numbers = own.structures.atomic_numbers.numpy()
    found["whorl"] = (
        numbers,
        own.structures.positions.numpy() @ np.linalg.inv(own.structures.cells[0].numpy()),
    )
    return found


@pytest.mark.parametrize("name", CRYSTALS)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=seeds, noise=st.sampled_from([0.0, 0.0, 0.002]))
def test_crystals_in_cif_and_poscar(name, tmp_path, seed, noise):
    atoms = described_anew(CRYSTALS[name], np.random.default_rng(seed), noise)
    batch = from_ase(atoms)
    (tmp_path / "a.cif").write_text(cif_text(batch, symprec=0.01), encoding="utf-8")
    (tmp_path / "POSCAR").write_text(poscar_text(batch), encoding="utf-8")
    for program, (numbers, fractional) in readings(tmp_path / "a.cif", "cif").items():
        # The origin may have moved to that of the group's tables, the atoms by what makes them symmetric.
        assert apart(atoms, numbers, fractional, shift=True) < (0.04 if noise else 2e-3), program
    for program, (numbers, fractional) in readings(tmp_path / "POSCAR", "poscar").items():
        assert apart(atoms, numbers, fractional, shift=False) < 1e-8, program


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=seeds,
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    keys=st.dictionaries(
        st.sampled_from(
            ["id", "source", "energy", "forces", "pbc", "Lattice", "species", "pos", "a b", "read", "e"]
        ),
        st.one_of(st.integers(-5, 5), st.floats(-9, 9), st.text("ab \"'=\\é1", max_size=6), st.booleans()),
        max_size=4,
    ),
)
def test_anything_in_extxyz_and_the_store(tmp_path, seed, pbc, keys):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    cell = (
        rng.normal(size=(3, 3)) * rng.choice([0.3, 4.0]) if any(pbc) or rng.integers(2) else np.zeros((3, 3))
    )
    atoms = Atoms(rng.integers(1, 119, size=n), rng.normal(size=(n, 3)) * 9, cell=cell, pbc=pbc, info=keys)
    batch = from_ase(atoms)
    write_extxyz(
        batch,
        tmp_path / "a.extxyz",
        properties={"gap": torch.tensor([1 / 3], dtype=torch.float64)},
        ids=["name"],
    )
    found = ase.io.read(tmp_path / "a.extxyz", format="extxyz")
    assert found.info["gap"] == pytest.approx(1 / 3, abs=1e-15)
    save_dataset(Dataset(structures=batch, ids=("name",)), tmp_path / "a.safetensors")
    (stored,) = load_dataset(tmp_path / "a.safetensors").structures
    assert torch.equal(stored.positions, batch.positions) and torch.equal(stored.cells, batch.cells)
    assert np.array_equal(found.numbers, atoms.numbers) and np.array_equal(found.pbc, atoms.pbc)
    np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-7)
    np.testing.assert_allclose(found.cell.array, atoms.cell.array, atol=1e-10)


def test_atoms_that_nearly_obey_operations_do_not_multiply(tmp_path):
    """Operations found within 0.01 Å beside coordinates that do not obey them made 14 atoms of 6."""
    atoms = RUTILE.copy()
    atoms.positions += np.random.default_rng(0).normal(size=(6, 3)) * 0.001
    text = cif_text(from_ase(atoms), symprec=0.01)
    assert "P42/mnm" in text
    (tmp_path / "a.cif").write_text(text, encoding="utf-8")
    for numbers, _ in readings(tmp_path / "a.cif", "cif").values():
        assert sorted(numbers) == [8, 8, 8, 8, 22, 22]


def test_a_crystal_that_search_put_anywhere_keeps_its_space_group():
    atoms = RUTILE.copy()
    atoms.positions += [0.123, 0.456, 0.789]
    symmetric = exactly_symmetric(from_ase(atoms))
    assert symmetric is not None and symmetric.number == 136 and len(symmetric.rotations) == 16
    assert "_symmetry_Int_Tables_number   136" in cif_text(from_ase(atoms))


def test_supercells_without_operations_in_the_tables_are_written_in_p1(tmp_path):
    atoms = make_supercell(bulk("Cu"), np.diag([5, 1, 1]))
    text = cif_text(from_ase(atoms))
    assert "_symmetry_Int_Tables_number   1\n" in text
    (tmp_path / "a.cif").write_text(text, encoding="utf-8")
    assert {len(numbers) for numbers, _ in readings(tmp_path / "a.cif", "cif").values()} == {5}


@pytest.mark.parametrize("name", [n for n, atoms in CRYSTALS.items() if len(atoms) < 20])
def test_operations_outside_of_the_tables(name, tmp_path):
    """ASE inverts the operations of centrosymmetric groups at the origin, whatever is listed."""
    skewed = CRYSTALS[name].copy()
    skewed.set_cell(skewed.cell.array[[1, 2, 0]] * [[-1], [1], [1]])
    skewed.positions += [0.1, 0.2, 0.3]
    (tmp_path / "a.cif").write_text(cif_text(from_ase(skewed)), encoding="utf-8")
    for program, (numbers, fractional) in readings(tmp_path / "a.cif", "cif").items():
        assert apart(skewed, numbers, fractional, shift=True) < 2e-3, program


def test_a_third_and_formula_units_as_they_are():
    text = cif_text(from_ase(bulk("Mg")))
    assert "0.333333333333" in text and "_cell_formula_units_Z   2" in text and "'Mg1'" in text
    assert "_symmetry_space_group_name_H-M   'P 63/m m c'" in text


def test_left_handed_quartz_does_not_become_right_handed(tmp_path):
    atoms = CRYSTALS["quartz, right"].copy()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])  # the same crystal, its vectors left-handed
    (tmp_path / "a.cif").write_text(cif_text(from_ase(atoms)), encoding="utf-8")
    for numbers, fractional in readings(tmp_path / "a.cif", "cif").values():
        assert apart(atoms, numbers, fractional, shift=True) < 1e-3


def test_what_has_no_cell_or_no_element_is_refused():
    with pytest.raises(InputError, match="no volume"):
        cif_text(from_ase(Atoms("Pt", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True)))
    dummy = from_ase(Atoms("Pt", cell=[2, 2, 2], pbc=True))
    with pytest.raises(InputError, match="atomic number 0"):
        cif_text(dummy.replace(atomic_numbers=torch.tensor([0])))


@pytest.mark.parametrize("atoms", [molecule("H2O"), graphene(vacuum=4.0)], ids=["molecule", "slab"])
def test_clusters_and_slabs_in_extxyz(tmp_path, atoms):
    write_extxyz(from_ase(atoms), tmp_path / "a.extxyz")
    found = ase.io.read(tmp_path / "a.extxyz")
    assert np.array_equal(found.pbc, atoms.pbc) and np.array_equal(found.numbers, atoms.numbers)
    np.testing.assert_allclose(found.cell.array, atoms.cell.array)


def test_results_for_another_number_of_atoms_are_left_out(tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.64)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.zeros((8, 3)))
    write_extxyz(from_ase(atoms), tmp_path / "a.extxyz")
    written = ase.io.read(tmp_path / "a.extxyz")
    assert written.get_potential_energy() == -3.0
    assert "forces" not in written.calc.results
