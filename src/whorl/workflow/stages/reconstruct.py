"""Stage ``reconstruct``: structures for generated features, by a search or in closed form."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.chunked import parts_folder, remove_parts
from whorl.conditions import Composition, checked_requests, satisfied
from whorl.datasets import (
    Dataset,
    FeatureSet,
    load_features,
    save_dataset,
    save_features,
    write_crystals,
    write_extxyz,
)
from whorl.errors import InputError
from whorl.evaluation.validity import Validity, check_validity
from whorl.files import contents_hash, provenance, write_json, write_text
from whorl.locks import one_at_a_time
from whorl.reconstruction.base import DENSEST, FULLEST, Reconstruction, ReconstructionContext, Reconstructor
from whorl.reconstruction.closed_form import ClosedForm
from whorl.reconstruction.objective import whitening_weights
from whorl.reconstruction.population.reconstructor import SIMILAR
from whorl.reconstruction.settings import FREE, ReconstructorSettings, SearchSettings
from whorl.representations import Representation, make_representation
from whorl.seeds import derive_seed
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import composition as counts_of
from whorl.structures.composition import filled_fractions, formula_of_all
from whorl.structures.frozen import with_frozen_atoms
from whorl.workflow.engine import Step
from whorl.workflow.lattices import likely_lattices
from whorl.workflow.monitor import Monitor
from whorl.workflow.outputs import check_output
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.sample import read_rows
from whorl.workflow.stages.stated import stated
from whorl.workflow.starts import Starts, as_templates, file_of_run, read_structures, starts_of
from whorl.workflow.templates import Templates, frozen_atoms, make_templates, read_cell

_REFERENCE_SCALE = 2000  # real structures whose neighbours are sought
_REFERENCE_SCALE_AT_ONCE = 64
# Keys that recipes of older runs do not have.
_YOUNGER = (
    *("solver", "template", "cell", "frozen", "frozen_tag", "space_group", "starts"),
    *("elements", "n_atoms"),
)
_SAME = 1e-9  # distance of features up to which two structures are the same
# Files of single crystals in their folder.
_NUMBERED = tuple(
    f"{place}{name}" for place in ("", "invalid/") for name in ("cif/[0-9]*_*.cif", "poscar/[0-9]*_*.vasp")
)


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield a step for each training size; none where the recipe ends with features."""
    recipe = run.recipe
    settings, given = recipe.reconstruct, recipe.data.features
    if settings is None:
        return
    begins = isinstance(settings, SearchSettings) and (settings.begins_with or recipe.generate.proposes)
    for label in run.labels:
        structures = run.structures(label)
        yield Step(
            name=run.step_of(structures),
            settings={"seed": recipe.seed, **stated(settings, _YOUNGER)},
            run=partial(reconstruct, output=structures, **reconstruction_of_run(run, label)),
            needs=("encode", f"sampling/{label}", f"generate/{label}", *(() if given else ("data",))),
            sources=tuple(file_of_run(Path(path)) for path in getattr(settings, "inputs", ())),
            scratch=(f"{structures.stem}-search",),
            # 1 had random starts too, whatever the budget; 2 random cells alone.
            version=3 if getattr(settings, "free_cell", False) else 2 if begins else 1,
        )


def reconstruction_of_run(run: RunFolder, label: str) -> dict[str, Any]:
    """Return the arguments of :func:`reconstruct` for one training size, but for where its results go."""
    recipe, given = run.recipe, run.recipe.data.features
    return {
        "generated": run.generated(label),
        "settings": recipe.reconstruct,
        "seed": recipe.seed,
        "features": run.features,
        "rows": run.rows(label),
        "dataset": run.structures_of_features,
        "composition": given.composition if given else None,
        "proposals": run.proposals(label) if recipe.generate.proposes else None,
    }


@one_at_a_time
def reconstruct(
    generated: Path,
    *,
    settings: ReconstructorSettings,
    output: Path,
    monitor: Monitor,
    ranges: Mapping[float, tuple[int, int]] | None = None,
    seed: int | None = None,
    features: Path | None = None,
    rows: Path | None = None,
    dataset: Path | None = None,
    composition: str | None = None,
    proposals: Path | None = None,
) -> None:
    """Find structures for generated features, and write them with loss and status.

    Where a search is needed, composition, cell and periodicity are those of the most similar training
    structure (``dataset``), as far as they are not given or were requested of the generator
    (:mod:`whorl.workflow.templates`). Generated features are mostly those of no structure exactly, so some
    loss remains. If it is larger than the distance of real structures from their nearest neighbours
    (:func:`neighbour_distance`), the sample is invalid: the structure then represents it no better than
    another one would. Held-out real features (the validation ``rows`` of ``features``) are reconstructed
    too, as a reference.

    Args:
        generated: Generated features, or with a closed form any.
        settings: Of the reconstructor.
        output: Structures, ``.safetensors``. With it, ``.extxyz`` and the features of the structures
            (``…-features.safetensors``), of a search also the held-out ones found again
            (``…-reference.safetensors``), or of crystals in closed form the folder ``<stem>`` with CIF,
            POSCAR and extended XYZ, invalid ones apart, and ``<stem>.csv``; and ``…-reconstruction.json``:
            which sample each structure is from, reasons for the others, self-consistency of the samples, and
            the threshold of invalid ones.
        monitor: Receives progress, warnings, and samples without a structure.
        ranges: Which samples of each target: behind how many, and how many; by default the first of each, as
            many as the settings say.
        seed: Of all randomness.
        features: Features of real structures.
        rows: Training and held-out rows.
        dataset: Their structures.
        composition: Composition, such as Pt10; by default that of the settings.
        proposals: A structure for each sample, with its composition, that its search begins with; where
            there is no such file, formulas were not proposed.

    Raises:
        InputError: Features that this method cannot reconstruct; unknown composition or
            cell; requests that contradict each other; files of different representations; no structure
            at all.
    """
    reconstructor: Reconstructor = settings.method(settings)
    searches = reconstructor.searches
    samples = load_features(generated)
    if not len(samples):
        raise InputError(f"{generated}: holds no features. Generate or encode some.")
    representation = make_representation(samples.representation)
    in_folder = not searches and representation.of_crystals
    check_output(output, generated, features, rows, dataset, second=None if in_folder else ".extxyz")
    folder = output.with_suffix("")
    if in_folder and folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder}: is a file, but crystals go into a folder of this name. Choose another output name."
        )
    if reason := reconstructor.why_not(type(representation)):
        raise InputError(f"{generated}: features of {reason}.")
    if searches and not ClosedForm.why_not(type(representation)):
        monitor.warn(
            f"{representation.kind} has a closed-form inverse, which needs no search, composition or cell: "
            "--solver closed_form."
        )
    every = frozenset(samples.ids)
    samples = _of_each_target(samples, settings.wanted, ranges)
    if not len(samples):
        raise InputError(f"{generated}: has no more samples of these targets. Generate more.")
    source = contents_hash(generated)
    made_with = provenance(seed=seed, settings=settings.model_dump(mode="json"))
    context = ReconstructionContext(
        representation=representation,
        names=tuple(samples.ids),
        elements=tuple(samples.elements),
        requested=dict(samples.requested),
        seed=derive_seed(seed or 0, "invert"),
        directory=output.with_name(f"{output.stem}-search")
        if searches
        else parts_folder(output, [source, settings.model_dump(mode="json")]),
    )
    reference: dict[str, Any] = {"invalid_above": None, "reference_losses": [], "reference_solved": 0}
    if isinstance(settings, SearchSettings):
        context, reference = _for_a_search(
            samples,
            reconstructor,
            settings,
            context,
            output=output,
            monitor=monitor,
            features=features,
            rows=rows,
            dataset=dataset,
            composition=settings.composition or composition,
            made_with=made_with,
            begins_with=settings.begins_with
            or (str(proposals) if proposals is not None and proposals.exists() else None),
            every=every,
        )
    what = "inverting" if searches else "decoding"
    made = reconstructor.reconstruct(
        samples.features, dataclasses.replace(context, progress=monitor.progress(what))
    )
    for row, reason in made.skipped.items():
        monitor.skip(samples.ids[row], reason)
    if not len(made):
        remove_parts(output)
        raise InputError(
            f"{generated}: none of the {len(samples)} samples is a structure (see the reasons above). Train "
            "the generator longer."
        )
    for note in made.notes:
        monitor.warn(note)
    if context.frozen is not None:
        frozen = context.select(made.rows.tolist()).frozen
        assert frozen is not None
        made = dataclasses.replace(made, structures=with_frozen_atoms(made.structures, frozen))
    result = _as_dataset(made, samples, made_with)
    assert result.structures is not None
    save_dataset(result, output)
    met = satisfied(made.structures, **context.requested) if searches else {}
    for name, flags in met.items():
        tell = monitor.note if bool(flags.all()) else monitor.warn
        tell(
            f"{int(flags.sum())} of the {len(flags)} structures have the {name.replace('_', ' ')} requested "
            f"({_in_words(context.requested[name])})."
        )
    if in_folder:
        _write_files(result, folder, made_with)
    else:
        write_extxyz(
            result.structures,
            output.with_suffix(".extxyz"),
            properties=result.properties,
            provenance=result.provenance,
            ids=result.ids,
        )
        save_features(
            dataclasses.replace(
                samples.select(made.rows), features=_features_of(representation, made.structures)
            ),
            output.with_name(f"{output.stem}-features.safetensors"),
        )
    everything = load_features(generated).ids
    place = {name: row for row, name in enumerate(everything)}
    places = torch.tensor([place[name] for name in samples.ids])
    write_json(
        output.with_name(f"{output.stem}-reconstruction.json"),
        {
            "kind": settings.kind,
            "samples": source,
            "rows": places[made.rows].tolist(),
            "skipped": {str(int(places[row])): reason for row, reason in made.skipped.items()},
            "consistency": {
                name: values.new_full((len(everything),), math.nan).index_copy(0, places, values).tolist()
                for name, values in made.consistency.items()
            },
            **reference,
            **made.summary,
            "counts": made.counts,
            "met": {name: float(flags.double().mean()) for name, flags in met.items()},
        },
    )
    remove_parts(output)


def _for_a_search(
    samples: FeatureSet,
    reconstructor: Reconstructor,
    settings: SearchSettings,
    context: ReconstructionContext,
    *,
    output: Path,
    monitor: Monitor,
    features: Path | None,
    rows: Path | None,
    dataset: Path | None,
    composition: str | None,
    made_with: dict[str, Any],
    begins_with: str | None,
    every: Collection[str],
) -> tuple[ReconstructionContext, dict[str, Any]]:
    """Return the templates of a search, and its results for real features."""
    real = load_features(features, representation=context.representation) if features else None
    given = None if settings.template is None else _template(Path(settings.template))
    if given is not None:
        composition = formula_of_all(given)
    free_composition = composition == FREE
    if free_composition:
        composition = None
        if (formula := samples.requested.get("formula")) is not None:
            raise InputError(
                f"composition: got free, but the features were generated for {formula}. Leave it out, or "
                "generate features for no formula."
            )
        if begins_with is not None:
            raise InputError(
                "composition: got free, but each sample has a formula of its own (generate.formulas). Choose "
                "one of the two."
            )
    requested = _requested(samples, composition, getattr(settings, "space_group", None), monitor)
    free_cell = bool(getattr(settings, "free_cell", False))
    starts = None
    if begins_with is not None and begins_with != SIMILAR:
        starts = starts_of(samples, begins_with, context, monitor, others=every)
        given = as_templates(starts) if given is None else given
        _require_composition(samples, starts, composition, requested.get("formula"))
    templates = make_templates(
        samples,
        real=real,
        dataset=dataset,
        # Of a composition that is not known, templates give cells and periodicity alone.
        composition=(context.representation.species or ("H",))[0]
        if free_composition and dataset is None
        else composition,
        requested=requested,
        free_cell=free_cell,
        given=given,
        cell=None if settings.cell is None else read_cell(settings.cell),
    )
    if starts is not None and given is None:
        templates = _of_starts(templates, starts)
    if begins_with == SIMILAR:
        if not templates.placed:
            raise InputError(
                "starts: similar: no structure of the data has the composition or cell requested. "
                "Request none, give the data set and its features, or give a file of structures."
            )
        starts = tuple(templates.structures)
    frozen = None
    if settings.freezes:
        if not templates.placed:
            raise InputError(
                "frozen: the positions of these atoms are unknown. Give a structure that has them (template)."
            )
        frozen = frozen_atoms(templates.structures, settings.frozen, settings.frozen_tag)
    if templates.free_cell and not hasattr(settings, "free_cell"):
        raise InputError(
            f"{settings.kind} holds cells fixed; a cell that is not known needs the reconstructor population."
        )
    if templates.free_cell and not free_cell:
        monitor.warn(
            "the features are of crystals and no cell is given, so the cells are optimised too. Give the "
            "data set that the features were made of (--dataset, --features) to use those of similar ones."
        )
    dense = filled_fractions(templates.structures)
    dense = torch.where(dense > FULLEST, 0.0, dense)  # what is above is refused
    if not templates.free_cell and not free_composition and bool((dense > DENSEST).any()):
        row = int(dense.argmax())
        volume = float(volumes(templates.structures.cells[row : row + 1].double())[0])
        monitor.warn(
            f"{int((dense > DENSEST).sum())} of {len(dense)} samples have more atoms in their cells than any "
            f"measured crystal: covalent spheres of {float(dense.max()):.1f} times the volume (at most "
            f"{DENSEST}) for {formula_of_all(templates.structures[row])} in {volume:.0f} Å³. A search will "
            "hardly find them: give fewer atoms (composition), a larger cell (cell), or let it be free "
            "(free_cell)."
        )
    weights, threshold = None, None
    if settings.weights == "whitening":
        if real is None:
            raise InputError("weights 'whitening' need the features of real structures (--features).")
        weights = whitening_weights(real.features.flatten(1).double())
    if real is not None:
        threshold = neighbour_distance(
            real.features.flatten(1).double(), weights=weights, quantile=settings.quantile
        )
    if threshold is not None:
        threshold *= settings.margin
    lattices = None
    if templates.free_cell and templates.known is not None and real is not None and not free_composition:
        lattices = likely_lattices(
            samples,
            templates.structures,
            real=real,
            known=templates.known,
            settings=settings,
            starts=starts is not None,
            seed=context.seed,
        )
    context = dataclasses.replace(
        context,
        templates=templates.structures,
        free_cell=templates.free_cell,
        frozen=frozen,
        starts=starts,
        lattices=lattices,
        requested=requested,
        weights=weights,
        invalid_above=threshold,
    )
    reference: dict[str, Any] = {"invalid_above": threshold, "reference_losses": [], "reference_solved": 0}
    if real is None or rows is None or not settings.reference:
        return context, reference
    chosen = read_rows(rows)["validation"][: settings.reference]
    held_out, of_held_out = real.select(chosen), templates.of_real(chosen)
    if of_held_out is None:
        monitor.warn(
            "without the data set (--dataset) it is not known which atoms the held-out real crystals have, "
            "so they are not reconstructed for comparison."
        )
        return context, reference
    known = reconstructor.reconstruct(
        held_out.features,
        dataclasses.replace(
            context,
            templates=of_held_out,
            frozen=None,
            starts=None,
            lattices=None,  # these crystals are among those of the data
            names=tuple(held_out.ids),
            real=True,
            invalid_above=None,
            progress=monitor.progress("reconstructing real ones"),
        ),
    )
    solved = known.counts.get("converged", 0)
    if 2 * solved < len(known):
        monitor.warn(
            f"the search found only {solved} of {len(known)} held-out real structures again, so for "
            "generated ones too a lower loss may exist. Give it more evaluations (or starts)."
        )
    save_dataset(
        _as_dataset(known, held_out, made_with), output.with_name(f"{output.stem}-reference.safetensors")
    )
    return context, {**reference, "reference_losses": known.loss.tolist(), "reference_solved": solved}


def _in_words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)


def _template(path: Path) -> StructureBatch:
    """Return the single structure of a file."""
    structures = read_structures(path).structures
    assert structures is not None
    if len(structures) != 1:
        raise InputError(f"template: {path} has {len(structures)} structures, expected one.")
    return structures


def _require_composition(
    samples: FeatureSet, starts: Starts, composition: str | None, requested: str | None
) -> None:
    """Reject starts with another composition than requested, by the names of their samples."""
    if requested is None:
        return
    exact = composition is not None
    wrong = {
        name: formula_of_all(start)
        for name, some in zip(samples.ids, starts, strict=True)
        for start in some or ()
        if (
            counts_of(formula_of_all(start)) != counts_of(requested)
            if exact
            else Composition.fractions(formula_of_all(start)) != Composition.fractions(requested)
        )
    }
    if wrong:
        name, formula = next(iter(wrong.items()))
        raise InputError(
            f"starts: {len(wrong)} of {len(samples)} samples have one of another composition than "
            f"{requested} (first: {name} has {formula})."
        )


def _of_starts(templates: Templates, starts: Starts) -> Templates:
    """Return templates with the composition and cell of a sample's start, where it has one."""
    own = [templates.structures[k] if some is None else some[0] for k, some in enumerate(starts)]
    return dataclasses.replace(
        templates, structures=StructureBatch.concatenate([one.replace(info=()) for one in own]), placed=False
    )


def _requested(
    generated: FeatureSet, composition: str | None, space_group: int | None, monitor: Monitor
) -> dict[str, Any]:
    """Return the requested conditions; a given composition overrides the formula requested earlier.

    Raises:
        InputError: Unknown elements, or requests that contradict each other.
    """
    requested = dict(generated.requested)
    if composition is not None:
        formula = requested.get("formula")
        if formula is not None and Composition.fractions(formula) != Composition.fractions(composition):
            monitor.warn(f"the features were generated for {formula}, and {composition} replaces it.")
        requested["formula"] = composition
    if space_group is not None:
        earlier = requested.get("space_group")
        if earlier not in (None, space_group):
            monitor.warn(
                f"the features were generated for space group {earlier}, and structures of {space_group} "
                "are searched instead."
            )
        requested["space_group"] = space_group
    checked_requests(requested)
    return requested


def neighbour_distance(
    features: Float[Tensor, "n F"], *, weights: Float[Tensor, "F"] | None = None, quantile: float = 0.95
) -> float | None:
    r"""Return the distance of real structures from their nearest neighbours, in units of the loss.

    .. math:: d_i = \min_{j:\, d_{ij} > 0} d_{ij}, \qquad
              d_{ij} = \frac1F \sum_f w_f\,\lvert R_f(x_i) - R_f(x_j)\rvert

    Args:
        features: Of the real structures.
        weights: Of the features, w; by default 1.
        quantile: Of the distances :math:`d_i`, over an even draw of at most 2000 structures.

    Returns:
        The quantile, or ``None`` where no two structures differ.
    """
    weighted = features if weights is None else features * weights
    weighted = weighted[torch.isfinite(weighted).all(1)]
    if len(weighted) < 2:
        return None
    drawn = weighted[:: math.ceil(len(weighted) / _REFERENCE_SCALE)]
    nearest = []
    for some in drawn.split(_REFERENCE_SCALE_AT_ONCE):
        distance = torch.cdist(some, weighted, p=1.0) / features.shape[1]
        # What is stored twice is no neighbour.
        nearest.append(torch.where(distance > _SAME, distance, torch.inf).amin(1))
    found = torch.cat(nearest)
    found = found[torch.isfinite(found)]
    return float(torch.quantile(found, quantile)) if len(found) else None


def _of_each_target(
    generated: FeatureSet, count: int | None, ranges: Mapping[float, tuple[int, int]] | None
) -> FeatureSet:
    """Keep the first ``count`` samples of each target, or those in ``ranges``.

    Samples are independent, so that any are a fair draw.
    """
    targets = generated.properties.get("target")
    if targets is None or (count is None and ranges is None):
        return generated
    chosen = {float(t): (0, count) for t in targets.unique()} if ranges is None else ranges
    return generated.select(
        torch.cat(
            [torch.nonzero(targets == t).flatten()[skip : skip + n] for t, (skip, n) in chosen.items() if n]
        )
    )


def _features_of(representation: Representation, structures: StructureBatch) -> Tensor:
    """Return the features of structures, in batches that need little memory."""
    with torch.no_grad():
        return torch.cat([representation(chunk) for chunk in structures.chunks(256)])


def _as_dataset(made: Reconstruction, of: FeatureSet, made_with: dict[str, Any]) -> Dataset:
    """Return structures with loss and status in ``info``."""
    info = made.structures.info or ({},) * len(made)
    own = tuple(
        {**old, "reconstruction_status": status} for old, status in zip(info, made.status, strict=True)
    )
    rows = made.rows
    return Dataset(
        structures=made.structures.replace(info=own),
        properties={
            **{name: values[rows] for name, values in of.properties.items()},
            "reconstruction_loss": made.loss,
        },
        ids=tuple(of.ids[row] for row in rows.tolist()),
        provenance={**made_with, "representation": of.fingerprint},
    )


def _write_files(made: Dataset, folder: Path, made_with: dict[str, Any]) -> None:
    """Write crystals in the formats of the field, invalid ones apart, and a table of flags."""
    assert made.structures is not None
    validity = check_validity(made.structures, chemistry=importlib.util.find_spec("smact") is not None)
    valid = validity.structurally_valid.tolist()
    written = set(write_crystals(made.structures, folder, ids=made.ids, provenance=made_with, valid=valid))
    for path in {path for pattern in _NUMBERED for path in folder.glob(pattern)} - written:
        path.unlink()  # of an earlier reconstruction
    _write_table(made.structures, made.ids, validity, folder.with_suffix(".csv"))


def _write_table(crystals: StructureBatch, ids: Sequence[str], validity: Validity, path: Path) -> None:
    """Write flags of each crystal."""
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
