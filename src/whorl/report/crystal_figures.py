"""Plots that compare generated with real crystals: histograms, bars, violins as SVG panels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whorl.report.figures import _LEGIBLE, _SIZE, BLUE, GREEN, GREY, INK, VERMILION, Plot, _svg
from whorl.symmetry.detection import CRYSTAL_SYSTEMS, crystal_system, space_group_symbol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (VERMILION, BLUE, GREEN)  # of generators; a panel shows no more than that
_WIDE = (13.2, 3.1)  # inches
_BINS = (15, 45)  # fewest and most
_MOST_GROUPS = 10  # space groups with bars of their own
_MOST_ELEMENTS = 30  # looked at for a name
_FEWEST = 5  # values that a violin is drawn of
_FILLED: dict[str, Any] = {"color": GREY, "alpha": 0.65, "histtype": "stepfilled"}
_NOTED = 0.02  # fraction of values beyond the axis of a violin above which a note says so
_FARTHEST = 1.0  # generated values farther outside than so many widths of the real ones are told, not drawn

Made = Mapping[str, Float[Tensor, "_"]]


def histogram(real: Float[Tensor, "N"], made: Made, *, label: str, title: str, narrowest: float) -> Plot:
    """Draw the share of crystals in each bin: real ones filled, those of each generator as a line.

    Args:
        real: Values of real crystals.
        made: Values of generated ones by generator, at most three.
        label: Of the axis, with the unit.
        title: Heading.
        narrowest: Width that the axis has at least.
    """
    figure, axes = _panel(title)
    low, high = _limits(real, made.values(), narrowest)
    fewest = min((len(values) for values in (real, *made.values()) if len(values)), default=0)
    bins = min(max(round(1.5 * math.sqrt(fewest)), _BINS[0]), _BINS[1])
    edges = np.linspace(low, high, bins + 1)
    notes = []
    shown = _inside(real, low, high)
    axes.hist(shown, bins=edges.tolist(), weights=_shares(shown, len(real)), **_FILLED)
    for (name, values), color, width in zip(made.items(), COLORS, (2.4, 1.8, 1.3), strict=False):
        shown = _inside(values, low, high)
        style: dict[str, Any] = {"histtype": "step", "color": color, "linewidth": width}
        axes.hist(shown, bins=edges.tolist(), weights=_shares(shown, len(values)), **style)
        if beyond := len(values) - len(shown):
            notes.append(f"{name}: {beyond} of {len(values)} beyond the axis")
    axes.set(xlim=(low, high), xlabel=label, ylabel="share of crystals (%)")
    axes.locator_params(axis="x", nbins=6)
    return Plot(svg=_svg(figure), note="; ".join(notes))


def crystal_systems(real: Sequence[int], made: Mapping[str, Sequence[int]], *, title: str) -> Plot:
    """Draw the share of each crystal system; given are numbers of space groups."""
    counts = [Counter(crystal_system(number) for number in one) for one in (real, *made.values())]
    figure, axes = _panel(title, below=0.98)
    _bars(axes, list(CRYSTAL_SYSTEMS), counts, [len(real), *map(len, made.values())])
    return Plot(svg=_svg(figure))


def common_space_groups(real: Sequence[int], made: Mapping[str, Sequence[int]], *, title: str) -> Plot:
    """Draw the share of the space groups that are most common among all, real and generated."""
    sets = [real, *made.values()]
    counts = [Counter(one) for one in sets]
    total: Counter[int] = Counter()
    for count, one in zip(counts, sets, strict=True):
        total.update({number: round(1e6 * n / len(one)) for number, n in count.items()})
    most = sorted(number for number, _ in total.most_common(_MOST_GROUPS))
    figure, axes = _panel(title, below=0.98)
    named = [Counter({space_group_symbol(number): n for number, n in one.items()}) for one in counts]
    _bars(axes, [space_group_symbol(number) for number in most], named, [len(one) for one in sets])
    hidden = len(total) - len(most)
    return Plot(svg=_svg(figure), note=f"{hidden} other space groups not drawn" if hidden else "")


def elements(real: Int[Tensor, "N"], made: Mapping[str, Int[Tensor, "_"]], *, title: str) -> Plot:
    """Draw the share of atoms of each element."""
    from ase.data import chemical_symbols

    figure, axes = _panel(title, size=_WIDE)
    last = max(int(values.max()) for values in (real, *made.values()) if len(values))
    edges = np.arange(0.5, last + 1.5)
    at = np.arange(1, last + 1)
    shares = _per_cent(real, last)
    axes.bar(at, shares, width=1.0, color=GREY, alpha=0.65)
    highest = shares
    for values, color, width in zip(made.values(), COLORS, (2.4, 1.8, 1.3), strict=False):
        share = _per_cent(values, last)
        highest = np.maximum(highest, share)
        axes.stairs(share, edges, color=color, linewidth=width)
    named: list[tuple[int, float]] = []
    for index in np.argsort(-highest)[:_MOST_ELEMENTS]:
        number, height = int(index) + 1, float(highest[index])
        crowded = any(abs(number - n) < 2 and abs(height - h) < 0.09 * highest.max() for n, h in named)
        if height > 0 and not crowded:
            named.append((number, height))
            style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
            axes.annotate(chemical_symbols[number], (number, height), (0, 2), color=INK, **style)
    axes.set(xlim=(0.5, last + 0.5), xlabel="atomic number", ylabel="share of atoms (%)")
    axes.set_ylim(0, 1.1 * max(float(highest.max()), 1e-9))
    return Plot(svg=_svg(figure))


def violins(
    sets: Sequence[tuple[str, Float[Tensor, "_"], str]],
    *,
    label: str,
    title: str,
    asked: Sequence[float | None] = (),
    below: str = "",
) -> Plot:
    """Draw the distributions of a property in several sets side by side, with medians as dots.

    Args:
        sets: Name, values and colour of each, the real one first.
        label: Of the property, with the unit.
        title: Heading.
        asked: Value that each set was asked for, drawn as a dashed line; None for none.
        below: What the names are, under the axis.
    """
    figure, axes = _panel(title, below=0.72 if below else 0.56)
    finite = [values[torch.isfinite(values)].double() for _, values, _ in sets]
    low, high = _limits(finite[0], finite[1:], 1e-6)
    for value in asked:
        if value is not None:
            low, high = min(low, value), max(high, value)
    notes = []
    for place, ((name, values, color), known) in enumerate(zip(sets, finite, strict=True)):
        shown = _inside(known, low, high)
        _violin(axes, place, shown, color)
        beyond = len(known) - len(shown)
        notes_of_set = [f"{beyond} beyond the axis"] if beyond > _NOTED * len(known) else []
        notes_of_set += [f"{len(values) - len(known)} without a value"] if len(known) < len(values) else []
        if notes_of_set:
            notes.append(f"{name.splitlines()[0]}: {', '.join(notes_of_set)}")
        if place < len(asked) and (wanted := asked[place]) is not None:
            axes.hlines(wanted, place - 0.46, place + 0.46, colors=INK, linestyles="dashed", linewidth=1.3)
    margin = 0.04 * (high - low)
    axes.set(xlim=(-0.6, len(sets) - 0.4), ylim=(low - margin, high + margin), ylabel=label)
    axes.set_xticks(range(len(sets)), [name for name, _, _ in sets], fontsize=9 if len(sets) < 6 else 7.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#eaeef2", linewidth=0.7)
    axes.set_axisbelow(True)
    if below:
        axes.set_xlabel(below)
    return Plot(svg=_svg(figure), note="; ".join(notes))


def _violin(axes: Axes, place: int, values: NDArray[np.float64], color: str) -> None:
    if not len(values):
        return
    if len(values) < _FEWEST or np.ptp(values) < 1e-9 * (1 + np.abs(values).max()):
        axes.scatter(np.full(len(values), place), values, s=12, color=color, linewidths=0)
        return
    drawn = axes.violinplot(values, [place], widths=0.84, showextrema=False, points=70)
    for body in drawn["bodies"]:  # type: ignore[attr-defined]
        body.set(facecolor=color, edgecolor=color, alpha=0.55, linewidth=0.8)
    first, middle, last = np.quantile(values, (0.25, 0.5, 0.75))
    axes.vlines(place, first, last, color=INK, linewidth=3.0, alpha=0.8)
    axes.scatter([place], [middle], s=16, color="white", zorder=3, linewidths=0.8, edgecolors=INK)


def _bars(axes: Axes, names: Sequence[str], counts: Sequence[Counter[str]], totals: Sequence[int]) -> None:
    """Draw groups of bars in percent of each set, the first set in grey."""
    at, width = np.arange(len(names)), 0.82 / len(counts)
    for k, (count, total) in enumerate(zip(counts, totals, strict=True)):
        heights = [100 * count[name] / max(total, 1) for name in names]
        offset = (k - (len(counts) - 1) / 2) * width
        axes.bar(at + offset, heights, width, color=(GREY, *COLORS)[k], alpha=1.0 if k else 0.8)
    axes.set_xticks(at, names, rotation=38, ha="right", rotation_mode="anchor", fontsize=9)
    axes.tick_params(axis="x", length=0, pad=3)
    axes.set(ylabel="share of crystals (%)", xlim=(-0.6, len(names) - 0.4))


def _limits(real: Tensor, made: Any, narrowest: float) -> tuple[float, float]:
    """Return limits that hold 99 % of the real values and the bulk of generated ones that are not far off."""
    low, high = _quantiles(real, 0.005, 0.995) or (math.inf, -math.inf)
    reach = _FARTHEST * max(high - low, narrowest) if math.isfinite(low) else math.inf
    floor, ceiling = low - reach, high + reach
    for values in made:
        if (bulk := _quantiles(values, 0.02, 0.98)) is not None:
            low, high = min(low, max(bulk[0], floor)), max(high, min(bulk[1], ceiling))
    if not math.isfinite(low):
        return 0.0, 1.0
    missing = max(0.0, narrowest - (high - low))
    margin = 0.03 * (high - low) + missing / 2 + 1e-9 * (1 + abs(high))
    return low - margin, high + margin


def _quantiles(values: Tensor, low: float, high: float) -> tuple[float, float] | None:
    finite = values[torch.isfinite(values)].double().numpy()
    if not len(finite):
        return None
    first, last = np.quantile(finite, (low, high))
    return float(first), float(last)


def _inside(values: Tensor, low: float, high: float) -> NDArray[np.float64]:
    known = values.double().numpy()
    inside: NDArray[np.float64] = known[(known >= low) & (known <= high)]
    return inside


def _shares(shown: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    return np.full(len(shown), 100 / max(total, 1))


def _per_cent(numbers: Tensor, last: int) -> NDArray[np.float64]:
    counts = np.bincount(numbers.numpy(), minlength=last + 1)[1 : last + 1]
    return 100.0 * counts / max(len(numbers), 1)


def _panel(title: str, *, size: tuple[float, float] = _SIZE, below: float = 0.54) -> tuple[Figure, Axes]:
    """Return a figure as :mod:`whorl.report.figures` has them, with room (inches) for what stands below."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_LEGIBLE):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        across, up = size
        axes = figure.add_axes((0.66 / across, below / up, 1 - 0.84 / across, 1 - (below + 0.34) / up))
        axes.set_title(title)
    return figure, axes
