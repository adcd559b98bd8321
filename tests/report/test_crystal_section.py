import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import pytest
import torch
from ase.build import bulk

from whorl.evaluation import Evaluated, Metrics, Reference, Samples, compare
from whorl.evaluation.metrics import column
from whorl.report import crystal_figures, write_report
from whorl.report.crystals import TABLE_1, TABLE_2, crystal_section
from whorl.structures import from_ase

LABEL = "formation energy (eV/atom)"
MEASURES = [*TABLE_1["GAN"], *TABLE_2["GAN"]]


def salts(count, seed):
    rng = torch.Generator().manual_seed(seed)
    sizes = (4.0 + 2.0 * torch.rand(count, generator=rng)).tolist()
    formulas = ["NaCl", "MgO", "LiF", "KBr"]
    return from_ase([bulk(formulas[i % 4], "rocksalt", a=size) for i, size in enumerate(sizes)])


def metrics_of(kind, *, columns=None, **overall):
    return Metrics(evaluator=kind, overall=overall, per_structure=columns or {})


def made_of(structures, *, targets, scale, real, predicted=True):
    """Return n tensors of which the first k became crystals, one of them without a band gap."""
    k, n = len(structures), len(targets)
    rng = torch.Generator().manual_seed(n)
    targets = torch.tensor(targets, dtype=torch.float64)
    energies = targets[:k] + 0.1 * torch.randn(k, generator=rng, dtype=torch.float64)
    gaps = torch.rand(k, generator=rng, dtype=torch.float64)
    gaps[:1] = torch.nan
    values = {"formation energy": energies, "band gap": gaps} if predicted else {}
    share = 100.0 if k else None
    metrics = [
        metrics_of("consistency", **dict.fromkeys(MEASURES, scale)),
        metrics_of(
            "validity",
            count=n,
            structures=k,
            percent_distances=share,
            percent_volume=share,
            percent_valid=100.0 * k / n,
            percent_neutral=None,
        ),
        metrics_of("symmetry", percent_symmetric=50.0, columns={"space_group_number": [225] * k}),
        metrics_of("uniqueness", percent_unique=75.0 if k else None),
        metrics_of(
            "distributions",
            quantities=[dataclasses.asdict(compare("alpha", torch.rand(9), torch.rand(9) + 90, unit="°"))]
            if k
            else [],
        ),
        metrics_of(
            "cgcnn",
            columns={name: column(of) for name, of in values.items()},
            properties=[
                dataclasses.asdict(compare(name, of, real[name], unit="eV"))
                for name, of in values.items()
                if name in real
            ],
        ),
    ]
    samples = Samples(
        ids=tuple(map(str, range(n))),
        targets=targets,
        structures=structures,
        rows=torch.arange(k),
        skipped=dict.fromkeys(range(k, n), "has no atoms"),
    )
    reference = Reference(
        name="formation_energy",
        unit="",
        properties=torch.zeros(1).double(),
        features=torch.zeros(1, 1).double(),
        training_rows=torch.zeros(1, dtype=torch.int64),
    )
    return Evaluated(samples=samples, reference=reference, metrics={of.evaluator: of for of in metrics})


def changed(evaluated, kind=None, overall=None, **changes):
    """Return other samples, or metrics with other numbers."""
    metrics = dict(evaluated.metrics)
    if kind is not None:
        metrics[kind] = dataclasses.replace(metrics[kind], overall={**metrics[kind].overall, **overall})
    return dataclasses.replace(evaluated, samples=evaluated.samples.replace(**changes), metrics=metrics)


@pytest.fixture(scope="module")
def inputs():
    rng = torch.Generator().manual_seed(9)
    real = {name: torch.randn(20, generator=rng) for name in ("formation energy", "band gap")}
    return {
        "evaluated": {
            "gan": made_of(salts(4, 0), targets=[-1.0, 0.0] * 4, scale=300.0, real=real),
            "diffusion": made_of(salts(12, 1), targets=[-1.0, 0.0] * 6, scale=4.36e-4, real=real),
        },
        "real": salts(20, 2),
        "real_predicted": real,
        "target_label": LABEL,
        "gallery": 1,
    }


def section_of(inputs, **changes):
    given = {**inputs, **changes}
    return crystal_section(given.pop("evaluated"), **given)


@pytest.fixture(scope="module")
def section(inputs):
    return section_of(inputs)


@pytest.fixture
def page(run, tmp_path):
    """Write a page with as little else in it as can be."""
    samples = run.samples["n300"]
    few = torch.nonzero(samples.targets == 1.9).flatten()
    run.samples = {
        "n300": Samples(
            ids=samples.ids[: len(few)], targets=samples.targets[few], features=samples.features[few]
        )
    }
    run.values, run.training = {"n300": {}}, {"n300": 40}
    run.reference = run.reference.replace(
        features=run.reference.features[:60],
        properties=run.reference.properties[:60],
        structures=None,
        training_rows=torch.arange(60),
    )

    def write(**options):
        path = tmp_path / "page.html"
        write_report(path, **run.arguments(), **options)
        return path.read_text(encoding="utf-8")

    return write


def svg_of(image):
    text = b64decode(image[0].removeprefix("data:image/svg+xml;base64,")).decode()
    ElementTree.fromstring(text)
    return text


def test_tables_of_the_paper_stand_beside_ours(section):
    table = section.table_1
    assert table.groups == (("this run", 2, False), ("paper", 3, True))
    assert [column.label for column in table.columns] == ["GAN", "diffusion", "GAN", "WGAN", "diffusion"]
    assert table.rows[0] == ("300", "4.36 × 10⁻⁴".replace(" ", "\u00a0"), "582", "31.2", "0.35")
    assert table.rows[3][2:] == ("0.0557", "0.059", "4.36\u00a0×\u00a010⁻⁴")
    assert [row[2:] for row in section.table_2.rows] == [
        ("0.0962", "0.0137", "5.51\u00a0×\u00a010⁻⁴"),
        ("3.84", "2.49", "0.473"),
    ]
    assert len(table.targets) == 4


def test_the_stricter_rule_stands_beside_that_of_the_field(inputs):
    strict = {
        label: changed(of, "validity", {"percent_strictly_valid": 12.5})
        for label, of in inputs["evaluated"].items()
    }
    table = section_of(inputs, evaluated=strict).shares
    labels = [column.label for column in table.columns]
    assert labels[2:4] == ["valid", "strictly valid"] and dict(table.by_target)["GAN"][3] == "12.5"


def test_shares_and_comparisons(section, inputs):
    by_name = dict(section.shares.by_target)
    assert by_name["GAN"] == ("8", "4", "50.0", "–", "100.0", "100.0", "–", "50.0", "75.0", "–")
    assert by_name["diffusion"][:3] == ("12", "12", "100.0")
    compared = dict(section.compared.by_target)
    assert list(compared) == ["α (°)", "formation energy (eV)", "band gap (eV)"]
    wanted = inputs["evaluated"]["diffusion"].metrics["cgcnn"].overall["properties"][0]
    assert compared["formation energy (eV)"][5] == f"{wanted['statistic']:.3f}"


def test_panels_are_svg_with_words(section):
    (cells,) = section.distributions
    assert [words.removeprefix("distribution of ") for _, words, _ in cells.images[:7]] == [
        "a", "b", "c", "α", "β", "γ", "volume per atom",
    ]  # fmt: skip
    assert len(cells.images) == 9
    for groups in (section.distributions, section.elements, section.properties, section.by_target):
        for group in groups:
            assert all(svg_of(image) for image in group.images)
    assert [len(group.images) for group in section.by_target] == [1, 1]
    assert [words.split(" of ")[0] for _, words, _ in section.others_by_target[0].images] == ["band gap"]
    assert section.legend[0][0] == "real"
    assert len({color for _, color in section.legend}) == 3


def test_galleries_name_what_they_show(section):
    headings = [gallery.heading for gallery in section.galleries]
    assert headings == [
        "real",
        *(f"{name}, asked for {target} eV/atom" for name in ("GAN", "diffusion") for target in ("-1", "0")),
    ]
    assert {len(gallery.pictures) for gallery in section.galleries} == {1}
    assert re.fullmatch(r"(NaCl|MgO|LiF|KBr), Fm-3m, -?\d\.\d\d", section.galleries[-1].pictures[0].caption)
    assert section.asked == LABEL


def test_the_page_has_the_section_where_there_is_one(section, page):
    shown, without = page(crystals=section), page()
    for anchor in ("crystals", "tensors", "distributions", "properties", "crystal-gallery"):
        assert f'id="{anchor}"' in shown
        assert f'id="{anchor}"' not in without
    assert shown.index('id="crystals"') < shown.index('id="asked"')
    assert not re.findall(r'(?:src|href)="(?!data:|#)', shown)


def test_no_crystals_at_all_leave_tables_and_real_ones(inputs, page):
    empty = made_of(salts(1, 0)[:0], targets=[math.nan, math.nan], scale=math.nan, real={}, predicted=False)
    section = section_of(inputs, evaluated={"wgan_gp": empty})
    assert section.table_1.rows[0][0] == "–"
    assert section.compared is None
    assert not section.properties
    assert section.asked is None
    assert section.galleries[1].pictures == ()
    assert "No tensor became a crystal." in page(crystals=section)


def test_crystals_that_cannot_be_are_counted_but_not_drawn(inputs):
    made = inputs["evaluated"]["gan"]
    structures = made.samples.structures
    cells = structures.cells.clone()
    cells[0] = torch.nan
    cells[1] *= 1e-3
    section = section_of(
        inputs,
        evaluated={"gan": changed(made, structures=structures.replace(cells=cells))},
        real=from_ase([]),
        real_predicted={},
        gallery=9,
    )
    assert section.shares.rows[0][1] == "4"
    assert sum(len(gallery.pictures) for gallery in section.galleries) == 2


def test_generators_share_panels_by_threes_and_one_value_asked_for_makes_none(inputs):
    made = changed(inputs["evaluated"]["gan"], targets=torch.full((8,), torch.nan).double())
    section = section_of(
        inputs,
        evaluated=dict.fromkeys(["n10", "n20", "n30", "n40"], made),
        real=from_ase([]),
        real_predicted={"band gap": inputs["real_predicted"]["band gap"]},
        target_label="gap",
        gallery=0,
    )
    assert [group.name.count("=") for group in section.properties] == [3, 1]
    assert len(section.legend) == 5
    assert not (section.by_target or section.others_by_target or section.distributions or section.elements)
    assert section.galleries[0].heading == "n\u00a0=\u00a010"


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [1.0] * 30, [0.0, 1e9], [math.nan, math.inf], list(range(50))],
    ids=["none", "one", "constant", "far", "not finite", "many"],
)
def test_any_values_can_be_drawn(values):
    values, real = torch.tensor(values, dtype=torch.float64), torch.linspace(0, 1, 30)
    for first, second in ((real, values), (values, real)):
        plot = crystal_figures.histogram(first, {"x": second}, label="a (Å)", title="a", narrowest=1.0)
        ElementTree.fromstring(plot.svg)
        plot = crystal_figures.violins(
            [("real", first, "grey"), ("x", second, "red")], label="gap", title="gap", asked=[None, 2.0]
        )
        ElementTree.fromstring(plot.svg)


def test_what_is_far_off_is_told_and_does_not_stretch_the_axis():
    real, far = torch.linspace(3, 5, 100), torch.full((10,), 300.0)
    plot = crystal_figures.histogram(real, {"GAN": far}, label="a", title="a", narrowest=1.0)
    assert plot.note == "GAN: 10 of 10 beyond the axis"


def test_pictures_are_the_same_twice():
    values = torch.linspace(0, 1, 40)
    args = {"label": "gap (eV)", "title": "gap"}
    first, second = (crystal_figures.violins([("real", values, "grey")], **args).svg for _ in range(2))
    assert first == second
