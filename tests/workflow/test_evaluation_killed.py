"""An evaluation that is killed at any moment loses no more than a chunk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from whorl.evaluation.structure_set import StructureSet
from whorl.potentials import make_potential
from whorl.structures import from_ase

PROGRAM = """
import sys, time
from pathlib import Path
from ase.io import read
from whorl.evaluation.structure_set import StructureSet
from whorl.potentials import make_potential
from whorl.structures import from_ase

emt = make_potential("emt")

class Slow:
    name, scheme = "slow", "emt"

    def __call__(self, structures):
        time.sleep(0.05)
        print(len(structures), flush=True)
        return emt(structures)

made = from_ase(read(sys.argv[1], ":"))
found = StructureSet(made, potential=Slow(), directory=Path(sys.argv[2])).computed
print("energies", found.energy.tolist(), flush=True)
"""


@pytest.fixture
def structures(tmp_path):
    path = tmp_path / "set.extxyz"
    write(path, [bulk("Cu", "fcc", a=3.4 + 0.001 * k) for k in range(32 * 9)])
    return path


def run(path: Path, folder: Path, *, kill_after: int | None) -> tuple[int, list[str]]:
    """Run the program, kill it after a number of chunks, and return how many it computed, and its lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, path, folder], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if kill_after is not None and len(lines) > kill_after:
            time.sleep(0.01 * kill_after % 0.05)  # some when the chunk is written, some while it is
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    return sum(line.isdigit() for line in lines), lines


def test_an_evaluation_that_is_killed_at_any_moment_loses_no_more_than_a_chunk(structures, tmp_path):
    from ase.io import read

    folder, computed = tmp_path / "parts", 0
    for kill_after in (0, 2):
        count, _ = run(structures, folder, kill_after=kill_after)
        computed += count
        kept = len(list((folder / "energies").glob("[0-9]*.safetensors")))
        assert kept >= computed - 2  # one was lost at each time, at most
    count, lines = run(structures, folder, kill_after=None)
    assert 9 <= computed + count <= 9 + 2
    made = from_ase(read(structures, ":"))
    whole = StructureSet(made, potential=make_potential("emt")).computed.energy.tolist()
    assert lines[-1] == f"energies {whole}"
