"""Comparison of many crystals: reduced and matched in chunks that executors spread over workers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.chunked import Part, map_chunks
from whorl.evaluation.crystals.matcher import Cell, Cells, Matcher, mixed
from whorl.evaluation.crystals.reduction import ReducedCrystals, reduce_crystals
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.executors.base import Executor
from whorl.files import stable_hash
from whorl.structures.batch import StructureBatch

Progress = Callable[[int, int], object]
Function = Callable[["Matcher", "_Chunk"], dict[str, Tensor]]
"""Of a chunk's crystals."""

_IN_CHUNK = 100  # crystals
_HEAVIEST = 118


@dataclass(frozen=True)
class Comparison:
    """A comparison of crystals: its settings, and how the work is done.

    Attributes:
        settings: Tolerances and order of arguments.
        anonymous: Whether elements may be exchanged.
        progress: Called with (crystals done, in all); a crystal is half done when its cell is reduced.
        executor: Does the work.
        folder: Where finished chunks are kept.
    """

    settings: MatcherSettings
    anonymous: bool = False
    progress: Progress | None = None
    executor: Executor | None = None
    folder: Path | None = None

    def group(self, structures: StructureBatch) -> Int[Tensor, "B"]:
        """Return for each crystal the first one that it matches, itself where there is none before it.

        Only those crystals count as first ones that match none before. -1 for what is no crystal.
        """
        crystals, disordered = self._reduced(structures, len(structures))
        chunks = [rows for rows, _ in _joined([(rows, []) for rows in self._classes(crystals).values()])]
        parts = self._matched(
            _grouped,
            [_Chunk(crystals[rows], None, disordered and disordered[rows]) for rows in map(_indices, chunks)],
            len(structures),
            "groups",
        )
        answer = torch.full((len(structures),), -1)
        for rows, part in zip(chunks, parts, strict=True):
            where = _indices(rows)
            answer[where] = where[part.tensors["first"]]
        return answer

    def first_known(self, structures: StructureBatch, known: StructureBatch) -> Int[Tensor, "B"]:
        """Return the first known crystal that each crystal matches; -1 where there is none."""
        answer = torch.full((len(structures),), -1)
        for rows, known_rows, found in self._searched(structures, known, _found):
            hits = found >= 0
            answer[rows[hits]] = known_rows[found[hits]]
        return answer

    def best_rms(self, structures: StructureBatch, references: StructureBatch) -> Float[Tensor, "M"]:
        """Return each reference's RMS displacement from the structure that matches it best, or NaN."""
        orders = {"known first": "candidate first", "candidate first": "known first"}
        turned = self.settings.model_copy(update={"order": orders[self.settings.order]})
        answer = torch.full((len(references),), math.nan, dtype=torch.float64)
        # Here the references are looked for among the structures.
        for rows, _, found in replace(self, settings=turned)._searched(references, structures, _best):
            answer[rows] = found
        return answer

    def rms_of_pairs(
        self, structures: StructureBatch, references: StructureBatch, *, scale: bool, supercells: bool
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Return RMS displacements of pairs in units of (V/N)^⅓ and in Å; NaN where a pair does not match."""
        count = len(structures)
        crystals, _ = self._reduced(_both(structures, references), count)
        chunks = [torch.arange(count)[first : first + _IN_CHUNK] for first in range(0, count, _IN_CHUNK)]
        parts = self._matched(
            partial(_displaced, scale, supercells),
            [_Chunk(crystals[rows], crystals[rows + count], None) for rows in chunks],
            count,
            ["pairs", scale, supercells],
        )
        rms = torch.cat([torch.zeros(0, dtype=torch.float64), *(part.tensors["rms"] for part in parts)])
        per_atom = crystals.cells.det().abs() / crystals.n_atoms
        return rms, rms * (per_atom[:count] * per_atom[count:]) ** (1 / 6)

    def _searched(
        self,
        structures: StructureBatch,
        known: StructureBatch,
        function: Callable[[Matcher, _Chunk], dict[str, Tensor]],
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield rows of crystals, rows of known ones, and what the function found for the former."""
        names, others = self._compositions(structures), self._compositions(known)
        wanted = set(names) & set(others)
        rows = _indices(row for row, name in enumerate(names) if name in wanted)
        known_rows = _indices(row for row, name in enumerate(others) if name in wanted)
        both = _both(structures[rows], known[known_rows])
        crystals, disordered = self._reduced(both, len(structures))
        tasks: list[tuple[list[int], list[int]]] = []
        for members in self._classes(crystals).values():
            candidates = [row for row in members if row < len(rows)]
            alike = [row for row in members if row >= len(rows)]
            if alike:
                tasks += [
                    (candidates[first : first + _IN_CHUNK], alike)
                    for first in range(0, len(candidates), _IN_CHUNK)
                ]
        chunks = [(_indices(candidates), _indices(alike)) for candidates, alike in _joined(tasks)]
        parts = self._matched(
            function,
            [
                _Chunk(
                    crystals[these],
                    crystals[those],
                    disordered and disordered[those if self.settings.order == "known first" else these],
                )
                for these, those in chunks
            ],
            len(structures),
            function.__name__,
        )
        for (these, those), part in zip(chunks, parts, strict=True):
            yield rows[these], known_rows[those - len(rows)], part.tensors["found"]

    def _compositions(self, structures: StructureBatch) -> list[bytes]:
        """Return a name of each reduced composition: the same for NaCl and Na4Cl4 (and KBr if anonymous)."""
        counts = np.zeros((len(structures), _HEAVIEST + 2), dtype=np.int32)
        numbers = structures.atomic_numbers.clamp(0, _HEAVIEST + 1).cpu().numpy()
        np.add.at(counts, (structures.structure_index.cpu().numpy(), numbers), 1)
        counts //= np.maximum(np.gcd.reduce(counts, axis=1, keepdims=True), 1)
        if self.anonymous:
            counts = np.sort(counts, axis=1)
        return [row.tobytes() for row in counts]

    def _classes(self, crystals: ReducedCrystals) -> dict[Any, list[int]]:
        return classes(crystals, anonymous=self.anonymous, any_size=self.settings.disordered)

    def _reduced(
        self, structures: StructureBatch, total: int
    ) -> tuple[ReducedCrystals, ReducedCrystals | None]:
        """Return crystals in primitive cells, and the same with elements mixed where settings say so."""
        disordered = self.settings.disordered and not self.anonymous
        answers = []
        for name, batch in [("reduced", structures), ("mixed", structures)][: 1 + disordered]:
            batch = (mixed(batch) if name == "mixed" else batch).replace(info=())
            parts = self._map(_reduction, list(batch.chunks(_IN_CHUNK)), name, None, 0, total)
            answers.append(
                ReducedCrystals.concatenate(
                    [ReducedCrystals(**part.tensors) for part in parts] or [reduce_crystals(batch)]
                )
            )
        return answers[0], answers[1] if disordered else None

    def _matched(self, function: Function, chunks: list[_Chunk], total: int, what: Any) -> list[Part]:
        key = [what, self.settings.model_dump(mode="json"), self.anonymous]
        work = partial(_work, function, self.settings, self.anonymous)
        parts = self._map(work, chunks, "matched", key, 1, total)
        if self.progress is not None and not parts:
            self.progress(total, total)
        return parts

    def _map(
        self, function: Callable[[Any], Part], chunks: list[Any], name: str, key: Any, half: int, total: int
    ) -> list[Part]:
        def show(done: int, of: int) -> None:
            if self.progress is not None:
                self.progress(total * (half * of + done) // (2 * of), total)

        return map_chunks(
            function,
            chunks,
            folder=None if self.folder is None else self.folder / name,
            key=[name, key, version("pymatgen")],
            executor=self.executor,
            progress=show,
        )


def classes(
    crystals: ReducedCrystals, *, anonymous: bool = False, any_size: bool = False
) -> dict[Any, list[int]]:
    """Return the rows of crystals that may match: as many atoms of each element in the primitive cell.

    Args:
        crystals: Crystals; what is not sound is in no class.
        anonymous: Whether elements may be exchanged.
        any_size: Whether primitive cells with multiples of the atoms may match.
    """
    rows: defaultdict[Any, list[int]] = defaultdict(list)
    for row, (numbers, sound) in enumerate(
        zip(crystals.numbers.split(crystals.n_atoms.tolist()), crystals.sound.tolist(), strict=True)
    ):
        if sound:
            elements, counts = np.unique(numbers.numpy(), return_counts=True)
            if any_size:
                counts //= np.gcd.reduce(counts)
            name: tuple[Any, ...] = tuple(counts.tolist())
            rows[tuple(sorted(name)) if anonymous else (*elements.tolist(), *name)].append(row)
    return dict(rows)


@dataclass(frozen=True)
class _Chunk:
    """Crystals of whole classes.

    Attributes:
        crystals: To be grouped, or to be looked for among known ones.
        known: Known crystals.
        disordered: Those of either that come first in ``fit``, with elements mixed that may share a site.
    """

    crystals: ReducedCrystals
    known: ReducedCrystals | None
    disordered: ReducedCrystals | None

    def __len__(self) -> int:
        return len(self.crystals)

    @property
    def contents(self) -> str:
        parts = (self.crystals, self.known, self.disordered)
        return stable_hash([part and part.contents for part in parts])


def _joined(tasks: list[tuple[list[int], list[int]]]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield tasks together until they have about as many crystals as a chunk should."""
    candidates: list[int] = []
    known: list[int] = []
    for some, alike in tasks:
        if candidates and (
            len(candidates) + len(some) > _IN_CHUNK or len(known) + len(alike) > 10 * _IN_CHUNK
        ):
            yield candidates, known
            candidates, known = [], []
        candidates, known = candidates + some, known + alike
    if candidates:
        yield candidates, known


def _reduction(structures: StructureBatch) -> Part:
    return Part(reduce_crystals(structures).tensors)


def _work(function: Function, settings: MatcherSettings, anonymous: bool, chunk: _Chunk) -> Part:
    matcher = Matcher(settings, anonymous=anonymous)
    return Part(function(matcher, chunk), matcher.counts)


def _grouped(matcher: Matcher, chunk: _Chunk) -> dict[str, Tensor]:
    first = torch.full((len(chunk),), -1)
    cells = Cells(chunk.crystals, chunk.disordered)
    for rows in _classes(matcher, chunk.crystals).values():
        firsts: list[int] = []
        for row in rows:
            match = matcher.first_match(cells.cells[row], cells, firsts)
            if match is None:
                firsts.append(row)
            first[row] = row if match is None else match
    return {"first": first}


def _found(matcher: Matcher, chunk: _Chunk) -> dict[str, Tensor]:
    found = torch.full((len(chunk),), -1)
    for row, cell, known, alike in _with_known(matcher, chunk):
        match = matcher.first_match(cell, known, alike)
        found[row] = -1 if match is None else match
    return {"found": found}


def _best(matcher: Matcher, chunk: _Chunk) -> dict[str, Tensor]:
    found = torch.full((len(chunk),), math.nan, dtype=torch.float64)
    for row, cell, known, alike in _with_known(matcher, chunk):
        found[row] = matcher.best_rms(cell, known, alike)
    return {"found": found}


def _with_known(matcher: Matcher, chunk: _Chunk) -> Iterator[tuple[int, Cell, Cells, list[int]]]:
    """Yield each crystal with the known ones and the rows of those of its class."""
    assert chunk.known is not None
    known_first = matcher.settings.order == "known first"
    cells = Cells(chunk.crystals, None if known_first else chunk.disordered)
    known = Cells(chunk.known, chunk.disordered if known_first else None)
    alike = _classes(matcher, chunk.known)
    for name, rows in _classes(matcher, chunk.crystals).items():
        for row in rows:
            yield row, cells.cells[row], known, alike.get(name, [])


def _classes(matcher: Matcher, crystals: ReducedCrystals) -> dict[Any, list[int]]:
    return classes(crystals, anonymous=matcher.anonymous, any_size=matcher.settings.disordered)


def _displaced(scale: bool, supercells: bool, matcher: Matcher, chunk: _Chunk) -> dict[str, Tensor]:
    assert chunk.known is not None
    sound = (chunk.crystals.sound & chunk.known.sound).tolist()
    pairs = zip(Cells(chunk.crystals).cells, Cells(chunk.known).cells, sound, strict=True)
    rms = [
        matcher.rms(first, second, scale=scale, supercells=supercells) if is_sound else math.nan
        for first, second, is_sound in pairs
    ]
    return {"rms": torch.tensor(rms, dtype=torch.float64)}


def _both(first: StructureBatch, second: StructureBatch) -> StructureBatch:
    return StructureBatch.concatenate(
        [each.to(device="cpu", dtype=torch.float64).replace(info=()) for each in (first, second)]
    )


def _indices(rows: Iterable[int]) -> Int[Tensor, "b"]:
    return torch.tensor(list(rows), dtype=torch.int64)
