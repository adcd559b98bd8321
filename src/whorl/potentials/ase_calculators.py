"""Any ASE calculator as a potential: one structure after the other, a failure is a row with its reason."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from whorl.errors import InputError, MissingExtraError, did_you_mean, import_extra
from whorl.potentials.base import PotentialOutput
from whorl.structures.batch import StructureBatch

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class ASECalculator:
    """Energies, forces and, for periodic structures, stresses of an ASE calculator.

    One calculator serves all structures; after a failure a fresh one is made, since it may be left in pieces.

    Args:
        path: Import path of the calculator's class (or of a function that makes one),
            ``"package.module:Class"``.
        options: Keyword arguments to make it with.
        name: What to call it; by default made of path and options.
        bulk_repeat: Primitive cells along each lattice vector that the bulk reference needs.

    Raises:
        InputError: The path leads nowhere, or the calculator refuses its options.
    """

    def __init__(
        self,
        path: str,
        options: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        bulk_repeat: int = 1,
    ) -> None:
        self.bulk_repeat = bulk_repeat
        self._path = path
        self._options = dict(options or {})
        settings = ", ".join(f"{key}={value!r}" for key, value in sorted(self._options.items()))
        self.name = name or (f"{path}({settings})" if settings else path)
        self._factory = _find(path)
        self._calculator: Any = None
        self._make()

    def __getstate__(self) -> dict[str, Any]:
        """Travel to other processes without the calculator, which is made again there."""
        return {**self.__dict__, "_calculator": None, "_factory": None}

    def __call__(self, structures: StructureBatch) -> PotentialOutput:
        """Compute one structure after the other."""
        from whorl.structures.convert import to_ase

        energy = torch.full((len(structures),), float("nan"), dtype=torch.float64)
        forces = torch.full(structures.positions.shape, float("nan"), dtype=torch.float64)
        stress = torch.full((len(structures), 3, 3), float("nan"), dtype=torch.float64)
        failures: dict[int, str] = {}
        first_atom, n_atoms = structures.first_atom.tolist(), structures.n_atoms.tolist()
        for b, atoms in enumerate(to_ase(structures.replace(info=()))):
            try:
                e, f, s = self._compute(atoms)
            except Exception as error:  # whatever a calculator raises is that structure's own matter
                failures[b] = f"{self.name}: {_one_line(error)}"
                self._calculator = None
                continue
            energy[b] = e
            forces[first_atom[b] : first_atom[b] + n_atoms[b]] = torch.from_numpy(f)
            stress[b] = torch.from_numpy(s)
        return PotentialOutput(
            energy=energy.to(structures.positions),
            forces=forces.to(structures.positions),
            stress=stress.to(structures.cells),
            failures=failures,
        )

    def _compute(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
        if self._calculator is None:
            self._make()
        if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
            raise ValueError("no atoms" if len(atoms) == 0 else "NaN or infinite coordinates")
        calculator: Calculator = self._calculator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a numerical warning shows in the numbers, checked below
            atoms.calc = calculator
            energy = float(atoms.get_potential_energy())
            forces = np.asarray(atoms.get_forces(), dtype=np.float64)
            stress = np.full((3, 3), np.nan)
            if atoms.cell.rank == 3 and atoms.pbc.any() and "stress" in calculator.implemented_properties:
                stress = np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
        if not np.isfinite(energy) or not np.isfinite(forces).all():
            raise ValueError("energy or forces are not finite numbers")
        return energy, forces, stress

    def _make(self) -> None:
        if self._factory is None:
            self._factory = _find(self._path)
        try:
            self._calculator = self._factory(**self._options)
        except TypeError as error:
            raise InputError(f"calculator {self._path} does not accept its options: {error}.") from error


def tblite(method: str, **options: Any) -> ASECalculator:
    """Return GFN1-xTB or GFN2-xTB (Grimme, Bannwarth et al.) by tblite; ``options`` are its own.

    Periodic structures are computed at the Γ point only, so small cells mean nothing; the bulk reference is
    taken from 4 × 4 × 4 primitive cells, which for Pt leaves an error of a few tenths of an eV per atom, the
    same for all clusters.
    """
    import_extra("tblite", extra="xtb")
    settings = ", ".join(f"{key}={value!r}" for key, value in sorted(options.items()))
    return ASECalculator(
        "tblite.ase:TBLite",
        # Without its cache the answer does not depend on what was computed before.
        {"method": method, "verbosity": 0, "cache_api": False, **options},
        name=method.lower() + (f"({settings})" if settings else ""),
        bulk_repeat=4,
    )


def _find(path: str) -> Any:
    """Import the object at ``package.module:name``."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except MissingExtraError:
        raise
    except ImportError as error:
        raise InputError(
            f"calculator '{path}': cannot import {module_name} ({error}). Install the package that brings "
            "it, or correct the path package.module:Class."
        ) from error
    if not hasattr(module, attribute):
        raise InputError(
            f"calculator '{path}': {module_name} has no '{attribute}'."
            + did_you_mean(attribute, (name for name in dir(module) if name[:1].isupper()))
        )
    return getattr(module, attribute)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
