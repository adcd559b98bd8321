"""Hulls from files: provenance, schemes, and what cannot be a hull."""

import gzip
import hashlib
import json
import lzma
import sys
import types
from importlib.resources import files

import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Composition

from whorl.errors import InputError, MissingExtraError, UsageError
from whorl.evaluation.hull import read_hull, reading
from whorl.structures import from_ase

TABLE = b"formula,target\nNa1,0.0\nCl2,0.0\nNa4Cl4,-2.0\nNa1Cl1,-1.9\nFe4O6,-1.6\nO2,0.0\n"


@pytest.fixture
def small_mp2019(monkeypatch):
    monkeypatch.setattr(reading, "MP2019_SHA256", hashlib.sha256(TABLE).hexdigest())


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "pack"), [("csv", bytes), ("csv.gz", gzip.compress), ("csv.xz", lzma.compress)]
)
def test_the_table_is_read_packed_or_not(tmp_path, small_mp2019, suffix, pack):
    path = written(tmp_path / f"table.{suffix}", pack(TABLE))
    hull = read_hull(f"mp2019={path}")
    assert hull.scheme == "mp-legacy" and hull.date == "2019-04"
    assert hull.sha256 == hashlib.sha256(TABLE).hexdigest()
    assert hull.summary()["entries"] == len(hull.entries) and hull.summary()["pymatgen"]


def test_formation_energies_are_brought_to_the_scheme_of_the_structures(tmp_path, small_mp2019):
    """The raw energy of NaCl is kept, and MP2020's correction of Cl added; legacy's fitted Cl2 is gone."""
    hull = read_hull(f"mp2019={written(tmp_path / 't.csv', TABLE)}")
    elements = {"Na": -1.3225, "Cl": -1.8487}  # PBE
    raw = 2 * -2.0 + elements["Na"] + -1.25385097674
    distance = hull.evaluate(from_ase([bulk("NaCl", "rocksalt", a=5.69)]), [raw - 0.614], "mp2020")[0]
    assert distance.energy_above_hull == pytest.approx(0.0, abs=2e-3)
    assert distance.formation_energy == pytest.approx((raw - 0.614 - sum(elements.values())) / 2, abs=2e-3)


def test_another_table_is_refused_with_its_checksum(tmp_path):
    path = written(tmp_path / "short.csv", TABLE)
    with pytest.raises(InputError, match="own:mp-legacy=FILE") as error:
        read_hull(f"mp2019={path}")
    assert hashlib.sha256(TABLE).hexdigest() in str(error.value) and reading.MP2019_SHA256 in str(error.value)


def test_a_part_of_the_table_is_one_of_your_own(tmp_path, small_mp2019):
    path = written(tmp_path / "short.csv", TABLE)
    whole = read_hull(f"mp2019={path}")
    assert "a part of mp2019" in read_hull(f"own={path}").source
    assert read_hull(f"own={path}").entries == read_hull(f"own:mp-legacy={path}").entries
    hull = read_hull(f"own:mp-legacy={path}")
    assert [e.energy for e in hull.entries] == [e.energy for e in whole.entries]
    assert hull.scheme == whole.scheme == "mp-legacy"


def test_the_real_table(shared_data):
    path = shared_data / "hull" / "mp2019_formation_energies.csv.xz"
    if not path.exists():
        pytest.skip("needs the table of formation energies")
    hull = read_hull(f"mp2019={path}")
    assert len(hull.entries) == 132_752 + 84
    # The same materials as pymatgen computed them, without any correction.
    file = files("pymatgen.analysis.compatibility") / "calc_compounds.json.gz"
    computed = json.loads(gzip.decompress(file.read_bytes()))
    for atoms in (
        bulk("MgO", "rocksalt", a=4.25),
        bulk("KCl", "rocksalt", a=6.38),
        bulk("AlN", "wurtzite", a=3.1),
    ):
        entry = computed[Composition(atoms.get_chemical_formula()).reduced_formula]
        energy = entry["energy"] / sum(entry["composition"].values()) * len(atoms)
        distance = hull.evaluate(from_ase([atoms]), [energy], "pbe+u")[0]
        assert distance.energy_above_hull == pytest.approx(0.0, abs=0.01)
    assert (
        "no phase of He"
        in hull.evaluate(from_ase([Atoms("He", cell=[4] * 3, pbc=True)]), [0.0], "mp2020")[0].reason
    )


OWN = "formula,energy_per_atom,scheme,name\nNa,-1.3,mp2020,a\nCl2,-1.85,mp2020,b\nNaCl,-3.6,mp2020,c\n"


def test_entries_of_your_own(tmp_path):
    path = written(tmp_path / "own.csv", OWN)
    for spec in (f"own={path}", str(path)):
        hull = read_hull(spec)
        assert [(e.formula, e.energy, e.name) for e in hull.entries] == [
            ("Na", -1.3, "a"),
            ("Cl2", -1.85, "b"),
            ("NaCl", -3.6, "c"),
        ]
        assert hull.scheme == "mp2020" and hull.source == "own.csv"


def test_total_energies_are_those_of_the_formula_as_written(tmp_path):
    path = written(tmp_path / "own.csv", "formula,energy\nNa4Cl4,-28.8\nCa(OH)2,-25\n")
    assert [e.energy for e in read_hull(f"own:pbe+u={path}").entries] == pytest.approx([-3.6, -5.0])


def test_json_lists_and_entries_of_pymatgen(tmp_path):
    from pymatgen.core.entries import ComputedEntry

    rows = [{"formula": "Na", "energy_per_atom": -1.3}, {"formula": "NaCl", "energy": -7.2}]
    path = written(tmp_path / "a.json", json.dumps({"scheme": "r2scan", "entries": rows}))
    hull = read_hull(f"own={path}")
    assert hull.scheme == "r2scan" and [e.energy for e in hull.entries] == pytest.approx([-1.3, -3.6])
    entry = ComputedEntry(Composition("Na2Cl2"), -13.0, correction=-1.2, entry_id="mp-1")
    path = written(tmp_path / "b.json", json.dumps([entry.as_dict()]))
    got = read_hull(f"own:mp2020={path}").entries[0]
    assert got.energy == pytest.approx(entry.energy_per_atom) and got.name == "mp-1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("formula,energy,scheme\n", "no entries"),
        ("a,b\n1,2\n", "expected 'formula'"),
        ("formula,energy,scheme\nNaCl,nan,mp2020\n", "line 2: got energy 'nan'"),
        ("formula,energy,scheme\nNa,-1,mp2020\nNaCl,,mp2020\n", "line 3: got no energy"),
        ("formula,energy,scheme\nXy2,-1,mp2020\n", "expected a chemical formula"),
        ("formula,energy,scheme\n,-1,mp2020\n", "expected a chemical formula"),
        ("formula,energy\nNaCl,-1\n", "no energy scheme"),
        ("formula,energy,scheme\nNaCl,-1,mp2021\n", "Did you mean 'mp2020'"),
        ("formula,energy,scheme\nNa,-1,mp2020\nNaCl,-1,emt\n", "schemes emt, mp2020"),
        ("formula,formation_energy,scheme\nNaCl,-1,r2scan\n", "expected total energies"),
        (b"\xff\xfe\x00", "no CSV"),
    ],
)
def test_files_without_meaning_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_hull(f"own={written(tmp_path / 'own.csv', content)}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv.gz", b"no gzip", "unpacked"),
        ("a.csv.xz", lzma.compress(TABLE)[:-9], "unpacked"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[1]", "a list of entries"),
        ("a.json", "[]", "no entries"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read_hull(f"own:mp2020={written(tmp_path / name, content)}")


def test_what_is_no_hull_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="mp2019=FILE"):
        read_hull("mp2020=x.csv")
    with pytest.raises(InputError, match="no such file"):
        read_hull(f"mp2019={tmp_path / 'absent.csv'}")
    with pytest.raises(InputError, match="unknown energy scheme 'pbeu'"):
        read_hull(f"own:pbeu={written(tmp_path / 'o.csv', OWN)}")


# The Materials Project


def test_the_materials_project_needs_its_client_and_a_key(monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(InputError, match="MP_API_KEY"):
        read_hull("materials_project", systems=[{"Na", "Cl"}])
    with pytest.raises(InputError, match="no elements"):
        read_hull("materials_project")
    monkeypatch.setenv("MP_API_KEY", "x")
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(MissingExtraError, match="mp-api"):
        read_hull("materials_project", systems=[{"Na", "Cl"}])


def test_entries_of_the_materials_project(monkeypatch):
    from pymatgen.core.entries import ComputedEntry

    asked = []

    class MPRester:
        def __init__(self, key):
            assert key == "x"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def get_entries_in_chemsys(self, system, additional_criteria):
            asked.append((system, additional_criteria))
            return [ComputedEntry(Composition("Na2Cl2"), -13.0, correction=-1.2, entry_id="mp-1")]

    monkeypatch.setenv("MP_API_KEY", "x")
    monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", types.SimpleNamespace(MPRester=MPRester))
    hull = read_hull("materials_project", systems=[{"Na", "Cl"}, {"Cl", "Na"}])
    assert asked == [("Cl-Na", {"thermo_types": ["GGA_GGA+U"]})]  # r2SCAN energies do not come in
    assert hull.scheme == "mp2020" and [e.energy for e in hull.entries] == pytest.approx([-14.2 / 4])


def test_a_scheme_other_than_that_of_the_file_is_refused(tmp_path):
    path = written(tmp_path / "own.csv", "formula,energy_per_atom,scheme\nCu,-0.007,emt\nAu,0.0,emt\n")
    assert read_hull(f"own:emt={path}").scheme == "emt"
    with pytest.raises(InputError, match=r"line 2: got the energy scheme emt .*expected pbe.*own:emt="):
        read_hull(f"own:pbe={path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own=", "got 'own=', without the name of a file"),
        ("own:pbe=", "without the name of a file"),
        ("mp2019=", "without the name of a file"),
        ("mp2019", "expected one of potential, .*Did you mean mp2019=FILE"),
        ("potental", "expected one of potential, .*Did you mean potential"),
        ("mp2018=table.csv", "Did you mean mp2019=FILE"),
        ("own", "Did you mean own=FILE or own:SCHEME=FILE"),
        ("", "expected one of potential"),
    ],
)
def test_another_spec_is_answered_by_those_that_there_are(spec, message):
    with pytest.raises(UsageError, match=message):
        read_hull(spec)
