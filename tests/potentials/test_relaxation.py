import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.optimize import BFGS

from whorl.potentials import PotentialOutput, make_potential, relax
from whorl.structures import from_ase, to_ase


def clusters(count):
    rng = np.random.default_rng(0)
    tetrahedron = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2.0
    return [Atoms("Pt4", tetrahedron + rng.normal(0, 0.2, (4, 3))) for _ in range(count)]


def test_reaches_the_minimum_that_ase_finds():
    potential = make_potential("emt")
    given = from_ase(clusters(2))
    last = {}
    for frame in relax(given, potential, force_tolerance=0.02):
        for k, row in enumerate(frame.index.tolist()):
            last[row] = (float(frame.energy[k]), bool(frame.converged[k]), frame.step)
            if frame.step == 0:
                assert torch.equal(frame.structures.positions, given.positions)
    assert all(converged for _, converged, _ in last.values())
    for row, atoms in enumerate(to_ase(given)):
        atoms.calc = potential._calculator
        BFGS(atoms, logfile=None).run(fmax=0.005)
        assert last[row][0] == pytest.approx(atoms.get_potential_energy(), abs=2e-3)


def test_structures_do_not_see_one_another():
    potential = make_potential("emt")
    batch = from_ase(clusters(3))

    def path(structures):
        return {
            (row, frame.step): float(e)
            for frame in relax(structures, potential, steps=12)
            for row, e in zip(frame.index.tolist(), frame.energy, strict=True)
        }

    together = path(batch)
    for row, one in enumerate(batch):
        alone = path(one)
        assert alone.keys() == {(0, step) for r, step in together if r == row}
        assert all(together[row, step] == pytest.approx(e, abs=1e-9) for (_, step), e in alone.items())


def test_no_step_is_longer_than_allowed():
    frames = list(
        relax(from_ase(clusters(2)), make_potential("emt"), steps=20, longest_step=0.03, force_tolerance=1e-9)
    )
    assert len(frames) == 21
    for before, after in itertools.pairwise(frames):
        moved = (after.structures.positions - before.structures.positions).norm(dim=1)
        assert float(moved.max()) <= 0.03 + 1e-12


class FailsOnTheThirdCall:
    name = "fails"

    def __init__(self):
        self.calls, self.emt = 0, make_potential("emt")

    def __call__(self, structures):
        self.calls += 1
        output = self.emt(structures)
        if self.calls != 3:
            return output
        energy = output.energy.clone()
        energy[1] = float("nan")
        return PotentialOutput(energy=energy, forces=output.forces, failures={1: "out of luck"})


def test_one_that_fails_leaves_and_the_others_go_on():
    frames = list(relax(from_ase(clusters(3)), FailsOnTheThirdCall(), steps=4, force_tolerance=1e-9))
    assert [frame.index.tolist() for frame in frames] == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [0, 2]]
    assert frames[2].failures == {1: "out of luck"} and frames[3].failures == {}
    assert all(bool(frame.energy.isfinite().all()) for frame in frames)


def test_one_atom_is_at_rest():
    (frame,) = relax(from_ase([Atoms("Pt")]), make_potential("emt"))
    assert frame.converged.tolist() == [True]
