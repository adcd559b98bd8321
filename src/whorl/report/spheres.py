"""Pictures of structures: shaded spheres and bonds with hidden surfaces, depth cue and outlines.

Every pixel looks along one ray. Spheres and cylinders have closed-form hits with it, the nearest hit is kept.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whorl.structures.batch import StructureBatch

if TYPE_CHECKING:
    from PIL import Image as PILImage

Array = NDArray[np.floating]

_LIGHT = np.array([-0.45, 0.60, 0.66])
_BALL = 0.58  # ball radius over covalent radius
_STICK = 0.17  # Å
_EDGE = 0.05  # Å, radius of the lines of a cell
_BOND = 1.2  # bonded when nearer than this times the sum of covalent radii
_FACE = 1e-3  # part of a cell by which an atom upon its face may lie outside
_FINER = 2  # rendered this many times finer, then averaged: smooth edges
_SMALL = 0.45  # of the radius of balls: that of balls with arrows
_THIN = 0.07  # Å, the same of sticks
_SHAFT, _HEAD = 0.13, 0.34  # Å, radii of arrows
_ARROW = np.array([0.84, 0.30, 0.05])
_SMALLEST = 7.0  # Å: a picture never shows less than this, so that a dimer does not fill it


def render_structure(
    structure: StructureBatch,
    *,
    pixels: int = 260,
    seen_as: StructureBatch | None = None,
    arrows: Float[Tensor, "n 3"] | None = None,
) -> bytes:
    """Return a PNG of one structure.

    The viewpoint follows from the structure: principal axes of the atoms, the longest across, the second
    upwards, the shortest (tilted a little) towards the viewer; structures with a cell are seen along its
    third vector, tilted likewise, with its edges drawn. Atoms have the same radius in Å in every picture;
    the frame fits the structure.

    Args:
        structure: A batch of one.
        pixels: Width and height.
        seen_as: Take the viewpoint from this structure instead, so that two can be compared.
        arrows: Drawn from the atoms, in Å; the balls are small then.
    """
    from PIL import Image

    if not len(structure.atomic_numbers) or not bool(torch.isfinite(structure.positions).all()):
        return _png(Image.new("RGB", (pixels, pixels), "white"))
    scene = _Scene.of(structure, seen_as, None if arrows is None else arrows.double().numpy())
    image = Image.fromarray(_shade(scene, pixels * _FINER))
    image = image.resize((pixels, pixels), Image.Resampling.LANCZOS)
    return _png(image)


def _png(image: PILImage.Image) -> bytes:
    """Return a PNG of 96 colours: enough for a few elements and their shades, and a third of the size."""
    from PIL.Image import Dither

    buffer = io.BytesIO()
    image.quantize(96, dither=Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What is to be seen: x to the right, y up, z towards the viewer; all in Å, centred in the frame."""

    centres: Array  # (n, 3)
    radii: Array  # (n,)
    colors: Array  # (n, 3)
    sticks: list[tuple[Array, Array, float, Array]]  # from, to, radius, colour
    extent: float  # half the width of the frame

    @classmethod
    def of(
        cls,
        structure: StructureBatch,
        seen_as: StructureBatch | None = None,
        arrows: Array | None = None,
    ) -> _Scene:
        from ase.data import covalent_radii

        numbers = structure.atomic_numbers.numpy()
        positions = structure.positions.detach().double().numpy()
        cell = structure.cells[0].double().numpy()
        periodic = bool(structure.pbc.any()) and abs(np.linalg.det(cell)) > 1e-6
        corners = np.zeros((0, 3))
        if periodic:
            fractional = np.linalg.solve(cell.T, positions.T).T
            inside = np.where(structure.pbc[0].numpy(), (fractional + _FACE) % 1.0 - _FACE, fractional)
            positions = inside @ cell
            corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ cell
        other = structure if seen_as is None else seen_as
        view = _tilt() @ (
            _along_cell(other.cells[0].double().numpy())
            if periodic
            else _principal_axes(other.positions.detach().double().numpy())
        )
        radii = _BALL * covalent_radii[numbers] * (1.0 if arrows is None else _SMALL)
        tips = positions[:0] if arrows is None else positions + arrows
        points = np.vstack([positions, corners, tips]) @ view.T
        pad = radii.max() if len(radii) else 0.0
        low, high = points[:, :2].min(0) - pad, points[:, :2].max(0) + pad
        middle = np.append((low + high) / 2, points[:, 2].mean())
        centres, corners = positions @ view.T - middle, corners @ view.T - middle
        colors = element_colors(numbers)
        sticks = _bonds(centres, covalent_radii[numbers], colors, _STICK if arrows is None else _THIN)
        sticks += _edges(corners)
        if arrows is not None:
            for start, vector in zip(centres, arrows @ view.T, strict=True):
                sticks += _arrow(start, vector)
        extent = max(_SMALLEST / 2, 0.53 * float((high - low).max()))
        return cls(centres=centres, radii=radii, colors=colors, sticks=sticks, extent=extent)


def element_colors(numbers: NDArray[np.int64]) -> Array:
    """Return the colours of the elements, rows of red, green, blue in 0 … 1, shape (n, 3).

    They are the ones chemists know from Jmol, with near-white metals made darker so that they show on white.
    Jmol's end at meitnerium (109), and heavier elements have its colour.
    """
    from ase.data.colors import jmol_colors

    table = np.asarray(jmol_colors, dtype=float)
    colors = table[np.minimum(numbers, len(table) - 1)]
    brightness = colors @ np.array([0.30, 0.59, 0.11])
    return colors * np.where(brightness > 0.72, 0.72 / np.maximum(brightness, 1e-9), 1.0)[:, None]


def _principal_axes(positions: Array) -> Array:
    """Return rotation rows: longest axis, second, shortest; their signs follow the skewness."""
    centred = positions - positions.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors.T[::-1].copy()
    skew = ((centred @ axes.T) ** 3).sum(0)
    axes[skew < 0] *= -1
    if np.linalg.det(axes) < 0:
        axes[2] *= -1
    return axes


def _along_cell(cell: Array) -> Array:
    """Return rotation rows: first lattice vector to the right, third as near to the viewer as can be."""
    across = cell[0] / np.linalg.norm(cell[0])
    towards = np.cross(cell[0], cell[1])
    towards *= np.sign(towards @ cell[2]) / np.linalg.norm(towards)
    return np.stack([across, np.cross(towards, across), towards])


def _tilt(about_x: float = 0.38, about_y: float = -0.30) -> Array:
    """Return a small rotation (radians) that shows depth in flat structures."""
    (cx, sx), (cy, sy) = (np.cos(about_x), np.sin(about_x)), (np.cos(about_y), np.sin(about_y))
    return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def _bonds(
    centres: Array, covalent: Array, colors: Array, radius: float
) -> list[tuple[Array, Array, float, Array]]:
    """Return two half sticks for each bond, in the colours of their atoms."""
    sticks = []
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    near = np.triu(distance < _BOND * (covalent[:, None] + covalent[None]), 1)
    for i, j in zip(*np.nonzero(near), strict=True):
        middle = (centres[i] + centres[j]) / 2
        sticks += [
            (centres[i], middle, radius, 0.9 * colors[i]),
            (middle, centres[j], radius, 0.9 * colors[j]),
        ]
    return sticks


def _edges(corners: Array) -> list[tuple[Array, Array, float, Array]]:
    """Return the twelve edges of a cell from its eight corners (third index fastest)."""
    grey = np.full(3, 0.55)
    pairs = [(a, a | bit) for a in range(len(corners)) for bit in (1, 2, 4) if not a & bit]
    return [(corners[a], corners[b], _EDGE, grey) for a, b in pairs]


def _arrow(start: Array, vector: Array) -> list[tuple[Array, Array, float, Array]]:
    """Return the shaft of an arrow, and slices of the cone at its end; nothing for one shorter than these."""
    length = float(np.linalg.norm(vector))
    if length < _SHAFT:
        return []
    head = min(2.2 * _HEAD, 0.7 * length)
    places = np.linspace(1 - head / length, 1, 13)[:, None] * vector + start
    radii = min(_HEAD, head / 2) * np.linspace(1, 0.08, 12)
    cone = list(zip(places[:-1], places[1:], radii.tolist(), [_ARROW] * 12, strict=True))
    return [(start, places[0], _SHAFT, _ARROW), *cone]


class _Canvas:
    """Nearest hit of every pixel's ray: depth, surface normal and colour."""

    def __init__(self, size: int, extent: float) -> None:
        self.size, self.extent = size, extent
        self.step = 2 * extent / size
        self.depth = np.full((size, size), -np.inf, dtype=np.float32)
        self.normal = np.zeros((size, size, 3), dtype=np.float32)
        self.color = np.ones((size, size, 3), dtype=np.float32)

    def window(self, low: Array, high: Array) -> tuple[tuple[slice, slice], Array, Array] | None:
        """Return the pixels of a rectangle in Å, and the coordinates of their centres; None when outside."""
        first_x, last_x = ((v + self.extent) / self.step for v in (low[0], high[0]))
        first_y, last_y = ((self.extent - v) / self.step for v in (high[1], low[1]))
        x0, x1 = max(0, int(first_x) - 1), min(self.size, int(last_x) + 2)
        y0, y1 = max(0, int(first_y) - 1), min(self.size, int(last_y) + 2)
        if x0 >= x1 or y0 >= y1:
            return None
        x = (np.arange(x0, x1) + 0.5) * self.step - self.extent
        y = self.extent - (np.arange(y0, y1) + 0.5) * self.step
        return (slice(y0, y1), slice(x0, x1)), x[None, :], y[:, None]

    def put(
        self, where: tuple[slice, slice], hit: NDArray[np.bool_], depth: Array, normal: Array, color: Array
    ) -> None:
        """Keep what lies in front of what is there."""
        nearer = hit & (depth > self.depth[where])
        self.depth[where][nearer] = depth[nearer]
        self.normal[where][nearer] = normal[nearer]
        self.color[where][nearer] = color

    def sphere(self, centre: Array, radius: float, color: Array) -> None:
        """Add a sphere: |p − c| = r."""
        if (window := self.window(centre[:2] - radius, centre[:2] + radius)) is None:
            return
        where, x, y = window
        dx, dy = np.broadcast_arrays(x - centre[0], y - centre[1])
        square = radius**2 - dx**2 - dy**2
        height = np.sqrt(np.maximum(square, 0))
        self.put(where, square > 0, centre[2] + height, np.stack([dx, dy, height], -1) / radius, color)

    def stick(self, start: Array, end: Array, radius: float, color: Array) -> None:
        r"""Add a cylinder: the part of p − a across the axis u has length r, a quadratic equation in z."""
        axis = end - start
        length = float(np.linalg.norm(axis))
        across = 1 - (axis[2] / length) ** 2 if length > 0 else 0.0
        low, high = np.minimum(start, end)[:2] - radius, np.maximum(start, end)[:2] + radius
        if across < 1e-6 or (window := self.window(low, high)) is None:
            return  # seen end on, behind its ball
        u = axis / length
        where, x, y = window
        dx, dy = np.broadcast_arrays(x - start[0], y - start[1])
        along = dx * u[0] + dy * u[1]
        half = u[2] * along
        square = half**2 - across * (dx**2 + dy**2 - along**2 - radius**2)
        height = (half + np.sqrt(np.maximum(square, 0))) / across
        place = along + height * u[2]
        normal = (np.stack([dx, dy, height], -1) - place[..., None] * u) / radius
        hit = (square > 0) & (place >= 0) & (place <= length)
        self.put(where, hit, start[2] + height, normal, color)


def _shade(scene: _Scene, size: int) -> NDArray[np.uint8]:
    """Return the picture on white, shape (size, size, 3)."""
    from scipy.ndimage import gaussian_filter

    canvas = _Canvas(size, scene.extent)
    for centre, radius, color in zip(scene.centres, scene.radii, scene.colors, strict=True):
        canvas.sphere(centre, float(radius), color)
    for start, end, thickness, color in scene.sticks:
        canvas.stick(start, end, thickness, color)
    seen = np.isfinite(canvas.depth)
    if not seen.any():
        return np.full((size, size, 3), 255, dtype=np.uint8)
    normal, color, depth = canvas.normal[seen], canvas.color[seen], canvas.depth[seen]
    light = _LIGHT / np.linalg.norm(_LIGHT)
    halfway = light + np.array([0.0, 0.0, 1.0])
    halfway /= np.linalg.norm(halfway)
    brightness = 0.42 + 0.68 * np.maximum(normal @ light, 0)
    # What lies behind something near it is darkened around the outline of that (unsharp mask of the depth).
    near, far = depth.max(), depth.min()
    coarse = np.where(seen, canvas.depth, far - 1.0)[::_FINER, ::_FINER]
    blurred = gaussian_filter(coarse, 0.28 / canvas.step / _FINER, truncate=2.5)
    blurred = blurred.repeat(_FINER, 0).repeat(_FINER, 1)[:size, :size][seen]
    brightness *= 1 - 0.40 * np.clip((blurred - depth) / 1.2, 0, 1)
    outline = np.clip(normal[:, 2] / 0.32, 0, 1) ** 0.7
    shine = 0.42 * np.maximum(normal @ halfway, 0) ** 45
    surface = (color * brightness[:, None] + shine[:, None]) * (0.45 + 0.55 * outline)[:, None]
    # The back fades into the paper.
    fade = 0.42 * np.clip((near - depth) / max(near - far, 4.0), 0, 1)[:, None] ** 1.2
    picture = np.full((size, size, 3), 255, dtype=np.uint8)
    picture[seen] = (255 * np.clip(surface * (1 - fade) + fade, 0, 1)).astype(np.uint8)
    return picture
