"""Section of structures drawn at random, real and generated ones of each target."""

from __future__ import annotations

import math

import torch

from whorl.evaluation.samples import Reference
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.widgets import Picture, draw, picture, render
from whorl.structures.checks import sound_crystals
from whorl.structures.composition import formula
from whorl.symmetry.detection import known_space_groups, space_group_symbol

Row = tuple[str, tuple[Picture, ...], str]  # heading, pictures, what to say when there are none


class Gallery(ReportSection):
    """Figures 7 to 9 of Fung et al. 2022, 9 to 11 of Alverson et al. 2024."""

    kind = "gallery"
    title = "Real and generated structures"
    order = 80

    def applies(self, context: ReportContext) -> bool:
        """Whether there are structures."""
        return context.reference.structures is not None or any(
            of.samples.structures is not None for of in context.evaluated.values()
        )

    def html(self, context: ReportContext) -> str:
        """Return rows of pictures for each target."""
        rng = torch.Generator().manual_seed(context.seed)
        rows = {target: _rows(context, target, rng) for target in context.targets}
        galleries = [
            (f"Target {context.with_unit(target)}", own)
            for target, own in rows.items()
            if any(pictures for _, pictures, _ in own)
        ]
        return render(
            "sections/gallery.html",
            caption="Drawn at random"
            + (", as in figures 7 to 9 of the paper" if context.paper else "")
            + f". Below each its {context.label}: of real structures as labelled, of generated ones as "
            f"computed.",
            galleries=galleries,
            columns=min(max(context.gallery, 1), 8),
        )


def _rows(context: ReportContext, target: float, rng: torch.Generator) -> list[Row]:
    rows: list[Row] = []
    reference = context.reference
    if reference.structures is not None:
        near = torch.nonzero(context.near(target)).flatten()
        pictures = tuple(_real(reference, i) for i in draw(near, context.gallery, rng))
        window = f"{target:g} ± {context.with_unit(context.results.window)}"
        rows.append(("real", pictures, f"The data set has no structure with {window}."))
    for label, of in context.evaluated.items():
        if of.samples.structures is None:
            continue
        here = torch.nonzero(of.samples.structure_targets.double() == target).flatten()
        pictures = tuple(_generated(context, label, k) for k in draw(here, context.gallery, rng))
        heading = "generated" + (f", {context.name(label)}" if len(context.evaluated) > 1 else "")
        rows.append((heading, pictures, "No sample of this target was reconstructed."))
    return rows


def _real(reference: Reference, i: int) -> Picture:
    assert reference.structures is not None
    structure, name = reference.structures[i], ""
    if bool(structure.pbc.all()) and bool(sound_crystals(structure).all()):
        group = space_group_symbol(int(known_space_groups(structure)[0]))
        name = f"{formula(structure)}, {group}: "
    return picture(structure, name + _value(float(reference.properties[i])))


def _generated(context: ReportContext, label: str, k: int) -> Picture:
    structures = context.evaluated[label].samples.structures
    assert structures is not None
    candidate = next(one for one in context.candidates if (one.generator, one.index) == (label, k))
    parts = [f"{candidate.formula}, {candidate.space_group}" if candidate.space_group else ""]
    if candidate.computed is not None or (candidate.valid and candidate.computed_by):
        parts.append(_value(candidate.computed))
    flag = "" if candidate.valid else "invalid"
    return picture(structures[k], ": ".join(filter(None, parts)), flag, file=candidate.file)


def _value(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "failed"
    return f"{value:.2f}" if abs(value) < 1e4 else "> 10⁴"
