"""Atoms near special positions are put onto them.

Alverson et al. did it by hand for six crystals: (0.011, 0.502, 0.009) → (0, ½, 0). Their text names NaF and
SnYF3 of these; four more structure types complete them.
"""

import numpy as np
import pytest
from ase import Atoms
from ase.io import read as ase_read
from ase.spacegroup import crystal

from whorl.datasets.store import Dataset
from whorl.dft import write_calculations
from whorl.dft.vasp import VASP
from whorl.structures.convert import from_ase
from whorl.symmetry import space_group_numbers

CUBIC = {
    "NaF": (225, 4.63, ["Na", "F"], [(0, 0, 0), (0.5, 0.5, 0.5)]),
    "SnYF3": (221, 4.6, ["Sn", "Y", "F"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]),
    "CsCl": (221, 4.12, ["Cs", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)]),
    "CaF2": (225, 5.46, ["Ca", "F"], [(0, 0, 0), (0.25, 0.25, 0.25)]),
    "ZnS": (216, 5.41, ["Zn", "S"], [(0, 0, 0), (0.25, 0.25, 0.25)]),
}


def kinds():
    for name, (group, a, symbols, places) in CUBIC.items():
        yield name, group, crystal(symbols, places, spacegroup=group, cellpar=[a, a, a, 90, 90, 90])
    rutile = [(0, 0, 0), (0.305, 0.305, 0)]
    yield "TiO2", 136, crystal(["Ti", "O"], rutile, spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90])


KINDS = {name: (group, Atoms(atoms)) for name, group, atoms in kinds()}


def generated(atoms, seed):
    """As a generator leaves it: fractional coordinates off by up to 0.011, lengths by up to 0.5 %."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    off = rng.uniform(-0.011, 0.011, (len(atoms), 3))
    atoms.set_cell(atoms.cell * rng.uniform(0.995, 1.005, (3, 1)))
    atoms.set_scaled_positions(atoms.get_scaled_positions() + off)
    return atoms


@pytest.mark.parametrize("name", KINDS)
def test_generated_crystals_are_written_with_their_atoms_at_special_positions(name, tmp_path):
    group, atoms = KINDS[name]
    made = from_ase([generated(atoms, seed) for seed in range(4)])
    assert set(space_group_numbers(made).tolist()) != {group}  # nothing to be done otherwise
    data = Dataset(structures=made, ids=tuple(f"{name}-{i}" for i in range(4)))
    assert not write_calculations(data, tmp_path / "out", VASP(), refined=True, cell="conventional")
    written = [ase_read(path, format="vasp") for path in sorted(tmp_path.glob("out/*/relax_1/POSCAR"))]
    assert space_group_numbers(from_ase(written), symprec=1e-4).tolist() == [group] * 4
    for one in written:
        assert len(one) == len(atoms)
        places = one.get_scaled_positions()
        if name == "TiO2":  # x is the one coordinate that symmetry leaves free
            places = places[one.numbers == 22]
        np.testing.assert_allclose(places * 4, np.round(places * 4), atol=1e-6)
