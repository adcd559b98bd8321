import csv
import dataclasses

import pytest
from evaluating import without_structures

from whorl.errors import InputError
from whorl.evaluation import Results
from whorl.files import read_json
from whorl.report import make_table, write_samples, write_tables


def read_csv(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_table_one_beside_the_paper(run):
    table = make_table(run.results, "surrogate", compare_with_paper=True)
    assert table.groups == (("n = 300", 3, False), ("paper, n = 300", 2, True), ("n = 40", 3, False))
    assert table.targets == ("1.90", "2.80", "3.70")
    assert table.starts == (True, False, False, True, False, True, False, False)
    assert table.rows[0][3:5] == ("0.06", "87.68")
    expected = run.results.sizes["n300"].targets[0].surrogate
    assert table.rows[0][:3] == (
        f"{expected.mean_absolute_error:.3f}",
        f"{expected.percent_within:.2f}",
        "12",
    )


def test_paper_is_left_out_unless_asked_for(run):
    assert not any(column.reference for column in make_table(run.results, "surrogate").columns)


def test_table_two_shows_failed_and_invalid(run):
    table = make_table(run.results, "potential")
    labels = [column.label for column in table.columns]
    assert table.rows[0][labels.index("failed")] == "1 of 4"
    assert table.rows[2][labels.index("invalid")] == "50.0"
    assert "within ±0.1, valid only" in labels


def test_targets_that_only_one_size_has_leave_gaps(run):
    results = run.results
    small = results.sizes["n40"]
    sizes = {**results.sizes, "n40": dataclasses.replace(small, targets=small.targets[:1])}
    table = make_table(dataclasses.replace(results, sizes=sizes), "surrogate")
    assert table.rows[1][3:] == ("–", "–", "–")


def test_nothing_evaluated_gives_no_table(run):
    run.samples = {label: without_structures(samples) for label, samples in run.samples.items()}
    run.values = {label: {} for label in run.samples}
    assert make_table(run.results, "surrogate") is None
    assert make_table(run.results, "potential") is None
    assert make_table(run.results, "diversity") is not None


def test_unknown_table(run):
    with pytest.raises(InputError, match="Did you mean 'potential'"):
        make_table(run.results, "potentail")


def test_files_hold_everything_and_read_back(run, tmp_path):
    results = run.results
    write_tables(results, tmp_path, provenance={"seed": 7})
    data = read_json(tmp_path / "results.json")
    assert data["provenance"] == {"seed": 7}
    assert Results.from_dict(data) == results
    rows = read_csv(tmp_path / "results.csv")
    assert [(row["training_size"], row["target"]) for row in rows][:2] == [("n300", "1.9"), ("n300", "2.8")]
    assert float(rows[0]["potential_failed"]) == 1


def test_samples_are_one_line_each(run, tmp_path):
    write_samples(run.sizes, tmp_path / "samples.csv")
    rows = read_csv(tmp_path / "samples.csv")
    assert len(rows) == 72
    assert rows[0]["reconstruction_status"] == "local_minimum"
    assert rows[1]["reconstruction_status"] == rows[1]["potential"] == ""  # not turned into atoms
    assert rows[3]["potential"] == ""  # failed
    assert rows[3]["potential_failure"] == "two atoms <closer> than 0.3 Å"


def test_no_samples_make_an_empty_table(tmp_path):
    write_samples({}, tmp_path / "samples.csv")
    assert (tmp_path / "samples.csv").read_text().strip() == ""
