"""Potentials that are graph networks: a whole batch is *one* graph, whose atoms meet only within a structure.

Forces and stress are the derivatives of the energies in the positions and in a strain of positions and cells.
Structures without periodicity need no box around them: the neighbour list gives them no images.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from abc import abstractmethod
from collections.abc import Collection, Iterator
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from whorl.errors import InputError
from whorl.potentials.base import EnergyMethod, PotentialOutput
from whorl.potentials.settings import PotentialSettings
from whorl.settings import Count
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import NeighborList, neighbor_list


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Load a network without what its package prints, its warnings, and changes of torch's random state."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.random.fork_rng(devices=[]),
    ):
        warnings.simplefilter("ignore")
        yield


class GraphPotentialSettings(PotentialSettings):
    """Options of a graph network."""

    atoms_at_once: Count = 400
    """Atoms per pass of the network, which limits its memory."""
    device: str = "cpu"
    """Device of the network."""


class GraphPotential(EnergyMethod):
    """Energies, forces and stresses of a network, many structures at once.

    Attributes:
        title: Its name in messages.
    """

    title: str
    Settings = GraphPotentialSettings

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own: Any = self.settings
        # Memory and device change no number.
        self._atoms_at_once, self._device = own.atoms_at_once, torch.device(own.device)
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Travel to other processes without the weights, which are read again there."""
        return {**self.__dict__, "_network": None}

    @property
    @abstractmethod
    def elements(self) -> Collection[int]:
        """Atomic numbers that the network knows."""

    @abstractmethod
    def load(self) -> Any:
        """Return the network, on its device, without gradients of its weights."""

    @abstractmethod
    def cutoff(self, network: Any) -> float:
        """Return how far atoms see each other, in Å."""

    @abstractmethod
    def energies(self, network: Any, structures: StructureBatch, pairs: NeighborList) -> Tensor:
        """Return the energy of each structure in eV, shape (B,), differentiable in positions and cells.

        Args:
            network: What :meth:`load` returned.
            structures: In float32, on the network's device.
            pairs: Its neighbours within the cutoff.
        """

    def __call__(self, structures: Structures) -> PotentialOutput:
        """Return energies, forces and stresses; the stress of a structure without a full cell is NaN."""
        structures = as_batch(structures)
        failures = self._unfit(structures)
        good = [b for b in range(len(structures)) if b not in failures]
        nan = float("nan")
        energy = structures.positions.new_full((len(structures),), nan)
        forces = torch.full_like(structures.positions, nan)
        stress = torch.full_like(structures.cells, nan)

        def evaluate(chosen: list[int]) -> None:
            rows = torch.tensor(chosen, device=structures.device)
            part = self._evaluate(structures.replace(info=())[rows].to(device=self._device))
            energy[rows] = part[0].to(energy)
            forces[torch.isin(structures.structure_index, rows)] = part[1].to(forces)
            stress[rows] = part[2].to(stress)

        for chosen in self._chunks(good, structures.n_atoms):
            try:
                evaluate(chosen)
            except (InputError, RuntimeError):  # such as a cell without volume: find out whose it is
                for b in chosen:
                    try:
                        evaluate([b])
                    except (InputError, RuntimeError) as error:
                        failures[b] = f"{self.title}: {' '.join(str(error).split())[:300]}"
        for b in good:
            if b not in failures and not bool(energy[b].isfinite()):
                failures[b] = f"{self.title}'s energy is not a finite number; are two atoms at one place?"
        return PotentialOutput(energy=energy, forces=forces, stress=stress, failures=failures)

    def _chunks(self, rows: list[int], n_atoms: Tensor) -> Iterator[list[int]]:
        chunk: list[int] = []
        atoms = 0
        for row in rows:
            if chunk and atoms + int(n_atoms[row]) > self._atoms_at_once:
                yield chunk
                chunk, atoms = [], 0
            chunk.append(row)
            atoms += int(n_atoms[row])
        if chunk:
            yield chunk

    def _evaluate(self, structures: StructureBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return energy (B,), forces (A, 3), stress (B, 3, 3) in float32."""
        if self._network is None:
            self._network = self.load()
        pairs = neighbor_list(structures, cutoff=self.cutoff(self._network))
        single = structures.to(dtype=torch.float32)
        index = single.structure_index
        # All strain at zero: its derivative is volume times stress.
        strain = torch.zeros_like(single.cells, requires_grad=True)
        deformation = torch.eye(3, device=strain.device) + 0.5 * (strain + strain.transpose(1, 2))
        positions = single.positions.detach().requires_grad_(True)
        strained = single.replace(
            positions=torch.einsum("ax,axy->ay", positions, deformation[index]),
            cells=single.cells @ deformation,
        )
        with torch.enable_grad():
            energy = self.energies(self._network, strained, pairs)
            gradient: tuple[Tensor | None, ...] = (None, None)
            if energy.requires_grad:  # not so where no atom has a neighbour
                gradient = torch.autograd.grad(energy.sum(), [positions, strain], allow_unused=True)
        # Where no atom has a neighbour, nothing depends on positions.
        d_positions, d_strain = (
            torch.zeros_like(x) if g is None else g
            for g, x in zip(gradient, (positions, strain), strict=True)
        )
        volume = torch.linalg.det(single.cells).abs()
        has_cell = volume > 0
        stress = d_strain / volume[:, None, None]
        stress[~has_cell] = float("nan")
        return energy.detach(), -d_positions, stress

    def _unfit(self, structures: StructureBatch) -> dict[int, str]:
        """Return the structures for which the network's output would be meaningless, with reasons."""
        owner = structures.structure_index
        unfit = {int(b): "there are no atoms." for b in torch.nonzero(structures.n_atoms == 0).flatten()}
        for b in owner[~structures.positions.isfinite().all(1)].unique().tolist():
            unfit[b] = "NaN or infinite coordinates."
        for b in torch.nonzero(~structures.cells.isfinite().flatten(1).all(1)).flatten().tolist():
            unfit[b] = "NaN or infinite lattice vectors."
        known = torch.tensor(sorted(self.elements), device=structures.device)
        strange = ~torch.isin(structures.atomic_numbers, known)
        for b in owner[strange].unique().tolist():
            names = structures.atomic_numbers[strange & (owner == b)].unique().tolist()
            unfit[b] = f"{self.title} does not know {', '.join(map(_symbol, names))}."
        return unfit


def sums(atomic: Tensor, structures: StructureBatch) -> Tensor:
    """Return the sums of the numbers of atoms, shape (A,), over each structure, shape (B,)."""
    return atomic.new_zeros(len(structures)).index_add(0, structures.structure_index, atomic)


def _symbol(number: int) -> str:
    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"atomic number {number}"
