"""Tables 1 and 2 and what belongs to them: one layout for page, README and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.errors import unknown_option
from whorl.evaluation.results import Accuracy, Arm, Evaluated, Results, SizeResults, TargetResults
from whorl.files import write_json, write_text
from whorl.report.paper import TABLE_1, TABLE_2, Published, published, published_size

NOTHING = "–"
TABLES = ("surrogate", "potential", "diversity")
ARMS = {
    "plain": "as reconstructed",
    "project": "projected",
    "oracle": "after energy calls",
    "relax": "relaxed",
    "baseline": "data, projected",
}
_ArmColumn = tuple[str, str, Callable[[Arm], float | str | None], str]  # heading, unit, value, its format
_OWN_COLUMNS = ("surrogate", "reconstruction", "energy")  # evaluators whose columns have names of their own


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers.

    Attributes:
        group: What it belongs to, such as a training size.
        label: Its own heading.
        unit: Shown with it.
        reference: Whether its numbers are the paper's.
    """

    group: str
    label: str
    unit: str = ""
    reference: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table ready to be shown: one row per target.

    Attributes:
        columns: Without that of the target.
        targets: Row headings.
        rows: Cells as text, one per column.
        target_label: Heading of the targets.
    """

    columns: tuple[Column, ...]
    targets: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    target_label: str

    @property
    def groups(self) -> tuple[tuple[str, int, bool], ...]:
        """Name of each run of columns that belong together, their number, whether they are the paper's."""
        runs: list[tuple[str, int, bool]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.group:
                runs[-1] = (column.group, runs[-1][1] + 1, column.reference)
            else:
                runs.append((column.group, 1, column.reference))
        return tuple(runs)

    @property
    def starts(self) -> tuple[bool, ...]:
        """Whether each column is the first of its group."""
        names = [column.group for column in self.columns]
        return tuple(i == 0 or names[i] != names[i - 1] for i in range(len(names)))

    @property
    def by_target(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Row headings with their rows."""
        return tuple(zip(self.targets, self.rows, strict=True))


def make_table(results: Results, kind: str, *, compare_with_paper: bool = False) -> Table | None:
    """Lay out one of the tables.

    Args:
        results: Of the run.
        kind: ``"surrogate"`` (the paper's table 1), ``"potential"`` (its table 2), or ``"diversity"``.
        compare_with_paper: Add the numbers of Fung et al. 2022 for its training sizes.

    Returns:
        ``None`` when nothing was evaluated that way.

    Raises:
        InputError: Unknown kind.
    """
    if kind not in TABLES:
        raise unknown_option("table", kind, TABLES)
    targets = sorted({target.target for size in results.sizes.values() for target in size.targets})
    columns: list[Column] = []
    cells: list[list[str]] = []
    for label, size in results.sizes.items():
        by_target = {target.target: target for target in size.targets}
        judged = [by_target.get(target) for target in targets]
        if kind == "diversity":
            parts = _diversity_columns(size_name(label, size), judged)
        else:
            parts = _accuracy_columns(size_name(label, size), judged, kind, results)
            table = TABLE_1 if kind == "surrogate" else TABLE_2
            if parts and compare_with_paper and published_size(size.training_rows):
                parts += _paper_columns(table, size.training_rows, targets, results)
        columns += [column for column, _ in parts]
        cells += [values for _, values in parts]
    if not columns:
        return None
    return Table(
        columns=tuple(columns),
        targets=tuple(f"{target:.2f}" for target in targets),
        rows=tuple(zip(*cells, strict=True)),
        target_label=f"Target ({results.unit})" if results.unit else "Target",
    )


def arms_tables(results: Results) -> tuple[Table, ...]:
    """Lay out what each step gains by the energy method and what it costs, and the diversity it leaves.

    Each target has a row for the structures as reconstructed, one after each refiner, and one for random
    training structures refined alike. Training sizes are groups of columns. Two tables; none where nothing
    was refined.
    """
    if not any(len(target.arms) > 1 for size in results.sizes.values() for target in size.targets):
        return ()
    gains: list[_ArmColumn] = [
        (f"within ±{results.tolerance:g}", "%", lambda arm: arm.percent_within, ".0f"),
        ("MAE", results.unit, lambda arm: arm.mean_absolute_error, ".3f"),
        ("calls", "", lambda arm: arm.energy_calls, ".1f"),
        ("labels", "", lambda arm: arm.labels, ",.0f"),
        ("draws", "", lambda arm: f"{arm.count}/{arm.draws}", ""),
        ("moved", "Å", lambda arm: arm.displacement, ".2f"),
    ]
    qualities: list[_ArmColumn] = [
        ("whole", "%", lambda arm: arm.percent_whole, ".0f"),
        ("unique", "%", lambda arm: _in_percent(arm.unique), ".0f"),
        ("copies", "", lambda arm: arm.copies, ".0f"),
        ("spread / data", "", lambda arm: arm.spread_ratio, ".2f"),
        ("covered", "%", lambda arm: _in_percent(arm.coverage), ".0f"),
        ("in 90 % interval", "%", lambda arm: _in_percent(arm.interval_coverage), ".0f"),
    ]
    return _arms_table(results, gains), _arms_table(results, qualities)


def _in_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _arms_table(results: Results, shown: Sequence[_ArmColumn]) -> Table:
    arms = {
        label: {(target.target, name): arm for target in size.targets for name, arm in target.arms.items()}
        for label, size in results.sizes.items()
    }
    names = list(dict.fromkeys(name for of in arms.values() for _, name in of))
    targets = sorted({target for of in arms.values() for target, _ in of})
    keys = [(target, name) for target in targets for name in names]
    columns, cells = [], []
    for label, size in results.sizes.items():
        for heading, unit, value_of, form in shown:
            values = [None if key not in arms[label] else value_of(arms[label][key]) for key in keys]
            columns.append(Column(group=size_name(label, size), label=heading, unit=unit))
            cells.append([NOTHING if value is None else format(value, form) for value in values])
    return Table(
        columns=tuple(columns),
        targets=tuple(f"{target:.2f} {ARMS.get(name, name)}" for target, name in keys),
        rows=tuple(zip(*cells, strict=True)),
        target_label=f"Target ({results.unit})" if results.unit else "Target",
    )


def size_name(label: str, size: SizeResults) -> str:
    """Return how people write a training size: ``n = 300``."""
    usual = label in ("all", f"n{size.training_rows}")
    return f"n = {size.training_rows}" + ("" if usual else f" ({label})")


def _accuracy_columns(
    group: str, judged: Sequence[TargetResults | None], kind: str, results: Results
) -> list[tuple[Column, list[str]]]:
    scores: list[Accuracy | None] = [None if target is None else getattr(target, kind) for target in judged]
    if not any(scores):
        return []
    within = f"within ±{results.tolerance:g}"
    parts = [
        (
            Column(group=group, label="MAE", unit=results.unit),
            [_decimal(score, "mean_absolute_error", 3) for score in scores],
        ),
        (
            Column(group=group, label=within, unit="%"),
            [_decimal(score, "percent_within", 2) for score in scores],
        ),
    ]
    if any(score and score.failed for score in scores):
        shown = [f"{score.failed} of {score.count}" if score else NOTHING for score in scores]
        parts.append((Column(group=group, label="failed"), shown))
    else:
        shown = [str(score.count) if score else NOTHING for score in scores]
        parts.append((Column(group=group, label="samples"), shown))
    if kind == "potential":
        parts.append(
            (
                Column(group=group, label="invalid", unit="%"),
                [_decimal(target and target.inversion, "percent_invalid", 1) for target in judged],
            )
        )
        valid = [target and target.potential_valid for target in judged]
        if any(target and target.inversion and target.inversion.invalid for target in judged):
            parts.append(
                (
                    Column(group=group, label=f"{within}, valid only", unit="%"),
                    [_decimal(score, "percent_within", 2) for score in valid],
                )
            )
    return parts


def _paper_columns(
    table: Published, training_rows: int, targets: Sequence[float], results: Results
) -> list[tuple[Column, list[str]]]:
    group = f"paper, n = {published_size(training_rows)}"
    values = [published(table, training_rows, target) for target in targets]
    return [
        (
            Column(group=group, label="MAE", unit=results.unit, reference=True),
            [NOTHING if value is None else f"{value[0]:.2f}" for value in values],
        ),
        (
            Column(group=group, label="within ±0.1", unit="%", reference=True),
            [NOTHING if value is None else f"{value[1]:.2f}" for value in values],
        ),
    ]


def _diversity_columns(group: str, judged: Sequence[TargetResults | None]) -> list[tuple[Column, list[str]]]:
    found = [target and target.diversity for target in judged]
    atoms = [target and target.diversity_atoms for target in judged]
    parts = [
        (
            Column(group=group, label="distinct samples"),
            [f"{d.distinct} of {d.count}" if d else NOTHING for d in found],
        ),
        (
            Column(group=group, label="copies of training rows", unit="%"),
            [_decimal(d, "percent_copies", 2) for d in found],
        ),
        (
            Column(group=group, label="spread / real data"),
            [_decimal(d, "ratio", 2) for d in found],
        ),
        (
            Column(group=group, label="real data in window"),
            [str(d.real_count) if d else NOTHING for d in found],
        ),
    ]
    if any(atoms):
        parts.append(
            (
                Column(group=group, label="distinct structures"),
                [f"{d.distinct} of {d.count}" if d else NOTHING for d in atoms],
            )
        )
    return parts


def _decimal(score: object | None, name: str, digits: int) -> str:
    """Return one number of a score, where there is such a score and such a number."""
    value = getattr(score, name, None)
    return NOTHING if value is None else f"{value:.{digits}f}"


def write_tables(
    results: Results, directory: Path | str, *, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write ``results.json`` (everything) and ``results.csv`` (one line per training size and target).

    Args:
        results: Of the run; :meth:`Results.from_dict` reads it back from the JSON.
        directory: Made when absent.
        provenance: Version, seed and recipe hash, written with the JSON.
    """
    directory = Path(directory)
    write_json(directory / "results.json", {**results.to_dict(), "provenance": dict(provenance or {})})
    rows = [
        {"training_size": label, "training_rows": size.training_rows, **_flat(target)}
        for label, size in results.sizes.items()
        for target in size.targets
    ]
    write_text(directory / "results.csv", _csv(rows))


def write_samples(evaluated: Mapping[str, Evaluated], path: Path | str) -> None:
    """Write a CSV with one line per generated sample.

    Its columns are target, prediction, loss, status and computed value, and those of further evaluators as
    ``<evaluator>_<column>``.
    """
    rows = []
    for label, of in evaluated.items():
        samples = of.samples
        place = {row: k for k, row in enumerate(samples.rows.tolist())}
        predicted, computed, failures = of.values("surrogate"), of.values("energy"), of.failures()
        for i, target in enumerate(samples.targets.tolist()):
            row: dict[str, Any] = {
                "training_size": label,
                "sample": i,
                "target": target,
                "surrogate": None if predicted is None else float(predicted[i]),
                "reconstruction_loss": None,
                "reconstruction_status": None,
                "potential": None,
                "potential_failure": None,
            }
            k = place.get(i)
            if k is not None and samples.loss is not None:
                row |= {
                    "reconstruction_loss": float(samples.loss[k]),
                    "reconstruction_status": samples.status[k],
                    "potential": None if computed is None else float(computed[k]),
                    "potential_failure": failures.get(k),
                }
            for kind, metrics in of.metrics.items():
                if kind in _OWN_COLUMNS:
                    continue
                for name, values in metrics.per_sample.items():
                    row[f"{kind}_{name}"] = values[i]
                for name, values in metrics.per_structure.items():
                    row[f"{kind}_{name}"] = None if k is None else values[k]
            rows.append(row)
    write_text(path, _csv(rows))


def _flat(target: TargetResults) -> dict[str, Any]:
    """Return a target's results with names such as ``surrogate_percent_within``."""
    flat: dict[str, Any] = {"target": target.target, "in_training_range": target.in_training_range}
    fields = {
        "surrogate": ("count", "failed", "mean_absolute_error", "percent_within", "mean"),
        "potential": ("count", "failed", "mean_absolute_error", "percent_within", "mean"),
        "potential_valid": ("count", "mean_absolute_error", "percent_within"),
        "inversion": ("count", "invalid", "percent_invalid", "median_loss"),
        "diversity": ("count", "distinct", "percent_copies", "spread", "real_spread", "real_count", "ratio"),
        "diversity_atoms": ("count", "distinct", "percent_copies", "spread", "ratio"),
    }
    for part, names in fields.items():
        score = getattr(target, part)
        flat |= {f"{part}_{name}": None if score is None else getattr(score, name) for name in names}
    return flat


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    return text.getvalue()
