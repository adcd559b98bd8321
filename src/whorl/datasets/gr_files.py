"""Reader of measured pair distribution functions: ``.gr`` files of PDFgetX3, xPDFsuite and PDFgetN."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from whorl.datasets.entries import read_text
from whorl.errors import InputError, shortened

_FEWEST = 20  # points
_LARGEST_Q = 100.0  # 1/Å; no instrument measures that far, so larger numbers have another unit
_SETTING = re.compile(r"^[#\s]*(\w+)\s*=\s*(.*?)\s*$")


@dataclass(frozen=True, kw_only=True)
class MeasuredPDF:
    """A measured G(r).

    Attributes:
        r: Distances in Å, increasing, shape (n,).
        g: G(r) in 1/Å², shape (n,).
        q_max: Largest scattering vector in 1/Å that was used; None where the file does not state it.
        scattering: ``"xray"`` or ``"neutron"``.
        composition: As the file states it; empty where it does not.
        doubts: Remarks about the file.
    """

    r: Float[np.ndarray, "n"]
    g: Float[np.ndarray, "n"]
    q_max: float | None
    scattering: str
    composition: str
    doubts: tuple[str, ...]

    def at(self, r: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """Return G at other distances, interpolated.

        Raises:
            InputError: Some are beyond the measured range.
        """
        span = (
            f"G(r) is measured from {self.r[0]:g} to {self.r[-1]:g} Å, but needed from {r[0]:g} to "
            f"{r[-1]:g} Å"
        )
        if r[0] < self.r[0] - 1e-6:
            raise InputError(f"{span}. Choose a larger r_min in a file of settings (--representation).")
        if r[-1] > self.r[-1] + 1e-6:
            raise InputError(
                f"{span} (beyond r_max by four times the widest broadening). Choose a smaller r_max, or "
                "less broadening, in a file of settings (--representation); or, if its distances are in nm, "
                "multiply them by 10 and G by 0.01."
            )
        return np.interp(r, self.r, self.g)


def read_gr(path: Path) -> MeasuredPDF:
    """Read a measured G(r): two or more columns, r and G first, after a header.

    The header's ``qmax``, ``mode`` (or ``stype``) and ``composition`` are used; r in nm is converted where
    the line of labels says so.

    Raises:
        InputError: No such file, or it holds no increasing distances with finite values.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except InputError as error:
        raise InputError(f"{path}: {error}.") from None
    header, rows = _divide(path, lines)
    table = np.array(rows)
    if len(table) < _FEWEST:
        raise InputError(f"{path}: has {len(table)} rows of numbers, expected {_FEWEST} or more: r and G(r).")
    r, g = table.T
    doubts = []
    labels = " ".join(line for line in header if line.lstrip("# ").startswith("L"))
    if re.search(r"\(\s*nm", labels):
        r, g = 10.0 * r, g / 100.0
        doubts.append("its distances are in nm, converted to Å")
    _check(path, r)
    stated = {
        match[1].lower(): match[2] for match in (_SETTING.match(line) for line in header) if match is not None
    }
    q_max = _number(stated.get("qmax"))
    if q_max is None:
        problem = (
            f"has the qmax '{shortened(stated['qmax'], 20)}', expected a number of 1/Å up to {_LARGEST_Q:g}"
            if stated.get("qmax")
            else "states no qmax"
        )
        doubts.append(f"{problem}, so no termination ripples are computed (setting q_max of a pdf)")
    mode = (stated.get("mode") or stated.get("stype") or "").lower()
    if mode and mode[0] not in "xn":
        doubts.append(f"has the mode '{shortened(mode, 20)}', expected xray or neutron")
    if not mode or mode[0] not in "xn":
        doubts.append("does not state the radiation, X-rays are assumed (setting scattering of a pdf)")
    return MeasuredPDF(
        r=r,
        g=g,
        q_max=q_max,
        scattering="neutron" if mode.startswith("n") else "xray",
        composition=stated.get("composition", ""),
        doubts=tuple(doubts),
    )


def _divide(path: Path, lines: Sequence[str]) -> tuple[list[str], list[tuple[float, float]]]:
    """Return the lines of the header, and the first two numbers of each line of data."""
    labels = [number for number, line in enumerate(lines) if line.lstrip().startswith("#L")]
    first = labels[-1] + 1 if labels else next((n for n, line in enumerate(lines) if _numbers(line)), 0)
    rows = []
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        numbers = _numbers(line)
        if numbers is None or not np.isfinite(numbers).all():
            raise InputError(
                f"{path}, line {number}: got '{shortened(line, 40)}', expected finite numbers, r and G(r), "
                "with decimal points."
            )
        rows.append(numbers)
    return list(lines[:first]), rows


def _numbers(line: str) -> tuple[float, float] | None:
    # Commas between numbers, not within: 0,01 is no pair.
    words = [word.rstrip(",") for word in line.split()] if len(line.split()) > 1 else line.strip().split(",")
    try:
        return float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 1.0 < value <= _LARGEST_Q else None


def _check(path: Path, r: Float[np.ndarray, "n"]) -> None:
    if r[0] < 0:
        raise InputError(f"{path}: has the distance {r[0]:g} Å, expected none below 0.")
    steps = np.diff(r)
    if not (steps > 0).all():
        raise InputError(f"{path}: distances must increase, but {r[int(steps.argmin()) + 1]:g} Å does not.")
    if r[-1] < 4.0:
        raise InputError(
            f"{path}: ends at {r[-1]:g} Å, expected at least 4 Å. If its distances are in nm, multiply "
            "them by 10 and G by 0.01."
        )
    if steps.max() > 0.2:
        raise InputError(
            f"{path}: its points are {steps.max():g} Å apart, expected at most 0.2 Å: peaks fall between."
        )
