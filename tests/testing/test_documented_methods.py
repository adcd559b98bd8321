"""The table "to add a method" of docs/architecture.md is complete, and its examples keep their contracts."""

import importlib
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import whorl
from whorl import axes, testing
from whorl.registry import Registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
REGISTRIES = {name: value for name, value in vars(axes).items() if isinstance(value, Registry)}


def table():
    """Return the cells of each row, without markup, by the axis."""
    part = PAGE.read_text(encoding="utf-8").split("## To add a method\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip(" `") for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", part, re.M)
    ]
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.fixture
def documented(request, tmp_path, monkeypatch):
    """The example of an axis, as another package would bring it."""
    registry, link = REGISTRIES[request.param], table()[REGISTRIES[request.param].axis][-1]
    headings = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.M)
    (anchor,) = re.findall(r"\]\(#(.+)\)", link)
    (heading,) = [heading for heading in headings if heading.lower().replace(" ", "-") == anchor]
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    module = f"documented_{registry.axis.replace(' ', '_')}_example"
    (tmp_path / f"{module}.py").write_text(program, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (name,) = re.findall(r"^class (\w+)", program, re.M)
    kind = importlib.import_module(module).__dict__[name].kind
    entry = EntryPoint(name=kind, value=f"{module}:{name}", group=registry.group)
    monkeypatch.setitem(vars(registry), "_others", {kind: entry})
    yield registry.get(kind)
    del sys.modules[module]


def test_the_table_has_a_row_for_each_axis():
    rows = table()
    assert set(rows) == {registry.axis for registry in REGISTRIES.values()}
    for constant, registry in REGISTRIES.items():
        folder, base, named, group, check, _ = rows[registry.axis]
        module, _, name = registry._base.partition(":")
        assert (base, named, group) == (name, constant, registry.group)
        assert module.startswith(f"whorl.{folder.strip('/').replace('/', '.')}")
        assert (Path(whorl.__file__).parent / folder).is_dir()
        assert check in testing.__all__


@pytest.mark.parametrize("documented", list(REGISTRIES), indirect=True)
def test_each_example_is_registered_by_its_entry_point(documented):
    assert documented.__doc__ and documented.kind


CHECKS = {  # the other axes' examples are checked where their fixtures are
    "REPRESENTATIONS": lambda method: testing.check_representation(method, species=["Pt", "Cu"]),
    "GENERATORS": lambda method: testing.check_generator(lambda: method(shape=[4], properties=2)),
    "SURROGATES": testing.check_surrogate,
    "POTENTIALS": lambda method: testing.check_potential(method(r0=2.6)),
    "RECONSTRUCTORS": lambda method: testing.check_reconstructor(method(method.Settings(steps=20))),
    "SOLVERS": lambda method: testing.check_solver(method()),
    "EXECUTORS": lambda method: testing.check_executor(method()),
    "DFT_CODES": lambda method: testing.check_electronic_structure_program(method()),
}


@pytest.mark.parametrize(("documented", "check"), CHECKS.items(), ids=CHECKS, indirect=["documented"])
def test_each_example_keeps_its_contract(documented, check):
    check(documented)
