"""Stage ``data``: labelled structures, built or read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whorl.chunked import Part, map_chunks, parts_folder, remove_parts
from whorl.datasets import (
    Dataset,
    build_clusters,
    build_crystals,
    read_dataset,
    save_dataset,
    write_extxyz,
)
from whorl.datasets.describe import summary
from whorl.datasets.labels import doubt_of_forces
from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.settings import (
    ClusterSettings,
    CrystalSettings,
)

if TYPE_CHECKING:
    from whorl.evaluation.cgcnn import CGCNN

_LABEL = "formation energy"
_AT_ONCE = 500  # crystals between two saves of their labels
_FEW = 10  # minimum number of structures for a correlation


def clusters(
    settings: ClusterSettings, *, directory: Path, output: Path, seed: int, monitor: Monitor
) -> None:
    """Build a labelled set of clusters into ``output``, in chunks kept in ``directory``."""
    dataset = build_clusters(
        formula=settings.formula,
        element=settings.element,
        elements=settings.elements,
        atoms=settings.atoms,
        count=settings.count,
        potential=settings.calculator.potential(),
        directory=directory,
        seed=seed,
        window=settings.window,
        connected=settings.connected,
        processes=settings.processes,
        reference_energy=settings.calculator.bulk_energy,
        progress=monitor.progress("clusters"),
    )
    _tell_failures(dataset, settings.calculator.name, monitor)
    store(dataset, output, monitor)


def _tell_failures(dataset: Dataset, method: str, monitor: Monitor) -> None:
    if dataset.skipped:
        first = dataset.skipped[0]
        monitor.warn(
            f"{method} failed on {len(dataset.skipped)} structures, which were left out "
            f"(first: {first.source}: {first.reason})."
        )


def crystals(
    settings: CrystalSettings, *, directory: Path, output: Path, seed: int, monitor: Monitor
) -> None:
    """Build a labelled set of crystals into ``output``, in chunks kept in ``directory``."""
    method = settings.calculator
    dataset = build_crystals(
        count=settings.count,
        directory=directory,
        seed=seed,
        elements=settings.elements,
        max_atoms=settings.max_atoms,
        potential=method.potential() if method else None,
        relaxed=settings.relax,
        processes=settings.processes,
        progress=monitor.progress("crystals"),
    )
    if method is None and dataset.structures is not None:
        from whorl.evaluation.cgcnn import CGCNN

        # A fast label without a download; it is rough for unrelaxed cells.
        parts = map_chunks(
            partial(_labelled, CGCNN([_LABEL])),
            list(dataset.structures.replace(info=()).chunks(_AT_ONCE)),
            folder=parts_folder(output, [seed, settings.model_dump(mode="json")]),
            key=_LABEL,
            progress=monitor.progress("CGCNN"),
        )
        energies = torch.cat([part.tensors[_LABEL] for part in parts])
        dataset = replace(dataset, properties={settings.property: energies})
        unknown = torch.nonzero(~torch.isfinite(energies)).flatten().tolist()
        for row in unknown:
            monitor.skip(dataset.ids[row], "CGCNN cannot predict its formation energy")
        dataset = dataset.select([row for row in range(len(dataset)) if row not in set(unknown)])
    _tell_failures(dataset, method.name if method else "CGCNN", monitor)
    store(dataset, output, monitor)
    remove_parts(output)


def _labelled(network: CGCNN, crystals: StructureBatch) -> Part:
    return Part(network.predict(crystals))


def files(
    path: Path | str,
    *,
    property: str | None,
    format: str | None,
    per_atom: bool = False,
    output: Path,
    monitor: Monitor,
) -> None:
    """Read labelled structures from files into ``output``: unusable entries are skipped, doubtful ones kept.

    With ``per_atom`` the property is divided by the number of atoms and called ``<property>_per_atom``.
    """
    dataset = read_dataset(path, property=property, format=format, progress=monitor.progress("reading"))
    for entry in dataset.skipped:
        monitor.skip(entry.source, entry.reason)
    for name, doubt in dataset.doubts:
        monitor.doubt(name, doubt)
    if not len(dataset):
        raise InputError(
            f"{path}: none of its {len(dataset.skipped)} entries can be used (see the reasons above)."
        )
    if property is not None and dataset.structures is not None:
        counts, values = dataset.structures.n_atoms.double(), dataset.properties[property]
        if dataset.forces is not None and (
            misfit := doubt_of_forces(dataset.structures, dataset.forces, property, values)
        ):
            monitor.warn(f"{path}: {misfit}")
        if per_atom:
            dataset = replace(dataset, properties={f"{property}_per_atom": values / counts})
        elif _grows_with_atoms(values, counts):
            monitor.warn(
                f"'{property}' grows with the number of atoms ({int(counts.min())} to {int(counts.max())}), "
                "which then dominates what a model learns. Read it with --per-atom if it is extensive."
            )
    store(dataset, output, monitor)
    monitor.note(summary(dataset))


def _grows_with_atoms(values: Tensor, counts: Tensor) -> bool:
    """Whether the number of atoms explains nine tenths of a property's variance."""
    if len(values) < _FEW or not float(counts.std()) or not float(values.std()):
        return False
    return float(torch.corrcoef(torch.stack([values, counts]))[0, 1]) ** 2 > 0.9


def store(dataset: Dataset, output: Path, monitor: Monitor) -> None:
    """Write a data set, and an extxyz file for other programs."""
    for what in save_dataset(dataset, output):
        monitor.doubt(str(output), f"not stored, as it has no plain representation: {what}")
    if dataset.structures is not None:
        write_extxyz(
            dataset.structures,
            output.with_suffix(".extxyz"),
            properties=dataset.properties,
            provenance=dataset.provenance,
            ids=dataset.ids,
            forces=dataset.forces,
            stresses=dataset.stresses,
        )


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the step that builds or reads the data set; none for precomputed features."""
    recipe = run.recipe
    built = recipe.data.clusters or recipe.data.crystals
    if built is not None:
        kind = "clusters" if recipe.data.clusters else "crystals"
        build: Callable[..., None] = clusters if recipe.data.clusters else crystals
        yield Step(
            name="data",
            settings={
                "seed": recipe.seed,
                **built.model_dump(mode="json", exclude={"processes", "directory"}),
            },
            run=partial(
                build,
                built,
                directory=Path(built.directory) if built.directory else run.dataset.parent / kind,
                output=run.dataset,
                seed=recipe.seed,
            ),
            keeps=(kind,),
        )
    elif (given := recipe.data.files) is not None:
        yield Step(
            name="data",
            settings=given.model_dump(mode="json"),
            run=partial(files, given.path, property=given.property, format=given.format, output=run.dataset),
            sources=(Path(given.path),),
        )
