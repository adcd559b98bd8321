"""Whatever is wrong with the input: a clear message, a fitting exit code, and nothing lost."""

import errno

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.io import write

from whorl.datasets import load_dataset
from whorl.errors import InputError


def pt(*positions, **options):
    return Atoms(f"Pt{len(positions)}", positions, **options)


def good(i=0):
    return pt((0, 0, 0), (2.6 + 0.01 * i, 0, 0), (0, 2.6, 0), (0, 0, 2.6))


@pytest.fixture
def read(whorl, tmp_path):
    """Return a function that writes some atoms as extxyz, with an energy each, and reads them by command."""

    def call(*atoms, property="energy_per_atom"):
        for i, structure in enumerate(atoms):
            if "energy_per_atom" not in structure.info:
                structure.info["energy_per_atom"] = 1.0 + i
        write(tmp_path / "in.extxyz", atoms, format="extxyz")
        return whorl(
            "data", "read", tmp_path / "in.extxyz", "--property", property, "-o", tmp_path / "d.safetensors"
        )

    return call


def test_unknown_element(whorl, recipe, clusters, tmp_path):
    said = whorl("run", recipe, "--set", "data.clusters.element=Pq", "-o", tmp_path / "run")
    assert said.code == 1
    assert "data.clusters.element: unknown element 'Pq'" in said.err
    said = whorl(
        "data", "clusters", "--element", "Pq", "--atoms", 4, "--count", 3, "-o", tmp_path / "x.safetensors"
    )
    assert said.code == 2
    assert "element: unknown element 'Pq'" in said.err
    said = whorl("encode", clusters, "--species", "Pq", "-o", tmp_path / "f.safetensors")
    assert said.code == 1
    assert "'Pq' is no chemical element" in said.err


def test_species_not_declared(whorl, read, tmp_path):
    read(good(), good(1), Atoms("PtAu", [(0, 0, 0), (0, 0, 2.6)]))
    said = whorl("encode", tmp_path / "d.safetensors", "--species", "Pt", "-o", tmp_path / "f.safetensors")
    assert said.code == 3
    assert "Au, which is not among the declared species (Pt)" in said.err
    said = whorl("encode", tmp_path / "d.safetensors", "--species", "Ag", "-o", tmp_path / "g.safetensors")
    assert said.code == 1
    assert "none of the 3 structures can be encoded" in said.err
    assert not (tmp_path / "g.safetensors").exists()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: pt((0, 0, 0), (np.nan, 0, 0)), "not finite"),
        (lambda: pt((0, 0, 0), (np.inf, 0, 0)), "not finite"),
        (lambda: pt((0, 0, 0), (0, 0, 2.6), (0, 0, 2.6)), "one place"),
        (lambda: pt((0, 0, 0), cell=[[1, 0, 0], [2, 0, 0], [0, 0, 3]], pbc=True), "volume"),
    ],
)
def test_impossible_structures_are_told_and_the_rest_goes_on(read, tmp_path, bad, reason):
    said = read(good(), bad(), good(1))
    assert said.code == 3
    assert "in.extxyz" in said.err
    assert reason in said.err
    assert len(load_dataset(tmp_path / "d.safetensors")) == 2


def test_property_column_missing(read):
    said = read(good(), property="energy_per_atm")
    assert said.code == 1
    assert "energy_per_atm" in said.err
    assert "Did you mean 'energy_per_atom'?" in said.err


def test_property_column_with_gaps(read, tmp_path):
    gap = good(1)
    gap.info["energy_per_atom"] = float("nan")
    said = read(good(), gap, good(2))
    assert said.code == 3
    assert "its 'energy_per_atom' is nan, expected a finite number" in said.err
    assert load_dataset(tmp_path / "d.safetensors").properties["energy_per_atom"].tolist() == [1.0, 3.0]


def test_misspelt_key(whorl, recipe):
    recipe.write_text(recipe.read_text().replace("latent:", "bettaa: 1, latent:"))
    said = whorl("run", recipe)
    assert said.code == 1
    assert "line 8: unknown key 'generator.bettaa'. Did you mean 'beta'?" in said.err


def test_fewer_than_ten_training_rows(whorl, recipe, clusters, representation, tmp_path):
    said = whorl("run", recipe, "--set", "data.clusters.count=11", "-o", tmp_path / "run")
    assert said.code == 1
    assert "9 rows to train on (11 in all, 0.8 of them to train), expected at least 10" in said.err
    features = tmp_path / "f.safetensors"
    assert whorl("encode", clusters, "-o", features, "--settings", representation).code == 0
    said = whorl("data", "sample", features, "--size", 41, "-o", tmp_path / "rows.json")
    assert said.code == 1
    assert "the training size is 41, but the data set has 40 usable rows" in said.err


def test_feature_files_of_another_representation(whorl, recipe, clusters, representation, tmp_path):
    np.savez(tmp_path / "f.npz", features=np.ones((20, 7)), y=np.ones(20))
    data = f"data={{features: {{path: {tmp_path / 'f.npz'}, property: y, composition: Pt4}}}}"
    said = whorl("run", recipe, "--set", data, "-o", tmp_path / "run")
    assert said.code == 1
    assert "rows have shape (7,), but the recipe's representation gives (6,)" in said.err

    ours, other = tmp_path / "ours.safetensors", tmp_path / "other.safetensors"
    assert whorl("encode", clusters, "-o", ours, "--settings", representation).code == 0
    representation.write_text("cutoff: 7.0\ng2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]]\n")
    assert whorl("encode", clusters, "-o", other, "--settings", representation).code == 0
    small = ("--layers", 1, "--hidden", 8, "--epochs", 2)
    assert whorl("train", "generator", ours, "-o", tmp_path / "g.safetensors", *small).code == 0
    model, made = tmp_path / "g.safetensors", tmp_path / "made.safetensors"
    assert whorl("generate", model, "--features", ours, "--target", 2, "--samples", 3, "-o", made).code == 0
    said = whorl("evaluate", made, "--features", other, "-o", tmp_path / "verdict")
    assert said.code == 1
    assert "made by another representation" in said.err
    assert "cutoff" in said.err


@pytest.mark.parametrize("how", ["safetensors", "text"])
def test_full_disk(whorl, recipe, tmp_path, monkeypatch, how):
    import pathlib

    import safetensors
    import safetensors.torch

    folder = tmp_path / "run"
    assert whorl("run", recipe, "-o", folder, "--until", "sampling").code == 0

    def no_space(*args, **kwargs):
        if how == "safetensors":
            text = "Error while serializing: I/O error: No space left on device (os error 28)"
            raise safetensors.SafetensorError(text)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        if how == "safetensors":
            full.setattr(safetensors.torch, "save_file", no_space)
        else:
            full.setattr(pathlib.Path, "write_text", no_space)
        said = whorl("run", recipe, "-o", folder, "--until", "train")
    assert said.code == 1
    assert "the disk is full. Finished work is kept" in said.err
    said = whorl("run", recipe, "-o", folder, "--until", "train")
    assert said.code == 0
    assert "• encode" in said.err


def test_corrupt_checkpoints_and_models(whorl, recipe, tmp_path):
    folder = tmp_path / "run"
    assert whorl("run", recipe, "-o", folder, "--until", "train").code == 0
    model = folder / "train" / "all" / "generator.safetensors"
    whole = model.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"x" * len(whole)):
        model.write_bytes(damaged)
        said = whorl("run", recipe, "-o", folder, "--until", "train")
        assert said.code == 0
        assert "generator.safetensors has changed since it was written; this stage is run again" in said.err
        assert "✓ train/all" in said.err
        assert model.read_bytes() == whole
    model.write_bytes(b"x" * len(whole))
    features = folder / "encode" / "features.safetensors"
    said = whorl("generate", model, "--features", features, "--target", 1.0, "-o", tmp_path / "g.safetensors")
    assert said.code == 1
    assert "generator.safetensors: damaged" in said.err
    assert "or train again" in said.err


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_the_place_of_the_output_folder(whorl, recipe, clusters, tmp_path, inside):
    (tmp_path / "mine").write_text("mine")
    place = tmp_path / "mine" / "run" if inside else tmp_path / "mine"
    output = place / "x.safetensors"
    commands = [
        ("run", recipe, "-o", place),
        ("encode", clusters, "-o", output),
        ("data", "read", clusters.with_suffix(".extxyz"), "-o", output),
        ("invert", clusters.with_suffix(".extxyz"), "--round-trip", "-o", place),
    ]
    for command in commands:
        said = whorl(*command)
        assert said.code == 1, command
        assert "mine: is a file, expected a folder" in said.err, command
    assert (tmp_path / "mine").read_text() == "mine"


def test_corrupt_checkpoint_of_a_stopped_training(whorl, recipe, tmp_path, monkeypatch):
    from whorl.surrogates import network

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as at_the_end:
        at_the_end.setattr(network, "save_model", stopped)
        assert whorl("run", recipe, "-o", folder, "--until", "train").code == 130
    (checkpoint,) = (folder / "train" / "surrogate" / "checkpoints").iterdir()
    checkpoint.write_bytes(b"x")
    said = whorl("run", recipe, "-o", folder, "--until", "train")
    assert said.code == 1
    assert f"{checkpoint.name}: damaged" in said.err
    assert "Delete it to train from the beginning" in said.err
    checkpoint.unlink()
    assert whorl("run", recipe, "-o", folder, "--until", "train").code == 0


class Moody(Calculator):
    """A calculator that fails on the larger ones of the clusters."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if atoms.positions.max() > 3.3 and not atoms.pbc.any():
            raise RuntimeError("no convergence after 100 iterations")
        length = atoms.cell.lengths().max() if atoms.pbc.any() else 2.8
        self.results = {"energy": (length - 2.8) ** 2 * len(atoms), "forces": np.zeros((len(atoms), 3))}


def test_a_calculator_that_fails_on_some_structures(clusters):
    from whorl.evaluation import EvaluationContext, Reference, Samples
    from whorl.evaluation.evaluators.energy import EnergyEvaluator

    structures = load_dataset(clusters).structures
    assert structures is not None
    too_long = int((structures.positions.reshape(40, -1).amax(1) > 3.3).sum())
    assert 0 < too_long < 40
    method = {"name": f"{__name__}:Moody", "bulk_energy": {"Pt": -5.0}}
    evaluator = EnergyEvaluator(EnergyEvaluator.Settings.model_validate({"calculator": method}))
    zeros = torch.zeros(40, dtype=torch.float64)
    every = torch.arange(40)
    metrics = evaluator.evaluate(
        Samples(ids=tuple(map(str, range(40))), targets=zeros, structures=structures, rows=every),
        Reference(name="y", unit="", properties=zeros, features=zeros[:, None], training_rows=every),
        EvaluationContext(tolerance=0.1),
    )
    table = metrics.per_structure
    assert len(table["formation_energy"]) == 40
    failures = [reason for reason in table["failure"] if reason is not None]
    assert len(failures) == too_long
    assert all("no convergence" in reason for reason in failures)
    assert sum(value is None for value in table["formation_energy"]) == too_long
    assert f"failed on {too_long} of 40 structures" in metrics.warnings[0]


def test_targets_outside_the_training_range(whorl, recipe, tmp_path):
    said = whorl(
        "run", recipe, "--set", "generate.targets=[2.0, 50]", "-o", tmp_path / "run", "--until", "generate"
    )
    assert said.code == 0
    assert "warning: targets outside the training range (" in said.err
    assert "50" in said.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("evaluate.calculator=chgnt", "unknown potential 'chgnt'. Did you mean 'chgnet'?"),
        ("evaluate.calculator=no.such:Thing", "no.such"),
        ("surrogate={kind: external, path: nowhere.safetensors}", "nowhere.safetensors: no such file"),
        ("data={files: {path: nowhere.extxyz, property: y}}", "nowhere.extxyz: no such file or folder"),
        ("sampling.sizes=[400]", "the training size is 400"),
    ],
)
def test_what_is_not_there_is_named(whorl, recipe, tmp_path, change, said):
    done = whorl("run", recipe, "--set", change, "-o", tmp_path / "run")
    assert done.code == 1
    assert said in done.err


@pytest.mark.parametrize(
    "command",
    [
        ("invert", "mine.cif", "-o", "x.safetensors"),
        ("encode", "mine.cif", "-o", "x.safetensors"),
        ("decode", "mine.cif", "-o", "x.safetensors"),
        ("train", "generator", "mine.cif", "-o", "x.safetensors"),
        ("generate", "mine.cif", "--features", "mine.cif", "--target", 1, "-o", "x.safetensors"),
        ("data", "show", "mine.cif"),
        ("data", "sample", "mine.cif", "-o", "x.json"),
        ("evaluate", "mine.cif", "--features", "mine.cif", "-o", "x"),
    ],
)
def test_nobody_is_told_to_delete_a_file_of_their_own(whorl, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write("mine.cif", Atoms("Pt", cell=[2, 2, 2], pbc=True))
    said = whorl(*command)
    assert said.code == 1
    assert "mine.cif" in said.err and "elete" not in said.err
    if command[0] == "invert":
        assert "add --round-trip" in said.err


@pytest.mark.parametrize(
    "part", ["3", "null", "[1.5]", "[true]", "[-1]", "[[1]]", '["x"]', f"[{2**64}]", '{"a": 1}', "[1e30]"]
)
def test_lists_of_rows_that_are_none(tmp_path, part):
    from whorl.workflow.stages.sample import read_rows

    (tmp_path / "rows.json").write_text(f'{{"rows": [1], "train": {part}, "validation": [2]}}')
    with pytest.raises(InputError, match=r"rows\.json: not a list of training rows"):
        read_rows(tmp_path / "rows.json")


def test_a_target_far_outside_gives_an_error_and_no_features(whorl, clusters, representation, tmp_path):
    features, model, made = (tmp_path / f"{name}.safetensors" for name in ("f", "g", "made"))
    assert whorl("encode", clusters, "-o", features, "--settings", representation).code == 0
    small = ("--layers", 1, "--hidden", 8, "--epochs", 2)
    assert whorl("train", "generator", features, "-o", model, *small).code == 0
    said = whorl("generate", model, "--features", features, "--target", 1e300, "--samples", 3, "-o", made)
    assert said.code == 1
    assert "target 1e+300: the generator gives features that are not finite" in said.err
    assert not made.exists()


def test_another_representation_of_a_measured_curve_is_refused(whorl, tmp_path):
    said = whorl("invert", tmp_path / "a.gr", "--formula", "Ni4", "--representation", "soap", "-o", tmp_path)
    assert said.code == 1 and "expected pdf for a measured G(r)" in said.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--elements Cu,Au --atoms 20-8", "atoms: got 20-8, expected the least number first: 8-20"),
        ("--elements Cu,Au --atoms many", "expected a number of atoms such as 10, or a range such as 8-20"),
        ("--elements Cu,Ptt --atoms 8-20", "unknown element 'Ptt'. Did you mean 'Pt'"),
        ("--elements Cu,Au", "expected either formula"),
        ("--formula Cu3 --elements Cu", "expected either formula"),
        ("--elements Cu,Fe --atoms 8-20", "emt does not know Fe; it knows Al, Ni, Cu"),
        ("--formula C2H6O", "emt does not know C, H, O"),
    ],
)
def test_clusters_that_cannot_be_built_are_refused_before_any_work(whorl, tmp_path, options, message):
    output = tmp_path / "clusters.safetensors"
    outcome = whorl("data", "clusters", *options.split(), "--count", "10", "--output", str(output))
    assert outcome.code in (1, 2) and message in " ".join(outcome.err.split())
    assert not list(tmp_path.iterdir())


def test_clusters_of_sizes_by_command(whorl, tmp_path):
    output = tmp_path / "clusters.safetensors"
    drawn = ["--elements", "Cu,Au", "--atoms", "2-3", "--window", "-9", "9", "--bulk-energy", "Cu=0"]
    assert whorl("data", "clusters", *drawn, "--count", "8", "--output", str(output)).code == 0
    data = load_dataset(output)
    assert set(data.structures.n_atoms.tolist()) == {2, 3} and len(data) == 8
    assert data.provenance["bulk_energy"]["Cu"] == 0.0
