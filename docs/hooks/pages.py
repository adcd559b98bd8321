"""Pages of the documentation: tables of settings from the classes themselves, and mathematics as MathML."""

import html
import re
from typing import Any, get_args, get_origin

from latex2mathml.converter import convert
from pydantic.fields import FieldInfo

from whorl import axes
from whorl.registry import Registry
from whorl.settings import Method, Section

_MARK = "<!-- settings of every method -->"
_ARITHMATEX = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables of settings where a page asks for them."""
    return markdown.replace(_MARK, settings()) if _MARK in markdown else markdown


def on_page_content(content: str, **_: Any) -> str:
    """Turn mathematics into MathML, which browsers draw without a script."""
    return _ARITHMATEX.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    source = html.unescape(match[2]).strip().replace(r"\arg", r"\operatorname{arg}")
    source = re.sub(r"\\[bB]ig(l|r)(?![a-z])", lambda side: r"\left" if side[1] == "l" else r"\right", source)
    display = "block" if match[1] == "div" else "inline"
    return convert(source.removeprefix(r"\(").removeprefix(r"\[")[:-2], display=display)


def settings() -> str:
    """Return a section for each axis, with a table for each method."""
    registries = [value for value in vars(axes).values() if isinstance(value, Registry)]
    return "\n".join(_axis(registry) for registry in registries if list(registry))


def _axis(registry: Registry[Any]) -> str:
    parts = [f"## {registry.axis.capitalize()}s\n"]
    for name in registry:
        method = registry.get(name)
        parts.append(f"### `{name}`\n\n{_summary(method)}\n")
        if method.__dict__.get("requires"):
            parts.append(f"Needs `pip install 'whorl[{method.requires[1]}]'`.\n")
        if issubclass(method, Method) and method.Settings.model_fields:
            parts += ["| key | values | default | meaning |", "|---|---|---|---|"]
            parts += [_row(key, field) for key, field in method.Settings.model_fields.items()]
            parts.append("")
    return "\n".join(parts)


def _summary(method: type[Any]) -> str:
    text = " ".join((method.__doc__ or "").split("\n\n")[0].split())
    text = re.sub(r":math:`([^`]+)`", r"\\(\1\\)", text)
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)


def _row(key: str, field: FieldInfo) -> str:
    default = (
        "required" if field.is_required() else f"`{_yaml(field.get_default(call_default_factory=True))}`"
    )
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{key}` | {_values(field)} | {default} | {meaning} |"


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


_NO_LIMIT = 1e9  # bounds as large as this only catch mistakes
_LIMITS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}


def _values(field: FieldInfo) -> str:
    limits = [
        words.format(f"{getattr(limit, name):g}")
        for limit in field.metadata
        for name, words in _LIMITS.items()
        if getattr(limit, name, None) is not None and abs(getattr(limit, name)) < _NO_LIMIT
    ]
    return ", ".join([_type(field.annotation), *limits]).replace("|", "\\|")


def _type(annotation: Any) -> str:
    words = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null"}
    if annotation in words:
        return words[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and arguments and Ellipsis not in arguments:
        return f"[{', '.join(map(_type, arguments))}]"
    if origin in (list, tuple, dict):
        return f"{origin.__name__} of {_type(arguments[0])}" if arguments else origin.__name__
    if str(origin).endswith("Literal'>") or str(origin) == "typing.Literal":
        return ", ".join(f"`{choice}`" for choice in arguments)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if arguments:
        return " or ".join(_type(argument) for argument in arguments)
    return getattr(annotation, "__name__", str(annotation))
