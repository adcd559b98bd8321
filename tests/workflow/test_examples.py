import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import ase.io
import torch

from benchmarks.embedding import perovskites
from whorl.datasets.crystal_files import cif_text
from whorl.structures import StructureBatch, to_ase
from whorl.structures.cells import volumes
from whorl.structures.composition import is_charge_neutral

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines_of(name: str) -> int:
    lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
    return len([line for line in lines if line.strip()])


def test_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    load("quickstart").main(atoms=4, count=20, epochs=10, samples=2, budget=50)
    assert "target 2.0 eV/atom: mean absolute error" in capsys.readouterr().out
    assert lines_of("quickstart") <= 40


def test_crystals_come_back_with_their_space_groups(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    load("crystals").main()
    said = capsys.readouterr().out
    for name, number in (("NaCl", 225), ("C", 227), ("ZnO", 186), ("Ti", 194), ("CaTiO3", 221)):
        assert f"_{name}.cif: space group {number}, " in said
    assert "5 of 5 tensors, 20 × 20 × 4 numbers each, were decoded" in said
    assert "invalid" not in said
    assert not list(tmp_path.iterdir())
    assert lines_of("crystals") <= 40


def table_of_perovskites(path: Path) -> StructureBatch:
    crystals = perovskites(24, ["O", "F", "Ti", "Sr", "Ba", "Ca"])
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cif", "length"])
        table.writerows([cif_text(one), float(volumes(one.cells)) ** (1 / 3)] for one in crystals)
    return crystals


def test_a_table_becomes_cifs_of_new_formulas(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = to_ase(table_of_perovskites(Path("crystals.csv")))
    load("csv_to_cifs").main(
        "crystals.csv", "length", 4.8, tolerance=0.5, elements=["O"], count=1, epochs=2, evaluations=1
    )
    files = list(Path("cifs/candidates").rglob("*.cif"))
    assert files
    for file in files:
        formula = ase.io.read(file).get_chemical_formula()
        assert "O" in formula and is_charge_neutral(formula)
        assert formula not in {one.get_chemical_formula() for one in known}
    assert "reconstruct/all: " in capsys.readouterr().out


def test_clusters_on_a_frozen_slab(capsys):
    found = load("supported_cluster").main(atoms=2, starts=6, steps=20, epochs=20, samples=2, budget=60)
    said = capsys.readouterr().out
    assert "found: mean absolute error" in said and "moved: mean absolute error" in said
    assert found.n_atoms.tolist() == [20, 20] and found.pbc.tolist() == [[True, True, False]] * 2
    slab = found.positions[found.atomic_numbers == 29].reshape(2, 18, 3)
    assert torch.equal(slab[0], slab[1])
