"""What is judged and what comes out of it: evidence in tensors, verdicts in plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.surrogates.errors import PredictionErrors

_FORMAT = "whorl verdict 1"


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """The atoms found for some of the generated samples.

    Attributes:
        rows: Which samples, shape (k,): indices into :class:`Generated`.
        loss: What the search left, shape (k,); infinite where it failed.
        status: How each search ended, such as ``"converged"`` or ``"invalid"``.
        invalid_above: Loss above which a sample is called invalid; ``None`` where that was not determined.
        reference_loss: Losses of real structures put through the same search, shape (r,).
        energy: Property by the potential, of the atoms as they are, shape (k,); NaN where it failed.
        failures: Row of this table, and why the potential failed on it.
        features: Features of the atoms found, shape (k, F).
        structures: The atoms themselves.
    """

    rows: Int[Tensor, "k"]
    loss: Float[Tensor, "k"]
    status: tuple[str, ...]
    invalid_above: float | None = None
    reference_loss: Float[Tensor, "r"] | None = None
    energy: Float[Tensor, "k"] | None = None
    failures: Mapping[int, str] = field(default_factory=dict)
    features: Float[Tensor, "k F"] | None = None
    structures: StructureBatch | None = None


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What the generator of one training size brought forth.

    Attributes:
        targets: Property asked for, shape (n,).
        features: Generated, shape (n, F), in data units.
        predicted: Property by the surrogate, shape (n,); ``None`` without a surrogate.
        training_features: All rows the generator was given, shape (m, F).
        training_properties: Shape (m,).
        reconstructed: The atoms found, where there are any.
    """

    targets: Float[Tensor, "n"]
    features: Float[Tensor, "n F"]
    predicted: Float[Tensor, "n"] | None = None
    training_features: Float[Tensor, "m F"]
    training_properties: Float[Tensor, "m"]
    reconstructed: Reconstructed | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How near a set of samples is to one target.

    Attributes:
        count: Samples judged or not.
        failed: Of them, those that could not be judged; they count as not within.
        mean_absolute_error: Of the others; ``None`` when there are none.
        percent_within: Of all samples; ``None`` when there are none.
        mean: Mean property of those judged.
    """

    count: int
    failed: int
    mean_absolute_error: float | None
    percent_within: float | None
    mean: float | None


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How the search for atoms went at one target.

    Attributes:
        count: Samples searched.
        invalid: Of them, those whose loss is above the threshold or that failed.
        percent_invalid: ``None`` where no threshold was determined and none failed.
        status: Number of searches by how they ended.
        median_loss: ``None`` when none is finite.
    """

    count: int
    invalid: int
    percent_invalid: float | None
    status: Mapping[str, int]
    median_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """How new and how different from one another a set of samples is, in standardised features.

    Attributes:
        count: Samples with finite features.
        distinct: Groups of samples that are not copies of one another.
        percent_copies: Share that is a copy of a training row.
        median_to_training: Median distance to the nearest training row.
        spread: Mean distance of two samples.
        real_spread: The same of the real data with the property asked for.
        real_count: How many those are.
        ratio: ``spread / real_spread``.
        no_ratio: Why there is none.
    """

    count: int
    distinct: int
    percent_copies: float | None
    median_to_training: float | None
    spread: float | None
    real_spread: float | None
    real_count: int
    ratio: float | None
    no_ratio: str | None


@dataclass(frozen=True, kw_only=True)
class TargetVerdict:
    """All that is said of one target.

    Attributes:
        target: Value asked for.
        in_training_range: Whether training data reached it.
        surrogate: Generated features, judged by the surrogate (table 1).
        potential: Atoms as found, judged by the potential, none left out (table 2).
        potential_valid: The same without those called invalid.
        inversion: The search for atoms.
        diversity: Of the generated features.
        diversity_atoms: Of the features of the atoms found.
    """

    target: float
    in_training_range: bool
    surrogate: Accuracy | None
    potential: Accuracy | None
    potential_valid: Accuracy | None
    inversion: Inversion | None
    diversity: Diversity
    diversity_atoms: Diversity | None


@dataclass(frozen=True, kw_only=True)
class SizeVerdict:
    """All that is said of one training size.

    Attributes:
        training_rows: Rows the generator was given.
        training_range: Smallest and largest property among them.
        copy_distance: Below it a sample is a copy of a training row.
        invalid_above: Loss above which a sample is called invalid.
        targets: In ascending order.
    """

    training_rows: int
    training_range: tuple[float, float]
    copy_distance: float
    invalid_above: float | None
    targets: tuple[TargetVerdict, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a run, as plain numbers.

    Attributes:
        property: Name of what was asked for.
        unit: Of it.
        tolerance: Within this of the target is a hit.
        window: Real data within this of the target are what the samples' spread is compared with.
        data_rows: Labelled structures in all.
        data_range: Smallest and largest property among them.
        sizes: One verdict per training size, by its label.
        warnings: What the reader should know.
        surrogate_errors: Of the surrogate, on labelled structures; ``None`` without one.
    """

    property: str
    unit: str
    tolerance: float
    window: float
    data_rows: int
    data_range: tuple[float, float]
    sizes: Mapping[str, SizeVerdict]
    warnings: tuple[str, ...] = ()
    surrogate_errors: PredictionErrors | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Build it from what :meth:`to_dict` returned; ``provenance`` written with it is passed over.

        Raises:
            InputError: The data are no verdict, or one of another version.
        """
        if data.get("format") != _FORMAT:
            raise InputError(
                f"verdict: got format {data.get('format')!r}, expected {_FORMAT!r}. Evaluate the run again."
            )
        try:
            sizes = {label: _size_from(size) for label, size in data["sizes"].items()}
            rest = {n: value for n, value in data.items() if n not in ("format", "sizes", "provenance")}
            low, high = rest.pop("data_range")
            if (errors := rest.get("surrogate_errors")) is not None:
                rest["surrogate_errors"] = PredictionErrors(**errors)
            return cls(
                **{**rest, "warnings": tuple(rest.get("warnings", ()))}, data_range=(low, high), sizes=sizes
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"verdict: incomplete or changed data ({error}). Evaluate the run again."
            ) from error


def _size_from(data: Mapping[str, Any]) -> SizeVerdict:
    low, high = data["training_range"]
    targets = tuple(_target_from(target) for target in data["targets"])
    return SizeVerdict(**{**data, "training_range": (low, high), "targets": targets})


def _target_from(data: Mapping[str, Any]) -> TargetVerdict:
    parts = {
        "surrogate": Accuracy,
        "potential": Accuracy,
        "potential_valid": Accuracy,
        "inversion": Inversion,
        "diversity": Diversity,
        "diversity_atoms": Diversity,
    }
    built = {name: None if data[name] is None else kind(**data[name]) for name, kind in parts.items()}
    return TargetVerdict(**{**data, **built})
