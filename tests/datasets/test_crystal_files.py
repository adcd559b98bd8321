"""Crystals as CIF, POSCAR and extended XYZ, in one order."""

import pytest
import torch
from ase.build import bulk, molecule
from ase.io import read

from whorl.datasets.crystal_files import write_crystals
from whorl.errors import InputError
from whorl.structures import from_ase


def test_all_formats_hold_the_same_crystals(tmp_path):
    batch = from_ase([bulk("NaCl", "rocksalt", 5.64), bulk("Ti")])
    batch = batch.replace(info=({"crystens_variance_angles": 0.25, "space_group_number": 225}, {}))
    files = write_crystals(batch, tmp_path, ids=["first", "second"], provenance={"seed": 3})
    names = [str(path.relative_to(tmp_path)) for path in files]
    assert names == [
        "cif/00001_NaCl.cif",
        "poscar/00001_NaCl.vasp",
        "cif/00002_Ti.cif",
        "poscar/00002_Ti.vasp",
        "crystals.extxyz",
    ]
    text = files[0].read_text()
    assert "# crystens_variance_angles: 0.25" in text and "# id: first" in text and "# seed: 3" in text
    assert "_symmetry_Int_Tables_number   225" in text
    cif = read(files[0])
    assert cif.info["spacegroup"].no == 225 and len(cif) == 8
    assert cif.get_volume() / 4 == pytest.approx(bulk("NaCl", "rocksalt", 5.64).get_volume())
    poscar = read(files[3], format="vasp")
    assert torch.allclose(torch.from_numpy(poscar.cell.array.copy()), batch.cells[1])
    frames = read(tmp_path / "crystals.extxyz", ":")
    assert [frame.info["id"] for frame in frames] == ["first", "second"]
    assert frames[0].info["crystens_variance_angles"] == 0.25 and frames[0].info["seed"] == 3


def test_one_format_alone_and_none(tmp_path):
    batch = from_ase([bulk("Fe")])
    assert [path.name for path in write_crystals(batch, tmp_path, formats=["cif"])] == ["00001_Fe.cif"]
    assert write_crystals(batch[:0], tmp_path, formats=["cif", "poscar"]) == []


def test_what_is_not_valid_lies_elsewhere(tmp_path):
    batch = from_ase([bulk("Fe"), bulk("NaCl", "rocksalt", 5.64), bulk("Cu")])
    batch.positions[2] = batch.positions[1]  # both atoms of NaCl at one place
    write_crystals(batch, tmp_path, valid=[True, False, True])
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert found == [
        "cif/00001_Fe.cif",
        "cif/00003_Cu.cif",
        "crystals.extxyz",
        "invalid/cif/00002_NaCl.cif",
        "invalid/poscar/00002_NaCl.vasp",
        "poscar/00001_Fe.vasp",
        "poscar/00003_Cu.vasp",
    ]
    assert [frame.info["valid"] for frame in read(tmp_path / "crystals.extxyz", ":")] == [True, False, True]


def test_bad_input(tmp_path):
    batch = from_ase([bulk("Fe")])
    with pytest.raises(InputError, match="Choose from: cif, extxyz, poscar"):
        write_crystals(batch, tmp_path, formats=["xyz"])
    with pytest.raises(InputError, match="got 2 ids for 1"):
        write_crystals(batch, tmp_path, ids=["a", "b"])
    with pytest.raises(InputError, match="got 2 flags of validity for 1"):
        write_crystals(batch, tmp_path, valid=[True, False])
    with pytest.raises(InputError, match="structure 1 is not periodic"):
        write_crystals(from_ase([bulk("Fe"), molecule("H2O")]), tmp_path)
