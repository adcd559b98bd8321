"""Contract check for refiners."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from whorl.evaluation.samples import Samples
    from whorl.potentials.base import Potential, PotentialOutput
    from whorl.refinement.base import RefinementContext, Refiner
    from whorl.structures.batch import StructureBatch
    from whorl.structures.convert import Structures


def check_refiner(
    refiner: Refiner, samples: Samples, context: RefinementContext, *, tolerance: float = 1e-6
) -> None:
    """Check the contract of a :class:`whorl.refinement.Refiner`.

    Args:
        refiner: To be checked.
        samples: With at least three sound structures, of which it moves some.
        context: What it needs; with an energy method, the calls that the refiner counts are checked.
        tolerance: Of positions and cells in Å, where structures are refined alone or among others.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    structures = samples.structures
    assert structures is not None and len(structures) >= 3, "give at least three structures"
    kept, global_state = {k: v.clone() for k, v in structures.tensors.items()}, torch.get_rng_state()
    counting = None if context.potential is None else _Counting(context.potential)
    refined = refiner.refine(samples, dataclasses.replace(context, potential=counting))
    for name, values in kept.items():
        assert torch.equal(getattr(structures, name), values), f"the refiner changed the {name} given"
    assert torch.equal(torch.get_rng_state(), global_state), "the refiner used the global random state"
    after = _is_complete(refined, samples)
    _says_what_it_moved(refined, after, structures)
    assert not torch.equal(after.positions, structures.positions) or not torch.equal(
        after.cells, structures.cells
    ), "no structure moved: check with others"
    if counting is not None:
        stated = int(refined.energy_calls.sum()) if refined.energy_calls is not None else 0
        assert counting.calls == stated, (
            f"energy_calls are {stated} in all, and the energy method computed {counting.calls} structures"
        )
    _structures_are_independent(refiner, samples, refined, context, tolerance)
    _a_failure_comes_back(refiner, samples, refined, context, tolerance)
    _chunks_are_kept(refiner, samples, refined, context)
    _frozen_atoms_stay(refiner, samples, context)
    none = refiner.refine(samples.of_structures(torch.zeros(0, dtype=torch.int64)), context)
    assert none.refinement == (), "no structures: no statuses"


class _Counting:
    """A potential that counts the structures it computes."""

    def __init__(self, potential: Potential) -> None:
        self.potential, self.name, self.calls = potential, potential.name, 0

    def __call__(self, structures: Structures) -> PotentialOutput:
        from whorl.structures.convert import as_batch

        structures = as_batch(structures)
        self.calls += len(structures)
        return self.potential(structures)


def _is_complete(refined: Samples, samples: Samples) -> StructureBatch:
    before, after = samples.structures, refined.structures
    assert before is not None and after is not None and len(after) == len(before), "one structure for each"
    for name in ("atomic_numbers", "pbc", "structure_index"):
        assert torch.equal(getattr(after, name), getattr(before, name)), f"the refiner changed {name}"
    assert refined.ids == samples.ids, "the refiner changed the samples"
    assert torch.equal(refined.rows, samples.rows), "the refiner changed which sample structures are from"
    assert torch.equal(refined.targets, samples.targets), "the refiner changed the targets"
    assert refined.displacement is not None, "displacement must say how far each structure moved"
    assert refined.energy_calls is not None, "energy_calls must say what each structure cost"
    assert len(refined.refinement) == len(after), "refinement must say how each structure ended"
    assert not refined.energy_calls.is_floating_point(), "energy_calls are whole numbers"
    assert bool((refined.energy_calls >= 0).all()), "energy_calls must not be negative"
    assert all(refined.refinement), "each structure needs a status"
    for values in (after.positions, after.cells):
        assert bool(values.isfinite().all()), "sound structures must stay finite"
        assert not values.requires_grad, "refined structures must not carry gradients"
    return after


def _says_what_it_moved(refined: Samples, after: StructureBatch, before: StructureBatch) -> None:
    from whorl.refinement.base import AS_IT_WAS, displacement

    stated, measured = refined.displacement, displacement(before, after)
    assert stated is not None
    torch.testing.assert_close(
        stated.double(), measured, rtol=1e-4, atol=1e-6, msg=lambda m: f"displacement is not what moved: {m}"
    )
    for b, status in enumerate(refined.refinement):
        if status.startswith(AS_IT_WAS):
            assert float(measured[b]) == 0, f"a structure that is '{status}' must be returned unchanged"


def _atoms(samples: Samples, b: int) -> Tensor:
    assert samples.structures is not None
    one = samples.structures[b]
    return torch.cat([one.positions, one.cells[0]])


def _same(one: Samples, b: int, other: Samples, c: int, tolerance: float, message: str) -> None:
    torch.testing.assert_close(
        _atoms(one, b), _atoms(other, c), rtol=0, atol=tolerance, msg=lambda m: f"{message}: {m}"
    )
    assert one.refinement[b] == other.refinement[c], (
        f"{message}: '{one.refinement[b]}' and '{other.refinement[c]}'"
    )


def _structures_are_independent(
    refiner: Refiner, samples: Samples, refined: Samples, context: RefinementContext, tolerance: float
) -> None:
    assert samples.structures is not None
    count = len(samples.structures)
    backwards = refiner.refine(samples.of_structures(torch.arange(count).flip(0)), context)
    for b in range(count):
        _same(backwards, count - 1 - b, refined, b, tolerance, "the order of structures must not matter")
    alone = refiner.refine(samples.of_structures(torch.tensor([1])), context)
    _same(alone, 0, refined, 1, tolerance, "a structure must not depend on the others")


def _a_failure_comes_back(
    refiner: Refiner, samples: Samples, refined: Samples, context: RefinementContext, tolerance: float
) -> None:
    assert samples.structures is not None
    positions = samples.structures.positions.clone()
    positions[samples.structures.first_atom[0]] = torch.nan
    broken = samples.replace(structures=samples.structures.replace(positions=positions))
    made = refiner.refine(broken, context)
    assert made.structures is not None
    status, atoms = made.refinement[0], made.structures.structure_index == 0
    assert status.startswith("failed: ") and len(status) > len("failed: "), (
        f"a structure with a NaN coordinate must have the status 'failed: ' with a reason, got '{status}'"
    )
    there = torch.equal(made.structures.positions[atoms].nan_to_num(), positions[atoms].nan_to_num())
    assert there, "a structure that failed must be returned unchanged"
    for b in range(1, len(samples.structures)):
        _same(made, b, refined, b, tolerance, "a failure must not change the others")


def _frozen_atoms_stay(refiner: Refiner, samples: Samples, context: RefinementContext) -> None:
    from whorl.structures.frozen import with_frozen_atoms

    structures = samples.structures
    assert structures is not None
    frozen = structures.position_in_structure == 0
    made = refiner.refine(samples.replace(structures=with_frozen_atoms(structures, frozen)), context)
    assert made.structures is not None
    assert torch.equal(made.structures.positions[frozen], structures.positions[frozen]), (
        "frozen atoms must not move"
    )
    assert torch.equal(made.structures.cells, structures.cells), "cells with frozen atoms must not change"
    _says_what_it_moved(made, made.structures, structures)


def _chunks_are_kept(
    refiner: Refiner, samples: Samples, refined: Samples, context: RefinementContext
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = dataclasses.replace(context, directory=Path(folder))
        for when in ("with a directory", "continued from a directory"):
            again = refiner.refine(samples, kept)
            for b in range(len(refined.refinement)):
                _same(again, b, refined, b, 0.0, f"{when} the result must be the same")
