"""Contract check for potentials."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whorl.potentials.schemes import SCHEMES, scheme_of

if TYPE_CHECKING:
    from whorl.potentials.base import Potential, PotentialOutput
    from whorl.structures.batch import StructureBatch

_H = 0.01  # Å, and as a strain: large enough for energies in float32


def check_potential(
    potential: Potential, structures: StructureBatch | None = None, *, tolerance: float = 0.02
) -> None:
    """Check the contract of a :class:`whorl.potentials.Potential`.

    Args:
        potential: To be checked.
        structures: Sound ones of different numbers of atoms, none at rest. By default two clusters and a
            crystal of Pt.
        tolerance: Of forces in eV/Å, of stresses in eV/Å³ times the volume per atom, and of a hundredth of
            it for energies in eV.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    structures = _of_platinum() if structures is None else structures
    assert isinstance(potential.name, str) and potential.name, "a potential needs a name"
    scheme = scheme_of(potential)
    assert scheme in SCHEMES, f"the energy scheme '{scheme}' is none of {', '.join(SCHEMES)}"
    kept, global_state = {k: v.clone() for k, v in structures.tensors.items()}, torch.get_rng_state()
    output = potential(structures)
    for name, values in kept.items():
        assert torch.equal(getattr(structures, name), values), f"the potential changed the {name} given"
    _output_is_complete(output, structures)
    _forces_are_the_gradient(potential, structures, output, tolerance)
    _stress_is_the_gradient(potential, structures, output, tolerance)
    _space_has_no_origin(potential, structures, output, tolerance)
    _structures_are_independent(potential, structures, output, tolerance)
    _a_failure_is_a_row(potential, structures, output, tolerance)
    again = pickle.loads(pickle.dumps(potential))(structures)
    _same(again.energy, output.energy, tolerance / 100, "it must give the same in another process")
    assert torch.equal(torch.get_rng_state(), global_state), "the potential used the global random state"


def _of_platinum() -> StructureBatch:
    from ase import Atoms
    from ase.build import bulk

    from whorl.structures.convert import from_ase

    triangle = Atoms("Pt3", [[0, 0, 0], [2.4, 0, 0], [1.1, 2.3, 0.2]])
    five = Atoms("Pt5", [*triangle.positions, [1.2, 0.8, 2.2], [1.2, 0.7, -2.1]])
    crystal = bulk("Pt", cubic=True)
    crystal.rattle(0.1, seed=1)
    crystal.set_cell(crystal.cell * [[1.02], [1.0], [0.97]], scale_atoms=True)
    return from_ase([triangle, crystal, five])


def _same(got: Tensor, expected: Tensor, tolerance: float, message: str) -> None:
    torch.testing.assert_close(
        got, expected, rtol=0, atol=tolerance, equal_nan=True, msg=lambda m: f"{message}: {m}"
    )


def _output_is_complete(output: PotentialOutput, structures: StructureBatch) -> None:
    count = len(structures)
    assert output.energy.shape == (count,), "one energy for each structure"
    assert output.forces.shape == structures.positions.shape, "one force for each atom"
    assert output.failures == {}, f"sound structures failed: {output.failures}"
    assert bool(output.energy.isfinite().all()), "energies must be finite"
    for name, values in (("energy", output.energy), ("forces", output.forces)):
        assert values.dtype == structures.dtype, f"{name} must have the type of the positions"
        assert not values.requires_grad, f"{name} must not carry gradients"
    if output.stress is not None:
        assert output.stress.shape == (count, 3, 3), "one stress tensor for each structure"
        flat = torch.linalg.det(structures.cells).abs() < 1e-9
        assert bool(output.stress[flat].isnan().all()), "a structure without a full cell has no stress: NaN"


def _forces_are_the_gradient(
    potential: Potential, structures: StructureBatch, output: PotentialOutput, tolerance: float
) -> None:
    if bool(output.forces.isnan().all()):
        return  # has none
    rng = torch.Generator().manual_seed(3)
    away = torch.randn(structures.positions.shape, generator=rng, dtype=torch.float64).to(structures.dtype)
    energies = [
        potential(structures.replace(positions=structures.positions + sign * _H * away)).energy
        for sign in (1, -1)
    ]
    slope = (energies[0] - energies[1]) / (2 * _H)
    expected = -_per_structure((output.forces * away).sum(1), structures)
    norm = _per_structure(away.square().sum(1), structures).sqrt()
    # The error of a central difference grows with the force itself.
    allowed = norm * tolerance + 0.02 * expected.abs()
    assert bool(((slope - expected).abs() <= allowed).all()), (
        "forces must be minus the gradient of the energy: along some direction the energy rises by "
        f"{slope.tolist()} eV/Å, and the forces say {expected.tolist()}"
    )


def _stress_is_the_gradient(
    potential: Potential, structures: StructureBatch, output: PotentialOutput, tolerance: float
) -> None:
    if output.stress is None or bool(output.stress.isnan().all()):
        return
    rows = torch.nonzero(~output.stress.flatten(1).isnan().any(1)).flatten()
    periodic, stress = structures[rows], output.stress[rows]
    strain = torch.tensor([[1.0, 0.3, 0.0], [0.3, -0.5, 0.2], [0.0, 0.2, 0.7]], dtype=structures.dtype)
    energies = []
    for sign in (1, -1):
        deformed = torch.eye(3, dtype=strain.dtype) + sign * _H / 2 * strain
        energies.append(
            potential(
                periodic.replace(positions=periodic.positions @ deformed, cells=periodic.cells @ deformed)
            ).energy
        )
    volume = torch.linalg.det(periodic.cells).abs()
    slope, expected = (energies[0] - energies[1]) / _H, volume * (stress * strain).sum((1, 2))
    allowed = periodic.n_atoms * tolerance * 10 + 0.02 * expected.abs()
    assert bool(((slope - expected).abs() <= allowed).all()), (
        f"volume times stress must be the gradient in the strain: {slope.tolist()} eV by differences, "
        f"{expected.tolist()} eV by the stress (in eV/Å³, positive for a cell that wants to shrink)"
    )


def _space_has_no_origin(
    potential: Potential, structures: StructureBatch, output: PotentialOutput, tolerance: float
) -> None:
    dtype = structures.dtype
    shift = torch.tensor([0.3, -1.7, 2.1], dtype=dtype)
    rotation = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    )[0].to(dtype)
    moved = potential(structures.replace(positions=structures.positions + shift))
    _same(moved.energy, output.energy, tolerance / 100, "a shift of all atoms must not change the energy")
    turned = potential(
        structures.replace(positions=structures.positions @ rotation, cells=structures.cells @ rotation)
    )
    _same(turned.energy, output.energy, tolerance / 10, "a rotation must not change the energy")
    _same(turned.forces, output.forces @ rotation, tolerance, "forces must turn with the structure")


def _structures_are_independent(
    potential: Potential, structures: StructureBatch, output: PotentialOutput, tolerance: float
) -> None:
    for b in range(len(structures)):
        alone = potential(structures[b])
        atoms = structures.structure_index == b
        _same(alone.energy, output.energy[b : b + 1], tolerance / 100, "energies must not depend on others")
        _same(alone.forces, output.forces[atoms], tolerance, "forces must not depend on other structures")
    none = potential(structures[:0])
    assert none.energy.shape == (0,) and none.forces.shape == (0, 3), "no structures: no energies"


def _a_failure_is_a_row(
    potential: Potential, structures: StructureBatch, output: PotentialOutput, tolerance: float
) -> None:
    broken = structures.positions.clone()
    broken[structures.first_atom[1]] = torch.nan
    failed = potential(structures.replace(positions=broken))
    assert set(failed.failures) == {1}, (
        "a structure with a NaN coordinate must be the only one among the failures, got "
        f"{dict(failed.failures)}"
    )
    assert failed.failures[1], "a failure needs a reason"
    others = torch.arange(len(structures)) != 1
    assert bool(failed.energy[1].isnan()), "the energy of a structure that failed is NaN"
    assert bool(failed.forces[structures.structure_index == 1].isnan().all()), "its forces are NaN too"
    _same(
        failed.energy[others], output.energy[others], tolerance / 100, "a failure must not change the others"
    )


def _per_structure(values: Tensor, structures: StructureBatch) -> Tensor:
    return values.new_zeros(len(structures)).index_add(0, structures.structure_index, values)
