"""Flags for crystals that cannot be."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

from whorl.errors import MissingExtraError
from whorl.evaluation import Reference, Samples, evaluate
from whorl.evaluation.validity import check_validity
from whorl.structures import composition, from_ase
from whorl.structures.composition import is_charge_neutral

needs_smact = pytest.mark.skipif(
    importlib.util.find_spec("smact") is None, reason="needs smact: pip install 'whorl[crystens]'"
)


def test_distances_and_volumes_are_flagged():
    near = Atoms("NaCl", [[0, 0, 0], [0.3, 0, 0]], cell=[4, 4, 4], pbc=True)
    image = Atoms("Na", cell=[0.4, 4, 4], pbc=True)
    tiny = Atoms("H", cell=[0.4, 0.4, 0.4], pbc=True)
    far = Atoms("H", cell=[9, 9, 9], pbc=True)
    broken = bulk("Fe")
    broken.positions[0, 0] = np.nan
    flat = bulk("Fe")
    flat.set_cell([[2, 0, 0], [0, 2, 0], [2, 2, 0]])
    found = check_validity(from_ase([bulk("Fe"), near, image, tiny, far, broken, flat]), chemistry=False)
    expected = torch.tensor([2.485, 0.3, 0.4, 0.4, torch.inf, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found.shortest_distance, expected, rtol=0, atol=1e-3)
    assert found.distances_ok.tolist() == [True, False, False, False, True, False, False]
    assert found.volume_ok.tolist() == [True, True, True, False, True, False, False]
    assert found.structurally_valid.tolist() == [True, False, False, False, True, False, False]
    reasons = found.reasons()
    assert reasons[0] == reasons[4] == "" and "0.30 Å apart" in reasons[1] and "0.064 Å³" in reasons[3]
    assert found.charge_neutral is None
    strict = check_validity(from_ase([bulk("Fe")]), shortest=2.6, chemistry=False)
    assert strict.distances_ok.tolist() == [False]
    assert len(check_validity(from_ase([]), chemistry=False).volume) == 0


def test_a_stricter_rule_stands_beside_that_of_the_field():
    close = Atoms("CrO", [[0, 0, 0], [0.64, 0, 0]], cell=[4, 4, 4], pbc=True)
    water = Atoms("OH2", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], cell=[4, 4, 4], pbc=True)
    heavy = Atoms("Cs2", [[0, 0, 0], [2.8, 0, 0]], cell=[9, 9, 9], pbc=True)
    found = check_validity(from_ase([close, water, heavy, bulk("Fe")]), chemistry=False)
    assert found.structurally_valid.all()
    assert found.strictly_valid.tolist() == [False, True, False, True]
    assert float(found.closest[2]) == pytest.approx(2.8 / 4.88, abs=0.01)
    reasons = found.reasons()
    assert "0.57 of the sum of their covalent radii" in reasons[2] and reasons[1] == reasons[3] == ""


@needs_smact
def test_charges():
    assert is_charge_neutral("NaCl") and is_charge_neutral("SrTiO3") and is_charge_neutral("Na4Cl4")
    assert not is_charge_neutral("NaCl5")
    assert is_charge_neutral("CuZn") and is_charge_neutral("Fe")
    wrong = Atoms("NaCl3", positions=[[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]], cell=[4, 4, 4], pbc=True)
    found = check_validity(from_ase([bulk("NaCl", "rocksalt", 5.6), wrong]))
    assert found.charge_neutral is not None and found.charge_neutral.tolist() == [True, False]
    assert "neutral" in found.reasons()[1] and found.structurally_valid.all()


@needs_smact
def test_elements_without_known_oxidation_states_are_not_neutral():
    for number in range(1, 119):
        is_charge_neutral(f"{chemical_symbols[number]}O2")
    assert not is_charge_neutral("OgO") and is_charge_neutral("Og")


def test_without_smact_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "smact.screening", None)
    composition._neutral.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'whorl\[crystens\]'"):
        check_validity(from_ase([bulk("Fe")]))
    check_validity(from_ase([bulk("Fe")]), chemistry=False)


def test_the_pieces_of_clusters_are_counted_and_of_nothing_else():
    far = Atoms("Pt3", [[0, 0, 0], [0, 0, 2.5], [0, 0, 9]])
    broken = Atoms("Pt2", [[0, 0, 0], [0, 0, float("nan")]])
    layers = Atoms("Pt2", [[0, 0, 0], [0, 0, 9]], cell=[2.5, 2.5, 18], pbc=True)
    structures = from_ase([far, far[:2], broken, layers])
    targets = torch.zeros(4, dtype=torch.float64)
    of = Samples(ids=tuple("abcd"), targets=targets, structures=structures, rows=torch.arange(4))
    reference = Reference(
        name="y", unit="", properties=targets, features=targets[:, None], training_rows=torch.arange(4)
    )
    made = evaluate(of, reference, ["validity"]).metrics["validity"]
    assert made.per_structure["pieces"] == [2, 1, None, None]
