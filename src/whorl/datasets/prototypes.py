"""Data sets of crystals: decorations of the AFLOW prototypes that come with pymatgen.

The library (Mehl et al., Comput. Mater. Sci. 136, S1 (2017); Hicks et al., ibid. 161, S1 (2019)) has 288
crystals. A draw takes one of them and gives it other elements whose oxidation states add up to zero, and a
cell that suits their radii. As with clusters, draws come in chunks with a seed and a file each, so that an
interrupted build goes on, and a larger one begins with the crystals of a smaller one.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii

from whorl.chunked import Part
from whorl.datasets.collecting import EXHAUSTED_AFTER, collect
from whorl.datasets.store import Dataset, Skipped, pack_dataset
from whorl.errors import InputError, did_you_mean, import_extra
from whorl.files import provenance, stable_hash
from whorl.potentials import Potential, relax
from whorl.structures.composition import is_charge_neutral
from whorl.structures.convert import from_pymatgen, to_pymatgen
from whorl.symmetry.detection import space_group_numbers

if TYPE_CHECKING:
    from pymatgen.core import Structure
else:  # pymatgen is slow to import
    Structure = Any

# Noble gases make no crystals here, and the others are too radioactive for tables of their radii.
_LEFT_OUT = {"He", "Ne", "Ar", "Kr", "Xe", "Rn", "Tc", "Pm", "Po", "At", "Fr", "Ra", "Ac", "Pa"}
ELEMENTS = tuple(symbol for symbol in chemical_symbols[1:93] if symbol not in _LEFT_OUT)
_TRIES = 300  # sets of elements tried on one prototype before the draw is given up
_CLOSEST = 0.6
_PACKING = (0.2, 1.2)
_ELEMENTAL = 0.1  # how often a prototype of one element is drawn, against one of several


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """All that the contents of chunks depend on; ``version`` rises when the same plan means other ones."""

    elements: tuple[str, ...]
    max_atoms: int
    seed: int
    draws: int
    closest: float
    packing: tuple[float, float]
    potential: str | None
    relaxed: bool
    steps: int
    force_tolerance: float
    version: int = 3  # with forces and stresses


def build_crystals(
    *,
    count: int,
    directory: Path | str,
    seed: int,
    elements: Sequence[str] | None = None,
    max_atoms: int = 52,
    potential: Potential | None = None,
    relaxed: bool = False,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    draws_per_chunk: int = 32,
    closest: float = _CLOSEST,
    packing: tuple[float, float] = _PACKING,
    steps: int = 200,
    force_tolerance: float = 0.05,
) -> Dataset:
    """Build a data set of crystals from the AFLOW prototypes.

    A decoration is taken if one of its elements is a metal or metalloid (the volumes predicted for others,
    such as ClF, are far too small), if common oxidation states of its elements add up to zero with the anions
    the more electronegative ones, if smact's test agrees, and if no two atoms are too close once pymatgen's
    ``DLSVolumePredictor`` has sized the cell (where it knows no radii, the cell is scaled until the closest
    atoms touch). Of crystals that pymatgen's ``StructureMatcher`` cannot tell apart, the first one stays.

    Args:
        count: Crystals wanted.
        directory: Where finished chunks are kept, in a folder of their own for each set of settings.
        seed: The same seed gives the same data set, with any number of processes.
        elements: Chemical symbols to choose from, by default :data:`ELEMENTS`.
        max_atoms: Largest number of atoms in a cell, 52 as in CrysTens (282 of the 288 prototypes).
        potential: Labels the crystals; without one they have no properties.
        relaxed: Also move the atoms downhill with it. The cell stays as predicted.
        processes: Worker processes, by default one per core; 1 works in this process. More than one need, in
            a script, the usual ``if __name__ == "__main__":``.
        progress: Called with crystals found and crystals wanted.
        draws_per_chunk: Decorations in one unit of work.
        closest: Least distance of two atoms, as a share of the sum of their covalent radii.
        packing: Least and largest volume of the atoms, as spheres of these radii, per volume of the cell. A
            prototype with one short bond would otherwise be blown up by large atoms there. 19 of 20 measured
            crystals are within the bounds.
        steps: Longest relaxation.
        force_tolerance: Largest force in a relaxed crystal, in eV/Å.

    Returns:
        A data set whose ``info`` says ``prototype`` (AFLOW label), ``mineral`` where it has a name,
        ``elements`` (in alphabetical order) and ``space_group_number``; with a potential, it has the
        properties ``energy`` (eV) and ``energy_per_atom`` (eV/atom), forces and stresses, and after a
        relaxation ``info`` says whether it ``converged``. What the potential could not compute is in
        ``skipped``.

    Raises:
        InputError: Unknown elements, settings without meaning, or too few crystals to be had with them.
        MissingExtraError: smact is not installed: pip install 'whorl[crystens]'.
    """
    import_extra("smact", extra="crystens")
    chosen = _checked_elements(elements)
    positive = {
        "count": count,
        "max_atoms": max_atoms,
        "draws_per_chunk": draws_per_chunk,
        "force_tolerance": force_tolerance,
        **({} if processes is None else {"processes": processes}),
    }
    for name, value in positive.items():
        if not value > 0:
            raise InputError(f"{name}: got {value}, expected a positive number.")
    if not 0 <= packing[0] < packing[1]:
        raise InputError(f"packing: got {packing}, expected two numbers, the lower one first.")
    if relaxed and potential is None:
        raise InputError("to relax: got no calculator, expected one that has forces, such as chgnet.")
    plan = _Plan(
        elements=chosen,
        max_atoms=max_atoms,
        seed=seed,
        draws=draws_per_chunk,
        closest=closest,
        packing=packing,
        potential=None if potential is None else potential.name,
        relaxed=relaxed,
        steps=steps if relaxed else 0,
        force_tolerance=force_tolerance if relaxed else 0.0,
    )
    folder = Path(directory) / f"prototypes-{stable_hash(asdict(plan))}"
    found = _Collection(wanted=count)
    used = collect(
        found,
        partial(_compute, plan, potential),
        folder=folder,
        key=asdict(plan),
        processes=processes,
        progress=progress,
        why_exhausted=lambda chunks: (
            f"got {len(found)} different crystals from {chunks * plan.draws} draws, expected "
            f"{count}; the last {EXHAUSTED_AFTER} chunks had nothing new. Remedy: more elements (now "
            f"{len(chosen)}, which must include some that make anions), a larger max_atoms (now "
            f"{max_atoms}), or a smaller count."
        ),
    )
    return found.dataset(
        {
            **provenance(seed=seed, settings={**asdict(plan), "count": count}),
            "source": "AFLOW prototypes of pymatgen",
            "potential": plan.potential,
            "relaxed": relaxed,
            "draws": used * plan.draws,
        }
    )


def _checked_elements(elements: Sequence[str] | None) -> tuple[str, ...]:
    if elements is None:
        return ELEMENTS
    for symbol in elements:
        if symbol in chemical_symbols[1:] and symbol not in ELEMENTS:
            raise InputError(
                f"{symbol}: no crystals are made of it here, as of all noble gases, the most radioactive "
                "elements and those beyond uranium. Leave it out."
            )
        if symbol not in ELEMENTS:
            raise InputError(f"unknown element '{symbol}'.{did_you_mean(symbol, ELEMENTS)}")
    if not elements:
        raise InputError("elements: got none, expected chemical symbols such as Na, Cl.")
    return tuple(sorted(set(elements)))


def prototypes_of(systems: Iterable[Iterable[str]], *, max_atoms: int = 6) -> Dataset:
    """Return plausible compounds of chemical systems: all decorations of the prototypes by their elements.

    They are competing phases of a convex hull, where no computed ones are at hand. A decoration is taken by
    the rules of :func:`build_crystals`, but that oxidation states need not add up to zero between metals.

    Args:
        systems: Sets of elements; compounds of two and more elements within each are made once.
        max_atoms: Largest number of atoms in a primitive cell.

    Returns:
        A data set without properties; ``info`` is that of :func:`build_crystals`. Empty if there are none.

    Raises:
        InputError: An unknown element.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    wanted = {
        subset
        for system in systems
        for size in range(2, len(set(system)) + 1)
        for subset in itertools.combinations(sorted(e for e in set(system) if e not in _LEFT_OUT), size)
    }
    for element in sorted({e for subset in wanted for e in subset}):
        if element not in chemical_symbols[1:]:
            raise InputError(f"unknown element '{element}'.{did_you_mean(element, ELEMENTS)}")
    library = [p for p in _library() if len(p.species) > 1 and len(p.crystal) <= max_atoms]
    matcher = StructureMatcher()
    crystals, names = [], []
    for subset in sorted(wanted):
        metals = all(_is_metallic(e) for e in subset)
        for prototype in library:
            if len(prototype.species) != len(subset):
                continue
            alike: dict[str, list[Structure]] = {}  # where elements can change places
            for elements in itertools.permutations(subset):
                if not metals and not _can_be_neutral(elements, prototype.counts):
                    continue
                crystal = _decorated(prototype, elements)
                if crystal is None or not _is_sound(crystal, _CLOSEST, _PACKING):
                    continue
                same = alike.setdefault(formula := crystal.composition.reduced_formula, [])
                if not any(matcher.fit(crystal, other) for other in same):
                    same.append(crystal)
                    crystals.append(crystal)
                    names.append(f"{formula} ({prototype.label})")
    return _labelled(crystals, names, None, potential=None)


class _Collection:
    """Distinct crystals, in the order of the chunks."""

    def __init__(self, *, wanted: int) -> None:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        self.wanted = wanted
        self._matcher = StructureMatcher()
        self._known: dict[str, list[Structure]] = {}
        self._chosen: list[Dataset] = []
        self._skipped: list[Skipped] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, chunk: Dataset) -> None:
        """Add the new crystals of a chunk, up to the number wanted."""
        self._skipped += chunk.skipped
        if not len(chunk):
            return
        assert chunk.structures is not None
        rows = []
        for row, crystal in enumerate(cast(list[Structure], to_pymatgen(chunk.structures))):
            if self._count == self.wanted:
                break
            same_formula = self._known.setdefault(crystal.composition.reduced_formula, [])
            if any(self._matcher.fit(crystal, other) for other in same_formula):
                continue
            same_formula.append(crystal)
            rows.append(row)
            self._count += 1
        if rows:
            self._chosen.append(chunk.select(rows))

    def dataset(self, origin: dict[str, Any]) -> Dataset:
        """Return the collected crystals."""
        return replace(Dataset.concatenate(self._chosen, provenance=origin), skipped=tuple(self._skipped))


# One chunk


def _compute(plan: _Plan, potential: Potential | None, number: int) -> Part:
    """Decorate prototypes, and return the valid crystals with labels."""
    random = np.random.default_rng(int(stable_hash([plan.seed, number])[:12], 16))
    library = [p for p in _library() if len(p.crystal) <= plan.max_atoms]
    weights = np.array([_ELEMENTAL if len(p.species) == 1 else 1.0 for p in library])
    crystals, names = [], []
    for draw in range(plan.draws if library else 0):
        prototype = library[random.choice(len(library), p=weights / weights.sum())]
        elements = _neutral_elements(prototype.counts, plan.elements, random)
        crystal = None if elements is None else _decorated(prototype, elements)
        if crystal is not None and _is_sound(crystal, plan.closest, plan.packing):
            crystals.append(crystal)
            names.append(f"draw{number * plan.draws + draw:06d}-{crystal.composition.reduced_formula}")
    return Part(*pack_dataset(_labelled(crystals, names, plan, potential)))


@dataclass(frozen=True, kw_only=True)
class _Prototype:
    label: str
    mineral: str
    crystal: Structure
    species: tuple[str, ...]
    counts: tuple[int, ...]


@lru_cache(maxsize=1)
def _library() -> tuple[_Prototype, ...]:
    """Return the prototypes in the library's order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    prototypes = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        crystal = entry["snl"].structure
        if not crystal.is_ordered:
            continue
        numbers = Counter(site.specie.symbol for site in crystal)
        species = tuple(sorted(numbers))
        mineral = str(entry["tags"].get("mineral") or "")
        prototypes.append(
            _Prototype(
                label=str(entry["tags"]["aflow"]),
                mineral="" if mineral == "None" else mineral,
                crystal=crystal,
                species=species,
                counts=tuple(numbers[symbol] for symbol in species),
            )
        )
    return tuple(prototypes)


def _neutral_elements(
    counts: tuple[int, ...], choice: Sequence[str], random: np.random.Generator
) -> tuple[str, ...] | None:
    """Draw elements until some make a neutral crystal with these numbers of atoms, or return None."""
    if len(choice) < len(counts):
        return None
    for _ in range(_TRIES):
        elements = tuple(choice[i] for i in random.choice(len(choice), len(counts), replace=False))
        if not any(_is_metallic(symbol) for symbol in elements) or not _can_be_neutral(elements, counts):
            continue
        formula = "".join(f"{e}{n}" for e, n in zip(elements, counts, strict=True))
        if is_charge_neutral(formula):
            return elements
    return None


def _can_be_neutral(elements: Sequence[str], counts: Iterable[int]) -> bool:
    """Return whether common oxidation states can add up to zero, with more electronegative anions."""
    chemistry = [_chemistry(symbol) for symbol in elements]
    if len(chemistry) == 1:
        return True
    numbers = tuple(counts)
    for states in itertools.product(*(known for known, _ in chemistry)):
        if sum(n * q for n, q in zip(numbers, states, strict=True)) != 0:
            continue
        cations = [x for q, (_, x) in zip(states, chemistry, strict=True) if q > 0]
        anions = [x for q, (_, x) in zip(states, chemistry, strict=True) if q < 0]
        if cations and anions and max(cations) < min(anions):
            return True
    return False


@lru_cache(maxsize=256)
def _is_metallic(symbol: str) -> bool:
    """Return whether an element is a metal or a metalloid."""
    from pymatgen.core import Element

    return bool(Element(symbol).is_metal or Element(symbol).is_metalloid)


@lru_cache(maxsize=256)
def _chemistry(symbol: str) -> tuple[tuple[int, ...], float]:
    """Return the common oxidation states of an element, and its electronegativity after Pauling."""
    from pymatgen.core import Element

    element = Element(symbol)
    return tuple(int(q) for q in element.common_oxidation_states if q != 0), float(element.X)


def _decorated(prototype: _Prototype, elements: Sequence[str]) -> Structure | None:
    """Return the prototype with other elements in a cell of suitable size."""
    from pymatgen.core import Structure
    from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

    new = dict(zip(prototype.species, elements, strict=True))
    crystal = Structure(
        prototype.crystal.lattice,
        [new[site.specie.symbol] for site in prototype.crystal],
        prototype.crystal.frac_coords,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements whose radii it does not know
        try:
            # The prototype's own volume is no hint, so that nothing bounds the change.
            volume = DLSVolumePredictor(min_scaling=None, max_scaling=None).predict(crystal)
        except (ValueError, TypeError):
            volume = crystal.volume / _shortest_ratio(crystal) ** 3
    if not np.isfinite(volume) or volume <= 0:
        return None
    crystal.scale_lattice(float(volume))
    crystal.properties = {
        "prototype": prototype.label,
        **({"mineral": prototype.mineral} if prototype.mineral else {}),
        "elements": sorted(elements),
    }
    return crystal


def _is_sound(crystal: Structure, closest: float, packing: tuple[float, float]) -> bool:
    """Return whether no atoms are too close, and the packing fraction is in range."""
    spheres = 4 / 3 * np.pi * float((covalent_radii[list(crystal.atomic_numbers)] ** 3).sum())
    lowest, highest = packing
    return lowest <= spheres / float(crystal.volume) <= highest and _shortest_ratio(crystal) >= closest


def _shortest_ratio(crystal: Structure) -> float:
    """Return the smallest distance of two atoms, relative to the sum of their covalent radii."""
    radii = covalent_radii[list(crystal.atomic_numbers)]
    widest = reach = 2.0 * float(radii.max())
    while True:
        first, second, _, distance = crystal.get_neighbor_list(reach)
        if len(distance):
            ratio = float((distance / (radii[first] + radii[second])).min())
            if ratio * widest <= reach:  # no pair beyond the reach has a smaller one
                return ratio
            reach = ratio * widest
        else:
            reach *= 1.5


def _labelled(
    crystals: list[Structure], names: list[str], plan: _Plan | None, potential: Potential | None
) -> Dataset:
    """Return the crystals with their energies, where there is a potential; without those it fails on."""
    if not crystals:
        return Dataset(structures=None, ids=())
    structures = from_pymatgen(crystals)
    info = [dict(crystal.properties) for crystal in crystals]
    skipped = []
    rows = list(range(len(crystals)))
    properties = {}
    labels: dict[str, Any] = {}
    if potential is not None and plan is not None:
        energy = torch.full((len(crystals),), torch.nan, dtype=torch.float64)
        counts = structures.n_atoms.tolist()
        positions = list(structures.positions.split(counts))
        forces = [torch.full_like(part, torch.nan) for part in positions]
        stresses = torch.full((len(crystals), 3, 3), torch.nan, dtype=torch.float64)
        steps = plan.steps if plan.relaxed else 0
        tolerance = plan.force_tolerance or 1.0  # of no consequence where nothing moves
        for frame in relax(structures, potential, steps=steps, force_tolerance=tolerance):
            for k, reason in sorted(frame.failures.items()):
                skipped.append(Skipped(names[k], reason))
                energy[k] = torch.nan
            sizes = frame.structures.n_atoms.tolist()
            moved, pulling = frame.structures.positions.split(sizes), frame.forces.split(sizes)
            for row, k in enumerate(frame.index.tolist()):
                energy[k], positions[k] = frame.energy[row].double(), moved[row].double()
                forces[k] = pulling[row].double()
                if frame.stress is not None:
                    stresses[k] = frame.stress[row].double()
                if plan.relaxed:
                    info[k]["converged"] = bool(frame.converged[row])
        structures = structures.replace(positions=torch.cat(positions))
        rows = [k for k in rows if bool(energy[k].isfinite())]
        properties = {
            "energy": energy[rows],
            "energy_per_atom": energy[rows] / structures.n_atoms[rows].double(),
        }
        labels = {
            "forces": torch.cat([torch.zeros(0, 3), *(forces[k] for k in rows)]),
            "stresses": stresses[rows],
        }
        if not rows:
            return Dataset(structures=None, ids=(), skipped=tuple(skipped))
    kept = structures[rows]
    groups = space_group_numbers(kept).tolist()
    return Dataset(
        structures=kept.replace(
            info=tuple({**info[k], "space_group_number": g} for k, g in zip(rows, groups, strict=True))
        ),
        properties=properties,
        **labels,
        ids=tuple(names[k] for k in rows),
        skipped=tuple(skipped),
    )
