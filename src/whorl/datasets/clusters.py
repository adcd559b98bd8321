"""Data sets of clusters and molecules: random geometries, relaxed; minima and what is on the way to them.

As in Fung et al. 2022, §2.3. The work is done in chunks of a few random starts. Each chunk has its own seed
and its own file, so it does not matter who computes it or when: the data set is what follows from chunks
0, 1, 2 … in order, until it has as many structures as asked for. An interrupted build continues from the
chunks that are there, and a larger one begins with those of a smaller one.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.chunked import Part
from whorl.datasets.collecting import EXHAUSTED_AFTER, collect
from whorl.datasets.geometries import are_molecules, can_be_bonded, random_clusters
from whorl.datasets.store import Dataset, Skipped, pack_dataset
from whorl.errors import InputError, did_you_mean
from whorl.files import provenance, read_json, stable_hash, write_json
from whorl.potentials import Potential, bulk_energy, relax
from whorl.potentials.base import require_described
from whorl.potentials.quantity import formation_energies
from whorl.potentials.relaxation import Frame
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import composition
from whorl.structures.connectivity import count_pieces

_ENERGY_BIN = 1e-3  # eV/atom; structures whose energies differ by more are different
_MOST_DRAWS = 10_000  # of compositions for one start


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """All that the contents of chunks depend on; ``version`` rises when the same plan means other ones."""

    potential: str
    seed: int
    starts: int
    steps: int
    force_tolerance: float
    thinning: float
    energy_thinning: float
    box: float
    formula: str | None = None  # of every cluster, or
    elements: tuple[str, ...] | None = None  # that each has some of, and
    sizes: tuple[int, int] | None = None
    bond: float | None = None  # of clusters of one element
    version: int = 3  # 2: of several elements, bonds were as long between all of them

    @property
    def key(self) -> dict[str, Any]:
        """The settings that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def name(self) -> str:
        """Formula, or elements and sizes."""
        if self.formula is not None:
            return self.formula
        assert self.elements is not None and self.sizes is not None
        return "".join(self.elements) + "-".join(map(str, self.sizes))

    @property
    def species(self) -> tuple[str, ...]:
        """Chemical symbols that occur."""
        if self.formula is not None:
            return tuple(composition(self.formula))
        assert self.elements is not None
        return self.elements

    def numbers(self, seed: int) -> list[Int[Tensor, "_"]]:
        """Return the atomic numbers of the clusters of a chunk."""
        from ase.data import atomic_numbers

        rng = torch.Generator().manual_seed(seed)
        chosen = [
            composition(self.formula) if self.formula is not None else self._drawn(rng)
            for _ in range(self.starts)
        ]
        return [
            torch.tensor([atomic_numbers[element] for element, n in counts.items() for _ in range(n)])
            for counts in chosen
        ]

    def _drawn(self, rng: torch.Generator) -> dict[str, int]:
        """Draw a size and one of its compositions, all of them equally likely."""
        assert self.elements is not None and self.sizes is not None
        kinds = len(self.elements)
        low, high = self.sizes
        for _ in range(_MOST_DRAWS):
            atoms = int(torch.randint(low, high + 1, (), generator=rng))
            # Every choice of bars among stars is one composition.
            bars = torch.randperm(atoms + kinds - 1, generator=rng)[: kinds - 1].sort().values
            ends = torch.tensor([-1, *bars.tolist(), atoms + kinds - 1])
            counts = (ends.diff() - 1).tolist()
            drawn = {element: n for element, n in zip(self.elements, counts, strict=True) if n}
            if not are_molecules(self.elements) or can_be_bonded(drawn):
                return drawn
        raise InputError(
            f"{', '.join(self.elements)}: valences allow no molecule of {low} to {high} of these atoms "
            "without unpaired electrons. Give other elements or sizes, or a formula."
        )


def default_window(elements: Iterable[str]) -> tuple[float, float]:
    """Return the formation energies in eV/atom that are kept by default.

    Those of the paper; molecules may lie below their elements, so for them it begins lower.
    """
    return (-3.7, 3.7) if are_molecules(elements) else (0.0, 3.7)


def build_clusters(
    *,
    formula: str | None = None,
    element: str | None = None,
    elements: Sequence[str] | None = None,
    atoms: int | tuple[int, int] | None = None,
    count: int,
    potential: Potential,
    directory: Path | str,
    seed: int,
    window: tuple[float, float] | None = None,
    connected: bool | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    reference_energy: float | Mapping[str, float] | None = None,
    box: float = 17.0,
    starts_per_chunk: int = 16,
    steps: int = 300,
    force_tolerance: float = 0.05,
    thinning: float = 0.2,
    energy_thinning: float = 0.1,
    tolerance: float = 0.05,
) -> Dataset:
    r"""Build a data set of clusters or molecules, labelled with formation energies.

    Random geometries are relaxed; of each relaxation the minimum is kept, and those structures on the way
    that differ enough from the last one kept. Their label is
    :math:`E_\mathrm{form} = (E_\mathrm{total} - N E_\mathrm{bulk}) / N` (eq. 4), with the elements' reference
    states of the same potential (:func:`whorl.potentials.bulk_energy`); of several elements,
    :math:`E_\mathrm{bulk}` is the mean over the atoms. Structures outside the window are left out, and so is
    one that was there before: same atoms, same energy within 1e-3 eV/atom, and same sorted interatomic
    distances within ``tolerance``, which no rotation, translation, reflection or exchange of atoms of an
    element changes. The places of the elements are drawn at random in each start.

    Args:
        formula: Atoms in each cluster, such as ``"Pt10"``, ``"Au6Cu7"`` or ``"C2H6O"``; or else
        element: chemical symbol, or
        elements: several, of which each start has a random composition (all of its size are equally likely;
            of non-metals those that valences allow as one molecule without unpaired electrons), and
        atoms: number of atoms, or the least and the greatest, drawn for each start.
        count: Structures wanted.
        potential: Relaxes and labels.
        directory: Where finished chunks are kept, in a folder of their own for each set of settings.
        seed: The same seed gives the same data set, with any number of processes.
        window: Formation energies kept, lowest and highest, in eV/atom; by default :func:`default_window`.
        connected: Keep only structures in one piece, with bonds of up to 1.3 sums of covalent radii; by
            default of molecules, which are several elements that are all non-metals.
        processes: Worker processes, by default one per core; 1 works in this process. More than one need, in
            a script, the usual ``if __name__ == "__main__":``.
        progress: Called with structures found and structures wanted.
        reference_energy: Energy of the reference state in eV/atom, of the one element or by element; computed
            with ``potential`` where it is not given. Those of free atoms make the label minus the atomisation
            energy per atom.
        box: Edge of the cube that holds each start, in Å.
        starts_per_chunk: Random geometries in one unit of work.
        steps: Longest relaxation.
        force_tolerance: Largest force in a minimum, in eV/Å.
        thinning: A structure on the way is kept when its sorted distances differ by this, in Å (root mean
            square), from those of the last one kept …
        energy_thinning: … or its energy by this, in eV/atom.
        tolerance: Structures whose sorted distances differ by less, in Å (root mean square), are the same.

    Returns:
        A data set with the properties ``formation_energy`` (eV/atom) and ``energy`` (eV), and forces. Each
        structure's ``info`` says its ``start``, ``step``, ``shape`` (of the start) and whether it
        ``is_minimum``. Structures that the potential could not compute are in ``skipped``.

    Raises:
        InputError: Unknown elements, also to the potential, settings without meaning, a potential that cannot
            compute the reference state, or a window in which nothing new is found.
    """
    plan = _plan(
        **_clusters(formula, element, elements, atoms),
        potential=potential.name,
        seed=seed,
        starts=starts_per_chunk,
        steps=steps,
        force_tolerance=force_tolerance,
        thinning=thinning,
        energy_thinning=energy_thinning,
        box=box,
    )
    require_described(potential, plan.species)
    window = default_window(plan.species) if window is None else window
    connected = are_molecules(plan.species) if connected is None else connected
    if count < 1 or not window[0] < window[1]:
        raise InputError(
            f"got count {count} and window {tuple(window)}, expected a count of at least 1 and lower < upper."
        )
    folder = Path(directory) / f"{plan.name}-{stable_hash(plan.key)}"
    bulk = _bulk_energies(folder, plan, potential, reference_energy)
    found = _Collection(window=window, tolerance=tolerance, bulk=bulk, connected=connected, wanted=count)
    used = collect(
        found,
        partial(_compute, plan, potential),
        folder=folder,
        key=plan.key,
        processes=processes,
        progress=progress,
        why_exhausted=lambda chunks: found.why_exhausted(chunks * plan.starts, potential.name),
    )
    kept = {"window": list(window), "tolerance": tolerance, **({"connected": True} if connected else {})}
    return found.dataset(
        {
            **provenance(seed=seed, settings={**plan.key, **kept}),
            "potential": potential.name,
            "bulk_energy": bulk if plan.formula is None else _mean(bulk, composition(plan.formula)),
            "window": list(window),
            "starts": used * plan.starts,
        }
    )


def _clusters(
    formula: str | None,
    element: str | None,
    elements: Sequence[str] | None,
    atoms: int | tuple[int, int] | None,
) -> dict[str, Any]:
    """Return the one formula, with elements in alphabetical order, or elements and sizes.

    Raises:
        InputError: Not either a formula, or elements and a number of atoms; or unknown elements.
    """
    given = [value for value in (formula, element, elements) if value is not None]
    if len(given) != 1 or (formula is None) == (atoms is None):
        raise InputError(
            "clusters: expected either a formula such as Au6Cu7, or an element or several and atoms."
        )
    if formula is None:
        assert atoms is not None
        low, high = (atoms, atoms) if isinstance(atoms, int) else atoms
        if low < 1:
            raise InputError(f"atoms: got {low}, expected a positive number.")
        if low > high:
            raise InputError(f"atoms: got {low} to {high}, expected the least number first.")
        symbols = require_different_elements([element] if element is not None else elements or ())
        if low < high or len(symbols) > 1:
            return {"elements": tuple(sorted(symbols)), "sizes": (low, high)}
        formula = f"{symbols[0]}{low}"
    counts = composition(formula)
    return {"formula": "".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))}


def require_different_elements(symbols: Sequence[str]) -> list[str]:
    """Return chemical symbols.

    Raises:
        InputError: None, unknown ones, or one twice.
    """
    from ase.data import chemical_symbols

    for symbol in symbols:
        if symbol not in chemical_symbols[1:]:
            raise InputError(f"unknown element '{symbol}'.{did_you_mean(symbol, chemical_symbols[1:])}")
    if not symbols or len(set(symbols)) < len(symbols):
        raise InputError(f"elements: got {', '.join(symbols) or 'none'}, expected different ones.")
    return list(symbols)


def _plan(**settings: Any) -> _Plan:
    from ase.data import atomic_numbers, covalent_radii

    plan = _Plan(**settings)
    if plan.formula is not None and len(plan.species) == 1:
        bond = 2 * float(covalent_radii[atomic_numbers[plan.species[0]]])
        plan = replace(plan, bond=bond, version=2)
    for name in ("starts", "force_tolerance", "thinning", "energy_thinning", "box"):
        if not getattr(plan, name) > 0:
            raise InputError(f"{name}: got {getattr(plan, name)}, expected a positive number.")
    return plan


def _bulk_energies(
    folder: Path, plan: _Plan, potential: Potential, given: float | Mapping[str, float] | None
) -> dict[str, float]:
    """Return the reference energies of the elements; what is not given is computed once for a folder."""
    species = plan.species
    if isinstance(given, float | int):
        if len(species) > 1:
            raise InputError(
                f"reference_energy: got {given} for {plan.name}, expected a number for each of "
                f"{', '.join(species)}."
            )
        return {species[0]: float(given)}
    known = dict(given or {})
    if any(element not in known for element in species):
        path = folder / "plan.json"
        stored: dict[str, float] = {}
        if path.exists():
            with contextlib.suppress(InputError, KeyError, TypeError, ValueError, AttributeError):
                stored = {str(e): float(value) for e, value in read_json(path)["bulk_energy"].items()}
        for element in species:
            if element not in known:
                known[element] = stored[element] if element in stored else bulk_energy(potential, element)
        write_json(path, {**plan.key, "bulk_energy": known})
    return {element: known[element] for element in species}


def _mean(bulk: Mapping[str, float], counts: Mapping[str, int]) -> float:
    total = sum(counts.values())
    return sum(n / total * bulk[element] for element, n in counts.items())


# What is kept


def sorted_distances(
    positions: Float[Tensor, "B n 3"], numbers: Int[Tensor, "n"] | None = None
) -> Float[Tensor, "B d"]:
    """Return all interatomic distances of each cluster in ascending order, d = n (n - 1) / 2, in Å.

    Where the ``numbers`` of the atoms are given, those between the same two elements stand together.
    """
    n = positions.shape[1]
    i, j = torch.triu_indices(n, n, 1)
    distances = (positions[:, i] - positions[:, j]).norm(dim=-1)
    if numbers is None:
        return distances.sort(dim=1).values
    pair = torch.stack([numbers[i], numbers[j]]).sort(0).values
    kinds = (pair[0] * 128 + pair[1]).unique(return_inverse=True)[1]
    parts = [distances[:, kinds == kind].sort(dim=1).values for kind in kinds.unique().tolist()]
    return torch.cat([distances[:, :0], *parts], 1)


def _distances(structures: StructureBatch) -> list[tuple[tuple[int, ...], Float[Tensor, "_"]]]:
    """Return the atomic numbers of each cluster, and its sorted distances."""
    sizes = structures.n_atoms.tolist()
    numbers = [tuple(own.tolist()) for own in structures.atomic_numbers.split(sizes)]
    positions = structures.positions.split(sizes)
    found: list[Tensor] = [structures.positions] * len(numbers)
    for same in dict.fromkeys(numbers):
        rows = [row for row, own in enumerate(numbers) if own == same]
        sorted_ = sorted_distances(torch.stack([positions[row] for row in rows]), torch.tensor(same))
        for row, distances in zip(rows, sorted_, strict=True):
            found[row] = distances
    return list(zip(numbers, found, strict=True))


def _rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt()) if a.numel() else 0.0


class _Collection:
    """Structures within the window, each once, in the order in which they come."""

    def __init__(
        self,
        *,
        window: tuple[float, float],
        tolerance: float,
        bulk: Mapping[str, float],
        connected: bool,
        wanted: int,
    ) -> None:
        self.window, self.tolerance, self.bulk, self.wanted = window, tolerance, bulk, wanted
        self.connected = connected
        self._chosen: list[Dataset] = []
        self._count = self._in_pieces = 0
        self._skipped: list[Skipped] = []
        self._known: dict[tuple[tuple[int, ...], int], list[tuple[float, Tensor]]] = {}
        self._seen: list[Tensor] = []

    def __len__(self) -> int:
        return self._count

    def add(self, chunk: Dataset) -> None:
        """Take from a chunk what is new, up to the number wanted."""
        self._skipped += chunk.skipped
        if not len(chunk):
            return
        assert chunk.structures is not None
        energy = formation_energies(chunk.properties["energy"], chunk.structures, self.bulk)
        self._seen.append(energy)
        whole = [True] * len(chunk)
        if self.connected:
            whole = (count_pieces(chunk.structures) == 1).tolist()
            self._in_pieces += whole.count(False)
        rows = []
        for row, (e, (numbers, distances)) in enumerate(
            zip(energy.tolist(), _distances(chunk.structures), strict=True)
        ):
            if self._count == self.wanted:
                break
            inside = whole[row] and self.window[0] <= e <= self.window[1]
            if inside and self._is_new(e, numbers, distances):
                rows.append(row)
                self._count += 1
        self._chosen.append(chunk.select(rows))

    def _is_new(self, energy: float, numbers: tuple[int, ...], distances: Tensor) -> bool:
        bin_ = math.floor(energy / _ENERGY_BIN)
        for neighbor in (bin_ - 1, bin_, bin_ + 1):
            for known_energy, known in self._known.get((numbers, neighbor), []):
                if abs(energy - known_energy) <= _ENERGY_BIN and _rms(distances, known) < self.tolerance:
                    return False
        self._known.setdefault((numbers, bin_), []).append((energy, distances))
        return True

    def why_exhausted(self, starts: int, name: str) -> str:
        """Return the error message of an exhausted collection."""
        text = (
            f"{starts} starts gave {self._count} different structures with formation energies in "
            f"{list(self.window)} eV/atom; {self.wanted} were requested, and the last "
            f"{EXHAUSTED_AFTER} chunks had nothing new. "
        )
        if self._seen:
            seen = torch.cat(self._seen)
            text += (
                f"Energies found lie between {float(seen.min()):.3f} and {float(seen.max()):.3f} eV/atom. "
            )
        if self._in_pieces:
            text += f"{self._in_pieces} structures were in several pieces and left out. "
        if self._skipped:
            reason, times = Counter(entry.reason for entry in self._skipped).most_common(1)[0]
            text += f"{name} failed {len(self._skipped)} times, {times} of them with: {reason} "
        return text + "Ask for fewer structures, a wider window or more atoms."

    def dataset(self, origin: dict[str, Any]) -> Dataset:
        """Return what was collected."""
        chosen = [part for part in self._chosen if len(part)]
        dataset = Dataset.concatenate(chosen, provenance=origin)
        assert dataset.structures is not None
        energy = dataset.properties["energy"]
        labels = formation_energies(energy, dataset.structures, self.bulk)
        return replace(
            dataset,
            properties={"formation_energy": labels, "energy": energy},
            skipped=tuple(self._skipped),
        )


# One chunk


def _compute(plan: _Plan, potential: Potential, number: int) -> Part:
    """Relax the starts of one chunk and return what is kept of them."""
    seed = int(stable_hash([plan.seed, number])[:12], 16)
    numbers = plan.numbers(seed)
    positions, shapes = random_clusters(
        numbers, box=plan.box, seed=seed, molecules=are_molecules(plan.species)
    )
    sizes = torch.tensor([len(own) for own in numbers])
    starts = StructureBatch(
        positions=torch.cat(positions),
        cells=torch.zeros(plan.starts, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(plan.starts, 3, dtype=torch.bool),
        atomic_numbers=torch.cat(numbers),
        structure_index=torch.arange(plan.starts).repeat_interleave(sizes),
    )
    keeper = _Keeper(plan)
    skipped = []
    for frame in relax(starts, potential, steps=plan.steps, force_tolerance=plan.force_tolerance):
        for k, reason in sorted(frame.failures.items()):
            skipped.append(Skipped(f"start {number * plan.starts + k} step {frame.step}", reason))
        keeper.add(frame)
    records = [(k, record) for k, kept in enumerate(keeper.kept) for record in kept]
    template = starts[torch.tensor([k for k, _ in records], dtype=torch.int64)]
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    chunk = Dataset(
        structures=template.replace(
            positions=torch.cat([nothing, *(record.positions for _, record in records)]),
            info=tuple(
                {
                    "start": number * plan.starts + k,
                    "step": record.step,
                    "shape": shapes[k],
                    "is_minimum": record.is_minimum,
                }
                for k, record in records
            ),
        ),
        properties={"energy": torch.tensor([record.energy for _, record in records], dtype=torch.float64)},
        forces=torch.cat([nothing, *(record.forces for _, record in records)]),
        ids=tuple(f"start{number * plan.starts + k:06d}-step{record.step:03d}" for k, record in records),
        skipped=tuple(skipped),
    )
    return Part(*pack_dataset(chunk))


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A structure of a relaxation that is kept."""

    step: int
    positions: Float[Tensor, "n 3"]
    energy: float
    forces: Float[Tensor, "n 3"]
    is_minimum: bool


class _Keeper:
    """Chooses structures along each relaxation: the minimum, and those that differ from the last one kept."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.kept: list[list[_Record]] = [[] for _ in range(plan.starts)]
        self._last: dict[int, Tensor] = {}

    def add(self, frame: Frame) -> None:
        structures, sizes = frame.structures, frame.structures.n_atoms.tolist()
        positions, forces = structures.positions.split(sizes), frame.forces.split(sizes)
        distances = _distances(structures)
        for row, start in enumerate(frame.index.tolist()):
            kept, energy, is_minimum = self.kept[start], float(frame.energy[row]), bool(frame.converged[row])
            apart = distances[row][1]
            near = (
                bool(kept)
                and _rms(apart, self._last[start]) < self.plan.thinning
                and abs(energy - kept[-1].energy) < self.plan.energy_thinning * sizes[row]
            )
            if near and not is_minimum:
                continue
            if near:
                kept.pop()  # a minimum stands for what is close to it
            kept.append(
                _Record(
                    step=frame.step,
                    positions=positions[row].clone(),
                    energy=energy,
                    forces=forces[row].double(),
                    is_minimum=is_minimum,
                )
            )
            self._last[start] = apart
