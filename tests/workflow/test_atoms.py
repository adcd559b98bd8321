"""Atoms for generated fingerprints: which loss is too high, and what each solver leaves."""

import pytest
import torch
from tiny_recipe import tiny

from whorl.datasets import load_dataset, load_features
from whorl.files import read_json
from whorl.workflow.atoms import invert, neighbour_distance
from whorl.workflow.monitor import Monitor
from whorl.workflow.settings import InvertSettings


def by_loop(features, weights, quantile):
    nearest = []
    for i, one in enumerate(features):
        others = [float((weights * (one - r)).abs().mean()) for j, r in enumerate(features) if j != i]
        nearest.append(min(d for d in others if d > 1e-9))
    return float(torch.quantile(torch.tensor(nearest, dtype=torch.float64), quantile))


def test_neighbour_distance_is_that_of_a_plain_loop():
    features = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = torch.cat([features, features[:5]])  # stored twice
    weights = torch.linspace(0.1, 3, 7, dtype=torch.float64)
    for quantile in (0.5, 0.95, 1.0):
        found = neighbour_distance(features, weights=weights, quantile=quantile)
        assert found == pytest.approx(by_loop(features, weights, quantile))


def test_neighbour_distance_needs_two_that_differ():
    assert neighbour_distance(torch.zeros(0, 3)) is None
    assert neighbour_distance(torch.zeros(1, 3)) is None
    assert neighbour_distance(torch.zeros(4, 3)) is None
    assert neighbour_distance(torch.tensor([[0.0], [torch.nan], [2.0]])) == 2.0


def test_of_many_an_even_draw_is_taken():
    features = torch.arange(5000.0, dtype=torch.float64)[:, None]
    assert neighbour_distance(features) == pytest.approx(1.0)


def test_the_threshold_comes_from_the_data_and_the_references_say_what_is_solved(tiny_run):
    features = load_features(tiny_run / "encode" / "features.safetensors").features.flatten(1)
    sizes = [read_json(tiny_run / "invert" / n / "structures-inversion.json") for n in ("n15", "n24")]
    for size in sizes:
        assert size["invalid_above"] == pytest.approx(neighbour_distance(features.double()))
        assert len(size["reference_losses"]) == 3
        assert size["reference_solved"] == sum(loss < 1e-4 for loss in size["reference_losses"])
    # Tetrahedra and their like are soon found again.
    assert sum(size["reference_solved"] for size in sizes) >= 4


@pytest.fixture
def again(tiny_run, tmp_path):
    def search(settings, *, real=True):
        invert(
            tiny_run / "generate" / "n15" / "generated.safetensors",
            settings=settings,
            output=tmp_path / "found.safetensors",
            seed=3,
            monitor=Monitor(),
            features=tiny_run / "encode" / "features.safetensors" if real else None,
            formula="Pt4",
        )
        found = load_dataset(tmp_path / "found.safetensors")
        status = [info["inversion_status"] for info in found.structures.info]
        return found.properties["inversion_loss"], status, read_json(tmp_path / "found-inversion.json")

    return search


def test_invalid_is_what_is_farther_away_than_neighbours(again):
    few = {"samples": 2, "budget_evaluations": 150}
    loss, status, said = again(InvertSettings(**few, margin=1e-9))
    assert set(status) == {"invalid"}
    assert said["invalid_above"] < float(loss.min())
    loss, status, said = again(InvertSettings(**few, margin=1e9))
    assert "invalid" not in status


def test_without_real_structures_nothing_is_called_invalid(again):
    _, status, said = again(InvertSettings(samples=2, budget_evaluations=150), real=False)
    assert said["invalid_above"] is None
    assert "invalid" not in status
    assert said["reference_losses"] == []


def test_algorithm_1_is_still_there(again):
    settings = {"solver": "algorithm1", "starts": 2, "hops": 1, "iterations": 20, "polish": 20}
    first, _, said = again(InvertSettings(samples=2, **settings))
    assert said["invalid_above"] > 0
    second, _, _ = again(InvertSettings(samples=2, budget_evaluations=400))
    assert second.mean() < first.mean()


def test_whitening_weighs_the_loss_of_either_solver(again):
    plain, _, said = again(InvertSettings(samples=2, budget_evaluations=150))
    weighted, _, by_spread = again(InvertSettings(samples=2, budget_evaluations=150, weights="whitening"))
    assert said["invalid_above"] != pytest.approx(by_spread["invalid_above"])
    assert not torch.allclose(plain, weighted)


def test_a_recipe_of_the_first_version_is_still_read():
    settings = tiny("invert.budget_evaluations=2000", "invert.reference_evaluations=10000").invert
    assert settings is not None
    old = {**settings.model_dump(), "solver": "algorithm1", "starts": 4, "margin": 2.0, "batch_size": 256}
    assert InvertSettings(**old).search(real=False)["starts"] == 4


def test_a_search_that_finds_few_real_structures_again_says_so(tiny_run, tmp_path):
    monitor = Monitor()
    invert(
        tiny_run / "generate" / "n15" / "generated.safetensors",
        settings=InvertSettings(
            solver="algorithm1", samples=1, reference=2, starts=1, hops=1, iterations=1, polish=0
        ),
        output=tmp_path / "found.safetensors",
        seed=3,
        monitor=monitor,
        features=tiny_run / "encode" / "features.safetensors",
        rows=tiny_run / "sampling" / "n15" / "rows.json",
        formula="Pt4",
    )
    assert len(monitor.warnings) == 1
    assert "found only 0 of 2 held-out real structures again" in monitor.warnings[0]
