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
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.structures import StructureBatch
from whorl.symmetry.detection import CRYSTAL_SYSTEMS, known_space_groups
from whorl.symmetry.detection import crystal_system as system_of_group
from whorl.workflow.wishes import SYMPREC, Wish, element_shares, satisfied

if TYPE_CHECKING:
    from whorl.generators import TensorModel

__all__ = ["CRYSTAL_SYSTEMS", "KINDS", "Conditions", "satisfied"]

KINDS = ("elements", "composition", "crystal_system", "space_group")

_CHEMISTRY, _SYMMETRY = {"elements", "composition"}, {"crystal_system", "space_group"}
_TELLS = {  # the kinds from which one can tell whether a row is what was asked for
    "elements": ("elements", "composition"),
    "formula": ("composition",),
    "crystal_system": ("crystal_system", "space_group"),
    "space_group": ("space_group",),
}
_NEAR = 20  # training rows nearest in property that surely count
_WIDTH = 0.1  # of what is near in property, in its standard deviations


def kinds_for(kinds: Sequence[str], asked: Mapping[str, Any]) -> list[str]:
    """Return those of the kinds that say whether a structure is what is asked for."""
    return [kind for kind in kinds if any(value and kind in _TELLS[name] for name, value in asked.items())]


def require_told(kinds: Sequence[str], property: str, asked: Mapping[str, Any]) -> None:
    """Make sure that a generator with conditions of these kinds knows all that is asked for.

    Raises:
        InputError: It was not told of some.
    """
    lacking = [name for name, value in asked.items() if value and not set(_TELLS[name]) & set(kinds)]
    if lacking:
        told = ", ".join(kinds) or f"{property} alone"
        needed = ", ".join(dict.fromkeys(f"'{_TELLS[name][0]}'" for name in lacking))
        raise InputError(
            f"{', '.join(lacking)}: this generator does not know it; it was told of {told}. Train one with "
            f"{needed} among its conditions."
        )


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Which columns a generator is told, and what they mean.

    Attributes:
        property: Name of the first column.
        kinds: Of the others; any of :data:`KINDS`, kept in their order.
        elements: Chemical symbols that ``elements`` and ``composition`` have columns for.
        space_groups: Numbers that ``space_group`` has columns for.

    Raises:
        InputError: An unknown kind.
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

        own = set(cls(property=property, kinds=tuple(kinds)).kinds)
        numbers = torch.unique(structures.atomic_numbers).tolist() if own & _CHEMISTRY else []
        groups: list[int] = []
        if "space_group" in own:
            found = _space_groups(structures).tolist()
            groups = sorted(set(found))
            # They may cost milliseconds a structure, and the columns need them again.
            info = structures.info or ({},) * len(structures)
            named = tuple({**old, "space_group_number": n} for old, n in zip(info, found, strict=True))
            structures = structures.replace(info=named)
        conditions = cls(
            property=property,
            kinds=tuple(own),
            elements=tuple(chemical_symbols[number] for number in numbers),
            space_groups=tuple(groups),
        )
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
        parts = {"property": labels.double()[:, None]}
        if set(self.kinds) & _CHEMISTRY:
            parts["composition"] = self._composition(structures)
            parts["elements"] = (parts["composition"] > 0).double()
        if set(self.kinds) & _SYMMETRY:
            groups = _space_groups(structures)
            of = [(groups >= numbers.start) & (groups < numbers.stop) for numbers in CRYSTAL_SYSTEMS.values()]
            parts["crystal_system"] = torch.stack(of, 1).double()
            parts["space_group"] = (groups[:, None] == torch.tensor(self.space_groups)).double()
            if "space_group" in self.kinds:
                strange = (parts["space_group"].sum(1) == 0).nonzero()[:, 0].tolist()
                if strange:
                    what = f"is of space group {int(groups[strange[0]])}"
                    raise self._no_column(strange[0], what, self.space_groups)
        return torch.cat([parts[kind] for kind in ("property", *self.kinds)], 1)

    def _composition(self, structures: StructureBatch) -> Tensor:
        from ase.data import atomic_numbers, chemical_symbols

        shares = element_shares(structures)
        own = [atomic_numbers[symbol] for symbol in self.elements]
        others = shares.clone()
        others[:, own] = 0.0
        strange = others.nonzero().tolist()
        if strange:
            row, number = strange[0]
            raise self._no_column(row, f"has {chemical_symbols[number]}", self.elements)
        return shares[:, own]

    def _no_column(self, row: int, what: str, columns: Sequence[Any]) -> InputError:
        known = ", ".join(str(column) for column in columns)
        return InputError(f"conditions: structure {row} {what}; there are columns for {known} only.")

    @cached_property
    def _of_kind(self) -> dict[str, Sequence[Any]]:
        """What the columns of each kind stand for."""
        every = (self.elements, self.elements, tuple(CRYSTAL_SYSTEMS), self.space_groups)
        return {kind: values for kind, values in zip(KINDS, every, strict=True) if kind in self.kinds}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each column, such as ``heat_all``, ``element O``, ``cubic`` and ``space group 221``."""
        words = {"elements": "element ", "composition": "share of ", "space_group": "space group "}
        named = [f"{words.get(kind, '')}{value}" for kind, of in self._of_kind.items() for value in of]
        return (self.property, *named)

    @cached_property
    def _slices(self) -> dict[str, slice]:
        slices, start = {}, 1
        for kind, values in self._of_kind.items():
            slices[kind] = slice(start, start + len(values))
            start += len(values)
        return slices

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
            InputError: The model is not trained, or has another number of columns.
        """
        if model.training_record is None:
            raise InputError(f"conditions: this {model.kind} has not been trained. Train it first.")
        self._require_columns(model)
        model.training_record["conditions"] = self.to_dict()

    @classmethod
    def of_model(cls, model: TensorModel, *, property: str) -> Conditions:
        """Return the conditions that :meth:`note` wrote; where it wrote none, the property alone.

        Raises:
            InputError: A damaged record, or another number of columns than the model has.
        """
        noted = (model.training_record or {}).get("conditions")
        conditions = cls(property=property) if noted is None else cls.from_dict(noted)
        conditions._require_columns(model)
        return conditions

    def _require_columns(self, model: TensorModel) -> None:
        if model.properties != len(self.names):
            some = ", ".join([*self.names[:8], *(["…"] if len(self.names) > 8 else [])])
            raise InputError(
                f"conditions: this {model.kind} has {model.properties} columns, and there are names for "
                f"{len(self.names)} ({some}). Train it again."
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

        For each sample a training row is drawn: of those of the symmetry asked for, those that lack fewest of
        the elements (with a formula: whose elements differ least, and then the shares, in steps of a tenth);
        of these one with a property near the target, with weights :math:`e^{-(d - d_0)^2 / 2h^2}`. There d is
        its distance to the target, :math:`d_0` the least one, and h a tenth of the standard deviation, or
        more, until 20 rows count. Then what is asked for is written into the row. An element that it lacks
        takes the place of one that was not asked for, drawn at random; if none is left, it is added.

        Args:
            count: Rows wanted.
            known: Columns of the training rows.
            rng: Source of all randomness; not touched where the property is all there is.
            target: Of the property; drawn with the rest for None.
            elements: That a structure shall have; it may have others too.
            formula: Exact composition, such as BaTiO3.
            crystal_system: One of :data:`CRYSTAL_SYSTEMS`.
            space_group: Number of the space group.

        Raises:
            InputError: A kind that the generator was not told, something that no training row has, wishes
                that contradict each other, or training rows of another number of columns.
        """
        if count < 1:
            raise InputError(f"conditions: got a count of {count}, expected at least 1.")
        wish = self._wish(known, elements, formula, crystal_system, space_group)
        if target is not None and not self.kinds:
            return torch.full((count, 1), float(target), dtype=torch.float64)
        known = known.double()
        rows = known[self._draw(count, wish, target, known, rng)]
        if target is not None:
            rows[:, 0] = target
        if wish.elements:
            self._write_elements(rows, wish, rng)
        for kind, value in (("crystal_system", wish.system), ("space_group", wish.group)):
            if value is not None and kind in self.kinds:
                rows[:, self._slices[kind]] = self._one_hot(kind, [value]).double()
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
        return (self._distance(known, wish) == 0) & self._of_symmetry(known, wish)

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

        >>> Conditions(property="heat_all").describe(target=0.5, elements=["Ba", "O"], crystal_system="cubic")
        'heat_all = 0.5, with Ba, O, cubic'
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
    ) -> Wish:
        """Read a wish and compare it with what the generator was told and has seen."""
        if known.shape[1] != len(self.names) or len(known) == 0:
            raise InputError(
                f"conditions: got training rows of shape {tuple(known.shape)}, expected at least one row of "
                f"{len(self.names)} columns."
            )
        asked = {
            "elements": elements or None,
            "formula": formula,
            "crystal_system": crystal_system,
            "space_group": space_group,
        }
        wish = Wish.of(**asked)  # type: ignore[arg-type]
        require_told(self.kinds, self.property, asked)
        if wish.elements:
            there = self._present(known).any(0).tolist()
            seen = [symbol for symbol, yes in zip(self.elements, there, strict=True) if yes]
            if unseen := [symbol for symbol in wish.elements if symbol not in seen]:
                raise InputError(
                    f"{', '.join(unseen)}: no structure that the generator was trained on has it. Choose "
                    f"from: {', '.join(seen)}."
                )
        if not bool(self._of_symmetry(known, wish).any()):
            wishes = [(str(n), Wish(system=system_of_group(n), group=n)) for n in self.space_groups]
            if wish.group is None:
                wishes = [(name, Wish(system=name)) for name in CRYSTAL_SYSTEMS]
            seen = [name for name, one in wishes if bool(self._of_symmetry(known, one).any())]
            what = wish.system if wish.group is None else f"of space group {wish.group}"
            raise InputError(
                f"no crystal that the generator was trained on is {what}. Choose from: {', '.join(seen)}."
            )
        return wish

    def _one_hot(self, kind: str, values: Sequence[Any]) -> Bool[Tensor, "k"]:
        return torch.tensor([value in values for value in self._of_kind.get(kind, ())], dtype=torch.bool)

    def _present(self, rows: Tensor) -> Bool[Tensor, "n e"]:
        return rows[:, self._slices["elements" if "elements" in self.kinds else "composition"]] > 0

    def _wanted(self, wish: Wish) -> tuple[Bool[Tensor, "e"], Float[Tensor, "e"]]:
        """Return the elements that are asked for, and their shares."""
        shares = [(wish.shares or {}).get(symbol, 0.0) for symbol in self.elements]
        wanted = [symbol in wish.elements for symbol in self.elements]
        return torch.tensor(wanted, dtype=torch.bool), torch.tensor(shares, dtype=torch.float64)

    def _of_symmetry(self, known: Tensor, wish: Wish) -> Bool[Tensor, "N"]:
        if wish.system is None:
            return torch.ones(len(known), dtype=torch.bool)
        kind, right = "crystal_system", self._one_hot("crystal_system", [wish.system])
        if wish.group is not None or kind not in self.kinds:
            groups = [wish.group] if wish.group is not None else CRYSTAL_SYSTEMS[wish.system]
            kind, right = "space_group", self._one_hot("space_group", groups)
        return (known[:, self._slices[kind]] > 0)[:, right].any(1)

    def _distance(self, known: Tensor, wish: Wish) -> Float[Tensor, "N"]:
        """Return by how many elements each row differs from a wish; with a formula, shares count below 1."""
        if not wish.elements:
            return torch.zeros(len(known), dtype=torch.float64)
        present, (wanted, shares) = self._present(known), self._wanted(wish)
        if wish.shares is None:
            return (wanted & ~present).sum(1).double()
        apart = (known[:, self._slices["composition"]].double() - shares).abs().sum(1) / 2.0
        return (wanted != present).sum(1) + (10.0 * apart - 1e-6).clamp(min=0.0).ceil() / 11.0

    def _draw(
        self, count: int, wish: Wish, target: float | None, known: Tensor, rng: torch.Generator
    ) -> Int[Tensor, "count"]:
        distance = torch.where(self._of_symmetry(known, wish), self._distance(known, wish), torch.inf)
        best = (distance == distance.min()).nonzero()[:, 0]
        weights = torch.ones(len(best), dtype=torch.float64)
        if target is not None:
            apart = (known[best, 0] - target).abs()
            apart = apart - apart.min()
            some = apart.sort().values[min(_NEAR, len(best)) - 1]
            width = torch.maximum(_WIDTH * known[:, 0].std(correction=0), some).clamp(min=1e-12)
            weights = torch.exp(-0.5 * (apart / width).square())
        return best[torch.multinomial(weights, count, replacement=True, generator=rng)]

    def _write_elements(self, rows: Tensor, wish: Wish, rng: torch.Generator) -> None:
        wanted, shares = self._wanted(wish)
        if wish.shares is not None:
            shares = shares.expand(len(rows), -1)
        elif "composition" in self.kinds:
            shares = _substituted(rows[:, self._slices["composition"]], wanted, rng)
        else:
            shares = _substituted(self._present(rows).double(), wanted, rng)
        if "composition" in self.kinds:
            rows[:, self._slices["composition"]] = shares
        if "elements" in self.kinds:
            rows[:, self._slices["elements"]] = (shares > 0).double()


def _substituted(
    shares: Float[Tensor, "n e"], wanted: Bool[Tensor, "e"], rng: torch.Generator
) -> Float[Tensor, "n e"]:
    """Put elements that are wanted but missing in the place of others; add those for which none is left."""
    shares = shares.clone()
    for element in wanted.nonzero()[:, 0].tolist():
        lacks = (shares[:, element] == 0).nonzero()[:, 0]
        others = ((shares[lacks] > 0) & ~wanted).double()
        some, full = lacks[others.any(1)], lacks[~others.any(1)]
        if len(some):
            place = torch.multinomial(others[others.any(1)], 1, generator=rng)[:, 0]
            shares[some, element], shares[some, place] = shares[some, place], 0.0
        # Added with the mean share of those that are there.
        mean = shares[full].sum(1) / (shares[full] > 0).sum(1)
        shares[full, element] = mean
        shares[full] = shares[full] / shares[full].sum(1, keepdim=True)
    return shares


def _space_groups(structures: StructureBatch) -> Int[Tensor, "N"]:
    """Return those that are stated, or else found."""
    open_ones = (~structures.pbc.all(1)).nonzero()[:, 0].tolist()
    if open_ones:
        raise InputError(
            f"conditions: structure {open_ones[0]} is not periodic in all three directions, and so is of no "
            "crystal system or space group. Leave these two out of the conditions."
        )
    return known_space_groups(structures, symprec=SYMPREC)
