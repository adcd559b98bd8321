"""Result of a search: structure, loss, status and advice for each target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch


class InversionStatus(Enum):
    """Status of the search for one target. Failures are statuses and do not affect other targets."""

    CONVERGED = "converged"
    LOCAL_MINIMUM = "local_minimum"
    INVALID = "invalid"
    BUDGET_SPENT = "budget_spent"
    FAILED = "failed"

    @property
    def advice(self) -> str:
        """Explanation and advice."""
        return _ADVICE[self].format(longer=_LARGER)


_LARGER = "a larger budget"
_ADVICE = {
    InversionStatus.CONVERGED: "the structure has the target fingerprint, within the tolerance.",
    InversionStatus.LOCAL_MINIMUM: (
        "the loss stopped falling above the tolerance: either a local minimum, or no structure has exactly "
        "this fingerprint (usual for generated ones). If the loss matters, give the search {longer}, or "
        "another seed."
    ),
    InversionStatus.INVALID: (
        "the loss is above the threshold for a possible structure: probably no structure has this "
        "fingerprint. Leave it out, or give the search {longer} if many targets end so."
    ),
    InversionStatus.BUDGET_SPENT: (
        "the budget was spent, and the best structure so far is returned. Give it {longer}, or another seed."
    ),
    InversionStatus.FAILED: (
        "no start gave a finite loss. Check the target and the cell, or try another seed."
    ),
}


@dataclass(frozen=True, kw_only=True)
class InversionResult:
    """The best structure found for each of T targets.

    Attributes:
        structures: Shape of the problem's template, positions in Å, no ``info``; clusters are centred at the
            origin or in their cell. A failed target has the positions of its last start.
        loss: In the problem's own terms (penalty and weights), shape (T,); infinite where the search failed.
        status: One per target.
        start_losses: Of :func:`~whorl.reconstruction.algorithm1`: best loss of each start before the polish,
            shape (T, starts).
        evaluations: Number of evaluations of fingerprint and derivatives for each target, shape (T,).
        seconds: Time spent on each target, shape (T,); targets that are searched together share the time.
        solutions: For each target, all distinct structures with its fingerprint, best first;
            empty if there is none.
        restarts: Number of populations started for each target, shape (T,).
        agreeing: Number of these that ended in the best structure, shape (T,): if the same unsolved
            structure is found repeatedly, a better one is unlikely.
        infeasibility: Estimated probability that no structure has the fingerprint, shape (T,); see
            :func:`whorl.reconstruction.population.feasibility.infeasibility`.
        refused: Targets that could not be searched, with reasons; their structures are meaningless.
    """

    structures: StructureBatch
    loss: Float[Tensor, "T"]
    status: tuple[InversionStatus, ...]
    start_losses: Float[Tensor, "T starts"] | None = None
    evaluations: Int[Tensor, "T"] | None = None
    seconds: Float[Tensor, "T"] | None = None
    solutions: tuple[StructureBatch, ...] = ()
    restarts: Int[Tensor, "T"] | None = None
    agreeing: Int[Tensor, "T"] | None = None
    infeasibility: Float[Tensor, "T"] | None = None
    refused: Mapping[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the counts of the statuses in one line."""
        counts = Counter(status.value.replace("_", " ") for status in self.status)
        ends = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        return f"InversionResult({len(self.status)} targets{': ' if ends else ''}{ends})"

    @property
    def advice(self) -> tuple[str, ...]:
        """Explanation and advice for each target."""
        of_solvers = "more iterations" if self.restarts is None else _LARGER
        longer = "more starts or hops" if self.start_losses is not None else of_solvers
        advice = [_ADVICE[status].format(longer=longer) for status in self.status]
        for target, found in enumerate(self.solutions):
            if len(found) > 1:
                advice[target] += (
                    f" {len(found)} different structures have it: it does not distinguish them. Choose among "
                    "them by energy, or add features."
                )
        if self.restarts is not None and self.agreeing is not None:
            for target, (began, same) in enumerate(
                zip(self.restarts.tolist(), self.agreeing.tolist(), strict=True)
            ):
                if same > 1 and self.status[target] is not InversionStatus.CONVERGED:
                    advice[target] += f" {same} of {began} searches ended in this same structure."
        return tuple(advice)

    @property
    def counts(self) -> dict[str, int]:
        """Number of targets by status."""
        found = Counter(status.value for status in self.status)
        return {status.value: found[status.value] for status in InversionStatus if found[status.value]}

    def __len__(self) -> int:
        """Return the number of targets T."""
        return len(self.status)


def centred(structures: StructureBatch) -> StructureBatch:
    """Centre clusters: their loss is translation invariant, so that they drift."""
    index, counts = structures.structure_index, structures.n_atoms
    sums = structures.positions.new_zeros(len(structures), 3).index_add(0, index, structures.positions)
    shift = 0.5 * structures.cells.sum(1) - sums / counts[:, None]
    shift = torch.where(structures.pbc.any(1, keepdim=True), 0.0, shift)
    return structures.replace(positions=structures.positions + shift[index])


def statuses(
    loss: Float[Tensor, "T"],
    *,
    stalled: Bool[Tensor, "T"],
    tolerance: Float[Tensor, "T"],
    invalid_above: float | None,
) -> tuple[InversionStatus, ...]:
    """Return the status that follows from each loss.

    Args:
        loss: Of each target.
        stalled: Whether it had stopped decreasing.
        tolerance: At or below it the target counts as reproduced.
        invalid_above: Above it the target counts as invalid; ``None``: no such limit.
    """
    finite = torch.isfinite(loss).tolist()
    reached = (loss <= tolerance).tolist()
    too_high = [False] * len(loss) if invalid_above is None else (loss > invalid_above).tolist()
    status = []
    for i, still in enumerate(stalled.tolist()):
        if not finite[i]:
            status.append(InversionStatus.FAILED)
        elif reached[i]:
            status.append(InversionStatus.CONVERGED)
        elif too_high[i]:
            status.append(InversionStatus.INVALID)
        else:
            status.append(InversionStatus.LOCAL_MINIMUM if still else InversionStatus.BUDGET_SPENT)
    return tuple(status)


def invalid_threshold(
    losses_of_known_feasible: Float[Tensor, "n"] | Sequence[float], *, quantile: float = 0.95
) -> float:
    """Return the loss above which a target counts as invalid.

    Fingerprints of real structures can be reconstructed, so what the search leaves of *their* loss is its own
    shortfall: reconstruct some held-out ones with the same settings and weights, and give their losses here.
    About ``1 - quantile`` of all feasible targets will be called invalid by mistake.

    Raises:
        InputError: No finite losses, or a quantile outside 0 … 1.

    >>> invalid_threshold([0.0, 0.1, 0.2], quantile=0.5)
    0.1
    """
    losses = torch.as_tensor(losses_of_known_feasible, dtype=torch.float64).flatten()
    losses = losses[torch.isfinite(losses)]
    if len(losses) == 0:
        raise InputError(
            "invalid_threshold: got no finite losses, expected those of real structures reconstructed with "
            "the same settings."
        )
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile: got {quantile}, expected a number from 0 to 1.")
    return float(torch.quantile(losses, quantile))
