"""``whorl show``: words about structures, pictures of CrysTens."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from PIL import Image

from whorl.datasets import Dataset, FeatureSet, save_dataset, save_features
from whorl.representations import CrysTens
from whorl.structures import from_ase


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def salt():
    return bulk("NaCl", "rocksalt", 5.64, cubic=True)


@pytest.fixture
def features(here):
    """Two rows: magnesium oxide, and a tensor that is no crystal."""
    codec = CrysTens(max_atoms=8)
    oxide = codec(from_ase(bulk("MgO", "rocksalt", 4.2)))
    path = here / "made.safetensors"
    save_features(
        FeatureSet(
            features=torch.cat([oxide, torch.zeros_like(oxide)]),
            representation=codec.config(),
            fingerprint=codec.fingerprint,
            ids=("first", "second"),
        ),
        path,
    )
    return path


@pytest.mark.parametrize("name", ["salt.cif", "POSCAR", "salt.extxyz"])
def test_a_crystal_is_drawn_and_described(whorl, here, salt, name):
    write(here / name, salt)
    said = whorl("show", name, "--crystens")
    assert said.code == 0, said.err
    picture = "POSCAR-crystens.png" if name == "POSCAR" else "salt-crystens.png"
    assert said.out.splitlines()[-1] == picture
    for words in ("NaCl", "Fm-3m (225)", "5.640", "20 × 20 × 4 (at most 8 atoms)"):
        assert words in said.out
    with Image.open(here / picture) as image:
        assert image.width > 1000


def test_every_structure_gets_a_line(whorl, here, salt):
    write(here / "few.extxyz", [salt, molecule("H2O"), bulk("Fe")])
    said = whorl("show", "few.extxyz")
    assert said.code == 0, said.err
    head, *lines = said.out.splitlines()
    assert head.split()[:3] == ["name", "formula", "atoms"]
    assert [line.split()[2:4] for line in lines] == [["NaCl", "8"], ["H2O", "3"], ["Fe", "1"]]
    assert lines[1].endswith("none")
    assert len(whorl("show", "few.extxyz", "--index", 2).out.splitlines()) == 2


def test_long_files_are_cut_short(whorl, here):
    write(here / "many.extxyz", [bulk("Fe")] * 23)
    said = whorl("show", "many.extxyz")
    assert len(said.out.splitlines()) == 22
    assert "and 3 more" in said.out


def test_settings_of_the_tensor_and_name_of_the_picture(whorl, here, salt):
    write(here / "few.extxyz", [bulk("Fe"), salt])
    options = ("--max-atoms", 52, "--pairwise", "cartesian", "--elements", "periodic", "-o", "out/x.svg")
    said = whorl("show", "few.extxyz", "--crystens", "--index", 1, *options)
    assert said.code == 0, said.err
    assert "64 × 64 × 4" in said.out
    assert (here / "out" / "x.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert whorl("show", "few.extxyz", "--crystens").out.splitlines()[-1] == "few-0-crystens.png"


def test_rows_of_features_are_decoded_and_drawn(whorl, here, features):
    said = whorl("show", features, "--crystens")
    assert said.code == 0, said.err
    assert "MgO" in said.out
    assert (here / "made-0-crystens.png").is_file()
    said = whorl("show", features, "--crystens", "--index", 1)
    assert said.code == 0, said.err
    assert "no crystal: " in said.out
    assert (here / "made-1-crystens.png").is_file()
    lines = whorl("show", features).out.splitlines()
    assert len(lines) == 3
    assert "no crystal: " in lines[2]
    refused = whorl("show", features, "--crystens", "--max-atoms", 8)
    assert refused.code == 1
    assert "encoding settings" in refused.err


def test_a_data_set_is_shown(whorl, here, salt):
    save_dataset(Dataset(structures=from_ase(salt), ids=("salt",)), here / "d.safetensors")
    assert "NaCl" in whorl("show", "d.safetensors").out


@pytest.mark.parametrize(
    ("atoms", "options", "words"),
    [
        (molecule("H2O"), (), "not periodic in all three directions"),
        (
            bulk("NaCl", "rocksalt", 5.6, cubic=True),
            ("--max-atoms", 4),
            "has 8 atoms, more than max_atoms = 4",
        ),
        (bulk("Fe"), ("--index", 1), "expected 0 to 0"),
        (bulk("Fe"), ("--pairwise", "cartesic"), "Did you mean 'cartesian'"),
        (bulk("Fe"), ("--max-atoms", 0), "expected a whole number of at least 1"),
        (bulk("Fe"), ("-o", "x.jpg"), ".png or .svg"),
        (Atoms("Fe2", [[0, 0, 0], [0, 0, 0]], cell=[3, 3, 3], pbc=True), (), "at one place"),
    ],
)
def test_what_cannot_be_drawn_says_why(whorl, here, atoms, options, words):
    write(here / "x.extxyz", atoms)
    said = whorl("show", "x.extxyz", "--crystens", *options)
    assert said.code == 1
    assert words in said.err
    assert "Traceback" not in said.err
    assert not list(here.glob("*crystens*"))


def test_files_that_do_not_parse_say_why(whorl, here):
    (here / "broken.cif").write_text("data_x\nloop_\n_atom_site_label\n_atom_site_fract_x\nNa1\n")
    (here / "words.txt").write_text("hello")
    for name, words in (
        ("broken.cif", "no valid CIF"),
        ("words.txt", "format cannot be told"),
        ("absent.cif", "no such file"),
    ):
        said = whorl("show", name, "--crystens")
        assert said.code == 1
        assert words in said.err


def test_disorder_is_refused(whorl, here):
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    mixed = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    CifWriter(mixed).write_file(here / "mixed.cif")
    said = whorl("show", "mixed.cif")
    assert said.code == 1
    assert "disorder" in said.err


def test_skipped_entries_are_told_by_the_exit_code(whorl, here, salt):
    write(here / "a.cif", salt)
    (here / "b.cif").write_text("data_x\n")
    said = whorl("show", here)
    assert said.code == 3
    assert "NaCl" in said.out
    assert "b.cif" in said.err


def test_options_of_the_picture_need_the_picture(whorl, here, salt):
    write(here / "salt.cif", salt)
    for option in (("--max-atoms", 8), ("-o", "x.png")):
        said = whorl("show", "salt.cif", *option)
        assert said.code == 1
        assert "add --crystens" in said.err


def test_other_features_are_refused(whorl, here):
    features = FeatureSet(
        features=torch.zeros(1, 3), representation={"kind": "acsf"}, fingerprint="x", ids=("a",)
    )
    save_features(features, here / "f.safetensors")
    said = whorl("show", "f.safetensors", "--crystens")
    assert said.code == 1
    assert "contains features of 'acsf'" in said.err


def test_a_doubt_is_said_by_every_command_that_reads(whorl, here, salt):
    write(here / "a.cif", salt)
    text = (here / "a.cif").read_text()
    assert '"Na4 Cl4"' in text
    (here / "a.cif").write_text(text.replace('"Na4 Cl4"', '"Na4 Cl4 H8"'))
    doubt = "doubtful: a.cif: its formula is Na4 Cl4 H8, but its sites make Cl4 Na4"
    for command in (
        ("data", "read", "a.cif", "-o", "a.safetensors"),
        ("data", "show", "a.safetensors"),
        ("show", "a.cif"),
        ("show", "a.safetensors"),
        ("invert", "a.cif", "--round-trip", "-o", "o", "--budget-seconds", 1),
        ("invert", "a.safetensors", "--round-trip", "-o", "p", "--budget-seconds", 1),
    ):
        said = whorl(*command)
        assert said.code == 3, command
        assert doubt in said.err, command
    assert "1 of them" in whorl("data", "show", "a.safetensors").out


def test_doubts_are_counted(whorl, here, salt):
    for number in range(12):
        write(here / f"{number:02d}.cif", salt)
        with (here / f"{number:02d}.cif").open("a") as file:
            file.write("_cell_volume 100\n")
    said = whorl("data", "read", here, "-o", here / "all.safetensors")
    assert said.code == 3
    assert "doubtful: and 2 more (12 in all)" in said.err
