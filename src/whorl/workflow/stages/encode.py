"""Stage ``encode``: features of structures, or precomputed features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from whorl.chunked import Part, map_chunks, parts_folder, remove_parts
from whorl.datasets import (
    FeatureSet,
    load_dataset,
    read_features,
    save_features,
)
from whorl.datasets.describe import summary
from whorl.errors import InputError
from whorl.files import contents_hash
from whorl.locks import one_at_a_time
from whorl.memory import in_words
from whorl.representations import Representation
from whorl.representations.base import InvertibleRepresentation
from whorl.structures import StructureBatch, find_problems
from whorl.structures.composition import composition, species_of
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.settings import (
    FeaturesSettings,
    RepresentationSettings,
)

_ENCODE_AT_ONCE = 1000
_PIECE_SECONDS = 10.0  # between progress reports
_FAR = 1000.0  # Å
_SAME = 1e-3  # relative difference of features


@one_at_a_time
def encode(dataset: Path, *, settings: RepresentationSettings, output: Path, monitor: Monitor) -> None:
    """Compute the features of every structure of a data set.

    Finished chunks are kept in a folder next to ``output`` until all are finished.
    Structures that cannot be encoded (coinciding atoms, undeclared species …) are reported and skipped.
    """
    data = load_dataset(dataset)
    if data.structures is None:
        raise InputError(f"{dataset}: contains no structures to encode.")
    representation = settings.build(species_of(data.structures), structures=data.structures)
    if settings.fits_data:
        monitor.note(f"{representation.describe()}, that of the largest structure")
    problems = find_problems(data.structures, species=settings.declared)
    problems |= {
        i: why for i, why in representation.find_problems(data.structures).items() if i not in problems
    }
    for index, reason in sorted(problems.items()):
        monitor.skip(data.ids[index], reason)
    good = [index for index in range(len(data)) if index not in problems]
    if not good:
        raise InputError(
            f"{dataset}: none of the {len(data)} structures can be encoded by {settings.kind}"
            + (f": the first {problems[0]}" if problems else "")
            + ". Choose another representation, or correct the structures."
        )
    structures = data.structures[good]
    representation = representation.fit(structures)
    representation.require_memory(structures)
    if doubt := _depends_on_size(representation, structures):
        monitor.warn(doubt)
    seconds = representation.seconds(structures)
    size = in_words(len(structures) * _row_bytes(representation, structures))
    hours = _some_time(float(seconds.sum()))
    monitor.note(
        f"{len(representation.layout):,} features for each of {len(structures):,} structures: {size}{hours}"
    )
    progress = monitor.progress("encoding")
    progress(0, len(structures))
    made_from = representation.fingerprint
    parts = map_chunks(
        partial(_features, representation),
        [structures[rows] for rows in _pieces(seconds)],
        folder=parts_folder(output, [made_from, contents_hash(dataset)]),
        key=made_from,
        progress=progress,
    )
    features = torch.cat([part.tensors["features"] for part in parts])
    del parts
    made = FeatureSet(
        features=features,
        representation=representation.config(),
        fingerprint=representation.fingerprint,
        properties={name: values[good] for name, values in data.properties.items()},
        ids=tuple(data.ids[index] for index in good),
        pbc=structures.pbc,
        elements=tuple(species_of(structures)),
    )
    save_features(made, output)
    remove_parts(output)
    monitor.note(summary(made))


def _depends_on_size(representation: Representation, structures: StructureBatch) -> str | None:
    """Return a doubt where clusters of several sizes have features that grow with the number of atoms."""
    sizes = structures.n_atoms.aminmax()
    low, high = (int(size) for size in sizes)
    if low == high or bool(structures.pbc.any()) or isinstance(representation, InvertibleRepresentation):
        return None
    one = structures[0]
    twice = StructureBatch(
        positions=torch.cat([one.positions, one.positions + _FAR]),
        cells=one.cells,
        pbc=one.pbc,
        atomic_numbers=one.atomic_numbers.repeat(2),
        structure_index=one.structure_index.repeat(2),
    )
    with torch.no_grad():
        single, double = (representation(some).double() for some in (one, twice))
    if float((double - single).norm()) <= _SAME * float(single.norm()):
        return None
    return (
        f"the structures have {low} to {high} atoms, and the features of this representation depend on the "
        "size itself: those of two clusters far apart are not those of one. The size then dominates what a "
        "model learns. Pool by mean and std (pooling: [mean, std]), or normalise by the number of atoms."
    )


def _row_bytes(representation: Representation, structures: StructureBatch) -> int:
    return len(representation.layout) * structures.positions.element_size()


def _some_time(seconds: float) -> str:
    """Return an estimate of the run time for a note; empty if short."""
    if seconds < 60:
        return ""
    size, unit = (seconds / 3600, "hours") if seconds >= 5400 else (seconds / 60, "minutes")
    return f"; about {size:.0f} {unit} on one core"


def _pieces(seconds: Tensor) -> list[list[int]]:
    """Divide rows into chunks that take about ten seconds each, of limited size.

    Chunks, and thus rounding errors, depend on the structures only, not on the machine.
    """
    pieces: list[list[int]] = []
    left = 0.0
    for row, cost in enumerate(seconds.tolist()):
        if not pieces or cost > left or len(pieces[-1]) == _ENCODE_AT_ONCE:
            pieces.append([])
            left = _PIECE_SECONDS
        pieces[-1].append(row)
        left -= cost
    return pieces


def _features(representation: Representation, structures: StructureBatch) -> Part:
    with torch.no_grad():
        return Part({"features": representation(structures)})


def finished_features(
    settings: FeaturesSettings, representation: RepresentationSettings, *, output: Path, monitor: Monitor
) -> None:
    """Read precomputed features.

    Raises:
        InputError: Arrays are missing or do not have the representation's shape, or no row is usable.
    """
    path = Path(settings.path)
    species = list(composition(settings.composition)) if settings.composition else representation.declared
    if not species:
        raise InputError(
            "neither data.features.composition (such as Pt10) nor representation.species is given, so the "
            "representation is not known. Give one of them."
        )
    features, target = read_features(path, property=settings.property, features=settings.features)
    made_by = representation.build(species, shape=tuple(features.shape[1:]))
    if tuple(features.shape[1:]) != made_by.layout.shape:
        raise InputError(
            f"{path}: rows have shape {tuple(features.shape[1:])}, but the recipe's representation gives "
            f"{made_by.layout.shape}. The file was made by another representation: change the recipe's "
            "representation section, or encode the structures again."
        )
    save_features(
        FeatureSet(
            features=features,
            representation=made_by.config(),
            fingerprint=made_by.fingerprint,
            properties={settings.property: target},
            ids=tuple(f"row-{row}" for row in range(len(target))),
        ),
        output,
    )


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the step that computes the features, or reads finished ones."""
    settings, given = run.recipe.representation, run.recipe.data.features
    if given is not None:
        yield Step(
            name="encode",
            settings={**given.model_dump(mode="json"), "representation": settings.model_dump(mode="json")},
            run=partial(finished_features, given, settings, output=run.features),
            sources=(Path(given.path),),
        )
    else:
        yield Step(
            name="encode",
            settings=settings.model_dump(mode="json"),
            run=partial(encode, run.dataset, settings=settings, output=run.features),
            needs=("data",),
        )
