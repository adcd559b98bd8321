"""What is judged of generated crystals, and what comes out of it, in plain numbers."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.cgcnn import UNITS
from whorl.evaluation.duplicates import distinct, is_known
from whorl.evaluation.validity import check_validity
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cell_parameters, volumes
from whorl.structures.checks import find_problems
from whorl.symmetry.detection import known_space_groups, space_group_numbers

Progress = Callable[[int, int], object]


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
        percent_strictly_valid: Share of all ``count`` that besides has no two atoms nearer than 0.6 of the
            sum of their covalent radii; ``None`` in verdicts of older versions.
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
    percent_strictly_valid: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CrystalVerdict:
        """Build it from what :meth:`to_dict` returned, JSON's null for NaN included."""
        measures = {
            name: math.nan if value is None else float(value) for name, value in data["measures"].items()
        }
        parts = {
            name: tuple(Distribution(**one) for one in data[name]) for name in ("distributions", "properties")
        }
        return cls(**{**data, **parts, "measures": measures})


def judge_crystals(
    made: MadeCrystals,
    *,
    real: StructureBatch,
    real_predicted: Mapping[str, Tensor] | None = None,
    known: StructureBatch | None = None,
    progress: Progress | None = None,
) -> CrystalVerdict:
    """Judge generated crystals: valid, distinct, new, and distributed as real ones are?

    Distributions are of a, b, c (to 0.001 Å), alpha, beta and gamma (to 0.01°) of the cells as they are
    (compare crystals in like cells), the volume per atom, the number of atoms in the cell, the space group,
    and the atomic numbers of all atoms. The space group is what spglib finds at 0.01 Å, or, of real crystals,
    the number in ``info`` where there is one. Where values repeat, as numbers do, the p-value is an upper
    bound. A quantity without values on either side is left out.

    Crystals that cannot be (not finite, no volume, two atoms at one place) count as not symmetric and not
    unique, and take no part in distributions.

    Args:
        made: What was generated.
        real: Crystals that distributions are compared with.
        real_predicted: Their properties by name, compared with those of the same name that are predicted of
            the generated ones.
        known: Crystals that are not new; by default the real ones.
        progress: Called with (steps done, steps in all).

    Raises:
        InputError: ``rows`` or ``predicted`` that do not fit the crystals.
    """
    _require_fitting(made)
    crystals = made.structures.to(device="cpu", dtype=torch.float64)
    count, decoded = len(made.targets), len(crystals)
    chemistry = decoded > 0 and importlib.util.find_spec("smact") is not None
    validity = check_validity(crystals, chemistry=chemistry)
    sound = _sound(crystals)
    space_groups = torch.ones(decoded, dtype=torch.int64)
    if bool(sound.any()):
        space_groups[sound] = space_group_numbers(crystals[sound])
    groups = distinct(crystals, progress=_half(progress, 0))
    firsts = torch.tensor([group[0] for group in groups], dtype=torch.int64)
    old = is_known(crystals[firsts], real if known is None else known, progress=_half(progress, 1))
    if progress is not None:
        progress(2 * decoded, 2 * decoded)
    real_predicted = real_predicted or {}
    neutral = validity.charge_neutral
    return CrystalVerdict(
        count=count,
        decoded=decoded,
        measures={name: _mean(values) for name, values in made.measures.items()},
        percent_distances=_percent(validity.distances_ok),
        percent_volume=_percent(validity.volume_ok),
        percent_valid=100.0 * int(validity.structurally_valid.sum()) / max(count, 1),
        percent_strictly_valid=100.0 * int(validity.strictly_valid.sum()) / max(count, 1),
        percent_neutral=None if neutral is None else _percent(neutral),
        percent_symmetric=_percent(space_groups > 1),
        percent_unique=100.0 * len(groups) / decoded if decoded else None,
        percent_novel=_percent(~old),
        distributions=_distributions(crystals[sound], space_groups[sound], real),
        properties=tuple(
            compare(name, values, real_predicted[name], unit=UNITS.get(name, ""))
            for name, values in made.predicted.items()
            if name in real_predicted and _finite(values).numel() and _finite(real_predicted[name]).numel()
        ),
    )


def compare(name: str, made: Tensor, real: Tensor, *, unit: str = "") -> Distribution:
    """Compare how one quantity is distributed, by the test of Kolmogorov and Smirnov.

    Values that are not finite are passed over; with none left on a side, statistic and p-value are NaN. The
    p-value is exact where SciPy can have it, for up to 10,000 values.

    >>> compare("a", torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5, 3.5]), unit="Å").statistic
    0.6666666666666666
    """
    from scipy.stats import ks_2samp

    first, second = _finite(made), _finite(real)
    statistic = p_value = math.nan
    if first.numel() and second.numel():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
            found = ks_2samp(first.numpy(), second.numpy())
        statistic, p_value = float(found.statistic), float(found.pvalue)
    return Distribution(
        name=name,
        unit=unit,
        statistic=statistic,
        p_value=p_value,
        made=first.numel(),
        real=second.numel(),
        mean_made=float(first.mean()),
        mean_real=float(second.mean()),
    )


def _require_fitting(made: MadeCrystals) -> None:
    decoded, count = len(made.structures), len(made.targets)
    sizes = {"rows": made.rows, **{f"predicted '{name}'": values for name, values in made.predicted.items()}}
    for name, values in sizes.items():
        if len(values) != decoded:
            raise InputError(
                f"generated crystals: got {len(values)} {name} for {decoded} crystals, expected one each."
            )
    if decoded and not (int(made.rows.min()) >= 0 and int(made.rows.max()) < count):
        raise InputError(
            f"generated crystals: rows go from {int(made.rows.min())} to {int(made.rows.max())}, expected "
            f"numbers from 0 to {count - 1} for {count} tensors."
        )


def _distributions(
    crystals: StructureBatch, space_groups: Int[Tensor, "k"], real: StructureBatch
) -> tuple[Distribution, ...]:
    real = real.to(device="cpu", dtype=torch.float64)
    real = real[_sound(real)]
    if not len(crystals) or not len(real):
        return ()
    ours, theirs = _quantities(crystals, space_groups), _quantities(real, known_space_groups(real))
    units = dict.fromkeys("abc", "Å") | dict.fromkeys(("alpha", "beta", "gamma"), "°")
    units["volume per atom"] = "Å³"
    return tuple(compare(name, ours[name], theirs[name], unit=units.get(name, "")) for name in ours)


def _quantities(crystals: StructureBatch, space_groups: Tensor) -> dict[str, Tensor]:
    # Without rounding, a right angle that is off by 1e-13 would count as below all the exact ones.
    parameters = cell_parameters(crystals.cells)
    return {
        **dict(zip("abc", parameters[:, :3].round(decimals=3).unbind(1), strict=True)),
        **dict(zip(("alpha", "beta", "gamma"), parameters[:, 3:].round(decimals=2).unbind(1), strict=True)),
        "volume per atom": volumes(crystals.cells) / crystals.n_atoms,
        "atoms": crystals.n_atoms,
        "space group": space_groups,
        "atomic number": crystals.atomic_numbers,
    }


def _sound(structures: StructureBatch) -> Bool[Tensor, "B"]:
    sound = structures.pbc.all(1)
    sound[list(find_problems(structures))] = False
    return sound


def _finite(values: Tensor) -> Float[Tensor, "v"]:
    values = values.detach().cpu().double()
    return values[values.isfinite()]


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())


def _percent(flags: Bool[Tensor, "v"]) -> float | None:
    return 100.0 * float(flags.double().mean()) if len(flags) else None


def _half(progress: Progress | None, half: int) -> Progress | None:
    """Report progress as one half of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(half * total + done, 2 * total)
