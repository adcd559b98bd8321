import gzip
import warnings

import ase.io
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from hypothesis import given, settings

from whorl.datasets import read_dataset, read_features
from whorl.datasets.extxyz import split_frames
from whorl.errors import InputError
from whorl.structures import from_ase, to_ase, to_pymatgen


def frames(n=3):
    items = [molecule("H2O"), bulk("NaCl", "rocksalt", a=5.64), molecule("CO2")][:n]
    for index, atoms in enumerate(items):
        atoms.info.update(gap=float(index), name=f"m{index}")
    return items


def cif(atoms):
    return to_pymatgen(from_ase(atoms))[0].to(fmt="cif")


def crystal(symbol="Cu"):
    return bulk(symbol, "fcc", a=4.0, cubic=True)


# extended XYZ


@pytest.mark.parametrize(
    "name", ["set.extxyz", "set.xyz", "set.extxyz.gz", "set.extxyz.xz", "set.extxyz.bz2"]
)
def test_extxyz(tmp_path, name):
    ase.io.write(tmp_path / name, frames(), format="extxyz")
    seen = []
    dataset = read_dataset(tmp_path / name, property="gap", progress=lambda *done: seen.append(done))
    assert dataset.ids == (f"{name}@0", f"{name}@1", f"{name}@2")
    assert dataset.properties["gap"].tolist() == [0, 1, 2]
    assert dataset.properties["gap"].dtype == torch.float64
    assert dataset.structures.info[1]["name"] == "m1"
    assert not dataset.skipped
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert dataset.provenance["source"] == str(tmp_path / name)
    for before, after in zip(frames(), to_ase(dataset.structures), strict=True):
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-8)
        np.testing.assert_allclose(after.cell, before.cell)
        assert (after.pbc == before.pbc).all()


def test_structures_alone_and_plain_xyz(tmp_path):
    ase.io.write(tmp_path / "set.xyz", frames(), format="xyz")
    dataset = read_dataset(tmp_path / "set.xyz", property=None)
    assert len(dataset) == 3
    assert dataset.properties == {}


def test_results_are_properties_too(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-14.0, forces=np.zeros((3, 3)))
    ase.io.write(tmp_path / "set.extxyz", atoms)
    dataset = read_dataset(tmp_path / "set.extxyz", property="energy")
    assert dataset.properties["energy"].tolist() == [-14]
    assert to_ase(dataset.structures)[0].get_forces().shape == (3, 3)


def test_gaps_and_words_become_skipped_rows(tmp_path):
    items = [molecule("H2") for _ in range(6)]
    for atoms, value in zip(items, (1.0, None, np.nan, "high", np.inf, [1.0, 2.0]), strict=True):
        if value is not None:
            atoms.info["gap"] = value
    ase.io.write(tmp_path / "set.extxyz", items)
    dataset = read_dataset(tmp_path / "set.extxyz", property="gap")
    assert dataset.ids == ("set.extxyz@0",)
    assert [entry.reason for entry in dataset.skipped] == [
        "has no 'gap'",
        "its 'gap' is nan, expected a finite number",
        "its 'gap' is 'high', expected a number",
        "its 'gap' is inf, expected a finite number",
        "its 'gap' is '[1. 2.]', expected a number",
    ]
    assert dataset.skipped[0].source == f"{tmp_path / 'set.extxyz'} frame 1 (line 5)"


def test_a_missing_property_is_an_error_that_lists_what_there_is(tmp_path):
    ase.io.write(tmp_path / "set.extxyz", frames())
    with pytest.raises(
        InputError, match=r"no property 'gab' among its frames\. Did you mean 'gap'\?.*gap, name"
    ):
        read_dataset(tmp_path / "set.extxyz", property="gab")
    ase.io.write(tmp_path / "bare.extxyz", Atoms("H"))
    with pytest.raises(InputError, match=r"no property 'gap' among its frames\. There is none at all"):
        read_dataset(tmp_path / "bare.extxyz", property="gap")


GOOD = "2\ngap=1\nH 0 0 0\nH 0 0 1\n"


@pytest.mark.parametrize(
    "broken, reason",
    [
        ("3\ngap=1\nH 0 0 0\nH 0 0 1\n", "the frame announces 3 atoms, but has fewer"),
        ("1\ngap=1\nH 0 0 0\nH 0 0 1\n", "the frame announces 1 atoms, but has more"),
        ("two\ngap=1\nH 0 0 0\nH 0 0 1\n", "expected a number of atoms, got 'two'"),
        ("2\ngap=1\nH 0 0 0\nH 0 zero 1\n", "could not convert string to float: 'zero'"),
        ("2\ngap=1\nH 0 0 0\nQq 0 0 1\n", "'Qq' is neither a chemical element nor a known name"),
        ("2\ngap=1\nH 0 0 0\nH nan 0 1\n", "atom 1 is at (nan, 0, 1), which is not finite"),
        ("2\ngap=1\nH 0 0 0\nH 0 0 0.001\n", "atoms 0 (H) and 1 (H) are at one place"),
        ('1\nLattice="1 0 0 2 0 0 0 0 1" gap=1\nH 0 0 0\n', "has no volume"),
        ("1\ngap=1\nX 0 0 0\n", "atom 0 has atomic number 0, expected 1 to 118"),
    ],
)
@pytest.mark.parametrize("place", [1, 2])
def test_a_broken_frame_costs_only_itself(tmp_path, broken, reason, place):
    parts = [GOOD] * 4
    parts[place] = broken
    (tmp_path / "set.xyz").write_text("".join(parts))
    dataset = read_dataset(tmp_path / "set.xyz", property="gap")
    assert dataset.ids == tuple(f"set.xyz@{i}" for i in range(4) if i != place)
    (entry,) = dataset.skipped
    assert reason in entry.reason
    assert f"frame {place} (line {4 * place + 1})" in entry.source


def test_a_file_cut_short(tmp_path):
    (tmp_path / "set.xyz").write_text(GOOD + "5\ngap=1\nH 0 0 0\n")
    dataset = read_dataset(tmp_path / "set.xyz", property="gap")
    assert len(dataset) == 1
    assert dataset.skipped[0].reason == "the file ends before the 5 atoms that the frame announces"


def test_a_damaged_archive_keeps_what_can_be_read(tmp_path):
    whole = gzip.compress("".join(f"1\ngap={i}\nH 0 0 {i / 7}\n" for i in range(2000)).encode())
    (tmp_path / "set.xyz.gz").write_bytes(whole[: len(whole) // 2])
    dataset = read_dataset(tmp_path / "set.xyz.gz", property="gap")
    assert 100 < len(dataset) < 2000
    assert dataset.properties["gap"].tolist() == list(range(len(dataset)))
    assert "the file is damaged from here on" in dataset.skipped[-1].reason
    (tmp_path / "none.xyz.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset(tmp_path / "none.xyz.gz", property=None)


@pytest.mark.parametrize("text", ["", "hello\nworld\n"])
def test_what_is_no_xyz_file(tmp_path, text):
    (tmp_path / "set.xyz").write_text(text)
    with pytest.raises(InputError, match="not an XYZ file"):
        read_dataset(tmp_path / "set.xyz", property=None)


@given(st.lists(st.integers(0, 3), max_size=5), st.integers(0, 2))
def test_good_frames_are_split_exactly(counts, blank):
    lines = []
    for count in counts:
        lines += [f" {count}\n", "3\n", *["H 0 0 0\n"] * count]
    found = split_frames(lines + ["\n"] * blank)
    assert [stop - start - 2 for start, stop, _ in found] == counts
    assert all(wrong is None for *_, wrong in found)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["2\n", "0\n", "H 0 0 0\n", "gap=1\n", "\n", "x\n"]), max_size=12))
def test_splitting_any_lines_ends_and_loses_nothing(lines):
    found = split_frames(lines)
    covered = [index for start, stop, _ in found for index in range(start, stop)]
    assert len(covered) == len(set(covered))
    assert all(not lines[index].strip() for index in set(range(len(lines))) - set(covered))


# Tables


def table(n=3):
    return pd.DataFrame(
        {
            "material_id": [f"mp-{i}" for i in range(n)],
            "cif": [cif(crystal(symbol)) for symbol in ("Cu", "Ag", "Au", "Pt")[:n]],
            "gap": np.arange(float(n)),
        }
    )


@pytest.mark.parametrize("name", ["set.csv", "set.csv.gz", "set.parquet"])
def test_tables(tmp_path, name):
    write = table().to_parquet if name.endswith("parquet") else table().to_csv
    write(tmp_path / name)
    dataset = read_dataset(tmp_path / name, property="gap")
    assert dataset.ids == (f"{name}@0", f"{name}@1", f"{name}@2")
    assert dataset.properties["gap"].tolist() == [0, 1, 2]
    assert dataset.structures.info[2]["material_id"] == "mp-2"
    assert dataset.structures.atomic_numbers[::4].tolist() == [29, 47, 79]


def test_bad_rows_of_a_table(tmp_path):
    rows = table(4)
    half = {"Cu": 0.5, "Ni": 0.5}
    from pymatgen.core import Lattice, Structure

    rows["cif"] = [
        rows.cif[0],
        "nonsense",
        None,
        Structure(Lattice.cubic(3), [half], [[0, 0, 0]]).to(fmt="cif"),
    ]
    rows.loc[4] = ["mp-4", rows.cif[0], np.nan]
    rows.to_csv(tmp_path / "set.csv", index=False)
    dataset = read_dataset(tmp_path / "set.csv", property="gap")
    assert dataset.ids == ("set.csv@0",)
    found = {entry.source.removeprefix(f"{tmp_path}/"): entry.reason for entry in dataset.skipped}
    assert found["set.csv row 1"].startswith("no valid CIF")
    assert found["set.csv row 2"] == "its cif column is empty"
    assert "site 'Cu0' has an occupancy of 0.5" in found["set.csv row 3"]
    assert found["set.csv row 4"] == "its 'gap' is nan, expected a finite number"


def test_columns_that_are_missing(tmp_path):
    table().to_csv(tmp_path / "set.csv", index=False)
    with pytest.raises(InputError, match=r"no property 'Gap' among its columns.*gap, material_id"):
        read_dataset(tmp_path / "set.csv", property="Gap")
    table().rename(columns={"cif": "cifs"}).to_csv(tmp_path / "set.csv")
    with pytest.raises(InputError, match=r"has no column 'cif'.*Did you mean 'cifs'"):
        read_dataset(tmp_path / "set.csv", property="gap")


@pytest.mark.parametrize("name", ["set.csv", "set.csv.gz", "set.parquet"])
def test_damaged_tables(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if name == "set.csv" else b"\x00\x01")
    with pytest.raises(InputError, match=r"cannot be read as (CSV|Parquet)"):
        read_dataset(tmp_path / name, property="gap")


# Folders


def test_a_folder_of_cifs_with_its_table(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.cif", "b.cif", "deep/c.cif", "d.cif"):
        (tmp_path / name).write_text(cif(crystal()))
    (tmp_path / "bad.cif").write_text("data_x\nloop_\n_a\n_b\n1 2 3\n")
    (tmp_path / "properties.csv").write_text("file,gap\na,1\nb.cif,2\ndeep/c.cif,3\nbad,4\n")
    dataset = read_dataset(tmp_path, property="gap")
    assert dataset.ids == ("a.cif", "b.cif", "deep/c.cif")
    assert dataset.properties["gap"].tolist() == [1, 2, 3]
    found = {entry.source: entry.reason for entry in dataset.skipped}
    assert found == {
        str(tmp_path / "bad.cif"): "no valid CIF: line 2: a loop_ of 2 columns (_a, _b) has too "
        "many or too few values",
        str(tmp_path / "d.cif"): "has no row in properties.csv",
    }
    assert len(read_dataset(tmp_path, property=None)) == 4
    with pytest.raises(InputError, match=r"among the columns of properties.csv.*Choose from: gap"):
        read_dataset(tmp_path, property="energy")


def test_a_folder_as_cgcnn_has_it(tmp_path):
    (tmp_path / "001.cif").write_text(cif(crystal()))
    (tmp_path / "2.cif").write_text(cif(crystal("Ag")))
    (tmp_path / "id_prop.csv").write_text("001,0.5\n2,1.5\n")
    (tmp_path / "atom_notes.csv").write_text("a,b\n1,2\n")
    dataset = read_dataset(tmp_path, property="gap")
    assert dataset.properties["gap"].tolist() == [0.5, 1.5]


def test_folders_that_lack_something(tmp_path):
    with pytest.raises(InputError, match="holds no cif or poscar file"):
        read_dataset(tmp_path, property=None)
    (tmp_path / "1.cif").write_text(cif(crystal()))
    with pytest.raises(InputError, match="has no table with the property 'gap'"):
        read_dataset(tmp_path, property="gap")
    with pytest.raises(InputError, match="can hold cif or poscar files, got format csv"):
        read_dataset(tmp_path, property="gap", format="csv")
    for name in ("x.csv", "y.csv"):
        (tmp_path / name).write_text("file,gap\n1,2\n")
    with pytest.raises(InputError, match="has 2 tables"):
        read_dataset(tmp_path, property="gap")


def test_poscars(tmp_path):
    for name in ("POSCAR", "CONTCAR_2", "ag.vasp"):
        ase.io.write(tmp_path / name, crystal("Ag"), format="vasp")
    (tmp_path / "POSCAR_bad").write_text("Ag\n1.0\nno cell\n")
    (tmp_path / "properties.csv").write_text("file,gap\nPOSCAR,1\nCONTCAR_2,2\nag.vasp,3\nPOSCAR_bad,4\n")
    dataset = read_dataset(tmp_path, property="gap")
    assert dataset.ids == ("CONTCAR_2", "POSCAR", "ag.vasp")
    assert dataset.properties["gap"].tolist() == [2, 1, 3]
    assert [entry.source for entry in dataset.skipped] == [str(tmp_path / "POSCAR_bad")]
    assert len(read_dataset(tmp_path / "POSCAR", property=None)) == 1
    with pytest.raises(InputError, match="a single POSCAR file carries no property 'gap'"):
        read_dataset(tmp_path / "POSCAR", property="gap")


def test_one_cif_with_several_structures(tmp_path):
    (tmp_path / "two.cif").write_text(cif(crystal()) + cif(crystal("Ag")).replace("data_Ag", "data_second"))
    dataset = read_dataset(tmp_path / "two.cif", property=None)
    assert dataset.ids == ("two.cif@0", "two.cif@1")


def test_doubts_of_the_parser_are_kept(tmp_path):
    text = cif(crystal()).replace("_chemical_formula_sum   Cu4", "_chemical_formula_sum   'Cu4 H2'")
    (tmp_path / "a.cif").write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = read_dataset(tmp_path / "a.cif", property=None)
    assert not caught
    (doubt,) = dataset.structures.info[0]["cif_warnings"]
    assert doubt == "its formula is Cu4 H2, but its sites make Cu4"
    assert dataset.provenance["warnings"] == {doubt: 1}


# ASE databases


@pytest.mark.parametrize("name", ["set.db", "set.json", "set.unknown"])
def test_ase_databases(tmp_path, name):
    stored = tmp_path / ("set.db" if name == "set.unknown" else name)
    with connect(stored) as database:
        for index, atoms in enumerate(frames()):
            atoms.calc = SinglePointCalculator(atoms, energy=-index)
            database.write(atoms, gap=index / 2, label=f"l{index}", data={"list": [1, 2]})
    stored = stored.rename(tmp_path / name)
    dataset = read_dataset(stored, property="gap")
    assert dataset.ids == (f"{name}@1", f"{name}@2", f"{name}@3")
    assert dataset.properties["gap"].tolist() == [0, 0.5, 1]
    assert dataset.structures.info[1]["label"] == "l1"
    assert dataset.structures.info[1]["data"] == {"list": [1, 2]}
    assert read_dataset(stored, property="energy").properties["energy"].tolist() == [0, -1, -2]
    with pytest.raises(InputError, match=r"among its keys and results\. Did you mean 'energy'"):
        read_dataset(stored, property="enrgy")


@pytest.mark.parametrize("name", ["set.db", "set.json"])
def test_what_is_no_database(tmp_path, name):
    (tmp_path / name).write_text("hello")
    with pytest.raises(InputError, match="cannot be read as an ASE database"):
        read_dataset(tmp_path / name, property=None)


# Formats


def test_formats_are_told_by_contents(tmp_path):
    (tmp_path / "a.dat").write_text(cif(crystal()))
    (tmp_path / "b.dat").write_text(GOOD)
    table().to_parquet(tmp_path / "c.dat")
    table().to_csv(tmp_path / "d.dat")
    for name, count in (("a", 1), ("b", 1), ("c", 3)):
        assert len(read_dataset(tmp_path / f"{name}.dat", property=None)) == count
    assert len(read_dataset(tmp_path / "d.dat", property=None, format="csv")) == 3
    with pytest.raises(InputError, match=r"cannot be told by its name or contents.*one of ase-db, cif"):
        read_dataset(tmp_path / "d.dat", property=None)


def test_sources_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        read_dataset(tmp_path / "absent.csv", property="gap")
    with pytest.raises(InputError, match=r"unknown format 'extxzy'. Did you mean 'extxyz'"):
        read_dataset(tmp_path, property="gap", format="extxzy")
    for name, remedy in (("f.npz", "read_features"), ("f.safetensors", "load_dataset or load_features")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=remedy):
            read_dataset(tmp_path / name, property="gap")


# Features


def test_features(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.arange(6, dtype=np.float32).reshape(3, 2), gap=np.arange(3))
    rows, gap = read_features(tmp_path / "f.npz", property="gap")
    assert rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert gap.tolist() == [0, 1, 2]
    assert rows.dtype == gap.dtype == torch.float64


def test_feature_files_with_mistakes(tmp_path):
    path = tmp_path / "f.npz"
    with pytest.raises(InputError, match="no such file"):
        read_features(path, property="gap")
    np.savez(path, features=np.zeros((3, 2)), gap=np.zeros(2), words=np.array(["a", "b", "c"]))
    with pytest.raises(InputError, match=r"has no array 'gab'. Did you mean 'gap'"):
        read_features(path, property="gab")
    with pytest.raises(InputError, match="has no array 'R'"):
        read_features(path, property="gap", features="R")
    with pytest.raises(InputError, match=r"'features' has shape \(3, 2\) and 'gap' \(2,\)"):
        read_features(path, property="gap")
    with pytest.raises(InputError, match="plain numbers"):
        read_features(path, property="words")
    np.savez(path, features=np.array([[1.0], [np.nan], [np.inf]]), gap=np.zeros(3))
    with pytest.raises(InputError, match=r"2 rows are not finite numbers throughout .first: row 1"):
        read_features(path, property="gap")
    np.savez(path, features=np.array([{}, 1], dtype=object), gap=np.zeros(2))
    with pytest.raises(InputError, match="plain numbers"):
        read_features(path, property="gap")
    for content in (b"", b"hello", path.read_bytes()[:50]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as .npz"):
            read_features(path, property="gap")


# Real files


def test_real_cifs(shared_data):
    bad = read_dataset(shared_data / "cifs_bad", property=None)
    assert len(bad) == 0
    assert len(bad.skipped) == 17
    assert all("a loop_ of 2 columns" in entry.reason for entry in bad.skipped)
    files = sorted((shared_data / "cifs_good").iterdir())[::20]
    read = [read_dataset(path, property=None) for path in files]
    assert sum(map(len, read)) == 19
    assert [entry.reason for dataset in read for entry in dataset.skipped] == [
        "site 'O6': its type 'OH2' is no chemical element"
    ]


@pytest.mark.parametrize(
    "name, property", [("perov_5_val", "heat_all"), ("carbon_24_val", "energy_per_atom")]
)
def test_real_tables(shared_data, tmp_path, name, property):
    rows = pd.read_csv(shared_data / f"{name}.csv.gz", nrows=30)
    rows.to_csv(tmp_path / "head.csv.gz", index=False)
    dataset = read_dataset(tmp_path / "head.csv.gz", property=property)
    assert not dataset.skipped
    assert dataset.properties[property].tolist() == rows[property].tolist()
    assert [info["material_id"] for info in dataset.structures.info] == rows.material_id.tolist()


def test_real_extxyz(shared_data, tmp_path):
    with gzip.open(shared_data / "crystals_pcd20k.extxyz.gz", "rt") as file:
        head = [next(file) for _ in range(3000)]
    (tmp_path / "head.extxyz").write_text("".join(head))
    dataset = read_dataset(tmp_path / "head.extxyz", property="spacegroup_number")
    assert len(dataset) > 100
    assert [entry.reason for entry in dataset.skipped if "file ends" not in entry.reason] == []
    assert dataset.properties["spacegroup_number"][:3].tolist() == [189, 229, 14]
    assert dataset.structures.info[0]["source_id"] == "Ag2Ga-1631468"


def test_real_features(shared_data):
    features, energy = read_features(shared_data / "pt10_dft" / "fps300.npz", property="formation_energy")
    assert features.shape == (300, 380)
    assert energy.shape == (300,)
