import importlib.util
from pathlib import Path
from types import ModuleType

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
