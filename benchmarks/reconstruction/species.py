"""Formula and structure from the fingerprint alone: ``python -m benchmarks.reconstruction.species``.

* ``crystals``: real crystals of 2–8 atoms and two or three elements, cell known (``--free-cell``: not known).
  The fingerprint is made for the elements of all drawn crystals together.
* ``alloys``: clusters of 8–14 Cu, Pt and Au atoms (``--metals``), relaxed by EMT from random positions.

With ``--pooling max,min`` the fingerprint tells neither fractions of the elements nor the number of atoms; of
one element (``--metals Pt``) averages tell no number either.

The search gets the fingerprint, which elements there may be, and a range of numbers of atoms; with
``--known`` also the formula. A target is right where the formula is and the atoms are within an RMSD of
0.05 Å; crystals of a free cell where the primitive cells are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import SOLVED
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, InversionResult, solve
from whorl.reconstruction.free_composition import (
    FreeComposition,
    solve_free_composition,
    unknown_atoms,
)
from whorl.representations import ACSF
from whorl.structures import StructureBatch, as_batch, to_ase
from whorl.structures.composition import formula_of_all

METALS = ("Cu", "Pt", "Au")
SIZES = (8, 14)
CRYSTAL_SIZES = (2, 8)


def crystals(seed: int, most: int, data: Path) -> list[Atoms]:
    """Return drawn crystals of 2–8 atoms and two or three elements."""
    least, greatest = CRYSTAL_SIZES
    drawn = suites.crystals(8 * most, data=data, seed=seed) if most else suites.well_known_crystals()
    fitting = [one for one in drawn if least <= len(one) <= greatest and len(set(one.numbers)) in (2, 3)]
    return [one for one in fitting if most == 0 or one.info["group"] != "well known"][: most or None]


def alloys(seed: int, most: int, metals: Sequence[str]) -> list[Atoms]:
    """Return clusters of all metals, sizes in turn."""
    from ase.calculators.emt import EMT
    from ase.optimize import FIRE

    made = []
    for k in range(most):
        rng = np.random.default_rng([seed, k])
        size = SIZES[0] + k % (SIZES[1] - SIZES[0] + 1)
        symbols = [*metals, *rng.choice(metals, size - len(metals))]
        start = suites.disordered([size], 1, seed=1000 * seed + k)[0]
        atoms = Atoms(rng.permutation(symbols), start.positions)
        atoms.calc = EMT()
        FIRE(atoms, logfile=None).run(fmax=0.05, steps=200)
        made.append(Atoms(atoms.symbols, atoms.positions, info={"name": f"{seed}/{k}"}))
    return made


def searched(atoms: Atoms, representation: ACSF, options: argparse.Namespace) -> InversionResult:
    """Return the result for one structure, of which the search knows what the options say."""
    structure = as_batch([atoms])
    free_cell = options.free_cell and bool(structure.pbc.all())
    template = structure.replace(
        positions=torch.zeros_like(structure.positions),
        atomic_numbers=structure.atomic_numbers.sort().values,
    )
    if free_cell:
        template = template.replace(cells=torch.eye(3, dtype=torch.float64)[None] * 5.0)
    with torch.no_grad():
        target = representation(structure).flatten(1)
    problem = InversionProblem(
        representation=representation,
        target=target,
        template=template if options.known else unknown_atoms(template, representation),
        free_cell=free_cell,
        names=(str(atoms.info["name"]),),
    )
    steps = {"budget_evaluations": options.evaluations, "seed": options.seed}
    if options.known:
        return solve(problem, **steps)
    sizes = (1, 12) if bool(structure.pbc.all()) else SIZES
    return solve_free_composition(problem, FreeComposition(n_atoms=sizes), **steps)


def is_right(found: StructureBatch, original: Atoms) -> bool:
    """Return whether formula and structure are right."""
    if not original.pbc.all():
        return float(rmsd(found, [original])) < SOLVED
    from pymatgen.io.ase import AseAtomsAdaptor

    primitive = [
        AseAtomsAdaptor.get_atoms(AseAtomsAdaptor.get_structure(one).get_primitive_structure())
        for one in (to_ase(found)[0], original)
    ]
    return float(rmsd(as_batch([primitive[0]]), as_batch([primitive[1]]))) < SOLVED


def rows(options: argparse.Namespace) -> Iterator[tuple[Atoms, InversionResult, bool, float]]:
    """Yield each target, its result, whether it is right, and the CPU seconds of the search."""
    if options.suite == "crystals":
        targets = crystals(options.seed, options.targets, options.data)
        elements = sorted({symbol for one in targets for symbol in one.get_chemical_symbols()})
        representation = ACSF.crystal(elements, embedding=4, pooling=options.pooling)
    else:
        targets = alloys(options.seed, options.targets or 2, options.metals)
        representation = ACSF.crystal(options.metals, cutoff=8.0, embedding=3, pooling=options.pooling)
    print(f"{options.suite}: {len(targets)} targets; {representation}")
    for one in targets[:2] if options.quick else targets:
        began = time.process_time()
        result = searched(one, representation, options)
        yield one, result, is_right(result.structures, one), time.process_time() - began


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("suite", nargs="?", choices=("crystals", "alloys"), default="crystals")
    add("--targets", type=int, default=40, help="how many")
    add("--pooling", type=_names, default=("mean", "std"), help="max,min tells no numbers of atoms")
    add("--metals", type=_names, default=METALS, help="of alloys: all are in each cluster")
    add("--known", action="store_true", help="the formula is known")
    add("--free-cell", action="store_true", help="the cell of crystals is not known")
    add("--evaluations", type=int, default=20_000, help="budget of each target")
    add("--seed", type=int, default=0, help="of targets and search")
    add("--data", type=Path, default=suites.CRYSTALS, help="crystals to draw from (.extxyz.gz)")
    add("--quick", action="store_true", help="two targets, hardly any search: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.targets, options.evaluations = 0, 500
    torch.set_num_threads(1)
    evaluations, seconds, right, formulas = [], [], 0, 0
    for atoms, result, good, spent in rows(options):
        assert result.evaluations is not None
        original, found = formula_of_all(as_batch([atoms])), formula_of_all(result.structures)
        evaluations.append(int(result.evaluations[0]))
        seconds.append(spent)
        right += good
        formulas += good or original == found
        print(
            f"{atoms.info['name']!s:>34}  {original:>14}  {found:>14}  {result.status[0].value:>12}  "
            f"{evaluations[-1]:6d} evaluations  {spent:6.1f} s CPU  {'right' if good else 'WRONG'}",
            flush=True,
        )
    print(
        f"{right} of {len(seconds)} right, {formulas} formulas; median {np.median(evaluations):.0f} "
        f"evaluations, {np.median(seconds):.1f} s CPU"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
