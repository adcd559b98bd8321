"""Section of arms: what each step gains by the energy method, what it costs, and what moved."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from whorl.evaluation.results import Evaluated
from whorl.refinement.base import displacements
from whorl.report import figures
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.tables import ARMS, arms_tables
from whorl.report.widgets import Panels, Picture, image, picture, render
from whorl.surrogates.base import QUANTILE

_SCALES = (1, 2, 5, 10, 20, 50)
_LONGEST = 5.0  # Å, of an arrow
_LEAST = 0.01  # Å, of a displacement that is shown
_SHOWN = (0.25, 0.5, 0.75)  # of the structures of each target, by displacement

Row = tuple[str, tuple[Picture, ...], str]


class Arms(ReportSection):
    """Structures as reconstructed, after each refiner, and random training structures refined alike."""

    kind = "arms"
    title = "What refinement gains"
    order = 37

    def applies(self, context: ReportContext) -> bool:
        """Whether structures of more than one arm were evaluated."""
        return bool(arms_tables(context.results))

    def html(self, context: ReportContext) -> str:
        """Return tables, values of each arm, calibration, and pictures of what moved."""
        galleries, scale = _galleries(context)
        calibration = _calibration(context)
        columns = max((len(pictures) for _, pictures, _ in galleries), default=2)
        return render(
            "sections/arms.html",
            tables=list(zip(arms_tables(context.results), _captions(context), strict=True)),
            histograms=_histograms(context),
            histogram_caption=(
                f"A histogram for each step, by {context.energy_method}; shaded: within "
                f"±{context.with_unit(context.results.tolerance)} of the target, with the share of "
                "structures there. Values beyond the axis stand at its ends."
            ),
            calibration=calibration,
            legend=_legend(context),
            calibration_caption=(
                "Structures after the first projection. Shaded, below the dashed line: the error is within "
                "the 90 % interval that the surrogate of structures states; nine of ten should be there."
            ),
            galleries=galleries,
            columns=columns,
            gallery_caption=(
                "Pairs, before and after the refinement: for each target a structure that moved little, "
                "one in the middle and one that moved far (the quartiles). Arrows: displacements, "
                f"{scale} times as long. "
                f"Below: {context.label} by {context.energy_method}, and the root mean square displacement."
            ),
        )


def _captions(context: ReportContext) -> tuple[str, str]:
    return (
        f"By {context.energy_method}: all structures of each target, none left out. Calls: of the energy "
        "method, mean for a structure kept, with those of the samples it replaces. Labels: labelled "
        "structures in all, of training, active rounds and energy calls that were kept. Draws: structures "
        "kept, of all samples that were reconstructed; the others could not reach the target, or were the "
        "same as another. Moved: root mean square distance of the atoms from where they were reconstructed. "
        "Data, projected: what the same refinement makes of random structures that the generator was "
        "trained on.",
        "Whole: clusters in one piece. Unique: not the same as another. Copies: the same as a training "
        "structure. Spread: mean distance of two structures' features, over that of the real data within "
        "the tolerance of the target. Covered: of these real data, those that have a structure as near as "
        "their fifth real neighbour; few structures cannot cover many. In 90 % interval: values that are "
        "within the interval stated by the surrogate of structures.",
    )


def _of_target(of: Evaluated, target: float) -> Tensor:
    return of.samples.structure_targets.double() == target


def _histograms(context: ReportContext) -> list[Panels]:
    groups = []
    for label, of in context.evaluated.items():
        images = []
        for target in context.targets:
            values = {
                ARMS.get(name, name): energies[_of_target(arm, target)]
                for name, arm in of.arms.items()
                if (energies := arm.values("energy")) is not None
            }
            if any(len(own) for own in values.values()):
                plot = figures.arm_histograms(
                    target=target,
                    tolerance=context.results.tolerance,
                    arms=values,
                    label=context.label,
                    title=f"target {context.with_unit(target)}",
                )
                images.append(image(plot, f"values of each arm, target {target:g}"))
        groups.append(Panels(name=context.name(label), images=tuple(images)))
    return groups


def _projected(of: Evaluated) -> Evaluated | None:
    """Return the first arm that was moved by the surrogate of structures."""
    return next(
        (arm for name, arm in of.arms.items() if name != "plain" and "prediction" in arm.metrics), None
    )


def _calibration(context: ReportContext) -> Panels | None:
    images = []
    for label, of in context.evaluated.items():
        arm = _projected(of)
        uncertainty = None if arm is None else arm.values("prediction", "uncertainty")
        if arm is None or uncertainty is None or not bool(uncertainty.isfinite().any()):
            continue
        true, predicted = arm.values("energy"), arm.values("prediction")
        assert true is not None and predicted is not None
        rows = {f"{target:g}": _of_target(arm, target) for target in context.targets}
        plot = figures.calibration(
            errors={name: (true - predicted).abs()[own] for name, own in rows.items()},
            uncertainties={name: uncertainty[own] for name, own in rows.items()},
            quantile=QUANTILE,
            unit=context.results.unit,
            title=context.name(label),
        )
        plot = dataclasses.replace(plot, note=_shares(context, label))
        images.append(image(plot, f"errors against uncertainties, {context.name(label)}"))
    return Panels(name="", images=tuple(images)) if images else None


def _shares(context: ReportContext, label: str) -> str:
    """Return the share of values within the 90 % interval at each target."""
    parts = []
    for target in context.results.sizes[label].targets:
        arms = [arm for name, arm in target.arms.items() if name != "plain"]
        if arms and arms[0].interval_coverage is not None:
            parts.append(f"{100 * arms[0].interval_coverage:.0f} % at {target.target:g}")
    return "inside: " + ", ".join(parts)


def _legend(context: ReportContext) -> list[tuple[str, str, str]]:
    colors = [figures.SERIES[k % len(figures.SERIES)] for k in range(len(context.targets))]
    return [
        ("", color, f"target {context.with_unit(target)}")
        for target, color in zip(context.targets, colors, strict=True)
    ]


def _galleries(context: ReportContext) -> tuple[list[Row], int]:
    """Return pairs of pictures of each target, and how many times the arrows are as long as displacements."""
    chosen = {
        (label, target): _moved(of, target)
        for label, of in context.evaluated.items()
        for target in context.targets
    }
    farthest = max(
        (float(moves.norm(dim=1).max()) for own in chosen.values() for *_, moves in own), default=1.0
    )
    scale = max((times for times in _SCALES if times * farthest <= _LONGEST), default=1)
    rows = []
    for (label, target), own in chosen.items():
        of = context.evaluated[label]
        if not own:
            continue
        pictures = []
        plain, after = of.arms["plain"].samples.structures, of.samples.structures
        assert plain is not None and after is not None and of.samples.displacement is not None
        for start, end, moves in own:
            values = [_value(of.arms["plain"], start), _value(of, end)]
            distance = float(of.samples.displacement[end])
            before = plain[start]
            pictures += [
                picture(before, values[0], arrows=scale * moves),
                picture(after[end], f"{values[1]}; {distance:.2f} Å", seen_as=before, arrows=0 * moves),
            ]
        size = f", {context.name(label)}" if len(context.evaluated) > 1 else ""
        rows.append((f"target {context.with_unit(target)}{size}", tuple(pictures), ""))
    return rows, scale


def _moved(of: Evaluated, target: float) -> list[tuple[int, int, Tensor]]:
    """Return some structures before and after, as indices, and the way of each atom.

    Those whose sample is another than the first that was reconstructed are passed over.
    """
    samples, after, distances = of.samples, of.samples.structures, of.samples.displacement
    if "plain" not in of.arms or after is None or distances is None:
        return []
    plain = of.arms["plain"].samples
    before = plain.structures
    assert before is not None
    places = {name: row for row, name in enumerate(plain.structure_ids)}
    rows = [
        row
        for row in torch.nonzero(_of_target(of, target)).flatten().tolist()
        if samples.structure_ids[row] in places and float(distances[row]) > _LEAST
    ]
    rows.sort(key=lambda row: float(distances[row]))
    picked = dict.fromkeys(rows[round(share * (len(rows) - 1))] for share in (_SHOWN if rows else ()))
    pairs = [(places[samples.structure_ids[row]], row) for row in picked]
    return [(start, end, displacements(before[start], after[end])) for start, end in pairs]


def _value(of: Evaluated, row: int) -> str:
    values = of.values("energy")
    return "" if values is None else "failed" if values[row].isnan() else f"{float(values[row]):.2f}"
