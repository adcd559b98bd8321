"""Settings: validated sections of hyperparameters, with user-facing errors.

A method's ``Settings`` are the only statement of its hyperparameters, with defaults, ranges and their
meaning: recipes, command-line options, saved models, reports and the tables of the documentation are made
from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from whorl.errors import InputError, UsageError, did_you_mean, shortened
from whorl.registry import Registry
from whorl.yaml_text import Path as KeyPath
from whorl.yaml_text import dotted

Model = TypeVar("Model", bound=BaseModel)

_MOST_MISTAKES = 10  # in one message
_MOST_WITH_CHOICES = 3  # of more mistakes, keys to choose from would hide what is wrong
_LONGEST = 400  # characters about one mistake

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]


def _limits(value: Any) -> Any:
    """Return limits as people write them, such as 2..8, or one number for both."""
    if isinstance(value, str):
        least, separator, greatest = value.partition("..")
        return (least, greatest if separator else least)
    return (value, value) if isinstance(value, int) else value


Range = Annotated[tuple[Count, Count], BeforeValidator(_limits)]
"""Least and greatest number, such as 2..8."""
Width = Annotated[int, Field(ge=1, le=10**6)]
"""Of a network, or how many things a structure has."""
Depth = Annotated[int, Field(ge=1, le=1000)]
SeedNumber = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """Settings whose keys are all known, and which do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Return all keys, those of sections within by their own kinds."""
        return super().model_dump(**{"serialize_as_any": True, **options})


class SectionByData(Section):
    """A section whose keys depend on its data, or on the packages that are installed."""

    @classmethod
    def section_for(cls, value: Any) -> type[SectionByData]:
        """Return the class with all keys of ``value``; the class itself where nothing is to be added."""
        return cls

    def __new__(cls, *args: Any, **data: Any) -> SectionByData:
        """Make the class with all keys, where the section is made from keyword arguments."""
        return super().__new__(cls.section_for(data))

    @model_validator(mode="wrap")
    @classmethod
    def _of_section(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        chosen = cls.section_for(value)
        return handler(value) if chosen is cls else chosen.model_validate(value)


class SectionOfKind(Section):
    """Settings of one method of an axis: the base of a family whose other keys depend on its ``kind``.

    The family's base names the ``registry`` and the ``default`` kind. Every method's ``Settings`` derive from
    it.
    """

    registry: ClassVar[Registry[Any]]
    default: ClassVar[str]
    method: ClassVar[type[Any]]
    """The class that these settings belong to."""

    @property
    def kind(self) -> str:
        """Name of the method."""
        return self.method.kind

    def options(self) -> dict[str, Any]:
        """Return the hyperparameters of the method, JSON-able."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name != "kind"}

    def summary(self) -> str:
        """Return the method and its settings in a line of a report."""
        options = ", ".join(
            f"{name.replace('_', ' ')} {' and '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in self.options().items()
            if value is not None and value is not False and value != []
        )
        return f"{self.kind}: {options}" if options else self.kind

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files that the method reads: results depend on their contents."""
        return ()

    @classmethod
    def of_kind(cls, value: Any) -> type[SectionOfKind]:
        """Return the settings of the kind that ``value`` names, or of the default kind."""
        if "registry" not in cls.__dict__ or not isinstance(value, dict):
            return cls
        return cls.registry.get(str(value.get("kind", cls.default))).Settings

    @model_validator(mode="wrap")
    @classmethod
    def _of_kind(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        if isinstance(value, str) and "registry" in cls.__dict__:
            value = {"kind": value}  # a name alone
        chosen = cls.of_kind(value)
        if chosen is not cls:
            return chosen.model_validate(value)
        if isinstance(value, dict) and "kind" in value:
            value = {name: given for name, given in value.items() if name != "kind"}
        return handler(value)

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}


class Method:
    """A class that an axis' registry holds: it has a name and states its hyperparameters.

    Attributes:
        kind: Name under which it is registered; left out, its import path.
        Settings: Its hyperparameters, with defaults, ranges and meanings.
        requires: Optional package that it needs, and the extra of whorl that brings it.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[Any]]
    requires: ClassVar[tuple[str, str] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete a class that has no name or no settings of its own, and let its settings know it."""
        super().__init_subclass__(**kwargs)
        if "kind" not in cls.__dict__:
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"
        if "Settings" not in cls.__dict__ and hasattr(cls, "Settings"):
            make: Any = type(cls.Settings)
            namespace = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.Settings"}
            cls.Settings = make("Settings", (cls.Settings,), namespace)
        if hasattr(cls, "Settings"):
            cls.Settings.method = cls


def settings_from(
    model: type[Model], data: Any, *, source: str, lines: Mapping[KeyPath, int] | None = None
) -> Model:
    """Build one section (or a whole recipe) from plain data.

    Args:
        model: Of the section.
        data: Its keys, or whatever a file holds in their place.
        source: Where they come from, for messages.
        lines: Line of each key in a file; None for options of a command.

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


def _in_words(
    error: ValidationError, model: type[BaseModel], data: Any, lines: Mapping[KeyPath, int]
) -> tuple[list[str], int]:
    """Turn the first of pydantic's findings into sentences: line, key, what was got, what is expected.

    Returns:
        The sentences, and how many findings there are.
    """
    findings = [_Finding(details, model, data) for details in error.errors()]
    # Of a choice between types (a list or 'all'), pydantic reports every branch: the deepest fits best.
    within = {f.path[:depth] for f in findings if f.in_union for depth in range(len(f.path))}
    best: dict[KeyPath, _Finding] = {}
    for finding in findings:
        if not (finding.in_union and finding.path in within):
            best.setdefault(finding.path, finding)
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
            message = self.details["msg"].removeprefix("Value error, ").removesuffix(".")
            return f"{key}: {message}." if key else f"{message}."
        expected = self._expected(kind, context)
        sentence = f"{f'{key}: ' if key else ''}got {shown(self.got)}, expected {expected}"
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
            "greater_than": "a number above {gt:.15g}",
            "greater_than_equal": "{ge:.15g} or more",
            "less_than": "a number below {lt:.15g}",
            "less_than_equal": "{le:.15g} or less",
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
    "tuple": "a list of two numbers [lower, upper], or lower..upper",
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


def shown(value: Any) -> str:
    """Return a value as it would be written in a recipe, shortened."""
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
        if isinstance(part, int):  # of a list of sections
            data = data[part] if isinstance(data, list) and part < len(data) else None
            continue
        field = model.model_fields.get(part)
        if field is None:
            break
        models = [kind for kind in _parts(field.annotation) if issubclass(kind, BaseModel)]
        if models:
            model = models[0]
        data = data.get(part) if isinstance(data, dict) else None
    if issubclass(model, SectionOfKind):
        model = model.of_kind(data)
    elif issubclass(model, SectionByData):
        model = model.section_for(data)
    return list(model.model_fields)


def _parts(annotation: Any) -> Iterator[type[Any]]:
    """Yield the classes that an annotation is made of."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _parts(part)
