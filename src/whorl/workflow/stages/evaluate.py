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
    energetic = recipe.invert is not None and calculator is not None
    decoded = recipe.decode is not None
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
                    run.inverted(label),
                    calculator=calculator,
                    output=run.energies(label),
                    choice=run.agreement,
                ),
                needs=("agreement", f"invert/{label}"),
            )
    if decoded and settings.cgcnn:
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
                run=partial(crystals.predict, run.decoded(label), output=run.properties(label)),
                needs=(f"decode/{label}",),
            )
    yield Step(
        name="evaluate",
        settings=settings.model_dump(
            mode="json", exclude={*_OF_ENERGIES, *(() if decoded else _OF_CRYSTALS)}
        ),
        run=partial(_evaluate, run),
        needs=(
            "encode",
            "train/surrogate",
            *(f"sampling/{label}" for label in labels),
            *(f"generate/{label}" for label in labels),
            *(f"invert/{label}" for label in labels if recipe.invert is not None),
            *(f"energies/{label}" for label in labels if energetic),
            *(("data",) if decoded else ()),
            *(f"decode/{label}" for label in labels if decoded),
            *(f"properties/{label}" for label in ("real", *labels) if decoded and settings.cgcnn),
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
    if recipe.decode is not None:
        crystals.judge(
            made_crystals(run),
            dataset=run.dataset,
            real=run.properties("real") if recipe.evaluate.cgcnn else None,
            most=recipe.evaluate.real,
            output=run.crystal_results,
            made_with=made_with,
            monitor=monitor,
            wishes=recipe.generate.wishes,
        )


def made_crystals(run: RunFolder) -> dict[str, MadeCrystals]:
    """Read the crystals of each training size."""
    return {
        label: crystals.gather(
            run.generated(label),
            run.decoded(label),
            run.properties(label) if run.recipe.evaluate.cgcnn else None,
        )
        for label in run.labels
    }


def evidence(run: RunFolder) -> Evidence:
    """Read all that a run has made so far."""
    inverted = run.recipe.invert is not None
    judged = inverted and run.recipe.calculator is not None
    return verdict.gather(
        {
            label: verdict.Files(
                generated=run.generated(label),
                rows=run.rows(label),
                structures=run.inverted(label) if inverted else None,
                energies=run.energies(label) if judged else None,
            )
            for label in run.labels
        },
        features=run.features,
        property=run.recipe.property_name,
        judge=run.surrogate,
    )
