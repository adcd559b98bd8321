r"""Structures by substitution: a structure of the data with other elements on its sites.

The cell is scaled to the volumes of its atoms,

.. math::
   V' = \sum_i v_{e'_i} \Bigl(\frac{V}{\sum_i v_{e_i}}\Bigr)^{\lambda}

where :math:`v_e` are the volumes of elements (:mod:`whorl.proposals.volumes`), and λ (0 … 1) is the share of
their packing that crystals have in common whose formulas differ by one substitution. So the distribution of
space groups and shapes of cells for a formula is that of the structures that it was derived from.
"""

from __future__ import annotations

import numpy as np

from whorl.proposals.base import Candidates, Predict, Proposer
from whorl.proposals.settings import FormulaRequest, ProposerSettings

_GENERATIONS = 4
_PER_FORMULA = 6  # proposed in each generation, for each one that is asked for


class Substitution(Proposer):
    """Substitution of elements in the structures of a data set, repeated in what is near the target."""

    kind = "substitution"

    class Settings(ProposerSettings):
        """It has none."""

        def summary(self) -> str:
            """Return a one-line summary for reports."""
            return "substitution of elements in structures of the data"

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
        made = self.rated([], None)
        order: list[int] = []
        # Substitutions in what is nearest to the target, again and again: there are few proposals near a
        # rare value.
        for _ in range(1 if target is None else _GENERATIONS):
            if made.proposals:
                order = made.order(target=target, tolerance=tolerance, rng=rng)
            starts = [made.proposals[k] for k in order[:count]]
            further = self.formulas.propose(
                _PER_FORMULA * count, target=target, request=request, rng=rng, starts=starts
            )
            known = {(one.parent, one.elements) for one in made.proposals}
            further = [one for one in further if (one.parent, one.elements) not in known]
            if not further:
                break
            made = made + self.rated(further, predict)
        return made
