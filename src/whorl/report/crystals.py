"""The part of the report that is about crystals: tables 1 and 2, distributions, properties, galleries.

It mirrors the results of Alverson et al., Digital Discovery 3, 62 (2024): tables 1 and 2, figures 4 to 7 and
9 to 11.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.evaluation.cgcnn import UNITS
from whorl.evaluation.results import Evaluated
from whorl.report import crystal_figures as figures
from whorl.report.figures import GREY
from whorl.report.page import Panels, Picture, _image, _picture
from whorl.report.tables import NOTHING, Column, Table
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cell_parameters, volumes
from whorl.structures.checks import sound_crystals
from whorl.structures.composition import formula
from whorl.symmetry.detection import known_space_groups, space_group_numbers, space_group_symbol

CITATION = (
    "M. Alverson, S. G. Baird, R. Murdock, E. S.-H. Ho, J. Johnson, T. D. Sparks: Generative adversarial "
    "networks and diffusion models in material discovery. Digital Discovery 3, 62 (2024)"
)

TABLE_1: Mapping[str, Mapping[str, float]] = {
    "GAN": {
        "variance_lengths": 582.23,
        "variance_angles": 1338.11,
        "variance_space_group": 6322.1,
        "variance_coordinates": 5.57e-2,
    },
    "WGAN": {
        "variance_lengths": 31.18,
        "variance_angles": 695.03,
        "variance_space_group": 3024.27,
        "variance_coordinates": 5.9e-2,
    },
    "diffusion": {
        "variance_lengths": 0.35,
        "variance_angles": 0.846,
        "variance_space_group": 4.56,
        "variance_coordinates": 4.36e-4,
    },
}
"""Mean variances of what a tensor says several times, by model; of 1,000 tensors each."""

TABLE_2: Mapping[str, Mapping[str, float]] = {
    "GAN": {"coordinate_agreement": 9.62e-2, "pairwise_difference": 3.84},
    "WGAN": {"coordinate_agreement": 1.37e-2, "pairwise_difference": 2.49},
    "diffusion": {"coordinate_agreement": 5.51e-4, "pairwise_difference": 0.473},
}
"""Mean disagreement of coordinates with differences, and of distances with coordinates, per atom."""

_MEASURES = {
    "variance_lengths": "σ² of a, b, c (Å²)",
    "variance_angles": "σ² of α, β, γ (square degrees)",
    "variance_space_group": "σ² of the space group",
    "variance_coordinates": "σ² of fractional coordinates",
    "coordinate_agreement": "Δ coordinate / atom",
    "pairwise_difference": "Σ pairwise / atom",
}
_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}
_KINDS = {"gan": "GAN", "wgan_gp": "WGAN-GP", "cvae": "cVAE", "all": "generated"}
_QUANTITIES = {
    **dict.fromkeys(("a", "b", "c"), ("Å", 1.0)),
    **dict.fromkeys(("α", "β", "γ"), ("degrees", 10.0)),
    "volume per atom": ("Å³", 5.0),
}  # histograms: unit, and least width of the axis
_MOST_TARGETS = 4  # violins by target: real, and so many values asked for
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


Overall = Mapping[str, Mapping[str, Any]]
"""Numbers of each evaluator that concern all samples, by its kind."""


@dataclass(frozen=True, kw_only=True)
class CrystalGallery:
    """Pictures of crystals of one origin.

    Attributes:
        heading: Where they come from.
        pictures: Each with its caption.
    """

    heading: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class CrystalSection:
    """What the page shows of crystals, ready to be rendered.

    Attributes:
        table_1: How far tensors contradict themselves, beside the paper's; None where that is not measured.
        table_2: Coordinates and distances, likewise.
        shares: Valid, unique, new.
        compared: Distributions by the test of Kolmogorov and Smirnov; None where there are none.
        legend: Generators and their colours.
        distributions: Histograms and bars.
        elements: The wide panel of elements.
        properties: Violins, generated beside real.
        by_target: Violins of the property asked for, by the value asked for.
        others_by_target: The same of other properties.
        galleries: Of real crystals, then of each generator.
        asked: The property asked for, with its unit, where crystals were asked for it and it is predicted.
        tensors: How many were generated.
        citation: Of the paper.
    """

    table_1: Table | None
    table_2: Table | None
    shares: Table
    compared: Table | None
    legend: tuple[tuple[str, str], ...]
    distributions: tuple[Panels, ...]
    elements: tuple[Panels, ...]
    properties: tuple[Panels, ...]
    by_target: tuple[Panels, ...]
    others_by_target: tuple[Panels, ...]
    galleries: tuple[CrystalGallery, ...]
    asked: str | None
    tensors: str
    citation: str = CITATION


def crystal_section(
    evaluated: Mapping[str, Evaluated],
    *,
    real: StructureBatch,
    real_predicted: Mapping[str, Float[Tensor, "_"]],
    target_label: str,
    gallery: int,
) -> CrystalSection:
    """Draw and lay out what the page shows of crystals.

    Crystals that cannot be (not finite, no volume, two atoms at one place) are in the shares, but not in
    the pictures.

    Args:
        evaluated: By generator, or by the label of the training size; all structures are crystals.
        real: Crystals to compare with.
        real_predicted: Properties of real crystals (of all or of some) by name.
        target_label: Property that was asked for, such as ``"formation energy (eV/atom)"``.
        gallery: Crystals shown of each generator, and of each value asked for.
    """
    names = {label: _name(label) for label in evaluated}
    crystals = {label: _Crystals.of(of) for label, of in evaluated.items()}
    overall = {
        label: {kind: metrics.overall for kind, metrics in of.metrics.items()}
        for label, of in evaluated.items()
    }
    reference = _Crystals.real(real, real_predicted)
    asked = _asked(target_label, [name for of in crystals.values() for name in of.predicted])
    drawn = _Drawn(names, crystals, reference, overall)
    by_target = {
        name: drawn.by_target(name, target_label, asks=name == asked) for name in drawn.common_properties()
    }
    counts = {len(of.samples) for of in evaluated.values()}
    return CrystalSection(
        table_1=_consistency(overall, names, TABLE_1, "Table 1"),
        table_2=_consistency(overall, names, TABLE_2, "Table 2"),
        shares=_shares(overall, names),
        compared=_compared(overall, names),
        legend=drawn.legend(),
        distributions=tuple(drawn.distributions()),
        elements=tuple(drawn.elements()),
        properties=tuple(drawn.properties()),
        by_target=_joined([panels for name, panels in by_target.items() if name == asked]),
        others_by_target=_joined([panels for name, panels in by_target.items() if name != asked]),
        galleries=tuple(_galleries(crystals, names, reference, target_label, asked, gallery)),
        asked=target_label if asked else None,
        tensors=" and ".join(sorted(f"{count:,}" for count in counts)),
    )


def _name(label: str) -> str:
    """Return how people write a generator or a training size."""
    size = re.fullmatch(r"n(\d+)", label)
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{size[1]}" if size else _KINDS.get(label, label)


def _asked(target_label: str, predicted: Sequence[str]) -> str | None:
    """Return the predicted property that is the one asked for, if it is among them."""
    wanted = target_label.partition("(")[0].replace("_", " ").strip().lower()
    return next((name for name in predicted if name.replace("_", " ").lower() == wanted), None)


# Tables


def _consistency(
    overall: Mapping[str, Overall],
    names: Mapping[str, str],
    paper: Mapping[str, Mapping[str, float]],
    head: str,
) -> Table | None:
    if not any("consistency" in of for of in overall.values()):
        return None
    rows = list(next(iter(paper.values())))
    ours = [
        (
            Column(group="this run", label=names[label]),
            [_short(of.get("consistency", {}).get(row)) for row in rows],
        )
        for label, of in overall.items()
    ]
    theirs = [
        (Column(group="paper", label=name, reference=True), [_short(values[row]) for row in rows])
        for name, values in paper.items()
    ]
    return _table(head, [_MEASURES[row] for row in rows], ours + theirs)


def _shares(overall: Mapping[str, Overall], names: Mapping[str, str]) -> Table:
    def cells(evaluator: str, name: str, layout: str = ".1f") -> list[str]:
        values = [of.get(evaluator, {}).get(name) for of in overall.values()]
        return [NOTHING if value is None else format(value, layout) for value in values]

    columns = [
        (Column(group="samples", label="attempted"), cells("validity", "count", ",")),
        (Column(group="samples", label="crystals"), cells("validity", "structures", ",")),
        (Column(group="samples", label="valid", unit="% of all"), cells("validity", "percent_valid")),
        (
            Column(group="samples", label="strictly valid", unit="% of all"),
            cells("validity", "percent_strictly_valid"),
        ),
        *(
            (Column(group="of the crystals", label=label, unit="%"), cells(evaluator, name))
            for label, evaluator, name in (
                ("distances", "validity", "percent_distances"),
                ("volume", "validity", "percent_volume"),
                ("neutral", "validity", "percent_neutral"),
                ("symmetric", "symmetry", "percent_symmetric"),
                ("unique", "uniqueness", "percent_unique"),
            )
        ),
        (Column(group="of the unique", label="new", unit="%"), cells("novelty", "percent_novel")),
    ]
    return _table("Generator", list(names.values()), columns)


def _compared(overall: Mapping[str, Overall], names: Mapping[str, str]) -> Table | None:
    by_name = {
        label: {
            one["name"]: one
            for evaluator, key in (("distributions", "quantities"), ("cgcnn", "properties"))
            for one in of.get(evaluator, {}).get(key, ())
        }
        for label, of in overall.items()
    }
    rows = {name: one for compared in by_name.values() for name, one in compared.items()}
    if not rows:
        return None

    def cells(label: str, name: str, digits: int) -> list[str]:
        compared = [by_name[label].get(row) for row in rows]
        shown = [NOTHING if one is None else _decimal(one[name], digits) for one in compared]
        return ["< 0.001" if name == "p_value" and text == "0.000" else text for text in shown]

    columns = [(Column(group="real", label="mean"), [_decimal(one["mean_real"], 2) for one in rows.values()])]
    for label in overall:
        columns += [
            (Column(group=names[label], label="mean"), cells(label, "mean_made", 2)),
            (Column(group=names[label], label="K–S"), cells(label, "statistic", 3)),
            (Column(group=names[label], label="p"), cells(label, "p_value", 3)),
        ]
    heads = [
        _GREEK.get(name, name) + (f" ({one['unit']})" if one["unit"] else "") for name, one in rows.items()
    ]
    return _table("Quantity", heads, columns)


def _table(head: str, rows: Sequence[str], columns: Sequence[tuple[Column, Sequence[str]]]) -> Table:
    return Table(
        columns=tuple(column for column, _ in columns),
        targets=tuple(rows),
        rows=tuple(zip(*(values for _, values in columns), strict=True)),
        target_label=head,
    )


def _decimal(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"


def _short(value: float | None) -> str:
    """Return three digits of a number, small ones with a power of ten.

    >>> _short(582.23), _short(0.846), _short(4.36e-4), _short(None)
    ('582', '0.846', '4.36 × 10⁻⁴', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 0.01 or value == 0:
        return f"{value:.3g}"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits} × 10{str(int(power)).translate(_SUPERSCRIPTS)}".replace(" ", "\N{NO-BREAK SPACE}")


# Pictures


@dataclass(frozen=True, kw_only=True)
class _Crystals:
    """Crystals that can be drawn, and what is drawn of them."""

    structures: StructureBatch
    space_groups: tuple[int, ...]
    targets: Tensor  # of each
    predicted: Mapping[str, Tensor]
    marks: tuple[str, ...]  # what is wrong with each, in a word

    @classmethod
    def of(cls, evaluated: Evaluated) -> _Crystals:
        samples, metrics = evaluated.samples, evaluated.metrics
        crystals = samples.crystals
        assert crystals is not None
        sound = torch.nonzero(sound_crystals(crystals)).flatten()
        some = crystals[sound]
        numbers = evaluated.values("symmetry", "space_group_number")
        valid, strictly = (evaluated.values("validity", name) for name in ("valid", "strictly_valid"))
        columns = metrics["cgcnn"].per_structure if "cgcnn" in metrics else {}
        predicted = {name: evaluated.values("cgcnn", name) for name in columns}
        return cls(
            structures=some,
            space_groups=()
            if numbers is None and not len(some)
            else tuple(space_group_numbers(some).tolist())
            if numbers is None
            else tuple(int(number) for number in numbers[sound]),
            targets=samples.structure_targets.double()[sound],
            predicted={name: values[sound] for name, values in predicted.items() if values is not None},
            marks=tuple(
                "invalid"
                if valid is not None and not valid[k]
                else "too close"
                if strictly is not None and not strictly[k]
                else ""
                for k in sound.tolist()
            ),
        )

    @classmethod
    def real(cls, structures: StructureBatch, predicted: Mapping[str, Tensor]) -> _Crystals:
        some = structures[sound_crystals(structures)]
        return cls(
            structures=some,
            space_groups=tuple(known_space_groups(some).tolist()),
            targets=torch.zeros(0),
            predicted={name: values.double() for name, values in predicted.items()},
            marks=("",) * len(some),
        )


def _quantities(structures: StructureBatch) -> dict[str, Tensor]:
    parameters = cell_parameters(structures.cells).unbind(1)
    per_atom = volumes(structures.cells) / structures.n_atoms
    return dict(zip(_QUANTITIES, (*parameters, per_atom), strict=True))


class _Drawn:
    """The panels, at most three generators in each."""

    def __init__(
        self,
        names: Mapping[str, str],
        crystals: Mapping[str, _Crystals],
        real: _Crystals,
        overall: Mapping[str, Overall],
    ) -> None:
        self.names, self.crystals, self.real = names, crystals, real
        self.statistics = {
            (label, one["name"]): one["statistic"]
            for label, of in overall.items()
            for one in of.get("cgcnn", {}).get("properties", ())
        }

    def groups(self) -> Iterator[tuple[str, list[str]]]:
        """Yield labels that share their panels, and a heading."""
        labels = iter(self.crystals)
        while group := list(islice(labels, len(figures.COLORS))):
            yield ", ".join(self.names[label] for label in group), group

    def colors(self) -> dict[str, str]:
        """Return the colour of each generator."""
        return {
            label: color
            for _, group in self.groups()
            for label, color in zip(group, figures.COLORS, strict=False)
        }

    def legend(self) -> tuple[tuple[str, str], ...]:
        """Return names and colours, the real crystals first."""
        return (("real", GREY), *((self.names[label], color) for label, color in self.colors().items()))

    def distributions(self) -> Iterator[Panels]:
        """Yield figures 4 to 6: cells and symmetry."""
        if not len(self.real.structures):
            return
        real = _quantities(self.real.structures)
        for heading, labels in self.groups():
            made = {self.names[label]: _quantities(self.crystals[label].structures) for label in labels}
            images = []
            for name, (unit, narrowest) in _QUANTITIES.items():
                plot = figures.histogram(
                    real[name],
                    {label: values[name] for label, values in made.items()},
                    label=f"{name} ({unit})",
                    title=name,
                    narrowest=narrowest,
                )
                images.append(_image(plot, f"distribution of {name}"))
            numbers = {self.names[label]: self.crystals[label].space_groups for label in labels}
            if any(numbers.values()):
                plot = figures.crystal_systems(self.real.space_groups, numbers, title="crystal systems")
                images.append(_image(plot, "shares of the crystal systems"))
                plot = figures.common_space_groups(
                    self.real.space_groups, numbers, title="commonest space groups"
                )
                images.append(_image(plot, "shares of the commonest space groups"))
            yield Panels(name=heading, images=tuple(images))

    def elements(self) -> Iterator[Panels]:
        """Yield the panel of elements, one for each group of generators."""
        if not len(self.real.structures):
            return
        for heading, labels in self.groups():
            made = {self.names[label]: self.crystals[label].structures.atomic_numbers for label in labels}
            plot = figures.elements(self.real.structures.atomic_numbers, made, title="elements")
            yield Panels(name=heading, images=(_image(plot, "shares of the elements"),))

    def common_properties(self) -> list[str]:
        """Return properties that real crystals and some generated ones have."""
        return [
            name
            for name, values in self.real.predicted.items()
            if bool(values.isfinite().any()) and any(name in one.predicted for one in self.crystals.values())
        ]

    def properties(self) -> Iterator[Panels]:
        """Yield figure 7: predicted properties, with the statistic of Kolmogorov and Smirnov."""
        colors = self.colors()
        for heading, labels in self.groups():
            images = []
            for name in self.common_properties():
                sets = [("real", self.real.predicted[name], GREY)]
                for label in labels:
                    if name in self.crystals[label].predicted:
                        statistic = self.statistics.get((label, name), math.nan)
                        said = f"\nK–S {statistic:.2f}" if statistic == statistic else ""
                        values = self.crystals[label].predicted[name]
                        sets.append((self.names[label] + said, values, colors[label]))
                if len(sets) > 1:
                    plot = figures.violins(sets, label=_with_unit(name), title=name)
                    images.append(_image(plot, f"{name} of real and generated crystals"))
            if images:
                yield Panels(name=heading, images=tuple(images))

    def by_target(self, name: str, target_label: str, *, asks: bool) -> list[Panels]:
        """Return for each generator that was asked for several values a panel with a violin for each."""
        colors, panels = self.colors(), []
        for label, one in self.crystals.items():
            targets = _evenly(_targets(one), _MOST_TARGETS)
            if len(targets) < 2 or name not in one.predicted:
                continue
            sets = [("real", self.real.predicted[name], GREY)]
            sets += [
                (f"{target:g}", one.predicted[name][one.targets == target], colors[label])
                for target in targets
            ]
            plot = figures.violins(
                sets,
                label=_with_unit(name),
                title=f"{name}, {self.names[label]}",
                asked=[None, *targets] if asks else (),
                below=f"asked for: {target_label}",
            )
            words = f"{name} of crystals of {self.names[label]}, by the value asked for"
            panels.append(Panels(name=self.names[label], images=(_image(plot, words),)))
        return panels


def _with_unit(name: str) -> str:
    unit = UNITS.get(name, "")
    return f"{name} ({unit})" if unit else name


def _targets(crystals: _Crystals) -> list[float]:
    return crystals.targets[crystals.targets.isfinite()].unique().tolist()


def _evenly(values: list[float], most: int) -> list[float]:
    if len(values) <= most:
        return values
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]


def _joined(groups: Sequence[Sequence[Panels]]) -> tuple[Panels, ...]:
    """Put the panels of several properties into one for each generator."""
    images: dict[str, tuple[tuple[str, str, str], ...]] = {}
    for panels in groups:
        for one in panels:
            images[one.name] = (*images.get(one.name, ()), *one.images)
    return tuple(Panels(name=name, images=found) for name, found in images.items())


# Galleries


def _galleries(
    crystals: Mapping[str, _Crystals],
    names: Mapping[str, str],
    real: _Crystals,
    target_label: str,
    asked: str | None,
    count: int,
) -> Iterator[CrystalGallery]:
    """Yield figures 9 to 11: crystals of each generator, drawn at random, and real ones above them."""
    rng = torch.Generator().manual_seed(0)
    unit = target_label.partition("(")[2].partition(")")[0]

    def pictures(of: _Crystals, rows: Tensor) -> tuple[Picture, ...]:
        chosen = rows[torch.randperm(len(rows), generator=rng)[:count]].tolist()
        return tuple(_captioned(of, row, asked) for row in chosen)

    if len(real.structures):
        yield CrystalGallery(heading="real", pictures=pictures(real, torch.arange(len(real.structures))))
    for label, one in crystals.items():
        targets = _evenly(_targets(one), _MOST_TARGETS)
        if len(targets) < 2:
            every = torch.arange(len(one.structures))
            yield CrystalGallery(heading=names[label], pictures=pictures(one, every))
            continue
        for target in targets:
            rows = torch.nonzero(one.targets == target).flatten()
            heading = f"{names[label]}, asked for {target:g} {unit}".strip()
            yield CrystalGallery(heading=heading, pictures=pictures(one, rows))


def _captioned(crystals: _Crystals, row: int, asked: str | None) -> Picture:
    structure = crystals.structures[row]
    caption = f"{formula(structure)}, {space_group_symbol(crystals.space_groups[row])}"
    values = crystals.predicted.get(asked or "")
    if values is not None and len(values) == len(crystals.structures) and math.isfinite(values[row]):
        caption += f", {float(values[row]):.2f}"
    return _picture(structure, caption, crystals.marks[row])
