"""Active rounds of an outside program: a run waits for results, goes on with them, and refuses bad ones."""

import shutil

import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from tiny_recipe import tiny

from whorl.cli import commands
from whorl.datasets import load_dataset
from whorl.errors import InputError, ResultsAwaitedError
from whorl.files import read_json
from whorl.potentials import bulk_energy, make_potential
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import save_recipe
from whorl.workflow.stages import run_recipe

PROJECT = "refine=[{kind: project, spare: 2, confidence: 0, surrogate: {kind: additive, cosines: 40}}]"
ROUND = "active/n15/round-1"


def outside(*more):
    bulk = bulk_energy(make_potential("emt"), "Pt")
    active = f"active={{rounds: 1, labels: 3, outside: true, bulk_energy: {{Pt: {bulk!r}}}{''.join(more)}}}"
    return tiny("sampling.sizes=[15]", PROJECT, active)


@pytest.fixture(scope="module")
def waiting(tiny_run, tmp_path_factory):
    """Return a run that waits for results, and what it says."""
    folder = tmp_path_factory.mktemp("outside") / "run"
    shutil.copytree(tiny_run, folder)
    with pytest.raises(ResultsAwaitedError) as waits:
        run_recipe(outside(), folder, until="active")
    return folder, str(waits.value)


@pytest.fixture
def run(waiting, tmp_path):
    shutil.copytree(waiting[0], tmp_path / "run")
    return tmp_path / "run"


def computed(run):
    """Return the structures to compute, computed."""
    made = []
    for atoms in read(run / ROUND / "to_compute.extxyz", ":"):
        calculated = atoms.copy()
        calculated.calc = EMT()
        energy, forces = calculated.get_potential_energy(), calculated.get_forces()
        calculated.calc = SinglePointCalculator(calculated, energy=energy, forces=forces)
        made.append(calculated)
    return made


def put_back(run, frames, name="done.extxyz"):
    (run / ROUND / "results" / name).parent.mkdir(exist_ok=True, parents=True)
    write(run / ROUND / "results" / name, frames, format="extxyz")


def go_on(run, *more):
    monitor = Monitor()
    run_recipe(outside(*more), run, until="active", monitor=monitor)
    return monitor


def said(run):
    with pytest.raises(ResultsAwaitedError) as waits:
        go_on(run)
    return str(waits.value)


def test_it_says_what_to_do_and_where(waiting):
    folder, message = waiting
    assert "3 structures are to be computed by your program" in message
    assert str(folder / ROUND) in message and "total energies in eV" in message and "results" in message
    ids = [atoms.info["id"] for atoms in read(folder / ROUND / "to_compute.extxyz", ":")]
    assert len(set(ids)) == 3
    for name in ids:
        assert (folder / ROUND / "to_compute" / name / "structure.xyz").is_file()
    assert not (folder / ROUND / "stage.json").exists() and (folder / "generate/n15/stage.json").is_file()


def test_the_same_command_asks_for_the_same_structures_again(run):
    before = (run / ROUND / "to_compute.extxyz").read_bytes()
    assert "3 structures are to be computed" in said(run)
    assert (run / ROUND / "to_compute.extxyz").read_bytes() == before


def test_results_put_back_are_what_a_calculator_within_the_run_gives(run, tiny_run, tmp_path):
    put_back(run, computed(run)[::-1])
    assert not go_on(run).doubts
    inside = tmp_path / "inside"
    shutil.copytree(tiny_run, inside)
    recipe = tiny("sampling.sizes=[15]", PROJECT, "active={rounds: 1, labels: 3}")
    run_recipe(recipe, inside, until="active")
    ours, theirs = (load_dataset(folder / ROUND / "labels.safetensors") for folder in (run, inside))
    assert ours.ids == theirs.ids
    for name, values in ours.properties.items():
        assert torch.allclose(values, theirs.properties[name], atol=1e-5), name
    assert torch.allclose(ours.forces, theirs.forces, atol=1e-4)


def test_a_folder_for_each_structure_will_do_and_so_will_a_box_another_order_and_a_shift(run):
    for atoms in computed(run):
        moved = atoms[::-1]
        moved.positions += 7.7
        moved.set_cell([20, 20, 20])
        moved.pbc = True
        moved.wrap()
        forces = atoms.get_forces()[::-1]
        moved.calc = SinglePointCalculator(moved, energy=atoms.get_potential_energy(), forces=forces)
        name = moved.info.pop("id")
        put_back(run, moved, f"{name}/out.xyz")
    go_on(run)
    labels = load_dataset(run / ROUND / "labels.safetensors")
    assert len(labels) == 3
    expected = make_potential("emt")(labels.structures.replace(info=()))
    assert torch.allclose(labels.forces, expected.forces, atol=1e-4)


def test_the_property_itself_may_be_put_back(run):
    frames = computed(run)
    for atoms in frames:
        atoms.calc = None
        atoms.info["formation_energy"] = 2.5
    put_back(run, frames)
    go_on(run)
    labels = load_dataset(run / ROUND / "labels.safetensors")
    assert labels.properties["formation_energy"].tolist() == [2.5] * 3 and labels.forces is None


def test_missing_results_are_named_and_left_out_only_if_that_is_wanted(run):
    frames = computed(run)
    put_back(run, frames[:2])
    name = frames[2].info["id"]
    assert f"results of 1 of 3 structures are awaited:\n  {name}: missing" in said(run)
    monitor = go_on(run, ", partial: true")
    assert [reason for _, reason in monitor.skipped] == ["missing"]
    rows = read_json(run / ROUND / "round.json")["structures"]
    assert [row["status"] for row in rows] == ["labelled", "labelled", "failed: missing"]


def relaxed(atoms):
    atoms.positions[0] += 0.3
    return "Å away from those to compute. Was it relaxed"


def other_atoms(atoms):
    atoms.symbols[0] = "Au"
    return "other atoms: "


def not_a_number(atoms):
    atoms.calc.results["energy"] = float("nan")
    return "no finite energy"


def uncomputed(atoms):
    atoms.calc = None
    return "no finite energy"


@pytest.mark.parametrize("spoil", [relaxed, other_atoms, not_a_number, uncomputed])
def test_a_result_of_no_use_is_refused_by_name(run, spoil):
    frames = computed(run)
    results = dict(frames[1].calc.results)
    words = spoil(frames[1])
    if frames[1].calc is not None:
        frames[1].calc = SinglePointCalculator(frames[1], **{**results, **frames[1].calc.results})
    put_back(run, frames)
    message = said(run)
    assert "results of 1 of 3" in message and words in message and frames[1].info["id"] in message


def test_two_results_that_differ_are_refused_and_equal_ones_doubted(run):
    frames = computed(run)
    put_back(run, frames)
    put_back(run, frames[0], "again.extxyz")
    assert "two results" in go_on(run).doubts[0][1]
    shutil.rmtree(run / ROUND / "results")
    (run / ROUND / "stage.json").unlink()
    (run / ROUND / ".begun.json").write_text("{}")
    put_back(run, frames)
    frames[0].calc.results["energy"] += 0.5
    put_back(run, frames[0], "again.extxyz")
    assert "two results that differ" in said(run)


def test_results_of_other_structures_are_doubted(run):
    frames = computed(run)
    stranger = frames[0].copy()
    stranger.info["id"] = "Pt4-0000000000"
    put_back(run, [*frames, stranger])
    assert "none of these" in go_on(run).doubts[0][1]


@pytest.mark.parametrize(
    ("energy", "force", "words"),
    [(27.2114, 1.0, "far from the data|are the energies in eV"), (1.0, 51.422, "are to be in eV/Å")],
)
def test_other_units_are_refused(run, energy, force, words):
    frames = computed(run)
    for atoms in frames:
        results = {
            "energy": atoms.get_potential_energy() * energy,
            "forces": atoms.get_forces() / force,
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
    put_back(run, frames)
    with pytest.raises(InputError, match=words):
        go_on(run)


def test_results_survive_another_setting(run):
    put_back(run, computed(run)[:1])
    with pytest.raises(ResultsAwaitedError):
        run_recipe(
            outside().model_copy(update={"evaluate": tiny("evaluate.tolerance=0.2").evaluate}),
            run,
            until="active",
        )
    assert (run / ROUND / "results" / "done.extxyz").is_file()


def test_the_command_waits_with_exit_code_3(run, tmp_path):
    from typer.testing import CliRunner

    recipe = tmp_path / "tiny.yaml"
    save_recipe(outside(), recipe)
    arguments = ["run", str(recipe), "-o", str(run), "--until", "active"]
    result = CliRunner().invoke(commands(), arguments)
    assert result.exit_code == 3 and "are to be computed by your program" in result.output
    assert "error" not in result.output
    put_back(run, computed(run))
    result = CliRunner().invoke(commands(), arguments)
    assert result.exit_code == 0, result.output
