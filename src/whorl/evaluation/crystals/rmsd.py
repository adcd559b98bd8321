"""Displacement of atoms between two descriptions of one crystal, such as generated and relaxed."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.structures.convert import Structures


@dataclass(frozen=True)
class PairRmsd:
    """Root-mean-square displacements of pairs; NaN where a pair does not match.

    Attributes:
        normalized: (B,) float64, in units of (V/N)^⅓.
        angstrom: (B,) float64, in Å.
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
) -> PairRmsd:
    """Return StructureMatcher's RMS displacement of crystals from references of the same index.

    The arguments of ``get_rms_dist`` are in the order given, whatever ``settings.order``.

    Args:
        structures: Crystals, such as relaxed ones.
        references: As many crystals, such as the generated ones.
        settings: Tolerances. MatterGen's RMSD to relaxed crystals: ``ltol=0.5, stol=0.5, angle_tol=10``.
        scale: Whether cells are brought to one volume first. MatterGen: no.
        supercells: Whether primitive cells of different size are compared. MatterGen: yes.
    """
    raise NotImplementedError
