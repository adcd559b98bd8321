"""Molecules: ``python -m benchmarks.reconstruction.molecules``."""

import sys

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import arguments, run_suite


def main() -> int:
    options = arguments("molecules", "Twenty molecules of ASE's g2 set.").parse_args()
    return run_suite("molecules", options, suites.molecules)


if __name__ == "__main__":
    sys.exit(main())
