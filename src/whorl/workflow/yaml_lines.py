"""YAML with line numbers, so that a mistake in a recipe can be pointed at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from whorl.errors import InputError

Path = tuple[str | int, ...]


def load_yaml(text: str, *, source: str) -> tuple[Any, Mapping[Path, int]]:
    """Read YAML and where each key stands.

    Args:
        text: The document.
        source: Its name in error messages.

    Returns:
        The data, and the line (counted from 1) of each path such as ``("generator", "beta")``.

    Raises:
        InputError: Not YAML, or one key given twice (PyYAML alone would silently keep the second).
    """
    lines: dict[Path, int] = {}
    try:
        _walk(yaml.compose(text, Loader=yaml.SafeLoader), (), lines, source)
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(
            f"{source}{where}: not valid YAML ({problem}). Check the indentation and the colons there."
        ) from None


def _walk(node: yaml.Node | None, path: Path, lines: dict[Path, int], source: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key_path = (*path, key_node.value)
            line = key_node.start_mark.line + 1
            if key_path in lines:
                raise InputError(
                    f"{source}, line {line}: the key '{dotted(key_path)}' is given twice (first in line "
                    f"{lines[key_path]}). Keep one of them."
                )
            lines[key_path] = line
            _walk(value_node, key_path, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), lines, source)


def dotted(path: Path) -> str:
    """Return a path as people write it.

    >>> dotted(("generate", "targets", 0))
    'generate.targets[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
