"""Proposal of structures of new formulas with a property, from a data set."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.datasets import Dataset, load_dataset, save_dataset, write_extxyz
from whorl.errors import InputError
from whorl.files import contents_hash, provenance, write_text
from whorl.proposals.base import Predict, ProposedStructures, Proposer
from whorl.proposals.decorations import DecorationModel
from whorl.proposals.settings import ProposalSettings, ProposerSettings
from whorl.structures.batch import StructureBatch
from whorl.surrogates import AdditiveSurrogate
from whorl.surrogates.base import Progress
from whorl.surrogates.selection import hit_probability
from whorl.symmetry.detection import space_group_symbol
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.stages.atoms import Labelled, read_labelled

_COSINES = (1200, 3000)  # of the surrogate, least and most: of many structures, more lower its error
_AT_ONCE = 500
_GROUPS_SHOWN, _RARE = 5, 0.005  # groups in the table; of less probability, none
_POOR = 5.0  # times the tolerance: an uncertainty by which a hit is chance


def propose(
    dataset: Path,
    *,
    output: Path,
    count: int,
    monitor: Monitor,
    property: str | None = None,
    target: float | None = None,
    tolerance: float = 0.1,
    settings: ProposalSettings | None = None,
    seed: int = 0,
) -> None:
    """Write structures of different formulas, those most likely to have the value first.

    The table has the likely space groups of each formula too, and its volume expected, where the data have
    crystals. Of one formula that is requested several structures are written.

    The property of proposed structures is predicted by a model fitted to all labelled structures of the data
    set: of which element takes which site where they are decorations of one prototype
    (:mod:`whorl.proposals.decorations`), and otherwise an additive surrogate.

    Args:
        dataset: Labelled structures.
        output: Structures, ``.safetensors``, with ``.extxyz`` and ``.csv`` of the same name.
        count: How many.
        monitor: Receives progress, notes and warnings.
        property: Name of the property, if there are several.
        target: Value of the property; None to disregard it.
        tolerance: Of the target.
        settings: What each formula must be, and the method that proposes them.
        seed: Of all randomness.

    Raises:
        InputError: Nothing that fits the request, or too few labels.
    """
    check_output(output, dataset, second=".extxyz")
    data = load_dataset(dataset)
    if data.structures is None or not len(data.structures):
        raise InputError(f"{dataset}: holds no structures to begin with.")
    name, labels = None, None
    if target is not None:
        labelled = read_labelled(Labelled(dataset=dataset, property=property))
        name, (low, high) = labelled.name, labelled.properties.aminmax()
        if not float(low) <= target <= float(high):
            monitor.warn(
                f"the target {target:g} of {name} lies outside of the data ({low:.4g} to {high:.4g})."
            )
        labels = data.properties[name].double()
    settings = settings or ProposalSettings()
    method = settings.proposer
    proposer = FittedProposer(
        data.structures, labels, settings=method, seed=seed, progress=monitor.progress("models")
    )
    made = proposer.sample(count, target=target, request=settings, tolerance=tolerance, seed=seed)
    if len(made.formulas) < count:
        monitor.warn(f"only {len(made.formulas)} different formulas were found, of {count}.")
    monitor.note(f"formulas by {method.summary()}.")
    tell_formulas(made, monitor)
    if target is not None:
        near = float(((made.predicted - target).abs() <= tolerance).double().mean())
        median = float(made.uncertainty.median())
        if median > _POOR * tolerance or not near:
            monitor.warn(
                f"few of these structures will have {name} = {target:g}: the surrogate of {len(data)} "
                "structures is too uncertain there. Give more labelled structures, most of all near it, "
                "or ask for a value that more of the data have."
            )
        monitor.note(
            f"{name} is predicted within {tolerance:g} of {target:g} for {100 * near:.0f} %; the median "
            f"uncertainty is {median:.2g}."
        )
    _write(
        made,
        data,
        output,
        name,
        target,
        tolerance,
        {
            **provenance(seed=seed, settings=settings.model_dump(mode="json")),
            "proposer": method.model_dump(mode="json"),
            "source": contents_hash(dataset),
        },
        proposer.lattices_of(made, target),
    )


def tell_formulas(made: ProposedStructures, monitor: Monitor, prefix: str = "") -> None:
    """Say how many formulas are new, and how many have no example in the data."""
    counts = {one.counts: one for one in made.formulas}
    new = sum(one.is_new for one in counts.values())
    monitor.note(f"{prefix}{new} of {len(counts)} formulas are not in the data.")
    if without := sum(one.parent is None for one in made.formulas):
        monitor.note(
            f"{prefix}{without} of {len(made.formulas)} structures have no example in the data: their "
            "lattices and space groups are likely ones, and the positions of their atoms are random."
        )


class FittedProposer:
    """A proposer for labelled structures, with the surrogate that predicts the property of the proposals.

    Args:
        structures: The data.
        labels: Their property, NaN where it is unknown; None to leave it out.
        settings: Of the method; substitution by default.
        seed: Of method and surrogate.
        progress: Called while they are fitted.

    Raises:
        InputError: Too few labels.
    """

    def __init__(
        self,
        structures: StructureBatch,
        labels: Float[Tensor, "N"] | None,
        *,
        settings: ProposerSettings | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        structures = structures.to(dtype=torch.float64)
        settings = settings or ProposalSettings().proposer
        self._proposer: Proposer = settings.method(
            structures, labels, settings=settings, seed=seed, progress=progress
        )
        structures = structures.replace(info=())
        self.predict: Predict | None = None
        """Returns the property of structures with its standard deviation; None without labels."""
        if labels is not None:
            known = labels.isfinite()
            self.predict = _predictor(structures[known], labels[known], seed, progress)

    def sample(self, count: int, **wanted: Any) -> ProposedStructures:
        """Return structures; the arguments are those of :meth:`Proposer.sample`."""
        return self._proposer.sample(count, predict=self.predict, **wanted)

    def lattices_of(self, made: ProposedStructures, target: float | None) -> list[tuple[str, str, str]]:
        """Return each structure's space group, its formula's likely ones, and the volume expected in Å³."""
        cells = self._proposer.cells
        if cells is None:
            return [("", "", "")] * len(made.formulas)
        of_data = cells.of_rows()
        info = made.structures.info
        words: dict[Any, tuple[str, str]] = {}
        rows = []
        for k, one in enumerate(made.formulas):
            if one.counts not in words:
                groups = cells.likely(dict(one.counts), target)[:_GROUPS_SHOWN]
                words[one.counts] = (
                    ", ".join(f"{space_group_symbol(g)} {p:.2f}" for g, p in groups if p >= _RARE),
                    f"{cells.volume(dict(one.counts), target):.6g}",
                )
            group = info[k]["space_group_number"] if one.parent is None else of_data[one.parent]
            rows.append((space_group_symbol(group) if group else "", *words[one.counts]))
        return rows


def _predictor(
    structures: StructureBatch, labels: Float[Tensor, "N"], seed: int, progress: Progress | None
) -> Predict:
    decorations = DecorationModel.fit(structures, labels, seed=seed, progress=progress)
    if decorations is not None:
        return decorations.predict
    least, most = _COSINES
    surrogate = AdditiveSurrogate.fit(
        structures, labels, seed=seed, cosines=min(max(least, len(labels)), most), progress=progress
    )

    def predict(some: StructureBatch) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        parts = [surrogate.predict(part) for part in some.chunks(_AT_ONCE)]
        return (
            torch.cat([part.mean for part in parts]),
            torch.cat([part.uncertainty for part in parts if part.uncertainty is not None]),
        )

    return predict


def _write(
    made: ProposedStructures,
    data: Dataset,
    output: Path,
    name: str | None,
    target: float | None,
    tolerance: float,
    made_with: dict[str, Any],
    lattices: list[tuple[str, str, str]],
) -> None:
    ids = tuple(f"{number:05d}_{one.formula}" for number, one in enumerate(made.formulas))
    properties = (
        {} if name is None else {f"predicted_{name}": made.predicted, "uncertainty": made.uncertainty}
    )
    if target is not None:
        properties["target"] = torch.full_like(made.predicted, target)
    result = Dataset(structures=made.structures, properties=properties, ids=ids, provenance=made_with)
    save_dataset(result, output)
    write_extxyz(
        made.structures, output.with_suffix(".extxyz"), properties=properties, provenance=made_with, ids=ids
    )
    chance = torch.full_like(made.predicted, math.nan)
    if target is not None:
        chance = hit_probability(
            made.predicted, made.uncertainty, lower=target - tolerance, upper=target + tolerance
        )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            *("id", "formula", "new", "parent", "target", "predicted", "uncertainty", "chance"),
            *("space_group", "likely_space_groups", "likely_volume"),
        ]
    )
    for k, (own, one) in enumerate(zip(ids, made.formulas, strict=True)):
        value, error = float(made.predicted[k]), float(made.uncertainty[k])
        numbers = [math.nan if target is None else target, value, error, float(chance[k])]
        cells = [f"{x:.6g}" if math.isfinite(x) else "" for x in numbers]
        parent = "" if one.parent is None else data.ids[one.parent]
        table.writerow([own, one.formula, int(one.is_new), parent, *cells, *lattices[k]])
    write_text(output.with_suffix(".csv"), text.getvalue())
