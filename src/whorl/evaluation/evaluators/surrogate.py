"""Generated features by the surrogate: table 1 of Fung et al. 2022."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.accuracy import accuracy
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, by_target, column
from whorl.evaluation.samples import Reference, Samples
from whorl.surrogates.errors import PredictionErrors, prediction_errors

if TYPE_CHECKING:
    from whorl.surrogates import Surrogate


class SurrogateEvaluator(Evaluator):
    """The surrogate predicts the property of generated features: column ``value`` of samples."""

    kind = "surrogate"
    of_structures = False

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether there are features."""
        return samples.features is not None

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return predictions, and how near they are to each target.

        Raises:
            InputError: Without a surrogate.
        """
        if context.surrogate is None or samples.features is None:
            raise InputError("evaluator surrogate: needs generated features and a surrogate of the property.")
        predicted = context.surrogate.predict(samples.features.double())
        values = predicted.mean.double()
        errors = _errors(context.surrogate, samples.features.shape[1:], reference)
        uncertainty = predicted.uncertainty
        return Metrics(
            evaluator=self.kind,
            overall={"errors": None if errors is None else dataclasses.asdict(errors)},
            per_target=by_target(
                samples.targets,
                lambda target, own: dataclasses.asdict(accuracy(values[own], target, context.tolerance)),
            ),
            per_sample={
                "value": column(values),
                **({} if uncertainty is None else {"uncertainty": column(uncertainty.double())}),
            },
            warnings=(errors.warning,) if errors is not None and errors.warning else (),
        )


def _errors(surrogate: Surrogate, shape: tuple[int, ...], reference: Reference) -> PredictionErrors | None:
    """Return the errors measured when it was fitted, or where there are none those on all labelled rows."""
    if surrogate.validation_errors is not None:
        return surrogate.validation_errors
    predicted: Float[Tensor, "N"] = surrogate.predict(reference.features.unflatten(1, shape).double()).mean
    usable = predicted.isfinite() & reference.properties.isfinite()
    if not bool(usable.any()):
        return None
    return prediction_errors(predicted[usable].double(), reference.properties[usable], held_out=False)
