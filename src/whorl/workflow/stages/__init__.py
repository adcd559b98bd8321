"""The stages of a recipe, one file each."""

from __future__ import annotations

from pathlib import Path

from whorl.errors import UsageError, unknown_option
from whorl.executors.base import executing
from whorl.locks import locked
from whorl.workflow.engine import Step, execute, unfinished
from whorl.workflow.monitor import Monitor
from whorl.workflow.prechecks import require_feasible
from whorl.workflow.recipe import save_recipe
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.settings import Recipe

STAGES = (
    "data",
    "encode",
    "reference",
    "sampling",
    "train",
    "generate",
    "reconstruct",
    "active",
    "refine",
    "evaluate",
    "candidates",
    "report",
)
"""In order; a step ``train/n300`` belongs to the stage ``train``."""


def run_recipe(
    recipe: Recipe, folder: Path | str, *, monitor: Monitor | None = None, until: str | None = None
) -> Path:
    """Run a recipe in a run folder, or continue an interrupted run.

    Args:
        recipe: The recipe.
        folder: Run folder; created if absent.
        monitor: Receives progress, warnings and skipped entries.
        until: Last stage to run; by default all.

    Returns:
        The report, or the folder when stopped before it.

    Raises:
        InputError: Invalid recipe or data; finished steps are kept.
        MissingExtraError: An optional package is not installed that the recipe needs.
    """
    folder = Path(folder)
    monitor = Monitor() if monitor is None else monitor
    if until is not None and until not in STAGES:
        raise UsageError(str(unknown_option("stage", until, STAGES)))
    last = STAGES.index(until) if until else len(STAGES)
    steps = [step for step in steps_of(recipe, folder) if STAGES.index(step.name.split("/")[0]) <= last]
    require_feasible(recipe, {step.name.split("/")[0] for step in unfinished(steps, folder)})
    with locked(folder):
        save_recipe(recipe, folder / "recipe.yaml")
        with executing(recipe.executor):
            execute(steps, folder, monitor)
    report = folder / "report" / "report.html"
    return report if last == len(STAGES) else folder


def steps_of(recipe: Recipe, folder: Path) -> list[Step]:
    """Return the steps of a recipe, each after those it needs.

    What is not in a step's settings cannot change its result: the number of processes, for one.
    """
    # Imported here, since they bring torch: reading a recipe does without.
    from whorl.workflow.stages import (
        active,
        atoms,
        candidates,
        data,
        encode,
        evaluate,
        generate,
        reconstruct,
        refine,
        report,
        sample,
        train,
    )

    run = RunFolder(folder, recipe)
    before = (data, encode, sample, train, atoms, generate, reconstruct, active)
    stages = (*before, refine, evaluate, candidates, report)
    steps = [step for stage in stages for step in stage.steps(run)]
    return sorted(steps, key=_place)


def _place(step: Step) -> int:
    """Return the number of the stage after which a step comes."""
    stages = [STAGES.index(name.split("/")[0]) for name in (step.name, *step.needs)]
    # What the projection makes of training structures tells early which targets are out of reach.
    return max(stages[1:]) if step.name.endswith("/baseline") else stages[0]
