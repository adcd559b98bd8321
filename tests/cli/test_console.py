"""What is printed: names as they are, in any encoding, into any pipe; and a quiet end."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write
from rich.console import Console

from whorl.cli import console
from whorl.workflow.monitor import Monitor

WATER = "3\ne=1\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"
CRYSTAL = '1\nLattice="2 0 0 0 2 0 0 0 2" Properties=species:S:1:pos:R:3 pbc="T T T"\nPo 0 0 0\n'
MAIN = "from whorl.cli import main; main()"


def run(*arguments, code=MAIN, **options):
    environment = {**os.environ, **options.pop("env", {})}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False, **options)


@pytest.mark.parametrize("name", ["[run7]/d", "a[/b]", "[bold]b", ":cat:"])
def test_paths_are_printed_as_they_are(whorl, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("[/w]").mkdir(parents=True)
    Path("[/w]/[b].xyz").write_text(WATER, encoding="utf-8")
    said = whorl("data", "read", "[/w]/[b].xyz", "-o", f"{name}.safetensors")
    assert said.code == 0 and said.out == f"{name}.safetensors\n"
    assert Path(f"{name}.safetensors").is_file()
    said = whorl("data", "show", f"{name}.safetensors")
    assert said.code == 0 and "[/w]/[b].xyz" in said.out
    assert "[b].xyz@0" in whorl("show", "[/w]/[b].xyz").out


def test_names_in_warnings_bars_and_tables_are_no_markup(monkeypatch):
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, markup=False, emoji=False, width=200)
    monkeypatch.setattr(console, "err", terminal)
    with console.ConsoleMonitor() as monitor:
        progress = monitor.progress("[/bar]")
        progress(0, 2)
        progress(1, 2, "[/message]")
        monitor._bars.refresh()
        monitor.step("train/[/n]", state="finished", seconds=1.0)
        monitor.step("train/[/m]", state="done", seconds=1.0)
        monitor.warn("[/warning]")
        monitor.skip("[/source]", "[/reason]")
    console.show_error(ValueError("[/error]"))
    for word in ("bar", "message", "n", "m", "warning", "source", "reason", "error"):
        assert f"[/{word}]" in stream.getvalue()
    assert isinstance(monitor, Monitor)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_no_encoding_of_the_terminal_is_an_error(tmp_path, encoding):
    (tmp_path / "ü.extxyz").write_text(CRYSTAL, encoding="utf-8")
    said = run("show", "ü.extxyz", cwd=tmp_path, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": encoding})
    assert said.returncode == 0 and b"Traceback" not in said.stderr
    text = said.stdout.decode(encoding)
    assert "\\u03b1" in text or "α" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["show", "a.extxyz"]])
def test_output_that_cannot_be_written_is_one_line(tmp_path, arguments):
    (tmp_path / "a.extxyz").write_text(CRYSTAL, encoding="utf-8")
    with Path("/dev/full").open("wb") as full:
        said = run(*arguments, cwd=tmp_path, stdout=full)
    assert said.returncode == 1
    assert b"No space left on device" in said.stderr and b"Traceback" not in said.stderr
    assert b"Exception ignored" not in said.stderr


def test_a_closed_pipe_is_silent():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        said = run("--help", stdout=writer)
    finally:
        os.close(writer)
    assert said.stderr == b"" and said.returncode == 1


def test_ctrl_c_while_modules_are_imported():
    code = (
        "import os, signal, whorl.cli as cli\n"
        "def slow():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        for _ in range(10**8): pass\n"
        "    except BaseException as error:  # as libraries do\n"
        "        raise ImportError('broken') from error\n"
        "cli.commands = slow\n"
        "cli.main()\n"
    )
    said = run(code=code, stdout=subprocess.PIPE)
    assert said.returncode == 130 and b"Traceback" not in said.stderr


def test_reading_and_encoding_end_with_one_line_on_what_there_is(whorl, tmp_path):
    atoms = [Atoms("Pt2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * i]], info={"y": -0.32 + i}) for i in range(3)]
    write(tmp_path / "a.extxyz", atoms)
    data, features = tmp_path / "d.safetensors", tmp_path / "f.safetensors"
    said = whorl("data", "read", tmp_path / "a.extxyz", "--property", "y", "-o", data)
    assert said.code == 0 and said.out == f"{data}\n"
    assert said.err.splitlines()[-1].strip() == "3 structures, 1 element, 2 atoms each, y -0.32 … 1.68"
    said = whorl("encode", data, "-o", features)
    assert said.code == 0 and said.out == f"{features}\n"
    assert [line.strip() for line in said.err.splitlines()] == [
        "380 features for each of 3 structures: 9.1 kB",
        "3 rows of 380 features, y -0.32 … 1.68",
    ]
