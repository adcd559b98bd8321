"""Models of MatGL in one graph per batch must give what MatGL's own ASE calculator gives."""

import contextlib
import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from whorl.errors import InputError
from whorl.potentials import make_potential
from whorl.structures import from_ase
from whorl.testing import check_potential

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models" / "matgl"
KINDS = ("M3GNet", "TensorNet")


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(autouse=True, scope="module")
def installed():
    with quiet():
        pytest.importorskip("matgl", reason="needs the extra whorl[matgl]")


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    """A small model of that kind with random weights, energies of elements and a mean."""
    with quiet(), torch.random.fork_rng(devices=[]):
        from matgl import models
        from matgl.apps.pes import Potential

        torch.manual_seed(0)
        elements = ("Na", "Cl", "Pt", "Si", "O", "C")
        small = {"units": 8} if request.param == "M3GNet" else {"units": 8, "nblocks": 1}
        network = getattr(models, request.param)(element_types=elements, is_intensive=False, **small)
        path = tmp_path_factory.mktemp("models") / f"{request.param}-MatPES-r2SCAN-tiny"
        references = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
        Potential(network, element_refs=references, data_std=0.7, data_mean=0.2).save(path)
    return path


def everything() -> list[Atoms]:
    salt, left_handed = bulk("NaCl", "rocksalt", 5.6), bulk("Si")
    salt.rattle(0.1, seed=1)
    left_handed.set_cell(left_handed.cell[[1, 0, 2]])
    left_handed.rattle(0.05, seed=2)
    return [Atoms("COPt", [[0, 0, 0], [0.1, 0, 1.2], [0, 0.3, -1.9]]), salt, left_handed, Atoms("Pt")]


def compare(path, tolerance, convert=None):
    potential = make_potential("matgl", path=str(path), atoms_at_once=6)
    structures = from_ase(everything())
    output = potential(structures)
    assert not output.failures and output.stress is not None
    with quiet():
        import matgl
        from matgl.ext.ase import PESCalculator

        network = matgl.load_model(path)
        if convert is not None:
            convert(network)
        theirs = PESCalculator(network, stress_unit="eV/A3")
        for row, atoms in enumerate(everything()):
            periodic = atoms.cell.rank == 3
            if not periodic:
                atoms.center(vacuum=7.0)
                atoms.pbc = True
            atoms.calc = theirs
            assert float(output.energy[row]) == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
            forces = output.forces[structures.structure_index == row]
            np.testing.assert_allclose(forces, atoms.get_forces(), atol=tolerance)
            if periodic:
                np.testing.assert_allclose(output.stress[row], atoms.get_stress(voigt=False), atol=1e-5)
    return potential


def test_agrees_with_its_own_calculator(folder):
    potential = compare(folder, 1e-4)
    assert potential.scheme == "matpes-r2scan" and potential.name.startswith(f"matgl({folder.name}, ")
    assert make_potential("matgl", path=str(folder), scheme="r2scan").scheme == "r2scan"
    unknown = potential(from_ase([bulk("Cu"), bulk("Si")]))
    assert unknown.failures == {0: f"{folder.name} does not know Cu."}


def published(kind):
    path = MODELS / f"{kind}-MatPES-PBE-v2025.1-PES"
    if not path.is_dir():
        pytest.skip("the models of MatPES are not at hand")
    return path


def test_old_tensornet_is_converted_and_has_the_energies_of_pbe():
    def other_order(network):
        """Messages of MatGL before version 3, by its own method instead of by the weights."""
        embedding = network.model.tensor_embedding
        message = embedding.message
        embedding.message = lambda x_i, x_j, **rest: message(x_i=x_j, x_j=x_i, **rest)

    path = published("TensorNet")
    potential = compare(path, 2e-4, other_order)
    assert potential.scheme == "matpes-pbe"
    crystals = [bulk("NaCl", "rocksalt", 5.7), bulk("NaF", "rocksalt", 4.7), bulk("MgO", "rocksalt", 4.25)]
    energies = potential(from_ase(crystals)).energy / 2
    assert energies.tolist() == pytest.approx([-3.37, -4.33, -5.94], abs=0.1)  # eV/atom by PBE
    check_potential(potential)


def test_old_m3gnet_is_refused():
    path = published("M3GNet")
    with pytest.raises(InputError, match=r"do not fit this version of MatGL: NaCl .* 6 GPa"):
        make_potential("matgl", path=str(path))
    assert make_potential("matgl", path=str(path), check=False).scheme == "matpes-pbe"


def test_a_small_model_keeps_the_contract(folder):
    # "matgl" is a potential without a model of its own.
    check_potential(make_potential("matgl", path=str(folder)))


def test_folders_that_are_no_model_are_errors(folder, tmp_path):
    with pytest.raises(InputError, match="'path' is missing"):
        make_potential("matgl")
    with pytest.raises(InputError, match=r"has no model.json or model.pt or state.pt.*not downloaded"):
        make_potential("matgl", path="M3GNet-MatPES-PBE-v2025.1-PES")
    with pytest.raises(InputError, match="unknown energy scheme 'pbee'"):
        make_potential("matgl", path=str(folder), scheme="pbee")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    about = json.loads((broken / "model.json").read_text())
    for change, words in (
        ({"@class": "M3GNet"}, "expected a Potential"),
        ({"@module": "os"}, "names 'os', which is not MatGL"),
        ({"kwargs": {}}, "not a description"),
    ):
        (broken / "model.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(InputError, match=words):
            make_potential("matgl", path=str(broken))
    (broken / "model.json").write_text(json.dumps(about))
    (broken / "state.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be loaded"):
        make_potential("matgl", path=str(broken))
