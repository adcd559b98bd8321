"""``whorl init``: recipes that come with whorl."""

from pathlib import Path

import pytest

from whorl.workflow.recipe import read_recipe, shipped_recipes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_without_a_name_it_lists_all_with_what_they_do(whorl):
    outcome = whorl("init")
    assert outcome.code == 0
    for name, summary in shipped_recipes().items():
        assert name in outcome.out and summary in outcome.out


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
@pytest.mark.filterwarnings("error")
def test_every_recipe_is_written_readable_with_what_it_needs_and_takes(whorl, name):
    outcome = whorl("init", name)
    assert outcome.code == 0, outcome.err
    assert f"whorl run {name}.yaml" in outcome.out
    text = Path(f"{name}.yaml").read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert any(line.startswith("# Needs: ") for line in head)
    assert any(line.startswith("# Takes: ") for line in head)
    assert "recipes/" not in text  # commands in its comments are for the file beside you
    assert read_recipe(f"{name}.yaml") == read_recipe(ROOT / "recipes" / f"{name}.yaml")


def test_an_existing_file_is_not_overwritten(whorl):
    Path("pt10_emt.yaml").write_text("mine", encoding="utf-8")
    outcome = whorl("init", "pt10_emt")
    assert outcome.code == 1 and "not overwritten" in outcome.err
    assert Path("pt10_emt.yaml").read_text(encoding="utf-8") == "mine"
    assert whorl("init", "pt10_emt.yaml", "--output", "other/mine.yaml").code == 0
    assert Path("other/mine.yaml").is_file()


def test_an_unknown_name_is_answered_with_the_nearest(whorl):
    outcome = whorl("init", "pt10_emtt")
    assert outcome.code == 1 and "Did you mean 'pt10_emt'?" in outcome.err


def test_running_the_name_of_one_says_how_to_write_it(whorl):
    assert "whorl init pt10_emt" in whorl("run", "pt10_emt").err
