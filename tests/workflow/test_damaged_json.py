"""JSON between two commands that is valid, but of another form, is named."""

import json
import shutil

import pytest

from whorl.errors import InputError
from whorl.workflow import crystals, verdict

FORMS = [[], None, 3, "x", {}, {"ids": 3}, {"rows": "x"}, {"properties": [1]}, {"verdicts": {"all": 3}}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms_that_no_command_writes(tiny_run, tmp_path, form):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(form))
    for read in (crystals.properties, crystals.read_verdicts, verdict.summary):
        with pytest.raises(InputError, match=r"x\.json: damaged"):
            read(path)
    (tmp_path / "reconstruct").mkdir()
    for file in (tiny_run / "reconstruct" / "n15").glob("structures*.*"):
        if file.is_file():
            shutil.copy(file, tmp_path / "reconstruct")
    generated = tiny_run / "generate" / "n15" / "generated.safetensors"
    structures = tmp_path / "reconstruct" / "structures.safetensors"

    def gather(**more):
        files = verdict.Files(generated=generated, structures=structures, **more)
        features = tiny_run / "encode" / "features.safetensors"
        return verdict.gather({"all": files}, features=features, property="formation_energy", judge=None)

    gather()
    with pytest.raises(InputError, match=r"x\.json: damaged"):
        gather(energies=path)
    (tmp_path / "reconstruct" / "structures-reconstruction.json").write_text(json.dumps(form))
    with pytest.raises(InputError, match=r"structures-reconstruction\.json: (damaged|does not say)"):
        gather()
