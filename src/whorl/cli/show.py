"""``whorl show``: summary of a file of structures; pictures of CrysTens tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.cli.app import app
from whorl.cli.console import ConsoleMonitor, monitored, out, show_facts
from whorl.cli.options import INDEX
from whorl.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from whorl.representations import CrysTens
    from whorl.structures import StructureBatch

_MOST = 20  # structures listed
_STEP = 4  # room for atoms in a picture is a multiple of this


@app.command()
def show(
    file: Annotated[
        Path,
        typer.Argument(
            help="CIF, POSCAR, extxyz or another structure file, a data set, or CrysTens features.",
            show_default=False,
        ),
    ],
    crystens: Annotated[
        bool, typer.Option("--crystens", help="Also draw the four CrysTens layers of one structure.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Picture to write (.png or .svg).", show_default="./<file>-crystens.png"
        ),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(
            help="Index of the structure among the readable ones, from 0.",
            parser=INDEX,
            show_default="0 for a picture, else all",
        ),
    ] = None,
    max_atoms: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of atoms of the tensor; 52 as published.",
            show_default=f"number of atoms, rounded up to a multiple of {_STEP}",
        ),
    ] = None,
    pairwise: Annotated[
        str | None,
        typer.Option(help="Distances: fractional or cartesian.", show_default="fractional, as published"),
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(help="Elements: number or periodic.", show_default="number, as published"),
    ] = None,
) -> None:
    """List formula, atoms, space group and cell of the structures in a file; draw CrysTens tensors.

    `whorl show my.cif --crystens` writes my-crystens.png. Rows of a CrysTens feature file, real or generated,
    are decoded for the list and drawn as they are.
    """
    settings = {"max_atoms": max_atoms, "pairwise": pairwise, "elements": elements}
    chosen = {name: value for name, value in settings.items() if value is not None}
    if (chosen or output) and not crystens:
        what = ", ".join(["--" + name.replace("_", "-") for name in chosen] or ["--output"])
        raise InputError(f"{what} applies to the picture of a CrysTens: add --crystens.")
    with monitored() as monitor:
        items = _read(file, monitor)
        if items.tensors is not None and chosen:
            raise InputError(
                f"{file}: feature files contain their encoding settings; leave out "
                f"{', '.join('--' + name.replace('_', '-') for name in chosen)}."
            )
        if index is not None and not 0 <= index < len(items):
            raise InputError(
                f"--index {index}: {file} has {len(items)} readable structures, expected 0 to "
                f"{len(items) - 1}."
            )
        if not crystens:
            rows = range(min(len(items), _MOST)) if index is None else [index]
            _list(items, list(rows), whole=index is None)
            return
        row = index or 0
        path = output or Path(f"{_stem(file)}{f'-{row}' if len(items) > 1 else ''}-crystens.png")
        show_facts(_draw(items, row, path, chosen), width=12)
        out.print(str(path))


@dataclass(frozen=True)
class _Items:
    """Contents of a file: structures, or rows of features."""

    file: Path
    ids: tuple[str, ...]
    structures: StructureBatch | None = None
    tensors: Tensor | None = None
    codec: CrysTens | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def structure(self, row: int) -> tuple[StructureBatch | None, str]:
        """Return one structure, or None and the reason."""
        if self.structures is not None:
            from whorl.structures import find_problems

            structure = self.structures[row]
            reason = find_problems(structure).get(0, "")
            return (None, reason) if reason else (structure, "")
        assert self.codec is not None and self.tensors is not None
        decoded = self.codec.decode(self.tensors[row : row + 1])
        if not len(decoded.structures):
            return None, decoded.skipped[0]
        return decoded.refined().structures, ""


def _read(file: Path, monitor: ConsoleMonitor) -> _Items:
    """Read a file of any kind.

    Raises:
        InputError: The format is unknown, or there is no usable structure.
    """
    if file.suffix.lower() == ".safetensors":
        items = _read_store(file, monitor)
    else:
        from whorl.datasets import read_dataset

        dataset = read_dataset(file, property=None, progress=monitor.progress("reading"))
        if not len(dataset) and len(dataset.skipped) == 1:
            entry = dataset.skipped[0]
            raise InputError(f"{entry.source}: {entry.reason}.")
        for entry in dataset.skipped:
            monitor.skip(entry.source, entry.reason)
        for name, doubt in dataset.doubts:
            monitor.doubt(name, doubt)
        items = _Items(file, dataset.ids, structures=dataset.structures)
    if not len(items):
        hint = " (see the reasons above)" if monitor.skipped else ""
        raise InputError(f"{file}: contains no usable structure{hint}.")
    return items


def _read_store(file: Path, monitor: ConsoleMonitor) -> _Items:
    from whorl.datasets import load_dataset, load_features
    from whorl.representations import CrysTens, make_representation

    try:
        features = load_features(file)
    except InputError:
        dataset = load_dataset(file)
        if dataset.structures is None:
            raise InputError(f"{file}: contains no structures.") from None
        for name, doubt in dataset.doubts:
            monitor.doubt(name, doubt)
        return _Items(file, dataset.ids, structures=dataset.structures)
    kind = features.representation.get("kind")
    if kind != CrysTens.kind:
        raise InputError(
            f"{file}: contains features of '{kind}', expected '{CrysTens.kind}', which has a closed-form "
            "inverse. 'whorl data show' summarises the file."
        )
    codec = make_representation(features.representation)
    assert isinstance(codec, CrysTens)
    if tuple(features.features.shape[1:]) != codec.layout.shape:
        raise InputError(
            f"{file}: its rows have shape {tuple(features.features.shape[1:])}, expected "
            f"{codec.layout.shape}. Encode the structures again."
        )
    return _Items(file, features.ids, tensors=features.features, codec=codec)


def _stem(file: Path) -> str:
    """Return the file's name without suffixes of format and compression."""
    compressed = file.suffix.lower() in (".gz", ".bz2", ".xz")
    return Path(file.stem).stem if compressed else file.stem


def _draw(items: _Items, row: int, path: Path, chosen: dict[str, Any]) -> dict[str, str]:
    """Write the picture of one structure and return facts about it."""
    from whorl.report.crystens import save_crystens_picture
    from whorl.representations import CrysTens

    structure, reason = items.structure(row)
    if items.tensors is not None:
        assert items.codec is not None
        codec, tensor = items.codec, items.tensors[row]
    else:
        if structure is None:
            raise InputError(f"{items.file}: structure {items.ids[row]}: {reason}.")
        wanted = {"max_atoms": _STEP * math.ceil(int(structure.n_atoms[0]) / _STEP), **chosen}
        codec = CrysTens(**wanted)
        for why in codec.find_problems(structure).values():
            remedy = " Raise --max-atoms." if "max_atoms" in why else ""
            raise InputError(f"{items.file}: structure {items.ids[row]} {why}.{remedy}")
        from whorl.symmetry.detection import known_space_groups

        tensor = codec.encode(structure, known_space_groups(structure).tolist())[0]
    about = {"file": str(items.file), **({"structure": items.ids[row]} if len(items) > 1 else {})}
    if structure is None:
        about["formula"] = f"no crystal: {reason}"
    else:
        about |= _about(structure)
    about["tensor"] = f"{' × '.join(map(str, tensor.shape))} (at most {codec.max_atoms} atoms)"
    title = items.ids[row] if structure is None else f"{about['formula']}, {about['space group']}"
    n_atoms = None if structure is None else int(structure.n_atoms[0])
    save_crystens_picture(
        tensor, path, title=title, n_atoms=n_atoms, elements=codec.elements, descriptors=codec.descriptors
    )
    return about


def _about(structure: StructureBatch) -> dict[str, str]:
    from whorl.structures.cells import cell_parameters
    from whorl.structures.composition import formula
    from whorl.symmetry.detection import known_space_groups, space_group_symbol

    about = {"formula": formula(structure), "atoms": str(int(structure.n_atoms[0]))}
    number = known_space_groups(structure).tolist()[0]
    if not number:
        periodic = int(structure.pbc.sum())
        cell = f"periodic in {periodic} directions" if periodic else "none"
        return {**about, "space group": "–", "cell": cell}
    a, b, c, *angles = cell_parameters(structure.cells)[0].tolist()
    lengths = "  ".join(f"{value:.3f}" for value in (a, b, c))
    return {
        **about,
        "space group": f"{space_group_symbol(number)} ({number})",
        "cell": f"{lengths} Å  {'  '.join(f'{value:.2f}°' for value in angles)}",
    }


def _list(items: _Items, rows: list[int], *, whole: bool) -> None:
    """Write one line for each structure."""
    lines: list[tuple[str, ...]] = [("", "name", "formula", "atoms", "space group", "cell: a, b, c, α, β, γ")]
    for row in rows:
        structure, reason = items.structure(row)
        cells = (
            ("–", "", "", f"no crystal: {reason}") if structure is None else (*_about(structure).values(),)
        )
        lines.append((str(row), items.ids[row], *cells))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    for line in lines:
        padded = [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)]
        out.print("  ".join([*padded, line[-1]]).rstrip())
    if whole and len(items) > len(rows):
        out.print(f"and {len(items) - len(rows):,} more; --index shows any of them")
