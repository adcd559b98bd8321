"""Evaluation of structures of any origin: validity, energies, relaxation, hull, novelty, protocols.

A structure that cannot be read or computed is a row with a status and a reason, and affects no other. All
long computations go on from their finished parts, which are bound to the structures and the settings.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.axes import PROTOCOLS
from whorl.chunked import Part
from whorl.datasets import write_extxyz
from whorl.errors import InputError
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.evaluation.hull import HullReference, hull_by_potential, phase_diagrams, read_hull
from whorl.evaluation.protocols.base import EvaluationProtocol, ProtocolResult
from whorl.evaluation.structure_set import RelaxationSettings, StructureSet, Which
from whorl.files import check_folder, provenance, read_json, write_json, write_text
from whorl.locks import locked
from whorl.potentials.base import Potential
from whorl.potentials.schemes import scheme_of
from whorl.potentials.settings import CalculatorSettings
from whorl.report.evaluation import evaluation_page
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.checks import find_problems
from whorl.structures.composition import species_of
from whorl.symmetry.detection import space_group_numbers
from whorl.version import __version__
from whorl.workflow.monitor import Monitor
from whorl.workflow.structure_input import Row, read_known, read_rows, signature

FORMAT = "whorl evaluation 1"

COLUMNS = (
    *("file", "index", "formula", "n_atoms", "status", "reason", "valid", "unique", "novel"),
    *("energy_per_atom", "formation_energy", "energy_above_hull", "converged", "max_force"),
    *("pressure_kbar", "rmsd_to_relaxed"),
)
"""Columns of ``structures.csv`` that are always there; more may follow."""

PARTS = ".parts"
"""Folder of finished parts within that of the results; a later evaluation by further protocols uses them."""

_AT_ONCE = 200  # crystals
_KBAR = 10.0  # in GPa
_NO_VOLUME = 1e-3  # Å³; cells below have more neighbours than can be counted
_NOT_COMPARED = "not periodic in three directions: not compared with crystals"
_SKIPPED = ("unreadable", "unphysical", "failed")
_DISPLACEMENT = MatcherSettings(ltol=0.5, stol=0.5, angle_tol=10.0)  # MatterGen's, which aligns most pairs
_BY_POTENTIAL = "potential"
_OF_EACH_COMPOSITION = 3  # phases relaxed for a hull, of the lowest energies before


@dataclass(frozen=True, kw_only=True)
class StructureEvaluation:
    """What to evaluate structures by.

    Attributes:
        reference: Known crystals, any file or folder of structures, or a data set of whorl's.
        calculator: Energy method; None for none.
        relaxation: How structures are relaxed by it; None to leave them as they are.
        hull: ``mp2019=FILE``, ``own=FILE``, a file, or ``potential`` for one by the same energy method; None
            for none.
        protocols: Names, or import paths.
    """

    reference: Path | None = None
    calculator: CalculatorSettings | None = None
    relaxation: RelaxationSettings | None = None
    hull: str | None = None
    protocols: tuple[str, ...] = ()


def evaluate_structures(
    path: Path | str,
    *,
    settings: StructureEvaluation,
    output: Path,
    monitor: Monitor,
    format: str | None = None,
) -> Path:
    """Evaluate structures, and return the path of ``metrics.json``.

    Written are ``structures.csv`` (a row for each structure that came in, in order), ``metrics.json``,
    ``generated.extxyz``, ``relaxed.extxyz``, ``candidates.extxyz``, ``phase_diagrams.json`` and
    ``report.html``.

    Args:
        path: File or folder of structures.
        settings: What to evaluate them by.
        output: Folder for the results.
        monitor: Receives progress, warnings and skipped structures.
        format: Of the file; by default recognised.

    Raises:
        InputError: Files that cannot be read at all, hold no structures, or settings that do not go together.
        MissingExtraError: The package of an energy method is not installed.
    """
    path = Path(path)
    check_folder(output)
    if path.is_dir() and path.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(
            f"{output}: is within {path}, so that results would be read as structures. Choose another "
            "--output."
        )
    protocols = _protocols(settings)
    calculator = settings.calculator
    potential = None if calculator is None else calculator.potential()
    with locked(output):
        read = [path, *([] if settings.reference is None else [settings.reference])]
        before = {file: signature(file) for file in read}
        rows, structures = read_rows(path, format, folder=output / PARTS, monitor=monitor)
        reference, ids = read_known(settings.reference, folder=output / PARTS, monitor=monitor)
        hull = _read_hull(settings, potential, structures, reference, output, monitor)
        together = StructureSet(
            structures,
            submitted=len(rows),
            reference=reference,
            potential=potential,
            relaxation=settings.relaxation,
            hull=hull,
            targets=torch.tensor([row.target for row in rows if row.place is not None], dtype=torch.float64),
            directory=output / PARTS,
            progress=lambda name: monitor.progress(name),
        )
        results = {}
        for protocol in protocols:
            for name in protocol.missing(together):
                monitor.warn(f"protocol {protocol.kind}: {_LACKING[name]}.")
            results[protocol.kind] = protocol.evaluate(together)
        # The columns unique and novel are those of the first protocol that has any.
        matching = [protocol.matching for protocol in protocols if protocol.matching is not None]
        table = _table(
            rows, together, results, ids, matching[0] if matching else (MatcherSettings(), "final")
        )
        for file in read:
            if signature(file) != before[file]:
                monitor.warn(
                    f"{file}: changed while it was evaluated; the results are those of what was read first."
                )
        for row in table:
            if row["status"] in _SKIPPED:
                monitor.skip(str(row["source"]), str(row["reason"]))
        if doubtful := [row for row in table if row["doubts"]]:
            monitor.warn(
                f"{len(doubtful)} entries were read with doubts (column doubts; first: "
                f"{doubtful[0]['file']}: {doubtful[0]['doubts']})."
            )
        counts = Counter(str(row["status"]) for row in table)
        _warn_of_failures(table, counts, potential, monitor)
        return _write(path, output, settings, together, protocols, results, table, counts, monitor)


_LACKING = {
    "potential": "there are no energies without an energy method (--potential)",
    "relaxation": "structures are not relaxed (--relax)",
    "hull": "there are no energies above the hull without one (--hull)",
    "reference": "there is nothing to compare with without known crystals (--reference)",
}


def _protocols(settings: StructureEvaluation) -> list[EvaluationProtocol]:
    """Return the protocols.

    Raises:
        InputError: An unknown one, or settings that do not go together.
    """
    if settings.calculator is None:
        for name, value in (("relax", settings.relaxation), ("hull", settings.hull)):
            if value is not None:
                raise InputError(
                    f"--{name} needs an energy method: give it with --potential, such as --potential chgnet."
                )
    return [PROTOCOLS.get(name)() for name in dict.fromkeys(settings.protocols)]


def _read_hull(
    settings: StructureEvaluation,
    potential: Potential | None,
    structures: StructureBatch,
    reference: StructureBatch | None,
    output: Path,
    monitor: Monitor,
) -> HullReference | None:
    if settings.hull is None or potential is None:
        return None
    problems = find_problems(structures)
    sound = [structure for row, structure in enumerate(structures) if row not in problems]
    systems = {frozenset(species_of(structure)) for structure in sound}
    if settings.hull == _BY_POTENTIAL:
        if not systems:
            monitor.warn("hull by potential: there is none, since no structure can be used.")
            return None
        return _hull_by_potential(potential, systems, reference, output, monitor)
    hull = read_hull(settings.hull, systems=systems)
    hull.common_scheme(scheme_of(potential), potential=potential.name)  # before anything is relaxed
    return hull


def _hull_by_potential(
    potential: Potential,
    systems: set[frozenset[str]],
    reference: StructureBatch | None,
    output: Path,
    monitor: Monitor,
) -> HullReference:
    """Return the hull of elements, prototypes, and the reference crystals of the systems."""
    from whorl.datasets.prototypes import prototypes_of

    prototypes = prototypes_of(systems)
    phases: list[StructureBatch] = []
    names: list[str] = []
    if prototypes.structures is not None:
        phases.append(prototypes.structures.replace(info=()))
        names += prototypes.ids
    if reference is not None:
        elements = [frozenset(species_of(structure)) for structure in reference]
        rows = [k for k, own in enumerate(elements) if any(own <= system for system in systems)]
        phases.append(reference[rows].replace(info=()))
        names += [f"reference {k}" for k in rows]
    hull = hull_by_potential(
        potential,
        StructureBatch.concatenate(phases) if phases else None,
        elements=sorted({element for system in systems for element in system}),
        names=names,
        per_composition=_OF_EACH_COMPOSITION,
        directory=output / PARTS / "hull",
        progress=monitor.progress("phases of the hull"),
    )
    if hull.skipped:
        monitor.warn(
            f"hull by {potential.name}: {len(hull.skipped):,} phases are missing, which may make energies "
            f"above it too low. The first: {hull.skipped[0]}."
        )
    return hull


# Output


def _table(
    rows: Sequence[Row],
    together: StructureSet,
    results: Mapping[str, ProtocolResult],
    ids: tuple[str, ...],
    matching: tuple[MatcherSettings, Which],
) -> list[dict[str, Any]]:
    """Return a row for each structure that came in."""
    columns = _columns(together, results, ids, matching)
    place_to_row = [number for number, row in enumerate(rows) if row.place is not None]
    columns["same_as"] = [None if k is None or k < 0 else place_to_row[k] for k in columns["same_as"]]
    counts = together.structures.n_atoms.tolist()
    table = []
    for number, row in enumerate(rows):
        known = {"file": row.file, "index": number, "formula": row.formula}
        if row.place is None:
            found: dict[str, Any] = {"status": "unreadable", "reason": row.reason}
        else:
            found = {name: values[row.place] for name, values in columns.items()}
            found["n_atoms"] = counts[row.place]
        table.append(
            {
                **dict.fromkeys(COLUMNS),
                **dict.fromkeys(columns),
                **known,
                **found,
                "doubts": "; ".join(row.doubts) or None,
                "source": row.source,
            }
        )
    return table


def _columns(
    together: StructureSet,
    results: Mapping[str, ProtocolResult],
    ids: tuple[str, ...],
    matching: tuple[MatcherSettings, Which],
) -> dict[str, list[Any]]:
    """Return the columns of the structures that were read."""
    matcher, which = matching
    count, computed, distances = len(together), together.computed, together.hull_distances("final")
    atoms = together.structures.n_atoms.clamp(min=1).double()
    checked, none = together.checked(), [None] * len(together)
    usable = together.usable("final")
    displacement = together.rmsd(_DISPLACEMENT, scale=False, supercells=True)
    reasons = [together.reasons.get(row, "") for row in range(count)]
    if distances is not None:
        reasons = [reason or distance.reason for reason, distance in zip(reasons, distances, strict=True)]
    not_crystals = (together.sound & ~together.structures.pbc.all(1)).tolist()
    reasons = [
        "; ".join(part for part in (reason, _NOT_COMPARED if none_such else "") if part)
        for reason, none_such in zip(reasons, not_crystals, strict=True)
    ]
    groups = together.groups(matcher, which)
    known = together.known(matcher, which)
    columns: dict[str, list[Any]] = {
        "status": list(together.status),
        "reason": reasons,
        "valid": (checked.valid & together.sound).tolist(),
        "unique": _flags(together.unique(matcher, which), groups >= 0),
        "novel": none if known is None else _flags(known < 0, groups >= 0),
        "energy_per_atom": none,
        "formation_energy": none,
        "energy_above_hull": none,
        "converged": none,
        "max_force": none,
        "pressure_kbar": none,
        "rmsd_to_relaxed": none if displacement is None else _numbers(displacement.angstrom),
    }
    if computed is not None:
        relaxed = together.relaxation is not None
        converged = torch.tensor([one == "converged" for one in computed.status], dtype=torch.bool)
        failed = torch.tensor([one == "failed" for one in computed.status], dtype=torch.bool)
        was_relaxed = together.sound & ~(failed & (computed.steps == 0))
        columns |= {
            "energy_per_atom": _numbers(computed.energy / atoms),
            "converged": _flags(converged, together.sound) if relaxed else none,
            "max_force": _numbers(computed.max_force),
            "pressure_kbar": _numbers(computed.pressure * _KBAR),
            "energy": _numbers(computed.energy),
            "initial_energy_per_atom": _numbers(computed.initial_energy / atoms),
            "max_stress": _numbers(computed.max_stress),
            "steps": _where(computed.steps, was_relaxed) if relaxed else none,
        }
    if distances is not None:
        initial = together.energy_above_hull("generated")
        assert initial is not None
        columns |= {
            "formation_energy": [one.formation_energy for one in distances],
            "energy_above_hull": [one.energy_above_hull for one in distances],
            "initial_energy_above_hull": _numbers(initial),
            "correction": [
                one.correction if one.energy_above_hull is not None else None for one in distances
            ],
            "competing": [
                " + ".join(f"{share:.4g} {formula}" for formula, share in one.competing) or None
                for one in distances
            ],
            "in_hull": [one.in_hull for one in distances],
            "hull_doubts": ["; ".join(one.warnings) or None for one in distances],
        }
    final = together.final
    crystals = usable & final.pbc.all(1)
    columns |= {
        "volume_per_atom": _numbers(torch.where(crystals, volumes(final.cells) / atoms, torch.nan)),
        "space_group": _space_groups(together, crystals),
        "charge_neutral": none if checked.neutral is None else _flags(checked.neutral, together.sound),
        "shortest_distance": _numbers(
            torch.where(_has_distances(together.structures), checked.shortest_distance, torch.nan)
        ),
        "rmsd_normalized": none if displacement is None else _numbers(displacement.normalized),
        "same_as": groups.tolist(),
        "known_as": none if known is None else [ids[k] if k >= 0 else None for k in known.tolist()],
        "relaxed_frame": _places(together.is_relaxed) if together.relaxation is not None else none,
    }
    for name, result in results.items():
        columns |= {f"{_word(name)}_{column}": list(values) for column, values in result.columns.items()}
    return columns


def _space_groups(together: StructureSet, crystals: Tensor) -> list[int | None]:
    """Return the number of the space group of each crystal."""
    rows = torch.nonzero(crystals).flatten()
    chunks = list(together.final[rows].chunks(_AT_ONCE))
    parts = together.map("space groups", _space_groups_of, chunks, key=None)
    found: list[int | None] = [None] * len(together)
    numbers = [number for part in parts for number in part.tensors["number"].tolist()]
    for row, number in zip(rows.tolist(), numbers, strict=True):
        found[row] = number
    return found


def _space_groups_of(structures: StructureBatch) -> Part:
    return Part({"number": space_group_numbers(structures)})


def _places(flags: Tensor) -> list[int | None]:
    """Return the place of each flag that is set among those that are."""
    order = (torch.cumsum(flags, 0) - 1).tolist()
    return [place if flag else None for place, flag in zip(order, flags.tolist(), strict=True)]


def _numbers(values: Tensor) -> list[float | None]:
    return [
        value if ok else None for value, ok in zip(values.tolist(), values.isfinite().tolist(), strict=True)
    ]


def _flags(flags: Tensor, known: Tensor) -> list[bool | None]:
    return _where(flags, known)


def _where(values: Tensor, known: Tensor) -> list[Any]:
    return [value if ok else None for value, ok in zip(values.tolist(), known.tolist(), strict=True)]


def _has_distances(structures: StructureBatch) -> Tensor:
    """Return which structures have finite coordinates and, where they are crystals, a cell with a volume."""
    finite = structures.cells.isfinite().flatten(1).all(1)
    finite[structures.structure_index[~structures.positions.isfinite().all(1)]] = False
    return finite & ((volumes(structures.cells.nan_to_num(0, 0, 0)) > _NO_VOLUME) | ~structures.pbc.all(1))


def _word(name: str) -> str:
    return name.rpartition(":")[2] or name


def _warn_of_failures(
    table: Sequence[Mapping[str, Any]], counts: Counter[str], potential: Potential | None, monitor: Monitor
) -> None:
    computed = len(table) - counts["unreadable"] - counts["unphysical"]
    if potential is not None and computed and counts["failed"] == computed:
        first = next(row for row in table if row["status"] == "failed")
        monitor.warn(
            f"{potential.name} failed on all structures (first: {first['file']}: {first['reason']})."
        )


def _write(
    path: Path,
    output: Path,
    settings: StructureEvaluation,
    together: StructureSet,
    protocols: Sequence[EvaluationProtocol],
    results: Mapping[str, ProtocolResult],
    table: Sequence[Mapping[str, Any]],
    counts: Counter[str],
    monitor: Monitor,
) -> Path:
    write_text(output / "structures.csv", _csv(table))
    read = [row for row in table if row["status"] != "unreadable"]
    as_generated = [_as_generated(row) for row in read] if together.relaxation is not None else read
    _write_frames(output / "generated.extxyz", together.structures, as_generated)
    if together.relaxation is not None:
        rows = torch.nonzero(together.is_relaxed).flatten()
        _write_frames(output / "relaxed.extxyz", together.final[rows], [read[k] for k in rows.tolist()])
    else:
        (output / "relaxed.extxyz").unlink(missing_ok=True)
    _write_candidates(output / "candidates.extxyz", together, read)
    _write_diagrams(output / "phase_diagrams.json", together, [int(row["index"]) for row in read])
    hull, potential = together.hull, together.potential
    write_json(
        output / "metrics.json",
        {
            "format": FORMAT,
            "version": __version__,
            "input": {
                "path": str(path),
                "structures": len(table),
                "read": len(read),
                "skipped": sum(counts[status] for status in _SKIPPED),
            },
            "potential": None if potential is None else _potential_of(potential, together.scheme),
            "relaxation": None
            if settings.relaxation is None
            else settings.relaxation.model_dump(mode="json"),
            "hull": None if hull is None else hull.summary(together.scheme),
            "reference": None
            if together.reference is None
            else {"path": str(settings.reference), "structures": len(together.reference)},
            "protocols": {
                protocol.kind: {
                    "summary": protocol.summary(),
                    "source": protocol.source,
                    "settings": protocol.settings.options(),
                    "departures": [*protocol.departures, *results[protocol.kind].departures],
                    "metrics": {name: of.to_dict() for name, of in results[protocol.kind].metrics.items()},
                }
                for protocol in protocols
            },
            "warnings": list(monitor.warnings),
            "counts": dict(counts.most_common()),
        },
    )
    monitor.step("report", state="started")
    started = time.monotonic()
    try:
        evaluation_page(output)
    except Exception as error:  # the results do not depend on their page
        monitor.warn(f"report.html could not be written ({type(error).__name__}: {error}).")
    monitor.step("report", state="done", seconds=time.monotonic() - started)
    return output / "metrics.json"


def _as_generated(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the energies of the structure as it came in, as far as they are known."""
    initial = row["initial_energy_per_atom"]
    return {
        **row,
        "energy": None if initial is None else initial * row["n_atoms"],
        "energy_per_atom": initial,
        "formation_energy": None,
        "energy_above_hull": row.get("initial_energy_above_hull"),
    }


def _potential_of(potential: Potential, scheme: str) -> dict[str, str]:
    """Return what ``metrics.json`` says of the potential."""
    model = getattr(getattr(potential, "settings", None), "model", None)
    return {
        "name": potential.name,
        **({} if model is None else {"model": str(model)}),
        "scheme": scheme,
    }


def _write_frames(path: Path, structures: StructureBatch, rows: Sequence[Mapping[str, Any]]) -> None:
    names = (
        *("file", "status", "energy", "energy_per_atom", "formation_energy", "energy_above_hull"),
        *("unique", "novel", "valid"),
    )
    info = tuple(
        {"row": row["index"], **{name: row[name] for name in names if row.get(name) is not None}}
        for row in rows
    )
    write_extxyz(structures.replace(info=info), path, provenance=provenance())


def _write_candidates(path: Path, together: StructureSet, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the crystals that are worth a further calculation, the most stable first; no file for none.

    They are valid, unique, and novel where that is known, and have an energy where energies were computed.
    """
    succeeded = together.succeeded.tolist()
    chosen = [
        place
        for place, row in enumerate(rows)
        if row["valid"] and row["unique"] and row["novel"] is not False and succeeded[place]
    ]
    if not chosen:
        path.unlink(missing_ok=True)
        return

    def order(place: int) -> tuple[float, float, int]:
        above, energy = rows[place]["energy_above_hull"], rows[place]["energy_per_atom"]
        return math.inf if above is None else above, math.inf if energy is None else energy, place

    chosen.sort(key=order)
    _write_frames(path, together.final[chosen], [rows[place] for place in chosen])


def _write_diagrams(path: Path, together: StructureSet, rows: Sequence[int]) -> None:
    """Write the phase diagrams of the structures; their ``index`` is that of the row."""
    distances = together.hull_distances("final")
    if together.hull is None or distances is None:
        path.unlink(missing_ok=True)
        return
    known = [k for k, distance in enumerate(distances) if distance.energy_above_hull is not None]
    diagrams = phase_diagrams(together.hull, together.final[known], [distances[k] for k in known])
    for diagram in diagrams:
        for point in diagram["points"]:
            if point["index"] is not None:
                point["index"] = rows[known[point["index"]]]
    write_json(path, diagrams)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
    return text.getvalue()


def summary(metrics: Path) -> list[str]:
    """Return the metrics of each protocol in lines for the terminal."""
    data = read_json(metrics)
    counts = ", ".join(f"{count} {status}" for status, count in data["counts"].items())
    lines = [f"{data['input']['structures']} structures: {counts}"]
    for name, protocol in data["protocols"].items():
        known = {metric: of for metric, of in protocol["metrics"].items() if of["value"] is not None}
        width = max((len(metric) for metric in known), default=0)
        lines.append(f"{name}:")
        lines += [f"  {metric:<{width}}  {_shown(of)}" for metric, of in known.items()]
        others: dict[str, list[str]] = {}
        for metric in protocol["metrics"]:
            if metric not in known:
                reason = protocol["metrics"][metric]["text"].rpartition("Not computed: ")[2].rstrip(".")
                others.setdefault(reason, []).append(metric)
        lines += [f"  – {', '.join(metrics)}: {reason}" for reason, metrics in others.items()]
    return lines


def _shown(of: Mapping[str, Any]) -> str:
    """Return a number with its interval."""
    value, low, high = of["value"], of["low"], of["high"]
    percent = not of["unit"] and of["of"] is not None and 0 <= value <= 1
    scale, digits, unit = (100, 1, " %") if percent else (1, 3, f" {of['unit']}".rstrip())
    text = f"{scale * value:.{digits}f}{unit}"
    if low is not None and high is not None:
        text += f" ({scale * low:.{digits}f} to {scale * high:.{digits}f})"
    if of["count"] is not None:
        text += f", {of['count']} of {of['of']}"
    return text
