"""A picture of one CrysTens tensor: its layers side by side, rows and blocks named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.files import atomic_path
from whorl.report.figures import _LEGIBLE, INK
from whorl.representations.crystens import HEADER, LAYERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = (".png", ".svg")

_ROW_NAMES = dict(enumerate(("Z", "x", "y", "z", "a", "b", "c", "α", "β", "γ", "space group")))
_GROUPS = {2: "x, y, z", 5: "a, b, c", 8: "α, β, γ", 10: "space group"}  # by the row in their middle
_FIRST = {"number": ("Z",) * LAYERS, "periodic": ("Z", "period", "block", "place")}  # row 0 of each layer
_BLOCKS = ("distance of atoms i and j", "Δx = x$_j$ − x$_i$", "Δy = y$_j$ − y$_i$", "Δz = z$_j$ − z$_i$")
_OF_DESCRIPTORS = "of atom j less that of atom i"
_SIDE = 3.25  # inches of one layer
_LEFT, _BELOW, _ABOVE, _GAP = 0.95, 0.42, 1.15, 0.09  # inches beside the layers
_LINE = 0.115  # inches that one name needs


def save_crystens_picture(
    tensor: Float[Tensor, "H W C"],
    path: Path | str,
    *,
    title: str = "",
    n_atoms: int | None = None,
    elements: str = "number",
    descriptors: Sequence[str] = (),
) -> None:
    """Draw a tensor as in figures 1 and 2 of Alverson et al. 2024, all layers in the same colours.

    Colours go from 0 to 1; what lies below or above has the colour of the end, what is no number is grey.

    Args:
        tensor: Normalised, as :class:`whorl.representations.CrysTens` and generators give it.
        path: ``.png`` or ``.svg``.
        title: Heading, such as formula and space group.
        n_atoms: Where the atoms end is then marked; what lies beyond is padding.
        elements: As in :class:`whorl.representations.CrysTens`; it names row 0.
        descriptors: Likewise; each has a layer after the four.

    Raises:
        InputError: A tensor of another shape, another kind of file, or an unknown description of elements.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    side, width, layers = tensor.shape
    if side != width or side <= HEADER or layers != LAYERS + len(descriptors):
        raise InputError(
            f"CrysTens picture: got a tensor of shape {tuple(tensor.shape)}, expected (N + {HEADER}, "
            f"N + {HEADER}, {LAYERS + len(descriptors)}) for N atoms."
        )
    if path.suffix.lower() not in PICTURES:
        raise InputError(
            f"{path}: a picture is {' or '.join(PICTURES)}, got '{path.suffix}'. Give such a name."
        )
    if elements not in _FIRST:
        raise unknown_option("description of elements", elements, _FIRST)
    room = side - HEADER
    heads = [*_FIRST[elements], *(name.replace("_", " ") for name in descriptors)]
    blocks = [*_BLOCKS, *(_OF_DESCRIPTORS for _ in descriptors)]
    n_atoms = room if n_atoms is None else min(n_atoms, room)
    values = tensor.detach().double().cpu().numpy()
    colors = colormaps["viridis"].with_extremes(bad="#c9ced6")
    with rc_context(_LEGIBLE):
        figure = Figure(figsize=(_LEFT + layers * (_SIDE + _GAP) + 0.5, _BELOW + _SIDE + _ABOVE))
        FigureCanvasAgg(figure)
        across, up = figure.get_size_inches()
        height = _SIDE / up
        image: Any = None
        for layer in range(layers):
            left = _LEFT + layer * (_SIDE + _GAP)
            axes = figure.add_axes((left / across, _BELOW / up, _SIDE / across, height))
            image = axes.imshow(values[:, :, layer], vmin=0, vmax=1, cmap=colors, interpolation="nearest")
            rows = {**(_ROW_NAMES if layer < LAYERS else {}), 0: heads[layer]}
            axes.set_xlabel(f"layer {layer + 1}: {blocks[layer]}", fontsize=9.5, labelpad=6)
            _name_parts(axes, rows, n_atoms=n_atoms, room=room, leftmost=layer == 0)
        bar = figure.add_axes(((across - 0.46) / across, _BELOW / up, 0.11 / across, height))
        figure.colorbar(image, cax=bar, ticks=[0, 0.5, 1])
        bar.tick_params(labelsize=8.5, length=2, pad=2)
        bar.set_title("value", fontsize=8.5, fontweight="normal", loc="center")
        if title:
            place = {"x": _LEFT / across, "y": 1 - 0.1 / up}
            figure.text(**place, s=title, fontsize=13, fontweight="bold", color=INK, va="top")
        plain = {"Date": None, "Creator": None} if path.suffix.lower() == ".svg" else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=170, metadata=plain)


def _name_parts(axes: Axes, rows: Mapping[int, str], *, n_atoms: int, room: int, leftmost: bool) -> None:
    """Write the names of rows and columns and the numbers of atoms, and draw where they meet."""
    roomy = _SIDE / (HEADER + room) >= _LINE
    names = rows if roomy or len(rows) == 1 else {0: rows[0], **_GROUPS}
    atoms = range(n_atoms) if roomy else sorted({0, n_atoms - 1} if n_atoms else ())
    ticks = {**names, **{HEADER + i: str(i + 1) for i in atoms}}
    axes.xaxis.set_ticks_position("top")
    axes.tick_params(length=0, pad=2.5, labelsize=8)
    axes.set_xticks([*ticks], [*ticks.values()])
    for label in axes.get_xticklabels()[: len(names)]:
        label.set_rotation(90)
    if leftmost:
        axes.set_yticks([*ticks], [*ticks.values()])
    else:
        axes.set_yticks([])
    axes.xaxis.set_label_position("bottom")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for draw in (axes.axhline, axes.axvline):
        draw(HEADER - 1, color="white", linewidth=1.2)
        if n_atoms < room:
            draw(HEADER - 0.5 + n_atoms, color="white", linewidth=0.8, linestyle=(0, (2, 2)))
