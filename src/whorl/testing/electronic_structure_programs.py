"""Contract of programs of density functional theory."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from whorl.structures.batch import StructureBatch

if TYPE_CHECKING:
    from whorl.dft.base import DFTCode


def check_electronic_structure_program(code: DFTCode, structure: StructureBatch | None = None) -> None:
    """Check the contract of a :class:`whorl.dft.DFTCode`: its input files, and that it reads any state.

    Args:
        code: To be checked.
        structure: A batch of one crystal that it can compute. By default an ordered alloy of Cu and Au.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    from whorl.dft.base import MISSING

    structure = _alloy() if structure is None else structure
    kept = {name: values.clone() for name, values in structure.tensors.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code.write(structure, folder / "calculation")
        for key, values in kept.items():
            assert torch.equal(getattr(structure, key), values), f"writing changed the {key} given"
        written = _contents(folder)
        assert code.stages, "it needs a stage"
        for stage in code.stages:
            assert (folder / "calculation" / stage).is_dir(), f"there must be a folder of the stage {stage}"
        first = folder / "calculation" / code.stages[0]
        assert any(first.iterdir()), "the first stage must have its input files"
        scripts = code.scripts()
        assert "run.sh" in scripts, "run.sh must compute everything"
        for script, text in scripts.items():
            if script.endswith(".sh"):
                syntax = subprocess.run(
                    ["bash", "-n"], input=text, text=True, capture_output=True, check=False
                )
                assert not syntax.returncode, f"{script} is no script of bash: {syntax.stderr}"
        for stage in code.stages:
            place = folder / "calculation" / stage
            assert not code.has_output(place), f"{stage} has no output before it was computed"
            result = code.read(place)
            assert result.status == MISSING, f"a stage without output must be '{MISSING}', got {result}"
            assert result.reason, "a stage that is missing needs a reason"
            assert not list(result.frames), "a stage that is missing has no ionic step"
        assert _contents(folder) == written, "reading must not change files"
        code.write(structure, folder / "again")
        for path, contents in _contents(folder / "again").items():
            assert contents == written[f"calculation/{path}"], f"the same crystal gave another {path}"


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _alloy() -> StructureBatch:
    from ase.build import bulk

    from whorl.structures.convert import from_ase

    alloy = bulk("Cu", cubic=True)
    alloy.symbols[1] = "Au"
    return from_ase([alloy])
