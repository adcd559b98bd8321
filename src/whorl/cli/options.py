"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from whorl.errors import UsageError, shortened

Seed = Annotated[int, typer.Option(help="The number all randomness follows from.")]


def options_from(pairs: Iterable[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE pairs, values in YAML's notation.

    >>> options_from(["batch_size=8", "device=cpu"])
    {'batch_size': 8, 'device': 'cpu'}
    """
    from whorl.yaml_text import parse_value

    options = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--option {shortened(pair)}: got no '=', expected KEY=VALUE such as batch_size=8."
            )
        options[key] = parse_value(text, source=f"--option {shortened(pair)}")
    return options


def given(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Pick some of a command's arguments."""
    return {name: values[name] for name in names}
