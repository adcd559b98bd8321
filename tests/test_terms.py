"""Help, messages, docstrings and docs use the terms of the field (CONTRIBUTING.md), not private ones."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PRIVATE = {
    r"told of": "conditioned on",
    r"wish(es|ed)?": "requested condition",
    r"verdicts?": "metrics",
    r"judge[ds]?|judging|judg(e)?ments?": "evaluate, evaluator",
    r"committees?": "ensemble",
    r"barren": "exhausted",
    r"ladders?|rungs?": "tolerance schedule",
    r"yardsticks?": "reference scale",
    r"shall": "must, is to",
    r"beside": "next to, in addition to",
    r"in (the|its|their) stead": "instead",
    r"mend(s|ed)?": "correct",
    r"brought forth": "generated",
    r"by heart": "overfit",
    r"to bear in mind": "warnings",
    r"as wished": "as requested",
}

ALLOWED: dict[str, set[str]] = {
    "src/whorl/workflow/stages/report.py": {"verdict"},  # in the format of files of earlier versions
}


def texts_of_source(path: Path) -> list[tuple[int, str]]:
    """Return docstrings and messages, with their lines; identifiers and comments are not looked at."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    keys = {
        id(node)
        for mapping in ast.walk(tree)
        if isinstance(mapping, ast.Dict)
        for node in mapping.keys
        if node is not None
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and " " in node.value
        and id(node) not in keys
    ]


def private_words(text: str) -> list[str]:
    """Return the private words in a text, with the terms to use."""
    plain = re.sub(r"`[^`]*`", " ", text)  # names are not words
    return [
        f"'{found[0]}': use '{term}'"
        for word, term in PRIVATE.items()
        for found in re.finditer(rf"\b({word})\b", plain, flags=re.IGNORECASE)
    ]


PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "src").rglob("*.html"),
        *(ROOT / "recipes").glob("*.yaml"),
    ]
)
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_the_check_finds_whole_words_and_no_others():
    assert private_words("The verdict of the judges") == [
        "'verdict': use 'metrics'",
        "'judges': use 'evaluate, evaluator'",
    ]
    assert not private_words("besides, `judge` and recommended shallow laddering")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_terms_of_the_field(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("the history names what it replaced")
    wrong = [
        f"{page.relative_to(ROOT)}:{number}: {words}"
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if (words := [word for word in private_words(line) if not _allowed(page, word)])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_messages_and_docstrings_use_the_terms_of_the_field(source):
    wrong = [
        f"{source.relative_to(ROOT)}:{line}: {words}"
        for line, text in texts_of_source(source)
        if (words := [word for word in private_words(text) if not _allowed(source, word)])
    ]
    assert not wrong, "\n".join(wrong)


def _allowed(path: Path, word: str) -> bool:
    return any(word.startswith(f"'{name}'") for name in ALLOWED.get(path.relative_to(ROOT).as_posix(), ()))
