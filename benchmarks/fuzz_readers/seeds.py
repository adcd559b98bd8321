"""Small files as ASE, pymatgen and whorl write them: what the mutations begin with."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from whorl.datasets import Dataset, FeatureSet, save_dataset, save_features
from whorl.datasets.extxyz import write_extxyz
from whorl.generators import CVAE, fit, save_model
from whorl.representations import ACSF
from whorl.structures import from_ase
from whorl.surrogates import NetworkSurrogate
from whorl.workflow.recipe import read_recipe, save_recipe

Named = Iterator[tuple[str, bytes]]
"""Names, whose suffix tells the format, and contents."""

RECIPES = (
    """\
# A run on clusters.
name: pt4
seed: 3
defaults: &net {epochs: 10, hidden: 8}
data:
  clusters: {element: Pt, atoms: 4, count: 30, calculator: emt, window: [0.0, 5.0], processes: 1}
representation:
  cutoff: {radius: 8.0, function: polynomial}
  g2: [[0.1, 0.0], [0.5, 2.5], [5.0e-1, 3.5]]
generator: {<<: *net, layers: 1, latent: 2}
surrogate:
  <<: *net
generate: {targets: [2.0, 3], samples: 5}
reconstruct: {kind: algorithm1, samples: 2, starts: 1, hops: 1}
report: {gallery: 1, title: "Pt4: 'new' clusters"}
""".replace("defaults: &net {epochs: 10, hidden: 8}\n", "")
    .replace("{<<: *net, layers", "&net {epochs: 10, hidden: 8, layers")
    .replace("  <<: *net\n", "  epochs: 20\n"),
    """\
name: oxides
data:
  files: {path: crystals.csv, property: formation_energy, format: csv}
representation: {kind: crystens, max_atoms: 12, descriptors: [valence_electrons]}
sampling: {sizes: [300, 20], split: 0.9}
generator: {kind: diffusion, epochs: 80, conditions: [elements, crystal_system], cascade: yes}
generate:
  targets: [-2.0, -1.0e+0, .5]
  elements: [O, No]
  selection: {pool: 10_000, tolerance: 1e-1}
reconstruct: {clustering: auto, refine: false}
evaluate: {tolerance: 0.3, cgcnn: no}
""",
    """\
name: features
seed: 1
data:
  features:
    path: fps.npz
    property: formation_energy
    composition: Pt10
generate:
  targets:
  - 1.9
  - 2.8
reconstruct:
evaluate:
  calculator: {name: chgnet, options: {batch_size: 8}, bulk_energy: {Pt: -6.05}}
""",
)

CIFS = (
    """\
data_rutile
_cell_length_a 4.594(1)
_cell_length_b 4.594(1)
_cell_length_c 2.959
_cell_angle_alpha 90.
_cell_angle_beta 90.
_cell_angle_gamma 90.
_symmetry_space_group_name_H-M 'P 42/m n m'
_symmetry_Int_Tables_number 136
_chemical_formula_sum 'O2 Ti'
_cell_formula_units_Z 2
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Ti1 Ti4+ 0 0 0 1
O1 O2- 0.305(1) 0.305(1) 0.0 1.
""",
    """\
# two blocks, one of them without atoms
data_global
_journal_name_full
;
 A text field with data_ in it
 and 'quotes'
;
data_hcp
_space_group_name_Hall '-P 6c 2c'
_cell_length_a 3.209
_cell_length_b 3.209
_cell_length_c 5.211
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
loop_
_space_group_symop_operation_xyz
 'x,y,z' '-x,-y,-z' 'x-y, x, z+1/2' '-x+y, -x, -z+1/2' '-y, x-y, z' 'y, -x+y, -z'
loop_
_atom_site_label _atom_site_fract_x _atom_site_fract_y _atom_site_fract_z
 Mg1 0.3333 0.6667 0.25
""",
)


def crystals() -> list[Atoms]:
    """Return a few crystals as ASE has them, with a label each."""
    made = [
        bulk("Cu", cubic=True),
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("Mg"),
        bulk("GaAs", "zincblende", a=5.65, cubic=True),
        Atoms(
            "SrTiO3",
            scaled_positions=[(0, 0, 0), (0.5,) * 3, *(0.5 * (1 - np.eye(3)))],
            cell=[3.9] * 3,
            pbc=True,
        ),
    ]
    for number, atoms in enumerate(made):
        atoms.rattle(0.01, seed=number)
        atoms.info |= {"energy_per_atom": -1.5 - number, "material_id": f"m-{number}", "tags": [1, 2]}
    return made


def labelled(atoms: Atoms, energy: float) -> Atoms:
    """Return atoms with results of a calculation, a fixed atom and an array of their own."""
    atoms = atoms.copy()
    atoms.set_constraint(FixAtoms([0]))
    atoms.new_array("charges", np.linspace(-0.5, 0.5, len(atoms)))
    results: dict[str, Any] = {"energy": energy, "forces": np.full((len(atoms), 3), 0.25)}
    if atoms.pbc.all():
        results["stress"] = np.linspace(0.1, 0.6, 6)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def pymatgen_crystals() -> list[Structure]:
    """Return a few crystals as pymatgen has them."""
    return [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure.from_spacegroup(
            "R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]
        ),
        Structure(
            Lattice.from_parameters(5, 6, 7, 80, 95, 110), ["Si", "O", "H"], [[0.1] * 3, [0.4] * 3, [0.7] * 3]
        ),
    ]


def cif_seeds(folder: Path, real: Path | None) -> Named:
    for number, atoms in enumerate(crystals()):
        write(folder / "a.cif", atoms)
        yield f"ase{number}.cif", (folder / "a.cif").read_bytes()
    for number, structure in enumerate(pymatgen_crystals()):
        for symprec in (None, 0.01):
            yield f"pymatgen{number}.cif", str(CifWriter(structure, symprec=symprec)).encode()
    for number, text in enumerate(CIFS):
        yield f"own{number}.cif", text.encode()
    for path in sorted(real.glob("*.cif"))[::4] if real is not None else []:
        yield path.name, path.read_bytes()


def poscar_seeds(folder: Path, real: Path | None) -> Named:
    for number, atoms in enumerate([*crystals(), labelled(crystals()[0], -1.0)]):
        for direct in (True, False):
            for version in (True, False):
                write(folder / "POSCAR", atoms, format="vasp", direct=direct, vasp5=version)
                yield f"ase{number}.vasp", (folder / "POSCAR").read_bytes()
    for number, structure in enumerate(pymatgen_crystals()):
        yield f"pymatgen{number}.poscar", Poscar(structure).get_str().encode()
    selective = Poscar(pymatgen_crystals()[0], selective_dynamics=[[True, False, True]] * 8).get_str()
    yield "selective.vasp", selective.encode()
    yield "volume.vasp", selective.replace("\n1.0\n", "\n-180.0\n").encode()


def extxyz_seeds(folder: Path, real: Path | None) -> Named:
    path = folder / "a.extxyz"
    frames = [labelled(atoms, -1.0 - number) for number, atoms in enumerate(crystals())]
    for parts in (crystals(), frames, [labelled(molecule("C2H6"), -3.0), molecule("H2O")]):
        write(path, parts, format="extxyz")
        yield "ase.extxyz", path.read_bytes()
        yield "ase.extxyz.gz", gzip.compress(path.read_bytes(), mtime=0)
        write_extxyz(from_ase(parts), path, ids=[f"id {i}" for i in range(len(parts))])
        yield "own.extxyz", path.read_bytes()
    write(path, molecule("CH3OH"), format="xyz")
    yield "plain.xyz", path.read_bytes()


def table_seeds(folder: Path, real: Path | None) -> Named:
    cifs = [data.decode() for _, data in cif_seeds(folder, None)]
    table = pd.DataFrame(
        {
            "material_id": [f"m-{i}" for i in range(len(cifs))],
            "cif": cifs,
            "energy_per_atom": np.linspace(-3, 1, len(cifs)),
            "name": ["NA", "a, b", 'say "x"', "μ", *["x"] * (len(cifs) - 4)],
        }
    )
    yield "table.csv", table.to_csv(index=False).encode()
    yield "few.csv", table[:2].to_csv(index=False).encode()
    yield "table.csv.gz", gzip.compress(table[:4].to_csv().encode(), mtime=0)


def database_seeds(folder: Path, real: Path | None) -> Named:
    for suffix in ("json", "db"):
        path = folder / f"a.{suffix}"
        path.unlink(missing_ok=True)
        with connect(path) as database:
            for number, atoms in enumerate(crystals()):
                database.write(
                    labelled(atoms, -float(number)), energy_per_atom=-1.5 - number, name=f"n{number}"
                )
        yield path.name, path.read_bytes()


def recipe_seeds(folder: Path, real: Path | None) -> Named:
    for number, text in enumerate(RECIPES):
        yield f"recipe{number}.yaml", text.encode()
    for number, path in enumerate(sorted(Path(__file__).parents[2].glob("recipes/*.yaml"))):
        yield f"shipped{number}.yaml", path.read_bytes()
        save_recipe(read_recipe(path), folder / "resolved.yaml")
        yield f"resolved{number}.yaml", (folder / "resolved.yaml").read_bytes()


def small_dataset() -> Dataset:
    frames = [labelled(atoms, -1.0) for atoms in crystals()]
    return Dataset(
        structures=from_ase(frames),
        properties={"energy_per_atom": torch.linspace(-3, 1, len(frames), dtype=torch.float64)},
        ids=tuple(f"c{i}" for i in range(len(frames))),
    )


def dataset_seeds(folder: Path, real: Path | None) -> Named:
    whole = small_dataset()
    molecules = Dataset(
        structures=from_ase([molecule("H2O"), molecule("CO2")]), properties={}, ids=("a", "b")
    )
    for name, dataset in (("whole", whole), ("molecules", molecules)):
        save_dataset(dataset, folder / "d.safetensors")
        yield f"{name}.safetensors", (folder / "d.safetensors").read_bytes()


def small_features() -> FeatureSet:
    acsf = ACSF(species=["Pt"], cutoff=6.0, g2=[(0.5, 1.0), (0.5, 2.0)])
    rng = np.random.default_rng(0)
    frames = [
        Atoms("Pt3", [(0, 0, 0), (2.5 + 0.5 * x, 0, 0), (0, 2.5 + 0.5 * y, 0)])
        for x, y in rng.random((24, 2))
    ]
    return FeatureSet(
        features=acsf(from_ase(frames)),
        representation=acsf.config(),
        fingerprint=acsf.fingerprint,
        properties={"energy": torch.linspace(0, 1, len(frames), dtype=torch.float64)},
        ids=tuple(f"c{i}" for i in range(len(frames))),
    )


def feature_seeds(folder: Path, real: Path | None) -> Named:
    save_features(small_features(), folder / "f.safetensors")
    yield "f.safetensors", (folder / "f.safetensors").read_bytes()


def model_seeds(folder: Path, real: Path | None) -> Named:
    rows = small_features()
    shape = tuple(rows.features.shape[1:])
    for model in (
        CVAE(shape=shape, properties=1, layers=1, hidden=4, latent=2),
        NetworkSurrogate(shape=shape, layers=1, hidden=4),
    ):
        fit(model, rows.features, rows.properties["energy"], validation=torch.arange(4), seed=0, epochs=2)
        save_model(model, folder / "m.safetensors")
        yield f"{model.kind}.safetensors", (folder / "m.safetensors").read_bytes()


def row_seeds(folder: Path, real: Path | None) -> Named:
    rows = {
        "features": "0123456789abcdef",
        "rows": [*range(20)],
        "train": [*range(16)],
        "validation": [16, 17, 18, 19],
    }
    yield "rows.json", json.dumps(rows, indent=1).encode()
