"""What a generator is told of each structure beside its property, and what it is asked for.

Conditions are columns of numbers. The first is the property; those of each kind follow, in this order:

================== ==================================================================================
``elements``       for each element of the data: 1 where the structure has it, 0 where not
``composition``    for each element of the data: its share of the atoms
``crystal_system`` for each of the seven: 1 where the crystal is of it, 0 where not
``space_group``    for each space group of the data: 1 where the crystal is of it, 0 where not
================== ==================================================================================

Seldom is everything asked for. The rest is taken from training rows (:meth:`Conditions.asked`), so that the
whole stays a combination that the generator knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError, did_you_mean, unknown_option
from whorl.representations.crystens import known_space_group
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.symmetry import space_group_numbers
from whorl.workflow.data import composition

if TYPE_CHECKING:
    from whorl.generators import TensorModel

KINDS = ("elements", "composition", "crystal_system", "space_group")
CRYSTAL_SYSTEMS = {
    "triclinic": range(1, 3),
    "monoclinic": range(3, 16),
    "orthorhombic": range(16, 75),
    "tetragonal": range(75, 143),
    "trigonal": range(143, 168),
    "hexagonal": range(168, 195),
    "cubic": range(195, 231),
}
"""Numbers of the space groups of each system."""

SYMPREC = 0.1
"""Tolerance in Å with which space groups are found that are not stated."""

_NEAR = 20  # training rows nearest in property that surely count
_WIDTH = 0.1  # of the property's closeness, in standard deviations
_SAME_SHARE = 1e-9

# Kinds from which it can be told whether a row is what was asked for; one of them is needed.
_NEEDED = {
    "elements": ("elements", "composition"),
    "formula": ("composition",),
    "crystal_system": ("crystal_system", "space_group"),
    "space_group": ("space_group",),
}


@dataclass(frozen=True)
class _Wish:
    """What is asked for beside the property; nothing where None or empty."""

    shares: Mapping[str, float] | None = None
    elements: tuple[str, ...] = ()
    system: str | None = None
    group: int | None = None

    @classmethod
    def of(
        cls,
        elements: Sequence[str] | None,
        formula: str | None,
        crystal_system: str | None,
        space_group: int | None,
    ) -> _Wish:
        """Check what was written, apart from any data."""
        from ase.data import chemical_symbols

        counts = None if formula is None else composition(formula)
        known = chemical_symbols[1:]
        for symbol in (*(elements or ()), *(counts or ())):
            if symbol not in known:
                near = did_you_mean(symbol, known).split(" Choose")[0]
                raise InputError(f"unknown element '{symbol}'.{near} Write chemical symbols such as O or Ti.")
        if counts is not None and min(counts.values()) < 1:
            raise InputError(f"formula: got '{formula}', expected at least one atom of each element.")
        strange = [symbol for symbol in elements or () if counts is not None and symbol not in counts]
        if strange:
            raise InputError(
                f"elements: got {', '.join(strange)}, which {formula} does not have. Ask for one of the two."
            )
        if crystal_system is not None and crystal_system not in CRYSTAL_SYSTEMS:
            raise unknown_option("crystal system", crystal_system, CRYSTAL_SYSTEMS)
        if space_group is not None:
            if not 1 <= space_group <= 230:
                raise InputError(f"space_group: got {space_group}, expected a number from 1 to 230.")
            right = system_of(space_group)
            if crystal_system not in (None, right):
                raise InputError(
                    f"space group {space_group} is {right}, not {crystal_system}. Ask for one of the two."
                )
            crystal_system = right
        total = sum(counts.values()) if counts else 1
        return cls(
            shares={symbol: n / total for symbol, n in counts.items()} if counts else None,
            elements=tuple(dict.fromkeys(counts or elements or ())),
            system=crystal_system,
            group=space_group,
        )


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Which columns a generator is told, and what they mean.

    Attributes:
        property: Name of the first column.
        kinds: Of the others; any of :data:`KINDS`, kept in their order.
        elements: Chemical symbols that ``elements`` and ``composition`` have columns for.
        space_groups: Numbers that ``space_group`` has columns for.
    """

    property: str
    kinds: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    space_groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown_option("kind of condition", str(kind), KINDS)
        object.__setattr__(self, "kinds", tuple(kind for kind in KINDS if kind in self.kinds))

    @classmethod
    def of_data(
        cls,
        kinds: Sequence[str],
        *,
        property: str,
        labels: Float[Tensor, "N"],
        structures: StructureBatch,
    ) -> tuple[Conditions, Float[Tensor, "N p"]]:
        """Return conditions for the elements and space groups of some structures, and their columns.

        Args:
            kinds: Any of :data:`KINDS`; none for the property alone.
            property: Its name.
            labels: Its values.
            structures: As many; see :meth:`columns`.

        Raises:
            InputError: An unknown kind, another number of labels than of structures, or symmetry asked of
                structures that are not periodic.
        """
        from ase.data import chemical_symbols

        conditions = cls(property=property, kinds=tuple(kinds))
        elements: tuple[str, ...] = ()
        groups: tuple[int, ...] = ()
        if {"elements", "composition"} & set(conditions.kinds):
            there = torch.unique(structures.atomic_numbers).tolist()
            elements = tuple(chemical_symbols[number] for number in there)
        if {"crystal_system", "space_group"} & set(conditions.kinds):
            numbers = _stated_or_found(structures)
            # Symmetry costs milliseconds a structure: it is found once.
            info = structures.info or ({},) * len(structures)
            structures = structures.replace(
                info=tuple(
                    {**old, "space_group_number": n} for old, n in zip(info, numbers.tolist(), strict=True)
                )
            )
            groups = tuple(torch.unique(numbers).tolist()) if "space_group" in conditions.kinds else ()
        conditions = cls(property=property, kinds=conditions.kinds, elements=elements, space_groups=groups)
        return conditions, conditions.columns(labels=labels, structures=structures)

    def columns(self, *, labels: Float[Tensor, "N"], structures: StructureBatch) -> Float[Tensor, "N p"]:
        """Return the conditions of structures as float64.

        Space groups are those of ``info`` (``space_group_number`` or ``spacegroup_number``), or else what
        spglib finds within 0.1 Å, in some milliseconds a structure.

        Raises:
            InputError: Another number of labels than of structures, an element or space group that has no
                column, or symmetry asked of structures that are not periodic.
        """
        if len(labels) != len(structures):
            raise InputError(
                f"conditions: got {len(labels)} values of {self.property} for {len(structures)} structures."
            )
        parts = [labels.double()[:, None]]
        shares = self._shares(structures) if self.elements else labels.new_zeros(len(labels), 0).double()
        groups = torch.ones(len(structures), dtype=torch.int64)
        if {"crystal_system", "space_group"} & set(self.kinds):
            groups = _stated_or_found(structures)
        for kind in self.kinds:
            if kind == "elements":
                parts.append((shares > 0).double())
            elif kind == "composition":
                parts.append(shares)
            elif kind == "crystal_system":
                of_system = [(groups >= of.start) & (groups < of.stop) for of in CRYSTAL_SYSTEMS.values()]
                parts.append(torch.stack(of_system, 1).double())
            else:
                same = groups[:, None] == torch.tensor(self.space_groups, dtype=torch.int64)
                if not bool(same.any(1).all()):
                    strange = int(groups[int((~same.any(1)).nonzero()[0])])
                    raise InputError(
                        f"conditions: space group {strange} has no column among {self._known()}."
                    )
                parts.append(same.double())
        return torch.cat(parts, 1)

    def _shares(self, structures: StructureBatch) -> Tensor:
        from ase.data import atomic_numbers, chemical_symbols

        counts = torch.zeros(len(structures), len(chemical_symbols), dtype=torch.float64)
        one = torch.ones(len(structures.atomic_numbers), dtype=torch.float64)
        place = (structures.structure_index.cpu(), structures.atomic_numbers.cpu())
        counts.index_put_(place, one, accumulate=True)
        own = counts[:, [atomic_numbers[symbol] for symbol in self.elements]]
        total = counts.sum(1, keepdim=True)
        if not torch.equal(own.sum(1, keepdim=True), total):
            column = torch.ones(counts.shape[1], dtype=torch.bool)
            column[[atomic_numbers[symbol] for symbol in self.elements]] = False
            row, number = (counts * column).nonzero()[0].tolist()
            raise InputError(
                f"conditions: structure {row} has {chemical_symbols[number]}, which has no column among "
                f"{self._known()}."
            )
        return own / total.clamp(min=1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column, such as ``heat_all``, ``element O``, ``share of O``, ``space group 221``."""
        of_kind = {
            "elements": [f"element {symbol}" for symbol in self.elements],
            "composition": [f"share of {symbol}" for symbol in self.elements],
            "crystal_system": list(CRYSTAL_SYSTEMS),
            "space_group": [f"space group {number}" for number in self.space_groups],
        }
        return (self.property, *(name for kind in self.kinds for name in of_kind[kind]))

    def _slice(self, kind: str) -> slice:
        widths = {
            "elements": len(self.elements),
            "composition": len(self.elements),
            "crystal_system": len(CRYSTAL_SYSTEMS),
            "space_group": len(self.space_groups),
        }
        start = 1 + sum(widths[other] for other in self.kinds[: self.kinds.index(kind)])
        return slice(start, start + widths[kind])

    def _known(self) -> str:
        parts = [", ".join(self.elements), ", ".join(map(str, self.space_groups))]
        return " and ".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` rebuilds it from, JSON-able."""
        return {
            "property": self.property,
            "kinds": list(self.kinds),
            "elements": list(self.elements),
            "space_groups": list(self.space_groups),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Conditions:
        """Rebuild from :meth:`to_dict`.

        Raises:
            InputError: Something else.
        """
        try:
            return cls(
                property=str(values["property"]),
                kinds=tuple(str(kind) for kind in values["kinds"]),
                elements=tuple(str(symbol) for symbol in values["elements"]),
                space_groups=tuple(int(number) for number in values["space_groups"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"conditions: damaged ({error!r}). Train the generator again.") from None

    def note(self, model: TensorModel) -> None:
        """Write these conditions into the record of a trained model, with which they are saved.

        Raises:
            InputError: The model is not trained, or was told another number of columns.
        """
        if model.training_record is None:
            raise InputError(f"conditions: this {model.kind} has not been trained. Train it first.")
        self._require_columns(model.properties, f"this {model.kind}")
        model.training_record["conditions"] = self.to_dict()

    @classmethod
    def of_model(cls, model: TensorModel, *, property: str) -> Conditions:
        """Return the conditions that :meth:`note` wrote; where it wrote none, the property alone.

        Raises:
            InputError: A damaged record, or another number of columns than the model has.
        """
        noted = (model.training_record or {}).get("conditions")
        conditions = cls(property=property) if noted is None else cls.from_dict(noted)
        conditions._require_columns(model.properties, f"this {model.kind}")
        return conditions

    def _require_columns(self, count: int, whose: str) -> None:
        if count != len(self.names):
            raise InputError(
                f"conditions: {whose} has {count} columns, but {len(self.names)} have names "
                f"({', '.join(self.names[:8])}{', …' if len(self.names) > 8 else ''}). Train it again."
            )

    def asked(
        self,
        count: int,
        *,
        known: Float[Tensor, "N p"],
        rng: torch.Generator,
        target: float | None = None,
        elements: Sequence[str] | None = None,
        formula: str | None = None,
        crystal_system: str | None = None,
        space_group: int | None = None,
    ) -> Float[Tensor, "count p"]:
        r"""Return conditions to sample at: exactly what is asked for, the rest from training rows.

        For each sample a training row is drawn: of those of the symmetry asked for, those that have most of
        the elements asked for (or, with a formula, differ in fewest elements, then least in their shares, in
        steps of a tenth), and of these one with a property near the target, with weights
        :math:`e^{-(d - d_0)^2 / 2h^2}`. There d is its distance to the target, :math:`d_0` the least one, and
        h a tenth of the standard deviation, or more, until 20 rows count. What is asked for is then written
        into the row. An element that it lacks takes the place of one that was not asked for, drawn at
        random; if there is none left, it is added.

        Args:
            count: Rows wanted.
            known: Columns of the training rows.
            rng: Source of all randomness; not touched if nothing is left to be drawn.
            target: Of the property; drawn with the rest for None.
            elements: That a structure shall have; it may have others too.
            formula: Exact composition, such as BaTiO3.
            crystal_system: One of :data:`CRYSTAL_SYSTEMS`.
            space_group: Number of the space group.

        Raises:
            InputError: A kind that the generator was not told, something of which no training row has any,
                wishes that contradict each other, or columns of another number.
        """
        wish = self._wish(known, elements, formula, crystal_system, space_group)
        if count < 1:
            raise InputError(f"conditions: got a count of {count}, expected at least 1.")
        if target is not None and not self.kinds:
            return torch.full((count, 1), float(target), dtype=torch.float64)
        rows = self._draw(count, wish, target, known.double(), rng).clone()
        if target is not None:
            rows[:, 0] = target
        if wish.elements:
            self._write_elements(rows, wish, rng)
        if wish.system is not None and "crystal_system" in self.kinds:
            rows[:, self._slice("crystal_system")] = _one_hot(wish.system, list(CRYSTAL_SYSTEMS))
        if wish.group is not None:
            rows[:, self._slice("space_group")] = _one_hot(wish.group, self.space_groups)
        return rows

    def matching(
        self,
        known: Float[Tensor, "N p"],
        *,
        elements: Sequence[str] | None = None,
        formula: str | None = None,
        crystal_system: str | None = None,
        space_group: int | None = None,
    ) -> Bool[Tensor, "N"]:
        """Return which training rows are all that is asked for, apart from the property.

        Raises:
            InputError: As :meth:`asked`.
        """
        wish = self._wish(known, elements, formula, crystal_system, space_group)
        return (self._element_distance(known, wish) == 0) & self._of_symmetry(known, wish)

    def describe(
        self,
        *,
        target: float | None = None,
        elements: Sequence[str] | None = None,
        formula: str | None = None,
        crystal_system: str | None = None,
        space_group: int | None = None,
    ) -> str:
        """Return what is asked for in words.

        >>> Conditions(property="heat_all").describe(
        ...     target=0.5, elements=["Ba", "Ti"], crystal_system="cubic"
        ... )
        'heat_all = 0.5, with Ba, Ti, cubic'
        """
        parts = [
            f"{self.property} = {target:g}" if target is not None else "",
            f"with {', '.join(elements)}" if elements else "",
            formula or "",
            crystal_system or "",
            f"space group {space_group}" if space_group is not None else "",
        ]
        return ", ".join(part for part in parts if part)

    def _wish(
        self,
        known: Tensor,
        elements: Sequence[str] | None,
        formula: str | None,
        crystal_system: str | None,
        space_group: int | None,
    ) -> _Wish:
        """Check a wish against what the generator was told, and what it has seen."""
        if known.shape[1] != len(self.names) or len(known) == 0:
            raise InputError(
                f"conditions: got training rows of shape {tuple(known.shape)}, expected at least one row of "
                f"{len(self.names)} columns."
            )
        asked = {
            "elements": bool(elements),
            "formula": formula is not None,
            "crystal_system": crystal_system is not None,
            "space_group": space_group is not None,
        }
        for name, wanted in asked.items():
            if wanted and not set(_NEEDED[name]) & set(self.kinds):
                told = ", ".join(self.kinds) or f"{self.property} alone"
                raise InputError(
                    f"{name}: this generator does not know it; it was told of {told}. Train one with "
                    f"'{_NEEDED[name][0]}' among its conditions."
                )
        wish = _Wish.of(elements, formula, crystal_system, space_group)
        if wish.elements:
            there = self._present(known).any(0).tolist()
            seen = [symbol for symbol, is_there in zip(self.elements, there, strict=True) if is_there]
            for symbol in wish.elements:
                if symbol not in seen:
                    raise InputError(
                        f"{symbol}: no structure that the generator was trained on has it. Choose from: "
                        f"{', '.join(seen)}."
                    )
        if not bool(self._of_symmetry(known, wish).any()):
            what = wish.system if wish.group is None else f"of space group {wish.group}"
            raise InputError(
                f"no crystal that the generator was trained on is {what}. There are: "
                f"{self._symmetries(known, wish)}."
            )
        return wish

    def _symmetries(self, known: Tensor, wish: _Wish) -> str:
        if wish.group is not None:
            seen = known[:, self._slice("space_group")].any(0).tolist()
            return ", ".join(str(n) for n, there in zip(self.space_groups, seen, strict=True) if there)
        systems = [name for name in CRYSTAL_SYSTEMS if self._of_symmetry(known, _Wish(system=name)).any()]
        return ", ".join(systems)

    def _present(self, rows: Tensor) -> Bool[Tensor, "N e"]:
        return rows[:, self._slice("elements" if "elements" in self.kinds else "composition")] > 0

    def _of_symmetry(self, known: Tensor, wish: _Wish) -> Bool[Tensor, "N"]:
        if wish.group is not None:
            return (
                known[:, self._slice("space_group")][:, self.space_groups.index(wish.group)] > 0
                if (wish.group in self.space_groups)
                else torch.zeros(len(known), dtype=torch.bool)
            )
        if wish.system is None:
            return torch.ones(len(known), dtype=torch.bool)
        if "crystal_system" in self.kinds:
            return known[:, self._slice("crystal_system")][:, list(CRYSTAL_SYSTEMS).index(wish.system)] > 0
        own = [number in CRYSTAL_SYSTEMS[wish.system] for number in self.space_groups]
        return known[:, self._slice("space_group")][:, own].any(1)

    def _element_distance(self, known: Tensor, wish: _Wish) -> Float[Tensor, "N"]:
        """Return how many elements differ from what is asked for; with a formula, the shares added."""
        if not wish.elements:
            return torch.zeros(len(known), dtype=torch.float64)
        present = self._present(known)
        wanted = self._wanted(wish)
        if wish.shares is None:
            return (wanted & ~present).sum(1).double()
        shares = torch.tensor([wish.shares.get(symbol, 0.0) for symbol in self.elements]).double()
        apart = (known[:, self._slice("composition")].double() - shares).abs().sum(1) / 2.0
        return (wanted != present).sum(1) + torch.ceil((apart - _SAME_SHARE).clamp(min=0.0) * 10.0) / 11.0

    def _wanted(self, wish: _Wish) -> Bool[Tensor, "e"]:
        return torch.tensor([symbol in wish.elements for symbol in self.elements], dtype=torch.bool)

    def _draw(
        self, count: int, wish: _Wish, target: float | None, known: Tensor, rng: torch.Generator
    ) -> Tensor:
        distance = torch.where(self._of_symmetry(known, wish), self._element_distance(known, wish), torch.inf)
        best = (distance == distance.min()).nonzero()[:, 0]
        weights = torch.ones(len(best), dtype=torch.float64)
        if target is not None:
            apart = (known[best, 0] - target).abs()
            apart = apart - apart.min()
            nearby = apart.sort().values[min(_NEAR, len(best)) - 1]
            width = torch.maximum(_WIDTH * known[:, 0].std(correction=0), nearby).clamp(min=1e-12)
            weights = torch.exp(-0.5 * (apart / width).square())
        return known[best[torch.multinomial(weights, count, replacement=True, generator=rng)]]

    def _write_elements(self, rows: Tensor, wish: _Wish, rng: torch.Generator) -> None:
        wanted = self._wanted(wish)
        present = self._present(rows)
        if wish.shares is not None:
            shares = torch.tensor([wish.shares.get(symbol, 0.0) for symbol in self.elements]).double()
            present, shares = wanted.expand_as(present), shares.expand(len(rows), -1)
        else:
            mixed = "composition" in self.kinds
            shares = rows[:, self._slice("composition")] if mixed else present.double()
            shares = _substituted(shares, wanted, rng)
            present = shares > 0
        if "elements" in self.kinds:
            rows[:, self._slice("elements")] = present.double()
        if "composition" in self.kinds:
            rows[:, self._slice("composition")] = shares


def _substituted(
    shares: Float[Tensor, "n e"], wanted: Bool[Tensor, "e"], rng: torch.Generator
) -> Float[Tensor, "n e"]:
    """Put elements that are wanted but missing in the place of others; add those for which none is left."""
    shares = shares.clone()
    for element in wanted.nonzero()[:, 0].tolist():
        lacks = (shares[:, element] == 0).nonzero()[:, 0]
        if len(lacks) == 0:
            continue
        others = ((shares[lacks] > 0) & ~wanted).double()
        free = others.sum(1) > 0
        some = lacks[free]
        if len(some):
            victim = torch.multinomial(others[free], 1, generator=rng)[:, 0]
            shares[some, element] = shares[some, victim]
            shares[some, victim] = 0.0
        full = lacks[~free]
        # The mean share of the elements then there; presence (1 for each) comes out too.
        shares[full, element] = shares[full].sum(1) / (shares[full] > 0).sum(1).clamp(min=1)
        total = shares[full].sum(1, keepdim=True)
        shares[full] = shares[full] / total
    return shares


def satisfied(
    structures: StructureBatch,
    *,
    elements: Sequence[str] | None = None,
    formula: str | None = None,
    crystal_system: str | None = None,
    space_group: int | None = None,
    symprec: float = SYMPREC,
) -> dict[str, Bool[Tensor, "B"]]:
    """Return which structures are what was asked for; one entry for each wish, by its name.

    Args:
        structures: Any.
        elements: All of them must be there; others may be.
        formula: The shares of all elements must be its.
        crystal_system: Must be that of the space group which spglib finds. What ``info`` says does not count:
            of a decoded structure it may be no more than what the tensor said.
        space_group: Likewise.
        symprec: Tolerance in Å with which it is sought.

    Raises:
        InputError: Unknown elements or crystal systems, or wishes that contradict each other.
    """
    from ase.data import atomic_numbers

    wish = _Wish.of(elements, formula, crystal_system, space_group)
    counts = torch.zeros(len(structures), 119, dtype=torch.float64)
    one = torch.ones(len(structures.atomic_numbers), dtype=torch.float64)
    place = (structures.structure_index.cpu(), structures.atomic_numbers.cpu())
    counts.index_put_(place, one, accumulate=True)
    found: dict[str, Tensor] = {}
    if elements:
        found["elements"] = (counts[:, [atomic_numbers[symbol] for symbol in elements]] > 0).all(1)
    if wish.shares is not None:
        shares = torch.zeros(119, dtype=torch.float64)
        for symbol, share in wish.shares.items():
            shares[atomic_numbers[symbol]] = share
        own = counts / counts.sum(1, keepdim=True).clamp(min=1.0)
        found["formula"] = ((own - shares).abs() < _SAME_SHARE).all(1)
    if wish.system is not None:
        sound = structures.pbc.all(1).cpu() & structures.cells.isfinite().flatten(1).all(1).cpu()
        sound &= (volumes(structures.cells).cpu() > 1e-3) & (structures.n_atoms.cpu() > 0)
        groups = torch.zeros(len(structures), dtype=torch.int64)
        if bool(sound.any()):
            groups[sound] = space_group_numbers(structures[sound], symprec=symprec)
        of = CRYSTAL_SYSTEMS[wish.system]
        if crystal_system is not None:
            found["crystal_system"] = (groups >= of.start) & (groups < of.stop)
        if space_group is not None:
            found["space_group"] = groups == space_group
    return found


def system_of(space_group: int) -> str:
    """Return the crystal system of a space group, given by its number.

    >>> system_of(221)
    'cubic'
    """
    return next(name for name, numbers in CRYSTAL_SYSTEMS.items() if space_group in numbers)


def _stated_or_found(structures: StructureBatch) -> Int[Tensor, "N"]:
    periodic = structures.pbc.all(1)
    if not bool(periodic.all()):
        raise InputError(
            f"conditions: structure {int((~periodic).nonzero()[0])} is not periodic in all three directions, "
            "and so is of no crystal system or space group. Leave these two out of the conditions."
        )
    numbers = torch.tensor(
        [known_space_group(info) for info in structures.info] or [0] * len(structures), dtype=torch.int64
    )
    unknown = numbers == 0
    if bool(unknown.any()):
        numbers[unknown] = space_group_numbers(structures[unknown], symprec=SYMPREC)
    return numbers


def _one_hot(value: str | int, of: Sequence[str | int]) -> Float[Tensor, "k"]:
    return torch.tensor([float(value == one) for one in of], dtype=torch.float64)
