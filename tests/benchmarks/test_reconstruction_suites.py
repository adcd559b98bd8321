import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from whorl.errors import InputError
from whorl.structures import from_ase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of the package

from benchmarks.reconstruction import runner, solvers, suites


def nearest(atoms):
    between = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    return between[~np.eye(len(atoms), dtype=bool)].min()


def test_shapes_are_what_they_are_called():
    shapes = {atoms.info["name"]: atoms for atoms in suites.shapes()}
    assert len(shapes) == 13
    for atoms in shapes.values():
        assert nearest(atoms) == pytest.approx(2.5)
    neighbours = {
        "tetrahedron": 3,
        "octahedron": 4,
        "cube": 3,
        "square antiprism": 4,
        "truncated tetrahedron": 3,
        "dodecahedron": 3,
        "ring": 2,
    }
    for name, count in neighbours.items():
        bonds = (shapes[name].get_all_distances() < 2.6).sum(1) - 1
        assert set(bonds) == {count}, name
    assert Counter((shapes["icosahedron"].get_all_distances() < 2.65).sum(1) - 1) == {6: 12, 12: 1}
    for name in ("hexagonal flake", "ring", "star"):
        assert np.ptp(shapes[name].positions[:, 2]) == pytest.approx(0, abs=1e-12)


def test_kinds_of_clusters():
    rng = np.random.default_rng(0)
    ball = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * 2.5
    sheet = np.array([[i, j, 0] for i in range(4) for j in range(2)]) * [2.0, 2.9, 0]
    chain = np.arange(8)[:, None] * np.array([[2.5, 0, 0]])
    apart = ball + np.array([[0, 0, 0]] * 7 + [[4.0, 0, 0]])
    clusters = np.stack([one + rng.normal(size=(8, 3)) * 0.05 for one in (ball, sheet, chain, apart)])
    assert suites.kinds_of_clusters(clusters).tolist() == ["compact", "flat", "chain-like", "dissociated"]


def test_pt10_needs_its_data(tmp_path):
    with pytest.raises(InputError, match="--until data"):
        suites.pt10(dataset=tmp_path / "none.safetensors")


@pytest.mark.skipif(not suites.PT10.exists(), reason="needs the Pt10 clusters of recipes/pt10_chgnet.yaml")
def test_pt10_takes_a_quarter_of_each_kind():
    chosen = suites.pt10(42)
    assert Counter(atoms.info["group"] for atoms in chosen) == {
        "compact": 10,
        "flat": 11,
        "chain-like": 10,
        "dissociated": 11,
    }
    assert len({atoms.info["name"] for atoms in chosen}) == 42
    again = suites.pt10(42)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(chosen, again, strict=True))


def test_crystals(shared_data):
    chosen = suites.crystals(data=shared_data / suites.CRYSTALS.name)
    assert len(chosen) == 56 and len({atoms.info["name"] for atoms in chosen}) == 56
    drawn = chosen[6:]
    assert sum(len(atoms) <= 12 for atoms in drawn) >= 30
    assert {len(set(atoms.numbers)) for atoms in drawn} == {1, 2, 3, 4, 5}
    assert all(2 <= len(atoms) <= 52 and atoms.pbc.all() and nearest(atoms) > 0.7 for atoms in chosen)


def test_well_known_crystals_have_their_composition_and_bonds():
    crystals = {atoms.info["name"].split(",")[0].split()[0]: atoms for atoms in suites.well_known_crystals()}
    formulas = {name: atoms.get_chemical_formula("hill", empirical=True) for name, atoms in crystals.items()}
    assert formulas == {
        "NaCl": "ClNa",
        "TiO2": "O2Ti",
        "SrTiO3": "O3SrTi",
        "CaCO3": "CCaO3",
        "CO2": "CO2",
        "MoS2": "MoS2",
    }
    assert nearest(crystals["CaCO3"]) == pytest.approx(1.28, abs=0.02)  # C–O of carbonate
    assert nearest(crystals["CO2"]) == pytest.approx(1.16, abs=0.02)


def test_molecules_and_large_clusters():
    molecules = suites.molecules()
    assert len(molecules) == 20 and all(len(atoms) >= 5 for atoms in molecules)
    (first, second) = suites.disordered([20], 2)
    assert len(first) == len(second) == 20
    assert min(nearest(first), nearest(second)) > 2.0
    assert (np.sort(first.get_all_distances(), axis=1)[:, 1] < 3.2).all()  # no atom has left


def test_what_a_solver_sees_holds_no_positions():
    atoms = Atoms("OHNH", np.random.default_rng(0).normal(size=(4, 3)), info={"name": "secret"})
    crystal = suites.well_known_crystals()[1]
    originals = from_ase([atoms, crystal])
    template = runner.forget(originals)
    assert not template.positions.any() and template.info == ()
    assert template[0].atomic_numbers.tolist() == [1, 1, 7, 8]
    assert torch.equal(template.cells, originals.cells) and torch.equal(template.pbc, originals.pbc)
    assert template.n_atoms.tolist() == originals.n_atoms.tolist()


PLATINUM = from_ase(Atoms("Pt"))


@pytest.mark.parametrize("kind", runner.PRESETS)
def test_representations_are_built(kind):
    one = runner.round_trip_settings(kind, "mean,std").build(kind, PLATINUM, ["Pt"])
    assert one.config()["pooling"] == ["mean", "std"] and not one.config()["per_centre_species"]
    other = runner.round_trip_settings(kind, "max").build(kind, PLATINUM, ["O", "Ti"])
    assert other.config()["per_centre_species"]


def test_other_representations_are_named_or_given_by_their_settings():
    assert runner.round_trip_settings("soap", None).build("soap", PLATINUM, ["Pt"]).config()["kind"] == "soap"
    own = runner.round_trip_settings("{kind: ace, n_max: 3}", "max").build("ace", PLATINUM, ["Pt"]).config()
    assert own["kind"] == "ace" and own["n_max"] == 3 and own["pooling"] == ["max"]
    with pytest.raises(InputError, match="crystal"):
        runner.round_trip_settings("cristal", None)
    with pytest.raises(InputError, match="nmax"):
        runner.round_trip_settings("{kind: ace, nmax: 3}", None)


def remembering(structures):
    """Return a solver that knows the answer to all but the last target of each problem."""

    def solve(problem, limits, progress):
        answer = {len(one): one for one in structures}
        found = from_ase([answer[int(n)] for n in problem.template.n_atoms])
        positions = found.positions.clone()
        positions[-1] += 1.0
        return solvers.Answer(
            structures=found.replace(positions=positions),
            loss=torch.zeros(len(found)),
            status=("converged",) * len(found),
        )

    return solve


def test_a_suite_judges_by_the_atoms_alone(tmp_path, monkeypatch, capsys):
    targets = suites.shapes()[:3]
    turned = [atoms.copy() for atoms in targets]
    for atoms in turned:
        atoms.rotate(40, (1, 2, 3))
        atoms.positions *= -1
    monkeypatch.setitem(solvers.SOLVERS, "whorl", remembering(turned))
    path = tmp_path / "rows.csv"
    options = runner.arguments("shapes", "").parse_args(["--csv", str(path)])
    assert runner.run_suite("shapes", options, lambda: targets) == 0
    assert "| 3 | 2 | 67% |" in capsys.readouterr().out
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [float(row["rmsd"]) < runner.SOLVED for row in rows] == [True, True, False]
    assert rows[0]["name"] == "tetrahedron"


def test_the_baselines_run_beside_it(tmp_path, capsys):
    arguments = ["--quick", "--solver", "algorithm1", "--baseline", "loop,published", "--csv"]
    options = runner.arguments("shapes", "").parse_args([*arguments, str(tmp_path / "rows.csv")])
    assert runner.run_suite("shapes", options, suites.shapes) == 0
    printed = capsys.readouterr().out
    assert "algorithm1 / loop: solved" in printed and "algorithm1 / published: solved" in printed


def test_mistakes_are_told(tmp_path, capsys):
    parser = runner.arguments("shapes", "")
    options = parser.parse_args(["--quick", "--solver", "whirl", "--csv", str(tmp_path / "rows.csv")])
    assert runner.run_suite("shapes", options, suites.shapes) == 2
    assert "whorl" in capsys.readouterr().err
    options = parser.parse_args(["--quick", "--csv", str(tmp_path / "rows.csv")])
    missing = tmp_path / "none.safetensors"
    assert runner.run_suite("pt10", options, lambda: suites.pt10(dataset=missing)) == 0
    assert capsys.readouterr().out.startswith("skipped: ")
