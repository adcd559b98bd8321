"""Folders as ``whorl evaluate STRUCTURES`` writes them, with made-up values."""

import csv
import json

import numpy as np
import torch

from whorl.datasets import write_extxyz
from whorl.structures.batch import StructureBatch

SYSTEMS = (("Na", "Cl"), ("Ti", "O"), ("Sr", "Ti", "O"), ("Ba", "Zr", "O"), ("C",))


def crystals(count, *, seed=0):
    """Random crystals of a few systems, 2 to 12 atoms."""
    from ase.data import atomic_numbers

    rng = np.random.default_rng(seed)
    numbers, positions, cells, index = [], [], [], []
    for k in range(count):
        elements = SYSTEMS[int(rng.integers(len(SYSTEMS)))]
        n = int(rng.integers(len(elements), 13))
        chosen = [*elements, *rng.choice(elements, n - len(elements))]
        size = (18.0 * n) ** (1 / 3)
        cell = size * (np.eye(3) + 0.1 * rng.normal(size=(3, 3)))
        numbers += [atomic_numbers[element] for element in chosen]
        positions.append(rng.random((n, 3)) @ cell)
        cells.append(cell)
        index += [k] * n
    return StructureBatch(
        positions=torch.tensor(np.concatenate(positions) if count else np.zeros((0, 3))),
        cells=torch.tensor(np.array(cells).reshape(-1, 3, 3)),
        pbc=torch.ones(count, 3, dtype=torch.bool),
        atomic_numbers=torch.tensor(numbers, dtype=torch.long),
        structure_index=torch.tensor(index, dtype=torch.long),
    )


def metric(count, of, text=""):
    value = count / of if of else None
    return {
        "value": value,
        "low": None if value is None else max(0.0, value - 0.05),
        "high": None if value is None else min(1.0, value + 0.05),
        "count": count,
        "of": of,
        "unit": "",
        "text": text,
    }


def make_folder(
    folder, count=12, *, seed=0, unreadable=1, mean=0.15, without=(), name="{k}.cif", reason="not a CIF file"
):
    """Write one; every ``unreadable``-th row of the last ones has no structure."""
    from whorl.structures.composition import formula

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    structures = crystals(count, seed=seed)
    rows = []
    for k in range(count + unreadable):
        row = {"file": name.format(k=k), "index": k}
        if k >= count:
            rows.append({**row, "status": "unreadable", "reason": reason})
            continue
        lost = rng.random() < 0.05
        above = "" if lost else round(float(mean * rng.gamma(1.2) - 0.02), 7)
        rows.append(
            {
                **row,
                "formula": formula(structures[k]),
                "n_atoms": int(structures.n_atoms[k]),
                "status": "not converged" if rng.random() < 0.1 else "converged",
                "reason": "no elemental reference for Xe" if lost else "",
                "valid": bool(rng.random() < 0.9),
                "unique": bool(rng.random() < 0.8),
                "novel": bool(rng.random() < 0.7),
                "energy_per_atom": round(float(rng.normal(-5, 1)), 7),
                "formation_energy": "" if lost else round(float(rng.normal(-1, 0.6)), 7),
                "energy_above_hull": above,
                "converged": bool(rng.random() < 0.9),
                "max_force": round(float(rng.gamma(2) * 0.02), 6),
                "pressure_kbar": round(float(rng.normal(0, 3)), 4),
                "rmsd_to_relaxed": round(float(rng.gamma(1.3) * 0.2), 5),
                "competing": "NaCl:1.0",
                "mattergen_sun": bool(rng.random() < 0.3),
                "crystens2024_E0": round(float(rng.normal(-5, 0.1)), 5),
                "crystens2024_E4": round(float(rng.normal(-5.5, 0.1)), 5),
                **{f"crystens2024_P{k}": float(10 ** rng.normal(1 - 0.5 * k, 0.4)) for k in (1, 2, 3, 4)},
            }
        )
    columns = [column for column in (rows[0] if rows else {"file": 0, "index": 0}) if column not in without]
    with (folder / "structures.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "metrics.json").write_text(json.dumps(metrics(count, unreadable)), encoding="utf-8")
    (folder / "phase_diagrams.json").write_text(json.dumps(diagrams(rows)), encoding="utf-8")
    for kind in ("generated", "relaxed"):
        info = tuple({"row": k, "file": name.format(k=k), "status": "converged"} for k in range(count))
        if count:
            write_extxyz(structures.replace(info=info), folder / f"{kind}.extxyz")
        else:
            (folder / f"{kind}.extxyz").write_text("", encoding="utf-8")
    return folder


def metrics(count, unreadable):
    return {
        "format": "whorl evaluation 1",
        "version": "0.1.0",
        "input": {
            "path": "data/crystals",
            "structures": count + unreadable,
            "read": count,
            "skipped": unreadable,
        },
        "potential": {"name": "chgnet", "scheme": "mp2020"},
        "relaxation": {"optimizer": "fire", "force_tolerance": 0.05, "steps": 500},
        "hull": {
            "source": "mp2019",
            "scheme": "mp2020",
            "sha256": "3f" * 32,
            "date": "2019-04-01",
            "entries": 132752,
        },
        "reference": {"path": "training.csv", "structures": 5000},
        "protocols": {
            "mattergen": {
                "summary": "Stable, unique and novel, as MatterGen counts them.",
                "settings": {"stable": 0.1, "matcher": {"ltol": 0.2, "stol": 0.3, "angle_tol": 5}},
                "departures": ["Ordered matcher only."],
                "metrics": {
                    "stable": metric(count // 2, count, "at most 0.1 eV/atom above the hull"),
                    "sun": metric(count // 4, count, "stable, unique and novel"),
                    "rmsd": {
                        "value": 0.2134,
                        "low": 0.18,
                        "high": 0.25,
                        "count": count,
                        "of": count,
                        "unit": "Å",
                        "text": "mean RMSD to relaxed",
                    },
                },
            },
            "crystens2024": {"summary": "", "settings": {}, "departures": [], "metrics": {}},
        },
        "warnings": ["The hull has no entry with Xe."],
        "counts": {"converged": count, "unreadable": unreadable},
    }


def diagrams(rows):
    known = {
        ("Na", "Cl"): {"Na": (1, 0), "Cl": (0, 1), "NaCl": (0.5, 0.5), "NaCl3": (0.25, 0.75)},
        ("Ti", "O"): {
            "Ti": (1, 0),
            "O": (0, 1),
            "TiO2": (1 / 3, 2 / 3),
            "Ti2O3": (0.4, 0.6),
            "TiO": (0.5, 0.5),
        },
        ("Sr", "Ti", "O"): {
            "Sr": (1, 0, 0),
            "Ti": (0, 1, 0),
            "O": (0, 0, 1),
            "SrO": (0.5, 0, 0.5),
            "TiO2": (0, 1 / 3, 2 / 3),
            "SrTiO3": (0.2, 0.2, 0.6),
            "Sr2TiO4": (2 / 7, 1 / 7, 4 / 7),
        },
    }
    energies = {
        "NaCl": -2.0,
        "NaCl3": -0.7,
        "TiO2": -3.3,
        "Ti2O3": -3.15,
        "TiO": -2.6,
        "SrO": -3.0,
        "SrTiO3": -3.5,
    }
    energies["Sr2TiO4"] = -3.4
    from ase.formula import Formula

    made = []
    for elements, compounds in known.items():
        points = [
            {
                "formula": name,
                "fractions": dict(zip(elements, shares, strict=True)),
                "formation_energy": energies.get(name, 0.0),
                "energy_above_hull": 0.1 if name == "NaCl3" else 0.0,
                "kind": "reference",
                "index": None,
                "stable": name != "NaCl3",
            }
            for name, shares in compounds.items()
        ]
        for row in rows:
            counts = Formula(row.get("formula", "")).count()
            if row.get("energy_above_hull", "") == "" or set(counts) != set(elements):
                continue
            total = sum(counts.values())
            points.append(
                {
                    "formula": row["formula"],
                    "fractions": {element: n / total for element, n in counts.items()},
                    "formation_energy": -2.0 + row["energy_above_hull"],
                    "energy_above_hull": row["energy_above_hull"],
                    "kind": "structure",
                    "index": row["index"],
                    "stable": False,
                }
            )
        made.append({"system": "-".join(elements), "elements": list(elements), "points": points})
    return made
