import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT

from whorl.errors import InputError
from whorl.potentials import PotentialOutput, bulk_energy, formation_energy, make_potential


def test_equation_4():
    assert formation_energy(-35.0, 10, -6.0) == pytest.approx(2.5)
    energy, n = torch.tensor([-35.0, -4.0]), torch.tensor([10, 2])
    assert formation_energy(energy, n, -6.0).tolist() == pytest.approx([2.5, 4.0])
    assert formation_energy(energy, n, torch.tensor([-6.0, -3.0])).tolist() == pytest.approx([2.5, 1.0])


def test_the_lattice_is_relaxed():
    def energy(a):
        crystal = bulk("Pt", a=a)
        crystal.calc = EMT()
        return crystal.get_potential_energy()

    expected = min(energy(a) for a in np.linspace(3.92, 3.94, 41))
    found = bulk_energy(make_potential("emt"), "Pt")
    assert found == pytest.approx(expected, abs=1e-6)
    assert found < energy(3.92) - 1e-6  # not just the experimental one


class Spring:
    """Pulls the lattice lengths of a crystal to given ones."""

    name = "spring"

    def __init__(self, *lengths):
        self.lengths = torch.tensor(lengths, dtype=torch.float64)

    def __call__(self, structures):
        n = structures.n_atoms
        energy = ((structures.cells.norm(dim=-1) - self.lengths).square().sum(-1) - 1.0) * n
        return PotentialOutput(energy=energy, forces=torch.zeros_like(structures.positions))


def test_hexagonal_lattices_relax_both_lengths():
    # Experiment: a = 3.21, c = 5.21 Å.
    assert bulk_energy(Spring(3.3, 3.3, 5.0), "Mg") == pytest.approx(-1.0, abs=1e-6)
    assert bulk_energy(Spring(3.0, 3.0, 5.6), "Mg") == pytest.approx(-1.0, abs=1e-6)


def test_potentials_for_large_cells_only():
    potential = Spring(9.0, 9.0, 9.0)
    with pytest.raises(InputError, match="no minimum for Pt"):
        bulk_energy(potential, "Pt")
    potential.bulk_repeat = 3  # 3 × 2.77 Å
    assert bulk_energy(potential, "Pt") == pytest.approx(-1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("element", "message"),
    [("Pd2", "unknown element"), ("Fe", "cannot be computed by emt"), ("O", r"give it \(eV/atom\)")],
)
def test_elements_without_reference(element, message):
    with pytest.raises(InputError, match=message):
        bulk_energy(make_potential("emt"), element)
