"""The interactive map: a chemiscope viewer that lives inside the page and asks nothing of the network."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whorl.report.figures import Frame, map_frame
from whorl.report.sections.base import ReportContext
from whorl.report.subject import method_name
from whorl.structures.batch import StructureBatch

_MOST_REAL = 300
_MOST_GENERATED = 500
_MOST_ATOMS = 60_000  # about 3 MB of coordinates
_TEXTS = ("kind", "status", "file", "space_group")
_COLUMNS = ("x", "y", "property", "surrogate", "target", "loss", "rank", "moved", *_TEXTS)


@dataclass(frozen=True, kw_only=True)
class EmbeddedViewer:
    """What the page needs, each compressed and in base64.

    Attributes:
        program: chemiscope's JavaScript.
        data: Structures and properties for it.
        licences: Of chemiscope and the programs within it, as text.
        count: Structures shown.
        left_out: Structures that there was no room for.
    """

    program: str
    data: str
    licences: str
    count: int
    left_out: int


def embed_viewer(context: ReportContext) -> EmbeddedViewer | None:
    """Gather structures for the viewer: an even draw of the real ones and of each target's generated ones.

    Args:
        context: What the run has made.

    Returns:
        ``None`` when there are no structures, or no viewer in the chemiscope installed.
    """
    if not viewer_is_there():
        return None
    rows = _gather(context)
    if not rows.structures:
        return None
    data = context.projection.data
    points = [
        points for label in context.evaluated if (points := context.project_structures(label)) is not None
    ]
    content = _chemiscope_input(rows, context, frame=map_frame(data, torch.cat(points) if points else data))
    return pack_viewer(content, left_out=rows.left_out)


def pack_viewer(content: Mapping[str, Any], *, left_out: int = 0) -> EmbeddedViewer | None:
    """Pack a data set of chemiscope with its program.

    Args:
        content: As ``chemiscope.create_input`` makes it.
        left_out: Structures that there was no room for.

    Returns:
        ``None`` when there is no viewer in the chemiscope installed.
    """
    if (program := _program()) is None:
        return None
    script, licences = program
    return EmbeddedViewer(
        program=script,
        data=packed_json(content),
        licences=licences,
        count=len(content["structures"]),
        left_out=left_out,
    )


def packed_json(content: Any) -> str:
    """Return data as JSON, compressed and in base64; NaN becomes null."""
    return _packed(json.dumps(_without_nan(content), separators=(",", ":"), allow_nan=False))


def viewer_is_there() -> bool:
    """Whether the chemiscope that is installed brings its program along."""
    return _program() is not None


@functools.cache
def _program() -> tuple[str, str] | None:
    """Return the viewer's JavaScript as chemiscope ships it and the licences that go with it, both packed."""
    import importlib.util

    spec = importlib.util.find_spec("chemiscope")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    script = folder / "sphinx" / "static" / "chemiscope.min.js"
    licences = folder / "static" / "chemiscope-widget.mjs.LICENSE.txt"
    if not script.is_file():
        return None
    terms = licences.read_text(encoding="utf-8") if licences.is_file() else ""
    return _packed(script.read_text(encoding="utf-8")), _packed(terms)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


class _Rows:
    """Structures for the viewer with their properties, column by column."""

    def __init__(self) -> None:
        self.structures: list[StructureBatch] = []
        self.columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self.left_out = 0

    def add(self, structure: StructureBatch, **values: Any) -> None:
        self.structures.append(structure)
        for name, column in self.columns.items():
            column.append(values.get(name, "" if name in _TEXTS else None))


def _gather(context: ReportContext) -> _Rows:
    rows, reference = _Rows(), context.reference
    structures = {
        label: of.samples.structures
        for label, of in context.evaluated.items()
        if of.samples.structures is not None and len(of.samples.structures)
    }
    batches = [batch for batch in (reference.structures, *structures.values()) if batch is not None]
    total, atoms = sum(map(len, batches)), sum(len(batch.atomic_numbers) for batch in batches)
    share = min(1.0, _MOST_ATOMS / max(1, atoms / max(1, total) * (_MOST_REAL + _MOST_GENERATED)))
    if reference.structures is not None:
        # Ordered by property, so that an even draw has all of its range.
        order = reference.properties.argsort()
        for i in order[_evenly(len(order), int(_MOST_REAL * share))].tolist():
            x, y = context.projection.data[i].tolist()
            value = float(reference.properties[i])
            rows.add(reference.structures[i], kind="real", x=x, y=y, property=value, status="real")
    candidates = {(one.generator, one.index): one for one in context.candidates}
    groups = [
        (label, target)
        for label in structures
        for target in context.evaluated[label].samples.structure_targets.unique().tolist()
    ]
    for label, target in groups:
        samples = context.evaluated[label].samples
        points = context.project_structures(label)
        if points is None:
            points = torch.zeros(len(samples.rows), 2)
        usable = torch.isfinite(points).all(1) & (samples.structure_targets == target)
        # Best first, so that what there is no room for is the worst.
        here = sorted(
            torch.nonzero(usable).flatten().tolist(),
            key=lambda k: candidates[label, k].rank or len(samples.rows) + k,
        )
        predicted = context.evaluated[label].values("surrogate")
        for k in here[: max(1, int(_MOST_GENERATED * share / len(groups)))]:
            one = candidates[label, k]
            rows.add(
                structures[label][k],
                kind=f"generated, {label}" if len(structures) > 1 else "generated",
                x=float(points[k, 0]),
                y=float(points[k, 1]),
                property=one.computed,
                surrogate=None if predicted is None else float(predicted[samples.rows[k]]),
                target=target,
                loss=None if samples.loss is None else float(samples.loss[k]),
                status=one.status or "generated",
                rank=one.rank,
                file=one.file,
                space_group=one.space_group,
                moved=one.moved,
            )
    rows.left_out = total - len(rows.structures)
    return rows


def _evenly(total: int, at_most: int) -> Tensor:
    if total <= at_most:
        return torch.arange(total)
    return torch.linspace(0, total - 1, max(1, at_most), dtype=torch.float64).long()


def _chemiscope_input(rows: _Rows, context: ReportContext, *, frame: Frame) -> dict[str, Any]:
    import chemiscope

    from whorl.structures.convert import to_ase

    columns, (property, unit) = rows.columns, (context.results.property, context.results.unit)
    (left, right), (bottom, top) = frame
    by = method_name(next((one.computed_by for one in context.candidates if one.computed_by), ""))
    described = (
        ("component 1", "x", "", "first principal component of the standardised features"),
        ("component 2", "y", "", "second principal component of the standardised features"),
        (
            property,
            "property",
            unit,
            f"of real structures as labelled, of generated ones by {by}",
        ),
        ("by surrogate", "surrogate", unit, "of the generated features"),
        ("requested", "target", unit, "value that the generator was conditioned on"),
        ("reconstruction loss", "loss", "", "difference of features after the search"),
        ("rank", "rank", "", "among the candidates"),
        ("moved", "moved", "Å", "by refinement"),
        ("kind", "kind", "", "real or generated"),
        ("space group", "space_group", "", ""),
        ("status", "status", "", "how reconstruction and refinement ended"),
        ("file", "file", "", "in the folder of candidates"),
    )
    properties: dict[str, Any] = {}
    for title, column, units, description in described:
        values: Any = columns[column]
        if column in _TEXTS:
            if not any(values):
                continue
        else:
            values = np.array([np.nan if value is None else float(f"{value:.6g}") for value in values])
            values[~np.isfinite(values)] = np.nan
            if np.isnan(values).all():
                continue
        properties[title] = {
            "target": "structure",
            "values": values,
            **({"units": units} if units else {}),
            **({"description": description} if description else {}),
        }
    color: dict[str, Any] = {"property": property if property in properties else "component 1"}
    known = sorted(value for value in columns["property"] if value is not None and math.isfinite(value))
    if property in properties and known:
        # Energies of atoms far too close would otherwise take the whole scale.
        color |= {"min": known[round(0.02 * (len(known) - 1))], "max": known[round(0.98 * (len(known) - 1))]}
    shown = StructureBatch.concatenate(rows.structures)
    periodic = bool(shown.pbc.any())
    content: dict[str, Any] = chemiscope.create_input(
        structures=to_ase(
            shown.replace(positions=shown.positions.detach().double().round(decimals=4), info=())
        ),
        properties=properties,
        metadata={"name": context.title},
        settings=chemiscope.quick_settings(
            symbol="kind",
            periodic=periodic,
            map_settings={
                "x": {"property": "component 1", "min": left, "max": right},
                "y": {"property": "component 2", "min": bottom, "max": top},
                "color": color,
                "palette": "viridis",
                "size": {"factor": 35},
            },
        ),
    )
    # Shown first: the best candidate, where there is one.
    ranks = {rank: row for row, rank in enumerate(columns["rank"]) if rank is not None}
    content["settings"]["pinned"] = [ranks[min(ranks)] if ranks else 0]
    return content


def _without_nan(data: Any) -> Any:
    """Return data with ``None`` for NaN, which JSON does not know; the page turns it back."""
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
