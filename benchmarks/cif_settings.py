"""Reading CIF: every setting of the space groups, stated in every way, and special positions in few digits.

``python -m benchmarks.cif_settings`` writes how many are read right, refused and wrong, and how much faster
than pymatgen files are read; with a folder of CIF files, these.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import gemmi
import numpy as np
import torch

from whorl.datasets.cif import read_cif
from whorl.errors import InputError
from whorl.structures.cells import cell_parameters, cells_from_parameters
from whorl.symmetry.wyckoff import GRID, Site, find_sites

WAYS = ("operations listed", "name and number", "name alone", "Hall symbol alone")
DIGITS = (2, 3, 4)
_EDGE = 8.0  # Å
_LEAST = 1.0  # Å between images


def sweep_settings(groups: Sequence[gemmi.SpaceGroup]) -> dict[str, Counter[str]]:
    """Return, for each way to state a setting, how often it is right, refused and wrong."""
    found: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    for group in groups:
        turns, shifts = _operations(group)
        cell = _cell(turns)
        general = Site(np.zeros(3), np.eye(3, dtype=np.int64), len(turns))
        site, expected = _place(general, turns, shifts, cell, np.random.default_rng(0))
        for way in WAYS:
            text = _text(cell, _stated(group, way), [site], digits=6)
            found[way][_outcome(text, cell, expected, within=1e-5)] += 1
    return found


def sweep_special_positions(
    groups: Sequence[gemmi.SpaceGroup], *, digits: int, cut: bool, contents: bool, seed: int = 0
) -> Counter[str]:
    """Return how many special positions, written with so few digits, are right, refused and wrong.

    Args:
        groups: Settings.
        digits: After the point.
        cut: Whether further digits are cut off, not rounded.
        contents: Whether formula and number of formula units are stated too.
        seed: Draws the free coordinates.
    """
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    for group in groups:
        turns, shifts = _operations(group)
        cell = _cell(turns)
        for site in find_sites(turns, shifts):
            place, expected = _place(site, turns, shifts, cell, rng)
            scaled = place * 10**digits
            written = (np.floor(scaled + 1e-9) if cut else np.rint(scaled)) / 10**digits
            stated = _stated(group, "name alone")
            if contents:
                stated += f"_chemical_formula_sum Cu\n_cell_formula_units_Z {len(expected)}\n"
            text = _text(cell, stated, [written], digits=digits)
            found[_outcome(text, cell, expected, within=3 * 10.0**-digits)] += 1
    return found


def _place(
    site: Site, turns: np.ndarray, shifts: np.ndarray, cell: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a point of a site whose images are as far apart as atoms can be, and all of them."""
    vectors = cells_from_parameters(torch.tensor([cell], dtype=torch.float64))[0].numpy()
    apart = _LEAST
    while True:
        place = site.draw(rng)
        images = _orbit((turns @ place + shifts / GRID) % 1.0)
        gaps = images[0] - images[1:]
        distances = np.linalg.norm((gaps - np.rint(gaps)) @ vectors, axis=1)
        if len(images) == site.multiplicity and (distances > apart).all():
            return place, images
        apart *= 0.99  # there may be no such point


def _operations(group: gemmi.SpaceGroup) -> tuple[np.ndarray, np.ndarray]:
    operations = list(group.operations())
    turns = np.array([operation.rot for operation in operations]) // gemmi.Op.DEN
    return turns.astype(np.int64), np.array([operation.tran for operation in operations], dtype=np.int64)


def _cell(turns: np.ndarray) -> list[float]:
    """Return the parameters of a cell that has the symmetry of a group and no more."""
    start = np.array([[1.0, 0.11, 0.17], [0.11, 1.32, 0.07], [0.17, 0.07, 1.77]])
    metric = (turns.swapaxes(1, 2) @ start @ turns).mean(0) * _EDGE**2
    lengths = np.sqrt(np.diag(metric))
    cosines = metric / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))
    return [*lengths.tolist(), *angles.tolist()]


def _stated(group: gemmi.SpaceGroup, way: str) -> str:
    name = f"_space_group_name_H-M_alt '{group.xhm()}'\n"
    if way == "operations listed":
        triplets = "".join(f"'{operation.triplet()}'\n" for operation in group.operations())
        return f"loop_\n_space_group_symop_operation_xyz\n{triplets}"
    if way == "name and number":
        return f"{name}_space_group_IT_number {group.number}\n"
    return name if way == "name alone" else f"_space_group_name_Hall\n;{group.hall}\n;\n"


def _text(cell: Sequence[float], symmetry: str, places: Sequence[np.ndarray], *, digits: int) -> str:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    parameters = "".join(f"_cell_{name} {value:.6f}\n" for name, value in zip(names, cell, strict=True))
    columns = "".join(f"_atom_site_{name}\n" for name in ("label", "fract_x", "fract_y", "fract_z"))
    sites = "".join(f"Cu{i} {' '.join(f'{x:.{digits}f}' for x in place)}\n" for i, place in enumerate(places))
    return f"data_sweep\n{parameters}{symmetry}loop_\n{columns}{sites}"


def _orbit(images: np.ndarray) -> np.ndarray:
    gaps = images[:, None] - images
    same = (np.abs(gaps - np.rint(gaps)) < 1e-9).all(2)
    return images[same.argmax(1) == np.arange(len(images))]


def _outcome(text: str, cell: Sequence[float], expected: np.ndarray, *, within: float) -> str:
    (entry,) = read_cif(text)
    if entry.structure is None:
        return "refused"
    structure = entry.structure
    if np.abs(cell_parameters(structure.cells)[0].numpy() - cell).max() > 1e-4:
        return "wrong"
    fractional = structure.positions.numpy() @ np.linalg.inv(structure.cells[0].numpy())
    if len(fractional) != len(expected):
        return "wrong"
    gaps = expected[:, None] - fractional
    distances = np.abs(gaps - np.rint(gaps)).max(2)
    one_each = len(set(distances.argmin(1).tolist())) == len(expected)
    return "right" if one_each and distances.min(1).max() < within else "wrong"


def reading_times(texts: Sequence[str]) -> tuple[float, float]:
    """Return the seconds that pymatgen and whorl take to read texts."""
    from pymatgen.io.cif import CifParser

    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in texts:
            try:
                CifParser.from_str(text).parse_structures(primitive=False)
            except ValueError:
                continue
    middle = time.perf_counter()
    for text in texts:
        try:
            read_cif(text)
        except InputError:
            continue
    return middle - begin, time.perf_counter() - middle


def _texts(groups: Sequence[gemmi.SpaceGroup]) -> Iterator[str]:
    places = np.random.default_rng(1).random((4, 3))
    for group in groups:
        turns, _ = _operations(group)
        yield _text(_cell(turns), _stated(group, "operations listed"), list(places), digits=5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweeps; the exit code is 1 where anything is read wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="CIF files to time")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth setting")
    parser.add_argument("--quick", action="store_true", help="every 60th setting, to see that it runs")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.every = 60
    groups = list(gemmi.spacegroup_table())[:: chosen.every]
    outcomes: list[tuple[str, Counter[str]]] = list(sweep_settings(groups).items())
    for digits, cut, contents in product(DIGITS, (False, True), (False, True)):
        how = f"special positions, {digits} digits {'cut off' if cut else 'rounded'}"
        how += ", formula and Z" if contents else ""
        counts = sweep_special_positions(groups, digits=digits, cut=cut, contents=contents)
        outcomes.append((how, counts))
    for how, counts in outcomes:
        print(
            f"{how:<56} " + "  ".join(f"{counts[word]:5d} {word}" for word in ("right", "refused", "wrong"))
        )
    texts = list(_texts(groups))
    if chosen.folder:
        texts = [path.read_text(errors="replace") for path in sorted(chosen.folder.rglob("*.cif"))]
    slow, fast = reading_times(texts)
    print(f"{len(texts)} files: pymatgen takes {slow / fast:.1f} times as long")
    return int(any(counts["wrong"] for _, counts in outcomes))


if __name__ == "__main__":
    sys.exit(main())
