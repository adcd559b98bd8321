"""Contract of protocols: a set of structures in, shares and means with confidence intervals out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.evaluation.estimates import Estimate
from whorl.evaluation.protocols.settings import ProtocolSettings
from whorl.evaluation.structure_set import StructureSet, Which
from whorl.settings import Method
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes

_DENSITY = 1.66053907  # g/cm³ of 1 u/Å³

Input = Literal["potential", "relaxation", "hull", "reference"]


@dataclass(frozen=True, kw_only=True)
class ProtocolResult:
    """Results of a protocol for B structures that were read.

    Attributes:
        metrics: By name; those that lack an input have no value, and say in ``text`` which.
        columns: By name, an entry for each of the B structures; None where there is no value.
        departures: How this evaluation differs from the published protocol, in addition to those that the
            protocol always has.
    """

    metrics: Mapping[str, Estimate]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    departures: tuple[str, ...] = ()


class EvaluationProtocol(Method, ABC):
    """A protocol of the field, with the settings of its publication.

    It is built from its settings: ``MatterGen(MatterGen.Settings())``. Quantities are taken from the set of
    structures, which computes each of them once for all protocols.
    """

    Settings: ClassVar[type[ProtocolSettings]] = ProtocolSettings
    source: ClassVar[str]
    """Publication and code that it follows."""
    departures: ClassVar[tuple[str, ...]] = ()
    """How it always differs from them."""
    uses: ClassVar[frozenset[Input]] = frozenset()
    """Inputs without which some of its metrics have no value."""

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @property
    def matching(self) -> tuple[MatcherSettings, Which] | None:
        """How crystals are compared with each other and with the reference, and which; None for not."""
        return None

    @abstractmethod
    def evaluate(self, structures: StructureSet) -> ProtocolResult:
        """Return the metrics of a set of structures."""

    def missing(self, structures: StructureSet) -> list[str]:
        """Return which of its inputs are not there."""
        there = {
            "potential": structures.potential is not None,
            "relaxation": structures.relaxation is not None,
            "hull": structures.hull is not None,
            "reference": structures.reference is not None,
        }
        return [name for name in there if name in self.uses and not there[name]]

    @classmethod
    def summary(cls) -> str:
        """Return what it is in one sentence."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def lacking(text: str, *inputs: str) -> Estimate:
    """Return the estimate of a metric whose inputs are not there."""
    return Estimate(value=None, text=f"{text} Not computed: no {' and no '.join(inputs)}.")


def cells(values: Tensor) -> list[Any]:
    """Return a column from a tensor, None for what is not finite."""
    if not values.is_floating_point():
        return values.tolist()
    return [
        value if known else None
        for value, known in zip(values.tolist(), values.isfinite().tolist(), strict=True)
    ]


def flags_of(flags: Tensor, known: Tensor) -> list[bool | None]:
    """Return a column of flags, None where they are not known."""
    return [flag if ok else None for flag, ok in zip(flags.tolist(), known.tolist(), strict=True)]


def at_most(values: Tensor, limit: float) -> Tensor:
    """Return which values are known and at most ``limit``, but for rounding errors."""
    return torch.nan_to_num(values, nan=torch.inf) <= limit + 1e-9


def densities(structures: StructureBatch) -> Tensor:
    """Return densities in g/cm³; NaN for what has no volume."""
    from ase.data import atomic_masses

    masses = torch.from_numpy(atomic_masses).double()[structures.atomic_numbers.clamp(0, 118)]
    sums = masses.new_zeros(len(structures)).index_add(0, structures.structure_index, masses)
    volume = volumes(structures.cells)
    periodic = structures.pbc.all(1) & (volume > 0)
    return torch.where(periodic, _DENSITY * sums / volume, torch.nan)
