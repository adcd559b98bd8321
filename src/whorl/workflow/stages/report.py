"""Stage ``report``: one page."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from whorl.errors import InputError
from whorl.files import provenance
from whorl.report.crystals import CrystalSection, crystal_section
from whorl.workflow import crystals, verdict
from whorl.workflow.energies import read_choice
from whorl.workflow.engine import MARKER, Step, read_marker, refresh
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import read_recipe
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.evaluate import evidence, made_crystals

_SAID_ELSEWHERE = ("generate", "energies", "evaluate", "report")  # their warnings are among the metrics


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the one step."""
    settings = run.recipe.report
    yield Step(
        name="report",
        settings={"name": run.recipe.name, **settings.model_dump(mode="json")},
        run=partial(_write, run),
        needs=("evaluate",),
    )


def _write(run: RunFolder, monitor: Monitor) -> None:
    write_report_of(run, output=run.report)


def report_again(folder: Path | str, *, output: Path | None = None) -> Path:
    """Write the report of a finished run once more, and return where it is.

    Raises:
        InputError: The folder is no run, or one that has not come to its metrics yet.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"{folder}: not the folder of a run (no recipe.yaml in it). Make one: whorl run")
    read_marker(folder, "evaluate")
    run = RunFolder(folder, read_recipe(folder / "recipe.yaml"))
    write_report_of(run, output=output or run.report)
    if output is None:
        refresh(folder, "report")
    return output or run.report


def write_report_of(run: RunFolder, *, output: Path) -> None:
    """Write the report of a run from what lies in its folder."""
    recipe = run.recipe
    warnings, skipped = _notes(run)
    verdict.report(
        evidence(run),
        results=run.results,
        dataset=run.structures_of_features,
        output=output,
        title=recipe.report.title or recipe.name,
        recipe=recipe.model_dump(mode="json"),
        provenance=provenance(seed=recipe.seed, settings=recipe.decisive()),
        warnings=warnings,
        skipped=skipped,
        gallery=recipe.report.gallery,
        # Runs of older versions did not compare the energy method with the labels.
        agreement=read_choice(run.agreement).text if run.agreement.is_file() else "",
        crystals=_crystal_section(run) if run.crystal_results.is_file() else None,
    )


def _crystal_section(run: RunFolder) -> CrystalSection:
    recipe = run.recipe
    real, _ = crystals.evenly(run.dataset, recipe.evaluate.real)
    return crystal_section(
        crystals.read_verdicts(run.crystal_results),
        made_crystals(run),
        real=real,
        real_predicted=crystals.properties(run.properties("real")) if recipe.predicts_properties else {},
        target_label=recipe.property_name.replace("_", " "),
        gallery=recipe.report.gallery,
    )


def _notes(run: RunFolder) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the warnings and skipped entries of the steps so far."""
    from whorl.workflow.stages import STAGES

    warnings, skipped = [], []
    for stage in STAGES:
        folder = run.path / stage
        if stage in _SAID_ELSEWHERE or not folder.is_dir():
            continue
        names = (
            [stage]
            if (folder / MARKER).is_file()
            else [p.parent.relative_to(run.path).as_posix() for p in sorted(folder.rglob(MARKER))]
        )
        for name in names:
            marker = read_marker(run.path, name)
            warnings += marker.warnings
            skipped += marker.skipped
    return warnings, skipped
