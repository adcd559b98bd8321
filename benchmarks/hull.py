"""Convex hulls of the table of the Materials Project of April 2019: right, and how fast.

* Corrections: uncorrected energies of some 330 compounds that pymatgen brings, computed by the Materials
  Project too, against those that the table gives back; with the elements' energies of pymatgen and, if the
  file of 2023 is there, with those.
* Corrections by formula, against pymatgen's ``MaterialsProject2020Compatibility``: equality and time.
* Distances of all phases of systems of two to five elements, against pymatgen's ``PhaseDiagram``.
* How much the scheme matters: distances within the legacy scheme and within MP2020, and what it would cost to
  compare an MP2020 energy with the table as it comes.
* One entry left out: how often a ground state of the table stays below what is left, and by how much.
* Energies by CHGNet of measured crystals, as they are or relaxed, against the table: formation energies and
  distances.

The energies above the hull of the Materials Project of 2024 are not available offline, so that they are not
compared here. Without the table, a small made-up one shows that all of it runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
import warnings
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from whorl.evaluation.hull import HullEntry, HullReference, read_hull
from whorl.evaluation.hull.corrections import (
    amounts_of,
    canonical_formula,
    correction,
    elemental_energies,
)
from whorl.structures import StructureBatch

TABLE = Path("../shared/data/hull/mp2019_formation_energies.csv.xz")
ELEMENTS_2023 = Path("../shared/data/hull/mp_2023_elemental_entries.json.gz")
CRYSTALS = Path("../shared/data/crystals_pcd20k.extxyz.gz")
MEV = 1000.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="table of formation energies")
    parser.add_argument("--systems", type=int, default=200, help="chemical systems")
    parser.add_argument("--crystals", type=int, default=0, help="crystals computed by CHGNet")
    parser.add_argument("--relax", action="store_true", help="relax these crystals")
    parser.add_argument("--quick", action="store_true", help="few systems, no energies")
    options = parser.parse_args()
    count = 6 if options.quick else options.systems
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    hull = read_hull(f"mp2019={options.table}") if options.table.exists() and not options.quick else small()
    read = time.perf_counter() - start
    start = time.perf_counter()
    systems = chosen(hull, count)
    print(
        f"{len(hull.entries):,} phases read in {read:.1f} s, indexed in {time.perf_counter() - start:.1f} s"
    )
    if not options.quick:
        uncorrected(hull)
    classes(hull, 20 if options.quick else 500)
    oracle(hull, systems)
    schemes(hull, systems)
    left_out(hull, systems)
    if options.crystals:
        chgnet(hull, options.crystals, relax=options.relax)
    return 0


def small() -> HullReference:
    """Return a made-up table of a few systems."""
    choose = random.Random(0)
    entries = [HullEntry(formula=e, energy=-3.0) for e in ("Na", "Fe", "S", "O", "Cl")]
    for first in ("Na", "Fe", "NaFe"):
        for second in ("S", "O", "Cl"):
            entries += [
                HullEntry(formula=f"{first}{second}{n}", energy=-3.5 - choose.random()) for n in (1, 2, 3)
            ]
    return HullReference(entries=tuple(entries), scheme="mp-legacy", source="made up")


def chosen(hull: HullReference, count: int) -> list[frozenset[str]]:
    """Return random systems of two to five elements that have a phase of all of them."""
    systems = sorted(
        {frozenset(amounts_of(canonical_formula(e.formula))) for e in hull.entries}, key=lambda s: sorted(s)
    )
    systems = [s for s in systems if 2 <= len(s) <= 5]
    hull.system(systems[0])
    return random.Random(1).sample(systems, min(count, len(systems)))


def shown(values: list[float] | np.ndarray) -> str:
    absolute = np.abs(np.asarray(values)) * MEV
    return (
        f"median {np.median(absolute):.1f}, mean {absolute.mean():.1f}, "
        f"90 % {np.quantile(absolute, 0.9):.1f} meV/atom"
    )


def uncorrected(hull: HullReference) -> None:
    file = files("pymatgen.analysis.compatibility") / "calc_compounds.json.gz"
    computed = json.loads(gzip.decompress(file.read_bytes()))
    pymatgen = elemental_energies()
    rest: dict[str, list[float]] = {}
    shift: dict[str, list[float]] = {}
    later = {}
    if ELEMENTS_2023.exists():
        data = json.loads(gzip.decompress(ELEMENTS_2023.read_bytes()))
        later = {e: d["energy"] / sum(d["composition"].values()) for e, d in data.items()}
    for entry in computed.values():
        amounts = entry["composition"]
        if len(amounts) == 1:
            continue
        formula = canonical_formula(amounts)
        phases = {p.formula: p for p in hull.phases(amounts)}
        if formula not in phases:
            continue
        n = sum(amounts.values())
        difference = phases[formula].energy - correction(formula, "mp-legacy").value - entry["energy"] / n
        group = next((e for e in ("Br", "I") if e in amounts), "others")
        rest.setdefault(group, []).append(difference)
        if later:
            moved = sum((later[e] - pymatgen[e]) * k for e, k in amounts.items()) / n
            shift.setdefault(group, []).append(difference + moved)
    print("\nuncorrected energies of compounds that pymatgen brings, from the table:")
    for group, values in sorted(rest.items()):
        print(
            f"  with {group}, {len(values)} compounds: {shown(values)}, "
            f"mean difference {np.mean(values) * MEV:+.1f}"
        )
        if group in shift:
            other = shift[group]
            print(f"    by the elements of 2023: {shown(other)}, mean difference {np.mean(other) * MEV:+.1f}")


def classes(hull: HullReference, count: int) -> None:
    from pymatgen.core import Composition
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
    from pymatgen.entries.computed_entries import ComputedEntry
    from pymatgen.io.vasp.sets import MPRelaxSet

    formulas = sorted(
        {
            canonical_formula(e.formula)
            for e in random.Random(2).sample(hull.entries, min(count, len(hull.entries)))
        }
    )
    formulas = [f for f in formulas if len(amounts_of(f)) > 1]
    us = MPRelaxSet.CONFIG["INCAR"]["LDAUU"]
    scheme = MaterialsProject2020Compatibility(check_potcar=False)
    start = time.perf_counter()
    theirs = []
    for formula in formulas:
        composition = Composition(formula)
        strongest = max(composition.elements, key=lambda e: e.X).symbol
        hubbards = {e: u for e, u in us.get(strongest, {}).items() if e in amounts_of(formula)}
        parameters = {"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards}
        entry = scheme.process_entry(ComputedEntry(composition, 0.0, parameters=parameters))
        theirs.append(entry.correction / composition.num_atoms)
    middle = time.perf_counter()
    ours = [correction(formula, "mp2020") for formula in formulas]
    end = time.perf_counter()
    sulfates = [f for f in formulas if "S" in amounts_of(f) and "O" in amounts_of(f)]
    equal = [abs(a.value - b) < 1e-9 for a, b in zip(ours, theirs, strict=True)]
    differing = [f for f, same in zip(formulas, equal, strict=True) if not same]
    print(
        f"\ncorrections of {len(formulas)} formulas: {sum(equal)} equal pymatgen's (of the others, "
        f"{len(set(differing) & set(sulfates))} of {len(differing)} have S and O: sulfates are no sulfides), "
        f"{(middle - start) / max(end - middle, 1e-9):.1f} times as fast "
        f"({(end - middle) / len(formulas) * 1e3:.2f} ms each); "
        f"{np.mean([bool(c.warnings) for c in ours]):.1%} with a doubt"
    )


def oracle(hull: HullReference, systems: list[frozenset[str]]) -> None:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    times = np.zeros(2)
    worst, count = 0.0, 0
    for elements in systems:
        system = hull.system(elements, "mp2020")
        own = [k for k, p in enumerate(system.phases) if set(amounts_of(p.formula)) == set(elements)]
        start = time.perf_counter()
        entries = [
            PDEntry(Composition(p.formula), p.energy * Composition(p.formula).num_atoms)
            for p in system.phases
        ]
        diagram = PhaseDiagram(entries)
        theirs = [diagram.get_e_above_hull(entries[k]) for k in own]
        middle = time.perf_counter()
        ours = [system.formation_energies[k] - system.decomposition(system.fractions[k])[0] for k in own]
        times += np.array([middle - start, time.perf_counter() - middle])
        worst = max([worst, *np.abs(np.subtract(ours, theirs)).tolist()])
        count += len(own)
    print(
        f"\n{len(systems)} systems, {count} phases of all elements: energies above the hull differ from "
        f"pymatgen's PhaseDiagram by at most {worst:.0e} eV/atom; pymatgen "
        f"{times[0] / len(systems) * 1e3:.1f} ms a system, whorl {times[1] / len(systems) * 1e3:.1f} ms"
    )


def schemes(hull: HullReference, systems: list[frozenset[str]]) -> None:
    within, naive, label, total = [], [], 0, 0
    start = time.perf_counter()
    for elements in systems:
        legacy, modern = hull.system(elements), hull.system(elements, "mp2020")
        for k, phase in enumerate(legacy.phases):
            if set(amounts_of(phase.formula)) != set(elements):
                continue
            old = legacy.formation_energies[k] - legacy.decomposition(legacy.fractions[k])[0]
            new = modern.formation_energies[k] - modern.decomposition(modern.fractions[k])[0]
            wrong = modern.phases[k].energy - legacy.hull_energy(amounts_of(phase.formula))[0]
            within.append(new - old)
            naive.append(wrong - new)
            label += (wrong <= 0.1) != (new <= 0.1)
            total += 1
    print(
        f"\nenergies above the hull within MP2020 and within the legacy scheme differ by {shown(within)}\n"
        f"MP2020 energies on the legacy hull would be wrong by {shown(naive)}; {label / total:.1%} of "
        f"{total} labels at 0.1 eV/atom would change ({time.perf_counter() - start:.1f} s)"
    )


def left_out(hull: HullReference, systems: list[frozenset[str]]) -> None:
    below = []
    for elements in systems:
        system = hull.system(elements, "mp2020")
        for k, phase in enumerate(system.phases):
            if set(amounts_of(phase.formula)) != set(elements):
                continue
            above = system.formation_energies[k] - system.decomposition(system.fractions[k])[0]
            if above > 1e-6:
                continue
            others = HullReference(
                entries=tuple(p for p in system.phases if p is not phase), scheme="mp2020", source="left out"
            )
            below.append(phase.energy - others.system(elements).hull_energy(amounts_of(phase.formula))[0])
    if below:
        print(
            f"\n{len(below)} phases on the hull, each left out in turn: {shown(below)} below what is left; "
            f"{np.mean(np.asarray(below) < -0.1):.1%} by more than 0.1 eV/atom"
        )


def crystals(hull: HullReference, count: int) -> tuple[Any, list[str]]:
    """Return measured crystals of up to 12 atoms whose formula the table has, and these formulas."""
    from whorl.datasets import read_dataset

    frames: list[str] = []
    known = {canonical_formula(e.formula) for e in hull.entries}
    formulas = []
    with gzip.open(CRYSTALS, "rt", encoding="utf-8") as file:
        while len(frames) < count and (first := file.readline()):
            lines = [first, *(file.readline() for _ in range(int(first) + 1))]
            formula = canonical_formula(dict(Counter(line.split()[0] for line in lines[2:])))
            if int(first) <= 12 and formula in known and len(amounts_of(formula)) > 1:
                frames.append("".join(lines))
                formulas.append(formula)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crystals.extxyz"
        path.write_text("".join(frames), encoding="utf-8")
        return read_dataset(path, property=None).structures, formulas


def chgnet(hull: HullReference, count: int, *, relax: bool) -> None:
    import torch

    from whorl.potentials import make_potential, relaxed

    torch.set_num_threads(1)
    structures, formulas = crystals(hull, count)
    potential = make_potential("chgnet")
    if relax:
        parts = [relaxed(chunk, potential, steps=200) for chunk in structures.chunks(16)]
        structures = StructureBatch.concatenate([part.structures for part in parts])
        energy = torch.cat([part.energy for part in parts])
    else:
        energy = torch.cat([potential(chunk).energy for chunk in structures.chunks(16)])
    start = time.perf_counter()
    distances = hull.evaluate(structures, energy.tolist(), "mp2020", potential=potential.name)
    took = time.perf_counter() - start
    differences, stable, above = [], [], []
    for formula, distance in zip(formulas, distances, strict=True):
        if distance.energy_above_hull is None or distance.formation_energy is None:
            continue
        system = hull.system(amounts_of(formula), "mp2020")
        place = [p.formula for p in system.phases].index(formula)
        formation = float(system.formation_energies[place])
        differences.append(distance.formation_energy - formation)
        stable.append(formation - system.decomposition(system.fractions[place])[0] < 1e-6)
        above.append(distance.energy_above_hull)
    of_stable = np.asarray(above)[np.asarray(stable)]
    how = "relaxed" if relax else "as they are"
    print(
        f"\n{len(above)} measured crystals {how}, by CHGNet: formation energies against the lowest of "
        f"the table at the composition {shown(differences)}, median difference "
        f"{np.median(differences) * MEV:+.0f}; {len(of_stable)} are of compositions on the hull, of them "
        f"{np.mean(of_stable <= 0.05):.0%} are at most 0.05 and {np.mean(of_stable <= 0.1):.0%} at most 0.1 "
        f"eV/atom above it ({took / len(above) * 1e3:.1f} ms each for the hull)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
