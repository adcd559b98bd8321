"""Stage ``report``: the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from whorl.errors import InputError
from whorl.evaluation.candidates import rank_candidates
from whorl.evaluation.results import Results
from whorl.files import damage_named, provenance, read_json
from whorl.generators.io import read_training_record
from whorl.report import make_table, write_report
from whorl.report.sections.base import ReportContext
from whorl.report.tables import Table, arms_tables
from whorl.workflow.engine import MARKER, Step, read_marker, refresh
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import read_recipe
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.evaluate import evaluated_of

_SHARES = (
    ("valid", "validity", "percent_valid"),
    ("strictly valid (by covalent radii)", "validity", "percent_strictly_valid"),
    ("charge neutral", "validity", "percent_neutral"),
    ("with symmetry", "symmetry", "percent_symmetric"),
    ("unique", "uniqueness", "percent_unique"),
    ("new", "novelty", "percent_novel"),
)
_SAID_ELSEWHERE = ("generate", "evaluate", "candidates", "report")  # their warnings are among the metrics


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the one step."""
    settings = run.recipe.report
    yield Step(
        name="report",
        settings={"name": run.recipe.name, **settings.model_dump(mode="json")},
        run=partial(_write, run),
        needs=("evaluate", *(("candidates",) if run.recipe.reconstruct is not None else ())),
    )


def _write(run: RunFolder, monitor: Monitor) -> None:
    write_report_of(run, output=run.report)


def report_again(folder: Path | str, *, output: Path | None = None) -> Path:
    """Write the report of a finished run again, and return its path.

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
    """Write the report of a run from its folder."""
    recipe = run.recipe
    warnings, skipped = _notes(run)
    evaluated = evaluated_of(run)
    prepared = {path.stem: read_json(path) for path in run.prepared("any").parent.glob("*.json")}
    prepared.pop(Path(MARKER).stem, None)
    context = ReportContext(
        title=recipe.report.title or recipe.name,
        results=read_results(run.results),
        evaluated=evaluated,
        candidates=rank_candidates(evaluated),
        recipe=recipe.model_dump(mode="json"),
        provenance=provenance(seed=recipe.seed, settings=recipe.decisive()),
        warnings=warnings,
        skipped=skipped,
        prepared=prepared,
        training=_training(run),
        rounds=_rounds(run),
        gallery=recipe.report.gallery,
    )
    write_report(output, context)


def _training(run: RunFolder) -> dict[str, Mapping[str, Any]]:
    """Read the training record of each model that has one."""
    several = len(run.labels) > 1
    models = {"surrogate": run.surrogate} | {
        f"generator, {label}" if several else "generator": run.generator(label) for label in run.labels
    }
    return {name: record for name, path in models.items() if (record := read_training_record(path))}


def _rounds(run: RunFolder) -> dict[str, list[Mapping[str, Any]]]:
    """Read what became of the labels of each active round."""
    return {
        label: [read_json(path.with_name("round.json")) for path in run.active_rounds(label)]
        for label in run.labels
        if run.recipe.active is not None
    }


def read_results(path: Path) -> Results:
    """Read ``results.json``.

    Raises:
        InputError: It is damaged, or of another version.
    """
    data = read_json(path)
    if isinstance(data, dict) and str(data.get("format", "")).startswith("whorl verdict"):
        raise InputError(
            f"{path}: results of an earlier version of whorl. Evaluate again: 'whorl run' with the same "
            "recipe and folder does so, and keeps the other stages."
        )
    with damage_named(path):
        return Results.from_dict(data)


def summary(path: Path) -> tuple[dict[str, Table], list[str]]:
    """Return the tables of ``results.json`` by their headings, and lines about crystals."""
    results = read_results(path)
    arms = arms_tables(results)
    tables = {"Generated features, by the surrogate": make_table(results, "surrogate")}
    if arms:
        tables |= dict(
            zip(
                ("Structures by the energy method", "The same structures: diversity and calibration"),
                arms,
                strict=True,
            )
        )
    else:
        tables["Structures as reconstructed, by the energy method"] = make_table(results, "potential")
    lines = []
    for label, size in results.sizes.items():
        validity = size.metrics.get("validity", {})
        shares = {words: size.metrics.get(evaluator, {}).get(name) for words, evaluator, name in _SHARES} | {
            f"with the {name.replace('_', ' ')} requested": share
            for name, share in size.metrics.get("conditions", {}).items()
        }
        known = [f"{share:.1f} % {words}" for words, share in shares.items() if share is not None]
        if known:
            where = "" if label == "all" else f" ({label})"
            counts = f"{validity.get('structures', '?')} structures of {validity.get('count', '?')} samples"
            lines.append(f"{counts}{where}: {', '.join(known)}")
    return {heading: table for heading, table in tables.items() if table is not None}, lines


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
