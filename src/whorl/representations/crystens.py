r"""CrysTens: a crystal as an image of four layers (Alverson et al., Digital Discovery 3, 62, 2024).

Of a crystal with A ≤ N atoms the tensor has shape (N + 12, N + 12, 4). Column 12 + i of the first twelve
rows, and row 12 + i of the first twelve columns, belong to atom i, in each of the four layers:

====  =========================  ====  ============================
row   value                      row   value
====  =========================  ====  ============================
0     atomic number              7–9   angles α, β, γ
1–3   fractional x, y, z         10    number of the space group
4–6   lengths a, b, c            11    empty
====  =========================  ====  ============================

The N × N block of the first layer holds the distance of each pair of atoms, those of the other three the
directed differences :math:`x_j - x_i`, :math:`y_j - y_i`, :math:`z_j - z_i` in row i and column j. What
belongs to no atom is zero. Thus a length, an angle and the space group occur 8 A times, quantities of an
atom 8 times, and differences give A estimates of each coordinate.

Further layers may each carry a chemical descriptor, such as the electronegativity (the paper's outlook): in
row and column 0 that of the atom, in the block the directed differences, that of atom j less that of atom i.
The rest of them is empty.

**Normalisation.** Every value is divided by the upper end of the range of its quantity: 0 stays 0, so that
empty entries are unchanged, and values lie in [0, 1]. Differences lie between -1 and 1 and are mapped to
[0, 1] by :math:`(d + 1) / 2`, including empty entries. Descriptors are divided by the largest of all
elements. The ranges are hyperparameters: :meth:`CrysTens.fit`
determines them from data, and :meth:`CrysTens.config` includes them in feature and model files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.representations.base import Decoded, FeatureLayout, InvertibleRepresentation, require_few_features
from whorl.representations.canonical import canonical_origins, sorted_atoms
from whorl.representations.elements import DESCRIPTORS, HEAVIEST, descriptor_table, element_table
from whorl.representations.settings import RepresentationSettings
from whorl.settings import Count, Positive
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import (
    cell_parameters,
    fractional_coordinates,
    minimum_image,
    volumes,
)
from whorl.structures.convert import Structures, as_batch
from whorl.symmetry.detection import CELLS, space_group_numbers, standardized, stated_space_group

if TYPE_CHECKING:
    from whorl.representations.crystens_decoding import DecodedCrystals, Measures

HEADER = 12  # rows and columns beside the block of pairs; the last of them is empty
ROWS = ("atomic_number", "x", "y", "z", "a", "b", "c", "alpha", "beta", "gamma", "space_group")
LAYERS = 4
PAIRWISE = ("fractional", "cartesian")
ELEMENTS = ("number", "periodic")
ORDERS = ("as_is", "canonical")
ORIGINS = ("as_is", "canonical")

_AT_ONCE = 64  # structures encoded together, so that their arrays of pairs fit into the caches


class CrysTens(InvertibleRepresentation):
    r"""CrysTens: crystals as images, with a closed-form inverse (:meth:`decode`).

    The cell enters by its lengths and angles, so neither a rotation nor the handedness of the lattice vectors
    is kept; a left-handed cell is described by the vectors -a, -b, -c, of which the structure is the same.

    Args:
        max_atoms: N; the tensor has N + 12 rows and columns.
        pairwise: ``"fractional"``, as published: the length of the difference of fractional coordinates; or
            ``"cartesian"``: the distance to the nearest periodic image in Å.
        elements: ``"number"``, as published: the atomic number in row 0 of every layer. ``"periodic"``: what
            position in the periodic table, so that elements are far apart in at least one layer: atomic
            number, period (1–7), block (s, p, d, f as 1–4), and position in the block (1–14).
        cell: Cell that is encoded: ``"as_is"``, spglib's standardized ``"primitive"`` or ``"conventional"``
            cell (with the standard origin), or ``"niggli"``, the Niggli-reduced lattice of the primitive
            cell.
        order: ``"as_is"``, or ``"canonical"``: by atomic number, then x, y and z in [0, 1) (those within
            1e-4 count as equal).
        origin: ``"as_is"``, or ``"canonical"``: an atom of the element of which there are fewest is moved to
            (0, 0, 0); see :func:`whorl.representations.canonical.canonical_origins`.
        descriptors: Chemical descriptors with a layer each after the four, any of ``"electronegativity"``,
            ``"covalent_radius"``, ``"valence_electrons"`` and ``"mendeleev_number"``. Elements are decoded
            from them too.
        symprec: Tolerance in Å with which space groups and standardized cells are found.
        ranges: Upper end of the range of each quantity, by default those of :data:`RANGES`.

    Raises:
        InputError: Unknown options, or ranges that are not positive numbers.

    >>> from ase.build import bulk
    >>> from whorl.structures import from_ase
    >>> codec = CrysTens(max_atoms=4)
    >>> tensor = codec(from_ase(bulk("NaCl", "rocksalt", a=5.64)))
    >>> tuple(tensor.shape)
    (1, 16, 16, 4)
    >>> codec.decode(tensor).structures.atomic_numbers.tolist()
    [11, 17]
    """

    kind = "crystens"
    of_crystals = True
    fewer_features = "a smaller max_atoms"

    class Settings(RepresentationSettings):
        """Settings of crystals as images.

        Some defaults differ from the published ones of :class:`CrysTens`: they are
        better for generators.
        """

        max_atoms: Count | Literal["auto"] = "auto"
        """Maximum number of atoms; the image has twelve more rows and columns. auto: that of the
        largest crystal of the data."""
        pairwise: Literal["fractional", "cartesian"] = "fractional"
        """Distances as differences of fractional coordinates (as published), or in Å."""
        elements: Literal["number", "periodic"] = "periodic"
        """Elements by atomic number (as published), or by position in the periodic table."""
        cell: Literal["as_is", "primitive", "conventional", "niggli"] = "as_is"
        """Cell that is encoded."""
        order: Literal["as_is", "canonical"] = "canonical"
        """Order of the atoms."""
        origin: Literal["as_is", "canonical"] = "as_is"
        """Origin as it is, or canonical."""
        descriptors: list[
            Literal["electronegativity", "covalent_radius", "valence_electrons", "mendeleev_number"]
        ] = []
        """Additional layers, each with one property of the elements."""
        symprec: Positive = 0.01
        """Tolerance in Å with which space groups are found."""

        def summary(self) -> str:
            """Return a one-line summary of the tensor for reports."""
            limit = "that of the largest crystal" if self.max_atoms == "auto" else self.max_atoms
            words: dict[str, dict[str, str]] = {
                "elements": {
                    "periodic": "elements by the periodic table",
                    "number": "elements by atomic number",
                },
                "pairwise": {"cartesian": "distances in Å", "fractional": "fractional distances"},
                "cell": {
                    "primitive": "primitive cell",
                    "conventional": "conventional cell",
                    "niggli": "Niggli cell",
                },
                "order": {"canonical": "atoms sorted"},
                "origin": {"canonical": "canonical origin"},
            }
            parts = [f"CrysTens with max_atoms = {limit}"]
            parts += [of[getattr(self, key)] for key, of in words.items() if getattr(self, key) in of]
            if self.descriptors:
                names = [name.replace("_", " ") for name in self.descriptors]
                listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
                parts.append(f"layers for {listed}")
            return ", ".join(parts)

        @property
        def fits_data(self) -> bool:
            """Whether ``max_atoms`` is determined by the data."""
            return self.max_atoms == "auto"

        def build(
            self,
            species: Sequence[str],
            *,
            structures: StructureBatch | None = None,
            shape: tuple[int, ...] | None = None,
        ) -> CrysTens:
            """Return the codec.

            ``max_atoms`` auto is that of the largest of ``structures``, or that of ``shape``, else 1.
            """
            max_atoms = self.max_atoms
            if self.fits_data:
                max_atoms = 1 if shape is None else max(1, shape[0] - HEADER)
            codec = CrysTens(**{**self.options(), "max_atoms": max_atoms})
            if self.fits_data and structures is not None:
                codec = codec.with_max_atoms(max(1, codec.largest(structures)))
            return codec

    def __init__(
        self,
        *,
        max_atoms: int = 52,
        pairwise: str = "fractional",
        elements: str = "number",
        cell: str = "as_is",
        order: str = "as_is",
        origin: str = "as_is",
        descriptors: Sequence[str] = (),
        symprec: float = 0.01,
        ranges: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        for what, word, options in (
            ("pairwise distance", pairwise, PAIRWISE),
            ("description of elements", elements, ELEMENTS),
            ("cell", cell, CELLS),
            ("order of atoms", order, ORDERS),
            ("origin", origin, ORIGINS),
            *(("chemical descriptor", name, DESCRIPTORS) for name in descriptors),
        ):
            if word not in options:
                raise unknown_option(what, str(word), options)
        if int(max_atoms) != max_atoms or max_atoms < 1:
            raise InputError(f"max_atoms: got {max_atoms}, expected a whole number of at least 1.")
        if not symprec > 0:
            raise InputError(f"symprec: got {symprec}, expected a positive length in Å.")
        self.max_atoms = int(max_atoms)
        require_few_features(
            (self.max_atoms + HEADER) ** 2 * (LAYERS + len(descriptors)),
            f"CrysTens: {self.max_atoms} atoms",
            "Remedy: a smaller max_atoms.",
        )
        self.pairwise = pairwise
        self.elements = elements
        self.cell = cell
        self.order = order
        self.origin = origin
        self.descriptors = tuple(descriptors)
        if len(set(self.descriptors)) < len(self.descriptors):
            raise InputError(f"descriptors: got {', '.join(self.descriptors)}, expected each once at most.")
        self.symprec = float(symprec)
        of_order = {"permutation"} if order == "canonical" else set()
        of_origin = {"translation"} if origin == "canonical" else set()
        self.invariances = frozenset({"rotation", "lattice_shift"} | of_order | of_origin)
        self.differentiable = cell == "as_is"
        self.ranges = _checked(ranges or {}, pairwise)
        self.layout = _layout(self.max_atoms, pairwise, elements, self.descriptors)
        header, table = self._header_scale(), element_table(elements)
        self.register_buffer("header_scale", header, persistent=False)
        self.register_buffer("element_codes", table, persistent=False)
        self.register_buffer("element_descriptors", descriptor_table(self.descriptors), persistent=False)
        self.header_scale: Tensor  # (11, 4): what a value in row r and layer l is divided by
        self.element_codes: Tensor  # (119, 4): row 0 of each layer, before normalisation
        self.element_descriptors: Tensor  # (119, d): row 0 of the other layers, normalised

    def _header_scale(self) -> Tensor:
        rows = [1.0 if name in ("x", "y", "z") else self.ranges[name] for name in ROWS]
        scale = torch.tensor(rows, dtype=torch.float64)[:, None].repeat(1, LAYERS)
        if self.elements == "periodic":
            scale[0] = torch.tensor([self.ranges["atomic_number"], 7.0, 4.0, 14.0])
        return scale

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters, JSON-able."""
        # Those that came later are named only where used: fingerprints of older files stay what they are.
        later: dict[str, Any] = {"origin": self.origin} if self.origin != "as_is" else {}
        if self.descriptors:
            later["descriptors"] = list(self.descriptors)
        return {
            "kind": self.kind,
            "max_atoms": self.max_atoms,
            "pairwise": self.pairwise,
            "elements": self.elements,
            "cell": self.cell,
            "order": self.order,
            "symprec": self.symprec,
            "ranges": dict(self.ranges),
            **later,
        }

    def with_max_atoms(self, max_atoms: int) -> CrysTens:
        """Return this codec with another ``max_atoms``."""
        options = {name: value for name, value in self.config().items() if name != "kind"}
        return CrysTens(**{**options, "max_atoms": max_atoms})

    def describe(self) -> str:
        """Return a short description."""
        return f"CrysTens with max_atoms = {self.max_atoms}"

    def largest(self, structures: StructureBatch) -> int:
        """Return how many atoms the largest crystal has in the cell that is encoded; 0 without crystals.

        Structures that are no crystals do not count.
        """
        strange = self._problems(structures, count=False)
        crystals = structures[[index for index in range(len(structures)) if index not in strange]]
        if self.cell != "as_is" and len(crystals):
            crystals = standardized(crystals, cell=self.cell, symprec=self.symprec)
        return max(crystals.n_atoms.tolist(), default=0)

    def fit(self, structures: Structures) -> CrysTens:
        """Return this codec with the ranges of these structures: their largest values become 1.

        Raises:
            InputError: No structures, or some that cannot be encoded.
        """
        structures = as_batch(structures)
        if len(structures) == 0:
            raise InputError("CrysTens.fit: got no structures, expected at least one.")
        standard = self.standardized(structures)
        largest = dict.fromkeys(RANGES, 0.0)
        largest["space_group"] = RANGES["space_group"]
        for part in standard.chunks(_AT_ONCE):
            parts = _Parts.of(part, self.pairwise)
            for name, value in zip(ROWS[4:10], parts.parameters.amax(0).tolist(), strict=True):
                largest[name] = max(largest[name], value)
            largest["distance"] = max(largest["distance"], float(parts.distances.max()))
        largest["atomic_number"] = float(standard.atomic_numbers.max())
        if largest["distance"] == 0.0:  # single atoms only
            largest["distance"] = RANGES["distance"]
        options = {name: value for name, value in self.config().items() if name != "kind"}
        return CrysTens(**{**options, "ranges": largest})

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the index of each structure that cannot be encoded, and why.

        That is: no atoms, no periodic cell, a cell without volume, numbers that are not finite, elements that
        are none, or more than ``max_atoms`` atoms in the cell that is encoded.
        """
        structures = as_batch(structures)
        problems = self._problems(structures, count=self.cell == "as_is")
        good = [index for index in range(len(structures)) if index not in problems]
        if self.cell != "as_is" and good:
            encoded = standardized(structures[good], cell=self.cell, symprec=self.symprec)
            found = self._problems(encoded, count=True)
            problems |= {good[index]: reason for index, reason in found.items()}
        return dict(sorted(problems.items()))

    def _problems(self, structures: StructureBatch, *, count: bool) -> dict[int, str]:
        counts, index = structures.n_atoms, structures.structure_index
        cells = structures.cells.detach()
        flat = ~(volumes(cells) > 1e-9 * cells.norm(dim=-1).prod(-1))
        finite = cells.isfinite().flatten(1).all(1)
        finite[index[~structures.positions.isfinite().all(1)]] = False
        known = torch.ones_like(finite)
        known[index[(structures.atomic_numbers < 1) | (structures.atomic_numbers > HEAVIEST)]] = False
        too_many = (counts > self.max_atoms) & count
        reasons = (
            (counts == 0, "has no atoms"),
            (~finite, "has a position or cell that is not finite"),
            (~known, f"has an atomic number that is no element's, expected 1 to {HEAVIEST}"),
            (~structures.pbc.all(1), "is not periodic in all three directions"),
            (flat, "has a cell without volume"),
        )
        problems: dict[int, str] = {}
        for bad, reason in reasons:
            for i in torch.nonzero(bad).flatten().tolist():
                problems.setdefault(i, reason)
        for i in torch.nonzero(too_many).flatten().tolist():
            problems.setdefault(i, f"has {int(counts[i])} atoms, more than max_atoms = {self.max_atoms}")
        return dict(sorted(problems.items()))

    def standardized(self, structures: StructureBatch) -> StructureBatch:
        """Return the structures as they are encoded: cell, handedness, origin, order and wrapping of atoms.

        Coordinates are in [0, 1), those that are 1 but for rounding at 0. Except with ``cell="as_is"`` no
        gradient passes.

        Raises:
            InputError: A structure cannot be encoded.
        """
        self._require(structures, count=self.cell == "as_is")
        if self.cell != "as_is":
            structures = standardized(structures, cell=self.cell, symprec=self.symprec)
            self._require(structures, count=True)
        mirrored = torch.where(torch.linalg.det(structures.cells) < 0, -1.0, 1.0).to(structures.dtype)
        structures = structures.replace(cells=structures.cells * mirrored[:, None, None])
        fractional = fractional_coordinates(structures)
        if self.origin == "canonical":
            at_origin = canonical_origins(structures, fractional.detach())[structures.structure_index]
            structures = structures.replace(positions=structures.positions - structures.positions[at_origin])
            fractional = fractional - fractional[at_origin]
        shift = torch.floor(fractional.detach() + 1e-12)
        cells = structures.cells[structures.structure_index]
        structures = structures.replace(
            positions=structures.positions - torch.einsum("ak,akx->ax", shift, cells)
        )
        return structures if self.order == "as_is" else sorted_atoms(structures, fractional - shift)

    def _require(self, structures: StructureBatch, *, count: bool) -> None:
        problems = self._problems(structures, count=count)
        if problems:
            index, reason = next(iter(problems.items()))
            raise InputError(
                f"CrysTens: structure {index} {reason} ({len(problems)} of {len(structures)} structures "
                "cannot be encoded). Leave out those that CrysTens.find_problems names, or raise max_atoms."
            )

    def forward(self, structures: StructureBatch) -> Float[Tensor, "B H W C"]:
        """Return the tensors; space groups are those of ``info``, or found (see :meth:`encode`)."""
        return self.encode(structures)

    def encode(
        self,
        structures: StructureBatch,
        space_groups: Int[Tensor, "B"] | Sequence[int] | None = None,
    ) -> Float[Tensor, "B H W C"]:
        """Return the tensors of crystals, differentiable in positions and cell where ``cell="as_is"``.

        Args:
            structures: Periodic, at most ``max_atoms`` atoms each.
            space_groups: Number of each one's space group. By default the one that stands in its ``info`` as
                ``space_group_number`` or ``spacegroup_number``, or else the one that spglib finds with
                ``symprec``: some milliseconds a structure, which is more than all the rest.

        Raises:
            InputError: A structure cannot be encoded, or numbers of space groups that do not fit.
        """
        numbers = self._space_groups(structures, space_groups)
        structures = self.standardized(structures)
        out = structures.positions.new_zeros(len(structures), *self.layout.shape)
        out[:, HEADER:, HEADER:, 1:] = 0.5
        for start in range(0, len(structures), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            self._write(structures[some], numbers[some], out[some])
        return out

    def _space_groups(self, structures: StructureBatch, given: Tensor | Sequence[int] | None) -> Tensor:
        if given is None:
            known = [stated_space_group(info) for info in structures.info] or [0] * len(structures)
            unknown = [index for index, number in enumerate(known) if number == 0]
            if unknown:
                self._require(structures, count=self.cell == "as_is")
                found = space_group_numbers(structures[unknown], symprec=self.symprec)
                for index, number in zip(unknown, found.tolist(), strict=True):
                    known[index] = number
            given = known
        numbers = torch.as_tensor(given, device=structures.device)
        if numbers.shape != (len(structures),) or not bool(((numbers >= 1) & (numbers <= 230)).all()):
            raise InputError(
                f"space groups: got {numbers.numel()} numbers for {len(structures)} structures, expected one "
                "for each, from 1 to 230."
            )
        return numbers.to(structures.dtype)

    def _write(self, structures: StructureBatch, space_groups: Tensor, out: Tensor) -> None:
        """Write the tensors of some structures into ``out`` (B, H, W, C), which holds those of no atoms."""
        parts = _Parts.of(structures, self.pairwise)
        n, present = parts.present.shape[1], parts.present[:, :, None]
        wide = torch.cat([parts.parameters, space_groups[:, None]], 1)[:, None, :]  # (B, 1, 7)
        atomic = torch.cat([parts.fractional, wide.expand(-1, n, -1)], 2) * present  # (B, n, 10)
        codes = self.element_codes.to(atomic)[parts.numbers]  # (B, n, 4), zeros where no atom is
        header = torch.cat([codes[:, :, None], atomic[:, :, :, None].expand(-1, -1, -1, LAYERS)], 2)
        header = header / self.header_scale.to(atomic)  # (B, n, 11, 4)
        last = HEADER + n
        out[:, HEADER:last, : HEADER - 1, :LAYERS] = header
        out[:, : HEADER - 1, HEADER:last, :LAYERS] = header.transpose(1, 2)
        out[:, HEADER:last, HEADER:last, 0] = parts.distances / self.ranges["distance"]
        out[:, HEADER:last, HEADER:last, 1:LAYERS] = (parts.differences(parts.fractional) + 1.0) / 2.0
        if self.descriptors:
            known = self.element_descriptors.to(atomic)[parts.numbers]  # (B, n, d)
            out[:, HEADER:last, 0, LAYERS:] = known
            out[:, 0, HEADER:last, LAYERS:] = known
            out[:, HEADER:last, HEADER:last, LAYERS:] = (parts.differences(known) + 1.0) / 2.0

    def decode(
        self, tensors: Tensor | Sequence[Tensor], *, clustering: str | None = "auto", **settings: Any
    ) -> DecodedCrystals:
        """Return the crystals of tensors; see :func:`whorl.representations.crystens_decoding.decode`."""
        from whorl.representations.crystens_decoding import decode

        return decode(self, tensors, clustering=clustering, **settings)

    def reconstruct(
        self,
        tensors: Float[Tensor, "B H W C"],
        *,
        elements: Mapping[str, Any],
        clustering: str = "auto",
        refine: bool = True,
        **settings: Any,
    ) -> Decoded:
        """Return the crystals of tensors, refined to their symmetry; see the base class."""
        how = None if clustering == "none" else clustering
        decoded = self.decode(tensors, clustering=how, **settings, **elements)
        structures = decoded.structures
        if refine and len(structures):
            structures = decoded.refined().structures
        # Those of all tensors that can be read: a mean over what became structures would flatter.
        finite = torch.nonzero(tensors.flatten(1).isfinite().all(1)).flatten()
        of_finite = self.measures(tensors[finite])
        nothing = torch.full((len(tensors),), torch.nan, dtype=torch.float64)
        return Decoded(
            structures=structures,
            index=decoded.index,
            skipped=decoded.skipped,
            measures={
                name: nothing.index_copy(0, finite, getattr(of_finite, name).double())
                for name in decoded.measures.means()
            },
            snapped=int(decoded.snapped.sum()),
        )

    def measures(self, tensors: Float[Tensor, "B H W C"]) -> Measures:
        """Return how well tensors agree with themselves (the paper's tables 1 and 2).

        See :func:`whorl.representations.crystens_decoding.measures`.
        """
        from whorl.representations.crystens_decoding import measures

        return measures(self, tensors)


RANGES: Mapping[str, float] = {
    "atomic_number": 118.0,
    "a": 50.0,
    "b": 50.0,
    "c": 50.0,
    "alpha": 180.0,
    "beta": 180.0,
    "gamma": 180.0,
    "space_group": 230.0,
    "distance": 50.0,
}
"""Upper ends of the ranges without data: Å, degrees; fractional distances have √3."""


def _checked(given: Mapping[str, float], pairwise: str) -> dict[str, float]:
    ranges = {**RANGES, **({"distance": math.sqrt(3.0)} if pairwise == "fractional" else {})}
    for name, value in given.items():
        if name not in ranges:
            raise unknown_option("quantity of ranges", str(name), ranges)
        if not (isinstance(value, int | float) and 0.0 < value < math.inf):
            raise InputError(f"ranges['{name}']: got {value!r}, expected a positive number.")
        ranges[name] = float(value)
    return ranges


@lru_cache(maxsize=8)
def _layout(max_atoms: int, pairwise: str, elements: str, descriptors: tuple[str, ...]) -> FeatureLayout:
    side = max_atoms + HEADER
    rows = [*ROWS, "empty"]
    first = ("Z", "period", "block", "place") if elements == "periodic" else ("atomic_number",) * LAYERS
    first += descriptors
    blocks = ["distance" if pairwise == "fractional" else "distance/Å", "dx", "dy", "dz"]
    blocks += [f"d{name}" for name in descriptors]
    layers = LAYERS + len(descriptors)

    def name(i: int, j: int, layer: int) -> str:
        if i < HEADER and j < HEADER:
            return f"{layer + 1}/corner/{i},{j}"
        if i >= HEADER and j >= HEADER:
            return f"{layer + 1}/{blocks[layer]}/{i - HEADER},{j - HEADER}"
        row, atom, side_of = (i, j - HEADER, "row") if i < HEADER else (j, i - HEADER, "column")
        return f"{layer + 1}/{side_of}/{first[layer] if row == 0 else rows[row]}/{atom}"

    names = tuple(name(i, j, layer) for i in range(side) for j in range(side) for layer in range(layers))
    width = side * layers
    parts = {row: slice(k * width, (k + 1) * width) for k, row in enumerate(rows)}
    parts["atoms"] = slice(HEADER * width, side * width)
    return FeatureLayout(names=names, shape=(side, side, layers), blocks=parts)


class _Parts:
    """What a tensor is made of, for B structures of at most n atoms, zero where no atom is."""

    def __init__(
        self, present: Tensor, numbers: Tensor, fractional: Tensor, parameters: Tensor, distances: Tensor
    ) -> None:
        self.present = present  # (B, n)
        self.numbers = numbers  # (B, n)
        self.fractional = fractional  # (B, n, 3)
        self.parameters = parameters  # (B, 6): a, b, c, α, β, γ
        self.distances = distances  # (B, n, n)

    @classmethod
    def of(cls, structures: StructureBatch, pairwise: str) -> _Parts:
        size, n = len(structures), int(structures.n_atoms.max())
        place = (structures.structure_index, structures.position_in_structure)
        fractional = structures.positions.new_zeros(size, n, 3)
        fractional = fractional.index_put(place, fractional_coordinates(structures))
        numbers = torch.zeros(size, n, dtype=torch.int64, device=structures.device)
        numbers[place] = structures.atomic_numbers
        present = numbers > 0
        parameters = cell_parameters(structures.cells)
        if pairwise == "fractional":
            both = present[:, :, None] & present[:, None, :]
            distances = length(fractional[:, None] - fractional[:, :, None]) * both
        else:
            distances = image_distances(structures, n)
        return cls(present, numbers, fractional, parameters, distances)

    def differences(self, x: Tensor) -> Tensor:
        """Return x_j - x_i in row i and column j, (B, n, n, k), of what atoms have (B, n, k)."""
        both = self.present[:, :, None] & self.present[:, None, :]
        return (x[:, None] - x[:, :, None]) * both[..., None]


def length(vectors: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s"]:
    """Return lengths; the derivative of none is 0."""
    # The root has no derivative at 0, where an atom meets itself.
    square = vectors.square().sum(-1)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def image_distances(structures: StructureBatch, n: int) -> Float[Tensor, "B n n"]:
    """Return the distances of all atoms to each other's nearest images in Å; zeros where no atom is."""
    within = structures.position_in_structure
    counts = structures.n_atoms[structures.structure_index]
    later = counts - 1 - within  # pairs i < j only
    i = torch.repeat_interleave(torch.arange(len(within), device=within.device), later)
    ends = torch.cumsum(later, 0)
    j = i + 1 + torch.arange(len(i), device=i.device) - (ends - later)[i]
    owner = structures.structure_index[i]
    vectors = minimum_image(structures.positions[j] - structures.positions[i], structures, owner)
    half = structures.positions.new_zeros(len(structures), n, n)
    half = half.index_put((owner, within[i], within[j]), length(vectors))
    return half + half.transpose(1, 2)
