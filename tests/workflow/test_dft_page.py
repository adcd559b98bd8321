"""The page "From a folder of DFT results" is carried out, with EMT in the place of DFT."""

import re
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import write
from typer.testing import CliRunner

from whorl.cli import commands
from whorl.datasets import load_dataset
from whorl.files import read_json
from whorl.workflow.settings import ActiveSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "dft.md").read_text(encoding="utf-8")
COLLECT, COMPUTE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
SMALL = {
    "representation": "{kind: acsf, cutoff: 8.0, g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]]}",
    "generator": "{epochs: 10, layers: 1, hidden: 8, latent: 2}",
    "surrogate": "{epochs: 10, layers: 1, hidden: 8}",
    "generate": "{targets: [3.0, 4.0], samples: 4}",
    "reconstruct": "{samples: 3, budget_evaluations: 100, reference: 2, reference_evaluations: 100}",
    "refine": "{kind: project, confidence: 0, surrogate: {kind: additive, cosines: 40}}",
    "active.labels": "3",
}


def finished_calculations(folder: Path) -> None:
    """Write results of single calculations, each in its folder."""
    rng = np.random.default_rng(1)
    square = np.array([[0, 0, 0], [2.6, 0, 0], [0, 2.6, 0], [0, 0, 2.6]])
    for number in range(24):
        atoms = Atoms("Pt4", square * rng.uniform(0.95, 1.3) + rng.normal(0, 0.15, (4, 3)), calculator=EMT())
        atoms.get_forces()
        place = folder / f"{number:03d}"
        place.mkdir(parents=True)
        write(place / "result.extxyz", atoms)


def test_the_page_leads_from_results_to_structures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished_calculations(tmp_path / "dft")
    exec(COLLECT.replace("OUTCAR", "result.extxyz"), {})
    (tmp_path / "dft.yaml").write_text(RECIPE, encoding="utf-8")
    changes = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    for number in (1, 2):
        waits = CliRunner().invoke(commands(), ["run", "dft.yaml", *changes])
        assert waits.exit_code == 3 and f"round-{number}: 3 structures are to be computed" in waits.output
        exec(COMPUTE.replace("round-1", f"round-{number}"), {})
    done = CliRunner().invoke(commands(), ["run", "dft.yaml", *changes])
    assert done.exit_code == 0, done.output
    run = tmp_path / "runs" / "dft"
    for number in (1, 2):
        labels = load_dataset(run / f"active/all/round-{number}/labels.safetensors")
        assert len(labels) == 3 and labels.forces is not None
        per_atom = labels.properties["energy"] / 4
        assert labels.properties["energy_per_atom"].tolist() == per_atom.tolist()
    assert {"percent_within", "percent_inside_90_interval"} <= read_json(
        run / "active/all/round-2/round.json"
    ).keys()
    assert (run / "refine/all/1-project/structures.extxyz").is_file()
    assert (run / "candidates/candidates.csv").is_file()


def test_the_page_has_all_keys_of_the_section():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert rows == list(ActiveSettings.model_fields)
