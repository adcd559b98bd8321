"""Relaxation of positions and cells, compared with ASE's FrechetCellFilter."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from whorl.errors import InputError
from whorl.potentials import PotentialOutput, make_potential, relax, relaxed
from whorl.potentials.relaxation import GPA
from whorl.structures import from_ase, to_ase
from whorl.structures.cells import cell_parameters
from whorl.symmetry import space_group_numbers

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")


def crystals(count, *, seed=0, strain=0.03, rattle=0.05):
    """Return alloys of the elements of EMT in strained cells, with displaced atoms."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        first, second = rng.choice(METALS, 2, replace=False)
        atoms = bulk(str(first), "fcc", a=3.9, cubic=True) if k % 2 else bulk(str(first), "hcp", a=2.8, c=4.5)
        atoms.symbols[int(rng.integers(len(atoms)))] = str(second)
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(0, strain, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        made.append(atoms)
    return made


def relaxed_by_ase(atoms, *, steps=2000, fmax=1e-4, pressure=0.0):
    atoms = atoms.copy()
    atoms.calc = EMT()
    FIRE(FrechetCellFilter(atoms, scalar_pressure=pressure / GPA), logfile=None).run(fmax=fmax, steps=steps)
    return atoms


def assert_same(one, other):
    """Assert that two results say the same of the same structures."""
    torch.testing.assert_close(one.structures.positions, other.structures.positions, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.structures.cells, other.structures.cells, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.energy, other.energy, rtol=0, atol=1e-9, equal_nan=True)
    assert one.status == other.status and one.reasons == other.reasons
    assert torch.equal(one.steps, other.steps)


@pytest.mark.parametrize("pressure", [0.0, 8.0])
def test_makes_the_steps_of_ase(pressure):
    # So near to the minimum that no step is shortened: ASE shortens whole vectors, not the longest row.
    given = [relaxed_by_ase(atoms, fmax=0.3) for atoms in crystals(4)]
    for count in (1, 2, 12, 30):
        result = relaxed(
            given,
            make_potential("emt"),
            optimizer="fire",
            steps=count,
            force_tolerance=1e-12,
            stress_tolerance=1e-12,
            pressure=pressure,
        )
        assert result.status == ("not converged",) * 4 and result.steps.tolist() == [count] * 4
        for ours, start in zip(to_ase(result.structures), given, strict=True):
            theirs = relaxed_by_ase(start, steps=count, fmax=1e-12, pressure=pressure)
            assert np.abs(theirs.positions - start.positions).max() > 1e-4
            np.testing.assert_allclose(ours.cell[:], theirs.cell[:], rtol=0, atol=1e-7)
            np.testing.assert_allclose(ours.positions, theirs.positions, rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def ends_of_ase():
    given = crystals(4, seed=1)
    return given, [relaxed_by_ase(atoms, fmax=3e-4) for atoms in given]


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
def test_ends_where_ase_ends(optimizer, ends_of_ase):
    given, ends = ends_of_ase
    result = relaxed(
        given,
        make_potential("emt"),
        optimizer=optimizer,
        force_tolerance=0.002,
        stress_tolerance=0.01,
    )
    assert set(result.status) == {"converged"} and result.reasons == {}
    for k, theirs in enumerate(ends):
        n = len(theirs)
        assert float(result.energy[k]) / n == pytest.approx(theirs.get_potential_energy() / n, abs=1e-4)
        lengths = cell_parameters(result.structures.cells[k : k + 1])[0, :3]
        np.testing.assert_allclose(lengths.numpy(), theirs.cell.lengths(), atol=1e-3)
    assert float(result.max_force.max()) < 0.002 and float(result.max_stress.max()) < 0.01
    assert float(result.pressure.abs().max()) < 0.01
    assert bool((result.energy < result.initial_energy).all())


def test_reaches_the_pressure_asked_for_which_raises_the_energy():
    given = bulk("Cu", cubic=True)
    free, pressed = (
        relaxed(given, make_potential("emt"), pressure=p, stress_tolerance=0.01) for p in (0.0, 20.0)
    )
    assert float(pressed.pressure[0]) == pytest.approx(20.0, abs=0.01)
    assert float(pressed.max_stress[0]) < 0.01
    assert float(pressed.energy[0]) > float(free.energy[0]) + 0.01
    assert float(torch.linalg.det(pressed.structures.cells)[0]) < float(
        torch.linalg.det(free.structures.cells)[0]
    )


def test_a_stress_above_its_tolerance_is_not_converged_even_without_forces():
    squeezed = bulk("Cu", a=3.5)  # one atom: no forces in any cell
    fixed = relaxed(squeezed, make_potential("emt"), cell=False)
    assert fixed.status == ("converged",) and fixed.steps.tolist() == [0]
    assert float(fixed.max_stress[0]) > 1 and torch.equal(fixed.structures.cells, from_ase(squeezed).cells)
    free = relaxed(squeezed, make_potential("emt"))
    assert free.status == ("converged",) and int(free.steps[0]) > 0
    short = relaxed(squeezed, make_potential("emt"), steps=1)
    assert short.status == ("not converged",) and "GPa left after 1 steps" in short.reasons[0]


def test_molecules_and_slabs_keep_their_cells():
    cluster = Atoms("Pt4", np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 1.9)
    slab = bulk("Al", cubic=True)
    slab.pbc = (True, True, False)
    slab.positions[0, 2] += 0.1
    crystal = crystals(1)[0]
    result = relaxed([cluster, slab, crystal], make_potential("emt"))
    assert set(result.status) == {"converged"}
    given = from_ase([cluster, slab, crystal])
    assert torch.equal(result.structures.cells[:2], given.cells[:2])
    assert float((result.structures.cells[2] - given.cells[2]).abs().max()) > 1e-3
    assert result.max_stress.isnan().tolist() == result.pressure.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
def test_does_not_depend_on_the_batch_or_on_who_enters_when(optimizer, monkeypatch):
    given = crystals(4, seed=2)
    potential = make_potential("emt")
    together = relaxed(given, potential, optimizer=optimizer)
    assert len(set(together.steps.tolist())) > 1
    monkeypatch.setattr("whorl.potentials.relaxation._ATOMS_AT_ONCE", 7)
    assert_same(relaxed(given, potential, optimizer=optimizer), together)
    for k, atoms in enumerate(given):
        alone = relaxed(atoms, potential, optimizer=optimizer)
        torch.testing.assert_close(alone.energy[0], together.energy[k], rtol=0, atol=1e-9)
        assert int(alone.steps[0]) == int(together.steps[k])


class Counting:
    name = "counting"

    def __init__(self):
        self.emt, self.sizes = make_potential("emt"), []

    def __call__(self, structures):
        self.sizes.append(len(structures))
        return self.emt(structures)


def test_the_batch_stays_full_and_each_call_is_counted(monkeypatch):
    monkeypatch.setattr("whorl.potentials.relaxation._ATOMS_AT_ONCE", 9)
    potential = Counting()
    result = relaxed([bulk("Cu", a=3.4 + 0.05 * k, cubic=True) for k in range(6)], potential)
    assert sum(potential.sizes) == int(result.steps.sum()) + 6
    busy = list(itertools.takewhile(lambda size: size == 2, potential.sizes))
    assert len(busy) > len(potential.sizes) / 2 and set(potential.sizes) == {1, 2}


class Moody:
    """EMT that fails on silver, and is wrong in a different way for each other element but nickel."""

    name, scheme = "moody", "emt"

    def __init__(self):
        self.emt = make_potential("emt")

    def __call__(self, structures):
        output = self.emt(structures)
        first = structures.atomic_numbers[structures.first_atom]
        energy, forces, stress = output.energy.clone(), output.forces.clone(), output.stress.clone()
        energy[(first == 47) | (first == 79)] = torch.nan
        forces[(first == 47)[structures.structure_index]] = torch.nan
        stress[first == 78] = torch.nan
        # Copper pulls itself together without end, and aluminium apart.
        stress[first == 29] = torch.eye(3, dtype=stress.dtype)
        stress[first == 13] = -torch.eye(3, dtype=stress.dtype)
        energy[first == 46] = -1000.0
        failures = {int(b): "silver" for b in torch.nonzero(first == 47)}
        return PotentialOutput(energy=energy, forces=forces, stress=stress, failures=failures)


def test_each_kind_of_failure_has_its_status_and_touches_no_other():
    given = [bulk(symbol, cubic=True) for symbol in ("Ag", "Au", "Pt", "Cu", "Al", "Pd")]
    given += [crystals(2)[1], bulk("Ni").repeat((1, 1, 1))]
    given[6].symbols[:] = "Ni"
    broken = bulk("Ni", cubic=True)
    broken.positions[0, 0] = np.nan
    flat = bulk("Ni")
    flat.cell[2] = flat.cell[1]
    given += [broken, flat]
    result = relaxed(given, Moody(), optimizer="fire")
    assert result.status == (
        "failed",
        "failed",
        "failed",
        "collapsed",
        "exploded",
        "out of range",
        "converged",
        "converged",
        "failed",
        "failed",
    )
    assert result.reasons[0] == "silver"
    assert "no energy" in result.reasons[1] and "no stress" in result.reasons[2]
    assert "times the volume of the start" in result.reasons[3]
    assert "-250 eV per atom" in result.reasons[5]
    assert "NaN" in result.reasons[8] and "no volume" in result.reasons[9]
    assert set(result.reasons) == {0, 1, 2, 3, 4, 5, 8, 9}
    gone = result.energy.isnan()
    assert gone.tolist() == [status not in ("converged", "not converged") for status in result.status]
    batch = from_ase(given)
    assert torch.equal(result.structures.cells[gone], batch.cells[gone])
    assert result.max_force[gone].isnan().all() and result.forces[gone[batch.structure_index]].isnan().all()
    alone = relaxed(given[6:8], make_potential("emt"), optimizer="fire")
    torch.testing.assert_close(alone.energy, result.energy[6:8], rtol=0, atol=1e-9)


def test_a_huge_force_is_out_of_range():
    near = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.05]])
    result = relaxed([near, bulk("Cu")], make_potential("emt"))
    assert result.status == ("out of range", "converged")
    assert "eV/Å" in result.reasons[0] and torch.equal(
        result.structures.positions[:2], from_ase(near).positions
    )
    assert bool(result.initial_energy[0].isnan())


class WithoutStress:
    name = "stressless"

    def __init__(self, *, none):
        self.emt, self.none = make_potential("emt"), none

    def __call__(self, structures):
        output = self.emt(structures)
        stress = None if self.none else torch.full_like(output.stress, torch.nan)
        return PotentialOutput(energy=output.energy, forces=output.forces, stress=stress)


@pytest.mark.parametrize("none", [True, False])
def test_cells_without_stresses_are_refused_and_fixed_ones_relaxed(none):
    with pytest.raises(InputError, match=r"stressless gives no stresses.*cell=False"):
        relaxed(crystals(2), WithoutStress(none=none))
    result = relaxed(crystals(2), WithoutStress(none=none), cell=False)
    assert result.status == ("converged",) * 2 and (result.stress is None) == none
    assert result.pressure.isnan().all() and result.max_stress.isnan().all()
    molecules = relaxed(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]]), WithoutStress(none=none))
    assert molecules.status == ("converged",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "fir"}, "Did you mean 'fire'"),
        ({"force_tolerance": 0.0}, "force_tolerance: got 0.0"),
        ({"stress_tolerance": float("nan")}, "stress_tolerance: got nan"),
        ({"steps": -1}, "steps: got -1"),
        ({"pressure": float("inf")}, "pressure: got inf"),
    ],
)
def test_refuses_settings_without_a_meaning(options, message):
    with pytest.raises(InputError, match=message):
        relaxed(bulk("Cu"), make_potential("emt"), **options)


def test_no_structures_and_no_steps():
    none = relaxed(from_ase([bulk("Cu")])[:0], make_potential("emt"), keep_frames=True)
    assert none.status == () and none.energy.shape == (0,) and none.frames == []
    single = relaxed(crystals(1), make_potential("emt"), steps=0)
    assert single.status == ("not converged",) and single.steps.tolist() == [0]
    assert torch.equal(single.energy, single.initial_energy)


def test_frames_begin_with_the_structure_given_and_end_with_the_relaxed_one():
    given = crystals(2)
    result = relaxed(given, make_potential("emt"), keep_frames=True)
    for k, frames in enumerate(result.frames):
        assert len(frames) == int(result.steps[k]) + 1
        np.testing.assert_allclose(frames[0].positions.numpy(), given[k].positions, atol=1e-12)
        assert torch.equal(frames[-1].cells[0], result.structures.cells[k])
        assert frames.info[-1]["energy"] == float(result.energy[k])
        single = make_potential("emt")(frames[3])
        assert frames.info[3]["energy"] == pytest.approx(float(single.energy[0]), abs=1e-9)


def broken_perovskite():
    """Return a crystal of five atoms that would rather be less symmetric, nearly Pm-3m, in a shifted cell."""
    atoms = Atoms(
        "AuPtCu3",
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        cell=np.diag([3.6, 3.602, 3.598]),
        pbc=True,
    )
    atoms.rotate(30, (1, 2, 3), rotate_cell=True)
    atoms.positions += 0.3
    atoms.rattle(0.001, seed=0)
    return atoms


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
def test_symmetry_is_kept_where_it_is_asked_for(optimizer):
    given = [broken_perovskite(), crystals(1)[0], Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])]
    assert space_group_numbers(from_ase(given[0]), symprec=1e-5).tolist() == [1]
    result = relaxed(given, make_potential("emt"), symmetry=True, optimizer=optimizer, keep_frames=True)
    assert set(result.status) == {"converged"}
    assert space_group_numbers(result.structures[0], symprec=1e-5).tolist() == [221]
    for frame in (1, 5, -1):
        assert space_group_numbers(result.frames[0][frame], symprec=1e-5).tolist() == [221]
    free = relaxed(given[1], make_potential("emt"), optimizer=optimizer)
    torch.testing.assert_close(free.energy[0], result.energy[1], rtol=0, atol=1e-9)


def test_symmetric_forces_pull_a_crystal_out_of_its_space_group_unless_it_is_kept():
    # Tetragonal: c is free, and a = b stay equal, although the stress given is not symmetric.
    class Crooked:
        name = "crooked"

        def __call__(self, structures):
            output = make_potential("emt")(structures)
            extra = torch.tensor([[0.01, 0.003, 0], [0.003, 0, 0], [0, 0, 0]], dtype=torch.float64)
            return PotentialOutput(energy=output.energy, forces=output.forces, stress=output.stress + extra)

    atoms = bulk("Cu", cubic=True)
    atoms.set_cell([3.6, 3.6, 3.9], scale_atoms=True)
    kept, free = (relaxed(atoms, Crooked(), symmetry=symmetry, steps=30) for symmetry in (True, False))
    assert space_group_numbers(kept.structures, symprec=1e-4).tolist() == [139]
    assert space_group_numbers(free.structures, symprec=1e-4).tolist() != [139]


def test_atoms_outside_the_cell_and_left_handed_cells_relax_alike():
    atoms = crystals(2)[1]
    outside, left = atoms.copy(), atoms.copy()
    outside.positions[1] += 3 * atoms.cell[0] - 2 * atoms.cell[2]
    left.set_cell(atoms.cell[[1, 0, 2]])
    one, other, third = (relaxed(given, make_potential("emt")) for given in (atoms, outside, left))
    torch.testing.assert_close(one.energy, other.energy, rtol=0, atol=1e-7)
    torch.testing.assert_close(one.energy, third.energy, rtol=0, atol=1e-7)
    moved = other.structures.positions[1] - one.structures.positions[1]
    cell = one.structures.cells[0]
    torch.testing.assert_close(moved, 3 * cell[0] - 2 * cell[2], rtol=0, atol=1e-5)


def test_relax_yields_frames_of_cells_too():
    given = crystals(3)
    frames = list(relax(given, make_potential("emt"), cell=True, steps=400))
    assert frames[0].step == 0 and torch.equal(frames[0].structures.cells, from_ase(given).cells)
    assert sum(int(frame.converged.sum()) for frame in frames) == 3
    last = frames[-1]
    assert float(last.largest_stress.max()) < 0.1 and last.steps.tolist() == [last.step] * len(last.index)


def test_keeps_the_information_of_the_structures():
    structures = from_ase([molecule("CO"), bulk("Cu")])
    structures = structures.replace(info=({"name": "a"}, {"name": "b"})).to(dtype=torch.float32)
    result = relaxed(structures, make_potential("emt"))
    assert [info["name"] for info in result.structures.info] == ["a", "b"]
    assert result.structures.dtype == torch.float64
