"""Settings of crystal matching."""

from __future__ import annotations

from typing import Literal

from whorl.settings import Positive, Section


class MatcherSettings(Section):
    """Tolerances of pymatgen's ``StructureMatcher`` and the order of its arguments.

    The order is part of the settings, since ``fit(a, b)`` and ``fit(b, a)`` differ near the tolerances: the
    lattice vectors of the first crystal are sought that resemble the cell of the second.
    """

    ltol: Positive = 0.2
    """Relative tolerance of the lengths of the cells, once both have one volume."""
    stol: Positive = 0.3
    """Largest displacement of an atom, in units of (V/N)^⅓."""
    angle_tol: Positive = 5.0
    """Tolerance of the angles of the cells, in degrees."""
    disordered: bool = False
    """Whether two crystals of one composition also match if the first one does with elements that may share a
    site (:func:`whorl.evaluation.crystals.possibly_disordered`) mixed on their sites: MatterGen's matcher."""
    order: Literal["known first", "candidate first"] = "known first"
    """``fit(known, candidate)``, as ``group_structures`` does with the first of a group and a further one, or
    ``fit(candidate, known)``."""
