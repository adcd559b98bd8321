import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import pytest
import torch
from ase.build import bulk

from whorl.axes import SECTIONS
from whorl.evaluation import Evaluated, Metrics, Reference, Samples, compare, results_of
from whorl.evaluation.candidates import rank_candidates
from whorl.evaluation.metrics import column
from whorl.report import crystal_figures
from whorl.report.crystals import Comparison
from whorl.report.sections.base import ReportContext
from whorl.report.sections.candidates import Candidates
from whorl.report.sections.consistency import TABLE_1, TABLE_2, SelfConsistency
from whorl.report.sections.distributions import Distributions
from whorl.report.sections.gallery import Gallery
from whorl.report.sections.properties import PredictedProperties
from whorl.report.sections.validity import ValidityTable
from whorl.structures import from_ase
from whorl.testing import check_report_section

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
        metrics_of(
            "symmetry",
            percent_symmetric=50.0,
            columns={"space_group": ["Fm-3m"] * k, "space_group_number": [225] * k},
        ),
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


@pytest.fixture(scope="module")
def real():
    rng = torch.Generator().manual_seed(9)
    return {name: torch.randn(20, generator=rng) for name in ("formation energy", "band gap")}


@pytest.fixture(scope="module")
def evaluated(real):
    return {
        "n30": made_of(salts(4, 0), targets=[-1.0, 0.0] * 4, scale=300.0, real=real),
        "n40": made_of(salts(12, 1), targets=[-1.0, 0.0] * 6, scale=4.36e-4, real=real),
    }


def context_of(evaluated, real=None, structures=None, **changes):
    structures = salts(20, 2) if structures is None else structures
    n = max(len(structures), 1)
    rng = torch.Generator().manual_seed(3)
    reference = Reference(
        name="formation_energy",
        unit="eV/atom",
        properties=torch.linspace(-2, 1, n, dtype=torch.float64),
        features=torch.randn(n, 3, generator=rng, dtype=torch.float64),
        structures=structures if len(structures) else None,
        training_rows=torch.arange(n),
    )
    evaluated = {label: dataclasses.replace(of, reference=reference) for label, of in evaluated.items()}
    prepared = {"cgcnn": {"properties": {name: column(values) for name, values in (real or {}).items()}}}
    given = {"title": "Crystals", "prepared": prepared, "gallery": 2, "compare_with_paper": False}
    results = results_of(evaluated, tolerance=0.1)
    candidates = rank_candidates(evaluated)
    return ReportContext(
        **{**given, "results": results, "evaluated": evaluated, "candidates": candidates, **changes}
    )


@pytest.fixture(scope="module")
def context(evaluated, real):
    return context_of(evaluated, real)


def tables_of(html):
    """Return the cells of each row of all tables, by the row's heading."""
    rows = re.findall(r'<th class="target">([^<]*)</th>(.*?)</tr>', html, re.DOTALL)
    return {head: re.findall(r"<td[^>]*>([^<]*)</td>", cells) for head, cells in rows}


def images_of(html):
    svgs = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', html)
    for text, _ in svgs:
        ElementTree.fromstring(b64decode(text).decode())
    return [words for _, words in svgs]


@pytest.mark.parametrize("kind", ["validity", "consistency", "distributions", "properties", "gallery"])
def test_sections_of_crystals_keep_the_contract(kind, context):
    check_report_section(SECTIONS.get(kind)(), context)


def test_tables_of_the_paper_are_beside_ours(context):
    cells = tables_of(SelfConsistency().html(context))
    power = "\u00a0×\u00a010⁻⁴"
    assert cells["σ² of a, b, c (Å²)"] == ["300", f"4.36{power}", "582", "31.2", "0.35"]
    assert cells["Δ coordinate / atom"][2:] == ["0.0962", "0.0137", f"5.51{power}"]
    assert len(cells) == 6


def test_shares_without_empty_columns(context):
    cells = tables_of(ValidityTable().html(context))
    assert cells["n\u00a0=\u00a020\u00a0(n40)"] == ["12", "12", "100.0", "100.0", "100.0", "50.0", "75.0"]
    assert "Neutral" not in ValidityTable().html(context)


def test_comparisons(context, evaluated):
    cells = tables_of(Distributions().html(context))
    assert list(cells) == ["α (°)", "formation energy (eV)", "band gap (eV)"]
    wanted = evaluated["n40"].metrics["cgcnn"].overall["properties"][0]
    assert cells["formation energy (eV)"][5] == f"{wanted['statistic']:.3f}"


def test_panels_are_svg_with_words(context):
    words = images_of(Distributions().html(context))
    assert [text.removeprefix("distribution of ") for text in words[:7]] == [
        "a", "b", "c", "α", "β", "γ", "volume per atom",
    ]  # fmt: skip
    assert len(words) == 9 + 1
    html = PredictedProperties().html(context)
    own, others = html.split("<details>")
    assert len(images_of(own)) == 2 + 2 and len(images_of(others)) == 2
    assert all("formation energy" in text for text in images_of(own)[2:])
    assert all("band gap" in text for text in images_of(others))


def test_pictures_name_formula_space_group_value_and_file(context):
    html = Gallery().html(context)
    captions = re.findall(r'alt="generated, [^:]+: ([^"]*)"', html)
    assert captions and all(re.fullmatch(r"(NaCl|MgO|LiF|KBr), Fm-3m: -?\d\.\d\d", text) for text in captions)
    assert re.search(r"<code>\d{4}-\w+\.cif</code>", html)


def test_no_crystals_at_all_leave_tables_and_real_ones():
    empty = made_of(salts(1, 0)[:0], targets=[-1.0, -1.0], scale=math.nan, real={}, predicted=False)
    context = context_of({"n10": empty})
    assert tables_of(SelfConsistency().html(context))["Δ coordinate / atom"][0] == "0.0962"
    assert not Candidates().applies(context)
    assert "No sample of this target was reconstructed." in Gallery().html(context)


def test_crystals_that_cannot_be_are_counted_but_not_compared(evaluated, real):
    made = evaluated["n30"]
    cells = made.samples.structures.cells.clone()
    cells[0] = torch.nan
    cells[1] *= 1e-3
    changed = made.samples.replace(structures=made.samples.structures.replace(cells=cells))
    context = context_of({"n30": dataclasses.replace(made, samples=changed)}, real)
    assert len(Comparison(context).crystals["n30"].structures) == 2
    assert tables_of(ValidityTable().html(context))["n\u00a0=\u00a020\u00a0(n30)"][1] == "4"


def test_generators_share_panels_by_threes(evaluated, real):
    context = context_of(dict.fromkeys(["n10", "n20", "n30", "n40"], evaluated["n30"]), real)
    comparison = Comparison(context)
    assert [len(labels) for _, labels in comparison.groups()] == [3, 1]
    assert len(comparison.legend()) == 5


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
