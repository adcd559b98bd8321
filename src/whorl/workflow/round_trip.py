"""Round trips: encode structures, discard positions, reconstruct, and compare with the originals.

The search gets the fingerprints and, of the structures, their elements, periodicity and (unless it is free)
cell; no positions, and the atoms sorted by element. Only the results are compared with the originals.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError

from whorl.datasets import Dataset, load_dataset, read_dataset
from whorl.errors import InputError
from whorl.evaluation.alignment import superimpose
from whorl.evaluation.matching import rmsd
from whorl.files import (
    check_folder,
    contents_hash,
    provenance,
    read_json,
    stable_hash,
    write_json,
    write_text,
)
from whorl.locks import one_at_a_time
from whorl.reconstruction import ClosedForm, InversionProblem, InversionResult, InversionStatus
from whorl.reconstruction.base import ReconstructionContext
from whorl.reconstruction.free_composition import solve_free_composition, unknown_atoms
from whorl.reconstruction.objective import MIN_DISTANCE
from whorl.report.comparison import Comparison, write_comparison
from whorl.representations import Representation
from whorl.structures import StructureBatch, find_problems
from whorl.structures.composition import species_of
from whorl.version import __version__
from whorl.workflow.monitor import Monitor, ProgressCallback
from whorl.workflow.round_trip_files import listed, write_results
from whorl.workflow.round_trip_settings import RoundTripSettings
from whorl.workflow.templates import VOLUME_PER_ATOM
from whorl.yaml_text import dump_yaml

RECOVERED = 0.05  # Å
_LEDGER = TypeAdapter(dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)] | None])
_ENDLESS = 10**12  # evaluations


def forget(structures: StructureBatch, *, cell: bool = False) -> StructureBatch:
    """Return structures without positions: elements, cells and periodicity, with atoms sorted by element.

    Args:
        structures: Structures whose positions are discarded.
        cell: Discard the cells too: each becomes a cube of :data:`VOLUME_PER_ATOM` per atom.
    """
    order = np.lexsort((structures.atomic_numbers.numpy(), structures.structure_index.numpy()))
    cells = structures.cells.clone()
    if cell:
        lengths = (VOLUME_PER_ATOM * structures.n_atoms.to(cells)) ** (1 / 3)
        cells = torch.eye(3).to(cells) * lengths[:, None, None]
    return StructureBatch(
        positions=torch.zeros_like(structures.positions),
        cells=cells,
        pbc=structures.pbc.clone(),
        atomic_numbers=structures.atomic_numbers[torch.as_tensor(order)],
        structure_index=structures.structure_index.clone(),
    )


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Targets that are searched together, since they share a representation."""

    members: list[int]
    species: list[str]
    kind: str
    free_cell: bool
    representation: Representation
    originals: StructureBatch

    @property
    def label(self) -> str:
        return "-".join(self.species)

    @property
    def words(self) -> str:
        pools = ", ".join(self.representation.config().get("pooling") or ())
        cell = ", cell free" if self.free_cell else ""
        size = f"{len(self.representation.layout)} features"
        return f"{self.kind} ({f'{pools}; ' if pools else ''}{size}){cell}"


@one_at_a_time
def round_trip(
    path: Path, *, settings: RoundTripSettings, output: Path, monitor: Monitor
) -> list[Comparison]:
    """Make the round trip of every structure of a file, and write the results.

    Into ``output``: ``solutions.extxyz`` (one structure a target), ``alternatives.extxyz`` (other structures
    with the same fingerprints, if any), ``result.csv``, ``settings.yaml``, ``comparison.html``,
    and ``solutions/NNN.cif`` of each periodic one. Finished searches are kept in ``.search``: started again
    with the same settings, it resumes from there.

    Args:
        path: Structures in any format of :func:`whorl.datasets.read_dataset`, or a data set of whorl.
        settings: Settings of encoding and search.
        output: Folder.
        monitor: Receives progress, warnings and entries that cannot be used.

    Raises:
        InputError: The file has no usable entry, or the output would overwrite it.
    """
    _check_output(path, output)
    data = _read(path, settings, monitor)
    assert data.structures is not None
    structures = data.structures.to(dtype=torch.float64)
    groups = _groups(structures, settings, monitor)
    resolved = settings.resolved()
    made_with = provenance(seed=settings.seed, settings=resolved)
    skipped = list(monitor.skipped)
    record = {
        **made_with,
        "file": str(path),
        "file_hash": contents_hash(path),
        "targets": len(structures),
        "settings": resolved,
        "representations": _configs(groups),
        "skipped": [{"source": source, "reason": reason} for source, reason in skipped],
    }
    header = f"# whorl invert --round-trip: every setting, defaults included (whorl {__version__}).\n"
    body = dump_yaml(record, default_flow_style=None, width=110)
    write_text(output / "settings.yaml", header + body)

    ledger = _Ledger(output / ".search" / f"budget-{stable_hash([resolved, record['file_hash']])}.json")
    progress = _Overall(monitor.progress("searching"), len(structures))
    found: dict[int, Comparison] = {}
    left = settings.budget_seconds
    for number, group in enumerate(groups):
        waiting = sum(int(g.originals.n_atoms.sum()) for g in groups[number:])
        share = None if left is None else left * int(group.originals.n_atoms.sum()) / waiting
        share = ledger.budget(number, share)
        with torch.no_grad():
            wanted = group.representation(group.originals).flatten(1)
        problem = InversionProblem(
            representation=group.representation,
            target=wanted,
            template=forget(group.originals, cell=group.free_cell),
            free_cell=group.free_cell,
            names=tuple(data.ids[number] for number in group.members),
        )
        nearer = problem.replace(min_distance=MIN_DISTANCE).contacts(group.originals)
        if bool(nearer.any()):  # existing results are not excluded from the search
            problem = problem.replace(min_distance=0.0)
        began = time.monotonic()
        part = progress.part(group, len(groups))
        if settings.closed_form:
            result = _decode(problem, output / ".search", part)
        else:
            result = _search(problem, settings, share, output / ".search", part)
        taken = time.monotonic() - began
        left = None if left is None else max(left - taken, 0.02 * left)
        shared = ledger.seconds(number, taken) / len(group.members)
        progress.finish(len(group.members))
        for one in _compare(group, problem, result, data.ids, settings, shared):
            found[one.number] = one
    targets = [found[number] for number in range(len(structures))]
    write_results(output, targets, made_with, monitor)
    write_comparison(
        output / "comparison.html",
        targets,
        title=path.name,
        settings={"file": str(path), **resolved},
        skipped=skipped,
        provenance=made_with,
    )
    return targets


def _check_output(path: Path, output: Path) -> None:
    check_folder(output)
    given, folder = path.resolve(), output.resolve()
    names = ("solutions.extxyz", "alternatives.extxyz", "result.csv", "solutions")
    mine = [folder / name for name in names]
    if given in mine or given.parent == folder / "solutions":
        raise InputError(f"{path}: would be overwritten by the results. Choose another output folder.")


def _read(path: Path, settings: RoundTripSettings, monitor: Monitor) -> Dataset:
    if path.suffix == ".safetensors":
        data = load_dataset(path)
        if data.structures is None:
            raise InputError(f"{path}: contains no structures.")
    else:
        data = read_dataset(path, property=None, progress=monitor.progress("reading"))
    for entry in data.skipped:
        monitor.skip(entry.source, entry.reason)
    for name, doubt in data.doubts:
        monitor.doubt(name, doubt)
    assert data.structures is not None
    problems = find_problems(data.structures, species=settings.declared)
    if settings.of_clusters:
        periodic = torch.nonzero(data.structures.pbc.any(1)).flatten().tolist()
        problems |= dict.fromkeys(
            periodic, "is periodic, and the representation is of clusters and molecules"
        )
    if settings.free_composition is not None and settings.free_composition.n_atoms is not None:
        least, most = settings.free_composition.n_atoms
        problems |= {
            index: f"has {n} atoms, and {least} to {most} are searched for (--n-atoms)"
            for index, n in enumerate(data.structures.n_atoms.tolist())
            if not least <= n <= most
        }
    for index, reason in sorted(problems.items()):
        monitor.skip(data.ids[index], reason)
    good = [index for index in range(len(data)) if index not in problems]
    if not good:
        raise InputError(f"{path}: none of its entries can be used (see the reasons above).")
    return data.select(torch.tensor(good, dtype=torch.int64))


def _groups(structures: StructureBatch, settings: RoundTripSettings, monitor: Monitor) -> list[_Group]:
    plain = structures.replace(info=())
    keys: dict[tuple[tuple[str, ...], str, bool], list[int]] = {}
    fixed = []
    for number, one in enumerate(plain):
        free = settings.free_cell and bool(one.pbc.all())
        if settings.free_cell and bool(one.pbc.any()) and not free:
            fixed.append(number)
        kind = settings.kind(periodic=bool(one.pbc.any()))
        species = settings.declared or species_of(one if settings.free_composition is None else plain)
        keys.setdefault((tuple(species), kind, free), []).append(number)
    if fixed:
        monitor.warn(
            f"{listed(fixed)}: periodic in one or two directions, so the cell is kept; only cells that are "
            "periodic in all three are optimised."
        )
    elif settings.free_cell and not any(free for _, _, free in keys):
        monitor.warn("no structure of the file is periodic, so there is no cell to optimise.")
    return [
        _Group(
            members=members,
            species=list(species),
            kind=kind,
            free_cell=free,
            representation=settings.build(kind, plain[members], species),
            originals=plain[members],
        )
        for (species, kind, free), members in keys.items()
    ]


def _configs(groups: Sequence[_Group]) -> list[dict[str, Any]]:
    """Return each configuration once, with the elements and targets it was used for."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        config = group.representation.config()
        species = config.pop("species", group.species)
        entry = found.setdefault(stable_hash(config), {"used_for": [], **config})
        entry["used_for"].append({"species": species, "targets": group.members})
    return list(found.values())


class _Ledger:
    """Budgets and run times of groups, stored so that a resumed run uses the same budgets.

    A search is resumed if its settings are the same, including the budget.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, float | None] = {}
        if path.exists():
            # If it is damaged, the searches are repeated.
            with contextlib.suppress(InputError, ValidationError):
                self.entries = _LEDGER.validate_python(read_json(path))

    def budget(self, group: int, share: float | None) -> float | None:
        """Return the stored budget of a group, or store the present one."""
        return self._note(f"budget {group}", share)

    def seconds(self, group: int, taken: float) -> float:
        """Return the longest run time of the group."""
        longest = max(taken, self.entries.get(f"seconds {group}") or 0.0)
        self.entries[f"seconds {group}"] = longest
        write_json(self.path, self.entries)
        return longest

    def _note(self, name: str, value: float | None) -> float | None:
        if name not in self.entries:
            self.entries[name] = value
            write_json(self.path, self.entries)
        return self.entries[name]


class _Overall:
    """One count of targets over all groups."""

    def __init__(self, tell: ProgressCallback, total: int) -> None:
        self.tell, self.total, self.done = tell, total, 0
        self.number = 0
        tell(0, total, "")

    def part(self, group: _Group, groups: int) -> ProgressCallback:
        """Return the callback of a group's search."""
        self.number += 1
        before = f"{group.label} ({self.number} of {groups}): " if groups > 1 else ""

        def report(done: int, total: int, message: str = "") -> None:
            share = done / max(total, 1) * len(group.members)
            self.tell(self.done + int(share), self.total, before + message)

        return report

    def finish(self, count: int) -> None:
        """Count a group that is done."""
        self.done += count
        self.tell(self.done, self.total, "")


def _search(
    problem: InversionProblem,
    settings: RoundTripSettings,
    seconds: float | None,
    checkpoint: Path,
    progress: ProgressCallback,
) -> InversionResult:
    # With a time budget, only the time decides. The structure exists, so no target is infeasible.
    clock: dict[str, Any] = (
        {} if seconds is None else {"budget_evaluations": _ENDLESS, "budget_seconds": seconds}
    )
    options: dict[str, Any] = {
        **clock,
        "invalid_above": math.inf,
        "seed": settings.seed,
        "checkpoint": checkpoint,
        "progress": progress,
        **settings.steps,
    }
    if settings.free_composition is not None:
        forgotten = problem.replace(template=unknown_atoms(problem.template, problem.representation))
        return solve_free_composition(forgotten, settings.free_composition, **options)
    return settings.reconstructor.search(problem, **options)


def _decode(problem: InversionProblem, checkpoint: Path, progress: ProgressCallback) -> InversionResult:
    representation, template = problem.representation, problem.template
    features = problem.target.unflatten(1, representation.layout.shape)
    made = ClosedForm().reconstruct(
        features,
        ReconstructionContext(representation=representation, directory=checkpoint, progress=progress),
    )
    place = {row: k for k, row in enumerate(made.rows.tolist())}
    loss = torch.full((len(template),), math.inf, dtype=torch.float64)
    return InversionResult(
        structures=StructureBatch.concatenate(
            [made.structures[place[k]] if k in place else template[k] for k in range(len(template))]
        ),
        loss=loss.index_copy(0, made.rows, made.loss),
        status=tuple(
            InversionStatus(made.status[place[k]] if k in place else "failed") for k in range(len(template))
        ),
    )


def _compare(
    group: _Group,
    problem: InversionProblem,
    result: InversionResult,
    ids: Sequence[str],
    settings: RoundTripSettings,
    shared_seconds: float,
) -> list[Comparison]:
    """Compare solutions with the originals, which are used only here."""
    distances = rmsd(result.structures, group.originals).tolist()
    with torch.no_grad():
        reached = group.representation(result.structures).flatten(1)
    targets = []
    for k, number in enumerate(group.members):
        original = group.originals[k]
        others = _others(result, k)
        twin = len(others) > 0 and bool((rmsd(others, original[[0] * len(others)]) < RECOVERED).any())
        status, distance = result.status[k].value, distances[k]
        recovered = distance < RECOVERED
        targets.append(
            Comparison(
                number=number,
                name=ids[number],
                formula=_formula(original),
                status=status,
                recovered=recovered,
                loss=float(result.loss[k]),
                rmsd=distance,
                seconds=shared_seconds if result.seconds is None else float(result.seconds[k]),
                evaluations=math.nan if result.evaluations is None else float(result.evaluations[k]),
                infeasibility=math.nan if result.infeasibility is None else float(result.infeasibility[k]),
                advice=_advice(status, recovered, twin=twin, others=len(others), settings=settings),
                representation=group.words,
                original=original,
                found=_laid(result.structures[k], original, distance, free_cell=group.free_cell),
                alternatives=others,
                wanted=problem.target[k],
                reached=reached[k],
            )
        )
    return targets


def _others(result: InversionResult, target: int) -> StructureBatch:
    """Return the distinct solutions of a target other than the given one."""
    best = result.structures[target]
    kept: list[StructureBatch] = []
    for one in result.solutions[target] if result.solutions else ():
        if all(float(rmsd(one, other)) >= RECOVERED for other in (best, *kept)):
            kept.append(one)
    return StructureBatch.concatenate(kept) if kept else best[torch.zeros(0, dtype=torch.int64)]


def _laid(
    found: StructureBatch, original: StructureBatch, distance: float, *, free_cell: bool
) -> StructureBatch:
    """Return the solution superposed on the original and in its order of atoms, if they can be superposed."""
    laid = superimpose(found, original) if math.isfinite(distance) else None
    if laid is None:
        return found
    if not free_cell and torch.allclose(laid.cells, original.cells, atol=1e-6):
        laid = laid.replace(cells=original.cells)  # the same, without rounding errors of the rotation
    # The same structure still?
    return laid if float(rmsd(laid, found)) < 1e-3 else found


def _formula(structure: StructureBatch) -> str:
    from ase.formula import Formula

    from whorl.structures import to_ase

    formula = Formula(to_ase(structure)[0].get_chemical_formula("hill"))
    return formula.format("metal" if bool(structure.pbc.any()) else "hill")


def _advice(status: str, recovered: bool, *, twin: bool, others: int, settings: RoundTripSettings) -> str:
    """Return advice about the outcome, given that the structure exists."""
    if status == "converged" and recovered:
        text = "The structure was recovered."
        if others:
            text += (
                f" But {others} other structure{'s have' if others > 1 else ' has'} the same fingerprint: it "
                "does not distinguish them (alternatives.extxyz)."
            )
        return text
    if status == "converged":
        text = "Another structure has the same fingerprint, which therefore does not determine the structure"
        if twin:
            return f"{text}; the original is among the alternatives (alternatives.extxyz)."
        if settings.closed_form:
            return f"{text}. Use another representation (--representation)."
        pools = "" if settings.pooling else ", or other pooling (--pooling mean,std)"
        return (
            f"{text}. Use a representation with more functions or a longer cutoff (--representation){pools}."
        )
    if recovered:
        return (
            "The structure was recovered, but not to the tolerance of the search: positions are accurate to "
            f"about the RMSD. {_more(settings)}"
        )
    if status == "failed":
        return "No start had a finite loss: check the structure and its cell, or try another --seed."
    return f"Not found: the result is the best so far, not a solution. {_more(settings)}"


def _more(settings: RoundTripSettings) -> str:
    if settings.closed_form:
        return (
            "Use narrower functions or a longer cutoff (a --representation file with width, cutoff), or "
            "other features and a search."
        )
    if not settings.reconstructor.stops_by_the_clock:
        more = settings.reconstructor.more
        return f"Use more {more}, or --solver population."
    if settings.budget_seconds is not None:
        return f"Use more time (--budget-seconds {3 * settings.budget_seconds:g}), or try another --seed."
    return "Use a time budget (--budget-seconds) longer than this run, or try another --seed."
