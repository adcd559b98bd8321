"""GPAW: a Python script that relaxes positions and cell in plane waves, by ASE's optimiser.

The script writes each ionic step to ``steps.extxyz`` and says at its end whether it is converged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from whorl.datasets.entries import in_words
from whorl.datasets.extxyz import write_extxyz
from whorl.dft.base import (
    CONVERGED,
    FAILED,
    KILLED,
    MISSING,
    NOT_CONVERGED,
    UNREADABLE,
    DFTCode,
    StageResult,
    stage_names,
)
from whorl.dft.settings import DFTSettings
from whorl.errors import InputError
from whorl.files import read_json
from whorl.settings import Count, Positive
from whorl.structures.batch import StructureBatch

_START, _STEPS, _END = "structure.extxyz", "steps.extxyz", "ended.json"

_SCRIPT = '''"""Relax structure.extxyz in this folder with GPAW; written by whorl."""

import json

from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS
from gpaw import GPAW, PW, FermiDirac

atoms = read("{start}")
atoms.calc = GPAW(
    mode=PW({cutoff}),
    xc="{functional}",
    kpts={{"size": {kpoints}, "gamma": True}},
    occupations=FermiDirac({width}),
    convergence={{"energy": 1e-6}},
    txt="gpaw.txt",
)


def record():
    atoms.get_stress()
    write("{steps}", atoms, append=relaxation.nsteps > 0)


relaxation = BFGS(FrechetCellFilter(atoms), logfile="relaxation.txt")
relaxation.attach(record)
converged = bool(relaxation.run(fmax={force}, steps={most}))
write("end.extxyz", atoms)
with open("{end}", "w") as file:
    json.dump({{"converged": converged, "steps": relaxation.nsteps}}, file)
'''


class GPAW(DFTCode):
    """GPAW in its plane-wave mode, by a script."""

    kind = "gpaw"

    class Settings(DFTSettings):
        """Input of GPAW."""

        stages: Count = 4
        """Relaxations in a row, each with the basis of its own cell."""
        functional: str = "GGA_X_PBE_SOL+GGA_C_PBE_SOL"
        """Functional as GPAW or libxc calls it; this one is PBEsol."""
        cutoff: Positive = 400.0
        """Cutoff of the plane waves in eV."""
        kpoints: tuple[Count, Count, Count] = (3, 3, 3)
        """Grid around Γ."""
        smearing: Positive = 0.1
        """Width of the occupations in eV."""
        force_tolerance: Positive = 0.01
        """Greatest force in eV/Å at which a relaxation ends."""
        steps: Count = 100
        """Maximum number of steps."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the folders of the stages, in order."""
        return stage_names(self.settings.stages)

    def write(self, structure: StructureBatch, folder: Path) -> None:
        """Write the first structure; the script is one for all."""
        for stage in self.stages:
            (folder / stage).mkdir(parents=True, exist_ok=True)
        write_extxyz(structure.replace(info=()), folder / self.stages[0] / _START)

    def scripts(self) -> Mapping[str, str]:
        """Return ``run.sh`` and ``relax.py``."""
        own = self.settings
        run = self._run_script(
            usage="GPAW_COMMAND: how GPAW's Python is started, by default 'gpaw python'.",
            ended=f'[ -s "$1/{_END}" ]',
            pass_on=f'[ -s "$1/end.extxyz" ] && cp "$1/end.extxyz" "$2/{_START}"',
            compute='${GPAW_COMMAND:-gpaw python} "$top/relax.py" > stdout 2> stderr',
        )
        script = _SCRIPT.format(
            start=_START,
            steps=_STEPS,
            end=_END,
            functional=own.functional,
            cutoff=own.cutoff,
            kpoints=tuple(own.kpoints),
            width=own.smearing,
            force=own.force_tolerance,
            most=own.steps,
        )
        return {"run.sh": run, "relax.py": script}

    def has_output(self, folder: Path) -> bool:
        """Whether the script has begun."""
        return (folder / "stderr").is_file() and (folder / _START).is_file()

    def read(self, folder: Path) -> StageResult:
        """Read the steps of the script."""
        from ase.io import read

        if not self.has_output(folder):
            return StageResult(status=MISSING, reason="it was not started")
        frames, problem = [], "it holds no ionic step"
        try:
            if (folder / _STEPS).is_file():
                frames = [atoms for atoms in read(folder / _STEPS, index=":") if atoms.calc is not None]
        except Exception as error:  # whatever a parser says of a file that is cut off
            problem = in_words(error)
        if not (folder / _END).is_file():
            said = (folder / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if said and said[-1].split(":")[0].endswith(("Error", "Exception")):
                return StageResult(status=FAILED, reason=said[-1], frames=frames)
            reason = f"it stops after {len(frames)} ionic steps: it was killed, or is still running"
            return StageResult(status=KILLED, reason=reason, frames=frames)
        try:
            converged = bool(read_json(folder / _END)["converged"])
        except (InputError, KeyError, TypeError) as error:
            return StageResult(status=UNREADABLE, reason=f"{_END}: {in_words(error)}", frames=frames)
        if not frames:
            return StageResult(status=UNREADABLE, reason=problem)
        if not converged:
            reason = f"the ions are not converged after {len(frames)} steps"
            return StageResult(status=NOT_CONVERGED, reason=reason, frames=frames)
        return StageResult(status=CONVERGED, frames=frames)
