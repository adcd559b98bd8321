import pytest
import torch
from ase import Atoms

from whorl.errors import InputError
from whorl.reconstruction import InversionResult, InversionStatus, invalid_threshold
from whorl.reconstruction.result import statuses
from whorl.structures import from_ase


def test_status_follows_from_the_loss():
    status = statuses(
        torch.tensor([0.001, 0.5, 0.5, 9.0, torch.inf, 0.001]),
        stalled=torch.tensor([True, True, False, True, True, False]),
        tolerance=torch.full((6,), 0.01),
        invalid_above=1.0,
    )
    assert [s.value for s in status] == [
        "converged",
        "local_minimum",
        "budget_spent",
        "invalid",
        "failed",
        "converged",
    ]
    (without_limit,) = statuses(
        torch.tensor([9.0]), stalled=torch.tensor([True]), tolerance=torch.zeros(1), invalid_above=None
    )
    assert without_limit is InversionStatus.LOCAL_MINIMUM


def test_every_status_has_advice():
    assert len({status.advice for status in InversionStatus}) == len(InversionStatus)


def test_advice_names_what_the_search_has():
    """Starts and hops are those of Algorithm 1 alone."""
    common = {
        "structures": from_ase(Atoms("Pt")),
        "loss": torch.ones(1),
        "status": (InversionStatus.LOCAL_MINIMUM,),
    }
    solved = InversionResult(**common, restarts=torch.tensor([3]), agreeing=torch.tensor([1]))
    assert "a larger budget" in solved.advice[0] and "hops" not in solved.advice[0]
    assert "hops" not in InversionResult(**common).advice[0]
    assert "more starts or hops" in InversionResult(**common, start_losses=torch.ones(1, 2)).advice[0]
    assert not any("{" in status.advice or "hops" in status.advice for status in InversionStatus)


def test_threshold_is_a_quantile_of_feasible_losses():
    losses = torch.arange(101.0)
    assert invalid_threshold(losses) == pytest.approx(95)
    assert invalid_threshold([*losses.tolist(), float("inf")], quantile=0.5) == pytest.approx(50)
    with pytest.raises(InputError, match="no finite losses"):
        invalid_threshold([float("nan")])
    with pytest.raises(InputError, match="quantile"):
        invalid_threshold(losses, quantile=95.0)
