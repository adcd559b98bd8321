"""Displacement of atoms between two descriptions of one crystal, such as generated and relaxed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.crystals.comparison import Comparison
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.executors.base import Executor
from whorl.structures.convert import Structures, as_batch


@dataclass(frozen=True)
class PairRmsd:
    """Root-mean-square displacements of pairs; NaN where a pair does not match.

    Attributes:
        normalized: (B,) float64, in units of (V/N)^⅓.
        angstrom: (B,) float64, in Å, for the geometric mean of the two volumes.
    """

    normalized: Float[Tensor, "B"]
    angstrom: Float[Tensor, "B"]


def rmsd_of_pairs(
    structures: Structures,
    references: Structures,
    *,
    settings: MatcherSettings | None = None,
    scale: bool = True,
    supercells: bool = False,
    progress: Callable[[int, int], object] | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> PairRmsd:
    """Return StructureMatcher's RMS displacement (``get_rms_dist``) of crystals from those of the same index.

    The arguments of ``get_rms_dist`` are in the order given, whatever ``settings.order``.

    Args:
        structures: Crystals, such as the generated ones.
        references: As many crystals, such as the relaxed ones.
        settings: Tolerances. MatterGen's RMSD to relaxed crystals: ``ltol=0.5, stol=0.5, angle_tol=10``.
        scale: Whether cells are brought to one volume first. MatterGen: no.
        supercells: Whether primitive cells of different size are compared. MatterGen: yes.
        progress: Called with (crystals done, crystals in all).
        executor: Does the work.
        folder: Where finished chunks are kept.

    Raises:
        InputError: Not as many references as structures.
    """
    structures, references = as_batch(structures), as_batch(references)
    if len(structures) != len(references):
        raise InputError(
            f"rmsd_of_pairs: got {len(structures)} structures and {len(references)} references; expected one "
            "reference for each structure."
        )
    comparison = Comparison(settings or MatcherSettings(), False, progress, executor, folder)
    return PairRmsd(*comparison.rms_of_pairs(structures, references, scale=scale, supercells=supercells))
