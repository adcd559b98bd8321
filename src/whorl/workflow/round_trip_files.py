"""Output files of a round trip: structures, a table, CIFs, and a summary."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.datasets import write_extxyz
from whorl.datasets.crystal_files import cif_text
from whorl.errors import InputError
from whorl.files import write_text
from whorl.report.comparison import Comparison, summary
from whorl.structures import StructureBatch
from whorl.workflow.monitor import Monitor

_SYMPREC = 0.01  # Å, for the space group in CIF
_COLUMNS = (
    *("target", "n_atoms", "status", "loss", "rmsd", "seconds", "recovered", "name", "formula"),
    *("representation", "evaluations", "infeasibility", "solutions", "advice"),
)


def _row(target: Comparison) -> dict[str, Any]:
    row = {name: getattr(target, name, None) for name in _COLUMNS}
    solutions = len(target.alternatives) + (target.status == "converged")
    evaluations = "" if math.isnan(target.evaluations) else int(target.evaluations)
    return {
        **row,
        "target": target.number,
        "recovered": str(target.recovered).lower(),
        "seconds": round(target.seconds, 3),
        "evaluations": evaluations,
        "infeasibility": "" if math.isnan(target.infeasibility) else target.infeasibility,
        "solutions": solutions,
    }


def write_results(
    output: Path, targets: Sequence[Comparison], made_with: Mapping[str, Any], monitor: Monitor
) -> None:
    """Write ``solutions.extxyz``, ``alternatives.extxyz``, ``solutions/NNN.cif`` and ``result.csv``."""
    infos = [
        {
            "target": target.number,
            "name": target.name,
            "status": target.status,
            "recovered": target.recovered,
            "loss": target.loss,
            "rmsd": target.rmsd,
            "seconds": round(target.seconds, 3),
        }
        for target in targets
    ]
    found = StructureBatch.concatenate([target.found for target in targets])
    write_extxyz(found.replace(info=tuple(infos)), output / "solutions.extxyz", provenance=made_with)
    others = [(info, one) for info, target in zip(infos, targets, strict=True) for one in target.alternatives]
    if others:
        batch = StructureBatch.concatenate([one for _, one in others])
        keep = tuple({key: info[key] for key in ("target", "name")} for info, _ in others)
        write_extxyz(batch.replace(info=keep), output / "alternatives.extxyz", provenance=made_with)
    else:
        (output / "alternatives.extxyz").unlink(missing_ok=True)
    _write_cifs(output / "solutions", targets, monitor)
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(_row(target) for target in targets)
    write_text(output / "result.csv", text.getvalue())


def _write_cifs(folder: Path, targets: Sequence[Comparison], monitor: Monitor) -> None:
    written = set()
    for target in targets:
        if not bool(target.found.pbc.all()):
            continue
        path = folder / f"{target.number:03d}.cif"
        try:
            text = cif_text(target.found, symprec=_SYMPREC)
        except InputError as error:  # the other files hold the structure too
            monitor.warn(f"{path.name}: cannot be written as CIF ({error}).")
            continue
        write_text(path, text)
        written.add(path.name)
    for path in folder.glob("[0-9][0-9][0-9]*.cif"):  # of an earlier run with more targets
        if path.name not in written and path.stem.isdigit():
            path.unlink()


def outcome_lines(targets: Sequence[Comparison]) -> list[str]:
    """Return a summary of the outcome, and advice for some targets."""
    notes: dict[str, list[int]] = {}
    for target in targets:
        if not target.recovered or target.status != "converged" or len(target.alternatives):
            notes.setdefault(target.advice, []).append(target.number)
    return [summary(targets), *(f"{listed(numbers)}: {advice}" for advice, numbers in notes.items())]


def listed(numbers: Sequence[int], most: int = 12) -> str:
    """Name some targets.

    >>> listed([3]), listed([0, 1, 5])
    ('target 3', 'targets 0, 1, 5')
    """
    named = ", ".join(str(number) for number in numbers[:most])
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"target{'s' if len(numbers) > 1 else ''} {named}{more}"
