"""Formulas of a data set: what is requested of new ones, and which are new."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers

from whorl.errors import InputError
from whorl.proposals.settings import FormulaRequest
from whorl.representations.elements import scaled_descriptors
from whorl.structures.composition import is_charge_neutral

Counts = tuple[tuple[str, int], ...]
"""Elements with their numbers of atoms, by atomic number of the element."""


def counts_of(formula: Mapping[str, int]) -> Counts:
    """Return a formula by atomic number."""
    return tuple(sorted(formula.items(), key=lambda item: atomic_numbers[item[0]]))


class KnownFormulas:
    """Formulas of a data set.

    Args:
        formulas: Elements and numbers of atoms of each structure.
        clusters: Whether formulas of different size are different (Au2Cu2 is not AuCu).

    Attributes:
        rows: The formula of each structure.
        elements: Chemical symbols that occur, by atomic number.

    Raises:
        InputError: No formulas.
    """

    def __init__(self, formulas: Sequence[Mapping[str, int]], *, clusters: bool = False) -> None:
        if not formulas:
            raise InputError("formulas: got no structures, expected some to begin with.")
        self.clusters = clusters
        self.rows = [counts_of(one) for one in formulas]
        self.elements = tuple(
            sorted({symbol for row in self.rows for symbol, _ in row}, key=atomic_numbers.__getitem__)
        )
        self.units = frozenset(self.unit(row) for row in self.rows)

    def unit(self, counts: Counts) -> Counts:
        """Return what structures of one formula have in common."""
        if self.clusters:
            return counts
        common = math.gcd(*(n for _, n in counts))
        return tuple((symbol, n // common) for symbol, n in counts)

    def is_new(self, counts: Counts) -> bool:
        """Return whether no structure of the data has this formula."""
        return self.unit(counts) not in self.units

    def meets(self, counts: Counts, request: FormulaRequest) -> bool:
        """Return whether a formula of elements that may occur has what is requested."""
        symbols = {symbol for symbol, _ in counts}
        if request.new and not self.is_new(counts):
            return False
        if not set(request.elements) <= symbols or symbols & set(request.exclude):
            return False
        for span, number in (
            (request.n_elements, len(counts)),
            (request.n_atoms, sum(n for _, n in counts)),
        ):
            if span is not None and not span[0] <= number <= span[1]:
                return False
        return not request.balanced or is_charge_neutral("".join(f"{symbol}{n}" for symbol, n in counts))

    def require_seen(self, request: FormulaRequest) -> None:
        """Reject requests of elements that the data do not have.

        Raises:
            InputError: With the nearest elements that they have.
        """
        missing = [symbol for symbol in request.every_element if symbol not in self.elements]
        if missing:
            near = {symbol: self._nearest(symbol) for symbol in missing}
            like = "; ".join(f"like {symbol}: {', '.join(names)}" for symbol, names in near.items())
            raise InputError(
                f"formulas: no structure of the data has {', '.join(missing)}. Elements of the data {like}."
            )
        if set(self.elements) <= set(request.exclude):
            raise InputError("formulas: all elements of the data are excluded.")

    def _nearest(self, symbol: str) -> list[str]:
        table = scaled_descriptors([symbol, *self.elements])
        order = np.argsort(((table[1:] - table[0]) ** 2).sum(1), kind="stable")
        return [self.elements[k] for k in order[:3]]


def in_words(request: FormulaRequest) -> str:
    """Return what is requested, for messages."""
    given: dict[str, Callable[[], str]] = {
        "formula": lambda: str(request.formula),
        "elements": lambda: f"with {', '.join(request.elements)}",
        "exclude": lambda: f"without {', '.join(request.exclude)}",
        "n_atoms": lambda: "{} to {} atoms".format(*(request.n_atoms or ())),
        "n_elements": lambda: "{} to {} elements".format(*(request.n_elements or ())),
        "balanced": lambda: "charge-balanced",
        "new": lambda: "not in the data",
    }
    return ", ".join(text() for name, text in given.items() if getattr(request, name)) or "anything"
