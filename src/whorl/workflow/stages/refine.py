"""Stage ``refine``: better structures of those that were reconstructed, one refiner after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import parts_folder, remove_parts
from whorl.datasets import (
    Dataset,
    load_dataset,
    load_features,
    read_dataset,
    save_dataset,
    save_features,
    write_extxyz,
)
from whorl.errors import InputError
from whorl.evaluation.samples import Samples
from whorl.files import contents_hash, provenance, read_json, write_json
from whorl.locks import one_at_a_time
from whorl.potentials.settings import CalculatorSettings
from whorl.refinement.base import AS_IT_WAS, RefinementContext, Refiner, displacement
from whorl.refinement.settings import RefinerSettings
from whorl.representations import make_representation
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.run_folder import RunFolder

_LOSS, _STATUS = "reconstruction_loss", "reconstruction_status"


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each refiner and training size; none where the recipe has no refiners."""
    recipe = run.recipe
    for label in run.labels:
        before = run.structures(label)
        for settings, output in zip(recipe.refine, run.refinements(label), strict=True):
            calculator = recipe.calculator if settings.needs_potential else None
            yield Step(
                name=run.step_of(output),
                settings={
                    "seed": recipe.seed,
                    "refiner": settings.model_dump(mode="json"),
                    "calculator": calculator and calculator.model_dump(mode="json"),
                },
                run=partial(
                    refine,
                    before,
                    settings=settings,
                    output=output,
                    seed=recipe.seed,
                    generated=run.generated(label),
                    calculator=calculator,
                    origin=run.structures(label),
                ),
                needs=tuple(
                    dict.fromkeys(
                        [f"generate/{label}", run.step_of(run.structures(label)), run.step_of(before)]
                    )
                ),
            )
            before = output


@one_at_a_time
def refine(
    structures: Path,
    *,
    settings: RefinerSettings,
    output: Path,
    monitor: Monitor,
    seed: int = 0,
    generated: Path | None = None,
    calculator: CalculatorSettings | None = None,
    origin: Path | None = None,
) -> None:
    """Refine structures, and write them with how far each moved, what it cost and how it ended.

    Args:
        structures: Reconstructed or refined ones, a data set, or any file of structures.
        settings: Of the refiner.
        output: ``.safetensors``, in the form of reconstructed structures, with ``displacement`` (Å) and
            ``energy_calls`` of all refiners so far as properties, and the status as ``refinement_status``.
            Beside it ``.extxyz``, the features of the structures now (``…-features.safetensors``) where there
            are those before, and ``…-refinement.json``, a summary.
        monitor: Told of progress, and of structures that came back as they were.
        seed: Of all randomness.
        generated: Generated features that the structures were reconstructed from.
        calculator: Energy method of refiners whose settings name none of their own.
        origin: Structures before the first refiner; by default those given.

    Raises:
        InputError: Files without structures or that do not belong together, or something the refiner lacks.
    """
    check_output(output, structures, generated, origin, beside=".extxyz")
    data = _read(structures, monitor)
    refiner: Refiner = settings.method(settings)
    own = structures.with_name(f"{structures.stem}-features.safetensors")
    features = load_features(own) if own.is_file() else None
    made_with = provenance(seed=seed, settings=settings.model_dump(mode="json"))
    key = [contents_hash(structures), settings.model_dump(mode="json")]
    samples = _samples(data, generated)
    refined = refiner.refine(
        samples,
        RefinementContext(
            representation=None if features is None else make_representation(features.representation),
            potential=None if calculator is None else calculator.potential(),
            seed=derive_seed(seed, "refine", settings.kind),
            directory=parts_folder(output, key),
            progress=monitor.progress(f"refining ({settings.kind})"),
        ),
    )
    kept = _kept(refined)
    if len(kept) < len(data):
        monitor.warn(
            f"refine ({settings.kind}): {len(data) - len(kept)} of {len(data)} structures came back as they "
            f"were (first: {_first_reason(refined)})."
        )
    before = data.structures if origin is None else load_dataset(origin).structures
    moved, calls = refined.structures, refined.energy_calls
    assert before is not None and moved is not None and calls is not None
    result = _as_dataset(data, refined, before, made_with)
    save_dataset(result, output)
    write_extxyz(
        moved if result.structures is None else result.structures,
        output.with_suffix(".extxyz"),
        properties=result.properties,
        provenance=made_with,
        ids=result.ids,
    )
    if features is not None:
        representation = make_representation(features.representation)
        with torch.no_grad():
            now = torch.cat([representation(chunk) for chunk in moved.chunks(256)])
        save_features(
            dataclasses.replace(features, features=now),
            output.with_name(f"{output.stem}-features.safetensors"),
        )
    record = structures.with_name(f"{structures.stem}-reconstruction.json")
    if record.is_file():
        write_json(output.with_name(f"{output.stem}-reconstruction.json"), read_json(record))
    write_json(
        output.with_name(f"{output.stem}-refinement.json"),
        {
            **made_with,
            "kind": settings.kind,
            "counts": _counts(refined.refinement),
            "displacement": [] if refined.displacement is None else refined.displacement.tolist(),
            "energy_calls": calls.tolist(),
            "status": list(refined.refinement),
        },
    )
    remove_parts(output)


def _read(path: Path, monitor: Monitor) -> Dataset:
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
    return data


def _samples(data: Dataset, generated: Path | None) -> Samples:
    """Return structures with their targets and the features they were made for, as far as known."""
    assert data.structures is not None
    unknown = torch.full((len(data),), torch.nan, dtype=torch.float64)
    features: Tensor | None = None
    requested: dict[str, Any] = {}
    if generated is not None:
        wanted = load_features(generated)
        place = {name: row for row, name in enumerate(wanted.ids)}
        if missing := [name for name in data.ids if name not in place]:
            raise InputError(f"{generated}: has no sample '{missing[0]}'. Give the features these are from.")
        features = wanted.features[[place[name] for name in data.ids]].double()
        requested = dict(wanted.requested)
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
    data: Dataset, refined: Samples, origin: StructureBatch, made_with: dict[str, Any]
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
        },
        ids=data.ids,
        provenance={**data.provenance, **made_with},
    )


def _kept(refined: Samples) -> list[int]:
    return [k for k, status in enumerate(refined.refinement) if not status.startswith(AS_IT_WAS)]


def _first_reason(refined: Samples) -> str:
    return next(status for status in refined.refinement if status.startswith(AS_IT_WAS))


def _counts(statuses: Sequence[str]) -> dict[str, int]:
    """Return how many ended in each status, reasons aside."""
    words = [status.partition(":")[0] for status in statuses]
    return {word: words.count(word) for word in dict.fromkeys(words)}
