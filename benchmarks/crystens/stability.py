r"""Stability of generated crystals, a set for each generator: ``python -m benchmarks.crystens.stability``.

Each set is evaluated by ``whorl evaluate`` (relaxation, energy above the hull, protocols), which resumes what
was interrupted. The table has shares of all structures that came in, with 95 % intervals, and the picture the
distributions of the energy above the hull and of the formation energy, as in figures 8 and 12 of Alverson et
al. 2024.

    python -m benchmarks.crystens.stability runs/benchmarks/perovskites/crystens-*-low.extxyz --count 200 \
        --reference ../shared/data/perov_5_val.csv.gz --hull mp2019=mp2019_formation_energies.csv.xz
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
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


def evaluated(options: argparse.Namespace, path: Path) -> Path:
    """Return the folder of results of a set."""
    folder = options.output / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    chosen = folder / path.name
    if not chosen.exists():
        frames = ase.io.read(path, f":{options.count}")
        ase.io.write(chosen, frames)
    command = [sys.executable, "-m", "whorl", "evaluate", str(chosen), "--output", str(folder / "results")]
    command += ["--potential", options.potential, "--relax"]
    for protocol in options.protocols.split(","):
        command += ["--protocol", protocol]
    if options.reference is not None:
        command += ["--reference", str(options.reference)]
    if options.hull is not None:
        command += ["--hull", options.hull]
    start = time.monotonic()
    status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL if options.quick else None)
    if status.returncode not in (0, 3):  # 3: some structures were skipped
        raise SystemExit(f"{path.name}: whorl evaluate ended with {status.returncode}")
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


def column(folder: Path, name: str) -> list[float]:
    """Return the numbers of a column of the results that are known."""
    with (folder / "structures.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def draw(folders: dict[str, Path], path: Path) -> None:
    """Draw the distributions of the energies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    names = ("energy_above_hull", "energy above the hull"), ("formation_energy", "formation energy")
    for axes, (name, label) in zip(figure.subplots(1, 2), names, strict=True):
        columns = {label: np.array(column(folder, name)) for label, folder in folders.items()}
        known = np.concatenate(list(columns.values()))
        if len(known):
            edges = np.linspace(known.min(), np.quantile(known, 0.98), 30)
            for kind, values in columns.items():
                weights = np.full(len(values), 100 / max(len(values), 1))
                axes.hist(
                    np.clip(values, edges[0], edges[-1]), edges, weights=weights, histtype="step", label=kind
                )
            axes.legend(fontsize=8)
        axes.set_xlabel(f"{label} (eV/atom)")
        axes.set_ylabel("structures (%)")
    figure.savefig(path, dpi=130, metadata={"Software": None})


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
    draw(folders, options.output / "stability.png")
    print(f"\n{options.output / 'stability.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
