"""Values of generated crystals by an independent surrogate: ``python -m benchmarks.crystens.roads``.

The surrogate is a sum over atoms of SOAP fingerprints, fitted to labelled crystals. Its error on other
labelled crystals is printed first, since no share of hits can be larger than that with which it finds real
crystals at their own labels.

    python -m benchmarks.crystens.roads held_out.csv --property heat_all --target 0.3 --real training.csv \
        fingerprints=runs/fp/refine/all/1-project/structures.extxyz diffusion=diffusion.extxyz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.formulas import read
from whorl.datasets import read_dataset
from whorl.structures import StructureBatch
from whorl.structures.composition import species_of
from whorl.surrogates import AdditiveSurrogate


def row(name: str, values: Float[Tensor, "N"], targets: Float[Tensor, "N"] | float, tolerance: float) -> str:
    """Return a line of the table."""
    apart = (values - targets).abs()
    shares = [100 * float((apart <= factor * tolerance).double().mean()) for factor in (1, 2)]
    return (
        f"| {name} | {len(values)} | {float(apart.nanmean()):.3f} | {shares[0]:.0f} % | {shares[1]:.0f} % |"
    )


def structures_in(path: Path) -> StructureBatch:
    """Return the structures of a file."""
    found = read_dataset(path, property=None).structures
    assert found is not None
    return found.to(dtype=torch.float64).replace(info=())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crystens.roads", description=__doc__.splitlines()[0]
    )
    parser.add_argument("data", type=Path, nargs="?", help="labelled crystals to fit the surrogate to")
    parser.add_argument("sets", nargs="*", help="NAME=FILE of each set")
    parser.add_argument("--real", type=Path, help="other labelled crystals, for the surrogate's error")
    parser.add_argument("--property")
    parser.add_argument("--target", type=float)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--quick", action="store_true", help="a few perovskites: does it run?")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    if options.data is None and not options.quick:
        print("skipped: no data were given")
        return 0
    structures, values = labelled(options.data, options.property)
    if options.quick:
        sets, target = {"others": structures[60:80]}, float(values.mean())
        structures, values, real, known = structures[:40], values[:40], structures[40:60], values[40:60]
    else:
        real, known = labelled(options.real, options.property)
        files = [one.partition("=") for one in options.sets]
        sets = {name: structures_in(Path(path)) for name, _, path in files}
        target = options.target
    surrogate = AdditiveSurrogate.fit(
        structures,
        values,
        seed=0,
        cosines=200 if options.quick else 3000,
        representation={"kind": "soap", "species": species_of(structures), "embedding": 5},
    )
    factors = f"within {options.tolerance:g} | within {2 * options.tolerance:g}"
    print(f"| crystals | number | mean absolute error | {factors} |\n|---|---|---|---|---|")
    near = (known - target).abs() <= 3 * options.tolerance
    for name, some in (("real, at their labels", slice(None)), ("… near the target", near)):
        predicted = surrogate.predict(real[some]).mean
        print(row(name, predicted, known[some], options.tolerance), flush=True)
    for name, crystals in sets.items():
        # An element that the surrogate does not know is no hit.
        known_elements = [set(species_of(one)) <= set(species_of(structures)) for one in crystals]
        predicted = torch.full((len(crystals),), torch.nan, dtype=torch.float64)
        usable = torch.tensor(known_elements)
        predicted[usable] = surrogate.predict(crystals[usable]).mean
        print(row(name, predicted, target, options.tolerance), flush=True)
    return 0


def labelled(path: Path | None, property: str | None) -> tuple[StructureBatch, Float[Tensor, "N"]]:
    """Return labelled structures; without a file perovskites with the logarithm of their volume."""
    if path is None:
        return read(None, None)
    data = read_dataset(path, property=property)
    assert data.structures is not None and property is not None
    return data.structures.to(dtype=torch.float64).replace(info=()), data.properties[property].double()


if __name__ == "__main__":
    sys.exit(main())
