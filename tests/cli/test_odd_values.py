"""Every option and argument of every command, given odd values: an answer and an exit code, no traceback.

The commands are found by walking the application, so a new option is tried without being named here.
"""

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from whorl.cli import commands
from whorl.errors import InputError

TEXTS = ("", "[/b]", "-1", "nan", "1e309", "αβ日本", "a=[1", "=", "x" * 300, "a=&a [*a]")
# Valid inputs where odd values of the other options are found out soon; elsewhere inputs are absent.
CHEAP = {
    "data sample": ("features",),
    "data show": ("path",),
    "encode": ("dataset",),
    "evaluate": ("generated", "features"),
    "generate": ("model", "features"),
    "show": ("file",),
    "train committee": ("features",),
    "train generator": ("features",),
    "train surrogate": ("features",),
}
QUICK = {
    "generate": ("--samples", "3"),
    "train generator": ("--epochs", "1", "--layers", "1", "--hidden", "4"),
    "train surrogate": ("--epochs", "1", "--layers", "1", "--hidden", "4"),
}


@dataclass
class Parameter:
    """An option or argument of a command."""

    name: str
    flag: str | None
    is_path: bool
    is_switch: bool
    count: int
    required: bool


def parameters_of(callback: Callable) -> list[Parameter]:
    hints = typing.get_type_hints(callback, include_extras=True)
    found = []
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = hints[name].__origin__, hints[name].__metadata__[0]
        if info.hidden:  # an earlier name, which warns
            continue
        option = type(info).__name__ == "OptionInfo"
        declared = [flag for flag in info.param_decls or () if flag.startswith("--")]
        found.append(
            Parameter(
                name=name,
                flag=(declared or [f"--{name.replace('_', '-')}"])[0] if option else None,
                is_path="Path" in str(kind),
                is_switch=kind is bool,
                count=len(typing.get_args(kind)) if typing.get_origin(kind) is tuple else 1,
                required=parameter.default is inspect.Parameter.empty,
            )
        )
    return found


def walk(app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[Parameter]]]:
    for command in app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        yield " ".join((*path, name)), parameters_of(command.callback)
    for group in app.registered_groups:
        yield from walk(group.typer_instance, (*path, group.name or ""))


COMMANDS = dict(walk(commands()))


def test_all_commands_are_found():
    assert {"run", "data read", "train generator", "invert", "show"} <= COMMANDS.keys()
    assert sum(map(len, COMMANDS.values())) > 100


@pytest.fixture
def odd_paths(tmp_path) -> tuple[str, ...]:
    """Return paths: absent, too long, a folder, below a file, a device, files that hold something else."""
    files = {
        "[bold]empty.safetensors": b"",
        "text.yaml": b"a: [1, 2",
        "noise.cif": bytes(range(256)),
        "null.json": b"null",
        "list.extxyz": b"[]\n",
    }
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
    (tmp_path / "folder").mkdir()
    others = (
        "absent.safetensors",
        "folder",
        "ä [x].extxyz",
        "null.json/below.safetensors",
        f"{'n' * 300}.cif",
    )
    return (*(str(tmp_path / name) for name in (*files, *others)), "/dev/null", "")


@pytest.fixture
def inputs(whorl, clusters, representation, tmp_path) -> dict[str, Path]:
    """Return valid files by the name of the parameter that takes them."""
    features, model, made = (tmp_path / f"valid-{name}.safetensors" for name in ("f", "g", "made"))
    small = ("--layers", 1, "--hidden", 4, "--epochs", 1)
    assert whorl("encode", clusters, "-o", features, "--settings", representation).code == 0
    assert whorl("train", "generator", features, "-o", model, *small).code == 0
    assert (
        whorl("generate", model, "--features", features, "--target", 1.5, "--samples", 3, "-o", made).code
        == 0
    )
    same = {"path": clusters, "dataset": clusters, "file": clusters}
    return {**same, "features": features, "model": model, "generated": made}


@pytest.mark.parametrize("name", COMMANDS)
def test_odd_values_end_with_an_answer(name, whorl, inputs, odd_paths, tmp_path, monkeypatch):
    from whorl.datasets import prototypes

    def no_work(**_):
        raise InputError("the work would begin here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prototypes, "build_crystals", no_work)
    parameters = COMMANDS[name]

    def words(parameter: Parameter, value: str) -> list[str]:
        values = [value] * parameter.count
        return values if parameter.flag is None else [parameter.flag, *values]

    def usual(parameter: Parameter) -> str:
        if parameter.name in CHEAP.get(name, ()):
            return str(inputs[parameter.name])
        return str(tmp_path / f"new-{parameter.name}.safetensors") if parameter.is_path else "1"

    for parameter in parameters:
        if parameter.is_switch:
            continue
        required = [other for other in parameters if other.required and other is not parameter]
        rest = [word for other in required for word in words(other, usual(other))]
        quick = QUICK.get(name, ())
        if parameter.flag in quick:
            quick = ()
        for value in odd_paths if parameter.is_path else TEXTS:
            if parameter.flag is None and value.startswith("-"):
                continue
            said = whorl(*name.split(), *words(parameter, value), *rest, *quick)
            assert said.code in (0, 1, 2, 3), (parameter.name, value)
            assert said.code == 0 or said.err.strip(), (parameter.name, value)
            assert len(said.err) < 6000, (parameter.name, value, said.err)


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_usage_and_help(name, whorl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whorl(*name.split()).code == (0 if name == "init" else 2)  # it lists what it can write
    assert whorl(*name.split(), "--no-such-option").code == 2
    assert whorl(*name.split(), "--help").code == 0
