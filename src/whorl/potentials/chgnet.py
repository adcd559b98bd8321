r"""CHGNet (Deng et al., Nature Machine Intelligence 5, 1031 (2023)), with the weights of its package.

A batch is laid out as *one* graph in Cartesian coordinates, whose atoms meet only within their own structure;
the sum of its site energies over a structure is that structure's energy. CHGNet's own converter makes one
graph per structure in Python, which costs as much as the network itself.

Structures without periodicity need no box around them: the neighbour list gives them no images. An atom with
no neighbour within 6 Å keeps the energy of a free atom; CHGNet's energy is continuous there, so clusters that
have fallen apart get the sum of their parts.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from whorl.errors import InputError, import_extra
from whorl.potentials.base import EnergyMethod, PotentialOutput
from whorl.potentials.settings import PotentialSettings
from whorl.settings import Count
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import NeighborList, neighbor_list

if TYPE_CHECKING:
    from chgnet.graph.crystalgraph import CrystalGraph

_HEAVIEST = 94  # CHGNet embeds the elements up to plutonium


class CHGNet(EnergyMethod):
    """Energies, forces and stresses of a pre-trained CHGNet, many structures at once."""

    kind = "chgnet"
    requires = ("chgnet", "chgnet")

    class Settings(PotentialSettings):
        """Options of the network."""

        model: Literal["0.3.0", "0.2.0", "r2scan"] = "0.3.0"
        """0.3.0 and 0.2.0 were trained on corrected PBE(+U) energies, r2scan on those of that functional."""
        atoms_at_once: Count = 400
        """Atoms per pass of the network, which limits its memory."""
        device: str = "cpu"
        """Device of the network."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own: Any = self.settings
        # The energies that 0.2.0 and 0.3.0 were trained on had been corrected.
        self.scheme = "r2scan" if own.model == "r2scan" else "mp2020"
        # Memory and device change no number.
        self.name = "chgnet" if own.model == "0.3.0" else f"chgnet-{own.model}"
        self._model, self._atoms_at_once = own.model, own.atoms_at_once
        self._device = torch.device(own.device)
        self._network: Any = None
        import_extra("chgnet", extra="chgnet")

    def __getstate__(self) -> dict[str, Any]:
        """Travel to other processes without the weights, which are read again from the package there."""
        return {**self.__dict__, "_network": None}

    def __call__(self, structures: Structures) -> PotentialOutput:
        """Return energies, forces and stresses; the stress of a structure without a full cell is NaN."""
        structures = as_batch(structures)
        failures = _unfit(structures)
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
                        failures[b] = f"CHGNet: {' '.join(str(error).split())[:300]}"
        for b in good:
            if b not in failures and not bool(energy[b].isfinite()):
                failures[b] = "CHGNet's energy is not a finite number; are two atoms at one place?"
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
        """Return energy (B,), forces (A, 3), stress (B, 3, 3) in CHGNet's own float32."""
        network = self._load()
        pairs = neighbor_list(structures, cutoff=float(network.graph_converter.atom_graph_cutoff))
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
            graph = self._graph(strained, pairs)
            sites = network([graph], task="e", return_site_energies=True)["site_energies"][0]
            gradient = torch.autograd.grad(sites.sum(), [positions, strain], allow_unused=True)
        energy = sites.new_zeros(len(single)).index_add(0, index, sites.detach())
        # Where no atom has a neighbour, nothing depends on positions.
        d_positions, d_strain = (
            torch.zeros_like(x) if g is None else g
            for g, x in zip(gradient, (positions, strain), strict=True)
        )
        volume = torch.linalg.det(single.cells).abs()
        has_cell = volume > 0
        stress = d_strain / volume[:, None, None]
        stress[~has_cell] = float("nan")
        return energy, -d_positions, stress

    def _graph(self, structures: StructureBatch, pairs: NeighborList) -> CrystalGraph:
        """Lay out the whole batch as one graph with the identity as lattice: image offsets are in Å."""
        from chgnet.graph.crystalgraph import CrystalGraph

        converter = self._load().graph_converter
        bond_graph_cutoff = converter.bond_graph_cutoff
        cells = structures.cells[structures.structure_index[pairs.first]]
        offsets = torch.einsum("pk,pkx->px", pairs.shift.to(cells.dtype), cells)
        near = torch.nonzero(pairs.vectors(structures).detach().norm(dim=1) < bond_graph_cutoff).squeeze(1)
        bonds = NeighborList(
            first=pairs.first[near],
            second=pairs.second[near],
            shift=pairs.shift[near],
            undirected=pairs.undirected[near],
            directions=pairs.directions[:0],
        )
        one, other = near[bonds.triplets(structures.positions.shape[0])].unbind(1)
        # An angle updates both of its bonds.
        left, right = torch.cat([one, other]), torch.cat([other, one])
        angles = [pairs.first[left], pairs.undirected[left], left, pairs.undirected[right], right]
        return CrystalGraph(
            atomic_number=structures.atomic_numbers.to(torch.int32),
            atom_frac_coord=structures.positions,
            atom_graph=torch.stack([pairs.first, pairs.second], dim=1).to(torch.int32),
            atom_graph_cutoff=converter.atom_graph_cutoff,
            neighbor_image=offsets,
            directed2undirected=pairs.undirected.to(torch.int32),
            undirected2directed=pairs.directions[:, 0].to(torch.int32),
            bond_graph=torch.stack(angles, dim=1).to(torch.int32),
            bond_graph_cutoff=bond_graph_cutoff,
            lattice=torch.eye(3, device=structures.device),
        )

    def _load(self) -> Any:
        if self._network is None:
            # It prints its size, warns of its own dependencies, and draws weights that are then replaced.
            with (
                warnings.catch_warnings(),
                contextlib.redirect_stdout(io.StringIO()),
                torch.random.fork_rng(devices=[]),
            ):
                warnings.simplefilter("ignore")
                from chgnet.model.model import CHGNet as Network

                self._network = Network.load(
                    model_name=self._model, use_device=str(self._device), verbose=False
                ).eval()
            self._network.requires_grad_(False)
        return self._network


def _unfit(structures: StructureBatch) -> dict[int, str]:
    """Return the structures for which the network's output would be meaningless, with reasons."""
    owner = structures.structure_index
    unfit = {int(b): "there are no atoms." for b in torch.nonzero(structures.n_atoms == 0).flatten()}
    for b in owner[~structures.positions.isfinite().all(1)].unique().tolist():
        unfit[b] = "NaN or infinite coordinates."
    for b in torch.nonzero(~structures.cells.isfinite().flatten(1).all(1)).flatten().tolist():
        unfit[b] = "NaN or infinite lattice vectors."
    strange = (structures.atomic_numbers < 1) | (structures.atomic_numbers > _HEAVIEST)
    for b in owner[strange].unique().tolist():
        unfit[b] = f"CHGNet knows the elements 1 to {_HEAVIEST} (Pu) only."
    return unfit
