"""What the README shows is what the repository has, and it runs."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_program_shown_is_the_example_that_tests_run():
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert program == (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")


def commands_shown() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    lines = [line[2:].split("#")[0].strip() for block in blocks for line in _joined(block)]
    return [line for line in lines if line.startswith("whorl ")]


def _joined(block: str) -> list[str]:
    """Lines of a block, those that a backslash continues in one piece."""
    return re.sub(r"\\\n\s*", "", block).splitlines()


@pytest.mark.parametrize("command", commands_shown())
def test_the_commands_shown_exist_with_their_options(command):
    from whorl.cli import commands

    words = shlex.split(command)[1:]
    names = [word for word in words if re.fullmatch(r"[a-z]+", word)][:2]
    options = [word for word in words if word.startswith("--") and word != "--help"]
    for depth in (2, 1, 0):
        answer = CliRunner().invoke(commands(), [*names[:depth], "--help"], terminal_width=200)
        if answer.exit_code == 0:
            break
    assert answer.exit_code == 0
    assert all(option in answer.output for option in options), answer.output


def test_files_named_in_the_readme_are_there():
    named = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(
        r"`((?:recipes|examples|benchmarks)/[\w./]+)`", README
    )
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
