"""Contract check for proposers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from ase.data import chemical_symbols

from whorl.errors import InputError
from whorl.proposals.settings import FormulaRequest
from whorl.structures.composition import element_counts, species_of

if TYPE_CHECKING:
    from whorl.proposals.base import ProposedStructures, Proposer
    from whorl.structures.batch import StructureBatch


def check_proposer(method: type[Proposer], structures: StructureBatch, **options: object) -> None:
    """Check the contract of a :class:`whorl.proposals.Proposer`.

    Args:
        method: To be checked.
        structures: Data of at least 20 formulas of two elements or more each.
        options: Of its settings.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    kept, global_state = {k: v.clone() for k, v in structures.tensors.items()}, torch.get_rng_state()
    values = element_counts(structures) @ torch.arange(119, dtype=torch.float64) / structures.n_atoms
    proposer = method(structures, values, settings=method.Settings(**options), seed=1)
    symbols = species_of(structures)
    requests = [
        FormulaRequest(),
        FormulaRequest(elements=symbols[:1]),
        FormulaRequest(exclude=symbols[:2], new=True),
    ]
    target = float(values.median())
    for request in requests:
        _are_formulas_of(proposer, structures, request, proposer.sample(4, request=request, seed=2))
        near = proposer.sample(4, request=request, target=target, tolerance=1.0, seed=2)
        _are_formulas_of(proposer, structures, request, near)
        again = proposer.sample(4, request=request, target=target, tolerance=1.0, seed=2)
        assert [one.counts for one in again.formulas] == [one.counts for one in near.formulas], (
            "the same seed gave other formulas"
        )
        assert torch.equal(again.structures.positions, near.structures.positions), (
            "the same seed gave other structures"
        )
        assert bool(near.predicted.isfinite().all()), "without a surrogate nothing was predicted"
    asked: list[int] = []

    def predict(some: StructureBatch) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(len(some))
        return torch.full((len(some),), 7.0), torch.ones(len(some))

    rated = proposer.sample(4, target=7.0, predict=predict, seed=2)
    placed = [k for k, one in enumerate(rated.formulas) if one.parent is not None]
    assert not placed or (asked and bool((rated.predicted[placed] == 7.0).all())), (
        "the surrogate given was not asked for the property"
    )
    try:
        proposer.sample(2, request=FormulaRequest(elements=["Og"]))
    except InputError as error:
        assert "Og" in str(error), "the refusal does not name the element that the data do not have"
    else:
        raise AssertionError("an element that the data do not have was not refused")
    for name, tensor in kept.items():
        assert torch.equal(getattr(structures, name), tensor), f"the proposer changed the {name} given"
    assert torch.equal(torch.get_rng_state(), global_state), "the proposer used the global random state"


def _are_formulas_of(
    proposer: Proposer, data: StructureBatch, request: FormulaRequest, made: ProposedStructures
) -> None:
    assert made.formulas, "nothing was proposed"
    n = len(made.formulas)
    assert len(made.structures) == len(made.predicted) == len(made.uncertainty) == n <= 4, (
        "structures, formulas and predictions are of different number, or more than asked for"
    )
    assert len({one.counts for one in made.formulas}) == n, "a formula occurs twice"
    counts = element_counts(made.structures)
    known = proposer.formulas.known
    for one, own in zip(made.formulas, counts, strict=True):
        there = {chemical_symbols[z]: int(own[z]) for z in torch.nonzero(own).flatten().tolist()}
        assert there == dict(one.counts), f"{one.formula}: its structure has other atoms"
        assert known.meets(one.counts, request), f"{one.formula} is not what is requested"
        assert one.is_new == known.is_new(one.counts), f"{one.formula}: it is said wrongly whether it is new"
        assert one.parent is None or 0 <= one.parent < len(data), f"{one.formula}: no such parent"
