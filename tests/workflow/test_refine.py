"""Stage ``refine``: outcomes kept apart, what is finished stays, bad recipes are refused early."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.io import read, write
from tiny_recipe import Steps, tiny

from whorl.cli import commands, console
from whorl.datasets import Dataset, load_dataset, load_features
from whorl.errors import InputError
from whorl.evaluation import evaluate, mean_pairwise_distance, standardized
from whorl.evaluation.matching import rmsd
from whorl.evaluation.results import arm_of
from whorl.evaluation.samples import Samples
from whorl.files import read_json
from whorl.potentials import bulk_energy, make_potential
from whorl.refinement import displacement
from whorl.refinement.project import Project
from whorl.representations import make_representation
from whorl.structures import from_ase
from whorl.structures.connectivity import count_pieces
from whorl.structures.frozen import frozen_atoms_of
from whorl.surrogates import load_surrogate
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.settings import Recipe
from whorl.workflow.stages import run_recipe, steps_of
from whorl.workflow.stages.atoms import Labelled
from whorl.workflow.stages.evaluate import arms_of, read_metrics, samples_of
from whorl.workflow.stages.refine import (
    _drawn_before,
    _nearest_values,
    _out_of_reach,
    _outcome,
    baseline,
    drawn,
    mark_duplicates,
)
from whorl.workflow.stages.report import summary

RELAX = "refine={kind: relax, steps: 10}"


@pytest.fixture(scope="module")
def relaxed(tiny_run, tmp_path_factory):
    """Return a run whose structures were relaxed, and the steps that this took after a plain run."""
    folder = tmp_path_factory.mktemp("refined") / "run"
    shutil.copytree(tiny_run, folder)
    monitor = Steps()
    run_recipe(tiny(RELAX), folder, monitor=monitor)
    return folder, monitor.done


def test_without_refiners_there_is_no_step_and_no_folder(tiny_run):
    assert tiny().refine == [] and "refine" not in tiny().decisive()
    assert not (tiny_run / "refine").exists()


def test_a_refiner_is_added_to_a_finished_run_and_only_what_follows_is_done_again(relaxed):
    _, done = relaxed
    assert done[:2] == ["refine/n15/1-relax", "refine/n24/1-relax"]
    assert not any(step.startswith(("data", "encode", "train", "generate", "reconstruct")) for step in done)
    assert done[-1] == "report"


def test_the_outcome_says_what_moved_what_it_cost_and_how_it_ended(relaxed):
    folder, _ = relaxed
    run = RunFolder(folder, tiny(RELAX))
    before, path = load_dataset(run.structures("n15")), run.refined("n15")
    after, summary = load_dataset(path), read_json(path.with_name("structures-refinement.json"))
    assert path.parent == folder / "refine" / "n15" / "1-relax"
    assert after.ids == before.ids
    moved = (after.structures.positions - before.structures.positions).square().sum(1).reshape(4, 4).mean(1)
    assert torch.allclose(after.properties["displacement"], moved.sqrt()) and bool((moved > 0).all())
    assert after.properties["energy_calls"].tolist() == summary["energy_calls"] == [11.0] * 4
    assert [info["refinement_status"] for info in after.structures.info] == summary["status"]
    assert summary["counts"] == {"not converged": 4} and summary["kind"] == "relax"
    features = load_features(path.with_name("structures-features.safetensors"))
    assert torch.equal(
        features.features, make_representation(features.representation)(after.structures).detach()
    )


def test_what_is_evaluated_are_the_refined_structures(relaxed, tiny_run):
    folder, _ = relaxed
    energies = [
        torch.tensor(read_json(run / "evaluate" / "n15" / "energy.json")["per_structure"]["energy"])
        for run in (tiny_run, folder)
    ]
    assert bool((energies[1] < energies[0]).all())


def test_a_second_refiner_keeps_the_outcome_of_the_first(relaxed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(relaxed[0], folder)
    recipe, monitor = tiny("refine=[{kind: relax, steps: 10}, {kind: relax, steps: 5}]"), Steps()
    run_recipe(recipe, folder, monitor=monitor, until="refine")
    assert monitor.done == ["refine/n15/2-relax", "refine/n24/2-relax"]
    run = RunFolder(folder, recipe)
    first, second = (load_dataset(path) for path in run.refinements("n15"))
    assert run.refined("n15") == run.refinements("n15")[1]
    assert second.properties["energy_calls"].tolist() == [17.0] * 4  # of both
    assert bool((second.properties["displacement"] > 0).all())
    assert not torch.equal(first.structures.positions, second.structures.positions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("refine={kind: relax, fmx: 0.1}", r"unknown key 'refine\.fmx'\. Did you mean 'fmax'"),
        ("refine=[{kind: relax, fmx: 0.1}]", r"unknown key 'refine\[0\]\.fmx'\. Did you mean 'fmax'"),
        ("refine={kind: relaxx}", "unknown refiner 'relaxx'. Did you mean 'relax'"),
        ("refine=relaxx", "unknown refiner 'relaxx'. Did you mean 'relax'"),
        ("refine={kind: relax, steps: 0}", "steps: got 0, expected 1 or more"),
    ],
)
def test_what_is_wrong_with_the_section_is_said(change, words):
    with pytest.raises(InputError, match=words):
        tiny(change)


def test_a_refiner_is_named_alone_or_in_a_list():
    assert tiny("refine=relax").refine == tiny("refine=[relax]").refine == tiny("refine={kind: relax}").refine


def test_refiners_without_structures_are_refused():
    with pytest.raises(InputError, match="there are no structures without reconstruct"):
        tiny("reconstruct=null", RELAX)


def test_refiners_that_move_cells_with_frozen_atoms_are_refused():
    with pytest.raises(InputError, match="relax has free_cell, but atoms cannot stay frozen"):
        tiny(
            "reconstruct.frozen=[0]",
            "reconstruct.template=slab.extxyz",
            "refine={kind: relax, free_cell: true}",
        )


def test_atoms_that_the_search_holds_are_held_by_refiners_too(tmp_path):
    given = Atoms("Pt4", [[0, 0, 0], [0, 0, 2.5], [0, 2.5, 0], [2.5, 0, 0]])
    write(tmp_path / "t.extxyz", given)
    recipe = tiny("reconstruct.frozen=[0, 1]", f"reconstruct.template={tmp_path / 't.extxyz'}", RELAX)
    run_recipe(recipe, tmp_path / "run", monitor=Monitor(), until="refine")
    run = RunFolder(tmp_path / "run", recipe)
    before, after = (
        load_dataset(run.structures("n15")).structures,
        load_dataset(run.refined("n15")).structures,
    )
    frozen = before.position_in_structure < 2
    assert torch.equal(frozen_atoms_of(after), frozen)
    there = torch.tensor(given.positions[:2]).repeat(len(after), 1)
    assert torch.equal(after.positions[frozen], there)
    assert not torch.equal(after.positions[~frozen], before.positions[~frozen])
    assert all(atoms.constraints for atoms in read(run.refined("n15").with_suffix(".extxyz"), ":"))


def test_a_surrogate_of_atoms_without_labelled_structures_is_refused(tmp_path):
    data = {"features": {"path": str(tmp_path / "f.npz"), "property": "y", "composition": "Pt4"}}
    whole = {**tiny().model_dump(mode="json"), "data": data, "refine": {"kind": "project"}}
    with pytest.raises(ValueError, match="project needs labelled structures"):
        Recipe.model_validate(whole)


def test_a_refiner_that_lacks_an_energy_method_is_refused_before_any_work(tmp_path):
    structures = tmp_path / "s.extxyz"
    write(structures, [Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5 + d]], info={"y": d}) for d in (0.0, 0.1, 0.2)])
    changes = {"data": {"files": {"path": str(structures), "property": "y"}}}
    recipe = Recipe.model_validate({**tiny(RELAX).model_dump(mode="json"), **changes})
    with pytest.raises(InputError, match="relax needs an energy method"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "data").exists()


@pytest.fixture
def whorl():
    from typer.testing import CliRunner

    runner = CliRunner()
    return lambda *arguments: runner.invoke(commands(), [str(argument) for argument in arguments])


def test_the_command_relaxes_any_file_of_structures(whorl, tmp_path):
    file, output = tmp_path / "dimers.extxyz", tmp_path / "relaxed.safetensors"
    write(
        file,
        [Atoms(name, [[0, 0, 0], [0, 0, 2.7]], info={"energy_of": "x"}) for name in ("Pt2", "Fe2", "Cu2")],
    )
    result = whorl("refine", file, "-o", output, "--calculator", "emt", "--fmax", "0.02")
    assert result.exit_code == 0, result.output
    assert "1 of 3 structures were returned unchanged" in result.output and "Fe" in result.output
    made = load_dataset(output)
    assert float(made.properties["displacement"][1]) == 0.0
    assert made.structures.info[1]["refinement_status"].startswith("failed: ")
    assert made.structures.info[0] == {"refinement_status": "converged"}
    assert bool((made.properties["displacement"][[0, 2]] > 0.01).all())


def test_the_command_needs_an_energy_method(whorl, tmp_path):
    file = tmp_path / "dimer.xyz"
    write(file, Atoms("Pt2", [[0, 0, 0], [0, 0, 2.7]]))
    result = whorl("refine", file, "-o", tmp_path / "r.safetensors")
    assert result.exit_code == 1 and "relax needs an energy method" in result.output
    assert not (tmp_path / "r.safetensors").exists()


# --- Projection and oracle: surrogate of atoms, spare samples, baseline, arms -------------------------------

PROJECT = (
    "refine=[{kind: project, spare: 2, surrogate: {kind: additive, cosines: 40}}, {kind: oracle, calls: 4}]"
)
ARM = {"count", "percent_within", "mean_absolute_error", "energy_calls", "labels", "draws"}


@pytest.fixture(scope="module")
def projected(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("projected") / "run"
    shutil.copytree(tiny_run, folder)
    monitor = Steps()
    run_recipe(tiny(PROJECT), folder, monitor=monitor)
    return folder, monitor.done


def test_only_what_is_needed_besides_is_done(projected):
    _, done = projected
    of_one = [step for step in done if "n15" in step]
    assert of_one == [
        "train/n15-atoms",
        "refine/n15/baseline",  # before the reconstruction: it says which targets are out of reach
        "refine/n15/1-project",
        "refine/n15/2-oracle",
    ]


def test_the_surrogate_of_atoms_knows_the_training_rows_and_no_other(projected):
    folder, _ = projected
    for label, count in (("n15", 15), ("n24", 24)):
        surrogate = load_surrogate(folder / "train" / f"{label}-atoms" / "surrogate.safetensors")
        assert surrogate._structures == count


def test_samples_drawn_again_are_others_of_the_same_targets_and_as_few_as_are_needed(projected):
    folder, _ = projected
    run, count = RunFolder(folder, tiny(PROJECT)), 0
    for label in run.labels:
        first, path = load_dataset(run.structures(label)), run.refinements(label)[0]
        names, summary = set(first.ids), read_json(path.with_name("structures-refinement.json"))
        for drawn_again in sorted(path.parent.glob("drawn-*/structures.safetensors")):
            data = load_dataset(drawn_again)
            assert not names & set(data.ids) and set(data.properties["target"].tolist()) <= {2.0, 3.0}
            names |= set(data.ids)
            count += len(data)
        assert set(summary["ids"]) <= names
        assert sum(summary["draws"]) == len(names)  # none was drawn that was not needed
    assert count


def test_structures_too_near_to_one_another_give_place_to_further_ones(projected, tmp_path):
    folder, _ = projected
    run = RunFolder(folder, tiny(PROJECT))
    labelled = Labelled.of_run(run, "n24")
    known = load_features(run.features).select(read_json(run.rows("n24"))["rows"]).features
    spreads, draws = [], []
    for spread in (0.0, 9.0):
        output = tmp_path / f"{spread}" / "structures.safetensors"
        baseline(
            settings=Project.Settings(spread=spread, confidence=0.0),
            targets=[2.0, 2.5, 3.0],
            count=4,
            labelled=labelled,
            surrogate=run.atoms_surrogate("n24"),
            output=output,
            monitor=Monitor(),
            tolerance=0.1,
        )
        features = load_features(output.with_name("structures-features.safetensors")).features
        spreads.append(mean_pairwise_distance(standardized(features, known)))
        draws.append(sum(read_json(output.with_name("structures-refinement.json"))["draws"]))
    assert spreads[1] > spreads[0] and draws[1] == draws[0] + 3 * 2


def test_structures_before_the_first_refiner_are_kept_for_each_place(projected):
    folder, _ = projected
    run = RunFolder(folder, tiny(PROJECT))
    for path in (*run.refinements("n24"), run.baseline("n24")):
        before, after = load_dataset(path.with_name("structures-before.safetensors")), load_dataset(path)
        assert before.ids == after.ids
        moved = displacement(before.structures, after.structures)
        assert torch.allclose(moved, after.properties["displacement"])


def test_all_arms_stand_side_by_side(projected):
    folder, _ = projected
    results = read_json(folder / "evaluate" / "results.json")
    for label, labels in (("n15", 15), ("n24", 24)):
        for target in results["sizes"][label]["targets"]:
            arms = target["arms"]
            assert list(arms) == ["plain", "project", "oracle", "baseline"]
            assert all(arm.keys() >= ARM and arm["count"] == 2 for arm in arms.values())
            assert all(arm["draws"] >= 2 for arm in arms.values())
            spent = {name: arm["labels"] for name, arm in arms.items()}
            assert spent["plain"] == spent["project"] == spent["baseline"] == labels < spent["oracle"]
            assert [arms[name]["energy_calls"] for name in ("plain", "project", "baseline")] == [0, 0, 0]
            assert 1 <= arms["oracle"]["energy_calls"] <= 4
            assert arms["oracle"]["mean_absolute_error"] <= arms["project"]["mean_absolute_error"] + 1e-9
            whole = target["potential"]
            assert whole["percent_within"] == arms["oracle"]["percent_within"]


def test_the_values_of_an_arm_are_those_of_its_structures(projected):
    folder, _ = projected
    run, emt = RunFolder(folder, tiny(PROJECT)), make_potential("emt")
    for name, path in run.arms("n24").items():
        data = load_dataset(path)
        metrics = read_json(folder / "evaluate" / "n24" / name / "energy.json")
        assert metrics["per_structure"]["energy"] == pytest.approx(emt(data.structures).energy.tolist())


LATER = "refine=[{kind: relax, steps: 3}, {kind: oracle, calls: 2, spare: 3}]"


def test_any_refiner_draws_further_samples_which_come_by_the_refiners_before_it(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    run_recipe(tiny(LATER), folder, monitor=Monitor())
    run, drawn_again = RunFolder(folder, tiny(LATER)), 0
    for label in run.labels:
        first, (relaxed, walked) = load_dataset(run.structures(label)), run.refinements(label)
        made, calls = [first], [*load_dataset(relaxed).properties["energy_calls"].tolist()]
        for path in sorted(walked.parent.glob("drawn-*/structures.safetensors")):
            again = load_dataset(path.with_name("1-relax") / path.name)
            assert again.ids == load_dataset(path).ids
            calls += again.properties["energy_calls"].tolist()
            made.append(again)
        names = [name for data in made for name in data.ids]
        assert len(names) == len(set(names))  # none twice
        drawn_again += len(names) - len(first)
        result, summary = load_dataset(walked), read_json(walked.with_name("structures-refinement.json"))
        assert result.properties["draws"].tolist() == summary["draws"] and sum(summary["draws"]) == len(names)
        labels = load_dataset(walked.with_name("structures-labels.safetensors"))
        # Calls of samples that others took the place of count, too.
        assert sum(summary["energy_calls"]) == sum(calls) + len(labels)
        before = load_dataset(walked.with_name("structures-before.safetensors"))
        assert before.ids == result.ids
        moved = displacement(before.structures, result.structures)
        assert torch.allclose(moved, result.properties["displacement"]) and bool((moved > 0).all())
    assert drawn_again


def test_samples_drawn_by_an_earlier_refiner_are_not_drawn_again():
    data = Dataset(
        structures=from_ase([Atoms("Pt")] * 3),
        properties={
            "target": torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64),
            "draws": torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64),
        },
        ids=("a", "b", "c"),
    )
    assert _drawn_before(data) == {1.0: 2, 2.0: 1}


WINDOW = 0.8  # eV/atom, wide enough for a few real rows


def test_the_numbers_of_an_arm_agree_with_slow_loops(projected):
    folder, _ = projected
    run = RunFolder(folder, tiny(PROJECT))
    (_, reference), training = samples_of(run)["n24"], read_json(run.rows("n24"))["rows"]
    varies = reference.features.std(0, correction=0) > 0
    shift, scale = reference.features.mean(0), reference.features.std(0, correction=0)
    standard = ((reference.features - shift) / scale)[:, varies]
    representation = make_representation(load_features(run.features).representation)
    surrogate = load_surrogate(run.atoms_surrogate("n24"))
    in_results = {of["target"]: of["arms"] for of in read_json(run.results)["sizes"]["n24"]["targets"]}
    copies, covered = 0, []
    for name, samples in arms_of(run)["n24"].items():
        structures = [samples.structures[k] for k in range(len(samples.structures))]
        with torch.no_grad():
            features = ((representation(samples.structures) - shift) / scale)[:, varies]
        true = read_json(run.metrics("n24", f"{name}/energy"))["per_structure"]["value"]
        predicted = surrogate.predict(samples.structures)
        of = evaluate(samples, reference, ["diversity"], tolerance=WINDOW)
        metrics = {**read_metrics(folder / "evaluate" / "n24" / name), **of.metrics}
        for target in (2.0, 3.0):
            arm = arm_of(dataclasses.replace(of, metrics=metrics), target, labels=24)
            own = [k for k in range(len(structures)) if samples.structure_targets[k] == target]
            near = standard[(reference.properties - target).abs() <= WINDOW]
            between = [float((features[i] - features[j]).norm()) for i in own for j in own if i < j]
            real = [float((a - b).norm()) for i, a in enumerate(near) for b in near[:i]]
            assert arm.spread_ratio == pytest.approx(sum(between) / len(between) / (sum(real) / len(real)))
            fifth = [sorted(float((row - other).norm()) for other in near)[5] for row in near]
            close = [min(float((row - features[k]).norm()) for k in own) for row in near]
            covered.append(sum(d <= r for d, r in zip(close, fifth, strict=True)) / len(near))
            assert arm.coverage == pytest.approx(covered[-1])
            inside = [abs(true[k] - predicted.mean[k]) <= 1.645 * predicted.uncertainty[k] for k in own]
            same = [float(rmsd(structures[i], structures[j])) <= 0.1 for i in own for j in own if i < j]
            known = [
                min(float(rmsd(structures[k], reference.structures[row])) for row in training) <= 0.1
                for k in own
            ]
            expected = {
                "interval_coverage": sum(inside) / len(own),
                "unique": 0.5 if any(same) else 1.0,
                "copies": sum(known),
                "percent_whole": 100 * sum(int(count_pieces(structures[k])) == 1 for k in own) / len(own),
            }
            for key, value in expected.items():
                assert getattr(arm, key) == in_results[target][name][key] == pytest.approx(value)
            copies += sum(known)
    assert copies and any(0 < share < 1 for share in covered)  # the baseline hardly moves some structures


@pytest.mark.parametrize("width", [80, 200])
def test_tables_of_the_arms_are_whole_in_a_terminal(projected, monkeypatch, width, capsys):
    folder, _ = projected
    monkeypatch.setattr(console.err, "_width", width)
    console.show_summary(*summary(RunFolder(folder, tiny(PROJECT)).results))
    shown = capsys.readouterr().err
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    for word in ("within", "±0.1", "(eV/atom)", "labels", "draws", "copies", "spread", "covered", "interval"):
        assert word in shown.split()


def test_calls_are_kept_as_labels_with_forces(projected):
    folder, _ = projected
    run = RunFolder(folder, tiny(PROJECT))
    path = run.refined("n24")
    made, labels = load_dataset(path), load_dataset(path.with_name("structures-labels.safetensors"))
    assert len(labels) == int(made.properties["energy_calls"].sum())
    output = make_potential("emt")(labels.structures)
    assert torch.allclose(labels.properties["energy"], output.energy)
    assert torch.allclose(labels.forces, output.forces)


def test_the_baseline_begins_with_training_structures(projected):
    folder, _ = projected
    run = RunFolder(folder, tiny(PROJECT))
    data = load_dataset(run.baseline("n15"))
    rows = [int(name.partition("/row ")[2]) for name in data.ids]
    assert all(0 <= row < 15 for row in rows)
    assert data.properties["target"].tolist() == [2.0, 2.0, 3.0, 3.0]


def samples_with(*statuses: str, targets: list[float]) -> Samples:
    structures = from_ase([Atoms("Pt") for _ in statuses])
    return Samples(
        ids=tuple(map(str, range(len(statuses)))),
        targets=torch.tensor(targets, dtype=torch.float64),
        structures=structures,
        rows=torch.arange(len(statuses)),
        refinement=statuses,
    )


def test_what_is_out_of_reach_is_drawn_again_and_draws_are_counted():
    refined = samples_with(
        *("reached", "unreached: x", "unreached: x", "reached"),
        *("unreached: x", "reached", "uncertain", "reached"),
        targets=[1, 1, 1, 2, 1, 1, 1, 2],
    )
    index, place = drawn(refined, 4)
    assert index.tolist() == [0, 5, 6, 3]  # the last spare one of the target is uncertain, but moved
    assert place.tolist() == [0, 1, 2, 3, 1, 1, 2, 3]


def test_what_is_there_already_is_drawn_again():
    square = Atoms("Pt4", [[0, 0, 0], [2.6, 0, 0], [2.6, 2.6, 0], [0, 2.6, 0]])
    turned, line, bent = square[[2, 0, 3, 1]], square.copy(), square.copy()
    turned.rotate(40, (1, 2, 3))
    turned.positions += [3, 0, 0.02]
    line.positions = [[2.6 * k, 0, 0] for k in range(4)]
    bent.positions[3] = [0, 2.6, 1.5]
    every = from_ase([square, turned, turned, line, square, line, bent])
    refined = samples_with(*["reached"] * 7, targets=[1, 1, 2, 1, 1, 1, 1]).replace(structures=every)
    marked = mark_duplicates(refined)
    assert marked.refinement == (
        *("reached", "duplicate: the same as 0", "reached", "reached"),  # another target is another matter
        *("duplicate: the same as 0", "duplicate: the same as 3", "reached"),
    )
    index, place = drawn(marked, 4)
    assert index.tolist() == [0, 6, 2, 3] and place.tolist() == [0, 1, 2, 3, 1, 1, 1]
    assert _out_of_reach(marked, 4, 9, {}) == {}
    assert _out_of_reach(mark_duplicates(refined.of_structures(torch.arange(4))), 4, 9, {}) == {1.0: (3, 1)}


def test_the_value_comes_before_what_is_new():
    statuses = ("duplicate: x", "not reached: x", "unreached: x", "reached", "duplicate: x", "not reached: x")
    index, place = drawn(samples_with(*statuses, targets=[1] * 6), 3)
    assert index.tolist() == [0, 4, 3] and place.tolist() == [0, 1, 2, 2, 1, 1]


def test_of_a_target_out_of_reach_of_many_no_more_are_drawn():
    unreached = ["unreached: nearest value 0.7"] * 20
    few, many = (samples_with(*unreached[:n], targets=[1.0] * n) for n in (3, 20))
    assert _out_of_reach(few, 3, 50, {}) == {1.0: (3, 3)}
    assert _out_of_reach(many, 20, 50, {}) == {}
    missed = samples_with(*["not reached: nearest value 0.7"] * 20, targets=[1.0] * 20)
    assert _out_of_reach(missed, 20, 50, {}) == {}
    some = samples_with(*unreached[:19], "reached", targets=[1.0] * 20)
    assert _out_of_reach(some, 20, 50, {1.0: 45}) == {1.0: (65, 5)}


def test_of_each_target_missed_the_nearest_value_of_all_draws_is_said():
    refined = samples_with(
        *("unreached: nearest value 0.7", "uncertain: 60% likely a hit", "reached", "failed: no Ag"),
        *("unreached: nearest value 0.9", "unreached: nearest value 1.4", "not reached: nearest value -2"),
        targets=[1, 2, 2, 3, 1, 1, 4],
    )
    nearest = _nearest_values(refined)
    assert nearest == {1.0: 0.9, 4.0: -2.0}
    kept = refined.of_structures(torch.tensor([0, 1, 2, 3, 6]))
    first, *others = _outcome("project", kept, torch.tensor([3, 1, 1, 1, 1]), nearest)
    assert "1 of 5 structures were returned unchanged (first: failed: no Ag)" in first
    assert others == [
        "refine (project), target 1: 1 of 1 structures do not reach it (1 unreached; nearest value 0.9), "
        "after 3 draws. It may be out of reach.",
        "refine (project), target 2: 1 of 2 structures do not reach it (1 uncertain).",
        "refine (project), target 3: 1 of 1 structures do not reach it (1 failed).",
        "refine (project), target 4: 1 of 1 structures do not reach it (1 not reached; nearest value -2).",
    ]
    assert not list(_outcome("relax", samples_with("converged", targets=[1]), torch.ones(1), {}))


def test_a_target_that_nothing_reaches_is_said_before_the_reconstruction():
    names = [step.name for step in steps_of(tiny(PROJECT), Path("run"))]
    first = min(k for k, name in enumerate(names) if name.startswith(("generate", "reconstruct")))
    assert all(names.index(f"refine/{label}/baseline") < first for label in ("n15", "n24"))
    assert all(names.index(f"train/{label}-atoms") < first for label in ("n15", "n24"))


def test_without_spare_samples_the_first_ones_stay():
    index, place = drawn(samples_with("reached", "unreached: x", targets=[1, 1]), 2)
    assert index.tolist() == [0, 1] and place.tolist() == [0, 1]


def test_the_command_projects_any_file_onto_a_value(whorl, projected, tmp_path):
    folder, _ = projected
    run, output = RunFolder(folder, tiny(PROJECT)), tmp_path / "moved.safetensors"
    options = ("--dataset", run.dataset, "--property", "formation_energy", "--target", "2.6")
    arguments = ("--kind", "project", "--confidence", "0", "--surrogate", "{kind: additive, cosines: 40}")
    result = whorl("refine", run.structures("n24"), "-o", output, *options, *arguments)
    assert result.exit_code == 0, result.output
    made = load_dataset(output)
    assert made.properties["target"].tolist() == [2.6] * 4
    assert any(info["refinement_status"] == "reached" for info in made.structures.info)


def test_the_command_walks_by_the_energy_method(whorl, projected, tmp_path):
    folder, _ = projected
    run, output = RunFolder(folder, tiny(PROJECT)), tmp_path / "walked.safetensors"
    result = whorl(
        *("refine", run.structures("n24"), "-o", output, "--kind", "oracle", "--calculator", "emt"),
        *("--quantity", "formation_energy", "--calls", "6"),
    )
    assert result.exit_code == 0, result.output
    made = load_dataset(output)
    emt = make_potential("emt")
    values = emt(made.structures).energy / 4 - bulk_energy(emt, "Pt")
    hit = [info["refinement_status"] == "reached" for info in made.structures.info]
    assert ((values - made.properties["target"]).abs() <= 0.1).tolist() == hit and any(hit)


def test_the_summary_of_a_run_shows_the_arms(projected, tiny_run):
    shown, _ = summary(projected[0] / "evaluate" / "results.json")
    table = shown["Structures by the energy method"]
    assert [name for name, _, _ in table.groups] == ["n = 15", "n = 24"]
    arms = ["as reconstructed", "projected", "after energy calls", "data, projected"]
    assert [heading.split(" ", 1)[1] for heading in table.targets[:4]] == arms
    assert [column.label for column in table.columns[:6]] == [
        *("within ±0.1", "MAE", "calls", "labels", "draws", "moved"),
    ]
    plain, _ = summary(tiny_run / "evaluate" / "results.json")
    assert "Structures as reconstructed, by the energy method" in plain
