"""The command `whorl evaluate STRUCTURES`."""

from ase.build import bulk
from ase.io import write


def test_structures_are_evaluated_without_a_recipe(whorl, tmp_path):
    write(tmp_path / "set.extxyz", [bulk("Cu"), bulk("Au"), bulk("Cu") * (2, 1, 1)])
    said = whorl(
        *("evaluate", tmp_path / "set.extxyz", "--potential", "emt", "--protocol", "mattergen"),
        *("--output", tmp_path / "out"),
    )
    assert said.code == 0, said.err
    assert "66.7 % (20.8 to 93.9), 2 of 3" in said.out
    assert said.out.strip().endswith("report.html")
    for name in ("report.html", "structures.csv", "metrics.json", "generated.extxyz"):
        assert (tmp_path / "out" / name).is_file()


def test_the_code_is_3_where_something_was_skipped(whorl, tmp_path):
    write(tmp_path / "set.extxyz", [bulk("Cu"), bulk("Na")])
    said = whorl("evaluate", tmp_path / "set.extxyz", "--potential", "emt", "-o", tmp_path / "out")
    assert said.code == 3
    assert "skipped:" in said.err and "No EMT-potential for Na" in said.err


def test_options_of_the_other_use_are_refused_by_name(whorl, tmp_path):
    said = whorl("evaluate", "set.extxyz", "--calculator", "emt", "-o", tmp_path / "out")
    assert said.code == 2
    assert "--calculator is for generated features" in said.err and "--potential" in said.err
    said = whorl("evaluate", "g", "--features", "f", "--relax", "-o", tmp_path / "out")
    assert said.code == 2
    assert "--relax is for structures" in said.err
    for options in (("--relax-option", "steps=3"), ("--option", "batch_size=3")):
        assert whorl("evaluate", "set.extxyz", *options, "-o", tmp_path / "out").code == 2
    said = whorl("evaluate", "set.extxyz", "--relax", "-o", tmp_path / "out")
    assert said.code == 1 and "--relax needs an energy method" in said.err


def test_generated_features_without_features_of_real_ones_are_named(whorl, tmp_path):
    said = whorl("evaluate", tmp_path / "nowhere.cif", "-o", tmp_path / "out")
    assert said.code == 1 and "no such file or folder" in said.err
