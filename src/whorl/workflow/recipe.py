"""Recipes: reading one, changing a key, saying in plain words what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from whorl.errors import InputError, UsageError, did_you_mean, shortened
from whorl.files import write_text
from whorl.version import __version__
from whorl.workflow.section import SectionOfKind
from whorl.workflow.settings import Recipe
from whorl.yaml_text import MOST_CHARACTERS, MOST_LEVELS, dotted, dump_yaml, load_yaml, parse_value
from whorl.yaml_text import Path as KeyPath

__all__ = ["Recipe", "parse_recipe", "read_recipe", "save_recipe", "settings_from"]

Model = TypeVar("Model", bound=BaseModel)

_MOST_MISTAKES = 10  # in one message
_MOST_WITH_CHOICES = 3  # of more mistakes, keys to choose from would hide what is wrong
_LONGEST = 400  # characters about one mistake


def read_recipe(path: Path | str, *, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe file.

    Args:
        path: A YAML file. ``name`` defaults to the name of the file.
        changes: Such as ``"generator.epochs=100"``; each replaces or adds one key, its value read as YAML.

    Raises:
        InputError: What is wrong, with the key, its line, and what is expected there.
    """
    path = Path(path)
    try:
        text = _text_of(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe.{_nearby(path)}") from None
    return parse_recipe(text, source=str(path), changes=changes, name=path.stem)


def parse_recipe(
    text: str, *, source: str = "recipe", changes: Iterable[str] = (), name: str | None = None
) -> Recipe:
    """Read a recipe from its text; see :func:`read_recipe`."""
    data, lines = load_yaml(text, source=source)
    if not isinstance(data, dict):
        got = "an empty file" if data is None else f"a {type(data).__name__}"
        some = ", ".join(list(Recipe.model_fields)[:4])
        raise InputError(f"{source}: got {got}, expected keys such as {some}.")
    lines = dict(lines)
    for change in changes:
        _apply(data, change, lines)
    if name is not None:
        data.setdefault("name", name)
    # A section whose keys are all commented out reads as null: its defaults are meant. With invert and
    # decode, null means: not at all.
    for key in [key for key, value in data.items() if value is None and key not in ("invert", "decode")]:
        del data[key]
    return settings_from(Recipe, data, source=source, lines=lines)


def settings_from(
    model: type[Model], data: Mapping[str, Any], *, source: str, lines: Mapping[KeyPath, int] | None = None
) -> Model:
    """Build one section (or a whole recipe) from plain data.

    Args:
        model: Of the section.
        data: Its keys.
        source: Where they come from, for messages.
        lines: Where each key stands in a file; None where they are options of a command.

    Raises:
        InputError: All that is wrong with it, in the user's words; of options of a command a ``UsageError``.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        mistakes, count = _in_words(error, model, data, lines or {})
        head = f"{source}: " if count == 1 else f"{source}: {count} mistakes\n  "
        rest = f"\n  and {count - len(mistakes)} more" if count > len(mistakes) else ""
        kind = UsageError if lines is None else InputError
        raise kind(head + "\n  ".join(mistakes) + rest) from None


def read_section(model: type[Model], path: Path, name: str) -> Model:
    """Read one section from a YAML file: the whole file, or its key ``name`` (as in a recipe)."""
    try:
        data, lines = load_yaml(_text_of(path), source=str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    if isinstance(data, dict) and name in data:
        data = data[name]
        lines = {key[1:]: line for key, line in lines.items() if key[0] == name}
    return settings_from(model, data, source=str(path), lines=lines)


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write a recipe with every default spelt out; reading it again gives the same recipe."""
    body = dump_yaml(recipe.model_dump(mode="json"))
    write_text(path, f"# Every setting of this run, defaults included (whorl {__version__}).\n{body}")


def _text_of(path: Path) -> str:
    """Read a text file, or the beginning of one that is too large for settings."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else shortened(error, 200)
        raise InputError(f"{path}: cannot be read ({reason}). Give a text file in UTF-8.") from None


def _nearby(path: Path) -> str:
    """Name recipes that may have been meant."""
    folder = path.parent
    there = [str(p) for p in sorted(folder.glob("*.y*ml"))] if folder.is_dir() else []
    return did_you_mean(str(path), there) if there else " Give the path of a YAML file."


def _apply(data: dict[str, Any], change: str, lines: dict[KeyPath, int]) -> None:
    """Carry out one ``section.key=value``."""
    option = f"--set {shortened(change)}"
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{option}: got no '=', expected key=value such as generator.epochs=100.")
    *sections, last = key.strip().split(".")
    if len(sections) > MOST_LEVELS:
        raise UsageError(f"{option}: got {len(sections)} sections within each other, a recipe has a few.")
    place = data
    for depth, section in enumerate(sections):
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            here = ".".join(sections[: depth + 1])
            raise UsageError(f"{option}: '{here}' is a value ({_shown(place)}), not a section.")
    place[last] = parse_value(text, source=option)
    # The file's line would mislead: this value came from the command line.
    changed = (*sections, last)
    for path in [path for path in lines if path[: len(changed)] == changed]:
        del lines[path]


def _in_words(
    error: ValidationError, model: type[BaseModel], data: Any, lines: Mapping[KeyPath, int]
) -> tuple[list[str], int]:
    """Turn the first of pydantic's findings into sentences: line, key, what was got, what is expected.

    Returns:
        The sentences, and how many findings there are.
    """
    findings = [_Finding(details, model, data) for details in error.errors()]
    # Of a choice between types (a list or 'all'), pydantic reports every branch: the deepest fits best.
    best: dict[KeyPath, _Finding] = {}
    for finding in findings:
        key = finding.path[:2] if finding.in_union else finding.path
        if key not in best or len(finding.path) > len(best[key].path):
            best[key] = finding
    mistakes = sorted(best.values(), key=lambda finding: (lines.get(finding.path, 0), dotted(finding.path)))
    sentences = []
    for mistake in mistakes[:_MOST_MISTAKES]:
        line = lines.get(mistake.path)
        sentence = mistake.sentence()
        if len(mistakes) > _MOST_WITH_CHOICES:
            sentence = sentence.split(" Choose from:")[0]
        sentences.append(f"{f'line {line}: ' if line else ''}{shortened(sentence, _LONGEST)}")
    return sentences, len(mistakes)


class _Finding:
    """One of pydantic's errors, with its place in the user's file instead of in our models."""

    def __init__(self, details: ErrorDetails, model: type[BaseModel], data: Any) -> None:
        self.details, self.model, self.data = details, model, data
        path: list[str | int] = []
        value = data
        self.in_union = False
        for part in details["loc"]:
            # Branches of a union appear in the location ("literal['all']"); they are not keys of the file.
            present = (isinstance(value, dict) and part in value) or (
                isinstance(value, list) and isinstance(part, int) and part < len(value)
            )
            if present:
                value = value[part]
                path.append(part)
            elif part == details["loc"][-1] and details["type"] == "missing":
                if isinstance(part, str):  # else a list that is too short, which is then what was got
                    path.append(part)
            else:
                self.in_union = True
        self.path: KeyPath = tuple(path)
        self.got = value

    def sentence(self) -> str:
        key, kind = shortened(dotted(self.path), 100), self.details["type"]
        context = self.details.get("ctx", {})
        if kind in ("extra_forbidden", "invalid_key"):
            known = _keys_of(self.model, self.path[:-1], self.data)
            return f"unknown key '{key}'.{did_you_mean(str(self.path[-1]), known)}"
        if kind == "missing" and isinstance(self.details["loc"][-1], str):
            return f"'{key}' is missing.{_HELP.get(key, '')}"
        if kind == "value_error":
            message = self.details["msg"].removeprefix("Value error, ")
            return f"{key}: {message}." if key else f"{message}."
        expected = self._expected(kind, context)
        sentence = f"{f'{key}: ' if key else ''}got {_shown(self.got)}, expected {expected}"
        return sentence if sentence.endswith("?") else f"{sentence}."

    def _expected(self, kind: str, context: Mapping[str, Any]) -> str:
        if self.in_union and self.path[-1:] == ("sizes",):
            return "a list of whole numbers such as [300, 3000], or all"
        if kind == "literal_error":
            options = [
                option.strip("'") for option in str(context["expected"]).replace(" or ", ", ").split(", ")
            ]
            hint = did_you_mean(shortened(self.got), options).split(" Choose from")[0]
            return " or ".join(options) + (f".{hint}" if hint else "")
        limits = {
            "greater_than": "a number above {gt}",
            "greater_than_equal": "{ge} or more",
            "less_than": "a number below {lt}",
            "less_than_equal": "{le} or less",
            "too_short": "a list with at least {min_length} entry",
            "string_pattern_mismatch": "letters, digits, '_', '.' and '-'",
        }
        if kind in limits:
            return limits[kind].format(**context)
        for start, words in _TYPE_WORDS.items():
            if kind.startswith(start):
                return words
        return self.details["msg"]


_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list such as [1.9, 2.8]",
    "tuple": "a list of two numbers [lower, upper]",
    "missing": "a list of two numbers [lower, upper]",
    "too_long": "a list of two numbers [lower, upper]",
    "dict": "a section with keys below it",
    "model": "a section with keys below it",
}

_HELP = {
    "data": " Give one of data.clusters, data.crystals, data.files, data.features.",
    "generate": " Give at least generate.targets, such as [1.9, 2.8, 3.7].",
    "generate.targets": " Give the property values to generate for, such as [1.9, 2.8, 3.7].",
}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = shortened(value, 60)
    return f"'{text}'" if isinstance(value, str) else text


def _keys_of(model: type[BaseModel], path: Sequence[str | int], data: Any) -> list[str]:
    """Return the keys that the section at ``path`` knows; they may depend on the kind that ``data`` names."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            break
        candidates = [field.annotation, *get_args(field.annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if models:
            model = models[0]
        data = data.get(part) if isinstance(data, dict) else None
    if issubclass(model, SectionOfKind):
        model = model.of_kind(data)
    return list(model.model_fields)
