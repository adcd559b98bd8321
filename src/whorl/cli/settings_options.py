"""Command-line options made from settings: those of a section, or of the method that ``--kind`` names."""

from __future__ import annotations

import contextlib
import importlib
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.table import Table
from rich.text import Text

from whorl.cli.app import OnceCommand
from whorl.cli.console import out
from whorl.errors import WhorlError, did_you_mean
from whorl.settings import Section, SectionByData, SectionOfKind
from whorl.yaml_text import parse_value

_given: ContextVar[Mapping[str, Any]] = ContextVar("_given")  # of the command that is running


def settings_command(
    *paths: str,
    leaves_out: Sequence[str] = (),
    headings: Sequence[str] = (),
    flag: str = "--kind",
    kinds: Mapping[str | None, str] | None = None,
) -> type[OnceCommand]:
    """Return the class of a command that has an option for every setting of some sections.

    Of a family of settings, these are the settings of the method that ``--kind`` names, or of the default
    one. The function behind the command finds what was given by :func:`given_settings`.

    Args:
        paths: Import path of each section, or of a family's base, ``"package.module:Settings"``.
        leaves_out: Settings that are no options of the command.
        headings: Of the options of each section in the help.
        flag: Option that names the method.
        kinds: Names of methods by what is written there, where these differ; of None where nothing is.
    """

    class SettingsCommand(OnceCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            sections = [_section(path, args, flag, kinds or {}) for path in paths]
            own = {
                option
                for parameter in self.get_params(ctx)
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            self.shown = [
                (
                    section,
                    {
                        name: field
                        for name, field in section.model_fields.items()
                        if name not in leaves_out and _flag(name, field) not in own
                    },
                )
                for section in sections
            ]
            every = {name: field for _, fields in self.shown for name, field in fields.items()}
            rest, given = _taken(ctx, args, every, own, partial(_owners, paths, flag))
            _given.set(given)
            return super().parse_args(ctx, rest)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            for place, (section, fields) in enumerate(self.shown):
                if not fields:
                    continue
                kind = section.method.kind if issubclass(section, SectionOfKind) else ""
                heading = headings[place] if headings else f"Settings of {kind}, also options"
                out.print(heading, highlight=False, markup=False)
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
    if issubclass(section, SectionByData):
        return section.section_for({})
    return section


def _owners(paths: Sequence[str], flag: str) -> dict[str, str]:
    """Return, for the option of every method of the families, which choice it belongs to."""
    owners: dict[str, list[str]] = {}
    for path in paths:
        family = _section(path, (), "", {})
        registry: Any = getattr(family, "registry", None)
        for kind in registry or ():
            with contextlib.suppress(WhorlError):  # a plug-in that fails has no options
                for name, field in registry.get(kind).Settings.model_fields.items():
                    owners.setdefault(_flag(name, field), []).append(f"{flag} {kind}")
    return {option: " or ".join(kinds) for option, kinds in owners.items()}


def _pairs(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        yield flag, value if equals else args[place + 1] if place + 1 < len(args) else ""


def _taken(
    ctx: Any,
    args: Sequence[str],
    fields: Mapping[str, FieldInfo],
    own: Collection[str],
    owners: Callable[[], Mapping[str, str]],
) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments that are no settings, and the settings that the others give."""
    flags = {_flag(name, field): name for name, field in fields.items()}
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
            if _is_list(fields[name].annotation) and not value.startswith("["):
                given.setdefault(name, []).append(parse_value(value, source=flag))
            elif name in given:
                ctx.fail(f"{flag} is given twice, and takes one value. Leave one of them out.")
            else:
                given[name] = parse_value(value, source=flag)
        elif flag.startswith("--") and flag not in own:
            if (owner := owners().get(flag)) is not None:  # imports all methods: only where it is needed
                here = f" Settings here: {', '.join(sorted(flags))}." if flags else ""
                ctx.fail(f"no option '{flag}': it belongs to {owner}.{here}")
            ctx.fail(f"no option '{flag}'.{did_you_mean(flag, [*own, *flags])}")
        else:
            rest.append(arg)
    return rest, given


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) is list or any(
        get_origin(part) in (list, Annotated) and _is_list(part) for part in get_args(annotation)
    )


def _flag(name: str, field: FieldInfo) -> str:
    """Return the option of a setting: its name, or one that the setting states."""
    extra = field.json_schema_extra
    option = extra.get("option", name) if isinstance(extra, dict) else name
    return "--" + str(option).replace("_", "-")


def _shown_flag(name: str, field: FieldInfo) -> str:
    flag = _flag(name, field)
    return f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag


def _described(field: FieldInfo) -> tuple[str, str]:
    """Return default and meaning in words."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    choices = [str(value) for value in get_args(field.annotation) if isinstance(value, str)]
    meaning = " ".join((field.description or "").split())
    if choices:
        meaning += f" One of {', '.join(choices)}."
    shown = "required" if field.is_required() else "" if default in (None, [], "") else str(default)
    return shown, meaning
