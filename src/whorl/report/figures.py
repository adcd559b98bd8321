"""The report's plots, each one panel as SVG: maps, energies, losses."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
GREY, GREEN, VERMILION, BLUE, INK = "#a3abb5", "#009e73", "#d55e00", "#0072b2", "#24292f"
SERIES = ("#6e7781", BLUE, GREEN, VERMILION, "#aa4499", "#b58900")
_SIZE = (4.3, 3.5)  # inches of one panel
_MOST_DATA = 20_000  # points of the data set drawn; more only make it blacker
_MOST_GENERATED = 2000
_MOST_WINDOW = 250
_LEGIBLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "svg.hashsalt": "whorl",  # the same run gives the same file
}

Frame = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A panel, and what could not be drawn in it.

    Attributes:
        svg: The picture.
        note: Such as how many points lie outside; often empty.
    """

    svg: str
    note: str = ""


def map_frame(data: Float[Tensor, "N 2"], generated: Float[Tensor, "n 2"]) -> Frame:
    """Return limits in both components that hold the data and 98 % of the samples, with a margin."""
    limits = []
    for axis in (0, 1):
        real, new = data[:, axis], generated[:, axis]
        new = new[torch.isfinite(new)]
        low, high = float(real.min()), float(real.max())
        if len(new):
            # torch.quantile refuses more than 16 million values; sorting does not.
            new = new.sort().values
            last = len(new) - 1
            low, high = min(low, float(new[round(0.01 * last)])), max(high, float(new[round(0.99 * last)]))
        margin = 0.05 * (high - low) or 1.0
        limits.append((low - margin, high + margin))
    return limits[0], limits[1]


def pca_map(
    *,
    data: Float[Tensor, "N 2"],
    window: Float[Tensor, "w 2"],
    training: Float[Tensor, "m 2"],
    generated: Float[Tensor, "n 2"],
    shares: Float[Tensor, "2"],
    frame: Frame,
    title: str,
) -> Plot:
    """Draw figure 6 of Fung et al. 2022 for one target: where generated samples lie among real ones."""
    figure, axes = _panel(title)
    (left, right), (bottom, top) = frame
    inside = ((generated >= torch.tensor([left, bottom])) & (generated <= torch.tensor([right, top]))).all(1)
    layers: tuple[tuple[Tensor, dict[str, Any]], ...] = (
        (_thin(data, _MOST_DATA), {"s": 6, "color": GREY, "alpha": 0.6, "linewidths": 0}),
        (
            _thin(training, _MOST_DATA),
            {"s": 13, "facecolors": "none", "edgecolors": GREEN, "linewidths": 0.9},
        ),
        (
            _thin(generated[inside], _MOST_GENERATED),
            {"s": 8, "color": VERMILION, "marker": "s", "alpha": 0.45, "linewidths": 0},
        ),
        # On top, as rings: few points that the samples would hide, and that hide none of them.
        (
            _thin(window, _MOST_WINDOW),
            {"s": 34, "facecolors": "none", "edgecolors": BLUE, "linewidths": 1.2},
        ),
    )
    for points, style in layers:
        # Thousands of points as one picture inside the SVG: text stays sharp, the page small.
        axes.scatter(points[:, 0].numpy(), points[:, 1].numpy(), rasterized=True, **style)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_xlabel(f"first component ({100 * float(shares[0]):.0f} % of variance)")
    axes.set_ylabel(f"second ({100 * float(shares[1]):.0f} %)")
    axes.grid(color="#eaeef2", linewidth=0.7)
    axes.set_axisbelow(True)
    outside, notes = int((~inside).sum()), []
    if outside:
        notes.append(f"{outside} generated outside the frame")
    if len(window) > _MOST_WINDOW:
        notes.append(f"{_MOST_WINDOW} of {len(window)} data near the target drawn")
    return Plot(svg=_svg(figure), note="; ".join(notes))


def energy_histogram(
    *,
    target: float,
    tolerance: float,
    surrogate: Float[Tensor, "n"] | None,
    potential: Float[Tensor, "k"] | None,
    real: Float[Tensor, "N"],
    label: str,
    potential_name: str,
    title: str,
) -> Plot:
    """Draw the distribution of the property of samples for one target, compared with the real data.

    Each distribution has area 1 over the values shown. What lies beyond the axis, and what failed, is told.
    """
    figure, axes = _panel(title)
    judged = [values.double() for values in (surrogate, potential) if values is not None]
    low, high = _energy_range(target, tolerance, [*judged, real.double()])
    edges = torch.linspace(low, high, 61, dtype=torch.float64)
    axes.axvspan(target - tolerance, target + tolerance, color="#fff1c2", linewidth=0, zorder=0)
    notes = []
    layers: tuple[tuple[Tensor | None, str, dict[str, Any]], ...] = (
        (real, "", {"color": GREY, "alpha": 0.65, "histtype": "stepfilled"}),
        (surrogate, "surrogate", {"color": BLUE, "histtype": "step", "linewidth": 1.7}),
        (potential, potential_name, {"color": VERMILION, "histtype": "step", "linewidth": 1.7}),
    )
    for values, name, style in layers:
        if values is None:
            continue
        finite = values[torch.isfinite(values)].double()
        shown = finite[(finite >= low) & (finite <= high)]
        if len(shown):
            axes.hist(shown.numpy(), bins=edges.tolist(), density=True, **style)
        if name:
            beyond, failed = len(finite) - len(shown), len(values) - len(finite)
            said = [f"{beyond} beyond the axis"] if beyond else []
            said += [f"{failed} failed"] if failed else []
            if said:
                notes.append(f"{name}: {', '.join(said)}")
    axes.axvline(target, color=INK, linestyle=(0, (4, 2)), linewidth=1.3)
    axes.set(xlim=(low, high), yticks=[], ylabel="density", xlabel=label)
    axes.locator_params(axis="x", nbins=6)
    return Plot(svg=_svg(figure), note="; ".join(notes))


def arm_histograms(
    *,
    target: float,
    tolerance: float,
    arms: Mapping[str, Float[Tensor, "_"]],
    label: str,
    title: str,
) -> Plot:
    """Draw the true values of the structures of each arm for one target, one histogram below the other.

    The highest bar of each is as high as its row. On the right is the share within the tolerance of the
    target, which is shaded; values beyond the axis stand at its ends.
    """
    figure, axes = _panel(title, left=0.33, right=0.89)
    low, high = _energy_range(target, tolerance, [values.double() for values in arms.values()])
    low, high = min(low, target - 6 * tolerance), max(high, target + 6 * tolerance)
    # Bins begin and end where the window does.
    width = tolerance / 2
    below, above = (
        math.ceil((target - tolerance - low) / width),
        math.ceil((high - target + tolerance) / width),
    )
    edges = [target - tolerance + k * width for k in range(-below, above + 1)]
    axes.axvspan(target - tolerance, target + tolerance, color="#fff1c2", linewidth=0, zorder=0)
    axes.axvline(target, color=INK, linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    notes = []
    for row, (name, values) in enumerate(arms.items()):
        floor, color = len(arms) - 1 - row, SERIES[row % len(SERIES)]
        finite = values[torch.isfinite(values)].double()
        counts = torch.histogram(
            finite.clamp(edges[0] + width / 2, edges[-1] - width / 2), torch.tensor(edges).double()
        )
        heights = 0.85 * counts.hist / counts.hist.max().clamp(min=1)
        axes.bar(
            edges[:-1],
            heights.tolist(),
            width,
            bottom=floor,
            align="edge",
            color=color,
            linewidth=0,
            zorder=2,
        )
        axes.axhline(floor, color="#8c959f", linewidth=0.7, zorder=3)
        hits = int(((finite - target).abs() <= tolerance * (1 + 1e-9)).sum())
        share = f"{100 * hits / len(values):.0f} %" if len(values) else ""
        axes.text(1.015, floor + 0.3, share, transform=axes.get_yaxis_transform(), color=color)
        if failed := len(values) - len(finite):
            notes.append(f"{name}: {failed} failed")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(-0.02, len(arms)), xlabel=label)
    axes.set_yticks([len(arms) - 0.7 - row for row in range(len(arms))], labels=[*arms])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)
    return Plot(svg=_svg(figure), note="; ".join(notes))


def calibration(
    *,
    errors: Mapping[str, Float[Tensor, "_"]],
    uncertainties: Mapping[str, Float[Tensor, "_"]],
    quantile: float,
    unit: str,
    title: str,
) -> Plot:
    """Draw errors of predictions against their 90 % intervals, both on logarithmic axes.

    Args:
        errors: Absolute, by the target.
        uncertainties: Theirs, likewise.
        quantile: Half an interval in uncertainties.
        unit: Of both.
        title: Heading.
    """
    figure, axes = _panel(title, left=0.19)
    axes.set(xscale="log", yscale="log")
    points = {}
    for name, values in errors.items():
        known = values.isfinite() & uncertainties[name].isfinite()
        points[name] = (quantile * uncertainties[name][known].double(), values[known].double())
    ends = torch.cat([half for half, _ in points.values()])
    low, high = (float(ends.min()) / 1.6, float(ends.max()) * 1.6) if len(ends) else (0.01, 1.0)
    every = torch.cat([values for _, values in points.values()])
    top = max(high, 1.6 * float(every.max())) if len(every) else high
    bottom = low / 30  # smaller errors stand at the edge
    axes.fill_between([low, high], [bottom, bottom], [low, high], color="#e6f3ee", linewidth=0, zorder=0)
    axes.plot([low, high], [low, high], color=INK, linestyle=(0, (4, 2)), linewidth=1.2)
    for k, (half, values) in enumerate(points.values()):
        axes.scatter(
            half.tolist(),
            values.clamp(min=1.15 * bottom).tolist(),
            s=15,
            color=SERIES[k % len(SERIES)],
            alpha=0.65,
            linewidths=0,
            rasterized=len(every) > _MOST_GENERATED,
        )
    of = f" ({unit})" if unit else ""
    axes.set(xlim=(low, high), ylim=(bottom, top))
    axes.set(xlabel=f"stated: half of the 90 % interval{of}", ylabel=f"|true − predicted|{of}")
    for axis in (axes.xaxis, axes.yaxis):
        _few_ticks(axis)
    return Plot(svg=_svg(figure))


def loss_range(losses: Float[Tensor, "k"], invalid_above: float | None) -> tuple[float, float]:
    """Return limits of a logarithmic axis that hold all finite losses and the threshold."""
    usable = losses[torch.isfinite(losses) & (losses > 0)].double()
    low, high = (float(usable.min()), float(usable.max())) if len(usable) else (0.1, 1.0)
    if invalid_above:
        low, high = min(low, invalid_above), max(high, invalid_above)
    return max(low / 1.5, high * 1e-6), high * 1.5  # exact solutions would stretch the axis without end


def loss_histogram(
    *,
    losses: Float[Tensor, "k"],
    reference: Float[Tensor, "r"] | None,
    invalid_above: float | None,
    limits: tuple[float, float],
    title: str,
) -> Plot:
    """Draw what the search for atoms left of the loss, and the threshold above which a sample is invalid."""
    figure, axes = _panel(title)
    low, high = limits
    edges = torch.logspace(math.log10(low), math.log10(high), 36, dtype=torch.float64).tolist()
    axes.set_xscale("log")
    if reference is not None and len(reference):
        _shares(axes, reference, edges, color=GREY, alpha=0.65)
    _shares(axes, losses, edges, color=BLUE, histtype="step", linewidth=1.7)
    if invalid_above is not None:
        axes.axvspan(invalid_above, high, color="#fbe5d6", linewidth=0, zorder=0)
        axes.axvline(invalid_above, color=VERMILION, linestyle=(0, (4, 2)), linewidth=1.4)
    axes.set(xlim=(low, high), xlabel="reconstruction loss", ylabel="share (%)")
    failed = int((~torch.isfinite(losses)).sum())
    return Plot(svg=_svg(figure), note=f"{failed} without a loss" if failed else "")


def training_curves(
    epochs: Sequence[int], training: Sequence[float], validation: Sequence[float], *, title: str
) -> Plot:
    """Draw the losses of one training by epoch; on a logarithmic axis where all are positive.

    Args:
        epochs: At which the model was validated.
        training: Loss on the training rows there.
        validation: Loss on held-out rows there.
        title: Heading.
    """
    figure, axes = _panel(title)
    axes.plot(epochs, training, color=BLUE, linewidth=1.2)
    axes.plot(epochs, validation, color=VERMILION, linewidth=1.2)
    if min(*training, *validation) > 0:
        axes.set_yscale("log")
        _few_ticks(axes.yaxis)
    axes.set(xlabel="epoch", ylabel="loss")
    return Plot(svg=_svg(figure))


def _few_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, or at its decades where these are many."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def _shares(axes: Axes, values: Tensor, edges: list[float], **style: Any) -> None:
    """Draw a histogram in percent of all values; those below the axis stand at its beginning."""
    finite = values[torch.isfinite(values)].double()
    shown = finite.clamp(edges[0] * 1.0001, edges[-1] * 0.9999).tolist()
    axes.hist(shown, bins=edges, weights=[100 / len(values)] * len(shown), **style)


def _energy_range(target: float, tolerance: float, samples: Sequence[Tensor]) -> tuple[float, float]:
    """Return limits that show the bulk of all distributions: outliers must not flatten the rest."""
    low, high = target - 4 * tolerance, target + 4 * tolerance
    for values in samples:
        finite = values[torch.isfinite(values)].sort().values
        if len(finite):
            last = len(finite) - 1
            low = min(low, float(finite[round(0.02 * last)]))
            high = max(high, float(finite[round(0.98 * last)]))
    widest = 25 * tolerance
    low, high = max(low, target - widest), min(high, target + widest)
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _thin(points: Tensor, at_most: int) -> Tensor:
    if len(points) <= at_most:
        return points
    return points[torch.linspace(0, len(points) - 1, at_most, dtype=torch.float64).long()]


def _panel(title: str, *, left: float = 0.145, right: float = 0.965) -> tuple[Figure, Axes]:
    """Return a figure without pyplot: nothing global, nothing left open."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_LEGIBLE):
        figure = Figure(figsize=_SIZE)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((left, 0.155, right - left, 0.755))
        axes.set_title(title)
    return figure, axes


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context(_LEGIBLE):
        figure.savefig(text, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return text.getvalue()
