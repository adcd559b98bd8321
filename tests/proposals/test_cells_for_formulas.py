"""Shapes of cells, and cells and space groups for formulas."""

import math

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm, logm

from whorl.errors import InputError
from whorl.proposals.cells import CellModel, cell_of, shape_of
from whorl.structures import from_ase
from whorl.structures.cells import cell_parameters, volumes
from whorl.symmetry.detection import reduced_cells

numbers = st.lists(st.floats(-4, 4), min_size=5, max_size=5)


@given(numbers, st.floats(1, 5000))
def test_any_shape_is_a_cell(shape: list[float], volume: float) -> None:
    shapes = torch.tensor([shape], dtype=torch.float64)
    cell = cell_of(shapes, torch.tensor([volume], dtype=torch.float64))
    a, b, c, d, e = shape
    metric = volume ** (2 / 3) * expm(np.array([[a, b, c], [b, d, e], [c, e, -a - d]]))
    np.testing.assert_allclose(
        (cell[0] @ cell[0].mT).numpy(), metric, rtol=1e-6, atol=1e-10 * np.abs(metric).max()
    )
    assert float(torch.linalg.det(cell)) == pytest.approx(volume)
    assert float(cell[0].triu(1).abs().max()) == 0.0
    torch.testing.assert_close(shape_of(cell), shapes, rtol=1e-6, atol=1e-6)


@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9))
def test_shape_is_the_logarithm_of_the_metric(entries: list[float]) -> None:
    cell = np.array(entries).reshape(3, 3) + 5 * np.eye(3)
    if abs(np.linalg.det(cell)) < 1.0:
        return
    slow = logm(cell @ cell.T / abs(np.linalg.det(cell)) ** (2 / 3)).real
    found = shape_of(torch.from_numpy(cell)[None])[0]
    np.testing.assert_allclose(found.numpy(), slow[[0, 0, 0, 1, 1], [0, 1, 2, 1, 2]], atol=1e-8)
    turned = np.linalg.qr(np.arange(9).reshape(3, 3) + np.diag([3.0, 1, 2]))[0]
    torch.testing.assert_close(shape_of(torch.from_numpy(3 * cell @ turned)[None])[0], found)


def test_a_mean_of_tetragonal_shapes_is_tetragonal() -> None:
    cells = torch.stack([torch.diag(torch.tensor([3.0, 3.0, c], dtype=torch.float64)) for c in (4.0, 9.0)])
    mean = cell_of(shape_of(cells).mean(0, keepdim=True), torch.tensor([54.0], dtype=torch.float64))
    a = 54 ** (1 / 3) * 2 ** (-1 / 3)
    expected = torch.tensor([[a, a, 54 / a**2, 90, 90, 90]], dtype=torch.float64)
    ratio = float(cell_parameters(mean)[0, 2] / cell_parameters(mean)[0, 0])
    assert ratio == pytest.approx(math.sqrt(4 / 3 * 9 / 3))
    torch.testing.assert_close(cell_parameters(mean)[0, [0, 3, 4, 5]][1:], expected[0, 3:])
    assert float(cell_parameters(mean)[0, 0]) == pytest.approx(float(cell_parameters(mean)[0, 1]))


def test_refuses_flat_cells_and_no_volume() -> None:
    with pytest.raises(InputError, match="span a volume"):
        shape_of(torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]]))
    with pytest.raises(InputError, match="greater than 0"):
        cell_of(torch.zeros(1, 5), torch.zeros(1))
    with pytest.raises(InputError, match="no crystals"):
        CellModel(from_ase([bulk("Cu")]).replace(pbc=torch.zeros(1, 3, dtype=torch.bool)))


HALIDES = [("Na", "Cl", 5.64), ("K", "Cl", 6.29), ("Na", "Br", 5.97), ("K", "Br", 6.60), ("Rb", "Cl", 6.58)]


def salts() -> CellModel:
    crystals = [bulk(m + x, "rocksalt", a) for m, x, a in HALIDES]
    crystals += [bulk(m + x, "cesiumchloride", a) for m, x, a in [("Cs", "Cl", 4.12), ("Cs", "Br", 4.29)]]
    crystals += [bulk(e, "fcc", a) for e, a in [("Cu", 3.61), ("Ag", 4.09), ("Au", 4.08)]]
    return CellModel(from_ase(crystals))


def test_salts_have_the_cells_of_salts() -> None:
    model = salts()
    groups = model.likely({"Rb": 1, "Br": 1})
    assert sum(chance for _, chance in groups) == pytest.approx(1.0)
    assert [chance for _, chance in groups] == sorted((chance for _, chance in groups), reverse=True)
    assert groups[0][0] == 225
    assert model.likely({"Cs": 1, "I": 1})[0][0] == 221
    # RbBr: a = 6.85 Å in a primitive cell.
    assert model.volume({"Rb": 1, "Br": 1}) == pytest.approx(6.85**3 / 4, rel=0.1)
    made = model.sample({"Rb": 1, "Br": 1}, count=40, rng=np.random.default_rng(0))
    for group, cell in zip(made.space_groups.tolist(), reduced_cells(made.cells), strict=True):
        lengths, angles = cell_parameters(cell[None])[0].split(3)
        torch.testing.assert_close(lengths, lengths[:1].expand(3))  # the symmetry has stayed
        torch.testing.assert_close(angles, torch.full_like(angles, 60.0 if group == 225 else 90.0))
    assert float((volumes(made.cells).log() - math.log(80.4)).abs().median()) < 0.15


def test_the_spread_of_shapes_keeps_what_symmetry_equates() -> None:
    crystals = [bulk("Zn", "hcp", a, c=c) for a, c in [(2.6, 4.9), (2.7, 4.3), (2.9, 4.7)]]
    crystals += [bulk("Mg", "hcp", 3.2, c=5.2)]
    made = CellModel(from_ase(crystals)).sample({"Zn": 2}, count=30, rng=np.random.default_rng(1))
    parameters = cell_parameters(made.cells)
    ratio = parameters[:, 2] / parameters[:, 0]
    assert len(set(ratio.round(decimals=4).tolist())) == 30
    torch.testing.assert_close(parameters[:, 0], parameters[:, 1])
    torch.testing.assert_close(parameters[:, 3:5], torch.full((30, 2), 90.0, dtype=torch.float64))


def test_the_property_decides_between_neighbours() -> None:
    crystals = [bulk("C", "diamond", 3.57 + 0.01 * k) for k in range(4)]
    crystals += [bulk("C", "hcp", 2.5 + 0.01 * k, c=4.1) for k in range(4)]
    model = CellModel(from_ase(crystals), torch.tensor([0.0, 0.01, 0.02, 0.03, 5.0, 5.01, 5.02, torch.nan]))
    assert model.likely({"C": 2}, 0.0)[0][0] == 227
    assert model.likely({"C": 2}, 5.0)[0][0] == 194
