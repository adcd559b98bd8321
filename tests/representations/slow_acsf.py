"""Symmetry functions as the textbook writes them: one atom, one pair, one triplet at a time."""

import math

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list


def cutoff_function(r, radius, function="cosine", gamma=4.0):
    if r >= radius:
        return 0.0
    if function == "cosine":
        return 0.5 * (math.cos(math.pi * r / radius) + 1)
    return 1 + gamma * (r / radius) ** (gamma + 1) - (gamma + 1) * (r / radius) ** gamma


def slow_atomic_features(atoms: Atoms, acsf) -> np.ndarray:
    """Return the features of each atom by plain loops over ASE's neighbour list."""
    radius = acsf.cutoff.radius
    i, j, vectors = neighbor_list("ijD", atoms, radius, self_interaction=False)
    symbols = atoms.get_chemical_symbols()

    def fc(r):
        return cutoff_function(r, radius, acsf.cutoff.function, acsf.cutoff.gamma)

    rows = []
    for centre in range(len(atoms)):
        around = [
            (symbols[j[p]], vectors[p], np.linalg.norm(vectors[p])) for p in np.flatnonzero(i == centre)
        ]
        row = []
        for symbol in acsf.species:
            of_kind = [r for kind, _, r in around if kind == symbol]
            row += [sum(math.exp(-eta * (r - rs) ** 2) * fc(r) for r in of_kind) for eta, rs in acsf.g2]
            row += [sum(math.cos(kappa * r) * fc(r) for r in of_kind) for kappa in acsf.g3]
        for a, s in enumerate(acsf.species):
            for t in acsf.species[a:]:
                g4, g5 = np.zeros(len(acsf.g4)), np.zeros(len(acsf.g5))
                for p in range(len(around)):
                    for q in range(p + 1, len(around)):
                        if sorted([around[p][0], around[q][0]]) != sorted([s, t]):
                            continue
                        (_, vj, rj), (_, vk, rk) = around[p], around[q]
                        cosine = vj @ vk / (rj * rk)
                        far = np.linalg.norm(vj - vk)
                        for n, (eta, zeta, lam) in enumerate(acsf.g5):
                            h = max(0.0, 1 + lam * cosine) ** zeta * 2 ** (1 - zeta)
                            g5[n] += h * math.exp(-eta * (rj**2 + rk**2)) * fc(rj) * fc(rk)
                        for n, (eta, zeta, lam) in enumerate(acsf.g4):
                            h = max(0.0, 1 + lam * cosine) ** zeta * 2 ** (1 - zeta)
                            radial = math.exp(-eta * (rj**2 + rk**2 + far**2))
                            g4[n] += h * radial * fc(rj) * fc(rk) * fc(far)
                row += [*g4, *g5]
        rows.append(row)
    return np.array(rows)
