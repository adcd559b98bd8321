"""Data sets of nanoclusters: random geometries, relaxed; minima and intermediates (Fung et al. 2022, §2.3).

The work is done in chunks of a few random starts. Each chunk has its own seed and its own file, so it does
not matter who computes it or when: the data set is what follows from chunks 0, 1, 2 … in order, until it has
as many structures as asked for. An interrupted build continues from the chunks that are there, and a larger
one begins with those of a smaller one.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.chunked import Part
from whorl.datasets.collecting import EXHAUSTED_AFTER, collect
from whorl.datasets.geometries import random_clusters
from whorl.datasets.store import Dataset, Skipped, pack_dataset
from whorl.errors import InputError
from whorl.files import provenance, read_json, stable_hash, write_json
from whorl.potentials import Potential, bulk_energy, formation_energy, relax
from whorl.potentials.relaxation import Frame
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import composition

_ENERGY_BIN = 1e-3  # eV/atom; structures whose energies differ by more are different


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """All that the contents of chunks depend on; ``version`` rises when the same plan means other ones."""

    formula: str
    potential: str
    seed: int
    starts: int
    steps: int
    force_tolerance: float
    thinning: float
    energy_thinning: float
    box: float
    bond: float
    version: int = 2  # with forces

    @property
    def counts(self) -> dict[str, int]:
        """Atoms of each element."""
        return composition(self.formula)

    @property
    def numbers(self) -> Int[Tensor, "n"]:
        """Atomic numbers of the atoms of every cluster."""
        from ase.data import atomic_numbers

        counts = self.counts.items()
        return torch.tensor([atomic_numbers[element] for element, n in counts for _ in range(n)])


def build_clusters(
    *,
    formula: str | None = None,
    element: str | None = None,
    atoms: int | None = None,
    count: int,
    potential: Potential,
    directory: Path | str,
    seed: int,
    window: tuple[float, float] = (0.0, 3.7),
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
    r"""Build a data set of clusters of one composition, labelled with formation energies.

    Random geometries are relaxed; of each relaxation the minimum is kept, and those structures on the way
    that differ enough from the last one kept. Their label is
    :math:`E_\mathrm{form} = (E_\mathrm{total} - N E_\mathrm{bulk}) / N` (eq. 4), with the bulk of the same
    potential; of several elements, :math:`E_\mathrm{bulk}` is the mean over the atoms. Structures outside the
    window are left out, and so is one that was there before: same energy within 1e-3 eV/atom, and same sorted
    interatomic distances within ``tolerance``, which no rotation, translation, reflection or exchange of
    atoms of an element changes. The places of the elements are drawn at random in each start.

    Args:
        formula: Atoms in each cluster, such as ``"Pt10"`` or ``"Au6Cu7"``; or else
        element: chemical symbol and
        atoms: number of atoms of a cluster of one element.
        count: Structures wanted.
        potential: Relaxes and labels.
        directory: Where finished chunks are kept, in a folder of their own for each set of settings.
        seed: The same seed gives the same data set, with any number of processes.
        window: Formation energies kept, lowest and highest, in eV/atom.
        processes: Worker processes, by default one per core; 1 works in this process. More than one need, in
            a script, the usual ``if __name__ == "__main__":``.
        progress: Called with structures found and structures wanted.
        reference_energy: Energy of the bulk in eV/atom, of the one element or by element; computed with
            ``potential`` where it is not given.
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
        InputError: Unknown elements, settings without meaning, a potential that cannot compute the bulk, or a
            window in which nothing new is found.
    """
    plan = _plan(
        formula=_formula(formula, element, atoms),
        potential=potential.name,
        seed=seed,
        starts=starts_per_chunk,
        steps=steps,
        force_tolerance=force_tolerance,
        thinning=thinning,
        energy_thinning=energy_thinning,
        box=box,
    )
    if count < 1 or not window[0] < window[1]:
        raise InputError(
            f"got count {count} and window {tuple(window)}, expected a count of at least 1 and lower < upper."
        )
    folder = Path(directory) / f"{plan.formula}-{stable_hash(asdict(plan))}"
    bulk = _bulk_energy(folder, plan, potential, reference_energy)
    found = _Collection(numbers=plan.numbers, window=window, tolerance=tolerance, bulk=bulk, wanted=count)
    used = collect(
        found,
        partial(_compute, plan, potential),
        folder=folder,
        key=asdict(plan),
        processes=processes,
        progress=progress,
        why_exhausted=lambda chunks: found.why_exhausted(chunks * plan.starts, potential.name),
    )
    return found.dataset(
        {
            **provenance(
                seed=seed, settings={**asdict(plan), "window": list(window), "tolerance": tolerance}
            ),
            "potential": potential.name,
            "bulk_energy": bulk,
            "window": list(window),
            "starts": used * plan.starts,
        }
    )


def _formula(formula: str | None, element: str | None, atoms: int | None) -> str:
    """Return the formula with elements in alphabetical order.

    Raises:
        InputError: Not either a formula, or an element and a number of atoms.
    """
    if (formula is None) == (element is None) or (element is None) != (atoms is None):
        raise InputError("clusters: expected either a formula such as Au6Cu7, or element and atoms.")
    if atoms is not None and atoms < 1:
        raise InputError(f"atoms: got {atoms}, expected a positive number.")
    counts = composition(formula if formula is not None else f"{element}{atoms}")
    return "".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))


def _plan(*, formula: str, **settings: Any) -> _Plan:
    from ase.data import atomic_numbers, covalent_radii

    counts = composition(formula)
    share = {element: n / sum(counts.values()) for element, n in counts.items()}
    bond = 2 * sum(part * float(covalent_radii[atomic_numbers[element]]) for element, part in share.items())
    plan = _Plan(formula=formula, bond=bond, **settings)
    for name in ("starts", "force_tolerance", "thinning", "energy_thinning", "box"):
        if not getattr(plan, name) > 0:
            raise InputError(f"{name}: got {getattr(plan, name)}, expected a positive number.")
    return plan


def _bulk_energy(
    folder: Path, plan: _Plan, potential: Potential, given: float | Mapping[str, float] | None
) -> float:
    """Return the mean bulk energy of the atoms; what is not given is computed once for a folder."""
    counts = plan.counts
    if isinstance(given, float | int):
        if len(counts) > 1:
            raise InputError(
                f"reference_energy: got {given} for {plan.formula}, expected a number for each of "
                f"{', '.join(counts)}."
            )
        return float(given)
    known = dict(given or {})
    if any(element not in known for element in counts):
        path = folder / "plan.json"
        stored: dict[str, float] = {}
        if path.exists():
            with contextlib.suppress(InputError, KeyError, TypeError, ValueError, AttributeError):
                stored = {str(e): float(value) for e, value in read_json(path)["bulk_energy"].items()}
        for element in counts:
            if element not in known:
                known[element] = stored[element] if element in stored else bulk_energy(potential, element)
        write_json(path, {**asdict(plan), "bulk_energy": known})
    total = sum(counts.values())
    return sum(n / total * known[element] for element, n in counts.items())


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


def _rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt()) if a.numel() else 0.0


class _Collection:
    """Structures within the window, each once, in the order in which they come."""

    def __init__(
        self,
        *,
        numbers: Int[Tensor, "n"],
        window: tuple[float, float],
        tolerance: float,
        bulk: float,
        wanted: int,
    ) -> None:
        self._numbers = numbers
        self.window, self.tolerance, self.bulk, self.wanted = window, tolerance, bulk, wanted
        self._chosen: list[Dataset] = []
        self._count = 0
        self._skipped: list[Skipped] = []
        self._known: dict[int, list[tuple[float, Tensor]]] = {}
        self._seen: list[Tensor] = []

    def __len__(self) -> int:
        return self._count

    def add(self, chunk: Dataset) -> None:
        """Take from a chunk what is new, up to the number wanted."""
        self._skipped += chunk.skipped
        if not len(chunk):
            return
        assert chunk.structures is not None
        n = len(self._numbers)
        energy = formation_energy(chunk.properties["energy"], n, self.bulk)
        self._seen.append(energy)
        distances = sorted_distances(chunk.structures.positions.reshape(len(chunk), n, 3), self._numbers)
        rows = []
        for row, e in enumerate(energy.tolist()):
            if self._count == self.wanted:
                break
            if self.window[0] <= e <= self.window[1] and self._is_new(e, distances[row]):
                rows.append(row)
                self._count += 1
        self._chosen.append(chunk.select(rows))

    def _is_new(self, energy: float, distances: Tensor) -> bool:
        bin_ = math.floor(energy / _ENERGY_BIN)
        for neighbor in (bin_ - 1, bin_, bin_ + 1):
            for known_energy, known in self._known.get(neighbor, []):
                if abs(energy - known_energy) <= _ENERGY_BIN and _rms(distances, known) < self.tolerance:
                    return False
        self._known.setdefault(bin_, []).append((energy, distances))
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
        if self._skipped:
            reason, times = Counter(entry.reason for entry in self._skipped).most_common(1)[0]
            text += f"{name} failed {len(self._skipped)} times, {times} of them with: {reason} "
        return text + "Ask for fewer structures, a wider window or more atoms."

    def dataset(self, origin: dict[str, Any]) -> Dataset:
        """Return what was collected."""
        chosen = [part for part in self._chosen if len(part)]
        dataset = Dataset.concatenate(chosen, provenance=origin)
        assert dataset.structures is not None
        energy, n_atoms = dataset.properties["energy"], dataset.structures.n_atoms.double()
        return replace(
            dataset,
            properties={"formation_energy": formation_energy(energy, n_atoms, self.bulk), "energy": energy},
            skipped=tuple(self._skipped),
        )


# One chunk


def _compute(plan: _Plan, potential: Potential, number: int) -> Part:
    """Relax the starts of one chunk and return what is kept of them."""
    seed = int(stable_hash([plan.seed, number])[:12], 16)
    numbers = plan.numbers
    n = len(numbers)
    positions, shapes = random_clusters(plan.starts, atoms=n, bond=plan.bond, box=plan.box, seed=seed)
    if len(plan.counts) > 1:
        rng = torch.Generator().manual_seed(seed)
        positions = torch.stack([cluster[torch.randperm(n, generator=rng)] for cluster in positions])
    starts = StructureBatch(
        positions=positions.reshape(-1, 3),
        cells=torch.zeros(plan.starts, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(plan.starts, 3, dtype=torch.bool),
        atomic_numbers=numbers.repeat(plan.starts),
        structure_index=torch.arange(plan.starts).repeat_interleave(n),
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
        self.plan, self._numbers = plan, plan.numbers
        self.kept: list[list[_Record]] = [[] for _ in range(plan.starts)]
        self._last: dict[int, Tensor] = {}

    def add(self, frame: Frame) -> None:
        n = len(self._numbers)
        clusters, forces = frame.structures.positions.reshape(-1, n, 3), frame.forces.reshape(-1, n, 3)
        distances = sorted_distances(clusters, self._numbers)
        for row, start in enumerate(frame.index.tolist()):
            kept, energy, is_minimum = self.kept[start], float(frame.energy[row]), bool(frame.converged[row])
            near = (
                bool(kept)
                and _rms(distances[row], self._last[start]) < self.plan.thinning
                and abs(energy - kept[-1].energy) < self.plan.energy_thinning * n
            )
            if near and not is_minimum:
                continue
            if near:
                kept.pop()  # a minimum stands for what is close to it
            kept.append(
                _Record(
                    step=frame.step,
                    positions=clusters[row].clone(),
                    energy=energy,
                    forces=forces[row].double(),
                    is_minimum=is_minimum,
                )
            )
            self._last[start] = distances[row]
