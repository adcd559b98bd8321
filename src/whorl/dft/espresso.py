"""Quantum ESPRESSO: one relaxation of positions and cell, written and read by ASE."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whorl.datasets.entries import in_words
from whorl.dft.base import (
    CONVERGED,
    FAILED,
    KILLED,
    MISSING,
    NOT_CONVERGED,
    OUT_OF_TIME,
    UNREADABLE,
    DFTCode,
    StageResult,
    stage_names,
)
from whorl.dft.settings import DFTSettings
from whorl.files import write_text
from whorl.settings import Count, Positive
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import to_ase

_IN, _OUT = "espresso.pwi", "espresso.pwo"


class Espresso(DFTCode):
    """The program ``pw.x`` of Quantum ESPRESSO."""

    kind = "espresso"

    class Settings(DFTSettings):
        """Input of pw.x."""

        functional: str = "pbesol"
        """``input_dft`` of pw.x, which takes precedence over that of the pseudopotentials."""
        cutoff: Positive = 60.0
        """Kinetic-energy cutoff of the wave functions in Ry; that of the density is eight times as high."""
        kpoints: tuple[Count, Count, Count] = (3, 3, 3)
        """Grid around Γ."""
        pseudopotentials: dict[str, str] = {}
        """File of each element; by default `<element>.UPF`. They are looked for in ESPRESSO_PSEUDO."""
        input: dict[str, Any] = {}
        """Further input, by namelist or not, such as {nspin: 2}."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The one stage: pw.x ends a relaxation of the cell with a calculation in a new basis by itself."""
        return stage_names(1)

    def write(self, structure: StructureBatch, folder: Path) -> None:
        """Write ``espresso.pwi``."""
        from ase.io.espresso import write_espresso_in
        from ase.units import Ry

        (atoms,) = to_ase(structure.replace(info=()))
        settings = self.settings
        elements = sorted(set(atoms.get_chemical_symbols()))
        values = {
            "calculation": "vc-relax",
            "input_dft": settings.functional,
            "ecutwfc": settings.cutoff,
            "ecutrho": 8 * settings.cutoff,
            "occupations": "smearing",
            "smearing": "gaussian",
            "degauss": round(0.1 / Ry, 6),
            "conv_thr": 1e-8,
            "etot_conv_thr": round(1e-5 / Ry, 9),
            **settings.input,
        }
        text = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_espresso_in(
                text,
                atoms,
                input_data=values,
                pseudopotentials={e: settings.pseudopotentials.get(e, f"{e}.UPF") for e in elements},
                kpts=settings.kpoints,
            )
        write_text(folder / self.stages[0] / _IN, text.getvalue())

    def scripts(self) -> Mapping[str, str]:
        """Return ``run.sh``."""
        run = self._run_script(
            usage="ESPRESSO_COMMAND: how pw.x is started, by default 'mpirun pw.x'. ESPRESSO_PSEUDO: folder "
            "of the pseudopotentials.",
            ended=f'grep -qs "JOB DONE" "$1/{_OUT}"',
            pass_on="false",
            compute=f"${{ESPRESSO_COMMAND:-mpirun pw.x}} -in {_IN} > {_OUT} 2> stderr",
        )
        return {"run.sh": run}

    def has_output(self, folder: Path) -> bool:
        """Whether there is an ``espresso.pwo``."""
        path = folder / _OUT
        return path.is_file() and path.stat().st_size > 0

    def read(self, folder: Path) -> StageResult:
        """Read ``espresso.pwo``."""
        from ase.io import iread

        path = folder / _OUT
        if not self.has_output(folder):
            return StageResult(status=MISSING, reason=f"there is no {_OUT}")
        text = path.read_text(encoding="utf-8", errors="replace")
        frames, problem = [], "it holds no ionic step"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frames += [
                    atoms
                    for atoms in iread(str(path), index=":", format="espresso-out")
                    if getattr(atoms.calc, "results", {}).get("energy") is not None
                ]
        except Exception as error:  # whatever a parser says of a file that is cut off
            problem = in_words(error)
        if "Error in routine" in text:
            line = next(line for line in text.splitlines() if "Error in routine" in line)
            return StageResult(status=FAILED, reason=line.strip(), frames=frames)
        if "Maximum CPU time exceeded" in text:
            return StageResult(status=OUT_OF_TIME, reason="Maximum CPU time exceeded", frames=frames)
        if "JOB DONE" not in text:
            reason = f"{_OUT} stops after {len(frames)} ionic steps: it was killed, or is still running"
            return StageResult(status=KILLED, reason=reason, frames=frames)
        if not frames:
            return StageResult(status=UNREADABLE, reason=problem)
        if "convergence NOT achieved" in text.rpartition("!    total energy")[2]:
            return StageResult(status=NOT_CONVERGED, reason="its electrons are not converged", frames=frames)
        if "relax" in text and "End of BFGS Geometry Optimization" not in text and len(frames) > 1:
            return StageResult(status=NOT_CONVERGED, reason="its ions are not converged", frames=frames)
        return StageResult(status=CONVERGED, frames=frames)
