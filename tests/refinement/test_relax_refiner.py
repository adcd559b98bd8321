"""The refiner ``relax`` with free cells."""

import dataclasses

import torch
from ase.build import bulk

from whorl.evaluation.samples import Samples
from whorl.potentials import make_potential, relaxed
from whorl.refinement import RefinementContext, Relax
from whorl.structures import from_ase
from whorl.testing import check_refiner

CONTEXT = RefinementContext(potential=make_potential("emt"))


def strained_crystals() -> Samples:
    atoms = [bulk("Cu", a=3.4), bulk("Pt", a=4.1), bulk("Au", a=4.0)]
    return Samples(
        ids=("a", "b", "c"),
        targets=torch.zeros(3, dtype=torch.float64),
        structures=from_ase(atoms),
        rows=torch.arange(3),
        loss=torch.zeros(3),
        status=("converged",) * 3,
    )


def test_keeps_the_contract_with_free_cells():
    check_refiner(Relax(Relax.Settings(free_cell=True, steps=40)), strained_crystals(), CONTEXT)


def test_free_cells_reach_the_lattice_constant_and_fixed_ones_stay():
    samples = strained_crystals()
    fixed = Relax(Relax.Settings()).refine(samples, CONTEXT)
    assert fixed.structures is not None and samples.structures is not None
    assert torch.equal(fixed.structures.cells, samples.structures.cells)
    free = Relax(Relax.Settings(free_cell=True, stress_tolerance=0.02)).refine(samples, CONTEXT)
    assert free.structures is not None and set(free.refinement) == {"converged"}
    expected = relaxed(samples.structures, make_potential("emt"), stress_tolerance=0.001).structures.cells
    torch.testing.assert_close(free.structures.cells, expected, rtol=0, atol=2e-3)
    assert free.energy_calls is not None and int(free.energy_calls.min()) > 1


def test_a_cell_that_collapses_comes_back_as_it_was_with_the_reason():
    class Pulling:
        name = "pulling"

        def __call__(self, structures):
            output = make_potential("emt")(structures)
            return dataclasses.replace(output, stress=torch.ones_like(output.stress) * torch.eye(3))

    samples = strained_crystals()
    refined = Relax(Relax.Settings(free_cell=True)).refine(samples, RefinementContext(potential=Pulling()))
    assert refined.structures is not None and samples.structures is not None
    assert all(status.startswith("failed: its cell has 0.") for status in refined.refinement)
    assert torch.equal(refined.structures.cells, samples.structures.cells)


def test_the_report_says_what_was_relaxed():
    assert Relax.Settings().summary().startswith("relaxed until forces are below 0.05 eV/Å, at most")
    assert "with their cells" in Relax.Settings(free_cell=True).summary()
    assert "0.1 GPa" in Relax.Settings(free_cell=True).summary()
