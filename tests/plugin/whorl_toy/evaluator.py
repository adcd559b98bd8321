"""How compact structures are."""

import torch

from whorl.evaluation import Evaluator, Metrics
from whorl.evaluation.evaluators.base import EvaluatorSettings


class Compactness(Evaluator):
    """The root mean square distance of atoms from their centre in Å: column ``radius`` of structures."""

    kind = "compactness"

    class Settings(EvaluatorSettings):
        """Settings of the toy evaluator."""

        widest: float = 3.0
        """Radius in Å up to which a structure is compact."""

    settings: Settings

    def applies(self, samples, reference):
        """Whether there are structures."""
        return samples.structures is not None

    def evaluate(self, samples, reference, context, prepared=None):
        """Return radii, and the share of compact structures."""
        radii = (
            torch.stack(
                [
                    (one.positions - one.positions.mean(0)).square().sum(1).mean().sqrt()
                    for one in samples.structures
                ]
            )
            if len(samples.structures)
            else torch.zeros(0)
        )
        return Metrics(
            evaluator=self.kind,
            overall={"compact": int((radii <= self.settings.widest).sum())},
            per_structure={"radius": [r if r == r else None for r in radii.tolist()]},
        )
