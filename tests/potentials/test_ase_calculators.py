import pickle
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from whorl.errors import InputError
from whorl.potentials import Potential, importable, make_potential
from whorl.structures import from_ase

DIMER = Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]])


def test_emt_gives_what_ase_gives():
    crystal = bulk("Pt", cubic=True) * (2, 1, 1)
    crystal.rattle(0.1, seed=0)
    output = make_potential("emt")(from_ase([DIMER, crystal]))
    for row, (atoms, forces) in enumerate(
        zip((DIMER, crystal), (output.forces[:2], output.forces[2:]), strict=True)
    ):
        atoms = atoms.copy()
        atoms.calc = EMT()
        assert float(output.energy[row]) == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        assert np.allclose(forces, atoms.get_forces(), atol=1e-12)
    crystal.calc = EMT()
    assert np.allclose(output.stress[1], crystal.get_stress(voigt=False), atol=1e-12)
    assert bool(output.stress[0].isnan().all())  # a cluster has no cell to be under stress
    assert output.failures == {}


def test_a_failure_is_a_row_with_a_reason():
    nan = DIMER.copy()
    nan.positions[0, 0] = np.nan
    structures = from_ase([DIMER, Atoms("Fe2", [[0, 0, 0], [0, 0, 2.5]]), nan, DIMER])
    output = make_potential("emt")(structures)
    assert set(output.failures) == {1, 2}
    assert "Fe" in output.failures[1] and "NaN" in output.failures[2]
    assert bool(output.energy.isnan().tolist() == [False, True, True, False])
    assert bool(output.forces[2:6].isnan().all())
    assert torch.equal(output.energy[0], output.energy[3])


class Fickle(EMT):
    """Fails in a way of its own whenever asked for more than two atoms."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        if len(atoms) > 2:
            raise RuntimeError("SCF\n   not converged")
        super().calculate(atoms, properties, list(system_changes) or ["positions"])


def test_any_calculator_by_import_path():
    potential = make_potential("ase.calculators.lj:LennardJones", sigma=2.0, epsilon=0.5, rc=10.0)
    assert isinstance(potential, Potential)
    assert potential.name == "ase.calculators.lj:LennardJones(epsilon=0.5, rc=10.0, sigma=2.0)"
    d = 2.0 * 2 ** (1 / 6)
    energy = potential(from_ase([Atoms("Ar2", [[0, 0, 0], [0, 0, d]])])).energy
    assert float(energy[0]) == pytest.approx(-0.5, abs=1e-3)
    output = make_potential(f"{__name__}:Fickle")(from_ase([Atoms("Pt3", np.eye(3) * 2.6), DIMER]))
    assert output.failures == {0: f"{__name__}:Fickle: SCF not converged"}
    assert bool(output.energy[1].isfinite())


def test_travels_to_other_processes():
    potential = make_potential("emt")
    structures = from_ase([DIMER])
    expected = potential(structures).energy
    assert torch.equal(pickle.loads(pickle.dumps(potential))(structures).energy, expected)


def test_float32_in_float32_out():
    output = make_potential("emt")(from_ase([DIMER]).to(dtype=torch.float32))
    assert output.energy.dtype == output.forces.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chgnt", {}, "Did you mean 'chgnet'"),
        ("", {}, "Choose from"),
        ("no.such.module:Calculator", {}, "cannot import no.such.module"),
        ("ase.calculators.emt:EMTT", {}, "Did you mean 'EMT'"),
        ("ase.calculators.emt:", {}, "has no ''"),
        ("chgnet", {"modle": "0.3.0"}, "modle"),
    ],
)
def test_unknown_names(name, options, message):
    with pytest.raises(InputError, match=message):
        make_potential(name, **options)


@pytest.mark.parametrize("name", ["gfn1-xtb", "gfn2-xtb"])
def test_xtb(name):
    pytest.importorskip("tblite", reason="needs the extra whorl[xtb]")
    potential = make_potential(name)
    assert potential.name == name
    water = Atoms("OH2", [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])
    bad = water.copy()
    bad.positions[1] = bad.positions[0]
    output = potential(from_ase([water, bad, water]))
    assert set(output.failures) == {1}
    # Published by the method's authors: -5.77 Eh (GFN1), -5.07 Eh (GFN2) for water.
    assert float(output.energy[0]) == pytest.approx({"gfn1": -157.0, "gfn2": -138.0}[name[:4]], abs=1.0)
    assert float(output.energy[0]) == pytest.approx(float(output.energy[2]), abs=1e-10)
    h = 1e-3
    moved = []
    for sign in (1, -1):
        atoms = water.copy()
        atoms.positions[1, 1] += sign * h
        moved.append(atoms)
    energy = potential(from_ase(moved)).energy
    assert float(output.forces[1, 1]) == pytest.approx(float(energy[1] - energy[0]) / (2 * h), abs=1e-3)


def annotated(sigma: float = 1.0) -> EMT:
    return EMT()


def unannotated():
    raise AssertionError("called")


class NoCalculator:
    def __init__(self, **options):
        raise AssertionError("called")


class Broken(EMT):
    def __init__(self):
        raise OSError("no weights at /nowhere")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("subprocess:run", {"args": ["touch", "PWNED"]}, "got a function, expected a class derived from ASE"),
        ("subprocess:getoutput", {"cmd": "touch PWNED"}, "It was not called"),
        ("subprocess:Popen", {"args": ["touch", "PWNED"]}, "got another class"),
        ("os:system", {"command": "touch PWNED"}, "got a builtin_function_or_method"),
        ("os:environ", {}, "got a _Environ"),
        (f"{__name__}:unannotated", {}, "got a function"),
        (f"{__name__}:NoCalculator", {}, "got another class.*Did you mean|Choose from: "),
        ("ase.calculators.lj.LennardJones", {}, r"Did you mean 'ase\.calculators\.lj:LennardJones'\?"),
        (":EMT", {}, "got no module, expected a path package.module:Class"),
        (".emt:EMT", {}, "got no module, expected a path package.module:Class"),
        (f"{__name__}:Broken", {}, "cannot be made: no weights at /nowhere"),
    ],
)
def test_only_calculators_are_called(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        make_potential(name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_is_annotated_to_return_a_calculator_is_one():
    assert bool(make_potential(f"{__name__}:annotated", sigma=2.0)(from_ase([DIMER])).energy.isfinite())


def test_modules_in_a_folder_of_ones_own(tmp_path):
    (tmp_path / "my_own_emt.py").write_text("from ase.calculators.emt import EMT\nclass Mine(EMT): ...\n")
    (tmp_path / "my_own_mistake.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=r"cannot import my_own_emt .* Looked in ") as caught:
        make_potential("my_own_emt:Mine")
    assert str(tmp_path) not in str(caught.value)
    with importable(tmp_path):
        assert make_potential("my_own_emt:Mine").name == "my_own_emt:Mine"
        with pytest.raises(InputError, match="Choose from: EMT, Mine"):
            make_potential("my_own_emt:Other")
        with pytest.raises(InputError, match="ZeroDivisionError"):
            make_potential("my_own_mistake:Mine")
        with pytest.raises(InputError, match=f"Looked in .*{tmp_path.name}"):
            make_potential("my_own_absent:Mine")
    assert str(tmp_path) not in sys.path
