"""Stage ``refine``: refinement of reconstructed structures, by one refiner after the other.

In addition, ``refine/<label>/baseline``: random structures of the training rows put through the refiner that
moves structures onto a value by a surrogate, which shows what the generator adds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import parts_folder, remove_parts
from whorl.datasets import (
    Dataset,
    FeatureSet,
    load_dataset,
    load_features,
    read_dataset,
    save_dataset,
    save_features,
    write_extxyz,
)
from whorl.errors import InputError
from whorl.evaluation.clusters import distinct_clusters
from whorl.evaluation.duplicates import distinct
from whorl.evaluation.samples import Computed, Samples
from whorl.files import provenance, read_json, write_json
from whorl.locks import one_at_a_time
from whorl.potentials.quantity import Quantity
from whorl.potentials.reference import bulk_energy
from whorl.potentials.settings import CalculatorSettings
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.refinement.base import AS_IT_WAS, NEAREST, REACHED, RefinementContext, Refiner, displacement
from whorl.refinement.settings import RefinerSettings
from whorl.refinement.spread import Spread
from whorl.representations import make_representation
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.structures.composition import species_of
from whorl.structures.frozen import frozen_atoms_of, with_frozen_atoms, without_info
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.atoms import Labelled, read_atoms_surrogate, read_labelled, read_quantity
from whorl.workflow.stages.reconstruct import reconstruct, reconstruction_of_run
from whorl.workflow.templates import frozen_atoms

_LOSS, _STATUS = "reconstruction_loss", "reconstruction_status"
_DUPLICATE = "duplicate"  # first word of the status of what has reached its target, but is there already
_MISSED = ("unreached", "not reached", "uncertain", "fragments")  # first words likewise, of what has not
_MANY = 20  # structures none of which comes to the value: further ones would not either
_HOPELESS = (*AS_IT_WAS, "not reached")
_BASELINE = 100  # structures of each target, where all samples are reconstructed

Draw = Callable[[int, Mapping[float, tuple[int, int]]], tuple[Dataset, Dataset] | None]
"""Return structures of further samples, and the same before any refiner, in the round of that number: of each
target, behind how many, and how many. None where there are no more."""


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each refiner and training size; none where the recipe has no refiners."""
    recipe, choice = run.recipe, run.choice
    if recipe.reconstruct is None:
        return
    fitted, wanted = run.surrogate_of_atoms, recipe.reconstruct.wanted
    for label in run.labels:
        before = run.structures(label)
        known = ["data", "encode", f"sampling/{label}", run.step_of(run.last_surrogate(label))]
        known = [] if fitted is None else known
        earlier: list[Mapping[str, Any]] = []
        for settings, output in zip(recipe.refine, run.refinements(label), strict=True):
            own = recipe.calculator if settings.needs_potential else None
            draws = settings.spare_samples and wanted is not None
            options: dict[str, Any] = {
                "settings": settings,
                "seed": recipe.seed,
                "tolerance": recipe.evaluate.tolerance,
                "labelled": None if fitted is None else Labelled.of_run(run, label),
                "surrogate": None if fitted is None else run.last_surrogate(label),
            }
            key = {
                "seed": recipe.seed,
                "refiner": settings.model_dump(
                    mode="json", exclude=None if settings.spare_samples else {"spare"}
                ),
                "calculator": own and own.model_dump(mode="json"),
                "tolerance": recipe.evaluate.tolerance,
            }
            first = run.step_of(run.structures(label))
            refining = {
                "generated": run.generated(label),
                "calculator": own,
                "choice": choice if settings.needs_quantity else None,
                **options,
            }
            drawing = Drawing(reconstruction=reconstruction_of_run(run, label), refiners=tuple(earlier))
            yield Step(
                name=run.step_of(output),
                settings=key,
                run=partial(
                    refine,
                    before,
                    output=output,
                    further=drawing if draws else None,
                    **refining,
                ),
                needs=_different(
                    f"generate/{label}",
                    run.step_of(before),
                    first,
                    *known,
                    *(
                        ["data", "encode", f"sampling/{label}"]
                        if draws and run.structures_of_features
                        else []
                    ),
                    *(["encode"] if draws else []),
                    *(["reference"] if settings.needs_quantity and choice else []),
                ),
                version=2 if draws else 1,  # 1 kept duplicates
            )
            before = output
            earlier.append(refining)
            if fitted is not None and settings.surrogate_settings is fitted:
                count, targets = wanted or _BASELINE, recipe.generate.targets
                yield Step(
                    name=run.step_of(run.baseline(label)),
                    settings={**key, "targets": targets, "count": count},
                    run=partial(
                        baseline,
                        targets=targets,
                        count=count,
                        output=run.baseline(label),
                        frozen=recipe.reconstruct if recipe.reconstruct.freezes else None,
                        **options,
                    ),
                    needs=_different(*known),
                    version=2,  # likewise
                )


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How further samples come to where a refiner takes them.

    Attributes:
        reconstruction: Arguments of :func:`whorl.workflow.stages.reconstruct.reconstruct`.
        refiners: Arguments of :func:`refine` for each of the refiners before it.
    """

    reconstruction: Mapping[str, Any]
    refiners: tuple[Mapping[str, Any], ...] = ()


def _different(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@one_at_a_time
def refine(
    structures: Path,
    *,
    settings: RefinerSettings,
    output: Path,
    monitor: Monitor,
    seed: int = 0,
    generated: Path | None = None,
    further: Drawing | None = None,
    calculator: CalculatorSettings | None = None,
    choice: Path | None = None,
    quantity: str | None = None,
    tolerance: float | None = None,
    target: float | None = None,
    labelled: Labelled | None = None,
    surrogate: Path | None = None,
) -> None:
    """Refine structures, and write them with displacement, energy calls and status.

    Args:
        structures: Reconstructed or refined ones, a data set, or any file of structures.
        settings: Of the refiner.
        output: ``.safetensors``, in the form of reconstructed structures, with ``displacement`` (Å),
            ``energy_calls`` and ``draws`` of all refiners so far (with those of samples that it took the
            place of) as properties, and the status as
            ``refinement_status``. With it ``.extxyz``; the same structures before the first refiner
            (``…-before.safetensors``); the features of the structures now (``…-features.safetensors``) where
            there are those before; ``…-labels.safetensors`` with all that an energy method computed; and
            ``…-refinement.json``, a summary.
        monitor: Receives progress, and structures that were returned unchanged.
        seed: Of all randomness.
        generated: Generated features that the structures were reconstructed from.
        further: How further ones of them are made, to take the place of structures that do not reach their
            targets.
        calculator: Energy method of refiners whose settings name none of their own.
        choice: File that says what of it is the property.
        quantity: The same by its name, where there is no such file.
        tolerance: Difference from the target that counts as a hit.
        target: Value to reach; by default the one that each structure was generated for.
        labelled: Data that a surrogate may be fitted to.
        surrogate: File of a surrogate of structures fitted already.

    Raises:
        InputError: Files without structures or that do not belong together, or something the refiner lacks.
    """
    check_output(output, structures, generated, surrogate, second=".extxyz")
    data = _read(structures, monitor, target)
    own, earlier, record = (
        structures.with_name(f"{structures.stem}-{name}")
        for name in ("features.safetensors", "before.safetensors", "reconstruction.json")
    )
    _refine(
        data,
        before=load_dataset(earlier) if earlier.is_file() else data,
        draw=None if further is None else partial(_drawn, output.parent, monitor, further),
        settings=settings,
        output=output,
        monitor=monitor,
        seed=seed,
        calculator=calculator,
        quantity=read_quantity(choice) if choice else _quantity_of(settings, calculator, data, quantity),
        tolerance=tolerance,
        labelled=labelled,
        surrogate=surrogate,
        generated=None if generated is None else load_features(generated),
        features=load_features(own) if own.is_file() else None,
        record=read_json(record) if record.is_file() else None,
    )


def _drawn(
    folder: Path,
    monitor: Monitor,
    drawing: Drawing,
    number: int,
    ranges: Mapping[float, tuple[int, int]],
) -> tuple[Dataset, Dataset] | None:
    """Reconstruct further samples, and refine them as far as the others are; see :data:`Draw`."""
    options = drawing.reconstruction
    output = folder / f"drawn-{number}" / "structures.safetensors"
    own: ReconstructorSettings = options["settings"]
    settings = own.model_copy(update={"reference": 0} if "reference" in type(own).model_fields else {})
    try:
        reconstruct(**{**options, "settings": settings, "ranges": ranges}, output=output, monitor=monitor)
    except InputError as error:
        monitor.warn(f"no further samples can be drawn: {error}")
        return None
    before = load_dataset(output)
    for place, arguments in enumerate(drawing.refiners, start=1):
        refined = output.parent / f"{place}-{arguments['settings'].folder_name}" / output.name
        if not refined.with_name(f"{refined.stem}-refinement.json").is_file():  # written last
            refine(output, output=refined, monitor=monitor, **arguments)
        output = refined
    return load_dataset(output), before


@one_at_a_time
def baseline(
    *,
    settings: RefinerSettings,
    targets: Sequence[float],
    count: int,
    labelled: Labelled,
    surrogate: Path,
    output: Path,
    monitor: Monitor,
    seed: int = 0,
    tolerance: float | None = None,
    frozen: Any = None,
) -> None:
    """Refine random training structures as if they had been generated for each target.

    Args:
        settings: Of the refiner.
        targets: Values to reach.
        count: Structures of each target, or all there are if these are fewer.
        labelled: The training structures.
        surrogate: File of the surrogate of structures.
        output: As of :func:`refine`.
        monitor: Receives progress.
        seed: Of all randomness.
        tolerance: Difference from the target that counts as a hit.
        frozen: Settings of the reconstruction, which say what atoms are frozen.
    """
    structures = read_labelled(labelled).structures
    assert structures is not None
    plain = without_info(structures)
    if frozen is not None:
        plain = with_frozen_atoms(plain, frozen_atoms(structures, frozen.frozen, frozen.frozen_tag))
    orders = {
        target: torch.randperm(
            len(plain), generator=torch.Generator().manual_seed(derive_seed(seed, "baseline", target))
        ).tolist()
        for target in targets
    }

    def draw(number: int, ranges: Mapping[float, tuple[int, int]]) -> tuple[Dataset, Dataset] | None:
        chosen = [(row, t) for t, (skip, n) in ranges.items() for row in orders[t][skip : skip + n]]
        if not chosen:
            return None
        data = Dataset(
            structures=plain[[row for row, _ in chosen]],
            properties={"target": torch.tensor([t for _, t in chosen], dtype=torch.float64)},
            ids=tuple(f"{t:g}/row {row}" for row, t in chosen),
        )
        return data, data

    first = draw(0, dict.fromkeys(targets, (0, count)))
    assert first is not None
    _refine(
        first[0],
        before=first[1],
        draw=draw,
        settings=settings,
        output=output,
        monitor=monitor,
        seed=seed,
        tolerance=tolerance,
        labelled=labelled,
        surrogate=surrogate,
        features=None if labelled.features is None else load_features(labelled.features),
        of=" of training structures",
    )


def _refine(
    data: Dataset,
    *,
    before: Dataset,
    draw: Draw | None,
    settings: RefinerSettings,
    output: Path,
    monitor: Monitor,
    seed: int,
    tolerance: float | None,
    labelled: Labelled | None,
    surrogate: Path | None,
    calculator: CalculatorSettings | None = None,
    quantity: Quantity | None = None,
    generated: FeatureSet | None = None,
    features: FeatureSet | None = None,
    record: dict[str, Any] | None = None,
    of: str = "",
) -> None:
    """Refine structures of a data set, draw others for what is out of reach, and write all."""
    refiner: Refiner = settings.method(settings)
    made_with = provenance(seed=seed, settings=settings.model_dump(mode="json"))
    directory = parts_folder(output, settings.model_dump(mode="json"))
    context = RefinementContext(
        representation=None if features is None else make_representation(features.representation),
        reference=None if labelled is None else read_labelled(labelled),
        surrogate=None if surrogate is None else read_atoms_surrogate(surrogate),
        potential=None if calculator is None else calculator.potential(),
        quantity=quantity,
        tolerance=tolerance,
        seed=derive_seed(seed, "refine", settings.kind),
        progress=monitor.progress(f"refining ({settings.kind})"),
    )
    given, origins, made = [data], [before], []
    asked: dict[float, int] = {}  # further samples of each target
    taken = _drawn_before(data)
    spread, widened = None, False
    if settings.least_spread and draw is not None and context.reference and context.representation:
        spread = Spread(
            fraction=settings.least_spread,
            representation=context.representation,
            reference=context.reference,
            tolerance=tolerance or 0.0,
        )
    for number in itertools.count():
        here = dataclasses.replace(context, directory=directory / str(number))
        made.append(refiner.refine(_samples(given[-1], generated), here))
        refined = _joined(made)
        if draw is not None:
            refined = mark_duplicates(refined)
        ranges = _out_of_reach(refined, len(data), settings.spare_samples, asked)
        if not ranges and spread is not None and not widened:
            ranges, widened = _for_spread(spread, refined, len(data), settings.spare_samples, asked), True
        ranges = {target: (taken[target] + skip, count) for target, (skip, count) in ranges.items()}
        others = draw(number + 1, ranges) if draw is not None and ranges else None
        if others is None:
            break
        for target, (_, count) in ranges.items():
            asked[target] = asked.get(target, 0) + count
        given.append(others[0])
        origins.append(others[1])
    every, origin = Dataset.concatenate(given), Dataset.concatenate(origins)
    nearest = _nearest_values(refined)
    index, place = drawn(refined, len(data))
    draws = _spent(every.properties.get("draws", torch.ones(len(every))), place, len(data))
    assert refined.energy_calls is not None
    calls = _spent(refined.energy_calls + every.properties.get("energy_calls", 0.0), place, len(data))
    if spread is not None:
        index = spread.select(refined, index)
    kept, refined = every.select(index), refined.of_structures(index)
    for text in _outcome(settings.kind + of, refined, draws, nearest):
        monitor.warn(text)
    origin = origin.select(index)
    save_dataset(origin, output.with_name(f"{output.stem}-before.safetensors"))
    assert origin.structures is not None
    spent = {
        "active_labels": sum(len(load_dataset(path)) for path in (labelled.further if labelled else ())),
        "computed_labels": sum(int(own.provenance.get("computed_labels", 0)) for own in given)
        + sum(len(own.computed.structures) for own in made if own.computed is not None),
    }
    result = _as_dataset(kept, refined, origin.structures, draws, calls, {**made_with, **spent})
    save_dataset(result, output)
    assert result.structures is not None
    write_extxyz(
        result.structures,
        output.with_suffix(".extxyz"),
        properties=result.properties,
        provenance=made_with,
        ids=result.ids,
    )
    if features is not None:
        save_features(
            _features(result, features, generated), output.with_name(f"{output.stem}-features.safetensors")
        )
    labels = [(of.ids, own.computed) for of, own in zip(given, made, strict=True) if own.computed is not None]
    if labels:
        save_dataset(_labels(labels, made_with), output.with_name(f"{output.stem}-labels.safetensors"))
    if record is not None:
        if generated is not None:
            rows = {name: row for row, name in enumerate(generated.ids)}
            record = {**record, "rows": [rows[name] for name in kept.ids]}
        write_json(output.with_name(f"{output.stem}-reconstruction.json"), record)
    words = [status.partition(":")[0] for status in refined.refinement]
    write_json(
        output.with_name(f"{output.stem}-refinement.json"),
        {
            **made_with,
            "kind": settings.kind,
            "counts": {word: words.count(word) for word in dict.fromkeys(words)},
            "ids": list(kept.ids),
            "displacement": [] if refined.displacement is None else refined.displacement.tolist(),
            "energy_calls": calls.long().tolist(),
            "draws": draws.long().tolist(),
            "status": list(refined.refinement),
        },
    )
    remove_parts(output)


def _drawn_before(data: Dataset) -> dict[float, int]:
    """Return how many samples of each target were drawn in the place of others before."""
    draws = data.properties.get("draws", torch.ones(len(data)))
    targets = data.properties.get("target", torch.full((len(data),), torch.nan))
    return {float(target): int((draws - 1)[targets == target].sum()) for target in targets.unique()}


def _spent(of_each: Tensor, place: Tensor, count: int) -> Tensor:
    """Return what was spent on the structure in each place and on those that it took the place of."""
    return torch.zeros(count, dtype=torch.float64).index_add(0, place, of_each.double())


def _joined(made: Sequence[Samples]) -> Samples:
    """Return refined structures of several rounds as one, as far as is needed of them."""
    batches = [of.structures for of in made if of.structures is not None]
    return Samples(
        ids=tuple(name for of in made for name in of.structure_ids),
        targets=torch.cat([of.structure_targets for of in made]),
        structures=StructureBatch.concatenate(batches),
        rows=torch.arange(sum(len(batch) for batch in batches)),
        displacement=torch.cat([of.displacement for of in made if of.displacement is not None]),
        energy_calls=torch.cat([of.energy_calls for of in made if of.energy_calls is not None]),
        refinement=tuple(status for of in made for status in of.refinement),
    )


def mark_duplicates(refined: Samples) -> Samples:
    """Return samples with another status for those structures that equal an earlier one of the same target.

    Clusters are equal within 0.1 Å RMSD, crystals by StructureMatcher.
    """
    crystals = refined.crystals
    structures, find = (refined.clusters, distinct_clusters) if crystals is None else (crystals, distinct)
    if structures is None:
        return refined
    status, targets = list(refined.refinement), refined.structure_targets.tolist()
    for target in dict.fromkeys(targets):
        rows = [k for k, word in enumerate(status) if word == REACHED and targets[k] == target]
        for first, *others in find(structures[rows]):
            for k in others:
                status[rows[k]] = f"{_DUPLICATE}: the same as {refined.structure_ids[rows[first]]}"
    return refined.replace(refinement=tuple(status))


def _out_of_reach(
    refined: Samples, count: int, most: int, asked: Mapping[float, int]
) -> dict[float, tuple[int, int]]:
    """Return which further samples of each target to draw: behind how many, and how many.

    None of a target that is out of reach of all of many.
    """
    index, _ = drawn(refined, count)
    targets = refined.structure_targets.tolist()
    ranges = {}
    for target in dict.fromkeys(targets[:count]):
        places = [k for k in range(count) if targets[k] == target]
        missing = sum(refined.refinement[int(index[k])] != REACHED for k in places)
        before = asked.get(target, 0)
        own = [s for s, t in zip(refined.refinement, targets, strict=True) if t == target]
        if len(own) >= _MANY and all(status.startswith(_HOPELESS) for status in own):
            continue
        if (number := min(missing, most - before)) > 0:
            ranges[target] = (len(places) + before, number)
    return ranges


def _for_spread(
    spread: Spread, refined: Samples, count: int, most: int, asked: Mapping[float, int]
) -> dict[float, tuple[int, int]]:
    """Return which further samples to draw of targets whose structures are too near to one another."""
    index, _ = drawn(refined, count)
    targets, ranges = refined.structure_targets[:count].tolist(), {}
    for target in spread.too_near(refined, index):
        before = asked.get(target, 0)
        if (number := min(math.ceil(targets.count(target) / 2), most - before)) > 0:
            ranges[target] = (targets.count(target) + before, number)
    return ranges


def drawn(refined: Samples, count: int) -> tuple[Tensor, Tensor]:
    """Choose structures that have reached their targets, from spare ones where the first did not.

    Args:
        refined: The ``count`` structures that are wanted, and behind them spare ones.
        count: How many are wanted.

    Returns:
        The structure in each place, and the place that each structure was drawn for. The value comes first:
        what misses it gives place before duplicates do, to spare ones that have reached the target, or else
        to duplicates, or to what was at least moved. Spare ones without need are counted evenly.
    """
    targets = refined.structure_targets.tolist()
    ranks = [_rank(status) for status in refined.refinement]
    index, place = list(range(count)), list(range(len(targets)))
    for target in dict.fromkeys(targets[:count]):
        own = [k for k in range(count) if targets[k] == target]
        places = sorted((k for k in own if ranks[k]), key=lambda k: -ranks[k])
        left = []
        for n, row in enumerate(k for k in range(count, len(targets)) if targets[k] == target):
            place[row] = places[0] if places else own[n % len(own)]
            if places and ranks[row] == 0:
                index[places.pop(0)] = row
            else:
                left.append(row)
        for k, row in zip(places, sorted(left, key=lambda row: ranks[row]), strict=False):
            if ranks[row] < ranks[k]:
                index[k] = row
    return torch.tensor(index, dtype=torch.int64), torch.tensor(place, dtype=torch.int64)


def _rank(status: str) -> int:
    """Return how far a structure is from what is wanted: 0 for reached."""
    if status == REACHED:
        return 0
    return 1 if status.startswith(_DUPLICATE) else 3 if status.startswith(AS_IT_WAS) else 2


def _quantity_of(
    settings: RefinerSettings, calculator: CalculatorSettings | None, data: Dataset, name: str | None
) -> Quantity | None:
    """Return a quantity by its name, with the energies of the bulk as far as they are known."""
    method = getattr(settings, "calculator", None) or calculator
    if name is None or method is None or data.structures is None or not settings.needs_quantity:
        return None
    bulk = dict(method.bulk_energy)
    for element in species_of(data.structures) if name == "formation_energy" else ():
        with contextlib.suppress(InputError):  # then structures with this element have no value
            bulk[element] = method.bulk_energy.get(element) or bulk_energy(method.potential(), element)
    return Quantity(name=name, bulk_energy=bulk)


def _features(result: Dataset, like: FeatureSet, generated: FeatureSet | None) -> FeatureSet:
    """Return the features of structures where they are now."""
    assert result.structures is not None
    representation = make_representation(like.representation)
    with torch.no_grad():
        now = torch.cat([representation(chunk) for chunk in result.structures.chunks(256)])
    if generated is not None:
        place = {name: row for row, name in enumerate(generated.ids)}
        return dataclasses.replace(generated.select([place[name] for name in result.ids]), features=now)
    return FeatureSet(
        features=now,
        representation=like.representation,
        fingerprint=like.fingerprint,
        properties={name: values for name, values in result.properties.items() if name == "target"},
        ids=result.ids,
        elements=like.elements,
    )


def _labels(computed: Sequence[tuple[Sequence[str], Computed]], made_with: dict[str, Any]) -> Dataset:
    """Return all that an energy method computed, with the sample of each."""
    names = [ids[row] for ids, of in computed for row in of.rows.tolist()]
    every = Computed.concatenate([of for _, of in computed])
    return Dataset(
        structures=every.structures,
        properties={"value": every.values, "energy": every.energies},
        ids=tuple(f"{name}/call {number}" for number, name in enumerate(names)),
        forces=every.forces,
        provenance=made_with,
    )


def _read(path: Path, monitor: Monitor, target: float | None) -> Dataset:
    if path.suffix == ".safetensors":
        data = load_dataset(path)
    else:
        data = read_dataset(path, property=None, progress=monitor.progress("reading"))
        for entry in data.skipped:
            monitor.skip(entry.source, entry.reason)
        for name, doubt in data.doubts:
            monitor.doubt(name, doubt)
    if data.structures is None or not len(data):
        raise InputError(f"{path}: holds no structures.")
    if target is None:
        return data
    targets = torch.full((len(data),), target, dtype=torch.float64)
    return dataclasses.replace(data, properties={**data.properties, "target": targets})


def _samples(data: Dataset, generated: FeatureSet | None) -> Samples:
    """Return structures with their targets and the features they were made for, as far as known."""
    assert data.structures is not None
    unknown = torch.full((len(data),), torch.nan, dtype=torch.float64)
    features: Tensor | None = None
    requested: dict[str, Any] = {}
    if generated is not None:
        place = {name: row for row, name in enumerate(generated.ids)}
        if missing := [name for name in data.ids if name not in place]:
            raise InputError(
                f"refine: the structure '{missing[0]}' is of none of the generated samples. Give the "
                "features that the structures were reconstructed from."
            )
        features = generated.features[[place[name] for name in data.ids]].double()
        requested = dict(generated.requested)
    return Samples(
        ids=data.ids,
        targets=data.properties.get("target", unknown),
        requested=requested,
        features=features,
        structures=data.structures,
        rows=torch.arange(len(data)),
        loss=data.properties.get(_LOSS),
        status=tuple(str(info.get(_STATUS, "read")) for info in data.structures.info),
    )


def _as_dataset(
    data: Dataset,
    refined: Samples,
    origin: StructureBatch,
    draws: Tensor,
    calls: Tensor,
    made_with: dict[str, Any],
) -> Dataset:
    """Return refined structures in the form of the reconstructed ones.

    Of ``info`` only statuses and frozen atoms are kept: labels, symmetry and results belonged to the
    structures before.
    """
    assert refined.structures is not None and data.structures is not None
    infos = data.structures.info or ({},) * len(data)
    structures = refined.structures.replace(
        info=tuple(
            {**{k: v for k, v in info.items() if k == _STATUS}, "refinement_status": status}
            for info, status in zip(infos, refined.refinement, strict=True)
        )
    )
    return Dataset(
        structures=with_frozen_atoms(structures, frozen_atoms_of(refined.structures)),
        properties={
            **{name: values for name, values in data.properties.items() if name in ("target", _LOSS)},
            "displacement": displacement(origin, refined.structures),
            "energy_calls": calls,
            "draws": draws,
        },
        ids=data.ids,
        provenance={**data.provenance, **made_with},
    )


def _nearest_values(refined: Samples) -> dict[float, float]:
    """Return the value nearest to each target that structures got to without reaching it."""
    nearest: dict[float, float] = {}
    for target, status in zip(refined.structure_targets.tolist(), refined.refinement, strict=True):
        if text := status.partition(NEAREST)[2]:
            values = [float(text), *([nearest[target]] if target in nearest else [])]
            nearest[target] = min(values, key=lambda value: abs(value - target))
    return nearest


def _outcome(kind: str, refined: Samples, draws: Tensor, nearest: Mapping[float, float]) -> Iterator[str]:
    """Yield what a reader should know of structures that were not refined, or that are of other samples."""
    count, aims = len(refined.refinement), (REACHED, *_MISSED)
    if failed := [status for status in refined.refinement if status.startswith("failed")]:
        yield (
            f"refine ({kind}): {len(failed)} of {count} structures were returned unchanged "
            f"(first: {failed[0]})."
        )
    # Only some refiners say that a value is reached.
    if not any(status.startswith(aims) for status in refined.refinement):
        return
    for target in refined.structure_targets.unique().tolist():
        own = refined.structure_targets == target
        here = [s for s, chosen in zip(refined.refinement, own.tolist(), strict=True) if chosen]
        missed = [s.partition(":")[0] for s in here if s != REACHED and not s.startswith(_DUPLICATE)]
        if not missed:
            continue
        words = ", ".join(f"{missed.count(word)} {word}" for word in dict.fromkeys(missed))
        value = f"; {NEAREST}{nearest[target]:.4g}" if target in nearest else ""
        tried = int(draws[own].sum())
        after = f", after {tried} draws" if tried > len(here) else ""
        beyond = " It may be out of reach." if len(here) == missed.count("unreached") else ""
        yield (
            f"refine ({kind}), target {target:g}: {len(missed)} of {len(here)} structures do not reach it "
            f"({words}{value}){after}.{beyond}"
        )
