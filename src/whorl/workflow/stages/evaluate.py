"""Stages ``agreement``, ``energies``, ``properties`` and ``evaluate``: metrics of what was made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from whorl.evaluation.crystals import MadeCrystals
from whorl.files import provenance
from whorl.workflow import crystals, energies, verdict
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.verdict import Evidence

_OF_CRYSTALS = ("cgcnn", "real")  # settings of the metrics that only crystals have
_OF_ENERGIES = ("calculator", "quantity", "subtract_offset")  # settings of the stages before it


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield what is worked out from the real data, what from each training size, and the metrics."""
    recipe, labels = run.recipe, run.labels
    settings, calculator = recipe.evaluate, recipe.calculator
    reconstructed = recipe.reconstruct is not None
    energetic = reconstructed and calculator is not None
    predicts = reconstructed and recipe.predicts_properties
    if energetic and calculator is not None:
        finished = recipe.data.features is not None
        options: dict[str, Any] = {"quantity": settings.quantity, "subtract_offset": settings.subtract_offset}
        yield Step(
            name="agreement",
            settings={**calculator.model_dump(mode="json"), "property": recipe.property_name, **options},
            run=partial(
                energies.choose,
                run.structures_of_features,
                property=recipe.property_name,
                calculator=calculator,
                output=run.agreement,
                **options,
            ),
            needs=() if finished else ("data",),
        )
        for label in labels:
            yield Step(
                name=f"energies/{label}",
                settings=calculator.model_dump(mode="json"),
                run=partial(
                    energies.energies,
                    run.refined(label),
                    calculator=calculator,
                    output=run.energies(label),
                    choice=run.agreement,
                ),
                needs=("agreement", run.step_of(run.refined(label))),
            )
    if predicts:
        yield Step(
            name="properties/real",
            settings={"real": settings.real},
            run=partial(crystals.predict, run.dataset, output=run.properties("real"), most=settings.real),
            needs=("data",),
        )
        for label in labels:
            yield Step(
                name=f"properties/{label}",
                settings=None,
                run=partial(crystals.predict, run.refined(label), output=run.properties(label)),
                needs=(run.step_of(run.refined(label)),),
            )
    yield Step(
        name="evaluate",
        settings=settings.model_dump(
            mode="json", exclude={*_OF_ENERGIES, *(() if reconstructed else _OF_CRYSTALS)}
        ),
        run=partial(_evaluate, run),
        needs=(
            "encode",
            "train/surrogate",
            *(f"sampling/{label}" for label in labels),
            *(f"generate/{label}" for label in labels),
            *(run.step_of(run.refined(label)) for label in labels if reconstructed),
            *(f"energies/{label}" for label in labels if energetic),
            *(("data",) if reconstructed and run.structures_of_features else ()),
            *(f"properties/{label}" for label in ("real", *labels) if predicts),
        ),
    )


def _evaluate(run: RunFolder, monitor: Monitor) -> None:
    """Write the metrics of features and atoms, and of crystals where there are any."""
    recipe = run.recipe
    made_with = provenance(seed=recipe.seed, settings=recipe.decisive())
    verdict.judge(
        evidence(run),
        property=recipe.property_name,
        tolerance=recipe.evaluate.tolerance,
        output=run.results.parent,
        provenance=made_with,
    )
    if made := made_crystals(run):
        crystals.judge(
            made,
            dataset=run.dataset,
            real=run.properties("real") if recipe.predicts_properties else None,
            most=recipe.evaluate.real,
            output=run.crystal_results,
            made_with=made_with,
            monitor=monitor,
            requested=recipe.generate.requested,
        )


def made_crystals(run: RunFolder) -> dict[str, MadeCrystals]:
    """Read the crystals of each training size; none where structures are no crystals, or unknown data."""
    if run.recipe.reconstruct is None or run.structures_of_features is None:
        return {}
    made = {
        label: crystals.gather(
            run.generated(label),
            run.refined(label),
            run.properties(label) if run.recipe.predicts_properties else None,
        )
        for label in run.labels
    }
    return {label: one for label, one in made.items() if one is not None}


def evidence(run: RunFolder) -> Evidence:
    """Read all that a run has made so far."""
    reconstructed = run.recipe.reconstruct is not None
    judged = reconstructed and run.recipe.calculator is not None
    return verdict.gather(
        {
            label: verdict.Files(
                generated=run.generated(label),
                rows=run.rows(label),
                structures=run.refined(label) if reconstructed else None,
                energies=run.energies(label) if judged else None,
            )
            for label in run.labels
        },
        features=run.features,
        property=run.recipe.property_name,
        judge=run.surrogate,
    )
