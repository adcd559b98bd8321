"""Searches of a free cell begin in lattices that are given as likely."""

import pytest
import torch
from ase.build import bulk

from whorl.errors import InputError
from whorl.reconstruction import InversionProblem, solve
from whorl.reconstruction.population.moves import Atoms
from whorl.reconstruction.population.starts import varied_starts
from whorl.representations import ACSF
from whorl.structures import from_ase
from whorl.symmetry.detection import space_group_numbers
from whorl.symmetry.space_groups import Lattices

SALT = from_ase([bulk("NaCl", "rocksalt", 5.64)])
LIKELY = Lattices(
    cells=torch.stack([SALT.cells[0], 1.1 * SALT.cells[0]]), space_groups=torch.tensor([225] * 2)
)


def atoms_of(lattices):
    free = torch.ones(2, dtype=torch.bool)
    return Atoms(SALT.atomic_numbers, SALT.pbc[0], free, free_cell=True, lattices=lattices)


def test_most_starts_have_a_likely_lattice_and_its_space_group():
    positions, cells, groups = varied_starts(
        SALT, atoms_of(LIKELY), count=400, rng=torch.Generator().manual_seed(0)
    )
    near = (cells[:, None] - LIKELY.cells).abs().amax((2, 3)) < 1e-9
    likely = near.any(1)
    assert 0.55 < float(likely.double().mean()) < 0.85 and near.any(0).all()
    symmetric = torch.tensor([group is not None for group in groups])
    some = torch.nonzero(likely & symmetric).flatten()
    made = SALT[[0] * len(some)].replace(positions=positions[some].flatten(0, 1), cells=cells[some])
    right = space_group_numbers(made, symprec=1e-3) == 225
    assert float(right.double().mean()) > 0.6
    without = varied_starts(SALT, atoms_of(None), count=400, rng=torch.Generator().manual_seed(0))[1]
    assert not bool(((without[:, None] - LIKELY.cells).abs().amax((2, 3)) < 1e-9).any())


def test_a_search_finds_a_crystal_in_its_own_lattice_sooner():
    representation = ACSF.crystal(["Na", "Cl"])
    problem = InversionProblem(
        representation=representation,
        target=representation(SALT).flatten(1).detach(),
        template=SALT.replace(
            cells=torch.eye(3, dtype=torch.float64)[None] * 4, positions=0 * SALT.positions
        ),
        free_cell=True,
        names=("salt",),
    )
    spent = [
        int(solve(problem, budget_evaluations=2000, seed=1, lattices=lattices).evaluations[0])
        for lattices in (None, [LIKELY])
    ]
    assert spent[1] <= spent[0]


@pytest.mark.parametrize(
    ("free_cell", "count", "message"), [(True, 2, "got 2, expected an entry"), (False, 1, "held fixed")]
)
def test_lattices_that_fit_no_problem_are_refused(free_cell, count, message):
    representation = ACSF.crystal(["Na", "Cl"])
    problem = InversionProblem(
        representation=representation,
        target=representation(SALT).flatten(1).detach(),
        template=SALT,
        free_cell=free_cell,
    )
    with pytest.raises(InputError, match=message):
        solve(problem, budget_evaluations=10, lattices=[LIKELY] * count)
