"""Stage ``active``: rounds in which structures on their way to the targets are labelled.

A round moves all reconstructed structures to their targets by the surrogate so far, chooses some of them,
has them computed by the energy method, or by an outside program, and gives the surrogate these labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor

from whorl.chunked import Part, map_chunks, parts_folder, remove_parts
from whorl.datasets import Dataset, load_dataset, load_features, save_dataset, write_extxyz
from whorl.datasets.computed_files import RESULTS, TO_COMPUTE, Results, read_computed, write_to_compute
from whorl.datasets.labels import doubt_of_units, guessed_unit
from whorl.datasets.store import Skipped
from whorl.errors import InputError, ResultsAwaitedError
from whorl.evaluation.distances import standardized
from whorl.evaluation.samples import Reference
from whorl.files import provenance, write_json
from whorl.locks import one_at_a_time
from whorl.potentials.base import Potential, PotentialOutput
from whorl.potentials.quantity import ENERGIES, Quantity, quantity_named
from whorl.potentials.settings import CalculatorSettings
from whorl.refinement.active import candidates, choose_batch
from whorl.refinement.project import Project, are_whole
from whorl.representations import make_representation
from whorl.structures import StructureBatch
from whorl.structures.composition import formula, species_of
from whorl.structures.connectivity import join_pieces
from whorl.structures.convert import calculator_results
from whorl.surrogates.base import QUANTILE
from whorl.tensor_files import tensors_hash
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.settings import ActiveSettings
from whorl.workflow.stages.atoms import Labelled, read_atoms_surrogate, read_labelled, read_quantity

_MOVES = ("steps", "max_step", "closeness", "caution", "min_distance", "free_cell")
_LISTED = 10  # structures named one by one in a message
_AGREES = 2e-3  # eV/atom: energies of the elements agree with the data
_FAR = 3  # ranges of the data
_ALIKE = 0.9  # cosine of forces and their predictions, above which a factor between them says something
_FAR_OFF = 15  # forces that are so much smaller or larger than known and predicted ones are in other units
_AT_ONCE = 8  # structures labelled between two saves


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of the n chosen structures.

    Attributes:
        values: The property; NaN where there is none.
        energies: Total energies in eV, likewise.
        forces: On all of their atoms in eV/Å; NaN where there are none.
        failures: Index of each structure without a label, and why.
    """

    values: Tensor
    energies: Tensor
    forces: Tensor
    failures: Mapping[int, str]


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each round and training size; none where the recipe has no active rounds."""
    recipe, active = run.recipe, run.recipe.active
    if active is None:
        return
    project = next((of for of in recipe.refine if isinstance(of, Project.Settings)), None)
    if project is None:
        raise InputError("active: needs the refiner project. Add refine: {kind: project}.")
    choice = run.choice
    calculator = None if active.outside else recipe.calculator
    tolerance = project.tolerance or recipe.evaluate.tolerance
    for label in run.labels:
        before = run.atoms_surrogate(label)
        for number, surrogate in enumerate(run.active_rounds(label), start=1):
            labelled = Labelled.of_run(run, label)
            earlier = run.active_labels(label)[: number - 1]
            yield Step(
                name=run.step_of(surrogate),
                settings={
                    "labels": active.labels,
                    "calculator": None if calculator is None else calculator.model_dump(mode="json"),
                    "outside": None if calculator else [recipe.evaluate.quantity, active.bulk_energy],
                    "project": {name: getattr(project, name) for name in _MOVES},
                    "tolerance": tolerance,
                },
                run=partial(
                    active_round,
                    run.structures(label),
                    labelled=labelled,
                    earlier=earlier,
                    surrogate=before,
                    settings=project,
                    tolerance=tolerance,
                    active=active,
                    calculator=calculator,
                    choice=choice,
                    quantity=recipe.evaluate.quantity,
                    output=surrogate,
                    seed=recipe.seed,
                ),
                needs=(
                    "data",
                    "encode",
                    f"sampling/{label}",
                    run.step_of(run.structures(label)),
                    run.step_of(run.atoms_surrogate(label)),
                    *map(run.step_of, run.active_rounds(label)[: number - 1]),
                    *(() if choice is None else ("reference",)),
                ),
                keeps=(RESULTS, TO_COMPUTE),
            )
            before = surrogate


@one_at_a_time
def active_round(
    structures: Path,
    *,
    labelled: Labelled,
    earlier: Sequence[Path],
    surrogate: Path,
    settings: Project.Settings,
    tolerance: float,
    active: ActiveSettings,
    calculator: CalculatorSettings | None,
    choice: Path | None,
    quantity: str,
    output: Path,
    monitor: Monitor,
    seed: int = 0,
) -> None:
    """Label some structures on their way to the targets, and give the surrogate what was learned.

    Args:
        structures: Reconstructed structures, with their targets.
        labelled: What the first surrogate was fitted to.
        earlier: Labels of earlier rounds.
        surrogate: The surrogate so far.
        settings: How structures are moved.
        tolerance: Difference from the target that counts as a hit.
        active: How many structures are labelled, and how.
        calculator: The energy method; None for an outside program.
        choice: File that says what of it is the property.
        quantity: Of an outside program likewise, or ``auto`` for what the name of the property says.
        output: The new surrogate. Next to it: ``chosen.safetensors``, what is to be labelled;
            ``labels.safetensors`` and ``labels.extxyz``; and ``round.json``, what became of each.
        monitor: Receives progress, and structures that could not be labelled.
        seed: Of the run, for the record.

    Raises:
        InputError: The energy method computes nothing that is the property, or results are in other units.
        ResultsAwaitedError: Results of the outside program are missing.
    """
    count = active.labels
    made_with = provenance(seed=seed, settings={"labels": count, **settings.model_dump(mode="json")})
    folder = parts_folder(output, "round")
    chosen_file = output.with_name("chosen.safetensors")
    if not chosen_file.is_file():
        _choose(
            structures,
            labelled,
            earlier,
            surrogate,
            settings,
            tolerance,
            count,
            chosen_file,
            monitor,
            made_with,
        )
    chosen = load_dataset(chosen_file)
    if calculator is None:
        property = read_labelled(labelled).name
        name = quantity_named(property) if quantity == "auto" else quantity
        is_energy = name in ENERGIES
        labels = _put_back(chosen, labelled, name if is_energy else None, active, surrogate, output, monitor)
    else:
        of_method = read_quantity(choice)
        if of_method is None:
            raise InputError(
                f"active: {calculator.name} computes nothing that is the property. Say which of its "
                "quantities it is: evaluate.quantity."
            )
        is_energy = of_method.is_energy
        labels = _computed(chosen, calculator.potential(), of_method, folder, monitor)
    _learn(chosen, labels, is_energy, labelled, surrogate, tolerance, output, monitor, made_with)
    remove_parts(output)


def _choose(
    structures: Path,
    labelled: Labelled,
    earlier: Sequence[Path],
    surrogate: Path,
    settings: Project.Settings,
    tolerance: float,
    count: int,
    output: Path,
    monitor: Monitor,
    made_with: dict[str, Any],
) -> None:
    """Write the structures to label, with the values predicted of them."""
    data = load_dataset(structures)
    reference = read_labelled(labelled)
    assert data.structures is not None
    found = candidates(
        join_pieces(data.structures) if settings.whole else data.structures,
        data.properties["target"],
        read_atoms_surrogate(surrogate),
        tolerance=tolerance,
        whole=are_whole(reference),
        folder=parts_folder(output, "candidates"),
        progress=monitor.progress("moving candidates"),
        **{name: getattr(settings, name) for name in _MOVES},
    )
    assert labelled.features is not None
    representation = make_representation(load_features(labelled.features).representation)

    def features(of: StructureBatch) -> Tensor:
        with torch.no_grad():
            read = torch.cat([representation(chunk) for chunk in of.chunks(256)])
        return standardized(read.flatten(1).double(), reference.features)

    known = [standardized(reference.features, reference.features)]
    for path in earlier:
        before = load_dataset(path).structures
        known += [features(before)] if before is not None and len(before) else []
    rows = choose_batch(found, features(found.structures), torch.cat(known), count=count)
    if len(rows) < count:
        monitor.warn(
            f"active: {len(rows)} structures are labelled instead of {count}; the others resemble them, or "
            "labelled ones, or cannot be predicted. More samples give more to choose from."
        )
    structures_chosen = found.structures[rows]
    save_dataset(
        Dataset(
            structures=structures_chosen.replace(info=tuple({"sample": data.ids[row]} for row in rows)),
            properties={
                "target": found.targets[rows],
                "predicted": found.values[rows],
                "uncertainty": found.uncertainties[rows],
                "confidence": found.confidence[rows],
            },
            ids=tuple(_name(structure) for structure in structures_chosen),
            provenance=made_with,
        ),
        output,
    )
    remove_parts(output)


def _name(structure: StructureBatch) -> str:
    """Return a name that stands for this very structure, wherever its files travel."""
    return f"{formula(structure)}-{tensors_hash(structure.tensors)[:10]}"


def _computed(
    chosen: Dataset, potential: Potential, quantity: Quantity, folder: Path, monitor: Monitor
) -> Labels:
    """Compute structures by an energy method; what is finished is kept."""
    assert chosen.structures is not None
    bare = chosen.structures.replace(info=())
    parts = map_chunks(
        partial(_compute, potential, quantity),
        list(bare.chunks(_AT_ONCE)),
        folder=folder,
        key=[potential.name, quantity.name, quantity.subtracted, dict(quantity.bulk_energy)],
        progress=monitor.progress("labelling"),
    )
    none = torch.zeros(0, dtype=torch.float64)
    columns = {
        name: torch.cat([none, *(part.tensors[name].double() for part in parts)])
        for name in ("values", "energies")
    }
    return Labels(
        **columns,
        forces=torch.cat([none.reshape(0, 3), *(part.tensors["forces"].double() for part in parts)]),
        failures={
            number * _AT_ONCE + int(row): str(reason)
            for number, part in enumerate(parts)
            for row, reason in part.notes.items()
        },
    )


def _compute(potential: Potential, quantity: Quantity, chunk: StructureBatch) -> Part:
    output = quantity.compute(potential, chunk)
    values = quantity.values(output, chunk)
    failures = {str(row): reason for row, reason in output.failures.items()}
    for row in torch.nonzero(~values.isfinite()).flatten().tolist():
        failures.setdefault(str(row), "it has no value: the energy of an element is not known")
    return Part({"values": values, "energies": output.energy, "forces": output.forces}, failures)


def _put_back(
    chosen: Dataset,
    labelled: Labelled,
    quantity: str | None,
    active: ActiveSettings,
    surrogate: Path,
    output: Path,
    monitor: Monitor,
) -> Labels:
    """Read the results of an outside program, once all are there.

    Raises:
        ResultsAwaitedError: Some are missing, or of no use.
    """
    folder, reference = output.parent, read_labelled(labelled)
    write_to_compute(chosen, folder)
    results = read_computed(chosen, folder, property=reference.name)
    usable = {
        name: one
        for name, one in results.good.items()
        if math.isfinite(one.value) or (quantity is not None and math.isfinite(one.energy))
    }
    absent = dict.fromkeys(results.good, f"it has no '{reference.name}'") | dict(results.refused)
    lacking = {name: absent.get(name, "missing") for name in chosen.ids if name not in usable}
    if lacking and not (active.partial and usable):
        raise ResultsAwaitedError(
            _what_to_do(folder, lacking, len(chosen), results, reference.name, quantity)
        )
    for source, doubt in results.doubts:
        monitor.doubt(source, doubt)
    assert chosen.structures is not None
    counts = chosen.structures.n_atoms.tolist()
    nothing = torch.full((max(counts),), torch.nan, dtype=torch.float64)
    good = [usable.get(name) for name in chosen.ids]
    energies = torch.tensor([torch.nan if one is None else one.energy for one in good], dtype=torch.float64)
    own = torch.tensor([torch.nan if one is None else one.value for one in good], dtype=torch.float64)
    by_energy = _values(energies, chosen.structures, labelled, quantity, active.bulk_energy, own)
    labels = Labels(
        values=torch.where(own.isfinite(), own, by_energy),
        energies=energies,
        forces=torch.cat(
            [
                nothing[:n, None].expand(n, 3) if one is None else one.forces
                for one, n in zip(good, counts, strict=True)
            ]
        ),
        failures={row: lacking[name] for row, name in enumerate(chosen.ids) if name in lacking},
    )
    _check_units(chosen, labels, reference, surrogate, quantity, folder)
    if (inconsistent := _doubt(chosen, labels, reference, quantity)) is not None:
        monitor.doubt(str(folder), inconsistent)
    return labels


def _what_to_do(
    folder: Path,
    lacking: Mapping[str, str],
    count: int,
    results: Results,
    property: str,
    quantity: str | None,
) -> str:
    """Say which results are awaited, and how to put them back."""
    if set(lacking.values()) == {"missing"} and len(lacking) == count:
        begin = f"{folder}: {count} structures are to be computed by your program."
    else:
        listed = [f"\n  {name}: {reason}" for name, reason in lacking.items()]
        more = f"\n  and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        begin = f"{folder}: results of {len(lacking)} of {count} structures are awaited:"
        begin += "".join(listed[:_LISTED]) + more
    odd = "".join(f"\n  {source}: {doubt}" for source, doubt in results.doubts[:_LISTED])
    what = f"the property as '{property}'"
    if quantity is not None:
        what = f"total energies in eV (or {what}) and forces in eV/Å"
    return (
        f"{begin}{odd}\n"
        f"Compute {what} of these structures as they are in {TO_COMPUTE}.extxyz, or each in its folder in "
        f"{TO_COMPUTE}, and put the results into {RESULTS}: extended XYZ with the same id, or the program's "
        "output (OUTCAR, vasprun.xml, …) in a folder named by the id. The same command then goes on; without "
        "those that are missing by active.partial: true."
    )


def _values(
    energies: Tensor,
    structures: StructureBatch,
    labelled: Labelled,
    quantity: str | None,
    bulk: Mapping[str, float],
    own: Tensor,
) -> Tensor:
    """Return the property from total energies; NaN where it does not follow from them."""
    if quantity is None:
        return torch.full_like(energies, torch.nan)
    if quantity == "formation_energy" and not bulk:
        if not bool((energies.isfinite() & ~own.isfinite()).any()):
            return torch.full_like(energies, torch.nan)
        bulk = _bulk_energies(labelled)
    output = PotentialOutput(energy=energies, forces=torch.zeros_like(structures.positions))
    return Quantity(name=quantity, bulk_energy=bulk).values(output, structures)


def _bulk_energies(labelled: Labelled) -> dict[str, float]:
    """Return the energies of the elements that the data's formation energies are measured against.

    Raises:
        InputError: The data do not have total energies, or these do not agree.
    """
    reference = read_labelled(labelled)
    assert reference.structures is not None
    totals = [float(one.get("energy", torch.nan)) for one in calculator_results(reference.structures)]
    energies = torch.tensor(totals, dtype=torch.float64)
    rows = torch.nonzero(energies.isfinite()).flatten()
    elements = species_of(reference.structures)
    remedy = (
        "Give them in eV/atom: active.bulk_energy: {"
        + ", ".join(f"{element}: …" for element in elements)
        + f"}}, or put back '{reference.name}' itself."
    )
    if not len(rows):
        raise InputError(
            "active: formation energies of the results need the energies of the elements' bulk, and the data "
            f"have no total energies to find them by. {remedy}"
        )
    structures = reference.structures[rows]
    numbers = torch.tensor([atomic_numbers[element] for element in elements])
    of_atom = (structures.atomic_numbers[:, None] == numbers).double()
    shares = of_atom.new_zeros(len(structures), len(elements)).index_add(
        0, structures.structure_index, of_atom
    )
    shares = shares / structures.n_atoms[:, None]
    wanted = energies[rows] / structures.n_atoms - reference.properties[rows]
    solved = torch.linalg.lstsq(shares, wanted[:, None], driver="gelsd").solution[:, 0]
    left = float((shares @ solved - wanted).abs().max())
    if left > _AGREES:
        raise InputError(
            f"active: total energies and '{reference.name}' of the data differ by more than energies of the "
            f"elements (up to {left:.2g} eV/atom), so those of the bulk cannot be found by them. {remedy}"
        )
    return dict(zip(elements, solved.tolist(), strict=True))


def _doubt(chosen: Dataset, labels: Labels, reference: Reference, quantity: str | None) -> str | None:
    """Return a doubt about forces that do not fit with the energies of near structures, with the data's."""
    if quantity is None or reference.structures is None or chosen.structures is None:
        return None
    known = reference.forces
    structures = StructureBatch.concatenate(
        [reference.structures.replace(info=()), chosen.structures.replace(info=())]
    )
    none = torch.full_like(reference.structures.positions, torch.nan, dtype=torch.float64)
    values = torch.cat([reference.properties, labels.values])
    # Energies of elements are the same in structures of the same atoms.
    totals = values if quantity == "energy" else values * structures.n_atoms
    return doubt_of_units(structures, torch.cat([none if known is None else known, labels.forces]), totals)


def _check_units(
    chosen: Dataset, labels: Labels, reference: Reference, surrogate: Path, quantity: str | None, folder: Path
) -> None:
    """Reject results that are far from what is known and predicted, as those in other units are.

    Raises:
        InputError: They are.
    """
    assert chosen.structures is not None
    low, high = float(reference.properties.min()), float(reference.properties.max())
    width = max(high - low, 1e-6)
    far = (labels.values < low - _FAR * width) | (labels.values > high + _FAR * width)
    if bool(far.any()):
        row = int(torch.nonzero(far)[0])
        raise InputError(
            f"{folder}: {int(far.sum())} results are far from the data, whose values are {low:.4g} to "
            f"{high:.4g} (first: {float(labels.values[row]):.4g} of {chosen.ids[row]}). Are the energies in "
            "eV, and of the same method and settings?"
        )
    atoms = labels.forces.isfinite().all(1)
    if quantity is None or not bool(atoms.any()):
        return
    gradient = (
        read_atoms_surrogate(surrogate).predict(chosen.structures.replace(info=()), gradients=True).gradient
    )
    assert gradient is not None
    times = torch.ones_like(chosen.structures.n_atoms)
    if quantity != "energy":
        times = chosen.structures.n_atoms
    expected = (-gradient * times[chosen.structures.structure_index, None])[atoms].flatten()
    given = labels.forces[atoms].flatten()
    known = reference.forces
    forces = expected if known is None else known[known.isfinite().all(1)].flatten()
    product = float(expected @ given)
    factor = float(expected.square().sum()) / product if product else 0.0
    likeness = abs(product) / float((expected.norm() * given.norm()).clamp(min=1e-30))
    ratios = [float(one.square().mean().sqrt() / given.square().mean().sqrt()) for one in (expected, forces)]
    far_off = min(ratios) > _FAR_OFF or max(ratios) < 1 / _FAR_OFF
    if far_off or (likeness > _ALIKE and factor < 0):
        factor = factor if likeness > _ALIKE else ratios[0]
        raise InputError(
            f"{folder}: the forces put back are to be in eV/Å, but the surrogate expects {factor:.3g} times "
            f"as much.{guessed_unit(factor)} Convert them, or leave them out."
        )


def _learn(
    chosen: Dataset,
    labels: Labels,
    is_energy: bool,
    labelled: Labelled,
    surrogate: Path,
    tolerance: float,
    output: Path,
    monitor: Monitor,
    made_with: dict[str, Any],
) -> None:
    """Write the labels, the surrogate that has learned from them, and what became of each structure."""
    assert chosen.structures is not None
    good = [row for row in range(len(chosen)) if row not in labels.failures]
    for row, reason in labels.failures.items():
        monitor.skip(f"{output.parent}: {chosen.ids[row]}", reason)
    kept, forces = chosen.select(good), None
    assert kept.structures is not None
    forces = labels.forces[chosen.structures.atoms_of(torch.tensor(good, dtype=torch.int64))]
    name = read_labelled(labelled).name
    found = Dataset(
        structures=kept.structures,
        properties={"energy": labels.energies[good], **kept.properties, name: labels.values[good]},
        ids=kept.ids,
        forces=forces,
        provenance=made_with,
        skipped=tuple(Skipped(chosen.ids[row], reason) for row, reason in labels.failures.items()),
    )
    save_dataset(found, output.with_name("labels.safetensors"))
    write_extxyz(
        kept.structures,
        output.with_name("labels.extxyz"),
        properties=found.properties,
        ids=found.ids,
        forces=found.forces,
        provenance=made_with,
    )
    before = read_atoms_surrogate(surrogate)
    after = before
    if good:
        after = before.update(
            kept.structures.replace(info=()),
            labels.values[good],
            forces=found.forces if is_energy else None,
        )
    else:
        monitor.warn(f"{output.parent}: no structure could be labelled, so nothing was learned.")
    after.save(output)
    write_json(
        output.with_name("round.json"),
        {**made_with, **_account(chosen, labels, tolerance), "property": name},
    )


def _account(chosen: Dataset, labels: Labels, tolerance: float) -> dict[str, Any]:
    """Return what became of each structure, and how right the surrogate was about them before."""
    columns = chosen.properties
    errors = (labels.values - columns["predicted"]).abs()
    known = errors.isfinite()
    inside = errors <= QUANTILE * columns["uncertainty"]
    hits = (labels.values - columns["target"]).abs() <= tolerance

    def percent(share: Tensor, of: Tensor) -> float | None:
        return 100 * float(share[of].double().mean()) if bool(of.any()) else None

    return {
        "labels": int(known.sum()),
        "mean_absolute_error": float(errors[known].mean()) if bool(known.any()) else None,
        "percent_inside_90_interval": percent(inside, known),
        "percent_within": {
            f"{target:g}": percent(hits, known & (columns["target"] == target))
            for target in columns["target"].unique().tolist()
        },
        "structures": [
            {
                "id": name,
                **{key: float(values[row]) for key, values in columns.items()},
                "value": float(labels.values[row]),
                "status": f"failed: {labels.failures[row]}" if row in labels.failures else "labelled",
            }
            for row, name in enumerate(chosen.ids)
        ],
    }
