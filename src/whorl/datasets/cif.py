"""CIF text to structures, with pymatgen; what it only warns of is kept."""

from __future__ import annotations

import re
import warnings
from typing import Any

from whorl.datasets.entries import WARNINGS, in_words
from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import from_pymatgen

# A text field between lines that begin with ';', a quoted word, a comment, a plain word.
_TOKEN = re.compile(
    r"^;.*?^;|'(?:[^'\n]|'(?=\S))*'|\"(?:[^\"\n]|\"(?=\S))*\"|#[^\n]*|\S+", re.MULTILINE | re.DOTALL
)


def read_cif(text: str) -> list[StructureBatch]:
    """Return each structure of a CIF as a batch of one, in the cell of the file.

    Whatever the parser doubts (atoms that the formula has and the sites lack, rounded coordinates …) stands
    in ``info["cif_warnings"]``.

    Raises:
        InputError: The text is no valid CIF, or a structure is disordered; the message is the reason alone.
    """
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = CifParser.from_str(text).parse_structures(primitive=False, on_error="raise")
        except Exception as error:  # the parser raises whatever a malformed file leads it to
            raise InputError(_loop_mismatch(text) or f"no valid CIF: {in_words(error)}") from None
    doubts = list(
        dict.fromkeys(" ".join(str(w.message).split()) for w in caught if issubclass(w.category, UserWarning))
    )
    if not found:
        raise InputError("no valid CIF: it holds no structure")
    batches = []
    for structure in found:
        try:
            batch = from_pymatgen(structure)
        except InputError as error:
            raise InputError(in_words(error)) from None
        batches.append(batch.replace(info=({**batch.info[0], WARNINGS: doubts},)) if doubts else batch)
    return batches


def _loop_mismatch(text: str) -> str | None:
    """Name the first loop_ whose number of values is no multiple of its number of columns."""
    tokens = [token for token in _TOKEN.findall(text) if not token.startswith("#")]
    position = 0
    while position < len(tokens):
        if tokens[position].lower() != "loop_":
            position += 1
            continue
        columns = _run(tokens, position + 1, names=True)
        position += 1 + len(columns)
        values = len(_run(tokens, position, names=False))
        position += values
        if columns and values % len(columns):
            return (
                f"no valid CIF: a loop_ of {len(columns)} columns ({', '.join(columns)}) has {values} values"
            )
    return None


def _run(tokens: list[str], start: int, *, names: bool) -> list[str]:
    """Return the tokens from ``start`` on that are names of columns, or that are values."""
    run: list[Any] = []
    for token in tokens[start:]:
        is_name = token.startswith("_")
        if is_name != names or token.lower().startswith(("loop_", "data_", "save_")):
            break
        run.append(token)
    return run
