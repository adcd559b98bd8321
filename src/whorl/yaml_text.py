"""YAML reader with line numbers and limits, and a writer whose output reads back unchanged.

Plain values follow YAML 1.2, where ``NO`` and ``No`` are text (nitrogen monoxide, nobelium), ``010`` is ten,
``1e-3`` is a number and ``2020-01-31`` is text; ``yes``, ``no``, ``on`` and ``off`` in lower case are truth
values as before. There are no tags of Python objects, and nothing in a file is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from whorl.errors import InputError, UsageError, shortened

Path = tuple[str | int, ...]

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 20_000  # keys and values, those that aliases repeat included
MOST_LEVELS = 50

_TAG = "tag:yaml.org,2002:"
_NUMBER = r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
_PLAIN = {
    "bool": r"true|True|TRUE|yes|on|false|False|FALSE|no|off",
    "int": r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+",
    "float": rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "null": r"~|null|Null|NULL|",
    "merge": r"<<",
}
_PATTERNS = {tag: re.compile(rf"(?:{pattern})\Z") for tag, pattern in _PLAIN.items()}


class _Loader(yaml.SafeLoader):
    """Makes the nodes of a document, but not of one that is too deep, too large or contains itself."""

    yaml_implicit_resolvers = {}

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self._source = source
        self._levels = self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._values += 1
        line = self.peek_event().start_mark.line + 1
        if self._values > MOST_VALUES:
            raise _too_many_values(self._source, line)
        if self._levels >= MOST_LEVELS:
            raise _too_many_levels(self._source, line)
        self._levels += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._levels -= 1


for _tag, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(_TAG + _tag, _pattern, None)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either version of YAML would take for something else."""

    def text(self, value: str) -> yaml.ScalarNode:
        # PyYAML writes these line breaks as they are unless told to escape them, and reads them as spaces.
        style = '"' if re.search(r"[\x85\u2028\u2029]", value) else None
        return self.represent_scalar(_TAG + "str", value, style)


_Dumper.add_representer(str, _Dumper.text)
_Dumper.add_implicit_resolver(_TAG + "float", _PATTERNS["float"], None)
_Dumper.add_implicit_resolver(_TAG + "int", _PATTERNS["int"], None)


def load_yaml(text: str, *, source: str) -> tuple[Any, Mapping[Path, int]]:
    """Read YAML and the line of each key.

    Args:
        text: The document.
        source: Its name in error messages.

    Returns:
        The data (mappings, lists, texts, numbers, truth values and ``None``), and the line (counted from 1)
        of each path such as ``("generator", "beta")``.

    Raises:
        InputError: Not YAML; a key given twice (YAML alone would silently keep the second); a tag such as
            ``!!timestamp``; a value that is not what its tag says; or larger or deeper than any recipe is,
            with all repetitions by aliases counted.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"{source}: got {len(text):,} characters, expected at most {MOST_CHARACTERS:,}. Is it a recipe?"
        )
    builder = _Builder(source)
    try:
        node = _Loader(text, source).get_single_node()
    except InputError:
        raise
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = error.character if isinstance(error.character, int) else ord(error.character)
        raise builder.error(line, f"a character that text cannot have (U+{character:04X})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise builder.error(mark.line + 1 if mark else None, problem) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as '\UFFFFFFFF' between quotes
        raise builder.error(None, str(error)) from None
    return (None if node is None else builder.build(node, ())), builder.lines


def parse_value(text: str, *, source: str) -> Any:
    """Read one value of an option in YAML's notation, such as ``[1.9, 2.8]``; see :func:`load_yaml`.

    Raises:
        UsageError: It is none.

    >>> parse_value("[1e-3, NO, true]", source="--set")
    [0.001, 'NO', True]
    """
    try:
        return load_yaml(text, source=source)[0]
    except InputError as error:
        raise UsageError(str(error)) from None


def dump_yaml(data: Any, **layout: Any) -> str:
    """Write plain data as YAML that :func:`load_yaml` reads as the same data.

    Args:
        data: Mappings, lists, texts, numbers, truth values and ``None``.
        layout: Options of :func:`yaml.dump`, such as ``width``.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **layout)


def _too_many_values(source: str, line: int) -> InputError:
    return InputError(
        f"{source}, line {line}: more than {MOST_VALUES:,} keys and values so far, those that aliases repeat "
        "included. Settings are far fewer: is this the file you mean?"
    )


def _too_many_levels(source: str, line: int) -> InputError:
    return InputError(
        f"{source}, line {line}: more than {MOST_LEVELS} lists or sections within each other. "
        "Settings have a few: is this the file you mean?"
    )


class _Builder:
    """Turns nodes into data, and notes the lines."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Path, int] = {}
        self._values = 0
        self._open: set[int] = set()

    def error(self, line: int | None, problem: str) -> InputError:
        where = f", line {line}" if line is not None else ""
        return InputError(
            f"{self.source}{where}: not valid YAML ({shortened(problem, 200)}). "
            "Check the indentation, the colons and the quotes there."
        )

    def build(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self._values += 1
        if self._values > MOST_VALUES:
            raise _too_many_values(self.source, line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self.error(line, "it contains itself by an alias")
        if len(self._open) >= MOST_LEVELS:
            raise _too_many_levels(self.source, line)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                for index, item in enumerate(node.value):
                    self.lines[(*path, index)] = item.start_mark.line + 1
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.remove(id(node))
        raise self._unknown_tag(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str | int, Any]:
        data: dict[str | int, Any] = {}
        own: dict[str | int, int] = {}
        merges = [value for key, value in node.value if key.tag == _TAG + "merge"]
        merged = [section for value in merges for section in self._merged(value, path)]
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(line, "a list or section as a key; a key is one word")
            if key_node.tag == _TAG + "merge":
                continue
            value = self._scalar(key_node)
            whole = isinstance(value, int) and not isinstance(value, bool)
            key: str | int = value if whole else key_node.value
            if key in own:
                raise InputError(
                    f"{self.source}, line {line}: the key '{shortened(dotted((*path, key)), 80)}' is given "
                    f"twice (first in line {own[key]}). Keep one of them."
                )
            own[key] = self.lines[(*path, key)] = line
            data[key] = self.build(value_node, (*path, key))
        for section in merged:
            for key, value in section.items():
                data.setdefault(key, value)
        return data

    def _merged(self, node: yaml.Node, path: Path) -> list[Mapping[str | int, Any]]:
        """Return the sections that ``<<`` names; their lines are those of where they are written."""
        value = self.build(node, path)
        sections = value if isinstance(value, list) else [value]
        if not all(isinstance(section, dict) for section in sections):
            raise self.error(node.start_mark.line + 1, "'<<' takes sections, such as '<<: *defaults'")
        return sections

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        if tag in ("str", "merge"):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise self.error(node.start_mark.line + 1, "half of a character (a lone surrogate)")
            return text
        if tag not in _PATTERNS:
            raise self._unknown_tag(node)
        try:
            return _VALUES[tag](text)
        except (ValueError, KeyError):
            words = {"int": "a whole number", "float": "a number", "bool": "true or false", "null": "null"}
            reason = f"got {shortened(repr(text), 60)}, expected {words[tag]}"
            raise self.error(node.start_mark.line + 1, reason) from None

    def _unknown_tag(self, node: yaml.Node) -> InputError:
        tag = node.tag.replace(_TAG, "!!")
        return self.error(node.start_mark.line + 1, f"the tag '{shortened(tag, 60)}' is not known here")


def _whole(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10))


def _number(text: str) -> float:
    digits = text.replace("_", "").lower()
    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))


_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_VALUES = {
    "int": _whole,
    "float": _number,
    "bool": lambda text: _TRUTH[text.lower()],
    "null": lambda text: {"": None, "~": None, "null": None}[text.lower()],
}


def dotted(path: Path) -> str:
    """Return a path as people write it.

    >>> dotted(("generate", "targets", 0))
    'generate.targets[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
