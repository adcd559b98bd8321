"""Stage ``train``, step ``<label>-atoms``: the surrogate of structures by which refiners move them.

It is fitted to the rows that the generator was given, and to no other label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from whorl.datasets import Dataset, load_dataset, load_features
from whorl.datasets.store import entries_of, labels_of, property_name
from whorl.errors import InputError
from whorl.evaluation.samples import Reference
from whorl.files import read_json
from whorl.locks import one_at_a_time
from whorl.potentials.quantity import Quantity, quantity_named
from whorl.seeds import derive_seed
from whorl.surrogates.base import StructureSurrogate, load_surrogate
from whorl.surrogates.settings import SurrogateSettings
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.sample import read_rows


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Where labelled structures lie.

    Attributes:
        dataset: Structures with the property, and with forces where there are any.
        property: Its name; None for the only one there is.
        features: Of these structures; None where they are not needed.
        rows: Which of them count; None for all.
        further: Data sets of the labels of active rounds.
    """

    dataset: Path
    property: str | None = None
    features: Path | None = None
    rows: Path | None = None
    further: tuple[Path, ...] = ()

    @classmethod
    def of_run(cls, run: RunFolder, label: str) -> Labelled:
        """Return the rows that a generator of a run was given."""
        name = run.recipe.property_name
        return cls(
            dataset=run.dataset,
            property=name,
            features=run.features,
            rows=run.rows(label),
            further=run.active_labels(label),
        )


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each training size; none where no refiner moves structures by a surrogate."""
    recipe, settings = run.recipe, run.surrogate_of_atoms
    for label in run.labels if settings is not None else ():
        assert settings is not None
        output, choice = run.atoms_surrogate(label), run.choice
        yield Step(
            name=run.step_of(output),
            settings={"seed": recipe.seed, **settings.model_dump(mode="json")},
            run=partial(
                fit_surrogate,
                Labelled.of_run(run, label),
                settings=settings,
                output=output,
                seed=recipe.seed,
                choice=choice,
            ),
            needs=("data", "encode", f"sampling/{label}", *(() if choice is None else ("reference",))),
            version=2,  # 1 had the same cutoff in crystals of any density
        )


@one_at_a_time
def fit_surrogate(
    labelled: Labelled,
    *,
    settings: SurrogateSettings,
    output: Path,
    monitor: Monitor,
    seed: int = 0,
    choice: Path | None = None,
) -> None:
    """Fit a surrogate of structures to labelled ones, and to their forces where the property is an energy.

    Args:
        labelled: The structures.
        settings: Of the surrogate.
        output: ``.safetensors``.
        monitor: Receives progress.
        seed: Of all randomness.
        choice: File that says what of an energy method the property is; by default its name says it.

    Raises:
        InputError: Labels that cannot be fitted.
    """
    reference = read_labelled(labelled)
    assert reference.structures is not None
    quantity = read_quantity(choice)
    name = quantity_named(reference.name) if quantity is None else quantity.name
    options = settings.options()
    # Forces are derivatives of an energy, and say nothing of another property.
    derivatives: dict[str, Any] = {}
    if name is not None and (quantity is None or quantity.is_energy):
        derivatives = {"forces": reference.forces, "stresses": reference.stresses}
        if name == "energy" and "extensive" not in settings.model_fields_set and "extensive" in options:
            options["extensive"] = True
    fitted = settings.method.fit(
        reference.structures,
        reference.properties,
        seed=derive_seed(seed, "atoms"),
        progress=monitor.progress("fitting atoms"),
        **options,
        **derivatives,
    )
    fitted.save(output)


def read_atoms_surrogate(path: Path) -> StructureSurrogate:
    """Read a surrogate of structures.

    Raises:
        InputError: Another kind of file, or a surrogate of features.
    """
    surrogate = load_surrogate(path)
    if not isinstance(surrogate, StructureSurrogate):
        raise InputError(
            f"{path}: the surrogate {surrogate.kind} predicts from features, expected one of structures: "
            "additive."
        )
    return surrogate


def read_labelled(labelled: Labelled) -> Reference:
    """Return the labelled structures of the rows that count, and no others.

    Raises:
        InputError: Files that are missing or do not belong together, or no such property.
    """
    if labelled.features is None:
        data = load_dataset(labelled.dataset)
        name = only_property(data, labelled.property)
        data = data.select(data.properties[name].isfinite())
        values = data.properties[name]
        features = values.new_zeros(len(data), 0)
    else:
        real = load_features(labelled.features)
        rows = torch.arange(len(real)) if labelled.rows is None else read_rows(labelled.rows)["rows"]
        name = property_name(real, labelled.property)
        real = real.select(rows[labels_of(real, name)[rows].isfinite()])
        values, features = labels_of(real, name), real.features.flatten(1).double()
        data = entries_of(real.ids, labelled.dataset)
    return Reference(
        name=name,
        unit="",
        properties=values.double(),
        features=features,
        structures=data.structures,
        forces=data.forces,
        stresses=data.stresses,
        training_rows=torch.arange(len(values)),
    )


def read_quantity(choice: Path | None) -> Quantity | None:
    """Read what of an energy method the property is; None where nothing is, or it was not looked for."""
    if choice is None:
        return None
    data = read_json(choice)
    try:
        if data["quantity"] is None:
            return None
        return Quantity(
            name=str(data["quantity"]),
            subtracted=float(data["subtracted"]),
            bulk_energy={str(element): float(value) for element, value in data["bulk_energy"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{choice}: does not say what of an energy method is the property.") from None


def only_property(data: Dataset, name: str | None) -> str:
    """Return the name of a property of a data set: the given one, or that of the only one there is.

    Raises:
        InputError: No such property, or several to choose from.
    """
    names = list(data.properties)
    chosen = names[0] if name is None and len(names) == 1 else name
    if chosen is None or chosen not in names:
        got = "several properties" if name is None else f"no property '{name}'"
        raise InputError(f"the data set has {got}; give one with --property: {', '.join(names) or 'none'}.")
    return chosen
