"""Structures for another program to compute, and its results: written to files and read from files.

Results belong to a structure by its id (``id`` of a frame, or the name of a file or folder), and are taken
only where they are of the very same atoms: another order, other lattice vectors of the same lattice,
a box around a cluster and a shift of all atoms are no difference.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.datasets.crystal_files import poscar_text
from whorl.datasets.entries import WARNINGS
from whorl.datasets.extxyz import write_extxyz
from whorl.datasets.readers import read_dataset
from whorl.datasets.store import Dataset
from whorl.errors import InputError, shortened
from whorl.files import write_text
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import minimum_image
from whorl.structures.composition import formula
from whorl.structures.convert import calculator_results, from_ase

TO_COMPUTE, RESULTS = "to_compute", "results"
"""Folders of the structures, and of results; those may be in either."""

_OURS = ("POSCAR", "structure.xyz")
_OTHERS = (  # formats of ASE that run no code when they are read
    *("vasp-xml", "vasp-out", "espresso-out", "aims-output", "gaussian-out", "orca-output", "nwchem-out"),
    *("abinit-out", "castep-castep", "gpaw-out", "qchem-out", "mopac-out"),
)
_SAME = 0.02  # Å: atoms of the same structure
_SAME_ENERGY = 1e-3  # eV


@dataclass(frozen=True, kw_only=True)
class Result:
    """What another program computed of a structure.

    Attributes:
        energy: Total energy in eV; NaN where it is not given.
        value: The property by its own name, likewise.
        forces: In eV/Å, in the order of the structure's atoms; NaN where they are not given.
        path: File.
        source: File and frame, for messages.
        doubts: What is odd about the frame.
    """

    energy: float
    value: float
    forces: Float[Tensor, "n 3"]
    path: Path
    source: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results that were put back, by the ids of the structures.

    Attributes:
        good: One for each structure that has one.
        refused: Why there is none of others, although something was put back.
        doubts: File or id, and what is odd about what is there.
    """

    good: Mapping[str, Result]
    refused: Mapping[str, str]
    doubts: Sequence[tuple[str, str]]


def write_to_compute(chosen: Dataset, folder: Path) -> None:
    """Write structures for another program.

    ``to_compute.extxyz`` has all of them; ``to_compute/<id>/`` each alone, as ``POSCAR`` if it is periodic,
    and otherwise as ``structure.xyz``. Folders of others are removed where nothing was added to them.

    Args:
        chosen: Structures whose ids may be names of folders.
        folder: Where to write.
    """
    assert chosen.structures is not None
    bare = chosen.structures.replace(info=())
    write_extxyz(
        bare, folder / f"{TO_COMPUTE}.extxyz", properties=chosen.properties, ids=chosen.ids, provenance={}
    )
    places = folder / TO_COMPUTE
    places.mkdir(exist_ok=True)
    (folder / RESULTS).mkdir(exist_ok=True)
    for old in places.iterdir():
        if old.is_dir() and old.name not in chosen.ids and {path.name for path in old.iterdir()} <= {*_OURS}:
            shutil.rmtree(old)
    for name, structure in zip(chosen.ids, bare, strict=True):
        place = places / name
        place.mkdir(exist_ok=True)
        if bool(structure.pbc.all()):
            write_text(place / "POSCAR", poscar_text(structure, notes={"id": name}))
        else:
            write_extxyz(structure, place / "structure.xyz", ids=[name])


def read_computed(chosen: Dataset, folder: Path, *, property: str) -> Results:
    """Read what was put back for structures that :func:`write_to_compute` wrote.

    Read are extxyz files, whose frames are named by ``id``, by the file or by its folder, and outputs of
    programs that ASE reads (OUTCAR, vasprun.xml, …), named by the file or its folder.

    Args:
        chosen: The structures.
        folder: Where they were written.
        property: A frame may have the property itself under this name.
    """
    assert chosen.structures is not None
    wanted = dict(zip(chosen.ids, chosen.structures.replace(info=()), strict=True))
    given: dict[str, list[Result]] = {}
    problems: dict[str, list[str]] = {}
    doubts: list[tuple[str, str]] = []
    for root in (folder / RESULTS, folder / TO_COMPUTE):
        for path in sorted(root.rglob("*")) if root.is_dir() else ():
            if not path.is_file() or path.name in _OURS or path.name.startswith("."):
                continue
            named = _named(path.relative_to(root), wanted)
            for source, frame in _frames(path, property):
                if isinstance(frame, str):
                    if named is not None:
                        problems.setdefault(named, []).append(f"{source}: {frame}")
                    else:
                        doubts.append((source, f"not read: {frame}"))
                    continue
                structure, found = frame
                own = str(structure.info[0].get("id", "")) if structure.info else ""
                name = own if own in wanted else named
                if name is None:
                    got = f"the id '{shortened(own)}', which is none of these" if own else "no id of these"
                    doubts.append((source, f"left out: it has {got} structures to compute"))
                    continue
                doubts += [(source, doubt) for doubt in found.doubts]
                order, reason = match(structure, wanted[name])
                if order is None:
                    problems.setdefault(name, []).append(f"{source}: {reason}")
                elif not np.isfinite(found.energy) and not np.isfinite(found.value):
                    problems.setdefault(name, []).append(f"{source}: it has no finite energy")
                else:
                    found = dataclasses.replace(found, forces=found.forces[order])
                    given.setdefault(name, []).append(found)
    good, refused = {}, {}
    for name in wanted:
        if name not in given:
            if name in problems:
                refused[name] = problems[name][0]
            continue
        results = sorted(given[name], key=lambda one: not bool(one.forces.isfinite().all()))
        first = results[0]
        for other in results[1:]:
            apart = abs(first.energy - other.energy)
            if apart > _SAME_ENERGY or abs(first.value - other.value) > _SAME_ENERGY:
                refused[name] = (
                    f"two results that differ: {_number(first)} in {first.source}, {_number(other)} in "
                    f"{other.source}"
                )
            elif {first.path.parent.name, other.path.parent.name} != {name} or other.path == first.path:
                doubts.append((name, f"there are two results: that in {first.source} is used"))
        if name not in refused:
            good[name] = first
    return Results(good=good, refused=refused, doubts=doubts)


def _number(of: Result) -> str:
    return f"{of.energy if np.isfinite(of.energy) else of.value:.6g}"


def _named(path: Path, wanted: Mapping[str, Any]) -> str | None:
    """Return the id that a file or one of its folders is called by."""
    words = [*reversed(path.parts[:-1]), path.name.split(".")[0]]
    return next((word for word in words if word in wanted), None)


def _frames(path: Path, property: str) -> Iterator[tuple[str, tuple[StructureBatch, Result] | str]]:
    """Yield each structure of a file with its result, or why there is none; skip files of other kinds."""
    from ase.io import iread
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        kind = filetype(str(path))
    except (UnknownFileTypeError, OSError, ValueError):
        return
    if kind in ("extxyz", "xyz"):
        try:
            data = read_dataset(path, property=None, format="extxyz")
        except InputError as error:
            yield str(path), str(error)
            return
        for entry in data.skipped:
            yield entry.source, entry.reason
        assert data.structures is not None
        for row, structure in enumerate(data.structures):
            said = structure.info[0].get(WARNINGS, ()) if structure.info else ()
            doubts = (said,) if isinstance(said, str) else tuple(map(str, said))
            forces, source = data.select([row]).forces, f"{path}@{row}"
            yield source, _result(structure, forces, property, path, source, doubts)
        return
    if kind not in _OTHERS:
        return
    try:
        for number, atoms in enumerate(iread(str(path), index=":", format=kind)):
            structure, source = from_ase([atoms]), f"{path}@{number}"
            forces = Dataset(structures=structure, ids=("",)).forces
            yield source, _result(structure, forces, property, path, source)
    except Exception as error:  # whatever a parser says of a file that is cut off
        yield str(path), f"ASE cannot read it ({shortened(error, 120)})"


def _result(
    structure: StructureBatch,
    forces: Tensor | None,
    property: str,
    path: Path,
    source: str,
    doubts: tuple[str, ...] = (),
) -> tuple[StructureBatch, Result]:
    (results,) = calculator_results(structure)
    info = structure.info[0] if structure.info else {}
    energy = results.get("energy", info.get("energy"))
    none = torch.full_like(structure.positions, torch.nan, dtype=torch.float64)
    return structure, Result(
        energy=_scalar(energy),
        value=_scalar(info.get(property)) if property != "energy" else _scalar(energy),
        forces=none if forces is None else forces,
        path=path,
        source=source,
        doubts=doubts,
    )


def _scalar(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def match(given: StructureBatch, expected: StructureBatch) -> tuple[Int[Tensor, "n"] | None, str]:
    """Find the atom of one structure that each atom of another is, if they are the same atoms.

    Args:
        given: A batch of one; a cluster may be in a box.
        expected: A batch of one.

    Returns:
        For each atom of ``expected`` that of ``given``; or None, and what is different.
    """
    from scipy.optimize import linear_sum_assignment

    numbers, others = expected.atomic_numbers, given.atomic_numbers
    if numbers.sort().values.tolist() != others.sort().values.tolist():
        return None, f"other atoms: {formula(given)} instead of {formula(expected)}"
    if bool(expected.pbc.any()) and not _same_lattice(given, expected):
        return None, "another cell than that to compute"
    x, y = expected.positions.double(), given.positions.double()
    lattice = given.to(dtype=torch.float64)
    if not bool(torch.linalg.det(lattice.cells).abs() > 1e-6):
        lattice = lattice.replace(pbc=torch.zeros_like(lattice.pbc))
    apart = numbers[:, None] != others[None]
    best, order = float("inf"), torch.arange(len(x))
    kinds, counts = numbers.unique(return_counts=True)
    fewest = kinds[counts.argmin()]
    anchor = int(torch.nonzero(numbers == fewest)[0])
    shifts = [torch.zeros(3, dtype=torch.float64)]
    shifts += [y[j] - x[anchor] for j in torch.nonzero(others == fewest).flatten().tolist()]
    for shift in shifts:
        vectors = (x[:, None] + shift - y[None]).reshape(-1, 3)
        index = torch.zeros(len(vectors), dtype=torch.int64)
        distances = minimum_image(vectors, lattice, index).norm(dim=1).reshape(len(x), len(y))
        cost = torch.where(apart, 1e6, distances.square())
        rows, columns = linear_sum_assignment(cost.numpy())
        farthest = float(distances[rows, columns].max()) if len(x) else 0.0
        if farthest < best:
            best, order = farthest, torch.from_numpy(columns)
        if best <= _SAME:
            return order, ""
    return None, (
        f"atoms up to {best:.2g} Å away from those to compute. Was it relaxed, or turned? Compute the "
        "structure as it is"
    )


def _same_lattice(given: StructureBatch, expected: StructureBatch) -> bool:
    """Whether periodic lattice vectors are the same, or for crystals those of the same lattice."""
    ours, theirs = expected.cells[0].double(), given.cells[0].double()
    if not bool(expected.pbc.all()):
        periodic = expected.pbc[0]
        return bool((ours - theirs)[periodic].abs().max() < _SAME)
    if not bool(torch.linalg.det(theirs).abs() > 1e-6):
        return False
    steps = theirs @ torch.linalg.inv(ours)
    return bool(
        ((steps.round() @ ours - theirs).abs().max() < _SAME)
        & ((torch.linalg.det(steps.round()).abs() - 1).abs() < 1e-6)
    )
