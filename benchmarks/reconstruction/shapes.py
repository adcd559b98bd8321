"""Geometric bodies: ``python -m benchmarks.reconstruction.shapes``."""

import sys

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import arguments, run_suite


def main() -> int:
    options = arguments("shapes", "Thirteen bodies of Pt atoms, as in figure 4 of the paper.").parse_args()
    return run_suite("shapes", options, suites.shapes)


if __name__ == "__main__":
    sys.exit(main())
