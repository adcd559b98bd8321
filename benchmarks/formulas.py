"""Structures of new formulas with a value asked for, by an independent surrogate.

    python -m benchmarks.formulas data.safetensors --property heat_all --target 0.2 --element O
    python -m benchmarks.formulas --quick

Half of the structures are for the proposals (`whorl propose`) and the projection that follows; the surrogate
that counts the hits is of another representation and fitted to the other half. Its error on the first half is
printed, as no share of hits can be larger than that with which it finds real structures at their own labels.
The baseline: real structures of the first half that are what is requested, at random, and those whose labels
are nearest to the target.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.conditions import satisfied
from whorl.datasets import load_dataset
from whorl.evaluation.samples import Samples
from whorl.evaluation.validity import check_validity
from whorl.proposals.settings import FormulaRequest
from whorl.proposals.substitution import Substitution
from whorl.refinement import RefinementContext
from whorl.refinement.project import Project
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import species_of
from whorl.surrogates import AdditiveSurrogate

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.embedding import perovskites


def read(path: Path | None, property: str | None) -> tuple[StructureBatch, Float[Tensor, "N"]]:
    """Return labelled structures; without a file perovskites with the logarithm of their volume."""
    if path is None:
        structures = perovskites(240, ["O", "F", "N", "Ti", "Sr", "Ba", "Zr", "Ca"])
        return structures, volumes(structures.cells).log()
    data = load_dataset(path)
    assert data.structures is not None
    values = data.properties[property or next(iter(data.properties))].double()
    usable = torch.nonzero(values.isfinite()).flatten()
    return data.structures.to(dtype=torch.float64).replace(info=())[usable], values[usable]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, help="data set, from 'whorl data read'")
    parser.add_argument("--property")
    parser.add_argument("--target", type=float)
    parser.add_argument("--element", action="append", default=[])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a few perovskites, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    structures, values = read(given.data, given.property)
    count, cosines = (10, 200) if given.quick else (given.count, 3000)
    target = float(values.quantile(0.2)) if given.target is None else given.target
    balanced = not given.quick
    request = FormulaRequest(elements=given.element or ["O"], balanced=balanced)
    print(f"{len(structures)} structures; target {target:g}; {request.model_dump(exclude_defaults=True)}")
    for seed in range(given.seeds):
        order = torch.randperm(len(structures), generator=torch.Generator().manual_seed(seed))
        own, other = order.tensor_split(2)
        started = time.perf_counter()
        surrogate = AdditiveSurrogate.fit(structures[own], values[own], seed=seed, cosines=cosines)
        fitted = time.perf_counter()
        independent = AdditiveSurrogate.fit(
            structures[other],
            values[other],
            seed=seed,
            cosines=cosines,
            representation={"kind": "soap", "species": species_of(structures), "embedding": 5},
        )

        def hits(made: StructureBatch, independent: AdditiveSurrogate = independent) -> str:
            apart = (independent.predict(made).mean - target).abs()
            within = [float((apart <= k * given.tolerance).double().mean()) for k in (1, 2)]
            return f"within {given.tolerance:g}: {within[0]:6.1%}   within twice that: {within[1]:6.1%}"

        ceiling = (independent.predict(structures[own]).mean - values[own]).abs()
        print(
            f"seed {seed}: the independent surrogate's error is {float(ceiling.mean()):.3f} on average, and "
            f"{float((ceiling <= given.tolerance).double().mean()):.1%} are within {given.tolerance:g}"
        )
        real = structures[own]
        fits = torch.nonzero(satisfied(real, elements=request.elements)["elements"]).flatten()
        nearest = (values[own][fits] - target).abs().argsort()[: min(count, 30)]
        print(f"  real structures as requested        {hits(real[fits[:count]])}")
        print(f"  … the nearest {len(nearest):3d} by their labels     {hits(real[fits[nearest]])}")
        asked = time.perf_counter()
        substitution = Substitution(real, values[own])

        def predict(
            some: StructureBatch, surrogate: AdditiveSurrogate = surrogate
        ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
            answer = surrogate.predict(some)
            assert answer.uncertainty is not None
            return answer.mean, answer.uncertainty

        plain = substitution.sample(count, request=request, seed=seed)
        print(f"  substitution without a target       {hits(plain.structures)}")
        made = substitution.sample(
            count, target=target, request=request, predict=predict, tolerance=given.tolerance, seed=seed
        )
        seconds = time.perf_counter() - asked
        validity = check_validity(made.structures, chemistry=balanced)
        valid = validity.structurally_valid
        if validity.charge_neutral is not None:
            valid = valid & validity.charge_neutral
        new = sum(one.is_new for one in made.formulas) / len(made.formulas)
        print(f"  substitution with the target        {hits(made.structures)}")
        print(
            f"    {len(made.formulas)} different formulas, {new:.1%} new, "
            f"valid {float(valid.double().mean()):.1%}, {seconds:.0f} s and "
            f"{fitted - started:.0f} s for the surrogate"
        )
        samples = Samples(
            ids=tuple(one.formula for one in made.formulas),
            targets=torch.full((len(made.formulas),), target, dtype=torch.float64),
            structures=made.structures,
            rows=torch.arange(len(made.formulas)),
        )
        asked = time.perf_counter()
        moved = Project(Project.Settings()).refine(
            samples, RefinementContext(seed=seed, tolerance=given.tolerance, surrogate=surrogate)
        )
        assert moved.structures is not None
        print(
            f"  … and projected onto it             {hits(moved.structures)}   "
            f"({time.perf_counter() - asked:.0f} s)"
        )


if __name__ == "__main__":
    main()
