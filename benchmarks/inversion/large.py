"""How cost and success grow with the number of atoms: ``python -m benchmarks.inversion.large``."""

import sys

from ase import Atoms

from benchmarks.inversion import suites
from benchmarks.inversion.runner import arguments, run_suite


def main() -> int:
    parser = arguments("large", "Ordered clusters of 19 to 101 atoms, and disordered Pt clusters.")
    parser.add_argument("--sizes", default="12,14,16,20,40,60,100", help="numbers of atoms, disordered")
    parser.add_argument("--each", type=int, default=5, help="disordered clusters of each size")
    parser.add_argument("--only", choices=("ordered", "disordered"), help="one kind alone")
    options = parser.parse_args()
    sizes = [20] if options.quick else [int(size) for size in options.sizes.split(",")]
    each = 1 if options.quick else options.each

    def build() -> list[Atoms]:
        found = [] if options.only == "disordered" else suites.ordered()
        return found if options.only == "ordered" else found + suites.disordered(sizes, each)

    return run_suite("large", options, build)


if __name__ == "__main__":
    sys.exit(main())
