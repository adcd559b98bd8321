"""SevenNet (Park et al., J. Chem. Theory Comput. 20, 4857 (2024)), with the weights of its package."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor

from whorl.errors import import_extra
from whorl.potentials.graph import GraphPotential, GraphPotentialSettings, quiet, sums
from whorl.settings import Count
from whorl.structures.batch import StructureBatch
from whorl.structures.neighbors import NeighborList


class SevenNet(GraphPotential):
    """Energies, forces and stresses of a pre-trained SevenNet, many structures at once."""

    kind = "sevennet"
    title = "SevenNet"
    requires = ("sevenn", "sevennet")
    scheme = "pbe+u"  # of the Materials Project, without its corrections

    class Settings(GraphPotentialSettings):
        """Options of the network."""

        model: Literal["0", "l3i5"] = "0"
        """0: SevenNet-0 of July 2024; l3i5: more accurate, and slower."""
        atoms_at_once: Count = 50
        """Atoms per pass of the network. More exceed the caches of a CPU; a GPU is faster with more."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own: Any = self.settings
        self.name = "sevennet" if own.model == "0" else f"sevennet-{own.model}"
        self._model = own.model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            import_extra("sevenn", extra="sevennet")

    @property
    def elements(self) -> Collection[int]:
        """Those of the Materials Project's trajectories: up to plutonium, without Po, At, Rn, Fr and Ra."""
        return [z for z in range(1, 95) if z not in range(84, 89)]

    def cutoff(self, network: Any) -> float:
        """Return the range of a convolution."""
        return float(network.cutoff)

    def energies(self, network: Any, structures: StructureBatch, pairs: NeighborList) -> Tensor:
        """Return the energy of each structure."""
        from sevenn import _keys as key

        numbers = structures.atomic_numbers
        data = {
            key.NODE_FEATURE: network.z_to_onehot_tensor.to(numbers.device)[numbers],
            key.ATOMIC_NUMBERS: numbers,
            key.POS: structures.positions,
            key.EDGE_IDX: torch.stack([pairs.first, pairs.second]),
            key.EDGE_VEC: pairs.vectors(structures),
            key.NUM_ATOMS: numbers.new_tensor(len(numbers)),
        }
        for name, layer in network.named_children():
            if name == "reduce_total_enegy":  # what follows is the sum and its derivatives
                break
            data = layer(data)
        atomic: Tensor = data[key.ATOMIC_ENERGY].flatten()
        return sums(atomic, structures)

    def load(self) -> Any:
        """Return SevenNet's network."""
        with quiet():
            from sevenn.util import load_checkpoint

            network = load_checkpoint(f"7net-{self._model}").build_model()
        network.set_is_batch_data(False)
        network.requires_grad_(False)
        return network.to(self._device).eval()
