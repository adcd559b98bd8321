"""Atoms judged by an energy method: which of its quantities is the property, and what it is for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.chunked import Part, map_chunks, parts_folder, remove_parts
from whorl.datasets import load_dataset
from whorl.errors import InputError, did_you_mean, shortened, unknown_option
from whorl.evaluation import Agreement, agreement
from whorl.files import contents_hash, read_json, write_json
from whorl.locks import one_at_a_time
from whorl.potentials import Potential, PotentialOutput
from whorl.potentials.reference import bulk_energy, formation_energy, why_no_reference
from whorl.structures import StructureBatch
from whorl.structures.composition import species_of
from whorl.workflow.monitor import Monitor
from whorl.workflow.settings import CalculatorSettings

ENERGIES = ("energy_per_atom", "energy", "formation_energy")
"""Quantities of every energy method; that which needs references comes last."""

_AT_ONCE = 32  # structures between two saves
_SAMPLE = 64  # real structures that are computed
_CLEARLY = 0.05  # of the labels' spread: an error below which no other quantity is tried
_SAME_NAMES = {
    "formation_energy_per_atom": "formation_energy",
    "formation_energy_ev_atom": "formation_energy",
    "total_energy": "energy",
    "potential_energy": "energy",
    "energy_atom": "energy_per_atom",
    "total_energy_per_atom": "energy_per_atom",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What of an energy method is compared with the property.

    Attributes:
        quantity: Its name; None where nothing is compared.
        subtracted: Constant that is subtracted from it.
        bulk_energy: Energy of the bulk of elements in eV/atom, as far as they were needed.
        missing: Elements without one, and why.
        text: What was found on real structures, in a sentence.
    """

    quantity: str | None
    subtracted: float
    bulk_energy: Mapping[str, float]
    missing: Mapping[str, str]
    text: str


def quantities(potential: Potential) -> tuple[str, ...]:
    """Return the names of all that a potential computes for a structure."""
    return (*ENERGIES, *getattr(potential, "scalars", ()))


def require_quantity(quantity: str, potential: Potential) -> None:
    """Make sure that a potential has a quantity.

    Raises:
        InputError: It has not; the message lists what it has.
    """
    if quantity not in ("auto", *quantities(potential)):
        raise unknown_option("quantity", quantity, ("auto", *quantities(potential)))


@one_at_a_time
def choose(
    dataset: Path | None,
    *,
    property: str,
    calculator: CalculatorSettings,
    quantity: str,
    subtract_offset: bool,
    output: Path,
    monitor: Monitor,
) -> None:
    """Find out what of an energy method is the property, on a sample of real structures with labels.

    With ``auto``, a quantity is compared only if it agrees with the labels: the one that bears the property's
    name, or else the one nearest to them. A quantity that is stated is compared in any case, with a warning
    where it does not agree. Without ``dataset``, the name alone decides.

    Args:
        dataset: Real structures, with ``property`` among their labels.
        property: Its name.
        calculator: The energy method.
        quantity: ``auto``, or one of :func:`quantities`.
        subtract_offset: Accept a quantity that agrees up to a constant, and subtract this.
        output: A JSON file with the choice and the comparisons. Finished chunks are kept beside it meanwhile.
        monitor: Told of progress, and of all that is doubtful.

    Raises:
        InputError: The calculator cannot be made or has no such quantity, or the data set has no such label.
    """
    potential = calculator.potential()
    require_quantity(quantity, potential)
    named = _by_name(property, quantities(potential))
    references = _References(potential, calculator.bulk_energy)
    compared: dict[str, Agreement] = {}
    if dataset is None:
        chosen = named if quantity == "auto" else quantity
        text = (
            f"{_with(chosen, calculator)} was not compared with real structures, since there are none; the "
            "name alone says that it is the property."
            if chosen
            else f"no quantity of {calculator.name} is called '{property}', and there are no real structures "
            f"to find out which it is. {_left_out(quantities(potential))}"
        )
        monitor.warn(text)
    else:
        structures, labels = _sample(dataset, property)
        order = [quantity] if quantity != "auto" else list(dict.fromkeys([*filter(None, [named]), *ENERGIES]))
        outputs = _computed(
            structures,
            potential,
            output=output,
            made_from=[contents_hash(dataset)],
            properties=[name for name in order if name not in ENERGIES],
            progress=monitor.progress(f"{calculator.name} on real structures"),
        )
        for name in order:
            values = _values(name, outputs, structures, references)
            compared[name] = agreement(name, values, labels)
            if compared[name].is_same and compared[name].error <= _CLEARLY * (compared[name].spread or 0.0):
                break
        chosen = _decided(compared, named, quantity, subtract_offset)
        text = _explained(compared, chosen, property, calculator, quantity, subtract_offset, outputs)
        if chosen is None or not compared[chosen].is_same:
            monitor.warn(text)
    if chosen == "formation_energy" and dataset is not None:
        everything = load_dataset(dataset).structures
        assert everything is not None
        references.of(species_of(everything))
    if references.missing and chosen in (None, "formation_energy"):
        monitor.warn(_missing_text(references.missing, calculator))
    offset = compared[chosen].offset if chosen in compared and subtract_offset else None
    write_json(
        output,
        {
            "calculator": calculator.model_dump(mode="json"),
            "property": property,
            "quantity": chosen,
            "subtracted": offset or 0.0,
            "bulk_energy": references.known,
            "missing": references.missing,
            "compared": {name: result.to_dict() for name, result in compared.items()},
            "text": text,
        },
    )
    remove_parts(output)


def read_choice(path: Path) -> Choice:
    """Read what :func:`choose` wrote."""
    data = read_json(path)
    try:
        return Choice(
            quantity=None if data["quantity"] is None else str(data["quantity"]),
            subtracted=float(data["subtracted"]),
            bulk_energy={str(e): float(value) for e, value in data["bulk_energy"].items()},
            missing={str(e): str(reason) for e, reason in data["missing"].items()},
            text=str(data["text"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: does not say what of an energy method is the property.") from None


@one_at_a_time
def energies(
    structures: Path,
    *,
    calculator: CalculatorSettings,
    output: Path,
    monitor: Monitor,
    choice: Path | None = None,
) -> None:
    """Judge structures as they are, without relaxation.

    The file has the total energy in eV, the formation energy per atom by eq. 4 in eV/atom where all
    references are known, and the ``value`` to compare with the property: what ``choice`` says, by default the
    formation energy. A structure that the calculator cannot do, or one with an element that has no reference,
    becomes a row with its reason. Finished chunks are kept beside ``output`` until all are done.

    Args:
        structures: A data set.
        calculator: The energy method.
        output: A JSON file.
        monitor: Told of progress, and of what failed.
        choice: From :func:`choose`.

    Raises:
        InputError: A file without structures, or a calculator that cannot be made.
    """
    data = load_dataset(structures)
    if data.structures is None:
        raise InputError(f"{structures}: holds no structures to compute energies of.")
    potential = calculator.potential()
    chosen = (
        Choice(quantity="formation_energy", subtracted=0.0, bulk_energy={}, missing={}, text="")
        if choice is None
        else read_choice(choice)
    )
    references = _References(potential, {**chosen.bulk_energy, **calculator.bulk_energy}, chosen.missing)
    further = chosen.quantity is not None and chosen.quantity not in ENERGIES
    answer = _computed(
        data.structures,
        potential,
        output=output,
        made_from=[contents_hash(structures)],
        properties=[chosen.quantity] if further and chosen.quantity else [],
        progress=monitor.progress(f"energies ({calculator.name})"),
    )
    failures = dict(answer.failures)
    if failures:
        first = min(failures)
        monitor.warn(
            f"{calculator.name} failed on {len(failures)} of {len(data)} structures "
            f"(first: {data.ids[first]}: {failures[first]}); they are rows without energy."
        )
    if chosen.quantity == "formation_energy":
        references.of(species_of(data.structures))
        if set(references.missing) - set(chosen.missing):
            monitor.warn(_missing_text(references.missing, calculator))
        for row, elements in _without_reference(data.structures, references).items():
            failures.setdefault(row, f"no reference energy of {', '.join(elements)}")
    value: Tensor | None = None
    if chosen.quantity is not None:
        value = _values(chosen.quantity, answer, data.structures, references) - chosen.subtracted
    write_json(
        output,
        {
            "calculator": calculator.model_dump(mode="json"),
            "quantity": chosen.quantity,
            "subtracted": chosen.subtracted,
            "bulk_energy": references.known,
            "ids": list(data.ids),
            "energy": answer.energy.double().tolist(),
            "formation_energy": _formation(answer, data.structures, references.known).tolist(),
            "value": None if value is None else value.tolist(),
            "failures": {data.ids[i]: reason for i, reason in sorted(failures.items())},
        },
    )
    remove_parts(output)


class _References:
    """Bulk energies of elements: given, or computed when they are first needed."""

    def __init__(
        self, potential: Potential, given: Mapping[str, float], missing: Mapping[str, str] | None = None
    ) -> None:
        self._potential = potential
        self.known = dict(given)
        self.missing = {e: reason for e, reason in (missing or {}).items() if e not in given}

    def of(self, elements: Sequence[str]) -> Mapping[str, float]:
        """Return what is known after trying these elements; the others are in ``missing``."""
        for element in elements:
            if element not in self.known and element not in self.missing:
                try:
                    if (reason := why_no_reference(element)) is not None:
                        self.missing[element] = reason
                    else:
                        self.known[element] = bulk_energy(self._potential, element)
                except InputError as error:
                    self.missing[element] = str(error)
        return self.known


def _by_name(property: str, there: Sequence[str]) -> str | None:
    """Return the quantity that bears the property's name, such as ``dipole`` for ``dipole_moment``."""
    name = re.sub(r"[^a-z0-9]+", "_", property.lower()).strip("_")
    name = _SAME_NAMES.get(name, name)
    if name in ENERGIES:
        return name
    words = set(name.split("_"))
    own = [one for one in there if one not in ENERGIES]
    return next((one for one in own if one.lower() == name or set(one.lower().split("_")) <= words), None)


def _sample(dataset: Path, property: str) -> tuple[StructureBatch, Tensor]:
    """Draw labelled structures evenly."""
    data = load_dataset(dataset)
    if data.structures is None:
        raise InputError(f"{dataset}: holds no structures to compare the energy method with.")
    if property not in data.properties:
        raise InputError(
            f"{dataset}: has no property '{property}'.{did_you_mean(property, data.properties)}"
            if data.properties
            else f"{dataset}: has no labels to compare the energy method with."
        )
    labels = data.properties[property].double()
    rows = torch.nonzero(labels.isfinite()).flatten()
    if not len(rows):
        raise InputError(f"{dataset}: no structure has a finite '{property}'.")
    rows = rows[torch.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows)), dtype=torch.float64).long()]
    return data.structures[rows], labels[rows]


def _computed(
    structures: StructureBatch,
    potential: Potential,
    *,
    output: Path,
    made_from: Sequence[str],
    properties: Sequence[str],
    progress: Callable[[int, int], None],
) -> PotentialOutput:
    """Compute structures in chunks; finished ones are kept beside ``output``."""
    key = [potential.name, *made_from, *properties]
    parts = map_chunks(
        partial(_energies_of, potential, tuple(properties)),
        list(structures.chunks(_AT_ONCE)),
        folder=parts_folder(output, key),
        key=key,
        progress=progress,
    )
    return PotentialOutput(
        energy=torch.cat([part.tensors["energy"] for part in parts]).double(),
        forces=torch.full((len(structures.positions), 3), float("nan"), dtype=torch.float64),
        failures={
            number * _AT_ONCE + int(k): str(reason)
            for number, part in enumerate(parts)
            for k, reason in part.notes.items()
        },
        properties={name: torch.cat([part.tensors[name] for part in parts]).double() for name in properties},
    )


def _energies_of(potential: Potential, properties: Sequence[str], chunk: StructureBatch) -> Part:
    # Only potentials with scalars of their own take the argument.
    answer = potential(chunk, **({"properties": properties} if properties else {}))
    tensors = {"energy": answer.energy, **answer.properties}
    return Part(tensors, {str(k): reason for k, reason in answer.failures.items()})


def _values(
    name: str, answer: PotentialOutput, structures: StructureBatch, references: _References
) -> Float[Tensor, "B"]:
    """Return one quantity of each structure, NaN where it is not known."""
    if name == "energy":
        return answer.energy
    if name == "energy_per_atom":
        return answer.energy / structures.n_atoms
    if name == "formation_energy":
        return _formation(answer, structures, references.of(species_of(structures)))
    return answer.properties[name]


def _formation(
    answer: PotentialOutput, structures: StructureBatch, bulk: Mapping[str, float]
) -> Float[Tensor, "B"]:
    """Return formation energies per atom by eq. 4, NaN where an element has no reference."""
    from ase.data import chemical_symbols

    of_atom = torch.tensor(
        [bulk.get(chemical_symbols[z], float("nan")) for z in structures.atomic_numbers.tolist()],
        dtype=torch.float64,
    )
    sums = of_atom.new_zeros(len(structures)).index_add(0, structures.structure_index, of_atom)
    # E_bulk of eq. 4 for any composition: the mean over the atoms.
    return formation_energy(answer.energy, structures.n_atoms.double(), sums / structures.n_atoms)


def _without_reference(structures: StructureBatch, references: _References) -> dict[int, list[str]]:
    """Return the structures with elements that have no reference, and which these are."""
    from ase.data import atomic_numbers

    found: dict[int, list[str]] = {}
    for element in sorted(references.missing):
        atoms = structures.atomic_numbers == atomic_numbers[element]
        for row in torch.unique(structures.structure_index[atoms]).tolist():
            found.setdefault(row, []).append(element)
    return found


def _decided(
    compared: Mapping[str, Agreement], named: str | None, quantity: str, subtract_offset: bool
) -> str | None:
    """Return the quantity to compare with the property, or None."""
    if quantity != "auto":
        return quantity
    if named is not None and compared[named].is_same:
        return named
    same = [one for one in compared.values() if one.is_same]
    if not same and subtract_offset:
        same = [one for one in compared.values() if one.is_shifted]
    return min(same, key=lambda one: one.error).quantity if same else None


def _with(quantity: str, calculator: CalculatorSettings) -> str:
    return f"{calculator.name}'s {quantity.replace('_', ' ')}"


def _explained(
    compared: Mapping[str, Agreement],
    chosen: str | None,
    property: str,
    calculator: CalculatorSettings,
    quantity: str,
    subtract_offset: bool,
    outputs: PotentialOutput,
) -> str:
    """Say what was found on real structures, and what follows."""
    count, name = max(one.count for one in compared.values()), calculator.name
    spread = next((one.spread for one in compared.values() if one.spread is not None), None)
    where = f"on {count} real structures"
    where += f" (of which it spreads by {spread:.3g})" if spread is not None else ""
    if chosen is None:
        found = "; ".join(str(one) for one in compared.values())
        text = f"{name} computes nothing that agrees with '{property}' {where}: {found}. "
        if outputs.failures:
            first = min(outputs.failures)
            text += f"It failed on {len(outputs.failures)} of them (first: {outputs.failures[first]}). "
        shifted = [one for one in compared.values() if one.is_shifted]
        if shifted:
            best = min(shifted, key=lambda one: one.scatter or 0.0)
            text += (
                f"{_with(best.quantity, calculator)} follows it but for the offset: to subtract this, write "
                "evaluate.subtract_offset: true (--subtract-offset). "
            )
        return text + _left_out(compared)
    one = compared[chosen]
    less = f", less its offset of {one.offset:.5g}" if subtract_offset and one.offset is not None else ""
    agrees = one.is_same or (subtract_offset and one.is_shifted)
    doubt = "" if agrees else " because evaluate.quantity says so, but does not agree with it"
    return f"{_with(chosen, calculator)}{less} is compared with '{property}'{doubt} {where}: {one}."


def _left_out(there: Any) -> str:
    return (
        "So its accuracy is left out; the energies are written. If one of its quantities is meant all the "
        f"same, say which with evaluate.quantity (--quantity): {', '.join(there)}."
    )


def _missing_text(missing: Mapping[str, str], calculator: CalculatorSettings) -> str:
    """Name all elements without reference at once, and the key that gives them."""
    groups = {reason: [e for e in sorted(missing) if missing[e] == reason] for reason in missing.values()}
    reasons = shortened(
        "; ".join(f"{', '.join(e)}: {reason.rstrip('.')}" for reason, e in groups.items()), 400
    )
    form = ", ".join(f"{element}: …" for element in sorted(missing))
    return (
        f"structures with {', '.join(sorted(missing))} have no formation energy by {calculator.name}, since "
        f"there is no reference energy ({reasons}). Give the energies "
        f"per atom of these elements (eV) as evaluate.calculator.bulk_energy: {{{form}}} (--bulk-energy)."
    )
