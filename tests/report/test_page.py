import dataclasses
import re
from html.parser import HTMLParser

import pytest
import torch

from whorl.errors import InputError
from whorl.report import write_report

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
        write_report(path, **{**run.arguments(), "gallery": 1, **changes})
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
    size = run.sizes["n300"]
    keep = size.targets == 1.9
    of = size.reconstructed
    here = torch.nonzero(keep[of.rows]).flatten()
    run.sizes = {
        "n300": dataclasses.replace(
            size,
            targets=size.targets[keep],
            features=size.features[keep],
            predicted=size.predicted[keep],
            reconstructed=dataclasses.replace(
                of,
                rows=of.rows[here],
                loss=of.loss[here],
                status=tuple(of.status[k] for k in here.tolist()),
                energy=of.energy[here],
                features=of.features[here],
                structures=of.structures[here],
            ),
        )
    }
    return run


def test_whole_page(run, page):
    shown = page(run, gallery=2, skipped=[("a.cif", "no <atoms>")], warnings=["slow & steady"])
    assert all(link.startswith(("data:", "#")) for link in shown.links)  # nothing outside the page
    assert {link[1:] for link in shown.links if link.startswith("#")} <= shown.anchors
    assert {
        "table1",
        "table2",
        "map",
        "energies",
        "losses",
        "gallery",
        "explore",
        "provenance",
    } <= shown.anchors
    assert shown.images == 3 * 2 * 3 + 2 * 3 * 3  # maps, energies and losses; rows of galleries
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
    small.sizes = {"all": dataclasses.replace(small.sizes["n300"], reconstructed=None)}
    small.data_structures, small.recipe = None, {}
    shown = page(small)
    assert {"table1", "map", "energies"} <= shown.anchors
    assert not {"table2", "losses", "gallery", "explore"} & shown.anchors
    assert shown.size < 1e6


def test_without_surrogate_and_energies_the_map_remains(small, page):
    bare = dataclasses.replace(
        small.sizes["n300"],
        predicted=None,
        reconstructed=dataclasses.replace(
            small.sizes["n300"].reconstructed,
            energy=None,
            features=None,
            reference_loss=None,
            invalid_above=None,
            failures={},
        ),
    )
    small.sizes = {"n300": bare}
    shown = page(small)
    assert {"map", "losses", "gallery"} <= shown.anchors
    assert not {"table1", "table2", "energies"} & shown.anchors


def test_a_target_without_real_data_says_so(small, page):
    small.data_properties = small.data_properties.clamp(max=1.5)
    assert "no structure with 1.9 ± 0.1 eV/atom" in page(small).words


def test_searches_that_failed_are_shown_as_failed(small, page):
    of = small.sizes["n300"].reconstructed
    positions = of.structures.positions.clone()
    positions[:10] = float("nan")
    loss = of.loss.clone()
    loss[0] = float("inf")
    failed = dataclasses.replace(
        of,
        loss=loss,
        status=("failed", *of.status[1:]),
        structures=of.structures.replace(positions=positions),
        features=torch.cat([torch.full((1, 5), float("nan"), dtype=torch.float64), of.features[1:]]),
    )
    small.sizes = {"n300": dataclasses.replace(small.sizes["n300"], reconstructed=failed)}
    assert "1 without a loss" in page(small, gallery=4).words


def test_the_same_run_gives_the_same_page(small, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, **{**small.arguments(), "gallery": 1})
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_things_that_do_not_belong_together_are_refused(small, tmp_path):
    arguments = small.arguments()
    with pytest.raises(InputError, match="a verdict on n300"):
        write_report(tmp_path / "x.html", **{**arguments, "sizes": {}})
    with pytest.raises(InputError, match="3 structures for 400 rows"):
        write_report(tmp_path / "x.html", **{**arguments, "data_structures": small.data_structures[:3]})
