"""Requested conditions: checks of requests, which generators know them, and which structures meet them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from whorl.axes import CONDITIONS
from whorl.conditions.base import Condition
from whorl.errors import InputError, WhorlError, unknown_option
from whorl.structures import StructureBatch


def conditions_by_request() -> dict[str, type[Condition]]:
    """Return the registered conditions by the names of their requests.

    Plug-ins that cannot be imported are left out: they are named where one of them is chosen.
    """
    conditions: dict[str, type[Condition]] = {}
    for kind in CONDITIONS:
        with contextlib.suppress(WhorlError):
            condition = CONDITIONS.get(kind)
            conditions.setdefault(condition.request, condition)
    return conditions


def checked_requests(requested: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is requested, without what is None or empty, in the order of the registry.

    Raises:
        InputError: Unknown requests, values that mean nothing, or requests that contradict each other.
    """
    known = conditions_by_request()
    for name in requested:
        if name not in known:
            raise unknown_option("requested condition", name, known)
    requests = {name: requested[name] for name in known if requested.get(name) not in (None, [], ())}
    for name, value in requests.items():
        known[name].check(value)
    for name, value in requests.items():
        coarser = known[name].coarser
        if coarser is not None and coarser.request in requests:
            known[name].require_agreement(value, requests[coarser.request])
    return requests


def kinds_answering(kinds: Sequence[str], requested: Mapping[str, Any]) -> list[str]:
    """Return those of the conditions from which one can tell whether a structure is what is requested."""
    names = {name for name, value in requested.items() if value}
    return [kind for kind in kinds if names & set(CONDITIONS.get(kind).answers())]


def require_answerable(kinds: Sequence[str], property: str, requested: Mapping[str, Any]) -> None:
    """Make sure that a generator with conditions of these kinds knows all that is requested.

    Raises:
        InputError: It is not conditioned on some.
    """
    answered = {name for kind in kinds for name in CONDITIONS.get(kind).answers()}
    lacking = [name for name, value in requested.items() if value and name not in answered]
    if lacking:
        known = conditions_by_request()
        own = ", ".join(kinds) or f"{property} alone"
        needed = ", ".join(f"'{CONDITIONS.name_of(known[name])}'" for name in lacking)
        raise InputError(
            f"{', '.join(lacking)}: this generator does not know it; it is conditioned on {own}. Train one "
            f"with {needed} among its conditions."
        )


def satisfied(structures: StructureBatch, **requested: Any) -> dict[str, Bool[Tensor, "B"]]:
    """Return which structures are what is requested: one entry for each requested condition, by its name.

    Args:
        structures: Any; those that are not periodic are of no crystal system.
        **requested: By the names of the requests, as in ``generate`` of a recipe; None for nothing.

    Raises:
        InputError: As :func:`checked_requests`.
    """
    known = conditions_by_request()
    requests = checked_requests(requested)
    return {name: known[name].satisfied(structures, value) for name, value in requests.items()}


def describe_requests(requested: Mapping[str, Any]) -> str:
    """Return what is requested in words.

    >>> describe_requests({"elements": ["Ba", "O"], "crystal_system": "cubic"})
    'with Ba, O, cubic'
    """
    known = conditions_by_request()
    return ", ".join(known[name].describe(requested[name]) for name in known if requested.get(name))
