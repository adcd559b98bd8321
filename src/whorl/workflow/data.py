"""From atoms or files to features: building, reading, encoding and drawing training sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from whorl.chunked import Part, map_chunks, parts_folder, remove_parts
from whorl.datasets import (
    Dataset,
    FeatureSet,
    build_clusters,
    build_crystals,
    farthest_point_sampling,
    load_dataset,
    load_features,
    read_dataset,
    read_features,
    save_dataset,
    save_features,
    split,
    write_extxyz,
)
from whorl.datasets.sampling import training_count
from whorl.errors import InputError
from whorl.evaluation import standardized
from whorl.files import contents_hash, read_json, write_json
from whorl.locks import one_at_a_time
from whorl.memory import in_words, require_memory
from whorl.potentials import make_potential
from whorl.representations import Representation
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch, find_problems
from whorl.workflow.monitor import Monitor
from whorl.workflow.settings import (
    ClusterSettings,
    CrystalSettings,
    FeaturesSettings,
    RepresentationSettings,
)

MIN_TRAINING = 10  # fewer rows than this cannot train anything
_ENCODE_AT_ONCE = 1000
_PIECE_SECONDS = 10.0  # between two signs of life


def clusters(
    settings: ClusterSettings, *, directory: Path, output: Path, seed: int, monitor: Monitor
) -> None:
    """Build a labelled set of clusters into ``output``, in chunks kept in ``directory``."""
    dataset = build_clusters(
        element=settings.element,
        atoms=settings.atoms,
        count=settings.count,
        potential=make_potential(settings.calculator.name, **settings.calculator.options),
        directory=directory,
        seed=seed,
        window=settings.window,
        processes=settings.processes,
        reference_energy=settings.calculator.bulk_energy.get(settings.element),
        progress=monitor.progress("clusters"),
    )
    _tell_failures(dataset, settings.calculator.name, monitor)
    _store(dataset, output, monitor)


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
        potential=make_potential(method.name, **method.options) if method else None,
        relaxed=settings.relax,
        processes=settings.processes,
        progress=monitor.progress("crystals"),
    )
    if method is None and dataset.structures is not None:
        from whorl.evaluation.cgcnn import CGCNN

        # A quick label that needs no download; what it says of unrelaxed cells is rough.
        labels = CGCNN(["formation energy"]).predict(dataset.structures, progress=monitor.progress("CGCNN"))
        energies = labels["formation energy"]
        dataset = replace(dataset, properties={settings.property: energies})
        unknown = torch.nonzero(~torch.isfinite(energies)).flatten().tolist()
        for row in unknown:
            monitor.skip(dataset.ids[row], "CGCNN has no formation energy for it")
        dataset = dataset.select([row for row in range(len(dataset)) if row not in set(unknown)])
    _tell_failures(dataset, method.name if method else "CGCNN", monitor)
    _store(dataset, output, monitor)


def files(
    path: Path | str,
    *,
    property: str | None,
    format: str | None,
    per_atom: bool = False,
    output: Path,
    monitor: Monitor,
) -> None:
    """Read labelled structures from files into ``output``, without unusable entries, with doubtful ones.

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
        if per_atom:
            dataset = replace(dataset, properties={f"{property}_per_atom": values / counts})
        elif _grows_with_atoms(values, counts):
            monitor.warn(
                f"'{property}' grows with the number of atoms ({int(counts.min())} to {int(counts.max())}), "
                "which then is most of what a model learns of it. Read it with --per-atom if it is extensive."
            )
    _store(dataset, output, monitor)
    monitor.note(summary(dataset))


def _grows_with_atoms(values: Tensor, counts: Tensor) -> bool:
    """Whether the number of atoms explains nine tenths of a property's variance."""
    if len(values) < _FEW or not float(counts.std()) or not float(values.std()):
        return False
    return float(torch.corrcoef(torch.stack([values, counts]))[0, 1]) ** 2 > 0.9


_FEW = 10  # structures, below which a correlation says nothing


def _store(dataset: Dataset, output: Path, monitor: Monitor) -> None:
    """Write a data set, and beside it the extxyz that other programs read."""
    for what in save_dataset(dataset, output):
        monitor.doubt(str(output), f"could not be stored and was left out: {what}")
    if dataset.structures is not None:
        write_extxyz(
            dataset.structures,
            output.with_suffix(".extxyz"),
            properties=dataset.properties,
            provenance=dataset.provenance,
            ids=dataset.ids,
        )


@one_at_a_time
def encode(dataset: Path, *, settings: RepresentationSettings, output: Path, monitor: Monitor) -> None:
    """Compute the features of every structure of a data set.

    Finished chunks lie in a folder beside ``output`` until all are there; an interruption costs one chunk.
    Structures that cannot be encoded (atoms at one place, species not declared …) are told and left out.
    """
    data = load_dataset(dataset)
    if data.structures is None:
        raise InputError(f"{dataset}: holds no structures, so there is nothing to encode.")
    representation = settings.build(species_of(data.structures), structures=data.structures)
    if settings.fits_data:
        monitor.note(f"{representation.describe()}, as many as the largest structure has")
    problems = find_problems(data.structures, species=settings.declared)
    problems |= {
        i: why for i, why in representation.find_problems(data.structures).items() if i not in problems
    }
    for index, reason in sorted(problems.items()):
        monitor.skip(data.ids[index], reason)
    good = [index for index in range(len(data)) if index not in problems]
    if not good:
        raise InputError(
            f"{dataset}: none of the {len(data)} structures can be encoded (see the reasons above)."
        )
    structures = data.structures[good]
    representation = representation.fit(structures)
    _require_room(representation, structures)
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
    made = FeatureSet(
        features=torch.cat([part.tensors["features"] for part in parts]),
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


def _row_bytes(representation: Representation, structures: StructureBatch) -> int:
    return len(representation.layout) * structures.positions.element_size()


def _require_room(representation: Representation, structures: StructureBatch) -> None:
    """Refuse features that do not fit into memory before they are computed."""
    count = len(representation.layout)
    species = len(species_of(structures))
    require_memory(
        2 * len(structures) * _row_bytes(representation, structures),  # in pieces, and put together
        f"{count:,} features for each of {len(structures):,} structures, which have {species} elements",
        f"Remedy: {representation.fewer_features}, or fewer structures.",
    )


def _some_time(seconds: float) -> str:
    """Say roughly how long work takes, where that is worth waiting for."""
    if seconds < 60:
        return ""
    size, unit = (seconds / 3600, "hours") if seconds >= 5400 else (seconds / 60, "minutes")
    return f"; some {size:.0f} {unit} on one core"


def _pieces(seconds: Tensor) -> list[list[int]]:
    """Divide rows into pieces that take some ten seconds each, and have at most so many rows.

    What is computed together follows from the structures alone, not from the machine: so do rounding errors.
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
    """Read features that were computed elsewhere.

    Raises:
        InputError: Arrays missing or of another shape than the representation's, or no row usable.
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


def species_of(structures: StructureBatch) -> list[str]:
    """Return the chemical symbols that occur, by atomic number."""
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in sorted(set(structures.atomic_numbers.tolist()))]


def composition(formula: str) -> dict[str, int]:
    """Read a chemical formula.

    >>> composition("Pt10")
    {'Pt': 10}
    """
    from ase.formula import Formula

    try:
        counts = Formula(formula).count()
    except ValueError:
        counts = {}
    if not counts:
        raise InputError(f"composition: got '{formula}', expected a chemical formula such as Pt10 or Pt8Ni2.")
    return dict(counts)


def structures_of(ids: Sequence[str], dataset: Path) -> StructureBatch:
    """Return the structures of a data set that have these ids, in this order.

    Raises:
        InputError: The data set holds no structures, or lacks one of them.
    """
    data = load_dataset(dataset)
    if data.structures is None:
        raise InputError(f"{dataset}: holds no structures.")
    place = {name: index for index, name in enumerate(data.ids)}
    if missing := [name for name in ids if name not in place]:
        raise InputError(
            f"{dataset}: has no structure '{missing[0]}', which the features name. Give the data set "
            "that the features were made of."
        )
    return data.structures[[place[name] for name in ids]]


def require_enough(size: int | None, there: int, fraction: float) -> None:
    """Make sure that ``there`` rows are enough for a training size (all of them for None).

    Raises:
        InputError: More rows asked for than there are, or fewer than 10 to train on.
    """
    if size is not None and size > there:
        raise InputError(
            f"a training size of {size} was asked for, but the data set has {there} usable rows. Ask for at "
            f"most {there}, or for 'all'."
        )
    rows = there if size is None else size
    train = training_count(rows, fraction)
    if train < MIN_TRAINING:
        raise InputError(
            f"{train} rows to train on ({rows} in all, {fraction:g} of them to train), expected at "
            f"least {MIN_TRAINING}. Give more data or a larger training size."
        )


def training_rows(
    features: Path, *, size: int | None, fraction: float, seed: int, output: Path, monitor: Monitor
) -> None:
    """Draw ``size`` rows by farthest point sampling (all for None) and split them to train and to validate.

    Raises:
        InputError: More rows asked for than there are, or fewer than 10 to train on.
    """
    rows_there = load_features(features)
    n = len(rows_there.ids)
    require_enough(size, n, fraction)
    if size is None:
        rows = torch.arange(n)
    else:
        flat = rows_there.features.flatten(1)
        rows = farthest_point_sampling(standardized(flat, flat), size, seed=derive_seed(seed, "fps"))
    train, validation = split(len(rows), fraction=fraction, seed=derive_seed(seed, "split", size))
    write_json(
        output,
        {
            "features": rows_there.fingerprint,
            "rows": rows.tolist(),
            "train": rows[train].tolist(),
            "validation": rows[validation].tolist(),
        },
    )


def read_rows(path: Path) -> dict[str, Tensor]:
    """Read what :func:`training_rows` wrote: ``rows``, ``train`` and ``validation`` of the feature file."""
    data = read_json(path)
    try:
        rows = {name: data[name] for name in ("rows", "train", "validation")}
        if any(type(row) is not int or not 0 <= row < 2**63 for part in rows.values() for row in part):
            raise ValueError("no row numbers")
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a list of training rows; make it with 'whorl data sample'.") from None
    return {name: torch.tensor(part, dtype=torch.int64) for name, part in rows.items()}


def counted(count: int, what: str) -> str:
    """Return a number with its noun.

    >>> counted(3785, "structure"), counted(1, "element")
    ('3,785 structures', '1 element')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def summary(table: Dataset | FeatureSet) -> str:
    """Say in one line what a data set or a table of features holds."""
    words = [counted(len(table), "structure")]
    if isinstance(table, FeatureSet):
        words = [f"{counted(len(table), 'row')} of {math.prod(table.features.shape[1:]):,} features"]
    elif table.structures is not None and len(table):
        low, high = (int(bound) for bound in table.structures.n_atoms.aminmax())
        words += [counted(len(species_of(table.structures)), "element")]
        words += [counted(high, "atom") + " each" if low == high else f"{low} to {high} atoms each"]
    for name, values in table.properties.items():
        known = values[values.isfinite()].double()
        if len(known):
            words.append(f"{name} {float(known.min()):.4g} … {float(known.max()):.4g}")
    return ", ".join(words)


def describe(path: Path) -> dict[str, str]:
    """Say in a few words what a data set or feature file holds.

    Raises:
        InputError: Neither of them, or damaged.
    """
    table: Dataset | FeatureSet
    try:
        table = load_features(path)
        what = {
            "features": f"{len(table)} rows of shape {tuple(table.features.shape[1:])}",
            "representation": f"{table.representation.get('kind')} ({table.fingerprint})",
        }
    except InputError:
        table = load_dataset(path)
        what = {"structures": str(len(table))}
        if table.structures is not None and len(table):
            counts = table.structures.n_atoms
            what["elements"] = ", ".join(species_of(table.structures))
            what["atoms"] = f"{int(counts.min())} to {int(counts.max())} each"
            what["periodic"] = f"{int(table.structures.pbc.any(1).sum())} of them"
        if table.skipped:
            what["skipped"] = f"{len(table.skipped)} entries when it was made"
        if table.doubts:
            what["doubtful"] = f"{len({name for name, _ in table.doubts})} of them"
        what |= {name: str(value) for name, value in table.provenance.items() if not isinstance(value, dict)}
    for name, values in table.properties.items():
        if len(values):
            low, mean, high = (float(v) for v in (values.min(), values.mean(), values.max()))
            what[name] = f"{low:.4g} to {high:.4g}, mean {mean:.4g}"
    return what
