"""Page and picture that compare several evaluated sets of structures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from whorl.errors import InputError
from whorl.evaluation.estimates import mean, share
from whorl.files import atomic_path, write_text
from whorl.report.evaluated_figures import colors_of, distribution, draw_distribution
from whorl.report.evaluated_set import EvaluatedSet
from whorl.report.evaluation import HEADINGS, STABLE, Metric, metric_name, origin_of, settings_of
from whorl.report.figures import _LEGIBLE
from whorl.report.page import PageSection, write_page
from whorl.report.tables import NOTHING
from whorl.report.widgets import figure_png, image, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DISTRIBUTIONS = (  # column, least width of the axis, marks
    ("energy_above_hull", 0.1, (0.0, STABLE)),
    ("formation_energy", 0.1, (0.0,)),
    ("initial_energy_above_hull", 0.1, (0.0, STABLE)),
    ("rmsd_to_relaxed", 0.05, ()),
    ("volume_per_atom", 1.0, ()),
)
_IN_PICTURE = ("energy_above_hull", "formation_energy")
_ORIGINS = ("potential", "relaxation", "hull", "reference")


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric of all sets.

    Attributes:
        group: The protocol; empty for what every set has.
        name: Of the metric.
        contents: For each set, as in ``metrics.json``; None where it has no such metric.
    """

    group: str
    name: str
    contents: tuple[Mapping[str, Any] | None, ...]

    @property
    def label(self) -> str:
        """Its name as text."""
        return metric_name(self.name)

    @property
    def shown(self) -> tuple[Metric | None, ...]:
        """As text."""
        return tuple(None if of is None else Metric.of_json(self.name, of) for of in self.contents)

    @property
    def text(self) -> str:
        """Definition, by the first set that has one."""
        return next((metric.text for metric in self.shown if metric is not None and metric.text), "")


def compare_sets(
    folders: Sequence[Path | str], output: Path | str, *, names: Sequence[str | None] = ()
) -> tuple[MetricRow, ...]:
    """Compare folders of ``whorl evaluate STRUCTURES``: ``comparison.html``, ``.png`` and ``.csv``.

    The picture has the distributions of the energy above hull and of the formation energy, as figures 8
    and 12 of Alverson et al. 2024. What differs in how the sets were evaluated is said first.

    Args:
        folders: Two or more, that the command wrote.
        output: Folder; made when absent.
        names: Of the sets; by default those of the folders.

    Returns:
        The metrics of all sets.

    Raises:
        InputError: Fewer than two folders, two sets of one name, or a folder that cannot be read.
    """
    if len(folders) < 2:
        raise InputError(f"Got {len(folders)} folder, expected two or more to compare.")
    given = [*names, *[None] * (len(folders) - len(names))]
    sets = {}
    for name, folder in zip(given, folders, strict=True):
        label = name or Path(folder).resolve().name
        if label in sets:
            raise InputError(f"Two sets are called '{label}': give them as NAME=FOLDER.")
        sets[label] = EvaluatedSet.read(folder)
    output = Path(output)
    rows = (*_common(sets), *_of_protocols(sets))
    picture = draw_sets(sets)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "comparison.png") as temporary:
        temporary.write_bytes(picture)
    write_text(output / "comparison.csv", _csv(rows, [*sets]))
    sections = [
        PageSection(kind=kind, title=title, html=html)
        for kind, title, html in (
            ("style", "", render("evaluated/style.html")),
            ("warnings", "Evaluated differently", _differences(sets)),
            ("numbers", "Side by side", _numbers(rows, sets)),
            ("distributions", "Distributions", _distributions(sets)),
            ("sets", "Sets", _sets(sets)),
        )
        if html
    ]
    write_page(
        output / "comparison.html",
        title="Comparison of " + (", ".join(sets) if len(sets) < 5 else f"{len(sets)} evaluated sets"),
        subtitle="Sets of structures evaluated by whorl",
        sections=sections,
    )
    return rows


def _common(sets: Mapping[str, EvaluatedSet]) -> list[MetricRow]:
    """Return what the table of every set says, whatever protocols there are."""

    def flags(column: str, text: str) -> list[dict[str, Any] | None]:
        columns = [[value for value in of.flags(column) if value is not None] for of in sets.values()]
        return [share(values, text=text).to_dict() if values else None for values in columns]

    def known(column: str) -> list[Float[np.ndarray, "_"]]:
        return [values[np.isfinite(values)] for of in sets.values() for values in [of.numbers(column)]]

    stable = f"of those with an energy above hull, at most {STABLE:g} eV/atom"
    metrics: dict[str, list[dict[str, Any] | None]] = {
        "structures": [{"value": len(of.rows), "text": "rows of structures.csv"} for of in sets.values()],
        "valid": flags("valid", "of those for which it is known"),
        "unique": flags("unique", "likewise"),
        "novel": flags("novel", "likewise"),
        "relaxation converged": flags("converged", "likewise"),
        f"above hull ≤ {STABLE:g} eV/atom": [
            share((values <= STABLE + 1e-9).tolist(), text=stable).to_dict() if len(values) else None
            for values in known("energy_above_hull")
        ],
    }
    for column in ("energy_above_hull", "formation_energy", "rmsd_to_relaxed"):
        heading, _, unit = HEADINGS[column].partition(" (")
        for kind in ("mean", "median"):
            metrics[f"{heading}, {kind}"] = [_typical(kind, values, unit[:-1]) for values in known(column)]
    return [
        MetricRow(group="", name=name, contents=tuple(contents))
        for name, contents in metrics.items()
        if any(of is not None for of in contents)
    ]


def _typical(kind: str, values: Float[np.ndarray, "_"], unit: str) -> dict[str, Any] | None:
    if not len(values):
        return None
    if kind == "mean":
        return mean(values.tolist(), unit=unit).to_dict()
    return {"value": float(np.median(values)), "count": len(values), "of": len(values), "unit": unit}


def _of_protocols(sets: Mapping[str, EvaluatedSet]) -> list[MetricRow]:
    metrics = [
        {
            (protocol, name): of
            for protocol, content in evaluated.protocols.items()
            for name, of in (content.get("metrics") or {}).items()
        }
        for evaluated in sets.values()
    ]
    keys = dict.fromkeys(key for of in metrics for key in of)
    return [
        MetricRow(group=key[0], name=key[1], contents=tuple(of.get(key) for of in metrics)) for key in keys
    ]


def _csv(rows: Sequence[MetricRow], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "metric", "set", "value", "low", "high", "count", "of", "unit"])
    for row in rows:
        for name, of in zip(names, row.contents, strict=True):
            if of is not None:
                keys = ("value", "low", "high", "count", "of", "unit")
                writer.writerow([row.group, row.name, name, *[of.get(key) for key in keys]])
    return text.getvalue()


def _differences(sets: Mapping[str, EvaluatedSet]) -> str:
    """Say what makes numbers of different sets hard to compare."""
    warnings = []
    for part in _ORIGINS:
        settings = {name: dict(origin_of(of, part)) for name, of in sets.items()}
        # One file may have several paths; its checksum tells.
        same = part == "hull" and len({of.get("sha256") for of in settings.values()}) == 1
        warnings += _unlike(part, settings, without=("source",) if same and settings else ())
    for protocol in dict.fromkeys(name for of in sets.values() for name in of.protocols):
        contents = {name: of.protocols.get(protocol) for name, of in sets.items()}
        having = {name: of for name, of in contents.items() if of is not None}
        settings = {name: dict(settings_of(of)) for name, of in having.items()}
        warnings += _unlike(f"protocol {protocol}", settings)
        if len(having) < len(sets):
            warnings.append(f"protocol {protocol}: only of {', '.join(having)}")
    return render("sections/warnings.html", warnings=warnings, count=0) if warnings else ""


def _unlike(
    heading: str, settings: Mapping[str, Mapping[str, str]], *, without: Sequence[str] = ()
) -> list[str]:
    """Return a sentence for each setting in which sets differ."""
    sentences = []
    for key in dict.fromkeys(key for of in settings.values() for key in of if key not in without):
        names: dict[str, list[str]] = {}
        for name, of in settings.items():
            names.setdefault(of.get(key, "none"), []).append(name)
        if len(names) > 1:
            said = "; ".join(f"{_shortened(value)} ({', '.join(of)})" for value, of in names.items())
            sentences.append(f"{heading}, {key.replace('_', ' ')}: {said}")
    return sentences


def _shortened(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:12]}…"


def _numbers(rows: Sequence[MetricRow], sets: Mapping[str, EvaluatedSet]) -> str:
    groups: dict[str, list[MetricRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    colors = dict(zip(sets, colors_of(len(sets)), strict=True))
    return render("evaluated/numbers.html", groups=groups, colors=colors)


def _distributions(sets: Mapping[str, EvaluatedSet]) -> str:
    panels = []
    for column, narrowest, marks in _DISTRIBUTIONS:
        values = values_of(sets, column)
        as_it_came = column.startswith("initial") and not any(of.part("relaxation") for of in sets.values())
        if any(np.isfinite(of).any() for of in values.values()) and not as_it_came:
            title = HEADINGS[column].partition(" (")[0]
            plot = distribution(
                values,
                label=HEADINGS[column],
                title=title[:1].upper() + title[1:],
                marks=marks,
                narrowest=narrowest,
            )
            panels.append(image(plot, f"Distributions of {column}"))
    if not panels:
        return ""
    legend = [("line", color, name) for name, color in zip(sets, colors_of(len(sets)), strict=True)]
    return render("evaluated/overlaid.html", panels=panels, legend=legend, stable=STABLE)


def values_of(sets: Mapping[str, EvaluatedSet], column: str) -> dict[str, Float[np.ndarray, "_"]]:
    """Return a column of numbers of each set; volumes are those of the structures where there is none."""
    values = {name: of.numbers(column) for name, of in sets.items()}
    for name, of in sets.items():
        if column in of.geometry and not np.isfinite(values[name]).any():
            values[name] = of.geometry[column]
    return values


def _sets(sets: Mapping[str, EvaluatedSet]) -> str:
    shown = []
    for name, evaluated in sets.items():
        facts = [("input", str(evaluated.part("input").get("path") or NOTHING))]
        for part in _ORIGINS:
            settings = origin_of(evaluated, part)
            facts.append((part, ", ".join(f"{key} {value}" for key, value in settings) or NOTHING))
        counts = evaluated.part("counts")
        facts.append(
            ("status", ", ".join(f"{count} {status}" for status, count in counts.items() if count) or NOTHING)
        )
        shown.append((name, facts))
    return render("evaluated/sets.html", sets=shown)


def draw_sets(sets: Mapping[str, EvaluatedSet]) -> bytes:
    """Return a PNG of the distributions of the energy above hull and of the formation energy."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_LEGIBLE):
        figure = Figure(figsize=(10.6, 4.0), layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, 2)
        for axes, (column, narrowest, marks) in zip(panels, _DISTRIBUTIONS, strict=False):
            draw_distribution(
                axes, values_of(sets, column), label=HEADINGS[column], marks=marks, narrowest=narrowest
            )
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
        return figure_png(figure)
