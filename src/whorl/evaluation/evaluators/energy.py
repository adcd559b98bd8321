"""Energies of structures by an energy method, and the quantity of it that is the property."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import Part
from whorl.errors import InputError, shortened, unknown_option
from whorl.evaluation.accuracy import accuracy
from whorl.evaluation.agreement import Agreement, agreement
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, by_target, column
from whorl.evaluation.samples import Reference, Samples
from whorl.evaluation.settings import EvaluatorSettings
from whorl.potentials.base import Potential, PotentialOutput
from whorl.potentials.quantity import ENERGIES, Quantity, formation_energies, quantity_named
from whorl.potentials.reference import bulk_energy, why_no_reference
from whorl.potentials.settings import CalculatorSettings
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import species_of

_AT_ONCE = 32  # structures between two saves
_SAMPLE = 64  # real structures that are computed
_CLEARLY = 0.05  # of the labels' spread: an error below which no other quantity is tried


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


class EnergyEvaluator(Evaluator):
    """Structures by an energy method, without relaxation: table 2 of Fung et al. 2022.

    Columns of structures: ``value`` (what is compared with the property, if anything is), ``energy`` (total,
    in eV), ``formation_energy`` (eV/atom by eq. 4, where all references are known) and ``failure``. A
    structure that the calculator cannot do, or one with an element that has no reference, has a failure and
    no value, and counts as not within the tolerance.
    """

    kind = "energy"

    class Settings(EvaluatorSettings):
        """Settings of the evaluation by an energy method."""

        calculator: CalculatorSettings | None = None
        """The energy method; by default the one that labelled the clusters."""
        quantity: str = "auto"
        """Its quantity that is the property: formation_energy, energy_per_atom, energy, or another
        property of the calculator, such as dipole. With auto, one that agrees with the labels of real
        structures, or else none."""
        subtract_offset: bool = False
        """Subtract the mean difference from these labels."""

    settings: Settings

    @property
    def _calculator(self) -> CalculatorSettings:
        if self.settings.calculator is None:
            raise InputError("evaluator energy: no energy method is given (evaluate.calculator).")
        return self.settings.calculator

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether there are structures."""
        return samples.structures is not None

    def prepare(self, reference: Reference, context: EvaluationContext) -> dict[str, Any]:
        """Determine the quantity that is the property, on a sample of labelled real structures.

        With ``auto``, a quantity is compared only if it agrees with the labels: the one that bears the
        property's name, or else the one nearest to them. A quantity that is stated is compared in any case,
        with a warning where it does not agree. Without real structures, the name alone decides.

        Returns:
            The ``quantity`` (None where nothing is compared), the constant that is ``subtracted``, the
            ``bulk_energy`` of elements in eV/atom as far as they were needed, those ``missing`` and why, the
            comparisons, and in ``text`` what was found.

        Raises:
            InputError: The calculator cannot be made or has no such quantity, or there are no labels.
        """
        calculator, quantity = self._calculator, self.settings.quantity
        subtract_offset, property = self.settings.subtract_offset, reference.name
        potential = calculator.potential()
        require_quantity(quantity, potential)
        named = quantity_named(property, quantities(potential))
        references = _References(potential, calculator.bulk_energy)
        compared: dict[str, Agreement] = {}
        warnings: list[str] = []
        if reference.structures is None:
            chosen = named if quantity == "auto" else quantity
            text = (
                f"{_with(chosen, calculator)} was not compared with real structures, since there are none; "
                "the name alone says that it is the property."
                if chosen
                else f"no quantity of {calculator.name} is called '{property}', and there are no real "
                f"structures to find out which it is. {_left_out(quantities(potential))}"
            )
            warnings.append(text)
        else:
            structures, labels = _sample(reference)
            order = [quantity]
            if quantity == "auto":
                order = list(dict.fromkeys([*filter(None, [named]), *ENERGIES]))
            outputs = _computed(
                structures, potential, context, properties=[name for name in order if name not in ENERGIES]
            )
            for name in order:
                values = _quantity(name, structures, references).values(outputs, structures)
                compared[name] = agreement(name, values, labels)
                near = _CLEARLY * (compared[name].spread or 0.0)
                if compared[name].is_same and compared[name].error <= near:
                    break
            chosen = _decided(compared, named, quantity, subtract_offset)
            text = _explained(compared, chosen, property, calculator, quantity, subtract_offset, outputs)
            if chosen is None or not compared[chosen].is_same:
                warnings.append(text)
            if chosen == "formation_energy":
                references.of(species_of(reference.structures))
        if references.missing and chosen in (None, "formation_energy"):
            warnings.append(_missing_text(references.missing, calculator))
        offset = compared[chosen].offset if chosen in compared and subtract_offset else None
        return {
            "calculator": calculator.model_dump(mode="json"),
            "property": property,
            "quantity": chosen,
            "subtracted": offset or 0.0,
            "bulk_energy": references.known,
            "missing": references.missing,
            "compared": {name: result.to_dict() for name, result in compared.items()},
            "text": text,
            "warnings": warnings,
        }

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return energies, and how near their values are to each target.

        Args:
            samples: With structures.
            reference: The real data.
            context: As ever.
            prepared: What is compared with the property; by default the formation energy.

        Raises:
            InputError: The calculator cannot be made.
        """
        structures, calculator = samples.structures, self._calculator
        assert structures is not None
        prepared = prepared or {"quantity": "formation_energy", "subtracted": 0.0, "text": ""}
        quantity, subtracted = prepared["quantity"], float(prepared["subtracted"])
        missing: dict[str, str] = prepared.get("missing", {})
        potential = calculator.potential()
        references = _References(
            potential, {**prepared.get("bulk_energy", {}), **calculator.bulk_energy}, missing
        )
        further = [] if quantity is None or quantity in ENERGIES else [quantity]
        answer = _computed(structures, potential, context, properties=further)
        failures, warnings = dict(answer.failures), []
        if quantity == "formation_energy":
            references.of(species_of(structures))
            if set(references.missing) - set(missing):
                warnings.append(_missing_text(references.missing, calculator))
            for row, elements in _without_reference(structures, references).items():
                failures.setdefault(row, f"no reference energy of {', '.join(elements)}")
        if failures:
            first = min(failures)
            name = samples.structure_ids[first]
            warnings.append(
                f"{calculator.name} failed on {len(failures)} of {len(structures)} structures, which count "
                f"as misses (first: {name}: {failures[first]})."
            )
        value: Tensor | None = None
        if quantity is not None:
            value = _quantity(quantity, structures, references).values(answer, structures) - subtracted
        valid = ~samples.invalid
        return Metrics(
            evaluator=self.kind,
            overall={
                "calculator": calculator.model_dump(mode="json"),
                "quantity": quantity,
                "subtracted": subtracted,
                "bulk_energy": references.known,
                "agreement": prepared["text"],
            },
            per_target={}
            if value is None
            else by_target(
                samples.targets,
                lambda target, own: _numbers(value, own[samples.rows], valid, target, context.tolerance),
            ),
            per_structure={
                **({} if value is None else {"value": column(value)}),
                "energy": column(answer.energy.double()),
                "formation_energy": column(formation_energies(answer.energy, structures, references.known)),
                "failure": [failures.get(row) for row in range(len(structures))],
            },
            warnings=tuple(warnings),
        )


def _numbers(value: Tensor, own: Tensor, valid: Tensor, target: float, tolerance: float) -> dict[str, Any]:
    """Return the accuracy of all structures of a target, and of those that are not invalid."""
    whole, part = (accuracy(value[some], target, tolerance) for some in (own, own & valid))
    return {**dataclasses.asdict(whole), "valid": dataclasses.asdict(part)}


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
                    if (reason := why_no_reference(element, self._potential)) is not None:
                        self.missing[element] = reason
                    else:
                        self.known[element] = bulk_energy(self._potential, element)
                except InputError as error:
                    self.missing[element] = str(error)
        return self.known


def _sample(reference: Reference) -> tuple[StructureBatch, Tensor]:
    """Draw labelled structures evenly."""
    assert reference.structures is not None
    labels = reference.properties.double()
    rows = torch.nonzero(labels.isfinite()).flatten()
    if not len(rows):
        raise InputError(f"no real structure has a finite '{reference.name}'.")
    rows = rows[torch.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows)), dtype=torch.float64).long()]
    return reference.structures[rows], labels[rows]


def _computed(
    structures: StructureBatch, potential: Potential, context: EvaluationContext, *, properties: Sequence[str]
) -> PotentialOutput:
    """Compute structures in chunks; finished ones are kept."""
    parts = context.map(
        partial(_energies_of, potential, tuple(properties)),
        list(structures.chunks(_AT_ONCE)),
        key=[potential.name, *properties],
    )
    none = torch.zeros(0, dtype=torch.float64)

    def joined(name: str) -> Tensor:
        return torch.cat([none, *(part.tensors[name].double() for part in parts)])

    return PotentialOutput(
        energy=joined("energy"),
        forces=torch.full((len(structures.positions), 3), float("nan"), dtype=torch.float64),
        failures={
            number * _AT_ONCE + int(k): str(reason)
            for number, part in enumerate(parts)
            for k, reason in part.notes.items()
        },
        properties={name: joined(name) for name in properties},
    )


def _energies_of(potential: Potential, properties: Sequence[str], chunk: StructureBatch) -> Part:
    # Only potentials with scalars of their own take the argument.
    answer = potential(chunk, **({"properties": properties} if properties else {}))
    tensors = {"energy": answer.energy, **answer.properties}
    return Part(tensors, {str(k): reason for k, reason in answer.failures.items()})


def _quantity(name: str, structures: StructureBatch, references: _References) -> Quantity:
    """Return a quantity with the references that it needs of these structures."""
    bulk = references.of(species_of(structures)) if name == "formation_energy" else {}
    return Quantity(name=name, bulk_energy=bulk)


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
    where += f" (standard deviation of the labels {spread:.3g})" if spread is not None else ""
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
