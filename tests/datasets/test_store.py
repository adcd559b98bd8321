import dataclasses
import json
import math

import ase.io
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import (
    FixAtoms,
    FixBondLength,
    FixBondLengths,
    FixCartesian,
    FixCartesianParametricRelations,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixScaled,
    FixSymmetry,
    Hookean,
)
from hypothesis import given, settings
from safetensors.torch import save_file

from whorl.datasets import (
    Dataset,
    FeatureSet,
    Skipped,
    load_dataset,
    load_features,
    save_dataset,
    save_features,
    write_extxyz,
)
from whorl.datasets.packing import Packer, unpack
from whorl.errors import InputError
from whorl.files import provenance
from whorl.representations import ACSF
from whorl.structures import from_ase, to_ase


def some_dataset():
    water, copper = molecule("H2O"), bulk("Cu", cubic=True)
    water.calc = SinglePointCalculator(water, energy=-14.2, forces=np.ones((3, 3)))
    copper.set_constraint([FixAtoms([0]), FixBondLength(1, 2)])
    copper.set_tags([1, 2, 3, 4])
    copper.info.update(source="mp-30", array=np.arange(4.0), nested={"a": (1, None), 2: math.nan})
    return Dataset(
        structures=from_ase([water, copper]),
        properties={
            "energy": torch.tensor([-14.2, -3.7], dtype=torch.float64),
            "gap": torch.tensor([7.0, math.nan]),
        },
        ids=("water", "copper"),
        provenance=provenance(seed=3, settings={"a": 1}),
        skipped=(Skipped("file.xyz frame 3", "has no 'energy'"),),
    )


def assert_same_dataset(a, b):
    assert a.ids == b.ids
    assert a.provenance == b.provenance
    assert a.skipped == b.skipped
    assert a.properties.keys() == b.properties.keys()
    for name, values in a.properties.items():
        assert values.dtype == b.properties[name].dtype == torch.float64
        assert torch.equal(values.nan_to_num(9e9), b.properties[name].nan_to_num(9e9))
    assert (a.structures is None) == (b.structures is None)
    if a.structures is not None:
        for name in ("positions", "cells", "pbc", "atomic_numbers", "structure_index"):
            x, y = getattr(a.structures, name), getattr(b.structures, name)
            assert x.dtype == y.dtype
            assert torch.equal(x, y)
        for x, y in zip(to_ase(a.structures), to_ase(b.structures), strict=True):
            np.testing.assert_equal(x.info, y.info)
            np.testing.assert_equal(x.arrays, y.arrays)
            assert [c.todict() for c in x.constraints] == [c.todict() for c in y.constraints]
            np.testing.assert_equal(x.calc and x.calc.results, y.calc and y.calc.results)


def test_a_data_set_survives_the_disk(tmp_path):
    dataset = some_dataset()
    save_dataset(dataset, tmp_path / "new" / "set.safetensors")
    assert_same_dataset(load_dataset(tmp_path / "new" / "set.safetensors"), dataset)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["set.safetensors"]


def test_without_structures_or_info_or_rows(tmp_path):
    for dataset in (
        Dataset(structures=None, properties={"y": torch.zeros(2)}, ids=("a", "b")),
        Dataset(structures=from_ase([Atoms("H")]).replace(info=()), ids=("a",)),
        Dataset(structures=from_ase([]), properties={"y": torch.zeros(0)}, ids=()),
        Dataset(structures=from_ase([Atoms("H")], dtype=torch.float32), ids=("a",)),
    ):
        save_dataset(dataset, tmp_path / "set.safetensors")
        assert_same_dataset(load_dataset(tmp_path / "set.safetensors"), dataset)


def test_equal_sets_make_equal_files(tmp_path):
    for name in ("a", "b"):
        save_dataset(some_dataset(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_stored_is_told(tmp_path):
    atoms = [molecule("H2"), molecule("H2")]
    for item in atoms:
        item.info.update(good=1, model=object(), deep={"function": len, "kept": 2})
    save_dataset(Dataset(structures=from_ase(atoms), ids=("a", "b")), tmp_path / "set")
    stored = load_dataset(tmp_path / "set")
    assert stored.structures.info[0] == {"good": 1, "deep": {"kept": 2}}
    assert stored.provenance["not_stored"] == [
        "info deep.function (builtin_function_or_method) of 2 structures",
        "info model (object) of 2 structures",
    ]


def nested(items):
    """Return an array of objects that are themselves lists or arrays, as Parquet has them."""
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def test_constraints_that_cannot_be_rebuilt_are_left_out_and_said(tmp_path):
    held = bulk("Cu", cubic=True)
    held.set_constraint([FixAtoms([0]), FixSymmetry(held)])
    save_dataset(Dataset(structures=from_ase([held, bulk("Ag")]), ids=("a", "b")), tmp_path / "set")
    stored = load_dataset(tmp_path / "set")
    assert [type(kept) for kept in to_ase(stored.structures)[0].constraints] == [FixAtoms]
    (left_out,) = stored.provenance["not_stored"]
    assert "FixSymmetry" in left_out
    assert "of 1 structures" in left_out


@pytest.mark.parametrize(
    "constraint",
    [
        FixAtoms([0, 2]),
        FixCartesian(1, (True, False, True)),
        FixScaled(0, (True, False, False)),
        FixBondLengths([[0, 1]]),
        FixedPlane(0, (0, 0, 1)),
        FixedLine([0], (0, 0, 1)),
        FixCom(),
        Hookean(a1=0, a2=1, rt=1.5, k=5.0),
        FixInternals(bonds=[[1.4, [0, 1]]]),
        FixCartesianParametricRelations.from_expressions([0], ["a", "b"], ["a", "b", "a"]),
    ],
    ids=lambda constraint: type(constraint).__name__,
)
def test_constraints_are_stored_or_left_out(tmp_path, constraint):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(constraint)
    save_dataset(Dataset(structures=from_ase([atoms]), ids=("a",)), tmp_path / "set")
    stored = load_dataset(tmp_path / "set")
    kept = to_ase(stored.structures)[0].constraints
    assert [type(item) for item in kept] == [type(constraint)] or "not_stored" in stored.provenance


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.sampled_from(
        [
            np.arange(6).reshape(2, 3),
            np.zeros((0, 3)),
            np.array([True, False]),
            np.array(["a", "bcd"]),
            np.array([1 + 2j, 3]),
            np.array([1.5, np.nan, np.inf], np.float32),
            np.array([["x", 1], [None, 2.5]], object),
            nested([[1, 2], [3, 4]]),
            np.array(5),
        ]
    ),
)
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.just("$"), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(values)
def test_any_value_survives_packing(value):
    packer = Packer()
    packed = json.loads(json.dumps(packer.pack(value), allow_nan=False))
    back = unpack(packed, packer.tensors())
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype
        assert back.shape == value.shape
    assert not packer.dropped


def test_arrays_of_arrays():
    packer = Packer()
    packed = packer.pack({"lists": nested([np.arange(2), np.arange(2), None])})
    back = unpack(json.loads(json.dumps(packed)), packer.tensors())["lists"]
    assert back.shape == (3,)
    assert [None if item is None else item.tolist() for item in back] == [[0, 1], [0, 1], None]


def test_tensors_and_numpy_scalars_in_info():
    packer = Packer()
    packed = packer.pack({"t": torch.arange(3), "f": np.float32(0.5), "b": np.bool_(True)})
    back = unpack(packed, packer.tensors())
    assert torch.equal(back["t"], torch.arange(3))
    assert back["f"] == 0.5
    assert back["b"] is True


def test_lengths_must_agree():
    structures = from_ase([Atoms("H")])
    with pytest.raises(InputError, match="1 structures and 2 ids"):
        Dataset(structures=structures, ids=("a", "b"))
    with pytest.raises(InputError, match=r"property 'y' has shape \(2,\), expected \(1,\)"):
        Dataset(structures=structures, properties={"y": torch.zeros(2)}, ids=("a",))
    with pytest.raises(InputError, match="3 rows of features and 1 ids"):
        FeatureSet(features=torch.zeros(3, 2), representation={}, fingerprint="", ids=("a",))


@settings(deadline=None)
@given(st.data())
def test_choosing_rows(data):
    n = 5
    dataset = Dataset(
        structures=from_ase([Atoms(f"H{i + 1}") for i in range(n)]),
        properties={"y": torch.arange(n)},
        ids=tuple("abcde"),
    )
    index = data.draw(st.lists(st.integers(0, n - 1), max_size=7))
    for given_as in (index, torch.tensor(index, dtype=torch.int64)):
        chosen = dataset.select(given_as)
        assert chosen.ids == tuple("abcde"[i] for i in index)
        assert chosen.properties["y"].tolist() == index
        assert chosen.structures.n_atoms.tolist() == [i + 1 for i in index]


def test_choosing_in_other_ways():
    features = FeatureSet(
        features=torch.arange(12.0).reshape(4, 3),
        representation={},
        fingerprint="f",
        properties={"y": torch.arange(4)},
        ids=tuple("abcd"),
    )
    assert features.select(slice(1, 3)).ids == ("b", "c")
    assert features.select(-1).features.tolist() == [[9, 10, 11]]
    assert features.select(torch.tensor([True, False, False, True])).properties["y"].tolist() == [0, 3]
    assert len(features.select([])) == 0
    assert Dataset(structures=None, ids=("a", "b")).select([1]).structures is None


# Features


def some_features(representation):
    structures = from_ase([molecule("H2O"), molecule("H2")])
    return FeatureSet(
        features=representation(structures),
        representation=representation.config(),
        fingerprint=representation.fingerprint,
        properties={"energy": torch.tensor([1.0, 2.0])},
        ids=("a", "b"),
    )


def test_features_survive_the_disk(tmp_path):
    representation = ACSF.fung2022(["H", "O"])
    features = some_features(representation)
    save_features(features, tmp_path / "f.safetensors")
    for check in (None, representation):
        back = load_features(tmp_path / "f.safetensors", representation=check)
        assert torch.equal(back.features, features.features)
        assert back.fingerprint == features.fingerprint
        assert json.dumps(back.representation) == json.dumps(features.representation)
        assert back.ids == features.ids
        assert torch.equal(back.properties["energy"], features.properties["energy"])


def test_features_of_another_representation_are_refused(tmp_path):
    save_features(some_features(ACSF.fung2022(["H", "O"])), tmp_path / "f")
    with pytest.raises(InputError, match=r'another representation.*species is \["H", "O"\] in the file'):
        load_features(tmp_path / "f", representation=ACSF.fung2022(["C", "H", "O"]))


def test_features_of_another_version_are_refused(tmp_path):
    representation = ACSF.fung2022(["H", "O"])
    stale = dataclasses.replace(some_features(representation), fingerprint="older")
    save_features(stale, tmp_path / "f")
    with pytest.raises(InputError, match="made by another version"):
        load_features(tmp_path / "f", representation=representation)


def test_features_that_share_memory_or_need_gradients(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    features = FeatureSet(
        features=whole.T.requires_grad_(True),
        representation={},
        fingerprint="",
        properties={"y": whole[0], "z": whole[0]},
        ids=("a", "b", "c"),
    )
    save_features(features, tmp_path / "f")
    assert load_features(tmp_path / "f").features.tolist() == [[0, 3], [1, 4], [2, 5]]


# Damage


def test_files_that_cannot_be_read(tmp_path):
    save_dataset(some_dataset(), tmp_path / "set")
    half = (tmp_path / "set").read_bytes()[:-100]
    (tmp_path / "half").write_bytes(half)
    (tmp_path / "text").write_text("not a tensor in sight")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(InputError, match="no such file"):
        load_dataset(tmp_path / "absent")
    for name in ("half", "text"):
        with pytest.raises(InputError, match="damaged, or not a safetensors file"):
            load_dataset(tmp_path / name)
    with pytest.raises(InputError, match="holds what whorl did not write, expected a data set"):
        load_dataset(tmp_path / "foreign")
    with pytest.raises(InputError, match="holds a data set, expected features"):
        load_features(tmp_path / "set")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    import safetensors.torch

    path = tmp_path / "set"
    save_dataset(some_dataset(), path)
    before = path.read_bytes()

    def fail(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_dataset(some_dataset().select([0]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Export


@pytest.mark.parametrize("name", ["set.extxyz", "set.extxyz.gz"])
def test_ase_reads_the_export(tmp_path, name):
    dataset = some_dataset()
    write_extxyz(
        dataset.structures,
        tmp_path / name,
        properties=dataset.properties,
        provenance=dataset.provenance,
        ids=dataset.ids,
    )
    water, copper = ase.io.read(tmp_path / name, index=":")
    assert water.get_potential_energy() == -14.2
    np.testing.assert_array_equal(water.get_forces(), np.ones((3, 3)))
    assert water.info["gap"] == 7.0
    assert copper.info["id"] == "copper"
    assert copper.info["source"] == "mp-30"
    np.testing.assert_array_equal(copper.info["array"], np.arange(4.0))
    np.testing.assert_array_equal(copper.get_tags(), [1, 2, 3, 4])
    assert copper.constraints[0].index.tolist() == [0]
    np.testing.assert_allclose(copper.positions, to_ase(dataset.structures)[1].positions, atol=1e-8)
    for atoms in (water, copper):
        assert atoms.info["whorl_version"] == dataset.provenance["whorl_version"]
        assert atoms.info["seed"] == 3
        assert str(atoms.info["recipe_hash"]) == dataset.provenance["recipe_hash"]


def test_a_property_wins_over_a_result_of_the_same_name(tmp_path):
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0)
    write_extxyz(from_ase(water), tmp_path / "w.extxyz", properties={"energy": torch.tensor([-2.0])})
    assert ase.io.read(tmp_path / "w.extxyz").get_potential_energy() == -2.0


def test_an_export_of_wrong_length_is_refused(tmp_path):
    with pytest.raises(InputError, match="got 2 values of 'y' for 1 structures"):
        write_extxyz(from_ase(Atoms("H")), tmp_path / "x.extxyz", properties={"y": torch.zeros(2)})
    assert not list(tmp_path.iterdir())


def test_an_export_leaves_out_what_the_format_cannot_hold(tmp_path):
    atoms = molecule("H2O")
    atoms.info.update(nothing=None, model=object(), nested={"a": [1, 2]})
    atoms.set_array("objects", np.array([None, {}, []], object))
    write_extxyz(from_ase(atoms), tmp_path / "x.extxyz", provenance={"seed": None, "warnings": {"a": 1}})
    back = ase.io.read(tmp_path / "x.extxyz")
    assert back.info == {"nested": {"a": [1, 2]}}
    assert "objects" not in back.arrays


simple = st.one_of(
    st.text(max_size=5), st.sampled_from(["0012", "12e5", "T", "1 2", "_JSON [", "a=b", "x\ny"])
)


@settings(deadline=None)
@given(st.dictionaries(simple, st.one_of(simple, st.lists(simple, max_size=2), st.floats(), st.integers())))
def test_no_info_breaks_an_export(tmp_path_factory, info):
    path = tmp_path_factory.mktemp("export") / "x.extxyz"
    first = Atoms("H", info=info)
    write_extxyz(from_ase([first, Atoms("He")]), path, ids=["0012", "12e5"])
    back, other = ase.io.read(path, index=":")
    assert (back.symbols, other.symbols) == ("H", "He")
    assert [atoms.info["whorl_id" if "id" in info else "id"] for atoms in (back, other)] == ["0012", "12e5"]
    for key, value in back.info.items():
        if isinstance(info.get(key), str) and key != "id":
            assert value == info[key]


def test_all_rows_of_features_in_their_order_are_not_copied():
    made = FeatureSet(
        features=torch.rand(4, 3), representation={}, fingerprint="x", properties={}, ids=tuple("abcd")
    )
    assert made.select(torch.arange(4)) is made and made.select(torch.ones(4, dtype=torch.bool)) is made
    assert made.select([0, 1, 2]).ids == ("a", "b", "c") and made.select([3, 2, 1, 0]).ids == tuple("dcba")
