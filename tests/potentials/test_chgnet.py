"""CHGNet in one graph per batch must give what CHGNet's own ASE calculator gives."""

import contextlib
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111

from whorl.errors import InputError
from whorl.potentials import make_potential
from whorl.structures import StructureBatch, from_ase

pytest.importorskip("chgnet", reason="needs the extra whorl[chgnet]")


@pytest.fixture(scope="module")
def potential():
    return make_potential("chgnet", atoms_at_once=25)


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")


def cluster(spread: float, seed: int, n: int = 8) -> Atoms:
    rng = np.random.default_rng(seed)
    positions: list[np.ndarray] = []
    while len(positions) < n:
        place = rng.random(3) * spread
        if all(np.linalg.norm(place - other) > 2.2 for other in positions):
            positions.append(place)
    return Atoms(f"Pt{n}", positions=positions)


def crystals() -> list[Atoms]:
    salt, tin, slab = bulk("NaCl", "rocksalt", 5.6), bulk("Zn"), fcc111("Pt", (1, 2, 3), vacuum=8.0)
    salt.rattle(0.1, seed=1)
    tin.set_cell(tin.cell[:] * 1.02 + np.random.default_rng(0).normal(0, 0.1, (3, 3)), scale_atoms=True)
    left_handed = bulk("Si")
    left_handed.set_cell(left_handed.cell[[1, 0, 2]])
    left_handed.rattle(0.05, seed=2)
    return [salt, tin, slab, left_handed]


def compare(output, row, atoms, boxed, theirs, index):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        boxed.calc = theirs
        energy, forces = boxed.get_potential_energy(), boxed.get_forces()
        stress = boxed.get_stress(voigt=False)
    assert output.energy[row] == pytest.approx(energy, abs=1e-4)
    assert np.allclose(output.forces[index == row], forces, atol=5e-4)
    if atoms.cell.rank == 3:
        # Theirs divides by the signed volume, so it has the other sign in left-handed cells.
        assert np.allclose(output.stress[row], stress * np.sign(np.linalg.det(boxed.cell)), atol=2e-5)
    else:
        assert bool(output.stress[row].isnan().all())


def test_agrees_with_its_own_calculator(potential, theirs):
    clusters = [
        cluster(5.0, 0),
        cluster(9.0, 1),
        cluster(16.0, 2),
        Atoms("Pt"),
        Atoms("Pt2", [[0, 0, 0], [0, 0, 7]]),
    ]
    everything = clusters + crystals()
    structures = from_ase(everything)
    output = potential(structures)
    assert not output.failures
    for row, atoms in enumerate(everything):
        boxed = atoms.copy()
        if row < len(clusters):  # what CHGNet needs and we do not: vacuum wider than its cutoff
            boxed.center(vacuum=7.0)
        boxed.pbc = True
        if atoms.cell.rank == 3 and not atoms.pbc.all():
            assert atoms.cell.lengths()[2] > 12  # the slab's own vacuum
        compare(output, row, atoms, boxed, theirs, structures.structure_index)


def test_forces_and_stress_are_derivatives_of_the_energy(potential):
    atoms = crystals()[0]
    output = potential(from_ase(atoms))
    h = 0.01
    moved = []
    for sign in (1, -1):
        a = atoms.copy()
        a.positions[0, 1] += sign * h
        moved.append(a)
    for sign in (1, -1):
        a = atoms.copy()
        strain = np.eye(3)
        strain[0, 1] = strain[1, 0] = sign * h / 2
        a.set_cell(a.cell[:] @ strain, scale_atoms=True)
        moved.append(a)
    energy = potential(from_ase(moved)).energy
    assert float(output.forces[0, 1]) == pytest.approx(float(-(energy[0] - energy[1]) / (2 * h)), abs=5e-3)
    stress = float((energy[2] - energy[3]) / (2 * h)) / atoms.get_volume()
    assert float(output.stress[0, 0, 1]) == pytest.approx(stress, abs=2e-4)


def test_parts_far_apart_have_the_sum_of_their_energies(potential):
    left, right = cluster(5.0, 3, n=5), cluster(5.0, 4, n=4)
    right.positions += [30, 0, 0]
    energy = potential(from_ase([left, right, left + right])).energy
    assert float(energy[2]) == pytest.approx(float(energy[0] + energy[1]), abs=1e-4)
    # Continuous where an atom leaves the cutoff of 6 Å.
    pairs = potential(from_ase([Atoms("Pt2", [[0, 0, 0], [0, 0, d]]) for d in (5.999, 6.001)])).energy
    assert float(pairs[0]) == pytest.approx(float(pairs[1]), abs=1e-3)


def test_a_batch_gives_what_its_structures_give(potential):
    structures = from_ase([cluster(5.0, 5), *crystals(), cluster(8.0, 6, n=3)])
    together = potential(structures)
    for row, one in enumerate(structures):
        alone = potential(one)
        assert float(alone.energy[0]) == pytest.approx(float(together.energy[row]), abs=1e-4)
        assert torch.allclose(alone.forces, together.forces[structures.structure_index == row], atol=5e-4)


def test_one_bad_structure_is_a_row_with_a_reason(potential):
    nan, twice, exotic, flat = cluster(5.0, 7), cluster(5.0, 7), Atoms("Lr"), bulk("Pt")
    nan.positions[2, 1] = np.nan
    twice.positions[1] = twice.positions[0]
    flat.cell[2] = flat.cell[0]
    good = cluster(5.0, 8)
    output = potential(from_ase([good, nan, twice, exotic, flat, good]))
    assert set(output.failures) == {1, 2, 3, 4}
    assert "NaN" in output.failures[1]
    assert "one place" in output.failures[2]
    assert output.failures[3] == "CHGNet does not know Lr."
    assert "volume" in output.failures[4]
    assert bool(output.energy[1:5].isnan().all())
    assert float(output.energy[0]) == pytest.approx(float(output.energy[5]), abs=1e-4)


def test_no_structures(potential):
    empty = from_ase([cluster(5.0, 0)])[0:0]
    assert isinstance(empty, StructureBatch)
    assert potential(empty).energy.shape == (0,)


def test_input_is_left_alone_and_its_type_kept(potential):
    structures = from_ase([cluster(5.0, 9)])
    before = structures.positions.clone()
    output = potential(structures.to(dtype=torch.float32))
    assert output.energy.dtype == torch.float32
    assert torch.equal(structures.positions, before)
    assert not structures.positions.requires_grad


def test_prints_nothing_and_travels_without_weights(capfd):
    potential = make_potential("chgnet")
    output = potential(from_ase([Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]])]))
    assert capfd.readouterr() == ("", "")
    packed = pickle.dumps(potential)
    assert len(packed) < 5000
    again = pickle.loads(packed)(from_ase([Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]])]))
    assert torch.equal(again.energy, output.energy)


def test_unknown_model():
    with pytest.raises(InputError, match="r2scan"):
        make_potential("chgnet", model="r2scann")
    assert make_potential("chgnet", model="r2scan").name == "chgnet-r2scan"
