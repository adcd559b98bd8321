"""Stage ``generate``: samples of features for target property values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.conditions import Conditions
from whorl.datasets import Dataset, FeatureSet, load_features, save_dataset, save_features
from whorl.datasets.store import labels_of, property_name, structures_of_features
from whorl.errors import InputError, import_extra
from whorl.evaluation import nearest_rows, standardized
from whorl.files import provenance
from whorl.generators import (
    ConditionalGenerator,
    Density,
    condition_range,
    load_model,
    range_warning,
    unlikely,
)
from whorl.memory import require_memory
from whorl.proposals.settings import FormulaRequest
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.structures.cells import volume_per_atom, with_volume_per_atom
from whorl.structures.composition import (
    composition,
    element_counts,
    formula,
    is_charge_neutral,
    species_of,
)
from whorl.surrogates import EnsembleSurrogate, select
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.proposals import FittedProposer, tell_formulas
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.settings import GenerateSettings, SelectionSettings
from whorl.workflow.stages.sample import read_rows
from whorl.workflow.stages.stated import stated
from whorl.workflow.stages.train import member_paths
from whorl.workflow.starts import file_of_run, read_structures, usable_starts

_REPRESENTATION = "representation"  # key of a model's record: fingerprint of the features it was trained on
_MANY = 0.05  # share of unlikely samples above which a warning is due; of real structures it is 0.01
Draw = Callable[[float, torch.Generator], Tensor]
Propose = Callable[[float], StructureBatch]
"""Returns a structure for each sample of a target."""


def generate(
    models: Sequence[Path],
    *,
    features: Path,
    property: str | None,
    settings: GenerateSettings,
    output: Path,
    seed: int,
    monitor: Monitor,
    rows: Path | None = None,
    ensemble: Path | None = None,
    dataset: Path | None = None,
    proposals: Path | None = None,
    tolerance: float = 0.1,
) -> None:
    """Draw samples for each target and write them as features with the property ``target``.

    The samples of a target depend on the seed and on that target only, not on the others.

    Args:
        models: Generators, each for an equal part of the samples.
        features: Their training features, which determine the representation.
        property: Name of the property, if there are several.
        settings: Targets, number of samples, selection, and other requested conditions.
        output: The generated features.
        seed: Random seed.
        monitor: Receives progress, and warnings about targets outside the training range.
        rows: Their training rows, for ``selection`` or several conditions; all for None.
        ensemble: Ensemble surrogate; needed for ``selection``.
        dataset: Structures of the features; needed if the generators are conditioned on more than the
            property.
        proposals: File for the structures of the formulas that are proposed, one for each sample.
        tolerance: Of the target, for these.

    Raises:
        InputError: Files that do not match, or ``selection`` without ``ensemble``.
    """
    check_output(output, features, dataset, rows, ensemble, *models)
    real = load_features(features)
    generators = [_generator(path, real, features) for path in models]
    name = property_name(real, property)
    conditions = _common_conditions(models, generators, name)
    targets = torch.tensor(settings.targets, dtype=torch.float64)
    require_memory_for_samples(settings, tuple(real.features.shape[1:]))
    lowest = condition_range(generators[0])[:, 0].repeat(len(targets), 1)
    outside = range_warning(generators[0], torch.cat([targets[:, None], lowest[:, 1:]], 1))
    if outside is not None:
        monitor.warn(f"targets {outside.replace('property 0', name)}")
    known = real if rows is None else real.select(read_rows(rows)["rows"])
    known = known.select(labels_of(known, property).isfinite())
    columns = labels_of(known, property)[:, None].double()
    there = None
    if conditions.kinds:
        there = structures_of_features(known, dataset, "elements and symmetry")
        columns = conditions.columns(labels=columns[:, 0], structures=there)
    draw = _plainly(generators, settings, conditions, known.features, columns, monitor)
    if settings.selection is not None:
        if ensemble is None:
            raise InputError("selection needs the uncertainty of an ensemble: --ensemble.")
        if conditions.kinds:
            raise InputError(
                "selection chooses by the property alone, and this generator is conditioned on "
                f"{', '.join(conditions.kinds)} too. Leave out one of the two."
            )
        draw = _selecting(generators, settings, settings.selection, ensemble, known, property, monitor)
    proposed: dict[float, StructureBatch] = {}
    if settings.formulas is not None and there is not None and (alone := _only_composition(there)):
        _require_alone(alone, settings.formulas)
        monitor.warn(
            f"formulas: all training structures are {alone}, so there is nothing to substitute. No formulas "
            "are proposed, and samples are drawn as without this section. Give data of several compositions."
        )
        settings = settings.model_copy(update={"formulas": None})
    if settings.proposes:
        require_formulas(settings, conditions.kinds)
        assert there is not None
        propose = (
            _from_data(there, columns[:, 0], settings, tolerance, seed, monitor)
            if settings.proposals is None
            else _given(Path(settings.proposals), there, settings, monitor)
        )
        draw, proposed = _of_proposals(propose, generators, settings, conditions, columns)
    progress = monitor.progress("generating")
    drawn = []
    # By risk, or by generator; samples of formulas belong to structures.
    ordered = not settings.proposes and (settings.selection is not None or len(generators) > 1)
    for number, target in enumerate(settings.targets):
        rng = torch.Generator().manual_seed(derive_seed(seed, "generate", target))
        samples = draw(target, rng)
        # The first samples of a target are reconstructed, and must be a fair draw of all.
        drawn.append(samples[torch.randperm(len(samples), generator=rng)] if ordered else samples)
        if not drawn[-1].isfinite().all():
            low, high = condition_range(generators[0])[0].tolist()
            raise InputError(
                f"target {target:g}: the generator gives features that are not finite. Ask for a value "
                f"nearer to those it was trained on ({low:.4g} to {high:.4g})."
            )
        progress(number + 1, len(settings.targets))
    counts = torch.tensor([len(part) for part in drawn])
    named = [f"{t:g}/{i}" for t, part in zip(settings.targets, drawn, strict=True) for i in range(len(part))]
    save_features(
        FeatureSet(
            features=torch.cat(drawn),
            representation=real.representation,
            fingerprint=real.fingerprint,
            properties={"target": targets.repeat_interleave(counts)},
            ids=tuple(named),
            pbc=_pbc_of_similar(torch.cat(drawn), known),
            requested=_requested(settings),
            elements=real.elements,
        ),
        output,
    )
    if proposed and proposals is not None:
        structures = StructureBatch.concatenate([proposed[target] for target in settings.targets])
        save_dataset(
            Dataset(structures=structures, ids=tuple(named), provenance=provenance(seed=seed)), proposals
        )


def _only_composition(structures: StructureBatch) -> str | None:
    """Return the formula unit if all structures have the same, else None."""
    counts = element_counts(structures)
    shares = counts / counts.sum(1, keepdim=True)
    if bool(((shares - shares[:1]).abs() > 1e-9).any()):
        return None
    return formula(structures[0])


def _require_alone(only: str, request: FormulaRequest) -> None:
    """Reject requests that a data set of this composition alone cannot meet.

    Raises:
        InputError: It has not what is requested.
    """
    counts = composition(only)
    lacking = [f"with {symbol}" for symbol in request.elements if symbol not in counts]
    lacking += [f"without {symbol}" for symbol in request.exclude if symbol in counts]
    lacking += ["new"] if request.new else []
    lacking += [f"of {request.formula}"] if request.counts not in (None, counts) else []
    lacking += ["with other numbers of atoms"] if request.n_atoms is not None else []
    if request.n_elements is not None and not request.n_elements[0] <= len(counts) <= request.n_elements[1]:
        lacking += ["with another number of elements"]
    if request.balanced and not is_charge_neutral(only):
        lacking += ["balanced"]
    if lacking:
        raise InputError(
            f"formulas: all training structures are {only}, and formulas {', '.join(lacking)} are requested. "
            "Give data of several compositions, or ask for less."
        )


def _requested(settings: GenerateSettings) -> dict[str, Any]:
    """Return what every sample has: what was requested of the generator, or of the formulas."""
    requested = {name: value for name, value in settings.requested.items() if value is not None}
    if settings.formulas is not None and settings.formulas.elements:
        requested["elements"] = list(settings.formulas.elements)
    return requested


def require_formulas(settings: GenerateSettings, kinds: Sequence[str]) -> None:
    """Reject proposals of formulas that a generator with conditions of these kinds cannot take.

    Raises:
        InputError: It is not conditioned on the composition, or something else is requested that contradicts
            them.
        MissingExtraError: Balanced formulas without smact: pip install 'whorl[crystens]'.
    """
    if not settings.proposes:
        return
    key = "proposals" if settings.formulas is None else "formulas"
    if "composition" not in kinds:
        raise InputError(
            f"generate.{key}: the generator is not conditioned on the composition, so a formula would not "
            "change its samples. Give it the condition: generator.conditions: [composition]."
        )
    contrary = [name for name in ("formula", "elements") if settings.requested.get(name)]
    contrary += ["selection"] if settings.selection is not None else []
    contrary += ["proposals"] if settings.proposals is not None and key == "formulas" else []
    if contrary:
        raise InputError(
            f"generate.{key}: {' and '.join(contrary)} cannot be given as well. Elements belong into the "
            "section formulas."
        )
    if settings.formulas is not None and settings.formulas.balanced:
        import_extra("smact", extra="crystens")


def require_memory_for_samples(settings: GenerateSettings, shape: Sequence[int]) -> None:
    """Reject more samples of features of this shape than fit into memory.

    Raises:
        InputError: They do not fit.
    """
    # As they are drawn, and once more in float64 where they are joined and written; and each has a name.
    rows = settings.samples * len(settings.targets) + (settings.selection.pool if settings.selection else 0)
    require_memory(
        rows * (math.prod(shape) * 12 + 200),
        f"generate: {rows:,} samples of {math.prod(shape):,} features",
        "Use fewer samples, or fewer targets at once.",
    )


def _pbc_of_similar(generated: Tensor, known: FeatureSet) -> Tensor | None:
    """Return the periodicity of the most similar known structure, where it is known."""
    pbc = known.pbc
    if pbc is None or bool((pbc == pbc[:1]).all()):
        return None if pbc is None else pbc[:1].expand(len(generated), 3)
    real = known.features.flatten(1)
    nearest = nearest_rows(standardized(generated.flatten(1), real), standardized(real, real))
    return pbc[nearest]


def _generator(path: Path, real: FeatureSet, features: Path) -> ConditionalGenerator:
    model = load_model(path)
    if not isinstance(model, ConditionalGenerator):
        raise InputError(f"{path}: is a {model.kind}, expected a generator.")
    if model.shape != tuple(real.features.shape[1:]):
        raise InputError(
            f"{path}: makes features of shape {model.shape}, but {features} has "
            f"{tuple(real.features.shape[1:])}. Give the features that it was trained on."
        )
    # With the same shape but other ranges or another order, the tensors would be misinterpreted.
    trained_on = (model.training_record or {}).get(_REPRESENTATION, real.fingerprint)
    if trained_on != real.fingerprint:
        raise InputError(
            f"{path}: was trained on features of another representation ({trained_on}) than those in "
            f"{features} ({real.fingerprint}). Give the features that it was trained on."
        )
    return model


def _common_conditions(
    paths: Sequence[Path], generators: Sequence[ConditionalGenerator], name: str
) -> Conditions:
    """Return the conditions of the generators, which must be the same for all."""
    every = [Conditions.of_model(generator, property=name) for generator in generators]
    for path, one in zip(paths, every, strict=True):
        if one != every[0]:
            theirs = [", ".join([c.property, *c.kinds]) for c in (every[0], one)]
            raise InputError(
                f"{path}: is conditioned on {theirs[1]}, and {paths[0]} on {theirs[0]}, with "
                f"{len(one.names)} and {len(every[0].names)} columns. Give generators that were trained "
                "with the same conditions on the same data, or one at a time."
            )
    return every[0]


def _plainly(
    generators: Sequence[ConditionalGenerator],
    settings: GenerateSettings,
    conditions: Conditions,
    features: Tensor,
    known: Tensor,
    monitor: Monitor,
) -> Draw:
    """Return plain samples of the generators, as in the paper."""
    sizes = [len(part) for part in torch.arange(settings.samples).tensor_split(len(generators))]

    def draw(target: float, rng: torch.Generator) -> Tensor:
        rows = [
            conditions.draw(size, known=known, rng=rng, target=target, **settings.requested)
            for size in sizes
            if size
        ]
        # With fewer samples than generators, the last ones draw none.
        drawn = [g.sample(c, rng=rng) for g, c in zip(generators, rows, strict=False)]
        for generator, samples, asked in zip(generators, drawn, rows, strict=False):
            if isinstance(generator, Density):
                flags = unlikely(generator, samples, asked, real=features, real_condition=known)
                if (share := float(flags.double().mean())) > _MANY:
                    monitor.warn(
                        f"target {target:g}: {100 * share:.0f} % of the samples are less likely than 99 % of "
                        "the real structures, by the generator's own density; there may be no structures "
                        "with such features."
                    )
        return torch.cat(drawn)

    return draw


def _from_data(
    structures: StructureBatch,
    labels: Tensor,
    settings: GenerateSettings,
    tolerance: float,
    seed: int,
    monitor: Monitor,
) -> Propose:
    """Return what proposes structures for a target from those of the data."""
    assert settings.formulas is not None
    method = settings.formulas.proposer
    proposer = FittedProposer(
        structures, labels, settings=method, seed=seed, progress=monitor.progress("formulas")
    )

    def propose(target: float) -> StructureBatch:
        made = proposer.sample(
            settings.samples,
            target=target,
            request=settings.formulas,
            tolerance=tolerance,
            seed=derive_seed(seed, "formulas", target),
        )
        found = len(made.formulas)
        if found < settings.samples:
            monitor.warn(f"target {target:g}: {found} formulas were found, and several samples share one.")
        tell_formulas(made, monitor, f"target {target:g}: ")
        return made.structures[[k % found for k in range(settings.samples)]]

    return propose


def _given(path: Path, structures: StructureBatch, settings: GenerateSettings, monitor: Monitor) -> Propose:
    """Return what proposes the structures of a file or a run for a target."""
    given = usable_starts(read_structures(path), species=species_of(structures), monitor=monitor)
    assert given.structures is not None
    usable, targets = given.structures.replace(info=()), given.properties.get("target")

    def propose(target: float) -> StructureBatch:
        of_target = usable
        if targets is not None and bool((targets == target).any()):
            of_target = usable[targets == target]
        elif targets is not None and bool(targets.isfinite().any()):
            theirs = ", ".join(f"{value:g}" for value in targets[targets.isfinite()].unique().tolist())
            monitor.warn(
                f"target {target:g}: no structure of {path} is for this target (they are for {theirs}), so "
                "the first of all are taken."
            )
        if len(of_target) < settings.samples:
            monitor.warn(
                f"target {target:g}: {path} gives {len(of_target)} structures, so there are as many samples."
            )
        return of_target[: settings.samples]

    return propose


def _of_proposals(
    propose: Propose,
    generators: Sequence[ConditionalGenerator],
    settings: GenerateSettings,
    conditions: Conditions,
    known: Tensor,
) -> tuple[Draw, dict[float, StructureBatch]]:
    """Return samples that are each conditioned on the formula of a structure, and these structures."""
    proposed: dict[float, StructureBatch] = {}
    requested = {name: value for name, value in settings.requested.items() if value is not None}

    def draw(target: float, rng: torch.Generator) -> Tensor:
        structures = propose(target)
        if "volume" in requested:
            structures = with_volume_per_atom(structures, requested["volume"])
        rows = torch.cat(
            [
                conditions.draw(
                    1,
                    known=known,
                    rng=rng,
                    target=target,
                    **{**_of_proposal(one, conditions, known), **requested},
                )
                for one in structures
            ]
        )
        parts = rows.tensor_split(len(generators))
        proposed[target] = structures
        return torch.cat([g.sample(c, rng=rng) for g, c in zip(generators, parts, strict=True) if len(c)])

    return draw, proposed


def _of_proposal(structure: StructureBatch, conditions: Conditions, known: Tensor) -> dict[str, Any]:
    """Return what a generator with these conditions is asked for a proposed structure."""
    requests: dict[str, Any] = {"formula": formula(structure)}
    if "volume" in conditions.kinds:
        low, high = known[:, conditions.slices["volume"]].aminmax()
        requests["volume"] = float(volume_per_atom(structure).clamp(low, high))
    return requests


def _selecting(
    generators: Sequence[ConditionalGenerator],
    settings: GenerateSettings,
    selection: SelectionSettings,
    ensemble: Path,
    known: FeatureSet,
    property: str | None,
    monitor: Monitor,
) -> Draw:
    """Select accurate and diverse samples from a larger pool."""
    judge = EnsembleSurrogate.load(ensemble)
    labels = labels_of(known, property)

    def draw(target: float, rng: torch.Generator) -> Tensor:
        chosen = select(
            generators,
            judge,
            known.features,
            labels,
            target=target,
            count=settings.samples,
            rng=rng,
            **selection.model_dump(),
        )
        if chosen.advice:
            monitor.warn(chosen.advice)
        return chosen.features

    return draw


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each training size."""
    recipe = run.recipe
    proposing = {} if recipe.generate.formulas is None else {"tolerance": recipe.evaluate.tolerance}
    given = recipe.generate.proposals
    selecting, conditioned = recipe.generate.selection is not None, bool(recipe.generator.conditions)
    for label in run.labels:
        yield Step(
            name=f"generate/{label}",
            settings={
                "seed": recipe.seed,
                **stated(recipe.generate, (*recipe.generate.requested, "formulas", "proposals")),
                **proposing,
            },
            run=partial(
                generate,
                member_paths(run.generator(label), recipe.generator.members),
                features=run.features,
                property=recipe.property_name,
                settings=recipe.generate,
                output=run.generated(label),
                seed=recipe.seed,
                rows=run.rows(label),
                ensemble=run.ensemble(label) if selecting else None,
                dataset=run.dataset if conditioned else None,
                proposals=run.proposals(label) if recipe.generate.proposes else None,
                tolerance=recipe.evaluate.tolerance,
            ),
            needs=(
                "encode",
                f"sampling/{label}",
                f"train/{label}",
                *((f"train/{label}-ensemble",) if selecting else ()),
            ),
            sources=() if given is None else (file_of_run(Path(given)),),
            version=3,  # 1 did not include requested conditions, 2 wrote selected samples by increasing risk
        )
