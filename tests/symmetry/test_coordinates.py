import numpy as np
import pytest
import torch

from whorl.representations import ACSF
from whorl.representations.base import Representation
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import strained
from whorl.symmetry.coordinates import SymmetryCoordinates
from whorl.symmetry.groups import symmetric_arrangement
from whorl.symmetry.space_groups import random_group

NUMBERS = np.array([22] * 4 + [8] * 8)
CELLS = {
    "tetragonal": np.diag([5.0, 5.0, 7.0]),
    "hexagonal": np.array([[5.0, 0, 0], [-2.5, 2.5 * 3**0.5, 0], [0, 0, 6]]),
    "face-centred": np.array([[0.0, 4, 4], [4, 0, 4], [4, 4, 0]]),
}


def symmetric_structures(cell, count, *, free_cell, seed=0):
    rng = np.random.default_rng(seed)
    positions, orbits = [], []
    while len(orbits) < count:
        group = random_group(cell, rng)
        found = symmetric_arrangement(NUMBERS, group, rng)
        if found is None or len(group) == 1:
            continue
        one = group.orbits(found, cell, free_cell=free_cell)
        assert one is not None
        positions.append(found @ cell)
        orbits.append(one)
    n = len(NUMBERS)
    batch = StructureBatch(
        positions=torch.from_numpy(np.concatenate(positions)),
        cells=torch.from_numpy(cell).expand(count, 3, 3).clone(),
        pbc=torch.ones(count, 3, dtype=torch.bool),
        atomic_numbers=torch.from_numpy(NUMBERS).repeat(count),
        structure_index=torch.arange(count).repeat_interleave(n),
    )
    return batch, SymmetryCoordinates.stack(orbits)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("free_cell", [False, True])
@pytest.mark.parametrize("pooling", [("mean", "std"), ("max", "min")])
def test_one_atom_of_each_orbit_stands_for_all(name, free_cell, pooling):
    structures, orbits = symmetric_structures(CELLS[name], 6, free_cell=free_cell)
    acsf = ACSF.crystal(["Ti", "O"], cutoff=4.0, pooling=pooling)
    value, along = acsf.value_and_jacobian_along(structures, orbits)
    torch.testing.assert_close(value, acsf(structures), rtol=1e-9, atol=1e-9)
    expected, full = Representation.value_and_jacobian_along(acsf, structures, orbits)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    # Of a deviation that is zero by symmetry, rounding makes slopes of its own.
    sound = (value.abs() > 1e-6)[..., None]
    same = torch.isclose(along, full, rtol=1e-6, atol=1e-6) | ~sound
    # Two orbits on places of no freedom may share an extreme, which then has the slope of either.
    assert same.double().mean() > (0.999 if "max" in pooling else 0.999999)
    resting, none = acsf.value_and_jacobian_along(structures, orbits.resting)
    torch.testing.assert_close(resting, value)
    assert none.shape == (*value.shape, 0)


def test_motions_are_orthonormal_and_keep_the_symmetry():
    structures, orbits = symmetric_structures(CELLS["hexagonal"], 8, free_cell=True, seed=1)
    columns = torch.cat([orbits.atoms.flatten(1, 2), orbits.strain.flatten(1, 2)], 1)
    products = columns.transpose(1, 2) @ columns
    assert torch.allclose(products, torch.diag_embed(products.diagonal(dim1=1, dim2=2)), atol=1e-9)
    assert set(products.diagonal(dim1=1, dim2=2).round().flatten().tolist()) <= {0.0, 1.0}
    # Atoms of an orbit still have like surroundings after a step.
    step = 0.05 * torch.randn(len(orbits), orbits.atoms.shape[3], dtype=torch.float64)
    shifts, strain = orbits.displacement(step)
    moved = strained(structures.replace(positions=structures.positions + shifts.flatten(0, 1)), strain)
    atomic = ACSF.crystal(["Ti", "O"], cutoff=4.0).atomic_features(moved).unflatten(0, (len(orbits), -1))
    heads = atomic.gather(1, orbits.head[..., None].expand_as(atomic))
    torch.testing.assert_close(atomic, heads, rtol=1e-7, atol=1e-7)


def test_general_positions_have_three_coordinates_each():
    batch, orbits = symmetric_structures(
        np.array([[4.0, 0, 0], [0.7, 5, 0], [0.3, 0.4, 6]]), 3, free_cell=True
    )
    # A triclinic lattice: all six strains.
    assert torch.equal((orbits.strain != 0).any(1).any(1).sum(1), torch.full((3,), 6))
    assert orbits[1:].head.shape == (2, 12)
    assert len(batch) == len(orbits) == 3


def test_asymmetric_atoms_have_no_orbits():
    rng = np.random.default_rng(0)
    cell = CELLS["tetragonal"]
    group = random_group(cell, rng)
    while len(group) == 1:
        group = random_group(cell, rng)
    assert group.orbits(rng.random((12, 3)), cell) is None
