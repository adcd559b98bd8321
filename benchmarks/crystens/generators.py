"""Trained generators of crystals side by side: ``python -m benchmarks.crystens.generators``.

Each model draws crystals for the same conditions: tables 1 and 2 of Alverson et al. 2024, validity,
uniqueness, novelty, Kolmogorov–Smirnov statistics, and how near the property comes to what was asked for,
beside its distance from what was asked of other samples.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from whorl.axes import EVALUATORS
from whorl.conditions import Conditions
from whorl.datasets import load_dataset, load_features
from whorl.datasets.store import labels_of
from whorl.evaluation import Reference, Samples, evaluate
from whorl.files import write_json
from whorl.generators import ConditionalGenerator, Diffusion, load_model
from whorl.report.sections.consistency import TABLE_1, TABLE_2
from whorl.representations import CrysTens, make_representation
from whorl.surrogates import NetworkSurrogate

MEASURES = {
    "variance_lengths": "parameters",
    "variance_angles": "angles",
    "variance_space_group": "space group",
    "variance_coordinates": "coordinates",
    "coordinate_agreement": "Δ coordinate/atom",
    "coordinate_agreement_squared": "its square",
    "pairwise_difference": "Σ pairwise/atom",
}


def draw(
    model: ConditionalGenerator, targets: Tensor, known: Tensor, conditions: Conditions, *, seed: int
) -> tuple[Tensor, float]:
    """Return one tensor for each target, and CPU seconds for each."""
    rng = torch.Generator().manual_seed(seed)
    parts = [conditions.draw(1, known=known, rng=rng, target=float(t)) for t in targets]
    began = time.process_time()
    made = model.sample(torch.cat(parts), rng=rng)
    return made, (time.process_time() - began) / len(targets)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path, help="CrysTens features the models were trained on")
    parser.add_argument("dataset", type=Path, help="the crystals they are of")
    parser.add_argument("models", type=Path, nargs="+", help="from 'whorl train generator'")
    parser.add_argument("--surrogate", type=Path, help="judges the property; from 'whorl train surrogate'")
    parser.add_argument("--property", help="which of the features' properties")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=int, default=2000, help="real crystals to compare distributions with")
    parser.add_argument("--guidance", type=float, help="of diffusion; by default the model's own")
    parser.add_argument("--sampler", help="of diffusion: dpm, ddim or ddpm; by default the model's own")
    parser.add_argument("--steps", type=int, help="of that sampler; 1000 of ddpm are the paper's")
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()

    real = load_features(args.features)
    codec = make_representation(real.representation)
    assert isinstance(codec, CrysTens)
    labels = labels_of(real, args.property).double()
    known = load_dataset(args.dataset).structures
    assert known is not None
    reference = Reference(
        name=args.property or next(iter(real.properties)),
        unit="",
        properties=labels,
        features=real.features.flatten(1).double(),
        structures=known,
        training_rows=torch.arange(len(labels)),
    )
    judge = load_model(args.surrogate) if args.surrogate else None
    assert judge is None or isinstance(judge, NetworkSurrogate)
    # Conditions as they occur: the middle 90 % of the data, evenly over their ranks.
    targets = torch.quantile(labels, torch.linspace(0.05, 0.95, args.samples, dtype=torch.float64))
    shuffled = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(args.seed))]
    if judge is not None:
        print(f"surrogate: mean absolute error {judge.validation_mae:.3f} on held-out crystals")
    head = ["model", "CPU s/sample", *MEASURES.values(), "decoded", "valid", "symmetric", "unique", "new"]
    head += ["median K–S", "property: MAE", "conditions of others", "factor"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    found = {}
    for path in args.models:
        model = load_model(path)
        assert isinstance(model, ConditionalGenerator)
        if isinstance(model, Diffusion):
            model.guidance = model.guidance if args.guidance is None else args.guidance
            model.sampler = args.sampler or model.sampler
            model.steps = args.steps or model.steps
        conditions = Conditions.of_model(model, property=args.property or next(iter(real.properties)))
        columns = labels[:, None]
        if conditions.kinds:
            columns = conditions.columns(labels=labels, structures=known)
        made, seconds = draw(model, targets, columns, conditions, seed=args.seed)
        decoded = codec.decode(made)
        refined = decoded.refined().structures
        measured = codec.measures(made)
        measures = {name: getattr(measured, name).double() for name in MEASURES}
        samples = Samples(
            ids=tuple(map(str, range(len(targets)))),
            targets=targets,
            structures=refined,
            rows=decoded.index,
            skipped=decoded.skipped,
            consistency=measures,
        )
        compared = EVALUATORS.get("distributions")
        kinds = ("consistency", "validity", "symmetry", "uniqueness", "novelty")
        evaluators = [*kinds, compared(compared.Settings(real=args.real))]
        metrics = evaluate(samples, reference, evaluators).metrics
        overall = {name: value for of in metrics.values() for name, value in of.overall.items()}
        row = {"CPU seconds per sample": seconds, **overall}
        cells = [path.stem, f"{seconds:.2f}", *(f"{overall[name] or 0:.3g}" for name in MEASURES)]
        cells.append(f"{100 * overall['structures'] / len(targets):.1f} %")
        shares = [overall[f"percent_{name}"] for name in ("valid", "symmetric", "unique", "novel")]
        cells += ["" if share is None else f"{share:.1f} %" for share in shares]
        statistics = torch.tensor([one["statistic"] for one in overall["quantities"]])
        cells.append(f"{float(statistics.median()):.3f}" if len(statistics) else "")
        if judge is not None:
            predicted = judge.predict(made.double()).mean.double()
            near = float((predicted - targets).abs().mean())
            far = float((predicted - shuffled).abs().mean())
            cells += [f"{near:.3f}", f"{far:.3f}", f"{far / near:.1f}"]
            row |= {"property MAE": near, "MAE with the conditions of others": far}
        found[path.stem] = row
        print("| " + " | ".join(cells) + " |", flush=True)
    for name in TABLE_1:
        paper = {**TABLE_1[name], **TABLE_2[name]}
        paper["coordinate_agreement_squared"] = paper["coordinate_agreement"]  # it does not say which
        cells = [f"paper, {name} (other data)", "", *(f"{paper[measure]:.3g}" for measure in MEASURES)]
        print("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    if args.json is not None:
        write_json(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
