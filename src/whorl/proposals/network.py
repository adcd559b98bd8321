"""Structures of formulas that a network draws, on the sites of the most similar structures of the data."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from whorl.errors import InputError
from whorl.proposals.base import Candidates, Predict, Proposer
from whorl.proposals.formula_network import FormulaNetwork
from whorl.proposals.settings import FormulaRequest, ProposerSettings
from whorl.settings import Count

_PER_FORMULA = 6  # formulas drawn for each one that is asked for
_ARRANGEMENTS = 3  # of each formula, from which the likeliest is chosen


class NetworkProposer(Proposer):
    """A network that draws formulas element by element, not bound to those near the ones of the data."""

    kind = "network"

    class Settings(ProposerSettings):
        """Its training."""

        steps: Count = 2000
        """Steps of the training, each with 512 formulas: about a minute of CPU time."""

        def summary(self) -> str:
            """Return a one-line summary for reports."""
            return f"network of formulas, {self.steps:,} steps of training"

    settings: Settings

    @cached_property
    def network(self) -> FormulaNetwork:
        """The network, trained where it is first needed."""
        if self.formulas.clusters:
            raise InputError(
                "network: the data are of clusters of metals, which have no sites that are alike. Take "
                "substitution (--model substitution)."
            )
        return FormulaNetwork(
            [dict(row) for row in self.formulas.known.rows],
            self._values,
            steps=self.settings.steps,
            seed=self._seed,
            progress=self._progress,
        )

    def candidates(
        self,
        count: int,
        *,
        target: float | None,
        tolerance: float,
        request: FormulaRequest,
        predict: Predict | None,
        rng: np.random.Generator,
    ) -> Candidates:
        """Return proposals; see the base class."""
        drawn = self.network.sample(
            _PER_FORMULA * count if target is not None else count,
            target=target,
            request=request,
            seed=int(rng.integers(2**31)),
        )
        each = _ARRANGEMENTS if predict is not None else 1
        arranged = self.formulas.arranged(drawn, each=each)
        if self.cells is None:
            arranged = [one for one in arranged if one.parent is not None]
        if not arranged:
            raise InputError(
                "network: no structure of the data has the numbers of atoms of a formula drawn. Take "
                "substitution (--model substitution)."
            )
        return self.rated(arranged, predict)
