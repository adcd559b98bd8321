"""From all that was made to a verdict and a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.datasets import FeatureSet, load_dataset, load_features
from whorl.datasets.store import labels_of, structures_of
from whorl.errors import InputError
from whorl.evaluation import (
    Generated,
    Reconstructed,
    Verdict,
    evaluate,
)
from whorl.files import damage_named, read_json
from whorl.report import make_table, write_report, write_samples, write_structures, write_tables
from whorl.report.crystals import CrystalSection
from whorl.report.tables import Table
from whorl.representations import make_representation
from whorl.surrogates import PredictionErrors, Surrogate, load_surrogate, prediction_errors
from whorl.workflow.crystals import read_record, record_of
from whorl.workflow.stages.sample import read_rows


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where the results for one training size lie; what was not made is None.

    Attributes:
        generated: Generated features.
        rows: Rows trained on; None for all.
        structures: Atoms found for some of them.
        energies: Of those atoms.
    """

    generated: Path
    rows: Path | None = None
    structures: Path | None = None
    energies: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a verdict rests on, as tensors."""

    real: FeatureSet
    labels: Tensor
    sizes: dict[str, Generated]
    surrogate_errors: PredictionErrors | None = None


def gather(
    sizes: Mapping[str, Files], *, features: Path, property: str | None, judge: Path | str | None
) -> Evidence:
    """Read everything that was made, and let the judge look at the generated features.

    Raises:
        InputError: Files that are missing or do not belong together.
    """
    real = load_features(features)
    representation = make_representation(real.representation)
    labels = labels_of(real, property)
    surrogate = load_surrogate(judge, shape=tuple(real.features.shape[1:])) if judge else None
    found = {}
    for label, files in sizes.items():
        made = load_features(files.generated, representation=representation)
        rows = torch.arange(len(labels)) if files.rows is None else read_rows(files.rows)["rows"]
        flat = made.features.flatten(1).double()
        found[label] = Generated(
            targets=made.properties["target"].double(),
            features=flat,
            predicted=surrogate.predict(made.features.double()).mean.double()
            if surrogate is not None
            else None,
            training_features=real.features.flatten(1)[rows].double(),
            training_properties=labels[rows].double(),
            reconstructed=_reconstructed(files, made) if files.structures else None,
        )
    errors = None if surrogate is None else _errors(surrogate, real, labels)
    return Evidence(real=real, labels=labels, sizes=found, surrogate_errors=errors)


def _errors(surrogate: Surrogate, real: FeatureSet, labels: Tensor) -> PredictionErrors | None:
    """Return the errors measured when it was fitted, or where there are none those on all labelled rows."""
    if surrogate.validation_errors is not None:
        return surrogate.validation_errors
    predicted = surrogate.predict(real.features.double()).mean.double()
    usable = predicted.isfinite() & labels.isfinite()
    if not bool(usable.any()):
        return None
    return prediction_errors(predicted[usable], labels[usable], held_out=False)


def _reconstructed(files: Files, made: FeatureSet) -> Reconstructed:
    assert files.structures is not None
    path = files.structures
    data = load_dataset(path)
    if data.structures is None or "reconstruction_loss" not in data.properties:
        raise InputError(f"{path}: not the structures that 'whorl invert' or 'whorl decode' writes.")
    place = {name: index for index, name in enumerate(made.ids)}
    if missing := [name for name in data.ids if name not in place]:
        raise InputError(
            f"{path}: has '{missing[0]}', which is none of the generated samples in {files.generated}. "
            "Reconstruct these samples, or give those that were reconstructed."
        )
    record = read_record(path)
    own = path.with_name(f"{path.stem}-features.safetensors")
    with damage_named(record_of(path)):
        limit = record.get("invalid_above")
        invalid_above = None if limit is None else float(limit)
        reference_loss = torch.tensor(record.get("reference_losses", []), dtype=torch.float64)
    with damage_named(path):
        status = tuple(str(info["reconstruction_status"]) for info in data.structures.info)
    energy: Tensor | None = None
    failures: dict[int, str] = {}
    if files.energies is not None:
        energy, failures = _read_energies(files.energies, data.ids)
    return Reconstructed(
        rows=torch.tensor([place[name] for name in data.ids], dtype=torch.int64),
        loss=data.properties["reconstruction_loss"].double(),
        status=status,
        invalid_above=invalid_above,
        reference_loss=reference_loss,
        energy=energy,
        failures=failures,
        features=load_features(own).features.flatten(1).double() if own.is_file() else None,
        structures=data.structures,
    )


def _read_energies(path: Path, ids: tuple[str, ...]) -> tuple[Tensor | None, dict[int, str]]:
    """Return what to compare with the property, if anything, and why some values are missing."""
    data = read_json(path)
    with damage_named(path):
        of, reasons = tuple(data["ids"]), dict(data["failures"])
        there = data.get("value", data["formation_energy"])  # all that older versions had
        values = [math.nan if value is None else float(value) for value in there or ()]
        failures = {index: str(reasons[name]) for index, name in enumerate(ids) if name in reasons}
    if of != ids or (there is not None and len(values) != len(ids)):
        raise InputError(f"{path}: these are the energies of other structures. Compute them again.")
    if there is None:
        return None, {}
    return torch.tensor(values, dtype=torch.float64), failures


def judge(
    evidence: Evidence, *, property: str, tolerance: float, output: Path, provenance: Mapping[str, Any]
) -> Verdict:
    """Write the verdict into a folder: ``results.json``, ``results.csv``, ``samples.csv``, and the atoms.

    The atoms of each training size go to ``structures-<size>.extxyz``, every one with what is known of it.
    """
    verdict = evaluate(
        evidence.sizes,
        data_features=evidence.real.features.flatten(1).double(),
        data_properties=evidence.labels.double(),
        property=property.replace("_", " "),
        tolerance=tolerance,
        window=tolerance,
        surrogate_errors=evidence.surrogate_errors,
    )
    for label, generated in evidence.sizes.items():
        if generated.reconstructed is not None:
            path = output / f"structures-{label}.extxyz"
            write_structures(generated, path, provenance=provenance, property=property)
    write_samples(evidence.sizes, output / "samples.csv")
    write_tables(verdict, output, provenance=provenance)
    return verdict


def report(
    evidence: Evidence,
    *,
    results: Path,
    dataset: Path | None,
    output: Path,
    title: str,
    recipe: Mapping[str, Any],
    provenance: Mapping[str, Any],
    warnings: Sequence[str] = (),
    skipped: Sequence[tuple[str, str]] = (),
    gallery: int = 6,
    agreement: str = "",
    crystals: CrystalSection | None = None,
) -> None:
    """Write the report of a run from its evidence and its verdict (``results``)."""
    structures = None
    if dataset is not None:
        structures = structures_of(evidence.real.ids, dataset)
    write_report(
        output,
        verdict=_read_verdict(results),
        sizes=evidence.sizes,
        data_features=evidence.real.features.flatten(1).double(),
        data_properties=evidence.labels.double(),
        data_structures=structures,
        title=title,
        recipe=recipe,
        provenance=provenance,
        warnings=warnings,
        skipped=skipped,
        gallery=gallery,
        agreement=agreement,
        crystals=crystals,
    )


def summary(results: Path) -> dict[str, Table]:
    """Return the tables of a verdict by their headings."""
    verdict = _read_verdict(results)
    headings = {
        "surrogate": "Generated features, judged by the surrogate",
        "potential": "Atoms found for them, judged by the energy method as they are",
    }
    tables = {heading: make_table(verdict, kind) for kind, heading in headings.items()}
    return {heading: table for heading, table in tables.items() if table is not None}


def _read_verdict(path: Path) -> Verdict:
    data = read_json(path)
    with damage_named(path):
        return Verdict.from_dict({name: value for name, value in data.items() if name != "provenance"})
