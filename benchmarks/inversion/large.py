"""How cost and success grow with the number of atoms: ``python -m benchmarks.inversion.large``."""

import sys

from benchmarks.inversion import suites
from benchmarks.inversion.runner import arguments, run_suite


def main() -> int:
    parser = arguments("large", "Disordered Pt clusters of 20 to 100 atoms.")
    parser.add_argument("--sizes", default="20,40,60,100", help="numbers of atoms")
    parser.add_argument("--each", type=int, default=5, help="clusters of each size")
    options = parser.parse_args()
    sizes = [20] if options.quick else [int(size) for size in options.sizes.split(",")]
    each = 1 if options.quick else options.each
    return run_suite("large", options, lambda: suites.large(sizes, each))


if __name__ == "__main__":
    sys.exit(main())
