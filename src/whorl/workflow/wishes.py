"""What a structure shall be, apart from its property, and whether it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import composition
from whorl.symmetry.detection import CRYSTAL_SYSTEMS, space_group_numbers
from whorl.symmetry.detection import crystal_system as find_system

SYMPREC = 0.1
"""Tolerance in Å with which space groups are found."""

_SAME_SHARE = 1e-9
_TINY = 1e-3  # Å³; spglib is not asked about cells below that


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for; nothing where None or empty.

    Attributes:
        elements: Chemical symbols that must be there; with ``shares``, these alone.
        shares: Of the atoms, for each element.
        system: Crystal system; that of ``group``, where there is one.
        group: Number of the space group.
    """

    elements: tuple[str, ...] = ()
    shares: Mapping[str, float] | None = None
    system: str | None = None
    group: int | None = None

    @classmethod
    def of(
        cls,
        *,
        elements: Sequence[str] | None = None,
        formula: str | None = None,
        crystal_system: str | None = None,
        space_group: int | None = None,
    ) -> Wish:
        """Read a wish from what a user wrote.

        Raises:
            InputError: Unknown elements or crystal systems, no formula, or wishes that contradict each other.
        """
        counts = composition(formula) if formula is not None else {}
        require_elements((*(elements or ()), *counts))
        if counts and min(counts.values()) < 1:
            raise InputError(f"formula: got '{formula}', expected at least one atom of each element.")
        strange = [symbol for symbol in elements or () if counts and symbol not in counts]
        if strange:
            raise InputError(
                f"elements: got {', '.join(strange)}, which {formula} does not have. Ask for one of the two."
            )
        if crystal_system is not None and crystal_system not in CRYSTAL_SYSTEMS:
            raise unknown_option("crystal system", crystal_system, CRYSTAL_SYSTEMS)
        if space_group is not None:
            right = find_system(space_group)
            if crystal_system not in (None, right):
                raise InputError(
                    f"space group {space_group} is {right}, not {crystal_system}. Ask for one of the two."
                )
            crystal_system = right
        atoms = sum(counts.values())
        return cls(
            elements=tuple(dict.fromkeys(counts or elements or ())),
            shares={symbol: n / atoms for symbol, n in counts.items()} if counts else None,
            system=crystal_system,
            group=space_group,
        )


def require_elements(symbols: Iterable[str]) -> None:
    """Make sure that there are such elements.

    Raises:
        InputError: Some are none; all of them are named.
    """
    from ase.data import chemical_symbols

    known = chemical_symbols[1:]
    unknown = [symbol for symbol in dict.fromkeys(symbols) if symbol not in known]
    if unknown:
        near = [symbol.capitalize() for symbol in unknown if symbol.capitalize() in known]
        hint = f" Did you mean '{', '.join(near)}'?" if near else ""
        named = "', '".join(unknown)
        raise InputError(
            f"unknown element{'s' if len(unknown) > 1 else ''} '{named}'.{hint} "
            "Write chemical symbols such as O or Ti."
        )


def element_shares(structures: StructureBatch) -> Float[Tensor, "B 119"]:
    """Return the share of the atoms that each element has, by atomic number; zeros without atoms."""
    counts = torch.zeros(len(structures), 119, dtype=torch.float64)
    one = torch.ones(len(structures.atomic_numbers), dtype=torch.float64)
    place = (structures.structure_index.cpu(), structures.atomic_numbers.cpu())
    counts.index_put_(place, one, accumulate=True)
    return counts / counts.sum(1, keepdim=True).clamp(min=1.0)


def satisfied(
    structures: StructureBatch,
    *,
    elements: Sequence[str] | None = None,
    formula: str | None = None,
    crystal_system: str | None = None,
    space_group: int | None = None,
    symprec: float = SYMPREC,
) -> dict[str, Bool[Tensor, "B"]]:
    """Return which structures are what was asked for: one entry for each wish, by its name.

    Args:
        structures: Any; those that are not periodic are of no crystal system.
        elements: All of them must be there; others may be.
        formula: The share of each element must be its.
        crystal_system: Must be that of the space group which spglib finds. What ``info`` says does not count:
            of a decoded structure it may be no more than what the tensor said.
        space_group: Likewise.
        symprec: Tolerance in Å with which it is sought.

    Raises:
        InputError: As :meth:`Wish.of`.
    """
    from ase.data import atomic_numbers

    wish = Wish.of(elements=elements, formula=formula, crystal_system=crystal_system, space_group=space_group)
    found: dict[str, Tensor] = {}
    shares = element_shares(structures)
    if elements:
        found["elements"] = (shares[:, [atomic_numbers[symbol] for symbol in elements]] > 0).all(1)
    if wish.shares is not None:
        meant = torch.zeros(119, dtype=torch.float64)
        for symbol, share in wish.shares.items():
            meant[atomic_numbers[symbol]] = share
        found["formula"] = ((shares - meant).abs() < _SAME_SHARE).all(1)
    if wish.system is None:
        return found
    sound = structures.pbc.all(1) & structures.cells.isfinite().flatten(1).all(1) & (structures.n_atoms > 0)
    sound &= volumes(structures.cells) > _TINY
    sound[structures.structure_index[~structures.positions.isfinite().all(1)]] = False
    groups = torch.zeros(len(structures), dtype=torch.int64)
    if bool(sound.any()):
        groups[sound.cpu()] = space_group_numbers(structures[sound], symprec=symprec)
    if crystal_system is not None:
        of = CRYSTAL_SYSTEMS[crystal_system]
        found["crystal_system"] = (groups >= of.start) & (groups < of.stop)
    if space_group is not None:
        found["space_group"] = groups == space_group
    return found
