"""Every registered refiner keeps the contract, and broken ones are found out."""

import dataclasses
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from ase.cluster import Icosahedron

from whorl.axes import REFINERS
from whorl.evaluation.samples import Samples
from whorl.executors import Processes
from whorl.executors.base import executing
from whorl.potentials import make_potential
from whorl.potentials.quantity import Quantity
from whorl.refinement import Oracle, Project, RefinementContext, Refiner, Relax, refine_in_chunks
from whorl.refinement.base import displacement
from whorl.structures import from_ase
from whorl.structures.frozen import frozen_atoms_of, with_frozen_atoms
from whorl.surrogates import AdditiveSurrogate
from whorl.testing import check_refiner


def clusters(count: int = 4) -> Samples:
    """Return samples with rattled clusters of 13 atoms."""
    atoms = [Icosahedron("Pt", 2) for _ in range(count)]
    for seed, one in enumerate(atoms):
        one.rattle(0.1, seed=seed)
    return Samples(
        ids=tuple(f"s{i}" for i in range(count + 1)),
        targets=torch.arange(1.0, count + 2.0, dtype=torch.float64),
        structures=from_ase(atoms),
        rows=torch.arange(1, count + 1),
        loss=torch.zeros(count),
        status=("converged",) * count,
    )


CONTEXT = RefinementContext(
    potential=make_potential("emt"), quantity=Quantity(name="energy_per_atom"), tolerance=0.1
)
CASES = {
    "relax": Relax(Relax.Settings(steps=15, fmax=0.3)),
    "project": Project(),
    "oracle": Oracle(Oracle.Settings(calls=4)),
}


def fitted() -> AdditiveSurrogate:
    """Return a surrogate of ten times the energy per atom, so that some targets can be reached."""
    structures, emt = clusters(20).structures, make_potential("emt")
    assert structures is not None
    energy = 10 * emt(structures).energy / 13
    return AdditiveSurrogate.fit(structures, energy - energy.mean() + 3, seed=0, cosines=50)


@pytest.mark.parametrize("name", list(REFINERS))
def test_every_registered_refiner_keeps_the_contract(name):
    context = dataclasses.replace(CONTEXT, surrogate=fitted(), tolerance=0.1)
    check_refiner(CASES[name], clusters(), context)


def _shaken(samples: Samples, *, by: float = 0.1) -> Samples:
    structures = samples.structures
    assert structures is not None
    owner = structures.structure_index
    bad = torch.zeros(len(structures), dtype=torch.bool)
    bad[owner[~structures.positions.isfinite().all(1)]] = True
    return samples.replace(
        structures=structures.replace(positions=structures.positions + by * ~bad[owner, None]),
        energy_calls=torch.zeros(len(structures), dtype=torch.int64),
        refinement=tuple("failed: NaN coordinates" if b else "moved" for b in bad.tolist()),
    )


class Shift(Refiner):
    """A small sound refiner: moves all atoms."""

    def refine(self, samples: Samples, context: RefinementContext) -> Samples:
        return refine_in_chunks(_shaken, samples, context, key="shift", at_once=2)


def test_a_refiner_of_ones_own_keeps_the_contract():
    check_refiner(Shift(), clusters(), CONTEXT)


class Hidden(Shift):
    def refine(self, samples, context):
        made = super().refine(samples, context)
        return made.replace(displacement=torch.zeros_like(made.displacement))


class FreeOfCharge(Shift):
    def refine(self, samples, context):
        if samples.structures is not None and len(samples.structures) and context.potential is not None:
            context.potential(samples.structures)
        return super().refine(samples, context)


class Silent(Shift):
    def refine(self, samples, context):
        return super().refine(samples, context).replace(refinement=())


class Collective(Shift):
    def refine(self, samples, context):
        count = 0 if samples.structures is None else len(samples.structures)
        work = partial(_shaken, by=0.1 * count)
        return refine_in_chunks(work, samples, context, key=count)


class Brittle(Shift):
    def refine(self, samples, context):
        made = super().refine(samples, context)
        return made.replace(refinement=tuple("moved" for _ in made.refinement))


class Mutating(Shift):
    def refine(self, samples, context):
        if samples.structures is not None:
            samples.structures.positions.add_(0.1)
        return super().refine(samples, context)


class Random(Shift):
    def refine(self, samples, context):
        torch.rand(1)
        return super().refine(samples, context)


class MovedFailures(Shift):
    def refine(self, samples, context):
        made = super().refine(samples, context)
        return made.replace(refinement=tuple("unreached" for _ in made.refinement))


class Reordering(Shift):
    def refine(self, samples, context):
        made = super().refine(samples, context)
        return made.replace(rows=made.rows.flip(0))


class Sliding(Shift):
    def refine(self, samples, context):
        made = super().refine(samples, context)
        if made.structures is None or not len(made.structures):
            return made
        moved = _shaken(samples).structures
        return made.replace(structures=moved, displacement=displacement(samples.structures, moved))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Sliding, "frozen atoms must not move"),
        (Hidden, "displacement is not what moved"),
        (FreeOfCharge, "energy method computed"),
        (Silent, "how each structure ended"),
        (Collective, "must not depend on the others"),
        (Brittle, "must have the status 'failed: ' with a reason"),
        (Mutating, "changed the positions given"),
        (Random, "global random state"),
        (MovedFailures, "must be returned unchanged"),
        (Reordering, "which sample structures are from"),
    ],
)
def test_a_broken_refiner_is_found_out(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_refiner(broken(), clusters(), CONTEXT)


def test_relaxation_by_other_processes_is_the_same():
    samples, relax = clusters(40), CASES["relax"]
    here = relax.refine(samples, CONTEXT)
    with executing(Processes.Settings(workers=2)):
        there = relax.refine(samples, CONTEXT)
    assert torch.equal(here.structures.positions, there.structures.positions)
    assert torch.equal(here.energy_calls, there.energy_calls) and here.refinement == there.refinement


def test_a_relaxed_structure_has_small_forces_and_less_energy():
    emt, samples = make_potential("emt"), clusters(3)
    made = Relax(Relax.Settings(fmax=0.02)).refine(samples, dataclasses.replace(CONTEXT, potential=emt))
    assert set(made.refinement) == {"converged"}
    output = emt(made.structures)
    assert float(output.forces.norm(dim=1).max()) < 0.02
    assert bool((output.energy < emt(samples.structures).energy).all())
    assert bool((made.energy_calls > 3).all()) and bool((made.displacement > 0.01).all())


def test_the_example_in_the_docs_keeps_the_contract(tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    (example,) = re.findall(r'```python\n("""Uniform scaling of structures.*?)```', page, flags=re.DOTALL)
    (tmp_path / "breathing.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    method = REFINERS.get("breathing:Breathe")
    check_refiner(method(method.Settings(factor=1.02)), clusters(), CONTEXT)
    monkeypatch.delitem(sys.modules, "breathing")


@pytest.mark.parametrize("name", list(REFINERS))
def test_refiners_find_their_goal_with_the_atoms_that_are_not_frozen(name):
    context = dataclasses.replace(CONTEXT, surrogate=fitted(), tolerance=0.2)
    samples, emt = clusters(3), make_potential("emt")
    structures = samples.structures
    frozen = structures.position_in_structure < 5
    structures = with_frozen_atoms(structures, frozen)
    refiner = CASES[name]
    if name == "relax":
        refiner = Relax(Relax.Settings(fmax=0.05))
    if name == "oracle":  # of energies per atom, near those that the clusters have
        energies = emt(structures).energy / 13
        context = dataclasses.replace(context, tolerance=0.01)
        targets = torch.cat([torch.zeros(1, dtype=torch.float64), energies - 0.05])
        samples = samples.replace(targets=targets)
    if name == "project":
        targets = torch.cat([torch.zeros(1), context.surrogate.predict(structures).mean - 0.5])
        samples = samples.replace(targets=targets.double())
    made = refiner.refine(samples.replace(structures=structures), context)
    assert torch.equal(frozen_atoms_of(made.structures), frozen)
    assert torch.equal(made.structures.positions[frozen], structures.positions[frozen])
    assert set(made.refinement) <= {"converged", "reached"} or name == "project", made.refinement
    if name == "relax":
        forces = emt(made.structures).forces.norm(dim=1)
        assert float(forces[~frozen].max()) < 0.05 < float(forces[frozen].max())
    elif name == "oracle":
        off = emt(made.structures).energy / 13 - made.structure_targets
        assert float(off.abs().max()) <= 0.01
    else:
        off = context.surrogate.predict(made.structures).mean - made.structure_targets
        assert not any(status.startswith("unreached") for status in made.refinement)
        assert float(off.abs().max()) <= 0.2
