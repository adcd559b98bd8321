"""SevenNet in one graph per batch must give what SevenNet's own ASE calculator gives."""

import pickle
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from whorl.potentials import make_potential
from whorl.structures import from_ase
from whorl.testing import check_potential


@pytest.fixture(autouse=True, scope="module")
def installed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sevenn", reason="needs the extra whorl[sevennet]")


def everything() -> list[Atoms]:
    salt, slab, left_handed = bulk("NaCl", "rocksalt", 5.6), fcc111("Pt", (1, 2, 3), vacuum=8.0), bulk("Si")
    salt.rattle(0.1, seed=1)
    left_handed.set_cell(left_handed.cell[[1, 0, 2]])
    left_handed.rattle(0.05, seed=2)
    molecule = Atoms("COPt", [[0, 0, 0], [0.1, 0, 1.2], [0, 0.3, -1.9]])
    return [molecule, Atoms("Pt"), Atoms("Pt2", [[0, 0, 0], [0, 0, 7]]), salt, slab, left_handed]


@pytest.mark.parametrize("model", ["0", "l3i5"])
def test_agrees_with_its_own_calculator(model):
    potential = make_potential("sevennet", model=model, atoms_at_once=6)
    structures = from_ase(everything())
    output = potential(structures)
    assert not output.failures and output.stress is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn.calculator import SevenNetCalculator

        theirs = SevenNetCalculator(f"7net-{model}", device="cpu")
        assert set(potential.elements) == set(theirs.type_map)
        for row, atoms in enumerate(everything()):
            atoms.calc = theirs
            assert float(output.energy[row]) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
            forces = output.forces[structures.structure_index == row]
            np.testing.assert_allclose(forces, atoms.get_forces(), atol=3e-4)
            if atoms.cell.rank == 3:
                np.testing.assert_allclose(output.stress[row], atoms.get_stress(voigt=False), atol=1e-5)
            else:
                assert bool(output.stress[row].isnan().all())


def test_contract():
    potential = make_potential("sevennet")
    check_potential(potential)
    assert (potential.name, potential.scheme) == ("sevennet", "pbe+u")
    assert make_potential("sevennet", model="l3i5").name == "sevennet-l3i5"
    assert pickle.loads(pickle.dumps(potential)).name == "sevennet"


def test_elements_that_it_does_not_know_are_reasons():
    output = make_potential("sevennet")(from_ase([bulk("Po", "sc", 3.3), bulk("Cu"), Atoms("No")]))
    assert output.failures == {0: "SevenNet does not know Po.", 2: "SevenNet does not know No."}
    assert bool(output.energy[1].isfinite()) and bool(output.energy[[0, 2]].isnan().all())
