"""ASE calculators as potentials: one structure after the other, failures with reasons."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from whorl.errors import InputError, MissingExtraError, did_you_mean
from whorl.potentials.base import EnergyMethod, PotentialOutput, with_options
from whorl.potentials.schemes import UNKNOWN, checked_scheme
from whorl.structures.convert import Structures, as_batch, to_ase

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


# Properties of ASE that are no number and no vector of a structure.
_OF_ATOMS = ("forces", "stress", "stresses", "charges", "magmoms", "energies")


class ASECalculator:
    """Energies, forces and, for periodic structures, stresses of an ASE calculator.

    What the calculator does not implement is NaN. One calculator serves all structures; after a failure a
    new one is made, since its state may be invalid.

    Args:
        path: Import path of the calculator's class, ``"package.module:Class"``, or of a function whose
            annotation says that it returns one. Nothing else is called.
        options: Keyword arguments to make it with.
        name: Its name; by default made of path and options.
        bulk_repeat: Primitive cells along each lattice vector that the bulk reference needs.
        scheme: Which energies its own may be compared with; by default that of the class, or unknown.

    Raises:
        InputError: There is no calculator at the path, or it cannot be made with its options; or an unknown
            scheme.
    """

    scheme: str = UNKNOWN

    def __init__(
        self,
        path: str,
        options: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        bulk_repeat: int = 1,
        scheme: str | None = None,
    ) -> None:
        if scheme is not None:
            self.scheme = checked_scheme(scheme)
        self.bulk_repeat = bulk_repeat
        self._path = path
        self._options = dict(options or {})
        self.name = name or with_options(path, self._options)
        self._factory = find_calculator(path)
        self._calculator: Any = None
        self._make()

    def __getstate__(self) -> dict[str, Any]:
        """Travel to other processes without the calculator, which is made again there."""
        return {**self.__dict__, "_calculator": None, "_factory": None}

    @property
    def scalars(self) -> tuple[str, ...]:
        """Further properties that the calculator has one number of, or one vector, for each structure."""
        if self._calculator is None:
            self._make()
        implemented = (str(name) for name in self._calculator.implemented_properties)
        return tuple(name for name in implemented if name not in (*_OF_ATOMS, "energy"))

    def __call__(self, structures: Structures, *, properties: Sequence[str] = ()) -> PotentialOutput:
        """Compute one structure after the other.

        Args:
            structures: Any.
            properties: Some of :attr:`scalars`, computed too; of a vector, such as the dipole, its length.
        """
        structures = as_batch(structures)
        energy = torch.full((len(structures),), float("nan"), dtype=torch.float64)
        forces = torch.full(structures.positions.shape, float("nan"), dtype=torch.float64)
        stress = torch.full((len(structures), 3, 3), float("nan"), dtype=torch.float64)
        further = {name: torch.full_like(energy, float("nan")) for name in properties}
        failures: dict[int, str] = {}
        first_atom, n_atoms = structures.first_atom.tolist(), structures.n_atoms.tolist()
        for b, atoms in enumerate(to_ase(structures.replace(info=()))):
            try:
                e, f, s = self._compute(atoms, needed=not properties)
                numbers = {name: self._scalar(atoms, name) for name in properties}
            except Exception as error:  # whatever a calculator raises is that structure's own matter
                failures[b] = f"{self.name}: {_one_line(error)}"
                self._calculator = None
                continue
            energy[b] = e
            forces[first_atom[b] : first_atom[b] + n_atoms[b]] = torch.from_numpy(f)
            stress[b] = torch.from_numpy(s)
            for name, number in numbers.items():
                further[name][b] = number
        return PotentialOutput(
            energy=energy.to(structures.positions),
            forces=forces.to(structures.positions),
            stress=stress.to(structures.cells),
            failures=failures,
            properties={name: values.to(structures.positions) for name, values in further.items()},
        )

    def _scalar(self, atoms: Atoms, name: str) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = np.asarray(self._calculator.get_property(name, atoms), dtype=np.float64).squeeze()
        if value.shape not in ((), (3,)):
            raise ValueError(f"its {name} has shape {value.shape}, expected a number or a vector")
        number = float(value) if value.ndim == 0 else float(np.linalg.norm(value))
        if not np.isfinite(number):
            raise ValueError(f"its {name} is not a finite number")
        return number

    def _compute(self, atoms: Atoms, *, needed: bool) -> tuple[float, np.ndarray, np.ndarray]:
        if self._calculator is None:
            self._make()
        if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
            raise ValueError("no atoms" if len(atoms) == 0 else "NaN or infinite coordinates")
        calculator: Calculator = self._calculator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a numerical warning shows in the numbers, checked below
            atoms.calc = calculator
            implemented = calculator.implemented_properties
            energy, forces = float("nan"), np.full((len(atoms), 3), np.nan)
            if needed or "energy" in implemented:
                energy = float(atoms.get_potential_energy())
                if not np.isfinite(energy):
                    raise ValueError("its energy is not a finite number")
            if "forces" in implemented:
                forces = np.asarray(atoms.get_forces(), dtype=np.float64)
                if not np.isfinite(forces).all():
                    raise ValueError("its forces are not finite numbers")
            stress = np.full((3, 3), np.nan)
            if atoms.cell.rank == 3 and atoms.pbc.any() and "stress" in implemented:
                stress = np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
        return energy, forces, stress

    def _make(self) -> None:
        if self._factory is None:
            self._factory = find_calculator(self._path)
        try:
            self._calculator = self._factory(**self._options)
        except TypeError as error:
            raise InputError(f"calculator {self._path} does not accept its options: {error}.") from error
        except Exception as error:  # whatever its constructor raises
            raise InputError(f"calculator {self._path} cannot be made: {_one_line(error)}") from error


@contextlib.contextmanager
def importable(folder: Path | str) -> Iterator[None]:
    """Also import modules from ``folder``, after all other places, in worker processes too."""
    place = str(Path(folder).resolve())
    added = place not in sys.path
    if added:
        sys.path.append(place)  # last: a file there must not take the place of an installed package
        importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(place)


def find_calculator(path: str) -> Any:
    """Import the calculator at ``package.module:Class``, and check that it is one before it is called.

    Returns:
        A class derived from ASE's Calculator or from :class:`whorl.potentials.EnergyMethod`, or a function
        that is annotated to return a calculator.

    Raises:
        InputError: There is none at this path.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or module_name.startswith("."):
        raise InputError(f"calculator '{path}': got no module, expected a path package.module:Class.")
    try:
        module = importlib.import_module(module_name)
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        absent = error.name is None or f"{module_name}.".startswith(f"{error.name}.")
        places = f" Looked in {', '.join(dict.fromkeys(_own_folders()))} and among the installed packages."
        raise InputError(
            f"calculator '{path}': cannot import {module_name} ({error}).{places if absent else ''} Install "
            "the package that brings it, put the module into the folder of the recipe, or correct the path "
            "package.module:Class."
        ) from error
    except Exception as error:  # whatever the module raises while it is imported
        raise InputError(
            f"calculator '{path}': {module_name} cannot be imported "
            f"({type(error).__name__}: {_one_line(error)})."
        ) from error
    names = [name for name, value in vars(module).items() if _makes_calculators(value)]
    there = did_you_mean(attribute, names) if names else f" No calculator is in {module_name}."
    if not hasattr(module, attribute):
        raise InputError(f"calculator '{path}': {module_name} has no '{attribute}'.{there}")
    value = getattr(module, attribute)
    if not _makes_calculators(value):
        got = f"a {type(value).__name__}" if not inspect.isclass(value) else "another class"
        raise InputError(
            f"calculator '{path}': got {got}, expected a class derived from ASE's Calculator (or a function "
            f"annotated to return one). It was not called.{there}"
        )
    return value


def _makes_calculators(value: Any) -> bool:
    """Whether a call returns a calculator: a class of one, or a function that is annotated so."""
    from ase.calculators.calculator import BaseCalculator, Calculator

    if inspect.isfunction(value):
        try:
            value = inspect.signature(value, eval_str=True).return_annotation
        except Exception:  # an annotation that names nothing
            return False
    bases = (BaseCalculator, Calculator, EnergyMethod)
    return inspect.isclass(value) and issubclass(value, (BaseCalculator, EnergyMethod)) and value not in bases


def _own_folders() -> list[str]:
    """Return the folders of the import path that belong to no installation."""
    outside = [str(Path(place or ".").resolve()) for place in sys.path]
    return [place for place in outside if not place.startswith((sys.prefix, sys.base_prefix))]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
