"""Every fingerprint with every generator: ``python -m benchmarks.matrix``.

Each pair goes the whole way, with all settings at their defaults and equal CPU time of training: fingerprints
of labelled clusters, a generator trained on 300 of them, structures of the generated fingerprints as they
are, without refinement, and their true energies. Pairs are runs in folders of their own, so that the same
command resumes.

For each pair: the share of structures within ±0.1 eV/atom of the target by the energy method, the share of
generated fingerprints that some structure may have (losses not above those between neighbouring real ones),
the spread of the structures as a part of that of real ones, and the seconds of the whole run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.axes import GENERATORS, REPRESENTATIONS
from whorl.datasets import load_features
from whorl.files import read_json, write_json
from whorl.generators import fit
from whorl.generators.base import TensorModel
from whorl.representations import ACSF
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.stages import run_recipe
from whorl.yaml_text import dump_yaml

FINGERPRINTS: dict[str, dict[str, Any]] = {
    "acsf max‖min": {"preset": "fung2022"},
    "acsf mean‖std": {
        **{name: ACSF.fung2022(["Pt"]).config()[name] for name in ("cutoff", "g2", "g5")},
        "pooling": ["mean", "std"],
    },
    "soap": {"kind": "soap", "cutoff": 8.0},
    "ace": {"kind": "ace"},
    "mbtr": {"kind": "mbtr"},
    "fchl19": {"kind": "fchl19"},
    "rows": {"kind": "rows"},
    "pdf": {"kind": "pdf"},
}
MODELS = ("cvae", "gan", "wgan_gp", "flow", "energy_based", "diffusion", "flow_matching")


def recipe(options: argparse.Namespace, representation: dict[str, Any], generator: dict[str, Any]) -> str:
    energy, n = {"name": options.calculator}, options.samples
    clusters = {
        "element": "Pt",
        "atoms": 10,
        "count": 1000,
        "calculator": options.calculator,
        "window": [0.0, 3.7],
    }
    if options.quick:
        clusters |= {"atoms": 4, "count": 30, "window": [0.0, 5.0], "processes": 1}
    data: dict[str, Any] = {"clusters": clusters}
    if options.data is not None:
        data = {"files": {"path": str(options.data.resolve()), "property": "formation_energy"}}
    search = {"reference": 0, "budget_evaluations": options.evaluations}
    if representation.get("kind") == "rows":  # its inverse is a closed form
        search = {}
    return dump_yaml(
        {
            "name": "matrix",
            "seed": options.seed,
            "data": data,
            "representation": representation,
            "sampling": {"sizes": [24 if options.quick else 300]},
            "generator": generator,
            "surrogate": {"epochs": 5 if options.quick else 200},
            "generate": {"targets": options.targets, "samples": n},
            "reconstruct": {"samples": n} | search,
            "evaluate": {"tolerance": 0.1, "calculator": energy},
            "report": {"gallery": 1},
        }
    )  # fmt: skip


def labelled(options: argparse.Namespace) -> Path:
    """Return a file of 1,000 labelled clusters, made where there is none yet."""
    text = recipe(options, FINGERPRINTS["acsf max‖min"], {"kind": "cvae"})
    folder = options.output / "clusters"
    run_recipe(parse_recipe(text), folder, monitor=Monitor(), until="data")
    return folder / "data/dataset.extxyz"


def epochs_in(seconds: float, make: Callable[[], TensorModel], *data: Tensor, **settings: Any) -> int:
    """Return the number of epochs that a model trains in some seconds of CPU time.

    The time is that of this process, so that other processes on the machine hardly change the result.

    Args:
        seconds: CPU time.
        make: Returns a new model.
        data: Features and properties, as of :func:`whorl.generators.fit`.
        settings: Further arguments of :func:`whorl.generators.fit`.
    """

    def trained(epochs: int) -> float:
        model = make()
        start = time.process_time()
        fit(model, *data, epochs=epochs, keep="last", **settings)
        return time.process_time() - start

    trained(1)  # loads what is loaded once
    once, pilot = trained(1), 2
    while (longer := trained(1 + pilot)) < 2 * once:  # the time of the epochs is not yet that of the rest
        pilot *= 2
    return max(1, round(seconds * pilot / (longer - once)))


def trained_epochs(seconds: float, kind: str, folder: Path, rows: int, seed: int) -> int:
    """Return the number of epochs that a generator trains in some CPU seconds on rows of a run."""
    features = load_features(folder / "encode/features.safetensors")
    chosen = json.loads((next((folder / "sampling").iterdir()) / "rows.json").read_text())["rows"][:rows]
    values = features.properties["formation_energy"][chosen]
    return epochs_in(
        seconds, lambda: GENERATORS.get(kind)(shape=features.features.shape[1:]),
        features.features[chosen], values, validation=torch.arange(len(chosen) // 5), seed=seed,
    )  # fmt: skip


def run_pair(options: argparse.Namespace, fingerprint: str, model: str) -> dict[str, Any]:
    """Run one pair, or read what it gave before."""
    folder = options.output / f"{fingerprint.replace(' ', '-').replace('‖', '-')}-{model}"
    kept = folder / "matrix.json"
    if kept.exists():
        return dict(read_json(kept))
    representation = FINGERPRINTS[fingerprint]
    text = recipe(options, representation, {"kind": model, "epochs": 1})
    run_recipe(parse_recipe(text), folder, monitor=Monitor(), until="sampling")
    epochs = trained_epochs(options.seconds, model, folder, 300, options.seed)
    text = recipe(options, representation, {"kind": model, "epochs": epochs, "keep": "last"})
    start = time.process_time()
    run_recipe(parse_recipe(text), folder, monitor=Monitor())
    (size,) = read_json(folder / "evaluate/results.json")["sizes"].values()
    targets = size["targets"]
    count = options.samples * len(targets)

    def total(section: str, name: str) -> float:
        return sum(
            target[section][name] * target[section]["count"] for target in targets if target.get(section)
        )

    known = all(t["inversion"]["percent_invalid"] is not None for t in targets if t.get("inversion"))
    ratios = [t["diversity_atoms"]["ratio"] for t in targets if t.get("diversity_atoms")]
    row = {
        "fingerprint": fingerprint,
        "generator": model,
        "epochs": epochs,
        "percent_within": total("potential", "percent_within") / count,
        "percent_realisable": 100.0 - total("inversion", "percent_invalid") / count if known else None,
        "spread": sum(r for r in ratios if r) / max(sum(r is not None for r in ratios), 1),
        "seconds": time.process_time() - start,
    }
    write_json(kept, row)
    return row


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the shares as a table of colours."""
    from matplotlib.figure import Figure

    fingerprints = list(dict.fromkeys(row["fingerprint"] for row in rows))
    models = list(dict.fromkeys(row["generator"] for row in rows))
    figure = Figure(figsize=(1.2 * len(models) + 2.2, 0.55 * len(fingerprints) + 1.4), layout="constrained")
    axes = figure.subplots()
    table = torch.full((len(fingerprints), len(models)), float("nan"))
    for row in rows:
        place = fingerprints.index(row["fingerprint"]), models.index(row["generator"])
        table[place] = row["percent_within"]
        axes.text(
            place[1], place[0], f"{row['percent_within']:.0f}", ha="center", va="center",
            color="white" if row["percent_within"] > 55 else "#1f2328",
        )  # fmt: skip
    axes.imshow(table, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(models)), models, rotation=20)
    axes.set_yticks(range(len(fingerprints)), fingerprints)
    axes.set_title("Structures within ±0.1 eV/atom, without refinement (%)", fontsize=10)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def main() -> int:
    parser = argparse.ArgumentParser(description="Every fingerprint with every generator.")
    parser.add_argument("--quick", action="store_true", help="two pairs of tiny clusters")
    parser.add_argument("--data", type=Path, help="labelled clusters; by default 1,000 are made")
    parser.add_argument("--calculator", default="chgnet")
    parser.add_argument("--targets", type=lambda t: [float(x) for x in t.split(",")], default=[1.9, 2.8, 3.7])
    parser.add_argument("--samples", type=int, default=20, help="for each target")
    parser.add_argument("--seconds", type=float, default=20.0, help="of training: CPU time of the process")
    parser.add_argument("--evaluations", type=int, default=500, help="of the search, each")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--fingerprints", help="some of them, separated by commas")
    parser.add_argument("--generators", help="some of them, separated by commas")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/matrix"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    fingerprints = [name for name, one in FINGERPRINTS.items() if one.get("kind", "acsf") in REPRESENTATIONS]
    models = [name for name in MODELS if name in GENERATORS]
    if options.fingerprints:
        fingerprints = options.fingerprints.split(",")
    if options.generators:
        models = options.generators.split(",")
    if options.quick:
        import tempfile

        options.output, options.calculator = Path(tempfile.mkdtemp()), "emt"
        options.targets, options.samples, options.seconds, options.evaluations = [2.0], 2, 0.2, 20
        fingerprints, models = ["acsf mean‖std", "soap"], ["cvae"]
    elif options.data is None:
        options.data = labelled(options)
    print("fingerprint     generator      within ±0.1 (%)  realisable (%)  spread  epochs  CPU seconds")
    rows = []
    for fingerprint in fingerprints:
        for model in models:
            row = run_pair(options, fingerprint, model)
            rows.append(row)
            print(
                f"{fingerprint:15} {model:14} {row['percent_within']:15.0f}  "
                f"{'–' if row['percent_realisable'] is None else round(row['percent_realisable']):>14}  "
                f"{row['spread']:6.2f}  {row['epochs']:6}  {row['seconds'] or 0:11.0f}",
                flush=True,
            )
    if not options.quick:
        draw(rows, options.output / "matrix.png")
        print(options.output / "matrix.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
