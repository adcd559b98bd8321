"""Structures of new formulas with a value asked for, by true labels and by an independent model.

    python -m benchmarks.formulas data.safetensors --property heat_all --target 0.2 --element O
    python -m benchmarks.formulas … --model network
    python -m benchmarks.formulas --quick

Half of the structures are for the proposals (`whorl propose`). Some of these are decorations that the other
half has, with their labels: of these the true share of hits is known. As the proposals know nothing of the
other half, it is that of all proposals, but for chance. All are assessed by a model fitted to the other
half: its own predictions, and the chance of a hit by these and their calibrated uncertainty. Its error on the
first half is printed: it finds no larger share of hits than it finds real structures at their own labels.
The baseline: real structures of the first half that are what is requested, at random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Hashable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.embedding import perovskites
from whorl.axes import PROPOSERS
from whorl.conditions import satisfied
from whorl.datasets import load_dataset
from whorl.evaluation.validity import check_validity
from whorl.proposals.base import Predict
from whorl.proposals.decorations import Sites
from whorl.proposals.settings import FormulaRequest, ProposerSettings
from whorl.proposals.substitution import Substitution
from whorl.settings import settings_from
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.surrogates.selection import hit_probability
from whorl.workflow.proposals import FittedProposer


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


def decorator(structures: StructureBatch) -> Callable[[StructureBatch], list[Hashable]]:
    """Return what gives the elements on each class of sites of structures."""
    sites = Sites(structures)
    classes = [torch.nonzero(sites.classes == c).flatten() for c in sites.classes.unique()]

    def decorations(some: StructureBatch) -> list[Hashable]:
        numbers = sites.numbers(some)
        return [tuple(tuple(sorted(row[c].tolist())) for c in classes) for row in numbers]

    return decorations


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
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default="substitution", help=f"one of {', '.join(PROPOSERS)}")
    parser.add_argument("--quick", action="store_true", help="a few perovskites, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    structures, values = read(given.data, given.property)
    count = 10 if given.quick else given.count
    target = float(values.quantile(0.2)) if given.target is None else given.target
    balanced = not given.quick
    request = FormulaRequest(elements=given.element or ["O"], balanced=balanced)
    print(f"{len(structures)} structures; target {target:g}; {request.model_dump(exclude_defaults=True)}")
    decorations = decorator(structures)
    keys = decorations(structures)

    def share(labels: list[float]) -> str:
        apart = (torch.tensor(labels, dtype=torch.float64) - target).abs()
        within = [float((apart <= k * given.tolerance).double().mean()) for k in (1, 2)]
        return (
            f"{within[0]:.1%} within {given.tolerance:g}, {within[1]:.1%} within twice that ({len(labels)})"
        )

    true: list[float] = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        order = torch.randperm(len(structures), generator=torch.Generator().manual_seed(seed))
        own, other = order.tensor_split(2)
        started = time.process_time()
        settings = settings_from(ProposerSettings, {"kind": given.model}, source="--model")
        proposer = FittedProposer(structures[own], values[own], settings=settings, seed=seed)
        fitted = time.process_time()
        made = proposer.sample(count, target=target, request=request, tolerance=given.tolerance, seed=seed)
        seconds = time.process_time() - fitted
        independent = FittedProposer(structures[other], values[other], seed=seed).predict
        assert independent is not None

        def hits(made: StructureBatch, independent: Predict = independent) -> str:
            value, error = independent(made)
            within = [((value - target).abs() <= k * given.tolerance).double().mean() for k in (1, 2)]
            chance = hit_probability(
                value, error, lower=target - given.tolerance, upper=target + given.tolerance
            )
            return (
                f"within {given.tolerance:g}: {within[0]:6.1%}   within twice that: {within[1]:6.1%}   "
                f"chance: {float(chance.mean()):6.1%}"
            )

        ceiling = (independent(structures[own])[0] - values[own]).abs()
        print(
            f"seed {seed}: the independent model's error is {float(ceiling.mean()):.3f} on average, and "
            f"{float((ceiling <= given.tolerance).double().mean()):.1%} are within {given.tolerance:g}"
        )
        real = structures[own]
        fits = torch.nonzero(satisfied(real, elements=request.elements)["elements"]).flatten()
        print(f"  real structures as requested        {hits(real[fits[:count]])}")
        plain = Substitution(real).sample(count, request=request, seed=seed)
        print(f"  substitution without a target       {hits(plain.structures)}")
        print(f"  {given.model + ' with the target':35} {hits(made.structures)}")
        labels = {keys[k]: float(values[k]) for k in other.tolist()}
        # Of a network some may have other numbers of atoms.
        alike = made.structures[torch.nonzero(made.structures.n_atoms == structures.n_atoms[0]).flatten()]
        known = [labels[key] for key in decorations(alike) if key in labels]
        true += known
        print(f"    {len(known)} of them have a label in the other half: {share(known)}")
        validity = check_validity(made.structures, chemistry=balanced)
        valid = validity.structurally_valid
        if validity.charge_neutral is not None:
            valid = valid & validity.charge_neutral
        new = sum(one.is_new for one in made.formulas) / len(made.formulas)
        print(
            f"    {len(made.formulas)} different formulas, {new:.1%} new, "
            f"valid {float(valid.double().mean()):.1%}, processor seconds: {fitted - started:.0f} for the "
            f"model, {seconds:.0f} for the proposals",
            flush=True,
        )
    print(f"true labels of all seeds together: {share(true)}")


if __name__ == "__main__":
    main()
