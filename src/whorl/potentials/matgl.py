"""Potentials of MatGL (M3GNet, TensorNet …) from a folder that its ``save`` wrote.

The folder has ``model.json``, ``model.pt`` and ``state.pt``. Nothing is fetched: a name of a model that is no
folder is refused.

Version 3 of MatGL changed which end of a bond a message goes to, and loads older weights all the same: MatPES
models of 2025.1 then have energies that are wrong by up to 3 eV/atom. Those of TensorNet are converted here,
which is exact. M3GNet's three-body terms were other ones as well, so that its old weights have no use. A
model that knows the elements of some common crystals is therefore put to the test of their lattice constants.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor

from whorl.errors import InputError, import_extra, shortened
from whorl.files import file_hash
from whorl.potentials.graph import GraphPotential, GraphPotentialSettings, quiet
from whorl.potentials.schemes import UNKNOWN, checked_scheme
from whorl.settings import Count
from whorl.structures.batch import StructureBatch
from whorl.structures.neighbors import NeighborList

_FILES = ("model.json", "model.pt", "state.pt")
_SCHEMES: Mapping[str, str] = {
    r"MatPES\S*[- ]r2SCAN": "matpes-r2scan",
    r"MatPES\S*[- ]PBE": "matpes-pbe",
    r"MPtrj|MP-2021|MPF\.2021": "pbe+u",
}


_CRYSTALS = (  # with lattice constants by PBE, in Å
    (("Na", "Cl"), "rocksalt", 5.7),
    (("Na", "F"), "rocksalt", 4.7),
    (("Mg", "O"), "rocksalt", 4.25),
    (("Cu",), "fcc", 3.63),
    (("Si",), "diamond", 5.46),
)
_MOST_PRESSURE = 5.0  # GPa; other functionals and errors of a model give less than 3


class MatGL(GraphPotential):
    """Energies, forces and stresses of a potential of MatGL, many structures at once."""

    kind = "matgl"
    title = "This model"
    requires = ("matgl", "matgl")

    class Settings(GraphPotentialSettings):
        """Options of the network."""

        path: str = ""
        """Folder of the model, such as TensorNet-MatPES-PBE-v2025.1-PES; required."""
        scheme: str | None = None
        """Energy scheme; by default what the name and the README of the folder say."""
        check: bool = True
        """Refuse weights that give common crystals another lattice constant, as those of old versions do."""
        atoms_at_once: Count = 50
        """Atoms per pass of the network. More exceed the caches of a CPU; a GPU is faster with more."""

        @property
        def inputs(self) -> tuple[str, ...]:
            """The files of the model."""
            return tuple(str(Path(self.path) / name) for name in _FILES)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own: Any = self.settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            import_extra("matgl", extra="matgl")
        self._folder = Path(own.path).resolve()
        if not own.path:
            raise InputError(
                "calculator matgl: 'path' is missing: the folder of a model, such as path=models/"
                "TensorNet-MatPES-PBE-v2025.1-PES."
            )
        absent = [name for name in _FILES if not (self._folder / name).is_file()]
        if absent:
            raise InputError(
                f"calculator matgl: {own.path}: has no {' or '.join(absent)}, expected a folder that MatGL's "
                f"save wrote, with {', '.join(_FILES)}. Models are not downloaded."
            )
        self._elements = tuple(_described(self._folder / _FILES[0]))
        self.scheme = checked_scheme(own.scheme) if own.scheme is not None else _stated(self._folder)
        self.title = self._folder.name
        self.name = f"matgl({self._folder.name}, {file_hash(self._folder / _FILES[2])[:8]})"
        self._network = self.load()
        if own.check:
            self._check()

    @property
    def elements(self) -> Collection[int]:
        """Those that the folder names."""
        return self._elements

    def cutoff(self, network: Any) -> float:
        """Return the range of an edge."""
        return float(network.model.cutoff)

    def energies(self, network: Any, structures: StructureBatch, pairs: NeighborList) -> Tensor:
        """Return the energy of each structure, as MatGL's ``Potential`` composes it."""
        place = {number: i for i, number in enumerate(self._elements)}
        kinds = torch.tensor([place[z] for z in structures.atomic_numbers.tolist()])
        index = structures.structure_index
        graph = SimpleNamespace(
            node_type=kinds.to(structures.device),
            pos=structures.positions,
            edge_index=torch.stack([pairs.first, pairs.second]),
            # In a batch with clusters only, nothing has a lattice.
            pbc_offshift=torch.einsum(
                "pk,pkx->px", pairs.shift.to(structures.cells.dtype), structures.cells[index[pairs.first]]
            ),
            batch=index,
            num_graphs=len(structures),
        )
        energy: Tensor = network.model(g=graph).reshape(-1)
        energy = network.data_std * energy + network.data_mean
        if network.element_refs is not None:
            energy = energy + network.element_refs(graph).reshape(-1)
        return energy

    def load(self) -> Any:
        """Return MatGL's ``Potential``."""
        with quiet():
            import matgl

            try:
                network = matgl.load_model(self._folder)
            except Exception as error:  # whatever MatGL makes of a damaged folder
                raise InputError(
                    f"calculator matgl: {self._folder}: cannot be loaded ({shortened(error, 200)})."
                ) from error
        if getattr(network, "calc_repuls", False) or getattr(network, "calc_charge", False):
            raise InputError(
                f"calculator matgl: {self._folder}: has a nuclear repulsion or charges of its own, which are "
                "not implemented. Use it as an ASE calculator."
            )
        network.requires_grad_(False)
        if type(network.model).__name__ == "TensorNet" and _version(self._folder / _FILES[0]) < 2:
            # Old ones name the ends of a bond in the other order.
            weight = network.model.tensor_embedding.emb2.weight
            weight.copy_(torch.cat(weight.chunk(2, dim=1)[::-1], dim=1))
        return network.to(self._device).eval()

    def _check(self) -> None:
        """Compute the pressures of common crystals.

        Raises:
            InputError: One is far from 0.
        """
        from ase.build import bulk
        from ase.units import GPa

        known = [one for one in _CRYSTALS if {atomic_numbers[e] for e in one[0]} <= set(self._elements)]
        if len(known) < len(_CRYSTALS):  # not a universal model
            return
        output = self([bulk("".join(elements), kind, a) for elements, kind, a in known])
        assert output.stress is not None
        pressures = (-output.stress.diagonal(dim1=1, dim2=2).mean(1) / GPa).tolist()
        for (elements, _, a), pressure in zip(known, pressures, strict=True):
            if not abs(pressure) < _MOST_PRESSURE:
                raise InputError(
                    f"calculator matgl: {self._folder.name}: its weights do not fit this version of MatGL: "
                    f"{''.join(elements)} with {a} Å has a pressure of {pressure:.0f} GPa, expected about 0. "
                    "Take weights that were saved by version 3 or later (check=false does without this test)."
                )


def _described(path: Path) -> Collection[int]:
    """Return the atomic numbers of a model, in its own order."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        model = about["kwargs"]["model"]
        modules, kind = (str(about["@module"]), str(model["@module"])), about["@class"]
        elements = [atomic_numbers[symbol] for symbol in model["init_args"]["element_types"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"calculator matgl: {path}: is not a description of a potential ({type(error).__name__}: "
            f"{shortened(error, 100)})."
        ) from None
    for module in modules:  # MatGL imports whatever stands there
        if not module.startswith("matgl."):
            raise InputError(f"calculator matgl: {path}: names '{shortened(module)}', which is not MatGL's.")
    if kind != "Potential":
        raise InputError(f"calculator matgl: {path}: is a {kind}, expected a Potential, which has forces.")
    return elements


def _version(path: Path) -> int:
    """Return the version of the model's class that wrote it."""
    return int(json.loads(path.read_text(encoding="utf-8"))["kwargs"]["model"].get("@model_version", 0))


def _stated(folder: Path) -> str:
    """Return the scheme that the name of a folder or its README states."""
    readme = folder / "README.md"
    words = folder.name
    if readme.is_file():
        words += "\n" + readme.read_text(encoding="utf-8", errors="replace")
    return next((scheme for pattern, scheme in _SCHEMES.items() if re.search(pattern, words)), UNKNOWN)
