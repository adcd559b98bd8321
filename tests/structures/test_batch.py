import hypothesis.strategies as st
import pytest
import torch
from ase import Atoms
from hypothesis import given

from whorl.errors import InputError
from whorl.structures import StructureBatch, from_ase


def make(counts, *, info=False, seed=0):
    rng = torch.Generator().manual_seed(seed)
    n = sum(counts)
    return StructureBatch(
        positions=torch.rand(n, 3, generator=rng, dtype=torch.float64),
        cells=torch.rand(len(counts), 3, 3, generator=rng, dtype=torch.float64),
        pbc=torch.rand(len(counts), 3, generator=rng) > 0.5,
        atomic_numbers=torch.randint(1, 100, (n,), generator=rng),
        structure_index=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        info=tuple({"number": i} for i in range(len(counts))) if info else (),
    )


def assert_same(a, b):
    for name in ("positions", "cells", "pbc", "atomic_numbers", "structure_index"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.info == b.info


def test_counts_and_places():
    batch = make([2, 0, 3])
    assert batch.n_atoms.tolist() == [2, 0, 3]
    assert batch.first_atom.tolist() == [0, 2, 2]
    assert batch.position_in_structure.tolist() == [0, 1, 0, 1, 2]
    assert len(batch) == 3


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    data=st.data(),
)
def test_choosing_equals_a_loop(counts, data):
    batch = make(counts, info=True)
    index = data.draw(st.lists(st.integers(-len(counts), len(counts) - 1), min_size=1, max_size=8))
    assert_same(batch[index], StructureBatch.concatenate([batch[i] for i in index]))
    assert_same(batch[torch.tensor(index)], batch[index])


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=8), size=st.integers(1, 9))
def test_pieces_joined_are_the_whole(counts, size):
    batch = make(counts, info=True)
    assert_same(StructureBatch.concatenate(list(batch.chunks(size))), batch)
    assert_same(StructureBatch.concatenate(list(batch)), batch)


def test_slices_and_truths():
    batch = make([1, 2, 3], info=True)
    assert_same(batch[1:], batch[[1, 2]])
    assert_same(batch[torch.tensor([True, False, True])], batch[[0, 2]])
    assert batch[-1].n_atoms.tolist() == [3]
    with pytest.raises(IndexError, match="structure 3 of a batch of 3"):
        batch[3]


def test_gradients_flow_through_choosing():
    batch = make([2, 3])
    positions = batch.positions.clone().requires_grad_(True)
    batch.replace(positions=positions)[[1]].positions.sum().backward()
    assert positions.grad.sum(1).tolist() == [0, 0, 3, 3, 3]


def test_info_of_some_batches_is_kept():
    joined = StructureBatch.concatenate([make([1]), make([2], info=True)])
    assert joined.info == ({}, {"number": 0})


def test_other_dtype_and_device():
    batch = make([2]).to(dtype=torch.float32, device="cpu")
    assert batch.dtype == batch.cells.dtype == torch.float32
    assert batch.atomic_numbers.dtype == torch.int64


def test_bad_shapes_say_what_was_expected():
    batch = make([2, 1], info=True)
    with pytest.raises(InputError, match=r"info: got 1 mappings for 2 structures"):
        batch.replace(info=({},))
    with pytest.raises(InputError, match="got no batches"):
        StructureBatch.concatenate([])


def test_choosing_nothing_gives_an_empty_batch():
    structures = from_ase([Atoms("Pt2", positions=[[0, 0, 0], [2, 0, 0]]), Atoms("Pt")])
    nothing = structures[[]]
    assert len(nothing) == 0 and nothing.positions.shape == (0, 3)
