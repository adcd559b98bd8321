"""Every section keeps the contract, and the check of the contract notices one that does not."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from whorl.axes import EVALUATORS, SECTIONS
from whorl.evaluation import Metrics, results_of
from whorl.report.sections.arms import _moved
from whorl.report.sections.base import ReportSection
from whorl.testing import check_report_section


@pytest.mark.parametrize(
    "kind",
    [
        *("candidates", "headlines", "warnings", "request", "surrogate", "energies", "diversity", "map"),
        *("property", "reconstruction", "gallery", "explore", "training", "provenance"),
    ],
)
def test_sections_keep_the_contract(kind, run):
    curve = {"history": [{"epoch": 10, "training_loss": 1.0, "loss": 2.0}]}
    context = run.context(gallery=1, skipped=[("a.cif", "no <atoms>")], training={"surrogate": curve})
    check_report_section(SECTIONS.get(kind)(), context)


def with_arms(run):
    """Return a context in which structures were projected, with a baseline."""
    sizes = run.sizes
    for label, of in sizes.items():
        count = len(of.samples.rows)
        structures = of.samples.structures
        shift = torch.linspace(0.0, 0.5, count, dtype=torch.float64)
        moved = of.samples.replace(
            structures=structures.replace(
                positions=structures.positions + shift[structures.structure_index, None]
            ),
            displacement=3**0.5 * shift,
            energy_calls=torch.ones(count, dtype=torch.int64),
        )
        values = [0.0 if value is None else value for value in of.metrics["energy"].per_structure["value"]]
        predicted = {
            "value": [value + 0.01 for value in values],
            "uncertainty": [0.005] * 5 + [0.02] * (count - 5),
        }
        prediction = Metrics(evaluator="prediction", per_structure=predicted)
        known = {**of.metrics, "prediction": prediction}
        arms = {
            "plain": of,
            "project": dataclasses.replace(of, samples=moved, metrics=known),
            "baseline": dataclasses.replace(of, samples=moved),
        }
        sizes[label] = dataclasses.replace(of, samples=moved, arms=arms)
    return run.context(evaluated=sizes, results=results_of(sizes, tolerance=0.1))


def test_arms_stand_side_by_side_with_what_they_cost(run):
    section, context = SECTIONS.get("arms")(), with_arms(run)
    check_report_section(section, context)
    html = section.html(context)
    for words in ("as reconstructed", "projected", "data, projected", "0.43", "1.0", "inside: 0 % at 1.9"):
        assert words in html
    # A histogram for each target and a calibration of both training sizes, and pairs of pictures.
    assert html.count("data:image/svg") == 2 * (3 + 1)
    pairs = [
        pair for of in context.evaluated.values() for target in context.targets for pair in _moved(of, target)
    ]
    assert html.count("data:image/png") == 2 * len(pairs) == 28
    assert not section.applies(run.context())


def test_pictures_of_what_moved_are_of_the_same_sample_before_and_after(run):
    context = with_arms(run)
    of = context.evaluated["n300"]
    for target in context.targets:
        chosen = _moved(of, target)
        assert len(chosen) >= 2
        for start, end, moves in chosen:
            assert of.arms["plain"].samples.structure_ids[start] == of.samples.structure_ids[end]
            assert torch.allclose(moves.square().sum(1).mean().sqrt(), of.samples.displacement[end])
    ids = tuple(f"other {k}" for k in range(len(of.samples)))
    other = dataclasses.replace(of, samples=of.samples.replace(ids=ids))
    assert _moved(other, context.targets[0]) == []  # drawn in the place of others: there is no before


def test_active_rounds_are_told_by_labels_errors_and_hits(run):
    section = SECTIONS.get("active")()
    assert not section.applies(run.context())
    account = {
        "labels": 30,
        "mean_absolute_error": 0.1234,
        "percent_inside_90_interval": 87.0,
        "percent_within": {"1.9": 55.0, "2.8": None},
    }
    context = run.context(
        rounds={"n300": [account, {**account, "mean_absolute_error": None}], "n40": [account] * 2}
    )
    check_report_section(section, context)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section.html(context))
    assert cells[:7] == ["30", "330", "0.123", "87", "55", "–", "–"]
    assert cells[14:17] == ["30", "360", "–"]


def test_metrics_of_other_evaluators_are_tabulated(run):
    section, sizes = SECTIONS.get("metrics")(), run.sizes
    assert not section.applies(run.context())
    nested = Metrics(evaluator="nested", overall={"quantities": [1, 2], "options": {"a": 1}})
    for of in sizes.values():
        sizes_of = {
            "overall": {"mean_radius": 2.34567, "whole": True},
            "per_target": {"1.9": {"count": 1234}},
        }
        of.metrics.update(radius=Metrics(evaluator="radius", **sizes_of), nested=nested)
    context = run.context(evaluated=sizes)
    check_report_section(section, context)
    html = section.html(context)
    for words in ("mean radius", "2.346", "True", "target 1.9", "1,234", context.name("n300")):
        assert words in html
    assert "nested" not in html


def test_built_in_evaluators_have_sections_of_their_own():
    shown = {kind for name in SECTIONS for kind in SECTIONS.get(name).evaluators}
    assert set(EVALUATORS) <= shown


def test_requested_conditions_are_shown_with_validity(run):
    section, sizes = SECTIONS.get("validity")(), run.sizes
    assert not section.applies(run.context())
    sizes["n40"].metrics["conditions"] = Metrics(evaluator="conditions", overall={"crystal_system": 62.5})
    context = run.context(evaluated=sizes)
    check_report_section(section, context)
    html = section.html(context)
    assert "as requested" in html and "crystal system" in html and "62.5" in html


class _Section(ReportSection):
    """A section with any contents."""

    kind = "any"
    title = "Any"
    order = 50
    contents = "<p>4 &lt; 5<br>and 6</p>"
    answer = True

    def applies(self, context):
        return self.answer

    def html(self, context):
        return self.contents


def test_a_good_section_passes(run):
    check_report_section(_Section(), run.context())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contents": "<p>not closed"}, "<p> is never closed"),
        ({"contents": "<p><b>crossed</p></b>"}, "</p> closes <b>"),
        ({"contents": '<img src="https://example.org/a.png">'}, "refers to 'https://example.org/a.png'"),
        ({"contents": "<h2>Any</h2>"}, "<h2> belongs to the page"),
        ({"contents": " "}, "is empty"),
        ({"contents": None}, "returns a NoneType"),
        ({"answer": 1}, "expected True or False"),
        ({"answer": False}, "does not apply"),
        ({"title": None}, "title is no text"),
        ({"order": "last"}, "order is no number"),
    ],
)
def test_a_broken_section_is_noticed(changes, words, run):
    broken = type("Broken", (_Section,), changes)
    with pytest.raises(AssertionError) as error:
        check_report_section(broken(), run.context())
    assert words in str(error.value)


def test_contents_that_change_are_noticed(run):
    class Counting(_Section):
        """Counts."""

        count = 0

        def html(self, context):
            self.count += 1
            return f"<p>{self.count}</p>"

    with pytest.raises(AssertionError, match="different contents"):
        check_report_section(Counting(), run.context())


def test_the_documented_section_keeps_the_contract(run, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(from whorl\.report\.sections.*?)```", page, flags=re.DOTALL)
    (tmp_path / "documented_section.py").write_text(program, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    section = SECTIONS.get("documented_section:EnergyCalls")()
    assert not section.applies(run.context())
    calls = torch.full((12,), 3)
    run.samples = {label: samples.replace(energy_calls=calls) for label, samples in run.samples.items()}
    context = run.context()
    check_report_section(section, context)
    assert section.html(context) == "<p>3.0 energy calls a structure.</p>"
