"""What is judged of generated crystals, and what comes out of it, in plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from whorl.structures.batch import StructureBatch


@dataclass(frozen=True, kw_only=True)
class MadeCrystals:
    """The crystals that came of n generated tensors.

    Attributes:
        structures: The k crystals, decoded and refined.
        rows: Which of the n tensors each is from, shape (k,), ascending.
        targets: Property asked for, of all n, shape (n,).
        skipped: Tensors that are no crystal, and why.
        measures: Of all n tensors, how far each contradicts itself, by the names of
            :class:`whorl.representations.crystens_decoding.Measures`; NaN where nothing could be measured.
        predicted: Properties of the k crystals by name, each of shape (k,); NaN where a model failed.
    """

    structures: StructureBatch
    rows: Int[Tensor, "k"]
    targets: Float[Tensor, "n"]
    skipped: Mapping[int, str] = field(default_factory=dict)
    measures: Mapping[str, Float[Tensor, "n"]] = field(default_factory=dict)
    predicted: Mapping[str, Float[Tensor, "k"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    r"""How one quantity is distributed among generated crystals and among real ones.

    Attributes:
        name: What it is, such as ``"a"`` or ``"formation energy"``.
        unit: Of it; empty for none.
        statistic: Of Kolmogorov and Smirnov, :math:`\sup_x |F_1(x) - F_2(x)|`, 0 for alike and 1 for apart.
        p_value: Chance of a statistic as large between two draws of one distribution.
        made: Values of generated crystals.
        real: Values of real crystals.
        mean_made: Mean of the former.
        mean_real: Mean of the latter.
    """

    name: str
    unit: str
    statistic: float
    p_value: float
    made: int
    real: int
    mean_made: float
    mean_real: float


@dataclass(frozen=True, kw_only=True)
class CrystalVerdict:
    """The outcome for one generator.

    Shares are in percent. Those of decoded crystals are ``None`` where there are none.

    Attributes:
        count: Tensors generated.
        decoded: Of them, those that are crystals.
        measures: Means over tensors (tables 1 and 2 of Alverson et al. 2024).
        percent_distances: Share of the decoded whose atoms are far enough apart.
        percent_volume: Share whose cell has a sensible volume.
        percent_valid: Share of all ``count`` that is decoded and has both.
        percent_neutral: Share of the decoded that can be charge neutral; ``None`` also where that was not
            tested.
        percent_symmetric: Share of the decoded with another space group than P1.
        percent_unique: Distinct crystals by StructureMatcher, as a share of the decoded.
        percent_novel: Share of the distinct ones that is not among the known crystals.
        distributions: Lattice parameters, space groups, atomic numbers.
        properties: Predicted properties.
    """

    count: int
    decoded: int
    measures: Mapping[str, float]
    percent_distances: float | None
    percent_volume: float | None
    percent_valid: float
    percent_neutral: float | None
    percent_symmetric: float | None
    percent_unique: float | None
    percent_novel: float | None
    distributions: tuple[Distribution, ...]
    properties: tuple[Distribution, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CrystalVerdict:
        """Build it from what :meth:`to_dict` returned."""
        parts = {
            name: tuple(Distribution(**one) for one in data[name]) for name in ("distributions", "properties")
        }
        return cls(**{**data, **parts})
