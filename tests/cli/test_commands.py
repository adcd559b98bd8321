import csv
import json
import subprocess
import sys

import pytest

from whorl.version import __version__

COMMANDS = [
    (),
    ("run",),
    ("data",),
    ("data", "clusters"),
    ("data", "crystals"),
    ("data", "fetch"),
    ("data", "read"),
    ("data", "sample"),
    ("data", "show"),
    ("encode",),
    ("train",),
    ("train", "generator"),
    ("train", "surrogate"),
    ("generate",),
    ("invert",),
    ("decode",),
    ("evaluate",),
    ("report",),
    ("show",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(whorl, command):
    said = whorl(*command, "--help")
    assert said.code == 0
    assert "Usage: " in said.out
    assert said.err == ""


def test_help_tells_the_exit_codes(whorl):
    said = whorl("--help").out
    for code in ("0 success", "1 invalid input", "2 wrong usage", "3 success, but", "130 stopped"):
        assert code in said


def test_the_package_runs_as_a_module():
    said = subprocess.run([sys.executable, "-m", "whorl", "--version"], capture_output=True, text=True)
    assert said.stdout == f"whorl {__version__}\n"


def test_version(whorl):
    assert whorl("--version").out == f"whorl {__version__}\n"


def test_the_face_of_the_command_line_is_light():
    heavy = "torch", "lightning", "matplotlib", "pymatgen", "chgnet", "ase"
    code = f"import sys, whorl.cli as c; c.commands(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_commands_and_options_are_usage_errors(whorl):
    assert whorl("rnu").code == 2
    assert whorl("run", "x.yaml", "--outptu", "y").code == 2


def test_an_option_that_takes_one_value_is_refused_when_given_twice(whorl, tmp_path):
    output = tmp_path / "x.safetensors"
    clusters = ("data", "clusters", "--atoms", 3, "--count", 2, "-o", output)
    for twice in (
        (*clusters, "--element", "Au", "--element", "Cu"),
        (*clusters, "--element=Au", "--element=Au"),
        (*clusters, "--element", "Au", "--window", 0, 1, "--window", 0, 2),
        ("data", "read", "a.xyz", "-o", output, "--output", output),
        ("run", "x.yaml", "--until", "data", "--until", "train"),
        ("train", "surrogate", "f.safetensors", "-o", output, "--epochs", 3, "--epochs", 4),
        ("evaluate", "g.safetensors", "--features", "f", "-o", "v", "--cgcnn", "--no-cgcnn"),
    ):
        said = whorl(*twice)
        assert said.code == 2, twice
        assert "is given twice, and takes one value" in said.err
    assert not output.exists()
    # Where several values are meant, they are all used.
    said = whorl("run", "nowhere.yaml", "--set", "seed=1", "--set", "seed=2")
    assert "nowhere.yaml: no such recipe" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "RECIPE", "--until", "nothing"),
        ("run", "RECIPE", "--set", "foo"),
        ("run", "RECIPE", "--set", "name.x=1"),
        ("train", "surrogate", "f.safetensors", "-o", "m.safetensors", "--epochs", 0),
        ("train", "generator", "f.safetensors", "-o", "m.safetensors", "--option", "foo"),
        ("generate", "m", "--features", "f", "-o", "x.safetensors", "--target", 1, "--samples", 0),
        ("generate", "m", "--features", "f", "-o", "x.safetensors", "--target", "nan"),
        ("evaluate", "g", "--features", "f", "-o", "v", "--tolerance", -1),
    ],
)
def test_values_that_no_data_can_make_right_are_usage_errors(whorl, recipe, arguments):
    said = whorl(*(recipe if argument == "RECIPE" else argument for argument in arguments))
    assert said.code == 2
    assert said.err.startswith("error: ")


def test_a_calculator_beside_the_recipe_is_found_by_worker_processes_too(
    whorl, recipe, tmp_path, monkeypatch
):
    beside = "from ase.calculators.emt import EMT\n\nclass Mine(EMT):\n    pass\n"
    (tmp_path / "calculator_beside_recipe.py").write_text(beside)
    path = "calculator_beside_recipe:Mine"
    changes = [
        f"data.clusters.calculator={path}",
        "data.clusters.processes=2",
        "data.clusters.directory=null",
    ]
    sets = [argument for change in changes for argument in ("--set", change)]
    monkeypatch.chdir(tmp_path.parent)
    said = whorl("run", recipe, *sets, "-o", tmp_path / "run", "--until", "data")
    assert said.code == 0, said.err
    assert (tmp_path / "run" / "data" / "dataset.safetensors").exists()


def test_a_recipe_runs_no_function(whorl, recipe, tmp_path):
    calculator = f"{{name: 'subprocess:run', options: {{args: [touch, {tmp_path / 'PWNED'}]}}}}"
    for key in ("evaluate.calculator", "data.clusters.calculator"):
        said = whorl("run", recipe, "--set", f"{key}={calculator}", "-o", tmp_path / "run")
        assert said.code == 1
        assert "expected a class derived from ASE's Calculator" in said.err
    assert not (tmp_path / "PWNED").exists()


def test_a_recipe_runs_and_is_not_repeated(whorl, recipe, tmp_path):
    folder = tmp_path / "out"
    first = whorl("run", recipe, "-o", folder)
    assert first.code == 0, first.err
    assert first.out.strip().endswith("report.html")
    assert "✓ reconstruct/all" in first.err
    assert "by the surrogate" in first.err
    second = whorl("run", recipe, "-o", folder)
    assert second.code == 0
    assert "✓" not in second.err
    assert "done before" in second.err
    again = whorl("report", folder, "-o", tmp_path / "again.html")
    assert again.code == 0
    assert (tmp_path / "again.html").stat().st_size > 1000


def test_single_commands_do_the_same_from_files_to_files(whorl, clusters, representation, tmp_path):
    def good(*arguments):
        said = whorl(*arguments)
        assert said.code == 0, said.err
        return said

    features, rows = tmp_path / "features.safetensors", tmp_path / "rows.json"
    judge, generator = tmp_path / "judge.safetensors", tmp_path / "generator.safetensors"
    generated, found = tmp_path / "generated.safetensors", tmp_path / "found.safetensors"
    small = ("--layers", 1, "--hidden", 8, "--epochs", 5)
    good("encode", clusters, "-o", features, "--settings", representation)
    good("data", "sample", features, "-o", rows, "--size", 20)
    good("train", "surrogate", features, "-o", judge, *small)
    good("train", "generator", features, "--rows", rows, "-o", generator, *small)
    good(
        "generate",
        generator,
        "--features",
        features,
        "--target",
        1.5,
        "--target",
        2,
        "--samples",
        4,
        "-o",
        generated,
    )
    search = ("--samples", 2, "--budget-evaluations", 100, "--reference", 0)
    good(
        "invert",
        generated,
        "--composition",
        "Pt4",
        "--features",
        features,
        "--rows",
        rows,
        "-o",
        found,
        *search,
    )
    evaluated = good(
        *("evaluate", generated, "--features", features, "--surrogate", judge, "--rows", rows),
        *("--structures", found, "--calculator", "emt", "-o", tmp_path / "results"),
    )
    assert "by the energy method" in evaluated.err
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [t["target"] for t in results["sizes"]["all"]["targets"]] == [1.5, 2.0]
    with (tmp_path / "results" / "candidates" / "candidates.csv").open(newline="") as table:
        candidates = list(csv.DictReader(table))
    assert {row["computed_by"] for row in candidates} == {"emt"}
    assert candidates and all(
        (tmp_path / "results" / "candidates" / row["file"]).is_file() for row in candidates
    )
    shown = good("data", "show", features)
    assert "40 rows of shape (6,)" in shown.out
    assert "Pt" in good("data", "show", clusters).out


def test_options_of_earlier_versions_are_accepted_with_a_warning_and_not_shown(whorl):
    command = ("evaluate", "made.safetensors", "--features", "f.safetensors", "-o", "results")
    with pytest.warns(FutureWarning, match="--judge is now called --surrogate"):
        said = whorl(*command, "--judge", "s.safetensors")
    assert "f.safetensors" in said.err
    with pytest.warns(FutureWarning, match="--crystals is now called --structures"):
        whorl(*command, "--crystals", "s.safetensors")
    said = whorl(*command, "--judge", "s.safetensors", "--surrogate", "s.safetensors")
    assert "give --surrogate only" in said.err
    shown = whorl("evaluate", "--help").out
    assert "--surrogate" in shown and "--judge" not in shown and "--crystals" not in shown


def test_ctrl_c_says_how_to_continue(whorl, recipe, tmp_path, monkeypatch):
    from whorl.workflow.stages import train

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_generator", interrupted)
    said = whorl("run", recipe, "-o", tmp_path / "out")
    assert said.code == 130
    assert "stopped; run the same command to continue" in said.err
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "400")
    said = whorl("run", recipe, "-o", tmp_path / "out", "--until", "generate")
    assert said.code == 0
    assert "✓ train/all" in said.err
    assert "✓ encode" not in said.err


def test_traceback_only_when_asked_for(whorl, tmp_path, monkeypatch):
    assert "Traceback" not in whorl("run", tmp_path / "none.yaml").err
    monkeypatch.setenv("WHORL_DEBUG", "1")
    assert "Traceback" in whorl("run", tmp_path / "none.yaml").err
