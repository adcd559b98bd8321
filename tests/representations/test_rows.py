"""Rows: structures come back from one radial fingerprint for each atom."""

import re

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.cluster import Icosahedron, Octahedron

from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.representations import Rows
from whorl.representations.rows_decoding import Gaussians, distances
from whorl.structures import from_ase


def disordered(symbols: str, seed: int) -> Atoms:
    """Return atoms at random in a sphere, none nearer than 2.3 Å."""
    rng = np.random.default_rng(seed)
    n = len(Atoms(symbols))
    radius = 1.73 * n ** (1 / 3)
    points: list[np.ndarray] = []
    while len(points) < n:
        point = rng.uniform(-radius, radius, 3)
        if np.linalg.norm(point) < radius and all(np.linalg.norm(point - other) > 2.3 for other in points):
            points.append(point)
    return Atoms(symbols, points)


def lattice(*counts: int) -> np.ndarray:
    """Return the points of a simple cubic lattice."""
    return 2.6 * np.argwhere(np.ones(counts)).astype(float)


def square_of_eight() -> np.ndarray:
    """Return eight points around a square, in a plane."""
    grid = lattice(3, 3, 1)
    return np.delete(grid - grid.mean(0), 4, axis=0) * (2.5 / 2.6)


def made_for(*atoms: Atoms, **settings) -> tuple[Rows, torch.Tensor]:
    structures = from_ase(list(atoms))
    species = sorted({symbol for one in atoms for symbol in one.get_chemical_symbols()})
    rows = Rows.Settings(**settings).build(species, structures=structures)
    return rows, rows(structures)


def assert_recovered(decoded, *atoms: Atoms, within: float = 1e-4) -> None:
    assert not decoded.skipped
    assert bool((rmsd(decoded.structures, from_ase(list(atoms))) < within).all())


def test_values_are_sums_of_gaussians_in_the_order_of_species_and_distances():
    atoms = disordered("Ni2Pt3", 1)
    rows, (values,) = made_for(atoms)
    d = atoms.get_all_distances()
    tags = d @ (1.0 + 0.1 * (atoms.numbers == 78))
    order = sorted(range(5), key=lambda i: (atoms.numbers[i], tags[i]))
    expected = []
    for i in order:
        own = [float(atoms.symbols[i] == symbol) for symbol in ("Ni", "Pt")]
        for symbol in ("Ni", "Pt"):
            others = [j for j in range(5) if j != i and atoms.symbols[j] == symbol]
            centres = rows.shortest + rows.width * (np.arange(rows.gaussians.count) - 3.0)
            own += [
                sum(np.exp(-((d[i, j] - centre) ** 2) / (2 * rows.width**2)) for j in others)
                for centre in centres
            ]
        expected.append(own)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("symbols", ["Pt10", "Pt20", "Pt40", "Ni8Pt12", "CHNO7", "H2", "Ar"])
def test_disordered_clusters_come_back_exactly(symbols):
    atoms = [disordered(symbols, seed) for seed in range(3)]
    rows, values = made_for(*atoms)
    decoded = rows.decode(values)
    assert bool((decoded.loss < 1e-9).all())
    assert_recovered(decoded, *atoms)


def test_sizes_may_differ_and_rows_of_zeros_are_no_atoms():
    atoms = [disordered("Pt4", 1), disordered("Pt13", 2), Atoms("Pt")]
    rows, values = made_for(*atoms)
    assert values.shape == (3, 13, 1 + rows.gaussians.count) and not bool(values[0, 4:].any())
    assert_recovered(rows.decode(values), *atoms)


def test_mirror_images_have_the_same_rows():
    atoms = disordered("Pt9", 3)
    mirrored = Atoms("Pt9", atoms.positions * [1, 1, -1])
    _, values = made_for(atoms, mirrored)
    torch.testing.assert_close(values[0], values[1], atol=1e-10, rtol=0)


def test_what_is_beyond_the_cutoff_is_completed():
    atoms = disordered("Pt30", 4)
    diameter = atoms.get_all_distances().max()
    rows, values = made_for(atoms, cutoff=0.7 * diameter)
    assert_recovered(rows.decode(values), atoms)


def test_single_precision_is_enough():
    atoms = disordered("Pt20", 5)
    rows, values = made_for(atoms)
    decoded = rows.decode(values.float())
    assert bool((decoded.loss <= rows.exact_below).all())
    assert_recovered(decoded, atoms)


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_noise_moves_atoms_little(noise):
    atoms = [disordered("Pt20", seed) for seed in range(5)]
    rows, values = made_for(*atoms)
    errors = noise * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).double()
    decoded = rows.decode(values + errors)
    assert_recovered(decoded, *atoms, within=0.05)
    assert bool((decoded.loss > rows.exact_below).all()), "no structure has noisy rows exactly"


def test_a_formula_decides_what_the_rows_leave_open():
    atoms = disordered("Ni3Pt4", 6)
    rows, values = made_for(atoms)
    values[0, 2, :2] = torch.tensor([0.45, 0.55])  # an atom of nickel that looks like platinum
    decoded = rows.decode(values, formula={"Ni": 3, "Pt": 4})
    assert_recovered(decoded, atoms)
    assert "formula" in rows.decode(values, formula={"Au": 7}).skipped[0]


def test_functions_that_are_too_coarse_are_refused_with_the_width_that_is_needed():
    atoms = disordered("Pt20", 7)
    with pytest.raises(InputError, match=r"width 0\.8 Å.*too coarse.*at most 0\.\d+ Å"):
        made_for(atoms, width=0.8)
    rows = Rows(species=["Pt"], max_atoms=20, shortest=2.0, cutoff=9.0, width=0.8)
    assert "too coarse" in rows.decode(rows(from_ase(atoms))).skipped[0]


def test_crystals_are_not_said_to_need_narrower_functions():
    with pytest.raises(InputError, match="structure 0 is periodic"):
        made_for(bulk("Si", cubic=True).repeat(3))


def test_what_cannot_be_encoded_or_decoded_is_named():
    rows = Rows(species=["Pt"], max_atoms=4, shortest=2.0, cutoff=9.0, width=0.1)
    for atoms, reason in (
        (disordered("Pt5", 1), "has 5 atoms"),
        (Atoms("Pt", cell=[3, 3, 3], pbc=True), "is periodic"),
        (Atoms("Au"), "contains Au|declared"),
    ):
        assert re.search(reason, rows.find_problems(atoms)[0])
        with pytest.raises(InputError, match=reason):
            rows(from_ase(atoms))
    with pytest.raises(InputError, match=r"has 5 atoms, and max_atoms is 4\. Set max_atoms to at least 5"):
        rows(from_ase(disordered("Pt5", 1)))
    values = rows(from_ase([Atoms("Pt")] * 2))
    values[0, 0, 0], values[1] = torch.nan, 0.0
    assert rows.decode(values).skipped == {0: "has NaN or infinite features", 1: "has no atoms"}
    with pytest.raises(InputError, match="shortest distance first"):
        Rows(species=["Pt"], max_atoms=4, shortest=3.0, cutoff=2.0, width=0.1)


def test_distances_of_an_atom_are_read_from_sums_of_overlapping_gaussians():
    gaussians = Gaussians(first=1.0, width=0.1, count=100)
    rng = np.random.default_rng(8)
    expected = np.sort(rng.uniform(2.0, 9.0, (6, 12)), 1)
    found = distances(gaussians.sums(expected), np.full(6, 12), gaussians)
    np.testing.assert_allclose(np.array(found.values), expected, atol=1e-5)
    assert bool((np.array(found.errors) < 1e-3).all())


def test_molecules_come_back():
    atoms = [molecule(name) for name in ("CH3CH2OH", "H2O", "C4H4NH")]
    for one in atoms:
        rows, values = made_for(one)
        assert_recovered(rows.decode(values), one)


@pytest.mark.parametrize(
    "atoms",
    [
        Octahedron("Pt", 3),
        Icosahedron("Pt", 2),
        molecule("C2H4"),
        molecule("CH4"),
        Atoms("Pt9", lattice(3, 3, 1)),
        Atoms("Pt10", lattice(2, 5, 1)),
        Atoms("Pt27", lattice(3, 3, 3)),
        Atoms("NiPt" * 6, lattice(2, 3, 2)),
        Atoms("Pt16", np.concatenate([ring := square_of_eight(), ring[:, [0, 2, 1]] + [2.5, 0.0, 0.0]])),
    ],
    ids=["octahedron", "ico13", "ethylene", "methane", "3×3", "2×5", "3×3×3", "alloy", "interlocked"],
)
def test_symmetric_structures_come_back_though_many_distances_are_equal(atoms):
    rows, values = made_for(atoms)
    decoded = rows.decode(values)
    assert float(decoded.loss) < 1e-6
    torch.testing.assert_close(rows(decoded.structures), values, atol=1e-5, rtol=0)
    assert_recovered(decoded, atoms)


@pytest.mark.parametrize("along", [(0, 2.5, 5), (0, 2.5, 5, 7.5, 10), (0, 2.2, 4.4, 6.6, 9.4, 11)])
def test_chains_come_back(along):
    symbols = "Pt" * len(along) if len(along) < 6 else "LiClLiClNaH"
    atoms = Atoms(symbols, positions=[[x, 0, 0] for x in along])
    rows, values = made_for(atoms)
    assert_recovered(rows.decode(values), atoms)


def test_an_alloy_of_equal_sites_comes_back():
    atoms = Icosahedron("Pt", 2)
    atoms.symbols[[0, 3, 5, 8]] = "Ni"
    rows, values = made_for(atoms)
    assert_recovered(rows.decode(values), atoms)


def test_a_hexagon_and_an_antiprism_have_the_same_rows():
    """Each atom has neighbours at d, d, √3 d, √3 d and 2 d in both: no inverse can tell which it was."""
    angles = np.arange(6) * np.pi / 3
    hexagon = Atoms("C6", 1.4 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1))
    height = np.where(np.arange(6) % 2, 1.0, -1.0) * np.sqrt(2 / 3)
    radius = np.sqrt(1.0 / 3.0)
    antiprism = Atoms("C6", 1.4 * np.stack([radius * np.cos(angles), radius * np.sin(angles), height], 1))
    rows, values = made_for(hexagon, antiprism)
    torch.testing.assert_close(values[0], values[1], atol=1e-10, rtol=0)
    assert bool((rows.decode(values).loss < 1e-6).all())
