"""Checks before a run, and once the data is available; all problems are reported together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.errors import InputError, MissingExtraError, WhorlError, import_extra
from whorl.workflow.settings import CalculatorSettings, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from whorl.datasets import FeatureSet

_FAR = 1000  # ranges of the data


def require_feasible(recipe: Recipe, stages: Collection[str]) -> None:
    """Reject a recipe of which some stage would fail for any data.

    Args:
        recipe: The recipe.
        stages: Stages to run.

    Raises:
        InputError: Lists all problems.
        MissingExtraError: A missing optional package is the only problem.
    """
    checks: list[Callable[[], Iterable[WhorlError] | None]] = []

    def check(*of: str) -> Callable[[Callable[[], Any]], None]:
        def add(function: Callable[[], Any]) -> None:
            if set(of) & set(stages):
                checks.append(function)

        return add

    data, evaluate = recipe.data, recipe.evaluate

    @check("data")
    def _source() -> Iterable[WhorlError]:
        if data.files is not None:
            yield from _missing("data.files.path", data.files.path)
        if data.crystals is not None:
            yield from _failing(lambda: import_extra("smact", extra="crystens"))
            yield from _elements("data.crystals.elements", data.crystals.elements or ())
            if (method := data.crystals.calculator) is not None:
                yield from _calculator("data.crystals.calculator", method)
        if data.clusters is not None:
            method = data.clusters.calculator
            yield from _calculator("data.clusters.calculator", method)
            for error in _failing(lambda: _require_referenced(data.clusters.species, method)):  # type: ignore[union-attr]
                yield InputError(f"data.clusters: {error}")
            yield from _failing(lambda: _require_rows(recipe))

    @check("encode")
    def _features() -> Iterable[WhorlError]:
        if data.features is not None:
            yield from _missing("data.features.path", data.features.path)
            if data.features.composition:
                from whorl.structures.composition import composition

                yield from _failing(lambda: composition(str(data.features and data.features.composition)))

    @check("sampling")
    def _rows() -> Iterable[WhorlError]:
        from whorl.workflow.stages.sample import require_enough

        built = data.clusters or data.crystals
        if built is not None:
            for size in recipe.sizes.values():
                yield from _failing(
                    lambda size=size: require_enough(size, built.count, recipe.sampling.split)  # type: ignore[misc]
                )

    @check("train")
    def _networks() -> Iterable[WhorlError]:
        for requires in (recipe.generator.method.requires, recipe.surrogate.method.requires):
            if requires:
                yield from _failing(lambda requires=requires: import_extra(requires[0], extra=requires[1]))  # type: ignore[misc]
        for path in recipe.surrogate.inputs:
            yield from _missing("surrogate", path)

    @check("reconstruct")
    def _given_files() -> Iterable[WhorlError]:
        for path in recipe.reconstruct.inputs if recipe.reconstruct is not None else ():
            yield from _missing("reconstruct", path)

    @check("generate")
    def _proposals() -> Iterable[WhorlError]:
        if recipe.generate.proposals is not None:
            yield from _missing("generate.proposals", recipe.generate.proposals)

    @check("train", "generate")
    def _memory() -> Iterable[WhorlError]:
        yield from _failing(lambda: _require_memory(recipe))

    @check("train", "generate")
    def _requests() -> Iterable[WhorlError]:
        from whorl.conditions import checked_requests, require_answerable
        from whorl.workflow.stages.generate import require_formulas

        requested, kinds = recipe.generate.requested, recipe.generator.conditions
        yield from _failing(lambda: require_formulas(recipe.generate, kinds))
        yield from _failing(lambda: checked_requests(requested))
        yield from _failing(lambda: require_answerable(kinds, recipe.property_name, requested))
        if recipe.generate.selection is not None and recipe.generator.conditions:
            yield InputError(
                "generate.selection uses the property only, but the generator is conditioned on "
                f"{', '.join(recipe.generator.conditions)} too (generator.conditions). Leave out one of the "
                "two."
            )

    @check("active")
    def _labels() -> Iterable[WhorlError]:
        yield from _elements("active.bulk_energy", recipe.active.bulk_energy if recipe.active else ())

    @check("refine")
    def _refiners() -> Iterable[WhorlError]:
        for number, settings in enumerate(recipe.refine, start=1):
            if (requires := settings.method.requires) is not None:
                yield from _failing(lambda requires=requires: import_extra(requires[0], extra=requires[1]))  # type: ignore[misc]
            if settings.needs_potential:
                own = getattr(settings, "calculator", None)
                if (method := own or recipe.calculator) is not None:
                    yield from _calculator(f"refine ({number}) calculator", method)
                else:
                    yield InputError(
                        f"refine: {settings.kind} needs an energy method. Name one: calculator in its "
                        "section, or evaluate.calculator."
                    )

    @check("reference", "evaluate")
    def _evaluators() -> Iterable[WhorlError]:
        for settings in recipe.evaluators:
            if requires := settings.method.requires:
                yield from _failing(lambda requires=requires: import_extra(requires[0], extra=requires[1]))  # type: ignore[misc]
            method = getattr(settings, "calculator", None)
            if settings.kind == "energy" and method is None:
                yield InputError(
                    "evaluate.evaluators: energy needs an energy method, such as evaluate.calculator: emt."
                )
            elif isinstance(method, CalculatorSettings):
                key = "data.clusters.calculator" if evaluate.calculator is None else "evaluate.calculator"
                yield from _calculator(key, method, quantity=getattr(settings, "quantity", "auto"))

    raise_together([problem for function in checks for problem in function() or ()])


def require_possible(recipe: Recipe, folder: Path, sizes: Iterable[str]) -> None:
    """Reject, before training, what cannot be generated or evaluated with these data.

    Args:
        recipe: What to do.
        folder: Of the run, with features and training rows.
        sizes: Labels of the training sizes.

    Raises:
        InputError: Elements or symmetry that no training row has, targets far away from the data, or more
            samples than fit into memory.
    """
    from whorl.datasets import load_features
    from whorl.datasets.store import labels_of
    from whorl.workflow.stages.generate import require_memory_for_samples
    from whorl.workflow.stages.sample import read_rows

    generate = recipe.generate
    real = load_features(folder / "encode" / "features.safetensors")
    shape = tuple(real.features.shape[1:])
    problems = [*_failing(lambda: require_memory_for_samples(generate, shape))]
    labels = labels_of(real, recipe.property_name).double()
    problems += _failing(lambda: _require_near(generate.targets, labels, recipe.property_name))
    if any(generate.requested.values()) and recipe.generator.conditions:
        for label in sizes:
            rows = read_rows(folder / "sampling" / label / "rows.json")["rows"]
            problems += _failing(lambda rows=rows: _require_seen(recipe, folder, real.select(rows)))  # type: ignore[misc]
    raise_together(problems)


def _require_near(targets: Iterable[float], labels: Tensor, property: str) -> None:
    """Reject targets that are too far from the labels."""
    known = labels[labels.isfinite()]
    if not len(known):
        raise InputError(f"no row has a finite '{property}' to train on.")
    low, high = float(known.min()), float(known.max())
    width = (high - low) or max(abs(low), 1.0)
    far = [f"{target:g}" for target in targets if max(low - target, target - high) > _FAR * width]
    if far:
        raise InputError(
            f"generate.targets: {', '.join(far)}: farther away from the data than {_FAR} times the range of "
            f"their '{property}' ({low:.4g} to {high:.4g}). Are the units the same?"
        )


def _require_seen(recipe: Recipe, folder: Path, known: FeatureSet) -> None:
    """Reject elements and symmetries that no training row has."""
    from whorl.conditions import Conditions, kinds_answering
    from whorl.datasets.store import labels_of, structures_of

    requested = recipe.generate.requested
    conditions, columns = Conditions.of_data(
        # Symmetry is detected only if it is requested.
        kinds_answering(recipe.generator.conditions, requested),
        property=recipe.property_name,
        labels=labels_of(known, recipe.property_name),
        structures=structures_of(known.ids, folder / "data" / "dataset.safetensors"),
    )
    conditions.matching(columns, **requested)


def raise_together(problems: Iterable[WhorlError]) -> None:
    """Raise a single problem as it is, or several as one error."""
    different = list({str(problem): problem for problem in problems}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        lines = "".join(f"\n  {problem}" for problem in different)
        raise InputError(f"{len(different)} problems have to be solved first:{lines}")


def _failing(function: Callable[[], object]) -> Iterable[WhorlError]:
    """Yield the error that a call raises, if any."""
    try:
        function()
    except (InputError, MissingExtraError) as error:
        yield error


def _missing(key: str, path: str) -> Iterable[WhorlError]:
    if not Path(path).exists():
        yield InputError(f"{key}: {path}: no such file or folder (looked for it from {Path.cwd()}).")


def _elements(key: str, symbols: Iterable[str]) -> Iterable[WhorlError]:
    from whorl.conditions import require_elements

    for error in _failing(lambda: require_elements(symbols)):
        yield InputError(f"{key}: {error}")


def _calculator(key: str, method: CalculatorSettings, *, quantity: str = "auto") -> Iterable[WhorlError]:
    """Create the calculator once, to find errors early."""
    from whorl.evaluation.evaluators.energy import require_quantity

    def make() -> None:
        require_quantity(quantity, method.potential())

    yield from _failing(make)
    yield from _elements(f"{key}.bulk_energy", method.bulk_energy)


def _require_referenced(elements: Iterable[str], method: CalculatorSettings) -> None:
    """Reject elements that the calculator does not know, or that have no reference energy."""
    from whorl.potentials.base import require_described
    from whorl.potentials.reference import why_no_reference

    try:
        potential = method.potential()
    except WhorlError:
        return  # said elsewhere
    reasons = {element: why_no_reference(element, potential) for element in elements}
    missing = {e: why for e, why in reasons.items() if why is not None and e not in method.bulk_energy}
    if missing:
        form = ", ".join(f"{element}: …" for element in missing)
        raise InputError(
            "; ".join(f"{e} has no reference energy, since {why}" for e, why in missing.items())
            + f". Give its energy per atom in eV as data.clusters.calculator.bulk_energy: {{{form}}}."
        )
    require_described(potential, elements)


def _require_rows(recipe: Recipe) -> None:
    """Reject clusters that are larger than what the representation is made for."""
    assert recipe.data.clusters is not None
    most = getattr(recipe.representation, "max_atoms", None)
    low, high = recipe.data.clusters.sizes
    if isinstance(most, int) and high > most:
        there = f"{low} to {high}" if low < high else str(high)
        raise InputError(
            f"representation.max_atoms: got {most}, expected at least {high}: data.clusters have {there} "
            "atoms."
        )


def _require_memory(recipe: Recipe) -> None:
    """Reject networks or samples that cannot fit into memory.

    The data may have more elements, and so more features, than the recipe names: this is a lower bound.
    """
    from whorl.generators import TensorModel, build_model
    from whorl.workflow.stages.generate import require_memory_for_samples

    clusters, crystals = recipe.data.clusters, recipe.data.crystals
    there = list(clusters.species) if clusters else crystals and crystals.elements
    species = recipe.representation.declared or there or ["H"]
    shape = recipe.representation.build(species).layout.shape
    for settings in (recipe.generator, recipe.surrogate):
        if issubclass(settings.method, TensorModel):
            build_model(settings.method, {**settings.options(), "shape": shape})
    require_memory_for_samples(recipe.generate, shape)
