"""FCHL19 vectors against qmllib, against a slow loop, against numerical derivatives, and in a search."""

import itertools
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from whorl.errors import InputError
from whorl.reconstruction import AtomwiseProblem, InversionProblem
from whorl.reconstruction.solvers import LevenbergMarquardt
from whorl.representations import make_representation
from whorl.representations.fchl19 import FCHL19
from whorl.structures import from_ase


def rattled(atoms: Atoms, amplitude: float = 0.1) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(amplitude, seed=1)
    return atoms


def species_of(atoms: Atoms) -> list[str]:
    return sorted(set(atoms.get_chemical_symbols()))


OTHERS = {
    "cutoff": 4.0,
    "cutoff3": 3.0,
    "n2": 5,
    "n3": 7,
    "n_fourier": 2,
    "eta2": 0.5,
    "eta3": 1.3,
    "zeta": 1.0,
    "decay2": 1.1,
    "decay3": 0.3,
    "weight3": 2.0,
}
QMLLIB = ("rcut", "acut", "nRs2", "nRs3", "nFourier", "eta2", "eta3", "zeta", "two_body_decay")
QMLLIB = (*QMLLIB, "three_body_decay", "three_body_weight")


@pytest.mark.parametrize("options", [{}, OTHERS], ids=["published", "others"])
@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "H2O", "CO2", "NH3", "H"])
def test_equals_qmllib(name, options):
    representations = pytest.importorskip("qmllib.representations", reason="qmllib is for Linux")
    atoms = molecule(name) if name == "CO2" else rattled(molecule(name))
    fchl = FCHL19(species=species_of(atoms), **options)
    expected = representations.generate_fchl19(
        atoms.numbers.astype(np.int32),
        atoms.positions,
        elements=np.array(sorted(set(atoms.numbers)), dtype=np.int32),
        **dict(zip(QMLLIB, options.values(), strict=False)),
    )
    # Its sines of exactly 180° are those of rounding errors.
    np.testing.assert_allclose(fchl.atomic_features(atoms).numpy(), expected, rtol=1e-8, atol=1e-8)


def slow(fchl: FCHL19, atoms: Atoms) -> np.ndarray:
    """Return the features of atoms in loops over the atoms of repeated cells."""
    species = [list(fchl.species).index(symbol) for symbol in atoms.get_chemical_symbols()]
    shifts = itertools.product(*[range(-3, 4) if periodic else [0] for periodic in atoms.pbc])
    images = [
        (species[index], position + np.array(shift) @ np.asarray(atoms.cell))
        for shift in shifts
        for index, position in enumerate(atoms.positions)
    ]
    count = len(fchl.species)

    def decay(r, cutoff):
        return 0.5 * (math.cos(math.pi * r / cutoff) + 1.0) if r < cutoff else 0.0

    def cosine(u, v):
        return u @ v / (np.linalg.norm(u) * np.linalg.norm(v))

    rows = []
    for x in atoms.positions:
        around = [(s, y) for s, y in images if np.linalg.norm(y - x) > 1e-9]
        two = np.zeros((count, fchl.n2))
        for s, y in around:
            r = np.linalg.norm(y - x)
            variance = math.log(1.0 + fchl.eta2 / r**2)
            for k, radius in enumerate(fchl.radii2.tolist()):
                away = math.log(radius) - math.log(r) + 0.5 * variance
                height = decay(r, fchl.cutoff) / r**fchl.decay2 / math.sqrt(2 * math.pi * variance) / radius
                two[s, k] += height * math.exp(-(away**2) / 2 / variance)
        pairs = [(s, t) for s in range(count) for t in range(s, count)]
        three = np.zeros((len(pairs), fchl.n3, fchl.n_fourier, 2))
        near = [(s, y) for s, y in around if np.linalg.norm(y - x) < fchl.cutoff3]
        for (s, y), (t, z) in itertools.combinations(near, 2):
            r, q, far = np.linalg.norm(y - x), np.linalg.norm(z - x), np.linalg.norm(z - y)
            corners = cosine(y - x, z - x) * cosine(x - y, z - y) * cosine(x - z, y - z)
            height = fchl.weight3 * math.sqrt(fchl.eta3 / math.pi) * (1 + 3 * corners)
            height *= decay(r, fchl.cutoff3) * decay(q, fchl.cutoff3) / (r * q * far) ** fchl.decay3
            angle = math.acos(max(-1.0, min(1.0, cosine(y - x, z - x))))
            for k, radius in enumerate(fchl.radii3.tolist()):
                gauss = math.exp(-fchl.eta3 * (0.5 * (r + q) - radius) ** 2)
                for o in range(fchl.n_fourier):
                    order = 2 * o + 1
                    turn = np.array([math.cos(order * angle), math.sin(order * angle)])
                    damping = 2 * math.exp(-((fchl.zeta * order) ** 2) / 2)
                    three[pairs.index((min(s, t), max(s, t))), k, o] += height * gauss * damping * turn
        rows.append(np.concatenate([two.ravel(), three.ravel()]))
    return np.array(rows)


CRYSTALS = {
    "salt": rattled(bulk("NaCl", "rocksalt", 5.0)),
    "collinear": bulk("Cu"),
    "slab": Atoms("CuO", [[0, 0, 4], [1.9, 0.3, 4.4]], cell=[3.6, 4.1, 15], pbc=[True, True, False]),
    "skewed": Atoms("Cu2", [[9, 0, 0], [1, 2, 0]], cell=[[3, 0, 0], [1, 3.3, 0], [1, 1, 4]], pbc=True),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_of_crystals_equals_a_loop(name):
    atoms = CRYSTALS[name]
    wrapped = atoms.copy()
    wrapped.wrap()
    fchl = FCHL19(species=species_of(atoms), cutoff=3.9, cutoff3=3.2, n2=3, n3=3, n_fourier=2, zeta=0.8)
    expected = slow(fchl, wrapped)
    np.testing.assert_allclose(fchl.atomic_features(atoms).numpy(), expected, rtol=1e-10, atol=1e-7)


def test_gradcheck_in_positions_and_cell():
    fchl = FCHL19(species=["Na", "Cl"], cutoff=4.0, cutoff3=3.6, n2=2, n3=2, n_fourier=2, zeta=0.5)
    structures = from_ase([rattled(bulk("NaCl", "rocksalt", 4.3)), rattled(molecule("NaCl"))])

    def features(positions, cells):
        return fchl.atomic_features(structures.replace(positions=positions, cells=cells))

    variables = [structures.positions.clone(), structures.cells.clone()]
    variables = [variable.requires_grad_(True) for variable in variables]
    assert torch.autograd.gradcheck(features, variables, atol=1e-6, rtol=1e-5)


def test_everything_is_finite_where_atoms_meet_and_where_they_are_in_line():
    fchl = FCHL19(species=["Pt"], pooling=["mean", "std", "max"])
    structures = from_ase([Atoms("Pt3", np.zeros((3, 3))), Atoms("Pt3", np.outer([0, 2.5, 5.0], [1, 0, 0]))])
    positions = structures.positions.requires_grad_(True)
    value = fchl(structures.replace(positions=positions))
    value.sum().backward()
    _, jacobian = fchl.value_and_jacobian(structures)
    assert value.isfinite().all() and positions.grad.isfinite().all() and jacobian.isfinite().all()


def test_large_cutoffs_keep_their_precision():
    atoms = rattled(molecule("CH3CH2OH"))
    atoms.positions *= 5.0  # neighbours up to 20 Å
    fchl = FCHL19(species=species_of(atoms), cutoff=20.0, cutoff3=20.0, n2=4, n3=6)
    np.testing.assert_allclose(fchl.atomic_features(atoms).numpy(), slow(fchl, atoms), rtol=1e-9, atol=1e-14)


def test_a_search_goes_down_to_the_cluster_that_a_vector_is_of():
    fchl = FCHL19(species=["Pt"], cutoff=6.0, cutoff3=6.0)
    cluster = Atoms("Pt4", [[0, 0, 0], [2.4, 0, 0], [1.0, 2.9, 0], [1.5, 0.8, 3.4]])
    start = from_ase(rattled(cluster, 0.05))
    for problem in (
        InversionProblem(representation=fchl, target=fchl(cluster), template=cluster),
        AtomwiseProblem.of(fchl, fchl.atomic_features(cluster)[[2, 0, 3, 1]], cluster),
    ):
        solver = LevenbergMarquardt()
        state = solver.init(problem, start)
        for _ in range(15):
            state = solver.step(problem, state)
        assert float(state.best_loss) < 1e-9


def test_config_and_recipe_rebuild_it():
    fchl = FCHL19(species=["O", "Cu"], **OTHERS, pooling=["max"], images="minimum")
    assert make_representation(fchl.config()).fingerprint == fchl.fingerprint
    built = FCHL19.Settings(n2=3, n3=2).build(["Cu", "O"])
    assert built.species == ("O", "Cu") and len(built.layout) == 2 * (2 * 3 + 3 * 4)
    assert FCHL19.Settings().build(["Cu"]).config() == FCHL19(species=["Cu"]).config()
    assert len(FCHL19(species=["Cu"], pooling=["mean"]).layout) == 24 + 2 * 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff": 0.0}, "cutoff 0.0"),
        ({"eta2": -1.0}, "eta2 -1.0"),
        ({"n3": 0}, "n3 0"),
        ({"cutoff3": 30.0}, "eta3 2.7 with cutoff3 30"),
        ({"pooling": ["maximum"]}, "unknown pooling"),
        ({"species": ["Xx"]}, "no chemical element"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(InputError, match=words):
        FCHL19(**{"species": ["Pt"], **options})
