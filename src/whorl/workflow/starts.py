"""Initial structures of a search: from a file or from the closed form, matched to samples by id."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from whorl.datasets import FeatureSet, load_dataset, read_dataset
from whorl.datasets.store import Dataset
from whorl.errors import InputError
from whorl.evaluation.validity import check_validity
from whorl.reconstruction.base import ReconstructionContext
from whorl.reconstruction.closed_form import ClosedForm
from whorl.reconstruction.population.reconstructor import DECODED
from whorl.structures import StructureBatch
from whorl.structures.composition import species_of
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import read_recipe
from whorl.workflow.run_folder import RunFolder

Starts = tuple[StructureBatch | None, ...]


def file_of_run(path: Path) -> Path:
    """Return the reconstructed structures of a run, for its folder; anything else as it is.

    Raises:
        InputError: A run of several training sizes, or one without structures yet.
    """
    recipe = path / "recipe.yaml"
    if not recipe.is_file():
        return path
    run = RunFolder(path, read_recipe(recipe))
    files = [file for label in run.labels if (file := run.structures(label)).is_file()]
    if not files:
        raise InputError(f"{path}: this run has no structures yet. Finish it first: whorl run {recipe}.")
    if len(files) > 1:
        names = ", ".join(str(file) for file in files)
        raise InputError(f"{path}: this run has several training sizes. Name the file of one: {names}.")
    return files[0]


def read_structures(path: Path) -> Dataset:
    """Return the structures of any file that has some, or of the folder of a run.

    Of other files, ``id`` and ``target`` of the structures are read too, as whorl writes them.

    Raises:
        InputError: There are none, or an entry that cannot be used.
    """
    path = file_of_run(path)
    own = path.suffix == ".safetensors"
    data = load_dataset(path) if own else _with_columns(read_dataset(path, property=None))
    if data.skipped:
        raise InputError(f"{data.skipped[0].source}: {data.skipped[0].reason}")
    if data.structures is None or not len(data.structures):
        raise InputError(f"{path}: holds no structures.")
    return dataclasses.replace(data, structures=data.structures.to(dtype=torch.float64))


def _with_columns(data: Dataset) -> Dataset:
    """Return structures with the ids and targets that their file states."""
    if data.structures is None:
        return data
    stated = data.structures.info
    ids = tuple(str(info["id"]) for info in stated if "id" in info)
    targets = [info.get("target") for info in stated]
    known = torch.tensor(
        [float(t) if isinstance(t, int | float) else torch.nan for t in targets], dtype=torch.float64
    )
    return dataclasses.replace(
        data,
        ids=ids if len(set(ids)) == len(data.ids) else data.ids,
        properties={"target": known} if bool(known.isfinite().any()) else data.properties,
    )


def starts_of(
    samples: FeatureSet,
    given: str,
    context: ReconstructionContext,
    monitor: Monitor,
    *,
    others: Collection[str] = (),
) -> Starts:
    """Return for each sample the structures that its search begins with; None for random ones alone.

    Args:
        samples: The features.
        given: ``decoded``, a file, or the folder of a run. Where an id of the file is that of a sample, each
            structure is for the sample of its id, or else for all samples.
        context: Of the reconstruction.
        monitor: Receives samples without a start.
        others: Ids of samples that are not searched for now.

    Raises:
        InputError: A representation without a closed form, or a file without structures.
    """
    found: list[list[int]] = [[] for _ in samples.ids]
    if given == DECODED:
        if reason := ClosedForm.why_not(type(context.representation)):
            raise InputError(f"starts: decoded: {reason.partition(';')[0]}. Give a file of structures.")
        decoded = ClosedForm().reconstruct(samples.features, dataclasses.replace(context, directory=None))
        structures = decoded.structures.to(dtype=torch.float64)
        for place, row in enumerate(decoded.rows.tolist()):
            found[row].append(place)
    else:
        data = read_structures(Path(given))
        assert data.structures is not None
        structures, own = data.structures, {name: row for row, name in enumerate(samples.ids)}
        if any(name in own for name in data.ids):
            for place, name in enumerate(data.ids):
                if name in own:
                    found[own[name]].append(place)
                elif name not in others:
                    monitor.skip(name, f"{given}: no sample has this id, so it starts no search")
        else:
            found = [list(range(len(structures)))] * len(found)
    without = sum(not places for places in found)
    if without:
        monitor.warn(
            f"{without} of {len(found)} samples have no start; their search uses random starts only."
        )
    return tuple(structures[places] if places else None for places in found)


def usable_starts(data: Dataset, *, species: Collection[str], monitor: Monitor) -> Dataset:
    """Return the structures that samples of features of these elements can begin with.

    The others are skipped with the reason.

    Raises:
        InputError: There is none.
    """
    assert data.structures is not None
    reasons = check_validity(data.structures, closest=0.0, chemistry=False).reasons()
    for row, name in enumerate(data.ids):
        if strange := [symbol for symbol in species_of(data.structures[row]) if symbol not in species]:
            reasons[row] = f"has {', '.join(strange)}, which no training structure has"
        if reasons[row]:
            monitor.skip(name, reasons[row])
    usable = [row for row, reason in enumerate(reasons) if not reason]
    if not usable:
        raise InputError(
            f"none of the {len(data)} structures can begin a sample (first: {reasons[0]}). Give others, or "
            "have them decoded as elements of these data."
        )
    return data.select(usable)


def as_templates(starts: Starts) -> StructureBatch | None:
    """Return the first start of each sample; None where one has none."""
    firsts: Sequence[StructureBatch] = [some[0] for some in starts if some is not None]
    return StructureBatch.concatenate(firsts) if len(firsts) == len(starts) else None
