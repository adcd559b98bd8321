"""POSCAR reader based on ASE, with checks of what ASE would guess or ignore."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from ase.data import chemical_symbols

from whorl.datasets.entries import in_words, with_doubts
from whorl.errors import InputError, shortened
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import from_ase

_ELEMENTS = frozenset(chemical_symbols[1:])


def read_poscar(text: str) -> StructureBatch:
    """Return the structure of a POSCAR or CONTCAR file as a batch of one.

    Files of VASP 4 have no line of elements. They are read where the title is one symbol for each number of
    atoms and nothing else, and then doubted: whether a title names elements is not known.

    Raises:
        InputError: The text is no valid POSCAR; the message is the reason alone.
    """
    from ase.io.vasp import read_vasp, read_vasp_configuration

    lines, doubts = _with_elements(text.splitlines())
    last = _check_atoms(lines)
    try:
        try:
            atoms = read_vasp(StringIO("\n".join(lines) + "\n"))
        except Exception:
            # Velocities and the like come after the positions.
            atoms = read_vasp_configuration(StringIO("\n".join(lines[:last]) + "\n"))
            doubts.append(f"text after its positions was not understood ('{_first(lines[last:])}')")
        return with_doubts(from_ase(atoms), doubts)
    except Exception as error:  # ASE raises whatever a malformed file leads it to
        raise InputError(f"no valid POSCAR: {in_words(error)}") from None


def _first(lines: Sequence[str]) -> str:
    return shortened(next((line for line in lines if line.strip()), ""), 40)


def _words(line: str) -> list[str]:
    """Return the words of a line before a comment."""
    return line.split("!")[0].split()


def _with_elements(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines with one of elements as the sixth, and what is doubtful of it.

    Raises:
        InputError: The file is too short, or does not name its elements.
    """
    if len(lines) < 8:
        raise InputError(f"no valid POSCAR: it has {len(lines)} lines, expected at least 8")
    doubts: list[str] = []
    words = _words(lines[5])
    if words and all(word.isascii() and word.isdigit() for word in words):
        symbols = lines[0].split()
        if len(symbols) != len(words) or not _ELEMENTS.issuperset(symbols):
            raise InputError(
                "no valid POSCAR: it has no line of elements above the numbers of atoms, and its title "
                f"'{shortened(lines[0], 40)}' is not {len(words)} chemical symbols. Add the line"
            )
        doubts.append(f"it has no line of elements; {' '.join(symbols)} were taken from its title")
        return [*lines[:5], lines[0], *lines[5:]], doubts
    # VASP may write the names of potentials and a hash: Fe_pv/6a2f546d.
    symbols = [word.split("/")[0].split("_")[0] for word in words]
    unknown = next((symbol for symbol in symbols if symbol not in _ELEMENTS), None)
    if unknown is not None or not symbols:
        raise InputError(f"no valid POSCAR: line 6 is '{shortened(lines[5], 40)}', expected chemical symbols")
    counts = _words(lines[6])
    if len(counts) != len(symbols) or not all(word.isascii() and word.isdigit() for word in counts):
        raise InputError(
            f"no valid POSCAR: line 7 is '{shortened(lines[6], 40)}', expected {len(symbols)} numbers of "
            "atoms"
        )
    return [*lines[:5], " ".join(symbols), " ".join(counts), *lines[7:]], doubts


def _check_atoms(lines: Sequence[str]) -> int:
    """Compare the lines of positions with the numbers of atoms, and return where they end.

    Raises:
        InputError: There are fewer or more, or nothing says of which kind they are.
    """
    n_atoms = sum(int(word) if len(word) < 12 else 10**12 for word in lines[6].split())
    start = 7
    if start < len(lines) and lines[start].strip()[:1].lower() == "s":  # selective dynamics
        start += 1
    kind = lines[start].strip() if start < len(lines) else ""
    if not kind[:1].isalpha():
        raise InputError(f"no valid POSCAR: it says '{shortened(kind, 40)}', expected Direct or Cartesian")
    stop = start + 1 + n_atoms
    given = next(
        (at for at in range(start + 1, min(stop, len(lines))) if not _is_position(lines[at])),
        min(stop, len(lines)),
    )
    if given < stop:
        raise InputError(
            f"no valid POSCAR: it announces {n_atoms} atoms, but has {given - start - 1} positions"
        )
    if stop < len(lines) and _is_position(lines[stop]):
        raise InputError(f"no valid POSCAR: it announces {n_atoms} atoms, but has more positions")
    return stop


def _is_position(line: str) -> bool:
    words = line.split()[:3]
    try:
        return len([float(word) for word in words]) == 3
    except ValueError:
        return False
