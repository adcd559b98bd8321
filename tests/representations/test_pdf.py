"""Pair distribution functions against slow sums, against the Debye formula, and in a search."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, solve
from whorl.representations.pdf import PDF
from whorl.structures import from_ase
from whorl.workflow.round_trip import forget


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def slow_curve(atoms: Atoms, r: np.ndarray, pdf: PDF) -> np.ndarray:
    """Return G(r) without termination, pair by pair."""
    factors = atoms.numbers.astype(float)
    curve = np.zeros_like(r)
    for i, j, d in zip(*neighbor_list("ijd", atoms, r[-1] + 3.0), strict=True):
        variance = 1 - pdf.delta1 / d - pdf.delta2 / d**2 + (pdf.q_broad * d) ** 2
        sigma = pdf.width * math.sqrt(max(variance, 0.04))
        peak = np.exp(-0.5 * ((r - d) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        curve += factors[i] * factors[j] / d * peak
    curve /= len(atoms) * factors.mean() ** 2
    if atoms.pbc.all():
        curve -= 4 * math.pi * r * len(atoms) / atoms.get_volume()
    return curve * np.exp(-0.5 * (pdf.q_damp * r) ** 2)


@pytest.mark.parametrize(
    "options",
    [{}, {"delta2": 1.5, "q_damp": 0.05}, {"delta1": 0.4, "q_broad": 0.05, "width": 0.2}],
    ids=["plain", "low temperature", "high temperature"],
)
@pytest.mark.parametrize("atoms", [salt(), molecule("CH3CH2OH")], ids=["crystal", "molecule"])
def test_equals_a_slow_sum(atoms, options):
    pdf = PDF(q_max=None, r_max=8.0, **options)
    with torch.no_grad():
        curve = pdf.curve([atoms])[0].numpy()
    expected = slow_curve(atoms, pdf.r, pdf)
    assert np.abs(curve - expected).max() < 1e-8 * np.abs(expected).max()


def test_equals_the_debye_formula_up_to_q_max():
    atoms = molecule("CH3CH2OH")
    pdf = PDF(q_max=20.0, r_max=6.0, width=0.1)
    q = np.linspace(1e-6, 20.0, 8001)
    factors, positions = atoms.numbers.astype(float), atoms.positions
    reduced = np.zeros_like(q)  # F(Q) = Q (S(Q) - 1)
    for i in range(len(atoms)):
        for j in range(len(atoms)):
            if i != j:
                d = np.linalg.norm(positions[i] - positions[j])
                reduced += factors[i] * factors[j] * np.sin(q * d) / d * np.exp(-0.5 * (0.1 * q) ** 2)
    reduced /= len(atoms) * factors.mean() ** 2
    expected = 2 / math.pi * np.trapezoid(reduced * np.sin(np.outer(pdf.r, q)), q, axis=1)
    with torch.no_grad():
        curve = pdf.curve([atoms])[0].numpy()
    assert np.abs(curve - expected).max() < 1e-3 * np.abs(expected).max()


def test_neutrons_see_elements_by_their_scattering_lengths():
    atoms = bulk("MgO", "rocksalt", 4.2)
    lengths = np.array([5.375, 5.803])
    xray, neutron = PDF(q_max=None), PDF(q_max=None, scattering="neutron")
    with torch.no_grad():
        ratio = neutron.curve([atoms])[0] + 4 * math.pi * torch.tensor(neutron.r) * 2 / atoms.get_volume()
        other = xray.curve([atoms])[0] + 4 * math.pi * torch.tensor(xray.r) * 2 / atoms.get_volume()
    first = int(np.abs(xray.r - 2.1).argmin())  # Mg–O
    expected = (5.375 * 5.803 / lengths.mean() ** 2) / (12 * 8 / 10**2)
    assert float(ratio[first] / other[first]) == pytest.approx(expected, rel=1e-6)


def test_features_of_a_measured_curve_are_those_of_the_structure_whatever_its_scale():
    pdf = PDF(r_max=8.0, q_damp=0.03)
    longer = PDF.from_config({**pdf.config(), "r_max": 12.0})
    with torch.no_grad():
        measured = longer.curve([salt()])[0].numpy()[: len(pdf.measured_r)]
        features = pdf([salt()])[0]
    assert torch.allclose(pdf.features_of(0.37 * measured), features, atol=1e-3)
    with pytest.raises(InputError, match="finite numbers"):
        pdf.features_of(measured[:-1])


def test_a_crystal_comes_back_from_its_curve():
    original = from_ase(bulk("BeO", "wurtzite", a=2.70, c=4.38))
    pdf = PDF()
    with torch.no_grad():
        problem = InversionProblem(
            representation=pdf, target=pdf(original), template=forget(original), names=("BeO",)
        )
    result = solve(problem, seed=0, budget_evaluations=3000)
    assert float(rmsd(result.structures, original)[0]) < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_min": 5.0, "r_max": 4.0}, "r_min < r_max"),
        ({"width": 0.01}, "between the points"),
        ({"r_max": 100.0, "r_step": 0.001}, "99,001 points.*at most 4,000"),
        ({"scattering": "xrays"}, "Did you mean 'xray'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PDF(**options)


def test_an_element_without_neutron_scattering_length_is_refused():
    with pytest.raises(InputError, match="atomic number 84"):
        PDF(scattering="neutron")(bulk("Po", "sc", a=3.35))
