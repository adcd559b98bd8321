"""JSON between two stages that is valid, but of another form, is named."""

import json
import shutil

import pytest

from whorl.errors import InputError
from whorl.workflow.samples import SampleFiles, read_samples
from whorl.workflow.stages.evaluate import read_metrics
from whorl.workflow.stages.report import summary

FORMS = [[], None, 3, "x", {}, {"ids": 3}, {"rows": "x"}, {"properties": [1]}, {"sizes": {"all": 3}}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms_that_no_command_writes(tiny_run, tmp_path, form):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(form))
    for read in (summary, lambda path: read_metrics(path.parent)):
        with pytest.raises(InputError, match=r"x\.json: damaged|Evaluate again"):
            read(path)
    (tmp_path / "reconstruct").mkdir()
    for file in (tiny_run / "reconstruct" / "n15").glob("structures*.*"):
        if file.is_file():
            shutil.copy(file, tmp_path / "reconstruct")
    files = SampleFiles(
        generated=tiny_run / "generate" / "n15" / "generated.safetensors",
        structures=tmp_path / "reconstruct" / "structures.safetensors",
    )
    features = tiny_run / "encode" / "features.safetensors"
    assert len(read_samples(files, features=features).structures) == 4
    (tmp_path / "reconstruct" / "structures-reconstruction.json").write_text(json.dumps(form))
    with pytest.raises(InputError, match=r"structures-reconstruction\.json: (damaged|does not say)"):
        read_samples(files, features=features)


def test_results_of_an_earlier_version_say_what_to_do(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": "whorl verdict 1", "sizes": {}}))
    with pytest.raises(InputError, match=r"results\.json: results of an earlier version.*'whorl run' with"):
        summary(path)
