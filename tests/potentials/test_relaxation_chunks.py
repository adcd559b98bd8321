"""Relaxation in chunks: the same as in one batch, resumed, and by workers."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from whorl.errors import InputError
from whorl.executors import Processes
from whorl.potentials import make_potential, relax_chunks, relaxed
from whorl.structures import from_ase

GIVEN = [bulk("Cu", a=3.4), Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), bulk("Pt", a=4.1), bulk("Ar", a=5.0)]
GIVEN += [bulk("Au", a=4.0), Atoms("Pt2", [[0, 0, 0], [0, 0, 2.9]])]
NUMBERS = ("energy", "initial_energy", "forces", "stress", "max_force", "max_stress", "pressure", "steps")


def assert_same(one, other, *, tolerance=0.0):
    pairs = [(getattr(one, name), getattr(other, name)) for name in NUMBERS]
    pairs += [(getattr(one.structures, k), getattr(other.structures, k)) for k in ("positions", "cells")]
    for values, expected in pairs:
        torch.testing.assert_close(values, expected, rtol=0, atol=tolerance, equal_nan=True)
    assert one.status == other.status and one.reasons == other.reasons


class Counting:
    name = "counting"

    def __init__(self):
        self.calls = 0

    def __call__(self, structures):
        self.calls += 1
        return make_potential("emt")(structures)


def test_chunks_give_what_one_batch_gives_and_are_read_again(tmp_path):
    structures = from_ase(GIVEN)
    structures = structures.replace(info=tuple({"name": k} for k in range(len(GIVEN))))
    expected = relaxed(structures, make_potential("emt"), steps=20)
    seen = []
    potential = Counting()
    for _ in range(2):
        result = relax_chunks(
            structures,
            potential,
            folder=tmp_path,
            structures_at_once=2,
            steps=20,
            progress=lambda done, of: seen.append((done, of)),
        )
        assert_same(result, expected, tolerance=1e-6)
        assert [info["name"] for info in result.structures.info] == list(range(len(GIVEN)))
        calls = potential.calls
    assert potential.calls == calls > 0 and (6, 6) in seen
    assert set(result.reasons) >= {3} and result.status[3] == "failed"
    (tmp_path / "00001.safetensors").unlink()
    again = relax_chunks(structures, potential, folder=tmp_path, structures_at_once=2, steps=20)
    assert_same(again, result)
    assert potential.calls > calls
    calls = potential.calls
    relax_chunks(structures, potential, folder=tmp_path, structures_at_once=2, steps=20, pressure=1.0)
    assert potential.calls > calls


def test_workers_give_the_same_bits(tmp_path):
    expected = relax_chunks(GIVEN, make_potential("emt"), folder=None, structures_at_once=2)
    with Processes(workers=2) as executor:
        result = relax_chunks(
            GIVEN, make_potential("emt"), folder=tmp_path, structures_at_once=2, executor=executor
        )
    assert_same(result, expected)


def test_no_structures_and_wrong_settings():
    assert relax_chunks(from_ase(GIVEN)[:0], make_potential("emt"), folder=None).status == ()
    with pytest.raises(InputError, match="steps: got -1"):
        relax_chunks(GIVEN, make_potential("emt"), folder=None, steps=-1)
