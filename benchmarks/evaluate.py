r"""A S.U.N. protocol on perovskites, and what a killed evaluation costs: ``python benchmarks/evaluate.py``.

Perovskites of a table (or any structures) are disturbed as those of a generator are, and evaluated by
``whorl evaluate --protocol mattergen``: once undisturbed, and once killed with SIGKILL at several moments and
started again. Printed are the seconds of both and their ratio, the structures that were computed again, and
whether the results are the same.

    python benchmarks/evaluate.py --structures ../shared/data/perov_5_val.csv.gz --count 1000 \
        --potential chgnet --hull mp2019=../shared/data/hull/mp2019_formation_energies.csv.xz
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write

from whorl.datasets import read_dataset
from whorl.structures import to_ase


def metals(count: int) -> list[Atoms]:
    """Return alloys that EMT knows."""
    names = ["Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"]
    generator, made = random.Random(0), []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", a=generator.uniform(3.6, 4.1), cubic=True)
        for k in range(len(atoms)):
            atoms.symbols[k] = generator.choice(names[:3])
        made.append(atoms)
    return made


def disturbed(structures: list[Atoms], *, seed: int = 0) -> list[Atoms]:
    """Return structures with strained cells and displaced atoms, as generators make them."""
    generator = np.random.default_rng(seed)
    for atoms in structures:
        strain = np.eye(3) + generator.normal(0, 0.02, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += generator.normal(0, 0.05, atoms.positions.shape)
        atoms.info, atoms.calc = {}, None
    return structures


def start(path: Path, folder: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start an evaluation."""
    command = [sys.executable, "-m", "whorl", "evaluate", str(path), "--potential", options.potential]
    command += ["--relax", "--protocol", "mattergen", "--output", str(folder)]
    for name in ("reference", "hull", "executor"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finished(process: subprocess.Popen[bytes]) -> None:
    if process.wait() not in (0, 3):
        raise SystemExit(f"whorl evaluate ended with {process.returncode}")


def chunks(folder: Path) -> set[str]:
    """Return the finished chunks of the relaxation."""
    return {path.name for path in (folder / ".parts" / "relaxation").glob("[0-9]*.safetensors")}


def results(folder: Path) -> tuple[list[dict[str, str]], dict[str, object]]:
    """Return the rows of the table, and the metrics of the protocol."""
    with (folder / "structures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = json.loads((folder / "metrics.json").read_text())
    return rows, data["protocols"]["mattergen"]["metrics"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few alloys by EMT: does it run?")
    parser.add_argument("--structures", type=Path, help="crystals to disturb; by default alloys")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--potential", default="emt")
    parser.add_argument("--hull")
    parser.add_argument("--reference", type=Path, help="known crystals; by default those that are disturbed")
    parser.add_argument("--executor")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.count, options.kills = 20, 1
    output = options.output or Path(tempfile.mkdtemp())
    output.mkdir(parents=True, exist_ok=True)
    if options.structures is None:
        given = metals(options.count)
    else:
        data = read_dataset(options.structures, property=None)
        given = to_ase(data.structures[: options.count])
    if options.reference is None:
        options.reference = output / "reference.extxyz"
        write(options.reference, [Atoms(a.symbols, a.positions, cell=a.cell, pbc=True) for a in given])
    path = output / "generated.extxyz"
    write(path, disturbed(given))
    began = time.monotonic()
    finished(start(path, output / "whole", options))
    whole = time.monotonic() - began
    rows, metrics = results(output / "whole")
    print(f"{len(rows)} structures, {whole:.1f} s: {len(rows) / whole:.2f} structures/s")
    for name, of in metrics.items():
        print(f"  {name}: {of['value']} ({of['low']} to {of['high']})")
    generator, lost, seconds = random.Random(0), 0, 0.0
    killed = output / "killed"
    for _ in range(options.kills):
        before, began = chunks(killed), time.monotonic()
        process = start(path, killed, options)
        time.sleep(generator.uniform(0.2, 1.0) * whole / max(1, options.kills - 2))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        lost += not before <= chunks(killed)
        seconds += time.monotonic() - began
    began = time.monotonic()
    finished(start(path, killed, options))
    seconds += time.monotonic() - began
    same = results(killed) == (rows, metrics)
    print(
        f"killed {options.kills} times: {seconds:.1f} s, {seconds / whole:.2f} of the time, "
        f"{lost} finished chunks lost, results {'the same' if same else 'DIFFER'}"
    )
    return 0 if same and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
