"""Power spectra against DScribe, against numerical derivatives, and in a search."""

import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from whorl.errors import InputError
from whorl.reconstruction import AtomwiseProblem, InversionProblem
from whorl.reconstruction.solvers import LevenbergMarquardt
from whorl.representations import make_representation
from whorl.representations.soap import SOAP
from whorl.structures import from_ase


def rattled(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=1)
    return atoms


def dscribe(soap: SOAP, atoms: Atoms, *, average: str) -> np.ndarray:
    """Return DScribe's power spectra in our order of the pairs of species."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dscribe import descriptors
    theirs = descriptors.SOAP(
        species=list(soap.species),
        r_cut=soap.radius,
        n_max=soap.n_max,
        l_max=soap.l_max,
        sigma=soap.sigma,
        rbf="gto",
        average=average,
        periodic=bool(atoms.pbc.any()),
        weighting={"function": "poly", "r0": soap.radius, "c": 1, "m": 1},
    )
    values = theirs.create(atoms)
    places = [theirs.get_location((soap.species[s], soap.species[t])) for s, t in soap.channel_pairs]
    return np.concatenate([values[..., place] for place in places], -1)


CASES = {
    "molecule": (rattled(molecule("CH3CH2OH")), {"n_max": 6, "l_max": 5}),
    "sharp": (rattled(molecule("CH3CH2OH")), {"n_max": 4, "l_max": 9, "sigma": 0.3, "cutoff": 4.0}),
    "one atom": (Atoms("Cu"), {"n_max": 3, "l_max": 2}),
    "no neighbours": (Atoms("CuO", [[0, 0, 0], [9, 0, 0]]), {"n_max": 3, "l_max": 2}),
    "crystal": (rattled(bulk("NaCl", "rocksalt", 5.6)), {"n_max": 8, "l_max": 6}),
    "small cell": (bulk("Cu"), {"n_max": 6, "l_max": 4, "cutoff": 6.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_dscribe(name):
    atoms, options = CASES[name]
    soap = SOAP(species=sorted(set(atoms.get_chemical_symbols())), pooling=["mean"], **options)
    per_atom = dscribe(soap, atoms, average="off")
    np.testing.assert_allclose(soap.atomic_features(atoms).numpy(), per_atom, rtol=1e-8, atol=1e-9)
    pooled = dscribe(soap, atoms, average="outer")
    np.testing.assert_allclose(soap(atoms)[0].numpy(), pooled, rtol=1e-8, atol=1e-9)


def test_gradcheck_in_positions_and_cell():
    soap = SOAP(species=["Na", "Cl"], cutoff=4.0, n_max=3, l_max=3)
    structures = from_ase([rattled(bulk("NaCl", "rocksalt", 4.3)), rattled(molecule("NaCl"))])

    def features(positions, cells):
        return soap.atomic_features(structures.replace(positions=positions, cells=cells))

    variables = [structures.positions.clone(), structures.cells.clone()]
    variables = [variable.requires_grad_(True) for variable in variables]
    assert torch.autograd.gradcheck(features, variables, atol=1e-6, rtol=1e-5)


def test_everything_is_finite_where_atoms_meet():
    atoms = Atoms("Pt3", np.zeros((3, 3)))
    soap = SOAP(species=["Pt"], pooling=["mean", "std", "max"])
    positions = from_ase(atoms).positions.requires_grad_(True)
    value = soap(from_ase(atoms).replace(positions=positions))
    value.sum().backward()
    _, jacobian = soap.value_and_jacobian(atoms)
    assert value.isfinite().all() and positions.grad.isfinite().all() and jacobian.isfinite().all()


def test_a_search_goes_down_to_the_cluster_that_a_fingerprint_is_of():
    soap = SOAP(species=["Pt"], cutoff=6.0, n_max=5, l_max=3)
    cluster = Atoms("Pt4", [[0, 0, 0], [2.6, 0, 0], [1.2, 2.4, 0], [1.3, 0.8, 2.3]])
    start = from_ase(rattled(cluster))
    for problem in (
        InversionProblem(representation=soap, target=soap(cluster), template=cluster),
        AtomwiseProblem.of(soap, soap.atomic_features(cluster)[[2, 0, 3, 1]], cluster),
    ):
        solver = LevenbergMarquardt()
        state = solver.init(problem, start)
        for _ in range(15):
            state = solver.step(problem, state)
        assert float(state.best_loss) < 1e-9


def test_config_and_recipe_rebuild_it():
    soap = SOAP(species=["O", "Cu"], cutoff=4.5, n_max=3, l_max=2, pooling=["max"], images="minimum")
    assert make_representation(soap.config()).fingerprint == soap.fingerprint
    built = SOAP.Settings(n_max=3, l_max=2).build(["Cu", "O"])
    assert built.species == ("O", "Cu") and len(built.layout) == 2 * 21 * 3
    assert SOAP.Settings().build(["Cu"]).config() == SOAP(species=["Cu"]).config()
    summary = SOAP.Settings().summary()
    assert summary == "soap: cutoff 5.0, n max 6, l max 4, sigma 0.5, pooling mean and std, images all"
    assert repr(built) == "SOAP(O, Cu; cutoff 5 Å; mean, std; 126 features)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff": 0.5}, "above 1 Å"),
        ({"sigma": 0.0}, "sigma 0.0"),
        ({"n_max": 0}, "n_max 0"),
        ({"cutoff": 1.2, "n_max": 12}, "cannot be told apart within 1.2 Å.*smaller n_max"),
        ({"pooling": ["maximum"]}, "unknown pooling"),
        ({"species": ["Xx"]}, "no chemical element"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(InputError, match=words):
        SOAP(**{"species": ["Pt"], **options})
