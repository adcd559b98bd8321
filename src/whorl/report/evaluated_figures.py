"""Plots of evaluated structures: distributions, convex hulls, ternary phase diagrams; SVG panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from whorl.report.crystal_figures import _panel
from whorl.report.figures import BLUE, GREEN, INK, SERIES, VERMILION, Plot, _svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = Mapping[str, Any]

_COLORS = (VERMILION, BLUE, GREEN, *SERIES[4:], SERIES[0])
_BINS = (16, 45)  # fewest and most
_FEW = 50  # values, which are all shown
_MOST_WHOLE = 60  # whole numbers that have a bin each
_LEAST_PRESSURE = 1e-3  # kbar; smaller ones stand there
_MOST_LINES = 500
_MOST_NAMED = 12  # compounds of a phase diagram with a name
_MOST_POINTS = 800  # structures drawn in a phase diagram
_ABOVE = 1.0  # eV/atom above the hull beyond which a structure is counted, not drawn
_FLAT = 1e-9  # faces whose normal points down by less are upright
_SCALES = (0.1, 0.3, 1.0)  # eV/atom: ends of the scale of colours
_HALF = math.sqrt(3) / 2


def colors_of(count: int) -> list[str]:
    """Return a colour for each of several sets."""
    return [_COLORS[k % len(_COLORS)] for k in range(count)]


def distribution(
    sets: Mapping[str, Float[np.ndarray, "_"]],
    *,
    label: str,
    title: str,
    marks: Sequence[float] = (),
    narrowest: float = 0.01,
) -> Plot:
    """Draw the values of one set as counts, or those of several, one over the other, in percent of each.

    The axis holds the bulk of the values of each set; how many lie beyond it, and how many have no value, is
    in the note.

    Args:
        sets: Values by name of the set; NaN for unknown.
        label: Of the axis, with the unit.
        title: Heading.
        marks: Values marked by dashed lines.
        narrowest: Width that the axis has at least.
    """
    figure, axes = _panel(title)
    limits = draw_distribution(axes, sets, label=label, marks=marks, narrowest=narrowest)
    return Plot(svg=_svg(figure), note=_note(sets, limits))


def draw_distribution(
    axes: Axes,
    sets: Mapping[str, Float[np.ndarray, "_"]],
    *,
    label: str,
    marks: Sequence[float] = (),
    narrowest: float = 0.01,
) -> tuple[float, float]:
    """Draw into axes of matplotlib and return the limits of what is drawn; see :func:`distribution`."""
    from matplotlib.ticker import MaxNLocator

    finite = {name: values[np.isfinite(values)] for name, values in sets.items()}
    low, high = _limits([values for values in finite.values() if len(values)], narrowest)
    most = max((len(values) for values in finite.values()), default=0)
    fewest = _BINS[0] if len(sets) == 1 else 2 * _BINS[0]
    bins = min(max(round(2 * math.sqrt(most)), fewest), _BINS[1])
    whole = most and all((values == np.round(values)).all() for values in finite.values())
    if whole and high - low < _MOST_WHOLE:
        edges = np.arange(math.floor(low) - 0.5, math.ceil(high) + 1)
    else:
        # Bins begin at round numbers, such as the marks.
        step = _round_step((high - low) / bins)
        edges = step * np.arange(math.floor(low / step), math.ceil(high / step) + 1)
    low, high = float(edges[0]), float(edges[-1])
    several = len(sets) > 1
    for mark in marks:
        if low < mark < high:
            axes.axvline(mark, color=INK, linestyle=(0, (4, 2)), linewidth=1.1, zorder=4)
    for (name, values), color in zip(finite.items(), colors_of(len(sets)), strict=True):
        weights = np.full(len(values), 100 / max(len(sets[name]), 1)) if several else np.ones(len(values))
        heights, _ = np.histogram(values, edges, weights=weights)
        if several:
            axes.stairs(heights, edges, color=color, alpha=0.13, fill=True, linewidth=0)
            axes.stairs(heights, edges, color=color, linewidth=1.8, label=name)
        else:
            axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=BLUE, alpha=0.75, linewidth=0)
    margin = 0.03 * (high - low)
    axes.set(
        xlim=(low - margin, high + margin),
        xlabel=label,
        ylabel="share of structures (%)" if several else "structures",
    )
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", nbins=5)
    if not several:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return low, high


def _round_step(step: float) -> float:
    """Return about the same as 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return max(factor for factor in (0.5, 1, 2, 5, 10) if factor * power <= 1.45 * step) * power


def _note(sets: Mapping[str, Float[np.ndarray, "_"]], limits: tuple[float, float]) -> str:
    notes = []
    for name, values in sets.items():
        known = values[np.isfinite(values)]
        below, above = known[known < limits[0]], known[known > limits[1]]
        parts = [f"{len(below)} below the axis (down to {below.min():.3g})"] if len(below) else []
        parts += [f"{len(above)} above the axis (up to {above.max():.3g})"] if len(above) else []
        parts += [f"{len(values) - len(known)} without a value"] if len(known) < len(values) else []
        if parts:
            notes.append((f"{name}: " if len(sets) > 1 else "") + ", ".join(parts))
    return "; ".join(notes)


def _bulk(values: Float[np.ndarray, "_"]) -> tuple[float, float]:
    """Return limits of the values without the outermost 2 % and without far outliers (Tukey's).

    Of few values, only those are left out that would flatten all others.
    """
    first, lower, upper, last = (float(of) for of in np.quantile(values, (0.02, 0.25, 0.75, 0.98)))
    reach = 3 * (upper - lower)
    if len(values) < _FEW:
        first, last, reach = float(values.min()), float(values.max()), 20 * (upper - lower)
    return (max(first, lower - reach), min(last, upper + reach)) if reach > 0 else (first, last)


def _limits(sets: Sequence[Float[np.ndarray, "_"]], narrowest: float) -> tuple[float, float]:
    """Return limits that hold the bulk of each set, unless one set would flatten all others."""
    if not sets:
        return 0.0, 1.0
    ends = [_bulk(values) for values in sets]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    # A set many times as wide as the narrowest one is cut off, and the note counts what is.
    widths = [end[1] - end[0] for end in ends]
    most = max(20 * min(widths), 4 * float(np.median(widths)), narrowest)
    middle = float(np.median(np.concatenate(sets)))
    low, high = max(low, middle - most), min(high, middle + most)
    margin = max(0.0, narrowest - (high - low)) / 2
    return low - margin, high + margin


def successive_pressures(pressures: Float[np.ndarray, "k B"]) -> Plot:
    """Draw the size of the external pressure of each structure after each of k relaxations, and the median.

    Args:
        pressures: In kbar; NaN for unknown.
    """
    figure, axes = _panel("Pressure after each relaxation")
    sizes = np.clip(np.abs(pressures), _LEAST_PRESSURE, None)
    known = np.isfinite(sizes).all(0)
    number = np.arange(1, len(sizes) + 1)
    shown = np.flatnonzero(known)[:_MOST_LINES]
    axes.plot(
        number, sizes[:, shown], color=BLUE, alpha=max(0.06, min(0.6, 12 / max(len(shown), 1))), linewidth=1
    )
    if known.any():
        axes.plot(
            number, np.median(sizes[:, known], axis=1), "o-", color=VERMILION, linewidth=2, markersize=5
        )
    axes.set_yscale("log")
    axes.set(xlabel="relaxation", ylabel="|P| (kbar)", xticks=number)
    missing = int((~known).sum())
    return Plot(svg=_svg(figure), note="median in red" + (f"; {missing} without values" if missing else ""))


def phase_diagram(diagram: Mapping[str, Any]) -> Plot | None:
    """Draw a system of two elements as a convex hull, one of three as a triangle; None for others.

    Known compounds are grey circles, filled and named where they are on their convex hull; structures are
    coloured by energy above hull.

    Args:
        diagram: Of ``phase_diagrams.json``.
    """
    elements = [str(element) for element in diagram.get("elements") or ()]
    points = [point for point in diagram.get("points") or () if _usable(point)]
    if len(elements) not in (2, 3) or not points:
        return None
    known = [point for point in points if point.get("kind") == "reference"]
    structures = [point for point in points if point.get("kind") != "reference"]
    drawn = sorted(structures, key=_above)[:_MOST_POINTS]
    drawn = [point for point in drawn if not _above(point) > _ABOVE] or drawn[:1]
    left_out = len(structures) - len(drawn)
    note = f"{left_out} structure{'s' if left_out > 1 else ''} higher up not drawn" if left_out else ""
    draw = _hull if len(elements) == 2 else _triangle
    return Plot(svg=draw(elements, known, drawn), note=note)


def _usable(point: Any) -> bool:
    try:
        return isinstance(point["fractions"], dict) and math.isfinite(float(point["formation_energy"]))
    except (TypeError, KeyError, ValueError):
        return False


def _above(point: Point) -> float:
    value = point.get("energy_above_hull")
    return math.inf if value is None or not math.isfinite(value) else float(value)


def _share(point: Point, element: str) -> float:
    return float(point["fractions"].get(element, 0.0))


def _lowest(points: Sequence[Point], elements: Sequence[str]) -> list[Point]:
    """Return the lowest of each composition; elements, which are 0 eV/atom, where they are missing."""
    pure: list[Point] = [
        {"formula": element, "fractions": {element: 1.0}, "formation_energy": 0.0} for element in elements
    ]
    best: dict[tuple[float, ...], Point] = {}
    for point in sorted([*pure, *points], key=lambda point: float(point["formation_energy"])):
        best.setdefault(tuple(round(_share(point, element), 6) for element in elements), point)
    return list(best.values())


def _hull(elements: Sequence[str], known: Sequence[Point], structures: Sequence[Point]) -> str:
    right = elements[1]
    lowest = sorted(_lowest(known, elements), key=lambda point: _share(point, right))
    corners: list[Point] = []
    for point in (point for point in lowest if float(point["formation_energy"]) < 1e-9):
        while len(corners) > 1 and _turns_up(corners[-2], corners[-1], point, right):
            corners.pop()
        corners.append(point)
    figure, axes = _panel("–".join(elements))
    frame = axes.get_position()  # small energies have long labels
    axes.set_position((frame.x0 + 0.03, frame.y0, frame.width - 0.03, frame.height))
    x, y = _places(corners, right)
    axes.plot(x, y, color=INK, linewidth=1.3, zorder=2)
    others = [point for point in known if not any(point is corner for corner in corners)]
    tops = [float(point["formation_energy"]) for point in structures]
    bottom = min([*y.tolist(), *tops, -0.02])
    top = max([*tops, 0.02, -0.15 * bottom])
    axes.scatter(*_places(others, right), s=16, facecolors="none", edgecolors="#8c959f", linewidths=0.9)
    axes.scatter(x, y, s=26, color=INK, zorder=3)
    _structures(axes, *_places(structures, right), structures)
    margin = 0.09 * (top - bottom)
    axes.set(xlim=(-0.03, 1.03), ylim=(bottom - 1.6 * margin, top + margin))
    axes.set_xlabel(f"fraction of {right}")
    axes.set_ylabel("formation energy (eV/atom)")
    axes.locator_params(axis="y", nbins=4)
    axes.tick_params(axis="y", labelsize=9)
    compounds = [point for point in corners if point["formula"] not in elements]
    compounds.sort(key=lambda point: float(point["formation_energy"]))
    _names(axes, compounds, np.column_stack(_places(compounds, right)), np.column_stack([x, y]))
    return _svg(figure)


def _names(axes: Axes, points: Sequence[Point], places: np.ndarray, dots: np.ndarray) -> None:
    """Write formulas next to their points where there is room: below, above, right or left of the dot.

    Args:
        axes: With limits that stay.
        points: With formulas, the most important first.
        places: Of the points in data coordinates, shape (n, 2).
        dots: That no name may hide, likewise.
    """
    per_point = axes.figure.dpi / 72
    taken = [
        (x - 3 * per_point, y - 3 * per_point, x + 3 * per_point, y + 3 * per_point)
        for x, y in axes.transData.transform(dots.reshape(-1, 2)).tolist()
    ]
    for point, place in list(zip(points, places, strict=True))[:_MOST_NAMED]:
        text = _subscripts(point["formula"])
        width, height = 5.2 * len(text), 9.0
        x, y = axes.transData.transform(place).tolist()
        for right, up in ((0, -10), (0, 10), (6 + width / 2, 0), (-6 - width / 2, 0)):
            middle_x, middle_y = x + right * per_point, y + up * per_point
            half_x, half_y = width / 2 * per_point, height / 2 * per_point
            box = (middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                style: dict[str, Any] = {
                    "textcoords": "offset points",
                    "fontsize": 8,
                    "color": INK,
                    "zorder": 5,
                }
                style |= {"ha": "center", "va": "center", "path_effects": _halo()}
                axes.annotate(text, place, (right, up), **style)
                break


def _overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two rectangles (left, bottom, right, top) overlap."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _places(points: Sequence[Point], element: str) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([_share(point, element) for point in points]),
        np.array([float(point["formation_energy"]) for point in points]),
    )


def _turns_up(first: Point, middle: Point, last: Point, element: str) -> bool:
    """Whether the middle one of three is not below the line of the others."""
    (x0, x1, x2), (y0, y1, y2) = _places((first, middle, last), element)
    return bool((y1 - y0) * (x2 - x0) >= (y2 - y0) * (x1 - x0))


def _structures(axes: Axes, x: np.ndarray, y: np.ndarray, structures: Sequence[Point]) -> None:
    """Draw structures, the most stable on top, with the scale of their colours."""
    if not len(structures):
        return
    energies = np.array([min(_above(point), _ABOVE) for point in structures])
    order = np.argsort(-energies)
    top = next((top for top in _SCALES if np.median(energies) <= top), _SCALES[-1])
    drawn = axes.scatter(
        x[order],
        y[order],
        c=energies[order].clip(0, top),
        cmap="plasma",
        vmin=0,
        vmax=top,
        s=30 if len(order) < 60 else 14,
        marker="D",
        linewidths=0.5,
        edgecolors="white",
        zorder=4,
    )
    frame = axes.get_position()
    scale = axes.figure.add_axes((frame.x0 + 0.6 * frame.width, frame.y1 + 0.04, 0.22 * frame.width, 0.022))
    axes.figure.colorbar(drawn, cax=scale, orientation="horizontal", ticks=()).outline.set_visible(False)
    for place, side, text in ((-0.08, "right", "above hull: 0"), (1.08, "left", f"{top:g} eV/atom")):
        style: dict[str, Any] = {"ha": side, "va": "center", "fontsize": 7.5, "color": "#57606a"}
        scale.text(place, 0.5, text, transform=scale.transAxes, **style)


def _triangle(elements: Sequence[str], known: Sequence[Point], structures: Sequence[Point]) -> str:
    figure, axes = _panel("–".join(elements), below=0.3)
    axes.set_axis_off()
    lowest = _lowest(known, elements)
    stable, edges = _lower_hull(lowest, elements)
    places = _in_triangle(lowest, elements)
    corners = np.array([[0, 0], [1, 0], [0.5, _HALF], [0, 0]])
    axes.plot(*corners.T, color="#8c959f", linewidth=1.0, zorder=1)
    for first, last in edges:
        axes.plot(*places[[first, last]].T, color="#8c959f", linewidth=0.8, zorder=1)
    others = places[[k for k in range(len(lowest)) if k not in stable]]
    open_circles: dict[str, Any] = {"facecolors": "white", "edgecolors": "#8c959f", "linewidths": 0.9}
    axes.scatter(others[:, 0], others[:, 1], s=14, zorder=2, **open_circles)
    axes.scatter(places[stable, 0], places[stable, 1], s=26, color=INK, zorder=3)
    at = _in_triangle(structures, elements)
    _structures(axes, at[:, 0], at[:, 1], structures)
    ends: tuple[dict[str, Any], ...] = (
        {"xytext": (-4, -4), "ha": "right", "va": "top"},
        {"xytext": (4, -4), "ha": "left", "va": "top"},
        {"xytext": (0, 5), "ha": "center", "va": "bottom"},
    )
    for element, place, where in zip(elements, corners, ends, strict=False):
        axes.annotate(element, place, textcoords="offset points", fontsize=11, fontweight="bold", **where)
    axes.set(xlim=(-0.12, 1.12), ylim=(-0.1, 0.97), aspect="equal")
    axes.apply_aspect()
    compounds = [k for k in stable if lowest[k]["formula"] not in elements]
    compounds.sort(key=lambda k: float(lowest[k]["formation_energy"]))
    _names(axes, [lowest[k] for k in compounds], places[compounds], places[stable])
    return _svg(figure)


def _in_triangle(points: Sequence[Point], elements: Sequence[str]) -> np.ndarray:
    """Return places in a triangle of side 1, shape (n, 2)."""
    shares = np.array([[_share(point, element) for element in elements] for point in points]).reshape(-1, 3)
    return shares @ np.array([[0, 0], [1, 0], [0.5, _HALF]])


def _lower_hull(points: Sequence[Point], elements: Sequence[str]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the compounds on the lower convex hull of a system of three elements, and its edges."""
    from scipy.spatial import ConvexHull, QhullError

    places = _in_triangle(points, elements)
    energies = np.array([float(point["formation_energy"]) for point in points])
    pure = [
        k for k, point in enumerate(points) if max(_share(point, element) for element in elements) > 1 - 1e-9
    ]
    try:
        # A point high above, so that compounds all in one plane make a body too.
        hull = ConvexHull(
            np.vstack([np.column_stack([places, energies]), [0.5, _HALF / 3, energies.max() + 100]])
        )
    except (QhullError, ValueError):
        return pure, []
    faces = hull.simplices[hull.equations[:, 2] < -_FLAT].tolist()
    edges = {pair for face in faces for pair in combinations(sorted(face), 2)}
    on = sorted({k for face in faces for k in face} | set(pure))
    return on, sorted(edges)


def _halo() -> list[Any]:
    """Return what keeps a name legible on top of markers."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.2, foreground="white")]


def _subscripts(formula: Any) -> str:
    """Return a formula, metals first, with numbers below the line."""
    from ase.formula import Formula

    digits = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    try:
        text = str(Formula(str(formula)).convert("metal"))
    except (ValueError, KeyError):
        text = str(formula)
    return text[:18].translate(digits)
