"""Every registered potential keeps the contract, and broken ones are found out."""

import dataclasses

import pytest
import torch
from ase import Atoms

from whorl.axes import POTENTIALS
from whorl.errors import InputError
from whorl.potentials import EnergyMethod, PotentialOutput, make_potential
from whorl.structures import StructureBatch, from_ase
from whorl.testing import check_potential

WATER = Atoms("OH2", [[0, 0, 0.119], [0, 0.8, -0.5], [0, -0.763, -0.477]])
MOLECULES = [WATER, Atoms("CO", [[0, 0, 0], [0.1, 0, 1.2]]), Atoms("N2", [[0, 0, 0], [0, 0.1, 1.15]])]
STRUCTURES = {"gfn1-xtb": MOLECULES, "gfn2-xtb": MOLECULES}
"""Those that are quick; without an entry, clusters and a crystal of Pt."""


@pytest.mark.parametrize("name", ["emt", "chgnet", "gfn1-xtb", "gfn2-xtb"])
def test_every_registered_potential_keeps_the_contract(name):
    assert name in POTENTIALS
    method = POTENTIALS.get(name)
    if method.requires:
        pytest.importorskip(method.requires[0], reason=f"needs the extra whorl[{method.requires[1]}]")
    structures = STRUCTURES.get(name)
    check_potential(make_potential(name), None if structures is None else from_ase(structures))


def test_any_ase_calculator_keeps_the_contract():
    check_potential(make_potential("ase.calculators.morse:MorsePotential", r0=2.5, epsilon=0.7))


class Springs(EnergyMethod):
    """A small sound potential without stress: springs between all atoms of a structure."""

    def __call__(self, structures: StructureBatch) -> PotentialOutput:
        energies, forces, failures = [], [], {}
        for b, one in enumerate(structures):
            x = one.positions.detach().clone().requires_grad_()
            d = (x[:, None] - x[None]).square().sum(2)
            energy = 0.05 * (d - 6.0).square().sum()
            force = -torch.autograd.grad(energy, x)[0]
            if not bool(energy.isfinite()):
                failures[b] = "NaN coordinates."
                force = torch.full_like(force, torch.nan)
            energies.append(energy.detach())
            forces.append(force)
        return PotentialOutput(
            energy=torch.stack(energies) if energies else structures.positions.new_zeros(0),
            forces=torch.cat(forces) if forces else structures.positions,
            failures=failures,
        )


def test_a_potential_of_another_package_keeps_the_contract():
    check_potential(Springs())
    path = f"{__name__}:Springs"
    assert type(make_potential(path)).__qualname__ == "Springs"
    with pytest.raises(InputError, match="unknown key 'stiffness'"):
        make_potential(path, stiffness=2.0)


class Broken(Springs):
    def __call__(self, structures: StructureBatch) -> PotentialOutput:
        return self.broken(super().__call__(structures), structures)


class OtherSign(Broken):
    def broken(self, output, structures):
        return dataclasses.replace(output, forces=-output.forces)


class PerAtom(Broken):
    def broken(self, output, structures):
        return dataclasses.replace(output, energy=output.energy / structures.n_atoms)


class Neighbourly(Broken):
    def broken(self, output, structures):
        return dataclasses.replace(output, energy=output.energy + 0.1 * len(structures))


class FixedOrigin(Broken):
    def broken(self, output, structures):
        centre = structures.positions.nan_to_num().sum() * 1e-2
        return dataclasses.replace(output, energy=output.energy + centre)


class Silent(Broken):
    def broken(self, output, structures):
        return dataclasses.replace(output, failures={})


class OneFailsAll(Broken):
    def broken(self, output, structures):
        failures = dict.fromkeys(range(len(structures)), "no") if output.failures else {}
        return dataclasses.replace(output, failures=failures)


class WrongStress(Broken):
    def broken(self, output, structures):
        nan = torch.full_like(structures.cells, torch.nan)
        full = torch.linalg.det(structures.cells).abs() > 1
        return dataclasses.replace(output, stress=torch.where(full[:, None, None], torch.ones_like(nan), nan))


class Mutating(Broken):
    def broken(self, output, structures):
        structures.positions.add_(1.0)
        return output


class Random(Broken):
    def broken(self, output, structures):
        torch.rand(1)
        return output


class WithGradient(Broken):
    def broken(self, output, structures):
        return dataclasses.replace(output, energy=output.energy.requires_grad_())


class Nameless(Springs):
    name = ""

    def __init__(self):
        super().__init__()
        self.name = ""


class OfNoScheme(Springs):
    scheme = "springs"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (OtherSign, "minus the gradient"),
        (PerAtom, "minus the gradient"),
        (Neighbourly, "must not depend on others"),
        (FixedOrigin, "shift of all atoms|minus the gradient"),
        (Silent, "only one among the failures"),
        (OneFailsAll, "only one among the failures"),
        (WrongStress, "gradient in the strain"),
        (Mutating, "changed the positions"),
        (Random, "global random state"),
        (WithGradient, "must not carry gradients"),
        (Nameless, "needs a name"),
        (OfNoScheme, "energy scheme 'springs' is none of"),
    ],
)
def test_a_broken_potential_is_found_out(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_potential(broken())
