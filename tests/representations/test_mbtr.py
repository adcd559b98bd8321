"""Many-body tensors against DScribe, against slow loops, against numerical derivatives, and in a search."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from whorl.errors import InputError
from whorl.reconstruction import InversionProblem
from whorl.reconstruction.solvers import LevenbergMarquardt
from whorl.representations import make_representation
from whorl.representations.mbtr import MBTR
from whorl.structures import from_ase


def rattled(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=1)
    return atoms


def dscribe(mbtr: MBTR, name: str, atoms: Atoms) -> np.ndarray:
    """Return DScribe's values of one term."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dscribe import core, descriptors

    def system(atoms: Atoms) -> Atoms:
        # Its own method passes arguments by place, to which ASE 3.29 gives other meanings.
        system = core.System()
        system.extend(atoms)
        system.cell, system.pbc = atoms.cell, atoms.pbc
        return system

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.System, "from_atoms", staticmethod(system))
        term = mbtr.terms[name]
        weighting = {"function": getattr(term, "weighting", "unity")}
        if weighting["function"] != "unity":
            weighting["r_cut"] = term.cutoff
        if weighting["function"] == "exp":
            weighting["threshold"] = term.threshold
        return descriptors.MBTR(
            species=list(mbtr.species),
            geometry={"function": term.function},
            grid=term.model_dump(include={"min", "max", "n", "sigma"}),
            weighting=weighting,
            normalization=mbtr.normalization,
            periodic=bool(atoms.pbc.any()),
        ).create(atoms)


ETHANOL = rattled(molecule("CH3CH2OH"))
SALT = rattled(bulk("NaCl", "rocksalt", 5.6))
COPPER = bulk("Cu")
SLAB = Atoms(
    "CuOCu", [[0, 0, 4], [1.9, 0.3, 4.4], [0.2, 2.2, 5.9]], cell=[3.6, 4.1, 15], pbc=[True, True, False]
)
SKEWED = Atoms(
    "Cu2O", [[0, 0, 0], [1.2, 1.9, 0.3], [0.1, 0.3, 2]], cell=[[3, 0, 0], [1, 3.3, 0], [1, 1, 4]], pbc=True
)
DISTANCES = {"function": "distance", "min": 0.5, "max": 6.0, "n": 40, "sigma": 0.2}
ANGLES = {"function": "angle", "min": 0.0, "max": 180.0, "n": 50, "sigma": 4.0}
CASES = {
    "composition": (ETHANOL, "k1", {"max": 10.0, "n": 30}, "none"),
    "composition of a crystal": (SALT, "k1", {}, "n_atoms"),
    "distances": (ETHANOL, "k2", {**DISTANCES, "weighting": "unity"}, "none"),
    "distances exp": (ETHANOL, "k2", {**DISTANCES, "weighting": "exp", "cutoff": 3.0}, "n_atoms"),
    "distances of a crystal": (SALT, "k2", {**DISTANCES, "weighting": "exp", "cutoff": 6.0}, "l2"),
    "distances of a small cell": (COPPER, "k2", {**DISTANCES, "weighting": "inverse_square"}, "n_atoms"),
    "distances, Valle and Oganov": (
        SKEWED,
        "k2",
        {**DISTANCES, "weighting": "inverse_square"},
        "valle_oganov",
    ),
    "distances of a slab": (SLAB, "k2", {**DISTANCES, "weighting": "exp", "cutoff": 6.0}, "n_atoms"),
    "inverse distances": (ETHANOL, "k2", {"weighting": "inverse_square", "cutoff": 4.0}, "l2"),
    "inverse distances of a skewed cell": (SKEWED, "k2", {"weighting": "exp", "threshold": 0.01}, "none"),
    "cosines": (ETHANOL, "k3", {"weighting": "unity"}, "none"),
    "cosines exp": (ETHANOL, "k3", {"weighting": "exp", "cutoff": 3.0}, "n_atoms"),
    "cosines of a crystal": (SALT, "k3", {"weighting": "exp", "cutoff": 5.0}, "l2"),
    "cosines of a small cell": (COPPER, "k3", {"weighting": "smooth_cutoff", "cutoff": 3.9}, "n_atoms"),
    "cosines, Valle and Oganov": (SKEWED, "k3", {"cutoff": 4.0}, "valle_oganov"),
    "angles": (ETHANOL, "k3", {**ANGLES, "cutoff": 3.0}, "none"),
    "angles of a slab": (SLAB, "k3", {**ANGLES, "weighting": "exp", "cutoff": 4.0}, "n_atoms"),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_dscribe(case):
    atoms, name, settings, normalization = CASES[case]
    terms = {"k2": None, "k3": None, name: settings}
    mbtr = MBTR(species=sorted(set(atoms.get_chemical_symbols())), **terms, normalization=normalization)
    expected = dscribe(mbtr, name, atoms)
    assert expected.any()
    np.testing.assert_allclose(mbtr(atoms)[0].numpy(), expected, rtol=1e-8, atol=1e-10 * expected.max())


def slow(mbtr: MBTR, atoms: Atoms) -> np.ndarray:
    """Return the features of atoms in loops over the atoms of repeated cells."""
    species = [list(mbtr.species).index(symbol) for symbol in atoms.get_chemical_symbols()]
    shifts = itertools.product(*[range(-3, 4) if periodic else [0] for periodic in atoms.pbc])
    images = [
        (index, position + np.array(shift) @ np.asarray(atoms.cell))
        for shift in shifts
        for index, position in enumerate(atoms.positions)
    ]
    sums = []
    for name, term in mbtr.terms.items():
        combinations = term.combinations(len(mbtr.species))
        total = np.zeros((len(combinations), term.n))

        def weight(*distances, term=term):
            smooth = [1 - 3 * (r / term.cutoff) ** 2 + 2 * (r / term.cutoff) ** 3 for r in distances]
            return math.prod(smooth) if max(distances) < term.cutoff else 0.0

        def add(combination, g, w, term=term, total=total, combinations=combinations):
            spacing = (term.max - term.min) / (term.n - 1)
            for k in range(term.n):
                edges = [(term.min + (k + side) * spacing - g) / term.sigma for side in (-0.5, 0.5)]
                low, high = (0.5 * math.erf(edge / math.sqrt(2)) for edge in edges)
                total[combinations.index(combination), k] += w * (high - low) / spacing

        for i, s in enumerate(species):
            around = [(j, x - atoms.positions[i]) for j, x in images]
            around = [(species[j], v) for j, v in around if np.linalg.norm(v) > 1e-9]
            if name == "k1":
                add((s,), atoms.numbers[i], 1.0)
            if name == "k2":  # each pair is met from both its ends
                for t, v in around:
                    r = np.linalg.norm(v)
                    add((min(s, t), max(s, t)), 1 / r, 0.5 * weight(r))
            if name == "k3":
                for (t, v), (u, w) in itertools.combinations(around, 2):
                    r, q = np.linalg.norm(v), np.linalg.norm(w)
                    if max(r, q) < term.cutoff:
                        add((s, min(t, u), max(t, u)), v @ w / (r * q), weight(r, q))
        sums.append(total.ravel())
    return np.concatenate(sums) / len(atoms)


@pytest.mark.parametrize("atoms", [ETHANOL[[0, 1, 2, 3, 8]], SKEWED, SLAB])
def test_equals_a_loop(atoms):
    mbtr = MBTR(
        species=sorted(set(atoms.get_chemical_symbols())),
        k1={"n": 11},
        k2={"n": 9, "sigma": 0.1, "cutoff": 3.6},
        k3={"n": 5, "sigma": 0.3, "cutoff": 2.9},
    )
    np.testing.assert_allclose(mbtr(atoms)[0].numpy(), slow(mbtr, atoms), rtol=1e-10, atol=1e-12)


def test_distributions_are_the_same_from_series_and_from_error_functions():
    rng = np.random.default_rng(0)
    structures = from_ase([Atoms("Pt6", rng.normal(0, 2, (6, 3))) for _ in range(3)])
    for n, sigma in ((2, 0.1), (5, 0.3), (7, 0.02), (130, 0.02), (300, 0.5)):
        mbtr = MBTR(species=["Pt"], k2=None, k3={"n": n, "sigma": max(sigma, 0.2 / (n - 1))})
        series, products = mbtr(structures), mbtr.value_and_jacobian(structures)[0]
        np.testing.assert_allclose(series.numpy(), products.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("normalization", ["n_atoms", "l2", "valle_oganov"])
def test_broadened_copies_are_the_terms_with_wider_gaussians(normalization):
    structures = from_ase([SALT, rattled(bulk("NaCl", "rocksalt", 5.0))])
    grids = {"k2": {"n": 30, "sigma": 0.03, "cutoff": 5.0}, "k3": {"n": 20, "sigma": 0.1, "cutoff": 4.0}}
    kwargs = {"species": ["Na", "Cl"], "normalization": normalization}
    mbtr = MBTR(**grids, broadening=[2.5], **kwargs)
    value, jacobian = mbtr.value_and_jacobian(structures)
    for factor, marks in ((1.0, ""), (2.5, "*2.5")):
        wider = {
            name: {**grid, "n": int(grid["n"] / factor), "sigma": factor * grid["sigma"]}
            for name, grid in grids.items()
        }
        alone = MBTR(**wider, **kwargs)
        expected, slopes = alone.value_and_jacobian(structures)
        for name in grids:
            own, other = mbtr.columns[name + marks], alone.columns[name]
            torch.testing.assert_close(value[:, own], expected[:, other], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(jacobian[:, own], slopes[:, other], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(mbtr.sharpness()[own], alone.sharpness()[other])
    torch.testing.assert_close(mbtr(structures), value, rtol=1e-10, atol=1e-12)
    assert make_representation(mbtr.config()).fingerprint == mbtr.fingerprint


def test_gradcheck_in_positions_and_cell():
    mbtr = MBTR(
        species=["Na", "Cl"],
        k2={"n": 4, "sigma": 0.2, "cutoff": 4.0},
        k3={"n": 4, "function": "angle", "min": 0, "max": 180, "sigma": 30, "cutoff": 3.5},
        normalization="l2",
    )
    structures = from_ase([rattled(bulk("NaCl", "rocksalt", 4.3)), rattled(molecule("NaCl"))])

    def features(positions, cells):
        return mbtr(structures.replace(positions=positions, cells=cells))

    variables = [structures.positions.clone(), structures.cells.clone()]
    variables = [variable.requires_grad_(True) for variable in variables]
    assert torch.autograd.gradcheck(features, variables, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("function", ["angle", "cosine"])
def test_everything_is_finite_where_atoms_meet_and_where_they_are_in_line(function):
    grid = {"min": 0.0, "max": 180.0, "sigma": 5.0} if function == "angle" else {}
    mbtr = MBTR(species=["Pt"], k3={"function": function, **grid, "weighting": "exp"})
    structures = from_ase([Atoms("Pt3", np.zeros((3, 3))), Atoms("Pt3", np.outer([0, 2.5, 5.0], [1, 0, 0]))])
    positions = structures.positions.requires_grad_(True)
    value = mbtr(structures.replace(positions=positions))
    value.sum().backward()
    _, jacobian = mbtr.value_and_jacobian(structures)
    assert value.isfinite().all() and positions.grad.isfinite().all() and jacobian.isfinite().all()


def test_a_search_goes_down_to_the_cluster_that_a_tensor_is_of():
    mbtr = MBTR(species=["Pt"], k2={"n": 40}, k3={"n": 30, "sigma": 0.1})
    cluster = Atoms("Pt4", [[0, 0, 0], [2.4, 0, 0], [1.0, 2.9, 0], [1.5, 0.8, 3.4]])
    problem = InversionProblem(representation=mbtr, target=mbtr(cluster), template=cluster)
    moved = cluster.copy()
    moved.rattle(0.03, seed=1)
    solver = LevenbergMarquardt()
    state = solver.init(problem, from_ase(moved))
    for _ in range(15):
        state = solver.step(problem, state)
    assert float(state.best_loss) < 1e-9


def test_config_and_recipe_rebuild_it():
    mbtr = MBTR(
        species=["O", "Cu"], k1={"n": 5}, k2=None, k3={"function": "cosine", "n": 7}, normalization="l2"
    )
    assert make_representation(mbtr.config()).fingerprint == mbtr.fingerprint
    built = MBTR.Settings(k2={"n": 20}, k3=None).build(["Cu", "O"])
    assert built.species == ("O", "Cu") and len(built.layout) == 3 * 20
    assert MBTR.Settings().build(["Cu"]).config() == MBTR(species=["Cu"]).config()
    assert MBTR.Settings().summary() == "mbtr: k2 inverse_distance, k3 cosine, normalization n_atoms"
    assert repr(built) == "MBTR(O, Cu; k2 inverse_distance; 60 features)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k2": None, "k3": None}, "no terms"),
        ({"broadening": [0.5]}, "factors of width above 1"),
        ({"k2": {"min": 2.0}}, "k2.*min 2 and max 0.8"),
        ({"k2": {"sigma": 1e-4}}, "sigma 0.0001, expected at least a tenth of the 0.00808"),
        ({"k3": {"weighting": "inverse_square"}}, "k3.*weighting"),
        ({"k2": {"sharpness": 2}}, "k2.*sharpness"),
        ({"normalization": "l1"}, "unknown normalization.*l2"),
        ({"species": ["Xx"]}, "no chemical element"),
        ({"species": ["H", "C", "N", "O", "F", "Na", "Mg", "Al", "Si"] * 1, "k3": {"n": 9000}}, "features"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(InputError, match=words):
        MBTR(**{"species": ["Pt"], **options})


@pytest.mark.parametrize(
    ("atoms", "options", "words"),
    [
        (COPPER, {"k2": {"weighting": "unity"}}, "periodic, but k2 counts atoms at any distance"),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2]]), {"normalization": "valle_oganov"}, "volume of a cell"),
        (COPPER, {"k3": {"cutoff": 60.0}}, "angles within the cutoff of k3, expected at most 20,000,000"),
    ],
)
def test_structures_that_cannot_be_encoded_are_named(atoms, options, words):
    mbtr = MBTR(species=["Cu"], **options)
    assert list(mbtr.find_problems([Atoms("Cu"), atoms]))[-1] == 1
    for encode in (mbtr, mbtr.value_and_jacobian):
        with pytest.raises(InputError, match=f"structure 0 .*{words}"):
            encode(atoms)
