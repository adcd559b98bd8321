"""Check of the contract of representations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from whorl.errors import InputError

if TYPE_CHECKING:
    from whorl.representations.base import Representation
    from whorl.structures.batch import StructureBatch

Tensor = torch.Tensor

_STEP = 1e-5  # Å or of a strain, of numerical derivatives
_LOOSE = 2e-6  # relative error of these


def check_representation(factory: Callable[[], Representation], *, species: Sequence[str]) -> None:
    """Check the contract of a :class:`whorl.representations.Representation`.

    It is tried on small random molecules and crystals, of one atom and of several. Those that its
    ``find_problems`` names must be refused, all others encoded. Of the invariances, those are checked that
    the representation claims in ``invariances``; derivatives only if it is ``differentiable``.

    Args:
        factory: Returns a new representation at each call; a small one is enough.
        species: Chemical symbols of elements that it encodes, one or more.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    representation = factory()
    structures = _encodable(representation, _examples(species))
    _check_layout(representation)
    _check_config(representation, factory(), structures)
    _check_values(representation, structures)
    _check_refusals(representation, structures)
    for invariance in sorted(representation.invariances):
        assert invariance in _CHANGES, f"invariances: '{invariance}' is none of {', '.join(_CHANGES)}"
        _check_invariance(representation, structures, invariance)
    if representation.differentiable:
        _check_derivatives(representation, structures)
        _check_symmetric_coordinates(representation, structures)


# What is tried.


def _examples(species: Sequence[str]) -> list[Atoms]:
    return [
        Atoms(species[0], positions=[[0.3, -0.2, 0.1]]),
        _random(species, 2, seed=1),
        _random(species, 5, seed=2),
        _random(species[::-1], 1, seed=3, periodic=True),
        _random(species, 4, seed=4, periodic=True),
        _random(species, 2, seed=5, periodic=True),
        _random(species, 4, seed=6, periodic=True),
    ]


def _bond(species: Sequence[str]) -> float:
    return 2.0 * max(float(covalent_radii[atomic_numbers[symbol]]) for symbol in species)


def _cell(n: int, species: Sequence[str], *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    length = 1.3 * _bond(species) * n ** (1 / 3)
    return length * (np.diag([1.0, 1.1, 1.2]) + rng.uniform(-0.15, 0.15, (3, 3)))


def _random(species: Sequence[str], n: int, *, seed: int, periodic: bool = False) -> Atoms:
    """Return atoms that are no nearer than 0.8 of a bond, without any symmetry."""
    rng, bond = np.random.default_rng(seed), _bond(species)
    symbols = [species[index % len(species)] for index in range(n)]
    cell = _cell(n, species, seed=seed)
    while True:
        atoms = Atoms(symbols, scaled_positions=rng.uniform(0.02, 0.98, (n, 3)), cell=cell, pbc=periodic)
        distances = atoms.get_all_distances(mic=periodic) + 10.0 * bond * np.eye(n)
        if distances.min() > 0.8 * bond:
            return atoms if periodic else Atoms(symbols, positions=atoms.positions)


def _encodable(representation: Representation, examples: list[Atoms]) -> StructureBatch:
    from whorl.structures import from_ase

    structures = from_ase(examples)
    problems = representation.find_problems(structures)
    good = [index for index in range(len(structures)) if index not in problems]
    assert good, f"find_problems refuses every example, the first because it {problems[0]}"
    for index in problems:
        _assert_refused(representation, structures[index], f"what find_problems names ({problems[index]})")
    assert good != [0] and good != [3], "find_problems refuses all examples of several atoms"
    return structures[good]


# The parts of the contract.


def _check_layout(representation: Representation) -> None:
    layout = representation.layout
    count = math.prod(layout.shape)
    assert len(layout.names) == count, f"layout: {len(layout.names)} names for {count} features"
    assert len(set(layout.names)) == count, "layout: names must be unique"
    ranges = sorted((block.start, block.stop) for block in layout.blocks.values())
    assert all(0 <= start < stop <= count for start, stop in ranges), "layout: a block is out of range"
    sharpness = representation.sharpness()
    assert sharpness.shape == (count,), "sharpness must be one number per feature"
    assert bool((sharpness.isfinite() & (sharpness >= 0)).all()), "sharpness must be finite and not negative"


def _check_config(representation: Representation, again: Representation, structures: StructureBatch) -> None:
    config = representation.config()
    assert config.get("kind") == representation.kind, "config() must carry the kind"
    kept = json.loads(json.dumps(config))
    rebuilt = type(representation).from_config(kept)
    assert rebuilt.config() == config, "config() does not rebuild the representation"
    assert rebuilt.layout.names == representation.layout.names, "rebuilt from config() it has another layout"
    with torch.no_grad():
        expected = representation(structures)
        assert torch.equal(rebuilt(structures), expected), "rebuilt from config() it gives other values"
    assert rebuilt.fingerprint == representation.fingerprint == again.fingerprint, (
        "the same settings must have the same fingerprint"
    )


def _check_values(representation: Representation, structures: StructureBatch) -> None:
    kept = {name: tensor.clone() for name, tensor in structures.tensors.items()}
    random_state = torch.get_rng_state()
    with torch.no_grad():
        value = representation(structures)
        shape = (len(structures), *representation.layout.shape)
        assert tuple(value.shape) == shape, f"got values of shape {tuple(value.shape)}, expected {shape}"
        assert value.dtype == structures.dtype, "values must have the floating-point type of the positions"
        assert bool(value.isfinite().all()), "values must be finite"
        assert torch.equal(value, representation(structures)), "the same structures must give the same values"
        for index in range(len(structures)):
            alone = representation(structures[index])[0]
            assert _close(alone[None], value[[index]]), "batch and single must agree"
        backwards = representation(structures[list(range(len(structures)))[::-1]])
        assert _close(backwards.flip(0), value), "the order of a batch must not matter"
        single = representation(structures.to(dtype=torch.float32))
        assert single.dtype == torch.float32, "structures in float32 must give values in float32"
        assert _close(single.double(), value, tolerance=1e-3), "float32 and float64 must agree"
        assert tuple(representation(structures[:0]).shape) == (0, *shape[1:]), "no structures: no rows"
        distinct = representation(structures[[-1, -2]])
        assert not torch.equal(distinct[0], distinct[1]), "different structures must not give the same values"
    unchanged = all(torch.equal(tensor, kept[name]) for name, tensor in structures.tensors.items())
    assert unchanged, "the structures were changed"
    assert torch.equal(torch.get_rng_state(), random_state), "the global random state was used"
    seconds = representation.seconds(structures)
    assert seconds.shape == (len(structures),) and bool((seconds >= 0).all()), (
        "seconds: one for each structure"
    )


def _check_refusals(representation: Representation, structures: StructureBatch) -> None:
    last = structures[-1]
    for number in (torch.nan, torch.inf):
        astray = last.positions.clone()
        astray[0, 1] = number
        _assert_refused(representation, last.replace(positions=astray), f"a position of {number}")
    if bool(last.pbc.any()):
        cells = last.cells.clone()
        cells[0, 0, 0] = torch.nan
        _assert_refused(representation, last.replace(cells=cells), "a cell of nan")
    empty = last[:0].replace(cells=last.cells, pbc=last.pbc, info=())
    _assert_refused(representation, empty, "a structure without atoms")
    if representation.species is not None:
        declared = {atomic_numbers[symbol] for symbol in representation.species}
        undeclared = next((z for z in range(1, len(chemical_symbols)) if z not in declared), None)
        if undeclared is not None:
            numbers = last.atomic_numbers.clone()
            numbers[0] = undeclared
            foreign = last.replace(atomic_numbers=numbers)
            _assert_refused(representation, foreign, "an element that was not declared")
            if representation.differentiable:
                _assert_refused(representation, foreign, "an element that was not declared", jacobian=True)


def _check_invariance(representation: Representation, structures: StructureBatch, invariance: str) -> None:
    from whorl.structures import from_ase, to_ase

    change = _CHANGES[invariance]
    rng = np.random.default_rng(11)
    atoms = to_ase(structures.replace(info=()))
    if invariance in _OF_CRYSTALS:
        atoms = [item for item in atoms if item.pbc.all()]
    if not atoms:
        return
    with torch.no_grad():
        before = representation(from_ase(atoms))
        after = representation(from_ase([change(item.copy(), rng) for item in atoms]))
    words = f"values must not change with {_WORDS[invariance]}, as 'invariances' claims"
    assert _close(after, before, tolerance=1e-6), words


def _permuted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    return atoms[rng.permutation(len(atoms))]


def _rotated(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    atoms.positions, atoms.cell = atoms.positions @ turn, atoms.cell.array @ turn
    return atoms


def _translated(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    atoms.positions += rng.normal(size=3)
    return atoms


def _shifted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    atoms.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    return atoms


def _rebased(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    atoms.cell = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]]) @ atoms.cell.array
    return atoms


def _repeated(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    return atoms.repeat((2, 1, 1))


_CHANGES: dict[str, Callable[[Atoms, np.random.Generator], Atoms]] = {
    "permutation": _permuted,
    "rotation": _rotated,
    "translation": _translated,
    "lattice_shift": _shifted,
    "lattice_basis": _rebased,
    "supercell": _repeated,
}
_WORDS = {
    "permutation": "the order of the atoms",
    "rotation": "a rotation",
    "translation": "a translation",
    "lattice_shift": "shifts of atoms by lattice vectors, also to outside the cell",
    "lattice_basis": "the choice of the lattice vectors",
    "supercell": "the number of cells",
}
_OF_CRYSTALS = ("lattice_shift", "lattice_basis", "supercell")


def _check_derivatives(representation: Representation, structures: StructureBatch) -> None:
    from whorl.representations.base import Representation as Base

    with torch.no_grad():
        expected = representation(structures).flatten(1)
    size = int(structures.n_atoms.max())
    value, jacobian = representation.value_and_jacobian(structures, strain=True)
    shape = (*expected.shape, size + 3, 3)
    assert tuple(jacobian.shape) == shape, f"Jacobian: got {tuple(jacobian.shape)}, expected {shape}"
    assert not jacobian.requires_grad and not value.requires_grad, "the Jacobian must carry no gradients"
    assert _close(value, expected), "value_and_jacobian gives other values"
    beyond = torch.arange(size) >= structures.n_atoms[:, None]
    rows = jacobian[:, :, :size]
    assert not bool(rows.transpose(1, 2)[beyond].any()), (
        "the Jacobian must be zero beyond a structure's own atoms"
    )
    if type(representation).value_and_jacobian is not Base.value_and_jacobian:
        _, by_autograd = Base.value_and_jacobian(representation, structures, strain=True)
        assert _close(jacobian, by_autograd, tolerance=1e-8), "Jacobian and autograd must agree"
        _, without = representation.value_and_jacobian(structures)
        assert _close(without, rows), "the Jacobian without a strain must be that of the atoms"
    single = structures[:1].to(dtype=torch.float32)
    assert representation.value_and_jacobian(single)[1].dtype == torch.float32, (
        "structures in float32 must give a Jacobian in float32"
    )
    rng = torch.Generator().manual_seed(3)
    moves = torch.randn(structures.positions.shape, generator=rng, dtype=torch.float64)
    strains = torch.randn(structures.cells.shape, generator=rng, dtype=torch.float64)
    still, unstrained = torch.zeros_like(moves), torch.zeros_like(strains)
    _check_numerically(representation, structures, jacobian, moves, unstrained)
    _check_numerically(representation, structures, jacobian, still, strains)


def _check_numerically(
    representation: Representation,
    structures: StructureBatch,
    jacobian: Tensor,
    moves: Tensor,
    strains: Tensor,
) -> None:
    from whorl.structures.cells import strained

    ends = []
    for sign in (1.0, -1.0):
        moved = structures.replace(positions=structures.positions + sign * _STEP * moves)
        with torch.no_grad():
            ends.append(representation(strained(moved, sign * _STEP * strains)).flatten(1))
    numerical = (ends[0] - ends[1]) / (2.0 * _STEP)
    size = int(structures.n_atoms.max())
    placed = moves.new_zeros(len(structures), size, 3)
    placed[structures.structure_index, structures.position_in_structure] = moves
    expected = torch.einsum("bfnx,bnx->bf", jacobian, torch.cat([placed, strains], 1))
    what = "a strain of positions and cell" if bool(strains.any()) else "the positions"
    # Where a feature bends, the two sides differ; one that does at one of a few random structures is odd.
    error = (numerical - expected).abs().amax(1) / (1.0 + expected.abs().amax(1))
    assert bool((error < _LOOSE).all()), f"derivatives in {what} differ from numerical ones"


def _check_symmetric_coordinates(representation: Representation, structures: StructureBatch) -> None:
    from whorl.representations.base import Representation as Base
    from whorl.structures import from_ase
    from whorl.symmetry.coordinates import SymmetryCoordinates

    rng = torch.Generator().manual_seed(4)
    n, b = structures.n_atoms[-1:], len(structures) - 1
    alike = structures[[b]]
    plain = SymmetryCoordinates(
        head=torch.arange(int(n))[None],
        atoms=torch.randn(1, int(n), 3, 4, generator=rng, dtype=torch.float64),
        strain=torch.randn(1, 3, 3, 4, generator=rng, dtype=torch.float64) * float(alike.pbc.all()),
    )
    cases = [(alike, plain)]
    symbol = chemical_symbols[int(structures.atomic_numbers[0])]
    length = 2.3 * float(covalent_radii[int(structures.atomic_numbers[0])])
    cubic = Atoms([symbol] * 2, scaled_positions=[[0, 0, 0], [0.5] * 3], cell=[length] * 3, pbc=True)
    crystal = from_ase(cubic)
    if not representation.find_problems(crystal):  # two atoms of one orbit, and a cell that expands
        expansion = torch.eye(3, dtype=torch.float64)[None, :, :, None]
        still = torch.zeros(1, 2, 3, 1, dtype=torch.float64)
        cases.append(
            (crystal, SymmetryCoordinates(head=torch.zeros(1, 2).long(), atoms=still, strain=expansion))
        )
    for batch, coordinates in cases:
        value, along = representation.value_and_jacobian_along(batch, coordinates)
        value2, along2 = Base.value_and_jacobian_along(representation, batch, coordinates)
        assert _close(value, value2), "value_and_jacobian_along gives other values"
        resting, none = representation.value_and_jacobian_along(batch, coordinates.resting)
        assert _close(resting, value2) and none.shape == (*value2.shape, 0), (
            "value_and_jacobian_along without coordinates must give the values"
        )
        # A deviation of zero, of atoms that are all alike, has no derivative to compare.
        bends = (value2.abs() < 1e-6)[:, :, None]
        assert _close(along.masked_fill(bends, 0), along2.masked_fill(bends, 0), tolerance=1e-8), (
            "value_and_jacobian_along must agree with the Jacobian"
        )


def _assert_refused(
    representation: Representation, structures: StructureBatch, what: str, *, jacobian: bool = False
) -> None:
    try:
        if jacobian:
            representation.value_and_jacobian(structures)
        else:
            representation(structures)
    except InputError:
        return
    raise AssertionError(f"{what} must raise InputError")


def _close(a: Tensor, b: Tensor, *, tolerance: float = 1e-10) -> bool:
    """Tell whether numbers agree, relative to the largest of each structure."""
    if a.shape != b.shape:
        return False
    if a.numel() == 0:
        return True
    scale = 1.0 + b.flatten(1).abs().amax(1)
    return bool(((a - b).flatten(1).abs().amax(1) <= tolerance * scale).all())
