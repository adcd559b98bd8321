"""Changes that files meet in the world, and some that only an adversary makes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

_WORDS = """
nan NaN inf -inf 1e308 -1e308 1e-320 -0 0 -1 1e400 0.333 1.0000001 1e-12 120 1_000 1/3 1/0 0x_ . ? NO true
' '' " [ ] { } ( ) (((( , ; : # & | > < << &a *a !x %s%n ${HOME} ~ ../../x /dev/null 2020-13-45 null None T X
D Pt OH Vac Uuo data_ loop_ _cell_length_a x,y,z x/0,y,z 9**9**9,y,z αβγ Å 日本
"""
NASTY = (
    *_WORDS.split(),
    *("", "!!int x", "P 1", "F d -3 m:2", "R -3 m:R", "F F F", "__import__('os')", "a" * 3000, "[" * 200),
    *("\t", "\r", "\n", "\x00", "\x1b[31m", "\x85", "\u2028", "\u202e", "\ufeff"),
    *(str(2**31), str(2**63), str(2**64), "9" * 30, "9" * 5000, "1" + "0" * 400),
)


def mutated(data: bytes, other: bytes, rng: random.Random, *, store: bool) -> bytes:
    """Return contents that were changed in one to four ways."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if store and rng.random() < 0.7:
            data = _other_header(data, rng)
        else:
            data = rng.choice(_MUTATIONS)(data, other, rng)
    return data


def _flip(data: bytes, other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _noise(data: bytes, other: bytes, rng: random.Random) -> bytes:
    where = rng.randrange(len(data) + 1)
    return data[:where] + rng.randbytes(rng.choice((1, 8, 200))) + data[where + rng.choice((0, 8, 200)) :]


def _spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, stop = sorted((rng.randrange(len(other) + 1), rng.randrange(len(other) + 1)))
    where = rng.randrange(len(data) + 1)
    return data[:where] + other[start : min(stop, start + 5000)] + data[where:]


def _lines(data: bytes, other: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    way = rng.randrange(5)
    if way == 0:
        del lines[i]
    elif way == 1:
        lines.insert(j, lines[i])
    elif way == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif way == 3:
        lines[i] = rng.choice(other.split(b"\n"))
    else:
        lines[i:j] = []
    return b"\n".join(lines)


def _tokens(data: bytes, other: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    tokens = lines[i].split(b" ")
    j = rng.randrange(len(tokens))
    nasty = rng.choice(NASTY).encode()
    way = rng.randrange(4)
    if way == 0:
        del tokens[j]
    elif way == 1:
        tokens.insert(j, nasty)
    elif way == 2:
        tokens[j] = rng.choice(tokens)
    else:
        tokens[j] = nasty
    lines[i] = b" ".join(tokens)
    return b"\n".join(lines)


def _number(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Replace one run of digits."""
    digits = [i for i, byte in enumerate(data[:20_000]) if chr(byte).isdigit()]
    if not digits:
        return data
    start = rng.choice(digits)
    stop = start
    while stop < len(data) and chr(data[stop]) in "0123456789.eE+-":
        stop += 1
    return data[:start] + rng.choice(NASTY).encode() + data[stop:]


def _repeated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start : start + rng.randrange(1, 80)] * rng.choice((2, 50, 500)) + data[start:]


def _encoded(data: bytes, other: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    how = rng.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp500", "crlf", "cr"))
    if how in ("crlf", "cr"):
        return data.replace(b"\n", b"\r\n" if how == "crlf" else b"\r")
    return text.encode(how, "replace")


_MUTATIONS = (
    *(_flip, _cut, _noise, _spliced, _repeated, _encoded),
    *(_lines, _lines, _number, _number, _tokens, _tokens, _tokens),
)


def _other_header(data: bytes, rng: random.Random) -> bytes:
    """Change what a safetensors file says of itself, whole and without a checksum, as another program may."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        (entry, text), *_ = header["__metadata__"].items()
        about = json.loads(text)
        about.pop("sha256", None)
        part = rng.choice((header, about))
        _change(part, rng)
        header["__metadata__"] = {entry: json.dumps(about) if rng.random() < 0.95 else "[]"}
        written = json.dumps(header).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _flip(data, b"", rng)
    body = bytearray(data[8 + length :])
    if rng.random() < 0.3 and len(body) >= 8:
        where = 8 * rng.randrange(len(body) // 8)
        odd = rng.choice((math.nan, math.inf, 1e308, -1.0, 0.0, -1, 2**62, 130, 7))
        body[where : where + 8] = np.array(odd).tobytes()
    return len(written).to_bytes(8, "little") + written + bytes(body)


_ODD = (
    *(None, True, -1, 0, 1, 3, 10**5, 10**9, 2**63, 10**30, 1e308, math.nan),
    *("", "x", "NaN", "cvae", [], {}, [1], [[]], [10**6] * 3),
)


def _change(value: Any, rng: random.Random) -> None:
    """Change one entry somewhere within JSON data."""
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
    if not keys:
        return
    key, way = rng.choice(keys), rng.random()
    if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.7:
        _change(value[key], rng)
    elif way < 0.15:
        del value[key]
    elif way < 0.25 and isinstance(value, dict):
        value[rng.choice(("x", "structures/positions", "", "é"))] = value.pop(key)
    elif way < 0.35 and isinstance(value, list):
        value.append(value[key])
    else:
        value[key] = rng.choice(_ODD)
