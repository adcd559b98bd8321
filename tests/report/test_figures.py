import xml.etree.ElementTree as ET

import pytest
import torch

from whorl.report import figures


def points(n, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def is_svg(text):
    return ET.fromstring(text).tag.endswith("svg")


def draw_map(**changes):
    arguments = {
        "data": points(50),
        "window": points(5),
        "training": points(10),
        "generated": points(20, 1),
        "shares": torch.tensor([0.5, 0.2]),
        "frame": ((-4.0, 4.0), (-4.0, 4.0)),
        "title": "asked for 1.9 eV/atom",
    }
    return figures.pca_map(**{**arguments, **changes})


def test_map_notes_what_lies_outside():
    far = torch.cat([points(20), torch.full((3, 2), 99.0, dtype=torch.float64)])
    plot = draw_map(generated=far)
    assert is_svg(plot.svg)
    assert plot.note == "3 generated outside the frame"
    assert draw_map(window=points(400)).note == "250 of 400 data near the target drawn"


def test_map_without_window_or_samples():
    assert is_svg(draw_map(window=points(0), generated=points(0)).svg)


def test_the_same_input_gives_the_same_file():
    assert draw_map().svg == draw_map().svg


def test_map_frame_holds_the_data_and_ignores_few_outliers():
    data, new = points(100), points(200, 1)
    new[0] = torch.tensor([1e6, float("nan")])
    (left, right), (bottom, top) = figures.map_frame(data, new)
    assert left < data[:, 0].min()
    assert right < 20
    assert top > data[:, 1].max()
    assert bottom < top


def energies(**changes):
    arguments = {
        "target": 1.9,
        "tolerance": 0.1,
        "surrogate": torch.tensor([1.85, 1.95, 2.0]),
        "potential": torch.tensor([1.9, float("nan"), 4000.0]),
        "real": torch.linspace(0, 4, 50),
        "label": "formation energy (eV/atom)",
        "potential_name": "EMT",
        "title": "asked for 1.9 eV/atom",
    }
    return figures.energy_histogram(**{**arguments, **changes})


def test_energy_histogram_tells_what_it_cannot_show():
    plot = energies()
    assert is_svg(plot.svg)
    assert plot.note == "EMT: 1 beyond the axis, 1 failed"


@pytest.mark.parametrize("missing", ["surrogate", "potential"])
def test_energy_histogram_without_one_judge(missing):
    assert is_svg(energies(**{missing: None}).svg)


def test_energy_histogram_when_everything_failed():
    assert "2 failed" in energies(potential=torch.tensor([float("nan")] * 2)).note


def losses(values, **changes):
    values = torch.tensor(values)
    arguments = {
        "losses": values,
        "reference": torch.tensor([0.01, 0.02]),
        "invalid_above": 0.05,
        "limits": figures.loss_range(values, 0.05),
        "title": "asked for 1.9 eV/atom",
    }
    return figures.loss_histogram(**{**arguments, **changes})


@pytest.mark.parametrize("values", [[0.01, 0.1], [0.0, 1e-17], [float("inf")] * 2, [0.03]])
def test_loss_histogram_of_any_losses(values):
    assert is_svg(losses(values).svg)


def test_loss_histogram_counts_what_has_no_loss():
    assert losses([0.1, float("inf")]).note == "1 without a loss"


def test_loss_histogram_without_reference_or_threshold():
    plot = losses([0.01, 0.2], reference=None, invalid_above=None)
    assert is_svg(plot.svg)


def test_loss_range_is_not_stretched_by_exact_solutions():
    low, high = figures.loss_range(torch.tensor([1e-30, 0.1]), None)
    assert low >= 1e-7
    assert high > 0.1


def test_histograms_of_arms_say_their_shares_of_hits_and_failures():
    arms = {
        "as reconstructed": torch.tensor([1.85, 2.0, 2.5, 9.0]),
        "projected": torch.tensor([1.9, 1.95, 1.81, float("nan")]),
        "none": torch.zeros(0),
    }
    options = {"target": 1.9, "tolerance": 0.1, "label": "energy", "title": "target"}
    plot = figures.arm_histograms(arms=arms, **options)
    assert plot.note == "projected: 1 failed"
    assert (
        "50 %" in plot.svg and "75 %" in plot.svg
    )  # matplotlib writes texts as comments beside their outlines
    assert plot.svg == figures.arm_histograms(arms=arms, **options).svg


def test_calibration_of_any_errors():
    errors = {"1": torch.tensor([0.001, 0.0, 0.3]), "2": torch.tensor([float("nan"), 0.02])}
    uncertainties = {"1": torch.tensor([0.01, 0.02, 0.03]), "2": torch.tensor([0.01, 0.02])}
    options = {"quantile": 1.645, "unit": "eV/atom", "title": "n = 300"}
    assert is_svg(figures.calibration(errors=errors, uncertainties=uncertainties, **options).svg)
    none = {"1": torch.zeros(0)}
    assert is_svg(figures.calibration(errors=none, uncertainties=none, **options).svg)
