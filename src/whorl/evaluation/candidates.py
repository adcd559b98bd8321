"""Candidates: the structures of a run, ranked best first.

Ranked are those that are valid, one of each group of equal ones, by the distance of the computed property
from the requested one. Targets take turns: the best structure of each target, then the second best of each,
and so on. Duplicates and invalid structures follow without a rank.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from whorl.evaluation.results import Evaluated
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import formula

COLUMNS = (
    *("rank", "file", "formula", "space_group", "property", "requested", "computed", "computed_by", "valid"),
    *("unique", "new", "moved", "energy_calls", "status", "remarks", "generator", "sample"),
)
"""Columns of the table of candidates; ``moved`` is in Å."""

_FORMULA = 40  # characters of a formula in the name of a file


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One structure with its results; None is unknown.

    Attributes:
        rank: From 1; None of duplicates and of invalid structures.
        file: Path of its file within the folder of candidates.
        formula: Reduced for crystals, of all atoms otherwise.
        space_group: Its symbol; empty where there is none.
        property: Name of the property.
        requested: Target value of the property.
        computed: Value by ``computed_by``.
        computed_by: Name of the energy method if there is one, else of the best available model.
        valid: Whether its reconstruction succeeded and it is a possible structure.
        unique: Whether no better candidate is the same structure.
        new: Whether it is not among the labelled structures.
        moved: Root mean square distance in Å that refinement moved its atoms.
        energy_calls: Energy evaluations that refinement spent on it.
        status: Statuses of its reconstruction and refinement.
        remarks: Why it is invalid, or has no computed value; of a cluster in pieces, how many.
        generator: Label of the training size.
        sample: Name of the generated sample.
        index: Its place among the structures of this generator's samples.
    """

    rank: int | None
    file: str
    formula: str
    space_group: str
    property: str
    requested: float
    computed: float | None
    computed_by: str
    valid: bool
    unique: bool | None
    new: bool | None
    moved: float | None
    energy_calls: int | None
    status: str
    remarks: str
    generator: str
    sample: str
    index: int

    def deviation(self) -> float:
        """Distance of the computed value from the requested one; infinite where it is unknown."""
        return math.inf if self.computed is None else abs(self.computed - self.requested)

    def row(self) -> dict[str, Any]:
        """Return its line of the table, empty where a value is unknown."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {
            name: "" if value is None else round(value, 6) if isinstance(value, float) else value
            for name, value in values.items()
        }


def rank_candidates(evaluated: Mapping[str, Evaluated]) -> list[Candidate]:
    """Return all structures of a run as candidates, best first.

    The computed property is that of the evaluator ``energy`` where it has one, else CGCNN's prediction of
    this property, else the surrogate's for the generated features. A structure that the energy method failed
    on has none. What no evaluator found out is unknown.

    Args:
        evaluated: Samples of each generator with their metrics, by its label.
    """
    everything = [candidate for label, of in evaluated.items() for candidate in _candidates(of, label)]
    ranked = list(_in_turns(of for of in everything if of.valid and of.unique is not False))
    duplicates = [candidate for candidate in everything if candidate.valid and candidate.unique is False]
    invalid = [candidate for candidate in everything if not candidate.valid]
    return [
        *_named(ranked, "", ranks=True, evaluated=evaluated),
        *_named(sorted(duplicates, key=_order), "duplicates/", evaluated=evaluated),
        *_named(sorted(invalid, key=_order), "invalid/", evaluated=evaluated),
    ]


def _column(of: Evaluated, evaluator: str, name: str) -> Sequence[Any] | None:
    """Return a column of structures; None where no evaluator wrote it."""
    return of.metrics[evaluator].per_structure.get(name) if evaluator in of.metrics else None


def _candidates(of: Evaluated, label: str) -> Iterator[Candidate]:
    samples, property = of.samples, of.reference.name
    if samples.structures is None or not len(samples.structures):
        return
    count, targets = len(samples.structures), samples.structure_targets.double().tolist()
    computed, computed_by = _computed(of)
    invalid, why = _invalid(of)
    failures = _column(of, "energy", "failure") or [None] * count
    space_groups = _column(of, "symmetry", "space_group") or [None] * count
    new = _column(of, "novelty", "novel") or [None] * count
    values = [abs(c - t) if c is not None else math.inf for c, t in zip(computed, targets, strict=True)]
    unique = _unique(of, values, invalid)
    pieces = _column(of, "validity", "pieces") or [None] * count
    for k, row in enumerate(samples.rows.tolist()):
        refined = samples.refinement[k] if samples.refinement else ""
        yield Candidate(
            rank=None,
            file="",
            formula=_formula(samples.structures[k]),
            space_group=str(space_groups[k] or ""),
            property=property,
            requested=targets[k],
            computed=computed[k],
            computed_by=computed_by,
            valid=not invalid[k],
            unique=None if unique is None else unique[k],
            new=new[k],
            moved=_number(None if samples.displacement is None else float(samples.displacement[k])),
            energy_calls=None if samples.energy_calls is None else int(samples.energy_calls[k]),
            status="; ".join(filter(None, [samples.status[k] if samples.status else "", refined])).replace(
                "_", " "
            ),
            remarks="; ".join(filter(None, [why[k], _in_pieces(pieces[k]), str(failures[k] or "")])),
            generator=label,
            sample=samples.ids[row],
            index=k,
        )


def _computed(of: Evaluated) -> tuple[list[float | None], str]:
    """Return the property of each structure by the best method that has values, and its name."""
    energy, predicted = of.metrics.get("energy"), of.values("surrogate")
    calculator = energy.overall.get("calculator") if energy is not None else None
    choices: list[tuple[str, Sequence[Any] | None]] = [
        (str((calculator or {}).get("name") or "energy"), _column(of, "energy", "value")),
        *(
            ("CGCNN", _column(of, "cgcnn", name))
            for name in (of.reference.name, of.reference.name.replace("_", " "))
        ),
        ("surrogate", None if predicted is None else predicted[of.samples.rows].tolist()),
    ]
    for name, column in choices:
        values = [_number(value) for value in column or ()]
        if any(value is not None for value in values):
            return values, name
    return [None] * len(of.samples.rows), ""


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _invalid(of: Evaluated) -> tuple[list[bool], list[str]]:
    """Return which structures are invalid, and why.

    A structure that was refined need no longer have the features that it was reconstructed from, so that the
    loss of its reconstruction says nothing about it.
    """
    samples, count = of.samples, len(of.samples.rows)
    if samples.refinement:
        unreached = [status == "failed" for status in samples.status] or [False] * count
    else:
        unreached = samples.invalid.tolist() or [False] * count
    possible = _column(of, "validity", "valid") or [True] * count
    remarks = _column(of, "validity", "remarks") or [""] * count
    why = [
        "; ".join(filter(None, ["its features are not those generated" if bad else "", str(remark or "")]))
        for bad, remark in zip(unreached, remarks, strict=True)
    ]
    return [bad or ok is False for bad, ok in zip(unreached, possible, strict=True)], why


def _unique(of: Evaluated, deviations: Sequence[float], invalid: Sequence[bool]) -> list[bool] | None:
    """Return for each structure whether it is the best valid one of its group of equal structures."""
    groups = _column(of, "uniqueness", "group")
    if groups is None:
        flags = _column(of, "uniqueness", "unique")
        return None if flags is None else [bool(flag) for flag in flags]
    best: dict[Any, int] = {}
    groups = [f"alone {k}" if group is None else group for k, group in enumerate(groups)]
    for k, group in enumerate(groups):
        if group not in best or (invalid[k], deviations[k]) < (invalid[best[group]], deviations[best[group]]):
            best[group] = k
    return [best[group] == k for k, group in enumerate(groups)]


def _in_pieces(count: int | None) -> str:
    return f"in {count} pieces" if count is not None and count > 1 else ""


def _order(candidate: Candidate) -> tuple[float, str, int]:
    return candidate.deviation(), candidate.generator, candidate.index


def _in_turns(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield the best of each target, the second best of each …, each round from the best on."""
    by_target: dict[float, list[Candidate]] = {}
    for candidate in sorted(candidates, key=_order):
        by_target.setdefault(candidate.requested, []).append(candidate)
    for round_ in zip_longest(*by_target.values()):
        yield from sorted((candidate for candidate in round_ if candidate is not None), key=_order)


def _named(
    candidates: Sequence[Candidate], folder: str, *, evaluated: Mapping[str, Evaluated], ranks: bool = False
) -> Iterator[Candidate]:
    for number, candidate in enumerate(candidates, start=1):
        structures = evaluated[candidate.generator].samples.structures
        assert structures is not None
        suffix = "cif" if bool(structures.pbc[candidate.index].all()) else "xyz"
        file = f"{folder}{number:04d}-{candidate.formula[:_FORMULA]}.{suffix}"
        yield dataclasses.replace(candidate, rank=number if ranks else None, file=file)


def _formula(structure: StructureBatch) -> str:
    from ase.symbols import Symbols

    if bool(structure.pbc.all()):
        return formula(structure)
    return str(Symbols(structure.atomic_numbers.cpu().numpy()).get_chemical_formula(mode="metal"))
