"""Recipes: reading, changed keys, user-facing errors, and the example recipes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from whorl.errors import InputError, UsageError, did_you_mean, shortened, unknown_option
from whorl.files import write_text
from whorl.settings import Model, settings_from, shown
from whorl.version import __version__
from whorl.workflow.settings import Recipe
from whorl.yaml_text import MOST_CHARACTERS, MOST_LEVELS, dump_yaml, load_yaml, parse_value
from whorl.yaml_text import Path as KeyPath

__all__ = ["Recipe", "parse_recipe", "read_recipe", "save_recipe", "settings_from"]


def read_recipe(path: Path | str, *, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe file.

    Args:
        path: A YAML file. ``name`` defaults to the name of the file.
        changes: Such as ``"generator.epochs=100"``; each replaces or adds one key, its value read as YAML.

    Raises:
        InputError: With the key, its line, and the expected value.
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
    # A section whose keys are all commented out is read as null: its defaults are meant. With invert and
    # decode, null means: not at all.
    for key in [
        key for key, value in data.items() if value is None and key not in ("reconstruct", "invert", "decode")
    ]:
        del data[key]
    return settings_from(Recipe, data, source=source, lines=lines)


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


def shipped_recipes() -> dict[str, str]:
    """Return name and description of each example recipe."""
    return {name: _shipped(name).partition("\n")[0].removeprefix("# ") for name in _shipped_names()}


def write_shipped(name: str, path: Path | None = None) -> Path:
    """Write an example recipe, and return its path.

    Args:
        name: Its name, such as ``pt10_emt``.
        path: The file to write; ``<name>.yaml`` in the working directory by default.

    Raises:
        InputError: An unknown name, or a file that exists.
    """
    name = name.removesuffix(".yaml")
    if name not in _shipped_names():
        raise unknown_option("recipe", name, _shipped_names())
    path = path or Path(f"{name}.yaml")
    if path.exists():
        raise InputError(f"{path}: exists, and is not overwritten. Choose another file: --output.")
    write_text(path, _shipped(name).replace("recipes/", ""))
    return path


def _shipped_names() -> list[str]:
    there = (files("whorl") / "recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in there if file.name.endswith(".yaml"))


def _shipped(name: str) -> str:
    return (files("whorl") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write a recipe with all defaults; reading it again gives the same recipe."""
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
    """Return similar names of recipes."""
    if path.stem in _shipped_names():
        return f" Write the one that comes with whorl: whorl init {path.stem}"
    folder = path.parent
    there = [str(p) for p in sorted(folder.glob("*.y*ml"))] if folder.is_dir() else []
    return did_you_mean(str(path), there) if there else " Give the path of a YAML file."


def _apply(data: dict[str, Any], change: str, lines: dict[KeyPath, int]) -> None:
    """Apply one ``section.key=value``."""
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
            raise UsageError(f"{option}: '{here}' is a value ({shown(place)}), not a section.")
    place[last] = parse_value(text, source=option)
    # The file's line would mislead: this value came from the command line.
    changed = (*sections, last)
    for path in [path for path in lines if path[: len(changed)] == changed]:
        del lines[path]
