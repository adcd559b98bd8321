"""Contract of programs of density functional theory: input files of a structure, results of a stage.

A calculation is a folder with one or several stages, ``relax_1``, ``relax_2`` …, of which each starts from
the structure where the one before it ended.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from whorl.dft.settings import DFTSettings
from whorl.settings import Method
from whorl.structures.batch import StructureBatch

if TYPE_CHECKING:
    from ase import Atoms

CONVERGED = "converged"
NOT_CONVERGED = "not converged"
OUT_OF_TIME = "out of time"
KILLED = "killed"
FAILED = "failed"
UNREADABLE = "unreadable"
MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The state of one stage of a calculation, and all ionic steps that can be read.

    Attributes:
        status: ``"converged"``; ``"not converged"``: it ended before ions or electrons were;
            ``"out of time"``: stopped by its batch system or on request; ``"killed"``: its output stops in
            the middle, or it is still running; ``"failed"``: the program says that there is an error;
            ``"unreadable"``; ``"missing"``: there is no output.
        reason: Why it is not converged.
        frames: The ionic steps as ASE reads them, with energies (eV), forces (eV/Å) and stresses (eV/Å³).
    """

    status: str
    reason: str = ""
    frames: Sequence[Atoms] = field(default_factory=tuple)


class DFTCode(Method, ABC):
    """A program for which whorl writes input files, and whose output it reads. It never runs it.

    Args:
        settings: Of the program.
    """

    Settings: ClassVar[type[DFTSettings]] = DFTSettings
    settings: Any

    def __init__(self, settings: DFTSettings | None = None) -> None:
        self.settings = settings or self.Settings()

    @property
    @abstractmethod
    def stages(self) -> tuple[str, ...]:
        """Names of the folders of the stages, in order."""

    @abstractmethod
    def write(self, structure: StructureBatch, folder: Path) -> None:
        """Write the input files of one crystal into the folders of its stages.

        Args:
            structure: A batch of one, periodic in all directions.
            folder: Of this calculation.

        Raises:
            InputError: The program cannot compute this structure.
        """

    @abstractmethod
    def scripts(self) -> Mapping[str, str]:
        """Return the scripts of the folder of all calculations by name; ``run.sh`` computes everything."""

    def _run_script(self, **parts: str) -> str:
        """Return ``run.sh`` with the parts of :data:`RUN` that are the program's own."""
        stages = self.stages
        return RUN.format(example="00001_NaF", first=stages[0], stages=" ".join(stages), **parts)

    @abstractmethod
    def has_output(self, folder: Path) -> bool:
        """Whether there is output of this program in a folder."""

    @abstractmethod
    def read(self, folder: Path) -> StageResult:
        """Read the output in the folder of one stage, whatever state it is in."""


STAGE = re.compile(r"relax_?(\d+)")
"""Names of the folders of stages."""


def stage_names(count: int) -> tuple[str, ...]:
    """Return the names of the folders of the stages."""
    return tuple(f"relax_{i + 1}" for i in range(count))


def free_energy(atoms: Atoms) -> float:
    """Return the free energy of the electrons in eV (of VASP: TOTEN), or else the energy; NaN without one."""
    results = getattr(atoms.calc, "results", {})
    value = results.get("free_energy", results.get("energy"))
    return float("nan") if value is None else float(value)


def pressure(atoms: Atoms) -> float:
    """Return the pressure in kbar, positive where the cell tends to grow; NaN without a stress."""
    from ase.units import GPa

    stress = getattr(atoms.calc, "results", {}).get("stress")
    return float("nan") if stress is None else float(-np.mean(stress[:3]) / GPa * 10)


RUN = r"""#!/bin/bash
# Computes all calculations of this folder one after the other, or those that are named:
#   bash run.sh                  bash run.sh {example}
# {usage}
# Stages that have ended are not repeated: after an interruption, give the same command again.
set -u
cd "$(dirname "$0")" || exit 1
top=$PWD

ended() {{  # whether the stage in folder $1 has ended
  {ended}
}}
pass_on() {{  # make the structure at the end of stage $1 the start of stage $2
  {pass_on}
}}
compute() {{  # in the folder of the stage
  {compute}
}}

[ $# -gt 0 ] || set -- */
failures=0
for calculation in "$@"; do
  calculation=${{calculation%/}}
  [ -d "$calculation/{first}" ] || continue
  previous=
  for stage in {stages}; do
    here=$calculation/$stage
    if ! ended "$here"; then
      if [ -n "$previous" ] && ! pass_on "$previous" "$here"; then
        echo "$here: $previous left no structure to go on with" >&2
        failures=$((failures + 1)); break
      fi
      (cd "$here" && compute)
      if ! ended "$here"; then
        echo "$here: did not end; see the output there" >&2
        failures=$((failures + 1)); break
      fi
    fi
    previous=$here
  done
done
[ "$failures" -eq 0 ] || {{ echo "$failures calculations did not end" >&2; exit 1; }}
"""
