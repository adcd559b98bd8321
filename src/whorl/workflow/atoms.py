"""From generated features to atoms: inversion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.datasets import (
    Dataset,
    FeatureSet,
    load_features,
    save_dataset,
    save_features,
    write_extxyz,
)
from whorl.errors import InputError
from whorl.files import provenance, write_json
from whorl.inversion import (
    InversionProblem,
    InversionResult,
    InversionStatus,
    algorithm1,
    solve,
    whitening_weights,
)
from whorl.locks import one_at_a_time
from whorl.representations import Representation, make_representation
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.settings import InvertSettings
from whorl.workflow.stages.sample import read_rows
from whorl.workflow.templates import make_templates
from whorl.workflow.wishes import Wish, satisfied

_YARDSTICKS = 2000  # real structures whose neighbours are sought
_YARDSTICKS_AT_ONCE = 64
_SAME = 1e-9  # distance of features up to which two structures are the same


@one_at_a_time
def invert(
    generated: Path,
    *,
    settings: InvertSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
    features: Path | None = None,
    rows: Path | None = None,
    dataset: Path | None = None,
    composition: str | None = None,
) -> None:
    """Find atoms for generated features, and write them with loss and status.

    Composition, cell and periodicity are those of the most similar training structure (``dataset``), as far
    as they are not given or were requested of the generator (:mod:`whorl.workflow.templates`). Generated
    features are mostly those of no structure exactly, so some loss is left. Where it is larger than the
    distance of real structures from their nearest neighbours (:func:`neighbour_distance`), the target is
    called invalid: what was found is then no more its structure than another one would be. Held-out real
    features (the validation ``rows`` of ``features``) are inverted too, since they show what the search can
    reach.

    Args:
        generated: From :func:`whorl.workflow.stages.generate.generate`.
        settings: Of the search.
        output: Structures, ``.safetensors``. Beside it, ``.extxyz``, their own features
            (``…-features.safetensors``), the held-out ones found again (``…-reference.safetensors``), and the
            threshold and how many held-out ones were solved (``…-inversion.json``).
        seed: Of all randomness.
        monitor: Told of progress and warnings.
        features: Features of real structures.
        rows: Which of them trained and which were held out.
        dataset: The structures they belong to.
        composition: The atoms to place, such as Pt10; by default those of the settings.

    Raises:
        InputError: It is not known which atoms to place, or in which cell; requests that contradict each
            other; files of different representations.
    """
    check_output(output, generated, features, rows, dataset, beside=".extxyz")
    composition = settings.composition or composition
    wanted = _first_of_each_target(load_features(generated), settings.samples)
    representation = make_representation(wanted.representation)
    real = load_features(features, representation=representation) if features else None
    requested = _requested(wanted, composition, monitor)
    templates = make_templates(
        wanted,
        real=real,
        dataset=dataset,
        composition=composition,
        requested=requested,
        free_cell=settings.free_cell,
    )
    if templates.free_cell and settings.solver == "algorithm1":
        raise InputError(
            "solver algorithm1 holds cells fixed; a cell that is not known needs the solver whorl."
        )
    if templates.free_cell and not settings.free_cell:
        monitor.warn(
            "the features are of crystals and no cell is given, so the cells are sought too. Give the data "
            "set that the features were made of (--dataset, --features) to take those of similar structures."
        )
    weights = None
    if settings.weights == "whitening":
        if real is None:
            raise InputError("weights 'whitening' need the features of real structures (--features).")
        weights = whitening_weights(real.features.flatten(1).double())
    scratch = output.with_name(f"{output.stem}-search")

    threshold = None
    if real is not None:
        threshold = neighbour_distance(
            real.features.flatten(1).double(), weights=weights, quantile=settings.quantile
        )
    if threshold is not None:
        threshold *= settings.margin

    def search(
        sought: FeatureSet, template: StructureBatch, what: str, *, is_real: bool = False
    ) -> InversionResult:
        target = sought.features.flatten(1).double()
        problem = InversionProblem(
            representation=representation,
            target=target,
            names=sought.ids,
            template=template,
            free_cell=templates.free_cell,
            min_distance=settings.min_distance if settings.solver == "whorl" else None,
            # With weights of its own the search would look for what is nearest by another measure.
            weights=torch.ones(target.shape[1], dtype=torch.float64) if weights is None else weights,
        )
        limit = math.inf if is_real or threshold is None else threshold
        find: Callable[..., InversionResult] = solve if settings.solver == "whorl" else algorithm1
        return find(
            problem,
            **settings.search(real=is_real),
            seed=derive_seed(seed, "invert"),
            invalid_above=limit,
            checkpoint=scratch,
            progress=monitor.progress(what),
        )

    made_with = provenance(seed=seed, settings=settings.model_dump())
    reference_losses: list[float] = []
    reference_solved = 0
    held_out, of_held_out = None, None
    if real is not None and rows is not None and settings.reference:
        chosen = read_rows(rows)["validation"][: settings.reference]
        held_out, of_held_out = real.select(chosen), templates.of_real(chosen)
        if of_held_out is None:
            monitor.warn(
                "without the data set (--dataset) it is not known which atoms the held-out real crystals "
                "have, so they are not inverted for comparison."
            )
    if held_out is not None and of_held_out is not None:
        known = search(held_out, of_held_out, "inverting real ones", is_real=True)
        reference_losses = known.loss.tolist()
        reference_solved = known.status.count(InversionStatus.CONVERGED)
        if 2 * reference_solved < len(known):
            monitor.warn(
                f"the search found only {reference_solved} of {len(known)} held-out real structures again, "
                "so for generated ones too a lower loss may exist. Give it more evaluations (or starts)."
            )
        save_dataset(
            _as_dataset(known, held_out, made_with), output.with_name(f"{output.stem}-reference.safetensors")
        )
    found = search(wanted, templates.structures, "inverting")
    result = _as_dataset(found, wanted, made_with)
    save_dataset(result, output)
    assert result.structures is not None
    met = satisfied(result.structures, **requested)
    for name, flags in met.items():
        tell = monitor.note if bool(flags.all()) else monitor.warn
        tell(
            f"{int(flags.sum())} of the {len(flags)} structures found have the {name.replace('_', ' ')} "
            f"requested ({_in_words(requested[name])})."
        )
    write_extxyz(
        result.structures,
        output.with_suffix(".extxyz"),
        properties=result.properties,
        provenance=result.provenance,
        ids=result.ids,
    )
    save_features(
        dataclasses.replace(wanted, features=_features_of(representation, found.structures)),
        output.with_name(f"{output.stem}-features.safetensors"),
    )
    write_json(
        output.with_name(f"{output.stem}-inversion.json"),
        {
            "invalid_above": threshold,
            "reference_losses": reference_losses,
            "reference_solved": reference_solved,
            "counts": found.counts,
            "met": {name: float(flags.double().mean()) for name, flags in met.items()},
        },
    )


def _in_words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)


def _requested(generated: FeatureSet, composition: str | None, monitor: Monitor) -> dict[str, Any]:
    """Return what the structures are to have: a composition comes before the formula requested earlier.

    Raises:
        InputError: Unknown elements, or requests that contradict each other.
    """
    requested = dict(generated.requested)
    if composition is not None:
        formula = requested.get("formula")
        if formula is not None and Wish.of(formula=formula).shares != Wish.of(formula=composition).shares:
            monitor.warn(
                f"the features were generated for {formula}, and {composition} is to be placed in its stead."
            )
        requested["formula"] = composition
    Wish.of(**requested)
    return requested


def neighbour_distance(
    features: Float[Tensor, "n F"], *, weights: Float[Tensor, "F"] | None = None, quantile: float = 0.95
) -> float | None:
    r"""Return how far real structures are from their nearest neighbours, in the terms of the loss.

    .. math:: d_i = \min_{j:\, d_{ij} > 0} d_{ij}, \qquad
              d_{ij} = \frac1F \sum_f w_f\,\lvert R_f(x_i) - R_f(x_j)\rvert

    Args:
        features: Of the real structures.
        weights: Of the features, w; by default 1.
        quantile: Of the distances :math:`d_i`, over an even draw of at most 2000 structures.

    Returns:
        The quantile, or ``None`` where no two structures differ.
    """
    weighted = features if weights is None else features * weights
    weighted = weighted[torch.isfinite(weighted).all(1)]
    if len(weighted) < 2:
        return None
    drawn = weighted[:: math.ceil(len(weighted) / _YARDSTICKS)]
    nearest = []
    for some in drawn.split(_YARDSTICKS_AT_ONCE):
        distance = torch.cdist(some, weighted, p=1.0) / features.shape[1]
        # What is stored twice is no neighbour.
        nearest.append(torch.where(distance > _SAME, distance, torch.inf).amin(1))
    found = torch.cat(nearest)
    found = found[torch.isfinite(found)]
    return float(torch.quantile(found, quantile)) if len(found) else None


def _first_of_each_target(generated: FeatureSet, count: int) -> FeatureSet:
    """Keep the first ``count`` samples of each target: samples are independent, so this is a fair draw."""
    targets = generated.properties["target"]
    return generated.select(
        torch.cat([torch.nonzero(targets == t).flatten()[:count] for t in targets.unique()])
    )


def _features_of(representation: Representation, structures: StructureBatch) -> Tensor:
    """Return the features of what was found, in batches that need little memory."""
    with torch.no_grad():
        return torch.cat([representation(chunk) for chunk in structures.chunks(256)])


def _as_dataset(result: InversionResult, of: FeatureSet, made_with: Mapping[str, Any]) -> Dataset:
    """Store what was found as structures that say themselves how the search for them went."""
    info = tuple({"inversion_status": status.value} for status in result.status)
    return Dataset(
        structures=result.structures.replace(info=info),
        properties={**of.properties, "inversion_loss": result.loss},
        ids=of.ids,
        provenance={**made_with, "representation": of.fingerprint},
    )
