"""CrysTens there and back: ``python -m benchmarks.crystens.codec [--quick] [--data PATH]``.

Four tables: the round trip of all crystals without noise; how many are recovered from noisy tensors, with
automatic clustering beside the paper's fixed K on the same tensors; how many elements, with chemical
descriptors; crystals a second, beside a plain loop.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.baselines import crystens_loop
from whorl.datasets import read_dataset
from whorl.errors import InputError
from whorl.representations import CrysTens, DecodedCrystals
from whorl.representations.elements import DESCRIPTORS
from whorl.structures import StructureBatch, to_ase, to_pymatgen
from whorl.structures.cells import cell_parameters, fractional_coordinates

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "crystals_pcd20k.extxyz.gz"
_AT_ONCE = 512
_LOOPED = 100  # crystals that the plain loop gets


def rmsd(found: StructureBatch, meant: StructureBatch) -> Tensor:
    """RMSD in Å of atoms in their order and of the lattice vectors, (B,); infinite for other numbers."""
    if not torch.equal(found.n_atoms, meant.n_atoms):
        return torch.full((len(meant),), torch.inf, dtype=torch.float64)
    apart = fractional_coordinates(found) - fractional_coordinates(meant)
    apart = apart - apart.round()
    square = torch.einsum("ak,akx->ax", apart, found.cells[found.structure_index]).square().sum(1)
    mean = torch.zeros(len(meant), dtype=torch.float64).index_add(0, meant.structure_index, square)
    difference = cell_parameters(found.cells) - cell_parameters(meant.cells)
    difference[:, 3:] *= torch.pi / 180 * cell_parameters(meant.cells)[:, :3].amax(1, keepdim=True)
    return (mean / meant.n_atoms + difference.square().sum(1) / 12).sqrt()


def matches(found: DecodedCrystals, meant: Sequence[object], structures: StructureBatch) -> Tensor:
    """Whether pymatgen's StructureMatcher takes each crystal for the one that was meant."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    hit = torch.zeros(len(meant), dtype=torch.float64)
    for i, crystal in zip(found.index.tolist(), to_pymatgen(structures), strict=True):
        if crystal.composition == meant[i].composition:  # type: ignore[attr-defined]
            hit[i] = float(matcher.fit(crystal, meant[i]))
    return hit


def same_elements(found: DecodedCrystals, meant: StructureBatch) -> Tensor:
    hit = torch.zeros(len(meant), dtype=torch.float64)
    for i, one in zip(found.index.tolist(), found.structures, strict=True):
        hit[i] = float(torch.equal(one.atomic_numbers, meant[i].atomic_numbers))
    return hit


def round_trip(codec: CrysTens, crystals: StructureBatch, *, match: int) -> None:
    """Encode and decode all crystals; compare elements, positions and cells."""
    print(f"\n### Round trip of {len(crystals)} crystals\n")
    print(
        "| clustering | crystals back | elements exact | largest RMSD, Å | mean RMSD, Å | StructureMatcher |"
    )
    print("|---|---|---|---|---|---|")
    for clustering in (None, "auto"):
        elements, away, back = [], [], 0
        for part in crystals.chunks(_AT_ONCE):
            found = codec.decode(codec(part), clustering=clustering)
            meant = codec.standardized(part)
            back += len(found.structures)
            elements.append(same_elements(found, meant))
            away.append(rmsd(found.structures, meant) if not found.skipped else torch.full((1,), torch.inf))
        distance = torch.cat(away)
        cell = "not tried"
        if clustering == "auto":
            some = crystals[torch.randperm(len(crystals), generator=_rng(3))[:match]]
            found = codec.decode(codec(some), clustering=clustering)
            hit = matches(found, to_pymatgen(some), found.structures)
            cell = f"{hit.mean():.2%} of {len(some)}"
        print(
            f"| {clustering or 'none'} | {back} | {torch.cat(elements).mean():.2%} | {distance.max():.2g} | "
            f"{distance.mean():.2g} | {cell} |",
            flush=True,
        )


def noise(codec: CrysTens, crystals: StructureBatch, groups: Tensor, levels: Sequence[float]) -> None:
    """Add Gaussian noise to tensors, decode them in two ways, and count what is recovered."""
    meant, targets = codec.standardized(crystals), to_pymatgen(crystals)
    clean = codec.encode(crystals, groups)
    counts = [Counter(one.atomic_numbers.tolist()) for one in meant]
    for level in levels:
        noisy = clean + level * torch.randn(clean.shape, generator=_rng(1), dtype=clean.dtype)
        ideal = sum(
            crystens_loop.ideal_share_of_elements(count, level, codec.ranges["atomic_number"])
            for count in counts
        ) / len(counts)
        bound = f"{ideal:.1%}" if codec.elements == "number" else ""
        for clustering, name in (("auto", "automatic"), ("paper", "K = 3 and 6")):
            found = codec.decode(noisy, clustering=clustering)
            elements = same_elements(found, meant)
            right = torch.cat([meant[i].atomic_numbers for i in found.index.tolist()])
            told = replace(found, structures=found.structures.replace(atomic_numbers=right))
            sizes_right = torch.equal(found.structures.n_atoms, meant.n_atoms[found.index])
            geometry = matches(told, targets, told.structures).mean() if sizes_right else float("nan")
            refined = found.refined()
            group = (refined.space_group == groups[found.index]).double().sum() / len(crystals)
            print(
                f"| {codec.elements} | {level:.0%} | {name} | {elements.mean():.1%} | {bound} | "
                f"{geometry:.1%} | "
                f"{matches(found, targets, found.structures).mean():.1%} | "
                f"{matches(found, targets, refined.structures).mean():.1%} | {group:.1%} |",
                flush=True,
            )


def descriptors(codec: CrysTens, crystals: StructureBatch, groups: Tensor, levels: Sequence[float]) -> None:
    """Share of crystals whose elements come back from noise, with layers of chemical descriptors."""
    print(f"\n### Descriptors, {len(crystals)} crystals drawn at random: elements exact\n")
    print("| elements as | descriptors | " + " | ".join(f"{level:.0%}" for level in levels) + " |")
    print("|---|---|" + "---|" * len(levels))
    meant = codec.standardized(crystals)
    for elements in ("number", "periodic"):
        for names in ((), DESCRIPTORS[:1], DESCRIPTORS[:2], DESCRIPTORS[:3], DESCRIPTORS):
            other = CrysTens.from_config({**codec.config(), "elements": elements, "descriptors": names})
            clean = other.encode(crystals, groups)
            found = [
                other.decode(clean + level * torch.randn(clean.shape, generator=_rng(1), dtype=clean.dtype))
                for level in levels
            ]
            shares = " | ".join(f"{same_elements(one, meant).mean():.1%}" for one in found)
            print(f"| {elements} | {', '.join(names) or 'none'} | {shares} |", flush=True)


def speed(codec: CrysTens, crystals: StructureBatch, groups: Tensor, *, seconds: float) -> None:
    """Crystals a second; the loop gets fewer."""
    began = time.perf_counter()
    tensors = []
    for start in range(0, len(crystals), _AT_ONCE):
        tensor = codec.encode(crystals[start : start + _AT_ONCE], groups[start : start + _AT_ONCE])
        tensors = [tensor]  # the last one is kept: all of them would be gigabytes
    encoded = time.perf_counter() - began
    part = tensors[0]
    rates = {"encode": len(crystals) / encoded}
    for clustering in (None, "auto", "paper"):
        began = time.perf_counter()
        rounds = 0
        while time.perf_counter() - began < seconds:
            codec.decode(part, clustering=clustering)
            rounds += 1
        taken = time.perf_counter() - began
        rates[f"decode, clustering {clustering or 'none'}"] = rounds * len(part) / taken
    start = (len(crystals) - 1) // _AT_ONCE * _AT_ONCE  # of those whose tensors were decoded
    few = to_ase(crystals[start : start + _LOOPED])
    began = time.perf_counter()
    looped = [
        crystens_loop.encode(atoms, int(group), codec.max_atoms, codec.ranges)
        for atoms, group in zip(few, groups[start:], strict=False)
    ]
    plain = {"encode": len(few) / (time.perf_counter() - began)}
    began = time.perf_counter()
    for one in looped:
        crystens_loop.decode(one, codec.ranges)
    plain["decode"] = len(few) / (time.perf_counter() - began)
    print(f"\n### Speed, {torch.get_num_threads()} threads, float64\n")
    print("| what | crystals/s | plain loop | ratio |\n|---|---|---|---|")
    for name, rate in rates.items():
        other = plain[name.split(",")[0]]
        print(f"| {name} | {rate:.0f} | {other:.0f} | {rate / other:.0f} |")
    print(f"\nAll {len(crystals)} encoded in {encoded:.1f} s.")


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crystens.codec", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few crystals: does it run?")
    add("--data", type=Path, default=DATA, help="crystals, with spacegroup_number (.extxyz.gz)")
    add("--sample", type=int, default=500, help="crystals for the tables of noise and matching")
    add("--noise", default="0.01,0.02,0.05", help="standard deviations, of the normalised range")
    add("--parts", default="round_trip,noise,descriptors,speed")
    add("--threads", type=int, help="torch threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.data.exists():
        print(f"skipped: {options.data} is not there")
        return 0
    try:
        crystals = read_dataset(options.data, property=None).structures
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.quick:
        crystals = crystals[torch.randperm(len(crystals), generator=_rng(2))[:60]]
        options.sample = 12
    codec = CrysTens()
    bad = codec.find_problems(crystals)
    if bad:
        print(f"{len(bad)} crystals are left out, the first: {next(iter(bad.values()))}")
        crystals = crystals[[i for i in range(len(crystals)) if i not in bad]]
    codec = codec.fit(crystals)
    groups = torch.tensor([int(info["spacegroup_number"]) for info in crystals.info])
    parts = options.parts.split(",")
    if "round_trip" in parts:
        round_trip(codec, crystals, match=options.sample)
    if "noise" in parts:
        chosen = torch.randperm(len(crystals), generator=_rng(0))[: options.sample]
        print(f"\n### Noise, {len(chosen)} crystals drawn at random; shares of them\n")
        print(
            "| elements as | noise | clustering | elements exact | at most possible "
            "| structure (elements given) | StructureMatcher | after refinement | space group |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for elements in ("number", "periodic"):
            other = CrysTens.from_config({**codec.config(), "elements": elements})
            levels = [float(level) for level in options.noise.split(",")]
            noise(other, crystals[chosen], groups[chosen], levels)
    if "descriptors" in parts:
        chosen = torch.randperm(len(crystals), generator=_rng(0))[: options.sample]
        levels = [float(level) for level in options.noise.split(",")]
        descriptors(codec, crystals[chosen], groups[chosen], levels)
    if "speed" in parts:
        mixed = torch.randperm(len(crystals), generator=_rng(4))
        speed(codec, crystals[mixed], groups[mixed], seconds=0.1 if options.quick else 3.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
