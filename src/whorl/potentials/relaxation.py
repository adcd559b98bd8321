r"""Relaxation of many structures at once: positions and cells, by FIRE or L-BFGS.

The coordinates are those of ASE's ``FrechetCellFilter``: the positions :math:`x` in the cell at the start,
and :math:`N \log F`, where the deformation F takes that cell to the present one, so that atoms are at
:math:`F x`. The forces on them are

.. math:: F^T f, \qquad \frac{1}{N}\, L\bigl(\log F^T,\ -V (σ + p)\, F^{-T}\bigr)

with the Fréchet derivative L of the matrix exponential, which is a block of the exponential of a matrix of
twice the size. Structures are independent: each has its own state, and leaves the batch when it has converged
or failed; others enter in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.potentials.base import Potential, PotentialOutput
from whorl.potentials.optimizers import LBFGS, Fire, Optimizer, State, per_structure
from whorl.potentials.schemes import scheme_of
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.convert import Structures, as_batch
from whorl.symmetry.operations import Operations, with_operations

STATUSES = ("converged", "not converged", "collapsed", "exploded", "out of range", "failed")
"""How a relaxation can end; only after the first two is there a relaxed structure."""

GPA = 160.21766208
"""GPa in an eV/Å³."""

_OPTIMIZERS: Mapping[str, type[Optimizer]] = {"fire": Fire, "lbfgs": LBFGS}

# Beyond these a cell has left its crystal, or a potential its training data.
_SMALLEST, _LARGEST = 0.25, 4.0  # volume, as a fraction of that at the start
_MOST_DEFORMED = 2.0  # component of log F
_LARGEST_FORCE = 1e3  # eV/Å
_LOWEST_ENERGY = -20.0  # eV per atom
# Energy scales on which no crystal is below that; on others (all electrons, say) the start is zero.
_COHESIVE_SCHEMES = ("mp2020", "mp-legacy", "pbe+u", "pbe", "pbesol", "matpes-pbe", "emt")

_ATOMS_AT_ONCE = 20_000  # structures enter while fewer are moving

_Failure = tuple[str, str]  # status and reason


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """Relaxed structures, in the order of those given: B with A atoms in all.

    Where one ended in another way than ``converged`` or ``not converged``, the structure is as it was given,
    and its numbers are NaN.

    Attributes:
        structures: The relaxed structures, in float64. Atoms are not wrapped into the cell, so that
            displacements can be measured.
        energy: In eV, shape (B,), without the term of the external pressure.
        initial_energy: In eV, shape (B,).
        forces: In eV/Å, shape (A, 3).
        stress: In eV/Å³, shape (B, 3, 3), NaN without a full cell; None if the potential gives none.
        status: One of :data:`STATUSES` for each structure.
        reasons: Index of each structure that is not ``converged``, with the reason.
        steps: Steps made, shape (B,); the energy calls are one more.
        max_force: Largest force on any atom in eV/Å, shape (B,).
        max_stress: Largest component of the stress plus external pressure in GPa, shape (B,); NaN without a
            full cell.
        pressure: Minus a third of the trace of the stress, in GPa, shape (B,); NaN without a full cell.
        frames: The structures on the way, those given first, a batch for each structure, with the ``energy``
            of each as ``info``; None if not kept.
    """

    structures: StructureBatch
    energy: Float[Tensor, "B"]
    initial_energy: Float[Tensor, "B"]
    forces: Float[Tensor, "A 3"]
    stress: Float[Tensor, "B 3 3"] | None
    status: tuple[str, ...]
    steps: Int[Tensor, "B"]
    max_force: Float[Tensor, "B"]
    max_stress: Float[Tensor, "B"]
    pressure: Float[Tensor, "B"]
    reasons: Mapping[int, str] = field(default_factory=dict)
    frames: list[StructureBatch] | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """State of a batch of relaxations after a number of steps.

    Attributes:
        step: Steps made so far by those that were there from the beginning; 0 are the structures as given.
        index: Which of the given structures are still moving or have just ended, shape (b,).
        steps: Steps that each of them made, shape (b,).
        structures: These b structures.
        energy: In eV, shape (b,).
        forces: In eV/Å, shape (a, 3).
        stress: In eV/Å³, shape (b, 3, 3), as that of a :class:`PotentialOutput`.
        largest_force: In eV/Å, the largest on any atom, shape (b,).
        largest_stress: In GPa, the largest component of stress plus external pressure, shape (b,); NaN
            without a full cell.
        converged: Largest force, and stress of a free cell, below the tolerances; the structure ends here,
            shape (b,).
        failures: Given structures that cannot go on from this step, and why; they end here, and are not among
            ``index``.
        statuses: Of the same structures, one of :data:`STATUSES`.
        computed: Given structures that the potential computed, those that failed in it too, shape (c,).
    """

    step: int
    index: Int[Tensor, "b"]
    steps: Int[Tensor, "b"]
    structures: StructureBatch
    energy: Float[Tensor, "b"]
    forces: Float[Tensor, "a 3"]
    stress: Float[Tensor, "b 3 3"] | None
    largest_force: Float[Tensor, "b"]
    largest_stress: Float[Tensor, "b"]
    converged: Bool[Tensor, "b"]
    failures: Mapping[int, str]
    statuses: Mapping[int, str]
    computed: Int[Tensor, "c"]


def relaxed(
    structures: Structures,
    potential: Potential,
    *,
    cell: bool = True,
    optimizer: str = "lbfgs",
    force_tolerance: float = 0.05,
    stress_tolerance: float = 0.1,
    steps: int = 500,
    pressure: float = 0.0,
    symmetry: bool = False,
    keep_frames: bool = False,
) -> Relaxation:
    """Relax positions and cells of many structures at once.

    A structure is given up as ``collapsed`` or ``exploded`` where its volume has left 1/4 to 4 times that at
    the start, and as ``out of range`` where a force is above 1000 eV/Å, or the energy below -20 eV per atom
    (on an energy scale on which crystals may be: 20 eV below the start).

    Args:
        structures: Initial structures. The cells of those that are not periodic in all directions are fixed.
        potential: Gives energies, forces and stresses.
        cell: Relax the cell too.
        optimizer: ``lbfgs``, or ``fire``, which makes the steps of ASE's.
        force_tolerance: Convergence criterion: largest force on any atom, in eV/Å.
        stress_tolerance: Convergence criterion: largest component of the stress plus pressure, in GPa.
        steps: Maximum number of steps.
        pressure: External pressure in GPa.
        symmetry: Keep the space group of each crystal, as spglib finds it within 0.01 Å.
        keep_frames: Also return the structures on the way.

    Raises:
        InputError: Unknown optimizer, tolerances that are not positive, or a potential without stresses for
            the cells.
    """
    if optimizer not in _OPTIMIZERS:
        raise unknown_option("optimizer", optimizer, _OPTIMIZERS)
    given = as_batch(structures).to(dtype=torch.float64)
    relaxer = _Relaxer(
        given,
        potential,
        optimizer=_OPTIMIZERS[optimizer](),
        cell=cell,
        force_tolerance=force_tolerance,
        stress_tolerance=stress_tolerance,
        steps=steps,
        pressure=pressure,
        symmetry=symmetry,
        guarded=True,
    )
    results = _Results(given, keep_frames=keep_frames)
    for frame in relaxer.frames():
        results.add(frame, last=frame.steps == steps)
    return results.relaxation(force_tolerance, stress_tolerance if cell else math.inf)


def relax(
    structures: Structures,
    potential: Potential,
    *,
    steps: int = 200,
    cell: bool = False,
    force_tolerance: float = 0.05,
    stress_tolerance: float = 0.1,
    longest_step: float = 0.2,
    time_step: float = 0.1,
    longest_time_step: float = 1.0,
    frozen: Bool[Tensor, "A"] | None = None,
) -> Iterator[Frame]:
    """Relax structures with FIRE, yielding a frame per step.

    Structures are independent: each has its own time step, and leaves the batch when it has converged
    or failed. With free cells they are given up where :func:`relaxed` does it.

    Args:
        structures: Initial structures.
        potential: Gives energies and forces.
        steps: Maximum number of steps.
        cell: Relax the cells too, of those that are periodic in all directions.
        force_tolerance: In eV/Å.
        stress_tolerance: In GPa.
        longest_step: Maximum displacement of an atom per step, in Å.
        time_step: First time step, with unit mass, in Å / sqrt(eV).
        longest_time_step: It grows to at most this.
        frozen: Atoms that stay, whose forces count as zero; the cells of their structures stay too.
    """
    optimizer = Fire(longest_step, time_step=time_step, longest_time_step=longest_time_step, patience=5)
    yield from _Relaxer(
        as_batch(structures),
        potential,
        optimizer=optimizer,
        cell=cell,
        force_tolerance=force_tolerance,
        stress_tolerance=stress_tolerance,
        steps=steps,
        guarded=cell,
        frozen=frozen,
    ).frames()


@dataclass(frozen=True)
class _Moving:
    """Structures that are being relaxed; the coordinates of each are n rows of its atoms, then 3 of its cell.

    Attributes:
        index: Which of the given structures these are.
        start: As they were at the start, where F = 1.
        rows: Positions at F = 1; N log F.
        free: Whose cells are relaxed.
        steps: Made by each.
        operations: That each one keeps.
        initial_energy: NaN before the first step.
        state: Of the optimizer.
    """

    index: Int[Tensor, "b"]
    start: StructureBatch
    rows: Float[Tensor, "R 3"]
    free: Bool[Tensor, "b"]
    steps: Int[Tensor, "b"]
    operations: Sequence[Operations | None]
    initial_energy: Float[Tensor, "b"]
    state: State

    @property
    def owner(self) -> Int[Tensor, "R"]:
        """Which structure each row belongs to."""
        every = torch.arange(len(self.index), device=self.rows.device)
        return every.repeat_interleave(self.start.n_atoms + 3)

    @property
    def of_atoms(self) -> Bool[Tensor, "R"]:
        """Which rows are atoms: all but the last three of each structure."""
        ends = torch.cumsum(self.start.n_atoms + 3, 0)
        chosen = torch.ones(len(self.rows), dtype=torch.bool, device=self.rows.device)
        chosen[(ends[:, None] - torch.arange(1, 4, device=ends.device)).flatten()] = False
        return chosen

    @property
    def log_deformation(self) -> Float[Tensor, "b 3 3"]:
        return self.rows[~self.of_atoms].reshape(-1, 3, 3) / self.start.n_atoms[:, None, None]

    def structures(self) -> StructureBatch:
        deformation = torch.linalg.matrix_exp(self.log_deformation)
        turned = deformation[self.start.structure_index]
        return self.start.replace(
            positions=torch.einsum("axy,ay->ax", turned, self.rows[self.of_atoms]),
            cells=self.start.cells @ deformation.mT,
        )

    def select(self, chosen: Bool[Tensor, "b"]) -> _Moving:
        if bool(chosen.all()):
            return self
        rows = chosen[self.owner]
        return _Moving(
            self.index[chosen],
            self.start[chosen],
            self.rows[rows],
            self.free[chosen],
            self.steps[chosen],
            [kept for kept, here in zip(self.operations, chosen.tolist(), strict=True) if here],
            self.initial_energy[chosen],
            self.state.select(chosen, rows),
        )

    def joined(self, other: _Moving) -> _Moving:
        return _Moving(
            torch.cat([self.index, other.index]),
            StructureBatch.concatenate([self.start, other.start]),
            torch.cat([self.rows, other.rows]),
            torch.cat([self.free, other.free]),
            torch.cat([self.steps, other.steps]),
            [*self.operations, *other.operations],
            torch.cat([self.initial_energy, other.initial_energy]),
            State.concatenate([self.state, other.state]),
        )


class _Relaxer:
    """The loop of relaxations; see :func:`relaxed` and :func:`relax` for its settings.

    Args:
        structures: As given.
        potential: The energy method.
        optimizer: Makes the steps.
        guarded: Give structures up that have left the range in which a potential means anything.
        frozen: Atoms that stay.
    """

    def __init__(
        self,
        structures: StructureBatch,
        potential: Potential,
        *,
        optimizer: Optimizer,
        cell: bool,
        force_tolerance: float,
        stress_tolerance: float,
        steps: int,
        pressure: float = 0.0,
        symmetry: bool = False,
        guarded: bool = False,
        frozen: Bool[Tensor, "A"] | None = None,
    ) -> None:
        for name, value in (("force_tolerance", force_tolerance), ("stress_tolerance", stress_tolerance)):
            if not value > 0:
                raise InputError(f"{name}: got {value}, expected a number greater than 0.")
        if steps < 0:
            raise InputError(f"steps: got {steps}, expected 0 (one computation of each) or more.")
        if not math.isfinite(pressure):
            raise InputError(f"pressure: got {pressure}, expected a pressure in GPa.")
        self.structures, self.potential, self.optimizer = structures.replace(info=()), potential, optimizer
        self.cell, self.symmetry, self.guarded = cell, symmetry, guarded
        none = torch.zeros(len(structures.positions), dtype=torch.bool, device=structures.device)
        self.frozen = none if frozen is None else frozen
        self.held = torch.zeros(len(structures), dtype=torch.bool, device=structures.device)
        self.held[structures.structure_index[self.frozen]] = True
        self.force_tolerance, self.stress_tolerance = force_tolerance, stress_tolerance
        self.steps, self.pressure = steps, pressure
        self.has_zero = scheme_of(potential) in _COHESIVE_SCHEMES
        self.gives_stress = False

    def frames(self) -> Iterator[Frame]:
        """Yield all that is moving, step by step."""
        failures = {k: ("failed", reason) for k, reason in _unfit(self.structures, cell=self.cell).items()}
        waiting = [k for k in range(len(self.structures)) if k not in failures]
        moving = self._entering([])
        step = 0
        while waiting or len(moving.index) or failures:
            entering = self._take(waiting, int(moving.start.n_atoms.sum()))
            if entering:
                moving = moving.joined(self._entering(entering))
            moving, frame = self._computed(moving, step, failures)
            yield frame
            going = ~frame.converged & (moving.steps < self.steps)
            moving = self._moved(moving.select(going), frame, going)
            moving, failures = self._checked(moving)
            step += 1

    def _take(self, waiting: list[int], atoms: int) -> list[int]:
        """Remove from those waiting as many as there is room for."""
        entering: list[int] = []
        if waiting:
            sizes = self.structures.n_atoms
            while waiting and (atoms == 0 or atoms + int(sizes[waiting[0]]) <= _ATOMS_AT_ONCE):
                atoms += int(sizes[waiting[0]])
                entering.append(waiting.pop(0))
        return entering

    def _entering(self, rows: list[int]) -> _Moving:
        index = torch.tensor(rows, dtype=torch.int64, device=self.structures.device)
        start = self.structures[index]
        crystal = start.pbc.all(1)
        operations: list[Operations | None] = [None] * len(rows)
        if self.symmetry and bool(crystal.any()):
            symmetric, kept = with_operations(start[crystal])
            places = torch.nonzero(crystal).flatten()
            positions, cells = start.positions.clone(), start.cells.clone()
            positions[start.atoms_of(places)], cells[places] = symmetric.positions, symmetric.cells
            start = start.replace(positions=positions, cells=cells)
            for place, own in zip(places.tolist(), kept, strict=True):
                operations[place] = own
        coordinates = start.positions.new_zeros(len(start.positions) + 3 * len(rows), 3)
        moving = _Moving(
            index,
            start,
            coordinates,
            crystal & self.cell & ~self.held[index],
            torch.zeros_like(index),
            operations,
            start.cells.new_full((len(rows),), torch.nan),
            self.optimizer.init(coordinates, len(rows)),
        )
        coordinates[moving.of_atoms] = start.positions
        return moving

    def _computed(
        self, moving: _Moving, step: int, failures: Mapping[int, _Failure]
    ) -> tuple[_Moving, Frame]:
        """Return what has not failed, and the frame, whose forces are those that the symmetry allows."""
        structures = moving.structures()
        output = self.potential(structures) if len(structures) else _nothing(structures)
        self._require_stress(moving, output)
        computed, first = moving.index, moving.steps == 0
        moving = replace(
            moving, initial_energy=torch.where(first, output.energy.double(), moving.initial_energy)
        )
        failures = {**failures, **self._failures(moving, output)}
        ok = torch.tensor([k not in failures for k in moving.index.tolist()], dtype=torch.bool)
        ok = ok.to(structures.device)
        atoms = ok[structures.structure_index]
        moving, structures = moving.select(ok), structures[ok]
        forces = output.forces[atoms].to(structures.positions)
        stress = None if output.stress is None else output.stress[ok].to(structures.cells)
        forces, stress = _projected(moving.operations, structures, forces, stress)
        forces = forces.masked_fill(self.frozen[self.structures.atoms_of(moving.index), None], 0.0)
        largest = per_structure(forces.norm(dim=1), structures.structure_index, len(structures), "amax")
        largest_stress = self._largest_stress(structures, stress)
        relaxed_cells = ~moving.free | (largest_stress < self.stress_tolerance)
        return moving, Frame(
            step=step,
            index=moving.index,
            steps=moving.steps,
            structures=structures,
            energy=output.energy[ok].to(structures.cells),
            forces=forces,
            stress=stress,
            largest_force=largest,
            largest_stress=largest_stress,
            converged=(largest < self.force_tolerance) & relaxed_cells,
            failures={k: reason for k, (_, reason) in failures.items()},
            statuses={k: status for k, (status, _) in failures.items()},
            computed=computed,
        )

    def _failures(self, moving: _Moving, output: PotentialOutput) -> dict[int, _Failure]:
        """Return why structures that were computed cannot go on."""
        owner, n, name = moving.start.structure_index, len(moving.index), self.potential.name
        largest = per_structure(output.forces.norm(dim=1), owner, n, "amax")
        no_stress = moving.free.clone()
        if output.stress is not None:
            no_stress &= output.stress.isnan().flatten(1).any(1)
        per_atom = output.energy / moving.start.n_atoms
        lowest = torch.full_like(moving.initial_energy, _LOWEST_ENERGY)
        if not self.has_zero:
            lowest += (moving.initial_energy / moving.start.n_atoms).clamp_max(0)
        outside = ((largest > _LARGEST_FORCE) | (per_atom < lowest)) & self.guarded
        failures: dict[int, _Failure] = {}
        for b in torch.nonzero(outside).flatten().tolist():
            failures[b] = (
                "out of range",
                f"outside the range of {name} after {int(moving.steps[b])} steps: a force of "
                f"{float(largest[b]):.3g} eV/Å, {float(per_atom[b]):.3g} eV per atom",
            )
        absent = {"stress": no_stress, "forces": largest.isnan(), "energy": ~output.energy.isfinite()}
        for what, missing in absent.items():
            for b in torch.nonzero(missing).flatten().tolist():
                failures[b] = "failed", f"{name} gives no {what}"
        for b, reason in output.failures.items():
            failures[b] = "failed", reason
        return {int(moving.index[b]): failure for b, failure in failures.items()}

    def _require_stress(self, moving: _Moving, output: PotentialOutput) -> None:
        wanted = moving.free & output.energy.isfinite()
        if self.gives_stress or not bool(wanted.any()):
            return
        given = output.stress is not None and output.stress[wanted].isfinite().flatten(1).all(1).any()
        self.gives_stress = bool(given)
        if not self.gives_stress:
            raise InputError(
                f"relaxation: {self.potential.name} gives no stresses, so that cells cannot be relaxed. Keep "
                "them fixed (cell=False), or take another energy method."
            )

    def _largest_stress(self, structures: StructureBatch, stress: Tensor | None) -> Tensor:
        if stress is None:
            return structures.cells.new_full((len(structures),), torch.nan)
        crystal = structures.pbc.all(1)
        eye = torch.eye(3, dtype=stress.dtype, device=stress.device)
        largest = (stress * GPA + self.pressure * eye).abs().flatten(1).amax(1)
        return torch.where(crystal, largest, torch.nan)

    def _moved(self, moving: _Moving, frame: Frame, going: Bool[Tensor, "b"]) -> _Moving:
        """Return those of a frame that go on after one step."""
        if not len(moving.index):
            return moving
        structures, energy = frame.structures[going], frame.energy[going]
        forces = frame.forces[going[frame.structures.structure_index]]
        stress = None if frame.stress is None else frame.stress[going]
        rows, of_atoms = torch.zeros_like(moving.rows), moving.of_atoms
        log = moving.log_deformation
        deformation = torch.linalg.matrix_exp(log)
        rows[of_atoms] = torch.einsum("ax,axy->ay", forces, deformation[structures.structure_index])
        enthalpy = energy
        if stress is not None and bool(moving.free.any()):
            volume, pressure = volumes(structures.cells), self.pressure / GPA
            eye = torch.eye(3, dtype=stress.dtype, device=stress.device)
            gradient = -volume[:, None, None] * (stress + pressure * eye) @ torch.linalg.inv(deformation.mT)
            gradient = torch.where(moving.free[:, None, None], gradient, 0.0)
            double = torch.cat(
                [torch.cat([log.mT, gradient], 2), torch.cat([torch.zeros_like(log), log.mT], 2)], 1
            )
            on_cells = torch.linalg.matrix_exp(double)[:, :3, 3:] / structures.n_atoms[:, None, None]
            rows[~of_atoms] = on_cells.reshape(-1, 3)
            enthalpy = torch.where(moving.free, energy + pressure * volume, energy)
        move, state = self.optimizer.step(moving.state, rows, enthalpy, moving.owner)
        return replace(moving, rows=moving.rows + move, steps=moving.steps + 1, state=state)

    def _checked(self, moving: _Moving) -> tuple[_Moving, dict[int, _Failure]]:
        """Return those whose cells are sound, and why the others are not."""
        if not self.guarded or not bool(moving.free.any()):
            return moving, {}
        log = moving.log_deformation
        ratio = log.diagonal(dim1=1, dim2=2).sum(1).exp()
        deformed = ~(log.abs().flatten(1).amax(1) <= _MOST_DEFORMED)
        failures = {}
        for b in torch.nonzero(deformed | (ratio < _SMALLEST) | (ratio > _LARGEST)).flatten().tolist():
            status = "collapsed" if float(ratio[b]) < _SMALLEST else "exploded"
            times = f"{float(ratio[b]):.2f} times the volume of the start"
            failures[int(moving.index[b])] = (
                status,
                f"its cell has {times} after {int(moving.steps[b])} steps",
            )
        sound = [k not in failures for k in moving.index.tolist()]
        return moving.select(torch.tensor(sound, dtype=torch.bool, device=log.device)), failures


class _Results:
    """Collects what frames say of each structure."""

    def __init__(self, given: StructureBatch, *, keep_frames: bool) -> None:
        self.given = given
        n = len(given)
        self.positions, self.cells = given.positions.clone(), given.cells.clone()
        self.forces = torch.full_like(given.positions, torch.nan)
        self.stress = torch.full_like(given.cells, torch.nan)
        self.has_stress = n == 0
        self.energy = given.cells.new_full((n,), torch.nan)
        self.initial_energy, self.max_force, self.max_stress = (self.energy.clone() for _ in range(3))
        self.steps = torch.zeros(n, dtype=torch.int64, device=given.device)
        self.status = ["failed"] * n
        self.reasons: dict[int, str] = {}
        self.frames: list[list[tuple[Tensor, Tensor, float]]] | None = (
            [[] for _ in range(n)] if keep_frames else None
        )

    def add(self, frame: Frame, *, last: Bool[Tensor, "b"]) -> None:
        first = frame.steps == 0
        self.initial_energy[frame.index[first]] = frame.energy[first]
        self.steps[frame.index] = frame.steps
        self.has_stress |= frame.stress is not None
        for k, reason in frame.failures.items():
            self.status[k], self.reasons[k] = frame.statuses[k], reason
        if self.frames is not None:
            sizes = frame.structures.n_atoms.tolist()
            for k, positions, cell, energy in zip(
                frame.index.tolist(),
                frame.structures.positions.split(sizes),
                frame.structures.cells,
                frame.energy.tolist(),
                strict=True,
            ):
                self.frames[k].append((positions, cell, energy))
        ended = frame.converged | last
        if not bool(ended.any()):
            return
        rows, atoms = frame.index[ended], ended[frame.structures.structure_index]
        there = self.given.atoms_of(rows)
        self.positions[there], self.cells[rows] = (
            frame.structures.positions[atoms],
            frame.structures.cells[ended],
        )
        self.forces[there], self.energy[rows] = frame.forces[atoms], frame.energy[ended]
        if frame.stress is not None:
            self.stress[rows] = frame.stress[ended]
        self.max_force[rows], self.max_stress[rows] = frame.largest_force[ended], frame.largest_stress[ended]
        for k, converged in zip(rows.tolist(), frame.converged[ended].tolist(), strict=True):
            self.status[k] = "converged" if converged else "not converged"

    def relaxation(self, force_tolerance: float, stress_tolerance: float) -> Relaxation:
        for k, status in enumerate(self.status):
            if status == "not converged":
                force, stress = float(self.max_force[k]), float(self.max_stress[k])
                left = [f"a force of {force:.3g} eV/Å"] if not force < force_tolerance else []
                left += [f"a stress of {stress:.3g} GPa"] if stress >= stress_tolerance else []
                self.reasons[k] = f"{' and '.join(left)} left after {int(self.steps[k])} steps"
        crystal = self.given.pbc.all(1)
        pressure = -self.stress.diagonal(dim1=1, dim2=2).sum(1) / 3 * GPA
        return Relaxation(
            structures=self.given.replace(positions=self.positions, cells=self.cells),
            energy=self.energy,
            initial_energy=self.initial_energy,
            forces=self.forces,
            stress=self.stress if self.has_stress else None,
            status=tuple(self.status),
            steps=self.steps,
            max_force=self.max_force,
            max_stress=self.max_stress,
            pressure=torch.where(crystal, pressure, torch.nan),
            reasons=dict(sorted(self.reasons.items())),
            frames=None if self.frames is None else [self._trajectory(k) for k in range(len(self.given))],
        )

    def _trajectory(self, k: int) -> StructureBatch:
        assert self.frames is not None
        frames = self.frames[k]
        structure = self.given[k]
        count, n = len(frames), len(structure.positions)
        return StructureBatch(
            positions=torch.cat([structure.positions[:0], *(positions for positions, _, _ in frames)]),
            cells=torch.stack([cell for _, cell, _ in frames]) if frames else structure.cells[:0],
            pbc=structure.pbc.repeat(count, 1),
            atomic_numbers=structure.atomic_numbers.repeat(count),
            structure_index=torch.arange(count, device=self.given.device).repeat_interleave(n),
            info=tuple({"energy": energy} for _, _, energy in frames),
        )


def _nothing(structures: StructureBatch) -> PotentialOutput:
    return PotentialOutput(energy=structures.cells[:, 0, 0], forces=structures.positions)


def _projected(
    operations: Sequence[Operations | None], structures: StructureBatch, forces: Tensor, stress: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the parts of forces and stresses that keep the symmetry of each structure."""
    if not any(operations):
        return forces, stress
    parts = list(forces.split(structures.n_atoms.tolist()))
    stress = None if stress is None else stress.clone()
    for b, own in enumerate(operations):
        if own is not None:
            parts[b] = own.vectors(parts[b])
            if stress is not None:
                stress[b] = own.tensor(stress[b])
    return torch.cat(parts), stress


def _unfit(structures: StructureBatch, *, cell: bool) -> dict[int, str]:
    """Return the structures that cannot be relaxed by any potential, with reasons."""
    unfit = {}
    owner = structures.structure_index
    if cell:
        crystal = structures.pbc.all(1)
        lengths = structures.cells.norm(dim=2).prod(1)
        flat = crystal & ~(volumes(structures.cells) > 1e-9 * lengths)
        for b in torch.nonzero(flat).flatten().tolist():
            unfit[b] = "its cell has no volume"
    for b in torch.nonzero(~structures.cells.isfinite().flatten(1).all(1)).flatten().tolist():
        unfit[b] = "NaN or infinite lattice vectors"
    for b in owner[~structures.positions.isfinite().all(1)].unique().tolist():
        unfit[b] = "NaN or infinite coordinates"
    for b in torch.nonzero(structures.n_atoms == 0).flatten().tolist():
        unfit[b] = "there are no atoms"
    return unfit
