"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from pydantic import Field, TypeAdapter, ValidationError

from whorl.axes import EXECUTORS
from whorl.errors import UsageError, shortened
from whorl.executors.settings import ExecutorSettings
from whorl.settings import Count, Positive, SeedNumber, Share, settings_from
from whorl.yaml_text import parse_value


def number(annotation: Any, expected: str) -> Callable[[Any], Any]:
    """Return a parser of numbers within the limits of a settings type; other values are usage errors.

    Args:
        annotation: A type of :mod:`whorl.settings`.
        expected: Description of the accepted values, for messages.
    """
    adapter = TypeAdapter(annotation, config={"allow_inf_nan": False})

    def read(text: Any) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError:
            raise typer.BadParameter(f"got '{shortened(text)}', expected {expected}.") from None

    return read


SEED = number(SeedNumber, "a whole number from 0 to 2147483647")
COUNT = number(Count, "a whole number from 1 to 1000000000")
INDEX = number(Annotated[int, Field(ge=0)], "a whole number, 0 or more")
FINITE = number(float, "a finite number")
POSITIVE = number(Positive, "more than 0, and finite")
SHARE = number(Share, "a number above 0 and below 1")

ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help=f"Executor of long computations: {', '.join(EXECUTORS)}, the address of a Dask scheduler, or a "
        "section as in a recipe. Results do not depend on it.",
        show_default=False,
    ),
]

Tolerance = Annotated[
    float,
    typer.Option(
        parser=POSITIVE, metavar="<float>", help="A structure within this distance of the target is a hit."
    ),
]

Seed = Annotated[int, typer.Option(help="Random seed.", parser=SEED)]


def options_from(pairs: Iterable[str] | None, *, option: str = "--option") -> dict[str, Any]:
    """Parse KEY=VALUE pairs, with values in YAML notation.

    >>> options_from(["batch_size=8", "device=cpu"])
    {'batch_size': 8, 'device': 'cpu'}
    """
    options = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(
                f"{option} {shortened(pair)}: got no '=', expected KEY=VALUE such as batch_size=8."
            )
        options[key] = parse_value(text, source=f"{option} {shortened(pair)}")
    return options


def executor_settings(text: str | None) -> ExecutorSettings | None:
    """Parse the value of ``--executor``: a name, an address, or a section in YAML notation."""
    if text is None:
        return None
    return settings_from(ExecutorSettings, parse_value(text, source="--executor"), source="--executor")


def given(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Select some of a command's arguments."""
    return {name: values[name] for name in names}
