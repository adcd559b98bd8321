import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, make_supercell, molecule
from ase.cluster import Icosahedron
from scipy.spatial.transform import Rotation

from whorl.errors import InputError
from whorl.evaluation.matching import rmsd, structure_matcher_rms
from whorl.structures import from_ase


def turned(rng, mirror):
    turn = Rotation.random(random_state=rng).as_matrix()
    return -turn if mirror else turn


def shuffled(atoms, rng, *, noise=0.0, mirror=False):
    """Return the same cluster, turned, moved, in another order, and perturbed."""
    positions = atoms.positions + rng.normal(size=(len(atoms), 3)) * noise
    order = rng.permutation(len(atoms))
    return Atoms(
        atoms.numbers[order], (positions @ turned(rng, mirror) + rng.normal(size=3) * 5)[order], pbc=False
    )


def distance(found, reference):
    return float(rmsd(from_ase([found]), from_ase([reference])))


RING = np.stack(
    [3 * np.cos(np.arange(8) * np.pi / 4), 3 * np.sin(np.arange(8) * np.pi / 4), np.zeros(8)], axis=1
)
DIFFUSE = np.random.default_rng(5).normal(size=(10, 3)) * np.array([9.0, 4.0, 2.0])
CLUSTERS = {
    "one atom": Atoms("Pt"),
    "two atoms": Atoms("PtNi", [[0, 0, 0], [0, 0, 2.4]]),
    "icosahedron": Atoms("Pt13", Icosahedron("Pt", 2).positions),
    "ring": Atoms("Pt8", RING),
    "chain": Atoms("Pt7", np.arange(7)[:, None] * np.array([[2.5, 0, 0]])),
    "diffuse": Atoms("Pt10", DIFFUSE),
    "chiral": molecule("CH3CONH2"),
    "large": Atoms("Pt60", np.random.default_rng(6).uniform(size=(60, 3)) * 11),
}


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_are_known_again(name, mirror):
    rng = np.random.default_rng(1)
    for _ in range(3):
        assert distance(shuffled(CLUSTERS[name], rng, mirror=mirror), CLUSTERS[name]) < 1e-6


@pytest.mark.parametrize("name", ["icosahedron", "ring", "chain", "diffuse", "large"])
def test_displaced_atoms_give_at_most_their_displacement(name):
    rng = np.random.default_rng(2)
    for noise in (0.03, 0.15):
        found = shuffled(CLUSTERS[name], rng, noise=noise, mirror=True)
        # The noise is √3 σ; turning and moving the whole takes some of it away.
        assert 0.9 * noise < distance(found, CLUSTERS[name]) < 2.1 * noise


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_least_over_all_permutations(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 3)) * 2
    y = rng.normal(size=(6, 3)) * 2 if seed % 2 else x + rng.normal(size=(6, 3)) * 0.7
    x, y = x - x.mean(0), y - y.mean(0)
    least = np.inf
    for order in itertools.permutations(range(6)):
        u, _, vt = np.linalg.svd(x[list(order)].T @ y)
        least = min(least, np.sqrt(((x[list(order)] @ u @ vt - y) ** 2).sum(1).mean()))
    assert distance(Atoms("Pt6", x), Atoms("Pt6", y)) == pytest.approx(least, abs=1e-9)


def test_other_structures_are_far():
    rng = np.random.default_rng(3)
    ico = CLUSTERS["icosahedron"]
    cut = bulk("Pt", cubic=True).repeat(3)
    nearest = np.argsort(np.linalg.norm(cut.positions - cut.positions.mean(0), axis=1))[:13]
    assert distance(Atoms("Pt13", cut.positions[nearest]), ico) > 0.3
    moved = ico.copy()
    moved.positions[12] *= 1.6
    assert distance(shuffled(moved, rng), ico) > 0.2


def test_elements_count():
    base = np.array([[0, 0, 0], [0, 0, 2.0], [0, 2.6, 0]])
    first, swapped = Atoms("PtNiNi", base), Atoms("NiPtNi", base)
    assert distance(first, swapped) > 0.1
    assert distance(first, Atoms("PtPtNi", base)) == np.inf
    assert distance(first, Atoms("PtNi", base[:2])) == np.inf
    assert distance(Atoms("PtNiNi", base * np.nan), first) == np.inf


def test_batches():
    names = ["diffuse", "icosahedron", "ring"]
    rng = np.random.default_rng(4)
    reference = from_ase([CLUSTERS[name] for name in names])
    found = from_ase([shuffled(CLUSTERS[name], rng) for name in names])
    values = rmsd(found, reference)
    assert values.shape == (3,) and values.dtype == torch.float64 and bool((values < 1e-6).all())
    with pytest.raises(InputError, match="3 structures and 2"):
        rmsd(found, reference[:2])
    assert rmsd(found[:0], reference[:0]).shape == (0,)


def quartz(mirror=False):
    """Return α-quartz; left-handed when mirrored."""
    from ase.spacegroup import crystal

    atoms = crystal(
        "SiO",
        [(0.4697, 0, 0), (0.4133, 0.2672, 0.1188)],
        spacegroup=152,
        cellpar=[4.916, 4.916, 5.405, 90, 90, 120],
    )
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    if mirror:
        atoms = Atoms(
            atoms.numbers, -atoms.get_scaled_positions() @ atoms.cell.array, cell=atoms.cell, pbc=True
        )
    return atoms


def triclinic():
    rng = np.random.default_rng(7)
    cell = np.array([[4.1, 0, 0], [1.2, 5.3, 0], [-0.9, 1.7, 6.2]])
    return Atoms("Ti2O4Ba", rng.uniform(size=(7, 3)) @ cell, cell=cell, pbc=True)


CRYSTALS = {
    "salt": bulk("NaCl", "rocksalt", 5.64, cubic=True),
    "metal": bulk("Pt", cubic=True),
    "primitive": bulk("Pt"),
    "quartz": quartz(),
    "triclinic": triclinic(),
}


def moved_crystal(atoms, rng, *, noise=0.0, mirror=False, basis=None):
    """Return the same crystal with another origin, order, orientation, and choice of lattice vectors."""
    turn = turned(rng, mirror)
    positions = atoms.positions + rng.normal(size=(len(atoms), 3)) * noise + rng.uniform(size=3) * 5
    order = rng.permutation(len(atoms))
    cell = np.eye(3) if basis is None else basis
    found = Atoms(
        atoms.numbers[order], (positions @ turn)[order], cell=cell @ atoms.cell.array @ turn, pbc=True
    )
    found.wrap()
    return found


OTHER_VECTORS = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])


@pytest.mark.parametrize("basis", [None, OTHER_VECTORS])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_are_known_again(name, mirror, basis):
    rng = np.random.default_rng(1)
    atoms = CRYSTALS[name]
    assert distance(moved_crystal(atoms, rng, mirror=mirror, basis=basis), atoms) < 1e-6
    noisy = distance(moved_crystal(atoms, rng, noise=0.02, mirror=mirror, basis=basis), atoms)
    assert noisy < 0.06 and (noisy > 0.005 or len(atoms) == 1)


def test_left_and_right_are_one():
    assert distance(quartz(mirror=True), quartz()) < 1e-6
    both = structure_matcher_rms(from_ase([quartz(mirror=True)]), from_ase([quartz()]))
    assert float(both) < 1e-3


def test_agrees_with_pymatgen():
    rng = np.random.default_rng(8)
    for atoms in (quartz(), triclinic(), CRYSTALS["salt"]):
        found = moved_crystal(atoms, rng, noise=0.05)
        theirs = float(structure_matcher_rms(from_ase([found]), from_ase([atoms])))
        assert distance(found, atoms) == pytest.approx(theirs, abs=2e-3)


def test_a_strain_counts():
    salt, wide = CRYSTALS["salt"], bulk("NaCl", "rocksalt", 5.64 * 1.05, cubic=True)
    assert distance(wide, salt) == pytest.approx(0.05 * 5.64 * np.sqrt(3 / 12), rel=1e-6)
    assert distance(bulk("NaCl", "rocksalt", 5.64 * 1.5, cubic=True), salt) == np.inf


def test_one_crystal_in_two_cells_of_the_same_volume():
    primitive = bulk("Pt")
    first = make_supercell(primitive, np.diag([2, 1, 1]))
    second = make_supercell(primitive, [[2, 0, 0], [0, 1, 0], [1, 0, 1]])
    third = make_supercell(primitive, [[1, 1, 0], [1, -1, 0], [0, 0, 1]])
    for other in (second, third):
        assert distance(other, first) < 1e-6


def test_wrong_crystals_are_far():
    blende = bulk("NaCl", "zincblende", 5.64, cubic=True)
    assert distance(blende, CRYSTALS["salt"]) > 0.5
    changed = triclinic()
    changed.positions[3] += [0, 0.8, 0]
    assert 0.1 < distance(changed, triclinic()) < 0.8 / np.sqrt(7) + 1e-9


def test_layers_may_lie_anywhere():
    sheet = graphene(size=(2, 2, 1), vacuum=5.0)
    sheet.pbc = [True, True, False]
    found = sheet.copy()
    found.positions += [0.3, 0.8, 4.0]
    found.cell[2] = 0.0
    assert distance(found, sheet) < 1e-6
    found.positions[0, 2] += 0.5
    assert distance(found, sheet) > 0.1
    assert distance(Atoms(found.numbers, found.positions), sheet) == np.inf


def rigidly_moved(atoms, rng):
    """Return the same structure turned, mirrored, moved, reordered, in another choice of lattice vectors."""
    n, pbc, cell = len(atoms), atoms.pbc, atoms.cell.array.copy()
    periodic = cell[pbc]
    steps = rng.integers(-2, 3, size=(n, pbc.sum())) @ periodic if pbc.any() else 0.0
    positions = atoms.positions + steps
    if pbc.sum() == 2:
        periodic = np.array([[1, rng.integers(-1, 2)], [0, rng.choice([-1, 1])]]) @ periodic
    elif pbc.sum() == 1:
        periodic = periodic * rng.choice([-1, 1])
    cell[pbc] = periodic
    cell[~pbc] = rng.choice([0.0, 9.0]) * cell[~pbc]  # they mean nothing
    turn, order = turned(rng, bool(rng.integers(2))), rng.permutation(n)
    moved = (positions @ turn + rng.normal(size=3) * 5)[order]
    return Atoms(atoms.numbers[order], moved, cell=cell @ turn, pbc=pbc)


def some_structure(rng, pbc, n):
    cell = np.diag(rng.uniform(3, 6, size=3)) + rng.uniform(-1, 1, size=(3, 3))
    numbers = rng.choice([6, 8, 78], size=n)
    return Atoms(numbers, rng.uniform(0, 5, size=(n, 3)), cell=cell, pbc=pbc)


@pytest.mark.parametrize(
    "pbc", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_whatever_is_moved_as_a_whole_is_known_again(pbc, n):
    rng = np.random.default_rng(n)
    for _ in range(3):
        atoms = some_structure(rng, pbc, n)
        assert distance(rigidly_moved(atoms, rng), atoms) < 1e-6


def test_a_rod_may_turn_about_its_axis():
    rod = Atoms("CuO", [[0, 0, 0], [1.8, 0.3, 0]], cell=[3.7, 0, 0], pbc=[True, False, False])
    for angle in (10, 33.3, 90, 200):
        found = rod.copy()
        found.rotate(angle, "x")
        assert distance(found, rod) < 1e-6
    found.positions[1, 0] += 0.3
    assert 0.05 < distance(found, rod) < 0.3 / np.sqrt(2) + 1e-9


def test_rods_that_differ_are_far():
    helix = lambda angle: Atoms(  # noqa: E731
        "Pt4",
        [[1.5 * k, 2 * np.cos(k * angle), 2 * np.sin(k * angle)] for k in range(4)],
        cell=[6.0, 0, 0],
        pbc=[True, False, False],
    )
    assert distance(helix(np.pi / 2), helix(-np.pi / 2)) < 1e-6  # left and right are one
    assert distance(helix(np.pi / 2), helix(np.pi)) > 0.5
    stretched = helix(np.pi / 2)
    stretched.set_cell([6.1, 0, 0])
    stretched.positions[:, 0] *= 6.1 / 6.0
    assert distance(stretched, helix(np.pi / 2)) == pytest.approx(0.1 / np.sqrt(12), abs=1e-6)
    stretched.set_cell([9.0, 0, 0])
    assert distance(stretched, helix(np.pi / 2)) == np.inf


@pytest.mark.parametrize("n", [3, 12])
def test_a_displaced_rod_is_as_far_as_its_displacement(n):
    rng = np.random.default_rng(n)
    for _ in range(3):
        rod = some_structure(rng, (0, 0, 1), n)
        found = rigidly_moved(rod, rng)
        noise = rng.normal(size=(n, 3)) * 0.02
        found.positions += noise
        assert distance(found, rod) <= np.sqrt((noise**2).sum(1).mean()) + 1e-9


def test_a_layer_is_not_stood_on_edge():
    """The vector given to the direction that is not periodic is never taken for one of the layer's."""
    flat = Atoms("PtNi", [[0, 0, 0], [2, 0, 0]], cell=[15, 15, 15], pbc=[True, True, False])
    upright = Atoms("PtNi", [[0, 0, 0], [0, 0, 2]], cell=[15, 15, 15], pbc=[True, True, False])
    assert distance(upright, flat) > 0.5
