import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from whorl.errors import InputError
from whorl.potentials import PotentialOutput, bulk_energy, formation_energy, make_potential
from whorl.potentials.base import require_described
from whorl.structures import from_ase


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


@pytest.mark.parametrize(("element", "energy"), [("H", -13.370), ("N", -78.422), ("Cl", -123.531)])
def test_gases_are_the_reference_of_methods_of_molecules_alone(element, energy):
    pytest.importorskip("tblite")
    gfn2 = make_potential("gfn2-xtb")
    assert bulk_energy(gfn2, element) == pytest.approx(energy, abs=2e-3)
    relaxed = Atoms(element * 2, [[0, 0, 0], [0, 0, {"H": 0.776, "N": 1.088, "Cl": 2.019}[element]]])
    assert float(gfn2(from_ase(relaxed)).energy[0]) / 2 == pytest.approx(bulk_energy(gfn2, element), abs=5e-3)
    with pytest.raises(InputError, match="no simple lattice"):
        bulk_energy(make_potential("emt"), element)


def test_elements_that_a_method_does_not_know_are_named_together():
    require_described(make_potential("emt"), ["Cu", "Au"])
    require_described(Spring(3.0, 3.0, 5.0), ["Fe"])  # does not say which it knows
    with pytest.raises(InputError, match=r"emt does not know Fe, O; it knows Al, Ni, Cu, Pd, Ag, Pt, Au\."):
        require_described(make_potential("emt"), ["Cu", "Fe", "O"])
