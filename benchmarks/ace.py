"""Cluster expansions: the cost of the Jacobian, and of each body order against power spectra.

    python benchmarks/ace.py [--quick]

All times are the best of several runs in this process; every line is a ratio to a baseline of the same run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.soap import best, random_clusters
from whorl.representations import ACE, SOAP
from whorl.structures import from_ase


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to see that it runs")
    count, repeats = (20, 1) if parser.parse_args().quick else (500, 5)
    torch.set_num_threads(1)
    structures = from_ase(random_clusters(count))
    soap = SOAP(species=["Pt"], cutoff=6.0)
    baseline = best(lambda: soap(structures), repeats)
    for order, degree in ((1, 9), (2, 9), (3, 9), (3, 12)):
        ace = ACE(species=["Pt"], cutoff=6.0, order=order, degree=degree)
        value = best(lambda ace=ace: ace(structures), repeats)
        jacobian = best(lambda ace=ace: ace.value_and_jacobian(structures), max(1, repeats // 2))
        print(
            f"ν ≤ {order}, degree {degree}, {len(ace.atomic_names)} features of an atom: "
            f"{1e6 * value / count:.0f} µs per cluster, {value / baseline:.2f} times SOAP ({len(soap.atomic_names)} "
            f"features); value + Jacobian {jacobian / value:.1f} times the value alone"
        )


if __name__ == "__main__":
    main()
