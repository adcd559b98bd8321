"""Image generators of perovskites, trained for equal CPU time: ``python -m benchmarks.crystens.perovskites``.

Each generator is trained on tensors of the crystals, conditioned on their heat of formation, for the same CPU
time, which is that of the process and thus hardly depends on what else the machine does. It then makes
crystals for heats over the central 90 % of the data (``spread``), and for one low heat (``low``). All are
written, good and bad ones, to ``CODEC-GENERATOR-SET.extxyz``. What is there is not made again.

With ``--steps``, all are trained for the same number of steps of what generates, whatever the time: a
Wasserstein GAN makes several steps of its critic for each of these.

The table is of ``spread``: validity, uniqueness and so on of the crystals as decoded and symmetrised, and
their heats by one surrogate of canonical tensors, trained on all crystals but those held out, with the
error for heats in another order.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.matrix import epochs_in
from whorl.axes import GENERATORS
from whorl.datasets import read_dataset
from whorl.datasets.extxyz import write_extxyz
from whorl.evaluation import Reference, Samples, evaluate
from whorl.files import read_json, write_json
from whorl.generators import ConditionalGenerator, fit, load_model, save_model
from whorl.generators.adversarial import energy_distance
from whorl.representations import CrysTens, make_representation
from whorl.structures import StructureBatch
from whorl.surrogates import NetworkSurrogate

CODECS: dict[str, dict[str, Any]] = {
    "crystens": {"elements": "periodic"},
    "invariant": {"elements": "periodic", "cell": "niggli", "order": "canonical", "origin": "canonical"},
}
MODELS: dict[str, dict[str, Any]] = {
    "gan": {"channels": 16},
    "wgan_gp": {"channels": 16},
    "diffusion": {"channels": 16},
    "flow_matching": {"channels": 16},
}
BATCH = {"gan": 16, "wgan_gp": 16}
CONSISTENCY = (
    "variance_lengths",
    "variance_space_group",
    "variance_coordinates",
    "coordinate_agreement",
    "pairwise_difference",
)

COLUMNS = {
    "tensor": "tensor",
    "generator": "generator",
    "epochs": "epochs",
    "seconds": "training, CPU s",
    "each": "CPU s/crystal",
    "decoded": "decoded (%)",
    "valid": "valid (%)",
    "symmetric": "not P1 (%)",
    "unique": "unique (%)",
    "novel": "novel (%)",
    "median_ks": "median K–S",
    "energy_distance": "energy distance",
    "variance_lengths": "lengths (Å²)",
    "variance_space_group": "space group",
    "variance_coordinates": "coordinates",
    "coordinate_agreement": "Δ coordinate",
    "pairwise_difference": "Σ pairwise",
    "within": "within 0.3 eV (%)",
    "mae": "error (eV)",
    "mae_other_order": "for other heats",
}


def cell(value: object) -> str:
    """Return the text of a cell."""
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def held_out(count: int) -> Tensor:
    """Return the indices of a fifth of the crystals, which no model is trained on."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[: count // 5]


def trained(
    options: argparse.Namespace, codec: str, kind: str, tensors: Tensor, heats: Tensor
) -> ConditionalGenerator:
    """Return one generator, trained now or before."""
    path = options.output / f"{codec}-{kind}.safetensors"
    if path.exists():
        model = load_model(path)
        assert isinstance(model, ConditionalGenerator)
        return model
    data: dict[str, Any] = {
        "validation": held_out(len(heats)),
        "seed": options.seed,
        "batch_size": BATCH.get(kind, 32),
        "validate_every": 1 if options.quick else 5,
    }

    def make() -> ConditionalGenerator:
        model = GENERATORS.get(kind)(shape=tensors.shape[1:], **MODELS[kind])
        assert isinstance(model, ConditionalGenerator)
        return model

    plan = options.output / f"{codec}-{kind}.json"
    if not plan.exists():
        if options.steps is None:
            epochs = epochs_in(options.seconds, make, tensors, heats, **data)
        else:
            batches = math.ceil((len(heats) - len(data["validation"])) / data["batch_size"])
            epochs = math.ceil(options.steps * getattr(make(), "critic_steps", 1) / batches)
        write_json(plan, {"epochs": epochs, "planned_seconds": options.seconds, "steps": options.steps})
    record = read_json(plan)
    model = make()
    start = time.process_time()
    fit(
        model, tensors, heats, epochs=record["epochs"], keep="last",
        directory=options.output / "checkpoints", checkpoint_seconds=60, progress=report, **data,
    )  # fmt: skip
    seconds = time.process_time() - start
    save_model(model, path)
    write_json(plan, {**record, "seconds": seconds, "seed": options.seed})
    print(f"{codec} {kind}: {record['epochs']} epochs in {seconds:.0f} CPU seconds", flush=True)
    return model


def report(done: int, epochs: int, message: str) -> None:
    """Print every tenth of the training."""
    if done * 10 // epochs > (done - 1) * 10 // epochs:
        print(f"  {done}/{epochs}, {message}", flush=True)


def tensors_of(
    options: argparse.Namespace, codec: str, crystals: StructureBatch
) -> tuple[CrysTens, Tensor, list[int]]:
    """Return the codec, the tensors of the crystals that can be encoded, and the indices of these."""
    path = options.output / f"{codec}-tensors.safetensors"
    if not path.exists():
        encoder = CrysTens(max_atoms=int(crystals.n_atoms.max()), **CODECS[codec])
        bad = encoder.find_problems(crystals)
        usable = [i for i in range(len(crystals)) if i not in bad]
        encoder = encoder.fit(crystals[usable])
        write_json(options.output / f"{codec}-tensors.json", {"codec": encoder.config(), "usable": usable})
        save_file({"tensors": encoder(crystals[usable]).float()}, path)
    kept = read_json(options.output / f"{codec}-tensors.json")
    known = make_representation(kept["codec"])
    assert isinstance(known, CrysTens)
    return known, load_file(path)["tensors"], kept["usable"]


def surrogate_of(options: argparse.Namespace, tensors: Tensor, heats: Tensor) -> NetworkSurrogate:
    """Return the surrogate that evaluates all crystals, trained now or before."""
    path = options.output / "surrogate.safetensors"
    if path.exists():
        model = load_model(path)
        assert isinstance(model, NetworkSurrogate)
        return model
    model = NetworkSurrogate(shape=tensors.shape[1:])
    fit(
        model, tensors, heats, validation=held_out(len(heats)), seed=0, epochs=2 if options.quick else 60,
        batch_size=64,
    )  # fmt: skip
    save_model(model, path)
    return model


def sampled(
    options: argparse.Namespace, name: str, model: ConditionalGenerator, encoder: CrysTens, targets: Tensor
) -> tuple[Samples, Tensor, float]:
    """Return crystals for heats, also written to a file, their tensors, and CPU seconds for each of them."""
    start = time.process_time()
    made = model.sample(targets[:, None], rng=torch.Generator().manual_seed(options.seed))
    decoded = encoder.decode(made)
    crystals = decoded.refined().structures
    seconds = (time.process_time() - start) / len(targets)
    write_extxyz(
        crystals,
        options.output / f"{name}.extxyz",
        properties={"target": targets[decoded.index]},
        ids=[f"{name}-{i}" for i in decoded.index.tolist()],
    )
    samples = Samples(
        ids=tuple(map(str, range(len(targets)))),
        targets=targets.double(),
        structures=crystals,
        rows=decoded.index,
        skipped=decoded.skipped,
        consistency={name: getattr(decoded.measures, name).double() for name in CONSISTENCY},
    )
    return samples, made, seconds


def distance(made: Tensor, real: Tensor) -> float:
    """Return the energy distance of tensors, in units of the standard deviation of the real ones."""
    made, real = made.flatten(1), real.flatten(1)
    spread = real.var(0, correction=0).sum().sqrt()
    return float(energy_distance(real / spread, made / spread))


def measured(
    samples: Samples, reference: Reference, judge: tuple[CrysTens, NetworkSurrogate]
) -> dict[str, Any]:
    """Return the measures of some crystals."""
    kinds = ("validity", "symmetry", "uniqueness", "novelty", "distributions")
    metrics = evaluate(samples, reference, kinds).metrics
    overall = {name: value for of in metrics.values() for name, value in of.overall.items()}
    encoder, surrogate = judge
    assert samples.structures is not None
    bad = encoder.find_problems(samples.structures)
    usable = [i for i in range(len(samples.structures)) if i not in bad]
    predicted = surrogate.predict(encoder(samples.structures[usable])).mean.double()
    targets = samples.targets[samples.rows[usable]]
    others = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    statistics = torch.tensor([one["statistic"] for one in overall["quantities"]])
    return {
        "decoded": 100 * len(samples.structures) / len(samples.ids),
        **{name: overall[f"percent_{name}"] for name in ("valid", "symmetric", "unique", "novel")},
        "median_ks": float(statistics.median()) if len(statistics) else None,
        **{name: float(samples.consistency[name].nanmean()) for name in CONSISTENCY},
        "mae": float((predicted - targets).abs().mean()),
        "mae_other_order": float((predicted - others).abs().mean()),
        "within": 100 * float(((predicted - targets).abs() <= 0.3).sum()) / len(samples.ids),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crystens.perovskites", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few crystals: does it run?")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/perov_5_val.csv.gz"))
    parser.add_argument("--property", default="heat_all")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--generators", default=",".join(MODELS))
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU time of each training")
    parser.add_argument("--steps", type=int, help="of each generator, in place of CPU time")
    parser.add_argument("--low", type=float, default=0.3, help="heat of the set 'low'")
    parser.add_argument("--samples", type=int, default=500, help="of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/perovskites"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.data.exists():
        print(f"skipped: {options.data} is not there")
        return 0
    data = read_dataset(options.data, property=options.property)
    crystals, heats = data.structures, data.properties[options.property].float()
    assert crystals is not None
    if options.quick:
        options.output, options.seconds, options.samples = Path(tempfile.mkdtemp()), 0.2, 4
        options.generators = "gan,diffusion"
        crystals, heats = crystals[:40], heats[:40]
    options.output.mkdir(parents=True, exist_ok=True)
    surrogate = None
    if not options.train_only:
        canonical, tensors, usable = tensors_of(options, "invariant", crystals)
        surrogate = surrogate_of(options, tensors, heats[usable])
        print(f"surrogate: mean absolute error {surrogate.validation_mae:.3f} on held-out crystals\n")
        print("| " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * len(COLUMNS) + "|")
    count = options.samples
    spread = torch.quantile(heats, torch.linspace(0.05, 0.95, count))
    for codec in options.codecs.split(","):
        encoder, tensors, usable = tensors_of(options, codec, crystals)
        reference = Reference(
            name=options.property,
            unit="eV/atom",
            properties=heats[usable].double(),
            features=tensors.flatten(1).double(),
            structures=crystals[usable],
            training_rows=torch.arange(len(usable)),
        )
        for kind in options.generators.split(","):
            model = trained(options, codec, kind, tensors, heats[usable])
            if surrogate is None:
                continue
            name = f"{codec}-{kind}"
            kept = options.output / f"{name}-measures.json"
            if not kept.exists():
                if options.steps is None:
                    low = torch.full((count,), options.low)
                    sampled(options, f"{name}-low", model, encoder, low)
                samples, made, seconds = sampled(options, f"{name}-spread", model, encoder, spread)
                row = measured(samples, reference, (canonical, surrogate))
                row["energy_distance"] = distance(made, tensors[held_out(len(tensors))])
                write_json(kept, {**read_json(options.output / f"{name}.json"), "each": seconds, **row})
            row = read_json(kept)
            row |= {"tensor": codec, "generator": kind}
            print("| " + " | ".join(cell(row[column]) for column in COLUMNS) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
