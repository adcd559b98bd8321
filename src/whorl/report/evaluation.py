"""Page of a set of evaluated structures."""

from __future__ import annotations

from pathlib import Path


def evaluation_page(folder: Path | str) -> Path:
    """Write the page of a folder of ``whorl evaluate STRUCTURES``: one HTML file that needs no network.

    It reads ``metrics.json`` and ``structures.csv``, and where they are there ``phase_diagrams.json``,
    ``relaxed.extxyz`` and ``generated.extxyz`` (whose ``row`` in the info, if there is one, is the row of
    ``structures.csv``; otherwise both are in the same order).

    Args:
        folder: That the command wrote.

    Returns:
        The page, ``report.html`` in the folder.

    Raises:
        InputError: The folder has no readable ``metrics.json`` or ``structures.csv``.
    """
    raise NotImplementedError
