import bz2
import decimal
import gzip
import lzma
import sqlite3
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
from ase.constraints import FixSymmetry
from ase.db import connect
from hypothesis import given, settings

from whorl.datasets import (
    entries,
    load_dataset,
    read_dataset,
    read_features,
    save_dataset,
    tables,
    write_extxyz,
)
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


def one_frame(comment, columns="Cu 0 0 0\nO 0 0 1.9\n", lattice='Lattice="5 0 0 0 5 0 0 0 5"'):
    return f"2\n{lattice} {comment}\n{columns}"


def read_frames(tmp_path, text, property="energy"):
    (tmp_path / "set.extxyz").write_text(text)
    return read_dataset(tmp_path / "set.extxyz", property=property)


@pytest.mark.parametrize(
    "stress",
    [
        'stress="1 2 3 4 5 6"',
        "stress=nan",
        'stress="nan nan nan nan nan nan"',
        'stress="nan 0 0 0 nan 0 0 0 nan"',
        'stress="1 2 3"',
        "stress=none",
        "stress=",
        'stress = "1 2 3 4 5 6"',
        'virial="1 2 3 4 5 6"',
        "dipole=unknown",
        'dipole="0 0 1 1"',
        "magmom=?",
        "free_energy=None",
        'meta="_JSON {broken"',
        "stress=[1, 2, 3, 4, 5, 6] {odd} note='a b'",
    ],
)
def test_a_result_that_was_not_asked_for_costs_no_frame(tmp_path, stress):
    dataset = read_frames(tmp_path, one_frame(f"{stress} energy=-1.5 name=x"))
    assert dataset.properties["energy"].tolist() == [-1.5]
    assert dataset.structures.info[0]["name"] == "x"
    save_dataset(dataset, tmp_path / "o.safetensors")
    atoms = to_ase(load_dataset(tmp_path / "o.safetensors").structures)[0]
    assert atoms.get_potential_energy() == -1.5
    write_extxyz(dataset.structures, tmp_path / "again.extxyz", properties=dataset.properties)
    again = read_dataset(tmp_path / "again.extxyz", property="energy")
    assert again.properties["energy"].tolist() == [-1.5]


def test_a_stress_of_six_numbers_is_kept_in_voigts_order(tmp_path):
    dataset = read_frames(tmp_path, one_frame('energy=-1.5 stress="1 2 3 4 5 6"'))
    assert to_ase(dataset.structures)[0].get_stress().tolist() == [1, 2, 3, 4, 5, 6]
    assert not dataset.doubts


def test_what_cannot_be_parsed_stays_text_and_is_doubted(tmp_path):
    dataset = read_frames(tmp_path, one_frame('energy=-1.5 meta="_JSON {broken"'))
    assert dataset.structures.info[0]["meta"] == "_JSON {broken"
    ((_, doubt),) = dataset.doubts
    assert "'meta' was kept as text" in doubt


def test_a_result_that_was_asked_for_must_be_a_number(tmp_path):
    dataset = read_frames(tmp_path, one_frame("energy=none") + one_frame("energy=1"))
    assert dataset.properties["energy"].tolist() == [1]
    assert dataset.skipped[0].reason == "its 'energy' is 'none', expected a number"


def test_a_bare_word_is_no_energy(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\nenergy is -1.5\nCu 0 0 0\n1\nenergy=-2\nCu 0 0 0\n")
    data = read_dataset(path, property="energy")
    assert data.properties["energy"].tolist() == [-2.0]
    assert [skipped.reason for skipped in data.skipped] == ["its 'energy' is 'T', expected a number"]


@pytest.mark.parametrize("properties", ["species:S:1:pos:R:3", "pos:R:3:species:S:1", None])
def test_large_letters_that_may_be_a_group_are_doubted(tmp_path, properties):
    path = tmp_path / "a.extxyz"
    rows = [("CO", "0 0 0"), ("FE", "2 2 2")]
    lines = [
        f"{where} {symbol}" if (properties or "")[:3] == "pos" else f"{symbol} {where}"
        for symbol, where in rows
    ]
    path.write_text("\n".join(["2", f"Properties={properties}" if properties else "", *lines, ""]))
    data = read_dataset(path, property=None)
    assert data.structures.atomic_numbers.tolist() == [27, 26]
    assert list(data.provenance["warnings"]) == ["its 'CO' was read as Co and not as a group of atoms"]


@pytest.mark.parametrize("name", ["numbers", "Z"])
def test_species_go_before_a_column_of_numbers(tmp_path, name):
    path = tmp_path / "a.extxyz"
    path.write_text(f"2\nProperties=species:S:1:pos:R:3:{name}:I:1\nCu 0 0 0 8\nO 2 2 2 8\n")
    assert read_dataset(path, property=None).structures.atomic_numbers.tolist() == [29, 8]


def test_species_that_are_numbers_are_refused_in_words(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text("1\nProperties=species:I:1:pos:R:3\n29 0 0 0\n")
    (skipped,) = read_dataset(path, property=None).skipped
    assert "call them Z" in skipped.reason


def test_a_cell_under_another_name_is_doubted(tmp_path):
    dataset = read_frames(tmp_path, one_frame("energy=1", lattice='lattice="5 0 0 0 5 0 0 0 5"'))
    assert "no Lattice" in dataset.doubts[0][1]


@pytest.mark.parametrize(
    "properties, reason",
    [
        ("species:S:1:pos:R:3:x:R:1000000000", "announce 1000000004 columns, but atom 0 has 4"),
        ("species:S:1:pos:R:3:forces:R:3", "announce 7 columns, but atom 0 has 4"),
        ("species:S:1:pos:R:" + "9" * 5000, "expected such as species:S:1:pos:R:3"),
        ("species:S:1:x:R:3", "name no positions"),
        ("x:S:1:pos:R:3", "name no elements"),
    ],
)
def test_columns_that_the_atoms_lack(tmp_path, properties, reason):
    dataset = read_frames(tmp_path, one_frame(f"Properties={properties} energy=1") + one_frame("energy=2"))
    assert dataset.properties["energy"].tolist() == [2]
    assert reason in dataset.skipped[0].reason
    assert len(dataset.skipped[0].reason) < 300


def test_results_of_atoms_that_are_no_numbers_cost_no_frame(tmp_path):
    text = one_frame("Properties=species:S:1:pos:R:3:magmoms:S:1 energy=1", "Cu 0 0 0 up\nO 0 0 1.9 down\n")
    dataset = read_frames(tmp_path, text)
    assert to_ase(dataset.structures)[0].arrays["magmoms_"].tolist() == ["up", "down"]


@pytest.mark.parametrize(
    "broken",
    [
        "9" * 5000 + "\nenergy=1\nCu 0 0 0\n",
        "1\nenergy=" + "9" * 5000 + "\nCu 0 0 0\n",
        "1\nenergy=" + "x" * 5000 + "\nCu 0 0 0\n",
        "1\nenergy=1\nCu 0 0 " + "9" * 5000 + "\n",
        "1\nenergy=1\n" + "Q" * 5000 + " 0 0 0\n",
        "1\nProperties=species:S:1:pos:R:3:n:I:1 energy=1\nCu 0 0 0 " + "9" * 5000 + "\n",
        "1\nLattice=" + "9" * 5000 + " energy=1\nCu 0 0 0\n",
        "1\nenergy=1 " + "a" * 4_100_000 + "\nCu 0 0 0\n",
    ],
    ids=["count", "digits", "word", "position", "element", "integer", "lattice", "line"],
)
def test_long_values_cost_a_frame_and_a_short_message(tmp_path, broken):
    dataset = read_frames(tmp_path, one_frame("energy=1") + broken + one_frame("energy=2"))
    assert dataset.properties["energy"].tolist() == [1, 2]
    (entry,) = dataset.skipped
    assert len(entry.reason) < 300


def test_names_that_whorl_needs_itself_are_free_for_the_user(tmp_path):
    dataset = read_frames(tmp_path, one_frame('_whorl=mine cif_warnings="a b" energy=1'))
    assert dataset.structures.info[0]["_whorl_"] == "mine"
    assert not dataset.doubts
    save_dataset(dataset, tmp_path / "o.safetensors")
    assert to_ase(load_dataset(tmp_path / "o.safetensors").structures)[0].info["cif_warnings_"] == "a b"


def test_the_users_own_keys_survive_in_what_is_written(tmp_path):
    own = {"id": "mp-1", "source": "ICSD", "property": "hard", "read": "yes", "skipped": 7, "seed": 3}
    text = one_frame(" ".join(f"{key}={value}" for key, value in own.items()) + " e=1.5")
    (tmp_path / "p0.extxyz").write_text(text)
    for step in range(3):  # what was written is read and written again
        dataset = read_dataset(tmp_path / f"p{step}.extxyz", property="e")
        write_extxyz(
            dataset.structures,
            tmp_path / f"p{step + 1}.extxyz",
            properties=dataset.properties,
            provenance=dataset.provenance,
            ids=dataset.ids,
        )
        info = ase.io.read(tmp_path / f"p{step + 1}.extxyz").info
        assert {key: info[key] for key in own} == own
        assert info["whorl_id"] == f"p{step}.extxyz@0"
        assert info["e"] == 1.5
        assert not [key for key in info if key.startswith("whorl_whorl")]


def test_whorls_own_keys_are_written_anew(tmp_path):
    (tmp_path / "p0.extxyz").write_text(one_frame("e=1.5"))
    for step in range(2):
        dataset = read_dataset(tmp_path / f"p{step}.extxyz", property="e")
        path = tmp_path / f"p{step + 1}.extxyz"
        write_extxyz(dataset.structures, path, provenance=dataset.provenance, ids=dataset.ids)
        info = ase.io.read(path).info
        assert info["id"] == f"p{step}.extxyz@0"
        assert "whorl_id" not in info


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_an_encoding(tmp_path, encoding):
    (tmp_path / "set.xyz").write_text(GOOD.replace("gap=1", "gap=1 name=µ"), encoding=encoding)
    assert read_dataset(tmp_path / "set.xyz", property="gap").structures.info[0]["name"] == "µ"


# Bombs


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(entries, "_ALWAYS_UNPACKED", 1 << 20)


def test_a_small_file_of_millions_of_frames_is_refused(tmp_path, small_limit):
    (tmp_path / "set.extxyz.gz").write_bytes(gzip.compress(b"1\n\nH 0 0 0\n" * 500_000))
    with pytest.raises(InputError, match="unpacks to more than 100 times its"):
        read_dataset(tmp_path / "set.extxyz.gz", property=None)


@pytest.mark.parametrize("pack, suffix", [(gzip, "gz"), (bz2, "bz2"), (lzma, "xz")])
@pytest.mark.parametrize("name", ["set.csv", "set.xyz", "set.json"])
def test_bombs_are_refused(tmp_path, small_limit, pack, suffix, name):
    (tmp_path / f"{name}.{suffix}").write_bytes(pack.compress(b"1" * 10_000_000))
    with pytest.raises(InputError, match="unpacks to more than 100 times its"):
        read_dataset(tmp_path / f"{name}.{suffix}", property=None)


@pytest.mark.parametrize("name", ["s.cif.gz", "POSCAR.gz"])
def test_a_bomb_in_a_folder_costs_no_other_file(tmp_path, small_limit, name):
    (tmp_path / "good.cif").write_text(cif(crystal()))
    (tmp_path / name).write_bytes(gzip.compress(b" " * 10_000_000))
    dataset = read_dataset(tmp_path, property=None)
    assert dataset.ids == ("good.cif",)
    assert "unpacks to more than" in dataset.skipped[0].reason


def test_arrays_and_tables_that_unpack_to_too_much_are_refused(tmp_path, small_limit):
    np.savez_compressed(tmp_path / "f.npz", features=np.zeros((1000, 1000)), gap=np.zeros(1000))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_features(tmp_path / "f.npz", property="gap")
    pd.DataFrame({"cif": [""] * 1_000_000, "gap": 0.0}).to_parquet(tmp_path / "f.parquet")
    with pytest.raises(InputError, match="unpacks to more than"):
        read_dataset(tmp_path / "f.parquet", property="gap")


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
    assert found["set.csv row 4"] == "has no 'gap'"


def test_columns_that_are_missing(tmp_path):
    table().to_csv(tmp_path / "set.csv", index=False)
    with pytest.raises(InputError, match=r"no property 'Gap' among its columns.*gap, material_id"):
        read_dataset(tmp_path / "set.csv", property="Gap")
    table().rename(columns={"cif": "text"}).to_csv(tmp_path / "set.csv")
    assert read_dataset(tmp_path / "set.csv", property="gap").properties["gap"].tolist() == [0, 1, 2]
    table().rename(columns={"cif": "cifs"}).assign(cifs="x").to_csv(tmp_path / "set.csv")
    with pytest.raises(InputError, match=r"has no column 'cif'.*Did you mean 'cifs'"):
        read_dataset(tmp_path / "set.csv", property="gap")


@pytest.mark.parametrize("name", ["set.csv", "set.csv.gz", "set.parquet"])
def test_damaged_tables(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if name == "set.csv" else b"\x00\x01")
    with pytest.raises(InputError, match=r"cannot be read as (CSV|Parquet)"):
        read_dataset(tmp_path / name, property="gap")


@pytest.mark.parametrize(
    "column",
    [
        [["Cu", "O"], ["Cu"], []],
        [np.arange(3.0), np.arange(2.0), None],
        [[["a"], ["b"]], [["c"], ["d"]], None],
        [{"a": 1}, {"a": None}, None],
        [pd.Timestamp("2020-01-01"), pd.Timestamp("2021-01-01"), None],
        [decimal.Decimal("1.5"), decimal.Decimal("2.5"), None],
        [b"x", b"y", None],
        [True, False, None],
        [2**63, 2**64 - 1, 0],
    ],
    ids=["lists", "arrays", "nested", "dictionaries", "dates", "decimals", "bytes", "truth", "large"],
)
def test_unusual_columns_of_parquet_cost_nothing(tmp_path, column):
    rows = table()
    rows["odd"] = column
    rows.to_parquet(tmp_path / "set.parquet")
    dataset = read_dataset(tmp_path / "set.parquet", property="gap")
    assert dataset.properties["gap"].tolist() == [0, 1, 2]
    save_dataset(dataset, tmp_path / "o.safetensors")
    stored = load_dataset(tmp_path / "o.safetensors")
    if isinstance(column[0], list):
        assert stored.structures.info[0]["odd"] == column[0]


def test_a_column_with_the_name_of_whorls_own_key(tmp_path):
    rows = table()
    rows["_whorl"] = [1, 2, 3]
    rows["cif_warnings"] = ["a", "b", "c"]
    rows.to_csv(tmp_path / "set.csv", index=False)
    dataset = read_dataset(tmp_path / "set.csv", property="gap")
    assert dataset.structures.info[0]["_whorl_"] == 1
    assert len(to_ase(dataset.structures)) == 3


def test_values_of_a_table_keep_their_meaning(tmp_path):
    rows = table(4)
    rows["number"] = [1, 2, 3, 4]
    rows["name"] = ["001", "1e5", "None", "NaN"]
    rows["some"] = [1.5, None, "NA", -2]
    rows["flag"] = [True, False, None, True]
    rows["digits"] = ["9" * 5000, "1", "2", "3"]
    rows.to_csv(tmp_path / "set.csv", index=False)
    dataset = read_dataset(tmp_path / "set.csv", property="number")
    infos = dataset.structures.info
    assert [info["name"] for info in infos] == ["001", "1e5", "None", "NaN"]
    assert [info.get("some") for info in infos] == [1.5, None, None, -2]
    assert [info.get("flag") for info in infos] == [True, False, None, True]
    save_dataset(dataset, tmp_path / "o.safetensors")
    digits = read_dataset(tmp_path / "set.csv", property="digits")
    assert len(digits) == 3
    assert len(digits.skipped[0].reason) < 100


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_of_a_csv_are_exact(value):
    assert tables._typed([repr(value), "1"])[0] == value


@pytest.mark.parametrize(
    "line, reason",
    [
        ("x,y,z,1,2,3\n", "has 6 values, expected 3"),
        ('"never closed,1,x\n', "opens a quote that is never closed"),
        ('"a"b,1,x\n', "expected after"),
    ],
)
def test_a_broken_line_of_a_csv_costs_no_other(tmp_path, line, reason):
    text = "gap,name,cif\n" + "".join(f'{i},m{i},"{cif(crystal())}"\n' for i in range(2))
    (tmp_path / "set.csv").write_text(text + line + f'2,m2,"{cif(crystal())}"\n')
    dataset = read_dataset(tmp_path / "set.csv", property="gap")
    assert dataset.properties["gap"].tolist()[:2] == [0, 1]
    assert reason in str(dataset.skipped)
    if "closed" not in reason:
        assert dataset.properties["gap"].tolist() == [0, 1, 2]


def test_a_damaged_csv_archive_keeps_what_can_be_read(tmp_path):
    rows = pd.concat([table()] * 30)
    rows["noise"] = np.random.default_rng(0).integers(0, 2**62, len(rows))
    whole = gzip.compress(rows.to_csv(index=False).encode())
    (tmp_path / "set.csv.gz").write_bytes(whole[: len(whole) // 2])
    dataset = read_dataset(tmp_path / "set.csv.gz", property="gap")
    assert 3 < len(dataset) < 90
    assert "the file is damaged from line" in dataset.skipped[-1].reason


def test_several_columns_of_structures(tmp_path):
    rows = table().rename(columns={"cif": "relaxed"}).assign(initial=table().cif)
    rows.to_csv(tmp_path / "set.csv", index=False)
    with pytest.raises(InputError, match=r"has 2 columns of CIF texts .relaxed, initial."):
        read_dataset(tmp_path / "set.csv", property="gap")


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


def folder(tmp_path, table, *files):
    """Write CIF files, each of another cell, and their table."""
    for number, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        text = cif(bulk("Cu", "fcc", a=4.0 + number, cubic=True))
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    (tmp_path / "properties.csv").write_text(table)
    dataset = read_dataset(tmp_path, property="y")
    values = dict(zip(dataset.ids, dataset.properties["y"].tolist(), strict=True))
    return values, {entry.source.removeprefix(f"{tmp_path}/"): entry.reason for entry in dataset.skipped}


def test_rows_that_differ_leave_their_file_out(tmp_path):
    values, skipped = folder(tmp_path, "file,y\ns1,1\ns2,2\ns1,9\n", "s1.cif", "s2.cif")
    assert values == {"s2.cif": 2}
    assert "has 2 rows in properties.csv that differ: 's1' with [1]; 's1' with [9]" in skipped["s1.cif"]


def test_two_names_of_one_file_that_differ_leave_it_out(tmp_path):
    values, skipped = folder(tmp_path, "file,y\ns1,1\ns1.cif,2\n", "s1.cif")
    assert values == {}
    assert "'s1' with [1]; 's1.cif' with [2]" in skipped["s1.cif"]


def test_rows_that_say_the_same_are_one(tmp_path):
    assert folder(tmp_path, "file,y\ns1,1\ns1,1\ns1.cif,1.0\n", "s1.cif") == ({"s1.cif": 1}, {})


def test_a_name_that_fits_two_files_is_said(tmp_path):
    values, skipped = folder(tmp_path, "file,y\ns1,1\n", "s1.cif", "s1.cif.gz")
    assert values == {}
    assert "fits 2 files: s1.cif, s1.cif.gz" in skipped["s1.cif"]
    assert skipped.keys() == {"s1.cif", "s1.cif.gz"}


def test_exact_names_go_before_loose_ones(tmp_path):
    values, skipped = folder(
        tmp_path, "file,y\ns1.cif,1\ns1.cif.gz,2\na/s1.cif,3\n", "s1.cif", "s1.cif.gz", "a/s1.cif"
    )
    assert values == {"s1.cif": 1, "s1.cif.gz": 2, "a/s1.cif": 3}
    assert not skipped


@pytest.mark.parametrize("name", ["s1", "s1.cif", "s1.cif.gz", "./s1.cif", "s1.CIF", " s1 "])
def test_names_may_lack_suffixes(tmp_path, name):
    assert folder(tmp_path, f"file,y\n{name},1\n", "s1.cif.gz") == ({"s1.cif.gz": 1}, {})


def test_names_of_other_systems(tmp_path):
    table = "file,y\na\\s1.CIF,1\ne\N{COMBINING ACUTE ACCENT},2\nmp-1.5,3\n"
    values, skipped = folder(
        tmp_path, table, "a/s1.cif", "\N{LATIN SMALL LETTER E WITH ACUTE}.cif", "mp-1.5.cif"
    )
    assert sorted(values.values()) == [1, 2, 3]
    assert not skipped


def test_rows_without_files_are_said(tmp_path):
    values, skipped = folder(tmp_path, "file,y\ns1,1\ns2,2\n", "s1.cif")
    assert values == {"s1.cif": 1}
    assert skipped == {"properties.csv row 1 ('s2')": "there is no such file"}


@pytest.mark.parametrize("header", ["file,y\n", ""])
def test_names_stay_as_written(tmp_path, header):
    names = ["NA", "NaN", "Na", "nan", "None", "null", "True", "1e5", "001", "1", "1.0", "inf", "1_000"]
    rows = "".join(f"{name},{number}\n" for number, name in enumerate(names))
    values, skipped = folder(tmp_path, header + rows, *(f"{name}.cif" for name in names))
    assert values == {f"{name}.cif": number for number, name in enumerate(names)}
    assert not skipped


def test_a_first_line_that_names_a_file_is_a_row(tmp_path):
    values, skipped = folder(tmp_path, "s1,high\ns2,2\n", "s1.cif", "s2.cif")
    assert values == {"s2.cif": 2}
    assert "its 'y' is 'high', expected a number" in skipped["s1.cif"]


def test_names_in_another_column(tmp_path):
    assert folder(tmp_path, "y,file\n1,s1\n2,s2\n", "s1.cif", "s2.cif")[0] == {"s1.cif": 1, "s2.cif": 2}


def test_links(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for path in (data / "a", elsewhere):
        path.mkdir(parents=True)
        (path / f"{path.name}.cif").write_text(cif(crystal()))
    (data / "a" / "back").symlink_to(data)
    (data / "again").symlink_to(data / "a")
    (data / "out").symlink_to(elsewhere)
    (data / "file.cif").symlink_to(elsewhere / "elsewhere.cif")
    (data / "nothing.cif").symlink_to(tmp_path / "absent")
    (data / "self.cif").symlink_to(data / "self.cif")
    dataset = read_dataset(data, property=None)
    assert dataset.ids == ("a/a.cif", "file.cif", "out/elsewhere.cif")
    assert [(entry.source, entry.reason) for entry in dataset.skipped] == [
        (str(data / name), "is a link to nothing") for name in ("nothing.cif", "self.cif")
    ]


def test_files_of_a_folder_that_are_not_read_are_said(tmp_path):
    (tmp_path / "a.cif").write_text(cif(crystal()))
    (tmp_path / "b.xyz").write_text(GOOD)
    dataset = read_dataset(tmp_path, property=None)
    assert [entry.source for entry in dataset.skipped] == [str(tmp_path / "b.xyz")]


def test_a_table_that_is_not_needed_costs_nothing(tmp_path):
    (tmp_path / "a.cif").write_text(cif(crystal()))
    (tmp_path / "properties.csv").write_text("")
    dataset = read_dataset(tmp_path, property=None)
    assert len(dataset) == 1
    assert "its table was not read" in dataset.skipped[0].reason


# POSCAR

POSCAR = "{title}\n1.0\n4 0 0\n0 4 0\n0 0 4\n{elements}{counts}\nDirect\n0 0 0\n.5 .5 .5\n"


def poscar(tmp_path, title="any", elements="Na Cl\n", counts="1 1", name="POSCAR", more=""):
    text = POSCAR.format(title=title, elements=elements, counts=counts) + more
    (tmp_path / name).write_text(text)
    return read_dataset(tmp_path / name, property=None)


@pytest.mark.parametrize(
    "name", ["POSCAR@0", "POSCAR@1:3", "POSCAR@id=3", "POSCAR", "CONTCAR-1", "x.vasp", "x.POSCAR", "poscar_2"]
)
def test_names_of_poscars_are_names_and_not_indices(tmp_path, name):
    (tmp_path / "POSCAR").write_text(POSCAR.format(title="", elements="Pt Pt\n", counts="1 1"))
    assert poscar(tmp_path, name=name).structures.atomic_numbers.tolist() == [11, 17]


def test_the_suffix_decides_and_not_a_part_of_the_name(tmp_path):
    (tmp_path / "POSCAR_NaCl.cif").write_text(cif(crystal()))
    (tmp_path / "poscars.extxyz").write_text(GOOD)
    (tmp_path / "CONTCAR.XYZ").write_text(GOOD)
    (tmp_path / "contcar_set.csv").write_text(table().to_csv())
    for name, count in (
        ("POSCAR_NaCl.cif", 1),
        ("poscars.extxyz", 1),
        ("CONTCAR.XYZ", 1),
        ("contcar_set.csv", 3),
    ):
        assert len(read_dataset(tmp_path / name, property=None)) == count


@pytest.mark.parametrize(
    "title", ["No title", "No", "I Am what", "", "Na", "Na Cl K", "Na Cl a=4", "NaCl", "X Y"]
)
def test_a_title_that_says_anything_else_names_no_elements(tmp_path, title):
    dataset = poscar(tmp_path, title=title, elements="")
    assert not len(dataset)
    assert "no line of elements" in dataset.skipped[0].reason


def test_a_title_of_symbols_is_taken_with_a_doubt(tmp_path):
    dataset = poscar(tmp_path, title=" Na  Cl ", elements="")
    assert dataset.structures.atomic_numbers.tolist() == [11, 17]
    assert dataset.doubts == [("POSCAR", "it has no line of elements; Na Cl were taken from its title")]


def test_no_other_file_is_asked_for_the_elements(tmp_path):
    (tmp_path / "POTCAR").write_text("TITEL  = PAW_PBE Na 1\nTITEL  = PAW_PBE Cl 1\n")
    assert not len(poscar(tmp_path, title="no title", elements=""))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"elements": "Na Q\n"}, "line 6 is 'Na Q', expected chemical symbols"),
        ({"elements": "Na Cl K\n"}, "expected 3 numbers of atoms"),
        ({"counts": "1"}, "expected 2 numbers of atoms"),
        ({"counts": "1 x"}, "expected 2 numbers of atoms"),
        ({"counts": "1 2"}, "announces 3 atoms, but has 2 positions"),
        ({"counts": "1 " + "9" * 5000}, "positions"),
        ({"more": ".1 .2 .3\n"}, "announces 2 atoms, but has more"),
        ({"counts": "1 1\n0 0 0\n"}, "expected Direct or Cartesian"),
        ({"title": "x" * 10_000, "elements": ""}, "no line of elements"),
    ],
)
def test_what_is_no_poscar(tmp_path, changes, reason):
    dataset = poscar(tmp_path, **changes)
    assert not len(dataset)
    assert reason in dataset.skipped[0].reason
    assert len(dataset.skipped[0].reason) < 300


def test_names_of_potentials_are_elements(tmp_path):
    dataset = poscar(tmp_path, elements="Na_pv/6a2f546d Cl/abc\n", counts="1 1 ! two atoms")
    assert dataset.structures.atomic_numbers.tolist() == [11, 17]
    assert not dataset.doubts


def test_what_follows_the_positions_costs_no_structure(tmp_path):
    assert not poscar(tmp_path, more="\n0 0 0\n0 0 1\n").doubts
    dataset = poscar(tmp_path, more="\nmade by a program\n")
    assert len(dataset) == 1
    assert "made by a program" in dataset.doubts[0][1]


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


def test_a_broken_row_costs_no_other(tmp_path):
    with connect(tmp_path / "set.db") as database:
        for index, atoms in enumerate(frames()):
            database.write(atoms, gap=index)
    with sqlite3.connect(tmp_path / "set.db") as connection:
        connection.execute("UPDATE systems SET positions = x'00' WHERE id = 2")
    connection.close()
    dataset = read_dataset(tmp_path / "set.db", property="gap")
    assert dataset.properties["gap"].tolist() == [0, 2]
    assert [entry.source for entry in dataset.skipped] == [f"{tmp_path / 'set.db'} row 2"]


@pytest.mark.parametrize("name", ["set.db", "set.json"])
def test_constraints_that_cannot_be_rebuilt_cost_no_row(tmp_path, name):
    held = bulk("Cu", cubic=True)
    held.set_constraint(FixSymmetry(held))
    with connect(tmp_path / name) as database:
        database.write(held, y=1.0)
        database.write(bulk("Ag"), y=2.0)
    dataset = read_dataset(tmp_path / name, property="y")
    assert dataset.properties["y"].tolist() == [1, 2]
    left_out = save_dataset(dataset, tmp_path / "o.safetensors")
    assert "FixSymmetry" in str(left_out) or "constraints" in str(dataset.doubts)
    stored = load_dataset(tmp_path / "o.safetensors")
    assert stored.properties["y"].tolist() == [1, 2]
    assert len(to_ase(stored.structures)) == 2


def test_odd_results_cost_no_row(tmp_path):
    with connect(tmp_path / "set.json") as database:
        database.write(bulk("Cu"), y=1.0)
    text = (tmp_path / "set.json").read_text()
    (tmp_path / "set.json").write_text(text.replace('"mtime"', '"stress": "none", "energy": -2.5,\n "mtime"'))
    dataset = read_dataset(tmp_path / "set.json", property="energy")
    assert dataset.properties["energy"].tolist() == [-2.5]
    assert "'stress' cannot be rebuilt and was left out" in dataset.doubts[0][1]


def test_forces_on_another_number_of_atoms_are_left_out(tmp_path):
    with connect(tmp_path / "set.json") as database:
        database.write(bulk("Cu"), y=1.0)
    text = (tmp_path / "set.json").read_text()
    forces = '"forces": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "energy": -2.5,\n "mtime"'
    (tmp_path / "set.json").write_text(text.replace('"mtime"', forces))
    dataset = read_dataset(tmp_path / "set.json", property="energy")
    assert dataset.properties["energy"].tolist() == [-2.5]
    assert "'forces' cannot be rebuilt and was left out" in dataset.doubts[0][1]


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


def test_a_row_beside_a_file_of_two_structures_labels_neither(tmp_path):
    cif = "data_{}\n" + "".join(f"_cell_length_{axis} 4\n" for axis in "abc")
    cif += "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    cif += "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nCu1 0 0 0\n"
    (tmp_path / "two.cif").write_text(cif.format("a") + cif.format("b"))
    (tmp_path / "one.cif").write_text(cif.format("a"))
    assert len(read_dataset(tmp_path, property=None).ids) == 3
    (tmp_path / "properties.csv").write_text("file,y\ntwo,1\none,2\n")
    data = read_dataset(tmp_path, property="y")
    assert data.ids == ("one.cif",)
    assert [skipped.reason for skipped in data.skipped] == ["its file holds 2 structures, and one row"] * 2
