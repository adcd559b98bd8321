import re
from html.parser import HTMLParser

import pytest
import torch
from evaluating import without_structures

import whorl.report.page
from whorl.axes import SECTIONS
from whorl.errors import InputError
from whorl.report import write_report
from whorl.report.page import report_sections
from whorl.report.sections.base import ReportSection

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Outline(HTMLParser):
    """Checks that tags nest, and gathers what the page refers to."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.links, self.anchors, self.images, self.text = [], [], set(), 0, []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.images += tag == "img"
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


@pytest.fixture
def page(tmp_path):
    def write(run, **changes):
        path = tmp_path / "report.html"
        write_report(path, run.context(**{"gallery": 1, **changes}))
        outline = Outline()
        outline.feed(path.read_text(encoding="utf-8"))
        outline.close()
        assert outline.open == []
        outline.words = re.sub(r"\s+", " ", " ".join(outline.text))
        outline.size = path.stat().st_size
        return outline

    return write


@pytest.fixture
def small(run):
    """One training size and one target: pages are written faster."""
    samples, values = run.samples["n300"], run.values["n300"]
    kept = samples.targets == 1.9
    here = torch.nonzero(kept[samples.rows]).flatten()
    run.samples = {
        "n300": samples.replace(
            ids=samples.ids[: int(kept.sum())],
            targets=samples.targets[kept],
            features=samples.features[kept],
            rows=samples.rows[here],
            loss=samples.loss[here],
            status=tuple(samples.status[k] for k in here.tolist()),
            structure_features=samples.structure_features[here],
            structures=samples.structures[here],
        )
    }
    run.values = {
        "n300": {
            **values,
            "predicted": values["predicted"][kept],
            "computed": values["computed"][here],
        }
    }
    return run


def test_whole_page(run, page):
    shown = page(run, gallery=2, skipped=[("a.cif", "no <atoms>")], warnings=["slow & steady"])
    assert all(link.startswith(("data:", "#")) for link in shown.links)  # nothing outside the page
    assert {link[1:] for link in shown.links if link.startswith("#")} <= shown.anchors
    assert {
        "candidates",
        "surrogate",
        "energies",
        "map",
        "property",
        "reconstruction",
        "gallery",
        "explore",
        "provenance",
    } <= shown.anchors
    assert shown.images == 2 * 2 + 3 * 2 * 3 + 2 * 3 * 3  # candidates; maps, histograms; rows of galleries
    assert shown.size < 5e6
    for expected in (
        "Pt10 by EMT",
        "formation energy of 1.9, 2.8 and 3.7 eV/atom",
        "87.68",
        "paper, n = 300",
        "0123456789abcdef",
        "a.cif: no <atoms>",
        "slow & steady",
        "two atoms <closer> than 0.3 Å",
        "outside the training range",
        "10 starts × 5 hops × 140 steps",
    ):
        assert expected in shown.words


def test_paper_is_shown_for_its_own_system_alone(small, page):
    small.recipe = {**small.recipe, "data": {"clusters": {"element": "Au", "atoms": 10, "calculator": "emt"}}}
    words = page(small).words
    assert "87.68" not in words
    assert "paper" not in words


def test_features_alone_leave_out_what_needs_atoms(small, page):
    small.samples = {"all": without_structures(small.samples["n300"])}
    small.values = {"all": {"predicted": small.values["n300"]["predicted"]}}
    small.training["all"] = 300
    small.reference, small.recipe = small.reference.replace(structures=None), {}
    shown = page(small)
    assert {"surrogate", "map", "property"} <= shown.anchors
    assert not {"candidates", "energies", "reconstruction", "gallery", "explore"} & shown.anchors
    assert shown.size < 1e6


def test_without_surrogate_and_energies_the_map_remains(small, page):
    small.samples["n300"] = small.samples["n300"].replace(
        structure_features=None, reference_loss=None, invalid_above=None
    )
    small.values = {"n300": {}}
    shown = page(small)
    assert {"candidates", "map", "reconstruction", "gallery"} <= shown.anchors
    assert not {"surrogate", "energies", "property"} & shown.anchors


def test_a_target_without_real_data_says_so(small, page):
    small.reference = small.reference.replace(properties=small.reference.properties.clamp(max=1.5))
    assert "no structure with 1.9 ± 0.1 eV/atom" in page(small).words


def test_searches_that_failed_are_shown_as_failed(small, page):
    of = small.samples["n300"]
    positions = of.structures.positions.clone()
    positions[:10] = float("nan")
    loss = of.loss.clone()
    loss[0] = float("inf")
    small.samples["n300"] = of.replace(
        loss=loss,
        status=("failed", *of.status[1:]),
        structures=of.structures.replace(positions=positions),
        structure_features=torch.cat(
            [torch.full((1, 5), float("nan"), dtype=torch.float64), of.structure_features[1:]]
        ),
    )
    assert "1 without a loss" in page(small, gallery=4).words


def test_the_same_run_gives_the_same_page(small, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, small.context(gallery=1))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_candidates_come_first_with_their_files_and_without_empty_columns(small, page, tmp_path):
    shown = page(small, gallery=3)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = text[text.index('id="candidates"') : text.index("</section>")]
    assert text.index("<section") == text.index('<section id="candidates"')
    assert "<code>0001-Pt10.xyz</code>" in section and "by emt" not in section
    assert section.index("0001-Pt10") < section.index("0002-Pt10")
    heads = re.findall(r"<th class=\"[^\"]*\">([^<]+)", section)
    assert "requested" in heads and not {"space group", "new", "moved", "energy calls", "generator"} & set(
        heads
    )
    assert "invalid" in shown.words


def test_training_curves_and_the_error_of_the_surrogate_are_shown(small, page):
    curve = {"history": [{"epoch": e, "training_loss": 1.0 / e, "loss": 2.0 / e} for e in (10, 20)]}
    without = {"history": [{"epoch": 10}], "seed": 1}
    shown = page(small, training={"surrogate": curve, "generator": without})
    assert "training" in shown.anchors and "training" not in page(small).anchors
    before = page(small).images
    assert shown.images == before + 1


class _Broken(ReportSection):
    """Raises."""

    kind = "broken"
    title = "Broken"
    order = 50

    def applies(self, context):
        return True

    def html(self, context):
        raise KeyError("no <such> thing")


def test_a_section_that_raises_leaves_a_sentence_and_the_rest_of_the_page(small, page, monkeypatch):
    others = [section for section in report_sections() if section.kind != "explore"]
    monkeypatch.setattr(whorl.report.page, "report_sections", lambda: [_Broken(), *others])
    with pytest.warns(UserWarning, match="section broken.*KeyError"):
        shown = page(small)
    assert "This section could not be made (KeyError: 'no <such> thing')." in shown.words
    assert {"broken", "candidates", "provenance"} <= shown.anchors


def test_a_section_that_cannot_be_imported_is_left_out(monkeypatch):
    names = report_sections()
    monkeypatch.setitem(SECTIONS._builtin, "lost", "whorl.report.sections.lost:Lost")
    monkeypatch.setattr(SECTIONS, "get", _raising(SECTIONS.get))
    with pytest.warns(UserWarning, match="cannot be imported"):
        assert [section.kind for section in report_sections()] == [section.kind for section in names]


def _raising(get):
    def wrapped(name):
        if name == "lost":
            raise InputError("report section 'lost': cannot be imported from there.")
        return get(name)

    return wrapped


def test_refiners_are_in_the_request(small, page):
    small.recipe = {**small.recipe, "refine": [{"kind": "relax", "fmax": 0.2}, {"kind": "relax"}]}
    words = page(small).words
    assert "forces are below 0.2 eV/Å" in words and ", then relaxed" in words
    assert "structures, as refined" in words and "without relaxation" not in words
