"""Page of a set of evaluated structures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from whorl.potentials.schemes import DFT, error_against_dft
from whorl.report.evaluated_figures import distribution, phase_diagram, successive_pressures
from whorl.report.evaluated_set import EvaluatedSet, flag, is_finite
from whorl.report.page import PageSection, write_page
from whorl.report.tables import NOTHING
from whorl.report.viewer import EmbeddedViewer, pack_viewer, packed_json
from whorl.report.widgets import Picture, image, picture, render
from whorl.structures.batch import StructureBatch

STABLE = 0.1  # eV/atom above the hull: the limit of what may be made, by the field's custom
_HEADLINES = {"sun": "S.U.N.", "metasun": "MetaS.U.N. (metastable)"}  # metrics at the top of the page
_WORDS = {"sun": "S.U.N.", "metasun": "MetaS.U.N.", "rmsd": "RMSD", "ks": "K–S"}
_MOST_PICTURES = 24
_MOST_ATOMS_DRAWN = 400  # of a structure with a picture
_MOST_EMBEDDED = 1500  # structures to look at and to download from the page
_MOST_ATOMS = 60_000
_MOST_ROWS = 20_000  # of the table
_LONGEST_CELL = 2000  # characters of a text in the table
_MOST_DIAGRAMS = 12
_MOST_REASONS = 40
_SUCCESSIVE = "crystens2024"  # protocol with successive relaxations
_UNITS = {  # of settings, by part of metrics.json
    ("relaxation", "force_tolerance"): "eV/Å",
    ("relaxation", "stress_tolerance"): "GPa",
    ("relaxation", "pressure"): "GPa",
}
_FILES = {
    "structures.csv": "a row for each structure that came in",
    "metrics.json": "settings, origins and metrics",
    "generated.extxyz": "structures as they came in",
    "relaxed.extxyz": "relaxed structures",
    "candidates.extxyz": "valid, unique and new crystals, the most stable first, for further calculations",
    "phase_diagrams.json": "points of the phase diagrams",
}
HEADINGS = {
    "energy_above_hull": "energy above hull (eV/atom)",
    "initial_energy_above_hull": "energy above hull as generated (eV/atom)",
    "formation_energy": "formation energy (eV/atom)",
    "energy_per_atom": "energy (eV/atom)",
    "n_atoms": "atoms",
    "max_force": "max force (eV/Å)",
    "pressure_kbar": "pressure (kbar)",
    "rmsd_to_relaxed": "RMSD to relaxed (Å)",
    "density": "density (g/cm³)",
    "volume_per_atom": "volume (Å³/atom)",
}
_FIRST = (  # columns of the table, before all others
    "file",
    "index",
    "formula",
    "status",
    "energy_above_hull",
    "formation_energy",
    "energy_per_atom",
    "valid",
    "unique",
    "novel",
    "n_atoms",
    "space_group",
    "rmsd_to_relaxed",
    "pressure_kbar",
    "max_force",
    "competing",
    "reason",
)
_PANELS = (  # column, least width of the axis, marks
    ("energy_above_hull", 0.1, (0.0, STABLE)),
    ("formation_energy", 0.1, (0.0,)),
    ("rmsd_to_relaxed", 0.05, ()),
    ("pressure_kbar", 1.0, (0.0,)),
    ("max_force", 0.01, ()),
    ("volume_per_atom", 1.0, ()),
    ("density", 0.5, ()),
    ("n_atoms", 4.0, ()),
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a protocol, as text.

    Attributes:
        name: Of the metric.
        value: Such as ``12.4 %``.
        interval: Its 95 % confidence interval.
        of: What it was counted in, such as ``31 of 250``.
        text: Definition.
    """

    name: str
    value: str
    interval: str
    of: str
    text: str

    @classmethod
    def of_json(cls, name: str, content: Mapping[str, Any]) -> Metric:
        """Make one of what ``metrics.json`` says of it."""
        count, of, unit = content.get("count"), content.get("of"), str(content.get("unit") or "")
        is_share = is_share_of(content)
        low, high = content.get("low"), content.get("high")
        known = isinstance(low, int | float) and isinstance(high, int | float)
        return cls(
            name=metric_name(name),
            value=_shown(content.get("value"), unit, is_share),
            interval=f"{_shown(low, unit, is_share, bare=True)} – {_shown(high, unit, is_share)}"
            if known
            else "",
            of=NOTHING if of is None else f"{of:,}" if count is None else f"{count:,} of {of:,}",
            text=str(content.get("text") or ""),
        )


def metric_name(name: str) -> str:
    """Return the name of a metric as text.

    >>> metric_name("sun_of_valid"), metric_name("novel_systems")
    ('S.U.N. of valid', 'novel systems')
    """
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def is_share_of(content: Mapping[str, Any]) -> bool:
    """Whether a metric is the share ``count`` of ``of``, and not another number."""
    value, count, of = content.get("value"), content.get("count"), content.get("of")
    if content.get("unit") or not isinstance(count, int) or not isinstance(of, int):
        return False
    return not of or (isinstance(value, int | float) and abs(value - count / of) < 1e-6)


def _shown(value: Any, unit: str, is_share: bool, bare: bool = False) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return NOTHING
    if is_share:
        return f"{100 * value:.1f}" + ("" if bare else " %")
    plain = f"{value:.3f}" if unit and 1e-3 <= abs(value) < 100 else f"{value:.4g}"
    text = f"{value:,}" if isinstance(value, int) else plain
    return (text if bare else f"{text} {unit}").strip().replace("-", "−")


def evaluation_page(folder: Path | str) -> Path:
    """Write the page of a folder of ``whorl evaluate STRUCTURES``: one HTML file that needs no network.

    It reads ``metrics.json`` and ``structures.csv``, and where they are there ``phase_diagrams.json``,
    ``relaxed.extxyz`` and ``generated.extxyz`` (whose ``row`` in the info, if there is one, is the row of
    ``structures.csv``; otherwise both are in the same order).

    Args:
        folder: That the command wrote.

    Returns:
        The page, ``report.html`` in the folder.

    Raises:
        InputError: The folder has no readable ``metrics.json`` or ``structures.csv``.
    """
    evaluated = EvaluatedSet.read(folder)
    embedded = _embedded(evaluated)
    has_hull = bool(np.isfinite(evaluated.numbers("energy_above_hull")).any())
    sections = [
        PageSection(kind=kind, title=title, html=html)
        for kind, title, html in (
            ("headlines", "", _headlines(evaluated)),
            ("warnings", "Warnings", _warnings(evaluated)),
            ("protocols", "Protocols", _protocols(evaluated)),
            ("origins", "Where the numbers come from", _origins(evaluated)),
            ("distributions", "Distributions", _distributions(evaluated)),
            ("diagrams", "Phase diagrams", _diagrams(evaluated)),
            (
                "gallery",
                "Most stable structures" if has_hull else "Structures",
                _gallery(evaluated, embedded),
            ),
            ("explore", "Explore the structures", _explore(evaluated, embedded)),
            ("structures", "All structures", _table(evaluated, embedded)),
            ("skipped", "What is missing, and why", _skipped(evaluated)),
            ("files", "Files", _files(evaluated)),
        )
        if html
    ]
    source = str(evaluated.part("input").get("path") or evaluated.folder.name)
    path = evaluated.folder / "report.html"
    write_page(path, title=f"Evaluation of {Path(source).name or source}", subtitle=source, sections=sections)
    return path


# Sections


def _headlines(evaluated: EvaluatedSet) -> str:
    given = evaluated.part("input")
    total = given.get("structures", len(evaluated.rows))
    cards = [
        ("Structures in the input", "", f"{total:,}", f"{given['read']:,} read" if "read" in given else "")
    ]
    for name, protocol in evaluated.protocols.items():
        for key, content in (protocol.get("metrics") or {}).items():
            metric = Metric.of_json(key, content)
            if key in _HEADLINES and metric.value != NOTHING:
                interval = f"95 % interval {metric.interval}" if metric.interval else ""
                cards.append(
                    (
                        _HEADLINES[key],
                        f"protocol {name}",
                        metric.value,
                        f"{metric.of}; {interval}".strip("; "),
                    )
                )
    energies = evaluated.numbers("energy_above_hull")
    known = energies[np.isfinite(energies)]
    if len(known):
        near = int((known <= STABLE).sum())
        cards.append(
            (
                f"At most {STABLE:g} eV/atom above the hull",
                "",
                f"{100 * near / len(known):.1f} %",
                f"{near:,} of {len(known):,} with an energy above hull",
            )
        )
        mean = f"{known.mean():.3f}".replace("-", "−")
        median = f"{np.median(known):.3f}".replace("-", "−")
        cards.append(("Median energy above hull", "", median, f"eV/atom; mean {mean}"))
    for column, what in (
        ("valid", "Valid"),
        ("unique", "Unique"),
        ("novel", "Novel"),
        ("converged", "Relaxation converged"),
    ):
        flags = [value for value in evaluated.flags(column) if value is not None]
        if flags:
            cards.append(
                (
                    what,
                    "",
                    f"{100 * sum(flags) / len(flags):.1f} %",
                    f"{sum(flags):,} of {len(flags):,}",
                )
            )
    return render("evaluated/headlines.html", cards=cards)


def _warnings(evaluated: EvaluatedSet) -> str:
    warnings = [str(text) for text in evaluated.metrics.get("warnings") or ()] + list(evaluated.problems)
    return render("sections/warnings.html", warnings=warnings, count=0) if warnings else ""


def _protocols(evaluated: EvaluatedSet) -> str:
    protocols = []
    for name, content in evaluated.protocols.items():
        metrics = [Metric.of_json(key, of) for key, of in (content.get("metrics") or {}).items()]
        protocols.append(
            {
                "name": name,
                "summary": content.get("summary") or "",
                "source": content.get("source") or "",
                "metrics": [metric for metric in metrics if metric.value != NOTHING],
                "absent": [metric for metric in metrics if metric.value == NOTHING],
                "settings": settings_of(content),
                "departures": content.get("departures") or [],
            }
        )
    return render("evaluated/protocols.html", protocols=protocols) if protocols else ""


def settings_of(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of a protocol, nested ones with dots, as text."""
    settings: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                add(f"{name}.{key}" if name else str(key), inner)
        else:
            plain = isinstance(value, str | int | float) and not isinstance(value, bool)
            settings.append((name, str(value) if plain else json.dumps(value, ensure_ascii=False)))

    add("", content.get("settings") or {})
    return [pair for pair in settings if pair[0]]


def _origins(evaluated: EvaluatedSet) -> str:
    groups = [(name, origin_of(evaluated, name)) for name in ("potential", "relaxation", "hull", "reference")]
    texts = {
        "potential": "No potential was given: there are no energies.",
        "relaxation": "Structures were not relaxed: all values are of the structures as they came in.",
        "hull": "No hull was given: there are no energies above hull.",
        "reference": "No reference was given: novelty is not known.",
    }
    shown = [
        (name, [(key, _with_unit(name, key, value)) for key, value in settings], texts[name])
        for name, settings in groups
    ]
    return render(
        "evaluated/origins.html",
        groups=shown,
        error=_error_of_energies(evaluated),
        version=evaluated.metrics.get("version") or "",
    )


def _with_unit(part: str, key: str, value: str) -> str:
    return f"{value} {_UNITS.get((part, key), '')}".strip()


def _error_of_energies(evaluated: EvaluatedSet) -> str:
    """Return what is to be known of energies of a potential above a hull of another method."""
    potential, hull = (evaluated.part(name) for name in ("potential", "hull"))
    if not potential or hull.get("scheme") not in DFT or hull.get("potential"):
        return ""
    name = str(potential.get("name") or "the potential")
    error = error_against_dft(name)
    return (
        f"The phases of the hull have DFT energies, the structures those of {name}, whose error against DFT "
        f"is part of each energy above hull{f': {error}' if error else ''}."
    )


def origin_of(evaluated: EvaluatedSet, name: str) -> list[tuple[str, str]]:
    """Return what ``metrics.json`` says of the potential, the relaxation, the hull or the reference."""
    return [
        pair
        for pair in settings_of({"settings": evaluated.part(name)})
        if pair[1] not in ("null", "", "[]", "{}")
    ]


def _distributions(evaluated: EvaluatedSet) -> str:
    columns = {column: evaluated.numbers(column) for column, *_ in _PANELS}
    for column, values in evaluated.geometry.items():
        if not np.isfinite(columns[column]).any():
            columns[column] = values
    plots = [
        (
            distribution(
                {"": columns[column]},
                label=HEADINGS[column],
                title=HEADINGS[column].partition(" (")[0].capitalize()
                if column != "rmsd_to_relaxed"
                else "RMSD to relaxed",
                marks=marks,
                narrowest=narrowest,
            ),
            column,
        )
        for column, narrowest, marks in _PANELS
        if np.isfinite(columns[column]).any()
    ]
    panels = [image(plot, f"Distribution of {column}") for plot, column in plots]
    panels += _successive(evaluated)
    counts = evaluated.part("counts") or Counter(text for text in evaluated.texts("status") if text)
    counts = {status: count for status, count in counts.items() if count}
    if not panels and not counts:
        return ""
    return render("evaluated/distributions.html", panels=panels, counts=counts, stable=STABLE)


def _successive(evaluated: EvaluatedSet) -> list[tuple[str, str, str]]:
    """Return panels of successive relaxations, of which figure 13 of Alverson et al. 2024 is a table."""
    prefix = f"{_SUCCESSIVE}_P"
    count = 0
    while f"{prefix}{count + 1}" in evaluated.columns:
        count += 1
    pressures = np.array([evaluated.numbers(f"{prefix}{k + 1}") for k in range(count)])
    if not count or not np.isfinite(pressures).any():
        return []
    gain = evaluated.numbers(f"{_SUCCESSIVE}_E{count}") - evaluated.numbers(f"{_SUCCESSIVE}_E0")
    label = f"E{count} − E0 (eV/atom)"
    lowered = distribution({"": gain}, label=label, title=f"Energy of {count} relaxations", marks=(0.0,))
    return [
        image(successive_pressures(pressures), "External pressure after each relaxation"),
        image(lowered, "Energy gained by successive relaxations"),
    ]


def _diagrams(evaluated: EvaluatedSet) -> str:
    def structures(diagram: Mapping[str, Any]) -> int:
        return sum(map(_is_structure, diagram.get("points") or ()))

    def order(diagram: Mapping[str, Any]) -> tuple[int, float]:
        energies = [p.get("energy_above_hull") for p in diagram.get("points") or () if _is_structure(p)]
        known = [float(energy) for energy in energies if isinstance(energy, int | float)]
        return -structures(diagram), min(known, default=math.inf)

    drawn: list[tuple[str, str, str]] = []
    for diagram in sorted(evaluated.diagrams, key=order):
        if len(drawn) == _MOST_DIAGRAMS:
            break
        if (count := structures(diagram)) and (plot := phase_diagram(diagram)) is not None:
            uri, words, note = image(plot, f"Phase diagram {diagram.get('system')}")
            said = f"{count:,} structure{'s' if count != 1 else ''}"
            drawn.append((uri, words, f"{said}; {note}" if note else said))
    if not drawn:
        return ""
    return render(
        "evaluated/diagrams.html",
        panels=drawn,
        left_out=sum(structures(diagram) > 0 for diagram in evaluated.diagrams) - len(drawn),
    )


def _is_structure(point: Any) -> bool:
    return isinstance(point, dict) and point.get("kind") != "reference"


def _gallery(evaluated: EvaluatedSet, embedded: _Embedded | None) -> str:
    rows = [
        row
        for row in evaluated.by_stability
        if row in evaluated.structures
        and is_finite(evaluated.structures[row])
        and len(evaluated.structures[row].atomic_numbers) <= _MOST_ATOMS_DRAWN
    ][:_MOST_PICTURES]
    if not rows:
        return ""
    place = {} if embedded is None or embedded.viewer is None else embedded.place
    pictures = [(place.get(row, -1), _picture(evaluated, row)) for row in rows]
    has_energies = bool(np.isfinite(evaluated.numbers("energy_above_hull")).any())
    return render(
        "evaluated/gallery.html",
        pictures=pictures,
        total=evaluated.count,
        has_energies=has_energies,
    )


def _picture(evaluated: EvaluatedSet, row: int) -> Picture:
    energy = evaluated.numbers("energy_above_hull")[row]
    parts = [evaluated.cell(row, "formula")[:40]]
    if math.isfinite(energy):
        parts.append(f"{energy:.3f} eV/atom".replace("-", "−"))
    suns = [name for name in evaluated.columns if name.endswith("_sun")]
    found = [name.removesuffix("_sun") for name in suns if flag(evaluated.cell(row, name))]
    if found:
        parts.append("S.U.N." if len(suns) == 1 else f"S.U.N. ({', '.join(found)})")
    flags = [name for name in ("valid", "unique", "novel") if flag(evaluated.cell(row, name)) is False]
    if flag(evaluated.cell(row, "converged")) is False:
        flags.append("converged")
    return picture(
        evaluated.structures[row],
        ", ".join(part for part in parts if part),
        flag=", ".join(f"not {name}" for name in flags),
        file=evaluated.cell(row, "file")[-60:],
        pixels=220,
    )


@dataclass(frozen=True, kw_only=True)
class _Embedded:
    """Structures inside the page.

    Attributes:
        rows: Of each, in order.
        data: For chemiscope, packed.
        viewer: None where there is no program to show them.
    """

    rows: tuple[int, ...]
    data: str
    viewer: EmbeddedViewer | None

    @property
    def place(self) -> dict[int, int]:
        """Place of the structure of each row."""
        return {row: place for place, row in enumerate(self.rows)}


def _embedded(evaluated: EvaluatedSet) -> _Embedded | None:
    rows: list[int] = []
    atoms = 0
    for row in evaluated.by_stability:
        structure = evaluated.structures.get(row)
        size = 0 if structure is None or not is_finite(structure) else len(structure.atomic_numbers)
        if size and len(rows) < _MOST_EMBEDDED and atoms + size <= _MOST_ATOMS:
            rows.append(row)
            atoms += size
    if not rows:
        return None
    content = _chemiscope_input(evaluated, rows)
    viewer = pack_viewer(content, left_out=evaluated.count - len(rows))
    return _Embedded(rows=tuple(rows), data=viewer.data if viewer else packed_json(content), viewer=viewer)


def _chemiscope_input(evaluated: EvaluatedSet, rows: Sequence[int]) -> dict[str, Any]:
    import chemiscope

    from whorl.structures.convert import to_ase

    properties: dict[str, Any] = {}
    geometry = evaluated.geometry
    for column in (*(name for name in _FIRST if name in HEADINGS), "density", "volume_per_atom"):
        values = evaluated.numbers(column)
        if not np.isfinite(values).any() and column in geometry:
            values = geometry[column]
        values = np.where(np.isfinite(values), values, np.nan)[list(rows)]
        if np.isfinite(values).any():
            title, _, unit = HEADINGS[column].partition(" (")
            properties[title] = {
                "target": "structure",
                "values": np.array([float(f"{value:.6g}") for value in values]),
                **({"units": unit.rstrip(")")} if unit else {}),
            }
    properties["row"] = {"target": "structure", "values": np.array(rows, dtype=float)}
    names = [name for name in properties if np.isfinite(properties[name]["values"]).all()] or ["row"]
    vertical = next(
        (name for name in ("energy above hull", "density", "volume") if name in properties), names[-1]
    )
    horizontal = next(
        (
            name
            for name in ("formation energy", "energy", "atoms", "row")
            if name in properties and name != vertical
        ),
        "row",
    )
    for column in ("formula", "status", "file"):
        texts = [evaluated.cell(row, column)[:200] for row in rows]
        if any(texts):
            properties[column] = {"target": "structure", "values": texts}
    shown = StructureBatch.concatenate([evaluated.structures[row] for row in rows])
    shown = shown.replace(positions=shown.positions.detach().double().round(decimals=6), info=())
    map_settings: dict[str, Any] = {
        "x": {"property": horizontal},
        "y": {"property": vertical},
        "color": {"property": vertical},
        "palette": "viridis",
        "size": {"factor": 35},
    }
    energies = properties.get("energy above hull", {}).get("values")
    if energies is not None:
        # A few structures far above would otherwise take the whole scale.
        map_settings["color"] |= {"min": 0.0, "max": float(max(0.1, np.nanquantile(energies, 0.9)))}
    settings = chemiscope.quick_settings(periodic=bool(shown.pbc.any()), map_settings=map_settings)
    settings["pinned"] = [0]
    return dict(
        chemiscope.create_input(
            structures=to_ase(shown),
            properties=properties,
            metadata={"name": evaluated.folder.name},
            settings=settings,
        )
    )


def _explore(evaluated: EvaluatedSet, embedded: _Embedded | None) -> str:
    if embedded is None or embedded.viewer is None:
        return ""
    return render("evaluated/explore.html", viewer=embedded.viewer)


def _table(evaluated: EvaluatedSet, embedded: _Embedded | None) -> str:
    if not evaluated.rows:
        return render("evaluated/nothing.html")
    known = [name for name in evaluated.columns if any(evaluated.texts(name))]
    suns = [name for name in known if name.endswith(tuple(f"_{word}" for word in _HEADLINES))]
    main = (*_FIRST[: _FIRST.index("n_atoms")], *suns, *_FIRST[_FIRST.index("n_atoms") :])
    order = [name for name in main if name in known] + [name for name in known if name not in main]
    rows = evaluated.by_stability[:_MOST_ROWS]
    place = {} if embedded is None else embedded.place
    data = {
        "columns": [
            {
                "name": name,
                "title": HEADINGS.get(name, metric_name(name)),
                "numeric": evaluated.is_numeric[name],
                "main": name in main,
                "flag": {text.lower() for text in evaluated.texts(name) if text} <= {"true", "false"},
            }
            for name in order
        ],
        "rows": [[shorten(evaluated.cell(row, name)) for name in order] for row in rows],
        "place": [place.get(row, -1) for row in rows],
        "viewer": embedded is not None and embedded.viewer is not None,
    }
    flags = [name for name in ("valid", "unique", "novel", *suns, "converged") if name in known]
    return render(
        "evaluated/table.html",
        data=script_json(data),
        packed="" if embedded is None or embedded.viewer is not None else embedded.data,
        has_structures=embedded is not None,
        has_energies="energy_above_hull" in known,
        flags=[(name, metric_name(name)) for name in flags],
        statuses=sorted({text for text in evaluated.texts("status") if text}),
        left_out=len(evaluated.rows) - len(rows),
        without=evaluated.count - len(place),
    )


def shorten(text: str) -> str:
    """Return a text that is no longer than a cell of the table may be."""
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…"


def script_json(data: Any) -> Markup:
    """Return JSON that may stand in a script element: it has no ``<`` that could end it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _skipped(evaluated: EvaluatedSet) -> str:
    reasons: dict[str, list[str]] = {}
    for row, reason in enumerate(evaluated.texts("reason")):
        if reason:
            reasons.setdefault(reason, []).append(evaluated.cell(row, "file") or str(row))
    if not reasons:
        return ""
    groups = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return render(
        "evaluated/skipped.html", groups=groups[:_MOST_REASONS], left_out=len(groups) - _MOST_REASONS
    )


def _files(evaluated: EvaluatedSet) -> str:
    files = [(name, text) for name, text in _FILES.items() if (evaluated.folder / name).is_file()]
    return render("evaluated/files.html", files=files)
