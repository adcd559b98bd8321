"""Stage ``active``: rounds of labels on the way to the targets, resumable, the same by any executor."""

import shutil

import pytest
import torch
from ase import Atoms
from tiny_recipe import Steps, tiny

from whorl.datasets import load_dataset
from whorl.errors import InputError
from whorl.files import read_json
from whorl.potentials import make_potential
from whorl.refinement.active import Candidates, choose_batch
from whorl.structures import from_ase
from whorl.surrogates import load_surrogate
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages import run_recipe

PROJECT = "refine=[{kind: project, spare: 2, confidence: 0, surrogate: {kind: additive, cosines: 40}}]"
ACTIVE = ("sampling.sizes=[15]", PROJECT, "active={rounds: 2, labels: 3}")


@pytest.fixture(scope="module")
def active(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("active") / "run"
    shutil.copytree(tiny_run, folder)
    monitor = Steps()
    run_recipe(tiny(*ACTIVE), folder, monitor=monitor)
    return folder, monitor.done


def test_rounds_come_between_reconstruction_and_refinement(active):
    _, done = active
    assert [step for step in done if "n15" in step] == [
        "train/n15-atoms",
        "active/n15/round-1",
        "active/n15/round-2",
        "refine/n15/baseline",
        "refine/n15/1-project",
    ]


def test_without_active_rounds_nothing_of_them_is_in_the_settings():
    assert tiny(PROJECT).active is None and "active" not in tiny(PROJECT).decisive()


def test_each_label_is_kept_with_its_structure_and_is_the_true_one(active):
    folder, _ = active
    run, emt = RunFolder(folder, tiny(*ACTIVE)), make_potential("emt")
    names = set()
    for path in run.active_labels("n15"):
        labels = load_dataset(path)
        output = emt(labels.structures)
        assert len(labels) == 3 and labels.provenance["seed"] == 3
        assert torch.allclose(labels.properties["energy"], output.energy)
        assert torch.allclose(labels.forces, output.forces)
        assert path.with_suffix(".extxyz").is_file()
        names |= set(labels.ids)
    assert len(names) == 6  # no structure twice


def test_the_last_projection_uses_the_last_surrogate_which_knows_all_labels(active):
    folder, _ = active
    run = RunFolder(folder, tiny(*ACTIVE))
    known = [load_surrogate(path)._structures for path in run.active_rounds("n15")]
    assert known == [18, 21] and load_surrogate(run.atoms_surrogate("n15"))._structures == 15
    marker = read_json(folder / "refine" / "n15" / "1-project" / "stage.json")
    assert "active/n15/round-2" in marker["results"] and "train/n15-atoms" not in marker["results"]


def test_labels_are_counted_beside_each_arm(active):
    folder, _ = active
    for target in read_json(folder / "evaluate" / "results.json")["sizes"]["n15"]["targets"]:
        labels = {name: arm["labels"] for name, arm in target["arms"].items()}
        assert labels == {"plain": 15, "project": 21, "baseline": 21}


def test_the_account_says_how_right_the_surrogate_was(active):
    folder, _ = active
    account = read_json(folder / "active" / "n15" / "round-1" / "round.json")
    rows = account["structures"]
    errors = [abs(row["value"] - row["predicted"]) for row in rows]
    assert account["labels"] == 3 and {row["status"] for row in rows} == {"labelled"}
    assert account["mean_absolute_error"] == pytest.approx(sum(errors) / 3)
    inside = [error <= 1.645 * row["uncertainty"] for error, row in zip(errors, rows, strict=True)]
    assert account["percent_inside_90_interval"] == pytest.approx(100 * sum(inside) / 3)
    assert set(account["percent_within"]) == {"2", "3"}


def files_of(folder):
    there = sorted(folder.rglob("*.safetensors"))
    return {path.relative_to(folder): path.read_bytes() for path in there if "parts" not in str(path)}


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_rounds_do_not_depend_on_the_executor(active, tiny_run, tmp_path, executor):
    folder = tmp_path / "run"
    shutil.copytree(active[0], folder)
    shutil.rmtree(folder / "active")
    run_recipe(
        tiny(*ACTIVE, f"executor={{kind: {executor}, workers: 2}}"), folder, until="active", monitor=Monitor()
    )
    assert files_of(folder / "active") == files_of(active[0] / "active")


class Killed(Monitor):
    """Stops the process, as kill -9 would, while labels are computed."""

    def progress(self, what):
        def stop(done, total, message=""):
            if what == "labelling":
                raise SystemExit

        return stop


def test_an_interrupted_round_goes_on_and_computes_nothing_twice(active, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(active[0], folder)
    shutil.rmtree(folder / "active")
    recipe = tiny(*ACTIVE)
    with pytest.raises(SystemExit):
        run_recipe(recipe, folder, until="active", monitor=Killed())
    assert (folder / "active/n15/round-1/chosen.safetensors").is_file()
    from whorl.workflow.stages import active as stage

    calls = []
    compute = stage._compute
    monkeypatch.setattr(stage, "_compute", lambda *given: calls.append(1) or compute(*given))
    run_recipe(recipe, folder, until="active", monitor=Monitor())
    assert len(calls) == 1  # of the second round alone
    assert files_of(folder / "active") == files_of(active[0] / "active")


def test_structures_that_the_method_fails_on_are_rows_with_a_reason(active, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(active[0], folder)
    shutil.rmtree(folder / "active")
    from whorl.workflow.stages import active as stage

    compute = stage._compute

    def failing(potential, quantity, chunk):
        part = compute(potential, quantity, chunk)
        part.tensors["values"][0] = torch.nan
        return type(part)(part.tensors, {"0": "no convergence"})

    monkeypatch.setattr(stage, "_compute", failing)
    monitor = Monitor()
    run_recipe(tiny(*ACTIVE), folder, until="active", monitor=monitor)
    rows = read_json(folder / "active/n15/round-1/round.json")["structures"]
    assert [row["status"] for row in rows] == ["failed: no convergence", "labelled", "labelled"]
    labels = load_dataset(folder / "active/n15/round-1/labels.safetensors")
    assert len(labels) == 2 and labels.skipped[0].reason == "no convergence"
    assert (
        monitor.skipped
        and load_surrogate(folder / "active/n15/round-1/surrogate.safetensors")._structures == 17
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("active={rounds: 1}",), "active: its labels are for the surrogate by which a refiner moves"),
        ((PROJECT, "active={rounds: 0}"), "rounds: got 0, expected 1 or more"),
        ((PROJECT, "active={round: 1}"), r"unknown key 'active\.round'\. Did you mean 'rounds'"),
    ],
)
def test_what_is_wrong_with_the_section_is_said(changes, words):
    with pytest.raises(InputError, match=words):
        tiny(*changes)


# --- The choice of a batch ---------------------------------------------------------------------------------


def of(targets, values, uncertainties, usable=None):
    count = len(targets)
    values, targets = torch.tensor(values).double(), torch.tensor(targets).double()
    uncertainties = torch.tensor(uncertainties).double()
    return Candidates(
        structures=from_ase([Atoms("Pt") for _ in range(count)]),
        targets=targets,
        values=values,
        uncertainties=uncertainties,
        confidence=1 / (1 + (values - targets).abs() + uncertainties),
        usable=torch.ones(count, dtype=torch.bool) if usable is None else torch.tensor(usable),
    )


def apart(count):
    return 10.0 * torch.arange(count, dtype=torch.float64)[:, None]


KNOWN = torch.tensor([[-20.0], [-21.0]], dtype=torch.float64)


def test_half_of_a_batch_is_to_learn_from_and_half_are_likely_hits():
    found = of([1, 1, 1, 1], [1, 1, 1, 3], [0.01, 0.3, 0.2, 0.3])
    assert choose_batch(found, apart(4), KNOWN, count=2) == [1, 0]


def test_all_targets_get_as_many():
    found = of([1, 1, 2, 2], [1, 1, 2, 2], [0.4, 0.3, 0.2, 0.1])
    assert sorted(choose_batch(found, apart(4), KNOWN, count=2)) == [0, 2]


def test_near_duplicates_and_unusable_structures_are_left_out():
    features = torch.tensor([[0.0], [1e-6], [50.0], [-20.0], [90.0]], dtype=torch.float64)
    found = of([1] * 5, [1.0] * 5, [0.4, 0.3, 0.2, 0.5, 0.6], [True, True, True, True, False])
    assert sorted(choose_batch(found, features, KNOWN, count=5)) in ([0, 2], [1, 2])
