"""Section of the training: held-out error of the surrogate, curves of all models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whorl.report import figures
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import Panels, image, render


class Training(ReportSection):
    """Losses of surrogate and generators by epoch."""

    kind = "training"
    title = "Training"
    order = 90

    def applies(self, context: ReportContext) -> bool:
        """Whether a model has a training record, or the surrogate's error is known."""
        return context.results.surrogate_errors is not None or any(map(_history, context.training.values()))

    def html(self, context: ReportContext) -> str:
        """Return a curve of each model."""
        images = []
        for name, record in context.training.items():
            if history := _history(record):
                plot = figures.training_curves(
                    [row["epoch"] for row in history],
                    [row["training_loss"] for row in history],
                    [row["loss"] for row in history],
                    title=name,
                )
                images.append(image(plot, f"training and validation loss of the {name} by epoch"))
        errors = context.results.surrogate_errors
        error = ""
        if errors is not None:
            unit = f" {context.results.unit}" if context.results.unit else ""
            where = "held-out" if errors.held_out else "labelled (also used in training)"
            error = (
                f"Surrogate on {errors.rows:,} {where} structures: mean absolute error "
                f"{errors.mean_absolute_error:.3g}{unit}, root mean square error "
                f"{errors.root_mean_square_error:.3g}{unit}"
                + ("" if errors.r_squared is None else f", R² {errors.r_squared:.3g}")
                + "."
            )
        legend = [("line", figures.BLUE, "training"), ("line", figures.VERMILION, "validation (held out)")]
        return render(
            "sections/figures.html",
            legend=legend if images else [],
            panels=[Panels(name="", images=tuple(images))] if images else [],
            captions=[error, "Loss of each model by epoch, in its own units." if images else ""],
        )


def _history(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    history = record.get("history") or []
    return [row for row in history if {"epoch", "training_loss", "loss"} <= row.keys()]
