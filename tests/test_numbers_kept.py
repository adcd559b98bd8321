"""The same settings give the same numbers as before: small seeded runs against stored ones.

The numbers agree bit for bit with those of commit d84aef5. Runs of all kinds of recipe, decodings and round
trips were compared; those of commit c9a2448 differ for these stated reasons alone:

=========  ===========================================================  =====================================
commit     change                                                       where it shows
=========  ===========================================================  =====================================
b06dc63    features that hardly vary count as constant                  training, sampling and distances
269de9b    CIF is read by gemmi                                         last digits, and so seeds of searches
0db129c    searches keep atoms 0.55 of their covalent distance apart    round trips of crystals
d84aef5    random numbers of a search follow from the target's name     all searches
32eb001    decoded sites have elements of the data                      closed form, unless elements: any
c2a9e3c    selected samples are in random order                         their order
=========  ===========================================================  =====================================

Where a change of method changes them, write them anew (``python -m tests.test_numbers_kept``) and say why in
the commit. Tolerances are relative to the largest number of a group: 1e-8 for float64, more for networks
(float32) and for searches, which amplify the rounding of the processor.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

from whorl.datasets import load_dataset, load_features
from whorl.reconstruction import InversionProblem, algorithm1, solve
from whorl.representations import ACSF, CrysTens
from whorl.structures import as_batch
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.stages import run_recipe

STORED = Path(__file__).with_suffix(".json")

CLUSTERS = """\
name: clusters
seed: 3
data:
  clusters: {element: Pt, atoms: 4, count: 30, calculator: emt, window: [0.0, 5.0], processes: 1}
representation:
  cutoff: 8.0
  g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]]
  g5: [[0.05, 1.0, 1.0], [0.05, 1.0, -1.0]]
sampling: {sizes: [24]}
generator: {epochs: 10, layers: 1, hidden: 8, latent: 2}
surrogate: {epochs: 10, layers: 1, hidden: 8}
generate: {targets: [2.0, 3.0], samples: 5}
reconstruct: null
report: {gallery: 1}
"""

FEATURES = """\
name: features
seed: 1
data: {features: {path: PATH, property: y, composition: Pt4}}
representation: {cutoff: 8.0, g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]]}
generator: {members: 2, keep: last, epochs: 10, layers: 1, hidden: 8, latent: 2}
surrogate: {epochs: 10, layers: 1, hidden: 8}
generate: {targets: [0.5], samples: 8, selection: {pool: 60}}
reconstruct: null
report: {gallery: 1}
"""


def of_clusters(folder):
    """Return numbers of a run from atoms to features of new ones."""
    run_recipe(parse_recipe(CLUSTERS), folder)
    data = load_dataset(folder / "data/dataset.safetensors")
    features = load_features(folder / "encode/features.safetensors")
    rows = json.loads((folder / "sampling/n24/rows.json").read_text())
    generated = load_features(folder / "generate/n24/generated.safetensors")
    return {
        "clusters: labels": (1e-8, data.properties["formation_energy"]),
        "clusters: atoms": (1e-8, data.structures.positions[:40]),
        "clusters: features": (1e-8, features.features[::5]),
        "clusters: rows": (0, torch.tensor(rows["rows"])),
        "clusters: generated": (1e-3, generated.features),
    } | of_targets("clusters", folder)


def of_features(folder):
    """Return numbers of a run from features to selected features."""
    random = np.random.default_rng(0)
    y = random.uniform(0, 1, 40)
    rows = np.stack([y, y**2, 1 - y, np.sin(3 * y), random.uniform(0, 1, 40), np.cos(y)], 1)
    folder.mkdir()
    np.savez(folder / "rows.npz", features=rows, y=y)
    recipe = FEATURES.replace("PATH", str(folder / "rows.npz"))
    run_recipe(parse_recipe(recipe), folder / "run")
    generated = load_features(folder / "run/generate/all/generated.safetensors")
    return {"features: selected": (1e-3, generated.features)} | of_targets("features", folder / "run")


def of_targets(name, folder):
    (size,) = json.loads((folder / "evaluate/results.json").read_text())["sizes"].values()
    of_surrogate = [list(target["surrogate"].values()) for target in size["targets"]]
    spread = [target["diversity"]["spread"] for target in size["targets"]]
    return {
        f"{name}: surrogate": (1e-3, torch.tensor(of_surrogate, dtype=torch.float64)),
        f"{name}: spread": (1e-3, torch.tensor(spread, dtype=torch.float64)),
    }


def salts():
    structures = []
    for seed, (kind, pair) in enumerate(
        [("rocksalt", "NaCl"), ("zincblende", "GaAs"), ("cesiumchloride", "CsCl")]
    ):
        atoms = bulk(pair, kind, a=4.2 + 0.3 * seed)
        atoms.rattle(0.1, seed=seed)
        structures.append(atoms)
    return as_batch(structures)


def of_crystals():
    """Return numbers of encoding, decoding and searches of crystals."""
    structures = salts()
    codec = CrysTens(max_atoms=4)
    tensors = codec(structures)
    noise = torch.randn(tensors.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decoded = codec.decode(tensors + 0.01 * noise)
    acsf = ACSF(
        species=["Na", "Cl"], g2=[(0.1, 0.0), (0.5, 2.0), (0.5, 3.0)], cutoff=6.0, pooling=("mean", "std")
    )
    salt = structures[[0]]
    features = acsf(salt)
    problem = InversionProblem(representation=acsf, target=features, template=salt, names=("salt",))
    return {
        "crystals: tensors": (1e-8, tensors.sum(1)),
        "crystals: decoded": (
            1e-8,
            torch.cat([decoded.structures.positions, decoded.structures.cells.flatten(0, 1)]),
        ),
        "crystals: features": (1e-8, features),
        "crystals: search": (1e-2, solve(problem, seed=1, budget_evaluations=30).loss),
        "crystals: Algorithm 1": (
            1e-2,
            algorithm1(problem, seed=1, starts=2, hops=2, iterations=15, polish=20).loss,
        ),
    }


def measured(folder: Path) -> dict:
    return of_clusters(folder / "clusters") | of_features(folder / "features") | of_crystals()


def test_the_same_settings_give_the_same_numbers(tmp_path):
    stored = json.loads(STORED.read_text())
    found = measured(tmp_path)
    assert found.keys() == stored.keys()
    lost = []
    for name, (tolerance, numbers) in found.items():
        expected = torch.tensor(stored[name], dtype=torch.float64)
        numbers = numbers.double().flatten()
        scale = float(expected.abs().max())
        if len(numbers) != len(expected) or float((numbers - expected).abs().max()) > tolerance * scale:
            lost.append(name)
    assert not lost, f"other numbers than before: {', '.join(lost)}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        numbers = {
            name: [float(f"{value:.12g}") for value in values.flatten().tolist()]
            for name, (_, values) in measured(Path(folder)).items()
        }
    STORED.write_text(json.dumps(numbers).replace("], ", "],\n") + "\n")
