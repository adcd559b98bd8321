r"""Stability of generated crystals, a set for each generator: ``python -m benchmarks.crystens.stability``.

Each set is evaluated by ``whorl evaluate`` (relaxation, energy above the hull, protocols), which resumes what
was interrupted. The table has shares with 95 % intervals; ``whorl compare`` draws the distributions of the
energy above the hull and of the formation energy, as in figures 8 and 12 of Alverson et al. 2024.

    python -m benchmarks.crystens.stability runs/benchmarks/perovskites/crystens-*-low.extxyz --count 200 \
        --reference ../shared/data/perov_5_val.csv.gz --hull mp2019=mp2019_formation_energies.csv.xz
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ase.io
from ase.build import bulk

from whorl.files import read_json

PROTOCOLS = ("mattergen", "crystens2024")
COLUMNS = {  # of the protocol mattergen
    "stable": "≤ 0.1 eV above the hull",
    "sun": "S.U.N.",
    "unique": "unique",
    "novel": "novel",
    "valid_structure": "valid",
    "energy_above_hull": "mean above the hull (eV/atom)",
    "rmsd": "RMSD to relaxed (Å)",
}


def whorl(arguments: list[str], *, quiet: bool) -> None:
    """Run a command of whorl."""
    command = [sys.executable, "-m", "whorl", *arguments]
    status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL if quiet else None).returncode
    if status not in (0, 3):  # 3: some structures were skipped
        raise SystemExit(f"whorl {arguments[0]} ended with {status}")


def evaluated(options: argparse.Namespace, path: Path) -> Path:
    """Return the folder of results of a set."""
    folder = options.output / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    chosen = folder / path.name
    if not chosen.exists():
        frames = ase.io.read(path, f":{options.count}")
        ase.io.write(chosen, frames)
    command = ["evaluate", str(chosen), "--output", str(folder / "results"), "--potential", options.potential]
    if not options.as_generated:
        command.append("--relax")
    for protocol in options.protocols.split(","):
        command += ["--protocol", protocol]
    if options.reference is not None:
        command += ["--reference", str(options.reference)]
    if options.hull is not None:
        command += ["--hull", options.hull]
    start = time.monotonic()
    whorl(command, quiet=options.quick)
    print(f"{path.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return folder / "results"


def text(metric: dict[str, Any] | None) -> str:
    """Return a metric with its interval, shares in percent."""
    if metric is None or metric.get("value") is None:
        return "–"
    factor, unit = (1, "") if metric.get("unit") else (100, " %")
    digits = ".3f" if metric.get("unit") else ".1f"
    value = f"{factor * metric['value']:{digits}}"
    if metric.get("low") is None:
        return value + unit
    return f"{value} ({factor * metric['low']:{digits}}–{factor * metric['high']:{digits}}){unit}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crystens.stability", description=__doc__.splitlines()[0]
    )
    parser.add_argument("sets", type=Path, nargs="*", help="files of structures, one for each generator")
    parser.add_argument("--quick", action="store_true", help="two crystals by EMT: does it run?")
    parser.add_argument("--count", type=int, default=200, help="structures of each set: its first ones")
    parser.add_argument("--reference", type=Path, help="known crystals, for novelty")
    parser.add_argument("--potential", default="chgnet")
    parser.add_argument("--hull", help="as of 'whorl evaluate'")
    parser.add_argument("--as-generated", action="store_true", help="without relaxation")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/stability"))
    options = parser.parse_args()
    if options.quick:
        options.output, options.potential = Path(tempfile.mkdtemp()), "emt"
        options.protocols, options.reference, options.hull = "mattergen", None, None
        options.sets = [options.output / "metals.extxyz"]
        ase.io.write(options.sets[0], [bulk("Cu", a=3.7), bulk("Al", a=4.1)])
    if not options.sets:
        print("skipped: no files of structures were given")
        return 0
    folders = {path.stem: evaluated(options, path) for path in options.sets}
    print("| set | structures | converged | " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name, folder in folders.items():
        results = read_json(folder / "metrics.json")
        metrics = results["protocols"]["mattergen"]["metrics"]
        cells = [name, results["input"]["structures"], results["counts"].get("converged", 0)]
        print("| " + " | ".join(map(str, [*cells, *(text(metrics.get(key)) for key in COLUMNS)])) + " |")
    if len(folders) == 1:
        return 0
    compare = ["compare", *(f"{name}={folder}" for name, folder in folders.items())]
    whorl([*compare, "--output", str(options.output / "compared")], quiet=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
