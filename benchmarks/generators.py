"""Generators side by side on fingerprints of Pt10 clusters, after equal numbers of generator steps.

Run from the root of the repository: ``OMP_NUM_THREADS=1 python -m benchmarks.generators [--quick]``. For each
seed, 300 clusters (EMT) train each generator, which then samples at three formation energies, and at those of
2,000 clusters that no generator has seen. On these a surrogate was trained, which evaluates the samples. An
adversarial generator takes as many steps of its generator as the others take of theirs, however many its
critic takes. ``--set KIND.KEY=VALUE`` changes a setting, ``--arm NAME=KIND`` adds a kind by another name.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from whorl.datasets import load_dataset, save_dataset
from whorl.datasets.clusters import build_clusters
from whorl.files import write_json
from whorl.generators import ConditionalGenerator, energy_distance, fit, make_generator
from whorl.potentials import make_potential
from whorl.representations import ACSF
from whorl.surrogates import NetworkSurrogate

KINDS = "gan,wgan_gp,diffusion,flow_matching,energy_based,flow,cvae"
# A surrogate of max and min has an error of 0.16 eV/atom, and could not evaluate samples.
POOLING = ["mean", "std"]
TARGETS = (1.0, 2.0, 3.0)
TOLERANCE = 0.1
BATCH = 64
COLUMNS = {
    **{f"hits {target:g}": "{:.0f} %" for target in TARGETS},
    "hits": "{:.1f} %",
    "MAE": "{:.3f}",
    "Fréchet": "{:.2f}",
    "energy distance": "{:.3f}",
    "training, s": "{:.0f}",
    "sampling, ms": "{:.1f}",
}


class Data:
    """Features and formation energies of clusters, and a surrogate trained on those kept apart."""

    def __init__(self, directory: Path, *, quick: bool) -> None:
        apart, count = (60, 160) if quick else (2000, 4000)
        path = directory / f"pt10-{count}.safetensors"
        if path.is_file():
            data = load_dataset(path)
        else:
            potential = make_potential("emt")
            data = build_clusters(
                element="Pt",
                atoms=10,
                count=count,
                potential=potential,
                directory=directory,
                seed=0,
                processes=1,
            )
            save_dataset(data, path)
        assert data.structures is not None
        functions = ACSF.fung2022(species=["Pt"]).config() | {"pooling": POOLING}
        self.features = ACSF.from_config(functions)(data.structures).double()
        self.energies = torch.as_tensor(data.properties["formation_energy"]).double()
        self.apart, self.pool = torch.arange(apart), torch.arange(apart, count)
        self.judge = NetworkSurrogate(shape=(self.features.shape[1],))
        fit(
            self.judge,
            self.features[self.apart],
            self.energies[self.apart],
            validation=torch.arange(0, apart, 5),
            seed=0,
            epochs=20 if quick else 500,
            batch_size=256,
            directory=directory / "judge",
        )
        self.error = float(
            (self._predicted(self.features[self.pool]) - self.energies[self.pool]).abs().mean()
        )
        real = self.features[self.apart]
        varying = real.std(0) > 1e-6 * real.std(0).max()
        self.mean, self.deviation = real[:, varying].mean(0), real[:, varying].std(0)
        self.varying = varying
        _, values, axes = torch.linalg.svd(self._standard(real), full_matrices=False)
        self.axes = axes[:32].T / values[:32] * len(real) ** 0.5

    def _predicted(self, features: Tensor) -> Tensor:
        return self.judge.predict(features).mean.double()

    def _standard(self, features: Tensor) -> Tensor:
        return (features[:, self.varying] - self.mean) / self.deviation

    def rows(self, seed: int, count: int) -> Tensor:
        """Return training rows."""
        order = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(seed))
        return self.pool[order[:count]]

    def measured(self, model: ConditionalGenerator, *, samples: int) -> dict[str, float]:
        """Return the metrics of a trained generator."""
        rng, began = torch.Generator().manual_seed(0), time.process_time()
        off = torch.stack(
            [
                self._predicted(model.sample(torch.full((samples, 1), target, dtype=torch.float64), rng=rng))
                - target
                for target in TARGETS
            ]
        ).abs()
        spent = time.process_time() - began
        hits = 100 * (off <= TOLERANCE).double().mean(1)
        energies = self.energies[self.apart]
        made, real = model.sample(energies[:, None], rng=rng), self.features[self.apart]
        white = [self._standard(part) @ self.axes for part in (real, made)]
        joint = [
            torch.cat(
                [self._standard(part) / self.varying.sum() ** 0.5, energies[:, None] / energies.std()], 1
            )
            for part in (real, made)
        ]
        return {
            **{f"hits {target:g}": float(share) for target, share in zip(TARGETS, hits, strict=True)},
            "hits": float(hits.mean()),
            "MAE": float(off.mean()),
            "Fréchet": frechet(*white),
            "energy distance": float(energy_distance(*joint)),
            "sampling, ms": 1e3 * spent / off.numel(),
        }


def frechet(first: Tensor, second: Tensor) -> float:
    r"""Return the Fréchet distance of two samples, as of normal distributions.

    .. math::
        |\mu_1 - \mu_2|^2 + \operatorname{tr}\bigl(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\bigr)
    """
    means = [part.mean(0) for part in (first, second)]
    covariances = [part.T.cov() for part in (first, second)]
    product = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    trace = sum(covariance.trace() for covariance in covariances) - 2 * product
    return float((means[0] - means[1]).square().sum() + trace)


def trained(
    data: Data, kind: str, options: dict[str, Any], *, seed: int, steps: int, count: int
) -> ConditionalGenerator:
    """Return a generator after so many steps of its own."""
    rows = data.rows(seed, count)
    model = make_generator({"kind": kind, "shape": list(data.features.shape[1:]), **options})
    validation = torch.arange(0, count, 5)
    batches = -(-(count - len(validation)) // BATCH)
    fit(
        model,
        data.features[rows],
        data.energies[rows],
        validation=validation,
        seed=seed,
        epochs=-(-steps * getattr(model, "critic_steps", 1) // batches),
        batch_size=BATCH,
        keep="last",
    )
    return model


def main() -> None:
    """Print a line for each kind: mean and, of the hits, range over the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=KINDS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=4000, help="of the generator")
    parser.add_argument("--training", type=int, default=300, help="clusters")
    parser.add_argument("--samples", type=int, default=1000, help="for each target")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="another setting"
    )
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME=KIND", help="a kind by another name"
    )
    parser.add_argument("--directory", type=Path, default=Path("benchmark-data/generators"))
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--quick", action="store_true", help="hardly trained, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.samples, args.training, args.seeds = 8, 20, 60, "0"
    data = Data(args.directory, quick=args.quick)
    print(f"surrogate: mean absolute error {data.error:.3f} eV/atom on clusters that it has not seen")
    kinds = {name: name for name in args.kinds.split(",") if name} | dict(arm.split("=") for arm in args.arm)
    settings: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for text in args.set:
        key, value = text.split("=", 1)
        name, option = key.split(".", 1)
        settings[name][option] = yaml.safe_load(value)
    print("| generator | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (1 + len(COLUMNS)))
    found: dict[str, list[dict[str, float]]] = {}
    for name, kind in kinds.items():
        found[name] = []
        for seed in map(int, args.seeds.split(",")):
            began = time.process_time()
            model = trained(data, kind, settings[name], seed=seed, steps=args.steps, count=args.training)
            spent = time.process_time() - began
            found[name].append({**data.measured(model, samples=args.samples), "training, s": spent})
        runs = {key: [run[key] for run in found[name]] for key in COLUMNS}
        cells = [form.format(sum(runs[key]) / len(runs[key])) for key, form in COLUMNS.items()]
        place = list(COLUMNS).index("hits")
        cells[place] += f" ({min(runs['hits']):.0f}–{max(runs['hits']):.0f})"
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if args.json is not None:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
