"""Generated crystals against real ones."""

import dataclasses
import importlib.util
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.errors import InputError
from whorl.evaluation import CrystalVerdict, MadeCrystals, compare, judge_crystals
from whorl.files import read_json, write_json
from whorl.structures import StructureBatch, from_ase

needs_smact = pytest.mark.skipif(
    importlib.util.find_spec("smact") is None, reason="needs smact: pip install 'whorl[crystens]'"
)


def cubes(lengths: list[float], symbol: str = "Po") -> StructureBatch:
    return from_ase([Atoms(symbol, cell=[a, a, a], pbc=True) for a in lengths])


def made_of(structures: StructureBatch, *, count: int | None = None, **more) -> MadeCrystals:
    rows = torch.arange(len(structures))
    return MadeCrystals(structures=structures, rows=rows, targets=torch.zeros(count or len(rows)), **more)


def by_name(verdict: CrystalVerdict) -> dict[str, float]:
    return {one.name: one.statistic for one in (*verdict.distributions, *verdict.properties)}


numbers = st.floats(-3, 3).map(lambda x: round(x, 1)) | st.just(math.nan) | st.just(math.inf)


@settings(max_examples=60)
@given(first=st.lists(numbers, max_size=12), second=st.lists(numbers, max_size=12))
def test_statistic_is_the_largest_difference_of_the_cumulative_distributions(first, second):
    found = compare("x", torch.tensor(first), torch.tensor(second))
    a, b = [x for x in first if math.isfinite(x)], [x for x in second if math.isfinite(x)]
    assert (found.made, found.real) == (len(a), len(b))
    if not a or not b:
        assert math.isnan(found.statistic) and math.isnan(found.p_value)
        assert math.isnan(found.mean_made) == (not a)
        return
    expected = 0.0
    for x in a + b:
        below = [sum(value <= x for value in side) / len(side) for side in (a, b)]
        expected = max(expected, abs(below[0] - below[1]))
    assert found.statistic == pytest.approx(expected, abs=1e-12)
    assert 0 <= found.p_value <= 1 + 1e-12
    assert found.mean_made == pytest.approx(float(np.mean(a)), abs=1e-6)
    assert found.statistic == compare("x", torch.tensor(second), torch.tensor(first)).statistic


def test_single_values_and_what_goes_through():
    apart = compare("x", torch.tensor([1.0]), torch.tensor([2.0]), unit="Å")
    assert (apart.statistic, apart.p_value, apart.unit) == (1.0, 1.0, "Å")
    alike = compare("x", torch.tensor([1]), torch.tensor([1, 1]))
    assert (alike.statistic, alike.p_value, alike.mean_real) == (0.0, 1.0, 1.0)


def test_large_samples_do_not_warn():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(997, generator=generator), torch.rand(9973, generator=generator)
    assert compare("x", first, second**1.2).p_value < 0.01


def test_a_copy_of_the_data_differs_in_nothing_and_is_not_new():
    real = from_ase([bulk("Fe"), bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6), bulk("Si"), bulk("Mg")])
    values = torch.tensor([0.1, 0.2, math.nan, 0.4, 0.5], dtype=torch.float64)
    verdict = judge_crystals(
        made_of(real, predicted={"band gap": values}), real=real, real_predicted={"band gap": values}
    )
    found = by_name(verdict)
    assert set(found) >= {"a", "b", "c", "alpha", "beta", "gamma", "space group", "atomic number", "band gap"}
    assert set(found.values()) == {0.0}
    assert verdict.percent_unique == 100 and verdict.percent_novel == 0 and verdict.percent_symmetric == 100
    assert verdict.percent_valid == verdict.percent_distances == verdict.percent_volume == 100
    assert (verdict.count, verdict.decoded) == (5, 5)
    gap = verdict.properties[0]
    assert (gap.unit, gap.made, gap.real) == ("eV", 4, 4)


def test_a_shifted_lattice():
    lengths = [4 + k / 10 for k in range(10)]
    verdict = judge_crystals(made_of(cubes([a + 0.3 for a in lengths])), real=cubes(lengths))
    found = by_name(verdict)
    assert found["a"] == found["b"] == found["c"] == found["volume per atom"] == pytest.approx(0.3)
    assert found["alpha"] == found["atoms"] == found["space group"] == found["atomic number"] == 0
    first = verdict.distributions[0]
    assert (first.name, first.unit, first.made, first.real) == ("a", "Å", 10, 10)
    assert first.mean_made - first.mean_real == pytest.approx(0.3)
    assert {one.unit for one in verdict.distributions} == {"Å", "°", "Å³", ""}


def test_rounding_errors_are_no_difference():
    real = cubes([4.0] * 6)
    noisy = real.replace(cells=real.cells + 1e-9 * torch.randn(6, 3, 3, dtype=torch.float64))
    assert {by_name(judge_crystals(made_of(noisy), real=real))[name] for name in ("a", "beta")} == {0.0}


def test_elements_are_compared_atom_by_atom():
    ours, theirs = from_ase([bulk("NaCl", "rocksalt", a=5.6)]), from_ase([bulk("Na"), bulk("Na")])
    found = {one.name: one for one in judge_crystals(made_of(ours), real=theirs).distributions}
    assert found["atomic number"].statistic == 0.5 and found["atomic number"].mean_made == 14
    assert (found["atomic number"].made, found["atomic number"].real) == (2, 2)
    assert found["atoms"].mean_made == 2 and found["atoms"].statistic == 1


def test_unique_and_new():
    known = from_ase([bulk("Fe"), bulk("Cu")])
    made = from_ase([bulk("Fe"), bulk("Fe") * (2, 1, 1), bulk("Ni"), bulk("Al"), bulk("Ni")])
    verdict = judge_crystals(made_of(made, count=10), real=made, known=known)
    assert verdict.percent_unique == pytest.approx(60) and verdict.percent_novel == pytest.approx(200 / 3)
    assert verdict.percent_valid == pytest.approx(50) and verdict.percent_distances == 100
    against_real = judge_crystals(made_of(made), real=made)
    assert against_real.percent_novel == 0


def test_space_groups_of_real_crystals_are_those_they_came_with():
    crystals = from_ase([bulk("Po", "sc", a=3.3)] * 4)
    tags = ({"space_group_number": 1}, {"spacegroup_number": 1}, {}, {"space_group_number": None})
    tagged = crystals.replace(info=tags)
    verdict = judge_crystals(made_of(tagged), real=tagged)
    group = {one.name: one for one in verdict.distributions}["space group"]
    assert group.mean_made == 221 and group.mean_real == (1 + 1 + 221 + 221) / 4
    assert verdict.percent_symmetric == 100


def test_what_cannot_be_a_crystal_is_counted_and_left_out():
    broken = Atoms("Fe", positions=[[math.nan, 0, 0]], cell=[3, 3, 3], pbc=True)
    near = Atoms("Fe2", positions=[[0, 0, 0], [0.3, 0, 0]], cell=[3, 3.1, 3.2], pbc=True)
    same = Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 0]], cell=[3, 3, 3], pbc=True)
    bad = from_ase([broken, near, same, bulk("Fe")])
    verdict = judge_crystals(made_of(bad), real=bad)
    assert verdict.percent_valid == 25 and verdict.percent_distances == 25
    assert verdict.percent_unique == 50 and verdict.percent_novel == 0
    assert {one.made for one in verdict.distributions} == {2, 3}  # two crystals, three atoms
    assert all(math.isfinite(one.statistic) for one in verdict.distributions)


def test_nothing_decoded():
    nothing = MadeCrystals(
        structures=from_ase([]),
        rows=torch.zeros(0, dtype=torch.int64),
        targets=torch.zeros(3),
        skipped={0: "no atoms", 1: "no atoms", 2: "not finite"},
        measures={"variance_lengths": torch.full((3,), math.nan)},
        predicted={"band gap": torch.zeros(0)},
    )
    verdict = judge_crystals(nothing, real=cubes([4, 5]), real_predicted={"band gap": torch.ones(2)})
    assert (verdict.count, verdict.decoded, verdict.percent_valid) == (3, 0, 0)
    assert verdict.distributions == verdict.properties == ()
    assert verdict.percent_unique is verdict.percent_novel is verdict.percent_symmetric is None
    assert verdict.percent_distances is verdict.percent_volume is verdict.percent_neutral is None
    assert math.isnan(verdict.measures["variance_lengths"])
    none = judge_crystals(
        dataclasses.replace(nothing, targets=torch.zeros(0), measures={}), real=from_ase([])
    )
    assert (none.count, none.percent_valid) == (0, 0)


def test_nothing_real():
    verdict = judge_crystals(made_of(cubes([4, 6], "Po")), real=from_ase([]))
    assert verdict.distributions == () and verdict.percent_novel == 100


def test_measures_and_properties():
    made = made_of(
        cubes([4, 5]),
        count=3,
        measures={"variance_lengths": torch.tensor([1.0, math.nan, 3.0])},
        predicted={
            "heat": torch.tensor([1.0, 2.0]),
            "alone": torch.tensor([1.0, 2.0]),
            "failed": torch.tensor([math.nan, math.nan]),
        },
    )
    real = {"heat": torch.tensor([3.0, math.nan]), "failed": torch.tensor([1.0, 1.0]), "other": torch.ones(2)}
    verdict = judge_crystals(made, real=cubes([4, 5]), real_predicted=real)
    assert verdict.measures == {"variance_lengths": 2.0}
    assert [(one.name, one.unit, one.statistic) for one in verdict.properties] == [("heat", "", 1.0)]


@needs_smact
def test_charges_are_tested_where_smact_is(monkeypatch):
    wrong = Atoms("NaCl3", 2.5 * np.eye(4, 3), cell=[5, 5, 5], pbc=True)
    crystals = from_ase([bulk("NaCl", "rocksalt", a=5.6), wrong])
    assert judge_crystals(made_of(crystals), real=crystals).percent_neutral == 50
    monkeypatch.setattr("whorl.evaluation.crystals.importlib.util.find_spec", lambda name: None)
    assert judge_crystals(made_of(crystals), real=crystals).percent_neutral is None


def test_inputs_that_do_not_fit():
    crystals = cubes([4, 5])
    rows = MadeCrystals(structures=crystals, rows=torch.tensor([0]), targets=torch.zeros(4))
    with pytest.raises(InputError, match="1 rows for 2 crystals"):
        judge_crystals(rows, real=crystals)
    far = MadeCrystals(structures=crystals, rows=torch.tensor([0, 4]), targets=torch.zeros(4))
    with pytest.raises(InputError, match="from 0 to 3"):
        judge_crystals(far, real=crystals)


def test_progress_rises_to_its_end():
    calls: list[tuple[int, int]] = []
    real = from_ase([bulk("Fe"), bulk("Fe"), bulk("Cu")])
    judge_crystals(made_of(real), real=real, progress=lambda done, total: calls.append((done, total)))
    shares = [done / total for done, total in calls]
    assert shares == sorted(shares) and shares[-1] == 1


def test_a_verdict_is_kept_in_a_file(tmp_path):
    real = cubes([4, 5, 6])
    measures = {"variance_lengths": torch.full((3,), math.nan), "variance_angles": torch.ones(3)}
    verdict = judge_crystals(made_of(real, measures=measures), real=real)
    write_json(tmp_path / "verdict.json", verdict.to_dict())
    again = CrystalVerdict.from_dict(read_json(tmp_path / "verdict.json"))
    assert math.isnan(again.measures["variance_lengths"]) and again.measures["variance_angles"] == 1
    assert dataclasses.replace(again, measures={}) == dataclasses.replace(verdict, measures={})


def test_input_is_left_alone():
    real = cubes([4, 5]).to(dtype=torch.float32)
    before = real.cells.clone()
    verdict = judge_crystals(made_of(real), real=real)
    assert torch.equal(real.cells, before) and real.dtype == torch.float32
    assert by_name(verdict)["a"] == 0
