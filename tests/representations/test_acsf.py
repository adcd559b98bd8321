"""Symmetry functions against DScribe, against plain loops, and against numerical derivatives."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_acsf import slow_atomic_features

from whorl.errors import InputError
from whorl.representations import ACSF, CrysTens, Cutoff, make_representation
from whorl.representations.base import Representation
from whorl.structures import StructureBatch, from_ase

G2 = [(0.05, 0.0), (0.5, 1.5), (4.0, 2.0)]
G3 = [0.7, 2.1]
G4 = [(0.02, 1.0, 1.0), (0.02, 1.0, -1.0), (0.1, 4.0, 1.0), (0.1, 3.0, -1.0)]
G5 = [(0.02, 1.0, 1.0), (0.1, 1.0, -1.0), (0.1, 16.0, 1.0), (0.02, 2.5, -1.0), (0.02, 64.0, 1.0)]


def everything(species, cutoff=5.0, **options) -> ACSF:
    return ACSF(species=species, cutoff=cutoff, g2=G2, g3=G3, g4=G4, g5=G5, **options)


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=seed)
    return atoms


def cluster(n: int, seed: int, symbols: str = "Pt") -> Atoms:
    rng = np.random.default_rng(seed)
    while True:
        positions = rng.normal(size=(n, 3)) * 2.5
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(n)
        if distances.min() > 1.5:
            return Atoms(list(itertools.islice(itertools.cycle(symbols.split("-")), n)), positions=positions)


def examples() -> dict[str, Atoms]:
    skewed = bulk("NaCl", "rocksalt", 5.6)
    skewed.set_cell(skewed.cell.array + 4 * np.roll(skewed.cell.array, 1, axis=0) * [[1], [0], [0]])
    left_handed = bulk("NaCl", "rocksalt", 5.6)
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    outside = rattled(bulk("NaCl", "rocksalt", 5.6))
    outside.positions += [11.0, -7.0, 3.0]
    slab = rattled(fcc111("Cu", (1, 1, 2), vacuum=6.0))
    wire = Atoms("NaCl", positions=[[0, 0, 0], [2.5, 0.3, 0]], cell=[5.1, 0, 0], pbc=[True, False, False])
    return {
        "molecule": rattled(molecule("CH3CH2OH")),
        "two elements": cluster(7, 1, "Pt-O"),
        "crystal smaller than the cutoff": rattled(bulk("NaCl", "rocksalt", 4.1)),
        "skewed cell": skewed,
        "left-handed cell": left_handed,
        "atoms outside": outside,
        "slab": slab,
        "wire": wire,
        "one atom": Atoms("Cu"),
        "no neighbours": Atoms("CuCu", positions=[[0, 0, 0], [9, 0, 0]]),
        "on a line": Atoms("OCO", positions=[[-1.2, 0, 0], [0, 0, 0], [1.2, 0, 0]]),
    }


@pytest.mark.parametrize("name", examples())
def test_equals_plain_loops(name):
    atoms = examples()[name]
    acsf = everything(sorted(set(atoms.get_chemical_symbols())))
    values = acsf.atomic_features(from_ase(atoms)).numpy()
    np.testing.assert_allclose(values, slow_atomic_features(atoms, acsf), rtol=1e-9, atol=1e-14)


def test_polynomial_cutoff_equals_plain_loops():
    atoms = cluster(6, 3)
    acsf = everything(["Pt"], Cutoff(radius=4.5, function="polynomial", gamma=3.0))
    values = acsf.atomic_features(from_ase(atoms)).numpy()
    np.testing.assert_allclose(values, slow_atomic_features(atoms, acsf), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    "atoms",
    [
        cluster(10, 0),
        cluster(8, 5, "Pt-O-H"),
        rattled(bulk("NaCl", "rocksalt", 5.6, cubic=True)),
        rattled(bulk("Si")),
    ],
    ids=["Pt10", "three elements", "NaCl", "Si"],
)
def test_equals_dscribe(atoms):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dscribe import descriptors
    species = sorted(set(atoms.get_chemical_symbols()), key=lambda s: Atoms(s).numbers[0])
    angular = [item for item in G4 + G5 if item[1] == int(item[1])]
    ours = ACSF(species=species, cutoff=6.0, g2=G2, g3=G3, g4=angular, g5=angular)
    theirs = descriptors.ACSF(
        species=species,
        r_cut=6.0,
        g2_params=[list(item) for item in G2],
        g3_params=G3,
        g4_params=[list(item) for item in angular],
        g5_params=[list(item) for item in angular],
        periodic=bool(atoms.pbc.any()),
    )
    expected = theirs.create(atoms)
    # DScribe puts a G1 before the radial functions of each species.
    n, radial = len(species), 1 + len(G2) + len(G3)
    keep = [column for column in range(n * radial) if column % radial]
    # It orders the pairs of species (0, 0), (1, 0), (1, 1), (2, 0) …; we (0, 0), (0, 1), (0, 2), (1, 1) …
    theirs_at = {pair: place for place, pair in enumerate((s, t) for t in range(n) for s in range(t + 1))}
    width = 2 * len(angular)
    for pair in itertools.combinations_with_replacement(range(n), 2):
        start = n * radial + theirs_at[pair] * width
        keep += range(start, start + width)
    np.testing.assert_allclose(
        ours.atomic_features(from_ase(atoms)).numpy(), expected[:, keep], rtol=1e-9, atol=1e-15
    )


def test_fung2022_is_the_published_fingerprint():
    acsf = ACSF.fung2022(["Pt"])
    names = acsf.layout.names
    assert len(names) == 380 and len(set(names)) == 380
    assert names[0] == "max/G2/Pt/eta=0.01,Rs=0"
    assert names[1] == "max/G2/Pt/eta=0.01,Rs=1"
    assert names[14] == "max/G2/Pt/eta=0.06,Rs=0"
    assert names[139] == "max/G2/Pt/eta=5,Rs=10"
    assert names[140] == "max/G5/Pt-Pt/eta=0.06,zeta=1,lambda=-1"
    assert names[141] == "max/G5/Pt-Pt/eta=0.1,zeta=1,lambda=-1"
    assert names[145] == "max/G5/Pt-Pt/eta=0.06,zeta=1,lambda=1"
    assert names[150] == "max/G5/Pt-Pt/eta=0.06,zeta=2,lambda=-1"
    assert names[190:] == tuple(name.replace("max/", "min/") for name in names[:190])
    atoms = cluster(10, 2)
    slow = slow_atomic_features(atoms, acsf)
    np.testing.assert_allclose(
        acsf(from_ase(atoms))[0].numpy(), np.concatenate([slow.max(0), slow.min(0)]), rtol=1e-9
    )


def test_published_features_lie_in_the_range_of_real_clusters(shared_data):
    published = np.load(shared_data / "pt10_dft" / "fps300.npz")["features"]
    acsf = ACSF.fung2022(["Pt"])
    ours = acsf(from_ase([cluster(10, seed) for seed in range(20)])).numpy()
    assert published.shape[1] == ours.shape[1]
    # Both halves obey max >= min, and both vanish at the same (mostly sharp) functions.
    assert (published[:, :190] >= published[:, 190:]).all()
    both = np.log10(published.mean(0) + 1e-12), np.log10(ours.mean(0) + 1e-12)
    assert np.corrcoef(*both)[0, 1] > 0.9


@pytest.mark.parametrize("pooling", [("max", "min"), ("mean", "std"), ("sum", "quantile:0.3")])
@pytest.mark.parametrize("per_centre_species", [False, True])
@pytest.mark.parametrize("name", ["two elements", "crystal smaller than the cutoff", "wire", "molecule"])
def test_analytic_jacobian_equals_autograd(name, pooling, per_centre_species):
    atoms = examples()[name]
    acsf = everything(
        sorted(set(atoms.get_chemical_symbols())), pooling=pooling, per_centre_species=per_centre_species
    )
    structures = from_ase([rattled(atoms, 1), rattled(atoms, 2)[:-1], rattled(atoms, 3)])
    value, jacobian = acsf.value_and_jacobian(structures, strain=True)
    value2, jacobian2 = Representation.value_and_jacobian(acsf, structures, strain=True)
    torch.testing.assert_close(value, value2, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jacobian, jacobian2, rtol=1e-9, atol=1e-11)


def with_strain(structures: StructureBatch, strain: torch.Tensor) -> StructureBatch:
    stretch = torch.eye(3, dtype=torch.float64) + strain
    return structures.replace(positions=structures.positions @ stretch, cells=structures.cells @ stretch)


@pytest.mark.parametrize("images", ["all", "minimum"])
@pytest.mark.parametrize("name", ["crystal smaller than the cutoff", "slab", "molecule"])
def test_jacobian_equals_finite_differences(name, images):
    atoms = examples()[name]
    if images == "minimum" and atoms.pbc.any():
        atoms = rattled(atoms.repeat((2, 2, 1)), 5)  # no two images are equally near
    acsf = everything(
        sorted(set(atoms.get_chemical_symbols())), cutoff=4.0, pooling=("mean", "std", "max"), images=images
    )
    structures, step = from_ase(atoms), 1e-5
    value, jacobian = acsf.value_and_jacobian(structures, strain=True)
    torch.testing.assert_close(value, acsf(structures), rtol=1e-12, atol=1e-12)
    n = len(atoms)
    assert jacobian.shape == (1, len(acsf.layout), n + 3, 3)
    torch.testing.assert_close(acsf.value_and_jacobian(structures)[1], jacobian[:, :, :n])
    for row, axis in [(0, 0), (n - 1, 2), *itertools.product(range(n, n + 3), range(3))]:
        ends = []
        for sign in (1, -1):
            moved, strain = structures.positions.clone(), torch.zeros(3, 3, dtype=torch.float64)
            if row < n:
                moved[row, axis] += sign * step
            else:
                strain[row - n, axis] = sign * step
            ends.append(acsf(with_strain(structures.replace(positions=moved), strain))[0])
        expected = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(jacobian[0, :, row, axis], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", [("max", "min"), ("mean", "std"), ("min", "quantile:0.4", "sum")])
def test_jacobian_of_equal_clusters_equals_autograd(pooling):
    """Every atom sees every other one, of structures of one size: as in a search for clusters."""
    acsf = everything(["Pt"], cutoff=20.0, pooling=pooling)
    for clusters in ([cluster(6, seed) for seed in range(3)], [cluster(6, 0), cluster(5, 1)]):
        structures = from_ase(clusters)
        value, jacobian = acsf.value_and_jacobian(structures)
        value2, jacobian2 = Representation.value_and_jacobian(acsf, structures)
        torch.testing.assert_close(value, value2, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(jacobian, jacobian2, rtol=1e-9, atol=1e-11)


def test_a_single_atom_has_no_derivatives():
    structures = from_ase([Atoms("Pt"), Atoms("Pt", positions=[[1.0, 2.0, 3.0]])])
    torch.full((10_000,), 7.0, dtype=torch.float64)  # memory that is used next is not zero
    for pooling in ("max", "min"), ("mean", "std"):
        _, jacobian = everything(["Pt"], pooling=pooling).value_and_jacobian(structures)
        assert float(jacobian.abs().max()) == 0.0


def test_crystal_preset_knows_species_and_supercells():
    acsf = ACSF.crystal(["Na", "Cl"])
    assert [len(ACSF.crystal(["H", "C", "N"][:s]).layout) for s in (1, 2, 3)] == [72, 352, 936]
    atoms = rattled(bulk("NaCl", "rocksalt", 5.6))
    values = acsf(from_ase([atoms, atoms.repeat((2, 1, 1)), bulk("NaCl", "cesiumchloride", 3.4)]))
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-9)
    assert float((values[0] - values[2]).abs().max()) > 0.05


def test_sharpness_grows_with_eta_and_zeta():
    acsf = ACSF.fung2022(["Pt", "O"])
    sharpness = acsf.sharpness()
    assert sharpness.shape == (len(acsf.layout),)
    of = dict(zip(acsf.layout.names, sharpness.tolist(), strict=True))
    eta = [of[f"max/G2/Pt/eta={eta},Rs=3"] for eta in ("0.01", "0.2", "1", "5")]
    zeta = [of[f"min/G5/O-Pt/eta=0.1,zeta={zeta},lambda=1"] for zeta in (1, 2, 16, 64)]
    assert eta == sorted(eta) and zeta == sorted(zeta)
    assert eta[-1] == pytest.approx((2 * 5 + 1 / 20**2) ** 0.5)
    assert Representation.sharpness(acsf).abs().max() == 0


def check_gradients(acsf: ACSF, structures: StructureBatch) -> None:
    def of_positions(positions):
        return acsf.atomic_features(structures.replace(positions=positions))

    positions = structures.positions.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(of_positions, (positions,), eps=1e-6, atol=1e-6, rtol=1e-5)
    step = 1e-5
    _, jacobian = acsf.value_and_jacobian(structures)
    for atom, axis in itertools.product(range(min(3, len(structures.positions))), range(3)):
        moved = structures.positions.clone()
        moved[atom, axis] += step
        up = acsf(structures.replace(positions=moved))
        moved[atom, axis] -= 2 * step
        down = acsf(structures.replace(positions=moved))
        if bool(torch.allclose(up - acsf(structures), acsf(structures) - down, rtol=1e-2, atol=1e-9)):
            torch.testing.assert_close(
                jacobian[0, :, atom, axis], ((up - down) / (2 * step))[0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", ["two elements", "crystal smaller than the cutoff", "wire", "on a line"])
def test_gradcheck_in_positions(name):
    atoms = examples()[name]
    check_gradients(everything(sorted(set(atoms.get_chemical_symbols())), cutoff=4.0), from_ase(atoms))


def test_gradcheck_where_neighbours_coincide_in_direction():
    """θ = 0: two neighbours one behind the other."""
    atoms = Atoms("PtPtPtPt", positions=[[0, 0, 0], [1.5, 0, 0], [3.0, 0, 0], [0.2, 2.0, 0.1]])
    check_gradients(everything(["Pt"]), from_ase(atoms))


def test_gradcheck_at_the_cutoff():
    atoms = Atoms("PtPtPt", positions=[[0, 0, 0], [4.0, 0, 0], [0, 4.0 - 1e-9, 0]])
    for function in ("cosine", "polynomial"):
        check_gradients(everything(["Pt"], Cutoff(radius=4.0, function=function)), from_ase(atoms))


def test_gradcheck_in_the_cell():
    structures = from_ase(rattled(bulk("NaCl", "rocksalt", 4.3)))
    acsf = everything(["Na", "Cl"], cutoff=4.0)

    def of_cell(cells):
        return acsf.atomic_features(structures.replace(cells=cells))

    assert torch.autograd.gradcheck(
        of_cell, (structures.cells.clone().requires_grad_(True),), atol=1e-6, rtol=1e-5
    )


def test_nothing_is_nan_even_for_atoms_at_one_place():
    structures = from_ase(
        [
            Atoms("Pt"),
            Atoms("Pt2", positions=[[0, 0, 0], [0, 0, 0]]),
            Atoms("Pt3", positions=np.zeros((3, 3))),
        ]
    )
    acsf = everything(
        ["Pt", "O"], pooling=("max", "min", "mean", "std", "sum", "quantile:0.5"), per_centre_species=True
    )
    positions = structures.positions.clone().requires_grad_(True)
    value = acsf(structures.replace(positions=positions))
    value.sum().backward()
    _, jacobian = acsf.value_and_jacobian(structures)
    assert (
        torch.isfinite(value).all()
        and torch.isfinite(positions.grad).all()
        and torch.isfinite(jacobian).all()
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), periodic=st.booleans())
def test_invariances(seed, n, periodic):
    """Rotation, translation, permutation, lattice-vector shifts, and the choice of lattice vectors."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(rng.choice(["Na", "Cl"], n), positions=rng.uniform(0, 5, (n, 3)), cell=np.eye(3) * 3.5)
    atoms.set_cell(atoms.cell.array + rng.uniform(-1, 1, (3, 3)))
    atoms.pbc = periodic
    acsf = everything(["Na", "Cl"], cutoff=4.0)
    other = atoms.copy()
    other.rotate(rng.uniform(0, 360), rng.normal(size=3), rotate_cell=True)
    other.positions += rng.normal(size=3) * 5
    if periodic:
        other.positions += rng.integers(-2, 3, (n, 3)) @ other.cell.array
        other.set_cell(np.array([[1, 1, 0], [0, 1, 0], [0, -2, 1]]) @ other.cell.array)
    other = other[rng.permutation(n)]
    torch.testing.assert_close(acsf(from_ase(other)), acsf(from_ase(atoms)), rtol=1e-7, atol=1e-9)


def test_supercell_has_the_same_extremes_and_mean():
    atoms = rattled(bulk("NaCl", "rocksalt", 4.5))
    acsf = everything(["Na", "Cl"], pooling=("max", "min", "mean", "std"))
    torch.testing.assert_close(
        acsf(from_ase(atoms.repeat((2, 1, 2)))), acsf(from_ase(atoms)), rtol=1e-9, atol=1e-9
    )


def test_batch_equals_single_and_input_is_left_alone():
    atoms = [cluster(n, n, "Na-Cl") for n in (1, 2, 9, 4)] + [
        bulk("NaCl", "rocksalt", 4.0),
        cluster(3, 0, "Na"),
    ]
    structures = from_ase(atoms)
    before = structures.positions.clone()
    acsf = everything(["Cl", "Na"], per_centre_species=True)
    together = acsf(structures)
    for i, one in enumerate(atoms):
        torch.testing.assert_close(together[i], acsf(from_ase(one))[0], rtol=1e-12, atol=1e-13)
    assert torch.equal(structures.positions, before)


def test_pieces_of_any_size_give_the_same(monkeypatch):
    structures = from_ase([cluster(6, n, "Na-Cl") for n in range(4)] + [bulk("NaCl", "rocksalt", 4.0)])
    acsf = everything(["Cl", "Na"])
    whole, jacobian = acsf.value_and_jacobian(structures)
    monkeypatch.setattr("whorl.representations.acsf.features.CHUNK", 50)
    monkeypatch.setattr("whorl.representations.pooled._ATOMS_AT_ONCE", 2)
    torch.testing.assert_close(acsf(structures), whole)
    torch.testing.assert_close(acsf.value_and_jacobian(structures)[1], jacobian)
    positions = structures.positions.clone().requires_grad_(True)
    acsf(structures.replace(positions=positions)).sum().backward()
    n_max = jacobian.shape[2]
    expected = jacobian.sum(1)[structures.structure_index, structures.position_in_structure]
    assert n_max == 6
    torch.testing.assert_close(positions.grad, expected, rtol=1e-9, atol=1e-11)


def test_order_does_not_depend_on_the_structure():
    acsf = everything(["O", "Pt", "H"])
    assert acsf.species == ("H", "O", "Pt")
    only_pt = acsf(from_ase(cluster(4, 0)))
    assert only_pt.shape == (1, len(acsf.layout))
    absent = [i for i, name in enumerate(acsf.layout.names) if "/H" in name or "/O" in name or "-H" in name]
    assert bool((only_pt[0, absent] == 0).all())


def test_layout_blocks_cover_all_features():
    acsf = everything(["O", "Pt"], pooling=("max", "std"), per_centre_species=True)
    covered = sorted((block.start, block.stop) for block in acsf.layout.blocks.values())
    assert covered[0][0] == 0 and covered[-1][1] == len(acsf.layout)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(covered))
    assert len(acsf.layout) == len(acsf(from_ase(cluster(4, 0, "Pt-O")))[0])
    assert "max/O/G5/O-Pt" in acsf.layout.blocks


def test_minimum_image_counts_each_atom_once():
    atoms = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    acsf = ACSF(species=["Na", "Cl"], cutoff=20.0, g2=[(0.0, 0.0)], images="minimum", pooling=["mean"])
    distances = atoms.get_all_distances(mic=True)[0, 1:]
    fc = 0.5 * (np.cos(np.pi * distances / 20) + 1)
    of_na = atoms.numbers[1:] == 11
    expected = torch.tensor([[fc[of_na].sum() + fc[~of_na].sum()]])
    value = acsf(from_ase(atoms)).sum(1, keepdim=True)
    torch.testing.assert_close(value, expected)


def test_float32_agrees_with_float64():
    structures = from_ase(cluster(8, 0))
    acsf = everything(["Pt"])
    single = acsf(structures.to(dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), acsf(structures), rtol=1e-4, atol=1e-5)


def test_config_round_trip():
    acsf = everything(
        ["Pt", "O"], Cutoff(radius=4.0, function="polynomial"), pooling=("mean",), images="minimum"
    )
    again = make_representation(acsf.config())
    assert again.config() == acsf.config() and again.fingerprint == acsf.fingerprint
    assert again.fingerprint != everything(["Pt"]).fingerprint
    preset = make_representation({"kind": "acsf", "preset": "fung2022", "species": ["Pt"]})
    assert preset.fingerprint == ACSF.fung2022(["Pt"]).fingerprint


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ACSF(species=["Pt"], cutoff=5.0), "at least one of g2"),
        (lambda: everything(["Pt"], cutoff=-1.0), "positive distance"),
        (lambda: everything(["Xx"]), "no chemical element"),
        (lambda: everything("Pt"), "list of chemical symbols"),
        (lambda: everything(["Pt"], images="all images"), "images convention"),
        (lambda: everything(["Pt"], pooling=["maximum"]), "unknown pooling"),
        (lambda: everything(["Pt"], pooling=["quantile:2"]), "q from 0 to 1"),
        (lambda: everything(["Pt"], pooling=["max", "max"]), "different names"),
        (lambda: ACSF(species=["Pt"], cutoff=5.0, g5=[(0.1, 0.5, 1.0)]), "ζ ≥ 1"),
        (lambda: ACSF(species=["Pt"], cutoff=5.0, g2=[(-0.1, 0.5)]), "η ≥ 0"),
        (lambda: Cutoff(radius=5.0, function="cosin"), "Did you mean 'cosine'"),
        (lambda: Cutoff(radius=5.0, function="polynomial", gamma=1.0), "at least 2"),
        (lambda: make_representation({"kind": "acfs"}), "Did you mean 'acsf'"),
        (lambda: make_representation({"preset": "fung2021", "species": ["Pt"]}), "Did you mean 'fung2022'"),
        (lambda: make_representation({"species": ["Pt"], "cutof": 3.0}), "cutof"),
        (lambda: everything(["O"])(from_ase(Atoms("OPt", positions=[[0, 0, 0], [2, 0, 0]]))), "contains Pt"),
    ],
)
def test_mistakes_are_told_in_plain_words(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_species_that_do_not_occur_change_nothing_but_leave_zeros():
    rng = np.random.default_rng(5)
    formulas = ["Cu3Au2", "O2Zr2", "CuOPb", "Au5", "ZrPb3O"]
    batch = from_ase([Atoms(f, rng.uniform(0, 4.5, (len(Atoms(f)), 3))) for f in formulas])
    options = {
        "cutoff": 6.0,
        "g2": [[0.1, 0.5]],
        "g4": [[0.02, 4.0, -1.0]],
        "g5": [[0.1, 2.0, 1.0], [0.3, 1.0, 1.0]],
    }
    few, many = (
        ACSF(species=species, **options)
        for species in (
            ["O", "Cu", "Zr", "Au", "Pb"],
            ["H", "O", "Ti", "Cu", "Zr", "Ba", "Pt", "Au", "Hg", "Pb"],
        )
    )
    place = {name: column for column, name in enumerate(many.layout.names)}
    columns = [place[name] for name in few.layout.names]
    values = many(batch)
    torch.testing.assert_close(values[:, columns], few(batch), rtol=1e-12, atol=1e-14)
    others = [column for column in range(len(place)) if column not in columns]
    assert len(others) > 100 and values[:, others].abs().max() == 0


def test_far_too_many_features_are_refused_at_once_with_their_number():
    from ase.data import chemical_symbols

    with pytest.raises(InputError, match=r"56 elements make 2,985,472 features .*23 GB.*embedding: 4"):
        ACSF.crystal(chemical_symbols[1:57])
    with pytest.raises(InputError, match=r"CrysTens: 900 atoms make 3,326,976 features .* smaller max_atoms"):
        CrysTens(max_atoms=900)


def test_seconds_grow_with_neighbours_and_are_little_for_clusters():
    cluster = Atoms("Pt10", np.random.default_rng(0).uniform(0, 6, (10, 3)))
    crystal = bulk("NaCl", "rocksalt", a=5.64)
    acsf = ACSF.fung2022(["Na", "Cl", "Pt"])
    of_cluster, of_crystal, of_one = acsf.seconds(from_ase([cluster, crystal, Atoms("Pt")])).tolist()
    assert 0 < of_cluster < 0.01 and 0.1 < of_crystal < 60 and of_one == 0


def test_cells_too_dense_for_their_triples_are_named():
    structures = from_ase([bulk("Cu"), Atoms("Pt", cell=[0.81, 0.81, 0.81], pbc=True)])
    assert "neighbours within the cutoff of 20 Å" in ACSF.fung2022(["Pt"]).find_problems(structures)[1]
    assert not ACSF.crystal(["Pt", "Cu"]).find_problems(structures)
    assert not ACSF.fung2022(["Pt"], images="minimum").find_problems(structures)
