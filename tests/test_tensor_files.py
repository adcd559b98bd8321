import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from whorl.errors import InputError
from whorl.tensor_files import read_tensors, tensors_hash, write_tensors

HEADER = {"kind": "test", "numbers": [1, 2.5, None], "text": 'ä \u2028 "quoted"'}


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool],
)
def test_all_types_and_shapes_come_back(tmp_path, dtype):
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    tensors = {"whole": whole, "turned": whole.T, "row": whole[1], "one": whole[0, 0], "none": whole[:0]}
    write_tensors(tmp_path / "x.safetensors", tensors, HEADER)
    loaded, header = read_tensors(tmp_path / "x.safetensors", sealed=True)
    assert header == HEADER and loaded.keys() == tensors.keys()
    for name, values in tensors.items():
        assert loaded[name].dtype == dtype and torch.equal(loaded[name], values)


def test_equal_contents_make_equal_files(tmp_path):
    for name in ("a", "b"):
        write_tensors(tmp_path / name, {"x": torch.ones(3), "y": torch.zeros(2)}, HEADER)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "x.safetensors"
    write_tensors(path, {"x": torch.randn(5, 3), "y": torch.arange(4)}, HEADER)
    return path, path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(written, place, bit):
    path, whole = written
    changed = bytearray(whole)
    changed[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        loaded = read_tensors(path, sealed=True)
    except InputError as error:
        assert str(path) in str(error)
        return
    # Blanks of the header's padding mean nothing.
    path.write_bytes(whole)
    expected = read_tensors(path)
    assert loaded[1] == expected[1]
    assert all(torch.equal(loaded[0][name], values) for name, values in expected[0].items())


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), zeros=st.booleans())
def test_a_truncated_or_zeroed_file_is_noticed(written, share, zeros):
    path, whole = written
    cut = int(share * len(whole))
    path.write_bytes(whole[:cut] + bytes(len(whole) - cut if zeros else 0))
    with pytest.raises(InputError, match=r"x\.safetensors: .*(damaged|did not write)"):
        read_tensors(path, sealed=True)


@pytest.mark.parametrize("header", ["{", "[]", "null", "3", '"x"', "[" * 100_000])
def test_headers_of_another_form_are_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(1)}, path, metadata={"whorl": header})
    with pytest.raises(InputError, match=r"damaged"):
        read_tensors(path, sealed=True)


def test_files_of_others_and_folders_are_refused_by_name(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "theirs.safetensors")
    (tmp_path / "text.safetensors").write_text("not one")
    for name, said in (
        ("theirs.safetensors", "did not write"),
        ("text.safetensors", "not a safetensors file"),
        ("absent", "no such file"),
        ("", "is a folder"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            read_tensors(tmp_path / name, expected="features")
        assert "Delete" not in str(caught.value)


def test_a_file_without_checksum_is_of_an_older_whorl(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "x", metadata={"whorl": json.dumps({"kind": "old"})})
    assert read_tensors(tmp_path / "x")[1] == {"kind": "old"}
    with pytest.raises(InputError, match="checksum"):
        read_tensors(tmp_path / "x", sealed=True)


def test_the_hash_is_of_names_types_shapes_and_values():
    x = torch.arange(6)
    different = [
        {"x": x},
        {"y": x},
        {"x": x.reshape(2, 3)},
        {"x": x.int()},
        {"x": x.flip(0)},
        {"x": x, "y": x},
    ]
    assert len({tensors_hash(tensors) for tensors in different}) == len(different)
    assert tensors_hash({"x": x}) != tensors_hash({"x": x}, "text")
    assert tensors_hash({"x": x.reshape(2, 3).T}) == tensors_hash({"x": x.reshape(2, 3).T.contiguous()})
