"""Structures from measured pair distribution functions: search, refinement, and what is written of both."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from whorl.conditions import Composition
from whorl.datasets import write_extxyz
from whorl.datasets.crystal_files import cif_text
from whorl.datasets.gr_files import MeasuredPDF, read_gr
from whorl.errors import InputError
from whorl.files import check_folder, contents_hash, provenance, write_json, write_text
from whorl.locks import one_at_a_time
from whorl.reconstruction import InversionProblem, solve
from whorl.reconstruction.measured import Fit, refine_to_curve, simplest
from whorl.report.measured import write_measured
from whorl.representations.pdf import PDF
from whorl.representations.settings import RepresentationSettings
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import composition, covalent_radii
from whorl.symmetry.detection import space_group_symbol
from whorl.workflow.monitor import Monitor
from whorl.workflow.templates import one_molecule, read_cell

EVALUATIONS = 2000
"""Evaluations of each search by default."""
SEARCHES = 3
"""Independent searches: that whose structure fits best after its refinement counts."""
GOOD = 0.25
"""R_w above which a structure is doubted."""
_USUAL = (5.0, 60.0)  # Å³ per atom
_DENSEST = 2.0  # Å³ per atom


@one_at_a_time
def invert_measured(
    path: Path,
    *,
    formula: str,
    output: Path,
    monitor: Monitor,
    cell: Any = None,
    settings: RepresentationSettings | None = None,
    budget_evaluations: int | None = None,
    budget_seconds: float | None = None,
    seed: int = 0,
) -> Fit:
    """Find the structure whose pair distribution function was measured, and write the results.

    Into ``output``: ``solution.extxyz`` (and ``solution.cif`` of a crystal), ``curve.csv``, ``result.json``
    and ``report.html``. Started again with the same settings, a search resumes.

    Args:
        path: A ``.gr`` file.
        formula: All atoms of the cell, or of the cluster, such as Ni4.
        output: Folder.
        monitor: Receives progress, warnings and doubts.
        cell: As :func:`whorl.workflow.templates.read_cell` takes it; None for a cluster.
        settings: Of the representation; q_max and the radiation by default as the file states them.
        budget_evaluations: Of each of the :data:`SEARCHES`.
        budget_seconds: Of all of them, however many evaluations that is.
        seed: Of all randomness.

    Raises:
        InputError: A file, formula or cell that cannot be used.
    """
    check_folder(output)
    measured = read_gr(path)
    for doubt in measured.doubts:
        monitor.doubt(path.name, doubt)
    template = _template(path, measured, formula, cell, monitor)
    options: dict[str, Any] = {
        "q_max": measured.q_max,
        "scattering": measured.scattering,
        "r_min": max(_no_pairs_below(template), math.ceil(10 * measured.r[0] - 1e-6) / 10),
    }
    if settings is not None:
        options |= {name: settings.options()[name] for name in settings.model_fields_set}
    pdf = PDF(**options)
    target = pdf.features_of(measured.at(pdf.measured_r))[None].repeat(SEARCHES, 1)

    names = tuple(f"{path.name}, search {k + 1}" for k in range(SEARCHES))
    evaluations = budget_evaluations or (EVALUATIONS if budget_seconds is None else 10**12)
    result = solve(
        InversionProblem(representation=pdf, target=target, template=template[[0] * SEARCHES], names=names),
        seed=seed,
        budget_evaluations=evaluations,
        invalid_above=math.inf,
        checkpoint=output / ".search",
        progress=monitor.progress("searching"),
        budget_seconds=budget_seconds,
    )
    curve = measured.at(pdf.r)
    fits = [fit for structure in result.structures for fit in refine_to_curve(structure, pdf, curve)]
    best = simplest(fits)
    if best.r_w > GOOD:
        monitor.warn(
            f"{path.name}: R_w {best.r_w:.2f} is high, so the structure is probably not the one measured. "
            "Check formula and cell, or search longer (--budget-evaluations), or with another --seed."
        )
    resolved = {
        "formula": formula,
        "representation": pdf.config(),
        "budget_evaluations": evaluations,
        "budget_seconds": budget_seconds,
    }
    made_with = provenance(seed=seed, settings=resolved)
    record = {
        **made_with,
        "file": str(path),
        "file_hash": contents_hash(path),
        "settings": resolved,
        "doubts": list(measured.doubts),
        "losses": result.loss.tolist(),
        "fits": [_summary(fit, chosen=fit is best) for fit in sorted(fits, key=lambda fit: fit.parameters)],
        **_summary(best),
    }
    write_json(output / "result.json", record)
    _write(output, best, curve, made_with, monitor)
    write_measured(output / "report.html", title=path.name, measured=curve, fit=best, record=record)
    return best


def _template(path: Path, measured: MeasuredPDF, formula: str, cell: Any, monitor: Monitor) -> StructureBatch:
    counts = composition(formula)
    if measured.composition:
        try:
            stated = Composition.fractions(measured.composition)
        except InputError:
            stated = None
        asked = {symbol: n / sum(counts.values()) for symbol, n in counts.items()}
        if stated is not None and (
            stated.keys() != asked.keys() or any(abs(stated[e] - asked[e]) > 0.02 for e in asked)
        ):
            monitor.doubt(
                path.name, f"states the composition {measured.composition}, but {formula} is asked for"
            )
    template = one_molecule(counts)
    if cell is None:
        monitor.warn(
            "no --cell: a cluster is sought, without the term of the average density. For a crystal give its "
            "cell."
        )
        return template
    vectors = read_cell(cell).to(template.positions)[None]
    each = float(volumes(vectors)[0]) / len(template.positions)
    if each < _DENSEST:
        raise InputError(
            f"{formula} in this cell has {each:.1f} Å³ per atom, which no matter has; usual are "
            f"{_USUAL[0]:g} to {_USUAL[1]:g}. Give all atoms of the cell in --formula, and the cell in Å."
        )
    if not _USUAL[0] <= each <= _USUAL[1]:
        monitor.warn(
            f"{formula} in this cell has {each:.1f} Å³ per atom, usual are {_USUAL[0]:g} to {_USUAL[1]:g}: "
            "give all atoms of the cell in --formula."
        )
    return template.replace(cells=vectors, pbc=torch.ones_like(template.pbc))


def _no_pairs_below(template: StructureBatch) -> float:
    """Return a distance in Å that no two atoms have: measured curves are unreliable below."""
    return max(0.5, round(0.75 * 2 * float(covalent_radii(template.atomic_numbers).min()), 1))


def _summary(fit: Fit, **more: Any) -> dict[str, Any]:
    return {
        "r_w": fit.r_w,
        "space_group": space_group_symbol(fit.space_group) if bool(fit.structure.pbc.all()) else None,
        "space_group_number": fit.space_group if bool(fit.structure.pbc.all()) else None,
        "parameters": fit.parameters,
        "scale": fit.scale,
        "width": fit.representation.width,
        "delta2": fit.representation.delta2,
        "q_damp": fit.representation.q_damp,
        **more,
    }


def _write(
    output: Path, fit: Fit, curve: Float[np.ndarray, "K"], made_with: dict[str, Any], monitor: Monitor
) -> None:
    info = {"r_w": fit.r_w}
    write_extxyz(fit.structure.replace(info=(info,)), output / "solution.extxyz", provenance=made_with)
    if bool(fit.structure.pbc.all()):
        try:
            write_text(output / "solution.cif", cif_text(fit.structure))
        except InputError as error:
            monitor.warn(f"solution.cif: cannot be written ({error}).")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["r", "measured", "calculated", "difference"])
    columns = [fit.representation.r, curve, fit.calculated, curve - fit.calculated]
    for row in np.column_stack(columns).round(8).tolist():
        table.writerow(row)
    write_text(output / "curve.csv", text.getvalue())
