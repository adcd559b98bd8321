"""Arrows between rooms point one way, and no two files import each other."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "whorl"

STRANGERS = [  # the first knows nothing of the second, not even inside a function
    ("structures", "representations"),
    ("symmetry", "representations"),
    ("generators", "structures"),  # tensors, not atoms
    ("generators", "representations"),
    ("representations", "generators"),
    ("representations", "datasets"),
    ("reconstruction", "generators"),
    ("proposals", "datasets"),
    ("potentials", "representations"),
    ("conditions", "generators"),
    ("evaluation", "report"),
    ("report", "workflow"),
    ("report", "generators"),
    ("executors", "workflow"),
    *((room, "cli") for room in ("workflow", "report", "datasets", "testing")),
    *((room, "workflow") for room in ("datasets", "generators", "reconstruction", "evaluation")),
]


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = ("whorl", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(node: ast.AST, *, in_functions: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not in_functions:
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").partition(".")[0] == "whorl":
            for name in child.names:
                deeper = f"{child.module}.{name.name}"
                yield deeper if deeper in MODULES else str(child.module)
        elif isinstance(child, ast.Import):
            yield from (name.name for name in child.names if name.name.partition(".")[0] == "whorl")
        yield from imported(child, in_functions=in_functions)


@cache
def graph(*, in_functions: bool) -> dict[str, set[str]]:
    return {
        name: set(imported(ast.parse(path.read_text(encoding="utf-8")), in_functions=in_functions)) - {name}
        for name, path in MODULES.items()
    }


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@cache
def rooms() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, others in graph(in_functions=True).items():
        found.setdefault(room(module), set()).update({room(other) for other in others} - {room(module)})
    return found


MODULES = modules()


def test_no_files_import_each_other():
    TopologicalSorter(graph(in_functions=False)).prepare()  # a CycleError names the circle


def test_arrows_between_rooms_point_one_way():
    TopologicalSorter(rooms()).prepare()


@pytest.mark.parametrize(("one", "other"), STRANGERS)
def test_rooms_that_know_nothing_of_each_other(one, other):
    known = rooms()
    assert one in known and other in known
    assert other not in known[one]
