import numpy as np
import pytest
import torch

from whorl.reconstruction import InversionProblem, solve
from whorl.representations import ACSF
from whorl.structures.batch import StructureBatch
from whorl.symmetry.groups import SYMMETRIC_MOVES, random_subgroup, symmetric_arrangement, symmetric_move
from whorl.symmetry.point_groups import PointGroup, point_groups, random_point_group

ORDERS = {
    **dict.fromkeys(("Cs", "Ci"), 2),
    "T": 12,
    "Th": 24,
    "Td": 24,
    "O": 24,
    "Oh": 48,
    "I": 60,
    "Ih": 120,
    **{f"C{n}": n for n in range(2, 7)},
    **{f"C{n}{kind}": 2 * n for n in range(2, 7) for kind in "vh"},
    **{f"S{2 * n}": 2 * n for n in range(2, 7)},
    **{f"D{n}": 2 * n for n in range(2, 7)},
    **{f"D{n}{kind}": 4 * n for n in range(2, 7) for kind in "hd"},
}


def group_of(name):
    rotations = point_groups()[name]
    return PointGroup(rotations, np.zeros((len(rotations), 3), dtype=np.int64), np.full(3, 5.0))


def test_all_groups_have_their_order():
    assert {name: len(rotations) for name, rotations in point_groups().items()} == ORDERS


@pytest.mark.parametrize("name", sorted(set(ORDERS) - {"I", "Ih"}))  # of so many atoms it takes long
def test_general_points_have_the_group_that_pymatgen_finds(name):
    from pymatgen.core import Molecule
    from pymatgen.symmetry.analyzer import PointGroupAnalyzer

    rng = np.random.default_rng(1)
    group = group_of(name)
    points = np.concatenate([group.orbit(5.0 * rng.random(3)) for _ in range(3)])
    found = PointGroupAnalyzer(Molecule(["H"] * len(points), points), tolerance=0.02)
    assert found.sch_symbol == name


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_a_site_has_as_many_images_as_it_says(name):
    rng = np.random.default_rng(0)
    group = group_of(name)
    assert group.sites[-1].multiplicity == len(group)
    for site in group.sites:
        x = group.draw(site, rng)
        assert len(group.orbit(x)) == site.multiplicity
        fixing = [w for w in group.rotations if np.allclose(w @ x, x, atol=1e-9)]
        assert len(fixing) * site.multiplicity == len(group)
        # No freedom is left out: all that the operations of the point leave as it is.
        assert np.linalg.matrix_rank(np.mean(fixing, 0), tol=1e-6) == len(site.basis)


@pytest.mark.parametrize("seed", range(12))
def test_arrangements_and_moves_keep_the_group(seed):
    rng = np.random.default_rng(seed)
    numbers = np.array([78] * 13 + [6] * 12)
    group = random_point_group(5.0, rng)
    found = symmetric_arrangement(numbers, group, rng)
    if found is None:
        return
    permutation = group.permutation(found)
    assert permutation is not None
    assert (numbers[permutation] == numbers).all()
    orbits = group.orbits(found, np.eye(3))
    assert orbits is not None
    step = torch.from_numpy(0.1 * rng.standard_normal((1, orbits.atoms.shape[3])))
    assert group.permutation(found + orbits.displacement(step)[0][0].numpy()) is not None
    for name in SYMMETRIC_MOVES:
        moved = symmetric_move(name, found, np.eye(3), numbers, group, rng)
        assert moved is None or group.permutation(moved) is not None, name


@pytest.mark.parametrize("seed", range(6))
def test_a_part_of_a_group_is_closed(seed):
    rng = np.random.default_rng(seed)
    group = group_of("D6h")
    part = random_subgroup(group, rng)
    if part is None:
        return
    assert len(group) % len(part) == 0
    for w in part.rotations:
        for v in part.rotations:
            assert np.isclose(w @ v, part.rotations, atol=1e-9).all((1, 2)).any()


def test_a_symmetric_cluster_needs_few_evaluations():
    """A cuboctahedron with its centre: without symmetry 33 coordinates."""
    corners = np.array([(x, y, 0) for x in (-1, 1) for y in (-1, 1)], dtype=float)
    points = np.concatenate([np.zeros((1, 3)), *(np.roll(corners, k, 1) for k in range(3))]) * 2.0
    points = np.concatenate([points, 3.1 * np.concatenate([np.eye(3), -np.eye(3)])])
    original = StructureBatch(
        positions=torch.from_numpy(points),
        cells=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        atomic_numbers=torch.full((len(points),), 78),
        structure_index=torch.zeros(len(points), dtype=torch.int64),
    )
    acsf = ACSF.fung2022(["Pt"])
    template = original.replace(positions=torch.zeros_like(original.positions))
    problem = InversionProblem(representation=acsf, target=acsf(original), template=template)
    found = solve(problem, budget_evaluations=1500, seed=0)
    assert found.status[0].value == "converged"
    distances = torch.pdist(found.structures.positions).sort().values
    torch.testing.assert_close(distances, torch.pdist(original.positions).sort().values, atol=1e-3, rtol=0)
