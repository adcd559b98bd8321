import dataclasses

import pytest
import torch

from whorl.chunked import Part, load_part, map_chunks, parts_folder, remove_parts, save_part
from whorl.structures import StructureBatch


class Work:
    """Sums of rows or positions, counting what is computed."""

    def __init__(self, folder):
        self.folder, self.computed = folder, 0

    def __call__(self, chunks, *, key="settings", fail_at=None):
        self.computed = 0

        def function(chunk):
            if self.computed == fail_at:
                raise KeyboardInterrupt
            self.computed += 1
            values = chunk.positions if isinstance(chunk, StructureBatch) else chunk
            return Part({"sum": values.sum(0, keepdim=True)}, {"rows": len(chunk)})

        parts = map_chunks(function, chunks, folder=self.folder, key=key)
        return torch.cat([part.tensors["sum"] for part in parts])


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "parts")


@pytest.fixture
def rows():
    return list(torch.arange(24.0).reshape(8, 3).split(2))


def test_what_is_finished_is_not_computed_again(work, rows):
    with pytest.raises(KeyboardInterrupt):
        work(rows, fail_at=2)
    first = work(rows)
    assert work.computed == 2
    assert torch.equal(work(rows), first) and work.computed == 0
    assert torch.equal(first, torch.stack([chunk.sum(0) for chunk in rows]))


def test_parts_of_other_contents_are_made_again(work, rows):
    work(rows)
    changed = [chunk.clone() for chunk in rows]
    changed[1][0, 0] += 1e-6
    assert not torch.equal(work(changed), work(rows)) and work.computed == 1
    work(rows, key="other settings")
    assert work.computed == 4
    work(list(reversed(rows)), key="other settings")
    assert work.computed == 4


@pytest.mark.parametrize("field", ["positions", "cells", "pbc", "atomic_numbers", "structure_index"])
def test_parts_of_other_structures_are_made_again(work, field):
    structures = StructureBatch(
        positions=torch.arange(9.0).reshape(3, 3),
        cells=torch.eye(3).repeat(2, 1, 1),
        pbc=torch.ones(2, 3, dtype=torch.bool),
        atomic_numbers=torch.tensor([1, 6, 8]),
        structure_index=torch.tensor([0, 0, 1]),
    )
    work([structures])
    work([dataclasses.replace(structures)])
    assert work.computed == 0
    values = getattr(structures, field).clone()
    values.view(-1)[1] = True if field == "structure_index" else ~values.view(-1)[1] if field == "pbc" else 7
    work([structures.replace(**{field: values})])
    assert work.computed == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete", "swap", "plain"])
def test_damaged_parts_are_made_again(work, rows, damage):
    right = work(rows)
    path, other = (work.folder / f"{number:05d}.safetensors" for number in (1, 2))
    whole = path.read_bytes()
    if damage == "delete":
        path.unlink()
    elif damage == "plain":
        from safetensors.torch import save_file

        save_file({"sum": torch.zeros(1, 3)}, path)
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        path.write_bytes(
            {"flip": flipped, "truncate": whole[:-8], "empty": b"", "swap": other.read_bytes()}[damage]
        )
    assert torch.equal(work(rows), right)
    assert work.computed == 1


def test_another_version_makes_parts_again(work, rows, monkeypatch):
    work(rows)
    monkeypatch.setattr("whorl.chunked.__version__", "999")
    work(rows)
    assert work.computed == len(rows)


def test_parts_with_views_of_one_tensor_come_back(tmp_path):
    whole = torch.arange(6.0)
    save_part(tmp_path / "p", Part({"a": whole, "b": whole[2:4]}, {"note": 1}), key="k")
    part = load_part(tmp_path / "p", key="k")
    assert part is not None and part.notes == {"note": 1}
    assert torch.equal(part.tensors["a"], whole) and torch.equal(part.tensors["b"], whole[2:4])
    assert load_part(tmp_path / "p", key="other") is None


def test_parts_of_a_written_result_are_removed(tmp_path):
    output, other = tmp_path / "a[1].safetensors", tmp_path / "a1.safetensors"
    for path, key in ((output, 1), (output, 2), (other, 1)):
        parts_folder(path, key).mkdir()
    remove_parts(output)
    assert [path.name for path in tmp_path.iterdir()] == [parts_folder(other, 1).name]


def test_tensors_of_a_part_may_share_memory(tmp_path):
    whole = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    views = {
        "whole": whole,
        "row": whole[1],
        "same": whole[None],
        "turned": whole.T,
        "one": whole[:1].expand(3, 6),
    }
    save_part(tmp_path / "part", Part(views), key="k")
    loaded = load_part(tmp_path / "part", key="k")
    assert loaded is not None and loaded.tensors.keys() == views.keys()
    for name, tensor in views.items():
        assert torch.equal(loaded.tensors[name], tensor)


def test_without_a_folder_nothing_is_kept(rows):
    work = Work(None)
    assert torch.equal(work(rows), work(rows)) and work.computed == 4
