"""Batched relaxation of positions and cells against ASE and against CHGNet's own optimizer, with CHGNet.

Agreement: crystals of a folder of CIF files (or the smallest AFLOW prototypes), relaxed tightly by whorl and
by ASE's FIRE with its FrechetCellFilter and CHGNet's own calculator. Both should end at the same energy and
lattice constants. Where they do not, the start lies between two minima, or a mode is soft.

Throughput: AFLOW prototypes of up to ``--max-atoms`` atoms at the tolerances that people use (0.05 eV/Å;
whorl also asks for 0.1 GPa, which is stricter), against CHGNet's StructOptimizer, one crystal at a time, in
the same run. How many energies differ is printed with the times.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from whorl.potentials import Relaxation, make_potential, relaxed
from whorl.structures import from_ase, to_ase
from whorl.structures.cells import cell_parameters

MEV, ANGSTROM = 1.0, 1e-3  # what counts as the same, per atom


def prototypes(count: int, *, max_atoms: int) -> list[Atoms]:
    """Return AFLOW prototypes with the elements they are named after, spread over the library."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
    from pymatgen.io.ase import AseAtomsAdaptor

    crystals = [
        entry["snl"].structure.get_primitive_structure() if isinstance(entry, dict) else entry.structure
        for entry in AFLOW_PROTOTYPE_LIBRARY
    ]
    known = [c for c in crystals if c.is_ordered and len(c) <= max_atoms and max(c.atomic_numbers) <= 94]
    chosen = [known[k] for k in np.linspace(0, len(known) - 1, min(count, len(known))).astype(int)]
    made = [AseAtomsAdaptor.get_atoms(crystal, msonable=False) for crystal in chosen]
    return [Atoms(a.numbers, positions=a.positions, cell=a.cell, pbc=True) for a in made]


def crystals(count: int, folder: Path, *, max_atoms: int, displaced: bool) -> list[Atoms]:
    """Return crystals of a folder; ``displaced``: their cells strained by 1 %, atoms moved by 0.03 Å."""
    from whorl.datasets import read_dataset

    if not folder.is_dir():
        print(f"{folder} is not there: AFLOW prototypes instead")
        return prototypes(count, max_atoms=max_atoms)
    structures = read_dataset(folder, property=None).structures
    assert structures is not None
    heaviest = structures.atomic_numbers.new_zeros(len(structures)).scatter_reduce(
        0, structures.structure_index, structures.atomic_numbers, "amax"
    )
    small = torch.nonzero((structures.n_atoms <= max_atoms) & (heaviest <= 94)).flatten().tolist()
    chosen = to_ase(structures[small[:: max(1, len(small) // count)][:count]])
    rng = np.random.default_rng(0)
    for atoms in chosen if displaced else ():
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(0, 0.01, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    return chosen


def by_ase(atoms: Atoms, calculator: Any, *, fmax: float, steps: int) -> tuple[float, Atoms, int]:
    atoms = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    atoms.calc = calculator
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    optimizer.run(fmax=fmax, steps=steps)
    return float(atoms.get_potential_energy()), atoms, optimizer.nsteps


def by_chgnet(given: list[Atoms], network: Any, *, fmax: float) -> tuple[list[float], int]:
    from chgnet.model.dynamics import StructOptimizer

    optimizer = StructOptimizer(model=network, use_device="cpu", optimizer_class="FIRE")
    energies, steps = [], 0
    for atoms in given:
        with contextlib.redirect_stdout(io.StringIO()):
            result = optimizer.relax(atoms.copy(), fmax=fmax, steps=500, verbose=False)
        energies.append(float(result["trajectory"].energies[-1]))
        steps += len(result["trajectory"].energies) - 1
    return energies, steps


def agreement(given: list[Atoms], potential: Any, calculator: Any, *, steps: int, at_once: int = 10) -> None:
    tight: dict[str, Any] = {"force_tolerance": 5e-4, "stress_tolerance": 1e-3, "steps": steps}
    same: dict[str, list[bool]] = {"lbfgs": [], "fire": []}
    largest = dict.fromkeys(same, (0.0, 0.0))
    made = dict.fromkeys((*same, "ASE"), 0)
    for first in range(0, len(given), at_once):
        some = given[first : first + at_once]
        theirs = [by_ase(atoms, calculator, fmax=8e-5, steps=steps) for atoms in some]
        energy = torch.tensor([item[0] for item in theirs], dtype=torch.float64)
        lengths = cell_parameters(from_ase([item[1] for item in theirs]).cells)
        made["ASE"] += sum(item[2] for item in theirs)
        for name, before in same.items():
            result = relaxed(some, potential, optimizer=name, **tight)
            off = 1000 * (result.energy - energy) / result.structures.n_atoms
            own = cell_parameters(result.structures.cells)
            # A cubic crystal that becomes tetragonal may do so along any axis.
            edges = (own[:, :3].sort(1).values - lengths[:, :3].sort(1).values).abs().amax(1)
            good = (off.abs() <= MEV) & (edges <= ANGSTROM)
            made[name] += int(result.steps.sum())
            if bool(good.any()):
                worst = (float(off[good].abs().max()), float(edges[good].max()))
                largest[name] = (max(largest[name][0], worst[0]), max(largest[name][1], worst[1]))
            before.extend(good.tolist())
            for k in torch.nonzero(~good).flatten().tolist():
                print(
                    f"    {name}: {some[k].get_chemical_formula()}: {float(off[k]):+.2f} meV/atom, edges "
                    f"{float(edges[k]):.4f} Å; {result.status[k]} in {int(result.steps[k])} steps, "
                    f"ASE made {theirs[k][2]}"
                )
        print(
            f"  after {first + len(some)}: "
            + "; ".join(
                f"{name}: {sum(rows)} the same to {MEV:g} meV/atom and {ANGSTROM:g} Å (of these, differences "
                f"up to {largest[name][0]:.3f} meV/atom, {largest[name][1]:.5f} Å), {made[name]} steps"
                for name, rows in same.items()
            )
            + f"; ASE made {made['ASE']} steps",
            flush=True,
        )


def throughput(given: list[Atoms], potential: Any, network: Any, *, at_once: int = 25) -> None:
    """Print the times of all three ways, which take turns, so that other load meets all of them alike."""
    potential(given[:2])
    walls, cpus = (
        dict.fromkeys(("fire", "lbfgs", "chgnet"), 0.0),
        dict.fromkeys(("fire", "lbfgs", "chgnet"), 0.0),
    )
    results: dict[str, list[Relaxation]] = {"fire": [], "lbfgs": []}
    energies: list[float] = []
    steps = 0
    for first in range(0, len(given), at_once):
        some = given[first : first + at_once]
        for name in walls:
            wall, cpu = time.perf_counter(), time.process_time()
            if name == "chgnet":
                more, made = by_chgnet(some, network, fmax=0.05)
                energies, steps = energies + more, steps + made
            else:
                results[name].append(relaxed(some, potential, optimizer=name))
            walls[name] += time.perf_counter() - wall
            cpus[name] += time.process_time() - cpu
        done = {name: f"{walls[name]:.1f} ({cpus[name]:.1f})" for name in walls}
        print(f"  after {len(energies)}: {done}", flush=True)
    counts = from_ase(given).n_atoms
    print(f"throughput: {len(given)} prototypes, {int(counts.sum())} atoms; seconds (of CPU)")
    print(f"  StructOptimizer, one at a time: {walls['chgnet']:.1f} ({cpus['chgnet']:.1f}), {steps} steps")
    for name, parts in results.items():
        energy = torch.cat([part.energy for part in parts])
        status = [one for part in parts for one in part.status]
        off = 1000 * (energy - torch.tensor(energies, dtype=torch.float64)) / counts
        own = sum(int(part.steps.sum()) for part in parts)
        print(
            f"  {name:5s}: {walls[name]:.1f} ({cpus[name]:.1f}), {own} steps: "
            f"{walls['chgnet'] / walls[name]:.2f} x ({cpus['chgnet'] / cpus[name]:.2f}); "
            f"energies: {int((off.abs() <= MEV).sum())} the same to {MEV:g} meV/atom, "
            f"{int((off < -MEV).sum())} lower, {int((off > MEV).sum())} higher, median difference "
            f"{off.nanmedian():+.3f} meV/atom; "
            + ", ".join(f"{status.count(one)} {one}" for one in dict.fromkeys(status))
        )
        for k in torch.nonzero(~(off.abs() <= MEV)).flatten().tolist():
            print(f"    {given[k].get_chemical_formula()}: {float(off[k]):+.2f} meV/atom, {status[k]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few crystals, in seconds")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/cifs_good"), help="CIF files")
    parser.add_argument("--agreement", type=int, default=50, help="crystals compared with ASE")
    parser.add_argument("--throughput", type=int, default=100, help="prototypes relaxed for the time")
    parser.add_argument("--max-atoms", type=int, default=20, help="of a prototype")
    parser.add_argument("--displaced", action="store_true", help="begin away from the symmetric places")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads of PyTorch")
    potential = make_potential("chgnet")
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):
        network = CHGNet.load(use_device="cpu", verbose=False)
        calculator = CHGNetCalculator(network, use_device="cpu")
    if options.quick:
        agreement(prototypes(2, max_atoms=2), potential, calculator, steps=20)
        throughput(prototypes(3, max_atoms=2), potential, network)
        return
    if options.throughput:
        throughput(prototypes(options.throughput, max_atoms=options.max_atoms), potential, network)
    if options.agreement:
        given = crystals(options.agreement, options.folder, max_atoms=6, displaced=options.displaced)
        agreement(given, potential, calculator, steps=400)


if __name__ == "__main__":
    main()
