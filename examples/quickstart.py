"""Inverse design of Pt clusters with a target formation energy: the stages of a recipe as plain calls."""

import torch

from whorl.datasets import build_clusters, split
from whorl.evaluation import mean_absolute_error, percent_within
from whorl.generators import CVAE, fit
from whorl.potentials import bulk_energy, formation_energy, make_potential
from whorl.reconstruction import InversionProblem, solve
from whorl.representations import ACSF


def main(*, atoms=10, count=300, epochs=2000, samples=20, target=2.0, budget=2000):
    """Train on EMT-labelled Pt clusters, sample at ``target`` eV/atom, reconstruct, and evaluate by EMT."""
    emt = make_potential("emt")
    clusters = build_clusters(
        element="Pt",
        atoms=atoms,
        count=count,
        potential=emt,
        directory="runs/quickstart",
        seed=1,
        processes=1,
    )
    structures, energies = clusters.structures, clusters.properties["formation_energy"]

    representation = ACSF.fung2022(["Pt"])
    features = representation(structures)

    generator = CVAE(shape=features.shape[1:])
    _, validation = split(len(features), fraction=0.8, seed=1)
    fit(generator, features, energies, validation=validation, seed=1, epochs=epochs)
    condition = torch.full((samples, 1), target, dtype=torch.float64)
    fingerprints = generator.sample(condition, rng=torch.Generator().manual_seed(1))

    template = structures[[0] * samples]  # composition and cell
    problem = InversionProblem(representation=representation, target=fingerprints, template=template)
    result = solve(problem, budget_evaluations=budget)

    energy = formation_energy(emt(result.structures).energy, atoms, bulk_energy(emt, "Pt"))
    error, hits = mean_absolute_error(energy, target), percent_within(energy, target)
    print(f"target {target} eV/atom: mean absolute error {error:.2f}, {hits:.0f} % within 0.1")


if __name__ == "__main__":
    main()
