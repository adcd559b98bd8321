"""The report: one HTML page that holds everything it shows."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation.distances import standardized
from whorl.evaluation.diversity import principal_components
from whorl.evaluation.results import Accuracy, Evaluated, Results
from whorl.evaluation.samples import Reference
from whorl.files import write_text
from whorl.report import figures
from whorl.report.paper import CITATION, is_pt10
from whorl.report.spheres import render_structure
from whorl.report.subject import calculator_name, describe
from whorl.report.tables import make_table, size_name
from whorl.report.viewer import EmbeddedViewer, embed_viewer
from whorl.structures.batch import StructureBatch
from whorl.yaml_text import dump_yaml

if TYPE_CHECKING:
    from whorl.report.crystals import CrystalSection

_MOST_SKIPPED = 100  # entries listed by name


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the page is made of."""

    results: Results
    sizes: Mapping[str, Evaluated]
    reference: Reference
    potential: str
    gallery: int
    seed: int

    @property
    def label(self) -> str:
        """The property and its unit, as on an axis."""
        return self.results.property + (f" ({self.results.unit})" if self.results.unit else "")

    def near(self, target: float) -> Tensor:
        """Which real data are within the window of a target."""
        return (self.reference.properties.double() - target).abs() <= self.results.window * (1 + 1e-9)


def write_report(
    path: Path | str,
    *,
    results: Results,
    sizes: Mapping[str, Evaluated],
    title: str,
    recipe: Mapping[str, Any],
    provenance: Mapping[str, Any],
    warnings: Sequence[str] = (),
    skipped: Sequence[tuple[str, str]] = (),
    gallery: int = 6,
    compare_with_paper: bool | None = None,
    agreement: str = "",
    crystals: CrystalSection | None = None,
) -> None:
    """Write the report of a run: one HTML page that needs no other file and no network.

    Parts that a run has no data for (atoms, energies, losses) are left out of the page.

    Args:
        path: The page.
        results: From :func:`whorl.evaluation.results_of`, of the same ``sizes``.
        sizes: Samples with the real data and what evaluators found out, by the label of the training size.
        title: Heading.
        recipe: Resolved, as plain data.
        provenance: Version, seed and recipe hash.
        warnings: Beyond those of the results.
        skipped: Entries of the input that could not be used: source and reason.
        gallery: Structures shown per target.
        compare_with_paper: Put the numbers of Fung et al. 2022 beside ours; by default when the recipe is
            about Pt10.
        agreement: How the energy method agrees with labels of real structures, in a sentence.
        crystals: What :func:`whorl.report.crystals.crystal_section` made of decoded crystals.

    Raises:
        InputError: Training sizes that do not fit together.
    """
    if not sizes or set(sizes) != set(results.sizes):
        raise InputError(
            f"report: got samples of {', '.join(sizes) or 'nothing'}, but results of "
            f"{', '.join(results.sizes)}. Evaluate the run again."
        )
    run = _Run(
        results=results,
        sizes=sizes,
        reference=next(iter(sizes.values())).reference,
        potential=calculator_name(recipe) or "the potential",
        gallery=gallery,
        seed=int(provenance.get("seed") or 0),
    )
    paper = is_pt10(recipe) if compare_with_paper is None else compare_with_paper
    maps, viewer = _maps(run, title)
    content = _template().render(
        title=title,
        results=results,
        potential=run.potential,
        agreement=agreement,
        subject=describe(recipe, results),
        warnings=list(dict.fromkeys([*results.warnings, *warnings])),
        skipped=list(skipped[:_MOST_SKIPPED]),
        skipped_count=len(skipped),
        headlines=_headlines(run),
        tables={
            kind: make_table(results, kind, compare_with_paper=paper) for kind in ("surrogate", "potential")
        },
        diversity=make_table(results, "diversity"),
        citation=CITATION if paper else None,
        maps=maps,
        losses=_loss_panels(run),
        energies=_energy_panels(run),
        galleries=_galleries(run),
        viewer=viewer,
        crystals=crystals,
        columns=min(max(gallery, 1), 8),
        has_threshold=any(size.invalid_above is not None for size in results.sizes.values()),
        has_reference=any(
            of.samples.reference_loss is not None and len(of.samples.reference_loss) > 0
            for of in sizes.values()
        ),
        provenance={name.replace("_", " "): value for name, value in provenance.items() if value is not None},
        recipe=dump_yaml(dict(recipe)),
        colors=figures,
    )
    write_text(path, content)


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html")


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One number to remember, for every training size."""

    label: str
    hint: str
    numbers: tuple[tuple[str, str, str], ...]  # training size, number, remark


def _headlines(run: _Run) -> list[Headline]:
    tolerance = f"{run.results.tolerance:g} {run.results.unit}".strip()
    wanted = (
        (
            f"within ±{tolerance}, by surrogate",
            "generated features, mean over targets",
            lambda t: _within(t.surrogate),
            "{:.1f} %",
            min,
        ),
        (
            f"within ±{tolerance}, by {run.potential}",
            "atoms as found, mean over targets",
            lambda t: _within(t.potential),
            "{:.1f} %",
            min,
        ),
        (
            "invalid",
            "features without atoms that have them",
            lambda t: t.inversion and t.inversion.percent_invalid,
            "{:.1f} %",
            max,
        ),
        (
            "copies of training rows",
            "nearer than a tenth of the usual distance",
            lambda t: t.diversity and t.diversity.percent_copies,
            "{:.2f} %",
            max,
        ),
        (
            "spread, real data = 1",
            "mean distance between samples",
            lambda t: t.diversity and t.diversity.ratio,
            "{:.2f}",
            min,
        ),
    )
    found = []
    for label, hint, number_of, layout, worst in wanted:
        numbers = []
        for name, size in run.results.sizes.items():
            values = {target.target: number_of(target) for target in size.targets}
            known = {target: value for target, value in values.items() if value is not None}
            if known:
                at = worst(known, key=known.__getitem__)
                shown, extreme = layout.format(statistics.fmean(known.values())), layout.format(known[at])
                remark = f"{extreme} at {at:g}" if extreme != shown else ""
                numbers.append((size_name(name, size), shown, remark))
        if numbers:
            found.append(Headline(label=label, hint=hint, numbers=tuple(numbers)))
    return found


def _within(score: Accuracy | None) -> float | None:
    return None if score is None else score.percent_within


@dataclass(frozen=True, kw_only=True)
class Panels:
    """Pictures of one training size."""

    name: str
    images: tuple[tuple[str, str, str], ...]  # data URI, what it shows in words, note


def _maps(run: _Run, title: str) -> tuple[list[Panels], EmbeddedViewer | None]:
    """Return figure 6 for each training size, and the interactive map in the same coordinates."""
    yardstick = run.reference.features
    real = standardized(yardstick, yardstick)
    directions, shares = principal_components(real)
    data = real @ directions.T

    def project(features: Tensor) -> Tensor:
        return standardized(features.flatten(1), yardstick) @ directions.T

    panels, maps = [], {}
    for label, of in run.sizes.items():
        samples = of.samples
        if samples.features is None:
            continue
        training, points = project(of.reference.training_features), project(samples.features)
        frame = figures.map_frame(data, points)
        images = []
        for target in run.results.sizes[label].targets:
            plot = figures.pca_map(
                data=data,
                window=data[run.near(target.target)],
                training=training,
                generated=points[samples.targets.double() == target.target],
                shares=shares,
                frame=frame,
                title=f"asked for {target.target:g} {run.results.unit}",
            )
            images.append(_image(plot, f"principal components, samples for {target.target:g}"))
        panels.append(Panels(name=_name(run, label), images=tuple(images)))
        if samples.structures is not None:
            own = samples.structure_features
            maps[label] = points[samples.rows] if own is None else project(own)
    viewer = embed_viewer(
        sizes=run.sizes,
        maps=maps,
        data_map=data,
        data_properties=run.reference.properties,
        data_structures=run.reference.structures,
        property=run.results.property,
        unit=run.results.unit,
        name=title,
    )
    return panels, viewer


def _loss_panels(run: _Run) -> list[Panels]:
    panels = []
    for label, of in run.sizes.items():
        samples = of.samples
        if samples.loss is None or not len(samples.loss):
            continue
        asked, loss, reference = samples.structure_targets.double(), samples.loss, samples.reference_loss
        everything = torch.cat([loss.double(), *([] if reference is None else [reference.double()])])
        images = []
        for target in asked.unique().tolist():
            plot = figures.loss_histogram(
                losses=loss[asked == target],
                reference=reference,
                invalid_above=samples.invalid_above,
                limits=figures.loss_range(everything, samples.invalid_above),
                title=f"asked for {target:g} {run.results.unit}",
            )
            images.append(_image(plot, f"reconstruction losses, samples for {target:g}"))
        panels.append(Panels(name=_name(run, label), images=tuple(images)))
    return panels


def _energy_panels(run: _Run) -> list[Panels]:
    panels = []
    for label, of in run.sizes.items():
        predicted, computed = of.values("surrogate"), of.values("energy")
        images = []
        for target in run.results.sizes[label].targets:
            if predicted is None and computed is None:
                continue
            of_target = of.samples.targets.double() == target.target
            plot = figures.energy_histogram(
                target=target.target,
                tolerance=run.results.tolerance,
                surrogate=None if predicted is None else predicted[of_target],
                potential=None if computed is None else computed[of_target[of.samples.rows]],
                real=run.reference.properties,
                label=run.label,
                potential_name=run.potential,
                title=f"asked for {target.target:g} {run.results.unit}",
            )
            images.append(_image(plot, f"{run.label}, samples for {target.target:g}"))
        if images:
            panels.append(Panels(name=_name(run, label), images=tuple(images)))
    return panels


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One structure of a gallery."""

    image: str
    caption: str
    flag: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Structures of one target: rows of pictures, each with a heading."""

    target: str
    rows: tuple[
        tuple[str, tuple[Picture, ...], str], ...
    ]  # heading, pictures, what to say when there are none


def _galleries(run: _Run) -> list[Gallery]:
    """Return figures 7 to 9: randomly drawn real and generated structures for each target."""
    galleries = []
    rng = torch.Generator().manual_seed(run.seed)
    targets = sorted({target.target for size in run.results.sizes.values() for target in size.targets})
    for target in targets:
        rows = []
        real = run.reference
        if real.structures is not None:
            near = torch.nonzero(run.near(target)).flatten()
            pictures = tuple(
                _picture(real.structures[i], f"{float(real.properties[i]):.2f}")
                for i in _draw(near, run.gallery, rng)
            )
            window = f"{target:g} ± {run.results.window:g} {run.results.unit}".strip()
            rows.append(("real", pictures, f"The data set has no structure with {window}."))
        for label, of in run.sizes.items():
            samples = of.samples
            if samples.structures is None:
                continue
            computed, invalid = of.values("energy"), samples.invalid
            here = torch.nonzero(samples.structure_targets.double() == target).flatten()
            heading = "generated" + (f", {_name(run, label)}" if len(run.sizes) > 1 else "")
            pictures = tuple(
                _picture(
                    samples.structures[k],
                    "" if computed is None else _energy_caption(float(computed[k])),
                    "invalid" if invalid[k] else "",
                )
                for k in _draw(here, run.gallery, rng)
            )
            rows.append((heading, pictures, "No sample was turned into atoms."))
        if any(pictures for _, pictures, _ in rows):
            galleries.append(Gallery(target=f"{target:g} {run.results.unit}".strip(), rows=tuple(rows)))
    return galleries


def _draw(rows: Tensor, count: int, rng: torch.Generator) -> list[int]:
    return rows[torch.randperm(len(rows), generator=rng)[:count]].tolist()


def _picture(structure: StructureBatch, caption: str, flag: str = "") -> Picture:
    return Picture(image=_png_uri(render_structure(structure)), caption=caption, flag=flag)


def _energy_caption(energy: float) -> str:
    return (
        f"{energy:.2f}"
        if energy == energy and abs(energy) < 1e4
        else "failed"
        if energy != energy
        else "> 10⁴"
    )


def _name(run: _Run, label: str) -> str:
    """Return the name of a training size in one piece: a line must not break within it."""
    return size_name(label, run.results.sizes[label]).replace(" ", "\N{NO-BREAK SPACE}")


def _image(plot: figures.Plot, words: str) -> tuple[str, str, str]:
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode(), words, plot.note


def _png_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
