"""VASP: input files without POTCAR, whose licence lies with the user, and output in any state.

The energy of a stage is the free energy of its last ionic step as ``vasprun.xml`` has it under that step; the
value after the last electronic step is another one in runs with DFPT or ``PSTRESS``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from whorl.datasets.crystal_files import poscar_text
from whorl.datasets.entries import DAMAGED, in_words, open_text
from whorl.dft.base import (
    CONVERGED,
    FAILED,
    KILLED,
    MISSING,
    NOT_CONVERGED,
    OUT_OF_TIME,
    STAGE,
    UNREADABLE,
    DFTCode,
    StageResult,
    stage_names,
)
from whorl.dft.settings import DFTSettings
from whorl.errors import InputError, shortened
from whorl.files import write_text
from whorl.settings import Count
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import to_pymatgen

if TYPE_CHECKING:
    from ase import Atoms

_PAPER: Mapping[str, Any] = {
    "GGA": "PS",  # PBEsol
    "ENCUT": 400,
    "ISMEAR": 0,
    "SIGMA": 0.1,
    "IBRION": 2,  # conjugate gradients
    "ISIF": 3,
    "EDIFFG": 1e-5,
    "EDIFF": 1e-6,  # below EDIFFG, or the ionic criterion would be noise
    "NSW": 100,
    "LWAVE": False,
    "LCHARG": False,
}
_SETS = {"mp_relax": "MPRelaxSet", "mp_static": "MPStaticSet", "matpes_static": "MatPESStaticSet"}
_STAGES = {"alverson2024": 4, "mp_relax": 2, "mp_static": 1, "matpes_static": 1}

_ENDED = "General timing and accounting"
_IONS = "reached required accuracy"
_ELECTRONS = re.compile(r"aborting loop (because )?EDIFF (?:is|was not) reached")
_ERROR = re.compile(
    r"VERY BAD NEWS|I REFUSE TO CONTINUE|internal error|fatal error|very serious problems|Error EDDDAV"
    r"|LAPACK: Routine \w+ failed|TOO FEW BANDS|Tetrahedron method fails|number of potentials on File POTCAR"
    r"|forrtl: severe|SIGSEGV|[Ss]egmentation fault|oom.kill|[Oo]ut [Oo]f [Mm]emory|MPI_ABORT|^\s*ERROR\b"
)
_TIME = re.compile(
    r"DUE TO TIME LIMIT|walltime .*exceeded|job killed: walltime|TERM_RUNLIMIT"
    r"|(?:soft|hard) stop encountered",
    re.IGNORECASE,
)
_LOGS = ("vasp.out", "stdout", "stderr", "*.out", "*.err", "*.log", "slurm-*", "*.o[0-9]*", "*.e[0-9]*")
_LONGEST_LOG = 4 << 20  # bytes of each that are read

_MAKE_POTCAR = r"""#!/bin/bash
# Makes the file POTCAR of every stage from the symbols in POTCAR.spec, which are in the order of POSCAR:
#   VASP_PP_PATH=/where/the/potentials/are bash make_potcar.sh
# Looked for are $VASP_PP_PATH/Na_pv/POTCAR, $VASP_PP_PATH/potpaw_PBE*/Na_pv/POTCAR, and POTCAR.gz there.
set -u
: "${VASP_PP_PATH:?give the folder that has a folder of a POTCAR for each symbol}"
cd "$(dirname "$0")" || exit 1
[ $# -gt 0 ] || set -- */relax_*
for here in "$@"; do
  [ -f "$here/POTCAR.spec" ] && [ ! -s "$here/POTCAR" ] || continue
  : > "$here/POTCAR.part"
  while read -r symbol; do
    found=
    for path in "$VASP_PP_PATH/$symbol" "$VASP_PP_PATH"/potpaw_PBE*/"$symbol"; do
      if [ -f "$path/POTCAR" ]; then cat "$path/POTCAR" >> "$here/POTCAR.part"; found=1; break; fi
      if [ -f "$path/POTCAR.gz" ]; then gzip -cd "$path/POTCAR.gz" >> "$here/POTCAR.part"; found=1; break; fi
    done
    if [ -z "$found" ]; then
      rm "$here/POTCAR.part"
      echo "$here: no POTCAR of $symbol below $VASP_PP_PATH" >&2
      exit 1
    fi
  done < "$here/POTCAR.spec"
  mv "$here/POTCAR.part" "$here/POTCAR"
done
"""


class VASP(DFTCode):
    """The Vienna Ab initio Simulation Package."""

    kind = "vasp"

    class Settings(DFTSettings):
        """Input of VASP."""

        preset: Literal["alverson2024", "mp_relax", "mp_static", "matpes_static"] = "alverson2024"
        """alverson2024: relaxation of positions and cell four times in a row, PBEsol, 400 eV, 3 × 3 × 3
        points; the others are the sets of the Materials Project and of MatPES in pymatgen."""
        stages: Count | None = None
        """Calculations in a row; by default those of the preset."""
        kpoints: tuple[Count, Count, Count] | None = None
        """Grid around Γ, such as [3, 3, 3]; by default that of the preset."""
        incar: dict[str, Any] = {}
        """Tags of INCAR in place of the preset's, such as {ENCUT: 520, ISPIN: 2}."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the folders of the stages, in order."""
        return stage_names(self.settings.stages or _STAGES[self.settings.preset])

    def write(self, structure: StructureBatch, folder: Path) -> None:
        """Write INCAR, KPOINTS and POTCAR.spec of each stage, and POSCAR of the first."""
        structure = _grouped(structure)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pymatgen: that POTCAR files are not at hand, and of defaults
            inputs = self._inputs(structure)
            try:
                symbols, kpoints, incar = inputs.potcar_symbols, inputs.kpoints, inputs.incar
            except KeyError as error:
                raise InputError(f"there is no potential of {error.args[0]} in the preset") from None
            except ValueError as error:
                raise InputError(f"no input of VASP by the preset {self.settings.preset}: {error}") from None
        if self.settings.preset not in _SETS:  # pymatgen adds LMAXMIX, which the paper does not mention
            for tag in incar.keys() - _PAPER.keys() - self.settings.incar.keys():
                del incar[tag]
        # pymatgen writes the functional as it writes words, Ps.
        tags = re.sub(r"^(GGA *= *)(\w+)", lambda tag: tag[1] + tag[2].upper(), str(incar), flags=re.M)
        for stage in self.stages:
            write_text(folder / stage / "INCAR", tags.rstrip() + "\n")
            if kpoints is not None:
                write_text(folder / stage / "KPOINTS", str(kpoints).rstrip() + "\n")
            write_text(folder / stage / "POTCAR.spec", "\n".join(symbols) + "\n")
        write_text(folder / self.stages[0] / "POSCAR", poscar_text(structure))

    def _inputs(self, structure: StructureBatch) -> Any:
        from pymatgen.io.vasp import sets
        from pymatgen.io.vasp.inputs import Kpoints

        grid = self.settings.kpoints or ((3, 3, 3) if self.settings.preset == "alverson2024" else None)
        options: dict[str, Any] = {
            "structure": to_pymatgen(structure.replace(info=()))[0],
            "user_incar_settings": self.settings.incar,
            "user_kpoints_settings": {} if grid is None else Kpoints.gamma_automatic(grid),
            "sort_structure": False,
        }
        if (name := _SETS.get(self.settings.preset)) is not None:
            return getattr(sets, name)(**options)
        config = {
            "INCAR": _PAPER,
            "KPOINTS": {},
            "POTCAR": sets.MPRelaxSet.CONFIG["POTCAR"],
            "POTCAR_FUNCTIONAL": "PBE",
        }
        return sets.VaspInputSet(config_dict=config, **options)

    def scripts(self) -> Mapping[str, str]:
        """Return ``run.sh`` and ``make_potcar.sh``."""
        run = self._run_script(
            usage="VASP_COMMAND: how VASP is started, by default 'mpirun vasp_std'. VASP_PP_PATH: see "
            "make_potcar.sh.",
            ended=f'grep -qs "{_ENDED}" "$1/OUTCAR"',
            pass_on='[ -s "$1/CONTCAR" ] && cp "$1/CONTCAR" "$2/POSCAR"',
            compute='bash "$top/make_potcar.sh" "$here" && ${VASP_COMMAND:-mpirun vasp_std} > vasp.out 2>&1',
        )
        return {"run.sh": run, "make_potcar.sh": _MAKE_POTCAR}

    def has_output(self, folder: Path) -> bool:
        """Whether there is an OUTCAR or a vasprun.xml, which may be compressed."""
        return any(_path(folder, name) is not None for name in ("OUTCAR", "vasprun.xml"))

    def read(self, folder: Path) -> StageResult:
        """Read OUTCAR and vasprun.xml; the latter has more digits, and the former says how it ended."""
        outcar, xml = _path(folder, "OUTCAR"), _path(folder, "vasprun.xml")
        # A job of a calculation, or of all of them, writes its log where it was started.
        above = [folder.parent, folder.parent.parent] if STAGE.fullmatch(folder.name) else []
        said, jobs = _logs(folder, *above[:1]), _logs(*above[1:])
        if outcar is None and xml is None:
            if (said_error := _line(_ERROR, said)) is not None:
                return StageResult(status=FAILED, reason=said_error)
            return StageResult(status=MISSING, reason="there is neither OUTCAR nor vasprun.xml")
        try:
            text = "" if outcar is None else _text(outcar)
        except DAMAGED as error:
            text, outcar = "", None
            if xml is None:
                return StageResult(status=UNREADABLE, reason=f"OUTCAR: {in_words(error)}")
        frames, problem = _frames(xml, outcar)
        if outcar is not None:
            ended, (status, reason) = _ENDED in text, _convergence(text, folder)
        else:
            ended, (status, reason) = _xml_ended(xml), _convergence_of_xml(frames)
        if ended and status == CONVERGED and frames:
            return StageResult(status=CONVERGED, frames=frames)
        if (time := _line(_TIME, said) or _line(_TIME, text)) is not None:
            status, reason = OUT_OF_TIME, time
        elif (said_error := _line(_ERROR, said) or _line(_ERROR, text)) is not None:
            status, reason = FAILED, said_error
        elif not ended:
            steps = f"after {len(frames)} ionic steps" if frames else "before its first ionic step was done"
            where = "OUTCAR" if outcar is not None else "vasprun.xml"
            status, reason = KILLED, f"{where} stops {steps}: it was killed, or is still running"
            if (time := _line(_TIME, jobs)) is not None:
                status, reason = OUT_OF_TIME, f"{where} stops {steps}; a job was stopped: {time}"
        elif not frames:
            status, reason = UNREADABLE, problem or "it holds no ionic step"
        return StageResult(status=status, reason=reason, frames=frames)


def _grouped(structure: StructureBatch) -> StructureBatch:
    """Return a crystal with the atoms of each element together, as POSCAR has them."""
    numbers = structure.atomic_numbers.tolist()
    first = {z: i for i, z in reversed(list(enumerate(numbers)))}
    order = torch.tensor(sorted(range(len(numbers)), key=lambda i: (first[numbers[i]], i)))
    return structure.replace(
        positions=structure.positions[order], atomic_numbers=structure.atomic_numbers[order], info=()
    )


def _path(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file() and p.stat().st_size), None)


def _text(path: Path) -> str:
    with open_text(path) as file:
        return file.read()


def _logs(*folders: Path) -> str:
    """Return what the program and its batch system wrote to files in some folders."""
    parts = []
    for path in sorted({path for place in folders for name in _LOGS for path in place.glob(name)}):
        if path.is_file():
            with path.open("rb") as file:
                parts.append(file.read(_LONGEST_LOG).decode(errors="replace"))
    return "\n".join(parts)


def _line(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the line with the first match, without its frame of stars and bars."""
    for line in text.splitlines():
        if pattern.search(line):
            return shortened(" ".join(line.strip(" |*-#=<>!").split()), 160)
    return None


def _number(text: str, tag: str) -> int | None:
    found = re.search(rf"^\s*{tag}\s*=\s*(-?\d+)", text, re.M)
    return None if found is None else int(found[1])


def _convergence(outcar: str, folder: Path) -> tuple[str, str]:
    """Return whether ions and electrons are converged, by the words of OUTCAR."""
    loops = [found[1] is not None for found in _ELECTRONS.finditer(outcar)]
    if loops and not loops[-1]:
        return NOT_CONVERGED, "the electrons of its last ionic step are not converged"
    nsw, motion = _number(outcar, "NSW"), _number(outcar, "IBRION")
    incar = _path(folder, "INCAR")
    if nsw is None and incar is not None:
        nsw, motion = _number(_text(incar), "NSW"), _number(_text(incar), "IBRION")
    still = (nsw is not None and nsw <= 1) or motion == -1
    if still or _IONS in outcar:
        return CONVERGED, ""
    return NOT_CONVERGED, f"the ions are not converged after {len(loops)} steps"


def _convergence_of_xml(frames: Sequence[Atoms]) -> tuple[str, str]:
    """Return whether there is anything to be said without an OUTCAR: by the numbers of steps."""
    parameters = getattr(frames[-1].calc, "parameters", {}) if frames else {}
    nsw = int(parameters.get("nsw", 0))
    if nsw > 1 and len(frames) >= nsw:
        return NOT_CONVERGED, f"the ions are not converged after {len(frames)} steps"
    return CONVERGED, ""


def _xml_ended(path: Path | None) -> bool:
    if path is None:
        return False
    try:
        return _text(path).rstrip().endswith("</modeling>")
    except DAMAGED:
        return False


def _frames(xml: Path | None, outcar: Path | None) -> tuple[list[Atoms], str]:
    """Return the ionic steps of the file that has any, and what is wrong where none has."""
    problem = ""
    for path, form in ((xml, "vasp-xml"), (outcar, "vasp-out")):
        if path is None:
            continue
        frames: list[Atoms] = []
        try:
            frames += _steps(path, form)
        except Exception as error:  # whatever a parser says of a file that is cut off
            problem = f"{path.name}: {in_words(error)}"
        if frames:
            return frames, ""
    return [], problem


def _steps(path: Path, form: str) -> Iterator[Atoms]:
    from ase.io.vasp import read_vasp_out, read_vasp_xml

    with open_text(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = read_vasp_xml if form == "vasp-xml" else read_vasp_out
        frames = read(file, index=slice(None))
        for atoms in frames:
            if getattr(atoms.calc, "results", {}).get("energy") is not None:
                yield atoms
