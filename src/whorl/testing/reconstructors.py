"""Check of the contract of reconstructors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.reconstruction.base import Reconstruction, ReconstructionContext, Reconstructor
    from whorl.representations.base import Representation
    from whorl.structures.batch import StructureBatch


def check_reconstructor(
    reconstructor: Reconstructor,
    *,
    representation: Representation | None = None,
    structures: StructureBatch | None = None,
) -> None:
    """Check the contract of a :class:`whorl.reconstruction.Reconstructor`.

    Args:
        reconstructor: To be checked, with settings that end soon.
        representation: Of the features; by default a small ACSF of Pt, or where no templates are needed
            CrysTens of crystals of two atoms.
        structures: Three or more whose features are reconstructed; needs ``representation``.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    representation, structures = _case(reconstructor, representation, structures)
    reason = reconstructor.why_not(type(representation))
    assert reason is None, f"the reconstructor refuses the features: {reason}"
    settings = reconstructor.settings
    assert type(settings).model_validate(settings.model_dump(mode="json")) == settings, (
        "settings must be the same when they are written and read"
    )
    with torch.no_grad():
        features = representation(structures)
    context = _context(reconstructor, representation, structures)
    kept, state = features.clone(), torch.get_rng_state()
    made = reconstructor.reconstruct(features, context)
    assert torch.equal(features, kept), "reconstruct changed the features"
    assert torch.equal(torch.get_rng_state(), state), "reconstruct used the global random state, not the seed"
    _accounts_for_every_row(made, len(features))
    _keeps_the_templates(made, context)
    again = reconstructor.reconstruct(features, context)
    assert torch.equal(again.structures.positions, made.structures.positions), (
        "the same seed must give the same structures"
    )
    _rows_are_independent(reconstructor, features, context, made)
    _bad_rows_are_skipped(reconstructor, features, context, made)
    if reconstructor.searches:
        _frozen_atoms_stay(reconstructor, features, context, structures)
    try:
        reconstructor.reconstruct(features[:, :-1], context)
    except InputError:
        return
    raise AssertionError("features of another shape must be refused with an InputError")


def _case(
    reconstructor: Reconstructor, representation: Representation | None, structures: StructureBatch | None
) -> tuple[Representation, StructureBatch]:
    from ase.build import bulk

    from whorl.reconstruction.starts import random_starts
    from whorl.representations import ACSF, CrysTens
    from whorl.structures import from_ase
    from whorl.structures.batch import StructureBatch

    if representation is not None:
        assert structures is not None, "give the structures with the representation"
        return representation, structures
    if not reconstructor.searches:
        crystals = from_ase([bulk("CsCl", "cesiumchloride", a=a) for a in (4.0, 4.2, 4.4)])
        return CrysTens(max_atoms=2).fit(crystals), crystals
    sizes = torch.tensor([3, 4, 3])
    template = StructureBatch(
        positions=torch.zeros(10, 3, dtype=torch.float64),
        cells=torch.zeros(3, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(3, 3, dtype=torch.bool),
        atomic_numbers=torch.full((10,), 78),
        structure_index=torch.repeat_interleave(torch.arange(3), sizes),
    )
    acsf = ACSF(species=["Pt"], cutoff=6.0, g2=[(0.5, 1.0), (0.5, 2.5), (1.0, 4.0)], g5=[(0.1, 1.0, 1.0)])
    return acsf, random_starts(template, seeds=[1, 2, 3])


def _context(
    reconstructor: Reconstructor, representation: Representation, structures: StructureBatch
) -> ReconstructionContext:
    from whorl.reconstruction.base import ReconstructionContext

    templates = structures.replace(positions=torch.zeros_like(structures.positions), info=())
    return ReconstructionContext(
        representation=representation,
        templates=templates if reconstructor.searches else None,
        names=tuple(f"sample {k}" for k in range(len(structures))),
        seed=5,
    )


def _accounts_for_every_row(made: Reconstruction, count: int) -> None:
    rows, skipped = made.rows.tolist(), list(made.skipped)
    assert len(set(rows)) == len(rows), "each of the features has at most one structure"
    assert sorted([*rows, *skipped]) == list(range(count)), (
        "each of the features must have a structure or a reason why not, and not both"
    )
    sizes = {len(made.structures), len(made.loss), len(made.status), len(rows)}
    assert len(sizes) == 1, "structures, rows, loss and status must be of one length"
    assert all(made.status) and all(made.skipped.values()), "statuses and reasons must not be empty"
    assert not bool((made.loss < 0).any()), "a loss is not negative; NaN where there is none"
    for name, values in made.consistency.items():
        assert len(values) == count, f"consistency '{name}' must have a number for each of the features"
    assert bool(torch.isfinite(made.structures.positions).all()), "positions must be finite"


def _keeps_the_templates(made: Reconstruction, context: ReconstructionContext) -> None:
    if context.templates is None:
        return
    expected = context.templates[made.rows]
    for name in ("atomic_numbers", "structure_index", "pbc", "cells"):
        assert torch.equal(getattr(made.structures, name), getattr(expected, name)), (
            f"the structures must have the templates' {name}"
        )


def _rows_are_independent(
    reconstructor: Reconstructor, features: torch.Tensor, context: ReconstructionContext, made: Reconstruction
) -> None:
    alone = reconstructor.reconstruct(features[1:2], context.select([1]))
    place = made.rows.tolist().index(1) if 1 in made.rows.tolist() else None
    assert (place is None) == (len(alone) == 0), "success must not depend on the other features of the batch"
    if place is not None:
        torch.testing.assert_close(
            alone.structures.positions,
            made.structures[place].positions,
            rtol=0,
            atol=1e-5,
            msg="a structure must not depend on the others of the batch",
        )


def _bad_rows_are_skipped(
    reconstructor: Reconstructor, features: torch.Tensor, context: ReconstructionContext, made: Reconstruction
) -> None:
    broken = features.clone()
    broken[0] = torch.nan
    try:
        found = reconstructor.reconstruct(broken, context)
    except InputError as error:
        raise AssertionError(f"one bad feature must not stop the others: {error}") from error
    assert 0 in found.skipped, "features of NaN must be skipped with a reason"
    assert found.rows.tolist() == [row for row in made.rows.tolist() if row], (
        "features must be reconstructed as before if others are bad"
    )


def _frozen_atoms_stay(
    reconstructor: Reconstructor,
    features: torch.Tensor,
    context: ReconstructionContext,
    structures: StructureBatch,
) -> None:
    first = structures.position_in_structure == 0
    context = dataclasses.replace(context, templates=structures.replace(info=()), frozen=first)
    made = reconstructor.reconstruct(features, context)
    chosen = structures[made.rows]
    frozen = chosen.position_in_structure == 0
    assert torch.equal(made.structures.positions[frozen], chosen.positions[frozen]), (
        "frozen atoms must not move"
    )
