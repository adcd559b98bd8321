"""Variation: by how much the surroundings of the atoms of a species differ."""

import numpy as np
import pytest
from ase.build import bulk

from whorl.representations import ACSF
from whorl.structures import from_ase


def rock_salt(shift=0.0):
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    atoms.positions[np.flatnonzero(atoms.numbers == 17)[0]] += [shift, 0.0, 0.0]
    return from_ase(atoms)


def variation(structure, *, pooling, apart=True):
    config = ACSF.crystal(["Na", "Cl"]).config()
    acsf = ACSF.from_config({**config, "pooling": pooling, "per_centre_species": apart})
    return acsf.variation(acsf(structure)[0])


@pytest.mark.parametrize("pooling", [["mean", "std"], ["max", "min"]])
def test_it_is_zero_where_atoms_are_alike_and_not_else(pooling):
    same = variation(rock_salt(), pooling=pooling)
    assert set(same) == {"Na", "Cl"}
    assert max(same.values()) < 1e-6
    moved = variation(rock_salt(0.2), pooling=pooling)
    assert min(moved.values()) > 1e-2


def test_without_pools_that_tell_there_is_none():
    assert variation(rock_salt(), pooling=["mean"]) == {}
    assert variation(rock_salt(), pooling=["mean", "std"], apart=False) == {}
