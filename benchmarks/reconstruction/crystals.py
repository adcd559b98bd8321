"""Crystals, cell known or free: ``python -m benchmarks.reconstruction.crystals [--free-cell]``."""

import sys
from pathlib import Path

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import arguments, run_suite


def main() -> int:
    parser = arguments("crystals", "Six well-known crystals and fifty drawn ones.", representation="crystal")
    parser.add_argument(
        "--data", type=Path, default=suites.CRYSTALS, help="crystals to draw from (.extxyz.gz)"
    )
    parser.add_argument("--drawn", type=int, default=50, help="how many to draw")
    options = parser.parse_args()
    drawn = 0 if options.quick else options.drawn
    return run_suite("crystals", options, lambda: suites.crystals(drawn, data=options.data))


if __name__ == "__main__":
    sys.exit(main())
