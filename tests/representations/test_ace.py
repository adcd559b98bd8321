"""Cluster expansions against sums over tuples of neighbours, and what triples distinguish."""

import itertools
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from whorl.errors import InputError
from whorl.reconstruction import InversionProblem
from whorl.reconstruction.solvers import LevenbergMarquardt
from whorl.representations import ACE, make_representation
from whorl.structures import from_ase


def rattled(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=1)
    return atoms


def radial(ace: ACE, r: np.ndarray) -> np.ndarray:
    """Return g_n of distances, (n, neighbours)."""
    x = r / ace.radius
    n = np.arange(1, ace.n_max + 1)[:, None]
    return math.sqrt(2 / ace.radius) * np.sin(n * np.pi * x) / r * (1 - 3 * x**2 + 2 * x**3)


def harmonics(order: int, unit: np.ndarray) -> np.ndarray:
    """Return complex spherical harmonics, (neighbours, m)."""
    from scipy.special import sph_harm_y

    theta, phi = np.arccos(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])
    return np.stack([sph_harm_y(order, m, theta, phi) for m in range(-order, order + 1)], 1)


def triple_function(orders: tuple[int, int, int], units: list[np.ndarray]) -> np.ndarray:
    """Return Σ 3j Y Y Y of every triple of neighbours."""
    from sympy.physics.wigner import wigner_3j

    y = [harmonics(order, unit) for order, unit in zip(orders, units, strict=True)]
    total = np.zeros([len(unit) for unit in units], complex)
    for m in itertools.product(*[range(-order, order + 1) for order in orders]):
        symbol = float(wigner_3j(*orders, *m))
        if symbol:
            columns = [y[place][:, m[place] + order] for place, order in enumerate(orders)]
            total += symbol * np.einsum("i,j,k->ijk", *columns)
    np.testing.assert_allclose(total.imag, 0.0, atol=1e-12)
    return total.real


def slow(ace: ACE, atoms: Atoms) -> np.ndarray:
    """Return the features of each atom as sums over neighbours, pairs and triples of them."""
    first, second, vectors = neighbor_list("ijD", atoms, ace.radius)
    rows = []
    for centre in range(len(atoms)):
        mine = first == centre
        r = np.linalg.norm(vectors[mine], axis=1)
        unit, g = vectors[mine] / r[:, None], radial(ace, r)
        symbols = [atoms[j].symbol for j in second[mine]]
        weight = {s: np.array([s == symbol for symbol in symbols], float) for s in ace.species}
        v = [weight[s] * g[n] for s in ace.species for n in range(ace.n_max)]
        row = [one.sum() / math.sqrt(4 * math.pi) for one in v]
        cosines = np.clip(unit @ unit.T, -1, 1)
        for order in range(ace.l_max + 1):
            legendre = np.polynomial.legendre.Legendre.basis(order)(cosines)
            legendre *= math.sqrt(2 * order + 1) / (4 * math.pi)
            row += [v[i] @ legendre @ v[j] for i in range(len(v)) for j in range(i, len(v))]
        for triples in ace.triples:
            function = triple_function(triples.orders, [unit] * 3)
            for i, j, k in triples.factors.T.tolist():
                row.append(np.einsum("a,b,c,abc", v[i], v[j], v[k], function))
        rows.append(row)
    return np.array(rows)


CASES = {
    "molecule": (rattled(molecule("CH3OH")), {"n_max": 2, "l_max": 2, "degree": 8}),
    "one element": (
        rattled(
            molecule("P2").repeat(1) + Atoms("P3", [[2.0, 0.3, 0.4], [0.2, 2.1, 0.8], [-1.4, -0.8, 1.5]])
        ),
        {"n_max": 3, "l_max": 4, "degree": 11, "cutoff": 4.0},
    ),
    "crystal": (rattled(bulk("NaCl", "rocksalt", 5.6)), {"n_max": 2, "l_max": 2, "degree": 7, "cutoff": 4.5}),
    "no neighbours": (Atoms("CuO", [[0, 0, 0], [9, 0, 0]]), {"n_max": 2, "l_max": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_sums_over_tuples_of_neighbours(name):
    atoms, options = CASES[name]
    ace = ACE(species=sorted(set(atoms.get_chemical_symbols())), **options)
    ours, expected = ace.atomic_features(atoms).numpy(), slow(ace, atoms)
    np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-10)


def test_gradcheck_in_positions_and_cell():
    ace = ACE(species=["Na", "Cl"], cutoff=4.0, n_max=2, l_max=2, degree=7)
    structures = from_ase([rattled(bulk("NaCl", "rocksalt", 4.3)), rattled(molecule("NaCl"))])

    def features(positions, cells):
        return ace.atomic_features(structures.replace(positions=positions, cells=cells))

    variables = [structures.positions.clone(), structures.cells.clone()]
    variables = [variable.requires_grad_(True) for variable in variables]
    assert torch.autograd.gradcheck(features, variables, atol=1e-6, rtol=1e-5)


def test_reflections_and_rotations_change_nothing():
    ace = ACE(species=["C", "H", "O"], n_max=3, l_max=4, degree=11)
    atoms = rattled(molecule("CH3CH2OH"))
    other = atoms[np.random.default_rng(0).permutation(len(atoms))]
    other.rotate(70, (1, -2, 3))
    other.positions[:, 0] *= -1
    torch.testing.assert_close(ace(other), ace(atoms), rtol=1e-10, atol=1e-10)
    crystal = rattled(bulk("CaO", "rocksalt", 4.8))
    crystal.symbols[0] = "C"
    crystal.symbols[1] = "O"
    torch.testing.assert_close(ace(crystal.repeat((2, 1, 3))), ace(crystal), rtol=1e-10, atol=1e-10)


def test_everything_is_finite_where_atoms_meet():
    atoms = Atoms("Pt3", np.zeros((3, 3)))
    ace = ACE(species=["Pt"], n_max=2, l_max=2)
    positions = from_ase(atoms).positions.requires_grad_(True)
    value = ace(from_ase(atoms).replace(positions=positions))
    value.sum().backward()
    _, jacobian = ace.value_and_jacobian(atoms)
    assert value.isfinite().all() and positions.grad.isfinite().all() and jacobian.isfinite().all()


def environments_of_equal_angles() -> tuple[Atoms, Atoms]:
    """Return an atom with four neighbours, and another that has the same distances and angles.

    A and B are opposite each other around the z axis, C and D a quarter turn apart. A half turn of D alone,
    D → D', exchanges its angles with A and B and leaves that with C (Pozdnyakov et al. 2020).
    """
    phi, r = 0.4, 1.9
    azimuths = {"A": 0.0, "B": math.pi, "C": phi, "D": phi + math.pi / 2, "D'": phi - math.pi / 2}
    heights = {"A": 0.2, "B": 0.2, "C": -0.5, "D": 0.6, "D'": 0.6}

    def place(name: str) -> list[float]:
        ring = math.sqrt(1 - heights[name] ** 2)
        return [r * ring * math.cos(azimuths[name]), r * ring * math.sin(azimuths[name]), r * heights[name]]

    return tuple(
        Atoms("CH4", [[0.0, 0.0, 0.0], *(place(name) for name in ("A", "B", "C", last))])
        for last in ("D", "D'")
    )


def test_triples_distinguish_environments_that_pairs_confuse():
    one, other = environments_of_equal_angles()
    for atoms in (one, other):
        angles = [atoms.get_angle(i, 0, j) for i, j in itertools.combinations(range(1, 5), 2)]
        assert np.ptp(np.sort(angles)) > 10
    distances = [np.sort(atoms.get_all_distances()[1:, 1:].ravel()) for atoms in (one, other)]
    np.testing.assert_allclose(*distances, atol=1e-12)
    ace = ACE(species=["C", "H"], n_max=3, l_max=4, degree=12)
    of_one, of_other = (ace.atomic_features(atoms)[0] for atoms in (one, other))
    scale = of_one.abs().amax()
    pairs, triples = slice(0, ace.doubles.stop), slice(ace.doubles.stop, None)
    assert (of_one - of_other)[pairs].abs().amax() < 1e-12 * scale
    assert (of_one - of_other)[triples].abs().amax() > 1e-2 * scale


def test_a_search_goes_down_to_the_cluster_that_a_fingerprint_is_of():
    ace = ACE(species=["Pt"], cutoff=6.0, n_max=4, l_max=3)
    cluster = Atoms("Pt4", [[0, 0, 0], [2.6, 0, 0], [1.2, 2.4, 0], [1.3, 0.8, 2.3]])
    problem = InversionProblem(representation=ace, target=ace(cluster), template=cluster)
    solver = LevenbergMarquardt()
    state = solver.init(problem, from_ase(rattled(cluster)))
    for _ in range(25):
        state = solver.step(problem, state)
    assert float(state.best_loss) < 1e-9


def test_config_and_recipe_rebuild_it():
    ace = ACE(species=["O", "Cu"], cutoff=4.5, n_max=3, l_max=2, degree=7, pooling=["max"], images="minimum")
    assert make_representation(ace.config()).fingerprint == ace.fingerprint
    built = ACE.Settings(n_max=2, l_max=1, degree=5).build(["Cu", "O"])
    # v: 4; 10 pairs for each of two l; triples of l = 0,0,0: 20 less the four of degree 6; of 0,1,1: n = 1.
    assert len(built.layout) == 2 * (4 + 20 + 16 + 6)
    assert ACE.Settings().build(["Cu"]).config() == ACE(species=["Cu"]).config()
    assert len(ACE(species=["Pt"], order=2).layout) == 2 * (6 + 5 * 21)


def test_sharpness_grows_with_n_and_l():
    ace = ACE(species=["Pt"], pooling=["mean"])
    of = dict(zip(ace.layout.names, ace.sharpness().tolist(), strict=True))
    assert of["mean/ACE1/Pt1"] < of["mean/ACE1/Pt4"] < of["mean/ACE2/l=4/Pt1-Pt4"]
    assert of["mean/ACE3/l=0,1,1/Pt1-Pt1-Pt2"] == of["mean/ACE2/l=1/Pt1-Pt2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff": 0.5}, "above 1 Å"),
        ({"n_max": 0}, "n_max 0"),
        ({"order": 4}, "order 1, 2 or 3"),
        ({"degree": 2}, "degree 2, expected at least 3"),
        (
            {"species": ["Ag", "Al", "Au", "Cu", "Fe", "Ni", "Pd", "Pt", "Ti", "Zn", "O", "N", "C", "H"]}
            | {"degree": 20},
            "14 elements or channels make .* features .* embedding: 4.* smaller degree",
        ),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(InputError, match=words):
        ACE(**{"species": ["Pt"], **options})
