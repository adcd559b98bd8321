"""Stage ``refine``: better structures of those that were reconstructed, one refiner after the other.

In addition, ``train/<label>-atoms``: the surrogate of structures by which refiners move them, fitted to the
rows that the generator was given and to no other label; and ``refine/<label>/baseline``: random structures of
these rows put through the same refiner, which shows what the generator adds.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
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
from whorl.datasets.store import entries_of, labels_of, property_name
from whorl.errors import InputError
from whorl.evaluation.samples import Reference, Samples
from whorl.files import provenance, read_json, write_json
from whorl.locks import one_at_a_time
from whorl.potentials.quantity import Quantity, quantity_named
from whorl.potentials.reference import bulk_energy
from whorl.potentials.settings import CalculatorSettings
from whorl.refinement.base import AS_IT_WAS, REACHED, RefinementContext, Refiner, displacement
from whorl.refinement.settings import RefinerSettings
from whorl.representations import make_representation
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.structures.composition import species_of
from whorl.surrogates.base import StructureSurrogate, load_surrogate
from whorl.surrogates.settings import SurrogateSettings
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.sample import read_rows

_LOSS, _STATUS = "reconstruction_loss", "reconstruction_status"
_BASELINE = 100  # structures of each target, where all samples are reconstructed


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Where the labelled data lie.

    Attributes:
        dataset: Structures with the property, and with forces where there are any.
        property: Its name; None for the only one there is.
        features: Of these structures; None where they are not needed.
        rows: Which of them count; None for all.
    """

    dataset: Path
    property: str | None = None
    features: Path | None = None
    rows: Path | None = None


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each refiner and training size; none where the recipe has no refiners."""
    recipe = run.recipe
    fitted = next((s.surrogate_settings for s in recipe.refine if s.surrogate_settings is not None), None)
    calculator = recipe.calculator
    choice = run.prepared("energy") if any(of.kind == "energy" for of in recipe.evaluators) else None
    for label in run.labels if recipe.refine else ():
        labelled = None
        surrogate: Path | None = None
        data = ["encode", "data", f"sampling/{label}"]
        if fitted is not None:
            surrogate = run.atoms_surrogate(label)
            labelled = Labelled(
                dataset=run.dataset,
                property=recipe.property_name,
                features=run.features,
                rows=run.rows(label),
            )
            yield Step(
                name=run.step_of(surrogate),
                settings={"seed": recipe.seed, **fitted.model_dump(mode="json")},
                run=partial(
                    fit_surrogate,
                    labelled,
                    settings=fitted,
                    output=surrogate,
                    seed=recipe.seed,
                    choice=choice,
                ),
                needs=(*data, *(() if choice is None else ("reference",))),
            )
        before = run.structures(label)
        for number, (settings, output) in enumerate(zip(recipe.refine, run.refinements(label), strict=True)):
            own = calculator if settings.needs_potential else None
            spare = run.spare(label) if number == 0 and run.spare_samples else None
            options: dict[str, Any] = {
                "settings": settings,
                "seed": recipe.seed,
                "tolerance": recipe.evaluate.tolerance,
                "labelled": labelled,
                "surrogate": surrogate,
            }
            key = {
                "seed": recipe.seed,
                "refiner": settings.model_dump(mode="json"),
                "calculator": own and own.model_dump(mode="json"),
                "tolerance": recipe.evaluate.tolerance,
            }
            atoms = [] if surrogate is None else [*data, run.step_of(surrogate)]
            first = (run.structures(label), *([run.spare(label)] if run.spare_samples else []))
            yield Step(
                name=run.step_of(output),
                settings=key,
                run=partial(
                    refine,
                    before,
                    output=output,
                    generated=run.generated(label),
                    calculator=own,
                    choice=choice if settings.needs_quantity else None,
                    origins=first,
                    spare=spare,
                    **options,
                ),
                needs=_different(
                    f"generate/{label}",
                    *map(run.step_of, (*first, before)),
                    *atoms,
                    *(["reference"] if settings.needs_quantity and choice else []),
                ),
            )
            before = output
            if labelled is not None and settings.surrogate_settings is fitted:
                count = (recipe.reconstruct and recipe.reconstruct.wanted) or _BASELINE
                targets = recipe.generate.targets
                yield Step(
                    name=run.step_of(run.baseline(label)),
                    settings={**key, "targets": targets, "count": count},
                    run=partial(
                        baseline, targets=targets, count=count, output=run.baseline(label), **options
                    ),
                    needs=_different(*atoms),
                )


def _different(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@one_at_a_time
def fit_surrogate(
    labelled: Labelled,
    *,
    settings: SurrogateSettings,
    output: Path,
    monitor: Monitor,
    seed: int = 0,
    choice: Path | None = None,
) -> None:
    """Fit a surrogate of structures to labelled ones, and to their forces where the property is an energy.

    Args:
        labelled: The structures.
        settings: Of the surrogate.
        output: ``.safetensors``.
        monitor: Receives progress.
        seed: Of all randomness.
        choice: What of an energy method the property is; by default the property's name says it.

    Raises:
        InputError: Labels that cannot be fitted.
    """
    reference = _reference(labelled)
    assert reference.structures is not None
    quantity = _quantity(choice)
    name = quantity_named(reference.name) if quantity is None else quantity.name
    options = settings.options()
    # Forces are derivatives of an energy, and say nothing of another property.
    derivatives: dict[str, Any] = {}
    if name is not None and (quantity is None or quantity.is_energy):
        derivatives = {"forces": reference.forces, "stresses": reference.stresses}
        if name == "energy" and "extensive" not in settings.model_fields_set and "extensive" in options:
            options["extensive"] = True
    fitted = settings.method.fit(
        reference.structures,
        reference.properties,
        seed=derive_seed(seed, "atoms"),
        progress=monitor.progress("fitting atoms"),
        **options,
        **derivatives,
    )
    fitted.save(output)


@one_at_a_time
def refine(
    structures: Path,
    *,
    settings: RefinerSettings,
    output: Path,
    monitor: Monitor,
    seed: int = 0,
    generated: Path | None = None,
    spare: Path | None = None,
    calculator: CalculatorSettings | None = None,
    choice: Path | None = None,
    quantity: str | None = None,
    tolerance: float | None = None,
    target: float | None = None,
    labelled: Labelled | None = None,
    surrogate: Path | None = None,
    origins: Sequence[Path] = (),
) -> None:
    """Refine structures, and write them with how far each moved, what it cost and how it ended.

    Args:
        structures: Reconstructed or refined ones, a data set, or any file of structures.
        settings: Of the refiner.
        output: ``.safetensors``, in the form of reconstructed structures, with ``displacement`` (Å),
            ``energy_calls`` of all refiners so far and ``draws`` as properties, and the status as
            ``refinement_status``. With it ``.extxyz``; the features of the structures now
            (``…-features.safetensors``) where there are those before; ``…-labels.safetensors`` with all that
            an energy method computed; and ``…-refinement.json``, a summary.
        monitor: Receives progress, and of structures that were returned unchanged.
        seed: Of all randomness.
        generated: Generated features that the structures were reconstructed from.
        spare: Structures of further samples: those that reach their targets take the place of those that do
            not.
        calculator: Energy method of refiners whose settings name none of their own.
        choice: File that says what of it is the property.
        quantity: The same by its name, where there is no such file.
        tolerance: Difference from the target that counts as a hit.
        target: Value to reach; by default the one that each structure was generated for.
        labelled: Data that a surrogate may be fitted to.
        surrogate: File of a surrogate of structures fitted already.
        origins: Files of the structures before the first refiner; by default those given and spare ones.

    Raises:
        InputError: Files without structures or that do not belong together, or something the refiner lacks.
    """
    check_output(output, structures, generated, *origins, spare, surrogate, second=".extxyz")
    data = _read(structures, monitor, target)
    further = None if spare is None else load_dataset(spare)
    before = [load_dataset(path) for path in origins] or [data, *([] if further is None else [further])]
    own = structures.with_name(f"{structures.stem}-features.safetensors")
    features = load_features(own) if own.is_file() else None
    record = structures.with_name(f"{structures.stem}-reconstruction.json")
    _refine(
        data,
        further,
        Dataset.concatenate(before),
        settings=settings,
        output=output,
        monitor=monitor,
        seed=seed,
        calculator=calculator,
        quantity=_quantity(choice) if choice else _quantity_of(settings, calculator, data, quantity),
        tolerance=tolerance,
        labelled=labelled,
        surrogate=surrogate,
        generated=None if generated is None else load_features(generated),
        features=features,
        record=read_json(record) if record.is_file() else None,
    )


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
) -> None:
    """Put random training structures through a refiner, as if they had been generated for each target.

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
    """
    reference = _reference(labelled)
    assert reference.structures is not None
    chosen: list[list[int]] = [[], []]  # to refine, and to draw from
    values: list[list[float]] = [[], []]
    for target in targets:
        rng = torch.Generator().manual_seed(derive_seed(seed, "baseline", target))
        rows = torch.randperm(len(reference.structures), generator=rng).tolist()
        for part, of in enumerate((rows[:count], rows[count : count + settings.spare_samples])):
            chosen[part] += of
            values[part] += [target] * len(of)
    data, further = (
        Dataset(
            structures=reference.structures.replace(info=())[rows],
            properties={"target": torch.tensor(of, dtype=torch.float64)},
            ids=tuple(f"{target:g}/row {row}" for row, target in zip(rows, of, strict=True)),
        )
        for rows, of in zip(chosen, values, strict=True)
    )
    _refine(
        data,
        further,
        Dataset.concatenate([data, further]),
        settings=settings,
        output=output,
        monitor=monitor,
        seed=seed,
        tolerance=tolerance,
        labelled=labelled,
        surrogate=surrogate,
        features=None if labelled.features is None else load_features(labelled.features),
    )


def _refine(
    data: Dataset,
    spare: Dataset | None,
    origins: Dataset,
    *,
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
) -> None:
    """Refine structures of a data set, draw others for what is out of reach, and write all."""
    refiner: Refiner = settings.method(settings)
    every = data if spare is None else Dataset.concatenate([data, spare])
    assert every.structures is not None
    made_with = provenance(seed=seed, settings=settings.model_dump(mode="json"))
    refined = refiner.refine(
        _samples(every, generated),
        RefinementContext(
            representation=None if features is None else make_representation(features.representation),
            reference=None if labelled is None else _reference(labelled),
            surrogate=None if surrogate is None else _surrogate(surrogate),
            potential=None if calculator is None else calculator.potential(),
            quantity=quantity,
            tolerance=tolerance,
            seed=derive_seed(seed, "refine", settings.kind),
            directory=parts_folder(output, settings.model_dump(mode="json")),
            progress=monitor.progress(f"refining ({settings.kind})"),
        ),
    )
    computed = refined.computed
    index, draws = drawn(refined, len(data))
    refined, kept = refined.of_structures(index), every.select(index)
    moved, calls = refined.structures, refined.energy_calls
    assert moved is not None and calls is not None
    for text in _outcome(settings.kind, refined, draws):
        monitor.warn(text)
    place = {name: row for row, name in enumerate(origins.ids)}
    assert origins.structures is not None
    before = origins.structures[[place[name] for name in kept.ids]]
    result = _as_dataset(kept, refined, before, draws, made_with)
    save_dataset(result, output)
    write_extxyz(
        moved if result.structures is None else result.structures,
        output.with_suffix(".extxyz"),
        properties=result.properties,
        provenance=made_with,
        ids=result.ids,
    )
    if features is not None:
        save_features(
            _features(moved, kept, features, generated),
            output.with_name(f"{output.stem}-features.safetensors"),
        )
    if computed is not None:
        names = [every.ids[row] for row in computed.rows.tolist()]
        save_dataset(
            Dataset(
                structures=computed.structures,
                properties={"value": computed.values, "energy": computed.energies},
                ids=tuple(f"{name}/call {n}" for n, name in enumerate(names)),
                forces=computed.forces,
                provenance=made_with,
            ),
            output.with_name(f"{output.stem}-labels.safetensors"),
        )
    if record is not None:
        if generated is not None:
            rows = {name: row for row, name in enumerate(generated.ids)}
            record = {**record, "rows": [rows[name] for name in kept.ids]}
        write_json(output.with_name(f"{output.stem}-reconstruction.json"), record)
    write_json(
        output.with_name(f"{output.stem}-refinement.json"),
        {
            **made_with,
            "kind": settings.kind,
            "counts": _counts(refined.refinement),
            "ids": list(kept.ids),
            "displacement": [] if refined.displacement is None else refined.displacement.tolist(),
            "energy_calls": calls.tolist(),
            "draws": draws.tolist(),
            "status": list(refined.refinement),
        },
    )
    remove_parts(output)


def drawn(refined: Samples, count: int) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
    """Choose structures that have reached their targets, from spare ones where the first did not.

    Args:
        refined: The ``count`` structures that are wanted, and behind them spare ones.
        count: How many are wanted.

    Returns:
        The structure in each place, and how many were drawn for it. Where no spare one has reached the
        target, one that was moved goes before one that came back as it was.
    """
    targets = refined.structure_targets.tolist()
    ranks = [2 if s.startswith(AS_IT_WAS) else int(s != REACHED) for s in refined.refinement]
    index, draws = list(range(count)), [1] * count
    for target in dict.fromkeys(targets[:count]):
        places = [k for k in range(count) if targets[k] == target and ranks[k]]
        spare = [k for k in range(count, len(targets)) if targets[k] == target]
        while places and spare:
            draws[places[0]] += 1
            if ranks[row := spare.pop(0)] == 0:
                index[places.pop(0)] = row
        moved = [k for k in range(count, len(targets)) if targets[k] == target and ranks[k] == 1]
        for place, row in zip([k for k in places if ranks[k] == 2], moved, strict=False):
            index[place] = row
    return torch.tensor(index, dtype=torch.int64), torch.tensor(draws, dtype=torch.int64)


def _reference(labelled: Labelled) -> Reference:
    """Return the labelled data of the rows that count, and no other."""
    if labelled.features is None:
        data = load_dataset(labelled.dataset)
        name = _only_property(data, labelled.property)
        values = data.properties[name]
        features = values.new_zeros(len(data), 0)
    else:
        real = load_features(labelled.features)
        rows = torch.arange(len(real)) if labelled.rows is None else read_rows(labelled.rows)["rows"]
        real = real.select(rows)
        name = property_name(real, labelled.property)
        values, features = labels_of(real, name).double(), real.features.flatten(1).double()
        data = entries_of(real.ids, labelled.dataset)
    usable = torch.nonzero(values.isfinite()).flatten()
    data = data.select(usable)
    return Reference(
        name=name,
        unit="",
        properties=values[usable].double(),
        features=features[usable],
        structures=data.structures,
        forces=data.forces,
        stresses=data.stresses,
        training_rows=torch.arange(len(usable)),
    )


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


def _surrogate(path: Path) -> StructureSurrogate:
    surrogate = load_surrogate(path)
    if not isinstance(surrogate, StructureSurrogate):
        raise InputError(
            f"{path}: the surrogate {surrogate.kind} predicts from features, expected one of structures: "
            "additive."
        )
    return surrogate


def _only_property(data: Dataset, name: str | None) -> str:
    names = list(data.properties)
    chosen = names[0] if name is None and len(names) == 1 else name
    if chosen is None or chosen not in names:
        got = "several properties" if name is None else f"no property '{name}'"
        raise InputError(f"the data set has {got}; give one with --property: {', '.join(names) or 'none'}.")
    return chosen


def _quantity(choice: Path | None) -> Quantity | None:
    """Read what of an energy method the property is; None where nothing is."""
    if choice is None:
        return None
    data = read_json(choice)
    try:
        if data["quantity"] is None:
            return None
        return Quantity(
            name=str(data["quantity"]),
            subtracted=float(data["subtracted"]),
            bulk_energy={str(element): float(value) for element, value in data["bulk_energy"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{choice}: does not say what of an energy method is the property.") from None


def _features(
    moved: StructureBatch, kept: Dataset, like: FeatureSet, generated: FeatureSet | None
) -> FeatureSet:
    """Return the features of structures where they are now."""
    representation = make_representation(like.representation)
    with torch.no_grad():
        now = torch.cat([representation(chunk) for chunk in moved.chunks(256)])
    if generated is not None:
        place = {name: row for row, name in enumerate(generated.ids)}
        return dataclasses.replace(generated.select([place[name] for name in kept.ids]), features=now)
    targets = {name: values for name, values in kept.properties.items() if name == "target"}
    return FeatureSet(
        features=now,
        representation=like.representation,
        fingerprint=like.fingerprint,
        properties=targets,
        ids=kept.ids,
        elements=like.elements,
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
    data: Dataset, refined: Samples, origin: StructureBatch, draws: Tensor, made_with: dict[str, Any]
) -> Dataset:
    """Return refined structures in the form of the reconstructed ones.

    Of ``info`` only statuses are kept: labels, symmetry and results belonged to the structures before.
    """
    assert refined.structures is not None and refined.energy_calls is not None and data.structures is not None
    infos = data.structures.info or ({},) * len(data)
    calls = refined.energy_calls.double() + data.properties.get("energy_calls", 0.0)
    return Dataset(
        structures=refined.structures.replace(
            info=tuple(
                {**{k: v for k, v in info.items() if k == _STATUS}, "refinement_status": status}
                for info, status in zip(infos, refined.refinement, strict=True)
            )
        ),
        properties={
            **{name: values for name, values in data.properties.items() if name in ("target", _LOSS)},
            "displacement": displacement(origin, refined.structures),
            "energy_calls": calls,
            "draws": data.properties.get("draws", torch.ones(len(data))).double() - 1 + draws,
        },
        ids=data.ids,
        provenance={**data.provenance, **made_with},
    )


def _outcome(kind: str, refined: Samples, draws: Tensor) -> Iterator[str]:
    """Yield what a reader should know of structures that were not refined, or that are of other samples."""
    count = len(refined.refinement)
    if lost := [status for status in refined.refinement if status.startswith(AS_IT_WAS)]:
        yield f"refine ({kind}): {len(lost)} of {count} structures came back as they were (first: {lost[0]})."
    for target in refined.structure_targets.unique().tolist():
        own = refined.structure_targets == target
        missed = sum(
            status != REACHED for status, here in zip(refined.refinement, own.tolist(), strict=True) if here
        )
        # Only some refiners say that a value is reached.
        if missed and (REACHED in refined.refinement or int(draws.max()) > 1):
            yield (
                f"refine ({kind}), target {target:g}: {missed} of {int(own.sum())} structures do not reach "
                f"it, after {int(draws[own].sum())} draws."
            )


def _counts(statuses: Sequence[str]) -> dict[str, int]:
    """Return how many ended in each status, reasons aside."""
    words = [status.partition(":")[0] for status in statuses]
    return {word: words.count(word) for word in dict.fromkeys(words)}
