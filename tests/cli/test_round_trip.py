"""``whorl invert FILE --round-trip``: what other programs rely on, and what people read."""

import csv

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule

from whorl.reconstruction import PopulationSearch, solve
from whorl.version import __version__
from whorl.workflow.round_trip_settings import RoundTripSettings


@pytest.fixture
def structures(tmp_path):
    path = tmp_path / "mine.extxyz"
    ase.io.write(path, [molecule("H2O"), bulk("NaCl", "rocksalt", a=5.64), molecule("CH4")])
    return path


@pytest.fixture
def molecules(tmp_path):
    path = tmp_path / "molecules.xyz"
    ase.io.write(path, [molecule("H2O"), molecule("CO2"), molecule("CH4")])
    return path


def rows(folder):
    return list(csv.DictReader((folder / "result.csv").read_text(encoding="utf-8").splitlines()))


def test_structures_come_back_and_files_say_so(whorl, structures, tmp_path):
    said = whorl("invert", structures, "--round-trip", "--out", tmp_path / "o", "--seed", 3)
    assert said.code == 0, said.err
    assert said.out.strip().endswith("comparison.html")
    assert "3 of 3 recovered" in said.err
    found = ase.io.read(tmp_path / "o" / "solutions.extxyz", ":")
    assert [str(atoms.symbols) for atoms in found] == ["OH2", "NaCl", "CH4"]
    assert [atoms.info["target"] for atoms in found] == [0, 1, 2]
    assert {atoms.info["status"] for atoms in found} == {"converged"}
    table = rows(tmp_path / "o")
    assert list(table[0])[:6] == ["target", "n_atoms", "status", "loss", "rmsd", "seconds"]
    assert [row["n_atoms"] for row in table] == ["3", "2", "5"]
    assert all(float(row["rmsd"]) < 0.05 and row["recovered"] == "true" for row in table)
    assert [row["formula"] for row in table] == ["H2O", "NaCl", "CH4"]
    settings = yaml.safe_load((tmp_path / "o" / "settings.yaml").read_text(encoding="utf-8"))
    assert settings["whorl_version"] == __version__ and settings["seed"] == 3 and settings["targets"] == 3
    assert settings["settings"]["solver"] == "population" and settings["settings"]["budget_seconds"] is None
    kinds = {tuple(one["pooling"]): one["used_for"] for one in settings["representations"]}
    assert kinds["mean", "std"] == [{"species": ["Na", "Cl"], "targets": [1]}]
    assert [one["targets"] for one in kinds["max", "min"]] == [[0], [2]]
    cif = tmp_path / "o" / "solutions" / "001.cif"
    assert [path.name for path in cif.parent.iterdir()] == ["001.cif"]
    assert "Fm-3m" in cif.read_text(encoding="utf-8") and len(ase.io.read(cif)) == 2
    assert not (tmp_path / "o" / "alternatives.extxyz").exists()


def test_the_same_command_again_does_not_search_again(whorl, molecules, tmp_path, monkeypatch):
    command = ("invert", molecules, "--round-trip", "-o", tmp_path / "o", "--budget-seconds", 20)
    assert whorl(*command).code == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "o").glob("[a-z]*.*")}

    def searched(*args, **kwargs):
        raise AssertionError("searched again")

    monkeypatch.setattr("whorl.reconstruction.population.search._Search.round", searched)
    assert whorl(*command).code == 0
    after = {p.name: p.read_bytes() for p in (tmp_path / "o").glob("[a-z]*.*")}
    assert after == before


def test_stopped_it_goes_on_with_the_same_budgets(whorl, molecules, tmp_path, monkeypatch):
    budgets = []

    def stopped(*args, **settings):
        budgets.append(settings["budget_seconds"])
        if len(budgets) == 3:
            raise KeyboardInterrupt
        return solve(*args, **settings)

    monkeypatch.setattr(PopulationSearch, "search", staticmethod(stopped))
    command = ("invert", molecules, "--round-trip", "-o", tmp_path / "o", "--budget-seconds", 30)
    assert whorl(*command).code == 130
    assert not (tmp_path / "o" / "result.csv").exists()
    assert whorl(*command).code == 0
    assert budgets[3:] == budgets[:3]
    assert len(rows(tmp_path / "o")) == 3


def test_a_free_cell_is_found_too(whorl, tmp_path):
    ase.io.write(tmp_path / "copper.cif", bulk("Cu", a=3.6))
    said = whorl("invert", tmp_path / "copper.cif", "--round-trip", "-o", tmp_path / "o", "--free-cell")
    assert said.code == 0, said.err
    assert float(rows(tmp_path / "o")[0]["rmsd"]) < 0.05
    (found,) = ase.io.read(tmp_path / "o" / "solutions.extxyz", ":")
    assert found.get_volume() == pytest.approx(3.6**3 / 4, rel=1e-3)
    assert "cell free" in rows(tmp_path / "o")[0]["representation"]


def test_unusable_entries_are_told_and_the_rest_goes_on(whorl, tmp_path):
    (tmp_path / "in").mkdir()
    ase.io.write(tmp_path / "in" / "good.cif", bulk("Cu"))
    (tmp_path / "in" / "broken.cif").write_text("data_x\n", encoding="utf-8")
    said = whorl("invert", tmp_path / "in", "--round-trip", "-o", tmp_path / "o")
    assert said.code == 3
    assert "broken.cif: no valid CIF" in said.err and "1 of 1 recovered" in said.err
    assert len(rows(tmp_path / "o")) == 1
    settings = yaml.safe_load((tmp_path / "o" / "settings.yaml").read_text(encoding="utf-8"))
    assert "broken.cif" in settings["skipped"][0]["source"]
    said = whorl("invert", tmp_path / "in" / "broken.cif", "--round-trip", "-o", tmp_path / "p")
    assert said.code == 1
    assert "none of its entries can be used" in said.err


@pytest.mark.parametrize("solver", ["population", "whorl"])
@pytest.mark.filterwarnings("default:solver whorl:FutureWarning")
def test_both_names_of_the_search_are_the_default(whorl, tmp_path, solver):
    ase.io.write(tmp_path / "cu.cif", bulk("Cu"))
    command = ("invert", tmp_path / "cu.cif", "--round-trip", "-o", tmp_path / "o")
    assert whorl(*command).code == 0
    before = (tmp_path / "o" / "settings.yaml").read_text(encoding="utf-8")
    said = whorl(*command, "--solver", solver)
    assert said.code == 0, said.err
    assert (tmp_path / "o" / "settings.yaml").read_text(encoding="utf-8") == before


def test_the_old_name_of_the_search_is_read_with_a_warning():
    with pytest.warns(FutureWarning, match="Write population"):
        assert RoundTripSettings(solver="whorl").resolved()["solver"] == "population"


def test_any_representation_that_needs_a_search_makes_the_round_trip(whorl, tmp_path):
    ase.io.write(tmp_path / "a.xyz", Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    command = ("invert", tmp_path / "a.xyz", "--round-trip", "-o", tmp_path / "o")
    said = whorl(*command, "--representation", "soap")
    assert said.code == 0, said.err
    (row,) = rows(tmp_path / "o")
    assert row["recovered"] == "true" and "soap (" in row["representation"]
    said = whorl(*command, "--representation", "crystens")
    assert said.code == 2 and "closed-form inverse" in said.err


def test_rows_make_the_round_trip_without_a_search(whorl, tmp_path):
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[:20]
    far = Atoms("Ni8Pt12", 3.0 * grid + np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3)))
    ase.io.write(tmp_path / "a.xyz", [far, molecule("CH3CH2OH"), bulk("Pt"), far[:5]], format="extxyz")
    command = ("invert", tmp_path / "a.xyz", "--round-trip", "-o", tmp_path / "o", "--representation")
    said = whorl(*command, "rows")
    assert said.code == 3 and "periodic" in said.err and "3 of 3 recovered" in said.err
    table = rows(tmp_path / "o")
    assert [row["status"] for row in table] == ["converged"] * 3
    assert all(float(row["rmsd"]) < 1e-6 and "rows (" in row["representation"] for row in table)
    assert {path.name for path in (tmp_path / "o").iterdir()} >= {"comparison.html", "solutions.extxyz"}
    for option in (("--budget-seconds", 3), ("--batch-size", 2), ("--free-cell",)):
        said = whorl(*command, "rows", *option)
        assert said.code == 2 and "closed-form inverse" in said.err
    ase.io.write(tmp_path / "b.xyz", molecule("C6H6"))  # an antiprism has the same rows
    said = whorl(
        "invert", tmp_path / "b.xyz", "--round-trip", "-o", tmp_path / "b", "--representation", "rows"
    )
    assert "Use another representation (--representation)." in said.err and "pooling" not in said.err
    (tmp_path / "r.yaml").write_text("kind: rows\nwidth: 1.0\n", encoding="utf-8")
    said = whorl(*command, tmp_path / "r.yaml")
    assert said.code == 1 and "too coarse" in said.err


def test_every_target_has_a_status_when_it_is_not_found(whorl, molecules, tmp_path):
    few = ("--starts", 1, "--hops", 1, "--iterations", 2, "--polish", 0)
    command = ("invert", molecules, "--round-trip", "-o", tmp_path / "o", "--solver", "algorithm1", *few)
    said = whorl(*command)
    assert said.code == 0, said.err
    assert "Use more --starts or --hops, or --solver population." in said.err
    table = rows(tmp_path / "o")
    assert {row["status"] for row in table} <= {"local_minimum", "budget_spent"}
    assert all(row["advice"] for row in table)
    assert len(ase.io.read(tmp_path / "o" / "solutions.extxyz", ":")) == 3


def test_a_fingerprint_that_cannot_tell_says_so(whorl, tmp_path):
    """A chiral pair of distances: with two features, many structures have the same fingerprint."""
    ase.io.write(tmp_path / "a.xyz", Atoms("Pt4", [[0, 0, 0], [2.5, 0, 0], [0, 2.7, 0], [0, 0.5, 3.0]]))
    (tmp_path / "r.yaml").write_text("cutoff: 6.0\ng2: [[0.1, 0.0]]\n", encoding="utf-8")
    command = ("invert", tmp_path / "a.xyz", "--round-trip", "-o", tmp_path / "o", "--pooling", "mean")
    said = whorl(*command, "--representation", tmp_path / "r.yaml")
    assert said.code == 0, said.err
    (row,) = rows(tmp_path / "o")
    assert row["status"] == "converged" and row["recovered"] == "false" and float(row["rmsd"]) > 0.05
    assert "Another structure has the same fingerprint" in said.err
    assert "own functions (mean; 1 features)" in row["representation"]


def test_a_representation_may_declare_its_elements(whorl, structures, tmp_path):
    (tmp_path / "r.json").write_text('{"species": ["H", "O"], "cutoff": 8, "g2": [[4.0, 1.0]]}')
    command = ("invert", structures, "--round-trip", "-o", tmp_path / "o", "--budget-seconds", 5)
    said = whorl(*command, "--representation", tmp_path / "r.json")
    assert said.code == 3
    assert "which is not among the declared species (H, O)" in said.err
    assert len(rows(tmp_path / "o")) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--representation", "fung2202"), "Did you mean 'fung2022'?"),
        (("--pooling", "max,mni"), "unknown pooling 'mni'"),
        (("--solver", "popultion"), "Did you mean 'population'?"),
        (("--budget-seconds", "0"), "expected more than 0"),
        (("--solver", "algorithm1", "--free-cell"), "belongs to --solver population"),
        (("--solver", "algorithm1", "--budget-seconds", "3"), "ends after its steps"),
        (("--hops", "3"), "belongs to --solver algorithm1"),
        (("--composition", "Pt4"), "belongs to generated features"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(whorl, structures, tmp_path, options, words):
    said = whorl("invert", structures, "--round-trip", "-o", tmp_path / "o", *options)
    assert said.code == 2
    assert words in said.err.replace("\n", " ")
    assert not (tmp_path / "o").exists()


def test_round_trip_options_need_the_round_trip(whorl, structures, tmp_path):
    said = whorl("invert", structures, "-o", tmp_path / "o", "--pooling", "mean")
    assert said.code == 2
    assert "needs --round-trip" in said.err


def test_input_is_not_overwritten(whorl, structures, tmp_path):
    before = structures.read_bytes()
    said = whorl("invert", structures, "--round-trip", "-o", structures)
    assert said.code == 1
    assert "is a file, expected a folder" in said.err
    mine = structures.rename(tmp_path / "solutions.extxyz")
    said = whorl("invert", mine, "--round-trip", "-o", tmp_path)
    assert said.code == 1
    assert "would be overwritten" in said.err
    assert mine.read_bytes() == before


def test_the_heaviest_a_rod_and_a_crystal_that_nearly_has_its_symmetry(whorl, tmp_path):
    """The page is written, the rod is known again however it is turned, the CIF has as many atoms."""
    rutile = Atoms(
        "Ti2O4",
        [
            [0, 0, 0],
            [2.295, 2.295, 1.48],
            [1.39995, 1.39995, 0],
            [3.19005, 3.19005, 0.003],
            [0.89505, 3.69495, 1.48],
            [3.69495, 0.89505, 1.48],
        ],
        cell=[4.59, 4.59, 2.96],
        pbc=True,
    )
    rod = Atoms("CuO", [[0, 0, 0], [1.8, 0.3, 0]], cell=[3.7, 0, 0], pbc=[True, False, False])
    path, folder = tmp_path / "three.extxyz", tmp_path / "o"
    ase.io.write(path, [Atoms("Og2", [[0, 0, 0], [0, 0, 3.2]]), rod, rutile])
    said = whorl("invert", path, "--round-trip", "--out", folder, "--seed", 1)
    assert said.code == 0, said.err
    assert (folder / "comparison.html").is_file()
    assert [row["recovered"] for row in rows(folder)] == ["true", "true", "true"]
    assert float(rows(folder)[1]["rmsd"]) < 1e-3
    assert len(ase.io.read(folder / "solutions" / "002.cif")) == 6


def test_a_free_composition_is_forgotten_and_found(whorl, tmp_path):
    path = tmp_path / "mine.extxyz"
    ase.io.write(path, [bulk("CsCl", "cesiumchloride", a=4.12), Atoms("AuCu", [[0, 0, 0], [0, 0, 2.5]])])
    said = whorl(
        "invert", path, "--round-trip", "--composition", "free", "--n-atoms", "1..4", "-o", tmp_path / "o"
    )
    assert said.code == 0, said.err
    assert "2 of 2 recovered" in said.err
    found = ase.io.read(tmp_path / "o" / "solutions.extxyz", ":")
    assert [str(atoms.symbols.formula.convert("metal")) for atoms in found] == ["CsCl", "AuCu"]
    settings = yaml.safe_load((tmp_path / "o" / "settings.yaml").read_text(encoding="utf-8"))
    assert settings["settings"]["composition"] == "free" and settings["settings"]["n_atoms"] == [1, 4]
    assert settings["representations"][0]["embedding"] == 4


def test_structures_of_other_numbers_of_atoms_than_are_searched_for_are_skipped(whorl, tmp_path):
    path = tmp_path / "mine.extxyz"
    ase.io.write(path, [Atoms("AuCu", [[0, 0, 0], [0, 0, 2.5]]), bulk("CsCl", "cesiumchloride", a=4.12)])
    free = ["--composition", "free", "--elements", "Au,Cu,Cs,Cl"]
    said = whorl("invert", path, "--round-trip", *free, "--n-atoms", "3..4", "-o", tmp_path / "o")
    assert said.code == 1 and "has 2 atoms, and 3 to 4 are searched for" in said.err


def test_elements_without_a_free_composition_are_refused(whorl, structures, tmp_path):
    said = whorl("invert", structures, "--round-trip", "--elements", "Cu,Au", "-o", tmp_path / "o")
    assert said.code == 2 and "belongs to composition: free" in said.err


def test_rows_without_their_structures_are_decoded_in_closed_form(whorl, tmp_path):
    ase.io.write(tmp_path / "a.extxyz", [molecule("H2O"), molecule("CH4")])
    data, features, found = (tmp_path / f"{name}.safetensors" for name in ("data", "features", "found"))
    assert whorl("data", "read", tmp_path / "a.extxyz", "-o", data).code == 0
    assert whorl("encode", data, "--kind", "rows", "-o", features).code == 0
    said = whorl("invert", features, "-o", found)
    assert said.code == 1 and "--solver closed_form" in said.err
    said = whorl("invert", features, "--solver", "closed_form", "-o", found)
    assert said.code == 0, said.err
    formulas = [atoms.get_chemical_formula() for atoms in ase.io.read(tmp_path / "found.extxyz", ":")]
    assert sorted(formulas) == ["CH4", "H2O"]
