"""Small sets of crystals with all inputs of protocols."""

import numpy as np
from ase.build import bulk

from whorl.evaluation.hull import HullDistance, HullEntry, HullReference
from whorl.evaluation.structure_set import RelaxationSettings, StructureSet
from whorl.potentials import make_potential
from whorl.structures import from_ase

KNOWN = {29: 0.05, 79: 0.3}


def crystals():
    """Return copper, strained copper, gold, platinum, an alloy, and copper again."""
    made = [bulk(name, "fcc", a=a, cubic=True) for name, a in (("Cu", 3.6), ("Cu", 3.65), ("Au", 4.1))]
    alloy = bulk("Cu", "fcc", a=3.75, cubic=True)
    alloy.symbols[0] = "Au"
    alloy.positions += np.random.default_rng(0).normal(0, 0.05, alloy.positions.shape)
    return [*made, bulk("Pt", "fcc", a=3.9), alloy, bulk("Cu", "fcc", a=3.6)]


class Hull(HullReference):
    """A hull that knows energies above it by the atomic number of the first atom; none for platinum."""

    def evaluate(self, structures, energies, scheme, *, potential=None):
        numbers = structures.atomic_numbers[structures.first_atom].tolist()
        shift = (np.asarray(energies) / structures.n_atoms.numpy()).tolist()
        return [
            HullDistance(energy_above_hull=KNOWN[z] + e, formation_energy=e)
            if z in KNOWN
            else HullDistance(reason="no reference of Pt")
            for z, e in zip(numbers, shift, strict=True)
        ]


def crystal_set(structures=None, **changes):
    """Return a set with EMT, a hull and a reference of gold alone."""
    inputs = {
        "potential": make_potential("emt"),
        "relaxation": RelaxationSettings(steps=20),
        "hull": Hull(entries=(HullEntry(formula="Cu", energy=0.0),), scheme="emt", source="a test"),
        "reference": from_ase([bulk("Au", "fcc", a=4.08), bulk("Ni", "fcc", a=3.5)]),
        **changes,
    }
    return StructureSet(from_ase(crystals() if structures is None else structures), **inputs)
