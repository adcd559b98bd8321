"""Milliseconds per training step with Lightning around it, against a plain PyTorch loop.

Run from the root of the repository: ``OMP_NUM_THREADS=1 python benchmarks/training.py [--quick]``. Both train
the paper's networks on 240 of 300 rows of 380 features, with the same steps, batches and validations; the
two alternate in one run.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from whorl.generators import CVAE, TensorModel, fit
from whorl.surrogates import NetworkSurrogate

ROWS, FEATURES = 300, 380


def plain_loop(
    model: TensorModel, features: torch.Tensor, properties: torch.Tensor, epochs: int, batch_size: int
) -> None:
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    train, validation = slice(60, None), slice(60)
    for epoch in range(epochs):
        order = torch.randperm(ROWS - 60)
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            loss = model.training_step((features[train][rows], properties[train][rows]), 0)
            loss.backward()
            optimizer.step()
        if (epoch + 1) % 10 == 0:
            with torch.no_grad():
                model.validation_step((features[validation], properties[validation]), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few epochs, to see that it runs")
    epochs, repeats = (20, 1) if parser.parse_args().quick else (200, 5)
    features = torch.rand(ROWS, FEATURES, dtype=torch.float64)
    properties = torch.rand(ROWS, 1, dtype=torch.float64)
    for model, batch_size in (
        (CVAE(shape=(FEATURES,)), 64),
        (NetworkSurrogate(shape=(FEATURES,)), 256),
    ):
        model.fit_scaling(features, properties)
        steps = epochs * -(-(ROWS - 60) // batch_size)
        plain, ours = [], []
        for _ in range(repeats):
            began = time.process_time()
            plain_loop(model, features, properties, epochs, batch_size)
            middle = time.process_time()
            fit(
                model,
                features,
                properties,
                validation=torch.arange(60),
                seed=0,
                epochs=epochs,
                batch_size=batch_size,
            )
            plain.append((middle - began) / steps * 1e3)
            ours.append((time.process_time() - middle) / steps * 1e3)
        ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
        print(
            f"{model.kind:10s} plain loop {statistics.median(plain):.2f} ms/step, "
            f"whorl {statistics.median(ours):.2f} ms/step, ratio {ratio:.2f}; 2000 epochs of {ROWS} rows: "
            f"{statistics.median(ours) * steps / epochs * 2:.0f} s"
        )


if __name__ == "__main__":
    main()
