r"""CHGNet (Deng et al., Nature Machine Intelligence 5, 1031 (2023)), with the weights of its package.

CHGNet's own converter makes one graph per structure in Python, which costs as much as the network itself. An
atom with no neighbour within 6 Å keeps the energy of a free atom; CHGNet's energy is continuous there, so
clusters that have fallen apart get the sum of their parts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from whorl.errors import import_extra
from whorl.potentials.graph import GraphPotential, GraphPotentialSettings, quiet, sums
from whorl.structures.batch import StructureBatch
from whorl.structures.neighbors import NeighborList

if TYPE_CHECKING:
    from chgnet.graph.crystalgraph import CrystalGraph


class CHGNet(GraphPotential):
    """Energies, forces and stresses of a pre-trained CHGNet, many structures at once."""

    kind = "chgnet"
    title = "CHGNet"
    requires = ("chgnet", "chgnet")

    class Settings(GraphPotentialSettings):
        """Options of the network."""

        model: Literal["0.3.0", "0.2.0", "r2scan"] = "0.3.0"
        """0.3.0 and 0.2.0 were trained on PBE energies, r2scan on those of that functional."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own: Any = self.settings
        self.name = "chgnet" if own.model == "0.3.0" else f"chgnet-{own.model}"
        # The energies that 0.2.0 and 0.3.0 were trained on had been corrected.
        self.scheme = "r2scan" if own.model == "r2scan" else "mp2020"
        self._model = own.model
        import_extra("chgnet", extra="chgnet")

    @property
    def elements(self) -> Collection[int]:
        """Those up to plutonium."""
        return range(1, 95)

    def cutoff(self, network: Any) -> float:
        """Return the range of its bonds."""
        return float(network.graph_converter.atom_graph_cutoff)

    def energies(self, network: Any, structures: StructureBatch, pairs: NeighborList) -> Tensor:
        """Return the energy of each structure."""
        graph = self._graph(network.graph_converter, structures, pairs)
        atomic: Tensor = network([graph], task="e", return_site_energies=True)["site_energies"][0]
        return sums(atomic, structures)

    def _graph(self, converter: Any, structures: StructureBatch, pairs: NeighborList) -> CrystalGraph:
        """Lay out the whole batch as one graph with the identity as lattice: image offsets are in Å."""
        from chgnet.graph.crystalgraph import CrystalGraph

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

    def load(self) -> Any:
        """Return CHGNet's network."""
        # It prints its size, warns of its own dependencies, and draws weights that are then replaced.
        with quiet():
            from chgnet.model.model import CHGNet as Network

            network = Network.load(model_name=self._model, use_device=str(self._device), verbose=False).eval()
        network.requires_grad_(False)
        return network
