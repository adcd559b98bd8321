"""Clusters on a support: Pt atoms on a frozen Cu(111) slab with a target energy, by fingerprints and EMT."""

import numpy as np
import torch
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import FIRE

from whorl.datasets import split
from whorl.evaluation import mean_absolute_error, percent_within
from whorl.evaluation.samples import Samples
from whorl.generators import CVAE, fit
from whorl.potentials import bulk_energy, make_potential
from whorl.potentials.quantity import Quantity
from whorl.reconstruction import InversionProblem, solve
from whorl.refinement import Oracle, RefinementContext
from whorl.representations import ACSF
from whorl.structures import from_ase
from whorl.structures.frozen import with_frozen_atoms

SUPPORT = 1  # tag of the atoms of the slab


def support():
    """Return the slab, periodic in its plane, with room above it."""
    slab = fcc111("Cu", (3, 3, 2), vacuum=4.0, periodic=False)
    slab.cell[2, 2] = 14.0
    slab.positions[:, 2] += 1.0 - slab.positions[:, 2].min()
    slab.set_tags(SUPPORT)
    return slab


def relaxations(atoms, starts, steps, rng):
    """Put atoms on the slab at random and relax them; the slab does not move. Return frames and energies."""
    frames, energies = [], []
    for _ in range(starts):
        system = support()
        top = system.positions[:, 2].max()
        for _ in range(atoms):
            while True:
                x, y = rng.random(2) @ system.cell[:2, :2]
                place = Atoms("Pt", [[x, y, top + rng.uniform(1.8, 5.0)]])
                trial = system + place
                if trial.get_distances(-1, range(len(system)), mic=True).min() > 2.1:
                    break
            system = trial
        system.set_constraint(FixAtoms([atom.index for atom in system if atom.tag == SUPPORT]))
        system.calc = EMT()
        walk = FIRE(system, logfile=None)
        for _ in walk.irun(fmax=0.05, steps=steps):
            if walk.nsteps % 5 == 0:
                energies.append(system.get_potential_energy())
                frames.append(Atoms(system, constraint=None, calculator=None))
    return frames, torch.tensor(energies, dtype=torch.float64)


def main(*, atoms=4, starts=40, steps=60, epochs=400, samples=8, target=1.0, budget=400, seed=0):
    """Train on relaxations, sample at ``target`` eV per Pt atom, and find the atoms on the slab."""
    emt, rng = make_potential("emt"), np.random.default_rng(seed)
    frames, totals = relaxations(atoms, starts, steps, rng)
    structures = from_ase(frames)
    slab_energy = float(emt(from_ase(support())).energy[0])

    def energy(output):  # of the cluster on the slab, relative to the slab and bulk Pt
        return (output.energy - slab_energy) / atoms - bulk_energy(emt, "Pt")

    energies = (totals - slab_energy) / atoms - bulk_energy(emt, "Pt")
    print(f"{len(frames)} structures, {energies.min():.2f} to {energies.max():.2f} eV per Pt atom")
    representation = ACSF.crystal(["Cu", "Pt"])
    features = representation(structures)
    generator = CVAE(shape=features.shape[1:])
    _, validation = split(len(features), fraction=0.9, seed=seed)
    fit(generator, features, energies, validation=validation, seed=seed, epochs=epochs)
    condition = torch.full((samples, 1), target, dtype=torch.float64)
    fingerprints = generator.sample(condition, rng=torch.Generator().manual_seed(seed))

    template = structures[[0] * samples]  # composition, cell, and where the slab is
    frozen = template.atomic_numbers == 29
    problem = InversionProblem(
        representation=representation, target=fingerprints, template=template, frozen=frozen
    )
    found = solve(problem, budget_evaluations=budget, seed=seed).structures
    assert torch.equal(found.positions[frozen], template.positions[frozen])
    print(f"found: mean absolute error {mean_absolute_error(energy(emt(found)), target):.2f} eV per Pt atom")

    bulk = atoms * bulk_energy(emt, "Pt")
    goal = torch.full((samples,), atoms * target, dtype=torch.float64)
    refined = Oracle().refine(  # a few steps along the forces on the atoms that may move
        Samples(
            ids=tuple(map(str, range(samples))),
            targets=goal,
            structures=with_frozen_atoms(found, frozen),
            rows=torch.arange(samples),
        ),
        RefinementContext(
            potential=emt,
            quantity=Quantity(name="energy", subtracted=slab_energy + bulk),
            tolerance=0.05 * atoms,
        ),
    )
    found = refined.structures
    assert torch.equal(found.positions[frozen], template.positions[frozen])
    output = emt(found)
    error, hits = mean_absolute_error(energy(output), target), percent_within(energy(output), target)
    print(f"moved: mean absolute error {error:.2f} eV per Pt atom, {hits:.0f} % within 0.1")
    return found


if __name__ == "__main__":
    main()
