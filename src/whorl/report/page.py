"""The report: one HTML page that holds everything it shows."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.evaluation import (
    Accuracy,
    Generated,
    Verdict,
    is_invalid,
    principal_components,
    standardized,
)
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

    verdict: Verdict
    sizes: Mapping[str, Generated]
    features: Tensor
    properties: Tensor
    structures: StructureBatch | None
    potential: str
    gallery: int
    seed: int

    @property
    def label(self) -> str:
        """The property and its unit, as on an axis."""
        return self.verdict.property + (f" ({self.verdict.unit})" if self.verdict.unit else "")

    def near(self, target: float) -> Tensor:
        """Which real data are within the window of a target."""
        return (self.properties.double() - target).abs() <= self.verdict.window * (1 + 1e-9)


def write_report(
    path: Path | str,
    *,
    verdict: Verdict,
    sizes: Mapping[str, Generated],
    data_features: Float[Tensor, "N F"],
    data_properties: Float[Tensor, "N"],
    data_structures: StructureBatch | None = None,
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
        verdict: From :func:`whorl.evaluation.evaluate`, of the same ``sizes``.
        sizes: What was generated, by the label of the training size.
        data_features: Of the whole labelled set.
        data_properties: Of the same.
        data_structures: Its N structures, where there are any.
        title: Heading.
        recipe: Resolved, as plain data.
        provenance: Version, seed and recipe hash.
        warnings: Beyond those of the verdict.
        skipped: Entries of the input that could not be used: source and reason.
        gallery: Structures shown per target.
        compare_with_paper: Put the numbers of Fung et al. 2022 beside ours; by default when the recipe is
            about Pt10.
        agreement: How the energy method agrees with labels of real structures, in a sentence.
        crystals: What :func:`whorl.report.crystals.crystal_section` made of decoded crystals.

    Raises:
        InputError: Training sizes or numbers of rows that do not fit together.
    """
    if set(sizes) != set(verdict.sizes):
        raise InputError(
            f"report: got results for {', '.join(sizes)}, but a verdict on {', '.join(verdict.sizes)}. "
            "Evaluate the run again."
        )
    if data_structures is not None and len(data_structures) != len(data_properties):
        raise InputError(
            f"report: got {len(data_structures)} structures for {len(data_properties)} rows of the data set."
        )
    run = _Run(
        verdict=verdict,
        sizes=sizes,
        features=data_features,
        properties=data_properties,
        structures=data_structures,
        potential=calculator_name(recipe) or "the potential",
        gallery=gallery,
        seed=int(provenance.get("seed") or 0),
    )
    paper = is_pt10(recipe) if compare_with_paper is None else compare_with_paper
    maps, viewer = _maps(run, title)
    content = _template().render(
        title=title,
        verdict=verdict,
        potential=run.potential,
        agreement=agreement,
        subject=describe(recipe, verdict),
        warnings=list(dict.fromkeys([*verdict.warnings, *warnings])),
        skipped=list(skipped[:_MOST_SKIPPED]),
        skipped_count=len(skipped),
        headlines=_headlines(run),
        tables={
            kind: make_table(verdict, kind, compare_with_paper=paper) for kind in ("surrogate", "potential")
        },
        diversity=make_table(verdict, "diversity"),
        citation=CITATION if paper else None,
        maps=maps,
        losses=_loss_panels(run),
        energies=_energy_panels(run),
        galleries=_galleries(run),
        viewer=viewer,
        crystals=crystals,
        columns=min(max(gallery, 1), 8),
        has_threshold=any(size.invalid_above is not None for size in verdict.sizes.values()),
        has_reference=any(
            of.reconstructed is not None
            and of.reconstructed.reference_loss is not None
            and len(of.reconstructed.reference_loss) > 0
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
    tolerance = f"{run.verdict.tolerance:g} {run.verdict.unit}".strip()
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
            lambda t: t.diversity.percent_copies,
            "{:.2f} %",
            max,
        ),
        (
            "spread, real data = 1",
            "mean distance between samples",
            lambda t: t.diversity.ratio,
            "{:.2f}",
            min,
        ),
    )
    found = []
    for label, hint, number_of, layout, worst in wanted:
        numbers = []
        for name, size in run.verdict.sizes.items():
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
    real = standardized(run.features, run.features)
    directions, shares = principal_components(real)
    data = real @ directions.T

    def project(features: Tensor) -> Tensor:
        return standardized(features, run.features) @ directions.T

    panels, found = [], {}
    for label, generated in run.sizes.items():
        training, points = project(generated.training_features), project(generated.features)
        frame = figures.map_frame(data, points)
        images = []
        for target in run.verdict.sizes[label].targets:
            chosen = generated.targets.double() == target.target
            plot = figures.pca_map(
                data=data,
                window=data[run.near(target.target)],
                training=training,
                generated=points[chosen],
                shares=shares,
                frame=frame,
                title=f"asked for {target.target:g} {run.verdict.unit}",
            )
            images.append(_image(plot, f"principal components, samples for {target.target:g}"))
        panels.append(Panels(name=_name(run, label), images=tuple(images)))
        if (of := generated.reconstructed) is not None and of.structures is not None:
            found[label] = project(of.features) if of.features is not None else points[of.rows]
    viewer = embed_viewer(
        sizes=run.sizes,
        maps=found,
        data_map=data,
        data_properties=run.properties,
        data_structures=run.structures,
        property=run.verdict.property,
        unit=run.verdict.unit,
        name=title,
    )
    return panels, viewer


def _loss_panels(run: _Run) -> list[Panels]:
    panels = []
    for label, generated in run.sizes.items():
        of = generated.reconstructed
        if of is None or not len(of.rows):
            continue
        asked = generated.targets[of.rows].double()
        everything = torch.cat(
            [of.loss.double(), *([] if of.reference_loss is None else [of.reference_loss.double()])]
        )
        images = []
        for target in asked.unique().tolist():
            plot = figures.loss_histogram(
                losses=of.loss[asked == target],
                reference=of.reference_loss,
                invalid_above=of.invalid_above,
                limits=figures.loss_range(everything, of.invalid_above),
                title=f"asked for {target:g} {run.verdict.unit}",
            )
            images.append(_image(plot, f"reconstruction losses, samples for {target:g}"))
        panels.append(Panels(name=_name(run, label), images=tuple(images)))
    return panels


def _energy_panels(run: _Run) -> list[Panels]:
    panels = []
    for label, generated in run.sizes.items():
        of, images = generated.reconstructed, []
        asked = generated.targets[of.rows].double() if of is not None else None
        for target in run.verdict.sizes[label].targets:
            predicted, energy = generated.predicted, of.energy if of is not None else None
            if predicted is None and energy is None:
                continue
            plot = figures.energy_histogram(
                target=target.target,
                tolerance=run.verdict.tolerance,
                surrogate=None
                if predicted is None
                else predicted[generated.targets.double() == target.target],
                potential=None if energy is None or asked is None else energy[asked == target.target],
                real=run.properties,
                label=run.label,
                potential_name=run.potential,
                title=f"asked for {target.target:g} {run.verdict.unit}",
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
    targets = sorted({target.target for size in run.verdict.sizes.values() for target in size.targets})
    for target in targets:
        rows = []
        if run.structures is not None:
            near = torch.nonzero(run.near(target)).flatten()
            pictures = tuple(
                _picture(run.structures[i], f"{float(run.properties[i]):.2f}")
                for i in _draw(near, run.gallery, rng)
            )
            window = f"{target:g} ± {run.verdict.window:g} {run.verdict.unit}".strip()
            rows.append(("real", pictures, f"The data set has no structure with {window}."))
        for label, generated in run.sizes.items():
            of = generated.reconstructed
            if of is None or of.structures is None:
                continue
            invalid = is_invalid(of)
            here = torch.nonzero(generated.targets[of.rows].double() == target).flatten()
            heading = "generated" + (f", {_name(run, label)}" if len(run.sizes) > 1 else "")
            pictures = tuple(
                _picture(
                    of.structures[k],
                    "" if of.energy is None else _energy_caption(float(of.energy[k])),
                    "invalid" if invalid[k] else "",
                )
                for k in _draw(here, run.gallery, rng)
            )
            rows.append((heading, pictures, "No sample was turned into atoms."))
        if any(pictures for _, pictures, _ in rows):
            galleries.append(Gallery(target=f"{target:g} {run.verdict.unit}".strip(), rows=tuple(rows)))
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
    return size_name(label, run.verdict.sizes[label]).replace(" ", "\N{NO-BREAK SPACE}")


def _image(plot: figures.Plot, words: str) -> tuple[str, str, str]:
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode(), words, plot.note


def _png_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
