"""How cost and success grow with the number of atoms: ``python -m benchmarks.reconstruction.large``.

Each target is searched alone, so that its seconds are its own.
"""

import csv
import sys
from pathlib import Path

from ase import Atoms

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import SOLVED, arguments, run_suite
from whorl.report.figures import BLUE, VERMILION


def plot(tables: list[Path], picture: Path) -> None:
    """Draw time against number of atoms for all targets of some tables: filled where solved."""
    from matplotlib.figure import Figure

    rows = [row for table in tables for row in csv.DictReader(table.open(encoding="utf-8"))]
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for kind, colour, marker in (("ordered", BLUE, "D"), ("disordered", VERMILION, "o")):
        for solved in (True, False):
            some = [r for r in rows if r["group"].startswith(kind) and (float(r["rmsd"]) < SOLVED) == solved]
            axes.plot(
                [int(row["n_atoms"]) for row in some],
                [float(row["seconds"]) for row in some],
                marker,
                color=colour,
                markerfacecolor=colour if solved else "none",
                label=f"{kind}, {'found' if solved else 'not found'} ({len(some)})",
            )
    axes.set(
        xscale="log", yscale="log", xlabel="atoms", ylabel="seconds of search", title="Clusters found again"
    )
    ticks = [10, 20, 40, 60, 100]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8.5)
    figure.savefig(picture, dpi=160)


def main() -> int:
    parser = arguments("large", "Ordered clusters of 19 to 101 atoms, and disordered Pt clusters.")
    parser.add_argument("--sizes", default="12,14,16,20,40,60,100", help="numbers of atoms, disordered")
    parser.add_argument("--each", type=int, default=5, help="disordered clusters of each size")
    parser.add_argument("--only", choices=("ordered", "disordered"), help="one kind alone")
    parser.add_argument("--plot", type=Path, help="picture of the growth to write (PNG or SVG)")
    parser.add_argument("--plot-also", type=Path, nargs="*", default=[], help="tables of other runs for it")
    options = parser.parse_args()
    sizes = [20] if options.quick else [int(size) for size in options.sizes.split(",")]
    each = 1 if options.quick else options.each

    def build() -> list[Atoms]:
        found = [] if options.only == "disordered" else suites.ordered()
        return found if options.only == "ordered" else found + suites.disordered(sizes, each)

    status = run_suite("large", options, build, alone=True)
    if options.plot and status == 0:
        plot([options.csv, *options.plot_also], options.plot)
    return status


if __name__ == "__main__":
    sys.exit(main())
