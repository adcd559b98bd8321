"""Command-line options made from settings: those of a section, or of the method that ``--kind`` names."""

from __future__ import annotations

import contextlib
import importlib
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.table import Table
from rich.text import Text

from whorl.cli.app import OnceCommand
from whorl.cli.console import out
from whorl.errors import WhorlError, did_you_mean
from whorl.settings import Section, SectionOfKind
from whorl.yaml_text import parse_value

_given: ContextVar[Mapping[str, Any]] = ContextVar("_given")  # of the command that is running


def settings_command(
    path: str,
    *,
    leaves_out: Sequence[str] = (),
    heading: str = "",
    flag: str = "--kind",
    kinds: Mapping[str | None, str] | None = None,
) -> type[OnceCommand]:
    """Return the class of a command that has an option for every setting of a section.

    Of a family of settings, these are the settings of the method that ``--kind`` names, or of the default
    one. The function behind the command finds what was given by :func:`given_settings`.

    Args:
        path: Import path of the section, or of a family's base, ``"package.module:Settings"``.
        leaves_out: Settings that are no options of the command.
        heading: Of the options in the help.
        flag: Option that names the method.
        kinds: Names of methods by what is written there, where these differ; of None where nothing is.
    """

    class SettingsCommand(OnceCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            section = _section(path, args, flag, kinds or {})
            own = {
                option
                for parameter in self.get_params(ctx)
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            fields = {
                name: field
                for name, field in section.model_fields.items()
                if name not in leaves_out and _flag(name) not in own
            }
            self.shown = section, fields
            rest, given = _taken(ctx, args, fields, own)
            _given.set(given)
            return super().parse_args(ctx, rest)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            section, fields = self.shown
            kind = section.method.kind if issubclass(section, SectionOfKind) else ""
            out.print(heading or f"Settings of {kind}, also options", highlight=False, markup=False)
            table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
            for name, field in fields.items():
                table.add_row(*(Text(cell) for cell in (_shown_flag(name, field), *_described(field))))
            out.print(table)

    return SettingsCommand


def given_settings() -> dict[str, Any]:
    """Return the settings that were given on the command line, as plain data."""
    return dict(_given.get())


def _section(path: str, args: Sequence[str], flag: str, kinds: Mapping[str | None, str]) -> type[Section]:
    module, _, name = path.partition(":")
    section = operator.attrgetter(name)(importlib.import_module(module))
    if issubclass(section, SectionOfKind) and "registry" in section.__dict__:
        named = next((value for option, value in _pairs(args) if option == flag), None)
        kind = kinds.get(named, named)
        with contextlib.suppress(WhorlError):  # the command says what is wrong with the name
            return section.of_kind({} if kind is None else {"kind": kind})
    return section


def _pairs(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        yield flag, value if equals else args[place + 1] if place + 1 < len(args) else ""


def _taken(
    ctx: Any, args: Sequence[str], fields: Mapping[str, FieldInfo], own: Collection[str]
) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments that are no settings, and the settings that the others give."""
    flags = {_flag(name): name for name in fields}
    switches = {"--no-" + flag[2:]: name for flag, name in flags.items() if fields[name].annotation is bool}
    rest: list[str] = []
    given: dict[str, Any] = {}
    waiting = iter(args)
    for arg in waiting:
        flag, equals, value = arg.partition("=")
        if arg == "--":
            rest += [arg, *waiting]
        elif flag in switches and not equals:
            given[switches[flag]] = False
        elif flag in flags:
            name = flags[flag]
            if fields[name].annotation is bool and not equals:
                given[name] = True
                continue
            if not equals:
                value = next(waiting, "")
                if not value:
                    ctx.fail(f"{flag} needs a value.")
            if get_origin(fields[name].annotation) is list and not value.startswith("["):
                given.setdefault(name, []).append(parse_value(value, source=flag))
            elif name in given:
                ctx.fail(f"{flag} is given twice, and takes one value. Leave one of them out.")
            else:
                given[name] = parse_value(value, source=flag)
        elif flag.startswith("--") and flag not in own:
            ctx.fail(f"no option '{flag}'.{did_you_mean(flag, [*own, *flags])}")
        else:
            rest.append(arg)
    return rest, given


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown_flag(name: str, field: FieldInfo) -> str:
    return f"{_flag(name)}/--no-{_flag(name)[2:]}" if field.annotation is bool else _flag(name)


def _described(field: FieldInfo) -> tuple[str, str]:
    """Return default and meaning in words."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    choices = [str(value) for value in get_args(field.annotation) if isinstance(value, str)]
    meaning = " ".join((field.description or "").split())
    if choices:
        meaning += f" One of {', '.join(choices)}."
    shown = "required" if field.is_required() else "" if default in (None, [], "") else str(default)
    return shown, meaning
