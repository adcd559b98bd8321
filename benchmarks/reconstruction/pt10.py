"""Pt10 clusters of four kinds: ``python -m benchmarks.reconstruction.pt10``."""

import sys
from pathlib import Path

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import arguments, run_suite


def main() -> int:
    parser = arguments("pt10", "Compact, flat, chain-like and dissociated Pt10 clusters.")
    parser.add_argument("--dataset", type=Path, default=suites.PT10, help="Pt10 clusters (safetensors)")
    parser.add_argument("--targets", type=int, default=100, help="how many, a quarter of each kind")
    options = parser.parse_args()
    return run_suite("pt10", options, lambda: suites.pt10(options.targets, dataset=options.dataset))


if __name__ == "__main__":
    sys.exit(main())
