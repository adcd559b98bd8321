"""Ranking of candidates: best first, targets in turns, one of each group, invalid ones apart."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.evaluation.candidates import COLUMNS, rank_candidates
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.results import Evaluated
from whorl.evaluation.samples import Reference, Samples
from whorl.structures.batch import StructureBatch


def structures(count, *, periodic=False):
    return StructureBatch(
        positions=torch.tensor([[0.0, 0, 0], [0, 0, 2.5]], dtype=torch.float64).repeat(count, 1),
        cells=torch.eye(3, dtype=torch.float64).repeat(count, 1, 1) * (4.0 if periodic else 0.0),
        pbc=torch.full((count, 3), periodic),
        atomic_numbers=torch.tensor([78, 78]).repeat(count),
        structure_index=torch.arange(count).repeat_interleave(2),
    )


def samples(targets, **changes):
    count = len(targets)
    values = {
        "ids": tuple(f"s{i}" for i in range(count)),
        "targets": torch.tensor(targets, dtype=torch.float64),
        "structures": structures(count, periodic=changes.pop("periodic", False)),
        "rows": torch.arange(count),
        "loss": torch.zeros(count, dtype=torch.float64),
        "status": ("converged",) * count,
    }
    return Samples(**{**values, **changes})


def metrics(**columns):
    """Return metrics of evaluators from ``evaluator__column=[…]``."""
    found = {}
    for name, values in columns.items():
        evaluator, _, column = name.partition("__")
        found.setdefault(evaluator, {})[column] = values
    return {evaluator: Metrics(evaluator=evaluator, per_structure=of) for evaluator, of in found.items()}


def rank(of, known):
    reference = Reference(
        name="formation_energy",
        unit="eV/atom",
        properties=torch.zeros(1, dtype=torch.float64),
        features=torch.zeros(1, 1, dtype=torch.float64),
        training_rows=torch.zeros(1, dtype=torch.int64),
    )
    return rank_candidates({"all": Evaluated(samples=of, reference=reference, metrics=known)})


def test_targets_take_turns_and_the_nearest_comes_first():
    ranked = rank(samples([1.0, 1.0, 2.0, 1.0]), metrics(energy__value=[1.3, 1.1, 2.05, 1.2]))
    assert [(one.rank, one.requested, one.computed) for one in ranked] == [
        (1, 2.0, 2.05),
        (2, 1.0, 1.1),
        (3, 1.0, 1.2),
        (4, 1.0, 1.3),
    ]
    assert [one.file for one in ranked[:2]] == ["0001-Pt2.xyz", "0002-Pt2.xyz"]


def test_only_the_best_valid_one_of_a_group_is_ranked():
    known = metrics(
        energy__value=[1.0, 1.1, 1.2, 1.3],
        uniqueness__group=[0, 0, 0, 1],
        validity__valid=[False, True, True, True],
    )
    ranked = rank(samples([1.0] * 4), known)
    assert [(one.index, one.rank, one.unique, one.valid) for one in ranked] == [
        (1, 1, True, True),
        (3, 2, True, True),
        (2, None, False, True),
        (0, None, False, False),
    ]
    assert [one.file.split("/")[0] for one in ranked[2:]] == ["duplicates", "invalid"]


def test_structures_in_no_group_are_not_equal_to_one_another():
    ranked = rank(samples([1.0, 1.0]), metrics(uniqueness__group=[None, None]))
    assert [one.rank for one in ranked] == [1, 2]


def test_what_the_energy_method_failed_on_comes_last_and_says_why():
    known = metrics(energy__value=[None, 1.5], energy__failure=["atoms too close", None])
    known["energy"] = dataclasses.replace(known["energy"], overall={"calculator": {"name": "emt"}})
    ranked = rank(samples([1.0, 1.0]), known)
    assert [one.index for one in ranked] == [1, 0]
    assert ranked[1].computed is None and ranked[1].remarks == "atoms too close"
    assert {one.computed_by for one in ranked} == {"emt"}


def test_without_an_energy_method_a_model_computes_the_property():
    predicted = Metrics(evaluator="surrogate", per_sample={"value": [9.0, 1.1, 1.4]})
    of = samples([1.0] * 3, structures=structures(2), rows=torch.tensor([2, 1]), loss=None, status=())
    ranked = rank(of, {"surrogate": predicted})
    assert [(one.sample, one.computed, one.computed_by) for one in ranked] == [
        ("s1", 1.1, "surrogate"),
        ("s2", 1.4, "surrogate"),
    ]
    known = {"surrogate": predicted, **metrics(cgcnn__formation_energy=[1.0, 3.0])}
    assert [(one.sample, one.computed_by) for one in rank(of, known)] == [("s2", "CGCNN"), ("s1", "CGCNN")]


def test_a_structure_with_other_features_than_generated_is_invalid_unless_it_was_refined():
    of = samples([1.0, 1.0], loss=torch.tensor([0.1, 9.0], dtype=torch.float64), invalid_above=1.0)
    assert [one.valid for one in rank(of, {})] == [True, False]
    assert "features" in rank(of, {})[1].remarks
    moved = torch.tensor([0.1, 0.2], dtype=torch.float64)
    refined = of.replace(refinement=("relaxed",) * 2, displacement=moved, energy_calls=torch.tensor([3, 4]))
    ranked = rank(refined, {})
    assert [(one.valid, one.energy_calls) for one in ranked] == [(True, 3), (True, 4)]
    assert [one.moved for one in ranked] == pytest.approx([0.1, 0.2])
    assert ranked[0].status == "converged; relaxed"


def test_crystals_are_cif_files_with_their_space_groups():
    known = metrics(symmetry__space_group=["P4/mmm", None], novelty__novel=[True, False])
    ranked = rank(samples([1.0, 1.0], periodic=True), known)
    assert [(one.file, one.space_group, one.new) for one in ranked] == [
        ("0001-Pt.cif", "P4/mmm", True),
        ("0002-Pt.cif", "", False),
    ]


def test_without_structures_there_are_no_candidates():
    assert rank(Samples(ids=("a",), targets=torch.ones(1, dtype=torch.float64)), {}) == []


def test_a_row_has_all_columns_and_no_none():
    (row,) = [one.row() for one in rank(samples([1.0]), {})]
    assert tuple(row) == COLUMNS
    assert None not in row.values()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1.0, 2.0, 3.0]),
            st.none() | st.floats(allow_nan=True, allow_infinity=True),
            st.booleans(),
            st.integers(0, 5),
        ),
        max_size=14,
    )
)
def test_ranking_keeps_every_structure_and_treats_targets_fairly(rows):
    targets = [row[0] for row in rows]
    known = metrics(
        energy__value=[row[1] for row in rows],
        validity__valid=[row[2] for row in rows],
        uniqueness__group=[row[3] for row in rows],
    )
    everything = rank(samples(targets), known)
    assert sorted(one.index for one in everything) == list(range(len(rows)))
    assert len({one.file for one in everything}) == len(rows)
    ranked = [one for one in everything if one.rank is not None]
    assert [one.rank for one in ranked] == list(range(1, len(ranked) + 1))
    assert everything[: len(ranked)] == ranked  # those without a rank follow
    assert all(one.valid and one.unique for one in ranked)
    # One of each group that has a valid structure.
    assert {rows[one.index][3] for one in ranked} == {row[3] for row in rows if row[2]}
    assert len({rows[one.index][3] for one in ranked}) == len(ranked)
    for target in set(targets):
        deviations = [one.deviation() for one in ranked if one.requested == target]
        assert deviations == sorted(deviations)
    # No target is more than one ahead of another that still has candidates to come.
    for length in range(len(ranked)):
        first, rest = ranked[:length], {one.requested for one in ranked[length:]}
        counts = {t: sum(one.requested == t for one in first) for t in set(targets)}
        for a, b in itertools.product(rest, counts):
            assert counts[b] <= counts[a] + 1
    assert all(math.isfinite(one.computed) for one in ranked if one.computed is not None)


def test_a_candidate_says_what_the_table_says():
    (one,) = rank(samples([1.0]), metrics(energy__value=[1.25]))
    assert one.deviation() == pytest.approx(0.25)
    assert dataclasses.replace(one, computed=None).deviation() == math.inf


def test_clusters_in_pieces_say_so():
    known = metrics(energy__value=[1.0, 1.1, 1.2], validity__pieces=[1, 2, None])
    ranked = rank(samples([1.0, 1.0, 1.0]), known)
    assert [one.remarks for one in ranked] == ["", "in 2 pieces", ""]
