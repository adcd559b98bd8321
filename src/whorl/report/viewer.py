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

import torch
from torch import Tensor

from whorl.evaluation.results import Evaluated
from whorl.report.figures import Frame, map_frame
from whorl.structures.batch import StructureBatch

_MOST_REAL = 300
_MOST_GENERATED = 500
_MOST_ATOMS = 60_000  # about 3 MB of coordinates


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


def embed_viewer(
    *,
    sizes: Mapping[str, Evaluated],
    maps: Mapping[str, Tensor],
    data_map: Tensor,
    data_properties: Tensor,
    data_structures: StructureBatch | None,
    property: str,
    unit: str,
    name: str,
) -> EmbeddedViewer | None:
    """Gather structures for the viewer: an even draw of the real ones and of each target's generated ones.

    Args:
        sizes: What was generated.
        maps: Principal components of the structures found, by training size, shape (k, 2).
        data_map: Those of the whole labelled set, shape (N, 2).
        data_properties: Shape (N,).
        data_structures: N structures, where there are any.
        property: Name of the property.
        unit: Of it.
        name: Heading of the viewer.

    Returns:
        ``None`` when there are no structures, or no viewer in the chemiscope installed.
    """
    program = _program()
    rows = _gather(sizes, maps, data_map, data_properties, data_structures)
    if program is None or not rows.structures:
        return None
    frame = map_frame(data_map, torch.cat(list(maps.values())) if maps else data_map)
    content = _chemiscope_input(rows, frame=frame, property=property, unit=unit, name=name)
    text = json.dumps(_without_nan(content), separators=(",", ":"), allow_nan=False)
    script, licences = program
    return EmbeddedViewer(
        program=script,
        data=_packed(text),
        licences=licences,
        count=len(rows.structures),
        left_out=rows.left_out,
    )


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
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("kind", "x", "y", "property", "surrogate", "asked", "loss", "status")
        }
        self.left_out = 0

    def add(self, structure: StructureBatch, **values: Any) -> None:
        self.structures.append(structure)
        for name, column in self.columns.items():
            column.append(values[name])


def _gather(
    sizes: Mapping[str, Evaluated],
    maps: Mapping[str, Tensor],
    data_map: Tensor,
    data_properties: Tensor,
    data_structures: StructureBatch | None,
) -> _Rows:
    rows = _Rows()
    structures = {
        label: of.samples.structures for label, of in sizes.items() if of.samples.structures is not None
    }
    groups = [
        (label, target)
        for label in structures
        for target in torch.unique(sizes[label].samples.structure_targets).tolist()
    ]
    batches = [batch for batch in (data_structures, *structures.values()) if batch]
    total = sum(len(batch) for batch in batches)
    atoms = sum(len(batch.atomic_numbers) for batch in batches)
    room = min(1.0, _MOST_ATOMS / max(1, atoms / max(1, total) * (_MOST_REAL + _MOST_GENERATED)))
    if data_structures is not None:
        # Ordered by property, so that an even draw has all of its range.
        order = data_properties.argsort()
        for i in order[_evenly(len(order), int(_MOST_REAL * room))].tolist():
            rows.add(
                data_structures[i],
                kind="real",
                x=float(data_map[i, 0]),
                y=float(data_map[i, 1]),
                property=float(data_properties[i]),
                surrogate=None,
                asked=None,
                loss=None,
                status="real",
            )
    for label, target in groups:
        samples = sizes[label].samples
        predicted, computed = sizes[label].values("surrogate"), sizes[label].values("energy")
        usable = torch.isfinite(maps[label]).all(1) & (samples.structure_targets == target)
        here = torch.nonzero(usable).flatten()
        for k in here[_evenly(len(here), int(_MOST_GENERATED * room / len(groups)))].tolist():
            rows.add(
                structures[label][k],
                kind=f"generated, {label}" if len(structures) > 1 else "generated",
                x=float(maps[label][k, 0]),
                y=float(maps[label][k, 1]),
                property=None if computed is None else float(computed[k]),
                surrogate=None if predicted is None else float(predicted[samples.rows[k]]),
                asked=target,
                loss=None if samples.loss is None else float(samples.loss[k]),
                status=samples.status[k].replace("_", " "),
            )
    rows.left_out = total - len(rows.structures)
    return rows


def _evenly(total: int, at_most: int) -> Tensor:
    if total <= at_most:
        return torch.arange(total)
    return torch.linspace(0, total - 1, max(1, at_most), dtype=torch.float64).long()


def _chemiscope_input(rows: _Rows, *, frame: Frame, property: str, unit: str, name: str) -> dict[str, Any]:
    import chemiscope
    import numpy as np

    from whorl.structures.convert import to_ase

    columns = rows.columns
    (left, right), (bottom, top) = frame
    described = (
        ("component 1", "x", "", "first principal component of the standardised features"),
        ("component 2", "y", "", "second principal component of the standardised features"),
        (property, "property", unit, "of real data as labelled, of generated structures by the potential"),
        ("by surrogate", "surrogate", unit, "judged from the generated features"),
        ("asked for", "asked", unit, "what the generator was given"),
        ("inversion loss", "loss", "", "what the search for atoms left"),
        ("kind", "kind", "", ""),
        ("status", "status", "", "how the search for atoms ended"),
    )
    properties: dict[str, Any] = {}
    for title, column, units, description in described:
        values: Any = columns[column]
        if all(value is None for value in values):
            continue
        if column not in ("kind", "status"):
            values = np.array([np.nan if value is None else float(f"{value:.6g}") for value in values])
            values[~np.isfinite(values)] = np.nan
        properties[title] = {
            "target": "structure",
            "values": values,
            **({"units": units} if units else {}),
            "description": description,
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
        metadata={"name": name},
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
    # Shown first: a generated structure, where there is one.
    content["settings"]["pinned"] = [
        next((i for i, kind in enumerate(columns["status"]) if kind != "real"), 0)
    ]
    return content


def _without_nan(data: Any) -> Any:
    """Return data with ``None`` for NaN, which JSON does not know; the page turns it back."""
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
