import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from ase.build import bulk
from PIL import Image

from whorl.errors import InputError
from whorl.report.crystens import save_crystens_picture
from whorl.representations import CrysTens
from whorl.structures import from_ase
from whorl.structures.composition import formula
from whorl.symmetry.detection import crystal_system, known_space_groups, space_group_symbol


@pytest.fixture(scope="module")
def tensor():
    return CrysTens(max_atoms=8)(from_ase(bulk("NaCl", "rocksalt", 5.64, cubic=True)))[0]


def pixels(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


def test_a_png_shows_four_layers_on_white(tensor, tmp_path):
    path = tmp_path / "NaCl.png"
    save_crystens_picture(tensor, path, title="NaCl", n_atoms=8)
    image = pixels(path)
    assert image.shape[1] > 2.5 * image.shape[0]
    row = (image[image.shape[0] // 2] < 250).any(-1).astype(int)
    assert (np.diff(row) == 1).sum() >= 4
    assert list(tmp_path.iterdir()) == [path]


def test_an_svg_parses_and_is_the_same_twice(tensor, tmp_path):
    for name in ("a.svg", "b.svg"):
        save_crystens_picture(tensor, tmp_path / name, title="NaCl, Fm-3m (225)")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text.count("<image") >= 4


def test_another_tensor_is_another_picture(tensor, tmp_path):
    changed = tensor.clone()
    changed[13, 14, 0] = 1.0
    for name, one in (("a.png", tensor), ("b.png", changed)):
        save_crystens_picture(one, tmp_path / name)
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()


@pytest.mark.parametrize("room", [1, 52])
def test_whatever_a_generator_gives_is_drawn(room, tmp_path):
    rng = torch.Generator().manual_seed(0)
    wild = 3 * torch.randn(room + 12, room + 12, 4, generator=rng)
    wild[0, 0, 0] = torch.nan
    save_crystens_picture(wild, tmp_path / "wild.png", n_atoms=200, elements="periodic")
    save_crystens_picture(torch.zeros_like(wild), tmp_path / "empty.png", n_atoms=0)
    assert pixels(tmp_path / "wild.png").shape == pixels(tmp_path / "empty.png").shape


@pytest.mark.parametrize(
    ("shape", "name", "options", "words"),
    [
        ((20, 21, 4), "x.png", {}, r"got a tensor of shape \(20, 21, 4\)"),
        ((12, 12, 4), "x.png", {}, "expected"),
        ((20, 20, 4), "x.pdf", {}, "a picture is .png or .svg, got '.pdf'"),
        ((20, 20, 4), "x.png", {"elements": "numbers"}, "Did you mean 'number'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(shape, name, options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        save_crystens_picture(torch.zeros(shape), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_crystals_have_names():
    crystals = [bulk("NaCl", "rocksalt", 5.64, cubic=True), bulk("Mg"), bulk("Fe")]
    batch = from_ase(crystals)
    assert [formula(one) for one in batch] == ["NaCl", "Mg", "Fe"]
    assert known_space_groups(batch).tolist() == [225, 194, 229]
    assert [space_group_symbol(n) for n in (1, 225)] == ["P1", "Fm-3m"]
    said = batch.replace(info=({"space_group_number": 221}, {"space_group_number": "?"}, {}))
    assert known_space_groups(said).tolist() == [221, 194, 229]
    molecule = batch.replace(pbc=torch.zeros(3, 3, dtype=torch.bool))
    assert known_space_groups(molecule).tolist() == [0, 0, 0]
    assert formula(batch[:0]) == ""


def test_crystal_systems_are_those_of_the_tables():
    from pymatgen.symmetry.groups import SpaceGroup

    for number in (1, 2, 3, 15, 16, 74, 75, 142, 143, 160, 167, 168, 194, 195, 230):
        assert crystal_system(number) == SpaceGroup.from_int_number(number).crystal_system
