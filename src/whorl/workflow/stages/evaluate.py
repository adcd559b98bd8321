"""Stages ``reference`` and ``evaluate``: evaluators on the real data and on generated samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from whorl.errors import MissingExtraError, import_extra
from whorl.evaluation import running
from whorl.evaluation.candidates import rank_candidates
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, column
from whorl.evaluation.results import ARM_EVALUATORS, Evaluated, results_of
from whorl.evaluation.running import file_of
from whorl.evaluation.samples import Reference, Samples
from whorl.evaluation.settings import EvaluatorSettings
from whorl.files import check_folder, damage_named, provenance, read_json, write_json
from whorl.report import write_samples, write_structures, write_tables
from whorl.surrogates import load_surrogate
from whorl.workflow.candidates import write_candidates
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.samples import SampleFiles, read_arm, read_reference, read_samples, with_training_rows
from whorl.workflow.settings import EvaluateSettings
from whorl.workflow.stages.atoms import read_atoms_surrogate

_AT_ONCE = 100  # structures predicted
_PREDICTION = "prediction"

PARTS = ".parts"
"""Folder of finished chunks, within that of the stage: they go on where settings change that they do not
depend on."""


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the step for the real data, if any evaluator needs it, and that for all samples."""
    recipe, labels = run.recipe, run.labels
    settings = [of.model_dump(mode="json") for of in recipe.evaluators]
    reconstructed = recipe.reconstruct is not None
    data = ("data",) if run.structures_of_features else ()
    if preparing := [of for of in recipe.evaluators if of.method.prepare is not Evaluator.prepare]:
        yield Step(
            name="reference",
            settings=[of.model_dump(mode="json") for of in preparing],
            run=partial(_prepare, run, preparing),
            needs=(*data, "encode"),
            keeps=(PARTS,),
        )
    yield Step(
        name="evaluate",
        settings={"tolerance": recipe.evaluate.tolerance, "evaluators": settings},
        run=partial(_evaluate, run),
        needs=(
            *data,
            "encode",
            *(("reference",) if preparing else ()),
            "train/surrogate",
            *(f"sampling/{label}" for label in labels),
            *(f"generate/{label}" for label in labels),
            *(run.step_of(path) for label in labels if reconstructed for path in run.arms(label).values()),
            *(run.step_of(path) for path in _atoms_surrogates(run).values()),
        ),
        keeps=(PARTS,),
    )


def _prepare(run: RunFolder, evaluators: Sequence[EvaluatorSettings], monitor: Monitor) -> None:
    prepare(
        read_reference(run.features, property=run.recipe.property_name, dataset=run.structures_of_features),
        evaluators,
        tolerance=run.recipe.evaluate.tolerance,
        seed=run.recipe.seed,
        output=run.prepared("any").parent,
        monitor=monitor,
    )


def _evaluate(run: RunFolder, monitor: Monitor) -> None:
    evaluated = evaluate(
        samples_of(run),
        run.recipe.evaluators,
        prepared=run.prepared("any").parent,
        surrogate=run.surrogate,
        tolerance=run.recipe.evaluate.tolerance,
        seed=run.recipe.seed,
        output=run.results.parent,
        made_with=provenance(seed=run.recipe.seed, settings=run.recipe.decisive()),
        monitor=monitor,
        arms=arms_of(run),
        atoms_surrogates=_atoms_surrogates(run),
    )
    _name_silent(run.recipe.evaluate, evaluated, monitor)


def _atoms_surrogates(run: RunFolder) -> dict[str, Path]:
    """Return the surrogate of structures of each training size; none where nothing is moved by one."""
    if run.surrogate_of_atoms is None or run.recipe.reconstruct is None:
        return {}
    return {label: run.last_surrogate(label) for label in run.labels}


def arms_of(run: RunFolder) -> dict[str, dict[str, Samples]]:
    """Read the structures of each training size that are compared, by what was done."""
    if run.recipe.reconstruct is None:
        return {}
    return {label: {name: read_arm(path) for name, path in run.arms(label).items()} for label in run.labels}


def samples_of(run: RunFolder) -> dict[str, tuple[Samples, Reference]]:
    """Read the samples of each training size of a run, and the real data with its training rows."""
    recipe = run.recipe
    reference = read_reference(
        run.features, property=recipe.property_name, dataset=run.structures_of_features
    )
    return {
        label: (
            read_samples(
                SampleFiles(
                    generated=run.generated(label),
                    structures=None if recipe.reconstruct is None else run.refined(label),
                ),
                features=run.features,
            ),
            with_training_rows(reference, run.rows(label)),
        )
        for label in run.labels
    }


def evaluated_of(run: RunFolder) -> dict[str, Evaluated]:
    """Read the output of the stage ``evaluate`` for each training size."""
    arms, folder = arms_of(run), run.results.parent
    evaluated = {}
    for label, (samples, reference) in samples_of(run).items():
        metrics = {name: read_metrics(folder / label / name) for name in arms.get(label, {})}
        evaluated[label] = Evaluated(
            samples=samples,
            reference=reference,
            metrics=read_metrics(folder / label),
            arms={
                name: Evaluated(samples=arms[label][name], reference=reference, metrics=of)
                for name, of in metrics.items()
                if of
            },
        )
    return evaluated


def read_metrics(folder: Path) -> dict[str, Metrics]:
    """Read the metrics of one generator, by the kind of the evaluator."""
    metrics = {}
    for path in sorted(folder.glob("*.json")):
        with damage_named(path):
            of = Metrics.from_dict(read_json(path))
        metrics[of.evaluator] = of
    return metrics


def evaluate_files(
    generated: Path,
    *,
    settings: EvaluateSettings,
    features: Path,
    output: Path,
    monitor: Monitor,
    rows: Path | None = None,
    structures: Path | None = None,
    dataset: Path | None = None,
    surrogate: Path | None = None,
    property: str | None = None,
) -> Path:
    """Evaluate single files, as both stages do in a run, and return the path of the results.

    Args:
        generated: Generated features.
        settings: As in a recipe.
        features: Of real structures.
        output: Folder.
        monitor: Receives progress and warnings.
        rows: Rows trained on; None for all.
        structures: Reconstructed from the generated features.
        dataset: Real structures of ``features``.
        surrogate: Of the property.
        property: Name of the property; None for the only one there is.

    Raises:
        InputError: Files that do not belong together, or settings that cannot be met.
        MissingExtraError: An evaluator's package is not installed.
    """
    check_folder(output)
    files = SampleFiles(generated=generated, structures=structures)
    samples = read_samples(files, features=features)
    reference = read_reference(features, property=property, dataset=dataset)
    evaluators = settings.chosen(
        calculator=settings.calculator,
        structures=structures is not None,
        closed_form=samples.loss is not None and bool(samples.loss.isnan().all()),
        real=dataset is not None,
    )
    if surrogate is None and settings.evaluators is None:
        evaluators = [of for of in evaluators if of.kind != "surrogate"]
    for of in evaluators:
        if of.method.requires and of.method(of).applies(samples, reference):
            package, extra = of.method.requires
            try:
                import_extra(package, extra=extra)
            except MissingExtraError as error:
                raise MissingExtraError(
                    f"{error}, or leave out the evaluator {of.kind}: --no-{of.kind}, or name others with "
                    "--evaluator"
                ) from error
    common: dict[str, Any] = {"tolerance": settings.tolerance, "seed": 0, "monitor": monitor}
    prepare(reference, evaluators, output=output / "reference", **common)
    evaluated = evaluate(
        {"all": (samples, with_training_rows(reference, rows))},
        evaluators,
        prepared=output / "reference",
        surrogate=surrogate,
        output=output,
        made_with=provenance(),
        **common,
    )
    _name_silent(settings, evaluated, monitor)
    if structures is not None:
        write_candidates(
            rank_candidates(evaluated), evaluated, output / "candidates", provenance=provenance()
        )
    return output / "results.json"


def _name_silent(settings: EvaluateSettings, evaluated: Mapping[str, Evaluated], monitor: Monitor) -> None:
    """Say which evaluators were chosen by name and did not apply."""
    for of in settings.evaluators or ():
        if not any(of.kind in its.metrics for its in evaluated.values()):
            monitor.warn(f"evaluate.evaluators: {of.kind} does not apply to these samples, and was left out.")


def prepare(
    reference: Reference,
    evaluators: Sequence[EvaluatorSettings],
    *,
    tolerance: float,
    seed: int,
    output: Path,
    monitor: Monitor,
) -> None:
    """Compute reference values of evaluators from the real data, and write them as JSON, one file each."""
    for settings in evaluators:
        context = EvaluationContext(
            tolerance=tolerance,
            seed=seed,
            directory=output / PARTS / file_of(settings.kind),
            progress=monitor.progress(f"{settings.kind}, real structures"),
        )
        prepared = settings.method(settings).prepare(reference, context)
        if prepared is not None:
            for warning in prepared.get("warnings", ()):
                monitor.warn(warning)
            write_json(output / f"{file_of(settings.kind)}.json", prepared)


def evaluate(
    samples: Mapping[str, tuple[Samples, Reference]],
    evaluators: Sequence[EvaluatorSettings],
    *,
    prepared: Path,
    surrogate: Path | None,
    tolerance: float,
    seed: int,
    output: Path,
    made_with: Mapping[str, Any],
    monitor: Monitor,
    arms: Mapping[str, Mapping[str, Samples]] | None = None,
    atoms_surrogates: Mapping[str, Path] | None = None,
) -> dict[str, Evaluated]:
    """Evaluate samples by all evaluators that apply to them.

    Written are the metrics of each, ``<label>/<kind>.json``, the results of all in ``results.json`` and
    ``results.csv``, a line a sample in ``samples.csv``, and the structures of each training size as
    ``structures-<label>.extxyz``.

    Args:
        samples: With the real data, by the label of the training size.
        evaluators: In any order.
        prepared: Folder that :func:`prepare` wrote.
        surrogate: File of the surrogate; None for none.
        tolerance: Within this of the target is a hit.
        seed: Of all randomness.
        output: Folder.
        made_with: Provenance.
        monitor: Receives progress and warnings.
        arms: Structures of each training size that are compared by the energy method, by what was done; their
            metrics go to ``<label>/<arm>/``.
        atoms_surrogates: Surrogate of structures of each training size, by which refiners moved these.

    Raises:
        InputError: Files that do not belong together, or an evaluator whose metrics do not fit the samples.
    """
    evaluated = {}
    for label, (its, reference) in samples.items():
        size = f", {label}" if len(samples) > 1 else ""
        loaded = None
        if surrogate is not None and its.features is not None:
            loaded = load_surrogate(surrogate, shape=tuple(its.features.shape[1:]))
        run = partial(
            running.evaluate,
            tolerance=tolerance,
            seed=seed,
            surrogate=loaded,
            prepared=lambda kind: _read_prepared(prepared / f"{file_of(kind)}.json"),
        )
        every = [settings.method(settings) for settings in evaluators]
        of = run(
            its,
            reference,
            every,
            directory=output / PARTS / label,
            progress=lambda kind, size=size: monitor.progress(f"{kind}{size}"),  # type: ignore[misc]
        )
        compared = {}
        for name, arm in ((arms or {}).get(label, {}) if of.values("energy") is not None else {}).items():
            if _same_structures(arm, its):
                known = {kind: of.metrics[kind] for kind in ARM_EVALUATORS if kind in of.metrics}
                made = Evaluated(samples=arm, reference=reference, metrics=known)
            else:
                made = run(
                    arm,
                    reference,
                    [evaluator for evaluator in every if evaluator.kind in ARM_EVALUATORS],
                    directory=output / PARTS / label / name,
                    progress=lambda kind, name=name: monitor.progress(f"{kind}, {name}"),  # type: ignore[misc]
                )
            predicted = _predicted(arm, (atoms_surrogates or {}).get(label))
            compared[name] = dataclasses.replace(made, metrics={**made.metrics, **predicted})
            for kind, metrics in compared[name].metrics.items():
                write_json(output / label / name / f"{file_of(kind)}.json", metrics.to_dict())
        of = evaluated[label] = dataclasses.replace(of, arms=compared)
        for kind, metrics in of.metrics.items():
            for warning in metrics.warnings:
                monitor.warn(warning)
            write_json(output / label / f"{file_of(kind)}.json", metrics.to_dict())
    results = results_of(evaluated, tolerance=tolerance)
    for label, of in evaluated.items():
        if of.samples.structures is not None:
            write_structures(of, output / f"structures-{label}.extxyz", provenance=made_with)
    write_samples(evaluated, output / "samples.csv")
    write_tables(results, output, provenance=made_with)
    return evaluated


def _predicted(arm: Samples, surrogate: Path | None) -> dict[str, Metrics]:
    """Return what the surrogate of structures predicts of those it can predict; nothing without one."""
    if surrogate is None or arm.structures is None:
        return {}
    model, count = read_atoms_surrogate(surrogate), len(arm.structures)
    problems = model.find_problems(arm.structures)
    rows = torch.tensor([row for row in range(count) if row not in problems], dtype=torch.int64)
    values, uncertainties = torch.full((2, count), torch.nan, dtype=torch.float64)
    for chunk in rows.split(_AT_ONCE) if len(rows) else ():
        predicted = model.predict(arm.structures[chunk])
        values[chunk] = predicted.mean.double()
        if predicted.uncertainty is not None:
            uncertainties[chunk] = predicted.uncertainty.double()
    return {
        _PREDICTION: Metrics(
            evaluator=_PREDICTION,
            per_structure={"value": column(values), "uncertainty": column(uncertainties)},
        )
    }


def _same_structures(one: Samples, other: Samples) -> bool:
    ours, theirs = one.structures, other.structures
    if ours is None or theirs is None or len(ours) != len(theirs):
        return False
    return all(torch.equal(values, theirs.tensors[name]) for name, values in ours.tensors.items())


def _read_prepared(path: Path) -> dict[str, Any] | None:
    return dict(read_json(path)) if path.is_file() else None
