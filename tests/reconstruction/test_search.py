import math

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.spacegroup import crystal

from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, InversionStatus, PopulationSettings, Reconstruction, solve
from whorl.reconstruction.population.search import _Method, _Search, _Target
from whorl.reconstruction.population.starts import given_starts
from whorl.representations import ACSF
from whorl.structures import StructureBatch, from_ase
from whorl.symmetry.detection import space_group_numbers


def hidden(structures: StructureBatch) -> StructureBatch:
    return structures.replace(positions=torch.zeros_like(structures.positions), info=())


def problem_of(atoms, acsf, **settings) -> tuple[InversionProblem, StructureBatch]:
    structures = from_ase(atoms)
    with torch.no_grad():
        target = acsf(structures)
    return InversionProblem(
        representation=acsf, target=target, template=hidden(structures), **settings
    ), structures


MOLECULES = ACSF.fung2022(["C", "H"])


def test_molecules_come_back_exactly():
    problem, originals = problem_of([molecule("CH4"), molecule("C2H2")], MOLECULES)
    said = []
    result = solve(problem, progress=lambda *report: said.append(report))
    assert result.status == (InversionStatus.CONVERGED,) * 2
    assert bool((rmsd(result.structures, originals) < 0.01).all())
    assert said[-1][:2] == (2, 2) and "2 solved" in said[-1][2]
    assert bool((result.evaluations > 0).all()) and bool((result.seconds > 0).all())
    assert [len(found) for found in result.solutions] == [1, 1]
    assert result.infeasibility.tolist() == [0.0, 0.0]
    torch.testing.assert_close(problem.value(result.structures), result.loss, atol=1e-9, rtol=1e-3)


def test_same_seed_same_answer_whatever_else_is_sought():
    problem, _ = problem_of([molecule("CH4"), molecule("C2H2")], MOLECULES)
    short = {"budget_evaluations": 200, "population": PopulationSettings(candidates=40, first=6)}
    whole = solve(problem, **short)
    again = solve(problem, **short)
    assert torch.equal(whole.structures.positions, again.structures.positions)
    alone = solve(problem.select([1]), **short)
    assert torch.equal(alone.loss, whole.loss[[1]])


def test_a_crystal_in_its_cell_and_without_it():
    acsf = ACSF.crystal(["Na", "Cl"], cutoff=5.0)
    for free_cell in (False, True):
        problem, originals = problem_of([bulk("NaCl", "rocksalt", a=5.64)], acsf, free_cell=free_cell)
        result = solve(problem, seed=1, budget_evaluations=6000)
        assert result.status == (InversionStatus.CONVERGED,)
        assert float(rmsd(result.structures, originals)) < 0.02
        assert free_cell or torch.equal(result.structures.cells, originals.cells)


def test_what_cannot_be_has_a_status_and_the_best_there_is():
    problem, _ = problem_of([molecule("CH4")] * 2, MOLECULES)
    target = problem.target.clone()
    target[1] = target[1].roll(7)
    problem = problem.replace(target=target)
    result = solve(problem, budget_evaluations=700)
    assert result.status[0] is InversionStatus.CONVERGED
    assert result.status[1] in (InversionStatus.LOCAL_MINIMUM, InversionStatus.INVALID)
    assert len(result.solutions[1]) == 0
    assert float(result.loss[1]) > 1e-3
    assert bool((result.restarts >= result.agreeing).all()) and int(result.agreeing[1]) >= 1
    if int(result.agreeing[1]) > 1:
        assert f"{result.agreeing[1]} of {result.restarts[1]} searches" in result.advice[1]
    strict = solve(problem, budget_evaluations=700, invalid_above=1e-3)
    assert strict.status[1] is InversionStatus.INVALID


def test_out_of_time_every_target_still_has_an_answer():
    problem, _ = problem_of([molecule("C2H6")] * 3, MOLECULES)
    result = solve(problem, budget_seconds=1e-3)
    assert len(result) == 3
    assert all(status is not None for status in result.status)
    assert bool(torch.isfinite(result.structures.positions).all())


def test_finished_targets_are_kept(tmp_path):
    problem, _ = problem_of([molecule("CH4"), molecule("C2H2")], MOLECULES)
    first = solve(problem, checkpoint=tmp_path)
    problem.representation.forward = None  # nothing may be computed again but the losses
    try:
        again = solve(problem, checkpoint=tmp_path)
    finally:
        del problem.representation.forward
    assert again.status == first.status
    assert torch.equal(again.structures.positions, first.structures.positions)
    for name in ("evaluations", "restarts", "agreeing", "infeasibility"):
        assert torch.equal(getattr(again, name), getattr(first, name))


@pytest.mark.parametrize("free_cell", [False, True])
def test_a_target_solved_by_the_last_polish_is_kept(tmp_path, free_cell):
    rock_salt = bulk("NaCl", "rocksalt", a=5.64)
    acsf = ACSF.crystal(["Na", "Cl"], cutoff=5.0)
    problem, _ = problem_of([rock_salt], acsf, free_cell=free_cell)
    # Too few starts and steps to solve it before the budget is spent.
    short = {"budget_evaluations": 1, "population": PopulationSettings(candidates=6, first=2, opening=(1, 1))}
    first = solve(problem, **short, checkpoint=tmp_path)
    assert first.status == (InversionStatus.CONVERGED,)
    assert len(first.solutions[0]) == 1
    again = solve(problem, **short, checkpoint=tmp_path)
    assert torch.equal(again.structures.positions, first.structures.positions)
    assert torch.equal(again.solutions[0].cells, first.solutions[0].cells)
    without = solve(problem, **short)
    assert torch.equal(without.structures.positions, first.structures.positions)


def test_frozen_atoms_are_where_they_were():
    atoms = molecule("C2H6")
    acsf = MOLECULES
    structures = from_ase([atoms])
    frozen = structures.atomic_numbers == 6
    with torch.no_grad():
        problem = InversionProblem(
            representation=acsf, target=acsf(structures), template=structures, frozen=frozen
        )
    result = solve(problem, budget_evaluations=1500)
    assert torch.equal(result.structures.positions[frozen], structures.positions[frozen])
    assert result.status == (InversionStatus.CONVERGED,)


def test_float32():
    problem, originals = problem_of([molecule("CH4")], MOLECULES)
    result = solve(problem.to(dtype=torch.float32))
    assert result.structures.dtype == torch.float32
    assert result.status == (InversionStatus.CONVERGED,)
    assert float(rmsd(result.structures.to(dtype=torch.float64), originals)) < 0.02


def test_no_targets():
    problem, _ = problem_of([molecule("CH4")], MOLECULES)
    result = solve(problem.select([]))
    assert len(result) == 0 and result.loss.shape == (0,)


@pytest.mark.parametrize(
    "settings",
    [
        {"budget_evaluations": 0},
        {"budget_seconds": -1.0},
        {"batch_size": 0},
    ],
)
def test_bad_settings(settings):
    problem, _ = problem_of([molecule("CH4")], MOLECULES)
    with pytest.raises(InputError, match="expected"):
        solve(problem, **settings)


def test_bad_populations():
    with pytest.raises(InputError, match="promising"):
        PopulationSettings(children=4, promising=8)
    with pytest.raises(InputError, match="1 or more"):
        PopulationSettings(members=0)
    with pytest.raises(InputError, match="parents"):
        PopulationSettings(parents=0.0)
    with pytest.raises(InputError, match="coarse: got 0"):
        PopulationSettings(coarse=0)
    with pytest.raises(InputError, match="one step or more"):
        PopulationSettings(opening=(12, 0))
    with pytest.raises(InputError, match="0 Å or more"):
        PopulationSettings(length=-1.0)


def test_sharp_features_count_less_at_first_and_in_single_precision():
    problem, _ = problem_of([molecule("CH4")], MOLECULES)
    method = _Method(PopulationSettings(), None, 0, 64, 1e-3, None, None)
    search = _Search(method, _Target("0", problem, ()))
    sharpness = MOLECULES.sharpness()
    broad, whole = search._broad(), search._whitened()
    assert broad.target.dtype == torch.float32 and whole.target.dtype == torch.float64
    expected = [1.0 / math.sqrt(1.0 + (2.0 * s) ** 4) for s in sharpness.tolist()]
    torch.testing.assert_close(broad.weights[0].double(), torch.tensor(expected).double())
    assert torch.equal(whole.weights, torch.ones_like(whole.weights))


@pytest.mark.parametrize("free_cell", [False, True])
def test_a_space_group_is_kept(free_cell):
    rutile = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.95, 90, 90, 90]
    )
    batch = from_ase([rutile])
    acsf = ACSF.crystal(["Ti", "O"], cutoff=4.0)
    problem = InversionProblem(
        representation=acsf, target=acsf(batch), template=batch, free_cell=free_cell, space_group=136
    )
    found = solve(problem, budget_evaluations=1500, seed=1)
    assert space_group_numbers(found.structures).tolist() == [136]
    if not free_cell:
        assert found.status[0] is InversionStatus.CONVERGED
        assert float(rmsd(found.structures, batch)[0]) < 0.01


def test_a_space_group_that_does_not_fit_is_refused():
    batch = from_ase([bulk("NaCl", "rocksalt", a=5.64, cubic=True)])
    acsf = ACSF.crystal(["Na", "Cl"], cutoff=4.0)
    fields = {"representation": acsf, "target": acsf(batch), "template": batch}
    with pytest.raises(InputError, match="number from 1 to 230"):
        InversionProblem(**fields, space_group=231)
    with pytest.raises(InputError, match="does not have the symmetry of space group 194"):
        solve(InversionProblem(**fields, space_group=194), budget_evaluations=10)
    with pytest.raises(InputError, match="do not fill orbits"):
        solve(InversionProblem(**fields, space_group=230), budget_evaluations=10)


def test_a_target_that_cannot_have_the_space_group_is_refused_and_the_others_are_found():
    salt, other = bulk("NaCl", "rocksalt", a=5.64, cubic=True), bulk("NaCl", "rocksalt", a=5.64)
    batch = from_ase([salt, other])  # the primitive cell's two atoms are no orbit of group 62
    acsf = ACSF.crystal(["Na", "Cl"], cutoff=4.0)
    problem = InversionProblem(representation=acsf, target=acsf(batch), template=batch, space_group=221)
    found = solve(problem, budget_evaluations=500)
    assert list(found.refused) == [1] and "space group 221" in found.refused[1]
    assert found.status[0] is InversionStatus.CONVERGED and found.status[1] is InversionStatus.FAILED
    made = Reconstruction.of(found)
    assert made.rows.tolist() == [0] and list(made.skipped) == [1] and len(made.structures) == 1


def test_structures_given_as_starts_are_where_the_search_begins():
    """A start near the solution, its atoms in another order, is the answer of a search of one round."""
    ethane = molecule("C2H6")
    ethane.rattle(0.05, seed=1)
    problem, original = problem_of([ethane], MOLECULES)
    start = ethane[[6, 2, 0, 3, 1, 7, 4, 5]]
    start.rattle(0.01, seed=2)
    few = PopulationSettings(candidates=2, first=2, opening=(2, 2))
    found = solve(problem, budget_evaluations=1, population=few, starts=[start])
    without = solve(problem, budget_evaluations=1, population=few)
    assert found.status[0] is InversionStatus.CONVERGED and float(rmsd(found.structures, original)[0]) < 1e-3
    assert without.status[0] is not InversionStatus.CONVERGED


def test_a_budget_smaller_than_a_population_goes_to_the_starts_alone():
    problem, originals = problem_of([molecule("C2H4")], MOLECULES)
    problem = problem.replace(weights=torch.ones_like(problem.target))
    near = originals.replace(
        positions=originals.positions
        + 0.05 * torch.randn(originals.positions.shape, generator=torch.Generator().manual_seed(0)).double()
    )
    polished = solve(problem, budget_evaluations=10, starts=[near])
    searched = solve(problem, budget_evaluations=10)
    assert int(polished.evaluations) <= 100 < int(searched.evaluations)
    assert bool(rmsd(polished.structures, originals) < 0.01)


def test_starts_fit_a_fixed_cell_and_leave_frozen_atoms_where_they_are():
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    batch = from_ase(salt)
    acsf = ACSF.crystal(["Na", "Cl"], cutoff=4.0)
    frozen = torch.arange(8) < 2
    problem = InversionProblem(representation=acsf, target=acsf(batch), template=batch, frozen=frozen)
    start = bulk("NaCl", "rocksalt", a=6.0, cubic=True)
    ((positions, cell),) = given_starts(problem, [start])[0]
    assert torch.equal(cell, batch.cells[0]) and torch.equal(positions[frozen], batch.positions[frozen])
    torch.testing.assert_close(positions, batch.positions)


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        ([molecule("H2O")], r"expected the template's composition, CH4"),
        ([molecule("CH4")] * 2, "got 2, expected an entry for each of 1"),
        ([Atoms("CH4", positions=[[0, 0, float("nan")]] * 5)], "not finite"),
    ],
)
def test_starts_that_do_not_fit_are_refused(starts, words):
    problem, _ = problem_of([molecule("CH4")], MOLECULES)
    with pytest.raises(InputError, match=words):
        solve(problem, starts=starts)
