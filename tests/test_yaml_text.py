"""YAML: limits, line numbers, plain values of version 1.2, and the way back."""

import math
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from whorl.errors import InputError
from whorl.yaml_text import MOST_LEVELS, MOST_VALUES, dump_yaml, load_yaml, parse_value

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


def message(text: str) -> str:
    with pytest.raises(InputError) as caught:
        load_yaml(text, source="my.yaml")
    assert len(str(caught.value)) < 500
    assert str(caught.value).startswith("my.yaml")
    return str(caught.value)


@pytest.mark.parametrize("text", [BOMB, MERGES], ids=["aliases", "merges"])
def test_repetition_by_aliases_is_counted_before_it_takes_memory(text):
    tracemalloc.start()
    try:
        said = message(text)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"more than {MOST_VALUES:,} keys and values" in said
    assert ", line " in said
    assert most < 100e6


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("x: 1\na: &a [*a]", 2, "contains itself"),
        ("a: &a {b: *a}", 1, "contains itself"),
        ("a: &a\n  <<: *a", 1, "contains itself"),
        ("[" * 500, 1, "within each other"),
        ("[" * 500 + "]" * 500, 1, "within each other"),
        ("".join(f"{' ' * i}a:\n" for i in range(700)), MOST_LEVELS, "within each other"),
        ("".join(f"k{i}: 1\n" for i in range(80_000)), MOST_VALUES // 2, "is this the file you mean"),
        ("x: 1\n? [a, b]\n: 2", 2, "as a key"),
        ("a: !!int x", 1, "got 'x', expected a whole number"),
        ("a: !!float x", 1, "got 'x', expected a number"),
        ("a: !!bool x", 1, "got 'x', expected true or false"),
        ("a: !!null x", 1, "got 'x', expected null"),
        ("a: !!timestamp x", 1, "'!!timestamp' is not known"),
        ("a: !!binary x", 1, "'!!binary' is not known"),
        ("a: !!set {x}", 1, "'!!set' is not known"),
        ("a: !!python/object/apply:os.system [ls]", 1, "'!!python/object/apply:os.system' is not known"),
        ("a: !!map [x]", 1, "not known"),
        ("a: " + "1" * 5000, 1, "expected a whole number"),
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' is given twice (first in line 1)"),
        ("a:\n  b: 1\n  'b': 3", 3, "the key 'a.b' is given twice (first in line 2)"),
        ("a: 1\n--- \nb: 2", None, "single document"),
        ("a: *nowhere", 1, "undefined alias"),
        ("a: *" + "n" * 5000, 1, "undefined alias"),
        ('a: "\\UFFFFFFFF"', None, ""),
        ('a: "\\uD800"', 1, "half of a character"),
        ("a: x\nb: \x07", 2, "U+0007"),
        ("a: <<\nb", None, "not valid YAML"),
        ("<<: 3", 1, "'<<' takes sections"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text, line, reason):
    said = message(text)
    assert reason in said
    if line is not None:
        assert f"my.yaml, line {line}: " in said


def test_more_characters_than_settings_have():
    assert "1,000,001 characters" in message("#" * 1_000_001)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("No", "No"),
        ("Y", "Y"),
        ("[N, O, On, Off]", ["N", "O", "On", "Off"]),
        ("no", False),
        ("yes", True),
        ("True", True),
        ("1e-3", 0.001),
        ("-1E5", -1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("10_000", 10_000),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),
        ("0x_", "0x_"),
        ("1:30", "1:30"),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-31", "2020-01-31"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("~", None),
        ("", None),
        ("=", "="),
        ("{1: a, on: b, ~: c}", {1: "a", "on": "b", "~": "c"}),
    ],
)
def test_plain_values(text, value):
    got = parse_value(text, source="x")
    assert got == value
    assert type(got) is type(value)


def test_aliases_and_merged_sections_within_the_limits():
    text = "base: &base\n  a: 1\n  b: [1, 2]\nown:\n  b: 3\n  <<: *base\nlist: [*base, *base]\n"
    data, lines = load_yaml(text, source="x")
    assert data["own"] == {"b": 3, "a": 1}
    assert data["list"] == [{"a": 1, "b": [1, 2]}] * 2
    assert (lines["own", "b"], lines["own", "a"], lines["base", "b"]) == (5, 2, 3)


def test_texts_that_either_version_of_yaml_takes_for_something_else_are_quoted():
    for text in ("1e-3", "no", "NO", "2020-01-31", "1:30", "010", "0o17", "5", "null", "=", "<<", "", "~"):
        written = dump_yaml({text: [text]})
        assert load_yaml(written, source="x")[0] == {text: [text]}
        assert yaml.safe_load(written) == {text: [text]}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(_VALUES)
def test_what_is_written_is_read_again_the_same(data):
    assert load_yaml(dump_yaml(data), source="x")[0] == data


@given(st.text(alphabet="[]{}:,-?!&*#|>'\"%@ \n\tab01.~<=\\", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        load_yaml(text, source="x")
    except InputError as error:
        assert len(str(error)) < 500
